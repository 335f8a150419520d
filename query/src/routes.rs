//! The routes of the read API.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::projections::{Readiness, readiness};
use crate::state::QueryState;
use crate::{audit_log, catalogue, freezes, journal, projections, reconciliation, reports, top_ups, usage, wallets};

/// All routes of the read API. The request id and the error envelope come from `modelfaucet_schema::http::observe` around it.
pub fn router(state: QueryState) -> OpenApiRouter {
    OpenApiRouter::new()
        .routes(routes!(wallets::user_wallet))
        .routes(routes!(wallets::user_statement))
        .routes(routes!(wallets::wallet))
        .routes(routes!(wallets::statement))
        .routes(routes!(usage::usage))
        .routes(routes!(catalogue::apps))
        .routes(routes!(catalogue::features))
        .routes(routes!(catalogue::tokens))
        .routes(routes!(catalogue::rate_card))
        .routes(routes!(top_ups::top_ups))
        .routes(routes!(audit_log::audit_log))
        .routes(routes!(freezes::freezes))
        .routes(routes!(projections::projections))
        .routes(routes!(journal::journal))
        .routes(routes!(journal::trial_balance))
        .routes(routes!(reconciliation::ledger))
        .routes(routes!(reports::usage))
        .routes(routes!(reports::revenue))
        .routes(routes!(reports::journal))
        .with_state(state)
}

/// `/health` and `/ready` for a process that has no other role: it runs, and it can answer.
pub fn probe_router(state: QueryState) -> Router {
    Router::new().route("/health", get(health)).route("/ready", get(ready)).with_state(state)
}

async fn health() -> Json<serde_json::Value> {
    Json(serde_json::json!({ "ok": true, "service": "modelfaucet-query" }))
}

async fn ready(State(state): State<QueryState>) -> Readiness {
    readiness(&state).await
}
