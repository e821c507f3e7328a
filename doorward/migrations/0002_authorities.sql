-- Certification authorities, the certificates they issued, and the revocation lists they published.

CREATE TABLE authority (
    id           uuid PRIMARY KEY,
    name         text NOT NULL UNIQUE,
    kind         text NOT NULL CHECK (kind IN ('root', 'issuing', 'factory')),
    parent_id    uuid REFERENCES authority,
    certificate  bytea NOT NULL,
    spki_sha256  bytea NOT NULL UNIQUE,
    -- The private key under the node's master key; NULL where it is kept elsewhere (the root's is a file, so that it can
    -- be taken away).
    key_sealed   bytea,
    -- How many revocations there have been: whoever revokes adds one and so holds the row until his commit; whoever makes
    -- the next list locks the row first and so misses none.
    revocations  bigint NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL
);

CREATE TABLE certificate (
    -- 16 bytes, big-endian; unique over all authorities, so that a serial number alone names a certificate.
    serial            bytea PRIMARY KEY CHECK (octet_length(serial) BETWEEN 1 AND 20),
    authority_id      uuid NOT NULL REFERENCES authority,
    tenant_id         uuid NOT NULL REFERENCES tenant,
    profile           text NOT NULL,
    -- The device that the certificate names, where it names one.
    device_identifier text,
    identity_id       text REFERENCES identity,
    subject           text NOT NULL,
    spki_sha256       bytea NOT NULL,
    request_sha256    bytea,
    not_before        timestamptz NOT NULL,
    not_after         timestamptz NOT NULL,
    certificate       bytea NOT NULL,
    status            text NOT NULL CHECK (status IN ('active', 'superseded', 'revoked')),
    issued_at         timestamptz NOT NULL,
    supersedes        bytea REFERENCES certificate,
    superseded_at     timestamptz,
    revoked_at        timestamptz,
    revocation_reason text,
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE INDEX certificate_page ON certificate (tenant_id, issued_at, serial);
CREATE INDEX certificate_device ON certificate (device_identifier, issued_at) WHERE device_identifier IS NOT NULL;
CREATE INDEX certificate_expiry ON certificate (not_after);
CREATE INDEX certificate_revoked ON certificate (authority_id, serial) WHERE status = 'revoked';
CREATE INDEX certificate_revoked_key ON certificate (spki_sha256) WHERE status = 'revoked';
CREATE INDEX certificate_supersedes ON certificate (supersedes) WHERE supersedes IS NOT NULL;

-- One public key belongs to one device, ever, also after the device was deleted; and never to an authority (checked where
-- it is taken).
CREATE TABLE device_key (
    spki_sha256       bytea PRIMARY KEY,
    device_identifier text NOT NULL,
    tenant_id         uuid NOT NULL,
    first_seen_at     timestamptz NOT NULL
);
CREATE INDEX device_key_device ON device_key (device_identifier);

CREATE TABLE revocation_list (
    authority_id uuid NOT NULL REFERENCES authority,
    number       bigint NOT NULL,
    this_update  timestamptz NOT NULL,
    next_update  timestamptz NOT NULL,
    -- The authority's count of revocations when the list was made: while they are equal, the list is complete.
    revocations  bigint NOT NULL,
    crl          bytea NOT NULL,
    PRIMARY KEY (authority_id, number)
);

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['certificate', 'device_key']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format('CREATE POLICY tenant_wall ON %I USING (tenant_is_visible(tenant_id))', walled);
    END LOOP;
END $$;
