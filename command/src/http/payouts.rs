//! Payouts to developers: requested by a run over all of them or by hand, approved by somebody else, paid; or failed, cancelled,
//! returned. Every step has a key of its own, made of the payout's id: a repeat gets the first answer.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Event, PayoutTrigger};
use modelfaucet_schema::http::{ApiError, JsonBody, LEDGER_POSITION, RequestId, idempotency_key};
use modelfaucet_schema::ids::{DeveloperId, PayoutId};
use modelfaucet_schema::money::{Money, RequestMoney};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Authenticated;
use super::reply::{Done, error};
use super::values::{Text, path_id};
use super::{Api, Key, key_required};
use crate::domain::{Command, PayoutStep, Rejection};
use crate::payout::{PayoutError, PayoutOrder, PayoutProvider};
use crate::writer::{CommandError, Request};

/// A payout.
#[derive(Serialize, ToSchema)]
pub(super) struct PayoutItem {
    /// The payout.
    id: PayoutId,
    /// The developer.
    developer_id: DeveloperId,
    /// How much.
    amount_usd: Money,
    /// `pending`, `processing`, `paid`, `failed`, `cancelled` or `returned`.
    status: &'static str,
    /// Who pays it out.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    provider: Option<Name>,
    /// The provider's or bank's id of the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_payout_id: Option<String>,
}

impl PayoutItem {
    fn of(event: &Event) -> Option<Self> {
        let item = |id, developer_id, amount_usd, status| Self {
            id,
            developer_id,
            amount_usd,
            status,
            provider: None,
            provider_payout_id: None,
        };
        Some(match event {
            Event::PayoutRequested(e) => {
                Self { provider: Some(e.provider.clone()), ..item(e.payout_id, e.developer_id, e.amount, "pending") }
            }
            Event::PayoutApproved(e) => {
                Self { provider: Some(e.provider.clone()), ..item(e.payout_id, e.developer_id, e.amount, "processing") }
            }
            Event::PayoutPaid(e) => Self {
                provider: Some(e.provider.clone()),
                provider_payout_id: Some(e.reference.clone()),
                ..item(e.payout_id, e.developer_id, e.amount, "paid")
            },
            Event::PayoutFailed(e) => item(e.payout_id, e.developer_id, e.amount, "failed"),
            Event::PayoutCancelled(e) => item(e.payout_id, e.developer_id, e.amount, "cancelled"),
            Event::PayoutReturned(e) => item(e.payout_id, e.developer_id, e.amount, "returned"),
            _ => return None,
        })
    }
}

/// What a developer must be owed.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RunPayouts {
    /// Above zero; absent: the setting `PAYOUT_THRESHOLD_USD`.
    threshold_usd: Option<RequestMoney>,
}

/// The payouts of a run.
#[derive(Serialize, ToSchema)]
pub(super) struct RunReply {
    /// New ones only.
    items: Vec<PayoutItem>,
}

fn find_provider(api: &Api, name: Option<&Name>) -> Result<Name, ApiError> {
    let unknown = || ApiError::invalid("There is no payout provider of this name.").param("provider");
    let named = |provider: &&std::sync::Arc<dyn PayoutProvider>| name.is_none_or(|name| provider.name() == *name);
    api.payout_providers.iter().find(named).map(|provider| provider.name()).ok_or_else(unknown)
}

/// Request payouts for all developers who are owed enough.
///
/// Each gets one over everything that is owed, in whole cents, unless a payout of theirs is not over. The amount is reserved. A
/// repeat requests nothing again.
#[utoipa::path(post, path = "/v1/admin/payouts/run-mock", tag = "payouts", security(("bearer" = ["admin"])), request_body = RunPayouts, responses(
    (status = 200, description = "The new payouts", body = RunReply),
    (status = "4XX", description = "invalid_request, invalid_session, forbidden", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn run(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<RunPayouts>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let threshold = body.threshold_usd.map_or(api.payout_threshold, |threshold| threshold.0);
    if !threshold.is_positive() {
        return Err(ApiError::invalid("The threshold must be above zero.").param("threshold_usd"));
    }
    let provider = find_provider(&api, None)?;
    api.record_attempt(&who).await.map_err(|failed| error(&failed))?;
    let request = |developer_id| Request {
        caller: who.caller,
        command: Command::RequestPayout {
            payout_id: PayoutId::generate(),
            developer_id,
            amount: None,
            threshold,
            provider: provider.clone(),
            trigger: PayoutTrigger::Threshold,
        },
        key: None,
    };
    let requests = api.ledger.directory().developers().into_iter().map(request).collect();
    let answers = api.ledger.submit_all(who.request_id.as_str(), requests);
    let answers = tokio::time::timeout(super::REQUEST_LIMIT, answers).await.unwrap_or(Err(CommandError::InDoubt));
    let mut items = Vec::new();
    let mut position = None;
    for answer in answers.map_err(|failed| error(&failed))? {
        match answer {
            Ok(outcome) => {
                position = Some(outcome.recorded.position);
                items.extend(PayoutItem::of(&outcome.recorded.event));
            }
            // Not this one; a frozen developer does not stop the others.
            Err(CommandError::Rejected(
                Rejection::PayoutOpen
                | Rejection::BelowThreshold { .. }
                | Rejection::ZeroAmount
                | Rejection::Frozen
                | Rejection::DeveloperNotFound,
            )) => {}
            Err(failed) => return Err(error(&failed)),
        }
    }
    let mut response = axum::response::IntoResponse::into_response(axum::Json(RunReply { items }));
    if let Some(position) = position {
        response.headers_mut().insert(LEDGER_POSITION, http::HeaderValue::from(position.0));
    }
    Ok(response)
}

/// A payout to request.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RequestPayout {
    /// The developer.
    developer_id: DeveloperId,
    /// Whole cents, at most what is owed; absent: all of it, in whole cents.
    #[serde(skip_serializing_if = "Option::is_none")]
    amount_usd: Option<RequestMoney>,
    /// Who pays it out: `mock` or `bank`; absent: the setting `PAYOUT_PROVIDER`.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider: Option<Name>,
}

/// Request a payout.
///
/// The amount is reserved from what the developer is owed; one payout per developer at a time.
#[utoipa::path(post, path = "/v1/admin/payouts", tag = "payouts", security(("bearer" = ["admin"])), request_body = RequestPayout,
    params(("Idempotency-Key" = String, Header)), responses(
    (status = 201, description = "A pending payout", body = PayoutItem),
    (status = "4XX", description = "developer_not_found, insufficient_balance, payout_open, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn request(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<RequestPayout>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let key = Key::new(idempotency_key(&headers)?.ok_or_else(key_required)?, "request_payout", "", &body);
    let command = Command::RequestPayout {
        payout_id: PayoutId::generate(),
        developer_id: body.developer_id,
        amount: body.amount_usd.map(|amount| amount.0),
        threshold: Money::ZERO,
        provider: find_provider(&api, body.provider.as_ref())?,
        trigger: PayoutTrigger::Hand,
    };
    let done = api.submit(&who, command, Some(key)).await?;
    answer(&done, StatusCode::CREATED)
}

fn answer(done: &Done, status: StatusCode) -> Result<Response, ApiError> {
    let item = PayoutItem::of(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(status, &item))
}

async fn step(
    api: &Api,
    who: &Authenticated,
    payout_id: PayoutId,
    operation: &'static str,
    step: PayoutStep,
) -> Result<Response, ApiError> {
    // What the caller says beside is no other step.
    let own_key = format!("payout:{payout_id}:{operation}");
    let key = Key::new(&own_key, operation, &own_key, &());
    let done = api.submit(who, Command::StepPayout { payout_id, step }, Some(key)).await?;
    answer(&done, StatusCode::OK)
}

/// What the approver writes.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ApprovePayout {
    /// Kept with the approval.
    operator_note: Option<Text<1, 1000>>,
}

/// Approve a payout.
///
/// Not by who requested it.
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/approve", tag = "payouts", security(("bearer" = ["admin"])), request_body = ApprovePayout,
    params(("payout_id" = PayoutId, Path)), responses(
    (status = 200, description = "It may be paid", body = PayoutItem),
    (status = "4XX", description = "invalid_request, same_actor, payout_not_found", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn approve(
    State(api): State<Api>,
    Path(payout_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ApprovePayout>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&payout_id, "payout id")?;
    let note = body.operator_note.map(|note| note.0);
    step(&api, &who, id, "approve_payout", PayoutStep::Approve { note }).await
}

/// The record that proves the payment.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct MarkPaid {
    /// The bank's reference; the mock provider makes its own.
    provider_payout_id: Option<Text<1, 256>>,
    /// What the payment cost.
    #[serde(default)]
    fee_usd: Option<RequestMoney>,
    /// When it was paid.
    occurred_at: Option<Timestamp>,
}

/// Mark a payout paid.
///
/// Its provider pays it now, or, where a person carried it to a bank, names the bank's record.
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/mark-paid", tag = "payouts", security(("bearer" = ["admin"])), request_body = MarkPaid,
    params(("payout_id" = PayoutId, Path)), responses(
    (status = 200, description = "It is paid", body = PayoutItem),
    (status = "4XX", description = "invalid_request, payout_not_found", body = ErrorBody),
    (status = "5XX", description = "payment_provider_unavailable, frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn mark_paid(
    State(api): State<Api>,
    Path(payout_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<MarkPaid>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&payout_id, "payout id")?;
    let seen = body.provider_payout_id.map(|reference| reference.0);
    let reference = match api.known(|| api.ledger.directory().payout(id)).await {
        Some(payout) if payout.approved => {
            let provider = api.payout_providers.iter().find(|provider| provider.name() == payout.provider);
            let provider = provider
                .ok_or_else(|| ApiError::invalid("There is no payout provider of this name.").param("provider"))?;
            let order = PayoutOrder { payout_id: id, developer_id: payout.developer_id, amount: payout.amount, seen };
            provider.pay(&order).await.map_err(|error| match error {
                PayoutError::NeedsReference => ApiError::invalid(error.to_string()).param("provider_payout_id"),
                PayoutError::Unavailable => ApiError::unavailable("payment_provider_unavailable", error.to_string()),
            })?
        }
        // The ledger says why not, or gives the first answer again.
        _ => String::new(),
    };
    let fee = body.fee_usd.map_or(Money::ZERO, |fee| fee.0);
    step(&api, &who, id, "mark_payout_paid", PayoutStep::Pay { reference, fee, occurred_at: body.occurred_at }).await
}

/// Why.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct EndPayout {
    /// Why.
    reason: Text<1, 1000>,
}

/// Say that an approved payout did not work.
///
/// The developer is owed it again.
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/fail", tag = "payouts", security(("bearer" = ["admin"])), request_body = EndPayout,
    params(("payout_id" = PayoutId, Path)), responses(
    (status = 200, description = "It has failed", body = PayoutItem),
    (status = "4XX", description = "invalid_request, payout_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn fail(
    State(api): State<Api>,
    Path(payout_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<EndPayout>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&payout_id, "payout id")?;
    step(&api, &who, id, "fail_payout", PayoutStep::Fail { reason: body.reason.0 }).await
}

/// Cancel a pending payout.
///
/// The developer is owed it again.
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/cancel", tag = "payouts", security(("bearer" = ["admin"])), request_body = EndPayout,
    params(("payout_id" = PayoutId, Path)), responses(
    (status = 200, description = "It is cancelled", body = PayoutItem),
    (status = "4XX", description = "invalid_request, payout_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn cancel(
    State(api): State<Api>,
    Path(payout_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<EndPayout>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&payout_id, "payout id")?;
    step(&api, &who, id, "cancel_payout", PayoutStep::Cancel { reason: body.reason.0 }).await
}

/// What came back.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ReturnPayout {
    /// Why.
    reason: Text<1, 1000>,
    /// The bank's reference of the return.
    reference: Text<1, 256>,
    /// When it came back.
    occurred_at: Option<Timestamp>,
}

/// Say that a paid payout came back.
///
/// The developer is owed it again.
#[utoipa::path(post, path = "/v1/admin/payouts/{payout_id}/return", tag = "payouts", security(("bearer" = ["admin"])), request_body = ReturnPayout,
    params(("payout_id" = PayoutId, Path)), responses(
    (status = 200, description = "It is returned", body = PayoutItem),
    (status = "4XX", description = "invalid_request, payout_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn give_back(
    State(api): State<Api>,
    Path(payout_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ReturnPayout>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&payout_id, "payout id")?;
    let (reason, reference) = (body.reason.0, body.reference.0);
    let back = PayoutStep::Return { reason, reference, occurred_at: body.occurred_at };
    step(&api, &who, id, "return_payout", back).await
}
