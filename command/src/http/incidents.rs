//! Closing of incidents. The report that proves it is a file; here is its digest.

use axum::extract::State;
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Event, IncidentClosed};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId};
use modelfaucet_schema::ids::Position;
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::token::short_hash;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::{Identifier, Text, require_digest};
use super::{Api, Key};
use crate::domain::Command;

/// An incident to close.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct CloseIncident {
    /// What people call it, for example `INC-17`.
    name: Identifier,
    /// The first position that it is about.
    #[schema(value_type = i64, minimum = 1)]
    first: Position,
    /// The last one; it is in the log already.
    #[schema(value_type = i64, minimum = 1)]
    last: Position,
    /// SHA-256 of the report, 64 hexadecimal digits in lower case.
    digest: Text<64, 64>,
    /// How many bytes the report has, at least 1.
    #[schema(minimum = 1)]
    bytes: u64,
    /// What it was, and what the report proves.
    reason: Text<1, 1000>,
    /// Where it was closed before, if this closing is to count instead.
    #[serde(skip_serializing_if = "Option::is_none")]
    supersedes: Option<Position>,
}

/// A closed incident.
#[derive(Serialize, ToSchema)]
pub(super) struct IncidentReply {
    /// What people call it.
    name: String,
    /// The first position that it is about.
    first: Position,
    /// The last one.
    last: Position,
    /// SHA-256 of the report.
    digest: String,
    /// How many bytes the report has.
    bytes: u64,
    /// The closing that does not count any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    supersedes: Option<Position>,
    /// The event that says so.
    position: Position,
}

/// Close an incident.
///
/// The same again is answered as before. Anything else for the same name is another closing, which has to name the one that counts so far.
#[utoipa::path(post, path = "/v1/admin/incidents", tag = "operations", security(("bearer" = ["operator"])), request_body = CloseIncident, responses(
    (status = 201, description = "Closed", body = IncidentReply),
    (status = "4XX", description = "invalid_request, incident_closed, incident_not_found, range_beyond_log", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn close(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<CloseIncident>,
) -> Result<Response, ApiError> {
    let who = api.require_staff(&headers, request_id, Power::Operate).await?;
    let body = body.read().await?;
    require_digest(&body.digest.0)?;
    if body.bytes == 0 {
        return Err(ApiError::invalid("an empty report proves nothing").param("bytes"));
    }
    // All of the body is in the key, so only the very same is a repeat; what differs is judged by the rules.
    let content = serde_json::to_vec(&body).unwrap_or_default();
    let own_key = format!("incident:{}", short_hash(&[&content]));
    let key = Key::new(&own_key, "close_incident", "", &body);
    let closing = IncidentClosed {
        name: body.name.0.clone(),
        first: body.first,
        last: body.last,
        digest: body.digest.0.clone(),
        bytes: body.bytes,
        reason: body.reason.0.clone(),
        supersedes: body.supersedes,
    };
    let done = api.submit(&who, Command::CloseIncident(Box::new(closing)), Some(key)).await?;
    let recorded = done.recorded();
    let Event::IncidentClosed(closed) = &recorded.event else { return Err(done.unexpected()) };
    let reply = IncidentReply {
        name: closed.name.clone(),
        first: closed.first,
        last: closed.last,
        digest: closed.digest.clone(),
        bytes: closed.bytes,
        supersedes: closed.supersedes,
        position: recorded.position,
    };
    Ok(done.answer(StatusCode::CREATED, &reply))
}
