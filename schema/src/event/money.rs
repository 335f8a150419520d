//! Events that move or set aside money. Each carries its balanced entry and the wallet's balance after it.

use serde::{Deserialize, Serialize};

use super::{CallOutcome, Dispatch, RateCardId, ServiceTier};
use crate::account::Name;
use crate::entry::JournalEntry;
use crate::ids::{AdjustmentId, AppId, HoldId, PromoId, SessionId, TopUpId, UsageId, WalletId};
use crate::money::{BasisPoints, Money};
use crate::rate::ExactCost;
use crate::time::Timestamp;
use crate::usage::Usage;

/// A wallet's figures after an event. Available is `posted − held`; it never falls below the wallet's floor.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Balance {
    /// Paid and promotional credit together.
    pub posted: Money,
    /// The promotional part of it; spent first.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub promo: Money,
    /// The sum of the open holds.
    pub held: Money,
}

impl Balance {
    /// What can still be spent or held. Saturates, since both parts are within range.
    pub fn available(self) -> Money {
        self.posted.checked_sub(self.held).unwrap_or(Money::ZERO)
    }
}

/// Which key and endpoint a call uses, and so who owes what to whom.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum Route {
    /// The platform's key: the user pays the retail price, we owe the provider.
    #[default]
    Platform,
    /// The developer's key: the user pays the retail price, the cost is owed to the developer.
    DeveloperKey,
    /// The user's own key: an explicit fee only.
    Byok,
    /// The user's own machine: an explicit fee only.
    Local,
}

impl Route {
    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Platform => "platform",
            Self::DeveloperKey => "developer_key",
            Self::Byok => "byok",
            Self::Local => "local",
        }
    }

    /// Is it the one that needs no mention?
    pub const fn is_platform(&self) -> bool {
        matches!(self, Self::Platform)
    }
}

/// What kind of call it is: the facts that reports group by.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Call {
    /// The app.
    pub app_id: AppId,
    /// The session, if the call came through one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub session_id: Option<SessionId>,
    /// The feature that priced it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_key: Option<String>,
    /// The route.
    pub route: Route,
    /// Who bills for it.
    pub provider: Name,
    /// The model.
    pub model: String,
    /// The provider's service tier that was asked for; of a gateway's call the dearest one that it can be served by.
    #[serde(default, skip_serializing_if = "ServiceTier::is_standard")]
    pub service_tier: ServiceTier,
}

/// How a cost becomes a price; fixed when the hold is placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct PriceRule {
    /// Markup on the provider's cost.
    pub markup_bps: BasisPoints,
    /// The developer's part of the margin.
    pub share_bps: BasisPoints,
    /// Fee of a call on the user's own key or machine.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub fee_usd: Money,
}

impl PriceRule {
    /// R: the retail price of a cost. `None` if it is out of range.
    pub fn retail(&self, upstream: Money) -> Option<Money> {
        upstream.share_bps(self.markup_bps).and_then(|margin| upstream.checked_add(margin))
    }
}

/// What a usage came to. `charge = upstream − unrecovered + developer + platform` on the platform route.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rating {
    /// The card that priced it.
    pub rate_card_id: RateCardId,
    /// How the cost became the price.
    pub price_rule: PriceRule,
    /// What was used.
    pub usage: Usage,
    /// The service tier that served the call, and so priced it.
    #[serde(default, skip_serializing_if = "ServiceTier::is_standard")]
    pub service_tier: ServiceTier,
    /// The model that served the call and so priced it, where that is another one than was asked for.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub served_model: Option<String>,
    /// The unrounded cost.
    pub exact_cost: ExactCost,
    /// U: the provider's cost, rounded once.
    pub upstream: Money,
    /// R: the retail price by the rules, before any cap.
    pub retail: Money,
    /// What the customer pays (at most the hold, or what late usage finds available).
    pub charge: Money,
    /// D: the developer's share.
    pub developer: Money,
    /// L: provider cost that no customer bears.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub unrecovered: Money,
    /// The part of the charge that promotional credit paid.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub promo: Money,
    /// The part of the charge that became a receivable.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub receivable: Money,
}

/// A payment was begun; nothing moved.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUpRequested {
    /// The top-up.
    pub top_up_id: TopUpId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// Whole cents.
    pub amount: Money,
    /// The payment provider.
    pub provider: Name,
    /// The provider's own id for the checkout, if known already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reference: Option<String>,
}

/// The payment arrived: once per payment, whatever the provider repeats.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUpCredited {
    /// The top-up.
    pub top_up_id: TopUpId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// Whole cents.
    pub amount: Money,
    /// The payment provider.
    pub provider: Name,
    /// The provider's id of the payment.
    pub payment: String,
    /// When the provider says it was paid.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// The payment will not arrive.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TopUpFailed {
    /// The top-up.
    pub top_up_id: TopUpId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// Why.
    pub reason: String,
}

/// An administrator put test credit into a wallet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TestCreditGranted {
    /// The wallet.
    pub wallet_id: WalletId,
    /// How much.
    pub amount: Money,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// Promotional credit was given away; it is spent before paid credit.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoGranted {
    /// The grant, if it expires.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub promo_id: Option<PromoId>,
    /// The wallet.
    pub wallet_id: WalletId,
    /// How much.
    pub amount: Money,
    /// Why.
    pub reason: String,
    /// When what is left of it expires, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// What was left of a grant of promotional credit is gone. What open holds still need stays until they have ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CreditExpired {
    /// The grant.
    pub promo_id: PromoId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// How much; zero if open holds need all of it.
    pub amount: Money,
    /// When the rest, which open holds need, is looked at again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// Why a wallet was adjusted; it decides the account on the other side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum AdjustmentKind {
    /// Goodwill or correction.
    #[default]
    Adjustment,
    /// Money on its way back to the customer (debit) or back from there (credit).
    Refund,
    /// Money that the payment provider withholds (debit) or gives back (credit).
    Chargeback,
}

/// Into the wallet or out of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Into the wallet.
    Credit,
    /// Out of the wallet.
    Debit,
}

/// An administrator credited or debited a wallet.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalletAdjusted {
    /// The adjustment.
    pub adjustment_id: AdjustmentId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// What for.
    pub kind: AdjustmentKind,
    /// Into or out of the wallet.
    pub direction: Direction,
    /// How much.
    pub amount: Money,
    /// Why.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// Funds were set aside for a call; the provider may have been called from here on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldPlaced {
    /// The hold.
    pub hold_id: HoldId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The call it is for.
    pub call: Call,
    /// What was asked.
    pub requested: Money,
    /// What was granted and is held.
    pub amount: Money,
    /// The card that will price the call, whatever is activated meanwhile.
    pub rate_card_id: RateCardId,
    /// How the cost will become the price.
    pub price_rule: PriceRule,
    /// From this time on the hold expires.
    pub expires_at: Timestamp,
    /// How the gateway sends the call; absent: an app's own hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dispatch: Option<Box<Dispatch>>,
    /// The wallet after it.
    pub balance: Balance,
}

/// The call was used and charged; the hold has ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldCaptured {
    /// The hold.
    pub hold_id: HoldId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The call.
    pub call: Call,
    /// What was held.
    pub held: Money,
    /// What it came to.
    pub rating: Rating,
    /// Did the retail price pass the hold? The customer paid the hold.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub over_hold: bool,
    /// The provider's id of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<String>,
    /// When the call happened by the caller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// How the gateway's call went; absent: an app's own hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Box<CallOutcome>>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// Why a hold was given back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ReleaseReason {
    /// The caller changed its mind.
    #[default]
    Cancelled,
    /// Nothing was sent to a provider.
    NotSent,
    /// The provider refused the call.
    Rejected,
    /// The provider failed.
    Failed,
    /// The provider did not answer in time.
    TimedOut,
    /// The platform bears whatever the call cost.
    Absorbed,
}

/// The funds are free again; nothing was charged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldReleased {
    /// The hold.
    pub hold_id: HoldId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// What is free again.
    pub amount: Money,
    /// Why.
    pub reason: ReleaseReason,
    /// How the gateway's call went; absent: an app's own hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Box<CallOutcome>>,
    /// The wallet after it.
    pub balance: Balance,
}

/// The hold's time ran out before anybody ended it.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HoldExpired {
    /// The hold.
    pub hold_id: HoldId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// What is free again.
    pub amount: Money,
    /// The wallet after it.
    pub balance: Balance,
}

/// Usage came after its hold had expired: charged as far as the wallet can pay, the rest is the platform's loss. At most once per hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LateUsageCaptured {
    /// The hold.
    pub hold_id: HoldId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The call.
    pub call: Call,
    /// What it came to.
    pub rating: Rating,
    /// The provider's id of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<String>,
    /// When the call happened by the caller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// How the gateway's call went; absent: an app's own hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Box<CallOutcome>>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}

/// A call that had happened without a hold was reported and charged.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UsageRecorded {
    /// The usage.
    pub usage_id: UsageId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The call.
    pub call: Call,
    /// What it came to.
    pub rating: Rating,
    /// The caller's own id of the call.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub provider_request_id: Option<String>,
    /// When the call happened by the caller's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub occurred_at: Option<Timestamp>,
    /// The postings.
    pub entry: JournalEntry,
    /// The wallet after it.
    pub balance: Balance,
}
