//! May this client take up where it left off? Ticket keys that rotate, and the sessions of clients
//! without tickets. Both belong to one listener and are never shared with another (rule C1).

use std::collections::VecDeque;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use rustls::TicketRotator;
use rustls::crypto::aws_lc_rs::Ticketer;
use rustls::server::{ProducesTickets, ServerConfig, StoresServerSessions};

use super::TlsError;
use crate::metrics::Metrics;

/// How one listener's sessions are resumed.
pub(super) struct Resumption {
    ticketer: Option<Arc<dyn ProducesTickets>>,
    cache: Option<Arc<SessionCache>>,
}

impl Resumption {
    /// Sessions may be resumed for `lifetime`, of which whole seconds count; zero is no resumption.
    /// A ticket is honoured for at least half of it, since keys change after that time. `cached`
    /// sessions are kept for clients without tickets, 0 for none.
    ///
    /// # Errors
    /// [`TlsError::Setup`] if the random number generator fails.
    pub(super) fn new(
        lifetime: Duration,
        cached: usize,
        metrics: &Arc<Metrics>,
    ) -> Result<Self, TlsError> {
        let seconds = u32::try_from(lifetime.as_secs()).unwrap_or(u32::MAX);
        if seconds == 0 {
            return Ok(Self {
                ticketer: None,
                cache: None,
            });
        }
        let ticketer = TicketRotator::new((seconds / 2).max(1), || {
            let key = Ticketer::new().map_err(|_| rustls::crypto::GetRandomFailed)?;
            Ok(Box::new(TicketKey(key)))
        })?;
        let cache =
            (cached > 0).then(|| Arc::new(SessionCache::new(cached, lifetime, metrics.clone())));
        Ok(Self {
            ticketer: Some(Arc::new(ticketer)),
            cache,
        })
    }

    /// Makes `config` resume sessions this way. Configurations of one listener share what they
    /// resume.
    pub(super) fn apply(&self, config: &mut ServerConfig) {
        // A device holds one connection and gets a new ticket on each.
        config.send_tls13_tickets = usize::from(self.ticketer.is_some());
        if let Some(ticketer) = &self.ticketer {
            config.ticketer = Arc::clone(ticketer);
        }
        config.session_storage = match &self.cache {
            Some(cache) => Arc::clone(cache) as _,
            None => Arc::new(rustls::server::NoServerSessionStorage {}),
        };
    }
}

/// A key of rustls, which rotates by itself after six hours, in a rotation of ours, which is at
/// least as fast.
#[derive(Debug)]
struct TicketKey(Arc<dyn ProducesTickets>);

impl ProducesTickets for TicketKey {
    fn enabled(&self) -> bool {
        self.0.enabled()
    }

    fn lifetime(&self) -> u32 {
        self.0.lifetime()
    }

    fn encrypt(&self, plain: &[u8]) -> Option<Vec<u8>> {
        self.0.encrypt(plain)
    }

    fn decrypt(&self, cipher: &[u8]) -> Option<Vec<u8>> {
        self.0.decrypt(cipher)
    }
}

/// Sessions by id (RFC 5246, 7.4.1.2): a bounded number, each for a bounded time, the oldest goes
/// first.
struct SessionCache {
    most: usize,
    lifetime: Duration,
    sessions: Mutex<Sessions>,
    metrics: Arc<Metrics>,
}

#[derive(Default)]
struct Sessions {
    by_id: HashMap<Box<[u8]>, Box<[u8]>>,
    /// Every id of `by_id`, the oldest first, and since when it is there.
    oldest: VecDeque<(Instant, Box<[u8]>)>,
}

/// A session with the certificate chain of a client may be large; one above this is not kept.
const LARGEST_SESSION: usize = 8 * 1024;

impl SessionCache {
    fn new(most: usize, lifetime: Duration, metrics: Arc<Metrics>) -> Self {
        Self {
            most,
            lifetime,
            sessions: Mutex::default(),
            metrics,
        }
    }

    fn put_at(&self, now: Instant, id: Vec<u8>, session: Vec<u8>) -> bool {
        if session.len() > LARGEST_SESSION {
            return false;
        }
        let mut sessions = self.sessions.lock();
        self.forget_expired(&mut sessions, now);
        let id = id.into_boxed_slice();
        if sessions
            .by_id
            .insert(id.clone(), session.into_boxed_slice())
            .is_none()
        {
            sessions.oldest.push_back((now, id));
            self.metrics.tls_sessions.add(1);
        }
        while sessions.oldest.len() > self.most {
            self.forget_oldest(&mut sessions);
            self.metrics.tls_sessions_displaced.add(1);
        }
        true
    }

    fn get_at(&self, now: Instant, id: &[u8]) -> Option<Vec<u8>> {
        let mut sessions = self.sessions.lock();
        self.forget_expired(&mut sessions, now);
        sessions.by_id.get(id).map(|session| session.to_vec())
    }

    fn forget_expired(&self, sessions: &mut Sessions, now: Instant) {
        while let Some((since, _)) = sessions.oldest.front()
            && now.duration_since(*since) > self.lifetime
        {
            self.forget_oldest(sessions);
        }
    }

    fn forget_oldest(&self, sessions: &mut Sessions) {
        if let Some((_, id)) = sessions.oldest.pop_front() {
            sessions.by_id.remove(&id);
            self.metrics.tls_sessions.sub(1);
        }
    }
}

impl StoresServerSessions for SessionCache {
    fn put(&self, id: Vec<u8>, session: Vec<u8>) -> bool {
        self.put_at(Instant::now(), id, session)
    }

    fn get(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.get_at(Instant::now(), id)
    }

    /// Only TLS 1.3 without tickets takes sessions out, and here it has tickets.
    fn take(&self, id: &[u8]) -> Option<Vec<u8>> {
        self.get(id)
    }

    fn can_cache(&self) -> bool {
        true
    }
}

impl fmt::Debug for SessionCache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SessionCache")
            .field("most", &self.most)
            .finish_non_exhaustive()
    }
}

impl Drop for SessionCache {
    fn drop(&mut self) {
        let held = self.sessions.get_mut().oldest.len();
        self.metrics.tls_sessions.sub(held as u64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3_600);

    fn cache(most: usize) -> SessionCache {
        SessionCache::new(most, HOUR, Arc::default())
    }

    #[test]
    fn the_oldest_session_makes_room_for_the_newest_and_is_counted() {
        let (cache, now) = (cache(2), Instant::now());
        for id in 1..=3 {
            assert!(cache.put_at(now, vec![id], vec![id; 9]));
        }
        assert_eq!(cache.get_at(now, &[1]), None);
        assert_eq!(cache.get_at(now, &[2]), Some(vec![2; 9]));
        assert_eq!(cache.get_at(now, &[3]), Some(vec![3; 9]));
        let metrics = &cache.metrics;
        assert_eq!(
            (
                metrics.tls_sessions.get(),
                metrics.tls_sessions_displaced.get()
            ),
            (2, 1)
        );
    }

    #[test]
    fn a_session_is_forgotten_when_its_time_is_over() {
        let (cache, now) = (cache(8), Instant::now());
        cache.put_at(now, vec![1], vec![1]);
        cache.put_at(now + HOUR / 2, vec![2], vec![2]);
        assert!(cache.get_at(now + HOUR, &[1]).is_some());
        let later = now + HOUR + Duration::from_millis(1);
        assert_eq!(cache.get_at(later, &[1]), None);
        assert!(cache.get_at(later, &[2]).is_some());
        assert_eq!(
            cache.sessions.lock().by_id.len(),
            1,
            "nothing of it is left"
        );
        assert_eq!(cache.metrics.tls_sessions.get(), 1);
    }

    #[test]
    fn a_session_stored_again_is_one_session() {
        let (cache, now) = (cache(8), Instant::now());
        for value in [1, 2] {
            cache.put_at(now, vec![7], vec![value]);
        }
        assert_eq!(cache.get_at(now, &[7]), Some(vec![2]));
        assert_eq!(cache.sessions.lock().oldest.len(), 1);
        let metrics = cache.metrics.clone();
        drop(cache);
        assert_eq!(metrics.tls_sessions.get(), 0);
    }

    #[test]
    fn a_session_that_is_too_large_is_not_kept() {
        let (cache, now) = (cache(8), Instant::now());
        assert!(!cache.put_at(now, vec![1], vec![0; LARGEST_SESSION + 1]));
        assert_eq!(cache.get_at(now, &[1]), None);
    }

    #[test]
    fn tickets_say_the_lifetime_that_was_asked_for() {
        let resumption = Resumption::new(HOUR, 0, &Arc::default()).unwrap();
        assert_eq!(resumption.ticketer.unwrap().lifetime(), 3_600);
        assert!(resumption.cache.is_none());
        let none = Resumption::new(Duration::ZERO, 9, &Arc::default()).unwrap();
        assert!(none.ticketer.is_none() && none.cache.is_none());
    }
}
