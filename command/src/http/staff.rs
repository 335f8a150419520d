//! Tokens of the people who run the ledger.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Event, Status};
use modelfaucet_schema::http::{ApiError, RequestId, StrictJson};
use modelfaucet_schema::ids::TokenId;
use modelfaucet_schema::staff::{Power, StaffRole};
use modelfaucet_schema::time::{ApiTime, Timestamp};
use modelfaucet_schema::token::{TokenHash, TokenKind, generate_token};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::reply::OkReply;
use super::values::{Text, path_id};
use crate::domain::Command;

/// A staff token to issue.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct IssueStaffToken {
    /// Whose it is: a person or a machine.
    name: Text<1, 128>,
    /// What it may do.
    role: StaffRole,
    /// When it ends; absent: never.
    expires_at: Option<Timestamp>,
}

/// A new staff token. Its text is shown here and never again.
#[derive(Serialize, ToSchema)]
pub(super) struct StaffTokenReply {
    /// To be sent as `Authorization: Bearer …`.
    token: String,
    /// What is known about it later.
    item: StaffTokenItem,
}

/// A staff token without its text.
#[derive(Serialize, ToSchema)]
pub(super) struct StaffTokenItem {
    /// The token's id; acts name it.
    id: TokenId,
    /// Whose it is.
    name: String,
    /// What it may do.
    role: StaffRole,
    /// Its first characters.
    token_prefix: String,
    /// In use or not.
    status: Status,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<ApiTime>,
    /// When it was issued.
    created_at: ApiTime,
}

/// Issue a staff token.
///
/// With `ADMIN_TOKEN` only: whoever could make a second token could be the second person that some acts take. A repeat issues
/// another token.
#[utoipa::path(post, path = "/v1/admin/tokens", tag = "staff", request_body = IssueStaffToken,
    security(("bearer" = ["root"])), responses(
    (status = 201, description = "The token, shown once", body = StaffTokenReply),
    (status = "4XX", description = "invalid_session, forbidden, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn issue(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<IssueStaffToken>,
) -> Result<Response, ApiError> {
    let who = api.require_root(&headers, request_id).await?;
    let token = generate_token(TokenKind::Staff).map_err(|_| ApiError::internal())?;
    let command = Command::IssueStaffToken {
        token_id: TokenId::generate(),
        name: body.name.0,
        role: body.role,
        token_hash: TokenHash::of(&token),
        token_prefix: token.expose_secret().chars().take(TokenKind::Staff.shown()).collect(),
        expires_at: body.expires_at,
    };
    let done = api.submit(&who, command, None).await?;
    let Event::StaffTokenIssued(event) = &done.recorded().event else { return Err(done.unexpected()) };
    let item = StaffTokenItem {
        id: event.token_id,
        name: event.name.clone(),
        role: event.role,
        token_prefix: event.token_prefix.clone(),
        status: Status::Active,
        expires_at: event.expires_at.map(ApiTime),
        created_at: ApiTime(done.recorded().recorded_at),
    };
    Ok(done.answer(StatusCode::CREATED, &StaffTokenReply { token: token.expose_secret().to_owned(), item }))
}

/// Revoke a staff token.
///
/// Administrators revoke any, everybody their own.
#[utoipa::path(delete, path = "/v1/admin/tokens/{token_id}", tag = "staff", params(("token_id" = TokenId, Path)),
    security(("bearer" = ["admin"]), ("bearer" = ["self"])), responses(
    (status = 200, description = "Refused from now on", body = OkReply),
    (status = "4XX", description = "invalid_session, forbidden, token_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    Path(token_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_staff(&headers, request_id, Power::Read).await?;
    let token_id = path_id(&token_id, "token id")?;
    let done = api.submit(&who, Command::RevokeStaffToken { token_id }, None).await?;
    Ok(done.answer(StatusCode::OK, &OkReply::of(&done)))
}
