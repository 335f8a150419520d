//! Requests to URLs that somebody else has chosen.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, ClientBuilder, Request, Response};
use url::Url;

use super::resolver::Resolver;
use super::{Lookup, Policy, Refused};

/// How long an unused connection is kept: its address was checked when it was opened.
const IDLE_TIME: Duration = Duration::from_secs(30);

/// Sends requests to public addresses only. For URLs of users and developers; the operator's own upstream has a client of its own.
#[derive(Clone)]
pub struct GuardedClient {
    http: Client,
    /// For the operator's exceptions on loopback, if there are any.
    loopback: Option<Client>,
    resolver: Resolver,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
pub enum GuardedError {
    /// The guard refuses; nothing was sent, and no other route may be tried for it.
    #[error(transparent)]
    Refused(#[from] Refused),
    /// The answer came from an address that the guard would have refused. The request has gone out, with its key: suspend the
    /// credential, and wake somebody.
    #[error("the answer came from {0}, which is not public")]
    Tripwire(String),
    /// Sent, or tried to.
    #[error(transparent)]
    Http(reqwest::Error),
}

impl GuardedClient {
    /// A client over what `builder` makes, which brings time-outs and the TLS set-up; what the guard needs is set here and wins.
    ///
    /// # Errors
    /// If the TLS set-up is not usable.
    pub fn new(
        builder: impl Fn() -> ClientBuilder,
        policy: Policy,
        lookup: impl Lookup,
    ) -> Result<Self, reqwest::Error> {
        // An earlier client of this process may have done so.
        let _set_already = rustls::crypto::ring::default_provider().install_default();
        let resolver = Resolver { policy: Arc::new(policy), lookup: Arc::new(lookup) };
        let http = harden(builder(), resolver.clone()).build()?;
        let loopback = if resolver.policy.loopback.is_empty() {
            None
        } else {
            Some(harden(builder(), resolver.clone()).https_only(false).build()?)
        };
        Ok(Self { http, loopback, resolver })
    }

    /// Checks an address that somebody wants to save: its form, and that its name leads to public addresses now. It is checked
    /// again on every connection, since names change what they mean.
    ///
    /// # Errors
    /// [`Refused`]
    pub async fn admit(&self, text: &str) -> Result<Url, Refused> {
        let url = self.resolver.policy.url_text(text)?;
        if url.query().is_some() {
            return Err(Refused::Query);
        }
        if let Some(name) = url.domain() {
            self.resolver.addresses(name).await?;
        }
        Ok(url)
    }

    /// Sends a request, if its URL may be used.
    ///
    /// # Errors
    /// [`GuardedError`]
    pub async fn execute(&self, request: Request) -> Result<Response, GuardedError> {
        // The resolver is not asked about addresses that stand in the URL.
        self.resolver.policy.url(request.url())?;
        if let (Some(named), Some(http)) = (self.resolver.policy.on_loopback(request.url()), &self.loopback) {
            let response = http.execute(request).await.map_err(sort)?;
            return if response.remote_addr() == Some(named) {
                Ok(response)
            } else {
                Err(GuardedError::Tripwire("elsewhere than loopback".to_owned()))
            };
        }
        let response = self.http.execute(request).await.map_err(sort)?;
        match response.remote_addr() {
            Some(remote) if self.resolver.policy.address(remote.ip()).is_ok() => Ok(response),
            Some(remote) => Err(GuardedError::Tripwire(remote.ip().to_string())),
            None => Err(GuardedError::Tripwire("an address that nobody knows".to_owned())),
        }
    }

    /// One that also speaks plain text, and whose own checks may differ from its resolver's.
    #[cfg(test)]
    pub(crate) fn over_plain_text(policy: Policy, resolver: Policy, lookup: impl Lookup) -> Self {
        let lookup: Arc<dyn Lookup> = Arc::new(lookup);
        let of = |policy| Resolver { policy: Arc::new(policy), lookup: Arc::clone(&lookup) };
        let http = harden(Client::builder(), of(resolver)).https_only(false).build().unwrap();
        Self { http, loopback: None, resolver: of(policy) }
    }
}

/// One resolver, no proxy of the environment, no redirect, no plain text, nothing sent twice behind our back.
fn harden(builder: ClientBuilder, resolver: Resolver) -> ClientBuilder {
    builder
        .dns_resolver(Arc::new(resolver))
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .retry(reqwest::retry::never())
        .https_only(true)
        .referer(false)
        .pool_idle_timeout(IDLE_TIME)
}

/// Finds what the resolver said.
fn sort(error: reqwest::Error) -> GuardedError {
    let mut source = error.source();
    while let Some(cause) = source {
        if let Some(refused) = cause.downcast_ref::<Refused>() {
            return GuardedError::Refused(refused.clone());
        }
        source = cause.source();
    }
    GuardedError::Http(error)
}
