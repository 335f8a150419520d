//! Sessions of a developer's apps.

use std::str::FromStr;

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{SessionId, UserId, WalletId};
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::{Developer, OperationsRead};
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{
    AppParam, AtParams, FromGiven, Given, Invalid, Page, PageParams, PublicAppId, Query, Range, RangeParams, TimeCursor,
};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["sessions", "catalogue"];

/// A session; its token is shown once, when it is opened.
#[derive(Serialize, ToSchema)]
pub(crate) struct SessionItem {
    /// The session.
    id: SessionId,
    /// Its app.
    public_app_id: String,
    /// Its user.
    user_id: UserId,
    /// The user's wallet.
    wallet_id: WalletId,
    /// The feature that calls are priced by if they name none.
    #[serde(skip_serializing_if = "Option::is_none")]
    feature_key: Option<String>,
    /// `open`, `revoked` or `expired`.
    status: String,
    /// When it was opened.
    created_at: ApiTime,
    /// From this time on it is refused.
    expires_at: ApiTime,
    /// When it was ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    ended_at: Option<ApiTime>,
}

impl SessionItem {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: SessionId(row.try_get("session_id")?),
            public_app_id: row.try_get("public_app_id")?,
            user_id: UserId(row.try_get("user_id")?),
            wallet_id: WalletId(row.try_get("wallet_id")?),
            feature_key: row.try_get("feature_key")?,
            status: row.try_get("status")?,
            created_at: ApiTime(row.time("opened_at")?),
            expires_at: ApiTime(row.time("expires_at")?),
            ended_at: row.time_or_none("ended_at")?,
        })
    }
}

/// A page of sessions, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Sessions {
    /// The sessions.
    items: Vec<SessionItem>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

struct Status(&'static str);

impl FromStr for Status {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        ["open", "revoked", "expired"].into_iter().find(|known| *known == text).map(Self).ok_or(Invalid)
    }
}

/// Which sessions to show.
pub(crate) struct Wanted {
    page: Page<TimeCursor>,
    range: Range,
    app: Option<PublicAppId>,
    status: Option<Status>,
}

impl FromGiven for Wanted {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Ok(Self {
            page: Page::take(given, 50)?,
            range: given.range()?,
            app: given.app()?,
            status: given.parse("status", "open, revoked or expired")?,
        })
    }
}

/// Sessions of the developer's apps, newest first.
#[utoipa::path(get, path = "/v1/developer/sessions", tag = "sessions", params(AppParam,
    ("status" = Option<String>, Query, description = "`open`, `revoked` or `expired`; all unless given."),
    RangeParams, PageParams, AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:operations:read"])), responses(
    (status = 200, body = Sessions), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn sessions(
    State(state): State<QueryState>,
    developer: Developer<OperationsRead>,
    query: Query<Wanted>,
) -> Result<Answer<Sessions>, QueryError> {
    let Wanted { page, range, app, status } = &query.own;
    let (tenant, [from, to]) = (developer.tenant.developer(&state), range.bounds());
    let (app, status) = (app.as_ref().map(|app| app.0.as_str()), status.as_ref().map(|status| status.0));
    let (_, below) = TimeCursor::parts(page.cursor);
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, developer.tenant, PROJECTIONS).await?;
    let rows = snapshot.rows(sql::SESSIONS, &[&tenant, &app, &status, &from, &to, &below, &page.fetch()]).await?;
    snapshot.answer(each(&rows, SessionItem::read).map(|mut items| {
        let cursor = |item: &SessionItem| TimeCursor { time: item.created_at.0, id: item.id.0 };
        let next_cursor = page.cut(&mut items, cursor).map(|cursor| cursor.to_string());
        Sessions { items, next_cursor }
    }))
}
