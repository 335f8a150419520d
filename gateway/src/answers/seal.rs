//! The seal on kept answers: AES-256-GCM under a key of each call, derived from one secret, the app and the call. Answers of users are
//! nobody's business who can read the database or its backups.
//!
//! Format 1: one byte 0x01, a nonce of 12 bytes, the sealed bytes with their tag of 16.

use hmac::{Hmac, KeyInit as _, Mac as _};
use modelfaucet_schema::ids::{AppId, HoldId};
use ring::aead::{AES_256_GCM, Aad, LessSafeKey, NONCE_LEN, Nonce, UnboundKey};
use ring::rand::{SecureRandom as _, SystemRandom};
use secrecy::{ExposeSecret as _, SecretString};
use sha2::Sha256;

const FORMAT: u8 = 1;
const PURPOSE: &[u8] = b"modelfaucet.answer";

/// Seals and opens.
#[derive(Clone)]
pub struct Sealer {
    secret: SecretString,
    random: SystemRandom,
}

impl Sealer {
    /// With the operator's secret. Gateways that are to read each other's answers have the same.
    pub fn new(secret: SecretString) -> Self {
        Self { secret, random: SystemRandom::new() }
    }

    fn key(&self, app: AppId, call: HoldId) -> Option<LessSafeKey> {
        let mut mac = <Hmac<Sha256>>::new_from_slice(self.secret.expose_secret().as_bytes()).ok()?;
        for part in [PURPOSE, &[FORMAT], app.0.as_bytes(), call.0.as_bytes()] {
            mac.update(part);
        }
        let key: [u8; 32] = mac.finalize().into_bytes().into();
        UnboundKey::new(&AES_256_GCM, &key).ok().map(LessSafeKey::new)
    }

    /// `None` if the system has no randomness to give.
    pub(super) fn seal(&self, app: AppId, call: HoldId, mut plain: Vec<u8>) -> Option<Vec<u8>> {
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).ok()?;
        let aad = Aad::from([FORMAT]);
        self.key(app, call)?.seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), aad, &mut plain).ok()?;
        let mut sealed = Vec::with_capacity(1 + NONCE_LEN + plain.len());
        sealed.push(FORMAT);
        sealed.extend_from_slice(&nonce);
        sealed.extend_from_slice(&plain);
        Some(sealed)
    }

    /// `None` if it was sealed otherwise, or changed since.
    pub(super) fn open(&self, app: AppId, call: HoldId, mut sealed: Vec<u8>) -> Option<Vec<u8>> {
        if *sealed.first()? != FORMAT || sealed.len() < 1 + NONCE_LEN {
            return None;
        }
        let mut body = sealed.split_off(1 + NONCE_LEN);
        let nonce = Nonce::try_assume_unique_for_key(&sealed[1..]).ok()?;
        let length = self.key(app, call)?.open_in_place(nonce, Aad::from([FORMAT]), &mut body).ok()?.len();
        body.truncate(length);
        Some(body)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    #[test]
    fn only_the_same_secret_app_and_call_open_it_and_only_unchanged() {
        let sealer = Sealer::new("a secret of at least 32 characters".to_owned().into());
        let (app, call) = (AppId(Uuid::from_u128(1)), HoldId(Uuid::from_u128(2)));
        let plain = b"an answer".to_vec();
        let sealed = sealer.seal(app, call, plain.clone()).unwrap();
        assert_eq!(sealed.len(), 1 + 12 + plain.len() + 16);
        assert!(!sealed.windows(plain.len()).any(|window| window == plain));
        assert_eq!(sealer.open(app, call, sealed.clone()), Some(plain.clone()));
        assert_ne!(sealer.seal(app, call, plain).unwrap(), sealed, "a nonce of its own");
        for at in 0..sealed.len() {
            let mut changed = sealed.clone();
            changed[at] ^= 1;
            assert_eq!(sealer.open(app, call, changed), None, "{at}");
            assert_eq!(sealer.open(app, call, sealed[..at].to_vec()), None, "{at}");
        }
        let other = Sealer::new("another secret of 32 characters..".to_owned().into());
        assert_eq!(other.open(app, call, sealed.clone()), None);
        assert_eq!(sealer.open(AppId(Uuid::from_u128(3)), call, sealed.clone()), None);
        assert_eq!(sealer.open(app, HoldId(Uuid::from_u128(3)), sealed), None);
    }
}
