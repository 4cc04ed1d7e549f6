//! Page: the next messages of a session, read when its client is ready for them.

use bytes::Bytes;
use futures_util::TryStreamExt;
use hashbrown::HashMap;
use sqlx::Row;
use sqlx::sqlite::SqliteConnection;

use super::entry::{self, Body, Entry, Mark};
use super::rows::{SEGMENT_MESSAGES, SessionKey, Timestamp, signed};

/// Some messages of a session.
#[derive(Debug, Default)]
pub struct Page {
    /// By rising serial.
    pub entries: Vec<Queued>,
    /// The serial to go on from; `None`: nothing is left up to the last one that was asked for.
    pub next: Option<u64>,
    /// Messages that were passed over because what is stored of them is damaged.
    pub lost: u64,
}

/// A message as it was queued.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Queued {
    pub serial: u64,
    pub expires: Option<Timestamp>,
    pub head: Bytes,
    pub body: Bytes,
}

/// A segment without its blob.
struct Place {
    id: i64,
    first: u64,
    last: u64,
    messages: u64,
    bytes: u64,
}

/// Segments looked at in one step.
const STEP: i64 = 256;

pub(super) async fn page(
    connection: &mut SqliteConnection,
    session: SessionKey,
    from: u64,
    to: u64,
    bytes: usize,
) -> Result<Page, sqlx::Error> {
    let mut page = Page::default();
    let mut budget = Budget::new(bytes);
    let mut at = from;
    while at <= to {
        let (places, mut more) = places(connection, session, at, to).await?;
        let found = places.len();
        let chosen = chosen(places, &budget);
        more |= chosen.len() < found;
        let read_to = chosen.last().map_or(at, |place| place.last);
        let blobs = blobs(connection, session, &chosen).await?;
        let (entries, next) = pick(session, &chosen, blobs, at, to, &mut budget, &mut page.lost);
        fill(connection, session, entries, &mut page).await?;
        if let Some(next) = next {
            if page.entries.is_empty() {
                // Only finished or damaged ones went in.
                budget = Budget::new(bytes);
                at = next;
                continue;
            }
            page.next = Some(next);
            return Ok(page);
        }
        if !more {
            return Ok(page);
        }
        at = read_to.saturating_add(1);
    }
    Ok(page)
}

struct Budget {
    left: u64,
    any: bool,
}

impl Budget {
    fn new(bytes: usize) -> Budget {
        Budget {
            left: bytes as u64,
            any: false,
        }
    }

    /// Whether a message of this size still goes in; the first always does.
    fn take(&mut self, bytes: u64) -> bool {
        let fits = !self.any || bytes <= self.left;
        if fits {
            self.any = true;
            self.left = self.left.saturating_sub(bytes);
        }
        fits
    }
}

/// The segments with serials in `from..=to`, ascending, from the index alone; and whether there may be more.
async fn places(
    connection: &mut SqliteConnection,
    session: SessionKey,
    from: u64,
    to: u64,
) -> Result<(Vec<Place>, bool), sqlx::Error> {
    // Segments of a session do not overlap: the one with `from` in it, if any, is the last that begins before it.
    const PLACES: &str = "SELECT id, first, last, messages, bytes FROM segments INDEXED BY segments_by_session \
        WHERE session = ?1 AND first >= ifnull((SELECT max(first) FROM segments INDEXED BY segments_by_session \
        WHERE session = ?1 AND first <= ?2), ?2) AND first <= ?3 ORDER BY first LIMIT ?4";
    let rows = sqlx::query(PLACES)
        .bind(session as i64)
        .bind(signed(from))
        .bind(signed(to))
        .bind(STEP)
        .fetch_all(connection)
        .await?;
    let more = rows.len() as i64 == STEP;
    let mut places = Vec::with_capacity(rows.len());
    for row in rows {
        let place = Place {
            id: row.try_get(0)?,
            first: row.try_get::<i64, _>(1)? as u64,
            last: row.try_get::<i64, _>(2)? as u64,
            // Whatever a damaged row says.
            messages: row.try_get::<i64, _>(3)?.clamp(0, SEGMENT_MESSAGES.into()) as u64,
            bytes: row.try_get::<i64, _>(4)? as u64,
        };
        if place.last >= from {
            places.push(place);
        }
    }
    Ok((places, more))
}

/// As many as the budget may need, one at least.
fn chosen(mut places: Vec<Place>, budget: &Budget) -> Vec<Place> {
    let mut sum = 0u64;
    let enough = places.iter().position(|place| {
        sum = sum.saturating_add(place.bytes);
        sum > budget.left
    });
    places.truncate(enough.map_or(places.len(), |last| last + 1));
    places
}

/// The blobs by the id of their segment.
async fn blobs(
    connection: &mut SqliteConnection,
    session: SessionKey,
    chosen: &[Place],
) -> Result<HashMap<i64, Vec<u8>>, sqlx::Error> {
    const BLOBS: &str = "SELECT id, entries FROM segments INDEXED BY segments_by_session \
        WHERE session = ? AND first BETWEEN ? AND ?";
    let mut blobs = HashMap::with_capacity(chosen.len());
    let (Some(first), Some(last)) = (chosen.first(), chosen.last()) else {
        return Ok(blobs);
    };
    let mut rows = sqlx::query(BLOBS)
        .bind(session as i64)
        .bind(signed(first.first))
        .bind(signed(last.first))
        .fetch(connection);
    while let Some(row) = rows.try_next().await? {
        blobs.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(blobs)
}

/// The entries that fit, and the serial of the first that does not.
fn pick(
    session: SessionKey,
    chosen: &[Place],
    blobs: HashMap<i64, Vec<u8>>,
    from: u64,
    to: u64,
    budget: &mut Budget,
    lost: &mut u64,
) -> (Vec<Entry>, Option<u64>) {
    let mut picked = Vec::new();
    for place in chosen {
        let blob = blobs.get(&place.id);
        let Some(entries) = blob.and_then(|blob| entry::read(session, place.first, blob)) else {
            let asked = place.last.min(to).saturating_sub(place.first.max(from));
            *lost += place.messages.min(asked.saturating_add(1));
            continue;
        };
        for entry in entries {
            if entry.serial < from || entry.serial > to {
                continue;
            }
            if !budget.take(entry.bytes()) {
                return (picked, Some(entry.serial));
            }
            picked.push(entry);
        }
    }
    (picked, None)
}

/// Adds the entries to the page, with their shared bodies.
async fn fill(
    connection: &mut SqliteConnection,
    session: SessionKey,
    entries: Vec<Entry>,
    page: &mut Page,
) -> Result<(), sqlx::Error> {
    let shared = |entry: &&Entry| matches!(entry.body, Body::Shared(_));
    let first = entries.iter().find(shared).map(|entry| entry.serial);
    let last = entries.iter().rfind(shared).map(|entry| entry.serial);
    let mut bodies = match (first, last) {
        (Some(first), Some(last)) => bodies(connection, session, first, last).await?,
        _ => HashMap::new(),
    };
    for entry in entries {
        let body = match entry.body {
            Body::Inline(body) => Some(body),
            Body::Shared(mark) => match bodies.remove(&entry.serial) {
                Some(body) => body.filter(|body| Mark::of(body) == mark),
                // The session uses it no more: the message is finished.
                None => continue,
            },
        };
        match body {
            Some(body) => page.entries.push(Queued {
                serial: entry.serial,
                expires: entry.expires,
                head: entry.head,
                body,
            }),
            None => page.lost += 1,
        }
    }
    Ok(())
}

/// The shared bodies that the session uses; `None`: it is not there.
async fn bodies(
    connection: &mut SqliteConnection,
    session: SessionKey,
    first: u64,
    last: u64,
) -> Result<HashMap<u64, Option<Bytes>>, sqlx::Error> {
    const BODIES: &str = "SELECT u.serial, b.body FROM body_users AS u LEFT JOIN bodies AS b ON b.id = u.body \
        WHERE u.session = ? AND u.serial BETWEEN ? AND ?";
    let mut rows = sqlx::query(BODIES)
        .bind(session as i64)
        .bind(signed(first))
        .bind(signed(last))
        .fetch(connection);
    let mut bodies = HashMap::new();
    while let Some(row) = rows.try_next().await? {
        let body: Option<Vec<u8>> = row.try_get(1)?;
        bodies.insert(row.try_get::<i64, _>(0)? as u64, body.map(Bytes::from));
    }
    Ok(bodies)
}
