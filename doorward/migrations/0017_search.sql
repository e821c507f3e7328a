-- A part of a name, a tag or a path in metadata among a million: which certificates and devices have it.
--
-- Behind row-level security no index answers LIKE, containment or JSONPath, since PostgreSQL does not know them to leak
-- nothing. These functions run as the owner of the tables and keep to the visible tenant by themselves. The tenant comes
-- first in each index, so that what they cost tells of no other one either.

CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS btree_gin;

-- A small pending list: whoever fills it puts it away, and should not be kept for long by that. In kilobytes.
CREATE INDEX certificate_search ON certificate USING gin (tenant_id, common_name gin_trgm_ops)
    WITH (gin_pending_list_limit = 256);
CREATE INDEX device_search ON device
    USING gin (tenant_id, device_identifier gin_trgm_ops, tags, metadata jsonb_path_ops)
    WITH (gin_pending_list_limit = 256);

-- What is revoked, in the order of its revocation: told by one condition alone, PostgreSQL knows how many there are.
DROP INDEX certificate_revocation;
CREATE INDEX certificate_revocation ON certificate (tenant_id, revoked_at, serial) WHERE status = 'revoked';
DROP INDEX certificate_reason;
CREATE INDEX certificate_reason ON certificate (tenant_id, revocation_reason, serial)
    WHERE revocation_reason IS NOT NULL;

-- The keys of those whose name is like a pattern; NULL if they are more than `most`, or no one tenant's. The statement is
-- planned for this very pattern: what many have is found sooner by reading on until there are too many. Where the plan
-- says that there are far too many, it is not even begun (to look at the plan, a function is VOLATILE).
CREATE FUNCTION certificates_named_like(pattern text, ignores_case boolean, most integer) RETURNS bytea[]
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    named text := 'SELECT serial FROM certificate WHERE tenant_id = $1 AND common_name '
        || CASE WHEN ignores_case THEN 'ILIKE' ELSE 'LIKE' END || ' $2';
    plan  json;
    found bytea[];
BEGIN
    EXECUTE 'EXPLAIN (FORMAT JSON) ' || named INTO plan USING visible_tenant(), pattern;
    IF (plan #>> '{0,Plan,Plan Rows}')::float8 > 10.0 * most THEN
        RETURN NULL;
    END IF;
    EXECUTE 'SELECT array_agg(serial) FROM (' || named || ' LIMIT $3) AS few'
        INTO found USING visible_tenant(), pattern, most + 1;
    RETURN CASE WHEN visible_tenant() IS NOT NULL AND coalesce(cardinality(found), 0) <= most
                THEN coalesce(found, '{}') END;
END $$;

CREATE FUNCTION devices_named_like(pattern text, ignores_case boolean, most integer) RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    found text[];
BEGIN
    EXECUTE 'SELECT array_agg(device_identifier) FROM (SELECT device_identifier FROM device WHERE tenant_id = $1'
        || ' AND device_identifier ' || CASE WHEN ignores_case THEN 'ILIKE' ELSE 'LIKE' END || ' $2 LIMIT $3) AS few'
        INTO found USING visible_tenant(), pattern, most + 1;
    RETURN CASE WHEN visible_tenant() IS NOT NULL AND coalesce(cardinality(found), 0) <= most
                THEN coalesce(found, '{}') END;
END $$;

CREATE FUNCTION devices_tagged(tag text, most integer) RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    found text[];
BEGIN
    EXECUTE 'SELECT array_agg(device_identifier) FROM (SELECT device_identifier FROM device WHERE tenant_id = $1'
        || ' AND tags @> ARRAY[$2] LIMIT $3) AS few'
        INTO found USING visible_tenant(), tag, most + 1;
    RETURN CASE WHEN visible_tenant() IS NOT NULL AND coalesce(cardinality(found), 0) <= most
                THEN coalesce(found, '{}') END;
END $$;

-- A predicate is asked whether it is true, a path whether it leads to something.
CREATE FUNCTION devices_at_path(path text, is_predicate boolean, most integer) RETURNS text[]
    LANGUAGE plpgsql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
DECLARE
    found text[];
BEGIN
    EXECUTE 'SELECT array_agg(device_identifier) FROM (SELECT device_identifier FROM device WHERE tenant_id = $1'
        || ' AND metadata ' || CASE WHEN is_predicate THEN '@@' ELSE '@?' END || ' $2::jsonpath LIMIT $3) AS few'
        INTO found USING visible_tenant(), path, most + 1;
    RETURN CASE WHEN visible_tenant() IS NOT NULL AND coalesce(cardinality(found), 0) <= most
                THEN coalesce(found, '{}') END;
END $$;

REVOKE EXECUTE ON FUNCTION certificates_named_like, devices_named_like, devices_tagged, devices_at_path
    FROM PUBLIC;
