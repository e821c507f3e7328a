-- The rest of EST's operations: what a label wants of requests, and whether keys are made for its devices.

ALTER TABLE enrolment_profile
    ADD COLUMN proof_of_possession text NOT NULL DEFAULT 'off'
        CHECK (proof_of_possession IN ('off', 'optional', 'required')),
    ADD COLUMN csr_attributes text NOT NULL DEFAULT 'minimal'
        CHECK (csr_attributes IN ('minimal', 'attributes', 'template')),
    -- The kind of key that is made here for a device that asks; none is made without.
    ADD COLUMN server_key_generation text
        CHECK (server_key_generation IN ('P-256', 'P-384', 'P-521', 'Ed25519', 'RSA-2048', 'RSA-3072', 'RSA-4096')),
    ADD COLUMN encrypted_server_keys_only boolean NOT NULL DEFAULT false;

-- What a private key that is made here is encrypted under on its way: for one label's devices, or for one device.
CREATE TABLE decryption_key (
    id                uuid PRIMARY KEY,
    tenant_id         uuid NOT NULL REFERENCES tenant,
    label             text REFERENCES enrolment_profile (name) ON DELETE CASCADE,
    device_identifier text REFERENCES device ON DELETE CASCADE,
    -- What a request calls it by (RFC 7030 4.4.1).
    key_identifier    bytea NOT NULL CHECK (octet_length(key_identifier) BETWEEN 1 AND 64),
    -- A secret under the node's master key, or the certificate of a public key.
    secret_sealed     bytea,
    certificate       bytea,
    created_at        timestamptz NOT NULL,
    CHECK ((label IS NULL) <> (device_identifier IS NULL)),
    CHECK ((secret_sealed IS NULL) <> (certificate IS NULL)),
    UNIQUE (label, key_identifier),
    UNIQUE (device_identifier, key_identifier)
);

-- Certificates whose key was made here, and for whom: while it is not known whether the key arrived, the same client may
-- have another one made, since the first is kept nowhere.
CREATE TABLE generated_key (
    serial            bytea PRIMARY KEY REFERENCES certificate ON DELETE CASCADE,
    tenant_id         uuid NOT NULL,
    device_identifier text NOT NULL REFERENCES device ON DELETE CASCADE,
    -- SHA-256 of the credentials, if they are that device's alone; nobody asks again without.
    asked_by          bytea,
    -- When the first of such repetitions was; it bounds them all.
    began_at          timestamptz NOT NULL
);
CREATE INDEX generated_key_device ON generated_key (device_identifier);

DO $$
DECLARE
    walled text;
BEGIN
    FOREACH walled IN ARRAY ARRAY['decryption_key', 'generated_key']
    LOOP
        EXECUTE format('ALTER TABLE %I ENABLE ROW LEVEL SECURITY', walled);
        EXECUTE format('CREATE POLICY tenant_wall ON %I USING (tenant_is_visible(tenant_id))', walled);
    END LOOP;
END $$;

-- The four functions below stand before and after enrol_device and reenrol_device in one statement, and so in one
-- transaction. They run as the owner of the tables for the same reason as those.

-- Let the device be replaced once more, if what it has was made here for the same credentials a moment ago.
CREATE FUNCTION begin_generated_enrolment(
    INOUT expected jsonb,           -- handed on, so that this comes first
    moment timestamptz,
    wanted text,
    asked_by bytea,
    redelivery interval,            -- for how long, from the first time on
    OUT is_opened boolean,
    OUT began timestamptz
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(hashtextextended(wanted, 0));
    PERFORM FROM device d WHERE d.device_identifier = wanted FOR UPDATE;
    SELECT g.began_at INTO began
        FROM device d
             JOIN certificate c ON c.device_identifier = d.device_identifier AND c.identity_id = d.identity_id
             JOIN generated_key g ON g.serial = c.serial
        WHERE d.device_identifier = wanted AND NOT d.replacement_allowed AND c.status = 'active'
          AND g.asked_by = begin_generated_enrolment.asked_by AND moment < g.began_at + redelivery;
    is_opened := began IS NOT NULL;
    IF is_opened THEN
        UPDATE device SET replacement_allowed = true WHERE device_identifier = wanted;
    END IF;
END $$;

CREATE FUNCTION end_generated_enrolment(
    is_written boolean,
    is_opened boolean,
    moment timestamptz,
    wanted text,
    asked_by bytea,
    new_serial bytea,
    tenant uuid,
    identity text,
    began timestamptz
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
BEGIN
    IF is_written THEN
        PERFORM record_change(gen_random_uuid(), tenant, moment, identity, 'device.key_generated', wanted,
            jsonb_build_object('identity', identity, 'serial', encode(new_serial, 'hex')));
        INSERT INTO generated_key (serial, tenant_id, device_identifier, asked_by, began_at)
            VALUES (new_serial, tenant, wanted, asked_by, coalesce(began, moment));
    ELSIF is_opened THEN
        UPDATE device SET replacement_allowed = false WHERE device_identifier = wanted;
    END IF;
END $$;

-- Let a certificate re-enrol once more, if its successor's key was made here for it a moment ago.
CREATE FUNCTION begin_generated_renewal(
    INOUT expected jsonb,           -- handed on, so that this comes first
    moment timestamptz,
    wanted text,
    presented_serial bytea,
    asked_by bytea,
    label_grace interval,
    redelivery interval,
    OUT grace interval,
    OUT undelivered bytea,          -- the successor's serial number
    OUT began timestamptz
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
BEGIN
    PERFORM FROM device d WHERE d.device_identifier = wanted FOR UPDATE;
    SELECT c.serial, g.began_at INTO undelivered, began
        FROM certificate c JOIN generated_key g ON g.serial = c.serial
        WHERE c.supersedes = presented_serial AND c.status = 'active'
          AND g.asked_by = begin_generated_renewal.asked_by AND moment < g.began_at + redelivery;
    -- What is superseded now may come back for as long; what was superseded before by another renewal gains nothing.
    grace := CASE WHEN undelivered IS NOT NULL
                    OR EXISTS (SELECT FROM certificate c WHERE c.serial = presented_serial AND c.status = 'active')
                  THEN greatest(label_grace, redelivery) ELSE label_grace END;
END $$;

CREATE FUNCTION end_generated_renewal(
    is_written boolean,
    undelivered bytea,
    moment timestamptz,
    wanted text,
    asked_by bytea,
    new_serial bytea,
    tenant uuid,
    identity text,
    began timestamptz
) RETURNS void LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
AS $$
DECLARE
    issuer uuid;
BEGIN
    IF NOT is_written THEN
        RETURN;
    END IF;
    PERFORM record_change(gen_random_uuid(), tenant, moment, identity, 'device.key_generated', wanted,
        jsonb_build_object('identity', identity, 'serial', encode(new_serial, 'hex')));
    INSERT INTO generated_key (serial, tenant_id, device_identifier, asked_by, began_at)
        VALUES (new_serial, tenant, wanted, asked_by, coalesce(began, moment));
    UPDATE certificate c SET status = 'revoked', revoked_at = moment, revocation_reason = 'superseded'
        WHERE c.serial = undelivered AND c.status <> 'revoked'
        RETURNING c.authority_id INTO issuer;
    IF issuer IS NOT NULL THEN
        UPDATE authority a SET revocations = a.revocations + 1 WHERE a.id = issuer;
        PERFORM record_change(gen_random_uuid(), tenant, moment, identity, 'certificate.revoked',
            encode(undelivered, 'hex'),
            jsonb_build_object('reason', 'superseded', 'device', wanted, 'identity', identity,
                'affects', jsonb_build_array(jsonb_build_array('identity', identity))));
    END IF;
END $$;

REVOKE EXECUTE ON FUNCTION begin_generated_enrolment, end_generated_enrolment, begin_generated_renewal,
    end_generated_renewal FROM PUBLIC;
