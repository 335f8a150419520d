//! Looking names up, once per connection: every answer must be public, else none is used; what was checked is what is dialled.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use reqwest::dns::{Addrs, Name, Resolve, Resolving};

use super::{Policy, Refused};

/// How long a look-up may take.
const LOOKUP_TIME: Duration = Duration::from_secs(5);
/// The most answers that are looked at.
const MAX_ANSWERS: usize = 64;

/// The answers to a question.
pub type Answers = Pin<Box<dyn Future<Output = io::Result<Vec<IpAddr>>> + Send>>;

/// Looks names up.
pub trait Lookup: Send + Sync + 'static {
    /// All addresses of an absolute name (it ends with a dot, so no search list is tried).
    fn lookup(&self, absolute: String) -> Answers;
}

/// The system's resolver: A and AAAA.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemLookup;

impl Lookup for SystemLookup {
    fn lookup(&self, absolute: String) -> Answers {
        Box::pin(async move {
            let answers = tokio::net::lookup_host((absolute, 0)).await?;
            Ok(answers.map(|answer| answer.ip()).collect())
        })
    }
}

/// Looks up and checks.
#[derive(Clone)]
pub(super) struct Resolver {
    pub(super) policy: Arc<Policy>,
    pub(super) lookup: Arc<dyn Lookup>,
}

impl Resolver {
    /// The addresses of a name, if all of them are public.
    pub(super) async fn addresses(&self, name: &str) -> Result<Vec<IpAddr>, Refused> {
        let relative = name.strip_suffix('.').unwrap_or(name);
        self.policy.name(relative)?;
        let question = self.lookup.lookup(format!("{relative}."));
        let answers = match tokio::time::timeout(LOOKUP_TIME, question).await {
            Ok(Ok(answers)) => answers,
            Ok(Err(error)) => return Err(Refused::NotFound(error.to_string())),
            Err(_) => return Err(Refused::NotFound(format!("no answer within {} s", LOOKUP_TIME.as_secs()))),
        };
        if answers.is_empty() || answers.len() > MAX_ANSWERS {
            return Err(Refused::NotFound(format!("{} addresses", answers.len())));
        }
        for answer in &answers {
            self.policy.address(*answer)?;
        }
        Ok(answers)
    }
}

impl Resolve for Resolver {
    fn resolve(&self, name: Name) -> Resolving {
        let resolver = self.clone();
        Box::pin(async move {
            let answers = resolver.addresses(name.as_str()).await?;
            // The port is the connection's own.
            let answers: Addrs = Box::new(answers.into_iter().map(|answer| SocketAddr::new(answer, 0)));
            Ok(answers)
        })
    }
}
