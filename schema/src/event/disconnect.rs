//! What happens upstream when a client leaves amid its call: a fact about each provider, kept as versioned data.

use serde::{Deserialize, Serialize};

use super::{Endpoint, Route};
use crate::account::Name;

/// What happens upstream when the client has gone. An answer in one piece cannot be cut: it is always drained.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum DisconnectPolicy {
    /// The answer is read to its end and charged: the provider bills it anyway, or nobody has measured that it does not.
    #[default]
    Drain,
    /// The answer is cut and charged as far as it came, by our own count: cutting was measured to stop the bill.
    BillToHere,
    /// As long as no content has reached the client the answer is cut and nothing is charged; afterwards as `bill_to_here`, or leaving
    /// would be free tokens.
    Cancel,
}

impl DisconnectPolicy {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Drain => "drain",
            Self::BillToHere => "bill_to_here",
            Self::Cancel => "cancel",
        }
    }
}

/// The policy of a provider's endpoint on a route from now on. The table that begins empty, with `drain` everywhere, has version 1; each of
/// these events makes the next.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisconnectPolicySet {
    /// The provider.
    pub provider: Name,
    /// What apps call.
    pub endpoint: Endpoint,
    /// Whose key is used.
    pub route: Route,
    /// What happens.
    pub policy: DisconnectPolicy,
    /// The version of the table from now on.
    pub version: u32,
    /// Why: what was measured.
    pub reason: String,
}
