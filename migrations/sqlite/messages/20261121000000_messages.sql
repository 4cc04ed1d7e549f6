-- What must survive of sessions and messages. Serials, heads, bodies and states are explained where they are made.

CREATE TABLE sessions (
    id        INTEGER PRIMARY KEY,
    client_id TEXT    NOT NULL,
    realm     TEXT    NOT NULL,
    name      TEXT    NOT NULL,
    login     BLOB    NOT NULL,
    expiry    INTEGER NOT NULL,            -- Session Expiry Interval, seconds
    connected INTEGER NOT NULL CHECK (connected IN (0, 1)),
    since     INTEGER NOT NULL,            -- seconds since 1970: connected, or not, since then
    will      BLOB,
    will_due  INTEGER                      -- seconds since 1970; NULL while the client is connected
) STRICT;

-- Apart from sessions: it changes with nearly every transaction.
CREATE TABLE progress (
    session INTEGER PRIMARY KEY,
    next    INTEGER NOT NULL,
    sent    INTEGER NOT NULL,
    state   BLOB    NOT NULL
) STRICT;

CREATE TABLE subscriptions (
    session INTEGER NOT NULL,
    filter  TEXT    NOT NULL,
    options BLOB    NOT NULL,
    PRIMARY KEY (session, filter)
) STRICT, WITHOUT ROWID;

CREATE TABLE received (
    session   INTEGER NOT NULL,
    packet_id INTEGER NOT NULL,
    reason    INTEGER NOT NULL,
    PRIMARY KEY (session, packet_id)
) STRICT, WITHOUT ROWID;

CREATE TABLE retained (
    topic   TEXT    PRIMARY KEY NOT NULL,
    expires INTEGER,                       -- seconds since 1970
    message BLOB    NOT NULL
) STRICT;

-- Messages that wait for one session, many to a row. The rows of a session do not overlap.
CREATE TABLE segments (
    id       INTEGER PRIMARY KEY,
    session  INTEGER NOT NULL,
    first    INTEGER NOT NULL,             -- serials
    last     INTEGER NOT NULL,
    messages INTEGER NOT NULL,
    bytes    INTEGER NOT NULL,             -- with the large bodies that are shared
    expires  INTEGER,                      -- when the first of its messages expires
    entries  BLOB    NOT NULL
) STRICT;

-- Covers what a start asks for, so that it reads no message.
CREATE UNIQUE INDEX segments_by_session ON segments (session, first, last, messages, bytes);
CREATE INDEX segments_by_expiry ON segments (expires) WHERE expires IS NOT NULL;

-- Large bodies that several sessions wait for.
CREATE TABLE bodies (
    id   INTEGER PRIMARY KEY,
    body BLOB NOT NULL
) STRICT;

CREATE TABLE body_users (
    session INTEGER NOT NULL,
    serial  INTEGER NOT NULL,
    body    INTEGER NOT NULL,
    PRIMARY KEY (session, serial)
) STRICT, WITHOUT ROWID;
CREATE INDEX body_users_by_body ON body_users (body);

CREATE TRIGGER body_goes_with_its_last_user AFTER DELETE ON body_users BEGIN
    DELETE FROM bodies WHERE id = OLD.body AND NOT EXISTS (SELECT 1 FROM body_users WHERE body = OLD.body);
END;

CREATE TABLE state (
    one          INTEGER PRIMARY KEY CHECK (one = 1),
    last_commit  INTEGER NOT NULL,         -- seconds since 1970: the clock never goes back behind it (D11)
    next_session INTEGER NOT NULL,         -- ids of sessions are never used twice
    restored     INTEGER NOT NULL CHECK (restored IN (0, 1))
) STRICT;
INSERT INTO state VALUES (1, 0, 1, 0);
