//! The overview that dashboards show: wallets, top-ups, payouts and acts of a developer, the newest of each.

use axum::extract::State;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::ids::{DeveloperId, PayoutId, Position, ShardId, TopUpId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use utoipa::ToSchema;
use uuid::Uuid;

use crate::answer::Answer;
use crate::auth::{Developer, OperationsRead};
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, Query};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;

const PROJECTIONS: &[&str] = &["wallets", "journal", "top_ups", "payments", "payouts", "audit_log", "catalogue"];
/// How many wallets are shown.
const WALLETS: i64 = 100;
/// How many of everything else.
const OTHERS: i64 = 50;

/// A wallet of a user, or what a developer has earned and was not paid yet.
#[derive(Serialize, ToSchema)]
pub(crate) struct OperationsWallet {
    /// The wallet; for a developer its own id.
    id: Uuid,
    /// `developer` or `end_user`.
    owner_scope: String,
    /// The developer or user.
    owner_id: Uuid,
    /// The developer's name; users have none here.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_name: Option<String>,
    /// The balance.
    balance_usd: Money,
    /// When it last changed.
    updated_at: ApiTime,
}

impl OperationsWallet {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: row.try_get("id")?,
            owner_scope: row.try_get("owner_scope")?,
            owner_id: row.try_get("owner_id")?,
            owner_name: row.try_get("owner_name")?,
            balance_usd: row.money("balance")?,
            updated_at: ApiTime(row.time("updated_at")?),
        })
    }
}

/// A top-up of a user's wallet.
#[derive(Serialize, ToSchema)]
pub(crate) struct OperationsTopUp {
    /// The top-up.
    id: TopUpId,
    /// The wallet.
    wallet_id: WalletId,
    /// Always `end_user`.
    #[schema(example = "end_user")]
    owner_scope: &'static str,
    /// The user.
    owner_id: Uuid,
    /// The payment provider.
    provider: String,
    /// The payment provider's id of the checkout; empty where it has none.
    provider_checkout_session_id: String,
    /// Requested, or credited if it was.
    amount_usd: Money,
    /// `pending`, `credited` or `failed`.
    status: String,
    /// Where the user pays; absent until the payment provider has a page for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    checkout_url: Option<String>,
    /// When it was requested.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

impl OperationsTopUp {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: TopUpId(row.try_get("top_up_id")?),
            wallet_id: WalletId(row.try_get("wallet_id")?),
            owner_scope: "end_user",
            owner_id: row.try_get("user_id")?,
            provider: row.try_get("provider")?,
            provider_checkout_session_id: row.try_get::<_, Option<String>>("reference")?.unwrap_or_default(),
            amount_usd: row.money("amount")?,
            status: row.try_get("status")?,
            checkout_url: row.try_get("url")?,
            created_at: ApiTime(row.time("requested_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
        })
    }
}

/// A payout to a developer.
#[derive(Serialize, ToSchema)]
pub(crate) struct OperationsPayout {
    /// The payout.
    id: PayoutId,
    /// The developer.
    developer_id: DeveloperId,
    /// The developer's name.
    developer_name: String,
    /// Whole cents.
    amount_usd: Money,
    /// `pending`, `processing`, `paid`, `failed`, `cancelled` or `returned`.
    status: String,
    /// Who pays it out.
    provider: String,
    /// The provider's or bank's id of the payment; absent until it is paid.
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_payout_id: Option<String>,
    /// When it was requested.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

impl OperationsPayout {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: PayoutId(row.try_get("payout_id")?),
            developer_id: DeveloperId(row.try_get("developer_id")?),
            developer_name: row.try_get("developer_name")?,
            amount_usd: row.money("amount")?,
            status: row.try_get("status")?,
            provider: row.try_get("provider")?,
            provider_payout_id: row.try_get("reference")?,
            created_at: ApiTime(row.time("requested_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
        })
    }
}

/// An act.
#[derive(Serialize, ToSchema)]
pub(crate) struct OperationsAct {
    /// Log and position.
    #[schema(example = "s00-812")]
    id: String,
    /// `admin`, `developer`, `end_user`, `system`, or who else acts.
    actor_scope: String,
    /// The developer, session or token.
    #[serde(skip_serializing_if = "Option::is_none")]
    actor_id: Option<String>,
    /// The event's name.
    #[schema(example = "AppChanged")]
    action: String,
    /// What kind of thing it was done to.
    #[schema(example = "app")]
    resource_type: String,
    /// The thing.
    #[serde(skip_serializing_if = "Option::is_none")]
    resource_id: Option<String>,
    /// The event without hashes of tokens and users.
    #[schema(value_type = Object)]
    metadata: Box<RawValue>,
    /// When.
    created_at: ApiTime,
}

/// Scope and id in the terms of ModelFaucet 1.2. Its own acts a developer sees under its own id.
fn actor_of(actor: &str, developer: Option<Uuid>) -> (String, Option<String>) {
    let (kind, id) = actor.split_once(':').map_or((actor, None), |(kind, id)| (kind, Some(id.to_owned())));
    let scope = match kind {
        "token" => return ("developer".to_owned(), developer.map(|id| id.to_string()).or(id)),
        "admin" | "operator" | "auditor" => "admin",
        "session" | "public" => "end_user",
        "clock" => "system",
        other => other,
    };
    (scope.to_owned(), id)
}

impl OperationsAct {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let (shard, position) = (ShardId(row.try_get("shard")?), Position(row.try_get("position")?));
        let (actor_scope, actor_id) = actor_of(row.try_get("actor")?, row.try_get("developer_id")?);
        let stream: &str = row.try_get("stream")?;
        let (resource_type, resource_id) = stream.split_once(':').unwrap_or((stream, ""));
        Ok(Self {
            id: format!("{shard}-{position}"),
            actor_scope,
            actor_id,
            action: row.try_get("action")?,
            resource_type: resource_type.to_owned(),
            resource_id: Some(resource_id.to_owned()).filter(|id| !id.is_empty()),
            metadata: row.json("detail")?,
            created_at: ApiTime(row.time("recorded_at")?),
        })
    }
}

/// The newest of everything.
#[derive(Serialize, ToSchema)]
pub(crate) struct Operations {
    /// At most 100: the developer's own first, then those of users.
    wallets: Vec<OperationsWallet>,
    /// At most 50.
    topups: Vec<OperationsTopUp>,
    /// At most 50.
    payouts: Vec<OperationsPayout>,
    /// At most 50.
    audit_logs: Vec<OperationsAct>,
}

/// The developer's wallets, top-ups, payouts and acts, the newest of each. Whole lists: `/v1/wallets`, `/v1/developer/sessions`.
#[utoipa::path(get, path = "/v1/developer/operations", tag = "operations", params(AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:operations:read"])), responses(
    (status = 200, body = Operations), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn operations(
    State(state): State<QueryState>,
    developer: Developer<OperationsRead>,
    query: Query<()>,
) -> Result<Answer<Operations>, QueryError> {
    let tenant = developer.tenant.developer(&state);
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, developer.tenant, PROJECTIONS).await?;
    let wallets = snapshot.rows(sql::OPERATIONS_WALLETS, &[&tenant, &WALLETS]).await?;
    let top_ups = snapshot.rows(sql::OPERATIONS_TOP_UPS, &[&tenant, &OTHERS]).await?;
    let payouts = snapshot.rows(sql::OPERATIONS_PAYOUTS, &[&tenant, &OTHERS]).await?;
    let acts = snapshot.rows(sql::OPERATIONS_ACTS, &[&tenant, &OTHERS]).await?;
    let read = || {
        Ok(Operations {
            wallets: each(&wallets, OperationsWallet::read)?,
            topups: each(&top_ups, OperationsTopUp::read)?,
            payouts: each(&payouts, OperationsPayout::read)?,
            audit_logs: each(&acts, OperationsAct::read)?,
        })
    };
    snapshot.answer(read())
}
