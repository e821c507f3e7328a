-- Certificates as operators look for them among a million, and revocations of many devices at once.

ALTER TABLE certificate
    ADD COLUMN metadata jsonb NOT NULL DEFAULT '{}',
    -- RFC 4514 2.4, as far as what is issued here needs it: what `subject` says after CN=, with its escapes.
    ADD COLUMN common_name text GENERATED ALWAYS AS (substring(subject FROM 'CN=((?:[^,+\\]|\\.)*)')) STORED;

-- The wall of `certificate`, asked once for each statement and not for each row, as that of `device`.
ALTER POLICY tenant_wall ON certificate
    USING (tenant_id = (SELECT visible_tenant()) OR (SELECT is_everything_visible()));

-- Lists are sorted by one of these, each row told from its equals by its serial number; and behind the wall only
-- comparisons like theirs reach an index at all.
DROP INDEX certificate_page;
CREATE INDEX certificate_serial ON certificate (tenant_id, serial);
CREATE INDEX certificate_begin ON certificate (tenant_id, not_before, serial);
CREATE INDEX certificate_end ON certificate (tenant_id, not_after, serial);
CREATE INDEX certificate_name ON certificate (tenant_id, common_name, serial);
-- States and authorities of which there are few are found without a walk through all the others.
CREATE INDEX certificate_status ON certificate (tenant_id, status, serial);
CREATE INDEX certificate_issuer ON certificate (tenant_id, authority_id, serial);
-- Whatever takes from somebody all that he has; and deleting him.
CREATE INDEX certificate_identity ON certificate (identity_id) WHERE identity_id IS NOT NULL;
CREATE INDEX certificate_revocation ON certificate (tenant_id, revoked_at, serial) WHERE revoked_at IS NOT NULL;

-- A revocation of all devices that pass a filter: what is to be done, how far it is, and in whose name.
CREATE TABLE bulk_revocation (
    id           uuid PRIMARY KEY,
    tenant_id    uuid NOT NULL REFERENCES tenant,
    actor        text NOT NULL,
    -- As they were written, of the list of devices.
    filters      text[] NOT NULL,
    reason       text NOT NULL,
    status       text NOT NULL CHECK (status IN ('RUNNING', 'DONE', 'CANCELLED', 'STOPPED')),
    -- How many devices there were to look at when it began.
    devices      bigint NOT NULL,
    devices_done bigint NOT NULL DEFAULT 0,
    certificates bigint NOT NULL DEFAULT 0,
    -- The last device that was done; those behind it, by their identifiers, are still to do.
    place        text NOT NULL DEFAULT '',
    why_stopped  text,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL
);
CREATE INDEX bulk_revocation_page ON bulk_revocation (tenant_id, created_at, id);
CREATE INDEX bulk_revocation_running ON bulk_revocation (created_at) WHERE status = 'RUNNING';
ALTER TABLE bulk_revocation ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON bulk_revocation USING (tenant_is_visible(tenant_id));
