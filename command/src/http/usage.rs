//! One call that has happened, reported and charged.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Route, ServiceTier};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId, idempotency_key};
use modelfaucet_schema::ids::{SessionId, UsageId, WalletId};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::usage::{MAX_COUNT, Usage};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Authenticated;
use super::reply::{UsageReply, usage_reply};
use super::values::{Identifier, Text, payer};
use super::{Api, Key, key_required};
use crate::domain::{self, CallRequest, Command};

/// What to do with usage that the wallet cannot pay.
#[derive(Clone, Copy, Default, PartialEq, Eq, Deserialize, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(super) enum OnShortfall {
    /// Refuse it (402).
    #[default]
    Refuse,
    /// Record it; what is missing becomes a receivable.
    Receivable,
}

/// A call that has happened.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RecordUsage {
    /// The caller's own id of the call; the idempotency key where no header is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) request_id: Option<Text<1, 255>>,
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
    /// The service tier that served the call; absent: `standard`.
    #[serde(default, skip_serializing_if = "ServiceTier::is_standard")]
    service_tier: ServiceTier,
    /// Disjoint counts.
    usage: Usage,
    /// What to do if the wallet cannot pay; absent: `refuse`.
    #[serde(default)]
    on_shortfall: OnShortfall,
    /// The provider's id of the call.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_request_id: Option<Text<1, 256>>,
    /// When the call happened; absent: now.
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<Timestamp>,
}

impl RecordUsage {
    /// The command that records it.
    pub(super) fn command(self, who: &Authenticated) -> Result<Command, ApiError> {
        Ok(Command::RecordUsage {
            usage_id: UsageId::generate(),
            call: CallRequest {
                payer: payer(who, self.session_id, self.wallet_id)?,
                feature_key: self.feature_key.map(|key| key.0),
                route: self.route,
                provider: self.provider,
                model: self.model.0,
                service_tier: self.service_tier,
            },
            usage: check_counts(self.usage, "usage")?,
            on_shortfall: match self.on_shortfall {
                OnShortfall::Refuse => domain::OnShortfall::Refuse,
                OnShortfall::Receivable => domain::OnShortfall::Receivable,
            },
            provider_request_id: self.provider_request_id.map(|id| id.0).or(self.request_id.map(|id| id.0)),
            occurred_at: self.occurred_at,
        })
    }
}

/// Counts are bounded, so that sums cannot leave the range of money.
pub(super) fn check_counts(usage: Usage, param: &str) -> Result<Usage, ApiError> {
    match usage.too_large() {
        None => Ok(usage),
        Some(component) => {
            let name = component.name();
            Err(ApiError::invalid(format!("{name} is above {MAX_COUNT}.")).param(format!("{param}.{name}")))
        }
    }
}

/// Record one call.
///
/// Charges a call that has happened without a hold. The key is the `Idempotency-Key` header or the body's `request_id`.
#[utoipa::path(post, path = "/v1/usage", tag = "usage", request_body = RecordUsage,
    params(("Idempotency-Key" = Option<String>, Header)), security(("bearer" = ["admin"]), ("bearer" = ["developer:usage:write"]), ("bearer" = ["session"])),
    responses(
    (status = 201, description = "The charge", body = UsageReply),
    (status = "4XX", description = "insufficient_balance, model_not_found, model_not_priced, idempotency_key_reused, …", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn record(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<RecordUsage>,
) -> Result<Response, ApiError> {
    let who = api.require_payer(&headers, request_id).await?;
    let body = body.read().await?;
    let own_key = body.request_id.clone();
    let text = idempotency_key(&headers)?.or(own_key.as_ref().map(|id| id.0.as_str())).ok_or_else(key_required)?;
    let key = Key::new(text, "record_usage", "", &body);
    let done = api.submit(&who, body.command(&who)?, Some(key)).await?;
    let reply = usage_reply(&done.recorded().event, done.caller).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::CREATED, &reply))
}
