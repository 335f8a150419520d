//! Appending a batch: one call of `ledger.append()`, one round trip, one commit.

use std::sync::Arc;

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::{Head, to_system_time};
use crate::event::StoredEvent;
use crate::hash::{BatchHasher, ChainHash};
use crate::ids::{BatchId, Position, ShardId};
use crate::time::Timestamp;

/// Events sealed behind a head: their positions and the link of the chain are fixed, so the batch can be sent again as it is.
#[derive(Clone, Debug)]
pub struct AppendBatch {
    shard: ShardId,
    previous: Head,
    id: BatchId,
    recorded_at: Timestamp,
    hash: ChainHash,
    events: Vec<StoredEvent>,
}

impl AppendBatch {
    /// Seals `events`, whose positions follow `previous` without a gap.
    pub fn seal(shard: ShardId, previous: Head, id: BatchId, recorded_at: Timestamp, events: Vec<StoredEvent>) -> Self {
        let last = previous.position.plus(events.len());
        let mut hasher = BatchHasher::new(previous.hash, shard, previous.position.next(), last, id, recorded_at);
        for event in &events {
            hasher.event(event);
        }
        Self { shard, previous, id, recorded_at, hash: hasher.finish(), events }
    }

    /// The head that it needs.
    pub fn previous(&self) -> Head {
        self.previous
    }

    /// The head that it makes.
    pub fn head(&self) -> Head {
        Head { position: self.previous.position.plus(self.events.len()), hash: self.hash }
    }

    /// Its id.
    pub fn id(&self) -> BatchId {
        self.id
    }

    /// The writer's clock when it was sealed.
    pub fn recorded_at(&self) -> Timestamp {
        self.recorded_at
    }

    /// Its events.
    pub fn events(&self) -> &[StoredEvent] {
        &self.events
    }
}

/// How a batch got into the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appended {
    /// By this call.
    Now,
    /// By an earlier call whose answer was lost.
    Already,
}

/// Why a batch is not in the log, or not known to be.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// Somebody else appended: read on from the head that was seen, then decide again.
    #[error("the log has another head")]
    HeadMoved,
    /// Some keys were used before: look them up, then decide again.
    #[error("idempotency keys were used before")]
    KeysUsed,
    /// The partition for these positions is missing.
    #[error("no partition for these positions")]
    NoPartition,
    /// The database refused the batch; certainly nothing was written.
    #[error("the database refused the batch: {}", reason(.0))]
    Refused(#[source] tokio_postgres::Error),
    /// The connection broke: the batch is in the log or it is not. Sending the same batch again tells.
    #[error("no answer from the database: {0}")]
    InDoubt(#[source] tokio_postgres::Error),
}

impl AppendError {
    /// May the reason pass by itself, because somebody else is busy? Otherwise an operator has to do something.
    pub fn is_busy(&self) -> bool {
        let busy = [SqlState::LOCK_NOT_AVAILABLE, SqlState::QUERY_CANCELED];
        matches!(self, Self::Refused(error) if error.code().is_some_and(|code| busy.contains(code)))
    }

    /// Is the batch recorded later than the database's clock allows? It stays so until that clock has come there.
    pub fn is_from_the_future(&self) -> bool {
        matches!(self, Self::Refused(error) if error.code().is_some_and(|code| code.code() == "ML006"))
    }

    /// The same where an earlier sending may still arrive: then a refusal of this one is not certain to be without effect.
    #[must_use]
    pub fn into_doubt(self) -> Self {
        match self {
            Self::Refused(error) => Self::InDoubt(error),
            other => other,
        }
    }
}

/// What the server said; the driver's own text names only the kind of error.
fn reason(error: &tokio_postgres::Error) -> String {
    error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string)
}

/// A connection prepared for appending. Cheap to clone.
#[derive(Clone)]
pub struct LogAppender {
    client: Arc<Client>,
    append: Statement,
}

impl LogAppender {
    /// Prepares a connection.
    ///
    /// # Errors
    /// The database's.
    pub async fn prepare(client: Arc<Client>) -> Result<Self, tokio_postgres::Error> {
        let append = client.prepare(include_str!("sql/append.sql")).await?;
        Ok(Self { client, append })
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Appends a batch. Safe to repeat with the same batch.
    ///
    /// # Errors
    /// [`AppendError`]; only after [`AppendError::InDoubt`] is it unknown whether the batch is in the log.
    pub async fn append(&self, batch: &AppendBatch) -> Result<Appended, AppendError> {
        let column = |of: fn(&StoredEvent) -> &str| batch.events.iter().map(of).collect::<Vec<_>>();
        let streams = column(|event| &event.stream);
        let names = column(|event| &event.name);
        let actors = column(|event| &event.actor);
        let request_ids = column(|event| &event.request_id);
        let seqs: Vec<i64> = batch.events.iter().map(|event| event.stream_seq).collect();
        let versions: Vec<i16> = batch.events.iter().map(|event| event.version).collect();
        let keys: Vec<_> = batch.events.iter().map(|event| event.key.map(|used| used.key)).collect();
        let fingerprints: Vec<_> = batch.events.iter().map(|event| event.key.map(|used| used.fingerprint)).collect();
        let payloads: Vec<&[u8]> = batch.events.iter().map(|event| event.payload.as_slice()).collect();
        let row = self
            .client
            .query_one(
                &self.append,
                &[
                    &batch.shard.0,
                    &batch.previous.position.0,
                    &batch.previous.hash.0.as_slice(),
                    &batch.id.0,
                    &batch.hash.0.as_slice(),
                    &to_system_time(batch.recorded_at),
                    &streams,
                    &seqs,
                    &names,
                    &versions,
                    &actors,
                    &request_ids,
                    &keys,
                    &fingerprints,
                    &payloads,
                ],
            )
            .await
            .map_err(classify)?;
        Ok(if row.get::<_, &str>(0) == "already" { Appended::Already } else { Appended::Now })
    }

    /// Makes sure that positions up to `position` have a partition.
    ///
    /// # Errors
    /// The database's.
    pub async fn ensure_partition(&self, shard: ShardId, position: Position) -> Result<(), tokio_postgres::Error> {
        let sql = "SELECT ledger.ensure_partition($1, $2)";
        self.client.execute(sql, &[&shard.0, &position.0]).await.map(drop)
    }
}

/// An answer of the server proves that the transaction ended without commit, except where the server says that it is going down.
fn classify(error: tokio_postgres::Error) -> AppendError {
    let Some(code) = error.code() else { return AppendError::InDoubt(error) };
    match code.code() {
        "ML001" => AppendError::HeadMoved,
        _ if *code == SqlState::UNIQUE_VIOLATION && is_used_key(&error) => AppendError::KeysUsed,
        _ if *code == SqlState::CHECK_VIOLATION && is_missing_partition(&error) => AppendError::NoPartition,
        "57P01" | "57P02" | "57P03" => AppendError::InDoubt(error),
        _ => AppendError::Refused(error),
    }
}

fn is_used_key(error: &tokio_postgres::Error) -> bool {
    let table = error.as_db_error().and_then(|error| error.table());
    table.is_some_and(|partition| partition.starts_with("idempotency_"))
}

fn is_missing_partition(error: &tokio_postgres::Error) -> bool {
    error.as_db_error().is_some_and(|error| error.message().contains("no partition of relation"))
}
