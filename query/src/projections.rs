//! How far the read tables are: for operators, and for whoever asks whether this service is ready.

use std::time::Duration;

use axum::extract::State;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::{from_system_time, migrate};
use modelfaucet_schema::time::{ApiTime, Timestamp};
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, Query};
use crate::progress::AsOf;
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;
use crate::tenant::Tenant;

/// How long the readiness check may take.
const CHECK_LIMIT: Duration = Duration::from_secs(5);

/// A version of a projection, and how far it has read one log.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub(crate) struct Projection {
    /// Its name.
    name: String,
    /// Its version.
    version: i32,
    /// `building`, `standby`, `live` or `retired`.
    state: String,
    /// The log; absent if it has read none.
    #[serde(skip_serializing_if = "Option::is_none")]
    shard: Option<ShardId>,
    /// The last event it has.
    position: Position,
    /// The last event that the log has.
    head: Position,
    /// Events that it does not have.
    lag_events: i64,
    /// How long the oldest of them has been waiting.
    lag_seconds: f64,
    /// Why it stopped, if it did.
    #[serde(skip_serializing_if = "Option::is_none")]
    halted: Option<String>,
    /// Events that it could not apply and put aside.
    dead_letters: i64,
    /// When its checkpoint last moved.
    #[serde(skip_serializing_if = "Option::is_none")]
    updated_at: Option<ApiTime>,
}

impl Projection {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let position: i64 = row.try_get::<_, Option<i64>>("position")?.unwrap_or_default();
        let head: i64 = row.try_get::<_, Option<i64>>("head")?.unwrap_or_default();
        let waiting_since: Option<std::time::SystemTime> = row.try_get("waiting_since")?;
        let lag = waiting_since.map(|since| Timestamp::now().since(from_system_time(since))).unwrap_or_default();
        Ok(Self {
            name: row.try_get("name")?,
            version: row.try_get("version")?,
            state: row.try_get("state")?,
            shard: row.try_get::<_, Option<i16>>("shard")?.map(ShardId),
            position: Position(position),
            head: Position(head),
            lag_events: head.saturating_sub(position).max(0),
            lag_seconds: lag.as_secs_f64(),
            halted: row.try_get("halted")?,
            dead_letters: row.try_get::<_, Option<i64>>("dead_letters")?.unwrap_or_default(),
            updated_at: row.time_or_none("updated_at")?,
        })
    }

    fn is_live(&self) -> bool {
        self.state == "live"
    }
}

/// All versions of all projections.
#[derive(Serialize, ToSchema)]
pub(crate) struct Projections {
    /// By name, version and log.
    items: Vec<Projection>,
}

/// How far every version of every projection is.
#[utoipa::path(get, path = "/v1/admin/projections", tag = "operations", params(AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Projections), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn projections(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<()>,
) -> Result<Answer<Projections>, QueryError> {
    let mut client = state.client_at(&query.at, &[]).await?;
    let snapshot = Snapshot::begin(&mut client, Tenant::House, &[]).await?;
    let items = each(&snapshot.rows(sql::PROJECTIONS, &[]).await?, Projection::read)?;
    let live = items.iter().filter(|projection| projection.is_live());
    let as_of: AsOf = live.filter_map(|projection| Some((projection.shard?, projection.position))).collect();
    Ok(Answer { as_of, result: Ok(Projections { items }) })
}

/// One thing that must be right before this service can answer.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Check {
    /// Is it right?
    pub ok: bool,
    /// What is wrong, for people.
    pub detail: String,
}

impl Check {
    fn green(detail: &str) -> Self {
        Self { ok: true, detail: detail.to_owned() }
    }

    fn red(detail: impl Into<String>) -> Self {
        Self { ok: false, detail: detail.into() }
    }
}

/// How far the live projection that is furthest behind is behind.
#[derive(Clone, Copy, Debug, Default, Serialize, ToSchema)]
pub struct Lag {
    /// Events that it does not have.
    pub events: i64,
    /// How long the oldest of them has been waiting.
    pub seconds: f64,
}

/// What the readiness check looked at.
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Checks {
    /// The database answers.
    pub database: Check,
    /// Its tables are those of this program.
    pub migrations: Check,
    /// The live projections follow the log; none has halted.
    pub projections: Check,
    /// How far they are behind.
    pub lag: Lag,
    /// Where the gateway is, for people.
    pub gateway_base_url: String,
}

/// Can this service answer?
#[derive(Clone, Debug, Serialize, ToSchema)]
pub struct Readiness {
    /// Are all checks right?
    pub ok: bool,
    /// Who says so.
    pub service: String,
    /// One by one.
    pub checks: Checks,
}

impl IntoResponse for Readiness {
    /// 200, or 503 if a check is red.
    fn into_response(self) -> Response {
        let status = if self.ok { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
        (status, axum::Json(self)).into_response()
    }
}

/// Checks whether reads can be answered. Takes 5 s at most.
pub async fn readiness(state: &QueryState) -> Readiness {
    let unknown = || Check::red("not checked: the database does not answer");
    let mut checks = Checks {
        database: unknown(),
        migrations: unknown(),
        projections: unknown(),
        lag: Lag::default(),
        gateway_base_url: state.options().gateway_base_url.clone(),
    };
    checks.database = match tokio::time::timeout(CHECK_LIMIT, look(state, &mut checks)).await {
        Ok(Ok(())) => Check::green("answers"),
        Ok(Err(error)) => Check::red(error.into_api().code()),
        Err(_) => Check::red("does not answer"),
    };
    let ok = checks.database.ok && checks.migrations.ok && checks.projections.ok;
    Readiness { ok, service: "modelfaucet-query".to_owned(), checks }
}

async fn look(state: &QueryState, checks: &mut Checks) -> Result<(), QueryError> {
    let client = state.client().await?;
    let looking = async {
        let is_current = migrate::is_current(&client).await.unwrap_or(false);
        if !is_current {
            return Ok((false, Vec::new()));
        }
        let statement = client.prepare_cached(sql::PROJECTIONS).await?;
        Ok((true, client.query(&statement, &[]).await?))
    };
    let (is_current, rows) = client.pending().answer(CHECK_LIMIT, looking).await?;
    checks.migrations = if is_current {
        Check::green("current")
    } else {
        Check::red("the database is not migrated to this program's version")
    };
    if !is_current {
        checks.projections = Check::red("not checked: the database is not migrated");
        return Ok(());
    }
    let all = each(&rows, Projection::read)?;
    let live: Vec<_> = all.iter().filter(|projection| projection.is_live()).collect();
    checks.lag = live.iter().fold(Lag::default(), |worst, projection| Lag {
        events: worst.events.max(projection.lag_events),
        seconds: worst.seconds.max(projection.lag_seconds),
    });
    checks.projections = judge(&live, checks.lag, state.options().max_lag);
    Ok(())
}

fn judge(live: &[&Projection], lag: Lag, max_lag: Duration) -> Check {
    if live.is_empty() {
        return Check::red("no projection is live yet");
    }
    if let Some(projection) = live.iter().find(|projection| projection.halted.is_some()) {
        return Check::red(format!("{} has halted", projection.name));
    }
    if lag.seconds > max_lag.as_secs_f64() {
        return Check::red(format!("{} events behind for {:.1} s", lag.events, lag.seconds));
    }
    Check::green("follow the log")
}
