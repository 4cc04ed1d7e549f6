-- Users that are devices: their name is their device id, and their secret is always a generated one.

CREATE TABLE devices (
    user_id    INTEGER PRIMARY KEY REFERENCES users (id) ON DELETE CASCADE,
    rotated_at INTEGER,          -- seconds since 1970; null while it has its first secret
    seen_at    INTEGER,          -- when it last came or left
    address    TEXT,             -- from where
    firmware   TEXT              -- what it last said about itself
) STRICT;

-- Whether the rules of the role `device` were made once: what the operator removes of them stays removed.
ALTER TABLE state ADD COLUMN device_role_made INTEGER NOT NULL DEFAULT 0 CHECK (device_role_made IN (0, 1));
