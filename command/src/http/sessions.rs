//! Opening and ending sessions.

use axum::Json;
use axum::extract::{Path, State};
use axum::response::{IntoResponse, Response};
use http::{HeaderMap, HeaderValue, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::http::{ApiError, LEDGER_POSITION, RequestId, StrictJson, bearer};
use modelfaucet_schema::ids::{SessionId, UserId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::token::{Scope, TokenHash, TokenKind, UserHash, generate_token};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::auth::Authenticated;
use super::reply::OkReply;
use super::values::{Identifier, Text, path_id};
use crate::domain::Command;

/// A session for a user of an app.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenSession {
    /// The app's public id.
    public_app_id: Identifier,
    /// The app's own id of the user. Only an HMAC of it is stored.
    external_user_id: Text<1, 512>,
    /// The feature that calls are priced by if they name none.
    feature_key: Option<Identifier>,
    /// Accepted for compatibility, not stored.
    #[expect(dead_code, reason = "personal data stays out of the log")]
    #[schema(value_type = Option<Object>)]
    metadata: Option<Map<String, Value>>,
}

/// An open session. The token is shown here and never again.
#[derive(Serialize, ToSchema)]
pub(super) struct SessionReply {
    /// To be sent as `Authorization: Bearer …`.
    session_token: String,
    /// Seconds until it ends.
    expires_in: u64,
    /// Where to send calls.
    gateway_base_url: String,
    /// The routes a call may take.
    available_modes: [&'static str; 3],
    /// The wallet's balance.
    wallet_balance_usd: Money,
}

/// Open a session.
///
/// Anybody who knows the public app id may open one, unless the app takes sessions from its server only: then a developer token
/// with the scope `developer:sessions:write` is needed. A repeat opens another session.
#[utoipa::path(post, path = "/v1/sessions", tag = "sessions", request_body = OpenSession, responses(
    (status = 200, description = "The session and its token", body = SessionReply),
    (status = "4XX", description = "invalid_request, invalid_app, feature_not_found, forbidden", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn open(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<OpenSession>,
) -> Result<Response, ApiError> {
    let who = match bearer(&headers) {
        None => Authenticated::public(request_id),
        Some(_) => api.require_developer(&headers, request_id, Scope::SessionsWrite).await?,
    };
    let app = api.known(|| api.ledger.directory().app(&body.public_app_id.0)).await;
    let app = app.filter(|app| app.active);
    let app = app.ok_or_else(|| ApiError::new(404, "invalid_app", "The public app id is invalid or inactive."))?;
    let token = generate_token(TokenKind::Session).map_err(|_| ApiError::internal())?;
    let command = Command::OpenSession {
        session_id: SessionId::generate(),
        wallet_id: WalletId::generate(),
        user_id: UserId::generate(),
        app_id: app.app_id,
        user_hash: UserHash::of(&api.user_key, app.app_id, &body.external_user_id.0),
        feature_key: body.feature_key.map(|key| key.0),
        token_hash: TokenHash::of(&token),
        ttl: api.session_ttl,
    };
    let done = api.submit(&who, command, None).await?;
    let Event::SessionOpened(opened) = &done.recorded().event else { return Err(done.unexpected()) };
    let reply = SessionReply {
        session_token: token.expose_secret().to_owned(),
        expires_in: api.session_ttl.as_secs(),
        gateway_base_url: api.gateway_base_url.to_string(),
        available_modes: ["platform", "byok", "local"],
        wallet_balance_usd: opened.balance.posted,
    };
    let mut response = (StatusCode::OK, Json(reply)).into_response();
    response.headers_mut().insert(LEDGER_POSITION, HeaderValue::from(done.recorded().position.0));
    Ok(response)
}

/// End a session.
///
/// By the app's developer (scope `developer:sessions:write`), an administrator, or with the session's own token.
#[utoipa::path(delete, path = "/v1/sessions/{session_id}", tag = "sessions", params(("session_id" = SessionId, Path)), responses(
    (status = 200, description = "The session has ended", body = OkReply),
    (status = "4XX", description = "invalid_session, session_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn revoke(
    State(api): State<Api>,
    Path(session_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let own = bearer(&headers).is_some_and(|token| token.starts_with(TokenKind::Session.prefix()));
    let who = if own {
        api.require_payer(&headers, request_id).await?
    } else {
        api.require_developer_or(Power::Operate, &headers, request_id, Scope::SessionsWrite).await?
    };
    let session_id = path_id(&session_id, "session id")?;
    let done = api.submit(&who, Command::RevokeSession { session_id }, None).await?;
    Ok(done.answer(StatusCode::OK, &OkReply::of(&done)))
}
