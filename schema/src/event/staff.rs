//! Events of the tokens of the people who run the ledger.

use serde::{Deserialize, Serialize};

use crate::ids::TokenId;
use crate::staff::StaffRole;
use crate::time::Timestamp;
use crate::token::TokenHash;

/// Somebody who runs the ledger got a token. Only its hash is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaffTokenIssued {
    /// The token's id.
    pub token_id: TokenId,
    /// Whose it is: a person or a machine, as the issuer calls it.
    pub name: String,
    /// What it may do. Never changes.
    pub role: StaffRole,
    /// SHA-256 of the token.
    pub token_hash: TokenHash,
    /// The first characters, to recognise it by.
    pub token_prefix: String,
    /// When it ends, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A staff token is refused from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StaffTokenRevoked {
    /// The token's id.
    pub token_id: TokenId,
}
