-- What operators ask most among a million certificates: which of those in force end soon, and what was revoked and why.

DROP INDEX certificate_status;
CREATE INDEX certificate_status ON certificate (tenant_id, status, not_after, serial);
CREATE INDEX certificate_reason ON certificate (tenant_id, revocation_reason, serial) WHERE revoked_at IS NOT NULL;
