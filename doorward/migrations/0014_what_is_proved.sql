-- What enrolment goes by is what was proved: approvals know the operation that they are for.

-- Of what waits or was decided on before, nobody can tell whether its key was proved: the devices ask again.
DELETE FROM enrolment_approval;
ALTER TABLE enrolment_approval
    ADD COLUMN operation text NOT NULL CHECK (operation IN ('simpleenroll', 'serverkeygen')),
    DROP CONSTRAINT enrolment_approval_profile_id_device_identifier_spki_sha256_key,
    ADD UNIQUE (profile_id, operation, device_identifier, spki_sha256, requester);
