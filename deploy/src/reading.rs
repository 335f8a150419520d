//! The ledger as the tools of operators read it: events by their place, by time, by what they mention. Nothing is written.
//!
//! The log has one index, by shard and position. So whatever else is asked for is found through read tables, or through the time inside
//! an id of version 7: times never go back in a shard, so a time is a range of positions, and a short one is read in no time.

mod near;
mod place;
mod tell;

pub(crate) use near::near;
pub(crate) use place::Place;
pub(crate) use tell::{event_json, shown, tell};

use std::sync::Arc;
use std::time::Duration;

use modelfaucet_command::domain::State;
use modelfaucet_command::snapshot::{self, SnapshotError};
use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{BatchId, LogId, ShardId};
use modelfaucet_schema::log::{EventRow, Head, LogReader, ReadError, from_system_time, to_system_time};
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::{Error, GenericClient, Row};

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::verify::auditor::{self, Auditor};

/// Reads the ledger of these arguments; what was started for it is stopped again.
///
/// # Errors
/// The work's, and a [`Failure`] if the database cannot be had.
pub(crate) fn with<T>(
    args: &DatabaseArgs,
    work: impl AsyncFnOnce(&Auditor) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let auditor = Auditor::open(args)?;
    let result = crate::runtime()?.block_on(work(&auditor));
    auditor.close()?;
    result
}

/// A log and its end.
#[derive(Clone, Debug)]
pub(crate) struct Shard {
    pub(crate) id: ShardId,
    pub(crate) log: LogId,
    pub(crate) head: i64,
    pub(crate) hash: Option<ChainHash>,
    pub(crate) recorded_at: Option<Timestamp>,
}

/// Every log.
pub(crate) async fn shards(client: &impl GenericClient) -> Result<Vec<Shard>, Error> {
    let sql = "SELECT shard, log_id, position, hash, committed_at FROM ledger.head ORDER BY shard";
    let read = |row: &Row| Shard {
        id: ShardId(row.get(0)),
        log: LogId(row.get(1)),
        head: row.get(2),
        hash: ChainHash::from_slice(row.get(3)),
        recorded_at: row.get::<_, Option<_>>(4).map(from_system_time),
    };
    Ok(client.query(sql, &[]).await?.iter().map(read).collect())
}

/// The numbers of all logs, as a statement's parameter.
pub(crate) fn numbers(shards: &[Shard]) -> Vec<i16> {
    shards.iter().map(|shard| shard.id.0).collect()
}

/// Which events are wanted; all that is said has to be true.
#[derive(Clone, Debug, Default)]
pub(crate) struct Wanted {
    pub(crate) stream: Option<String>,
    pub(crate) types: Option<Vec<String>>,
    pub(crate) actor: Option<String>,
    pub(crate) request_id: Option<String>,
    /// Bytes of the stored form.
    pub(crate) text: Option<Vec<u8>>,
}

impl Wanted {
    /// Events of a stream that mention an id.
    pub(crate) fn mention(stream: Option<String>, text: &str) -> Self {
        Self { stream, text: Some(text.as_bytes().to_vec()), ..Self::default() }
    }

    /// Events of a request.
    pub(crate) fn request(id: &str) -> Self {
        Self { request_id: Some(id.to_owned()), ..Self::default() }
    }
}

/// The event at a place.
pub(crate) async fn event(client: &impl GenericClient, place: Place) -> Result<Option<StoredEvent>, Error> {
    let Place { shard, position } = place;
    Ok(between(client, shard, (position.0, position.0), &Wanted::default()).await?.pop())
}

/// The wanted events from one position to another, both included, in order. All rows of the range are looked at.
pub(crate) async fn between(
    client: &impl GenericClient,
    shard: ShardId,
    range: (i64, i64),
    wanted: &Wanted,
) -> Result<Vec<StoredEvent>, Error> {
    let Wanted { stream, types, actor, request_id, text } = wanted;
    let rows = client
        .query(
            include_str!("reading/sql/between.sql"),
            &[&shard.0, &range.0, &range.1, stream, types, actor, request_id, text],
        )
        .await?;
    rows.iter().map(|row| EventRow::stored(shard, row)).collect()
}

/// The last position that was recorded before a time; 0 if none was.
pub(crate) async fn last_before(client: &impl GenericClient, shard: ShardId, time: Timestamp) -> Result<i64, Error> {
    let row = client.query_one(include_str!("reading/sql/last_before.sql"), &[&shard.0, &to_system_time(time)]).await?;
    Ok(row.get(0))
}

/// As [`last_before`], moved by milliseconds.
pub(crate) async fn last_before_moved(
    client: &impl GenericClient,
    shard: ShardId,
    time: Timestamp,
    milliseconds: i64,
) -> Result<i64, Error> {
    let moved = Timestamp::from_micros(time.micros().saturating_add(milliseconds.saturating_mul(1_000)));
    last_before(client, shard, moved).await
}

/// One append.
#[derive(Clone, Debug)]
pub(crate) struct Batch {
    pub(crate) first: i64,
    pub(crate) last: i64,
    pub(crate) id: BatchId,
    pub(crate) previous: Option<ChainHash>,
    pub(crate) hash: Option<ChainHash>,
    pub(crate) recorded_at: Timestamp,
}

/// The appends that hold positions from one to another.
pub(crate) async fn batches(
    client: &impl GenericClient,
    shard: ShardId,
    range: (i64, i64),
) -> Result<Vec<Batch>, Error> {
    let rows = client.query(include_str!("reading/sql/batches.sql"), &[&shard.0, &range.0, &range.1]).await?;
    let read = |row: &Row| Batch {
        first: row.get(0),
        last: row.get(1),
        id: BatchId(row.get(2)),
        previous: ChainHash::from_slice(row.get(3)),
        hash: ChainHash::from_slice(row.get(4)),
        recorded_at: from_system_time(row.get(5)),
    };
    Ok(rows.iter().map(read).collect())
}

/// The writer's state at the end of a log: the newest snapshot, and everything behind it folded into it. Exact; takes time and memory
/// for every wallet and for what has happened since the snapshot.
///
/// # Errors
/// Exit 6 if the log cannot be read in order.
pub(crate) async fn state(auditor: &Auditor, shard: ShardId) -> Result<(State, Head), Failure> {
    let client = Arc::new(auditor.connect().await?);
    let reader = LogReader::prepare(Arc::clone(&client)).await.map_err(auditor::failure)?;
    let (mut state, start) = snapshot::load(&client, &reader, shard).await.map_err(fold_failure)?;
    let head =
        snapshot::fold_to_end(&reader, shard, &mut state, start).await.map_err(|error| fold_failure(error.into()))?;
    Ok((state, head))
}

fn fold_failure(error: SnapshotError) -> Failure {
    match error {
        SnapshotError::Database(error) | SnapshotError::Read(ReadError::Database(error)) => auditor::failure(error),
        other => Failure::new(Exit::Violated, other),
    }
}

/// A duration as people say it: 90 s, 12 min, 3 h, 2 d.
pub(crate) fn ago(duration: Duration) -> String {
    match duration.as_secs() {
        seconds @ 0..=119 => format!("{seconds} s"),
        seconds @ 120..=7_199 => format!("{} min", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{} h", seconds / 3_600),
        seconds => format!("{} d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_short() {
        for (seconds, text) in [(0, "0 s"), (119, "119 s"), (120, "2 min"), (7_200, "2 h"), (200_000, "2 d")] {
            assert_eq!(ago(Duration::from_secs(seconds)), text);
        }
    }
}
