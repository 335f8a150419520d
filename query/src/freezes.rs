//! The kill switches that are on.

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, Query};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["freezes"];

/// A kill switch that is on.
#[derive(Serialize, ToSchema)]
pub(crate) struct Freeze {
    /// The log.
    shard: ShardId,
    /// What it stops: `app`, `developer`, `session`, `wallet`, `top_ups`, `usage`, `payouts` or `refunds`.
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
}

/// The kill switches that are on.
#[utoipa::path(get, path = "/v1/admin/freezes", tag = "freezes", params(AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Freezes), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn freezes(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<()>,
) -> Result<Answer<Freezes>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    let rows = snapshot.rows(sql::FREEZES, &[]).await?;
    snapshot.answer(each(&rows, Freeze::read).map(|items| Freezes { items }))
}
