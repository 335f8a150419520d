//! Provider keys in a process: the vault that the write side hands them to, the removal of what no event names, and the tools for
//! key-encryption keys.

mod tools;

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use modelfaucet_command::vault::{SealedTo, Vault, VaultError};
use modelfaucet_command::writer::Ledger;
use modelfaucet_gateway::ProviderKeys;
use modelfaucet_gateway::guard::{GuardedClient, Policy, SystemLookup};
use modelfaucet_gateway::port::{KeyUnavailable, KeyVault, SealedKey};
use modelfaucet_schema::ids::CredentialId;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_secrets::store::ProviderKey;
use modelfaucet_secrets::{Keyring, Store, StoreError};
use secrecy::SecretString;
use uuid::Uuid;

use crate::config::Config;
use crate::database;
use crate::exit::{Exit, Failure};

pub(crate) use tools::{KEK_FILE, KeysVerb, missing, run};

/// How long a ciphertext may be without an event: an append that is in doubt may take a while to be known.
const GRACE: Duration = Duration::from_secs(24 * 3_600);
/// How often they are looked for.
const LOOK_EVERY: Duration = Duration::from_secs(3_600);

/// The keeper of provider keys in this process. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Keeper {
    store: Arc<Store>,
    guard: GuardedClient,
}

impl Keeper {
    /// A keeper over the table of secrets, whose addresses pass this policy.
    pub(crate) fn new(database: tokio_postgres::Config, keys: Keyring, policy: Policy) -> Result<Self, Failure> {
        let client = || reqwest::Client::builder().connect_timeout(Duration::from_secs(3)).tcp_nodelay(true);
        let guard = GuardedClient::new(client, policy, SystemLookup)
            .map_err(|error| Failure::new(Exit::Config, format!("the HTTP client cannot be made: {error}")))?;
        Ok(Self { store: Arc::new(Store::new(database, Arc::new(keys))), guard })
    }

    /// The keeper of a single role, if its settings name one.
    pub(crate) async fn of(config: &Config) -> Result<Option<Self>, Failure> {
        match (config.secrets_database()?, config.keyring()?) {
            (None, None) => Ok(None),
            (Some(database), Some(keys)) => {
                database::check(&database, ServiceRole::Secrets).await?;
                Self::new(database, keys, config.provider_urls()?).map(Some)
            }
            _ => {
                Err(Failure::new(Exit::Config, "SECRETS_DATABASE_URL and SECRET_ENCRYPTION_KEY go together; set both"))
            }
        }
    }

    /// What the gateway needs to call with provider keys.
    pub(crate) fn provider_keys(&self) -> ProviderKeys {
        ProviderKeys { vault: Arc::new(self.clone()), client: self.guard.clone() }
    }

    /// Removes ciphertexts that no key in use needs, now and every hour, as long as the writer lives.
    pub(crate) async fn remove_strays(self, ledger: Ledger) {
        loop {
            match self.remove_strays_once(&ledger).await {
                Ok(0) => {}
                Ok(removed) => tracing::info!(removed, "sealed keys that no event names are removed"),
                Err(error) => tracing::warn!(%error, "sealed keys could not be removed; that is tried again"),
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    async fn remove_strays_once(&self, ledger: &Ledger) -> Result<usize, StoreError> {
        let mut after = CredentialId(Uuid::nil());
        let mut removed = 0;
        loop {
            let stored = self.store.stored_before(GRACE, after).await?;
            let Some(last) = stored.last() else { return Ok(removed) };
            after = *last;
            // Only what the log has now counts: another process may have appended the event.
            ledger.catch_up().await;
            let stray: Vec<_> = stored.into_iter().filter(|id| !ledger.directory().is_key_in_use(*id)).collect();
            self.store.remove(&stray).await?;
            removed += stray.len();
        }
    }
}

impl Vault for Keeper {
    fn admit(&self, base_url: String) -> BoxFuture<'_, Result<String, VaultError>> {
        async move {
            let url = self.guard.admit(&base_url).await.map_err(|refused| {
                metrics::counter!("gateway_guard_refusals_total", "reason" => refused.reason()).increment(1);
                VaultError::Refused(refused.outside())
            })?;
            Ok(url.origin().ascii_serialization())
        }
        .boxed()
    }

    fn put(&self, to: SealedTo, key: SecretString) -> BoxFuture<'_, Result<(), VaultError>> {
        async move {
            let place = ProviderKey { credential_id: to.credential_id, owner: to.owner, origin: &to.origin };
            self.store.put(place, &key).await.map_err(|error| {
                tracing::error!(%error, "a provider key could not be kept");
                VaultError::Unavailable
            })
        }
        .boxed()
    }

    fn forget(&self, credential_id: CredentialId) -> BoxFuture<'_, ()> {
        async move {
            if let Err(error) = self.store.remove(&[credential_id]).await {
                tracing::warn!(%error, "a sealed key could not be removed; that is tried again");
            }
        }
        .boxed()
    }
}

impl KeyVault for Keeper {
    fn open(&self, key: SealedKey) -> BoxFuture<'_, Result<SecretString, KeyUnavailable>> {
        async move {
            let place = ProviderKey { credential_id: key.credential_id, owner: key.owner, origin: &key.origin };
            self.store.get(place).await.map_err(|error| {
                tracing::error!(credential = %key.credential_id, %error, "a provider key cannot be opened");
                KeyUnavailable
            })
        }
        .boxed()
    }
}
