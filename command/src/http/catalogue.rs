//! Developers, tokens, apps, features, rate cards.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{
    AppSettings, Event, FeatureDefined, ModelRates, Pricing, RateCardId, SessionOpening, Status,
};
use modelfaucet_schema::http::{ApiError, JsonBody, MAX_RATE_CARD, RequestId};
use modelfaucet_schema::ids::{AppId, DeveloperId, FeatureId, TokenId};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::time::{ApiTime, Timestamp};
use modelfaucet_schema::token::{Scope, TokenHash, TokenKind, generate_token};
use secrecy::ExposeSecret as _;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::reply::{Done, OkReply};
use super::values::{Identifier, Text, path_id};
use crate::domain::{AppPatch, Command, FeaturePatch};

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
fn share(bps: u32, param: &str) -> Result<BasisPoints, ApiError> {
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

/// A feature to define.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DefineFeature {
    /// The key that apps name it by.
    feature_key: Identifier,
    /// Name shown to people.
    display_name: Text<1, 256>,
    /// What it costs on top of the provider's price; absent: markup 30 %, the app's share.
    pricing: Option<PricingBody>,
    /// Routing and other policy.
    #[schema(value_type = Option<Object>)]
    policy: Option<Map<String, Value>>,
}

/// What a feature costs, as developers write it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PricingBody {
    /// Markup on the provider's cost, in hundredths of a percent.
    markup_bps: Option<BasisPoints>,
    /// The same in percent, with at most two decimals, as ModelFaucet 1.2 writes it.
    #[schema(value_type = Option<f64>, example = 30)]
    markup_percent: Option<Box<RawValue>>,
    /// The developer's part of the margin; absent: the app's default.
    revenue_share_bps: Option<BasisPoints>,
    /// Fee per call on the user's own key or machine; absent: none.
    fee_usd: Option<Money>,
}

impl PricingBody {
    fn read(self) -> Result<Pricing, ApiError> {
        let markup_bps = match (self.markup_bps, self.markup_percent) {
            (Some(_), Some(_)) => {
                let message = "Name the markup once: markup_bps or markup_percent.";
                return Err(ApiError::invalid(message).param("pricing.markup_percent"));
            }
            (Some(bps), None) => bps,
            (None, Some(percent)) => percent_as_bps(percent.get()).ok_or_else(|| {
                let message = "A markup is a percentage from 0 to 1000 with at most two decimals.";
                ApiError::invalid(message).param("pricing.markup_percent")
            })?,
            (None, None) => Pricing::default().markup_bps,
        };
        check_pricing(Pricing {
            markup_bps,
            revenue_share_bps: self.revenue_share_bps,
            fee_usd: self.fee_usd.unwrap_or(Money::ZERO),
        })
    }
}

/// Percent as JSON, a number or a text, in hundredths: digits are moved, nothing is rounded.
fn percent_as_bps(json: &str) -> Option<BasisPoints> {
    let text = json.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(json);
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 4 || decimals.len() > 2 || !digits(whole) || !digits(decimals) {
        return None;
    }
    format!("{whole}{decimals:0<2}").parse().ok().and_then(BasisPoints::new)
}

/// A feature.
#[derive(Serialize, ToSchema)]
pub(super) struct FeatureReply {
    /// The feature.
    id: FeatureId,
    /// Its app.
    public_app_id: String,
    /// Its key.
    feature_key: String,
    /// Its name.
    display_name: String,
    /// What it costs.
    pricing: Pricing,
    /// Its policy.
    #[schema(value_type = Object)]
    policy: Map<String, Value>,
    /// When it was defined.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

fn feature_answer(done: &Done, public_app_id: &str, status: StatusCode) -> Result<Response, ApiError> {
    let feature: &FeatureDefined = match &done.recorded().event {
        Event::FeatureDefined(event) => event,
        Event::FeatureChanged(event) => &event.0,
        _ => return Err(done.unexpected()),
    };
    let updated_at = done.recorded().recorded_at;
    let reply = FeatureReply {
        id: feature.feature_id,
        public_app_id: public_app_id.to_owned(),
        feature_key: feature.feature_key.clone(),
        display_name: feature.display_name.clone(),
        pricing: feature.pricing,
        policy: feature.policy.clone(),
        created_at: ApiTime(feature.feature_id.made_at().unwrap_or(updated_at)),
        updated_at: ApiTime(updated_at),
    };
    Ok(done.answer(status, &reply))
}

/// Shares within a pricing are at most the whole, fees within what a request may name.
fn check_pricing(pricing: Pricing) -> Result<Pricing, ApiError> {
    if let Some(bps) = pricing.revenue_share_bps {
        share(bps.get(), "pricing.revenue_share_bps")?;
    }
    if pricing.fee_usd.is_negative() || pricing.fee_usd > Money::MAX_REQUEST {
        return Err(ApiError::invalid("A fee is not negative.").param("pricing.fee_usd"));
    }
    Ok(pricing)
}

/// A public app id in a path.
fn app(public_app_id: &str) -> Result<String, ApiError> {
    Identifier::parse(public_app_id, "public_app_id").map(|id| id.0)
}

/// In the words of ModelFaucet 1.2.
fn feature_not_found(error: ApiError) -> ApiError {
    error.renamed("feature_not_found", "invalid_request", "Feature could not be found.")
}

/// Define a feature.
#[utoipa::path(post, path = "/v1/developer/apps/{public_app_id}/features", tag = "catalogue", request_body = DefineFeature,
    params(("public_app_id" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:features:write"])),
    responses(
    (status = 201, description = "The feature", body = FeatureReply),
    (status = "4XX", description = "invalid_app, already_exists, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn define_feature(
    State(api): State<Api>,
    Path(public_app_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<DefineFeature>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let body = body.read().await?;
    let command = Command::DefineFeature {
        feature_id: FeatureId::generate(),
        public_app_id: app(&public_app_id)?,
        feature_key: body.feature_key.0,
        display_name: body.display_name.0,
        pricing: body.pricing.map(PricingBody::read).transpose()?.unwrap_or_default(),
        policy: body.policy.unwrap_or_default(),
    };
    let done = api.submit(&who, command, None).await;
    let done = done.map_err(|error| error.renamed("invalid_app", "invalid_app", "The public app id is invalid."))?;
    feature_answer(&done, &public_app_id, StatusCode::CREATED)
}

/// What to change about a feature; objects are replaced whole.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeFeature {
    /// New name.
    display_name: Option<Text<1, 256>>,
    /// New pricing.
    pricing: Option<PricingBody>,
    /// New policy.
    #[schema(value_type = Option<Object>)]
    policy: Option<Map<String, Value>>,
}

/// Change a feature.
#[utoipa::path(patch, path = "/v1/developer/apps/{public_app_id}/features/{feature_key}", tag = "catalogue",
    request_body = ChangeFeature, params(("public_app_id" = String, Path), ("feature_key" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:features:write"])),
    responses(
    (status = 200, description = "The feature", body = FeatureReply),
    (status = "4XX", description = "invalid_app, feature_not_found, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn change_feature(
    State(api): State<Api>,
    Path((public_app_id, feature_key)): Path<(String, String)>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ChangeFeature>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let body = body.read().await?;
    let command = Command::ChangeFeature {
        public_app_id: app(&public_app_id)?,
        feature_key: Identifier::parse(&feature_key, "feature_key")?.0,
        patch: FeaturePatch {
            display_name: body.display_name.map(|text| text.0),
            pricing: body.pricing.map(PricingBody::read).transpose()?,
            policy: body.policy,
        },
    };
    let done = api.submit(&who, command, None).await.map_err(feature_not_found)?;
    feature_answer(&done, &public_app_id, StatusCode::OK)
}

/// Remove a feature.
#[utoipa::path(delete, path = "/v1/developer/apps/{public_app_id}/features/{feature_key}", tag = "catalogue",
    params(("public_app_id" = String, Path), ("feature_key" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:features:write"])),
    responses(
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
        public_app_id: app(&public_app_id)?,
        feature_key: Identifier::parse(&feature_key, "feature_key")?.0,
    };
    let done = api.submit(&who, command, None).await.map_err(feature_not_found)?;
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
#[utoipa::path(post, path = "/v1/admin/rate-cards", tag = "catalogue", request_body = ActivateRateCard, security(("bearer" = ["admin"])),
    responses(
    (status = 201, description = "The active card", body = RateCardReply),
    (status = "4XX", description = "already_exists, invalid_rate_card, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn activate_rate_card(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ActivateRateCard, MAX_RATE_CARD>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let done = api.submit(&who, Command::ActivateRateCard { source: body.source.0, models: body.models }, None).await?;
    let Event::RateCardActivated(event) = &done.recorded().event else { return Err(done.unexpected()) };
    Ok(done.answer(StatusCode::CREATED, &RateCardReply { rate_card_id: event.rate_card_id, status: "active" }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_become_basis_points_digit_by_digit() {
        for (json, bps) in [("30", 3_000), ("\"12.5\"", 1_250), ("0.07", 7), ("0", 0), ("1000", 100_000)] {
            assert_eq!(percent_as_bps(json).map(BasisPoints::get), Some(bps), "{json}");
        }
        for json in ["-1", "0.001", "1e2", "", "\"\"", ".5", "1001", "null", "[1]", "\"1,5\""] {
            assert_eq!(percent_as_bps(json), None, "{json}");
        }
    }
}
