-- What was refused, who came in, what was changed. The oldest rows of each class make room for new ones.

CREATE TABLE entries (
    id        INTEGER PRIMARY KEY,
    class     INTEGER NOT NULL,            -- logins, refusals, changes: each has rows of its own
    kind      TEXT    NOT NULL,
    at        INTEGER NOT NULL,            -- seconds since 1970: the first time
    last      INTEGER NOT NULL,            -- the last time
    count     INTEGER NOT NULL,
    principal TEXT    NOT NULL,
    address   TEXT    NOT NULL,
    client    TEXT    NOT NULL,
    subject   TEXT    NOT NULL,
    reason    TEXT    NOT NULL
) STRICT;

CREATE INDEX entries_by_class ON entries (class, id);
