-- What relying parties are told: revocations in the order of their commits, lists whole, partitioned and delta, and the
-- keys that answer OCSP.
--
-- A certificate on hold is a revoked one whose reason is certificateHold (RFC 5280 5.3.1), so that whatever asks whether
-- a certificate is revoked refuses one on hold too.

-- An entry of revokedCertificates in DER (RFC 5280 5.1): made once, when the certificate is revoked, and copied into every
-- list from then on. No part of it is longer than 127 octets, so each length is one octet.
CREATE FUNCTION revocation_entry(serial bytea, moment timestamptz, reason text) RETURNS bytea
LANGUAGE plpgsql IMMUTABLE STRICT SET search_path = public, pg_temp
AS $$
DECLARE
    -- X.690 8.3.2: as few octets as there can be, and a first bit of zero, since it is not negative.
    number bytea := ltrim(serial, '\x00'::bytea);
    universal timestamp := moment AT TIME ZONE 'UTC';
    code integer := CASE reason
        WHEN 'unspecified' THEN 0 WHEN 'keyCompromise' THEN 1 WHEN 'affiliationChanged' THEN 3 WHEN 'superseded' THEN 4
        WHEN 'cessationOfOperation' THEN 5 WHEN 'certificateHold' THEN 6 WHEN 'removeFromCRL' THEN 8
        WHEN 'privilegeWithdrawn' THEN 9 END;
    content bytea;
BEGIN
    IF code IS NULL THEN
        RAISE EXCEPTION 'no reason of RFC 5280 5.3.1: %', reason;
    END IF;
    IF number = '' OR get_byte(number, 0) > 127 THEN
        number := '\x00'::bytea || number;
    END IF;
    content := set_byte('\x0200'::bytea, 1, octet_length(number)) || number
        -- RFC 5280 5.1.2.6, as 5.1.2.4: UTCTime through 2049, GeneralizedTime after.
        || CASE WHEN universal < '2050-01-01'
                THEN '\x170d'::bytea || convert_to(to_char(universal, 'YYMMDDHH24MISS"Z"'), 'UTF8')
                ELSE '\x180f'::bytea || convert_to(to_char(universal, 'YYYYMMDDHH24MISS"Z"'), 'UTF8') END;
    IF code <> 0 THEN -- 5.3.1: unspecified is said by silence
        content := content || set_byte('\x300c300a0603551d1504030a0100'::bytea, 13, code);
    END IF;
    RETURN set_byte('\x3000'::bytea, 1, octet_length(content)) || content;
END $$;

CREATE SEQUENCE revocation_number;

-- What became of certificates, for lists and for OCSP: narrow, so that a million of them are read in a second.
CREATE TABLE revocation (
    authority_id uuid NOT NULL REFERENCES authority,
    -- The last octet of the serial number: partitions of lists are ranges of it.
    slot         smallint NOT NULL GENERATED ALWAYS AS (get_byte(serial, octet_length(serial) - 1)) STORED,
    serial       bytea NOT NULL,
    -- Rises, for one authority, in the order of commits: who revokes holds the authority's row from here to his commit.
    -- So whoever sees a number sees all that are smaller, and what is above a number that he knows is new to him.
    number       bigint NOT NULL,
    not_after    timestamptz NOT NULL,
    -- Whether the hold is over: then lists leave it out, and delta lists say removeFromCRL.
    is_released  boolean NOT NULL,
    entry        bytea NOT NULL,
    PRIMARY KEY (authority_id, slot, serial)
);
CREATE INDEX revocation_news ON revocation (authority_id, number);
CREATE INDEX revocation_ended ON revocation (authority_id, not_after);

INSERT INTO revocation (authority_id, serial, number, not_after, is_released, entry)
SELECT authority_id, serial, nextval('revocation_number'), not_after, false,
       revocation_entry(serial, revoked_at, coalesce(revocation_reason, 'unspecified'))
FROM certificate WHERE status = 'revoked';

-- Whoever revokes, holds or releases, in whichever statement: it is noted here, or it does not happen.
CREATE FUNCTION note_revocation() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp
AS $$
DECLARE
    is_over boolean := NEW.status <> 'revoked';
BEGIN
    PERFORM FROM authority WHERE id = NEW.authority_id FOR NO KEY UPDATE;
    INSERT INTO revocation (authority_id, serial, number, not_after, is_released, entry)
    VALUES (NEW.authority_id, NEW.serial, nextval('revocation_number'), NEW.not_after, is_over,
            revocation_entry(NEW.serial, coalesce(NEW.revoked_at, OLD.revoked_at),
                             CASE WHEN is_over THEN 'removeFromCRL'
                                  ELSE coalesce(NEW.revocation_reason, 'unspecified') END))
    ON CONFLICT (authority_id, slot, serial) DO UPDATE
        SET number = excluded.number, is_released = excluded.is_released, entry = excluded.entry;
    RETURN NULL;
END $$;

CREATE TRIGGER note_revocation AFTER UPDATE ON certificate FOR EACH ROW
    WHEN (OLD.status IS DISTINCT FROM NEW.status AND 'revoked' IN (OLD.status, NEW.status)
          OR OLD.revocation_reason IS DISTINCT FROM NEW.revocation_reason)
    EXECUTE FUNCTION note_revocation();
CREATE TRIGGER note_revocation_of_new AFTER INSERT ON certificate FOR EACH ROW
    WHEN (NEW.status = 'revoked') EXECUTE FUNCTION note_revocation();

-- Into how many partitions an authority's lists were ever cut, the present number last. What a certificate names is
-- fixed when it is issued, so every number that ever was is published on. The whole list always is.
ALTER TABLE authority ADD COLUMN list_partitions smallint[] NOT NULL DEFAULT '{1}'
    CHECK (list_partitions[1] = 1 AND list_partitions <@ '{1,2,4,8,16,32,64,128,256}'::smallint[]);

-- Lists, each of one scope: the whole of an authority (partition 0 of 1), or a partition of it; complete, or what changed
-- since a complete one.
ALTER TABLE revocation_list
    ADD COLUMN partitions smallint NOT NULL DEFAULT 1,
    ADD COLUMN partition smallint NOT NULL DEFAULT 0,
    -- RFC 5280 5.2.4: the number of the complete list that a delta list is about; NULL for a complete one.
    ADD COLUMN base_number bigint,
    -- How long it took to make: what takes long is not made too often.
    ADD COLUMN seconds double precision NOT NULL DEFAULT 0,
    ALTER COLUMN crl DROP NOT NULL,
    -- Signatures and serial numbers do not compress; uncompressed, a part can be read by itself.
    ALTER COLUMN crl SET STORAGE EXTERNAL;
ALTER TABLE revocation_list RENAME COLUMN revocations TO revocation_number;
ALTER TABLE revocation_list DROP CONSTRAINT revocation_list_pkey;
CREATE UNIQUE INDEX revocation_list_key
    ON revocation_list (authority_id, partitions, partition, (base_number IS NOT NULL), number);
UPDATE revocation_list SET revocation_number = -1; -- counted otherwise until now: the next list is made at once

-- Who answers OCSP for an authority (RFC 6960 4.2.2.2): a key of its own, certified for a short while.
CREATE TABLE status_responder (
    id           uuid PRIMARY KEY,
    authority_id uuid NOT NULL REFERENCES authority,
    certificate  bytea NOT NULL,
    -- Under the node's master key, bound to `id`.
    key_sealed   bytea NOT NULL,
    not_before   timestamptz NOT NULL,
    not_after    timestamptz NOT NULL
);
CREATE INDEX status_responder_newest ON status_responder (authority_id, not_after);
