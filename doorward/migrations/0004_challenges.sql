-- Challenges that were answered: each is burnt by the INSERT that answers it, and forgotten once it has expired.

CREATE TABLE used_nonce (
    nonce      bytea PRIMARY KEY,
    expires_at timestamptz NOT NULL
);
CREATE INDEX used_nonce_expiry ON used_nonce (expires_at);
