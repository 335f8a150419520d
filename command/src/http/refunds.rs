//! Money back to the card.
//!
//! The refund is recorded first and leaves the wallet; then Stripe is asked, under a key made of the refund's id. If nobody learns
//! its answer the refund stays requested, and a repeat of the request, a webhook or a sweep finds out.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId, idempotency_key};
use modelfaucet_schema::ids::RefundId;
use modelfaucet_schema::money::{Money, RequestMoney};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reply::WalletFigures;
use super::stripe::{not_configured, refund_unknown};
use super::values::Text;
use super::{Api, Key, key_required};
use crate::domain::Command;

/// A refund to make.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestRefund {
    /// The payment provider's id of the payment, `pi_…`.
    payment: Text<1, 256>,
    /// Whole cents, at most what is left of the payment and of the wallet's paid credit.
    amount_usd: RequestMoney,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Text<1, 1000>>,
}

/// A refund.
#[derive(Serialize, ToSchema)]
pub(super) struct RefundReply {
    /// The refund.
    refund_id: RefundId,
    /// The payment.
    payment: String,
    /// How much.
    amount_usd: Money,
    /// Always `sent`: Stripe has it.
    #[schema(example = "sent")]
    status: &'static str,
    /// The wallet after it.
    wallet: WalletFigures,
}

/// Refund a payment, or part of it.
///
/// It leaves the wallet at once. 503 `payment_provider_unavailable` means that the refund is recorded and nobody knows whether
/// Stripe has made it: send the same request with the same key.
#[utoipa::path(post, path = "/v1/admin/refunds", tag = "payments", security(("bearer" = ["admin"])), request_body = RequestRefund,
    params(("Idempotency-Key" = String, Header)), responses(
    (status = 201, description = "The refund", body = RefundReply),
    (status = "4XX", description = "payment_not_found, refund_too_large, insufficient_balance, in_flight_holds, payments_not_configured, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "payment_provider_error, payment_provider_unavailable, frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn request(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<RequestRefund>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    if api.stripe.client.is_none() {
        return Err(not_configured());
    }
    let key = Key::new(idempotency_key(&headers)?.ok_or_else(key_required)?, "request_refund", "", &body);
    let command = Command::RequestRefund {
        refund_id: RefundId::generate(),
        payment: body.payment.0.clone(),
        amount: body.amount_usd.0,
        reason: body.reason.as_ref().map(|reason| reason.0.clone()),
    };
    let done = api.submit(&who, command, Some(key)).await?;
    let Event::RefundRequested(refund) = &done.recorded().event else { return Err(done.unexpected()) };
    if !api.send_refund(refund.refund_id, done.outcome.replayed, &who.request_id).await? {
        return Err(refund_unknown());
    }
    let reply = RefundReply {
        refund_id: refund.refund_id,
        payment: refund.payment.clone(),
        amount_usd: refund.amount,
        status: "sent",
        wallet: WalletFigures::new(refund.wallet_id, refund.balance),
    };
    Ok(done.answer(StatusCode::CREATED, &reply))
}
