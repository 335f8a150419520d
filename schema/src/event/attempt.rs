//! Attempts: one call, and the requests to providers that were made for it. The first one is named by the hold; each later one has an
//! event of its own before it leaves, and long answers leave marks.

use serde::{Deserialize, Serialize};

use super::{Balance, Call, DisconnectPolicy, Route};
use crate::account::Name;
use crate::ids::{CredentialId, HoldId, WalletId};
use crate::money::Money;
use crate::time::Timestamp;
use crate::usage::Usage;

/// Does the provider bill an attempt?
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Billed {
    /// Certainly not: nothing was sent, or it was refused.
    No,
    /// Nobody knows until an invoice comes.
    #[default]
    Unknown,
    /// It answered.
    Yes,
}

impl Billed {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::No => "no",
            Self::Unknown => "unknown",
            Self::Yes => "yes",
        }
    }
}

/// Why an attempt did not give an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AttemptError {
    /// No connection: nothing was sent.
    Connect,
    /// No answer, or no further one, in time.
    TimedOut,
    /// The connection broke.
    Broken,
    /// A status that is no success.
    Status,
    /// An answer that is none: other content than was asked for, too large, or not readable.
    Malformed,
    /// The gateway died; what came of it is not known.
    Lost,
    /// The client had gone, so we closed it.
    ClientGone,
    /// The private-network guard refused the address, or the one that answered.
    Guard,
}

impl AttemptError {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::TimedOut => "timed_out",
            Self::Broken => "broken",
            Self::Status => "status",
            Self::Malformed => "malformed",
            Self::Lost => "lost",
            Self::ClientGone => "client_gone",
            Self::Guard => "guard",
        }
    }
}

/// One physical request to one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Whose key was used.
    #[serde(default, skip_serializing_if = "Route::is_platform")]
    pub route: Route,
    /// Who bills for it.
    pub provider: Name,
    /// The model that was asked for.
    pub model: String,
    /// The key of a developer or user that it was called with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
    /// When it began.
    pub started_at: Timestamp,
    /// Until the first byte of the answer, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub first_byte_ms: Option<u64>,
    /// Until its end, in milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub total_ms: Option<u64>,
    /// The HTTP status.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub status: Option<u16>,
    /// Why it did not give an answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<AttemptError>,
    /// Does the provider bill it?
    pub billed: Billed,
    /// The most that it can have cost us without anybody paying for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub exposure: Option<Money>,
}

/// An attempt failed and the next one begins; the provider may have been called again from here on. Its hold takes the place of the one
/// before.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptStarted {
    /// The hold.
    pub hold_id: HoldId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// Which attempt begins: 2, 3 …
    pub number: u32,
    /// How the one before it went.
    pub ended: Attempt,
    /// The call from now on: where the new attempt goes, and what prices it.
    pub call: Call,
    /// The most that the new attempt can use.
    pub bound: Usage,
    /// Where it goes: scheme, host and port, never a path or a key.
    pub origin: String,
    /// The key of a developer or user that it is called with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
    /// What happens when the client has gone.
    pub disconnect: DisconnectPolicy,
    /// The version of the table that the policy is from.
    pub policy_version: u32,
    /// The price of the bound.
    pub requested: Money,
    /// What was held so far.
    pub replaced: Money,
    /// What is held instead.
    pub amount: Money,
    /// The wallet after it.
    pub balance: Balance,
}

/// How far an attempt has come, so that a gateway that dies does not make it free. No money moves.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AttemptProgressed {
    /// The hold.
    pub hold_id: HoldId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// Which attempt: 1, 2, 3 …
    pub number: u32,
    /// Bytes of the answer so far.
    pub bytes: u64,
    /// What it has used so far, by our own count.
    pub usage: Usage,
    /// The version of our way of counting.
    pub counter: u32,
}
