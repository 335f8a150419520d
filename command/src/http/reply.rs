//! Answers, made from the event alone: a repeat a year later gives the same bytes.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{
    Balance, Call, Event, RateCardId, Rating, Recorded, ReleaseReason, Route, ServiceTier,
};
use modelfaucet_schema::http::{ApiError, IDEMPOTENT_REPLAYED, LEDGER_POSITION};
use modelfaucet_schema::ids::{Position, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::rate::ExactCost;
use modelfaucet_schema::time::ApiTime;
use modelfaucet_schema::usage::Usage;
use serde::Serialize;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::domain::{Caller, Rejection};
use crate::writer::CommandError;
use crate::writer::core::Outcome;

/// A command that took effect, and for whom.
pub(super) struct Done {
    pub(super) outcome: Outcome,
    pub(super) caller: Caller,
}

impl Done {
    pub(super) fn recorded(&self) -> &Recorded {
        &self.outcome.recorded
    }

    /// The answer with this body.
    pub(super) fn answer(&self, status: StatusCode, body: &impl Serialize) -> Response {
        let mut bytes = Vec::with_capacity(1_024);
        if serde_json::to_writer(&mut bytes, body).is_err() {
            return self.unexpected().into_response();
        }
        let kind = [(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json"))];
        let mut response = (status, kind, bytes).into_response();
        let headers = response.headers_mut();
        headers.insert(LEDGER_POSITION, HeaderValue::from(self.outcome.recorded.position.0));
        if self.outcome.replayed {
            headers.insert(IDEMPOTENT_REPLAYED, HeaderValue::from_static("true"));
        }
        response
    }

    /// The answer of a command whose event is not the one that this operation makes; cannot happen, since the fingerprint names
    /// the operation.
    pub(super) fn unexpected(&self) -> ApiError {
        tracing::error!(event = self.recorded().event.name(), "an operation was answered by another operation's event");
        ApiError::internal()
    }
}

/// What a caller is told of a failed command.
pub(crate) fn error(error: &CommandError) -> ApiError {
    match error {
        CommandError::Rejected(rejection) => rejected(rejection),
        CommandError::Overloaded => ApiError::unavailable("overloaded", error.to_string()),
        CommandError::Unavailable => ApiError::unavailable("ledger_unavailable", error.to_string()),
        CommandError::InDoubt => ApiError::unavailable("in_doubt", error.to_string()),
    }
}

fn rejected(rejection: &Rejection) -> ApiError {
    let answer = ApiError::new(rejection.status(), rejection.code(), rejection.to_string());
    match rejection {
        Rejection::InFlightHolds { available, required } => {
            answer.details(shortfall(*available, *required)).retry_after(2)
        }
        Rejection::InsufficientBalance { available, required } | Rejection::BudgetExceeded { available, required } => {
            answer.details(shortfall(*available, *required))
        }
        Rejection::ProviderAmbiguous | Rejection::UnsupportedProvider => answer.param("provider"),
        Rejection::ModelNotFound | Rejection::ModelNotPriced { .. } | Rejection::BudgetNotPriced => {
            answer.param("model")
        }
        Rejection::MalformedKey | Rejection::KeyOfOtherProvider => answer.param("api_key"),
        Rejection::InvalidBudget => answer.param("policy"),
        Rejection::InvalidPriority => answer.param("priority"),
        Rejection::FeatureNotFound => answer.param("feature_key"),
        Rejection::OccursInFuture => answer.param("occurred_at"),
        Rejection::AmountMismatch { .. } | Rejection::NotWholeCents | Rejection::ZeroAmount => {
            answer.param("amount_usd")
        }
        _ => answer,
    }
}

fn shortfall(available: Money, required: Money) -> serde_json::Value {
    serde_json::json!({ "available_usd": available, "required_usd": required })
}

/// Every refusal as `(status, code, message)`, for the API document.
pub fn rejection_table() -> Vec<(u16, &'static str, &'static str)> {
    let mut rows: Vec<_> = Rejection::ALL.iter().map(|(_, status, code, message)| (*status, *code, *message)).collect();
    rows.extend([
        (400, "idempotency_key_required", "Send an Idempotency-Key header, so that a repeat has no second effect."),
        (503, "provider_keys_unavailable", "Provider keys cannot be stored at the moment; certainly no effect."),
        (409, "checkout_ended", "The checkout has ended; begin another one with another key."),
        (409, "payments_not_configured", "No payment provider is configured (STRIPE_SECRET_KEY)."),
        (502, "payment_provider_error", "The payment provider refused; certainly no effect."),
        (503, "payment_provider_unavailable", "Stripe does not answer; try again with the same key."),
        (503, "overloaded", "Too much is waiting; certainly no effect."),
        (503, "ledger_unavailable", "The log cannot be reached; certainly no effect."),
        (503, "in_doubt", "The result is not known yet; send the same request with the same key again."),
    ]);
    rows.sort_unstable();
    rows.dedup();
    rows
}

/// A wallet's figures.
#[derive(Serialize, ToSchema)]
pub(super) struct WalletFigures {
    /// The wallet.
    wallet_id: WalletId,
    /// Posted balance, promotional credit included.
    balance_usd: Money,
    /// What can still be spent or held.
    available_usd: Money,
    /// The sum of open holds.
    held_usd: Money,
}

impl WalletFigures {
    pub(super) fn new(wallet_id: WalletId, balance: Balance) -> Self {
        Self { wallet_id, balance_usd: balance.posted, available_usd: balance.available(), held_usd: balance.held }
    }
}

/// What became of a usage.
#[derive(Clone, Copy, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum UsageStatus {
    /// Its hold was captured.
    Captured,
    /// Its hold had expired; charged as far as the wallet could pay.
    CapturedLate,
    /// Recorded without a hold.
    Recorded,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(amount: &Money) -> bool {
    amount.is_zero()
}

/// A usage and what it came to.
#[derive(Serialize, ToSchema)]
pub(super) struct UsageReply {
    /// The hold's id, or the usage's own where there was no hold.
    usage_id: Uuid,
    /// What became of it.
    status: UsageStatus,
    /// The route.
    route: Route,
    /// The provider.
    #[schema(value_type = String)]
    provider: Name,
    /// The model.
    model: String,
    /// The feature that priced it.
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_key: Option<String>,
    /// What was used.
    usage: Usage,
    /// The service tier that priced it, if another than `standard`.
    #[serde(skip_serializing_if = "ServiceTier::is_standard")]
    service_tier: ServiceTier,
    /// What the customer pays.
    charged_usd: Money,
    /// The part of the charge that became a receivable.
    #[serde(skip_serializing_if = "is_zero")]
    receivable_usd: Money,
    /// Did the price pass the hold? The customer paid the hold, the platform bears the rest.
    over_hold: bool,
    /// The developer's share; not shown to users.
    #[serde(skip_serializing_if = "Option::is_none")]
    developer_revenue_usd: Option<Money>,
    /// The whole rating; shown to administrators.
    #[serde(skip_serializing_if = "Option::is_none")]
    rating: Option<RatingReply>,
    /// The wallet after it.
    wallet: WalletFigures,
}

/// The arithmetic of a charge.
#[derive(Serialize, ToSchema)]
pub(super) struct RatingReply {
    /// The card that priced it.
    rate_card_id: RateCardId,
    /// The unrounded cost.
    exact_cost_usd: ExactCost,
    /// The provider's cost, rounded once.
    upstream_cost_usd: Money,
    /// The price by the rules, before any cap.
    retail_price_usd: Money,
    /// Cost that no customer bears.
    unrecovered_usd: Money,
    /// The part of the charge that promotional credit paid.
    promo_usd: Money,
}

/// The usage that an event tells of, as far as the caller may know it.
pub(super) fn usage_reply(event: &Event, caller: Caller) -> Option<UsageReply> {
    let reply = |usage_id, status, wallet, call: &Call, rating: &Rating, over_hold, balance| UsageReply {
        usage_id,
        status,
        route: call.route,
        provider: call.provider.clone(),
        model: call.model.clone(),
        feature_key: call.feature_key.clone(),
        usage: rating.usage,
        service_tier: rating.service_tier,
        charged_usd: rating.charge,
        receivable_usd: rating.receivable,
        over_hold,
        developer_revenue_usd: (!matches!(caller, Caller::Session(_) | Caller::Gateway(_) | Caller::Public))
            .then_some(rating.developer),
        rating: caller.administers().then_some(RatingReply {
            rate_card_id: rating.rate_card_id,
            exact_cost_usd: rating.exact_cost,
            upstream_cost_usd: rating.upstream,
            retail_price_usd: rating.retail,
            unrecovered_usd: rating.unrecovered,
            promo_usd: rating.promo,
        }),
        wallet: WalletFigures::new(wallet, balance),
    };
    match event {
        Event::HoldCaptured(e) => {
            Some(reply(e.hold_id.0, UsageStatus::Captured, e.wallet_id, &e.call, &e.rating, e.over_hold, e.balance))
        }
        Event::LateUsageCaptured(e) => {
            let over = e.rating.retail > e.rating.charge;
            Some(reply(e.hold_id.0, UsageStatus::CapturedLate, e.wallet_id, &e.call, &e.rating, over, e.balance))
        }
        Event::UsageRecorded(e) => {
            Some(reply(e.usage_id.0, UsageStatus::Recorded, e.wallet_id, &e.call, &e.rating, false, e.balance))
        }
        _ => None,
    }
}

/// An open hold.
#[derive(Serialize, ToSchema)]
pub(super) struct HoldReply {
    /// The hold.
    hold_id: Uuid,
    /// Always `open`.
    #[schema(example = "open")]
    status: &'static str,
    /// What was asked.
    requested_usd: Money,
    /// What is held.
    amount_usd: Money,
    /// The route.
    route: Route,
    /// The provider.
    #[schema(value_type = String)]
    provider: Name,
    /// The model.
    model: String,
    /// The feature that prices it.
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_key: Option<String>,
    /// The service tier that it was placed for, if another than `standard`.
    #[serde(skip_serializing_if = "ServiceTier::is_standard")]
    service_tier: ServiceTier,
    /// The card that will price it.
    rate_card_id: RateCardId,
    /// When it expires.
    expires_at: ApiTime,
    /// The wallet after it.
    wallet: WalletFigures,
}

pub(super) fn hold_reply(event: &Event) -> Option<HoldReply> {
    let Event::HoldPlaced(event) = event else { return None };
    Some(HoldReply {
        hold_id: event.hold_id.0,
        status: "open",
        requested_usd: event.requested,
        amount_usd: event.amount,
        route: event.call.route,
        provider: event.call.provider.clone(),
        model: event.call.model.clone(),
        feature_key: event.call.feature_key.clone(),
        service_tier: event.call.service_tier,
        rate_card_id: event.rate_card_id,
        expires_at: ApiTime(event.expires_at),
        wallet: WalletFigures::new(event.wallet_id, event.balance),
    })
}

/// A hold that was given back.
#[derive(Serialize, ToSchema)]
pub(super) struct ReleaseReply {
    /// The hold.
    hold_id: Uuid,
    /// Always `released`.
    #[schema(example = "released")]
    status: &'static str,
    /// What is free again.
    amount_usd: Money,
    /// Why.
    reason: ReleaseReason,
    /// The wallet after it.
    wallet: WalletFigures,
}

pub(super) fn release_reply(event: &Event) -> Option<ReleaseReply> {
    let Event::HoldReleased(event) = event else { return None };
    Some(ReleaseReply {
        hold_id: event.hold_id.0,
        status: "released",
        amount_usd: event.amount,
        reason: event.reason,
        wallet: WalletFigures::new(event.wallet_id, event.balance),
    })
}

/// Done; nothing more to tell.
#[derive(Serialize, ToSchema)]
pub(super) struct OkReply {
    /// Always true.
    ok: bool,
    /// The position of the event.
    position: Position,
}

impl OkReply {
    pub(super) fn of(done: &Done) -> Self {
        Self { ok: true, position: done.recorded().position }
    }
}
