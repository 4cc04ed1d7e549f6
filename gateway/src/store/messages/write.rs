//! Write: rows as one transaction.

use super::entry;
use super::rows::{Rows, SessionKey, Timestamp, signed};
use super::script::{Form, Script};
use super::stock::Stock;

/// What the writing connection knows besides the rows.
pub(super) struct Context<'a> {
    pub now: Timestamp,
    /// What the row of the state says already: last commit and next session. A transaction that changes neither saves
    /// itself a page.
    pub state: (Timestamp, SessionKey),
    pub stock: &'a Stock,
    /// The id of the first shared body.
    pub next_body: i64,
    /// The same rows may be there already: the transaction that had them failed, and nobody knows how far it came.
    pub again: bool,
}

pub(super) const BEGIN: &str = "BEGIN IMMEDIATE";
pub(super) const COMMIT: &str = "COMMIT";

/// A whole transaction.
pub(super) fn script(rows: &Rows, context: &Context<'_>) -> Script {
    let mut script = Script::default();
    script.say(BEGIN, |_| {});
    if context.again {
        forget_former(&mut script, rows);
    }
    sessions(&mut script, rows);
    subscriptions(&mut script, rows);
    received(&mut script, rows);
    retained(&mut script, rows);
    messages(&mut script, rows, context.next_body);
    done(&mut script, rows, context.stock);
    let (last_commit, next_session) = state(rows, context);
    if (last_commit, next_session) != context.state {
        script.say(
            "UPDATE state SET last_commit = max(last_commit, ?), next_session = max(next_session, ?)",
            |row| {
                row.add(last_commit).add(next_session as i64);
            },
        );
    }
    if rows.backup_taken_up {
        script.say("UPDATE state SET restored = 0", |_| {});
    }
    script.say(COMMIT, |_| {});
    script
}

/// What the row of the state says when the transaction is written.
pub(super) fn state(rows: &Rows, context: &Context<'_>) -> (Timestamp, SessionKey) {
    let next_session = rows.sessions.keys().max().map_or(0, |key| key + 1);
    let (last_commit, next) = context.state;
    (last_commit.max(context.now), next.max(next_session))
}

/// Segments that may have grown since, and bodies, which get new ids.
fn forget_former(script: &mut Script, rows: &Rows) {
    const SEGMENTS: Form = Form {
        before: "DELETE FROM segments WHERE id IN (SELECT s.id FROM ",
        after: " AS v CROSS JOIN segments AS s INDEXED BY segments_by_session \
                ON s.session = v.column1 AND s.first BETWEEN v.column2 AND v.column3)",
        columns: 3,
    };
    const USERS: Form = Form {
        before: "DELETE FROM body_users WHERE (session, serial) IN (SELECT u.session, u.serial FROM ",
        after: " AS v CROSS JOIN body_users AS u ON u.session = v.column1 AND u.serial = v.column2)",
        columns: 2,
    };
    script.rows(&SEGMENTS, &rows.segments, |row, segment| {
        row.add(segment.session as i64)
            .add(segment.first as i64)
            .add(segment.last as i64);
    });
    let users = rows.bodies.iter().flat_map(|body| &body.users);
    script.rows(&USERS, users, |row, (session, serial)| {
        row.add(*session as i64).add(*serial as i64);
    });
}

fn sessions(script: &mut Script, rows: &Rows) {
    const SESSIONS: Form = Form {
        before: "INSERT OR REPLACE INTO sessions SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL",
        columns: 10,
    };
    const PROGRESS: Form = Form {
        before: "INSERT OR REPLACE INTO progress SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL",
        columns: 4,
    };
    for form in &ENDED {
        script.rows(form, &rows.ended, |row, session| {
            row.add(*session as i64);
        });
    }
    let live = rows.sessions.iter().filter(|(key, _)| lives(rows, **key));
    script.rows(&SESSIONS, live, |row, (key, session)| {
        let will = session.will.as_ref();
        row.add(*key as i64)
            .add(&session.client_id[..])
            .add(&session.realm[..])
            .add(&session.name[..])
            .add(&session.login[..])
            .add(session.expiry)
            .add(session.connected)
            .add(session.since)
            .add(will.map(|will| &will.message[..]))
            .add(will.and_then(|will| will.due));
    });
    let live = rows.progress.iter().filter(|(key, _)| lives(rows, **key));
    script.rows(&PROGRESS, live, |row, (key, progress)| {
        row.add(*key as i64)
            .add(progress.next as i64)
            .add(progress.sent as i64)
            .add(&progress.state[..]);
    });
}

/// Messages of an ended session are left to the sweep: there may be any number.
const ENDED: [Form; 4] = [
    Form {
        before: "DELETE FROM sessions WHERE id IN ",
        after: "",
        columns: 1,
    },
    Form {
        before: "DELETE FROM progress WHERE session IN ",
        after: "",
        columns: 1,
    },
    Form {
        before: "DELETE FROM subscriptions WHERE session IN ",
        after: "",
        columns: 1,
    },
    Form {
        before: "DELETE FROM received WHERE session IN ",
        after: "",
        columns: 1,
    },
];

fn subscriptions(script: &mut Script, rows: &Rows) {
    const REMOVE: Form = Form {
        before: "DELETE FROM subscriptions WHERE (session, filter) IN ",
        after: "",
        columns: 2,
    };
    const PUT: Form = Form {
        before: "INSERT OR REPLACE INTO subscriptions SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL",
        columns: 3,
    };
    let live = || {
        let all = rows.subscriptions.iter();
        all.filter(|((session, _), _)| lives(rows, *session))
    };
    let removed = live().filter(|(_, options)| options.is_none());
    script.rows(&REMOVE, removed, |row, ((session, filter), _)| {
        row.add(*session as i64).add(&filter[..]);
    });
    let put = live().filter_map(|(key, options)| Some((key, options.as_ref()?)));
    script.rows(&PUT, put, |row, ((session, filter), options)| {
        row.add(*session as i64).add(&filter[..]).add(&options[..]);
    });
}

fn received(script: &mut Script, rows: &Rows) {
    const REMOVE: Form = Form {
        before: "DELETE FROM received WHERE (session, packet_id) IN ",
        after: "",
        columns: 2,
    };
    const PUT: Form = Form {
        before: "INSERT OR REPLACE INTO received SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL",
        columns: 3,
    };
    let live = || {
        let all = rows.received.iter();
        all.filter(|((session, _), _)| lives(rows, *session))
    };
    let removed = live().filter(|(_, reason)| reason.is_none());
    script.rows(&REMOVE, removed, |row, ((session, packet_id), _)| {
        row.add(*session as i64).add(*packet_id);
    });
    let put = live().filter_map(|(key, reason)| Some((key, (*reason)?)));
    script.rows(&PUT, put, |row, ((session, packet_id), reason)| {
        row.add(*session as i64).add(*packet_id).add(reason);
    });
}

fn retained(script: &mut Script, rows: &Rows) {
    const REMOVE: Form = Form {
        before: "DELETE FROM retained WHERE topic IN ",
        after: "",
        columns: 1,
    };
    const PUT: Form = Form {
        before: "INSERT INTO retained (topic, expires, message) SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL ON CONFLICT (topic) \
                DO UPDATE SET expires = excluded.expires, message = excluded.message",
        columns: 3,
    };
    let removed = rows.retained.iter().filter(|(_, row)| row.is_none());
    script.rows(&REMOVE, removed, |row, (topic, _)| {
        row.add(&topic[..]);
    });
    let put = rows.retained.iter();
    let put = put.filter_map(|(topic, row)| Some((topic, row.as_ref()?)));
    script.rows(&PUT, put, |row, (topic, retained)| {
        row.add(&topic[..])
            .add(retained.expires)
            .add(entry::seal_retained(topic, &retained.message));
    });
}

fn messages(script: &mut Script, rows: &Rows, next_body: i64) {
    const SEGMENTS: Form = Form {
        before: "INSERT OR REPLACE INTO segments (session, first, last, messages, bytes, expires, entries) \
                 SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL",
        columns: 7,
    };
    const BODIES: Form = Form {
        before: "INSERT INTO bodies SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL",
        columns: 2,
    };
    const USERS: Form = Form {
        before: "INSERT OR REPLACE INTO body_users SELECT * FROM ",
        after: " WHERE column1 IS NOT NULL",
        columns: 3,
    };
    let live = rows.segments.iter().filter(|s| lives(rows, s.session));
    script.rows(&SEGMENTS, live, |row, segment| {
        let bytes = segment.entries.len() as u64 + segment.shared;
        row.add(segment.session as i64)
            .add(segment.first as i64)
            .add(segment.last as i64)
            .add(segment.messages)
            .add(bytes as i64)
            .add(segment.expires)
            .add(entry::seal(
                segment.session,
                segment.first,
                &segment.entries,
            ));
    });
    let bodies = || {
        let all = (next_body..).zip(&rows.bodies);
        all.filter(|(_, body)| body.users.iter().any(|user| lives(rows, user.0)))
    };
    script.rows(&BODIES, bodies(), |row, (id, body)| {
        row.add(id).add(&body.body[..]);
    });
    let users = bodies().flat_map(|(id, body)| body.users.iter().map(move |user| (id, user)));
    let users = users.filter(|(_, user)| lives(rows, user.0));
    script.rows(&USERS, users, |row, (id, (session, serial))| {
        row.add(*session as i64).add(*serial as i64).add(id);
    });
}

fn done(script: &mut Script, rows: &Rows, stock: &Stock) {
    const SEGMENTS: Form = Form {
        before: "DELETE FROM segments WHERE id IN (SELECT s.id FROM ",
        after: " AS v CROSS JOIN segments AS s INDEXED BY segments_by_session \
                ON s.session = v.column1 AND s.first BETWEEN v.column2 AND v.column3 AND s.last <= v.column3)",
        columns: 3,
    };
    const USERS: Form = Form {
        before: "DELETE FROM body_users WHERE (session, serial) IN (SELECT u.session, u.serial FROM ",
        after: " AS v CROSS JOIN body_users AS u \
                ON u.session = v.column1 AND u.serial BETWEEN v.column2 AND v.column3)",
        columns: 3,
    };
    for form in [&SEGMENTS, &USERS] {
        script.rows(
            form,
            done_ranges(rows, stock),
            |row, (session, first, last)| {
                row.add(session as i64).add(signed(first)).add(signed(last));
            },
        );
    }
}

/// The finished ranges that concern anything on disk.
fn done_ranges(rows: &Rows, stock: &Stock) -> impl Iterator<Item = (SessionKey, u64, u64)> {
    let all = rows.done.iter().flat_map(|(session, ranges)| {
        let ranges = ranges.iter();
        ranges.map(move |(first, last)| (*session, *first, *last))
    });
    all.filter(|(session, first, last)| {
        lives(rows, *session) && stock.overlaps(*session, *first, *last)
    })
}

fn lives(rows: &Rows, session: SessionKey) -> bool {
    !rows.ended.contains(&session)
}
