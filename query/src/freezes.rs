//! The kill switches that are on.

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, FromGiven, Given, Page, PageParams, PositionCursor, Query, Range, RangeParams};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;
use crate::tenant::Tenant;

const PROJECTIONS: &[&str] = &["freezes"];

/// A kill switch that is on.
#[derive(Serialize, ToSchema)]
pub(crate) struct Freeze {
    /// The log.
    shard: ShardId,
    /// What it stops: `app`, `developer`, `session`, `wallet`, `provider_credential`, `top_ups`, `usage`, `payouts`, `refunds` or
    /// `everything`.
    kind: String,
    /// Whom it stops, where the kind does not say it all.
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    /// Why.
    reason: String,
    /// Since when.
    since: ApiTime,
    /// Who switched it on.
    actor: String,
    /// The position from which on it stops.
    position: Position,
}

impl Freeze {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            shard: ShardId(row.try_get("shard")?),
            kind: row.try_get("kind")?,
            id: Some(row.try_get("id")?).filter(|id: &String| !id.is_empty()),
            reason: row.try_get("reason")?,
            since: ApiTime(row.time("since")?),
            actor: row.try_get("actor")?,
            position: Position(row.try_get("position")?),
        })
    }
}

/// All kill switches that are on.
#[derive(Serialize, ToSchema)]
pub(crate) struct Freezes {
    /// Newest first.
    items: Vec<Freeze>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Which of them: 200 unless a limit is given.
pub(crate) struct FreezePage {
    page: Page<PositionCursor>,
    range: Range,
}

impl FromGiven for FreezePage {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Ok(Self { page: Page::take(given, 200)?, range: given.range()? })
    }
}

/// The kill switches that are on.
#[utoipa::path(get, path = "/v1/admin/freezes", tag = "freezes", params(RangeParams, PageParams, AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Freezes), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn freezes(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<FreezePage>,
) -> Result<Answer<Freezes>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, Tenant::House, PROJECTIONS).await?;
    let (page, [from, to]) = (&query.own.page, query.own.range.bounds());
    let rows = snapshot.rows(sql::FREEZES, &[&page.below(), &page.fetch(), &from, &to]).await?;
    snapshot.answer(each(&rows, Freeze::read).map(|mut items| {
        let next_cursor = page.cut(&mut items, |freeze| PositionCursor(freeze.position));
        Freezes { items, next_cursor: next_cursor.map(|cursor| cursor.to_string()) }
    }))
}
