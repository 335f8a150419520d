//! The command side for gateways that have no database: the same port as in process, over HTTP, for holders of the gateway's token.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use http::StatusCode;
use http::header::CONTENT_TYPE;
use modelfaucet_gateway::port::{
    AnswerStore as _, BeginCall, EndCall, Ledger as _, LocalUsage, MarkAttempt, StartAttempt,
};
use modelfaucet_schema::http::{ApiError, RequestId, StrictJson};
use modelfaucet_schema::ids::{HoldId, SessionId};
use modelfaucet_schema::token::TokenHash;
use serde::Deserialize;
use utoipa_axum::router::OpenApiRouter;

use super::answers::AnswerTable;
use super::holds::OpenHolds;
use super::in_process::InProcess;
use super::takeover::Reports;
use super::wire::{ALIVE, Alive, CALLS, HOLDS, Reply, SUSPENSIONS, Suspension, USAGE};
use crate::log_feed::is_one_of;

/// The largest sealed answer.
const MAX_ANSWER: usize = 5 << 20;

/// What gateways are served from.
#[derive(Clone)]
pub(crate) struct Server {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: InProcess,
    holds: Arc<OpenHolds>,
    reports: Arc<Reports>,
    answers: AnswerTable,
    token: TokenHash,
}

impl Server {
    pub(crate) fn new(
        ledger: InProcess,
        holds: Arc<OpenHolds>,
        reports: Arc<Reports>,
        answers: AnswerTable,
        token: TokenHash,
    ) -> Self {
        Self { shared: Arc::new(Shared { ledger, holds, reports, answers, token }) }
    }

    /// Its routes. They are no part of the API's document.
    pub(crate) fn router(self) -> OpenApiRouter {
        let routes = Router::new()
            .route(CALLS, post(begin))
            .route(&format!("{CALLS}/{{hold}}/attempts"), post(start))
            .route(&format!("{CALLS}/{{hold}}/marks"), post(mark))
            .route(&format!("{CALLS}/{{hold}}/end"), post(end))
            .route(&format!("{CALLS}/{{hold}}/ending"), get(ending))
            .route(&format!("{CALLS}/{{hold}}/answer"), get(answer).put(put_answer))
            .route(USAGE, post(report))
            .route(SUSPENSIONS, post(suspend))
            .route(ALIVE, post(alive))
            .route(HOLDS, get(holds))
            .layer(from_fn_with_state(self.clone(), only_gateways))
            .with_state(self);
        OpenApiRouter::from(routes)
    }
}

async fn only_gateways(State(server): State<Server>, request: Request, next: Next) -> Response {
    if is_one_of(request.headers(), &[server.shared.token]) {
        next.run(request).await
    } else {
        ApiError::new(401, "invalid_session", "Missing or invalid gateway token.").into_response()
    }
}

async fn begin(State(server): State<Server>, id: RequestId, StrictJson(begin): StrictJson<BeginCall>) -> Response {
    Reply::of(server.shared.ledger.begin(id.as_str(), begin).await)
}

async fn start(
    State(server): State<Server>,
    id: RequestId,
    Path(hold): Path<HoldId>,
    StrictJson(start): StrictJson<StartAttempt>,
) -> Response {
    if start.hold_id != hold {
        return other_hold();
    }
    Reply::of(server.shared.ledger.start(id.as_str(), start).await)
}

async fn mark(
    State(server): State<Server>,
    id: RequestId,
    Path(hold): Path<HoldId>,
    StrictJson(mark): StrictJson<MarkAttempt>,
) -> Response {
    if mark.hold_id != hold {
        return other_hold();
    }
    Reply::of(server.shared.ledger.mark(id.as_str(), mark).await)
}

fn other_hold() -> Response {
    ApiError::invalid("The body names another hold than the path.").into_response()
}

async fn end(
    State(server): State<Server>,
    id: RequestId,
    Path(hold): Path<HoldId>,
    StrictJson(end): StrictJson<EndCall>,
) -> Response {
    if end.hold_id != hold {
        return other_hold();
    }
    Reply::of(server.shared.ledger.end(id.as_str(), end).await)
}

/// Whose hold it is.
#[derive(Deserialize)]
struct EndingQuery {
    session: SessionId,
}

async fn ending(State(server): State<Server>, Path(hold): Path<HoldId>, Query(query): Query<EndingQuery>) -> Response {
    Reply::of(server.shared.ledger.ending(query.session, hold).await)
}

async fn report(State(server): State<Server>, id: RequestId, StrictJson(usage): StrictJson<LocalUsage>) -> Response {
    Reply::of(server.shared.ledger.report(id.as_str(), usage).await)
}

async fn suspend(State(server): State<Server>, id: RequestId, StrictJson(of): StrictJson<Suspension>) -> Response {
    Reply::of(server.shared.ledger.suspend(id.as_str(), of.session_id, of.credential_id).await)
}

async fn alive(State(server): State<Server>, StrictJson(alive): StrictJson<Alive>) -> Response {
    server.shared.reports.alive(alive.gateway);
    Reply::of(Ok(()))
}

async fn holds(State(server): State<Server>, Query(of): Query<Alive>) -> Response {
    // All that the gateway's earlier life can have placed through others.
    let caught_up = server.shared.ledger.catch_up();
    if tokio::time::timeout(Duration::from_secs(5), caught_up).await.is_err() {
        return ApiError::unavailable("ledger_unavailable", "The ledger is not available; try again.").into_response();
    }
    Reply::of(Ok(server.shared.holds.of(of.gateway)))
}

async fn answer(State(server): State<Server>, Path(hold): Path<HoldId>) -> Response {
    match server.shared.answers.get(hold).await {
        Ok(Some(sealed)) => ([(CONTENT_TYPE, "application/octet-stream")], sealed).into_response(),
        Ok(None) => ApiError::new(404, "not_found", "No answer of this call is kept.").into_response(),
        Err(error) => unavailable(&error),
    }
}

async fn put_answer(State(server): State<Server>, Path(hold): Path<HoldId>, body: Body) -> Response {
    let Ok(sealed) = to_bytes(body, MAX_ANSWER).await else {
        return ApiError::new(413, "request_too_large", "The answer is too large, or broke off.").into_response();
    };
    match server.shared.answers.put(hold, sealed.to_vec()).await {
        Ok(()) => StatusCode::NO_CONTENT.into_response(),
        Err(error) => unavailable(&error),
    }
}

fn unavailable(error: &impl std::fmt::Display) -> Response {
    tracing::warn!(%error, "kept answers cannot be reached");
    ApiError::unavailable("ledger_unavailable", "Kept answers cannot be reached; try again.").into_response()
}
