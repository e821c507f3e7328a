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
