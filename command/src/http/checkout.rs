//! A user pays: the top-up is recorded, then the payment provider makes a page for it.
//!
//! A crash at any point is repaired by the same request under the same key: the top-up is found again, and the provider gives the
//! same page for it. Its webhook names the top-up, so a payment finds its wallet even if we never learned of the page.

use std::time::Duration;

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId, idempotency_key};
use modelfaucet_schema::ids::{TopUpId, WalletId};
use modelfaucet_schema::money::{Money, RequestMoney};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::Text;
use super::{Api, Key, stripe};
use crate::domain::{Caller, Command};
use crate::stripe::client::Checkout;
use crate::stripe::work::unavailable;
use crate::stripe::{PROVIDER, StripeError};

/// How long a key finds the same page again; less than Stripe remembers it.
const KEY_LIFE: Duration = Duration::from_hours(20);

/// What to pay, and where to go then.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenCheckout {
    /// Whole cents, above zero.
    amount_usd: RequestMoney,
    /// Where the user goes after paying; http or https.
    success_url: Text<1, 2048>,
    /// Where the user goes otherwise; http or https.
    cancel_url: Text<1, 2048>,
}

/// A page to pay on.
#[derive(Serialize, ToSchema)]
pub(super) struct CheckoutReply {
    /// The payment provider's id of the page.
    checkout_session_id: String,
    /// Where the user pays.
    checkout_url: String,
    /// The wallet that will be credited.
    wallet_id: WalletId,
    /// How much.
    amount_usd: Money,
    /// Always `pending`.
    #[schema(example = "pending")]
    status: &'static str,
    /// The top-up.
    top_up_id: TopUpId,
}

fn url(text: &Text<1, 2048>, param: &'static str) -> Result<(), ApiError> {
    let is_web = |url: &url::Url| matches!(url.scheme(), "http" | "https") && url.has_host();
    match url::Url::parse(&text.0) {
        Ok(url) if is_web(&url) => Ok(()),
        _ => Err(ApiError::invalid(format!("{param} must be an http or https URL.")).param(param)),
    }
}

/// Pay into the own wallet.
///
/// Opens a checkout at the payment provider. The wallet is credited when the provider's webhook says that it was paid. Send an
/// `Idempotency-Key`, so that a repeat opens no second checkout.
#[utoipa::path(post, path = "/v1/user/stripe/checkout-sessions", tag = "payments", security(("bearer" = ["session"])), request_body = OpenCheckout,
    params(("Idempotency-Key" = Option<String>, Header)), responses(
    (status = 201, description = "A page to pay on", body = CheckoutReply),
    (status = "4XX", description = "invalid_request, invalid_session, expired_session, payments_not_configured, checkout_ended, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "payment_provider_error, payment_provider_unavailable, frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn open(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<OpenCheckout>,
) -> Result<Response, ApiError> {
    let (who, wallet_id) = api.require_session(&headers, request_id).await?;
    let client = api.stripe.client.as_ref().ok_or_else(stripe::not_configured)?;
    let body = body.read().await?;
    url(&body.success_url, "success_url")?;
    url(&body.cancel_url, "cancel_url")?;
    let key = idempotency_key(&headers)?.map(|text| Key::new(text, "open_checkout", "", &body));
    let command = Command::RequestTopUp {
        top_up_id: TopUpId::generate(),
        wallet_id,
        amount: body.amount_usd.0,
        provider: PROVIDER.parse().map_err(|_| ApiError::internal())?,
        reference: None,
    };
    let done = api.submit(&who, command, key).await?;
    let Event::TopUpRequested(top_up) = &done.recorded().event else { return Err(done.unexpected()) };
    let (top_up_id, wallet_id, amount) = (top_up.top_up_id, top_up.wallet_id, top_up.amount);
    // Stripe forgets keys after a day: then it would make a second page for a top-up that may be paid.
    if done.outcome.replayed && Timestamp::now().since(done.recorded().recorded_at) > KEY_LIFE {
        let message = "The checkout has ended; begin another one with another key.";
        return Err(ApiError::new(409, "checkout_ended", message));
    }
    let checkout =
        Checkout { top_up_id, wallet_id, amount, success_url: &body.success_url.0, cancel_url: &body.cancel_url.0 };
    let page = match client.open_checkout(&checkout).await {
        Ok(page) => page,
        // The top-up stays: perhaps there is a page, and somebody pays on it.
        Err(StripeError::Unknown) => return Err(unavailable()),
        Err(error @ StripeError::Refused { .. }) => {
            let reason = error.to_string();
            let _noted = api.as_stripe(who.request_id.clone()).plain(Command::FailTopUp { top_up_id, reason }).await;
            return Err(ApiError::new(502, "payment_provider_error", error.to_string()));
        }
    };
    let url = page.url.ok_or_else(unavailable)?;
    let opened = Command::OpenCheckout { top_up_id, reference: page.id.clone(), url: url.clone() };
    // Only a note for people; the credit does not need it.
    if let Err(error) = api.as_stripe(who.request_id.clone()).keyed(opened, stripe::checkout_key(top_up_id)).await {
        tracing::warn!(%error, "a checkout is not noted");
    }
    debug_assert!(matches!(who.caller, Caller::Session(_)), "a user pays");
    let reply = CheckoutReply {
        checkout_session_id: page.id,
        checkout_url: url,
        wallet_id,
        amount_usd: amount,
        status: "pending",
        top_up_id,
    };
    Ok(done.answer(StatusCode::CREATED, &reply))
}
