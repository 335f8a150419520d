//! Usage of models on the user's own machine, as the local bridge reports it. Nothing was called through us, so nothing is held; the
//! price is the feature's fee, by default none.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::KeyUse;
use modelfaucet_schema::http::{IDEMPOTENT_REPLAYED, LEDGER_POSITION, RequestId, StrictJson};
use modelfaucet_schema::ids::UsageId;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::short_hash;
use modelfaucet_schema::usage::{MAX_COUNT, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::call::of_port;
use crate::error::CallError;
use crate::gateway::Gateway;
use crate::http::{session, token};
use crate::port::LocalUsage;

/// A call of a local model that has happened.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct UsageReport {
    /// The client's own id of the call; a repeat records nothing.
    #[schema(min_length = 1, max_length = 255)]
    request_id: String,
    /// The feature; absent: the session's.
    #[serde(default)]
    feature_key: Option<String>,
    /// Who runs the model, for example `ollama`.
    #[schema(value_type = String)]
    provider: Name,
    /// The model.
    #[schema(min_length = 1, max_length = 256)]
    model: String,
    /// Input tokens.
    input_tokens: u64,
    /// Output tokens.
    output_tokens: u64,
    /// When it happened; absent: now.
    #[serde(default)]
    created_at: Option<Timestamp>,
}

/// A reported call in the books.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageReported {
    /// Always true.
    ok: bool,
    /// The client's own id.
    request_id: String,
    /// The id in the books.
    usage_id: UsageId,
    /// What it was charged: the feature's fee.
    charged_usd: Money,
}

/// Report local usage.
///
/// Records a call of a model on the user's own machine, with a session's token. `request_id` is the idempotency key.
#[utoipa::path(post, path = "/v1/usage/report", tag = "gateway", request_body = UsageReport, security(("bearer" = ["session"])), responses(
    (status = 201, description = "Recorded", body = UsageReported),
    (status = "4XX", description = "invalid_session, invalid_request, feature_not_found, insufficient_balance, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable", body = ErrorBody)))]
pub(crate) async fn report(
    State(gateway): State<Gateway>,
    request_id: RequestId,
    headers: HeaderMap,
    StrictJson(report): StrictJson<UsageReport>,
) -> Response {
    match record(&gateway, request_id.as_str(), &headers, report).await {
        Ok(response) => response,
        Err(error) => error.answer(request_id.as_str()),
    }
}

async fn record(
    gateway: &Gateway,
    request_id: &str,
    headers: &HeaderMap,
    report: UsageReport,
) -> Result<Response, CallError> {
    let session = session(gateway, token(headers)?).await?;
    for (name, text, most) in [("request_id", &report.request_id, 255), ("model", &report.model, 256)] {
        if text.is_empty() || text.chars().count() > most || text.chars().any(char::is_control) {
            return Err(CallError::malformed(name, format!("`{name}` must have 1 to {most} characters.")));
        }
    }
    for (name, count) in [("input_tokens", report.input_tokens), ("output_tokens", report.output_tokens)] {
        if count > MAX_COUNT {
            return Err(CallError::malformed(name, format!("`{name}` is above {MAX_COUNT}.")));
        }
    }
    let content = serde_json::to_vec(&report).unwrap_or_default();
    let wallet = session.wallet_id.0;
    let key = KeyUse {
        key: short_hash(&[b"gateway", wallet.as_bytes(), b"usage_report", report.request_id.as_bytes()]),
        fingerprint: short_hash(&[b"gateway_usage_report", &content]),
    };
    let usage = LocalUsage {
        session_id: session.session_id,
        feature_key: report.feature_key,
        provider: report.provider,
        model: report.model,
        usage: Usage::text(report.input_tokens, report.output_tokens),
        label: report.request_id.clone(),
        occurred_at: report.created_at,
        key,
    };
    let reported = gateway.shared.ledger.report(request_id, usage).await.map_err(|error| of_port(&error))?;
    let body = UsageReported {
        ok: true,
        request_id: report.request_id,
        usage_id: reported.recorded.usage_id,
        charged_usd: reported.recorded.rating.charge,
    };
    let mut response = (StatusCode::CREATED, Json(body)).into_response();
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static(LEDGER_POSITION), HeaderValue::from(reported.position.0));
    if reported.replayed {
        headers.insert(HeaderName::from_static(IDEMPOTENT_REPLAYED), HeaderValue::from_static("true"));
    }
    Ok(response)
}
