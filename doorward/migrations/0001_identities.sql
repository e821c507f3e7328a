-- Tenants, roles, identities, credentials, pairings, devices, sessions; the audit and the outbox.
--
-- Two walls stand around a tenant's rows: the application's own decision, and row-level security. A transaction says
-- `SET LOCAL doorward.tenant` to a tenant's id, or to '*' where no tenant is known yet; if it says nothing it sees nothing.

CREATE FUNCTION tenant_is_visible(tenant uuid) RETURNS boolean
    LANGUAGE sql STABLE PARALLEL SAFE
    RETURN current_setting('doorward.tenant', true) IN ('*', tenant::text);

CREATE TABLE tenant (
    id          uuid PRIMARY KEY,
    name        text NOT NULL UNIQUE,
    parent_id   uuid REFERENCES tenant,
    path        uuid[] NOT NULL,
    status      text NOT NULL CHECK (status IN ('active', 'blocked', 'deleted')),
    devices     text[],
    services    text[],
    created_at  timestamptz NOT NULL,
    CHECK (path[cardinality(path)] = id)
);
CREATE INDEX tenant_path ON tenant USING gin (path);

CREATE TABLE role (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenant,
    name        text NOT NULL,
    permissions jsonb NOT NULL,
    topics      jsonb NOT NULL,
    devices     text[],
    services    text[],
    created_at  timestamptz NOT NULL,
    UNIQUE (tenant_id, name),
    UNIQUE (id, tenant_id)
);

CREATE TABLE identity (
    id          text PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenant,
    type        text NOT NULL,
    name        text NOT NULL,
    status      text NOT NULL CHECK (status IN ('invited', 'active', 'suspended', 'deleted')),
    devices     text[],
    services    text[],
    created_at  timestamptz NOT NULL,
    UNIQUE (tenant_id, name),
    UNIQUE (id, tenant_id)
);
-- People log in by name alone, so their names are unique over all tenants.
CREATE UNIQUE INDEX identity_login_name ON identity (lower(name))
    WHERE type IN ('root', 'admin', 'user', 'developer');
CREATE INDEX identity_page ON identity (tenant_id, id);

CREATE TABLE identity_role (
    identity_id text NOT NULL,
    role_id     uuid NOT NULL,
    tenant_id   uuid NOT NULL REFERENCES tenant,
    PRIMARY KEY (identity_id, role_id),
    FOREIGN KEY (identity_id) REFERENCES identity (id) ON DELETE CASCADE,
    FOREIGN KEY (role_id, tenant_id) REFERENCES role (id, tenant_id)
);
CREATE INDEX identity_role_role ON identity_role (role_id);

CREATE TABLE credential (
    id            uuid PRIMARY KEY,
    identity_id   text NOT NULL,
    tenant_id     uuid NOT NULL,
    kind          text NOT NULL CHECK (kind IN ('password', 'public_key')),
    public_key    bytea,
    password_hash text,
    created_at    timestamptz NOT NULL,
    last_used_at  timestamptz,
    expires_at    timestamptz,
    revoked_at    timestamptz,
    FOREIGN KEY (identity_id, tenant_id) REFERENCES identity (id, tenant_id),
    CHECK ((kind = 'public_key') = (public_key IS NOT NULL)),
    CHECK ((kind = 'password') = (password_hash IS NOT NULL))
);
-- A public key proves one identity, ever: a revoked key is not taken up again by another.
CREATE UNIQUE INDEX credential_public_key ON credential (sha256(public_key)) WHERE kind = 'public_key';
CREATE UNIQUE INDEX credential_password ON credential (identity_id) WHERE kind = 'password' AND revoked_at IS NULL;
CREATE INDEX credential_identity ON credential (identity_id);

CREATE TABLE invitation (
    code_sha256 bytea PRIMARY KEY,
    identity_id text NOT NULL,
    tenant_id   uuid NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    used_at     timestamptz,
    FOREIGN KEY (identity_id, tenant_id) REFERENCES identity (id, tenant_id)
);
CREATE INDEX invitation_identity ON invitation (identity_id);

CREATE TABLE session (
    id          uuid PRIMARY KEY,
    identity_id text NOT NULL,
    tenant_id   uuid NOT NULL,
    client_id   text NOT NULL,
    amr         text[] NOT NULL,
    created_at  timestamptz NOT NULL,
    expires_at  timestamptz NOT NULL,
    revoked_at  timestamptz,
    FOREIGN KEY (identity_id, tenant_id) REFERENCES identity (id, tenant_id)
);
CREATE INDEX session_identity ON session (identity_id, expires_at);
CREATE INDEX session_expiry ON session (expires_at);

CREATE TABLE refresh_token (
    token_sha256     bytea PRIMARY KEY,
    session_id       uuid NOT NULL REFERENCES session ON DELETE CASCADE,
    tenant_id        uuid NOT NULL,
    issued_at        timestamptz NOT NULL,
    expires_at       timestamptz NOT NULL,
    used_at          timestamptz,
    successor_sealed bytea
);
CREATE INDEX refresh_token_session ON refresh_token (session_id);
CREATE INDEX refresh_token_expiry ON refresh_token (expires_at);

CREATE TABLE device (
    device_identifier   text PRIMARY KEY,
    tenant_id           uuid NOT NULL REFERENCES tenant,
    identity_id         text REFERENCES identity UNIQUE,
    status              text NOT NULL,
    labels              jsonb NOT NULL,
    metadata            jsonb NOT NULL,
    enrolment_profile   text,
    replacement_allowed boolean NOT NULL DEFAULT false,
    created_at          timestamptz NOT NULL,
    UNIQUE (device_identifier, tenant_id)
);
CREATE INDEX device_page ON device (tenant_id, device_identifier);
CREATE INDEX device_labels ON device USING gin (labels);

CREATE TABLE pairing (
    tenant_id         uuid NOT NULL REFERENCES tenant,
    level             text NOT NULL CHECK (level IN ('user', 'role', 'group')),
    holder            text NOT NULL,
    device_identifier text NOT NULL,
    created_at        timestamptz NOT NULL,
    created_by        text NOT NULL,
    PRIMARY KEY (tenant_id, level, holder, device_identifier),
    FOREIGN KEY (device_identifier, tenant_id) REFERENCES device (device_identifier, tenant_id) ON DELETE CASCADE
);
CREATE INDEX pairing_holder ON pairing (holder);
CREATE INDEX pairing_device ON pairing (device_identifier);

-- Keys that sign tokens: the private half sealed under the node's master key.
CREATE TABLE token_key (
    kid          text PRIMARY KEY,
    public_jwk   jsonb NOT NULL,
    sealed       bytea NOT NULL,
    created_at   timestamptz NOT NULL,
    signs_from   timestamptz NOT NULL,
    verifies_to  timestamptz NOT NULL
);

-- Failed proofs, by account and by address; shared by all nodes.
CREATE TABLE throttle (
    key           text PRIMARY KEY,
    failures      integer NOT NULL,
    blocked_until timestamptz NOT NULL,
    forgotten_at  timestamptz NOT NULL
);

-- What happened, waiting to be published; a row leaves when NATS has stored it.
CREATE TABLE outbox (
    id        uuid PRIMARY KEY,
    tenant_id uuid NOT NULL,
    at        timestamptz NOT NULL,
    actor     text NOT NULL,
    kind      text NOT NULL,
    subject   text NOT NULL,
    data      jsonb NOT NULL
);

-- What happened, waiting to be chained; the sealing job moves each row into `audit`.
CREATE TABLE audit_pending (LIKE outbox INCLUDING ALL);

-- What touches somebody's access or certificate is published first: the order of `iam/store/journal.py`.
CREATE INDEX outbox_urgent ON outbox (
    (NOT (data ? 'affects' OR kind IN ('certificate.revoked', 'device.renewed'))), id);

-- The audit: append-only, each line bound to the one before by SHA-256.
CREATE TABLE audit (
    sequence  bigint PRIMARY KEY,
    id        uuid NOT NULL UNIQUE,
    tenant_id uuid NOT NULL,
    at        timestamptz NOT NULL,
    actor     text NOT NULL,
    kind      text NOT NULL,
    subject   text NOT NULL,
    data      jsonb NOT NULL,
    previous  bytea NOT NULL,
    hash      bytea NOT NULL
);
CREATE INDEX audit_page ON audit (tenant_id, sequence);
CREATE INDEX audit_time ON audit (at);

CREATE FUNCTION record_change(
    change_id uuid, change_tenant uuid, change_at timestamptz, change_actor text, change_kind text,
    change_subject text, change_data jsonb
) RETURNS void LANGUAGE sql
BEGIN ATOMIC
    INSERT INTO outbox (id, tenant_id, at, actor, kind, subject, data)
    VALUES (change_id, change_tenant, change_at, change_actor, change_kind, change_subject, change_data);
    INSERT INTO audit_pending (id, tenant_id, at, actor, kind, subject, data)
    VALUES (change_id, change_tenant, change_at, change_actor, change_kind, change_subject, change_data);
END;

-- A tenant's own row is visible to it; every other table goes by its tenant_id.
ALTER TABLE tenant ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON tenant USING (tenant_is_visible(id));

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['role', 'identity', 'identity_role', 'credential', 'invitation', 'session',
                                  'refresh_token', 'device', 'pairing', 'outbox', 'audit_pending', 'audit']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format('CREATE POLICY tenant_wall ON %I USING (tenant_is_visible(tenant_id))', walled);
    END LOOP;
END $$;
