//! May this address come in, and what follows from what it did? The bans, the rates and the log lines of strangers in
//! one place, with their metrics. What a connection may cost is `budget`'s and `handshakes`'s.

use std::{
    fmt::Display,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::{Duration, Instant},
};

use arc_swap::ArcSwap;
use broker_config::{Config, IpNet, Limits};
use parking_lot::Mutex;
use tokio::sync::watch;

use super::{
    bans::{Ban, Bans, Consequence, Login, shown},
    bucket::{Bucket, Buckets, Rate},
    lag::Verdict,
    prefix::Prefix,
    recent::Recent,
};
use crate::{
    audit::{AuditLog, Kind, Note},
    metrics::Metrics,
};

/// The door of a gateway: everything that is decided by address.
pub struct Door {
    config: Arc<ArcSwap<Config>>,
    metrics: Arc<Metrics>,
    bans: Bans,
    arrivals: Mutex<Buckets<Prefix>>,
    complaints: Mutex<Complaints>,
    verdict: watch::Receiver<Verdict>,
    audit: Arc<AuditLog>,
}

/// Why an address does not get in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Turned {
    #[error("the event loop lags behind")]
    Overloaded,
    #[error("the address is banned")]
    Banned,
    #[error("the address connects too often")]
    TooOften,
}

/// Log lines about refused strangers: from one address, and from all together.
const LINES_PER_ADDRESS: Rate = Rate {
    per_second: 1.0 / 60.0,
    burst: 5,
};
const LINES: Rate = Rate {
    per_second: 5.0,
    burst: 100,
};

#[derive(Default)]
struct Complaints {
    all: Bucket,
    /// What failures led to has lines of its own: those about the failures themselves are used up by then.
    consequences: Bucket,
    by_address: Recent<Prefix, Complaint>,
}

#[derive(Default)]
struct Complaint {
    lines: Bucket,
    /// Lines that were left out since the last one.
    left_out: u64,
}

impl Door {
    pub fn new(
        config: Arc<ArcSwap<Config>>,
        metrics: Arc<Metrics>,
        verdict: watch::Receiver<Verdict>,
    ) -> Door {
        Door {
            config,
            metrics,
            bans: Bans::default(),
            arrivals: Mutex::default(),
            complaints: Mutex::default(),
            verdict,
            audit: AuditLog::none(),
        }
    }

    /// The same door, and where it notes what follows from failures.
    pub fn with_audit(self, audit: Arc<AuditLog>) -> Door {
        Door { audit, ..self }
    }

    /// Whether the gateway can take new connections at all; for whoever accepts them.
    pub fn verdict(&self) -> watch::Receiver<Verdict> {
        self.verdict.clone()
    }

    /// Whether a connection from this address may come in: the first question about it, behind a proxy as soon as the
    /// address is known (N1).
    pub fn admit(&self, address: IpAddr) -> Result<(), Turned> {
        let config = self.config.load();
        let (limits, rules, now) = (&config.limits, &config.bans, Instant::now());
        if self.bans.is_banned(address, rules, now) {
            self.metrics.connections_banned.add(1);
            return Err(Turned::Banned);
        }
        if let Some(rate) = arrival_rate(limits) {
            let mut arrivals = self.arrivals.lock();
            if !arrivals.take(address.into(), rate, now, rules.remembered) {
                self.metrics.connections_too_often.add(1);
                return Err(Turned::TooOften);
            }
        }
        Ok(())
    }

    /// A connection turned out to be a validation of a certificate authority: it counts against no limit (N1).
    pub fn was_validation(&self, address: IpAddr) {
        let config = self.config.load();
        if let Some(rate) = arrival_rate(&config.limits) {
            let mut arrivals = self.arrivals.lock();
            arrivals.put_back(address.into(), rate, config.bans.remembered);
        }
    }

    /// A connection is closed because of the lag.
    pub fn shed(&self) -> Turned {
        self.metrics.connections_shed.add(1);
        Turned::Overloaded
    }

    /// Whether the credentials of this name may be looked at now; to be asked once for each CONNECT.
    pub fn login(&self, address: IpAddr, name: &str) -> Login {
        let login = self
            .bans
            .login(address, name, &self.config.load().bans, Instant::now());
        match login {
            Login::Now => {}
            Login::After(_) => self.metrics.logins_throttled.add(1),
            Login::Refused | Login::Full => self.metrics.logins_barred.add(1),
        }
        login
    }

    /// Whether the address was banned or the name refused there since [`Self::login`] was asked: hundreds may ask at
    /// once, and only a few of them may learn whether they guessed right.
    pub fn bars(&self, address: IpAddr, name: &str) -> bool {
        let config = self.config.load();
        let bars = self
            .bans
            .is_barred(address, name, &config.bans, Instant::now());
        if bars {
            self.metrics.logins_barred.add(1);
        }
        bars
    }

    /// Whether a client that is connected may not prove anew who it is as `name`: what others do at its address, and bans of that
    /// address, are for new connections.
    pub fn refuses(&self, address: IpAddr, name: &str) -> bool {
        let config = self.config.load();
        let refuses = self
            .bans
            .is_refused(address, name, &config.bans, Instant::now());
        if refuses {
            self.metrics.logins_barred.add(1);
        }
        refuses
    }

    /// A TLS handshake or a first packet failed; not to be called for who left without a word, nor for `acme-tls/1`.
    pub fn failed(&self, address: IpAddr) {
        self.count(address, None);
    }

    /// A login of `name` failed for its credentials.
    pub fn login_failed(&self, address: IpAddr, name: &str) {
        self.count(address, Some(name));
    }

    pub fn logged_in(&self, address: IpAddr, name: &str) {
        let config = self.config.load();
        self.bans
            .succeeded(address, name, &config.bans, Instant::now());
    }

    /// A client is connected that logged in as `name`, until what this returns is dropped.
    pub fn presence(&self, address: IpAddr, name: Arc<str>) -> Presence<'_> {
        self.bans.arrived(address);
        Presence {
            door: self,
            address,
            name,
        }
    }

    /// Waits for the turn of a throttled login; who leaves before gives it back.
    pub async fn await_turn(&self, address: IpAddr, wait: Duration) {
        let mut turn = Turn {
            door: self,
            address,
            is_due: false,
        };
        tokio::time::sleep(wait).await;
        turn.is_due = true;
    }

    /// Writes a log line about a refused stranger, unless there were many: nobody can fill the disk with them. Says how
    /// many of this address were left out before.
    pub fn complain(&self, peer: SocketAddr, listener: &str, what: &dyn Display) {
        if let Some(left_out) = self.may_complain(peer.ip()) {
            match left_out {
                0 => tracing::info!(%peer, %listener, %what, "not connected"),
                _ => tracing::info!(%peer, %listener, %what, left_out, "not connected"),
            }
        }
    }

    /// Bans a network for `time`, or as long as the gateway runs; false if there are too many bans of this kind.
    pub fn ban(&self, network: IpNet, time: Option<Duration>) -> bool {
        let given = self.bans.give(network, time, Instant::now());
        self.tidy_up();
        given
    }

    /// Ends the bans in a network; how many.
    pub fn lift(&self, network: IpNet) -> usize {
        let lifted = self.bans.lift(network, Instant::now());
        self.tidy_up();
        lifted
    }

    /// The bans in force, at most `max`, and whether there are more.
    pub fn bans(&self, max: usize) -> (Vec<Ban>, bool) {
        self.bans.list(max, Instant::now())
    }

    /// To be called every few seconds: forgets what has no consequence any more.
    pub fn tidy_up(&self) {
        let counts = self.bans.tidy_up(&self.config.load().bans, Instant::now());
        let metrics = &self.metrics;
        metrics.bans.set(counts.banned as u64);
        metrics.names_barred.set(counts.refused_names as u64);
        let others = self.arrivals.lock().len() + self.complaints.lock().by_address.len();
        let remembered = counts.remembered + others;
        metrics.addresses_remembered.set(remembered as u64);
    }

    fn count(&self, address: IpAddr, name: Option<&str>) {
        let consequence = self
            .bans
            .failed(address, name, &self.config.load().bans, Instant::now());
        let Some(consequence) = consequence else {
            return;
        };
        if let Consequence::Banned(_) = consequence {
            self.metrics.bans_made.add(1);
        }
        self.note(address, name, consequence);
        let has_line = self
            .complaints
            .lock()
            .consequences
            .take(LINES, Instant::now());
        if !has_line {
            return self.metrics.complaints_left_out.add(1);
        }
        let address = Prefix::from(address);
        match consequence {
            Consequence::Banned(time) => {
                tracing::warn!(target: "postern::audit", %address, ?time, "banned: too many failures");
            }
            Consequence::Refused(time) => {
                let name = shown(name.unwrap_or_default());
                tracing::warn!(target: "postern::audit", %address, name, ?time, "this name is refused from there: too many failed logins");
            }
            Consequence::Throttled => {
                tracing::warn!(target: "postern::audit", %address, "throttled: too many failures, beside logins that succeeded");
            }
        }
    }

    fn note(&self, address: IpAddr, name: Option<&str>, consequence: Consequence) {
        let (principal, reason) = match consequence {
            Consequence::Banned(time) => {
                let reason = format!("too many failures: the address is banned for {time:?}");
                ("", reason)
            }
            Consequence::Refused(time) => {
                let reason = format!("too many failed logins: the name is refused for {time:?}");
                (name.unwrap_or_default(), reason)
            }
            Consequence::Throttled => ("", "too many failures: the address is throttled".into()),
        };
        let note = Note {
            principal,
            address: Some(Prefix::from(address).address()),
            reason: &reason,
            ..Note::default()
        };
        self.audit.note(Kind::Ban, note);
    }

    /// The lines left out before this one; `None` if this one is left out too.
    fn may_complain(&self, address: IpAddr) -> Option<u64> {
        let (capacity, now) = (self.config.load().bans.remembered, Instant::now());
        let mut complaints = self.complaints.lock();
        let Complaints {
            all, by_address, ..
        } = &mut *complaints;
        let here = by_address.touch(address.into(), capacity);
        if here.lines.take(LINES_PER_ADDRESS, now) && all.take(LINES, now) {
            return Some(std::mem::take(&mut here.left_out));
        }
        here.left_out += 1;
        self.metrics.complaints_left_out.add(1);
        None
    }
}

/// A client that logged in and is here.
pub struct Presence<'a> {
    door: &'a Door,
    address: IpAddr,
    name: Arc<str>,
}

impl Drop for Presence<'_> {
    fn drop(&mut self) {
        let (bans, rules) = (&self.door.bans, &self.door.config.load().bans);
        bans.departed(self.address, &self.name, rules, Instant::now());
    }
}

/// The turn of a throttled login.
struct Turn<'a> {
    door: &'a Door,
    address: IpAddr,
    is_due: bool,
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        if !self.is_due {
            let (bans, rules) = (&self.door.bans, &self.door.config.load().bans);
            bans.return_turn(self.address, rules, Instant::now());
        }
    }
}

/// How often one address may connect; `None`: as often as it likes.
fn arrival_rate(limits: &Limits) -> Option<Rate> {
    (limits.connection_rate > 0).then(|| Rate {
        per_second: limits.connection_rate.into(),
        burst: limits.connection_burst,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn door(change: impl FnOnce(&mut Config)) -> Door {
        let mut config = Config::default();
        change(&mut config);
        let (_, verdict) = watch::channel(Verdict::Accept);
        let config = Arc::new(ArcSwap::from_pointee(config));
        Door::new(config, Arc::default(), verdict)
    }

    #[test]
    fn an_address_that_connects_too_often_is_turned_away_and_others_are_not() {
        let door = door(|config| config.limits.connection_burst = 3);
        let (one, other) = (IpAddr::from([127, 0, 0, 1]), IpAddr::from([127, 0, 0, 2]));
        assert!((0..3).all(|_| door.admit(one).is_ok()));
        assert_eq!(door.admit(one), Err(Turned::TooOften));
        assert!(door.admit(other).is_ok());
        assert_eq!(door.metrics.connections_too_often.get(), 1);
        let unlimited = self::door(|config| {
            config.limits.connection_rate = 0;
            config.limits.connection_burst = 1;
        });
        assert!((0..100).all(|_| unlimited.admit(one).is_ok()));
    }

    #[test]
    fn a_stranger_cannot_grow_the_log_and_neither_can_many() {
        let door = door(|config| config.bans.remembered = 100);
        let one = IpAddr::from([127, 0, 0, 1]);
        let lines = (0..1_000).filter(|_| door.may_complain(one).is_some());
        assert_eq!(lines.count(), 5);
        let others = (0..100_000u32).map(|n| IpAddr::from((0x0a00_0000 | n).to_be_bytes()));
        let lines = others.filter(|other| door.may_complain(*other).is_some());
        let lines = lines.count();
        // The burst, and what comes due while this test runs.
        assert!((95..150).contains(&lines), "{lines}");
        door.tidy_up();
        assert!(door.metrics.addresses_remembered.get() <= 100);
    }

    // N1
    #[test]
    fn a_validation_costs_its_address_no_connection() {
        let door = door(|config| {
            config.limits.connection_rate = 1;
            config.limits.connection_burst = 2;
        });
        let address = IpAddr::from([127, 0, 0, 1]);
        for _ in 0..10 {
            assert!(door.admit(address).is_ok());
            door.was_validation(address);
        }
        assert!(door.admit(address).is_ok() && door.admit(address).is_ok());
        assert_eq!(door.admit(address), Err(Turned::TooOften));
    }

    // N1
    #[test]
    fn who_asked_before_the_name_was_refused_is_refused_all_the_same() {
        let door = door(|config| config.bans.name_failures = 2);
        let address = IpAddr::from([127, 0, 0, 1]);
        assert!((0..500).all(|_| door.login(address, "dev") == Login::Now));
        door.login_failed(address, "dev");
        assert!(!door.bars(address, "dev"));
        door.login_failed(address, "dev");
        assert!(door.bars(address, "dev") && !door.bars(address, "neighbour"));
        door.ban(address.into(), None);
        assert!(door.bars(address, "neighbour"));
        assert_eq!(door.metrics.logins_barred.get(), 2);
    }

    // N1
    #[test]
    fn a_connected_client_is_refused_for_its_own_failures_and_not_for_those_of_its_neighbours() {
        let door = door(|config| {
            config.bans.address_failures = 3;
            config.bans.name_failures = 2;
        });
        let address = IpAddr::from([127, 0, 0, 1]);
        door.logged_in(address, "mine");
        for n in 0..3 {
            door.login_failed(address, &format!("x{n}"));
        }
        while door.login(address, "stranger") != Login::Full {}
        assert!(!door.refuses(address, "mine") && !door.refuses(address, "fresh"));
        door.ban(address.into(), None);
        assert!(!door.refuses(address, "mine"));
        door.login_failed(address, "bad");
        door.login_failed(address, "bad");
        assert!(door.refuses(address, "bad"));
    }

    #[test]
    fn bans_show_in_the_metrics() {
        let door = door(|config| config.bans.address_failures = 2);
        let address = IpAddr::from([127, 0, 0, 1]);
        door.failed(address);
        assert!(door.admit(address).is_ok());
        door.login_failed(address, "x");
        assert_eq!(door.admit(address), Err(Turned::Banned));
        door.ban("192.0.2.0/24".parse().unwrap(), None);
        let metrics = &door.metrics;
        assert_eq!((metrics.bans.get(), metrics.bans_made.get()), (2, 1));
        assert_eq!(metrics.connections_banned.get(), 1);
        assert_eq!(door.lift("127.0.0.0/8".parse().unwrap()), 1);
        assert!(door.admit(address).is_ok());
        assert_eq!(door.metrics.bans.get(), 1);
    }
}
