//! Blocks of addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

/// Addresses that share their first bits, such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Network {
    first: IpAddr,
    prefix: u8,
}

/// A text that is no block, or whose address has bits behind the prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be a block of addresses such as 10.0.0.0/8 or fd00::/8, with no bits set behind the prefix")]
pub struct NotANetwork;

impl Network {
    pub(super) const fn v4(first: [u8; 4], prefix: u8) -> Self {
        Self { first: IpAddr::V4(Ipv4Addr::new(first[0], first[1], first[2], first[3])), prefix }
    }

    pub(super) const fn v6(first: [u16; 3], prefix: u8) -> Self {
        Self { first: IpAddr::V6(Ipv6Addr::new(first[0], first[1], first[2], 0, 0, 0, 0, 0)), prefix }
    }

    /// Is the address in it?
    pub fn contains(&self, address: IpAddr) -> bool {
        match (self.first, address) {
            (IpAddr::V4(first), IpAddr::V4(address)) => {
                same_bits(first.to_bits().into(), address.to_bits().into(), 32 - u32::from(self.prefix))
            }
            (IpAddr::V6(first), IpAddr::V6(address)) => {
                same_bits(first.to_bits(), address.to_bits(), 128 - u32::from(self.prefix))
            }
            _ => false,
        }
    }

    /// Its first address.
    pub fn first(&self) -> IpAddr {
        self.first
    }

    /// Its last address.
    pub fn last(&self) -> IpAddr {
        let ones = |bits: u32| if bits == 0 { 0 } else { u128::MAX >> (128 - bits) };
        match self.first {
            IpAddr::V4(first) => {
                let last = u128::from(first.to_bits()) | ones(32 - u32::from(self.prefix));
                IpAddr::V4(Ipv4Addr::from_bits(u32::try_from(last).unwrap_or(u32::MAX)))
            }
            IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits() | ones(128 - u32::from(self.prefix)))),
        }
    }
}

/// Are they equal but for the last `free` bits?
fn same_bits(a: u128, b: u128, free: u32) -> bool {
    (a ^ b).checked_shr(free).unwrap_or(0) == 0
}

impl FromStr for Network {
    type Err = NotANetwork;

    fn from_str(text: &str) -> Result<Self, NotANetwork> {
        let (address, prefix) = text.split_once('/').ok_or(NotANetwork)?;
        let first: IpAddr = address.parse().map_err(|_| NotANetwork)?;
        let most = if first.is_ipv4() { 32 } else { 128 };
        let plain = !prefix.is_empty() && prefix.bytes().all(|byte| byte.is_ascii_digit());
        let prefix = prefix.parse().ok().filter(|prefix| plain && *prefix <= most).ok_or(NotANetwork)?;
        let network = Self { first, prefix };
        let free = u32::from(most) - u32::from(prefix);
        let own = match network.first {
            IpAddr::V4(first) => u128::from(first.to_bits()),
            IpAddr::V6(first) => first.to_bits(),
        };
        // Bits behind the prefix would be ignored in silence.
        let set = if free == 0 { 0 } else { own & (u128::MAX >> (128 - free)) };
        if set == 0 { Ok(network) } else { Err(NotANetwork) }
    }
}

impl fmt::Display for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.first, self.prefix)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_read_and_know_their_ends() {
        for (text, first, last) in [
            ("10.0.0.0/8", "10.0.0.0", "10.255.255.255"),
            ("198.18.0.0/15", "198.18.0.0", "198.19.255.255"),
            ("168.63.129.16/32", "168.63.129.16", "168.63.129.16"),
            ("0.0.0.0/0", "0.0.0.0", "255.255.255.255"),
            ("fe80::/10", "fe80::", "febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
            ("::1/128", "::1", "::1"),
            ("::/0", "::", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"),
        ] {
            let network: Network = text.parse().unwrap();
            assert_eq!(
                (network.first().to_string(), network.last().to_string()),
                (first.into(), last.into()),
                "{text}"
            );
            assert!(network.contains(network.first()) && network.contains(network.last()), "{text}");
            assert_eq!(network.to_string(), text);
        }
        let ten: Network = "10.0.0.0/8".parse().unwrap();
        for outside in ["9.255.255.255", "11.0.0.0", "::ffff:10.0.0.1", "::"] {
            assert!(!ten.contains(outside.parse().unwrap()), "{outside}");
        }
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.1/8",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "10.0.0.0/",
            "10/8",
            "fd00::1/8",
            "::/129",
            "x/8",
        ] {
            assert_eq!(text.parse::<Network>(), Err(NotANetwork), "{text}");
        }
    }
}
