-- The device manager: what operators say of devices, groups by filter, and a life cycle that follows certificates.

ALTER TABLE device
    ADD COLUMN alias      text NOT NULL DEFAULT '',
    ADD COLUMN tags       text[] NOT NULL DEFAULT '{}',
    ADD COLUMN icon       text NOT NULL DEFAULT '',
    ADD COLUMN icon_color text NOT NULL DEFAULT '',
    -- The end of the device's active certificate, as the life cycle saw it last; NULL: it has to look (again).
    ADD COLUMN expires_at timestamptz;

-- Whoever makes a device active has given it a certificate that the life cycle has not seen.
CREATE FUNCTION forget_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    NEW.expires_at := NULL;
    RETURN NEW;
END $$;
CREATE TRIGGER device_has_new_certificate BEFORE UPDATE OF status ON device FOR EACH ROW
    WHEN (NEW.status = 'ACTIVE' AND NEW.expires_at IS NOT DISTINCT FROM OLD.expires_at)
    EXECUTE FUNCTION forget_expiry();

-- The wall of `device`, asked once for each statement and not for each row: lists and statistics read many.
CREATE FUNCTION visible_tenant() RETURNS uuid LANGUAGE sql STABLE PARALLEL SAFE
    RETURN CASE WHEN current_setting('doorward.tenant', true) IN ('', '*') THEN NULL
                ELSE current_setting('doorward.tenant', true)::uuid END;
CREATE FUNCTION is_everything_visible() RETURNS boolean LANGUAGE sql STABLE PARALLEL SAFE
    RETURN coalesce(current_setting('doorward.tenant', true) = '*', false);
ALTER POLICY tenant_wall ON device USING (tenant_id = (SELECT visible_tenant()) OR (SELECT is_everything_visible()));

-- Behind the wall only comparisons that PostgreSQL knows to be leakproof reach an index: those of these two, and not
-- containment in labels, tags or metadata.
DROP INDEX device_labels;
CREATE INDEX device_status ON device (tenant_id, status, device_identifier);
CREATE INDEX device_label ON device (tenant_id, enrolment_profile, device_identifier);
CREATE INDEX device_creation ON device (tenant_id, created_at, device_identifier);

-- Which devices the life cycle has to look at, and which have come to an age: both short, however many devices there are.
CREATE INDEX device_unseen ON device (device_identifier)
    WHERE expires_at IS NULL AND status IN ('ACTIVE', 'RENEWAL_PENDING', 'EXPIRING_SOON', 'EXPIRED');
CREATE INDEX device_age ON device (enrolment_profile, status, expires_at) WHERE expires_at IS NOT NULL;

-- Whether a label serves the devices of a tenant: it belongs to it or to one above. It runs as the owner of the tables,
-- since those above are behind the wall.
CREATE FUNCTION is_label_of(label text, whose uuid) RETURNS boolean LANGUAGE sql STABLE SECURITY DEFINER
    SET search_path = public, pg_temp
    RETURN EXISTS (SELECT FROM enrolment_profile p JOIN tenant t ON p.tenant_id = ANY (t.path)
                   WHERE p.name = label AND t.id = whose);
REVOKE EXECUTE ON FUNCTION is_label_of FROM PUBLIC;

-- What happened to a device. A column of its own, since what is computed from `data` does not reach an index behind the
-- wall either.
ALTER TABLE audit ADD COLUMN device_identifier text GENERATED ALWAYS AS (
    CASE WHEN kind LIKE ANY (ARRAY['device.%', 'certificate.%', 'enrolment.%'])
         THEN coalesce(data ->> 'device', subject) END) STORED;
CREATE INDEX audit_device ON audit (tenant_id, device_identifier, id) WHERE device_identifier IS NOT NULL;

-- Devices under one name, by what they are and not by a list: whoever fits belongs to it.
CREATE TABLE device_group (
    id          uuid PRIMARY KEY,
    tenant_id   uuid NOT NULL REFERENCES tenant,
    name        text NOT NULL,
    description text NOT NULL,
    parent_id   uuid,
    criteria    jsonb NOT NULL,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    UNIQUE (id, tenant_id),
    FOREIGN KEY (parent_id, tenant_id) REFERENCES device_group (id, tenant_id)
);
CREATE INDEX device_group_page ON device_group (tenant_id, name, id);
CREATE INDEX device_group_parent ON device_group (parent_id);
ALTER TABLE device_group ENABLE ROW LEVEL SECURITY;
CREATE POLICY tenant_wall ON device_group USING (tenant_is_visible(tenant_id));
