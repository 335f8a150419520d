//! Top-ups and what became of them.

use std::str::FromStr;

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{Position, TopUpId, WalletId};
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

const PROJECTIONS: &[&str] = &["top_ups"];

/// A payment into a wallet.
#[derive(Serialize, ToSchema)]
pub(crate) struct TopUp {
    /// The top-up.
    id: TopUpId,
    /// The wallet.
    wallet_id: WalletId,
    /// The payment provider.
    provider: String,
    /// The payment provider's id of the checkout.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_checkout_session_id: Option<String>,
    /// The payment provider's id of the payment.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_payment_id: Option<String>,
    /// Requested, or credited if it was.
    amount_usd: Money,
    /// `pending`, `credited` or `failed`.
    status: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// When it was requested.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
    /// The last event that changed it.
    position: Position,
}

impl TopUp {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: TopUpId(row.try_get("top_up_id")?),
            wallet_id: WalletId(row.try_get("wallet_id")?),
            provider: row.try_get("provider")?,
            provider_checkout_session_id: row.try_get("reference")?,
            provider_payment_id: row.try_get("payment")?,
            amount_usd: row.money("amount")?,
            status: row.try_get("status")?,
            reason: row.try_get("reason")?,
            created_at: ApiTime(row.time("requested_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
            position: Position(row.try_get("position")?),
        })
    }
}

/// A page of top-ups, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct TopUps {
    /// The top-ups.
    items: Vec<TopUp>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

struct Status(&'static str);

impl FromStr for Status {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        ["pending", "credited", "failed"].into_iter().find(|known| *known == text).map(Self).ok_or(Invalid)
    }
}

/// Which top-ups to show.
pub(crate) struct Wanted {
    page: Page<TimeCursor>,
    status: Option<Status>,
}

impl FromGiven for Wanted {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Ok(Self { page: Page::take(given, 50)?, status: given.parse("status", "pending, credited or failed")? })
    }
}

async fn page_of(snapshot: &Snapshot<'_>, wanted: &Wanted) -> Result<TopUps, QueryError> {
    let status = wanted.status.as_ref().map(|status| status.0);
    let (time, id) = TimeCursor::parts(wanted.page.cursor);
    let rows = snapshot.rows(sql::TOP_UPS, &[&status, &time, &id, &wanted.page.fetch()]).await?;
    let mut items = each(&rows, TopUp::read)?;
    let cursor = |top_up: &TopUp| TimeCursor { time: top_up.created_at.0, id: top_up.id.0 };
    let next_cursor = wanted.page.cut(&mut items, cursor).map(|cursor| cursor.to_string());
    Ok(TopUps { items, next_cursor })
}

/// Top-ups, newest first.
#[utoipa::path(get, path = "/v1/admin/top-ups", tag = "top-ups", params(
    ("status" = Option<String>, Query, description = "`pending`, `credited` or `failed`; all unless given."),
    PageParams, AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = TopUps), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn top_ups(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Wanted>,
) -> Result<Answer<TopUps>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    snapshot.answer(page_of(&snapshot, &query.own).await)
}
