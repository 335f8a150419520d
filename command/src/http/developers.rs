//! Developers and their tokens.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Event, Status};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId};
use modelfaucet_schema::ids::{DeveloperId, TokenId};
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::time::{ApiTime, Timestamp};
use modelfaucet_schema::token::{Scope, TokenHash, TokenKind, generate_token};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::reply::OkReply;
use super::values::{Text, path_id};
use crate::domain::Command;

/// A developer to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterDeveloper {
    /// Name shown to operators.
    name: Text<1, 256>,
    /// Business contact.
    email: Text<3, 320>,
}

/// A developer.
#[derive(Serialize, ToSchema)]
pub(super) struct DeveloperReply {
    /// The developer.
    developer_id: DeveloperId,
    /// Name.
    name: String,
    /// Business contact.
    email: String,
}

/// Register a developer.
#[utoipa::path(post, path = "/v1/admin/developers", tag = "catalogue", request_body = RegisterDeveloper, security(("bearer" = ["admin"])),
    responses(
    (status = 201, description = "The developer", body = DeveloperReply),
    (status = "4XX", description = "invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn register_developer(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<RegisterDeveloper>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let command =
        Command::RegisterDeveloper { developer_id: DeveloperId::generate(), name: body.name.0, email: body.email.0 };
    let done = api.submit(&who, command, None).await?;
    let Event::DeveloperRegistered(event) = &done.recorded().event else { return Err(done.unexpected()) };
    let reply =
        DeveloperReply { developer_id: event.developer_id, name: event.name.clone(), email: event.email.clone() };
    Ok(done.answer(StatusCode::CREATED, &reply))
}

/// A token to issue.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct IssueToken {
    /// Name given by its owner.
    name: Text<1, 128>,
    /// Whose; a developer's own token issues for that developer only. Absent: its own, or the developer that was registered first.
    developer_id: Option<DeveloperId>,
    /// Whose, by business contact.
    developer_email: Option<Text<3, 320>>,
    /// What it may do, at least one; absent: the nine scopes of ModelFaucet 1.2, as far as the token that issues it has them.
    #[schema(min_items = 1)]
    scopes: Option<Vec<Scope>>,
    /// When it ends.
    expires_at: Option<Timestamp>,
}

/// A new token. Its text is shown here and never again.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenReply {
    /// To be sent as `Authorization: Bearer …`.
    token: String,
    /// What is known about it later.
    item: TokenItem,
}

/// A token without its text.
#[derive(Serialize, ToSchema)]
pub(super) struct TokenItem {
    /// The token's id.
    id: TokenId,
    /// Whose.
    developer_id: DeveloperId,
    /// The developer's name.
    developer_name: String,
    /// The developer's business contact.
    developer_email: String,
    /// Its name.
    name: String,
    /// Its first characters.
    token_prefix: String,
    /// What it may do.
    scopes: Vec<Scope>,
    /// In use or not.
    status: Status,
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<ApiTime>,
    /// When it was issued.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

/// The scopes of ModelFaucet 1.2: what a token gets that asks for none.
const DEFAULT_SCOPES: [Scope; 9] = [
    Scope::AppsRead,
    Scope::AppsWrite,
    Scope::FeaturesRead,
    Scope::FeaturesWrite,
    Scope::ProviderKeysRead,
    Scope::ProviderKeysWrite,
    Scope::TokensRead,
    Scope::TokensWrite,
    Scope::OperationsRead,
];

/// Issue a developer token.
#[utoipa::path(post, path = "/v1/developer/tokens", tag = "catalogue", request_body = IssueToken, security(("bearer" = ["admin"]), ("bearer" = ["developer:tokens:write"])),
    responses(
    (status = 201, description = "The token, shown once", body = TokenReply),
    (status = "4XX", description = "invalid_session, forbidden, developer_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn issue_token(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<IssueToken>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::TokensWrite).await?;
    let body = body.read().await?;
    let email = body.developer_email.as_ref().map(|email| email.0.as_str());
    let developer_id = api.developer_for(&who, body.developer_id, email).await?;
    let scopes = match body.scopes {
        Some(scopes) if scopes.is_empty() => return Err(ApiError::invalid("Name at least one scope.").param("scopes")),
        Some(scopes) => scopes,
        None => DEFAULT_SCOPES.into_iter().filter(|scope| who.may_hand_out(*scope)).collect(),
    };
    let token = generate_token(TokenKind::Developer).map_err(|_| ApiError::internal())?;
    let command = Command::IssueDeveloperToken {
        token_id: TokenId::generate(),
        developer_id,
        name: body.name.0,
        token_hash: TokenHash::of(&token),
        token_prefix: token.expose_secret().chars().take(TokenKind::Developer.shown()).collect(),
        scopes,
        expires_at: body.expires_at,
    };
    let done = api.submit(&who, command, None).await?;
    let Event::DeveloperTokenIssued(event) = &done.recorded().event else { return Err(done.unexpected()) };
    let developer = api.developer(event.developer_id).await?;
    let issued_at = ApiTime(done.recorded().recorded_at);
    let item = TokenItem {
        id: event.token_id,
        developer_id: event.developer_id,
        developer_name: developer.name,
        developer_email: developer.email,
        name: event.name.clone(),
        token_prefix: event.token_prefix.clone(),
        scopes: event.scopes.clone(),
        status: Status::Active,
        expires_at: event.expires_at.map(ApiTime),
        created_at: issued_at,
        updated_at: issued_at,
    };
    Ok(done.answer(StatusCode::CREATED, &TokenReply { token: token.expose_secret().to_owned(), item }))
}

/// Revoke a developer token.
#[utoipa::path(delete, path = "/v1/developer/tokens/{token_id}", tag = "catalogue", params(("token_id" = TokenId, Path)), security(("bearer" = ["operator"]), ("bearer" = ["developer:tokens:write"])),
    responses(
    (status = 200, description = "Refused from now on", body = OkReply),
    (status = "4XX", description = "token_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn revoke_token(
    State(api): State<Api>,
    Path(token_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_developer_or(Power::Operate, &headers, request_id, Scope::TokensWrite).await?;
    let token_id = path_id(&token_id, "token id")?;
    let done = api.submit(&who, Command::RevokeDeveloperToken { token_id }, None).await;
    let done =
        done.map_err(|error| error.renamed("token_not_found", "invalid_request", "Developer token was not found."))?;
    Ok(done.answer(StatusCode::OK, &OkReply::of(&done)))
}
