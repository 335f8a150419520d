//! What decisions need to know, and nothing more. All of it follows from the log; none of it is a source of truth.

use std::sync::Arc;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{
    Actor, AppSettings, Attempt, Balance, Call, CredentialAdded, CredentialOwner, DisconnectPolicy, Dispatch, Endpoint,
    FreezeScope, ModelRates, PriceRule, Pricing, RateCardId, Route, SessionOpening, Status,
};
use modelfaucet_schema::ids::{
    AppId, CredentialId, DeveloperId, FeatureId, GatewayId, HoldId, PayoutId, Position, PromoId, RefundId, RepairId,
    SessionId, StreamId, TokenId, TopUpId, UserId, WalletId, WriteOffId,
};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::staff::StaffRole;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash, UserHash};
use modelfaucet_schema::usage::Usage;
use serde::{Deserialize, Serialize};

use super::{BudgetOf, Spend, Table};

/// Raised whenever an old snapshot would not be what a fold of the log gives today.
pub const FOLD_VERSION: i32 = 4;

/// The version of the table of disconnect policies before anybody has set one: `drain` everywhere.
pub(super) const FIRST_POLICY_VERSION: u32 = 1;

/// A developer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Developer {
    /// Its name.
    pub name: String,
    /// Its business contact.
    pub email: String,
    /// When it was registered.
    pub registered_at: Timestamp,
    /// How many tokens it has.
    pub tokens: u32,
}

/// A developer's token that may be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct DeveloperToken {
    /// Whose it is.
    pub developer_id: DeveloperId,
    /// Its hash.
    pub token_hash: TokenHash,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// A staff token that may be used.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct StaffToken {
    /// Its hash.
    pub token_hash: TokenHash,
    /// What it may do.
    pub role: StaffRole,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// An app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct App {
    /// Its developer.
    pub developer_id: DeveloperId,
    /// Its public id.
    pub public_app_id: String,
    /// Its settings.
    pub settings: AppSettings,
    /// When it was registered.
    pub registered_at: Timestamp,
}

impl App {
    /// Does it take new work?
    pub fn is_active(&self) -> bool {
        self.settings.status == Status::Active
    }

    /// May anybody open a session?
    pub fn opens_publicly(&self) -> bool {
        self.settings.session_opening == SessionOpening::Public
    }
}

/// A feature of an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Feature {
    /// Its id.
    pub feature_id: FeatureId,
    /// Its name.
    pub display_name: String,
    /// Its price.
    pub pricing: Pricing,
    /// Its policy as JSON text.
    pub policy: String,
    /// The most that its calls may be charged, all together.
    pub budget_limit: Option<Money>,
}

/// A rate card: prices by model.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct RateCard {
    models: Vec<ModelRates>,
}

impl RateCard {
    /// A card of these models.
    pub fn new(mut models: Vec<ModelRates>) -> Self {
        models.sort_by(|a, b| (&a.model, &a.provider).cmp(&(&b.model, &b.provider)));
        Self { models }
    }

    /// Every offer, by model and provider.
    pub fn models(&self) -> &[ModelRates] {
        &self.models
    }

    /// The offers of a model, by provider.
    pub fn offers(&self, model: &str) -> &[ModelRates] {
        let start = self.models.partition_point(|rates| rates.model.as_str() < model);
        let rest = self.models.get(start..).unwrap_or_default();
        let count = rest.partition_point(|rates| rates.model == model);
        rest.get(..count).unwrap_or_default()
    }

    /// The offer of a provider.
    pub fn offer(&self, provider: &Name, model: &str) -> Option<&ModelRates> {
        self.offers(model).iter().find(|rates| rates.provider == *provider)
    }
}

/// A wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Wallet {
    /// The app.
    pub app_id: AppId,
    /// The user.
    pub user_id: UserId,
    /// The available balance never falls below it.
    pub floor: Money,
    /// Its figures.
    pub balance: Balance,
}

impl Wallet {
    /// What can be spent or held without passing the floor; never negative.
    pub fn spendable(&self) -> Money {
        let above = self.balance.available().checked_sub(self.floor).unwrap_or(Money::ZERO);
        above.max(Money::ZERO)
    }

    /// What can be spent or held on a route. Promotional credit pays nothing on the developer's own key: there what is paid is owed to the
    /// developer, so credit that was given away would be paid out as money. Open holds are taken from paid credit first.
    pub fn spendable_on(&self, route: Route) -> Money {
        self.spendable().checked_sub(self.barred(route)).unwrap_or(Money::ZERO).max(Money::ZERO)
    }

    /// What could be spent on a route if all open holds were given back.
    pub fn spendable_without_holds(&self, route: Route) -> Money {
        let above = self.balance.posted.checked_sub(self.floor).and_then(|above| above.checked_sub(self.barred(route)));
        above.unwrap_or(Money::ZERO).max(Money::ZERO)
    }

    fn barred(&self, route: Route) -> Money {
        if route == Route::DeveloperKey { self.balance.promo } else { Money::ZERO }
    }
}

/// A live session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Session {
    /// The app.
    pub app_id: AppId,
    /// The user.
    pub user_id: UserId,
    /// The wallet.
    pub wallet_id: WalletId,
    /// The feature that calls are priced by if they name none.
    pub feature_key: Option<Arc<str>>,
    /// The hash of its token.
    pub token_hash: TokenHash,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// A top-up that was requested and has not ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct PendingTopUp {
    /// The wallet.
    pub wallet_id: WalletId,
    /// The amount.
    pub amount: Money,
    /// The payment provider.
    pub provider: Name,
}

/// A payment that was credited, and what of it is gone again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payment {
    /// The wallet that it went to.
    pub wallet_id: WalletId,
    /// What was credited.
    pub amount: Money,
    /// Refunds that have not failed.
    pub refunded: Money,
    /// Disputes that are open or lost.
    pub disputed: Money,
}

impl Payment {
    /// What can still be refunded: refunds and disputes together never pass the payment.
    pub fn left(&self) -> Money {
        let gone = self.refunded.checked_add(self.disputed).unwrap_or(self.amount);
        self.amount.checked_sub(gone).unwrap_or(Money::ZERO).max(Money::ZERO)
    }
}

/// A refund. Kept for ever, so that what the provider repeats is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Refund {
    /// The provider's id of the payment.
    pub payment: Arc<str>,
    /// What goes back.
    pub amount: Money,
    /// The part that the wallet could not pay.
    pub receivable: Money,
    /// Has the provider taken it on?
    pub sent: bool,
    /// Did it fail?
    pub failed: bool,
}

/// Where a dispute stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum DisputeState {
    /// Nobody knows how it ends.
    Open,
    /// For us.
    Won,
    /// Against us.
    Lost,
}

/// A dispute. Kept for ever, so that what the provider repeats is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Dispute {
    /// The provider's id of the payment.
    pub payment: Arc<str>,
    /// The wallet.
    pub wallet_id: WalletId,
    /// What is disputed.
    pub amount: Money,
    /// What is held of it while it is open.
    pub held: Money,
    /// Did it freeze the wallet?
    pub froze: bool,
    /// Where it stands.
    pub state: DisputeState,
}

/// A write-off that waits for a second person.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WriteOff {
    /// The wallet.
    pub wallet_id: WalletId,
    /// How much.
    pub amount: Money,
    /// Who proposed it.
    pub proposed_by: Box<str>,
}

/// A plan of compensating commands. Kept for ever: a plan is agreed on once.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Repair {
    /// SHA-256 of the plan.
    pub digest: Box<str>,
    /// Who proposed it.
    pub proposed_by: Box<str>,
    /// Has somebody else agreed?
    pub approved: bool,
}

/// What is left of a grant of promotional credit that expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromoSlice {
    /// The grant.
    pub promo_id: PromoId,
    /// What is left of it.
    pub left: Money,
    /// When it expires. What expires first is spent first.
    pub expires_at: Timestamp,
    /// When the clock looks at it: then, or later if open holds needed it then.
    pub due_at: Timestamp,
}

/// Where a payout stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PayoutState {
    /// Requested.
    Pending,
    /// Approved.
    Processing,
    /// The money has left.
    Paid,
    /// It is over and the money is the developer's again.
    Over,
}

/// A payout.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Payout {
    /// The developer.
    pub developer_id: DeveloperId,
    /// Whole cents.
    pub amount: Money,
    /// Who pays it out.
    pub provider: Name,
    /// Who requested it.
    pub requested_by: Box<str>,
    /// Where it stands.
    pub state: PayoutState,
}

/// A hold, open or expired.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Hold {
    /// The wallet.
    pub wallet_id: WalletId,
    /// The call.
    pub call: Arc<Call>,
    /// What is held.
    pub amount: Money,
    /// The card that prices it.
    pub rate_card_id: RateCardId,
    /// How cost becomes price.
    pub price_rule: PriceRule,
    /// When it expires.
    pub expires_at: Timestamp,
    /// The gateway that owns it; nobody else ends it before it expires. Absent: an app's own hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<GatewayId>,
    /// The feature whose budget it counts against.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_id: Option<FeatureId>,
    /// The provider key of the call, and what counts against its budget.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<(CredentialId, Money)>,
    /// How its call was sent. Absent: an app's own hold.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sent: Option<Box<Sent>>,
}

/// A provider key, in use or not.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Credential {
    /// What was said when it was added.
    pub added: Arc<CredentialAdded>,
    /// In use or not.
    pub status: Status,
}

/// What is known of a call of the gateway beside its hold.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Sent {
    /// What the app called.
    pub endpoint: Endpoint,
    /// What the input probably comes to, in tokens.
    pub input: u64,
    /// The attempts that have ended; another one runs.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub attempts: Vec<Attempt>,
    /// The key that the attempt that runs is called with, unless it is the platform's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub credential: Option<CredentialId>,
    /// What the attempt that runs has used by its last mark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mark: Option<Usage>,
}

impl Sent {
    /// The call of a hold that was placed.
    pub(super) fn of(dispatch: &Dispatch) -> Self {
        Self {
            endpoint: dispatch.endpoint,
            input: dispatch.input.unwrap_or_else(|| dispatch.bound.input_tokens()),
            attempts: Vec::new(),
            credential: dispatch.credential,
            mark: None,
        }
    }

    /// Which attempt runs: 1, 2, 3 …
    pub fn number(&self) -> u32 {
        u32::try_from(self.attempts.len()).unwrap_or(u32::MAX).saturating_add(1)
    }
}

/// The state of one shard.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct State {
    /// The last number of each stream that may go on.
    pub seqs: Table<StreamId, i64>,
    /// Developers.
    pub developers: Table<DeveloperId, Developer>,
    /// Usable tokens of developers.
    pub tokens: Table<TokenId, DeveloperToken>,
    /// Usable tokens of staff.
    pub staff: Table<TokenId, StaffToken>,
    /// Apps.
    pub apps: Table<AppId, App>,
    /// Apps by public id.
    pub app_names: Table<String, AppId>,
    /// Features by app and key.
    pub features: Table<(AppId, String), Feature>,
    /// Rate cards.
    pub cards: Table<RateCardId, Arc<RateCard>>,
    /// The card that prices new holds and usage, under the one key there is.
    pub active_card: Table<(), RateCardId>,
    /// Wallets.
    pub wallets: Table<WalletId, Wallet>,
    /// Wallets by app and user.
    pub users: Table<(AppId, UserHash), WalletId>,
    /// Live sessions.
    pub sessions: Table<SessionId, Session>,
    /// Pending top-ups.
    pub top_ups: Table<TopUpId, PendingTopUp>,
    /// Open holds.
    pub holds: Table<HoldId, Hold>,
    /// Holds that expired and whose usage may still come, once.
    pub expired_holds: Table<HoldId, Hold>,
    /// Provider keys.
    pub credentials: Table<CredentialId, Credential>,
    /// How many keys in use an owner has.
    pub key_counts: Table<CredentialOwner, u32>,
    /// What was used of budgets.
    pub spend: Table<BudgetOf, Spend>,
    /// What is frozen, and by whom.
    pub freezes: Table<FreezeScope, Actor>,
    /// What happens when clients leave, where that is not `drain`, by provider, endpoint and route.
    #[serde(default)]
    pub disconnect_policies: Table<(Name, Endpoint, Route), DisconnectPolicy>,
    /// The version of that table, under the one key there is.
    #[serde(default)]
    pub disconnect_version: Table<(), u32>,
    /// Credited payments by the provider's id.
    pub payments: Table<String, Payment>,
    /// Refunds.
    pub refunds: Table<RefundId, Refund>,
    /// Disputes by the provider's id.
    pub disputes: Table<String, Dispute>,
    /// What owners of wallets owe, where they ever owed anything.
    pub receivables: Table<WalletId, Money>,
    /// Write-offs that wait for a second person.
    pub write_offs: Table<WriteOffId, WriteOff>,
    /// Promotional credit that expires, what expires first in front.
    pub promos: Table<WalletId, Vec<PromoSlice>>,
    /// What developers are owed and is not reserved for a payout.
    pub payables: Table<DeveloperId, Money>,
    /// Payouts.
    pub payouts: Table<PayoutId, Payout>,
    /// The one payout of a developer that is pending or processing.
    pub open_payouts: Table<DeveloperId, PayoutId>,
    /// Plans of compensating commands.
    #[serde(default)]
    pub repairs: Table<RepairId, Repair>,
    /// Where incidents were closed: the closing that counts, by the incident's name.
    #[serde(default)]
    pub incidents: Table<String, Position>,
    /// When the newest event was recorded, under the one key there is. No later event is earlier, also after a restart.
    pub recorded_at: Table<(), Timestamp>,
}

macro_rules! each_table {
    ($state:ident, $method:ident) => {{
        $state.seqs.$method();
        $state.developers.$method();
        $state.tokens.$method();
        $state.staff.$method();
        $state.apps.$method();
        $state.app_names.$method();
        $state.features.$method();
        $state.cards.$method();
        $state.active_card.$method();
        $state.wallets.$method();
        $state.users.$method();
        $state.sessions.$method();
        $state.top_ups.$method();
        $state.holds.$method();
        $state.expired_holds.$method();
        $state.credentials.$method();
        $state.key_counts.$method();
        $state.spend.$method();
        $state.freezes.$method();
        $state.disconnect_policies.$method();
        $state.disconnect_version.$method();
        $state.payments.$method();
        $state.refunds.$method();
        $state.disputes.$method();
        $state.receivables.$method();
        $state.write_offs.$method();
        $state.promos.$method();
        $state.payables.$method();
        $state.payouts.$method();
        $state.open_payouts.$method();
        $state.repairs.$method();
        $state.incidents.$method();
        $state.recorded_at.$method();
    }};
}

impl State {
    /// Makes everything since the last commit final.
    pub fn commit(&mut self) {
        each_table!(self, commit);
    }

    /// Takes everything since the last commit back.
    pub fn undo(&mut self) {
        each_table!(self, undo);
    }

    /// About how many rows there are: what a copy costs.
    pub fn size(&self) -> usize {
        self.seqs.len()
            + self.users.len()
            + self.holds.len()
            + self.expired_holds.len()
            + self.payments.len()
            + self.refunds.len()
    }

    /// The number of the next event of a stream.
    pub fn next_seq(&self, stream: &StreamId) -> i64 {
        self.seqs.get(stream).map_or(1, |last| last.saturating_add(1))
    }

    /// When the newest event was recorded.
    pub fn last_recorded_at(&self) -> Timestamp {
        self.recorded_at.get(&()).copied().unwrap_or_default()
    }

    /// The app of a public id, active or not.
    pub fn app_by_name(&self, public_app_id: &str) -> Option<(AppId, &App)> {
        let id = *self.app_names.get(public_app_id)?;
        Some((id, self.apps.get(&id)?))
    }

    /// The developer's share of a feature: its own, else its app's.
    pub fn share_of(app: &App, pricing: &Pricing) -> BasisPoints {
        let share = pricing.revenue_share_bps.unwrap_or(app.settings.default_revenue_share_bps);
        share.min(BasisPoints::WHOLE)
    }
}
