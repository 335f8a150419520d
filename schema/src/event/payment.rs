//! Events of money that comes from outside and may go back: checkouts, refunds, disputes, receivables, and the payment provider's
//! own record of its balance, which is the second source (docs/PAYMENTS.md).

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use super::Balance;
use crate::entry::JournalEntry;
use crate::ids::{RefundId, TopUpId, WalletId, WriteOffId};
use crate::money::Money;
use crate::time::Timestamp;
use crate::token::short_hash;

/// The payment provider has a page on which the top-up can be paid.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUpCheckoutOpened {
    /// The top-up.
    pub top_up_id: TopUpId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The provider's id of the checkout.
    pub reference: String,
    /// Where the user pays.
    pub url: String,
}

/// Money is on its way back to the card. It has left the wallet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundRequested {
    /// The refund.
    pub refund_id: RefundId,
    /// The wallet that the payment went to.
    pub wallet_id: WalletId,
    /// The provider's id of the payment.
    pub payment: String,
    /// What goes back, in whole cents.
    pub amount: Money,
    /// The part that the wallet could not pay; only for refunds that were made at the provider.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub receivable: Money,
    /// The provider's id of the refund, if it was made there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// When the provider made it, if it was made there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// The provider has taken the refund on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundSent {
    /// The refund.
    pub refund_id: RefundId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The provider's id of the refund.
    pub reference: String,
}

/// The refund did not reach the card; the money is back.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RefundFailed {
    /// The refund.
    pub refund_id: RefundId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The provider's id of the payment.
    pub payment: String,
    /// What comes back.
    pub amount: Money,
    /// The part of it that lowers what the owner owes, not the wallet's.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub receivable: Money,
    /// Why.
    pub reason: String,
    /// When, by the provider's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// A customer disputes a payment: as much of it as is available is held until the dispute is closed.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisputeOpened {
    /// The provider's id of the dispute.
    pub dispute: String,
    /// The wallet that the payment went to.
    pub wallet_id: WalletId,
    /// The provider's id of the payment.
    pub payment: String,
    /// What is disputed.
    pub amount: Money,
    /// What is held of it.
    pub held: Money,
    /// Does it freeze the wallet? Not if that was frozen before.
    pub freezes: bool,
    /// The customer's reason, as the provider names it.
    pub reason: String,
    /// When, by the provider's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The wallet after it.
    pub balance: Balance,
}

/// The dispute is closed in our favour; what was held is free.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisputeWon {
    /// The provider's id of the dispute.
    pub dispute: String,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The provider's id of the payment.
    pub payment: String,
    /// What was held.
    pub released: Money,
    /// When, by the provider's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The wallet after it.
    pub balance: Balance,
}

/// The dispute is closed against us: the wallet pays what it can, its owner owes the rest.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DisputeLost {
    /// The provider's id of the dispute.
    pub dispute: String,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The provider's id of the payment.
    pub payment: String,
    /// What is lost.
    pub amount: Money,
    /// What was held.
    pub released: Money,
    /// The part that the wallet could not pay.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub receivable: Money,
    /// When, by the provider's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// Somebody wants a receivable to be given up. Somebody else has to agree.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WriteOffProposed {
    /// The proposal.
    pub write_off_id: WriteOffId,
    /// The wallet whose owner owes it.
    pub wallet_id: WalletId,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: String,
}

/// A receivable was given up.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReceivableWrittenOff {
    /// The proposal that was agreed to.
    pub write_off_id: WriteOffId,
    /// The wallet whose owner owed it.
    pub wallet_id: WalletId,
    /// How much.
    pub amount: Money,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet, as it was.
    pub balance: Balance,
}

/// What a movement of the provider's balance is. The provider calls it `reporting_category`; one without a template is refused,
/// never guessed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum TransactionCategory {
    /// A customer has paid.
    Charge,
    /// The provider's fees.
    Fee,
    /// Fees of card networks, passed on.
    NetworkCost,
    /// Money went back to a customer.
    Refund,
    /// It did not reach the customer.
    RefundFailure,
    /// Money was withdrawn for a dispute.
    Dispute,
    /// It was given back.
    DisputeReversal,
    /// The balance, or part of it, went to our bank.
    Payout,
    /// It did not reach the bank.
    PayoutReversal,
}

impl TransactionCategory {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Charge,
        Self::Fee,
        Self::NetworkCost,
        Self::Refund,
        Self::RefundFailure,
        Self::Dispute,
        Self::DisputeReversal,
        Self::Payout,
        Self::PayoutReversal,
    ];

    /// The provider's name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Charge => "charge",
            Self::Fee => "fee",
            Self::NetworkCost => "network_cost",
            Self::Refund => "refund",
            Self::RefundFailure => "refund_failure",
            Self::Dispute => "dispute",
            Self::DisputeReversal => "dispute_reversal",
            Self::Payout => "payout",
            Self::PayoutReversal => "payout_reversal",
        }
    }
}

/// The provider's own balance moved: the second source, which alone knows the fees.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct StripeTransactionRecorded {
    /// The provider's id of the movement; recorded once.
    pub transaction: String,
    /// What it is.
    pub category: TransactionCategory,
    /// The charge, refund, dispute or payout behind it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<String>,
    /// The payment that it belongs to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payment: Option<String>,
    /// Before fees; negative if money left.
    pub amount: Money,
    /// What the provider kept of it; negative if it gave a fee back.
    pub fee: Money,
    /// When, by the provider's clock.
    pub occurred_at: Timestamp,
    /// The postings.
    pub entry: JournalEntry,
}

impl StripeTransactionRecorded {
    /// The id of its stream, which has this one event.
    pub fn stream_id(&self) -> Uuid {
        short_hash(&[b"stripe transaction", self.transaction.as_bytes()])
    }
}
