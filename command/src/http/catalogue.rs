//! Developers, tokens, apps, features, rate cards.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{
    AppSettings, Event, FeatureDefined, ModelRates, Pricing, RateCardId, SessionOpening, Status,
};
use modelfaucet_schema::http::{ApiError, MAX_RATE_CARD, RequestId, StrictJson};
use modelfaucet_schema::ids::{AppId, DeveloperId, FeatureId, TokenId};
use modelfaucet_schema::money::BasisPoints;
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::time::{ApiTime, Timestamp};
use modelfaucet_schema::token::{Scope, TokenHash, TokenKind, generate_token};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::reply::{Done, OkReply};
use super::values::{Identifier, Text, path_id};
use crate::domain::{AppPatch, Caller, Command, FeaturePatch};

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
#[utoipa::path(post, path = "/v1/admin/developers", tag = "catalogue", request_body = RegisterDeveloper, responses(
    (status = 201, description = "The developer", body = DeveloperReply),
    (status = "4XX", description = "invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn register_developer(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<RegisterDeveloper>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
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
    /// Whose; a developer's own token issues for that developer only.
    developer_id: Option<DeveloperId>,
    /// What it may do; absent: everything that a token can.
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
}

/// Issue a developer token.
#[utoipa::path(post, path = "/v1/developer/tokens", tag = "catalogue", request_body = IssueToken, responses(
    (status = 201, description = "The token, shown once", body = TokenReply),
    (status = "4XX", description = "invalid_session, forbidden, developer_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn issue_token(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<IssueToken>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::TokensWrite).await?;
    let developer_id = match (who.caller, body.developer_id) {
        (Caller::Developer(own, _), None) => own,
        (Caller::Developer(own, _), Some(named)) if own != named => {
            return Err(ApiError::new(403, "forbidden", "Developer token cannot manage another developer."));
        }
        (_, Some(named)) => named,
        (_, None) => return Err(ApiError::invalid("Name the developer.").param("developer_id")),
    };
    let token = generate_token(TokenKind::Developer).map_err(|_| ApiError::internal())?;
    let command = Command::IssueDeveloperToken {
        token_id: TokenId::generate(),
        developer_id,
        name: body.name.0,
        token_hash: TokenHash::of(&token),
        token_prefix: token.expose_secret().chars().take(15).collect(),
        scopes: body.scopes.unwrap_or_else(|| Scope::ALL.to_vec()),
        expires_at: body.expires_at,
    };
    let done = api.submit(&who, command, None).await?;
    let Event::DeveloperTokenIssued(event) = &done.recorded().event else { return Err(done.unexpected()) };
    let item = TokenItem {
        id: event.token_id,
        developer_id: event.developer_id,
        name: event.name.clone(),
        token_prefix: event.token_prefix.clone(),
        scopes: event.scopes.clone(),
        status: Status::Active,
        expires_at: event.expires_at.map(ApiTime),
        created_at: ApiTime(done.recorded().recorded_at),
    };
    Ok(done.answer(StatusCode::CREATED, &TokenReply { token: token.expose_secret().to_owned(), item }))
}

/// Revoke a developer token.
#[utoipa::path(delete, path = "/v1/developer/tokens/{token_id}", tag = "catalogue", params(("token_id" = TokenId, Path)), responses(
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
    let done = api.submit(&who, Command::RevokeDeveloperToken { token_id }, None).await?;
    Ok(done.answer(StatusCode::OK, &OkReply::of(&done)))
}

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
    /// Whose app, where the caller is an administrator.
    developer_id: Option<DeveloperId>,
}

/// An app.
#[derive(Serialize, ToSchema)]
pub(super) struct AppReply {
    /// The app.
    app_id: AppId,
    /// Its public id, where this command named it.
    #[serde(skip_serializing_if = "Option::is_none")]
    public_app_id: Option<String>,
    /// Its settings.
    #[serde(flatten)]
    settings: SettingsReply,
}

/// Settings of an app.
#[derive(Serialize, ToSchema)]
pub(super) struct SettingsReply {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    vertical: Option<String>,
    default_revenue_share_bps: BasisPoints,
    status: Status,
    session_opening: SessionOpening,
}

fn settings_reply(settings: &AppSettings) -> SettingsReply {
    SettingsReply {
        name: settings.name.clone(),
        vertical: settings.vertical.clone(),
        default_revenue_share_bps: settings.default_revenue_share_bps,
        status: settings.status,
        session_opening: settings.session_opening,
    }
}

/// A share is at most the whole.
fn share(bps: u32, param: &str) -> Result<BasisPoints, ApiError> {
    BasisPoints::new(bps)
        .filter(|share| *share <= BasisPoints::WHOLE)
        .ok_or_else(|| ApiError::invalid("A share is 0 to 10000 basis points.").param(param))
}

/// Register an app.
#[utoipa::path(post, path = "/v1/developer/apps", tag = "catalogue", request_body = RegisterApp, responses(
    (status = 201, description = "The app", body = AppReply),
    (status = "4XX", description = "already_exists, developer_not_found, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn register_app(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<RegisterApp>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::AppsWrite).await?;
    let developer_id = match (who.caller, body.developer_id) {
        (Caller::Developer(own, _), None) => own,
        (_, Some(named)) => named,
        (_, None) => return Err(ApiError::invalid("Name the developer.").param("developer_id")),
    };
    let settings = AppSettings {
        name: body.name.0,
        vertical: body.vertical.map(|text| text.0),
        default_revenue_share_bps: share(body.default_revenue_share_bps.unwrap_or(4_000), "default_revenue_share_bps")?,
        status: body.status,
        session_opening: body.session_opening,
    };
    let command =
        Command::RegisterApp { app_id: AppId::generate(), developer_id, public_app_id: body.public_app_id.0, settings };
    let done = api.submit(&who, command, None).await?;
    app_answer(&done, StatusCode::CREATED)
}

fn app_answer(done: &Done, status: StatusCode) -> Result<Response, ApiError> {
    let reply = match &done.recorded().event {
        Event::AppRegistered(event) => AppReply {
            app_id: event.app_id,
            public_app_id: Some(event.public_app_id.clone()),
            settings: settings_reply(&event.settings),
        },
        Event::AppChanged(event) => {
            AppReply { app_id: event.app_id, public_app_id: None, settings: settings_reply(&event.settings) }
        }
        _ => return Err(done.unexpected()),
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
    params(("public_app_id" = String, Path)), responses(
    (status = 200, description = "The app", body = AppReply),
    (status = "4XX", description = "invalid_app, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn change_app(
    State(api): State<Api>,
    Path(public_app_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<ChangeApp>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::AppsWrite).await?;
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
    let public_app_id = Identifier::parse(&public_app_id, "public_app_id")?.0;
    let done = api.submit(&who, Command::ChangeApp { public_app_id, patch }, None).await?;
    app_answer(&done, StatusCode::OK)
}

/// Disable an app.
#[utoipa::path(delete, path = "/v1/developer/apps/{public_app_id}", tag = "catalogue",
    params(("public_app_id" = String, Path)), responses(
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
    let public_app_id = Identifier::parse(&public_app_id, "public_app_id")?.0;
    let patch = AppPatch { status: Some(Status::Disabled), ..AppPatch::default() };
    let done = api.submit(&who, Command::ChangeApp { public_app_id, patch }, None).await?;
    app_answer(&done, StatusCode::OK)
}

/// A feature to define.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DefineFeature {
    /// The key that apps name it by.
    feature_key: Identifier,
    /// Name shown to people.
    display_name: Text<1, 256>,
    /// What it costs on top of the provider's price; absent: markup 30 %, the app's share.
    pricing: Option<Pricing>,
    /// Routing and other policy.
    #[schema(value_type = Option<Object>)]
    policy: Option<Map<String, Value>>,
}

/// A feature.
#[derive(Serialize, ToSchema)]
pub(super) struct FeatureReply {
    /// The feature.
    id: FeatureId,
    /// Its key.
    feature_key: String,
    /// Its name.
    display_name: String,
    /// What it costs.
    pricing: Pricing,
    /// Its policy.
    #[schema(value_type = Object)]
    policy: Map<String, Value>,
}

fn feature_answer(done: &Done, status: StatusCode) -> Result<Response, ApiError> {
    let feature: &FeatureDefined = match &done.recorded().event {
        Event::FeatureDefined(event) => event,
        Event::FeatureChanged(event) => &event.0,
        _ => return Err(done.unexpected()),
    };
    let reply = FeatureReply {
        id: feature.feature_id,
        feature_key: feature.feature_key.clone(),
        display_name: feature.display_name.clone(),
        pricing: feature.pricing,
        policy: feature.policy.clone(),
    };
    Ok(done.answer(status, &reply))
}

/// Shares within a pricing are at most the whole.
fn check_pricing(pricing: Option<Pricing>) -> Result<Option<Pricing>, ApiError> {
    if let Some(bps) = pricing.and_then(|pricing| pricing.revenue_share_bps) {
        share(bps.get(), "pricing.revenue_share_bps")?;
    }
    if pricing.is_some_and(|pricing| {
        pricing.fee_usd.is_negative() || pricing.fee_usd > modelfaucet_schema::money::Money::MAX_REQUEST
    }) {
        return Err(ApiError::invalid("A fee is not negative.").param("pricing.fee_usd"));
    }
    Ok(pricing)
}

/// Define a feature.
#[utoipa::path(post, path = "/v1/developer/apps/{public_app_id}/features", tag = "catalogue", request_body = DefineFeature,
    params(("public_app_id" = String, Path)), responses(
    (status = 201, description = "The feature", body = FeatureReply),
    (status = "4XX", description = "invalid_app, already_exists, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn define_feature(
    State(api): State<Api>,
    Path(public_app_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<DefineFeature>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let command = Command::DefineFeature {
        feature_id: FeatureId::generate(),
        public_app_id: Identifier::parse(&public_app_id, "public_app_id")?.0,
        feature_key: body.feature_key.0,
        display_name: body.display_name.0,
        pricing: check_pricing(body.pricing)?.unwrap_or_default(),
        policy: body.policy.unwrap_or_default(),
    };
    let done = api.submit(&who, command, None).await?;
    feature_answer(&done, StatusCode::CREATED)
}

/// What to change about a feature; objects are replaced whole.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeFeature {
    /// New name.
    display_name: Option<Text<1, 256>>,
    /// New pricing.
    pricing: Option<Pricing>,
    /// New policy.
    #[schema(value_type = Option<Object>)]
    policy: Option<Map<String, Value>>,
}

/// Change a feature.
#[utoipa::path(patch, path = "/v1/developer/apps/{public_app_id}/features/{feature_key}", tag = "catalogue",
    request_body = ChangeFeature, params(("public_app_id" = String, Path), ("feature_key" = String, Path)), responses(
    (status = 200, description = "The feature", body = FeatureReply),
    (status = "4XX", description = "invalid_app, feature_not_found, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn change_feature(
    State(api): State<Api>,
    Path((public_app_id, feature_key)): Path<(String, String)>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<ChangeFeature>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let command = Command::ChangeFeature {
        public_app_id: Identifier::parse(&public_app_id, "public_app_id")?.0,
        feature_key: Identifier::parse(&feature_key, "feature_key")?.0,
        patch: FeaturePatch {
            display_name: body.display_name.map(|text| text.0),
            pricing: check_pricing(body.pricing)?,
            policy: body.policy,
        },
    };
    let done = api.submit(&who, command, None).await?;
    feature_answer(&done, StatusCode::OK)
}

/// Remove a feature.
#[utoipa::path(delete, path = "/v1/developer/apps/{public_app_id}/features/{feature_key}", tag = "catalogue",
    params(("public_app_id" = String, Path), ("feature_key" = String, Path)), responses(
    (status = 200, description = "Calls that name it are refused from now on", body = OkReply),
    (status = "4XX", description = "invalid_app, feature_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn remove_feature(
    State(api): State<Api>,
    Path((public_app_id, feature_key)): Path<(String, String)>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let command = Command::RemoveFeature {
        public_app_id: Identifier::parse(&public_app_id, "public_app_id")?.0,
        feature_key: Identifier::parse(&feature_key, "feature_key")?.0,
    };
    let done = api.submit(&who, command, None).await?;
    Ok(done.answer(StatusCode::OK, &OkReply::of(&done)))
}

/// A rate card: what providers charge us.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ActivateRateCard {
    /// Where the prices come from.
    source: Text<1, 256>,
    /// Prices by model, USD per token.
    models: Vec<ModelRates>,
}

/// The rate card that prices new holds and usage.
#[derive(Serialize, ToSchema)]
pub(super) struct RateCardReply {
    /// Its name, derived from its content.
    rate_card_id: RateCardId,
    /// Always `active`.
    status: &'static str,
}

/// Activate a rate card.
///
/// New holds and usage are priced by it; open holds keep the card that they were placed under. At most 8 MiB.
#[utoipa::path(post, path = "/v1/admin/rate-cards", tag = "catalogue", request_body = ActivateRateCard, responses(
    (status = 201, description = "The active card", body = RateCardReply),
    (status = "4XX", description = "already_exists, invalid_rate_card, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn activate_rate_card(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    StrictJson(body): StrictJson<ActivateRateCard, MAX_RATE_CARD>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let done = api.submit(&who, Command::ActivateRateCard { source: body.source.0, models: body.models }, None).await?;
    let Event::RateCardActivated(event) = &done.recorded().event else { return Err(done.unexpected()) };
    Ok(done.answer(StatusCode::CREATED, &RateCardReply { rate_card_id: event.rate_card_id, status: "active" }))
}
