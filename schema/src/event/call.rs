//! Calls through the gateway: how a call was sent and how it went. Facts for people and reports; no balance is computed from them.

use serde::{Deserialize, Serialize};

use crate::account::Name;
use crate::ids::{CredentialId, EpochId, GatewayId};
use crate::money::Money;
use crate::time::Timestamp;
use crate::usage::Usage;

/// What happens upstream when the client has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectPolicy {
    /// The answer is read to its end and charged.
    #[default]
    Drain,
}

/// How a call leaves the gateway; stamped on its hold. From here on the provider may have been called.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dispatch {
    /// The gateway that owns the hold: nobody else ends it.
    pub gateway: GatewayId,
    /// The life of that gateway's process; a later one finds the holds that an earlier one left.
    pub epoch: EpochId,
    /// What the app called.
    pub endpoint: Endpoint,
    /// The most that the call can use.
    pub bound: Usage,
    /// Where attempt 1 goes: scheme, host and port, never a path or a key.
    pub origin: String,
    /// The key of a user or developer that it is sent with; absent: the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential_id: Option<CredentialId>,
    /// What happens when the client has gone.
    pub disconnect: DisconnectPolicy,
    /// The version of the table that the policy is from.
    pub policy_version: u32,
}

/// What an app called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoint {
    /// `POST /v1/chat/completions`.
    ChatCompletions,
    /// `POST /v1/responses`.
    Responses,
    /// `POST /v1/embeddings`.
    Embeddings,
}

impl Endpoint {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::ChatCompletions => "chat_completions",
            Self::Responses => "responses",
            Self::Embeddings => "embeddings",
        }
    }
}

/// Where the counts of a usage come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum UsageSource {
    /// The provider named them.
    #[default]
    Provider,
    /// We counted what was delivered.
    Estimated,
}

impl UsageSource {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Provider => "provider",
            Self::Estimated => "estimated",
        }
    }
}

/// What is strange about a usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Anomaly {
    /// The answer ended well and named no usage.
    Missing,
    /// Nothing was counted beside content that was delivered.
    ZeroBesideContent,
    /// A part is larger than its whole.
    PartAboveWhole,
    /// A count is negative, not whole, or above every limit.
    OutOfRange,
    /// The total is not the sum of its parts.
    TotalDiffers,
    /// Something was counted that the rate card has no price for; it was priced as the dearest of its side.
    Unpriced,
}

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
    /// The private-network guard refused the address, or the one that answered.
    Guard,
}

/// One physical request to one provider.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attempt {
    /// Who bills for it.
    pub provider: Name,
    /// The model that was asked for.
    pub model: String,
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

/// How a call went.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CallOutcome {
    /// Every request that was made for it, in order.
    pub attempts: Vec<Attempt>,
    /// Where the counts come from; absent: nothing was charged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<UsageSource>,
    /// What was strange about them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub anomalies: Vec<Anomaly>,
    /// The provider's own usage object, as it came.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reported: Option<String>,
    /// The model that answered, where that is another text than the one asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_model: Option<String>,
    /// Did the answer break off?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub interrupted: bool,
    /// Had the client gone before the end?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub client_gone: bool,
}
