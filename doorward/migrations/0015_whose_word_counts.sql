-- Whose word on an authority counts, and for how long; and in which order those who revoke hold what they change.

-- Of a key that signs here there is one authority. An external authority's is what its tenant says that it is: it stands
-- behind the wall, and each tenant may say so for itself.
ALTER TABLE authority ALTER COLUMN spki_sha256 DROP NOT NULL;
ALTER TABLE authority_standing
    ADD COLUMN external_spki_sha256 bytea,
    ADD UNIQUE (tenant_id, external_spki_sha256);
UPDATE authority_standing s SET external_spki_sha256 = a.spki_sha256
    FROM authority a WHERE a.id = s.authority_id AND a.kind = 'external';
UPDATE authority SET spki_sha256 = NULL WHERE kind = 'external';
ALTER TABLE authority ADD CHECK ((kind = 'external') = (spki_sha256 IS NULL));
ALTER TABLE authority_standing ADD CHECK ((origin = 'EXTERNAL') = (external_spki_sha256 IS NOT NULL));

-- Keys of authorities that were deleted after they had been distrusted: they stay distrusted, and are not taken in again.
CREATE TABLE distrusted_key (
    tenant_id   uuid NOT NULL REFERENCES tenant,
    spki_sha256 bytea NOT NULL,
    -- It signed here: nobody believes it. Otherwise what is said here holds for the tenant and those below it.
    was_ours    boolean NOT NULL,
    authority   text NOT NULL,
    deleted_at  timestamptz NOT NULL,
    PRIMARY KEY (tenant_id, spki_sha256)
);
ALTER TABLE distrusted_key ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON distrusted_key USING (tenant_is_visible(tenant_id));

-- Of those that were deleted before there was this table, their certificates tell, where they were issued here. The
-- certificates of servers and responders look alike; their keys are no authorities', so that nothing follows from them.
INSERT INTO distrusted_key (tenant_id, spki_sha256, was_ours, authority, deleted_at)
    SELECT DISTINCT ON (c.tenant_id, c.spki_sha256) c.tenant_id, c.spki_sha256, true, c.subject, c.revoked_at
    FROM certificate c
    WHERE c.status = 'revoked' AND c.revocation_reason IS DISTINCT FROM 'certificateHold'
      AND c.device_identifier IS NULL AND c.identity_id IS NULL
      AND c.profile NOT IN ('server', 'responder')
      AND NOT EXISTS (SELECT FROM authority a WHERE a.spki_sha256 = c.spki_sha256)
    ORDER BY c.tenant_id, c.spki_sha256, c.revoked_at;

-- What lists show of an authority's certificate besides; of those that are there, the next start fills it in.
ALTER TABLE authority_standing
    ADD COLUMN serial_number  bytea,
    ADD COLUMN not_before     timestamptz,
    ADD COLUMN key_identifier bytea;

-- When what an authority issues ends at the latest: so long after it is issued, or at one moment for all.
ALTER TABLE authority_standing
    ADD COLUMN issuance_seconds bigint CHECK (issuance_seconds > 0),
    ADD COLUMN issuance_ends timestamptz,
    ADD CHECK (issuance_seconds IS NULL OR issuance_ends IS NULL);

-- A certificate that was taken in is what its tenant says that it is, and so is its end: whose key it names has shown us
-- nothing. It counts for that tenant and those below it; one that was issued here counts for everybody.
CREATE FUNCTION counts_for(profile text, owner uuid, whom uuid) RETURNS boolean LANGUAGE sql STABLE
    RETURN profile <> 'imported' OR EXISTS (SELECT FROM tenant t WHERE t.id = whom AND owner = ANY (t.path));

-- As in migration 0014; whoever revokes under several authorities holds all of them first, in one order.
CREATE OR REPLACE FUNCTION enrol_device(
    expected jsonb,                 -- est.rules.EnrolmentFacts
    moment timestamptz,
    wanted text,                    -- the device identifier that is asked for
    label_tenant uuid,
    label_name text,
    label_role text,
    label_defaults jsonb,           -- what a device that is registered by this begins with, by its columns
    credentials text[],             -- by what the device was entitled, for the audit
    presented_secret uuid,          -- the enrolment secret, if one was presented
    presented_serial bytea,         -- of the bootstrap certificate, if one was presented; so are the next three
    presented_sha256 bytea,
    presented_spki bytea,
    presented_issuer_spki bytea,
    new_request bytea,              -- SHA-256 of the request
    new_spki bytea,
    new_serial bytea,
    new_authority uuid,
    new_profile text,
    new_subject text,
    new_not_before timestamptz,
    new_not_after timestamptz,
    new_certificate bytea,
    new_identity text,
    new_change uuid,
    OUT facts jsonb,
    OUT is_written boolean,
    OUT tenant uuid,
    OUT identity text,
    OUT existing bytea,             -- the certificate that the same device has for the same key already
    OUT replaced bytea[]            -- the serial numbers of those that a replacement revoked
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    known device%ROWTYPE;
    secret enrolment_secret%ROWTYPE;
    label_role_id uuid;
BEGIN
    -- There may be no row yet to lock: of those who make it at the same time, the second waits for the first.
    PERFORM pg_advisory_xact_lock(hashtextextended(wanted, 0));
    SELECT d.* INTO known FROM device d WHERE d.device_identifier = wanted FOR UPDATE;
    -- Whoever uses the same secret at the same time waits here, and then finds it used.
    IF presented_secret IS NOT NULL THEN
        SELECT s.* INTO secret FROM enrolment_secret s WHERE s.id = presented_secret FOR UPDATE;
    END IF;
    tenant := coalesce(known.tenant_id, label_tenant);
    identity := known.identity_id;
    -- By the key, and not by the request: a client that lost the answer may have to sign a new one (RFC 7030 3.5).
    IF identity IS NOT NULL AND NOT known.replacement_allowed THEN
        SELECT c.certificate INTO existing FROM certificate c
            WHERE c.device_identifier = wanted AND c.identity_id = identity AND c.status = 'active'
              AND c.spki_sha256 = new_spki AND c.not_after > moment
            ORDER BY c.issued_at DESC LIMIT 1;
    END IF;
    SELECT r.id,
        jsonb_build_object(
            'device', CASE WHEN known.device_identifier IS NULL THEN 'absent'
                           WHEN known.status = 'DECOMMISSIONED' THEN 'decommissioned'
                           WHEN enrol_device.identity IS NULL THEN 'registered'
                           ELSE 'identified' END,
            'is_within_label', coalesce(label_tenant = ANY (t.path), false),
            'is_tenant_active', t.id IS NOT NULL AND NOT EXISTS (
                SELECT FROM tenant a WHERE a.id = ANY (t.path) AND a.status <> 'active'),
            'is_identity_active', enrol_device.identity IS NULL
                OR EXISTS (SELECT FROM identity i WHERE i.id = enrol_device.identity AND i.status = 'active'),
            'is_name_taken', EXISTS (SELECT FROM identity i WHERE i.tenant_id = t.id AND i.name = wanted
                                     AND i.id IS DISTINCT FROM enrol_device.identity),
            'is_registered_elsewhere', EXISTS (
                SELECT FROM enrolment_profile p WHERE p.name = known.enrolment_profile AND p.name <> label_name),
            'has_role', r.id IS NOT NULL,
            'is_replacement_allowed', coalesce(known.replacement_allowed, false),
            'is_bootstrap_revoked', EXISTS (SELECT FROM certificate c WHERE c.serial = presented_serial
                AND c.status = 'revoked' AND sha256(c.certificate) = presented_sha256
                AND counts_for(c.profile, c.tenant_id, enrol_device.tenant))
                OR EXISTS (SELECT FROM certificate c WHERE c.spki_sha256 = presented_spki AND c.status = 'revoked'
                           AND c.revocation_reason = 'keyCompromise'
                           AND counts_for(c.profile, c.tenant_id, enrol_device.tenant)),
            'binding', coalesce(
                (SELECT CASE WHEN (b.spki_sha256 IS NULL OR b.spki_sha256 IS NOT DISTINCT FROM presented_spki)
                              AND (b.serial IS NULL OR (b.serial, b.issuer_spki_sha256)
                                   IS NOT DISTINCT FROM (presented_serial, presented_issuer_spki))
                             THEN 'matches' ELSE 'differs' END
                 FROM bootstrap_binding b WHERE b.device_identifier = wanted), 'absent'),
            'key_owner', coalesce(
                (SELECT 'authority' FROM authority a WHERE a.spki_sha256 = new_spki),
                (SELECT 'compromised' FROM certificate c WHERE c.spki_sha256 = new_spki AND c.status = 'revoked'
                    AND c.revocation_reason = 'keyCompromise'
                    AND counts_for(c.profile, c.tenant_id, enrol_device.tenant) LIMIT 1),
                (SELECT CASE WHEN k.device_identifier = wanted THEN 'this' ELSE 'other' END
                 FROM device_key k WHERE k.spki_sha256 = new_spki),
                'nobody'),
            'secret', CASE WHEN presented_secret IS NULL THEN 'none'
                           WHEN secret.id IS NULL OR secret.revoked_at IS NOT NULL OR secret.expires_at <= moment
                               THEN 'gone'
                           WHEN secret.uses >= secret.uses_allowed THEN 'spent'
                           ELSE 'usable' END,
            'is_answered', existing IS NOT NULL)
        INTO label_role_id, facts
        FROM (VALUES (tenant)) AS whose (id) LEFT JOIN tenant t ON t.id = whose.id
             LEFT JOIN role r ON r.tenant_id = t.id AND r.name = label_role;
    is_written := facts IS NOT DISTINCT FROM expected;
    IF NOT is_written THEN
        RETURN;
    END IF;

    IF presented_secret IS NOT NULL THEN
        UPDATE enrolment_secret s SET uses = s.uses + 1, last_used_at = moment WHERE s.id = presented_secret;
    END IF;
    IF identity IS NULL THEN
        identity := new_identity;
        INSERT INTO identity (id, tenant_id, type, name, status, devices, services, created_at)
        VALUES (new_identity, tenant, 'device', wanted, 'active', '{}', NULL, moment);
        INSERT INTO identity_role (identity_id, role_id, tenant_id) VALUES (new_identity, label_role_id, tenant);
    END IF;
    IF known.device_identifier IS NULL THEN
        -- The defaults name columns; what a later migration adds to a device has to be among them.
        INSERT INTO device SELECT d.* FROM jsonb_populate_record(NULL::device, label_defaults || jsonb_build_object(
            'device_identifier', wanted, 'tenant_id', tenant, 'identity_id', enrol_device.identity,
            'status', 'ACTIVE', 'enrolment_profile', label_name, 'replacement_allowed', false,
            'created_at', moment)) AS d;
    ELSE
        UPDATE device SET identity_id = enrol_device.identity, status = 'ACTIVE', enrolment_profile = label_name,
                          replacement_allowed = false
            WHERE device_identifier = wanted;
        PERFORM FROM authority a
            WHERE a.id IN (SELECT c.authority_id FROM certificate c
                           WHERE c.device_identifier = wanted AND c.identity_id = enrol_device.identity
                             AND c.status <> 'revoked')
            ORDER BY a.id FOR NO KEY UPDATE;
        WITH gone AS (
            UPDATE certificate c SET status = 'revoked', revoked_at = moment, revocation_reason = 'superseded'
            WHERE c.device_identifier = wanted AND c.identity_id = enrol_device.identity AND c.status <> 'revoked'
            RETURNING c.serial)
        SELECT array_agg(serial ORDER BY serial) INTO replaced FROM gone;
        -- As `ca.revocation` records them: so what is connected by them is cut.
        PERFORM record_change(gen_random_uuid(), tenant, moment, enrol_device.identity, 'certificate.revoked',
            encode(gone, 'hex'),
            jsonb_build_object('reason', 'superseded', 'device', wanted, 'identity', enrol_device.identity,
                'affects', jsonb_build_array(jsonb_build_array('identity', enrol_device.identity))))
            FROM unnest(replaced) AS gone;
    END IF;
    IF facts ->> 'key_owner' = 'nobody' THEN
        INSERT INTO device_key (spki_sha256, device_identifier, tenant_id, first_seen_at)
            VALUES (new_spki, wanted, tenant, moment);
    END IF;
    INSERT INTO certificate (serial, authority_id, tenant_id, profile, device_identifier, identity_id, subject,
                             spki_sha256, request_sha256, not_before, not_after, certificate, status, issued_at)
        VALUES (new_serial, new_authority, tenant, new_profile, wanted, enrol_device.identity, new_subject,
                new_spki, new_request, new_not_before, new_not_after, new_certificate, 'active', moment);
    PERFORM record_change(new_change, tenant, moment, enrol_device.identity, 'device.enrolled', wanted,
        jsonb_build_object('identity', enrol_device.identity, 'serial', encode(new_serial, 'hex'),
                           'label', label_name, 'credentials', to_jsonb(credentials)));
END $$;

-- As in migration 0014; of what was taken in, each tenant's word counts for itself and those below it.
CREATE OR REPLACE FUNCTION reenrol_device(
    expected jsonb,                 -- est.rules.RenewalFacts
    moment timestamptz,
    label_tenant uuid,
    label_name text,
    label_grace interval,
    label_revokes boolean,          -- whether predecessors are revoked once their grace is over
    presented_serial bytea,
    presented_certificate bytea,
    wanted text,                    -- the device identifier in the certificate presented
    new_request bytea,
    new_spki bytea,
    new_serial bytea,
    new_authority uuid,
    new_profile text,
    new_subject text,
    new_not_before timestamptz,
    new_not_after timestamptz,
    new_certificate bytea,
    new_change uuid,
    OUT facts jsonb,
    OUT is_written boolean,
    OUT tenant uuid,
    OUT identity text,
    OUT existing bytea
) LANGUAGE plpgsql SECURITY DEFINER
    SET search_path = public, pg_temp
    SET plan_cache_mode = force_generic_plan
AS $$
DECLARE
    known device%ROWTYPE;
    presented certificate%ROWTYPE;
    label text;
BEGIN
    SELECT d.* INTO known FROM device d WHERE d.device_identifier = wanted FOR UPDATE;
    SELECT c.* INTO presented FROM certificate c WHERE c.serial = presented_serial FOR UPDATE;
    tenant := presented.tenant_id;
    identity := presented.identity_id;
    label := CASE WHEN known.enrolment_profile = label_name THEN 'own'
                  WHEN EXISTS (SELECT FROM enrolment_profile p WHERE p.name = known.enrolment_profile) THEN 'other'
                  ELSE 'deleted' END;
    SELECT c.certificate INTO existing FROM certificate c
        WHERE c.supersedes = presented_serial AND c.spki_sha256 = new_spki AND c.status = 'active'
          AND c.not_after > moment
        ORDER BY c.issued_at DESC LIMIT 1;
    SELECT jsonb_build_object(
            'presented', CASE WHEN presented.serial IS NULL THEN 'absent'
                              WHEN presented.certificate <> presented_certificate THEN 'differs'
                              WHEN EXISTS (SELECT FROM certificate c WHERE c.spki_sha256 = presented.spki_sha256
                                           AND c.status = 'revoked' AND c.revocation_reason = 'keyCompromise'
                                           AND counts_for(c.profile, c.tenant_id, reenrol_device.tenant))
                                  THEN 'revoked'
                              -- A label that is not the device's own lends it no grace, and nobody comes back by it
                              -- whose own certificate was revoked or is on hold.
                              WHEN presented.status = 'superseded' AND label = 'own'
                                   AND moment < presented.superseded_at + label_grace
                                   AND EXISTS (SELECT FROM certificate c WHERE c.device_identifier = wanted
                                               AND c.identity_id = reenrol_device.identity AND c.status = 'active')
                                  THEN 'superseded within grace'
                              ELSE presented.status END,
            'label', label,
            'device', CASE WHEN known.device_identifier IS NULL THEN 'absent'
                           WHEN known.status = 'DECOMMISSIONED' THEN 'decommissioned'
                           WHEN known.identity_id = reenrol_device.identity THEN 'identified'
                           ELSE 'other' END,
            'is_within_label', coalesce(label_tenant = ANY (t.path), false),
            'is_tenant_active', t.id IS NOT NULL AND NOT EXISTS (
                SELECT FROM tenant a WHERE a.id = ANY (t.path) AND a.status <> 'active'),
            'is_identity_active', EXISTS (SELECT FROM identity i WHERE i.id = reenrol_device.identity
                                          AND i.status = 'active'),
            'key_owner', coalesce(
                (SELECT 'authority' FROM authority a WHERE a.spki_sha256 = new_spki),
                (SELECT 'compromised' FROM certificate c WHERE c.spki_sha256 = new_spki AND c.status = 'revoked'
                    AND c.revocation_reason = 'keyCompromise'
                    AND counts_for(c.profile, c.tenant_id, reenrol_device.tenant) LIMIT 1),
                (SELECT CASE WHEN k.device_identifier = wanted THEN 'this' ELSE 'other' END
                 FROM device_key k WHERE k.spki_sha256 = new_spki),
                'nobody'),
            'is_answered', existing IS NOT NULL)
        INTO facts
        FROM (VALUES (tenant)) AS whose (id) LEFT JOIN tenant t ON t.id = whose.id;
    is_written := facts IS NOT DISTINCT FROM expected;
    IF NOT is_written THEN
        RETURN;
    END IF;

    UPDATE certificate c SET status = 'superseded', superseded_at = moment,
            revoke_at = CASE WHEN label_revokes THEN moment + greatest(label_grace, interval '1 minute') END
        WHERE c.device_identifier = wanted AND c.identity_id = reenrol_device.identity AND c.status = 'active';
    UPDATE device SET status = 'ACTIVE' WHERE device_identifier = wanted;
    IF facts ->> 'key_owner' = 'nobody' THEN
        INSERT INTO device_key (spki_sha256, device_identifier, tenant_id, first_seen_at)
            VALUES (new_spki, wanted, tenant, moment);
    END IF;
    INSERT INTO certificate (serial, authority_id, tenant_id, profile, device_identifier, identity_id, subject,
                             spki_sha256, request_sha256, not_before, not_after, certificate, status, issued_at,
                             supersedes)
        VALUES (new_serial, new_authority, tenant, new_profile, wanted, reenrol_device.identity, new_subject,
                new_spki, new_request, new_not_before, new_not_after, new_certificate, 'active', moment,
                presented_serial);
    -- A new key puts an end to what the old one is connected by; the same key leaves it alone.
    PERFORM record_change(new_change, tenant, moment, reenrol_device.identity, 'device.renewed', wanted,
        jsonb_build_object('identity', reenrol_device.identity, 'serial', encode(new_serial, 'hex'),
                           'label', label_name, 'supersedes', encode(presented_serial, 'hex'))
        || CASE WHEN presented.spki_sha256 = new_spki THEN '{}'::jsonb
                ELSE jsonb_build_object('affects', jsonb_build_array(
                    jsonb_build_array('identity', reenrol_device.identity))) END);
END $$;
