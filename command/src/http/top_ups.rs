//! Top-ups by an administrator. A payment provider's webhook uses the same commands.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::http::{ApiError, RequestId, StrictJson, idempotency_key};
use modelfaucet_schema::ids::{TopUpId, WalletId};
use modelfaucet_schema::money::{Money, RequestMoney};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reply::WalletFigures;
use super::values::{Text, path_id};
use super::{Api, Key, key_required};
use crate::domain::Command;

/// A payment that was begun.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestTopUp {
    /// Whole cents.
    amount_usd: RequestMoney,
    /// The payment provider; absent: `manual`.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Name>,
    /// The provider's own id of the checkout.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<Text<1, 256>>,
}

/// A payment that arrived.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CreditTopUp {
    /// The provider's id of the payment: credited once, whatever is repeated.
    payment: Text<1, 256>,
    /// What was paid; must be what was requested.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount_usd: Option<RequestMoney>,
    /// When it was paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<Timestamp>,
}

/// A payment that will not arrive.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FailTopUp {
    /// Why.
    reason: Text<1, 1000>,
}

/// A top-up.
#[derive(Serialize, ToSchema)]
pub(super) struct TopUpReply {
    /// The top-up.
    top_up_id: TopUpId,
    /// The wallet.
    wallet_id: WalletId,
    /// `pending`, `credited` or `failed`.
    status: &'static str,
    /// The amount.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount_usd: Option<Money>,
    /// The payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    payment: Option<String>,
    /// The wallet after it.
    #[serde(skip_serializing_if = "Option::is_none")]
    wallet: Option<WalletFigures>,
}

fn reply(event: &Event) -> Option<TopUpReply> {
    let base = |top_up_id, wallet_id, status| TopUpReply {
        top_up_id,
        wallet_id,
        status,
        amount_usd: None,
        payment: None,
        wallet: None,
    };
    match event {
        Event::TopUpRequested(event) => {
            Some(TopUpReply { amount_usd: Some(event.amount), ..base(event.top_up_id, event.wallet_id, "pending") })
        }
        Event::TopUpCredited(event) => Some(TopUpReply {
            amount_usd: Some(event.amount),
            payment: Some(event.payment.clone()),
            wallet: Some(WalletFigures::new(event.wallet_id, event.balance)),
            ..base(event.top_up_id, event.wallet_id, "credited")
        }),
        Event::TopUpFailed(event) => Some(base(event.top_up_id, event.wallet_id, "failed")),
        _ => None,
    }
}

/// Request a top-up.
#[utoipa::path(post, path = "/v1/admin/wallets/{wallet_id}/top-ups", tag = "top-ups", request_body = RequestTopUp,
    params(("wallet_id" = WalletId, Path), ("Idempotency-Key" = String, Header)), responses(
    (status = 201, description = "A pending top-up", body = TopUpReply),
    (status = "4XX", description = "wallet_not_found, invalid_request, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn request(
    State(api): State<Api>,
    Path(wallet_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<RequestTopUp>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let key = Key::new(idempotency_key(&headers)?.ok_or_else(key_required)?, "request_top_up", &wallet_id, &body);
    let provider = match body.provider {
        Some(provider) => provider,
        None => "manual".parse().map_err(|_| ApiError::internal())?,
    };
    let command = Command::RequestTopUp {
        top_up_id: TopUpId::generate(),
        wallet_id: path_id(&wallet_id, "wallet id")?,
        amount: body.amount_usd.0,
        provider,
        reference: body.reference.map(|reference| reference.0),
    };
    let done = api.submit(&who, command, Some(key)).await?;
    let reply = reply(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::CREATED, &reply))
}

/// Credit a top-up.
///
/// The payment's id is the idempotency key: a payment is credited once, for ever.
#[utoipa::path(post, path = "/v1/admin/top-ups/{top_up_id}/credit", tag = "top-ups", request_body = CreditTopUp,
    params(("top_up_id" = TopUpId, Path)), responses(
    (status = 200, description = "The credited top-up", body = TopUpReply),
    (status = "4XX", description = "top_up_not_found, amount_mismatch, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn credit(
    State(api): State<Api>,
    Path(top_up_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<CreditTopUp>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let own_key = format!("payment:{}", body.payment.0);
    // What the caller says about the amount and the time is no other payment.
    let key = Key::new(&own_key, "credit_top_up", &top_up_id, &body.payment);
    let command = Command::CreditTopUp {
        top_up_id: path_id(&top_up_id, "top-up id")?,
        payment: body.payment.0.clone(),
        amount: body.amount_usd.map(|amount| amount.0),
        occurred_at: body.occurred_at,
    };
    let done = api.submit(&who, command, Some(key)).await?;
    let reply = reply(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::OK, &reply))
}

/// Fail a top-up.
#[utoipa::path(post, path = "/v1/admin/top-ups/{top_up_id}/fail", tag = "top-ups", request_body = FailTopUp,
    params(("top_up_id" = TopUpId, Path)), responses(
    (status = 200, description = "The failed top-up", body = TopUpReply),
    (status = "4XX", description = "top_up_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn fail(
    State(api): State<Api>,
    Path(top_up_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<FailTopUp>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let own_key = format!("fail:{top_up_id}");
    let key = Key::new(idempotency_key(&headers)?.unwrap_or(&own_key), "fail_top_up", &top_up_id, &body);
    let command = Command::FailTopUp { top_up_id: path_id(&top_up_id, "top-up id")?, reason: body.reason.0.clone() };
    let done = api.submit(&who, command, Some(key)).await?;
    let reply = reply(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::OK, &reply))
}
