//! Whose connection is it? What one party has is an IPv4 address, or a /64 of IPv6: whoever has one address of a /64
//! has all of them.

use std::{
    fmt,
    net::{IpAddr, Ipv6Addr},
};

/// The address of a party, for everything that counts by address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Prefix(IpAddr);

impl Prefix {
    /// The first address of the network; of an IPv4 address the address itself.
    pub fn address(self) -> IpAddr {
        self.0
    }
}

impl From<IpAddr> for Prefix {
    fn from(address: IpAddr) -> Prefix {
        Prefix(match address.to_canonical() {
            IpAddr::V4(address) => IpAddr::V4(address),
            IpAddr::V6(address) => {
                let network = u128::from(address) & !u128::from(u64::MAX);
                IpAddr::V6(Ipv6Addr::from(network))
            }
        })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            IpAddr::V4(address) => write!(f, "{address}"),
            IpAddr::V6(address) => write!(f, "{address}/64"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ipv4_address_stands_alone_and_all_of_an_ipv6_64_are_one() {
        let prefix = |text: &str| Prefix::from(text.parse::<IpAddr>().unwrap());
        assert_eq!(prefix("::ffff:192.0.2.1"), prefix("192.0.2.1"));
        assert_ne!(prefix("192.0.2.1"), prefix("192.0.2.2"));
        assert_eq!(prefix("2001:db8:1:2::1"), prefix("2001:db8:1:2:ffff::"));
        assert_ne!(prefix("2001:db8:1:2::1"), prefix("2001:db8:1:3::1"));
        assert_eq!(prefix("2001:db8:1:2::1").to_string(), "2001:db8:1:2::/64");
        assert_eq!(prefix("192.0.2.1").to_string(), "192.0.2.1");
    }
}
