//! Where provider keys are kept, as this crate sees it: it hands a key over and never gets one back. The binary implements it; here
//! is neither cryptography nor the table of the ciphertexts.

use futures_util::future::BoxFuture;
use modelfaucet_schema::event::CredentialOwner;
use modelfaucet_schema::ids::CredentialId;
use secrecy::SecretString;

/// What a key is sealed to: it can be opened for nothing else.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedTo {
    /// The key's id.
    pub credential_id: CredentialId,
    /// Whose it is.
    pub owner: CredentialOwner,
    /// Scheme, host and port that it may be sent to.
    pub origin: String,
}

/// Why a vault did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VaultError {
    /// The address may not be called; the text completes "`base_url` …" for whoever named it.
    #[error("{0}")]
    Refused(String),
    /// It cannot be reached, or there is none.
    #[error("provider keys cannot be kept now")]
    Unavailable,
}

/// Keeps provider keys encrypted.
pub trait Vault: Send + Sync {
    /// Decides an address that somebody named for a key, and says its origin.
    fn admit(&self, base_url: String) -> BoxFuture<'_, Result<String, VaultError>>;

    /// Seals a key and keeps it. Before the event that makes it usable: a row without one is removed later.
    fn put(&self, to: SealedTo, key: SecretString) -> BoxFuture<'_, Result<(), VaultError>>;

    /// Forgets a key that no event names, or that was disabled. What fails is left to the sweep.
    fn forget(&self, credential_id: CredentialId) -> BoxFuture<'_, ()>;
}
