//! Payouts to developers and where they stand.

use std::str::FromStr;

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{DeveloperId, PayoutId, Position};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, FromGiven, Given, Invalid, Page, PageParams, Query, TimeCursor};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["payouts", "catalogue"];
const STATUSES: [&str; 6] = ["pending", "processing", "paid", "failed", "cancelled", "returned"];

/// A payout to a developer.
#[derive(Serialize, ToSchema)]
pub(crate) struct Payout {
    /// The payout.
    id: PayoutId,
    /// The developer.
    developer_id: DeveloperId,
    /// The developer's name.
    #[serde(skip_serializing_if = "Option::is_none")]
    developer_name: Option<String>,
    /// Whole cents.
    amount_usd: Money,
    /// `pending`, `processing`, `paid`, `failed`, `cancelled` or `returned`.
    status: String,
    /// Who pays it out.
    provider: String,
    /// `threshold` or `hand`.
    trigger: String,
    /// The provider's or bank's id of the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_payout_id: Option<String>,
    /// What the payment cost.
    fee_usd: Money,
    /// Why it is over.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Who requested it.
    requested_by: String,
    /// Who approved it.
    #[serde(skip_serializing_if = "Option::is_none")]
    approved_by: Option<String>,
    /// When it was requested.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
    /// The last event that changed it.
    position: Position,
}

impl Payout {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: PayoutId(row.try_get("payout_id")?),
            developer_id: DeveloperId(row.try_get("developer_id")?),
            developer_name: row.try_get("developer_name")?,
            amount_usd: row.money("amount")?,
            status: row.try_get("status")?,
            provider: row.try_get("provider")?,
            trigger: row.try_get("trigger")?,
            provider_payout_id: row.try_get("reference")?,
            fee_usd: row.money("fee")?,
            reason: row.try_get("reason")?,
            requested_by: row.try_get("requested_by")?,
            approved_by: row.try_get("approved_by")?,
            created_at: ApiTime(row.time("requested_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
            position: Position(row.try_get("position")?),
        })
    }
}

/// A page of payouts, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Payouts {
    /// The payouts.
    items: Vec<Payout>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

struct Status(&'static str);

impl FromStr for Status {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        STATUSES.into_iter().find(|known| *known == text).map(Self).ok_or(Invalid)
    }
}

/// Which payouts to show.
pub(crate) struct Wanted {
    page: Page<TimeCursor>,
    status: Option<Status>,
}

impl FromGiven for Wanted {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        let status = given.parse("status", "pending, processing, paid, failed, cancelled or returned")?;
        Ok(Self { page: Page::take(given, 50)?, status })
    }
}

async fn page_of(snapshot: &Snapshot<'_>, wanted: &Wanted) -> Result<Payouts, QueryError> {
    let status = wanted.status.as_ref().map(|status| status.0);
    let (time, id) = TimeCursor::parts(wanted.page.cursor);
    let rows = snapshot.rows(sql::PAYOUTS, &[&status, &time, &id, &wanted.page.fetch()]).await?;
    let mut items = each(&rows, Payout::read)?;
    let cursor = |payout: &Payout| TimeCursor { time: payout.created_at.0, id: payout.id.0 };
    let next_cursor = wanted.page.cut(&mut items, cursor).map(|cursor| cursor.to_string());
    Ok(Payouts { items, next_cursor })
}

/// Payouts, newest first.
#[utoipa::path(get, path = "/v1/admin/payouts", tag = "payouts", params(
    ("status" = Option<String>, Query, description = "`pending`, `processing`, `paid`, `failed`, `cancelled` or `returned`; all unless given."),
    PageParams, AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Payouts), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn payouts(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Wanted>,
) -> Result<Answer<Payouts>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    snapshot.answer(page_of(&snapshot, &query.own).await)
}
