//! Placing, capturing and releasing holds.

use std::time::Duration;

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{ReleaseReason, Route, ServiceTier};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId, idempotency_key};
use modelfaucet_schema::ids::{HoldId, SessionId, WalletId};
use modelfaucet_schema::money::RequestMoney;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::usage::Usage;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reply::{HoldReply, ReleaseReply, UsageReply, hold_reply, release_reply, usage_reply};
use super::usage::check_counts;
use super::values::{Identifier, Text, path_id, payer};
use super::{Api, Key, key_required};
use crate::domain::{CallRequest, Command, HoldAmount};

/// How long a hold stays open if the request does not say: 15 minutes.
const DEFAULT_SECONDS: u32 = 900;

/// Funds to set aside for a call: a fixed amount, or the price of the most that the call can use.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PlaceHold {
    /// The session that pays; a session token pays for itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    session_id: Option<SessionId>,
    /// The wallet that pays, instead of a session.
    #[serde(skip_serializing_if = "Option::is_none")]
    wallet_id: Option<WalletId>,
    /// The feature that prices the call; absent: the session's.
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_key: Option<Identifier>,
    /// The route; absent: `platform`.
    #[serde(default)]
    route: Route,
    /// The provider; needed only where several offer the model.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Name>,
    /// The model.
    model: Text<1, 256>,
    /// The provider's service tier that is asked for; absent: `standard`.
    #[serde(default, skip_serializing_if = "ServiceTier::is_standard")]
    service_tier: ServiceTier,
    /// How much to set aside.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount_usd: Option<RequestMoney>,
    /// The most that the call can use, instead of an amount.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage_bound: Option<Usage>,
    /// Take less than asked, down to this, rather than a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    min_amount_usd: Option<RequestMoney>,
    /// Seconds until it expires: 1 to 86400; absent: 900.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_in: Option<u32>,
}

/// Place a hold.
///
/// The funds are set aside durably before the answer: call the provider after it. Needs an `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/usage/holds", tag = "usage", request_body = PlaceHold,
    params(("Idempotency-Key" = String, Header, description = "Same key and body: the first answer again. Same key, other body: 422.")),
    security(("bearer" = ["admin"]), ("bearer" = ["developer:usage:write"]), ("bearer" = ["session"])),
    responses(
    (status = 201, description = "The hold", body = HoldReply),
    (status = "4XX", description = "invalid_session, insufficient_balance, in_flight_holds, model_not_found, …", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn place(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<PlaceHold>,
) -> Result<Response, ApiError> {
    let who = api.require_payer(&headers, request_id).await?;
    let body = body.read().await?;
    let key = Key::new(idempotency_key(&headers)?.ok_or_else(key_required)?, "place_hold", "", &body);
    let amount = match (body.amount_usd, body.usage_bound) {
        (Some(amount), None) => HoldAmount::Fixed(amount.0),
        (None, Some(bound)) => HoldAmount::Bound(check_counts(bound, "usage_bound")?),
        _ => return Err(ApiError::invalid("Name either amount_usd or usage_bound.").param("amount_usd")),
    };
    let command = Command::PlaceHold {
        hold_id: HoldId::generate(),
        call: CallRequest {
            payer: payer(&who, body.session_id, body.wallet_id)?,
            feature_key: body.feature_key.map(|key| key.0),
            route: body.route,
            provider: body.provider,
            model: body.model.0,
            service_tier: body.service_tier,
        },
        amount,
        min_amount: body.min_amount_usd.map(|amount| amount.0),
        expires_in: Duration::from_secs(body.expires_in.unwrap_or(DEFAULT_SECONDS).into()),
    };
    let done = api.submit(&who, command, Some(key)).await?;
    let reply = hold_reply(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::CREATED, &reply))
}

/// What the call really used.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CaptureHold {
    /// Disjoint counts.
    usage: Usage,
    /// The service tier that served the call; absent: the one that was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    service_tier: Option<ServiceTier>,
    /// The provider's id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_request_id: Option<Text<1, 256>>,
    /// When the call happened.
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<Timestamp>,
}

/// Capture a hold.
///
/// Charges what was used, at most the hold, and gives the rest back, in one event. The hold's id is the idempotency key unless
/// the request sends one.
#[utoipa::path(post, path = "/v1/usage/holds/{hold_id}/capture", tag = "usage", request_body = CaptureHold,
    params(("hold_id" = HoldId, Path), ("Idempotency-Key" = Option<String>, Header)), security(("bearer" = ["admin"]), ("bearer" = ["developer:usage:write"]), ("bearer" = ["session"])),
    responses(
    (status = 200, description = "The charge", body = UsageReply),
    (status = "4XX", description = "hold_not_found, model_not_priced, idempotency_key_reused, …", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn capture(
    State(api): State<Api>,
    Path(hold_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<CaptureHold>,
) -> Result<Response, ApiError> {
    let who = api.require_payer(&headers, request_id).await?;
    let body = body.read().await?;
    let id: HoldId = path_id(&hold_id, "hold id")?;
    let own_key = format!("end:{id}");
    let key = Key::new(idempotency_key(&headers)?.unwrap_or(&own_key), "capture_hold", &hold_id, &body);
    let command = Command::CaptureHold {
        hold_id: id,
        usage: check_counts(body.usage, "usage")?,
        service_tier: body.service_tier,
        provider_request_id: body.provider_request_id.map(|id| id.0),
        occurred_at: body.occurred_at,
    };
    let done = api.submit(&who, command, Some(key)).await?;
    let reply = usage_reply(&done.recorded().event, done.caller).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::OK, &reply))
}

/// Why a hold is given back.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReleaseHold {
    /// Absent: `cancelled`.
    #[serde(default)]
    reason: ReleaseReason,
}

/// Release a hold.
///
/// The funds are free again; nothing is charged. The hold's id is the idempotency key unless the request sends one.
#[utoipa::path(post, path = "/v1/usage/holds/{hold_id}/release", tag = "usage", request_body = ReleaseHold,
    params(("hold_id" = HoldId, Path), ("Idempotency-Key" = Option<String>, Header)), security(("bearer" = ["admin"]), ("bearer" = ["developer:usage:write"]), ("bearer" = ["session"])),
    responses(
    (status = 200, description = "The hold has ended", body = ReleaseReply),
    (status = "4XX", description = "hold_not_found, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn release(
    State(api): State<Api>,
    Path(hold_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ReleaseHold>,
) -> Result<Response, ApiError> {
    let who = api.require_payer(&headers, request_id).await?;
    let body = body.read().await?;
    let id: HoldId = path_id(&hold_id, "hold id")?;
    let own_key = format!("end:{id}");
    let key = Key::new(idempotency_key(&headers)?.unwrap_or(&own_key), "release_hold", &hold_id, &body);
    let done = api.submit(&who, Command::ReleaseHold { hold_id: id, reason: body.reason }, Some(key)).await?;
    let reply = release_reply(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::OK, &reply))
}
