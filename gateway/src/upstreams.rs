//! The ways to targets: which client may reach a target and which key it is called with. The platform's router is reached by a client
//! of its own, whose address comes from configuration; it is never used for an address that a user or a developer named.

use std::time::Duration;

use crate::options::{Platform, Timeouts};
use crate::plan::Target;
use crate::upstream::{Failure, Upstream, UpstreamError};

/// The ways.
#[derive(Debug)]
pub(crate) struct Upstreams {
    platform: Upstream,
}

impl Upstreams {
    /// The ways of a gateway.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) fn new(platform: &Platform, timeouts: &Timeouts) -> Result<Self, UpstreamError> {
        Ok(Self { platform: Upstream::new(platform, timeouts)? })
    }

    /// The way to a target, for one attempt. A key is opened here, and lives as long as the attempt.
    ///
    /// # Errors
    /// [`Failure`] if there is none: nothing is sent, and the attempt has failed.
    #[expect(clippy::unused_async, reason = "keys of developers and users are fetched and opened for each attempt")]
    pub(crate) async fn to(&self, target: &Target) -> Result<Upstream, Failure> {
        match target.credential {
            None => Ok(self.platform.clone()),
            Some(_) => Err(Failure::not_sent()),
        }
    }

    /// Is the platform's provider there?
    pub(crate) async fn probe(&self, limit: Duration) -> (Option<u16>, Option<&'static str>) {
        self.platform.probe(limit).await
    }
}
