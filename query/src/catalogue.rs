//! Apps, features, developer tokens and the active rate card.

use axum::extract::{Path, State};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{ModelRates, Pricing, RateCardId};
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{AppId, DeveloperId, FeatureId, Position, ShardId, TokenId};
use modelfaucet_schema::money::BasisPoints;
use modelfaucet_schema::time::{ApiTime, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::answer::Answer;
use crate::auth::{Admin, AppsRead, Developer, FeaturesRead, TokensRead};
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, FromGiven, Given, Page, PageParams, Query, TimeCursor, public_app_id};
use crate::snapshot::{Snapshot, missing};
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["catalogue"];

/// Items, and where the next page begins.
#[derive(Serialize, ToSchema)]
pub(crate) struct Apps {
    /// The apps, newest first.
    items: Vec<App>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// An app.
#[derive(Serialize, ToSchema)]
pub(crate) struct App {
    /// The id that apps put into their clients.
    public_app_id: String,
    /// Name shown to people.
    name: String,
    /// Line of business.
    #[serde(skip_serializing_if = "Option::is_none")]
    vertical: Option<String>,
    /// The developer's part of the margin where a feature names none.
    default_revenue_share_bps: i32,
    /// `active` or `disabled`.
    status: String,
    /// `public` or `server`: who may open sessions.
    session_opening: String,
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
    #[serde(skip)]
    app_id: AppId,
}

impl App {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            public_app_id: row.try_get("public_app_id")?,
            name: row.try_get("name")?,
            vertical: row.try_get("vertical")?,
            default_revenue_share_bps: row.try_get("default_revenue_share_bps")?,
            status: row.try_get("status")?,
            session_opening: row.try_get("session_opening")?,
            developer_id: DeveloperId(row.try_get("developer_id")?),
            developer_name: row.try_get("developer_name")?,
            developer_email: row.try_get("developer_email")?,
            created_at: ApiTime(row.time("registered_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
            app_id: AppId(row.try_get("app_id")?),
        })
    }
}

/// The features of an app.
#[derive(Serialize, ToSchema)]
pub(crate) struct Features {
    /// The features, by key.
    items: Vec<Feature>,
}

/// A feature: the unit that has a price.
#[derive(Serialize, ToSchema)]
pub(crate) struct Feature {
    /// The feature.
    id: FeatureId,
    /// Its app.
    public_app_id: String,
    /// The key that apps name it by.
    feature_key: String,
    /// Name shown to people.
    display_name: String,
    /// Routing and other policy, read by the gateway.
    #[schema(value_type = Object)]
    policy: Box<RawValue>,
    /// What it costs.
    pricing: Pricing,
    /// When it was defined.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

impl Feature {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let id: Uuid = row.try_get("feature_id")?;
        let updated_at = row.time("updated_at")?;
        Ok(Self {
            id: FeatureId(id),
            public_app_id: row.try_get("public_app_id")?,
            feature_key: row.try_get("feature_key")?,
            display_name: row.try_get("display_name")?,
            policy: row.json("policy")?,
            pricing: pricing(row)?,
            created_at: ApiTime(made_at(id).unwrap_or(updated_at)),
            updated_at: ApiTime(updated_at),
        })
    }
}

/// When an id was made, if it tells: the read table keeps the last change only.
fn made_at(id: Uuid) -> Option<Timestamp> {
    let (seconds, nanos) = id.get_timestamp()?.to_unix();
    let micros = i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000))?;
    Some(Timestamp::from_micros(micros))
}

fn pricing(row: &Row) -> Result<Pricing, QueryError> {
    let bps =
        |stored: i32| u32::try_from(stored).ok().and_then(BasisPoints::new).ok_or(QueryError::Foreign("basis points"));
    Ok(Pricing {
        markup_bps: bps(row.try_get("markup_bps")?)?,
        revenue_share_bps: row.try_get::<_, Option<i32>>("revenue_share_bps")?.map(bps).transpose()?,
        fee_usd: row.money("fee")?,
    })
}

/// A page of tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct Tokens {
    /// The tokens, newest first.
    items: Vec<Token>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A developer's token; its text is shown once, when it is issued.
#[derive(Serialize, ToSchema)]
pub(crate) struct Token {
    /// The token's id.
    id: TokenId,
    /// Whose it is.
    developer_id: DeveloperId,
    /// The developer's name.
    developer_name: String,
    /// The developer's business contact.
    developer_email: String,
    /// Name given by its owner.
    name: String,
    /// The first characters, to recognise it by.
    token_prefix: String,
    /// What it may do.
    #[schema(value_type = Vec<String>)]
    scopes: Box<RawValue>,
    /// `active` or `revoked`.
    status: String,
    /// When it ends, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<ApiTime>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<ApiTime>,
    /// When it was issued.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

impl Token {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let (created_at, revoked_at) = (ApiTime(row.time("issued_at")?), row.time_or_none("revoked_at")?);
        Ok(Self {
            id: TokenId(row.try_get("token_id")?),
            developer_id: DeveloperId(row.try_get("developer_id")?),
            developer_name: row.try_get("developer_name")?,
            developer_email: row.try_get("developer_email")?,
            name: row.try_get("name")?,
            token_prefix: row.try_get("token_prefix")?,
            scopes: row.json("scopes")?,
            status: row.try_get("status")?,
            expires_at: row.time_or_none("expires_at")?,
            revoked_at,
            created_at,
            updated_at: revoked_at.unwrap_or(created_at),
        })
    }
}

/// The rate card that prices new holds and usage.
#[derive(Serialize, ToSchema)]
pub(crate) struct RateCard {
    /// Its name, derived from its content.
    id: RateCardId,
    /// Full SHA-256 of its canonical bytes.
    sha256: String,
    /// Where the prices come from.
    source: String,
    /// Prices by model.
    #[schema(value_type = Vec<ModelRates>)]
    models: Box<RawValue>,
    /// When it was published.
    published_at: ApiTime,
    /// When it was last activated.
    #[serde(skip_serializing_if = "Option::is_none")]
    activated_at: Option<ApiTime>,
    /// The position from which on it prices.
    #[serde(skip_serializing_if = "Option::is_none")]
    activated_position: Option<Position>,
}

impl RateCard {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: RateCardId(row.try_get("rate_card_id")?),
            sha256: row.try_get("sha256")?,
            source: row.try_get("source")?,
            models: row.json("models")?,
            published_at: ApiTime(row.time("published_at")?),
            activated_at: row.time_or_none("activated_at")?,
            activated_position: row.try_get::<_, Option<i64>>("activated_position")?.map(Position),
        })
    }
}

/// A page of apps; all of them, if no limit is given.
pub(crate) struct AppPage {
    limit: Option<Page<TimeCursor>>,
    cursor: Option<TimeCursor>,
}

impl FromGiven for AppPage {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        let cursor = given.cursor()?;
        let limit = given.has("limit").then(|| Page::take(given, 200)).transpose()?;
        Ok(Self { limit, cursor })
    }
}

/// A page of tokens, 100 unless a limit is given.
pub(crate) struct TokenPage(Page<TimeCursor>);

impl FromGiven for TokenPage {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Page::take(given, 100).map(Self)
    }
}

async fn apps_of(snapshot: &Snapshot<'_>, tenant: Option<DeveloperId>, page: &AppPage) -> Result<Apps, QueryError> {
    let tenant = tenant.map(|developer| developer.0);
    let (time, id) = TimeCursor::parts(page.cursor);
    let fetch = page.limit.as_ref().map(Page::fetch);
    let rows = snapshot.rows(sql::APPS, &[&tenant, &time, &id, &fetch]).await?;
    let mut items = each(&rows, App::read)?;
    let cursor = |app: &App| TimeCursor { time: app.created_at.0, id: app.app_id.0 };
    let next_cursor =
        page.limit.as_ref().and_then(|page| page.cut(&mut items, cursor)).map(|cursor| cursor.to_string());
    Ok(Apps { items, next_cursor })
}

async fn tokens_of(
    snapshot: &Snapshot<'_>,
    tenant: Option<DeveloperId>,
    page: &Page<TimeCursor>,
) -> Result<Tokens, QueryError> {
    let tenant = tenant.map(|developer| developer.0);
    let (time, id) = TimeCursor::parts(page.cursor);
    let rows = snapshot.rows(sql::TOKENS, &[&tenant, &time, &id, &page.fetch()]).await?;
    let mut items = each(&rows, Token::read)?;
    let cursor = |token: &Token| TimeCursor { time: token.created_at.0, id: token.id.0 };
    let next_cursor = page.cut(&mut items, cursor).map(|cursor| cursor.to_string());
    Ok(Tokens { items, next_cursor })
}

/// The developer's apps, newest first; all of them, unless a limit is given.
#[utoipa::path(get, path = "/v1/developer/apps", tag = "catalogue", params(PageParams, AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:apps:read"])), responses(
    (status = 200, body = Apps), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn apps(
    State(state): State<QueryState>,
    developer: Developer<AppsRead>,
    query: Query<AppPage>,
) -> Result<Answer<Apps>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    snapshot.answer(apps_of(&snapshot, developer.tenant, &query.own).await)
}

/// The features of an app. An unknown app has none.
#[utoipa::path(get, path = "/v1/developer/apps/{public_app_id}/features", tag = "catalogue",
    params(("public_app_id" = String, Path), AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:features:read"])), responses(
    (status = 200, body = Features), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn features(
    State(state): State<QueryState>,
    developer: Developer<FeaturesRead>,
    Path(id): Path<String>,
    query: Query<()>,
) -> Result<Answer<Features>, QueryError> {
    let id = public_app_id(&id)?;
    let tenant = developer.tenant.map(|developer| developer.0);
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    let rows = snapshot.rows(sql::FEATURES, &[&id, &tenant]).await?;
    snapshot.answer(each(&rows, Feature::read).map(|items| Features { items }))
}

/// The developer's tokens, newest first.
#[utoipa::path(get, path = "/v1/developer/tokens", tag = "catalogue", params(PageParams, AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:tokens:read"])), responses(
    (status = 200, body = Tokens), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn tokens(
    State(state): State<QueryState>,
    developer: Developer<TokensRead>,
    query: Query<TokenPage>,
) -> Result<Answer<Tokens>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    snapshot.answer(tokens_of(&snapshot, developer.tenant, &query.own.0).await)
}

/// A shard, 0 unless another one is named.
pub(crate) struct OfShard(ShardId);

impl FromGiven for OfShard {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        given.shard().map(Self)
    }
}

/// The active rate card.
#[utoipa::path(get, path = "/v1/admin/rate-card", tag = "catalogue",
    params(("shard" = Option<ShardId>, Query, description = "The log, 0 unless given."), AtParams),
    security(("bearer" = ["auditor"])), responses(
    (status = 200, body = RateCard), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn rate_card(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<OfShard>,
) -> Result<Answer<RateCard>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    let card = match snapshot.row(sql::RATE_CARD, &[&query.own.0.0]).await? {
        Some(row) => RateCard::read(&row),
        None => Err(missing("rate_card_not_found", "No rate card is active.")),
    };
    snapshot.answer(card)
}
