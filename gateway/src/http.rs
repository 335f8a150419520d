//! The routes. A handler reads, prepares and listens; the call runs in a task of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Endpoint, Mode, ModelRates};
use modelfaucet_schema::http::{RequestId, bearer, idempotency_key, read_body};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{TokenHash, TokenKind};
use parking_lot::Mutex;
use serde_json::{Value, json};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::call::{ClientKey, Job, spawn};
use crate::client::Head;
use crate::error::CallError;
use crate::gateway::Gateway;
use crate::limit::Allowance;
use crate::read_model::{Policy, RateCard, Session};
use crate::{report, request};

/// How long an unknown token waits for the newest events.
const TOKEN_PATIENCE: Duration = Duration::from_millis(250);
/// How long an answer about the provider's health is good.
const HEALTH_LIFE: Duration = Duration::from_secs(5);

/// The routes of the gateway, documented.
pub fn router(gateway: Gateway) -> OpenApiRouter {
    routes().with_state(gateway)
}

/// The document of the gateway, without one behind it.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<Gateway> {
    let health: Health = Arc::default();
    OpenApiRouter::new()
        .routes(routes!(chat_completions))
        .routes(routes!(responses))
        .routes(routes!(embeddings))
        .routes(routes!(models))
        .routes(routes!(report::report))
        // Names of models have slashes in them, which documents of APIs cannot say.
        .route("/v1/models/{*model}", get(model))
        .route("/health/providers", get(move |State(gateway): State<Gateway>| providers(gateway, health)))
}

/// Chat completion.
///
/// OpenAI's API with a session's token as the key, streamed or not; charged by what the provider counts.
#[utoipa::path(post, path = "/v1/chat/completions", tag = "gateway", request_body(content = serde_json::Map<String, Value>),
    params(("Idempotency-Key" = Option<String>, Header, description = "Same key and body: one call, one charge, the same answer again.")),
    security(("bearer" = ["session"])), responses(
    (status = 200, description = "The provider's answer with the member `modelfaucet`", body = serde_json::Map<String, Value>),
    (status = "4XX", description = "invalid_session, insufficient_balance, in_flight_holds, model_not_found, model_not_priced, unsupported_parameter, unbounded_cost, idempotency_in_progress, idempotency_key_reused, rate_limited, …", body = ErrorBody),
    (status = "5XX", description = "provider_error, provider_overloaded, provider_auth_failed, capture_pending, ledger_unavailable, overloaded, frozen", body = ErrorBody)))]
async fn chat_completions(
    State(gateway): State<Gateway>,
    request_id: RequestId,
    headers: HeaderMap,
    body: Body,
) -> Response {
    call(gateway, Endpoint::ChatCompletions, request_id, headers, body).await
}

/// Response.
///
/// OpenAI's Responses API, streamed or not, without stored state.
#[utoipa::path(post, path = "/v1/responses", tag = "gateway", request_body(content = serde_json::Map<String, Value>),
    params(("Idempotency-Key" = Option<String>, Header, description = "Same key and body: one call, one charge, the same answer again.")),
    security(("bearer" = ["session"])), responses(
    (status = 200, description = "The provider's answer with the member `modelfaucet`", body = serde_json::Map<String, Value>),
    (status = "4XX", description = "invalid_session, insufficient_balance, in_flight_holds, model_not_found, model_not_priced, unsupported_parameter, unbounded_cost, idempotency_in_progress, idempotency_key_reused, rate_limited, …", body = ErrorBody),
    (status = "5XX", description = "provider_error, provider_overloaded, provider_auth_failed, capture_pending, ledger_unavailable, overloaded, frozen", body = ErrorBody)))]
async fn responses(State(gateway): State<Gateway>, request_id: RequestId, headers: HeaderMap, body: Body) -> Response {
    call(gateway, Endpoint::Responses, request_id, headers, body).await
}

/// Embeddings.
///
/// OpenAI's API; the body passes as it is.
#[utoipa::path(post, path = "/v1/embeddings", tag = "gateway", request_body(content = serde_json::Map<String, Value>),
    params(("Idempotency-Key" = Option<String>, Header, description = "Same key and body: one call, one charge, the same answer again.")),
    security(("bearer" = ["session"])), responses(
    (status = 200, description = "The provider's answer with the member `modelfaucet`", body = serde_json::Map<String, Value>),
    (status = "4XX", description = "invalid_session, insufficient_balance, in_flight_holds, model_not_found, model_not_priced, unsupported_parameter, unbounded_cost, idempotency_in_progress, idempotency_key_reused, rate_limited, …", body = ErrorBody),
    (status = "5XX", description = "provider_error, provider_overloaded, provider_auth_failed, capture_pending, ledger_unavailable, overloaded, frozen", body = ErrorBody)))]
async fn embeddings(State(gateway): State<Gateway>, request_id: RequestId, headers: HeaderMap, body: Body) -> Response {
    call(gateway, Endpoint::Embeddings, request_id, headers, body).await
}

async fn call(gateway: Gateway, endpoint: Endpoint, request_id: RequestId, headers: HeaderMap, body: Body) -> Response {
    let began = Instant::now();
    let id = request_id.as_str().to_owned();
    let mut allowance = None;
    let mut response = match prepare(&gateway, endpoint, &id, &headers, body, began, &mut allowance).await {
        Err(error) => {
            metrics::counter!("gateway_requests_total", "endpoint" => endpoint.name(), "code" => error.code())
                .increment(1);
            error.answer(&id)
        }
        Ok(job) => {
            metrics::histogram!("gateway_stage_seconds", "stage" => "prepare").record(began.elapsed());
            answer(spawn(gateway, job).await, endpoint, &id)
        }
    };
    if let Some(allowance) = allowance {
        show(response.headers_mut(), allowance);
    }
    response
}

fn answer(head: Result<Head, tokio::sync::oneshot::error::RecvError>, endpoint: Endpoint, id: &str) -> Response {
    let head = head.unwrap_or_else(|_| Head::Failed(CallError::internal()));
    let code = if let Head::Failed(error) = &head { error.code() } else { "ok" };
    metrics::counter!("gateway_requests_total", "endpoint" => endpoint.name(), "code" => code).increment(1);
    let (headers, body) = match head {
        Head::Failed(error) => return error.answer(id),
        Head::Whole { headers, body } => (headers, Body::from(body)),
        Head::Stream { headers, body } => (headers, Body::new(body)),
    };
    let mut response = Response::new(body);
    *response.headers_mut() = headers;
    response
}

/// From a request to a job, in memory only. The order of refusals is that of ModelFaucet 1.2: token, body, session, feature, model.
async fn prepare(
    gateway: &Gateway,
    endpoint: Endpoint,
    request_id: &str,
    headers: &HeaderMap,
    body: Body,
    began: Instant,
    allowance: &mut Option<Allowance>,
) -> Result<Job, CallError> {
    let token = token(headers)?;
    let key = idempotency_key(headers)?;
    let options = &gateway.shared.options;
    let read = read_body(headers, body, options.limits.body, "application/json");
    let Ok(body) = tokio::time::timeout(options.timeouts.body, read).await else {
        return Err(CallError::invalid(408, "request_timeout", "The request took too long to arrive."));
    };
    let body: Bytes = body?;
    let request = request::read(endpoint, &body)?;
    let session = session(gateway, token).await?;
    *allowance = gateway.shared.limits.take(session.session_id, began);
    if let Some(refused) = allowance.filter(|allowance| !allowance.is_granted()) {
        return Err(rate_limited(refused));
    }
    let feature_key = request.feature_key.clone().or(session.feature_key.as_deref().map(str::to_owned));
    let policy = match &feature_key {
        None => Arc::new(Policy::default()),
        Some(key) => feature(gateway, &session, key)?,
    };
    let offer = offer(gateway, &session, &policy, endpoint, &request.model)?;
    gateway.shared.breakers.admit(&offer.model, began).map_err(resting)?;
    let place = gateway.enter().ok_or_else(CallError::overloaded)?;
    Ok(Job {
        key: key.map(|key| ClientKey::new(key, &body)),
        request,
        body,
        session,
        feature_key,
        policy,
        offer,
        request_id: request_id.to_owned(),
        began,
        place,
    })
}

pub(crate) fn token(headers: &HeaderMap) -> Result<TokenHash, CallError> {
    match bearer(headers) {
        None => Err(CallError::invalid_session("Missing bearer session token.")),
        Some(token) if token.starts_with(TokenKind::Session.prefix()) => Ok(TokenHash::of_text(token)),
        Some(_) => Err(CallError::invalid_session("The session token is invalid.")),
    }
}

/// The live session of a token; an unknown token waits a moment for the newest events.
pub(crate) async fn session(gateway: &Gateway, token: TokenHash) -> Result<Session, CallError> {
    let shared = &gateway.shared;
    let mut found = shared.model.session(&token);
    if found.is_none() {
        let _late = tokio::time::timeout(TOKEN_PATIENCE, shared.ledger.catch_up()).await;
        found = shared.model.session(&token);
    }
    let session = found.ok_or_else(|| CallError::invalid_session("The session token is invalid."))?;
    if session.expires_at <= Timestamp::now() { Err(CallError::expired_session()) } else { Ok(session) }
}

fn feature(gateway: &Gateway, session: &Session, key: &str) -> Result<Arc<Policy>, CallError> {
    let policy = gateway.shared.model.policy(session.app_id, key);
    policy.ok_or_else(|| {
        CallError::invalid(404, "feature_not_found", "The feature could not be found.").param("metadata.feature_key")
    })
}

/// Does a model answer such requests? One that does not say answers any.
fn answers(offer: &ModelRates, endpoint: Endpoint) -> bool {
    match (offer.mode, endpoint) {
        (None, _)
        | (Some(Mode::Chat), Endpoint::ChatCompletions | Endpoint::Responses)
        | (Some(Mode::Responses), Endpoint::Responses)
        | (Some(Mode::Embedding), Endpoint::Embeddings) => true,
        (Some(_), _) => false,
    }
}

/// The price list's entry of a model that the session may call.
fn offer(
    gateway: &Gateway,
    session: &Session,
    policy: &Policy,
    endpoint: Endpoint,
    model: &str,
) -> Result<ModelRates, CallError> {
    let not_found =
        || CallError::invalid(404, "model_not_found", "The active rate card does not have this model.").param("model");
    let Some((card, _)) = gateway.shared.model.active_card() else {
        return Err(CallError::invalid(404, "model_not_priced", "No rate card is active.").param("model"));
    };
    let aliased;
    let (model, policy) = match model.strip_prefix("auto:") {
        None => (model, policy),
        Some(key) => {
            aliased = feature(gateway, session, key)?;
            (aliased.models.first().ok_or_else(not_found)?.as_str(), aliased.as_ref())
        }
    };
    if !policy.models.is_empty() && !policy.models.iter().any(|allowed| allowed == model) {
        let message = "The feature does not allow this model.";
        return Err(CallError::new(403, "model_not_allowed", "permission_error", message).param("model"));
    }
    match card.offers(model) {
        [] => Err(not_found()),
        [offer] if !answers(offer, endpoint) => {
            let message = "The model has no price for this kind of request.";
            Err(CallError::invalid(404, "model_not_priced", message).param("model"))
        }
        [offer] => Ok(offer.clone()),
        _ => Err(CallError::malformed("model", "Several providers offer this model under one name.")),
    }
}

/// The provider of this model has failed too often of late.
fn resting(wait: Duration) -> CallError {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let message = "The provider has failed too often of late; try again.";
    CallError::new(503, "provider_overloaded", "upstream_error", message).retry_after(seconds)
}

fn rate_limited(allowance: Allowance) -> CallError {
    let seconds = u32::try_from(allowance.retry_after.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let milliseconds = allowance.retry_after.as_millis().saturating_add(1).to_string();
    CallError::new(429, "rate_limited", "requests", "Rate limit exceeded.")
        .retry_after(seconds)
        .header("retry-after-ms", &milliseconds)
}

/// The headers of OpenAI and those of ModelFaucet 1.2.
fn show(headers: &mut HeaderMap, allowance: Allowance) {
    let seconds = allowance.reset.as_secs() + u64::from(allowance.reset.subsec_nanos() > 0);
    let at = Timestamp::now().plus(allowance.reset).micros() / 1_000_000 + 1;
    let reset = if seconds >= 60 { format!("{}m{}s", seconds / 60, seconds % 60) } else { format!("{seconds}s") };
    for (name, value) in [
        ("x-ratelimit-limit-requests", allowance.limit.to_string()),
        ("x-ratelimit-remaining-requests", allowance.remaining.to_string()),
        ("x-ratelimit-reset-requests", reset),
        ("x-ratelimit-remaining", allowance.remaining.to_string()),
        ("x-ratelimit-reset", at.to_string()),
    ] {
        if let Ok(value) = HeaderValue::from_str(&value) {
            headers.insert(HeaderName::from_static(name), value);
        }
    }
}

/// List models.
///
/// What the session may call and the rate card has prices for, and `auto:<feature>` where a feature names models. One of them is at
/// `/v1/models/{id}`.
#[utoipa::path(get, path = "/v1/models", tag = "gateway", security(("bearer" = ["session"])), responses(
    (status = 200, description = "`{\"object\":\"list\",\"data\":[{\"id\",\"object\",\"created\",\"owned_by\"}]}`", body = serde_json::Map<String, Value>),
    (status = "4XX", description = "invalid_session, expired_session", body = ErrorBody)))]
async fn models(State(gateway): State<Gateway>, request_id: RequestId, headers: HeaderMap) -> Response {
    match list(&gateway, &headers).await {
        Ok(models) => json_answer(&json!({ "object": "list", "data": models })),
        Err(error) => error.answer(request_id.as_str()),
    }
}

async fn model(
    State(gateway): State<Gateway>,
    request_id: RequestId,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Response {
    let found = list(&gateway, &headers).await.and_then(|models| {
        let found = models.into_iter().find(|model| model["id"] == id.as_str());
        found.ok_or_else(|| {
            CallError::invalid(404, "model_not_found", "This session may call no model of this name.").param("model")
        })
    });
    match found {
        Ok(model) => json_answer(&model),
        Err(error) => error.answer(request_id.as_str()),
    }
}

/// What the session may call, as far as the rate card has prices, and the aliases of its app's features.
async fn list(gateway: &Gateway, headers: &HeaderMap) -> Result<Vec<Value>, CallError> {
    let session = session(gateway, token(headers)?).await?;
    let model = &gateway.shared.model;
    let Some((card, since)) = model.active_card() else { return Ok(Vec::new()) };
    let policy = session.feature_key.as_deref().and_then(|key| model.policy(session.app_id, key)).unwrap_or_default();
    let created = since.micros() / 1_000_000;
    let entry = |id: &str, owner: &str| json!({ "id": id, "object": "model", "created": created, "owned_by": owner });
    let mut offers: Vec<_> = allowed(&card, &policy).map(|offer| (offer.model.as_str(), offer)).collect();
    offers.sort_unstable_by_key(|(model, _)| *model);
    let mut entries: Vec<_> = offers.iter().map(|(id, offer)| entry(id, offer.provider.as_str())).collect();
    let mut aliases = model.feature_keys(session.app_id);
    aliases.retain(|key| {
        let first = model.policy(session.app_id, key).and_then(|policy| policy.models.first().cloned());
        first.is_some_and(|first| card.offers(&first).len() == 1)
    });
    aliases.sort_unstable();
    entries.extend(aliases.iter().map(|key| entry(&format!("auto:{key}"), "modelfaucet")));
    Ok(entries)
}

fn allowed<'a>(card: &'a RateCard, policy: &'a Policy) -> impl Iterator<Item = &'a ModelRates> {
    card.all().filter(|offer| policy.models.is_empty() || policy.models.contains(&offer.model))
}

fn json_answer(value: &Value) -> Response {
    ([(CONTENT_TYPE, "application/json")], value.to_string()).into_response()
}

type Health = Arc<Mutex<Option<(Instant, Value)>>>;

/// Is the provider there? Asked at most every five seconds, whoever asks.
async fn providers(gateway: Gateway, health: Health) -> Response {
    let cached = health.lock().as_ref().filter(|(at, _)| at.elapsed() < HEALTH_LIFE).map(|(_, value)| value.clone());
    if let Some(value) = cached {
        return json_answer(&value);
    }
    let began = Instant::now();
    let (status, error) = gateway.shared.upstream.probe(Duration::from_secs(3)).await;
    let ok = status.is_some_and(|status| (200..300).contains(&status));
    let latency = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
    let mut provider = json!({ "ok": ok, "provider": "litellm", "latencyMs": latency });
    if let Some(object) = provider.as_object_mut() {
        object.extend(status.map(|status| ("statusCode".to_owned(), Value::from(status))));
        object.extend(error.map(|error| ("error".to_owned(), Value::from(error))));
    }
    let value = json!({ "ok": ok, "providers": [provider] });
    *health.lock() = Some((Instant::now(), value.clone()));
    json_answer(&value)
}

/// Can the gateway work? `command` and `rate_card`, each `ok` or why not.
pub fn readiness(gateway: &Gateway) -> (bool, Value) {
    let command = gateway.shared.ledger.is_ready();
    let card = gateway.shared.model.active_card().is_some();
    let say = |ok: bool, otherwise: &'static str| if ok { "ok" } else { otherwise };
    let checks = json!({
        "command": say(command, "the log cannot be reached"),
        "rate_card": say(card, "no rate card is active"),
    });
    (command && card, checks)
}
