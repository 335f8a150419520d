//! Answers for repeats, in a table beside the log.
//!
//! They are written without waiting for the disk: the charge that follows waits, and what the database has written before it is on disk
//! with it. So an answer costs no commit of its own, and one whose charge is in the log was kept.

use std::time::Duration;

use deadpool_postgres::{Pool, PoolError, RecyclingMethod, Runtime};
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use modelfaucet_gateway::port::{AnswerStore, StoreError};
use modelfaucet_schema::ids::HoldId;
use modelfaucet_schema::log::connection;
use tokio_postgres::Config;

/// Connections: answers may be large, and one must not wait for another.
const CONNECTIONS: usize = 4;
/// How long a connection may take to show that it answers.
const RECYCLED: Duration = Duration::from_millis(250);
/// How long a new one may take to be there.
const CREATED: Duration = Duration::from_secs(5);
/// How often old answers are taken away.
const REMOVE_EVERY: Duration = Duration::from_secs(600);
/// Answers that are taken away at once.
const AT_ONCE: i64 = 500;

/// The table.
#[derive(Clone)]
pub(crate) struct AnswerTable(Pool);

impl AnswerTable {
    /// The table of a database, as `ledger_command`; answers older than `life` are taken away. Needs a runtime.
    pub(crate) fn open(database: &Config, life: Duration) -> Result<Self, deadpool_postgres::BuildError> {
        let mut config = database.clone();
        config.connect_timeout(Duration::from_secs(2)).application_name("modelfaucet-answers");
        config.options("-c synchronous_commit=off -c statement_timeout=5s");
        // Asked first: whoever had it before may have left without an answer, and there may never be one.
        let manager = connection::manager(config, RecyclingMethod::Verified);
        let pool = Pool::builder(manager).max_size(CONNECTIONS).runtime(Runtime::Tokio1);
        let pool = pool.wait_timeout(Some(Duration::from_secs(2))).recycle_timeout(Some(RECYCLED));
        let table = Self(pool.create_timeout(Some(CREATED)).build()?);
        tokio::spawn(remove_old(table.clone(), life));
        Ok(table)
    }

    async fn insert(&self, call: HoldId, sealed: Vec<u8>) -> Result<(), PoolError> {
        let client = self.0.get().await?;
        let statement = client.prepare_cached(include_str!("sql/put_answer.sql")).await?;
        client.execute(&statement, &[&call.0, &sealed]).await?;
        Ok(())
    }

    async fn select(&self, call: HoldId) -> Result<Option<Vec<u8>>, PoolError> {
        let client = self.0.get().await?;
        let statement = client.prepare_cached(include_str!("sql/get_answer.sql")).await?;
        Ok(client.query_opt(&statement, &[&call.0]).await?.map(|row| row.get(0)))
    }

    async fn delete(&self, life: Duration) -> Result<u64, PoolError> {
        let client = self.0.get().await?;
        let statement = client.prepare_cached(include_str!("sql/remove_answers.sql")).await?;
        let seconds = i64::try_from(life.as_secs()).unwrap_or(i64::MAX);
        Ok(client.execute(&statement, &[&seconds, &AT_ONCE]).await?)
    }
}

async fn remove_old(table: AnswerTable, life: Duration) {
    loop {
        match table.delete(life).await {
            // There are more.
            Ok(gone) if i64::try_from(gone) == Ok(AT_ONCE) => continue,
            Ok(_) => {}
            Err(error) => tracing::debug!(%error, "old answers could not be taken away"),
        }
        tokio::time::sleep(REMOVE_EVERY).await;
    }
}

impl AnswerStore for AnswerTable {
    fn put(&self, call: HoldId, sealed: Vec<u8>) -> BoxFuture<'_, Result<(), StoreError>> {
        async move { self.insert(call, sealed).await.map_err(|error| StoreError(error.to_string())) }.boxed()
    }

    fn get(&self, call: HoldId) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        async move { self.select(call).await.map_err(|error| StoreError(error.to_string())) }.boxed()
    }
}
