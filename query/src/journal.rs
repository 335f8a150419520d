//! The books: entries with their postings, and the trial balance.

use std::str::FromStr;

use axum::extract::State;
use modelfaucet_schema::account::{Account, AccountCode, NormalSide, Subject};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{AppId, Position, ShardId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::amount::Total;
use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, FromGiven, Given, PageOfRange, PageParams, PositionCursor, Query, RangeParams};
use crate::progress::AsOf;
use crate::snapshot::{Params, Snapshot};
use crate::sql;
use crate::state::QueryState;
use crate::tenant::Tenant;

const PROJECTIONS: &[&str] = &["journal"];

/// One line of an entry, with the account behind it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Posting {
    /// Code and subject.
    #[schema(example = "2110:openai")]
    pub(crate) account: String,
    /// The full name as the books print it.
    #[schema(example = "Liabilities:Accrued:Provider:Openai:S00")]
    pub(crate) name: String,
    /// Zero for a credit.
    pub(crate) debit_usd: Money,
    /// Zero for a debit.
    pub(crate) credit_usd: Money,
    /// The account after it: debits minus credits.
    pub(crate) balance_usd: Money,
}

impl Posting {
    fn new(shard: ShardId, account: &str, amount: i64, balance: i64) -> Result<Self, QueryError> {
        let foreign = || QueryError::Foreign("entry.amounts");
        let (debit, credit) = if amount >= 0 { (amount, 0) } else { (0, amount.checked_neg().ok_or_else(foreign)?) };
        Ok(Self {
            account: account.to_owned(),
            name: Account::from_str(account).map_err(|_| QueryError::Foreign("account.account"))?.full_name(shard),
            debit_usd: Money::from_units(debit),
            credit_usd: Money::from_units(credit),
            balance_usd: Money::from_units(balance),
        })
    }

    /// The postings of a row with `accounts`, `amounts` and `balances`.
    pub(crate) fn all(shard: ShardId, row: &Row) -> Result<Vec<Self>, QueryError> {
        let accounts: Vec<&str> = row.try_get("accounts")?;
        let (amounts, balances): (Vec<i64>, Vec<i64>) = (row.try_get("amounts")?, row.try_get("balances")?);
        if accounts.len() != amounts.len() || balances.len() != amounts.len() {
            return Err(QueryError::Foreign("entry.account_ids"));
        }
        let lines = accounts.into_iter().zip(amounts.into_iter().zip(balances));
        lines.map(|(account, (amount, balance))| Self::new(shard, account, amount, balance)).collect()
    }
}

/// An entry: postings that sum to zero.
#[derive(Serialize, ToSchema)]
pub(crate) struct Entry {
    /// The log.
    shard: ShardId,
    /// The event's position.
    position: Position,
    /// The event's name.
    #[schema(example = "HoldCaptured")]
    r#type: String,
    /// The wallet that it concerns, if it concerns one.
    #[serde(skip_serializing_if = "Option::is_none")]
    wallet_id: Option<WalletId>,
    /// The app, for usage.
    #[serde(skip_serializing_if = "Option::is_none")]
    app_id: Option<AppId>,
    /// When it was recorded.
    recorded_at: ApiTime,
    /// When it happened by the source's clock, if the source named a time.
    #[serde(skip_serializing_if = "Option::is_none")]
    occurred_at: Option<ApiTime>,
    /// The request that caused it.
    request_id: String,
    /// The postings.
    postings: Vec<Posting>,
}

impl Entry {
    fn read(shard: ShardId, row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            shard,
            position: Position(row.try_get("position")?),
            r#type: row.try_get("type")?,
            wallet_id: Some(row.try_get("wallet_id")?).filter(|id: &uuid::Uuid| !id.is_nil()).map(WalletId),
            app_id: row.try_get::<_, Option<_>>("app_id")?.map(AppId),
            recorded_at: ApiTime(row.time("recorded_at")?),
            occurred_at: row.time_or_none("occurred_at")?,
            request_id: row.try_get("request_id")?,
            postings: Posting::all(shard, row)?,
        })
    }
}

/// A page of entries, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Journal {
    /// The entries.
    items: Vec<Entry>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Which entries to show.
pub(crate) struct Wanted {
    listed: PageOfRange<PositionCursor>,
    shard: ShardId,
    account: Option<Account>,
}

impl FromGiven for Wanted {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Ok(Self {
            listed: PageOfRange::take(given, 50)?,
            shard: given.shard()?,
            account: given.parse("account", "an account of the chart, such as 4010 or 2110:openai")?,
        })
    }
}

async fn entries(snapshot: &Snapshot<'_>, wanted: &Wanted) -> Result<Journal, QueryError> {
    let PageOfRange { page, range } = &wanted.listed;
    let (shard, below, fetch, [from, to]) = (wanted.shard.0, page.below(), page.fetch(), range.bounds());
    let rows = match &wanted.account {
        None => snapshot.rows(sql::JOURNAL_PAGE, &[&shard, &below, &fetch, &from, &to]).await?,
        Some(account) => {
            let text = account.to_string();
            match account.subject() {
                Subject::Wallet(wallet) => {
                    let params: Params<'_> = &[&shard, &below, &fetch, &text, &wallet.0, &from, &to];
                    snapshot.rows(sql::JOURNAL_OF_WALLET_ACCOUNT, params).await?
                }
                _ => snapshot.rows(sql::JOURNAL_OF_ACCOUNT, &[&shard, &below, &fetch, &text, &from, &to]).await?,
            }
        }
    };
    let mut items = each(&rows, |row| Entry::read(wanted.shard, row))?;
    let next_cursor = page.cut(&mut items, |entry| PositionCursor(entry.position)).map(|cursor| cursor.to_string());
    Ok(Journal { items, next_cursor })
}

/// One code of the chart of accounts.
#[derive(Serialize, ToSchema)]
pub(crate) struct TrialBalanceRow {
    /// The four digits.
    #[schema(example = "2010")]
    code: String,
    /// The name.
    name: &'static str,
    /// The side on which it grows: `debit` or `credit`.
    #[schema(value_type = String)]
    normal_side: NormalSide,
    /// How many accounts have the code.
    accounts: i64,
    /// How many postings they have.
    postings: i64,
    /// All debits.
    debit_usd: Total,
    /// All credits.
    credit_usd: Total,
    /// Debits minus credits.
    balance_usd: Total,
}

impl TrialBalanceRow {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let code: String = row.try_get("code")?;
        let known = AccountCode::ALL.iter().find(|known| known.digits() == code);
        let known = known.ok_or(QueryError::Foreign("account.account"))?;
        let (debit, credit) = (row.total("debit")?, row.total("credit")?);
        Ok(Self {
            code,
            name: known.name(),
            normal_side: known.normal_side(),
            accounts: row.try_get("accounts")?,
            postings: row.try_get("postings")?,
            debit_usd: debit,
            credit_usd: credit,
            balance_usd: debit.minus(credit),
        })
    }
}

/// The sums over all codes.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct TrialBalanceTotals {
    /// All debits.
    debit_usd: Total,
    /// All credits.
    credit_usd: Total,
    /// Debits minus credits: zero, or the books are wrong.
    balance_usd: Total,
}

/// Debits and credits of the whole chart.
#[derive(Serialize, ToSchema)]
pub(crate) struct TrialBalance {
    /// The position per shard that it is as of.
    #[schema(value_type = std::collections::BTreeMap<String, i64>)]
    position: AsOf,
    /// Are all debits all credits?
    balanced: bool,
    /// The sums.
    totals: TrialBalanceTotals,
    /// By code.
    items: Vec<TrialBalanceRow>,
}

impl TrialBalance {
    fn new(position: AsOf, items: Vec<TrialBalanceRow>) -> Self {
        let totals = items.iter().fold(TrialBalanceTotals::default(), |sums, row| TrialBalanceTotals {
            debit_usd: sums.debit_usd.plus(row.debit_usd),
            credit_usd: sums.credit_usd.plus(row.credit_usd),
            balance_usd: sums.balance_usd.plus(row.balance_usd),
        });
        Self { position, balanced: totals.balance_usd.is_zero(), totals, items }
    }
}

/// Entries with their postings and running balances, newest first.
#[utoipa::path(get, path = "/v1/admin/journal", tag = "books", params(
    ("shard" = Option<ShardId>, Query, description = "The log, 0 unless given."),
    ("account" = Option<String>, Query, description = "Only entries that post to this account, such as 4010 or 2110:openai."),
    RangeParams, PageParams, AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Journal), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn journal(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Wanted>,
) -> Result<Answer<Journal>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, Tenant::House, PROJECTIONS).await?;
    snapshot.answer(entries(&snapshot, &query.own).await)
}

/// Debits and credits per code of the chart; all balances together are zero.
#[utoipa::path(get, path = "/v1/admin/trial-balance", tag = "books", params(AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = TrialBalance), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn trial_balance(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<()>,
) -> Result<Answer<TrialBalance>, QueryError> {
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, Tenant::House, PROJECTIONS).await?;
    let rows = snapshot.rows(sql::TRIAL_BALANCE, &[]).await?;
    snapshot.answer(each(&rows, TrialBalanceRow::read).map(|items| TrialBalance::new(snapshot.as_of(), items)))
}
