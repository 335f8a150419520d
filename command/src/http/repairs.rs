//! Plans of compensating commands, which two people agree on. The plan is a file; here is its digest.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId};
use modelfaucet_schema::ids::{Position, RepairId};
use modelfaucet_schema::token::short_hash;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::{Text, require_digest};
use super::{Api, Key};
use crate::domain::Command;

/// A plan to agree on.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProposeRepair {
    /// SHA-256 of the plan, 64 hexadecimal digits in lower case.
    digest: Text<64, 64>,
    /// How many commands it has, at least 1.
    #[schema(minimum = 1)]
    steps: u32,
    /// Why.
    reason: Text<1, 1000>,
}

/// Where a plan stands.
#[derive(Serialize, ToSchema)]
pub(super) struct RepairReply {
    /// The repair; follows from the digest.
    id: RepairId,
    /// SHA-256 of the plan.
    digest: String,
    /// `proposed` or `approved`.
    status: &'static str,
    /// The event that says so.
    position: Position,
}

fn reply(event: &Event, position: Position) -> Option<RepairReply> {
    let (id, digest, status) = match event {
        Event::RepairProposed(event) => (event.repair_id, &event.digest, "proposed"),
        Event::RepairApproved(event) => (event.repair_id, &event.digest, "approved"),
        _ => return None,
    };
    Some(RepairReply { id, digest: digest.clone(), status, position })
}

/// The same digest is the same repair.
fn repair_id(digest: &str) -> Result<RepairId, ApiError> {
    require_digest(digest)?;
    Ok(RepairId(short_hash(&[b"repair", digest.as_bytes()])))
}

/// Propose a repair.
///
/// The same plan again is answered as before.
#[utoipa::path(post, path = "/v1/admin/repairs", tag = "operations", security(("bearer" = ["admin"])), request_body = ProposeRepair, responses(
    (status = 201, description = "It waits for somebody else's approval", body = RepairReply),
    (status = "4XX", description = "invalid_request, already_exists, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn propose(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ProposeRepair>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = repair_id(&body.digest.0)?;
    if body.steps == 0 {
        return Err(ApiError::invalid("a plan has at least one step").param("steps"));
    }
    let own_key = format!("repair:{id}:propose");
    let key = Key::new(&own_key, "propose_repair", "", &body);
    let command = Command::ProposeRepair {
        repair_id: id,
        digest: body.digest.0.clone(),
        steps: body.steps,
        reason: body.reason.0.clone(),
    };
    let done = api.submit(&who, command, Some(key)).await?;
    let recorded = done.recorded();
    let reply = reply(&recorded.event, recorded.position).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::CREATED, &reply))
}

/// Approve a repair.
///
/// Not by who proposed it.
#[utoipa::path(post, path = "/v1/admin/repairs/{digest}/approve", tag = "operations", security(("bearer" = ["admin"])),
    params(("digest" = String, Path, description = "SHA-256 of the plan, 64 hexadecimal digits in lower case")), responses(
    (status = 200, description = "It may be carried out", body = RepairReply),
    (status = "4XX", description = "same_actor, repair_not_found, repair_closed", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn approve(
    State(api): State<Api>,
    Path(digest): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let id = repair_id(&digest)?;
    let done = api.submit(&who, Command::ApproveRepair { repair_id: id }, None).await?;
    let recorded = done.recorded();
    let reply = reply(&recorded.event, recorded.position).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::OK, &reply))
}
