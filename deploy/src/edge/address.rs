//! Whose request it is.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};

use axum::extract::Request;
use http::HeaderName;
use modelfaucet_gateway::guard::Network;

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");

/// The other end of a connection. The accept loop puts it into every request.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Peer(pub(crate) SocketAddr);

/// The client's address: the other end, or, if that is a proxy that we trust, the last address in `X-Forwarded-For` that no such
/// proxy has. What stands before that anybody can have written.
pub(super) fn client(request: &Request, trusted: &[Network]) -> IpAddr {
    let peer = request.extensions().get::<Peer>().map_or(IpAddr::V6(Ipv6Addr::UNSPECIFIED), |peer| peer.0.ip());
    let is_trusted = |address: IpAddr| trusted.iter().any(|network| network.contains(address));
    let mut client = peer.to_canonical();
    let lines: Vec<_> = request.headers().get_all(FORWARDED_FOR).iter().collect();
    let named = lines.iter().rev().flat_map(|line| line.to_str().unwrap_or_default().rsplit(','));
    for name in named {
        if !is_trusted(client) {
            break;
        }
        match read(name.trim()) {
            Some(address) => client = address.to_canonical(),
            None => break,
        }
    }
    client
}

/// An address, with or without a port.
fn read(text: &str) -> Option<IpAddr> {
    text.parse().ok().or_else(|| text.parse().ok().map(|address: SocketAddr| address.ip()))
}

/// What one client can easily have many addresses of counts as one: the first 64 bits of IPv6.
pub(super) fn network(address: IpAddr) -> String {
    match address {
        IpAddr::V4(address) => address.to_string(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & !u128::from(u64::MAX)).to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::body::Body;

    fn request(peer: &str, forwarded: &[&str]) -> Request {
        let mut request = Request::new(Body::empty());
        request.extensions_mut().insert(Peer(peer.parse().unwrap()));
        for line in forwarded {
            request.headers_mut().append(FORWARDED_FOR, line.parse().unwrap());
        }
        request
    }

    #[test]
    fn only_a_trusted_proxy_speaks_for_others() {
        let trusted = ["127.0.0.1/32".parse().unwrap(), "10.0.0.0/8".parse().unwrap()];
        for (peer, forwarded, expected) in [
            ("192.0.2.1:1", &[][..], "192.0.2.1"),
            ("192.0.2.1:1", &["198.51.100.7"], "192.0.2.1"),
            ("127.0.0.1:1", &[], "127.0.0.1"),
            ("127.0.0.1:1", &["198.51.100.7"], "198.51.100.7"),
            ("127.0.0.1:1", &["203.0.113.9, 198.51.100.7, 10.1.2.3"], "198.51.100.7"),
            ("127.0.0.1:1", &["203.0.113.9", "198.51.100.7:4711"], "198.51.100.7"),
            ("127.0.0.1:1", &["10.1.2.3"], "10.1.2.3"),
            ("127.0.0.1:1", &["203.0.113.9, nobody"], "127.0.0.1"),
            ("[::ffff:127.0.0.1]:1", &["[2001:db8::1]:4711"], "2001:db8::1"),
        ] {
            let client = client(&request(peer, forwarded), &trusted).to_string();
            assert_eq!(client, expected, "{peer} {forwarded:?}");
        }
    }

    #[test]
    fn the_addresses_of_one_subscriber_are_one() {
        let network = |text: &str| super::network(text.parse().unwrap());
        assert_eq!(network("2001:db8::1"), network("2001:db8::ffff:1"));
        assert_ne!(network("2001:db8::1"), network("2001:db8:0:1::1"));
        assert_ne!(network("192.0.2.1"), network("192.0.2.2"));
    }
}
