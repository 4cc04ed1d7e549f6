-- Who may connect, and what they may do. All users here belong to the realm `local`.

CREATE TABLE users (
    id         INTEGER PRIMARY KEY,
    name       TEXT    NOT NULL UNIQUE CHECK (length(name) > 0),
    kind       TEXT    NOT NULL CHECK (kind IN ('argon2id', 'generated')),
    phc        TEXT,                       -- argon2id: the PHC string, parameters and salt included
    mac        BLOB,                       -- generated: HMAC-SHA-256 under the key of the data directory
    disabled   INTEGER NOT NULL DEFAULT 0 CHECK (disabled IN (0, 1)),
    created_at INTEGER NOT NULL,           -- seconds since 1970
    changed_at INTEGER NOT NULL,
    CHECK ((kind = 'argon2id' AND phc IS NOT NULL AND mac IS NULL)
        OR (kind = 'generated' AND mac IS NOT NULL AND phc IS NULL AND length(mac) = 32))
) STRICT;

CREATE TABLE user_roles (
    user_id INTEGER NOT NULL REFERENCES users (id) ON DELETE CASCADE,
    role    TEXT    NOT NULL CHECK (length(role) > 0),
    PRIMARY KEY (user_id, role)
) STRICT, WITHOUT ROWID;

-- AUTOINCREMENT: logs name rules by their id, so an id never comes back as another rule.
CREATE TABLE rules (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    effect     TEXT    NOT NULL CHECK (effect IN ('allow', 'deny')),
    action     TEXT    NOT NULL CHECK (action IN ('publish', 'subscribe')),
    filter     TEXT    NOT NULL CHECK (length(filter) > 0),
    who_kind   TEXT    NOT NULL CHECK (who_kind IN ('user', 'role', 'everyone')),
    realm      TEXT    NOT NULL DEFAULT '',
    who        TEXT    NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    UNIQUE (effect, action, filter, who_kind, realm, who),
    CHECK ((who_kind = 'user') = (realm <> '') AND (who_kind = 'everyone') = (who = ''))
) STRICT;

-- One row. The revision grows with every change, so that of two snapshots the newer one is known. The key check
-- proves that the key file beside this database is the one its generated secrets were hashed with.
CREATE TABLE state (
    one       INTEGER PRIMARY KEY CHECK (one = 1),
    revision  INTEGER NOT NULL,
    key_check BLOB
) STRICT;

INSERT INTO state (one, revision) VALUES (1, 1);

-- The role of the first account. `#` does not cover `$` topics, so reading `$SYS` has a rule of its own.
INSERT INTO rules (effect, action, filter, who_kind, who, created_at) VALUES
    ('allow', 'publish',   '#',      'role', 'admin', unixepoch()),
    ('allow', 'subscribe', '#',      'role', 'admin', unixepoch()),
    ('allow', 'subscribe', '$SYS/#', 'role', 'admin', unixepoch());
