//! Who failed too often, and what follows from it (N1)?
//!
//! Failures are counted for each user name at its address first: a device with a wrong password is refused by its name,
//! and its neighbours behind the same address are not. They are counted for the address too; one from which somebody
//! logged in within the last day is never banned for them, it is throttled. Everything is in memory and bounded; what
//! is to outlast a restart is `bans.deny` of the configuration. The clock is an argument: nothing here waits.

use std::{
    collections::{BTreeMap, HashMap},
    hash::{BuildHasher, RandomState},
    net::IpAddr,
    time::{Duration, Instant},
};

use broker_config::{Bans as Rules, IpNet};
use parking_lot::Mutex;

use super::{prefix::Prefix, recent::Recent};

/// How long a successful login keeps its address from being banned, and a ban is remembered.
const DAY: Duration = Duration::from_secs(86_400);
/// Bans that the operator may give.
pub const GIVEN_MAX: usize = 1_000;
/// Logins of a throttled address that may wait; the next one is refused.
const WAITING_MAX: u32 = 10;
/// Bytes of a user name that are kept to show it.
const NAME_SHOWN: usize = 64;

/// What is known about addresses and the names that were claimed there.
#[derive(Debug, Default)]
pub struct Bans {
    /// Of name and address: neither the table nor its memory grows with the names that are tried.
    hasher: RandomState,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    addresses: Recent<Prefix, Address>,
    names: Recent<u64, Name>,
    /// By the operator, until when (`None`: as long as the gateway runs).
    given: BTreeMap<IpNet, Option<Instant>>,
    /// Connections with a login, by address: as many entries as there are connections at most.
    present: HashMap<Prefix, u32>,
}

#[derive(Debug, Default)]
struct Address {
    failures: Failures,
    banned: Option<Instant>,
    /// Bans within the last day.
    bans: u32,
    /// The last successful login.
    success: Option<Instant>,
    /// When the next login may be looked at while the address is throttled.
    turn: Option<Instant>,
}

#[derive(Debug, Default)]
struct Name {
    /// Where it failed last.
    prefix: Option<Prefix>,
    failures: Failures,
    /// Until when, where and which.
    refused: Option<(Instant, Prefix, Box<str>)>,
    success: Option<Instant>,
}

/// A count that drains evenly.
#[derive(Debug, Default, Clone, Copy)]
struct Failures {
    level: f64,
    at: Option<Instant>,
}

/// Whether a login may be looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Login {
    Now,
    /// After this time: the address is throttled.
    After(Duration),
    /// The name is refused from this address.
    Refused,
    /// Too many of this throttled address wait already.
    Full,
}

/// What a failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Consequence {
    /// The address is banned for this time.
    Banned(Duration),
    /// The name is refused from this address for this time.
    Refused(Duration),
    /// The address is throttled from now on: somebody logged in from there within the last day.
    Throttled,
}

/// A ban, as it is listed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ban {
    pub network: String,
    /// The user name, if only that is refused.
    pub name: Option<String>,
    /// What is left of it; `None`: as long as the gateway runs.
    pub left: Option<Duration>,
    pub by_operator: bool,
}

/// How many there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counts {
    pub banned: usize,
    pub refused_names: usize,
    /// Entries of all tables.
    pub remembered: usize,
}

impl Bans {
    /// Whether connections from this address are closed at once.
    pub fn is_banned(&self, address: IpAddr, rules: &Rules, now: Instant) -> bool {
        if contains(&rules.deny, address) {
            return true;
        }
        let mut state = self.state.lock();
        let is_given = |(network, until): (&IpNet, &Option<Instant>)| {
            network.contains(&address) && until.is_none_or(|until| until > now)
        };
        if state.given.iter().any(is_given) {
            return true;
        }
        if spared(address, rules) {
            return false;
        }
        let known = state
            .addresses
            .touch_known(address.into(), rules.remembered);
        known.is_some_and(|known| known.banned.is_some_and(|until| until > now))
    }

    /// Whether the credentials of this name may be looked at now. To be asked once for each CONNECT.
    pub fn login(&self, address: IpAddr, name: &str, rules: &Rules, now: Instant) -> Login {
        if spared(address, rules) {
            return Login::Now;
        }
        let prefix = Prefix::from(address);
        let key = self.key(prefix, name);
        let mut state = self.state.lock();
        let State {
            addresses,
            names,
            present,
            ..
        } = &mut *state;
        let (mut known, mut suspicious) = (false, false);
        if let Some(name) = names.touch_known(key, rules.remembered) {
            if name.is_refused(now) {
                return Login::Refused;
            }
            known = is_recent(name.success, now);
            suspicious = name.failures.reached(rules.name_failures, rules, now);
        }
        let Some(address) = addresses.touch_known(prefix, rules.remembered) else {
            return Login::Now;
        };
        let throttled = (is_recent(address.success, now) || present.contains_key(&prefix))
            && address.failures.reached(rules.address_failures, rules, now);
        // Who logged in from here before does not wait for the failures of others, only for its own.
        if !suspicious && (known || !throttled) {
            return Login::Now;
        }
        let turn = address.turn.map_or(now, |turn| turn.max(now));
        let wait = turn - now;
        if wait > rules.throttle * WAITING_MAX {
            return Login::Full;
        }
        address.turn = Some(turn + rules.throttle);
        Login::After(wait)
    }

    /// Whether the address is banned or the name refused there by now, whatever [`Self::login`] said before.
    pub fn is_barred(&self, address: IpAddr, name: &str, rules: &Rules, now: Instant) -> bool {
        self.is_banned(address, rules, now) || self.is_refused(address, name, rules, now)
    }

    /// Whether the name is refused from this address.
    pub fn is_refused(&self, address: IpAddr, name: &str, rules: &Rules, now: Instant) -> bool {
        if spared(address, rules) {
            return false;
        }
        let key = self.key(address.into(), name);
        let state = self.state.lock();
        state
            .names
            .peek(&key)
            .is_some_and(|name| name.is_refused(now))
    }

    /// Counts a failed login of `name`, or a failed handshake or first packet.
    pub fn failed(
        &self,
        address: IpAddr,
        name: Option<&str>,
        rules: &Rules,
        now: Instant,
    ) -> Option<Consequence> {
        if spared(address, rules) {
            return None;
        }
        let prefix = Prefix::from(address);
        let mut state = self.state.lock();
        let mut refused = None;
        if let Some(name) = name {
            let entry = state.names.touch(self.key(prefix, name), rules.remembered);
            // A device that goes on trying has been dealt with: its neighbours do not pay for it.
            if entry.is_refused(now) {
                return None;
            }
            refused = entry.failed(prefix, name, rules, now);
        }
        let is_present = state.present.contains_key(&prefix);
        let address = state.addresses.touch(prefix, rules.remembered);
        address.failed(is_present, rules, now).or(refused)
    }

    /// Notes a successful login of `name`.
    pub fn succeeded(&self, address: IpAddr, name: &str, rules: &Rules, now: Instant) {
        let prefix = Prefix::from(address);
        let key = self.key(prefix, name);
        let mut state = self.state.lock();
        state.addresses.touch(prefix, rules.remembered).success = Some(now);
        let name = state.names.touch(key, rules.remembered);
        name.success = Some(now);
        name.failures = Failures::default();
    }

    /// A client with a login is connected, until [`Self::departed`]: however long ago that login was, it is a successful
    /// one.
    pub fn arrived(&self, address: IpAddr) {
        let mut state = self.state.lock();
        *state.present.entry(address.into()).or_default() += 1;
    }

    /// The connection of `name` that [`Self::arrived`] counted has ended.
    pub fn departed(&self, address: IpAddr, name: &str, rules: &Rules, now: Instant) {
        let prefix = Prefix::from(address);
        let key = self.key(prefix, name);
        let mut state = self.state.lock();
        if let Some(present) = state.present.get_mut(&prefix) {
            *present -= 1;
            if *present == 0 {
                state.present.remove(&prefix);
            }
        }
        state.addresses.touch(prefix, rules.remembered).success = Some(now);
        state.names.touch(key, rules.remembered).success = Some(now);
    }

    /// A login that was to wait left before its turn: the next one may have it.
    pub fn return_turn(&self, address: IpAddr, rules: &Rules, now: Instant) {
        let mut state = self.state.lock();
        if let Some(address) = state
            .addresses
            .touch_known(address.into(), rules.remembered)
            && let Some(turn) = address.turn
        {
            address.turn = turn.checked_sub(rules.throttle).filter(|turn| *turn > now);
        }
    }

    /// Bans a network until `time` has passed, or as long as the gateway runs. False if there are [`GIVEN_MAX`] already.
    pub fn give(&self, network: IpNet, time: Option<Duration>, now: Instant) -> bool {
        let given = &mut self.state.lock().given;
        given.retain(|_, until| until.is_none_or(|until| until > now));
        if given.len() >= GIVEN_MAX && !given.contains_key(&network) {
            return false;
        }
        given.insert(network, time.map(|time| now + time));
        true
    }

    /// Ends every ban of an address in this network, and of names there; how many. Failures so far are forgotten.
    pub fn lift(&self, network: IpNet, now: Instant) -> usize {
        let mut lifted = 0;
        let mut state = self.state.lock();
        state.given.retain(|given, until| {
            let here = network.contains(given);
            lifted += usize::from(here && until.is_none_or(|until| until > now));
            !here
        });
        let is_in = |prefix: Prefix| {
            network.contains(&prefix.address())
                // A single address of a /64 means all of it.
                || Prefix::from(network.addr()) == prefix
        };
        state.addresses.retain(|prefix, address| {
            if is_in(*prefix) {
                lifted += usize::from(address.banned.take().is_some_and(|until| until > now));
                address.failures = Failures::default();
                address.bans = 0;
            }
            true
        });
        state.names.retain(|_, name| {
            if let Some((until, _, _)) = name.refused.take_if(|(_, prefix, _)| is_in(*prefix)) {
                lifted += usize::from(until > now);
            }
            if name.prefix.is_some_and(is_in) {
                name.failures = Failures::default();
            }
            true
        });
        lifted
    }

    /// The bans in force, at most `max`, and whether there are more.
    pub fn list(&self, max: usize, now: Instant) -> (Vec<Ban>, bool) {
        let state = self.state.lock();
        let in_force = |until: Instant| {
            until
                .checked_duration_since(now)
                .filter(|left| !left.is_zero())
        };
        let given = state.given.iter().filter_map(|(network, until)| {
            let left = match until {
                Some(until) => Some(in_force(*until)?),
                None => None,
            };
            Some(Ban {
                network: show(network),
                name: None,
                left,
                by_operator: true,
            })
        });
        let addresses = state.addresses.iter().filter_map(|(prefix, address)| {
            Some(Ban {
                network: prefix.to_string(),
                name: None,
                left: Some(in_force(address.banned?)?),
                by_operator: false,
            })
        });
        let names = state.names.iter().filter_map(|(_, name)| {
            let (until, prefix, name) = name.refused.as_ref()?;
            Some(Ban {
                network: prefix.to_string(),
                name: Some(name.to_string()),
                left: Some(in_force(*until)?),
                by_operator: false,
            })
        });
        let mut bans: Vec<_> = given.chain(addresses).chain(names).take(max + 1).collect();
        let more = bans.len() > max;
        bans.truncate(max);
        (bans, more)
    }

    /// Forgets what has no consequence any more, and counts the rest.
    pub fn tidy_up(&self, rules: &Rules, now: Instant) -> Counts {
        let mut counts = Counts {
            banned: 0,
            refused_names: 0,
            remembered: 0,
        };
        let mut state = self.state.lock();
        state
            .given
            .retain(|_, until| until.is_none_or(|until| until > now));
        counts.banned = state.given.len();
        state.addresses.retain(|_, address| {
            let banned = address.banned.is_some_and(|until| until > now);
            counts.banned += usize::from(banned);
            banned
                || is_recent(address.banned, now)
                || is_recent(address.success, now)
                || address
                    .failures
                    .level_at(rules.address_failures, rules, now)
                    > 0.0
        });
        state.names.retain(|_, name| {
            name.refused.take_if(|(until, ..)| *until <= now);
            counts.refused_names += usize::from(name.refused.is_some());
            name.refused.is_some()
                || is_recent(name.success, now)
                || name.failures.level_at(rules.name_failures, rules, now) > 0.0
        });
        counts.remembered = state.given.len() + state.addresses.len() + state.names.len();
        counts
    }

    fn key(&self, prefix: Prefix, name: &str) -> u64 {
        self.hasher.hash_one((prefix, name))
    }
}

impl Address {
    fn failed(&mut self, is_present: bool, rules: &Rules, now: Instant) -> Option<Consequence> {
        // What was under way when the ban began is part of what it is for: one burst is one ban.
        if self.banned.is_some_and(|until| until > now) {
            return None;
        }
        let before = self.failures.reached(rules.address_failures, rules, now);
        self.failures.add(rules.address_failures, rules, now);
        if !self.failures.reached(rules.address_failures, rules, now) {
            return None;
        }
        if is_present || is_recent(self.success, now) {
            return (!before).then_some(Consequence::Throttled);
        }
        if !is_recent(self.banned, now) {
            self.bans = 0;
        }
        let time = rules.duration * 2u32.saturating_pow(self.bans.min(16));
        let time = time.min(rules.duration_max);
        self.bans += 1;
        self.banned = Some(now + time);
        self.failures = Failures::default();
        Some(Consequence::Banned(time))
    }
}

impl Name {
    fn is_refused(&self, now: Instant) -> bool {
        self.refused
            .as_ref()
            .is_some_and(|(until, ..)| *until > now)
    }

    fn failed(
        &mut self,
        prefix: Prefix,
        name: &str,
        rules: &Rules,
        now: Instant,
    ) -> Option<Consequence> {
        self.prefix = Some(prefix);
        self.failures.add(rules.name_failures, rules, now);
        if !self.failures.reached(rules.name_failures, rules, now) || is_recent(self.success, now) {
            return None;
        }
        self.refused = Some((now + rules.duration, prefix, shown(name).into()));
        self.failures = Failures::default();
        Some(Consequence::Refused(rules.duration))
    }
}

impl Failures {
    fn level_at(&self, limit: u32, rules: &Rules, now: Instant) -> f64 {
        let Some(at) = self.at else { return 0.0 };
        let passed = now.saturating_duration_since(at).as_secs_f64();
        let forgotten = passed / rules.forget.as_secs_f64() * f64::from(limit);
        (self.level - forgotten).max(0.0)
    }

    fn add(&mut self, limit: u32, rules: &Rules, now: Instant) {
        // Twice the limit is forgotten in twice the time: nobody pays for a storm of failures for ever.
        let level = self.level_at(limit, rules, now) + 1.0;
        self.level = level.min(2.0 * f64::from(limit));
        self.at = Some(now);
    }

    /// A started failure counts whole: `limit` of them in less than the time that forgets one are enough.
    fn reached(&self, limit: u32, rules: &Rules, now: Instant) -> bool {
        self.level_at(limit, rules, now).ceil() >= f64::from(limit)
    }
}

fn contains(networks: &[IpNet], address: IpAddr) -> bool {
    networks.iter().any(|network| network.contains(&address))
}

/// Whether failures of this address have no consequences.
fn spared(address: IpAddr, rules: &Rules) -> bool {
    !rules.enabled || contains(&rules.allow, address)
}

/// As much of a user name as is kept and logged: a stranger may send 64 KiB of it.
pub fn shown(name: &str) -> &str {
    let end = (0..=NAME_SHOWN.min(name.len()))
        .rev()
        .find(|end| name.is_char_boundary(*end));
    &name[..end.unwrap_or(0)]
}

/// Whether it was within the last day, or is still to come.
fn is_recent(at: Option<Instant>, now: Instant) -> bool {
    at.is_some_and(|at| now.saturating_duration_since(at) < DAY)
}

/// A single address without its prefix length.
fn show(network: &IpNet) -> String {
    match network.prefix_len() == network.max_prefix_len() {
        true => network.addr().to_string(),
        false => network.to_string(),
    }
}

#[cfg(test)]
#[path = "bans_tests.rs"]
mod tests;
