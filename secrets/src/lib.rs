//! Secrets that have to be given back: provider keys, encrypted at rest.
//!
//! [`envelope`] seals and opens, without I/O; [`keyring`] has the keys that data keys are sealed with; [`store`] keeps the ciphertexts in a
//! table of its own, as a database role of its own. Nothing here can be printed or serialized but ciphertexts.

pub mod envelope;
pub mod keyring;
pub mod store;

pub use envelope::{OpenError, Place, SealError};
pub use keyring::{KekId, KeyEncryption, Keyring};
pub use store::{Store, StoreError};
