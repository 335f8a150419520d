//! Provider keys of users and developers, masked.

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::CredentialId;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::answer::Answer;
use crate::auth::{Developer, ProviderKeysRead, Session};
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, FromGiven, Given, Page, PageParams, Query, TimeCursor, public_app_id};
use crate::snapshot::{Snapshot, missing};
use crate::sql;
use crate::state::QueryState;
use crate::tenant::Tenant;

/// Provider keys, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProviderKeys {
    /// The keys, disabled ones included.
    items: Vec<ProviderKey>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A provider key, without the key.
#[derive(Serialize, ToSchema)]
pub(crate) struct ProviderKey {
    /// Its id.
    id: CredentialId,
    /// The provider.
    provider: String,
    /// The address that its owner named for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    base_url: Option<String>,
    /// Enough of it to recognise it by.
    masked: String,
    /// `active` or `disabled`.
    status: String,
    /// Models that stand for `auto:…`, the preferred one first.
    #[schema(value_type = Vec<String>)]
    models_allowed: Box<RawValue>,
    /// The key with the lowest number is used.
    priority: i32,
    /// The most that calls with it may cost at the provider.
    #[serde(skip_serializing_if = "Option::is_none")]
    budget_limit_usd: Option<Money>,
    /// Are calls that it fails made with the platform's key?
    fallback_to_platform: bool,
    #[serde(skip)]
    added_at: ApiTime,
}

impl ProviderKey {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let budget: Option<i64> = row.try_get("budget_limit")?;
        Ok(Self {
            id: CredentialId(row.try_get("credential_id")?),
            provider: row.try_get("provider")?,
            base_url: row.try_get("base_url")?,
            masked: row.try_get("masked")?,
            status: row.try_get("status")?,
            models_allowed: row.json("models_allowed")?,
            priority: row.try_get("priority")?,
            budget_limit_usd: budget.map(Money::from_units),
            fallback_to_platform: row.try_get("fallback_to_platform")?,
            added_at: ApiTime(row.time("added_at")?),
        })
    }
}

/// A page of keys; all of them, if no limit is given.
pub(crate) struct KeyPage {
    limit: Option<Page<TimeCursor>>,
    cursor: Option<TimeCursor>,
}

impl FromGiven for KeyPage {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        let cursor = given.cursor()?;
        let limit = given.has("limit").then(|| Page::take(given, 200)).transpose()?;
        Ok(Self { limit, cursor })
    }
}

impl KeyPage {
    fn fetch(&self) -> Option<i64> {
        self.limit.as_ref().map(Page::fetch)
    }

    fn show(&self, rows: &[Row]) -> Result<ProviderKeys, QueryError> {
        let mut items = each(rows, ProviderKey::read)?;
        let cursor = |key: &ProviderKey| TimeCursor { time: key.added_at.0, id: key.id.0 };
        let next = self.limit.as_ref().and_then(|page| page.cut(&mut items, cursor));
        Ok(ProviderKeys { items, next_cursor: next.map(|cursor| cursor.to_string()) })
    }
}

/// The app whose developer's keys are asked for.
pub(crate) struct OfApp {
    app: String,
    page: KeyPage,
}

impl FromGiven for OfApp {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        let app: Option<String> = given.parse("public_app_id", "a public app id")?;
        let app = public_app_id(app.as_deref().unwrap_or_default())?.to_owned();
        Ok(Self { app, page: KeyPage::from_given(given)? })
    }
}

/// The session's user's provider keys, newest first; all of them, unless a limit is given.
#[utoipa::path(get, path = "/v1/user/provider-keys", tag = "provider-keys", params(PageParams, AtParams),
    security(("bearer" = ["session"])), responses(
    (status = 200, body = ProviderKeys), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn user_keys(
    State(state): State<QueryState>,
    session: Session,
    query: Query<KeyPage>,
) -> Result<Answer<ProviderKeys>, QueryError> {
    let projections = &["credentials"];
    let page = &query.own;
    let (time, id) = TimeCursor::parts(page.cursor);
    let mut client = state.client_at(&query.at, projections).await?;
    let snapshot = Snapshot::begin(&mut client, Tenant::User(session.user), projections).await?;
    let user = session.user.0;
    let rows = snapshot.rows(sql::USER_PROVIDER_KEYS, &[&session.shard.0, &user, &time, &id, &page.fetch()]).await?;
    snapshot.answer(page.show(&rows))
}

async fn developers_keys(
    snapshot: &Snapshot<'_>,
    tenant: Option<Uuid>,
    wanted: &OfApp,
) -> Result<ProviderKeys, QueryError> {
    let app = snapshot.row(sql::USAGE_APP, &[&wanted.app, &tenant]).await?;
    let app = app.ok_or_else(|| missing("invalid_app", "The public app id is invalid."))?;
    let developer: Uuid = app.try_get("developer_id")?;
    let (time, id) = TimeCursor::parts(wanted.page.cursor);
    let rows = snapshot.rows(sql::DEVELOPER_PROVIDER_KEYS, &[&developer, &time, &id, &wanted.page.fetch()]).await?;
    wanted.page.show(&rows)
}

/// The provider keys of an app's developer, newest first; all of them, unless a limit is given.
#[utoipa::path(get, path = "/v1/developer/provider-keys", tag = "provider-keys",
    params(("public_app_id" = String, Query, description = "An app of the developer."), PageParams, AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:provider_keys:read"])), responses(
    (status = 200, body = ProviderKeys), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn developer_keys(
    State(state): State<QueryState>,
    developer: Developer<ProviderKeysRead>,
    query: Query<OfApp>,
) -> Result<Answer<ProviderKeys>, QueryError> {
    let projections = &["credentials", "catalogue"];
    let tenant = developer.tenant.developer(&state);
    let mut client = state.client_at(&query.at, projections).await?;
    let snapshot = Snapshot::begin(&mut client, developer.tenant, projections).await?;
    snapshot.answer(developers_keys(&snapshot, tenant, &query.own).await)
}
