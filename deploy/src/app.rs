//! The HTTP application of a process: routes of its roles, probes, the API document, metrics.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::Request;
use axum::middleware::{Next, from_fn};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use modelfaucet_command::writer::Ledger;
use modelfaucet_gateway::Gateway;
use modelfaucet_query::QueryState;
use modelfaucet_schema::http::{not_found, observe};
use serde_json::{Value, json};
use utoipa::PartialSchema as _;
use utoipa::openapi::OpenApi;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa_axum::router::OpenApiRouter;

use crate::edge::{Edge, guard, introduce};
use crate::exit::{Exit, Failure};
use crate::trace;

/// Bucket borders of durations, in seconds.
const SECONDS: &[f64] = &[0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0];
/// Bucket borders of sizes.
const SIZES: &[f64] = &[1.0, 4.0, 16.0, 64.0, 256.0, 1_024.0, 4_096.0];

/// What tells whether the process can work.
#[derive(Clone, Default)]
pub(crate) struct Checks {
    pub(crate) ledger: Option<Ledger>,
    pub(crate) query: Option<QueryState>,
    pub(crate) gateway: Option<Gateway>,
}

/// Installs the metrics of this process.
pub(crate) fn install_metrics() -> Result<PrometheusHandle, Failure> {
    let failed = |error| Failure::new(Exit::Config, format!("metrics cannot be set up: {error}"));
    let handle = PrometheusBuilder::new()
        .set_buckets_for_metric(Matcher::Suffix("_seconds".to_owned()), SECONDS)
        .and_then(|builder| builder.set_buckets_for_metric(Matcher::Suffix("_size".to_owned()), SIZES))
        .and_then(PrometheusBuilder::install_recorder)
        .map_err(failed)?;
    let upkeep = handle.clone();
    tokio::spawn(async move {
        loop {
            tokio::time::sleep(Duration::from_secs(5)).await;
            upkeep.run_upkeep();
        }
    });
    Ok(handle)
}

/// Puts routes, probes and document together.
pub(crate) fn build(
    service: &'static str,
    routes: OpenApiRouter,
    checks: Checks,
    edge: Edge,
    metrics: PrometheusHandle,
) -> Router {
    let edge = Arc::new(edge);
    let outer = Arc::clone(&edge);
    let shown = checks.clone();
    let (router, document) = routes.split_for_parts();
    let document: Arc<str> = describe(document).to_pretty_json().unwrap_or_default().into();
    let router = router
        .route(
            "/openapi.json",
            get(move || async move { ([(CONTENT_TYPE, "application/json")], document.to_string()) }),
        )
        .merge(crate::docs::router())
        .route("/health", get(move || async move { Json(json!({ "ok": true, "service": service })) }))
        .route("/ready", get(move || ready(service, checks.clone())))
        .route(
            "/metrics",
            get(move || async move {
                ([(CONTENT_TYPE, "text/plain; version=0.0.4")], scrape(service, &shown, &metrics).await)
            }),
        )
        .fallback(not_found)
        .layer(from_fn(move |request: Request, next: Next| guard(Arc::clone(&edge), request, next)));
    // Inside of `observe`, which names the request. Where nothing is traced this layer does not exist.
    let router = if trace::is_on() { router.layer(from_fn(trace::request)) } else { router };
    router
        .layer(from_fn(move |request: Request, next: Next| observe(service, request, next)))
        .layer(from_fn(move |request: Request, next: Next| introduce(Arc::clone(&outer), request, next)))
}

/// The document's head: what the product is, how to authenticate, every refusal.
pub(crate) fn describe(mut document: OpenApi) -> OpenApi {
    "ModelFaucet Ledger".clone_into(&mut document.info.title);
    env!("CARGO_PKG_VERSION").clone_into(&mut document.info.version);
    let mut text = String::from(
        "Sessions, wallets, holds and usage over an event-sourced double-entry ledger.\n\nMoney is a decimal string in USD with \
         eight decimals. Every POST that moves money takes an `Idempotency-Key`: the same key and body give the first answer \
         again (`idempotent-replayed: true`), another body is refused (422). Answers carry `ledger-position`; reads take \
         `min_position`.\n\nErrors are `{\"error\":{\"code\",\"message\",\"type\",\"param\",\"request_id\"}}`. Outcomes: **ok** \
         (2xx, durable) · **refused** (certainly no effect) · **in doubt** (503 `in_doubt`: repeat with the same key).\n\n| status | \
         code | meaning |\n|---|---|---|\n",
    );
    for (status, code, message) in modelfaucet_command::http::rejection_table() {
        let _infallible = writeln!(text, "| {status} | `{code}` | {message} |");
    }
    document.info.description = Some(text);
    document.info.license = Some(utoipa::openapi::LicenseBuilder::new().name("Apache-2.0").build());
    let bearer = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
    let components = document.components.get_or_insert_default();
    // Ids that stand in paths only are named there, but described nowhere.
    let hold_id = modelfaucet_schema::ids::HoldId::schema();
    components.schemas.entry("HoldId".to_owned()).or_insert(hold_id);
    components.add_security_scheme("bearer", bearer);
    document.security = Some(vec![utoipa::openapi::SecurityRequirement::new("bearer", Vec::<String>::new())]);
    document
}

/// All metrics, with what is only known by looking: readiness, and how busy the database connections are.
async fn scrape(service: &'static str, checks: &Checks, metrics: &PrometheusHandle) -> String {
    let (ok, _) = look(checks).await;
    metrics::gauge!("modelfaucet_ready", "service" => service).set(if ok { 1.0 } else { 0.0 });
    if let Some(query) = &checks.query {
        query.show_pool();
    }
    metrics.render()
}

async fn ready(service: &'static str, checks: Checks) -> Response {
    let (ok, answers) = look(&checks).await;
    let status = if ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(json!({ "ok": ok, "service": service, "checks": answers }))).into_response()
}

/// Looks for itself: the writer in step with the log, the database, migrations, the projections' lag.
async fn look(checks: &Checks) -> (bool, serde_json::Map<String, Value>) {
    let mut ok = true;
    let mut answers = serde_json::Map::new();
    if let Some(ledger) = &checks.ledger {
        let writer = ledger.is_ready();
        ok &= writer;
        answers.insert("log".to_owned(), Value::from(if writer { "ok" } else { "the log cannot be reached" }));
    }
    if let Some(query) = &checks.query {
        let readiness = modelfaucet_query::readiness(query).await;
        ok &= readiness.ok;
        if let Ok(Value::Object(checks)) = serde_json::to_value(&readiness.checks) {
            answers.extend(checks);
        }
    }
    if let Some(gateway) = &checks.gateway {
        let (works, said) = modelfaucet_gateway::http::readiness(gateway);
        ok &= works;
        if let Value::Object(said) = said {
            answers.extend(said);
        }
    }
    (ok, answers)
}
