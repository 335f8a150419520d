//! The envelope, format 1: a secret is sealed with a data key of its own, and the data key with a key-encryption key.
//!
//! `0x01` · id of the key-encryption key (4 bytes, big endian) · nonce (12), sealed data key (32 + 16) · nonce (12), sealed secret
//! (n + 16). Both seals are AES-256-GCM. Their associated data says what the secret is for, so that a ciphertext that is moved to
//! another row, owner or purpose does not open.

use ring::aead::{AES_256_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use secrecy::{ExposeSecret as _, ExposeSecretMut as _, SecretBox, SecretSlice, SecretString};

use crate::keyring::{KekId, KeyEncryption};

/// Bytes that sealing adds.
pub const OVERHEAD: usize = HEAD + WRAPPED + NONCE + TAG;
/// The only format there is.
const FORMAT: u8 = 1;
/// What begins the associated data.
const DOMAIN: &[u8] = b"modelfaucet.secret";
const NONCE: usize = 12;
const TAG: usize = 16;
const DATA_KEY: usize = 32;
/// Format and key id.
const HEAD: usize = 1 + 4;
/// A sealed data key with its nonce.
const WRAPPED: usize = NONCE + DATA_KEY + TAG;

/// What a secret is for. All of it is needed again to open it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Place<'a> {
    /// Whose secret it is.
    pub owner: &'a str,
    /// The table of its row.
    pub table: &'a str,
    /// Its row.
    pub row: &'a [u8],
    /// What it may be used for; for a provider key also the origin that it may be sent to.
    pub purpose: &'a str,
}

/// Why a secret could not be sealed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SealError {
    /// A part of the place has more than 65,535 bytes.
    #[error("owner, table, row or purpose is too long")]
    PlaceTooLong,
    /// The system has no randomness to give.
    #[error("the system has no randomness to give")]
    NoRandomness,
    /// There is no key to seal with, or the cipher refuses.
    #[error("the secret could not be sealed")]
    Failed,
}

/// Why a sealed secret could not be opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OpenError {
    /// Sealed by a newer program, or no sealed secret at all.
    #[error("the sealed secret has an unknown format")]
    UnknownFormat,
    /// The key-encryption key is not among ours.
    #[error("the secret was sealed under key {0}, which this program does not have")]
    UnknownKek(KekId),
    /// Cut, altered, or moved from another place.
    #[error("the sealed secret does not open: it was altered, or belongs elsewhere")]
    Damaged,
}

/// What is random about a sealed secret.
pub struct Fresh {
    data_key: SecretBox<[u8; DATA_KEY]>,
    key_nonce: [u8; NONCE],
    body_nonce: [u8; NONCE],
}

impl Fresh {
    /// From the system.
    ///
    /// # Errors
    /// [`SealError::NoRandomness`].
    pub fn draw() -> Result<Self, SealError> {
        let mut failed = false;
        let data_key = SecretBox::init_with_mut(|key: &mut [u8; DATA_KEY]| failed = getrandom::fill(key).is_err());
        let (mut key_nonce, mut body_nonce) = ([0; NONCE], [0; NONCE]);
        failed |= getrandom::fill(&mut key_nonce).is_err() || getrandom::fill(&mut body_nonce).is_err();
        if failed { Err(SealError::NoRandomness) } else { Ok(Self { data_key, key_nonce, body_nonce }) }
    }

    /// Not random at all: for known answers.
    #[cfg(test)]
    fn fixed(data_key: u8, key_nonce: u8, body_nonce: u8) -> Self {
        Self {
            data_key: SecretBox::init_with_mut(|key: &mut [u8; DATA_KEY]| key.fill(data_key)),
            key_nonce: [key_nonce; NONCE],
            body_nonce: [body_nonce; NONCE],
        }
    }
}

/// Which of the two seals.
#[derive(Clone, Copy)]
enum Part {
    Key = 1,
    Body = 2,
}

/// The associated data: domain, format, key id, part, and the place with the length of each of its parts.
fn associated(kek: KekId, part: Part, place: &Place<'_>) -> Option<Vec<u8>> {
    let mut data = Vec::with_capacity(256);
    data.extend_from_slice(DOMAIN);
    data.push(FORMAT);
    data.extend_from_slice(&kek.0.to_be_bytes());
    data.push(part as u8);
    for text in [place.owner.as_bytes(), place.table.as_bytes(), place.row, place.purpose.as_bytes()] {
        data.extend_from_slice(&u16::try_from(text.len()).ok()?.to_be_bytes());
        data.extend_from_slice(text);
    }
    Some(data)
}

/// A key of the cipher. Its round keys live on the stack of one seal.
pub(crate) fn cipher(key: &[u8; DATA_KEY]) -> Option<LessSafeKey> {
    UnboundKey::new(&AES_256_GCM, key).ok().map(LessSafeKey::new)
}

/// Seals `bytes` in place and returns the tag.
pub(crate) fn encrypt(key: &LessSafeKey, nonce: [u8; NONCE], data: &[u8], bytes: &mut [u8]) -> Option<[u8; TAG]> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    let tag = key.seal_in_place_separate_tag(nonce, Aad::from(data), bytes).ok()?;
    tag.as_ref().try_into().ok()
}

/// Opens `bytes`, whose last 16 are the tag, in place; the plain text is what stands before them.
pub(crate) fn decrypt(key: &LessSafeKey, nonce: [u8; NONCE], data: &[u8], bytes: &mut [u8]) -> Option<usize> {
    let nonce = Nonce::assume_unique_for_key(nonce);
    key.open_in_place(nonce, Aad::from(data), bytes).ok().map(|plain| plain.len())
}

/// Seals a secret for a place under the current key. `fresh` is used once.
///
/// # Errors
/// [`SealError`].
pub fn seal(
    keys: &dyn KeyEncryption,
    place: &Place<'_>,
    fresh: Fresh,
    secret: &SecretString,
) -> Result<Vec<u8>, SealError> {
    let Fresh { data_key, key_nonce, body_nonce } = fresh;
    let kek = keys.current();
    let data = |part| associated(kek, part, place).ok_or(SealError::PlaceTooLong);
    let plain = secret.expose_secret().as_bytes();
    let mut sealed = Vec::with_capacity(OVERHEAD + plain.len());
    sealed.push(FORMAT);
    sealed.extend_from_slice(&kek.0.to_be_bytes());
    sealed.extend_from_slice(&key_nonce);
    let wrapped = keys.wrap(kek, key_nonce, &data(Part::Key)?, &data_key).ok_or(SealError::Failed)?;
    sealed.extend_from_slice(&wrapped);
    sealed.extend_from_slice(&body_nonce);
    // The plain text goes into memory that is cleaned, not into the growing ciphertext.
    let mut body = SecretSlice::from(plain.to_vec());
    let key = cipher(data_key.expose_secret()).ok_or(SealError::Failed)?;
    let tag = encrypt(&key, body_nonce, &data(Part::Body)?, body.expose_secret_mut()).ok_or(SealError::Failed)?;
    sealed.extend_from_slice(body.expose_secret());
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

/// Opens a secret that was sealed for this place.
///
/// # Errors
/// [`OpenError`]; never a panic, whatever the bytes are.
pub fn open(keys: &dyn KeyEncryption, place: &Place<'_>, sealed: &[u8]) -> Result<SecretString, OpenError> {
    let kek = kek_of(sealed)?;
    if !keys.has(kek) {
        return Err(OpenError::UnknownKek(kek));
    }
    let (wrapped, rest) = sealed[HEAD..].split_at_checked(WRAPPED).ok_or(OpenError::Damaged)?;
    let (key_nonce, wrapped) = wrapped.split_first_chunk::<NONCE>().ok_or(OpenError::Damaged)?;
    let wrapped: &[u8; DATA_KEY + TAG] = wrapped.try_into().map_err(|_| OpenError::Damaged)?;
    let (body_nonce, body) = rest.split_first_chunk::<NONCE>().ok_or(OpenError::Damaged)?;
    let data = |part| associated(kek, part, place).ok_or(OpenError::Damaged);
    let data_key = keys.unwrap(kek, *key_nonce, &data(Part::Key)?, wrapped).ok_or(OpenError::Damaged)?;
    let key = cipher(data_key.expose_secret()).ok_or(OpenError::Damaged)?;
    let mut opened = SecretSlice::from(body.to_vec());
    let length =
        decrypt(&key, *body_nonce, &data(Part::Body)?, opened.expose_secret_mut()).ok_or(OpenError::Damaged)?;
    let plain = opened.expose_secret().get(..length).ok_or(OpenError::Damaged)?;
    std::str::from_utf8(plain).map(SecretString::from).map_err(|_| OpenError::Damaged)
}

/// The key-encryption key that a secret was sealed under.
///
/// # Errors
/// [`OpenError::UnknownFormat`], [`OpenError::Damaged`].
pub fn kek_of(sealed: &[u8]) -> Result<KekId, OpenError> {
    match sealed {
        [FORMAT, a, b, c, d, ..] => Ok(KekId(u32::from_be_bytes([*a, *b, *c, *d]))),
        [FORMAT, ..] | [] => Err(OpenError::Damaged),
        [_, ..] => Err(OpenError::UnknownFormat),
    }
}

#[cfg(test)]
mod tests;
