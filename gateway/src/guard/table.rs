//! Which addresses are public. What follows from the registries in `gateway/guard/`; a test compares.

use std::net::{IpAddr, Ipv6Addr};

use super::network::Network;

/// IPv4 blocks that are refused.
const IPV4: [Network; 19] = [
    Network::v4([0, 0, 0, 0], 8),
    Network::v4([10, 0, 0, 0], 8),
    Network::v4([100, 64, 0, 0], 10),
    Network::v4([127, 0, 0, 0], 8),
    Network::v4([168, 63, 129, 16], 32),
    Network::v4([169, 254, 0, 0], 16),
    Network::v4([172, 16, 0, 0], 12),
    Network::v4([192, 0, 0, 0], 24),
    Network::v4([192, 0, 2, 0], 24),
    Network::v4([192, 31, 196, 0], 24),
    Network::v4([192, 52, 193, 0], 24),
    Network::v4([192, 88, 99, 0], 24),
    Network::v4([192, 168, 0, 0], 16),
    Network::v4([192, 175, 48, 0], 24),
    Network::v4([198, 18, 0, 0], 15),
    Network::v4([198, 51, 100, 0], 24),
    Network::v4([203, 0, 113, 0], 24),
    Network::v4([224, 0, 0, 0], 4),
    Network::v4([240, 0, 0, 0], 4),
];

/// The only IPv6 block with public addresses.
const IPV6_GLOBAL: Network = Network::v6([0x2000, 0, 0], 3);

/// Blocks inside it that are refused all the same.
const IPV6: [Network; 5] = [
    Network::v6([0x2001, 0, 0], 23),
    Network::v6([0x2001, 0xdb8, 0], 32),
    Network::v6([0x2002, 0, 0], 16),
    Network::v6([0x2620, 0x4f, 0x8000], 48),
    Network::v6([0x3fff, 0, 0], 20),
];

/// Can anybody on the internet have this address?
pub fn is_public(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(_) => !IPV4.iter().any(|block| block.contains(address)),
        IpAddr::V6(own) => {
            IPV6_GLOBAL.contains(address) && !IPV6.iter().any(|block| block.contains(address)) && !is_isatap(own)
        }
    }
}

/// Does the interface id carry an IPv4 address (`…:0:5efe:a.b.c.d` or `…:200:5efe:a.b.c.d`)? Such packets go to that address, which
/// may be private.
fn is_isatap(address: Ipv6Addr) -> bool {
    matches!(address.segments(), [_, _, _, _, 0 | 0x200, 0x5efe, _, _])
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The first column of a file.
    fn blocks(file: &str) -> Vec<(Network, String)> {
        file.lines()
            .skip(1)
            .map(|line| {
                let (block, rest) = line.split_once(',').unwrap();
                (block.parse().unwrap(), rest.to_owned())
            })
            .collect()
    }

    /// The blocks that are in no other one, in order.
    fn outermost(mut blocks: Vec<Network>) -> Vec<Network> {
        blocks.sort_unstable();
        blocks.dedup();
        let inside = |block: &Network| {
            blocks.iter().any(|other| other != block && other.contains(block.first()) && other.contains(block.last()))
        };
        blocks.iter().filter(|block| !inside(block)).copied().collect()
    }

    #[test]
    fn the_table_is_what_the_registries_say() {
        let special = blocks(include_str!("../../guard/ipv4-special.csv"));
        let added = blocks(include_str!("../../guard/added.csv"));
        assert!(special.len() >= 26 && added.len() >= 2);
        let refused = outermost(special.into_iter().chain(added).map(|(block, _)| block).collect());
        assert_eq!(refused, IPV4, "IPv4");

        let space = blocks(include_str!("../../guard/ipv6-space.csv"));
        let global: Vec<_> =
            space.iter().filter(|(_, what)| what.starts_with("Global Unicast")).map(|(block, _)| *block).collect();
        assert_eq!(global, [IPV6_GLOBAL]);
        let special = blocks(include_str!("../../guard/ipv6-special.csv"));
        let inside = special.iter().map(|(block, _)| *block).filter(|block| IPV6_GLOBAL.contains(block.first()));
        assert_eq!(outermost(inside.collect()), IPV6, "IPv6");
    }

    #[test]
    fn the_space_registry_covers_every_address_once() {
        let mut next = 0_u128;
        for (block, _) in blocks(include_str!("../../guard/ipv6-space.csv")) {
            let (IpAddr::V6(first), IpAddr::V6(last)) = (block.first(), block.last()) else { panic!("{block}") };
            assert_eq!(first.to_bits(), next, "{block}");
            next = last.to_bits().wrapping_add(1);
        }
        assert_eq!(next, 0);
    }
}
