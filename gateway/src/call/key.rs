//! A client's idempotency key.

use modelfaucet_schema::event::KeyUse;
use modelfaucet_schema::token::short_hash;
use sha2::{Digest as _, Sha256};

use super::Job;

/// A client's idempotency key and what it was used for.
#[derive(Clone, Debug)]
pub(crate) struct ClientKey {
    text: String,
    body: [u8; 32],
}

impl ClientKey {
    /// The key for a body.
    pub(crate) fn new(text: &str, body: &[u8]) -> Self {
        Self { text: text.to_owned(), body: Sha256::digest(body).into() }
    }

    /// The key of one generation: a call that was given back without charge makes room for the next.
    pub(super) fn of(&self, job: &Job, generation: u32) -> KeyUse {
        let wallet = job.session.wallet_id.0;
        let endpoint = job.request.endpoint.name().as_bytes();
        KeyUse {
            key: short_hash(&[
                b"gateway",
                wallet.as_bytes(),
                endpoint,
                self.text.as_bytes(),
                &generation.to_be_bytes(),
            ]),
            fingerprint: short_hash(&[b"gateway_begin_call", endpoint, &self.body]),
        }
    }
}
