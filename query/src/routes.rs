//! The routes of the read API.

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;

use crate::projections::{Readiness, readiness};
use crate::state::QueryState;
use crate::{
    audit_log, catalogue, freezes, journal, payments, payouts, projections, provider_keys, reconciliation, reports,
    staff, top_ups, usage, wallets,
};

/// All routes of the read API. The request id and the error envelope come from `modelfaucet_schema::http::observe` around it.
pub fn router(state: QueryState) -> OpenApiRouter {
    routes().with_state(state)
}

/// The document of all routes, for those who want it without a server.
pub fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

fn routes() -> OpenApiRouter<QueryState> {
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
        .routes(routes!(provider_keys::user_keys))
        .routes(routes!(provider_keys::developer_keys))
        .routes(routes!(payments::refunds))
        .routes(routes!(payments::disputes))
        .routes(routes!(payments::clearing))
        .routes(routes!(payouts::payouts))
        .routes(routes!(audit_log::audit_log))
        .routes(routes!(freezes::freezes))
        .routes(routes!(staff::staff_tokens))
        .routes(routes!(projections::projections))
        .routes(routes!(journal::journal))
        .routes(routes!(journal::trial_balance))
        .routes(routes!(reconciliation::ledger))
        .routes(routes!(reports::usage))
        .routes(routes!(reports::revenue))
        .routes(routes!(reports::journal))
        .routes(routes!(reports::payouts))
        .routes(routes!(reports::payout_handover))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_route_says_who_may_use_it_and_how_errors_look() {
        let document = serde_json::to_value(openapi()).unwrap();
        let paths = document["paths"].as_object().unwrap();
        assert_eq!(paths.len(), 28);
        for (path, item) in paths {
            let operation = &item["get"];
            assert!(operation["summary"].is_string(), "{path}");
            assert!(operation["security"].as_array().is_some_and(|who| !who.is_empty()), "{path}");
            for status in ["200", "4XX", "5XX"] {
                assert!(operation["responses"][status]["content"].is_object(), "{path} {status}");
            }
            let named =
                |name: &str| operation["parameters"].as_array().unwrap().iter().any(|given| given["name"] == name);
            assert!(named("min_position") && named("stale"), "{path}");
        }
    }
}
