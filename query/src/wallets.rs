//! Wallets and their statements.

use axum::extract::{Path, State};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::ids::{DeveloperId, Position, ShardId, UserId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::{Developer, OperationsRead, Session};
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, Page, PageParams, PositionCursor, Query, path_id};
use crate::progress::behind;
use crate::snapshot::{Snapshot, missing};
use crate::sql;
use crate::state::QueryState;

/// Projections behind a wallet and who may see it.
const WALLET: &[&str] = &["wallets", "catalogue"];
/// Projections behind a statement and who may see it.
const STATEMENT: &[&str] = &["journal", "wallets", "catalogue"];

/// A wallet as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(crate) struct UserWallet {
    /// The wallet.
    id: WalletId,
    /// Always `end_user`.
    #[schema(example = "end_user")]
    owner_scope: &'static str,
    /// The user.
    owner_id: UserId,
    /// Posted: paid and promotional credit, open holds included.
    balance_usd: Money,
    /// What can still be spent: posted without the open holds.
    available_usd: Money,
    /// The sum of the open holds.
    held_usd: Money,
}

impl UserWallet {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let (posted, held) = (row.money("posted")?, row.money("held")?);
        Ok(Self {
            id: WalletId(row.try_get("wallet_id")?),
            owner_scope: "end_user",
            owner_id: UserId(row.try_get("user_id")?),
            balance_usd: posted,
            available_usd: posted.checked_sub(held).ok_or(QueryError::Foreign("wallet.held"))?,
            held_usd: held,
        })
    }
}

/// A wallet as operators and the app's developer see it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Wallet {
    #[serde(flatten)]
    wallet: UserWallet,
    /// The app's public id.
    public_app_id: String,
    /// The app's name.
    app_name: String,
    /// The balance that what is available never falls below.
    floor_usd: Money,
    /// The promotional part of the balance; spent first.
    promo_usd: Money,
    /// The log that the wallet lives in.
    shard: ShardId,
    /// The last event that changed it.
    position: Position,
    /// When it was opened.
    opened_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

impl Wallet {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            wallet: UserWallet::read(row)?,
            public_app_id: row.try_get("public_app_id")?,
            app_name: row.try_get("app_name")?,
            floor_usd: row.money("floor")?,
            promo_usd: row.money("promo")?,
            shard: ShardId(row.try_get("shard")?),
            position: Position(row.try_get("position")?),
            opened_at: ApiTime(row.time("opened_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
        })
    }
}

/// A page of a statement, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Statement {
    /// The wallet.
    wallet_id: WalletId,
    /// The lines.
    items: Vec<StatementLine>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// One change of a wallet's posted balance.
#[derive(Serialize, ToSchema)]
pub(crate) struct StatementLine {
    /// The event's position.
    position: Position,
    /// When it was recorded.
    recorded_at: ApiTime,
    /// When it happened by the source's clock, if the source named a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<ApiTime>,
    /// The event's name.
    #[schema(example = "HoldCaptured")]
    r#type: String,
    /// What the customer gained; negative for a charge.
    amount_usd: Money,
    /// The balance after it.
    balance_usd: Money,
    /// The request that caused it.
    request_id: String,
}

impl StatementLine {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            position: Position(row.try_get("position")?),
            recorded_at: ApiTime(row.time("recorded_at")?),
            occurred_at: row.time_or_none("occurred_at")?,
            r#type: row.try_get("type")?,
            amount_usd: row.money("wallet_amount")?,
            balance_usd: row.money("wallet_posted")?,
            request_id: row.try_get("request_id")?,
        })
    }
}

fn not_found() -> QueryError {
    missing("wallet_not_found", "The wallet could not be found.")
}

async fn wallet_of(snapshot: &Snapshot<'_>, id: WalletId, tenant: Option<DeveloperId>) -> Result<Wallet, QueryError> {
    let tenant = tenant.map(|developer| developer.0);
    let row = snapshot.row(sql::WALLET, &[&id.0, &tenant]).await?.ok_or_else(not_found)?;
    Wallet::read(&row)
}

async fn lines_of(
    snapshot: &Snapshot<'_>,
    shard: ShardId,
    wallet_id: WalletId,
    page: &Page<PositionCursor>,
) -> Result<Statement, QueryError> {
    let rows = snapshot.rows(sql::STATEMENT, &[&shard.0, &wallet_id.0, &page.below(), &page.fetch()]).await?;
    let mut items = each(&rows, StatementLine::read)?;
    let next_cursor = page.cut(&mut items, |line| PositionCursor(line.position)).map(|cursor| cursor.to_string());
    Ok(Statement { wallet_id, items, next_cursor })
}

/// The wallet of the session's user.
#[utoipa::path(get, path = "/v1/user/wallet", tag = "wallets", params(AtParams), security(("bearer" = ["session"])), responses(
    (status = 200, body = UserWallet), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn user_wallet(
    State(state): State<QueryState>,
    session: Session,
    query: Query<()>,
) -> Result<Answer<UserWallet>, QueryError> {
    let mut client = state.client_at(&query.at, &["wallets"]).await?;
    let snapshot = Snapshot::begin(&mut client, &["wallets"]).await?;
    let wallet = match snapshot.row(sql::USER_WALLET, &[&session.shard.0, &session.wallet.0]).await? {
        Some(row) => UserWallet::read(&row),
        // The session is in the read tables, so its wallet will be.
        None => Err(behind(&snapshot.as_of(), None).into()),
    };
    snapshot.answer(wallet)
}

/// What changed the balance of the session's user, newest first.
#[utoipa::path(get, path = "/v1/user/wallet/statement", tag = "wallets", params(PageParams, AtParams),
    security(("bearer" = ["session"])), responses(
    (status = 200, body = Statement), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn user_statement(
    State(state): State<QueryState>,
    session: Session,
    query: Query<Page<PositionCursor>>,
) -> Result<Answer<Statement>, QueryError> {
    let mut client = state.client_at(&query.at, &["journal"]).await?;
    let snapshot = Snapshot::begin(&mut client, &["journal"]).await?;
    snapshot.answer(lines_of(&snapshot, session.shard, session.wallet, &query.own).await)
}

/// A wallet.
#[utoipa::path(get, path = "/v1/wallets/{wallet_id}", tag = "wallets", params(("wallet_id" = WalletId, Path), AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:operations:read"])), responses(
    (status = 200, body = Wallet), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn wallet(
    State(state): State<QueryState>,
    developer: Developer<OperationsRead>,
    Path(id): Path<String>,
    query: Query<()>,
) -> Result<Answer<Wallet>, QueryError> {
    let id = WalletId(path_id(&id, "wallet id")?);
    let mut client = state.client_at(&query.at, WALLET).await?;
    let snapshot = Snapshot::begin(&mut client, WALLET).await?;
    snapshot.answer(wallet_of(&snapshot, id, developer.tenant).await)
}

/// What changed a wallet's balance, newest first. Pages never skip or repeat a line, whatever is recorded meanwhile.
#[utoipa::path(get, path = "/v1/wallets/{wallet_id}/statement", tag = "wallets",
    params(("wallet_id" = WalletId, Path), PageParams, AtParams),
    security(("bearer" = ["auditor"]), ("bearer" = ["developer:operations:read"])), responses(
    (status = 200, body = Statement), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn statement(
    State(state): State<QueryState>,
    developer: Developer<OperationsRead>,
    Path(id): Path<String>,
    query: Query<Page<PositionCursor>>,
) -> Result<Answer<Statement>, QueryError> {
    let id = WalletId(path_id(&id, "wallet id")?);
    let mut client = state.client_at(&query.at, STATEMENT).await?;
    let snapshot = Snapshot::begin(&mut client, STATEMENT).await?;
    let statement = match wallet_of(&snapshot, id, developer.tenant).await {
        Ok(wallet) => lines_of(&snapshot, wallet.shard, id, &query.own).await,
        Err(error) => Err(error),
    };
    snapshot.answer(statement)
}
