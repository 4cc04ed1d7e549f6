//! Whose topics and client identifiers are these? Tests that share one gateway keep out of each other's way by a
//! scope: a number in every topic, client identifier and user name.

use std::net::{IpAddr, Ipv4Addr};
use std::sync::atomic::{AtomicU32, Ordering};

static NEXT: AtomicU32 = AtomicU32::new(1);

/// The names of one test.
pub struct Scope(u32);

impl Scope {
    #[expect(
        clippy::new_without_default,
        reason = "each scope is another one; a default would hide that"
    )]
    pub fn new() -> Self {
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// `name` as a topic name or filter of this scope.
    pub fn topic(&self, name: &str) -> String {
        format!("scope{}/{name}", self.0)
    }

    /// `name` as a client identifier or user name of this scope.
    pub fn id(&self, name: &str) -> String {
        format!("{name}-{}", self.0)
    }
}

/// A source address on the loopback network that nobody else in this process uses, because failures and limits count
/// per address.
pub fn own_address() -> IpAddr {
    static LAST: AtomicU32 = AtomicU32::new(0);
    let n = LAST.fetch_add(1, Ordering::Relaxed);
    let [_, a, b, c] = n.to_be_bytes();
    // 127.1.0.1 and up, never .0 and never .255.
    IpAddr::V4(Ipv4Addr::new(
        127,
        1 + (a.wrapping_mul(4)) + b / 64,
        b.wrapping_mul(4) + c / 64,
        1 + c % 64,
    ))
}
