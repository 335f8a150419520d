//! The ways to targets: which client may reach a target and which key it is called with. The platform's router is reached by a client
//! of its own, whose address comes from configuration; it is never used for an address that a user or a developer named. Those are
//! reached through the guard, with the key that belongs to that address and no other.

use std::sync::Arc;
use std::time::Duration;

use crate::guard::GuardedClient;
use crate::options::{Platform, Timeouts};
use crate::plan::Target;
use crate::port::{KeyVault, SealedKey};
use crate::read_model::ReadModel;
use crate::upstream::{Failure, Upstream, UpstreamError};

/// What calls with keys of users and developers need.
#[derive(Clone)]
pub struct ProviderKeys {
    /// Opens the keys.
    pub vault: Arc<dyn KeyVault>,
    /// Reaches their providers.
    pub client: GuardedClient,
}

/// The ways.
pub(crate) struct Upstreams {
    platform: Upstream,
    keys: Option<ProviderKeys>,
    model: Arc<ReadModel>,
}

impl Upstreams {
    /// The ways of a gateway; without `keys` only the platform's.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) fn new(
        platform: &Platform,
        timeouts: &Timeouts,
        keys: Option<ProviderKeys>,
        model: Arc<ReadModel>,
    ) -> Result<Self, UpstreamError> {
        Ok(Self { platform: Upstream::new(platform, timeouts)?, keys, model })
    }

    /// The way to a target, for one attempt. A key is opened here, and lives as long as the attempt.
    ///
    /// # Errors
    /// [`Failure`] if there is none: nothing is sent, and the attempt has failed.
    pub(crate) async fn to(&self, target: &Target) -> Result<Upstream, Failure> {
        let Some(credential_id) = target.credential else { return Ok(self.platform.clone()) };
        let keys = self.keys.as_ref().ok_or_else(Failure::no_key)?;
        // Disabled meanwhile: then it is not here any more.
        let key = self.model.key(credential_id).ok_or_else(Failure::no_key)?;
        let sealed = SealedKey { credential_id, owner: key.owner, origin: key.origin.clone() };
        let secret = keys.vault.open(sealed).await.map_err(|_| Failure::no_key())?;
        Upstream::guarded(&keys.client, &key, target.route, &secret).ok_or_else(Failure::no_key)
    }

    /// Is the platform's provider there?
    pub(crate) async fn probe(&self, limit: Duration) -> (Option<u16>, Option<&'static str>) {
        self.platform.probe(limit).await
    }
}
