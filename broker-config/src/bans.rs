//! `[bans]`: when failures close the door to an address, for how long, and to whom never or always
//! (rule N1). Everything here applies on reload.

use std::time::Duration;

use ipnet::IpNet;

use crate::{
    report::Wrong,
    value::{any, within},
    visit::{Applies::Live, Section, Visitor},
};

/// `[bans]`. An address is an IPv4 address or an IPv6 /64.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bans {
    /// Whether failures have consequences. `deny` holds either way. Default true.
    pub enabled: bool,
    /// Failed logins with one user name from one address, after which that name is refused from
    /// there. Default 10; 1 to 1,000,000.
    pub name_failures: u32,
    /// Failures of one address, whatever the names, failed TLS handshakes included, after which it
    /// is banned; or throttled, if a client logged in from there within the last day. Default 50;
    /// 1 to 1,000,000.
    pub address_failures: u32,
    /// Time in which as many failures are forgotten as lead to a ban, evenly. Default 10 min; 1 s
    /// to 1 d.
    pub forget: Duration,
    /// How long a name or an address is refused. The next ban of an address within a day lasts
    /// twice as long. Default 15 min; 1 s to 1 d, at most `duration_max`.
    pub duration: Duration,
    /// The longest ban. Default 1 d; 1 s to 30 d.
    pub duration_max: Duration,
    /// Time between two logins from a throttled address, of names that did not log in from there
    /// within the last day. Default 2 s; 10 ms to 1 min.
    pub throttle: Duration,
    /// Networks whose failures have no consequences. At most 1,000. Default none.
    pub allow: Vec<IpNet>,
    /// Networks that are always banned. At most 1,000. Default none.
    pub deny: Vec<IpNet>,
    /// Addresses, and names with their address, whose rates and failures are remembered; beyond
    /// it those not seen for longest are forgotten. Default 20,000; 100 to 10,000,000.
    pub remembered: usize,
}

const DAY: Duration = Duration::from_secs(86_400);

impl Default for Bans {
    fn default() -> Self {
        Bans {
            enabled: true,
            name_failures: 10,
            address_failures: 50,
            forget: Duration::from_secs(600),
            duration: Duration::from_secs(900),
            duration_max: DAY,
            throttle: Duration::from_secs(2),
            allow: Vec::new(),
            deny: Vec::new(),
            remembered: 20_000,
        }
    }
}

impl Section for Bans {
    fn visit<V: Visitor>(&mut self, v: &mut V) {
        let Self {
            enabled,
            name_failures,
            address_failures,
            forget,
            duration,
            duration_max,
            throttle,
            allow,
            deny,
            remembered,
        } = self;
        let second = Duration::from_secs(1);
        v.key("enabled", Live, enabled, any);
        v.key("name_failures", Live, name_failures, within(1..=1_000_000));
        v.key(
            "address_failures",
            Live,
            address_failures,
            within(1..=1_000_000),
        );
        v.key("forget", Live, forget, within(second..=DAY));
        v.key("duration", Live, duration, within(second..=DAY));
        v.key(
            "duration_max",
            Live,
            duration_max,
            within(second..=30 * DAY),
        );
        v.key(
            "throttle",
            Live,
            throttle,
            within(Duration::from_millis(10)..=Duration::from_secs(60)),
        );
        v.key("allow", Live, allow, |networks| few(networks));
        v.key("deny", Live, deny, |networks| few(networks));
        v.key("remembered", Live, remembered, within(100..=10_000_000));
    }
}

/// Each connection is compared with each of them.
pub(crate) fn few(networks: &[IpNet]) -> Result<(), Wrong> {
    match networks.len() {
        0..=1_000 => Ok(()),
        _ => Err(Wrong::new(
            "has more than 1,000 networks",
            "join them to larger ones, or use the firewall",
        )),
    }
}
