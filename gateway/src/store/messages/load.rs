//! Load: everything a start needs to know, without the messages that wait.

use bytes::Bytes;
use bytestring::ByteString;
use futures_util::TryStreamExt;
use hashbrown::{HashMap, HashSet};
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use std::sync::Arc;

use super::entry;
use super::rows::{ProgressRow, RetainedRow, SessionKey, SessionRow, Timestamp, WillRow};

/// What the message store holds.
#[derive(Debug, Default)]
pub struct Loaded {
    /// By rising key.
    pub sessions: Vec<LoadedSession>,
    pub retained: Vec<(Box<str>, RetainedRow)>,
    /// When the last transaction was written (D11).
    pub last_commit: Timestamp,
    /// Greater than the key of any session there ever was.
    pub next_session: SessionKey,
    /// The store comes from a backup, and this is the first start with it (D11).
    pub restored: bool,
    /// Rows that were passed over because they are damaged.
    pub lost: u64,
}

#[derive(Debug)]
pub struct LoadedSession {
    pub key: SessionKey,
    pub row: SessionRow,
    pub progress: ProgressRow,
    pub subscriptions: Vec<(ByteString, Vec<u8>)>,
    /// Packet identifiers of QoS 2 messages between PUBLISH and PUBREL, with the reason code of their PUBREC.
    pub received: Vec<(u16, u8)>,
    pub queued: Totals,
}

/// What waits for a session on disk. It may count finished messages that lie in one segment with others.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    pub messages: u64,
    pub bytes: u64,
    /// Serials; 0 if there are none.
    pub first: u64,
    pub last: u64,
}

/// [`Loaded`], and what the store itself needs to know.
#[derive(Debug, Default)]
pub(super) struct Contents {
    pub loaded: Loaded,
    /// Rows that belong to no session.
    pub leftovers: Vec<SessionKey>,
    pub next_body: i64,
}

pub(super) async fn load(connection: &mut SqliteConnection) -> Result<Contents, sqlx::Error> {
    let mut contents = Contents::default();
    let loaded = &mut contents.loaded;
    let state = sqlx::query("SELECT last_commit, next_session, restored FROM state")
        .fetch_optional(&mut *connection)
        .await?;
    if let Some(state) = state {
        loaded.last_commit = state.try_get::<i64, _>(0)?.max(0);
        loaded.next_session = state.try_get::<i64, _>(1)?.max(1) as u64;
        loaded.restored = state.try_get(2)?;
    }
    sessions(connection, loaded).await?;
    let mut others = Others::new(loaded);
    progress(connection, loaded, &mut others).await?;
    subscriptions(connection, loaded, &mut others).await?;
    received(connection, loaded, &mut others).await?;
    queued(connection, loaded, &mut others).await?;
    loaded.next_session = loaded.next_session.max(others.next_session);
    contents.leftovers = others.leftovers.into_iter().collect();
    retained(connection, loaded).await?;
    contents.next_body = sqlx::query_scalar("SELECT ifnull(max(id), 0) + 1 FROM bodies")
        .fetch_one(connection)
        .await?;
    Ok(contents)
}

/// No gateway comes this far: such a key is damaged.
pub(super) const IMPLAUSIBLE: SessionKey = 1 << 62;

/// Finds the session of a row, and remembers the rows that have none.
struct Others {
    places: HashMap<SessionKey, usize>,
    leftovers: HashSet<SessionKey>,
    next_session: SessionKey,
}

impl Others {
    fn new(loaded: &Loaded) -> Others {
        let keys = loaded.sessions.iter().map(|session| session.key);
        let plausible = keys.clone().filter(|key| *key < IMPLAUSIBLE);
        Others {
            next_session: plausible.max().map_or(1, |key| key + 1),
            places: keys.enumerate().map(|(place, key)| (key, place)).collect(),
            leftovers: HashSet::new(),
        }
    }

    fn session<'a>(&mut self, loaded: &'a mut Loaded, key: i64) -> Option<&'a mut LoadedSession> {
        let key = key as SessionKey;
        let place = self.places.get(&key);
        if place.is_none() {
            self.leftovers.insert(key);
            if key < IMPLAUSIBLE {
                self.next_session = self.next_session.max(key + 1);
            }
        }
        loaded.sessions.get_mut(*place?)
    }
}

async fn sessions(
    connection: &mut SqliteConnection,
    loaded: &mut Loaded,
) -> Result<(), sqlx::Error> {
    const SESSIONS: &str = "SELECT id, client_id, realm, name, login, expiry, connected, since, will, will_due \
        FROM sessions ORDER BY id";
    let mut texts = Texts::default();
    let mut rows = sqlx::query(SESSIONS).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let Ok(session) = session(&row, &mut texts) else {
            loaded.lost += 1;
            continue;
        };
        loaded.sessions.push(LoadedSession {
            key: row.try_get::<i64, _>(0)? as SessionKey,
            row: session,
            progress: UNKNOWN_PROGRESS,
            subscriptions: Vec::new(),
            received: Vec::new(),
            queued: Totals::default(),
        });
    }
    Ok(())
}

/// Few realms and names belong to many sessions.
#[derive(Default)]
pub(super) struct Texts(HashSet<Arc<str>>);

impl Texts {
    fn shared(&mut self, text: &str) -> Arc<str> {
        self.0.get_or_insert_with(text, |text| text.into()).clone()
    }
}

/// A row of the table of sessions, in the order of its columns.
pub(super) fn session(row: &SqliteRow, texts: &mut Texts) -> Result<SessionRow, sqlx::Error> {
    let will: Option<Vec<u8>> = row.try_get(8)?;
    let due = row.try_get(9)?;
    Ok(SessionRow {
        client_id: row.try_get::<&str, _>(1)?.into(),
        realm: texts.shared(row.try_get(2)?),
        name: texts.shared(row.try_get(3)?),
        login: row.try_get(4)?,
        expiry: row.try_get(5)?,
        connected: row.try_get(6)?,
        since: row.try_get(7)?,
        will: will.map(|message| WillRow { message, due }),
    })
}

/// Nothing is known of how far the client has come; set right in [`queued`].
const UNKNOWN_PROGRESS: ProgressRow = ProgressRow {
    next: 0,
    sent: 0,
    state: Vec::new(),
};

async fn progress(
    connection: &mut SqliteConnection,
    loaded: &mut Loaded,
    others: &mut Others,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query("SELECT session, next, sent, state FROM progress").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let key = row.try_get(0)?;
        if let Some(session) = others.session(loaded, key) {
            session.progress = ProgressRow {
                next: row.try_get::<i64, _>(1)?.max(0) as u64,
                sent: row.try_get::<i64, _>(2)?.max(0) as u64,
                state: row.try_get(3)?,
            };
        }
    }
    Ok(())
}

async fn subscriptions(
    connection: &mut SqliteConnection,
    loaded: &mut Loaded,
    others: &mut Others,
) -> Result<(), sqlx::Error> {
    let mut rows =
        sqlx::query("SELECT session, filter, options FROM subscriptions").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let key = row.try_get(0)?;
        let Ok(filter) = row.try_get::<&str, _>(1) else {
            loaded.lost += 1;
            continue;
        };
        if let Some(session) = others.session(loaded, key) {
            session.subscriptions.push((filter.into(), row.try_get(2)?));
        }
    }
    Ok(())
}

async fn received(
    connection: &mut SqliteConnection,
    loaded: &mut Loaded,
    others: &mut Others,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query("SELECT session, packet_id, reason FROM received").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let key = row.try_get(0)?;
        let (Ok(packet_id), Ok(reason)) = (row.try_get(1), row.try_get(2)) else {
            loaded.lost += 1;
            continue;
        };
        if let Some(session) = others.session(loaded, key) {
            session.received.push((packet_id, reason));
        }
    }
    Ok(())
}

async fn queued(
    connection: &mut SqliteConnection,
    loaded: &mut Loaded,
    others: &mut Others,
) -> Result<(), sqlx::Error> {
    const QUEUED: &str = "SELECT session, sum(messages), sum(bytes), min(first), max(last) \
        FROM segments INDEXED BY segments_by_session GROUP BY session";
    let mut rows = sqlx::query(QUEUED).fetch(connection);
    while let Some(row) = rows.try_next().await? {
        if let Some(session) = others.session(loaded, row.try_get(0)?) {
            session.queued = Totals {
                messages: row.try_get::<i64, _>(1)?.max(0) as u64,
                bytes: row.try_get::<i64, _>(2)?.max(0) as u64,
                first: row.try_get::<i64, _>(3)?.max(0) as u64,
                last: row.try_get::<i64, _>(4)?.max(0) as u64,
            };
        }
    }
    for session in &mut loaded.sessions {
        safe_progress(session);
    }
    Ok(())
}

/// A session goes on behind what waits for it; if its progress is not known, all of that may have been sent.
fn safe_progress(session: &mut LoadedSession) {
    let progress = &mut session.progress;
    if progress.next == 0 {
        progress.sent = session.queued.last;
    }
    progress.next = progress.next.max(session.queued.last.saturating_add(1));
}

async fn retained(
    connection: &mut SqliteConnection,
    loaded: &mut Loaded,
) -> Result<(), sqlx::Error> {
    let mut rows = sqlx::query("SELECT topic, expires, message FROM retained").fetch(connection);
    while let Some(row) = rows.try_next().await? {
        let read = || {
            let topic: &str = row.try_get(0).ok()?;
            let message = entry::open_retained(topic, row.try_get(2).ok()?)?;
            let retained = RetainedRow {
                expires: row.try_get(1).ok()?,
                message: Bytes::copy_from_slice(message),
            };
            Some((topic.into(), retained))
        };
        match read() {
            Some(retained) => loaded.retained.push(retained),
            None => loaded.lost += 1,
        }
    }
    Ok(())
}
