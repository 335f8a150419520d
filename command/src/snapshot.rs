//! Snapshots of the writer's state: disposable, they only make a cold start short. Of a small state the writer makes a copy. A
//! large one is folded beside the writer from the last snapshot, so that taking it never stops a command.

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::{Head, LogReader, ReadError};
use tokio_postgres::Client;

use crate::domain::{FOLD_VERSION, State};

/// Events per page when folding.
const PAGE: usize = 8_192;

/// Why a snapshot could not be loaded, folded or saved.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The database's error.
    #[error("the snapshot cannot be read or written: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// The state does not serialize.
    #[error("the state does not serialize: {0}")]
    Encode(#[from] serde_json::Error),
}

/// The newest snapshot of this fold version whose place in the log still has the hash it was taken at; else the empty state at
/// the log's beginning.
///
/// # Errors
/// [`SnapshotError`]; a snapshot that does not decode is passed over.
pub async fn load(client: &Client, reader: &LogReader, shard: ShardId) -> Result<(State, Head), SnapshotError> {
    let rows = client
        .query(
            "SELECT s.position, s.hash, s.state FROM ledger.snapshot s
             JOIN ledger.batch b ON b.shard = s.shard AND b.last_pos = s.position AND b.hash = s.hash
             WHERE s.shard = $1 AND s.fold_version = $2 ORDER BY s.position DESC",
            &[&shard.0, &FOLD_VERSION],
        )
        .await?;
    for row in rows {
        let decoded = serde_json::from_slice::<State>(row.get(2));
        match (decoded, ChainHash::from_slice(row.get(1))) {
            (Ok(state), Some(hash)) => return Ok((state, Head { position: Position(row.get(0)), hash })),
            (Err(error), _) => {
                tracing::warn!(%error, position = row.get::<_, i64>(0), "a snapshot does not decode; passed over");
            }
            (Ok(_), None) => {}
        }
    }
    Ok((State::default(), reader.genesis(shard).await?))
}

/// Folds everything behind `head` into `state`; the next page is read while one is folded.
///
/// # Errors
/// [`ReadError`]; the state is then of no use.
pub async fn fold_to_end(reader: &LogReader, shard: ShardId, state: &mut State, head: Head) -> Result<Head, ReadError> {
    let mut head = head;
    let mut page = reader.page(shard, head, PAGE).await?;
    while !page.events.is_empty() {
        head = page.head;
        let next = reader.page(shard, head, PAGE);
        let fold = async {
            for recorded in &page.events {
                state.evolve(recorded);
            }
            state.commit();
        };
        let (following, ()) = futures_util::future::join(next, fold).await;
        page = following?;
    }
    Ok(head)
}

/// Takes a snapshot at the log's end if that is at least `min_events` further than the last one. Returns the position if so.
///
/// # Errors
/// [`SnapshotError`].
pub async fn refresh(
    client: &Client,
    reader: &LogReader,
    shard: ShardId,
    min_events: i64,
) -> Result<Option<Position>, SnapshotError> {
    let (mut state, start) = load(client, reader, shard).await?;
    let (_, end) = reader.head(shard).await?;
    if end.position.0 - start.position.0 < min_events.max(1) {
        return Ok(None);
    }
    let head = fold_to_end(reader, shard, &mut state, start).await?;
    save(client, shard, state, head).await.map(|()| Some(head.position))
}

/// Keeps the state at `head` as a snapshot.
///
/// # Errors
/// [`SnapshotError`].
pub async fn save(client: &Client, shard: ShardId, state: State, head: Head) -> Result<(), SnapshotError> {
    // A large state takes seconds: not on a thread that serves others.
    let encode = tokio::task::spawn_blocking(move || serde_json::to_vec(&state));
    let bytes = match encode.await {
        Ok(bytes) => bytes?,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Only a runtime that is shutting down cancels: there will be no snapshot.
        Err(_) => return Ok(()),
    };
    client
        .execute(
            "SELECT ledger.save_snapshot($1, $2, $3, $4, $5)",
            &[&shard.0, &head.position.0, &head.hash.0.as_slice(), &FOLD_VERSION, &bytes],
        )
        .await?;
    Ok(())
}
