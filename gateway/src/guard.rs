//! The private-network guard: a URL that a user or developer names must lead to a public place, whatever it looks like.
//!
//! One function decides, on the host that the URL parser made of the text and never on the text: when a credential is saved, before
//! every request, on every answer of the resolver, and on the address that answered. Default is refusal.

mod client;
mod name;
mod network;
mod resolver;
mod table;
#[cfg(test)]
pub(crate) mod tests;

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use url::{Host, Url};

pub use client::{GuardedClient, GuardedError};
pub use network::{Network, NotANetwork};
pub use resolver::{Answers, Lookup, SystemLookup};
pub use table::is_public;

/// The longest URL.
const MAX_URL: usize = 2_048;
/// The port that needs no mention.
const HTTPS_PORT: u16 = 443;

/// What an operator allows and refuses beside the table.
#[derive(Clone, Debug, Default)]
pub struct Policy {
    /// Ports beside 443.
    pub ports: BTreeSet<u16>,
    /// Addresses that are refused although they are public: the operator's own networks and NAT64 prefixes.
    pub refused: Vec<Network>,
    /// May a URL name an address instead of a host?
    pub addresses: bool,
    /// Addresses and ports on loopback that URLs may name all the same, in plain text too: for an operator's tests on one machine.
    /// Whoever may save a URL reaches whatever listens there.
    pub loopback: BTreeSet<SocketAddr>,
    #[cfg(test)]
    public_in_tests: Vec<IpAddr>,
}

/// Why a URL, name or address is refused. The texts are for whoever named it: they tell nothing about the inside.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Not a URL, or one that different readers read differently.
    #[error("must be a plain URL such as https://api.example.com/v1")]
    Form,
    /// Another scheme than https.
    #[error("must begin with https://")]
    Scheme,
    /// A user or password in it.
    #[error("must not name a user")]
    User,
    /// A query, which has no place before a path of ours.
    #[error("must not have a query")]
    Query,
    /// A fragment.
    #[error("must not have a fragment")]
    Fragment,
    /// A port that is not allowed.
    #[error("must not name port {0}")]
    Port(u16),
    /// An address instead of a name.
    #[error("must name a host, not an address")]
    Literal,
    /// A name of the inside.
    #[error("must name a public host")]
    Name,
    /// An address of the inside.
    #[error("must lead to public addresses only")]
    Address,
    /// A name without addresses.
    #[error("the host is not found: {0}")]
    NotFound(String),
}

impl Refused {
    /// The label of metrics and logs.
    pub const fn reason(&self) -> &'static str {
        match self {
            Self::Form => "form",
            Self::Scheme => "scheme",
            Self::User => "user",
            Self::Query => "query",
            Self::Fragment => "fragment",
            Self::Port(_) => "port",
            Self::Literal => "literal",
            Self::Name => "name",
            Self::Address => "address",
            Self::NotFound(_) => "not_found",
        }
    }
}

impl Refused {
    /// The text for whoever named the URL. What a look-up found is not told apart, so that nobody learns which names there are inside.
    pub fn outside(&self) -> String {
        match self {
            Self::Address | Self::NotFound(_) => "must lead to public addresses only".to_owned(),
            other => other.to_string(),
        }
    }
}

impl Policy {
    /// One of the operator's exceptions, if the URL is exactly that.
    pub(crate) fn on_loopback(&self, url: &Url) -> Option<SocketAddr> {
        let address = match url.host()? {
            Host::Ipv4(address) => IpAddr::V4(address),
            Host::Ipv6(address) => IpAddr::V6(address),
            Host::Domain(_) => return None,
        };
        let named = SocketAddr::new(address, url.port_or_known_default()?);
        (matches!(url.scheme(), "http" | "https") && self.loopback.contains(&named)).then_some(named)
    }

    /// Reads and decides a URL as somebody typed it. Where the parser would read another host than the eye, it is refused.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn url_text(&self, text: &str) -> Result<Url, Refused> {
        let odd = |c: char| c.is_control() || c.is_whitespace() || matches!(c, '\\' | '@' | '#');
        if text.len() > MAX_URL || text.contains(odd) {
            return Err(Refused::Form);
        }
        let url = Url::parse(text).map_err(|_| Refused::Form)?;
        if url.scheme() != "https" && self.on_loopback(&url).is_none() {
            return Err(Refused::Scheme);
        }
        // The parser forgives missing and superfluous slashes.
        let (scheme, authority) = text.split_once("://").ok_or(Refused::Form)?;
        let authority = scheme.eq_ignore_ascii_case(url.scheme()).then_some(authority);
        if authority.is_none_or(|authority| authority.starts_with('/')) {
            return Err(Refused::Form);
        }
        self.url(&url)?;
        Ok(url)
    }

    /// Decides a URL.
    ///
    /// # Errors
    /// [`Refused`]
    pub fn url(&self, url: &Url) -> Result<(), Refused> {
        let loopback = self.on_loopback(url).is_some();
        if url.scheme() != "https" && !loopback && !self.speaks_plain_text() {
            return Err(Refused::Scheme);
        }
        if !url.username().is_empty() || url.password().is_some() {
            return Err(Refused::User);
        }
        if url.fragment().is_some() {
            return Err(Refused::Fragment);
        }
        if loopback {
            return Ok(());
        }
        let port = url.port_or_known_default().unwrap_or_default();
        if port == 0 || (port != HTTPS_PORT && !self.ports.contains(&port)) {
            return Err(Refused::Port(port));
        }
        match url.host() {
            Some(Host::Domain(name)) => self.name(name),
            Some(Host::Ipv4(address)) => self.literal(address.into()),
            Some(Host::Ipv6(address)) => self.literal(address.into()),
            None => Err(Refused::Form),
        }
    }

    /// Never, but where a test lets loopback answer.
    #[cfg(test)]
    fn speaks_plain_text(&self) -> bool {
        !self.public_in_tests.is_empty()
    }

    #[cfg(not(test))]
    #[expect(clippy::unused_self, reason = "tests look at it")]
    fn speaks_plain_text(&self) -> bool {
        false
    }

    fn literal(&self, address: IpAddr) -> Result<(), Refused> {
        if self.addresses { self.address(address) } else { Err(Refused::Literal) }
    }

    /// Decides a host name as the URL parser gives it.
    ///
    /// # Errors
    /// [`Refused::Name`]
    pub fn name(&self, name: &str) -> Result<(), Refused> {
        if name::is_public(name) { Ok(()) } else { Err(Refused::Name) }
    }

    /// Decides an address.
    ///
    /// # Errors
    /// [`Refused::Address`]
    pub fn address(&self, address: IpAddr) -> Result<(), Refused> {
        #[cfg(test)]
        if self.public_in_tests.contains(&address) {
            return Ok(());
        }
        if is_public(address) && !self.refused.iter().any(|network| network.contains(address)) {
            Ok(())
        } else {
            Err(Refused::Address)
        }
    }
}
