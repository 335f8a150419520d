//! Commands: what somebody wants. All ids, hashes and times that a decision needs are inside.

use std::time::Duration;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::Actor;
use modelfaucet_schema::event::{
    AdjustmentKind, AppSettings, Attempt, CallOutcome, CredentialAdded, Direction, DisableReason, DisconnectPolicy,
    Dispatch, Endpoint, FreezeScope, IncidentClosed, ModelRates, PayoutTrigger, Pricing, ReleaseReason, Route,
    ServiceTier, SessionOpening, Status, TransactionCategory,
};
use modelfaucet_schema::ids::{
    AdjustmentId, AppId, CredentialId, DeveloperId, FeatureId, GatewayId, HoldId, PayoutId, PromoId, RefundId,
    RepairId, SessionId, TokenId, TopUpId, UsageId, UserId, WalletId, WriteOffId,
};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::staff::{Power, StaffRole};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash, UserHash};
use modelfaucet_schema::usage::Usage;
use serde_json::{Map, Value};

/// Who wants something. The edge has checked token and scope; the decision checks that the caller still may, and only on its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Caller {
    /// The holder of `ADMIN_TOKEN`.
    Admin,
    /// Somebody who runs the ledger, by a token of their own.
    Staff(StaffRole, TokenId),
    /// The operator's command line.
    Operator,
    /// A developer through one of its tokens.
    Developer(DeveloperId, TokenId),
    /// A user through a session.
    Session(SessionId),
    /// The gateway, for a session whose token it was shown. It alone ends the holds of its calls.
    Gateway(SessionId),
    /// Somebody without a credential.
    Public,
    /// The writer's clock.
    Clock,
    /// The payment provider: what its signed events and its own records say.
    Stripe,
}

impl Caller {
    /// How events name the caller.
    pub const fn actor(self) -> Actor {
        match self {
            Self::Admin => Actor::Admin,
            Self::Staff(role, token) => Actor::Staff(role, token),
            Self::Operator => Actor::Operator,
            Self::Developer(_, token) => Actor::Token(token),
            Self::Session(session) | Self::Gateway(session) => Actor::Session(session),
            Self::Public => Actor::Public,
            Self::Clock => Actor::Clock,
            Self::Stripe => Actor::Stripe,
        }
    }

    /// The most that it may do of what the house does; none for those outside.
    pub const fn power(self) -> Option<Power> {
        match self {
            Self::Admin | Self::Operator | Self::Clock => Some(Power::Administer),
            Self::Staff(role, _) => Some(role.power()),
            Self::Developer(..) | Self::Session(_) | Self::Gateway(_) | Self::Public | Self::Stripe => None,
        }
    }

    /// Is it an administrator?
    pub fn administers(self) -> bool {
        self.power() == Some(Power::Administer)
    }
}

/// Whose wallet pays.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payer {
    /// The wallet of a session's user; the session must be live.
    Session(SessionId),
    /// A wallet, named by its app's developer or an administrator.
    Wallet(WalletId),
}

/// How much a hold sets aside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HoldAmount {
    /// This much.
    Fixed(Money),
    /// The price of at most this usage, rounded up.
    Bound(Usage),
}

/// What somebody took a wallet's figures for when they decided what to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ExpectedBalance {
    /// Posted: paid and promotional credit, open holds included.
    pub posted: Money,
    /// The sum of the open holds.
    pub held: Money,
}

/// What to do with usage that the wallet cannot pay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnShortfall {
    /// Refuse it.
    #[default]
    Refuse,
    /// Record it; what is missing becomes a receivable.
    Receivable,
}

/// A change of an app: what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct AppPatch {
    /// New name.
    pub name: Option<String>,
    /// New line of business.
    pub vertical: Option<String>,
    /// New default share.
    pub default_revenue_share_bps: Option<BasisPoints>,
    /// New status.
    pub status: Option<Status>,
    /// New rule for opening sessions.
    pub session_opening: Option<SessionOpening>,
}

/// A change of a feature: what is `None` stays.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct FeaturePatch {
    /// New name.
    pub display_name: Option<String>,
    /// New pricing, all of it.
    pub pricing: Option<Pricing>,
    /// New policy, all of it.
    pub policy: Option<Map<String, Value>>,
}

/// Facts of a call whose price is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CallRequest {
    /// Who pays.
    pub payer: Payer,
    /// The feature; absent: the session's.
    pub feature_key: Option<String>,
    /// The route.
    pub route: Route,
    /// The provider; absent: the only one that the rate card has for the model.
    pub provider: Option<Name>,
    /// The model.
    pub model: String,
    /// The provider's service tier that is asked for.
    pub service_tier: ServiceTier,
}

/// A call that the gateway is about to send: the hold that it places for it, and owns.
#[derive(Clone, Debug, PartialEq)]
pub struct BeginCall {
    /// The hold.
    pub hold_id: HoldId,
    /// What will price it.
    pub call: CallRequest,
    /// Grants the price of `dispatch.bound`, or as much of it as is available, if that is at least the price of this.
    pub min_bound: Usage,
    /// Time until the hold expires.
    pub expires_in: Duration,
    /// How it is sent.
    pub dispatch: Dispatch,
}

/// How the gateway ends the hold of a call.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "it stands in a command that is boxed")]
pub enum CallEnding {
    /// Charge what was used.
    Capture {
        /// What was used.
        usage: Usage,
        /// The service tier that served it; absent: the one that was held for.
        service_tier: Option<ServiceTier>,
        /// The model that served it, if the rate card prices it and it is another one than was asked for.
        served_model: Option<String>,
        /// The provider's id of the call.
        provider_request_id: Option<String>,
    },
    /// Give the funds back.
    Release(ReleaseReason),
}

/// The next attempt of a call, after one that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct StartAttempt {
    /// The hold.
    pub hold_id: HoldId,
    /// Who owns it.
    pub gateway: GatewayId,
    /// Which attempt begins: 2, 3 …
    pub number: u32,
    /// How the one before it went.
    pub ended: Attempt,
    /// The route of the new one.
    pub route: Route,
    /// Its provider.
    pub provider: Name,
    /// Its model.
    pub model: String,
    /// The dearest service tier that it can be served by.
    pub service_tier: ServiceTier,
    /// The most that it can use.
    pub bound: Usage,
    /// Grants the price of `bound`, or as much of it as is available without the old hold, if that is at least the price of this.
    pub min_bound: Usage,
    /// Where it goes.
    pub origin: String,
    /// The key of a developer or user that it is called with.
    pub credential: Option<CredentialId>,
}

/// How far the attempt that runs has come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MarkAttempt {
    /// The hold.
    pub hold_id: HoldId,
    /// Who owns it.
    pub gateway: GatewayId,
    /// Which attempt.
    pub number: u32,
    /// Bytes of its answer so far.
    pub bytes: u64,
    /// What it has used so far, by the gateway's own count.
    pub usage: Usage,
    /// The version of the way of counting.
    pub counter: u32,
}

/// The end of a call.
#[derive(Clone, Debug, PartialEq)]
pub struct EndCall {
    /// The hold.
    pub hold_id: HoldId,
    /// Charge or release.
    pub ending: CallEnding,
    /// How it went, with the attempts that the log does not have yet.
    pub outcome: CallOutcome,
}

/// A refund as the payment provider tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefundReport {
    /// Ours, if it carries the id of one that was requested here.
    pub own: Option<RefundId>,
    /// The id that it gets here if it was made at the provider; follows from `reference`.
    pub refund_id: RefundId,
    /// The provider's id of the refund.
    pub reference: String,
    /// The provider's id of the payment.
    pub payment: String,
    /// What goes back.
    pub amount: Money,
    /// Why it failed, if it did.
    pub failed: Option<String>,
    /// When.
    pub occurred_at: Option<Timestamp>,
}

/// Where the payment provider sees a dispute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DisputePhase {
    /// It is open.
    Opened,
    /// It is closed in our favour.
    Won,
    /// It is closed against us.
    Lost,
}

/// A dispute as the payment provider tells of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DisputeReport {
    /// The provider's id of the dispute.
    pub dispute: String,
    /// The provider's id of the payment.
    pub payment: String,
    /// What is disputed.
    pub amount: Money,
    /// The customer's reason.
    pub reason: String,
    /// Where it stands.
    pub phase: DisputePhase,
    /// When.
    pub occurred_at: Option<Timestamp>,
}

/// A movement of the payment provider's own balance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TransactionReport {
    /// The provider's id of it.
    pub transaction: String,
    /// What it is.
    pub category: TransactionCategory,
    /// The charge, refund, dispute or payout behind it.
    pub source: Option<String>,
    /// The payment that it belongs to.
    pub payment: Option<String>,
    /// Before fees; negative if money left.
    pub amount: Money,
    /// What the provider kept of it.
    pub fee: Money,
    /// When.
    pub occurred_at: Timestamp,
}

/// What becomes of a payout that is not over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PayoutStep {
    /// Somebody other than the requester agrees.
    Approve {
        /// What the approver wrote.
        note: Option<String>,
    },
    /// The money has left.
    Pay {
        /// The outside record that proves it.
        reference: String,
        /// What the payment cost.
        fee: Money,
        /// When.
        occurred_at: Option<Timestamp>,
    },
    /// An approved payout did not work.
    Fail {
        /// Why.
        reason: String,
    },
    /// A pending payout is not wanted any more.
    Cancel {
        /// Why.
        reason: String,
    },
    /// A paid payout came back.
    Return {
        /// Why.
        reason: String,
        /// The outside record that proves it.
        reference: String,
        /// When.
        occurred_at: Option<Timestamp>,
    },
}

/// What somebody wants.
#[derive(Clone, Debug, PartialEq)]
#[expect(missing_docs, reason = "each field is named and documented as in the event that answers it")]
pub enum Command {
    IssueStaffToken {
        token_id: TokenId,
        name: String,
        role: StaffRole,
        token_hash: TokenHash,
        token_prefix: String,
        expires_at: Option<Timestamp>,
    },
    RevokeStaffToken {
        token_id: TokenId,
    },
    RegisterDeveloper {
        developer_id: DeveloperId,
        name: String,
        email: String,
    },
    IssueDeveloperToken {
        token_id: TokenId,
        developer_id: DeveloperId,
        name: String,
        token_hash: TokenHash,
        token_prefix: String,
        scopes: Vec<Scope>,
        expires_at: Option<Timestamp>,
    },
    RevokeDeveloperToken {
        token_id: TokenId,
    },
    RegisterApp {
        app_id: AppId,
        developer_id: DeveloperId,
        public_app_id: String,
        settings: AppSettings,
    },
    ChangeApp {
        public_app_id: String,
        patch: AppPatch,
    },
    DefineFeature {
        feature_id: FeatureId,
        public_app_id: String,
        feature_key: String,
        display_name: String,
        pricing: Pricing,
        policy: Map<String, Value>,
    },
    ChangeFeature {
        public_app_id: String,
        feature_key: String,
        patch: FeaturePatch,
    },
    RemoveFeature {
        public_app_id: String,
        feature_key: String,
    },
    /// Publishes a rate card and prices new holds and usage by it.
    ActivateRateCard {
        source: String,
        models: Vec<ModelRates>,
    },
    /// The ids are for a wallet that may have to be opened.
    OpenSession {
        session_id: SessionId,
        wallet_id: WalletId,
        user_id: UserId,
        app_id: AppId,
        user_hash: UserHash,
        feature_key: Option<String>,
        token_hash: TokenHash,
        ttl: Duration,
    },
    RevokeSession {
        session_id: SessionId,
    },
    ExpireSession {
        session_id: SessionId,
    },
    RequestTopUp {
        top_up_id: TopUpId,
        wallet_id: WalletId,
        amount: Money,
        provider: Name,
        reference: Option<String>,
    },
    CreditTopUp {
        top_up_id: TopUpId,
        payment: String,
        amount: Option<Money>,
        occurred_at: Option<Timestamp>,
    },
    FailTopUp {
        top_up_id: TopUpId,
        reason: String,
    },
    /// The provider has made a page on which the top-up can be paid.
    OpenCheckout {
        top_up_id: TopUpId,
        reference: String,
        url: String,
    },
    RequestRefund {
        refund_id: RefundId,
        payment: String,
        amount: Money,
        reason: Option<String>,
    },
    /// The provider has taken a refund of ours on.
    ConfirmRefund {
        refund_id: RefundId,
        reference: String,
    },
    /// The provider will not make a refund of ours.
    FailRefund {
        refund_id: RefundId,
        reason: String,
    },
    ReportRefund(Box<RefundReport>),
    ReportDispute(Box<DisputeReport>),
    RecordTransaction(Box<TransactionReport>),
    ProposeWriteOff {
        write_off_id: WriteOffId,
        wallet_id: WalletId,
        amount: Money,
        reason: String,
    },
    /// By somebody other than who proposed it.
    ApproveWriteOff {
        write_off_id: WriteOffId,
    },
    /// Without an amount: everything that is owed, in whole cents.
    RequestPayout {
        payout_id: PayoutId,
        developer_id: DeveloperId,
        amount: Option<Money>,
        /// Refused if less than this is owed.
        threshold: Money,
        provider: Name,
        trigger: PayoutTrigger,
    },
    StepPayout {
        payout_id: PayoutId,
        step: PayoutStep,
    },
    ExpireCredit {
        wallet_id: WalletId,
        promo_id: PromoId,
    },
    GrantTestCredit {
        wallet_id: WalletId,
        amount: Money,
    },
    GrantPromo {
        promo_id: PromoId,
        wallet_id: WalletId,
        amount: Money,
        reason: String,
        expires_at: Option<Timestamp>,
    },
    AdjustWallet {
        adjustment_id: AdjustmentId,
        wallet_id: WalletId,
        kind: AdjustmentKind,
        direction: Direction,
        amount: Money,
        reason: Option<String>,
        /// Refused if the wallet has other figures.
        expected: Option<ExpectedBalance>,
    },
    /// Grants `min(amount, available)` if that is at least `min_amount` (absent: all or nothing).
    PlaceHold {
        hold_id: HoldId,
        call: CallRequest,
        amount: HoldAmount,
        min_amount: Option<Money>,
        expires_in: Duration,
    },
    /// The service tier that served the call; absent: the one that the hold was placed for.
    CaptureHold {
        hold_id: HoldId,
        usage: Usage,
        service_tier: Option<ServiceTier>,
        provider_request_id: Option<String>,
        occurred_at: Option<Timestamp>,
    },
    ReleaseHold {
        hold_id: HoldId,
        reason: ReleaseReason,
    },
    ExpireHold {
        hold_id: HoldId,
    },
    /// As `PlaceHold`, for the gateway's own call.
    BeginCall(Box<BeginCall>),
    /// As `CaptureHold` or `ReleaseHold`, for the gateway's own call.
    EndCall(Box<EndCall>),
    /// A further attempt of the gateway's own call.
    StartAttempt(Box<StartAttempt>),
    /// A mark of the attempt that runs.
    MarkAttempt(Box<MarkAttempt>),
    SetDisconnectPolicy {
        provider: Name,
        endpoint: Endpoint,
        route: Route,
        policy: DisconnectPolicy,
        reason: String,
    },
    RecordUsage {
        usage_id: UsageId,
        call: CallRequest,
        usage: Usage,
        on_shortfall: OnShortfall,
        provider_request_id: Option<String>,
        occurred_at: Option<Timestamp>,
    },
    /// Its ciphertext is stored already.
    AddCredential(Box<CredentialAdded>),
    DisableCredential {
        credential_id: CredentialId,
        reason: DisableReason,
    },
    Freeze {
        scope: FreezeScope,
        reason: String,
    },
    Thaw {
        scope: FreezeScope,
        reason: String,
    },
    ProposeRepair {
        repair_id: RepairId,
        digest: String,
        steps: u32,
        reason: String,
    },
    /// By somebody other than who proposed it.
    ApproveRepair {
        repair_id: RepairId,
    },
    CloseIncident(Box<IncidentClosed>),
}

impl Command {
    /// Does it go on while everything is frozen? What stops things, what lets them go on, and what ends open holds, whose calls were
    /// made; tokens of staff, since somebody else has to thaw; and agreeing on a repair and closing an incident, which move nothing.
    pub const fn is_never_frozen(&self) -> bool {
        matches!(
            self,
            Self::Freeze { .. }
                | Self::Thaw { .. }
                | Self::ProposeRepair { .. }
                | Self::ApproveRepair { .. }
                | Self::CloseIncident(_)
                | Self::IssueStaffToken { .. }
                | Self::RevokeStaffToken { .. }
                | Self::RevokeDeveloperToken { .. }
                | Self::RevokeSession { .. }
                | Self::ExpireSession { .. }
                | Self::CaptureHold { .. }
                | Self::ReleaseHold { .. }
                | Self::ExpireHold { .. }
                | Self::EndCall(_)
        )
    }

    /// The name for metrics and logs.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::IssueStaffToken { .. } => "issue_staff_token",
            Self::RevokeStaffToken { .. } => "revoke_staff_token",
            Self::RegisterDeveloper { .. } => "register_developer",
            Self::IssueDeveloperToken { .. } => "issue_developer_token",
            Self::RevokeDeveloperToken { .. } => "revoke_developer_token",
            Self::RegisterApp { .. } => "register_app",
            Self::ChangeApp { .. } => "change_app",
            Self::DefineFeature { .. } => "define_feature",
            Self::ChangeFeature { .. } => "change_feature",
            Self::RemoveFeature { .. } => "remove_feature",
            Self::ActivateRateCard { .. } => "activate_rate_card",
            Self::OpenSession { .. } => "open_session",
            Self::RevokeSession { .. } => "revoke_session",
            Self::ExpireSession { .. } => "expire_session",
            Self::RequestTopUp { .. } => "request_top_up",
            Self::CreditTopUp { .. } => "credit_top_up",
            Self::FailTopUp { .. } => "fail_top_up",
            Self::OpenCheckout { .. } => "open_checkout",
            Self::RequestRefund { .. } => "request_refund",
            Self::ConfirmRefund { .. } => "confirm_refund",
            Self::FailRefund { .. } => "fail_refund",
            Self::ReportRefund(_) => "report_refund",
            Self::ReportDispute(_) => "report_dispute",
            Self::RecordTransaction(_) => "record_transaction",
            Self::ProposeWriteOff { .. } => "propose_write_off",
            Self::ApproveWriteOff { .. } => "approve_write_off",
            Self::RequestPayout { .. } => "request_payout",
            Self::StepPayout { step, .. } => match step {
                PayoutStep::Approve { .. } => "approve_payout",
                PayoutStep::Pay { .. } => "pay_payout",
                PayoutStep::Fail { .. } => "fail_payout",
                PayoutStep::Cancel { .. } => "cancel_payout",
                PayoutStep::Return { .. } => "return_payout",
            },
            Self::ExpireCredit { .. } => "expire_credit",
            Self::GrantTestCredit { .. } => "grant_test_credit",
            Self::GrantPromo { .. } => "grant_promo",
            Self::AdjustWallet { .. } => "adjust_wallet",
            Self::PlaceHold { .. } => "place_hold",
            Self::CaptureHold { .. } => "capture_hold",
            Self::ReleaseHold { .. } => "release_hold",
            Self::ExpireHold { .. } => "expire_hold",
            Self::BeginCall(_) => "begin_call",
            Self::EndCall(_) => "end_call",
            Self::StartAttempt(_) => "start_attempt",
            Self::MarkAttempt(_) => "mark_attempt",
            Self::SetDisconnectPolicy { .. } => "set_disconnect_policy",
            Self::RecordUsage { .. } => "record_usage",
            Self::AddCredential(_) => "add_credential",
            Self::DisableCredential { .. } => "disable_credential",
            Self::Freeze { .. } => "freeze",
            Self::Thaw { .. } => "thaw",
            Self::ProposeRepair { .. } => "propose_repair",
            Self::ApproveRepair { .. } => "approve_repair",
            Self::CloseIncident(_) => "close_incident",
        }
    }
}
