//! Do the books add up, and is anything that Stripe told unfinished?

use std::time::Duration;

use modelfaucet_schema::log::from_system_time;
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Error, Transaction};

/// How long comparing all wallets may take here.
const LIMIT: &str = "5s";

/// What the books say.
#[derive(Debug, Default)]
pub(super) struct Books {
    /// The sum of all accounts in units; zero if all is well.
    pub(super) trial_balance: i64,
    /// Wallets on which balance, postings and fold do not agree; absent: too many to compare here.
    pub(super) mismatches: Option<i64>,
    pub(super) wallets: Option<i64>,
    /// What Stripe told, by what became of it.
    pub(super) waiting: i64,
    pub(super) refused: i64,
    pub(super) received: i64,
    /// How long the oldest of these is there.
    pub(super) oldest: Option<Duration>,
    /// When movements were fetched from Stripe for the last time.
    pub(super) swept: Option<Timestamp>,
}

/// Looks into the books.
pub(super) async fn look(transaction: &Transaction<'_>) -> Result<Books, Error> {
    let sql = "SELECT coalesce(sum(debit - credit), 0)::bigint FROM read.account";
    let trial_balance = transaction.query_one(sql, &[]).await?.get(0);
    let mut books = Books { trial_balance, ..Books::default() };
    transaction.batch_execute(&format!("SAVEPOINT compare; SET LOCAL statement_timeout = '{LIMIT}'")).await?;
    match transaction.query_one(include_str!("sql/reconciliation.sql"), &[]).await {
        Ok(row) => (books.wallets, books.mismatches) = (Some(row.get(0)), Some(row.get(1))),
        Err(error) if error.code() == Some(&SqlState::QUERY_CANCELED) => {}
        Err(error) => return Err(error),
    }
    transaction.batch_execute("ROLLBACK TO SAVEPOINT compare").await?;
    let unfinished = transaction.query_one(include_str!("sql/unfinished.sql"), &[]).await?;
    (books.received, books.waiting, books.refused) = (unfinished.get(0), unfinished.get(1), unfinished.get(2));
    let now = Timestamp::now();
    books.oldest = unfinished.get::<_, Option<_>>(3).map(|at| now.since(from_system_time(at)));
    books.swept = unfinished.get::<_, Option<_>>(4).map(from_system_time);
    Ok(books)
}
