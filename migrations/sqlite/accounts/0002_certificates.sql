-- What the private CA has issued, and what of it is revoked.

CREATE TABLE certificates (
    id          INTEGER PRIMARY KEY AUTOINCREMENT,
    issuer      TEXT    NOT NULL,        -- SHA-256 of the CA's public key, hexadecimal: a CA made anew is another one
    serial      TEXT    NOT NULL,        -- hexadecimal, lower case
    kind        TEXT    NOT NULL CHECK (kind IN ('server', 'device')),
    name        TEXT    NOT NULL,
    fingerprint BLOB    NOT NULL CHECK (length(fingerprint) = 32),   -- SHA-256 of the certificate
    not_after   INTEGER NOT NULL,        -- seconds since 1970
    issued_at   INTEGER NOT NULL,
    revoked_at  INTEGER,
    reason      INTEGER CHECK (reason BETWEEN 0 AND 10),             -- RFC 5280, 5.3.1
    UNIQUE (issuer, serial),
    CHECK ((revoked_at IS NULL) = (reason IS NULL))
) STRICT;

CREATE INDEX certificates_by_name ON certificates (issuer, name);

-- The number of the last revocation list, and whether the list on disk lacks something that is revoked here.
ALTER TABLE state ADD COLUMN crl_number INTEGER NOT NULL DEFAULT 0;
ALTER TABLE state ADD COLUMN crl_lacks INTEGER NOT NULL DEFAULT 0 CHECK (crl_lacks IN (0, 1));
