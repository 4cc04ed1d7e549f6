-- Rules may be for an OAuth2 scope. A CHECK cannot be changed in place: the table is made anew. What AUTOINCREMENT
-- remembers comes along, so that an id still never comes back as another rule.

CREATE TABLE rules_with_scopes (
    id         INTEGER PRIMARY KEY AUTOINCREMENT,
    effect     TEXT    NOT NULL CHECK (effect IN ('allow', 'deny')),
    action     TEXT    NOT NULL CHECK (action IN ('publish', 'subscribe')),
    filter     TEXT    NOT NULL CHECK (length(filter) > 0),
    who_kind   TEXT    NOT NULL CHECK (who_kind IN ('user', 'role', 'scope', 'everyone')),
    realm      TEXT    NOT NULL DEFAULT '',
    who        TEXT    NOT NULL DEFAULT '',
    created_at INTEGER NOT NULL,
    UNIQUE (effect, action, filter, who_kind, realm, who),
    CHECK ((who_kind = 'user') = (realm <> '') AND (who_kind = 'everyone') = (who = ''))
) STRICT;

INSERT INTO rules_with_scopes (id, effect, action, filter, who_kind, realm, who, created_at)
    SELECT id, effect, action, filter, who_kind, realm, who, created_at FROM rules;

DELETE FROM sqlite_sequence WHERE name = 'rules_with_scopes';
INSERT INTO sqlite_sequence (name, seq) SELECT 'rules_with_scopes', seq FROM sqlite_sequence WHERE name = 'rules';

DROP TABLE rules;
ALTER TABLE rules_with_scopes RENAME TO rules;
