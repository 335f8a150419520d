//! Who did what.

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, FromGiven, Given, Page, PageParams, PositionCursor, Query};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["audit_log"];

/// An act of administration, of a developer, or of money from outside.
#[derive(Serialize, ToSchema)]
pub(crate) struct Act {
    /// The log.
    shard: ShardId,
    /// The event's position.
    position: Position,
    /// When it was recorded.
    recorded_at: ApiTime,
    /// Who did it.
    #[schema(example = "admin")]
    actor: String,
    /// The event's name.
    #[schema(example = "WalletAdjusted")]
    action: String,
    /// The thing that it was done to.
    #[schema(example = "wallet:0199c6f2-0000-7000-8000-000000000001")]
    stream: String,
    /// The request that caused it.
    request_id: String,
    /// The event without hashes of tokens and users.
    #[schema(value_type = Object)]
    detail: Box<RawValue>,
}

impl Act {
    fn read(shard: ShardId, row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            shard,
            position: Position(row.try_get("position")?),
            recorded_at: ApiTime(row.time("recorded_at")?),
            actor: row.try_get("actor")?,
            action: row.try_get("action")?,
            stream: row.try_get("stream")?,
            request_id: row.try_get("request_id")?,
            detail: row.json("detail")?,
        })
    }
}

/// A page of acts, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditLog {
    /// The acts.
    items: Vec<Act>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Which acts to show.
pub(crate) struct Wanted {
    page: Page<PositionCursor>,
    shard: ShardId,
}

impl FromGiven for Wanted {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Ok(Self { page: Page::take(given, 50)?, shard: given.shard()? })
    }
}

async fn page_of(snapshot: &Snapshot<'_>, wanted: &Wanted) -> Result<AuditLog, QueryError> {
    let rows = snapshot.rows(sql::AUDIT_LOG, &[&wanted.shard.0, &wanted.page.below(), &wanted.page.fetch()]).await?;
    let mut items = each(&rows, |row| Act::read(wanted.shard, row))?;
    let next_cursor = wanted.page.cut(&mut items, |act| PositionCursor(act.position)).map(|cursor| cursor.to_string());
    Ok(AuditLog { items, next_cursor })
}

/// Every act of administration, of developers and of money from outside, newest first. Calls are not acts; see usage.
#[utoipa::path(get, path = "/v1/admin/audit-log", tag = "operations", params(
    ("shard" = Option<ShardId>, Query, description = "The log, 0 unless given."), PageParams, AtParams),
    security(("bearer" = ["auditor"])), responses(
    (status = 200, body = AuditLog), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn audit_log(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Wanted>,
) -> Result<Answer<AuditLog>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    snapshot.answer(page_of(&snapshot, &query.own).await)
}
