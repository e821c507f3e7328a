-- What goes wrong on the way, and what is to be done of it: by whom, when, and how often it is tried again.

-- A revocation of many whose batch fails is tried again, later each time, and FAILED after a number of tries.
ALTER TABLE bulk_revocation
    DROP CONSTRAINT bulk_revocation_status_check,
    ADD CONSTRAINT bulk_revocation_status_check
        CHECK (status IN ('RUNNING', 'DONE', 'CANCELLED', 'STOPPED', 'FAILED')),
    -- How often the next batch has failed, one after the other; when it is tried again; and what it failed by.
    ADD COLUMN failures     integer NOT NULL DEFAULT 0,
    ADD COLUMN next_try_at  timestamptz,
    ADD COLUMN last_failure text;

-- When the destruction of a key in its token began. It signs nothing from then on; it is forgotten when the token has
-- said that it is gone.
ALTER TABLE kms_key ADD COLUMN leaves_since timestamptz;

-- A certificate says what it superseded also after that was deleted.
ALTER TABLE certificate DROP CONSTRAINT certificate_supersedes_fkey;

-- A webhook is asked once about a request that waits for an operator: its yes, by its id, and the SHA-256 of what it was
-- told of who asks.
ALTER TABLE enrolment_approval
    ADD COLUMN vouched_by         text,
    ADD COLUMN vouched_for_sha256 bytea;

-- In which hardware token a key lies, by the name that the configuration gives it; NULL is the one that has no other.
ALTER TABLE kms_key
    ADD COLUMN token text,
    ADD CHECK (token IS NULL OR backend = 'pkcs11');
