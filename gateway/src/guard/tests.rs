//! The vectors of the guard: addresses, notations, URLs, names; and sockets, which are counted.

mod addresses;
mod names;
pub(crate) mod sockets;
mod urls;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use super::*;

/// Refuses literals, as products do.
fn strict() -> Policy {
    Policy::default()
}

/// Lets literals through to the table.
fn with_addresses() -> Policy {
    Policy { addresses: true, ..Policy::default() }
}

/// What a policy says about a URL.
fn verdict(policy: &Policy, text: &str) -> Result<(), Refused> {
    policy.url_text(text).map(drop)
}

/// Numbers that look random and are the same in every run.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
