//! Rate cards: what providers charge us.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Event, ModelRates, RateCardId};
use modelfaucet_schema::http::{ApiError, JsonBody, MAX_RATE_CARD, RequestId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::values::Text;
use crate::domain::Command;

/// A rate card: what providers charge us.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivateRateCard {
    /// Where the prices come from.
    source: Text<1, 256>,
    /// Prices by model, USD per token.
    models: Vec<ModelRates>,
}

/// The rate card that prices new holds and usage.
#[derive(Serialize, ToSchema)]
pub(super) struct RateCardReply {
    /// Its name, derived from its content.
    rate_card_id: RateCardId,
    /// Always `active`.
    status: &'static str,
}

/// Activate a rate card.
///
/// New holds and usage are priced by it; open holds keep the card that they were placed under. At most 8 MiB.
#[utoipa::path(post, path = "/v1/admin/rate-cards", tag = "catalogue", request_body = ActivateRateCard, security(("bearer" = ["admin"])),
    responses(
    (status = 201, description = "The active card", body = RateCardReply),
    (status = "4XX", description = "already_exists, invalid_rate_card, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn activate_rate_card(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ActivateRateCard, MAX_RATE_CARD>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let done = api.submit(&who, Command::ActivateRateCard { source: body.source.0, models: body.models }, None).await?;
    let Event::RateCardActivated(event) = &done.recorded().event else { return Err(done.unexpected()) };
    Ok(done.answer(StatusCode::CREATED, &RateCardReply { rate_card_id: event.rate_card_id, status: "active" }))
}
