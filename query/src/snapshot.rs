//! One consistent look at the read tables: a read-only transaction that sees one moment, and the position of that moment.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use deadpool_postgres::Transaction;
use futures_util::future::try_join;
use modelfaucet_schema::http::ApiError;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Error, IsolationLevel, Portal, Row};

use crate::answer::Answer;
use crate::error::QueryError;
use crate::pooled::{ANSWER, Pending, Pooled};
use crate::progress::{AsOf, Checkpoint, Marks};
use crate::sql;
use crate::tenant::Tenant;

/// Parameters of a statement.
pub(crate) type Params<'a> = &'a [&'a (dyn ToSql + Sync)];

/// How long the server may take for each statement of one that takes its time; it gives up itself earlier.
const LONG: Duration = Duration::from_secs(610);

/// A read-only transaction. Ends when dropped.
pub(crate) struct Snapshot<'a> {
    transaction: Transaction<'a>,
    marks: Marks,
    pending: Pending,
    takes_time: AtomicBool,
}

impl<'a> Snapshot<'a> {
    /// Begins for a tenant, and reads how far `projections` are in this very moment.
    pub(crate) async fn begin(
        client: &'a mut Pooled,
        tenant: Tenant,
        projections: &[&str],
    ) -> Result<Self, QueryError> {
        let pending = client.pending();
        let tenant = tenant.setting();
        let beginning = async {
            let transaction = client
                .build_transaction()
                .isolation_level(IsolationLevel::RepeatableRead)
                .read_only(true)
                .start()
                .await?;
            let set = transaction.prepare_cached(sql::TENANT).await?;
            let statement = transaction.prepare_cached(sql::CHECKPOINTS).await?;
            // Both at once: what follows sees the tenant's rows only.
            let (_, rows) = try_join(transaction.query(&set, &[&tenant]), transaction.query(&statement, &[])).await?;
            Ok((transaction, rows))
        };
        let (transaction, rows) = pending.answer(ANSWER, beginning).await?;
        let marks = Marks::of(projections, &Checkpoint::read(&rows)?);
        Ok(Self { transaction, marks, pending, takes_time: AtomicBool::new(false) })
    }

    /// Waits for an answer as long as a statement of this snapshot may take.
    async fn ask<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, QueryError> {
        let limit = if self.takes_time.load(Ordering::Relaxed) { LONG } else { ANSWER };
        Ok(self.pending.answer(limit, asked).await?)
    }

    /// The position that all of the projections have reached.
    pub(crate) fn as_of(&self) -> AsOf {
        self.marks.as_of()
    }

    /// Are all of the projections at one position, so that their figures can be compared?
    pub(crate) fn is_level(&self) -> bool {
        self.marks.is_level()
    }

    /// Lets each statement of this snapshot take minutes, as comparing millions of wallets may.
    pub(crate) async fn take_time(&self) -> Result<(), QueryError> {
        self.ask(self.transaction.batch_execute("SET LOCAL statement_timeout = '10min'")).await?;
        self.takes_time.store(true, Ordering::Relaxed);
        Ok(())
    }

    /// All rows of a statement whose answer is bounded.
    pub(crate) async fn rows(&self, sql: &str, params: Params<'_>) -> Result<Vec<Row>, QueryError> {
        self.ask(async {
            let statement = self.transaction.prepare_cached(sql).await?;
            self.transaction.query(&statement, params).await
        })
        .await
    }

    /// The first row, if there is one.
    pub(crate) async fn row(&self, sql: &str, params: Params<'_>) -> Result<Option<Row>, QueryError> {
        Ok(self.rows(sql, params).await?.into_iter().next())
    }

    /// A cursor in the server.
    pub(crate) async fn open(&self, sql: &str, params: Params<'_>) -> Result<Portal, QueryError> {
        self.ask(async {
            let statement = self.transaction.prepare_cached(sql).await?;
            self.transaction.bind(&statement, params).await
        })
        .await
    }

    /// The next rows of a cursor; fewer than `limit` at its end.
    pub(crate) async fn fetch(&self, portal: &Portal, limit: i32) -> Result<Vec<Row>, QueryError> {
        self.ask(self.transaction.query_portal(portal, limit)).await
    }

    /// The answer; errors that are not refusals stay errors.
    pub(crate) fn answer<T>(&self, result: Result<T, QueryError>) -> Result<Answer<T>, QueryError> {
        let result = match result {
            Ok(body) => Ok(body),
            Err(QueryError::Refused(error)) => Err(error),
            Err(error) => return Err(error),
        };
        Ok(Answer { as_of: self.as_of(), result })
    }
}

/// 404 for what does not exist and for what is another tenant's: the two cannot be told apart.
pub(crate) fn missing(code: &'static str, message: &'static str) -> QueryError {
    ApiError::new(404, code, message).into()
}
