//! Calls through the gateway: how a call was sent and how it went. Facts for people and reports; no balance is computed from them.

use serde::{Deserialize, Serialize};

use super::{Attempt, DisconnectPolicy};
use crate::ids::{CredentialId, EpochId, GatewayId};
use crate::usage::Usage;

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
    /// What the input probably comes to, in tokens: what an attempt that got no answer is taken to have cost.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<u64>,
    /// Where attempt 1 goes: scheme, host and port, never a path or a key.
    pub origin: String,
    /// The key of a developer or user that attempt 1 is called with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
    /// What happens when the client has gone. The ledger stamps it, whatever is asked for.
    pub disconnect: DisconnectPolicy,
    /// The version of the table that the policy is from.
    pub policy_version: u32,
}

/// What an app called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
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
    /// The model that served the call has no price; it was priced as the one that was asked for.
    ServedModelUnpriced,
    /// The service tier that served the call has no price; it was priced as the one that was held for.
    ServedTierUnpriced,
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
    /// By which policy the answer was cut when the client had gone; absent: it was not.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cut: Option<DisconnectPolicy>,
}
