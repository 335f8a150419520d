//! Apps: what a developer has registered that calls models.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{AppSettings, Event, SessionOpening, Status};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId};
use modelfaucet_schema::ids::{AppId, DeveloperId};
use modelfaucet_schema::money::BasisPoints;
use modelfaucet_schema::time::ApiTime;
use modelfaucet_schema::token::Scope;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::Api;
use super::reply::Done;
use super::values::{Identifier, Text};
use crate::domain::{AppPatch, Command};

/// An app to register.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct RegisterApp {
    /// The id that clients carry; unique.
    public_app_id: Identifier,
    /// Name shown to people.
    name: Text<1, 256>,
    /// Line of business.
    vertical: Option<Text<1, 128>>,
    /// The developer's part of the margin where a feature names none; absent: 4000.
    default_revenue_share_bps: Option<u32>,
    /// Absent: active.
    #[serde(default)]
    status: Status,
    /// Who may open sessions; absent: anybody.
    #[serde(default)]
    session_opening: SessionOpening,
    /// Whose app, where the caller is an administrator; absent: the developer that was registered first.
    developer_id: Option<DeveloperId>,
}

/// An app.
#[derive(Serialize, ToSchema)]
pub(super) struct AppReply {
    /// The app.
    app_id: AppId,
    /// The id that clients carry.
    public_app_id: String,
    /// Name shown to people.
    name: String,
    /// Line of business.
    #[serde(skip_serializing_if = "Option::is_none")]
    vertical: Option<String>,
    /// The developer's part of the margin where a feature names none.
    default_revenue_share_bps: BasisPoints,
    /// Active or disabled.
    status: Status,
    /// Who may open sessions.
    session_opening: SessionOpening,
    /// Its developer.
    developer_id: DeveloperId,
    /// The developer's name.
    developer_name: String,
    /// The developer's business contact.
    developer_email: String,
    /// When it was registered.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

/// A share is at most the whole.
pub(super) fn share(bps: u32, param: &str) -> Result<BasisPoints, ApiError> {
    BasisPoints::new(bps)
        .filter(|share| *share <= BasisPoints::WHOLE)
        .ok_or_else(|| ApiError::invalid("A share is 0 to 10000 basis points.").param(param))
}

/// Register an app.
#[utoipa::path(post, path = "/v1/developer/apps", tag = "catalogue", request_body = RegisterApp, security(("bearer" = ["admin"]), ("bearer" = ["developer:apps:write"])),
    responses(
    (status = 201, description = "The app", body = AppReply),
    (status = "4XX", description = "already_exists, developer_not_found, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn register_app(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<RegisterApp>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::AppsWrite).await?;
    let body = body.read().await?;
    let developer_id = api.developer_for(&who, body.developer_id, None).await?;
    let settings = AppSettings {
        name: body.name.0,
        vertical: body.vertical.map(|text| text.0),
        default_revenue_share_bps: share(body.default_revenue_share_bps.unwrap_or(4_000), "default_revenue_share_bps")?,
        status: body.status,
        session_opening: body.session_opening,
    };
    let public_app_id = body.public_app_id.0;
    let command = Command::RegisterApp {
        app_id: AppId::generate(),
        developer_id,
        public_app_id: public_app_id.clone(),
        settings,
    };
    let done = api.submit(&who, command, None).await?;
    app_answer(&api, &done, &public_app_id, StatusCode::CREATED).await
}

/// What is not in the event never changes, so a repeat of the command would say the same.
async fn app_answer(api: &Api, done: &Done, public_app_id: &str, status: StatusCode) -> Result<Response, ApiError> {
    let settings: &AppSettings = match &done.recorded().event {
        Event::AppRegistered(event) => &event.settings,
        Event::AppChanged(event) => &event.settings,
        _ => return Err(done.unexpected()),
    };
    let app = api.known(|| api.ledger.directory().app(public_app_id)).await.ok_or_else(|| done.unexpected())?;
    let developer = api.developer(app.developer_id).await?;
    let reply = AppReply {
        app_id: app.app_id,
        public_app_id: public_app_id.to_owned(),
        name: settings.name.clone(),
        vertical: settings.vertical.clone(),
        default_revenue_share_bps: settings.default_revenue_share_bps,
        status: settings.status,
        session_opening: settings.session_opening,
        developer_id: app.developer_id,
        developer_name: developer.name,
        developer_email: developer.email,
        created_at: ApiTime(app.registered_at),
        updated_at: ApiTime(done.recorded().recorded_at),
    };
    Ok(done.answer(status, &reply))
}

/// What to change about an app.
#[derive(Default, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeApp {
    /// New name.
    name: Option<Text<1, 256>>,
    /// New line of business.
    vertical: Option<Text<1, 128>>,
    /// New default share.
    default_revenue_share_bps: Option<u32>,
    /// New status.
    status: Option<Status>,
    /// New rule for opening sessions.
    session_opening: Option<SessionOpening>,
}

/// Change an app.
#[utoipa::path(patch, path = "/v1/developer/apps/{public_app_id}", tag = "catalogue", request_body = ChangeApp,
    params(("public_app_id" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:apps:write"])),
    responses(
    (status = 200, description = "The app", body = AppReply),
    (status = "4XX", description = "invalid_app, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn change_app(
    State(api): State<Api>,
    Path(public_app_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ChangeApp>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::AppsWrite).await?;
    let body = body.read().await?;
    let patch = AppPatch {
        name: body.name.map(|text| text.0),
        vertical: body.vertical.map(|text| text.0),
        default_revenue_share_bps: body
            .default_revenue_share_bps
            .map(|bps| share(bps, "default_revenue_share_bps"))
            .transpose()?,
        status: body.status,
        session_opening: body.session_opening,
    };
    let public_app_id = app(&public_app_id)?;
    let command = Command::ChangeApp { public_app_id: public_app_id.clone(), patch };
    let done = api.submit(&who, command, None).await?;
    app_answer(&api, &done, &public_app_id, StatusCode::OK).await
}

/// Disable an app.
#[utoipa::path(delete, path = "/v1/developer/apps/{public_app_id}", tag = "catalogue",
    params(("public_app_id" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:apps:write"])),
    responses(
    (status = 200, description = "The app, disabled", body = AppReply),
    (status = "4XX", description = "invalid_app", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn disable_app(
    State(api): State<Api>,
    Path(public_app_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::AppsWrite).await?;
    let public_app_id = app(&public_app_id)?;
    let patch = AppPatch { status: Some(Status::Disabled), ..AppPatch::default() };
    let command = Command::ChangeApp { public_app_id: public_app_id.clone(), patch };
    let done = api.submit(&who, command, None).await?;
    app_answer(&api, &done, &public_app_id, StatusCode::OK).await
}

/// A public app id in a path.
pub(super) fn app(public_app_id: &str) -> Result<String, ApiError> {
    Identifier::parse(public_app_id, "public_app_id").map(|id| id.0)
}
