-- Hierarchies of authorities: whose each is, where it stands, the generations of its line; profiles; requests to others.
--
-- `authority` keeps what any relying party may know: names, certificates, how often it revoked. What a tenant says about
-- an authority of its own is in `authority_standing`, behind the wall; so a revocation, which a tenant writes, reaches the
-- row of an authority that is not the tenant's.

ALTER TABLE authority DROP CONSTRAINT authority_kind_check;
ALTER TABLE authority ADD CONSTRAINT authority_kind_check
    CHECK (kind IN ('root', 'issuing', 'factory', 'external'));

CREATE TABLE authority_standing (
    authority_id      uuid PRIMARY KEY REFERENCES authority ON DELETE CASCADE,
    tenant_id         uuid NOT NULL REFERENCES tenant,
    origin            text NOT NULL CHECK (origin IN ('MANAGED', 'REQUESTED', 'IMPORTED', 'EXTERNAL')),
    -- Authorities of one line are one authority with one key after the other.
    line              text NOT NULL,
    generation        integer NOT NULL CHECK (generation > 0),
    -- Of its certificate, where that was issued here and is in `certificate`: if it is revoked there, so is the authority.
    serial            bytea UNIQUE REFERENCES certificate,
    status            text NOT NULL CHECK (status IN ('active', 'inactive', 'revoked')),
    revoked_at        timestamptz,
    revocation_reason text,
    issuance_profile  text NOT NULL,
    -- RFC 4210 4.4: the key before this one, signed by this one, and the other way round.
    old_with_new      bytea,
    new_with_old      bytea,
    -- What lists show of its certificate. It ends when its certificate does.
    common_name       text NOT NULL,
    not_after         timestamptz NOT NULL,
    -- What stands above it and is no authority here, the next one first.
    chain             bytea[] NOT NULL DEFAULT '{}',
    metadata          jsonb NOT NULL DEFAULT '{}',
    -- Goes up with each change: so a node sees with one short look whether it is up to date.
    revision          integer NOT NULL DEFAULT 1,
    UNIQUE (line, generation),
    CHECK ((old_with_new IS NULL) = (new_with_old IS NULL)),
    CHECK ((status = 'revoked') = (revoked_at IS NOT NULL))
);
CREATE INDEX authority_standing_tenant ON authority_standing (tenant_id, line, generation);
CREATE INDEX authority_parent ON authority (parent_id);
CREATE INDEX certificate_authority ON certificate (authority_id, status, not_after);

-- The three that the first start made belong to the root tenant. Their certificates are put on record at the next start.
INSERT INTO authority_standing (authority_id, tenant_id, origin, line, generation, status, issuance_profile,
                                common_name, not_after)
    SELECT a.id, t.id, 'MANAGED', a.name, 1, 'active',
           CASE a.kind WHEN 'root' THEN 'issuing' WHEN 'factory' THEN 'bootstrap' ELSE 'device' END, a.name, 'infinity'
    FROM authority a, tenant t WHERE t.name = 'system';

-- What certificates of a kind hold; those that come with the program are not here.
CREATE TABLE issuance_profile (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenant,
    name        text NOT NULL,
    description text NOT NULL,
    settings    jsonb NOT NULL,
    revision    integer NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    UNIQUE (tenant_id, name)
);

-- Authorities to be: the key is here, the certificate is asked for elsewhere.
CREATE TABLE authority_request (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenant,
    line        text NOT NULL UNIQUE,
    subject     text NOT NULL,
    key_id      uuid NOT NULL UNIQUE REFERENCES kms_key,
    request     bytea NOT NULL,
    metadata    jsonb NOT NULL,
    status      text NOT NULL CHECK (status IN ('PENDING', 'ISSUED')),
    created_at  timestamptz NOT NULL
);

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['authority_standing', 'issuance_profile', 'authority_request']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format('CREATE POLICY tenant_wall ON %I USING (tenant_is_visible(tenant_id))', walled);
    END LOOP;
END $$;
