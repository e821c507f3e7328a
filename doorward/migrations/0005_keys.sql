-- Keys that sign, each by its id: those of authorities, and those that the API made or took in.

CREATE TABLE kms_key (
    id            uuid PRIMARY KEY,
    -- Whose it is; the keys of authorities are the system tenant's.
    tenant_id     uuid NOT NULL REFERENCES tenant,
    name          text NOT NULL,
    tags          text[] NOT NULL,
    metadata      jsonb NOT NULL,
    algorithm     text NOT NULL,
    bits          integer NOT NULL,
    -- Where the private half is: here, under the node's master key; in a file of a node, which may be taken away (the
    -- root's); or in a PKCS#11 token, under this id.
    backend       text NOT NULL CHECK (backend IN ('sealed', 'file', 'pkcs11')),
    sealed        bytea,
    spki          bytea NOT NULL,
    spki_sha256   bytea NOT NULL UNIQUE,
    created_at    timestamptz NOT NULL,
    -- When it first signed what a caller gave. Such a key never becomes an authority's: who knows what it has signed.
    signed_raw_at timestamptz,
    CHECK ((backend = 'sealed') = (sealed IS NOT NULL)),
    UNIQUE (id, tenant_id)
);
CREATE INDEX kms_key_page ON kms_key (tenant_id, created_at, id);

-- Other names of a key; each names one key of a tenant.
CREATE TABLE kms_key_alias (
    tenant_id uuid NOT NULL,
    alias     text NOT NULL,
    key_id    uuid NOT NULL,
    position  integer NOT NULL,
    PRIMARY KEY (tenant_id, alias),
    FOREIGN KEY (key_id, tenant_id) REFERENCES kms_key (id, tenant_id) ON DELETE CASCADE
);
CREATE INDEX kms_key_alias_key ON kms_key_alias (key_id);

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['kms_key', 'kms_key_alias']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format('CREATE POLICY tenant_wall ON %I USING (tenant_is_visible(tenant_id))', walled);
    END LOOP;
END $$;

-- An authority names its key. Those that are there already take their own id for their key's too, since that is what
-- their keys are sealed for. Their public halves stand in their certificates: all were made here, of P-256 or P-384, so
-- that each SubjectPublicKeyInfo begins in one of two ways and has one of two lengths.
ALTER TABLE authority ADD COLUMN key_id uuid REFERENCES kms_key;

DO $$
DECLARE
    one record;
    kind record;
    key_info bytea;
BEGIN
    FOR one IN SELECT a.*, (SELECT id FROM tenant WHERE name = 'system') AS system FROM authority a
    LOOP
        key_info := NULL;
        FOR kind IN
            SELECT * FROM (VALUES
                ('P-256', 256, 91, '\x3059301306072a8648ce3d020106082a8648ce3d030107'::bytea),
                ('P-384', 384, 120, '\x3076301006072a8648ce3d020106052b81040022'::bytea)
            ) AS known (algorithm, bits, length, beginning)
        LOOP
            CONTINUE WHEN position(kind.beginning IN one.certificate) = 0;
            key_info := substring(one.certificate FROM position(kind.beginning IN one.certificate) FOR kind.length);
            EXIT;
        END LOOP;
        IF key_info IS NULL OR sha256(key_info) <> one.spki_sha256 THEN
            RAISE EXCEPTION 'the key of the authority % is not one that was made here', one.name;
        END IF;
        INSERT INTO kms_key (id, tenant_id, name, tags, metadata, algorithm, bits, backend, sealed, spki, spki_sha256,
                             created_at)
        VALUES (one.id, one.system, one.name, '{}', '{}', kind.algorithm, kind.bits,
                CASE WHEN one.key_sealed IS NULL THEN 'file' ELSE 'sealed' END, one.key_sealed, key_info,
                one.spki_sha256, one.created_at);
        UPDATE authority SET key_id = one.id WHERE id = one.id;
    END LOOP;
END $$;

ALTER TABLE authority DROP COLUMN key_sealed;
CREATE INDEX authority_key ON authority (key_id);
