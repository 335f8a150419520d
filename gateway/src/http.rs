//! The routes. A handler reads, prepares and listens; the call runs in a task of its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::Body;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Endpoint, ModelRates};
use modelfaucet_schema::http::{RequestId, bearer, idempotency_key, read_body};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{TokenHash, TokenKind};
use parking_lot::Mutex;
use serde_json::{Value, json};
use utoipa::OpenApi as _;
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::call::{ClientKey, Job, spawn};
use crate::client::Head;
use crate::error::CallError;
use crate::gateway::Gateway;
use crate::limit::{Allowance, Decision, Taken, Unit, show};
use crate::plan::{Plan, Planner, Target};
use crate::read_model::{Policy, RateCard, Session};
use crate::request::CallRequest;
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

/// Is this path one of the gateway's? It has limits and origins of its own where one process serves everything.
pub fn is_own_path(path: &str) -> bool {
    let own = [
        "/v1/chat/completions",
        "/v1/responses",
        "/v1/embeddings",
        "/v1/models",
        "/v1/usage/report",
        "/health/providers",
    ];
    own.contains(&path) || path.starts_with("/v1/models/")
}

fn routes() -> OpenApiRouter<Gateway> {
    let health: Health = Arc::default();
    let mut routes = OpenApiRouter::new()
        .routes(routes!(chat_completions))
        .routes(routes!(responses))
        .routes(routes!(embeddings))
        .routes(routes!(models))
        .routes(routes!(report::report))
        // Names of models have slashes in them, which documents of APIs cannot say.
        .route("/v1/models/{*model}", get(model))
        .route("/health/providers", get(move |State(gateway): State<Gateway>| providers(gateway, health)));
    routes.get_openapi_mut().merge(Undocumented::openapi());
    routes
}

/// Routes that the router cannot document by itself.
#[derive(utoipa::OpenApi)]
#[openapi(paths(model, providers))]
struct Undocumented;

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
    let mut limits = Decision::default();
    let mut response = match prepare(&gateway, endpoint, &id, &headers, body, began, &mut limits).await {
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
    show(response.headers_mut(), &limits);
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
    limits: &mut Decision,
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
    let planner = Planner {
        model: &gateway.shared.model,
        app: session.app_id,
        user: session.user_id,
        platform: &gateway.shared.origin,
    };
    let feature_key = request.feature_key.clone().or(session.feature_key.as_deref().map(str::to_owned));
    let policy = match &feature_key {
        None => Arc::new(Policy::default()),
        Some(key) => planner.feature(key)?,
    };
    let plan = planner.plan(&request, &policy)?;
    let targets = awake(gateway, endpoint, plan, began)?;
    let taken =
        take(gateway, &session, tokens(&request, &targets, &policy, options.limits.default_cap), limits).await?;
    let place = gateway.enter(request.stream).ok_or_else(CallError::overloaded)?;
    Ok(Job {
        key: key.map(|key| ClientKey::new(key, &body)),
        request,
        body,
        session,
        feature_key,
        policy,
        targets,
        request_id: request_id.to_owned(),
        began,
        place,
        taken,
    })
}

/// The most tokens that a call can come to where it goes first.
fn tokens(request: &CallRequest, targets: &[Target], policy: &Policy, default_cap: u64) -> u64 {
    targets.first().map_or(0, |target| {
        let ask = target.ask(request, policy, default_cap);
        ask.input.saturating_add(ask.answers.saturating_mul(ask.cap))
    })
}

/// One request and its tokens, if the session, its user and its app may.
async fn take(gateway: &Gateway, session: &Session, tokens: u64, limits: &mut Decision) -> Result<Taken, CallError> {
    let options = &gateway.shared.options;
    let rates = &options.limits.rates;
    let (mut buckets, of_tokens) = rates.buckets(session.session_id, session.wallet_id, session.app_id, tokens);
    buckets.extend(&of_tokens);
    *limits = options.rate_limits.take(&buckets).await;
    match &limits.refused {
        Some(refused) => Err(rate_limited(refused)),
        None => Ok(Taken::new(options.rate_limits.clone(), of_tokens)),
    }
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
    let Some(session) = found else {
        // A read model that is behind cannot say that there is no such session.
        let unknown = || CallError::invalid_session("The session token is invalid.");
        return Err(if shared.ledger.is_fed() { unknown() } else { CallError::ledger_unavailable() });
    };
    if session.expires_at <= Timestamp::now() { Err(CallError::expired_session()) } else { Ok(session) }
}

/// The plan without the targets that rest: with an open breaker the next one is the first.
fn awake(gateway: &Gateway, endpoint: Endpoint, plan: Plan, now: Instant) -> Result<Vec<Target>, CallError> {
    let mut targets = plan.into_targets();
    let mut soonest = Duration::MAX;
    let awake = targets.iter().position(|target| {
        let admitted = gateway.shared.breakers.admit(&target.subject(endpoint), now);
        admitted.map_err(|wait| soonest = soonest.min(wait)).is_ok()
    });
    match awake {
        Some(first) => Ok(targets.split_off(first)),
        None => Err(resting(soonest)),
    }
}

/// Everything that could be called has failed too often of late.
fn resting(wait: Duration) -> CallError {
    let seconds = u32::try_from(wait.as_secs()).unwrap_or(u32::MAX).saturating_add(1);
    let message = "The provider has failed too often of late; try again.";
    CallError::new(503, "provider_overloaded", "upstream_error", message).retry_after(seconds)
}

fn rate_limited(refused: &Allowance) -> CallError {
    let message = match refused.key.unit {
        Unit::Requests => "Rate limit exceeded.",
        Unit::Tokens => "Rate limit of tokens exceeded.",
    };
    // The headers that say when to come back are those of the decision.
    CallError::new(429, "rate_limited", refused.key.unit.name(), message)
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

/// Read a model.
///
/// One of those that `/v1/models` lists. Slashes in its name may stand as they are.
#[utoipa::path(get, path = "/v1/models/{model}", tag = "gateway", security(("bearer" = ["session"])), params(("model" = String, Path, description = "The model's name")), responses(
    (status = 200, description = "`{\"id\",\"object\",\"created\",\"owned_by\"}`", body = serde_json::Map<String, Value>),
    (status = "4XX", description = "invalid_session, expired_session, model_not_found", body = ErrorBody)))]
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

/// Health of the providers.
///
/// Is the provider there? It is asked at most every five seconds, whoever asks.
#[utoipa::path(get, path = "/health/providers", tag = "gateway", security(()), responses(
    (status = 200, description = "`{\"ok\",\"providers\":[{\"ok\",\"provider\",\"latencyMs\",\"statusCode\",\"error\"}]}`", body = serde_json::Map<String, Value>)))]
async fn providers(gateway: Gateway, health: Health) -> Response {
    let cached = health.lock().as_ref().filter(|(at, _)| at.elapsed() < HEALTH_LIFE).map(|(_, value)| value.clone());
    if let Some(value) = cached {
        return json_answer(&value);
    }
    let began = Instant::now();
    let (status, error) = gateway.shared.upstreams.probe(Duration::from_secs(3)).await;
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

/// Can the gateway work? `command`, `feed` and `rate_card`, each `ok` or why not.
pub fn readiness(gateway: &Gateway) -> (bool, Value) {
    let command = gateway.shared.ledger.is_ready();
    let fed = gateway.shared.ledger.is_fed();
    let card = gateway.shared.model.active_card().is_some();
    let say = |ok: bool, otherwise: &'static str| if ok { "ok" } else { otherwise };
    let checks = json!({
        "command": say(command, "the command side cannot be reached"),
        "feed": say(fed, "the log cannot be followed"),
        "rate_card": say(card, "no rate card is active"),
    });
    (command && fed && card, checks)
}

#[cfg(test)]
mod tests {
    #[test]
    fn every_path_of_the_document_is_an_own_one() {
        let document = super::openapi();
        assert!(document.paths.paths.len() > 4);
        for path in document.paths.paths.keys() {
            assert!(super::is_own_path(path), "{path}");
        }
        for path in ["/v1/sessions", "/v1/usage/holds", "/health", "/v1/model"] {
            assert!(!super::is_own_path(path), "{path}");
        }
    }
}
