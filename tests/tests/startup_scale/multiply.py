"""Makes many sessions and retained messages of the few that a gateway wrote: the database then holds what years of
devices would have left, in the gateway's own form.

multiply.py MESSAGES_DB SESSIONS RETAINED

The session of client "template" is copied to "copy-000000", "copy-000001" ... with its subscriptions and its queue, and
the retained message "r/000000" to "r/000001" ... Names have the same length, so that bodies need no other change.
"""

import sqlite3
import struct
import sys
import zlib


def main():
    path, sessions, retained = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA synchronous = OFF")
    db.execute("PRAGMA cache_size = -200000")
    db.execute("BEGIN")
    copy_sessions(db, sessions)
    copy_retained(db, retained)
    db.execute("COMMIT")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def copy_sessions(db, count):
    (template,) = db.execute("SELECT id FROM sessions WHERE client_id = 'template'").fetchone()
    (first,) = db.execute("SELECT next_session FROM state").fetchone()
    keys = range(first, first + count)
    for table, key in [("sessions", "id"), ("progress", "session"), ("subscriptions", "session"), ("segments", "session")]:
        names = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
        if table == "segments":
            names.remove("id")
        rows = [dict(zip(names, row)) for row in db.execute(f"SELECT {', '.join(names)} FROM {table} WHERE {key} = ?", [template])]
        if not rows:
            sys.exit(f"the template has no {table}")
        for row in rows:
            if table == "segments":
                unseal(row["entries"], segment_key(template, row["first"]))
        insert = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({', '.join('?' * len(names))})"
        db.executemany(insert, (copied(table, row, key, new, new - first, names) for new in keys for row in rows))
    db.execute("UPDATE state SET next_session = ?", [first + count])


def copied(table, row, key, new, number, names):
    row = dict(row)
    row[key] = new
    if table == "sessions":
        row["client_id"] = f"copy-{number:06}"
    if table == "segments":
        entries = row["entries"][4:]
        row["entries"] = seal(entries, segment_key(new, row["first"]))
    return [row[name] for name in names]


def copy_retained(db, count):
    expires, blob = db.execute("SELECT expires, message FROM retained WHERE topic = 'r/000000'").fetchone()
    message = unseal(blob, retained_key("r/000000"))
    rows = []
    for n in range(1, count):
        topic = f"r/{n:06}"
        copy = message.replace(b"r/000000", topic.encode())
        rows.append([topic, expires, seal(copy, retained_key(topic))])
    db.executemany("INSERT INTO retained (topic, expires, message) VALUES (?, ?, ?)", rows)


def segment_key(session, first):
    return struct.pack("<QQ", session, first)


def retained_key(topic):
    return topic.encode() + b"\xff"


def seal(content, key):
    return struct.pack("<I", zlib.crc32(content, zlib.crc32(key))) + content


def unseal(blob, key):
    content = blob[4:]
    if seal(content, key) != blob:
        sys.exit("the checksum of a blob is another one: has the form of the message store changed?")
    return content


if __name__ == "__main__":
    main()
