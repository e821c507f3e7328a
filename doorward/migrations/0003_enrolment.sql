-- Enrolment profiles (labels), and the one statement that records an enrolment.

CREATE TABLE enrolment_profile (
    id                          uuid PRIMARY KEY,
    tenant_id                   uuid NOT NULL REFERENCES tenant,
    -- The label in the path; 'default' also answers where the path has none.
    name                        text NOT NULL UNIQUE,
    mode                        text NOT NULL CHECK (mode IN ('jitp', 'pre_registered')),
    authority_id                uuid NOT NULL REFERENCES authority,
    certificate_profile         text NOT NULL,
    -- Who may bootstrap: CA certificates, each pinned by its key.
    bootstrap_anchors           bytea[] NOT NULL,
    identifier_pattern          text,
    role_name                   text NOT NULL,
    expired_may_renew           boolean NOT NULL,
    previous_grace_seconds      integer NOT NULL CHECK (previous_grace_seconds >= 0),
    created_at                  timestamptz NOT NULL
);
ALTER TABLE enrolment_profile ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON enrolment_profile USING (tenant_is_visible(tenant_id));

-- For labels of mode pre_registered: which bootstrap certificate may enrol which device.
CREATE TABLE bootstrap_binding (
    device_identifier text PRIMARY KEY REFERENCES device ON DELETE CASCADE,
    tenant_id         uuid NOT NULL,
    spki_sha256       bytea,
    serial            bytea,
    CHECK (spki_sha256 IS NOT NULL OR serial IS NOT NULL)
);
ALTER TABLE bootstrap_binding ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON bootstrap_binding USING (tenant_is_visible(tenant_id));
