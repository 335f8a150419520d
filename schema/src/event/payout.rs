//! Events of payouts to developers: requested, approved by somebody else, and one end, from which a paid one may still come back.

use serde::{Deserialize, Serialize};

use crate::account::Name;
use crate::entry::JournalEntry;
use crate::ids::{DeveloperId, PayoutId};
use crate::money::Money;
use crate::time::Timestamp;

/// Why a payout was requested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum PayoutTrigger {
    /// What is owed has reached the threshold.
    Threshold,
    /// Somebody asked for it.
    Hand,
}

impl PayoutTrigger {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Threshold => "threshold",
            Self::Hand => "hand",
        }
    }
}

/// Part of what a developer is owed is reserved for a payout.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutRequested {
    /// The payout.
    pub payout_id: PayoutId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// Whole cents; what is left waits.
    pub amount: Money,
    /// Who pays it out.
    pub provider: Name,
    /// Why.
    pub trigger: PayoutTrigger,
    /// The postings.
    pub entry: JournalEntry,
}

/// Somebody other than who requested it agrees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutApproved {
    /// The payout.
    pub payout_id: PayoutId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// How much.
    pub amount: Money,
    /// Who pays it out.
    pub provider: Name,
    /// What the approver wrote.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub note: Option<String>,
}

/// The money has left.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutPaid {
    /// The payout.
    pub payout_id: PayoutId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// How much the developer gets.
    pub amount: Money,
    /// Who paid it out.
    pub provider: Name,
    /// The provider's or bank's id of the payment: the outside record that proves it.
    pub reference: String,
    /// What the payment cost.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub fee: Money,
    /// When it was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
}

/// The money did not leave; the developer is owed it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutFailed {
    /// The payout.
    pub payout_id: PayoutId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: String,
    /// The postings.
    pub entry: JournalEntry,
}

/// Nobody wants the payout any more; the developer is owed it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutCancelled {
    /// The payout.
    pub payout_id: PayoutId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: String,
    /// The postings.
    pub entry: JournalEntry,
}

/// The money came back; the developer is owed it again.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PayoutReturned {
    /// The payout.
    pub payout_id: PayoutId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: String,
    /// The provider's or bank's id of the return.
    pub reference: String,
    /// When it came back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
}
