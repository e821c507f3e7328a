-- What nodes act on is published first: now also what is told of authorities and of any certificate. The order is that of
-- `iam/store/journal.py`, and the expression its own.

DROP INDEX outbox_urgent;
CREATE INDEX outbox_urgent ON outbox (
    (NOT (data ? 'affects' OR kind ~ '^(authority\.|certificate\.|device\.renewed|issuance_profile\.)')), id);
