//! How far a shard is published: in `PostgreSQL`, moved by compare-and-set, and bound to the log that it was read from.

use std::time::SystemTime;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::connection::within;
use modelfaucet_schema::log::{Head, LogReader, ReadError, from_system_time};
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, Statement};

use crate::runtime::ANSWER;

/// A mark as it is kept.
#[derive(Clone, Debug, PartialEq)]
pub struct Mark {
    /// The log that was read.
    pub log_id: LogId,
    /// The end of what the broker has confirmed.
    pub at: Head,
    /// What the working relay does.
    pub state: String,
    /// Since when.
    pub state_since: Timestamp,
    /// Why it does not go on.
    pub halted: Option<String>,
}

/// Marks in the database, as `ledger_projector`.
pub(crate) struct Marks {
    client: Client,
    advance: Statement,
}

impl Marks {
    /// Prepares a connection. A mark that is lost by a crash of the server is behind, which is harmless: its commits need not wait.
    pub(crate) async fn prepare(client: Client) -> Result<Self, Error> {
        let preparing = async {
            client.batch_execute("SET synchronous_commit = off").await?;
            client.prepare(include_str!("sql/advance.sql")).await
        };
        let advance = within(ANSWER, preparing).await?;
        Ok(Self { client, advance })
    }

    /// The right to publish a shard; false if another relay has it.
    pub(crate) async fn lock(&self, shard: ShardId) -> Result<bool, Error> {
        let shard = i32::from(shard.0);
        Ok(within(ANSWER, self.client.query_one(include_str!("sql/lock.sql"), &[&shard])).await?.get(0))
    }

    /// The mark; before the first event if there is none yet.
    pub(crate) async fn load(&self, shard: ShardId, log_id: LogId, genesis: Head) -> Result<Mark, Error> {
        let begin = include_str!("sql/begin.sql");
        let loading = async {
            self.client.execute(begin, &[&shard.0, &log_id.0, &genesis.hash.0.as_slice()]).await?;
            self.client.query_one(include_str!("sql/mark.sql"), &[&shard.0]).await
        };
        Ok(of_row(&within(ANSWER, loading).await?))
    }

    /// Moves the mark; false if it does not stand at `from` any more.
    pub(crate) async fn advance(&self, shard: ShardId, log_id: LogId, from: Head, to: Head) -> Result<bool, Error> {
        let (was, is) = (from.hash.0.as_slice(), to.hash.0.as_slice());
        let parameters: [&(dyn ToSql + Sync); 6] = [&shard.0, &log_id.0, &from.position.0, &was, &to.position.0, &is];
        Ok(within(ANSWER, self.client.execute(&self.advance, &parameters)).await? == 1)
    }

    /// Notes that what was published under an earlier id of the log is also in the log as it goes on; false if the mark does not stand
    /// at `at` any more.
    pub(crate) async fn adopt(&self, shard: ShardId, was: LogId, is: LogId, at: Head) -> Result<bool, Error> {
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
            [&shard.0, &was.0, &is.0, &at.position.0, &at.hash.0.as_slice()];
        Ok(was == is || self.client.execute(include_str!("sql/adopt.sql"), &parameters).await? == 1)
    }

    pub(crate) async fn state(&self, shard: ShardId, state: &str) -> Result<(), Error> {
        within(ANSWER, self.client.execute(include_str!("sql/state.sql"), &[&shard.0, &state])).await.map(drop)
    }

    pub(crate) async fn halt(&self, shard: ShardId, reason: &str) -> Result<(), Error> {
        within(ANSWER, self.client.execute(include_str!("sql/halt.sql"), &[&shard.0, &reason])).await.map(drop)
    }
}

fn of_row(row: &tokio_postgres::Row) -> Mark {
    let hash = ChainHash::from_slice(row.get(2)).unwrap_or(ChainHash([0; 32]));
    Mark {
        log_id: LogId(row.get(0)),
        at: Head { position: Position(row.get(1)), hash },
        state: row.get(3),
        state_since: from_system_time(row.get::<_, SystemTime>(4)),
        halted: row.get(5),
    }
}

/// What stands in the database about a shard's relay.
#[derive(Clone, Debug)]
pub struct Status {
    /// The end of the log.
    pub head: Position,
    /// The mark; none before the first relay has started.
    pub mark: Option<Mark>,
    /// When the oldest event behind the mark was recorded.
    pub oldest: Option<Timestamp>,
    /// Does a relay work on it?
    pub worked_on: bool,
}

impl Status {
    /// Events in the log that the broker has not confirmed.
    pub fn pending(&self) -> i64 {
        self.head.0 - self.mark.as_ref().map_or(0, |mark| mark.at.position.0)
    }
}

/// Looks.
///
/// # Errors
/// The database's, or that there is no log.
pub async fn status(client: &Client, reader: &LogReader, shard: ShardId) -> Result<Status, ReadError> {
    let (_, head) = reader.head(shard).await?;
    let mark = client.query_opt(include_str!("sql/mark.sql"), &[&shard.0]).await?.map(|row| of_row(&row));
    let position = mark.as_ref().map_or(0, |mark| mark.at.position.0);
    let oldest = client.query_opt(include_str!("../sql/oldest.sql"), &[&shard.0, &position]).await?;
    let worked_on = client.query_one(include_str!("sql/worker.sql"), &[&i64::from(shard.0)]).await?.get(0);
    Ok(Status {
        head: head.position,
        mark,
        oldest: oldest.map(|row| from_system_time(row.get::<_, SystemTime>(0))),
        worked_on,
    })
}

/// Where the mark would stand if publishing were to go on behind `position`: the end of a batch, at it or before it.
///
/// # Errors
/// The database's, or that there is no log.
pub async fn boundary(
    client: &Client,
    reader: &LogReader,
    shard: ShardId,
    position: Position,
) -> Result<(LogId, Head), ReadError> {
    let (log_id, _) = reader.head(shard).await?;
    let row = client.query_opt(include_str!("sql/boundary.sql"), &[&shard.0, &position.0]).await?;
    let found =
        row.and_then(|row| Some(Head { position: Position(row.get(0)), hash: ChainHash::from_slice(row.get(1))? }));
    let genesis = reader.genesis(shard).await?;
    Ok((log_id, found.unwrap_or(genesis)))
}

/// Sets the mark and lifts a halt. What lies behind it is published again by the relay that works.
///
/// # Errors
/// The database's.
pub async fn rewind(
    client: &Client,
    reader: &LogReader,
    shard: ShardId,
    log_id: LogId,
    to: Head,
) -> Result<(), ReadError> {
    let genesis = reader.genesis(shard).await?;
    client.execute(include_str!("sql/begin.sql"), &[&shard.0, &log_id.0, &genesis.hash.0.as_slice()]).await?;
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&shard.0, &log_id.0, &to.position.0, &to.hash.0.as_slice()];
    client.execute(include_str!("sql/rewind.sql"), &parameters).await?;
    Ok(())
}
