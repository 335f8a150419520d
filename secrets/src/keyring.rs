//! Key-encryption keys: the one that seals, and older ones that still open.

use std::collections::BTreeMap;
use std::fmt;

use secrecy::{ExposeSecret as _, ExposeSecretMut as _, SecretBox, SecretSlice, SecretString};
use sha2::{Digest as _, Sha256};

use crate::envelope::{cipher, decrypt, encrypt};

/// The shortest text of a key.
const MIN_TEXT: usize = 32;

/// Names a key-encryption key; part of every sealed secret.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct KekId(pub u32);

impl fmt::Display for KekId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Seals and opens data keys. The keys that do it may be here or in a key service; they never come out.
pub trait KeyEncryption: Send + Sync {
    /// The key that seals.
    fn current(&self) -> KekId;

    /// Is there such a key?
    fn has(&self, kek: KekId) -> bool;

    /// Seals a data key; `None` if there is no such key.
    fn wrap(&self, kek: KekId, nonce: [u8; 12], data: &[u8], data_key: &SecretBox<[u8; 32]>) -> Option<[u8; 48]>;

    /// Opens a data key; `None` if there is no such key or it does not open.
    fn unwrap(&self, kek: KekId, nonce: [u8; 12], data: &[u8], wrapped: &[u8; 48]) -> Option<SecretBox<[u8; 32]>>;
}

/// Keys from a setting or a file.
pub struct Keyring {
    current: KekId,
    keys: BTreeMap<KekId, SecretBox<[u8; 32]>>,
}

/// A text that is no list of keys. Never quotes one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidKeyring {
    /// No key at all.
    #[error("has no key")]
    Empty,
    /// A key that could be guessed.
    #[error("key {0} needs at least 32 characters")]
    Short(KekId),
    /// An id that is no number of 32 bits above zero.
    #[error("a key's id must be a number from 1 to 4294967295, as in 2:KEY")]
    Id,
    /// Two keys of one id.
    #[error("key {0} is there twice")]
    Twice(KekId),
}

impl Keyring {
    /// Reads keys, divided by blanks, commas or line ends, each as `ID:KEY` or, for id 1, as `KEY` alone. The first one seals. A key is
    /// any text of 32 characters or more; the cipher's key is its SHA-256, so a text should have 256 random bits.
    ///
    /// # Errors
    /// [`InvalidKeyring`].
    pub fn parse(text: &SecretString) -> Result<Self, InvalidKeyring> {
        let mut current = None;
        let mut keys = BTreeMap::new();
        let entries = text.expose_secret().split(|c: char| c.is_whitespace() || c == ',');
        for entry in entries.filter(|entry| !entry.is_empty()) {
            let (id, key) = match entry.split_once(':') {
                Some((id, key)) => (id.parse().ok().filter(|id| *id > 0).map(KekId).ok_or(InvalidKeyring::Id)?, key),
                None => (KekId(1), entry),
            };
            if key.len() < MIN_TEXT {
                return Err(InvalidKeyring::Short(id));
            }
            let key = SecretBox::init_with_mut(|bytes: &mut [u8; 32]| bytes.copy_from_slice(&Sha256::digest(key)));
            if keys.insert(id, key).is_some() {
                return Err(InvalidKeyring::Twice(id));
            }
            current.get_or_insert(id);
        }
        Ok(Self { current: current.ok_or(InvalidKeyring::Empty)?, keys })
    }

    /// The ids of all keys, in order.
    pub fn ids(&self) -> impl Iterator<Item = KekId> {
        self.keys.keys().copied()
    }
}

impl KeyEncryption for Keyring {
    fn current(&self) -> KekId {
        self.current
    }

    fn has(&self, kek: KekId) -> bool {
        self.keys.contains_key(&kek)
    }

    fn wrap(&self, kek: KekId, nonce: [u8; 12], data: &[u8], data_key: &SecretBox<[u8; 32]>) -> Option<[u8; 48]> {
        let key = cipher(self.keys.get(&kek)?.expose_secret())?;
        let mut bytes =
            SecretBox::init_with_mut(|bytes: &mut [u8; 32]| bytes.copy_from_slice(data_key.expose_secret()));
        let tag = encrypt(&key, nonce, data, bytes.expose_secret_mut())?;
        let mut wrapped = [0; 48];
        wrapped[..32].copy_from_slice(bytes.expose_secret());
        wrapped[32..].copy_from_slice(&tag);
        Some(wrapped)
    }

    fn unwrap(&self, kek: KekId, nonce: [u8; 12], data: &[u8], wrapped: &[u8; 48]) -> Option<SecretBox<[u8; 32]>> {
        let key = cipher(self.keys.get(&kek)?.expose_secret())?;
        let mut bytes = SecretSlice::from(wrapped.to_vec());
        let length = decrypt(&key, nonce, data, bytes.expose_secret_mut())?;
        let plain: &[u8; 32] = bytes.expose_secret().get(..length)?.try_into().ok()?;
        Some(SecretBox::init_with_mut(|data_key: &mut [u8; 32]| data_key.copy_from_slice(plain)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(text: &str) -> Result<(u32, Vec<u32>), InvalidKeyring> {
        let keyring = Keyring::parse(&SecretString::from(text))?;
        Ok((keyring.current().0, keyring.ids().map(|id| id.0).collect()))
    }

    #[test]
    fn the_first_key_seals_and_all_open() {
        let key = "k".repeat(32);
        assert_eq!(ids(&key), Ok((1, vec![1])));
        assert_eq!(ids(&format!("  7:{key}\n{key},\r\n 4294967295:{key} ")), Ok((7, vec![1, 7, 4_294_967_295])));
        assert_eq!(ids(&format!("2:{key}:with:colons")), Ok((2, vec![2])));
    }

    #[test]
    fn what_is_no_key_is_refused_without_being_quoted() {
        let key = "k".repeat(32);
        assert_eq!(ids(" \n"), Err(InvalidKeyring::Empty));
        assert_eq!(ids("change-me"), Err(InvalidKeyring::Short(KekId(1))));
        assert_eq!(ids(&format!("3:{}", &key[1..])), Err(InvalidKeyring::Short(KekId(3))));
        for id in ["0", "4294967296", "-1", "", "x"] {
            assert_eq!(ids(&format!("{id}:{key}")), Err(InvalidKeyring::Id), "{id}");
        }
        assert_eq!(ids(&format!("1:{key} {key}")), Err(InvalidKeyring::Twice(KekId(1))));
        let refused = Keyring::parse(&SecretString::from("hunter2")).err().unwrap();
        assert!(!format!("{refused} {refused:?}").contains("hunter2"));
    }
}
