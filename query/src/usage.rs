//! What an app's users used and what it came to.

use axum::extract::{Path, State};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::ids::{DeveloperId, Position};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::amount::Total;
use crate::answer::Answer;
use crate::auth::{Developer, OperationsRead};
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{
    AtParams, FromGiven, Given, Page, PageParams, PositionCursor, Query, Range, RangeParams, public_app_id,
};
use crate::snapshot::{Snapshot, missing};
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["usage", "catalogue"];

/// Usage of an app: totals over the range, and a page of calls, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct AppUsage {
    /// The app's public id.
    public_app_id: String,
    /// Its name.
    app_name: String,
    /// Charged calls in the range.
    total_calls: i64,
    /// Input tokens in the range.
    total_input_tokens: i64,
    /// Output tokens in the range.
    total_output_tokens: i64,
    /// What users were charged in the range.
    total_retail_price_usd: Total,
    /// The developer's share of it.
    total_developer_revenue_usd: Total,
    /// A page of calls.
    usage: Vec<UsageItem>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One charged call.
#[derive(Serialize, ToSchema)]
pub(crate) struct UsageItem {
    /// The request that caused the charge.
    request_id: String,
    /// The feature that priced it.
    feature_key: Option<String>,
    /// `platform`, `developer_key`, `byok` or `local`.
    route_mode: String,
    /// Who billed for it.
    provider: Option<String>,
    /// The model.
    model: Option<String>,
    /// All input tokens, cached or not.
    input_tokens: i64,
    /// All output tokens.
    output_tokens: i64,
    /// What the user was charged.
    retail_price_usd: Money,
    /// The developer's share of it.
    channel_revenue_usd: Money,
    /// When it was recorded.
    created_at: ApiTime,
    /// The place in the list.
    #[serde(skip)]
    position: Position,
}

impl UsageItem {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            request_id: row.try_get("request_id")?,
            feature_key: row.try_get("feature_key")?,
            route_mode: row.try_get("route")?,
            provider: row.try_get("provider")?,
            model: row.try_get("model")?,
            input_tokens: row.try_get("input_tokens")?,
            output_tokens: row.try_get("output_tokens")?,
            retail_price_usd: row.money("charge")?,
            channel_revenue_usd: row.money("developer")?,
            created_at: ApiTime(row.time("recorded_at")?),
            position: Position(row.try_get("position")?),
        })
    }
}

/// Page and range of one answer.
pub(crate) struct Wanted {
    page: Page<PositionCursor>,
    range: Range,
}

impl FromGiven for Wanted {
    fn from_given(given: &mut Given) -> Result<Self, modelfaucet_schema::http::ApiError> {
        Ok(Self { page: Page::take(given, 100)?, range: given.range()? })
    }
}

async fn app_usage(
    snapshot: &Snapshot<'_>,
    public_app_id: &str,
    tenant: Option<DeveloperId>,
    wanted: &Wanted,
) -> Result<AppUsage, QueryError> {
    let tenant = tenant.map(|developer| developer.0);
    let app = snapshot.row(sql::USAGE_APP, &[&public_app_id, &tenant]).await?;
    let app = app.ok_or_else(|| missing("invalid_app", "The app could not be found."))?;
    let (shard, app_id): (i16, uuid::Uuid) = (app.try_get("shard")?, app.try_get("app_id")?);
    let [from, to] = wanted.range.bounds();
    let totals = if wanted.range.is_open() {
        snapshot.row(sql::USAGE_TOTALS, &[&shard, &app_id]).await?
    } else {
        snapshot.row(sql::USAGE_TOTALS_OF_RANGE, &[&shard, &app_id, &from, &to]).await?
    };
    let totals = totals.ok_or(QueryError::Foreign("totals"))?;
    let rows = snapshot
        .rows(sql::USAGE_PAGE, &[&shard, &app_id, &wanted.page.below(), &from, &to, &wanted.page.fetch()])
        .await?;
    let mut usage = each(&rows, UsageItem::read)?;
    let next_cursor =
        wanted.page.cut(&mut usage, |item| PositionCursor(item.position)).map(|cursor| cursor.to_string());
    Ok(AppUsage {
        public_app_id: app.try_get("public_app_id")?,
        app_name: app.try_get("name")?,
        total_calls: totals.try_get("calls")?,
        total_input_tokens: totals.try_get("input_tokens")?,
        total_output_tokens: totals.try_get("output_tokens")?,
        total_retail_price_usd: totals.total("charge")?,
        total_developer_revenue_usd: totals.total("developer")?,
        usage,
        next_cursor,
    })
}

/// Usage of an app: totals over the range of recording times, and its calls, newest first.
#[utoipa::path(get, path = "/v1/apps/{public_app_id}/usage", tag = "usage",
    params(("public_app_id" = String, Path), PageParams, RangeParams, AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:operations:read"])), responses(
    (status = 200, body = AppUsage), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn usage(
    State(state): State<QueryState>,
    developer: Developer<OperationsRead>,
    Path(id): Path<String>,
    query: Query<Wanted>,
) -> Result<Answer<AppUsage>, QueryError> {
    let id = public_app_id(&id)?;
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    snapshot.answer(app_usage(&snapshot, id, developer.tenant, &query.own).await)
}
