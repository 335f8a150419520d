//! Every row of the registries: first, last, inside, just outside; every way to write it; and IPv4 inside IPv6.

use super::*;

fn blocks(file: &str) -> Vec<Network> {
    file.lines().skip(1).map(|line| line.split(',').next().unwrap().parse().unwrap()).collect()
}

/// Every refused IPv4 block, nested ones too.
fn ipv4() -> Vec<Network> {
    let mut all = blocks(include_str!("../../../guard/ipv4-special.csv"));
    all.extend(blocks(include_str!("../../../guard/added.csv")));
    all
}

fn ipv6() -> Vec<Network> {
    let mut all = blocks(include_str!("../../../guard/ipv6-special.csv"));
    all.extend(
        blocks(include_str!("../../../guard/ipv6-space.csv"))
            .into_iter()
            .filter(|block| block.to_string() != "2000::/3"),
    );
    all
}

fn bits(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(address) => address.to_bits().into(),
        IpAddr::V6(address) => address.to_bits(),
    }
}

fn from_bits(like: IpAddr, bits: u128) -> IpAddr {
    match like {
        IpAddr::V4(_) => Ipv4Addr::from_bits(u32::try_from(bits).unwrap()).into(),
        IpAddr::V6(_) => Ipv6Addr::from_bits(bits).into(),
    }
}

/// First, last, and some inside.
fn inside(block: Network, dice: &mut Dice) -> Vec<IpAddr> {
    let (first, last) = (bits(block.first()), bits(block.last()));
    let mut all = vec![block.first(), block.last()];
    if last - first > 1 {
        for _ in 0..8 {
            let random = u128::from(dice.next()) << 64 | u128::from(dice.next());
            all.push(from_bits(block.first(), first + random % (last - first)));
        }
    }
    all
}

/// The addresses before and behind, if there are any.
fn neighbours(block: Network) -> Vec<IpAddr> {
    let (first, last) = (bits(block.first()), bits(block.last()));
    let end = if block.first().is_ipv4() { u128::from(u32::MAX) } else { u128::MAX };
    let before = first.checked_sub(1).map(|bits| from_bits(block.first(), bits));
    let behind = (last < end).then(|| from_bits(block.first(), last + 1));
    before.into_iter().chain(behind).collect()
}

/// Ways to write an IPv4 address that a URL parser understands.
fn notations(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let all = address.to_bits();
    let dotted = address.to_string();
    let wide = |text: &str| -> String {
        text.chars().map(|c| c.to_digit(10).and_then(|digit| char::from_u32(0xff10 + digit)).unwrap_or(c)).collect()
    };
    let percent = format!("%{}", dotted.bytes().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join("%"));
    vec![
        dotted.clone(),
        format!("{dotted}."),
        all.to_string(),
        format!("0x{all:x}"),
        format!("0X{all:08X}"),
        format!("0{all:o}"),
        format!("0{a:o}.0{b:o}.0{c:o}.0{d:o}"),
        format!("0x{a:x}.0x{b:x}.0x{c:x}.0x{d:x}"),
        format!("{a}.0x{b:x}.0{c:o}.{d}"),
        format!("{a}.{b}.{}", u32::from(c) << 8 | u32::from(d)),
        format!("{a}.{}", u32::from(b) << 16 | u32::from(c) << 8 | u32::from(d)),
        format!("0x{a:x}.0x{:x}", all & 0x00ff_ffff),
        wide(&dotted),
        dotted.replace('.', "。"),
        dotted.replace('.', "．"),
        wide(&dotted).replace('.', "。"),
        percent,
    ]
}

/// IPv6 addresses that carry an IPv4 address to somebody who unpacks it.
fn carriers(address: Ipv4Addr) -> Vec<String> {
    let [a, b, c, d] = address.octets();
    let (high, low) = (format!("{a:02x}{b:02x}"), format!("{c:02x}{d:02x}"));
    let (not_high, not_low) = (format!("{:02x}{:02x}", !a, !b), format!("{:02x}{:02x}", !c, !d));
    vec![
        format!("::ffff:{address}"),
        format!("::ffff:{high}:{low}"),
        format!("::{address}"),
        format!("::ffff:0:{address}"),
        format!("64:ff9b::{address}"),
        format!("64:ff9b:1::{address}"),
        format!("2002:{high}:{low}::1"),
        format!("2001::{address}"),
        format!("2001:0:4136:e378:8000:63bf:{not_high}:{not_low}"),
        format!("2a00:1450::5efe:{address}"),
        format!("2a00:1450::200:5efe:{address}"),
        format!("fe80::5efe:{address}"),
    ]
}

#[test]
fn no_address_of_the_registries_gets_through_in_any_notation() {
    let mut dice = Dice(0x5eed);
    let mut cases = 0;
    let mut refuse = |address: IpAddr, host: String| {
        let url = format!("https://{host}/v1");
        let bracketed = !url.contains("://[") && address.is_ipv6();
        assert!(!bracketed);
        assert_eq!(verdict(&strict(), &url), Err(Refused::Literal), "{url}");
        assert_eq!(verdict(&with_addresses(), &url), Err(Refused::Address), "{url}");
        cases += 2;
    };
    for block in ipv4() {
        for address in inside(block, &mut dice) {
            assert_eq!(strict().address(address), Err(Refused::Address), "{address} of {block}");
            let IpAddr::V4(own) = address else { panic!("{block}") };
            for host in notations(own) {
                refuse(address, host);
            }
            for host in carriers(own) {
                let parsed: Ipv6Addr = host.parse().unwrap();
                refuse(parsed.into(), format!("[{host}]"));
            }
        }
    }
    for block in ipv6() {
        for address in inside(block, &mut dice) {
            assert_eq!(strict().address(address), Err(Refused::Address), "{address} of {block}");
            let IpAddr::V6(own) = address else { panic!("{block}") };
            refuse(address, format!("[{own}]"));
            refuse(address, format!("[{}]", own.segments().map(|segment| format!("{segment:04X}")).join(":")));
        }
    }
    assert!(cases >= 5_000, "{cases} cases");
}

#[test]
fn the_neighbours_of_a_block_are_judged_by_themselves() {
    let listed = |address: IpAddr, blocks: &[Network]| blocks.iter().any(|block| block.contains(address));
    let (mut public, mut refused) = (0, 0);
    for blocks in [ipv4(), ipv6()] {
        for block in &blocks {
            for address in neighbours(*block) {
                let expected = listed(address, &blocks);
                assert_eq!(strict().address(address).is_err(), expected, "{address} beside {block}");
                if expected { refused += 1 } else { public += 1 }
            }
        }
    }
    // security.md counts 34 of IPv4 and 10 of IPv6 that are allowed.
    assert!(public >= 44 && refused >= 40, "{public} {refused}");
}

#[test]
fn known_addresses_of_the_inside_are_refused_and_public_ones_are_not() {
    for text in [
        "169.254.169.254",
        "169.254.170.2",
        "169.254.170.23",
        "169.254.0.23",
        "100.100.100.200",
        "192.0.0.192",
        "168.63.129.16",
        "fd00:ec2::254",
        "fd00:ec2::23",
        "fd20:ce::254",
        "2001::7f00:1",
        "2002:7f00:1::",
        "::ffff:10.0.0.1",
        "::ffff:0:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::a00:1",
        "64:ff9b:1::1",
        "100::1",
        "100:0:0:1::1",
        "5f00::1",
        "fec0::1",
        "fe80::1",
        "ff02::1",
        "2a00:1450::5efe:a00:1",
        "2a00:1450::200:5efe:a00:1",
    ] {
        assert_eq!(strict().address(text.parse().unwrap()), Err(Refused::Address), "{text}");
    }
    for text in [
        "1.1.1.1",
        "8.8.8.8",
        "168.63.129.15",
        "100.63.255.255",
        "2606:4700::1111",
        "2a00:1450:4001::200e",
        "2620:4f:7fff::1",
    ] {
        assert_eq!(strict().address(text.parse().unwrap()), Ok(()), "{text}");
    }
    let own = Policy {
        refused: vec!["8.8.0.0/16".parse().unwrap(), "2606:4700:64::/96".parse().unwrap()],
        ..with_addresses()
    };
    for text in ["https://8.8.8.8/", "https://[2606:4700:64::a00:1]/"] {
        assert_eq!((verdict(&own, text), verdict(&with_addresses(), text)), (Err(Refused::Address), Ok(())), "{text}");
    }
}
