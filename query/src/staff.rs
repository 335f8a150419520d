//! Tokens of the people who run the ledger.

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::ids::TokenId;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, Page, PageParams, Query, TimeCursor};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["staff"];

/// A staff token; its text is shown once, when it is issued.
#[derive(Serialize, ToSchema)]
pub(crate) struct StaffToken {
    /// The token's id; acts name it.
    id: TokenId,
    /// Whose it is.
    name: String,
    /// `auditor`, `operator` or `admin`.
    role: String,
    /// The first characters, to recognise it by.
    token_prefix: String,
    /// `active` or `revoked`.
    status: String,
    /// Who issued it.
    issued_by: String,
    /// When it ends, if ever.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<ApiTime>,
    /// When it was revoked.
    #[serde(skip_serializing_if = "Option::is_none")]
    revoked_at: Option<ApiTime>,
    /// When it was issued.
    created_at: ApiTime,
}

impl StaffToken {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: TokenId(row.try_get("token_id")?),
            name: row.try_get("name")?,
            role: row.try_get("role")?,
            token_prefix: row.try_get("token_prefix")?,
            status: row.try_get("status")?,
            issued_by: row.try_get("issued_by")?,
            expires_at: row.time_or_none("expires_at")?,
            revoked_at: row.time_or_none("revoked_at")?,
            created_at: ApiTime(row.time("issued_at")?),
        })
    }
}

/// A page of staff tokens.
#[derive(Serialize, ToSchema)]
pub(crate) struct StaffTokens {
    /// The tokens, newest first.
    items: Vec<StaffToken>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

async fn page_of(snapshot: &Snapshot<'_>, page: &Page<TimeCursor>) -> Result<StaffTokens, QueryError> {
    let (time, id) = TimeCursor::parts(page.cursor);
    let rows = snapshot.rows(sql::STAFF_TOKENS, &[&time, &id, &page.fetch()]).await?;
    let mut items = each(&rows, StaffToken::read)?;
    let cursor = |token: &StaffToken| TimeCursor { time: token.created_at.0, id: token.id.0 };
    let next_cursor = page.cut(&mut items, cursor).map(|cursor| cursor.to_string());
    Ok(StaffTokens { items, next_cursor })
}

/// The tokens of the people who run the ledger, newest first.
#[utoipa::path(get, path = "/v1/admin/tokens", tag = "staff", params(PageParams, AtParams),
    security(("bearer" = ["auditor"])), responses(
    (status = 200, body = StaffTokens), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn staff_tokens(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Page<TimeCursor>>,
) -> Result<Answer<StaffTokens>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, PROJECTIONS).await?;
    snapshot.answer(page_of(&snapshot, &query.own).await)
}
