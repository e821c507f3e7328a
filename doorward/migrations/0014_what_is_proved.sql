-- What enrolment goes by is what was proved, and what holds now.

-- Of what waits or was decided on before, nobody can tell whether its key was proved: the devices ask again.
DELETE FROM enrolment_approval;
ALTER TABLE enrolment_approval
    ADD COLUMN operation text NOT NULL CHECK (operation IN ('simpleenroll', 'serverkeygen')),
    DROP CONSTRAINT enrolment_approval_profile_id_device_identifier_spki_sha256_key,
    ADD UNIQUE (profile_id, operation, device_identifier, spki_sha256, requester);

-- As in migration 0009; grace counts only while the identity has an active certificate.
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
                                           AND c.status = 'revoked' AND c.revocation_reason = 'keyCompromise')
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
                    AND c.revocation_reason = 'keyCompromise' LIMIT 1),
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
