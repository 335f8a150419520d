//! Dead letters: events that a projection could not apply, and what waits behind them in their streams. Listed, tried again in order,
//! or taken off the list by two people. The tables and the log are never edited by hand.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use modelfaucet_schema::event::{Recorded, StoredEvent};
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{Position, ShardId, StreamId};
use modelfaucet_schema::log::{Head, LogReader, ReadError, from_system_time};
use modelfaucet_schema::time::Timestamp;
use serde::Serialize;
use tokio_postgres::{Client, Config, GenericClient, Row};

use crate::act::{self, Who};
use crate::fold::{DeadLetter, Unit};
use crate::projection::{Projection, under};
use crate::registry::ChangeError;
use crate::runtime::connect;
use crate::sql;
use crate::store::{LoadError, Store};

/// Why a projection stands still while its letters are tried again. Whoever finds it after a crash tries again, or resumes.
const RETRYING: &str = "dead letters are being tried again";

/// Letters that one attempt takes at most; the rest of a longer queue is taken by the next one.
const AT_ONCE: i64 = 10_000;

/// An event that was put aside.
#[derive(Clone, Debug, Serialize)]
pub struct Letter {
    /// Its number.
    pub id: i64,
    /// The projection.
    pub projection: String,
    /// The version of its tables.
    pub version: i32,
    /// The log.
    pub shard: ShardId,
    /// The event.
    pub position: Position,
    /// The stream that waits.
    pub stream: String,
    /// Why it could not be applied.
    pub cause: String,
    /// How often it was tried.
    pub attempts: i32,
    /// When it was first tried.
    pub first_seen: Timestamp,
    /// When it was last tried.
    pub last_seen: Timestamp,
    /// How many later events of its stream wait behind it; 0 for one that waits itself.
    pub waiting: i64,
    /// Is it the first of its stream, so that it can be tried again?
    pub is_first: bool,
}

impl Letter {
    fn read(row: &Row) -> Self {
        Self {
            id: row.get(0),
            projection: row.get(1),
            version: row.get(2),
            shard: ShardId(row.get(3)),
            position: Position(row.get(4)),
            stream: row.get(5),
            cause: row.get(6),
            attempts: row.get(7),
            first_seen: from_system_time(row.get(8)),
            last_seen: from_system_time(row.get(9)),
            waiting: row.get(10),
            is_first: row.get(11),
        }
    }

    fn title(&self) -> String {
        format!("{} v{}", self.projection, self.version)
    }
}

/// Why letters were not tried again.
#[derive(Debug, thiserror::Error)]
pub enum RetryError {
    /// A rule is against it, or the database failed.
    #[error(transparent)]
    Change(#[from] ChangeError),
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The projection's state cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
}

impl From<tokio_postgres::Error> for RetryError {
    fn from(error: tokio_postgres::Error) -> Self {
        Self::Change(error.into())
    }
}

fn refused<T>(reason: String) -> Result<T, ChangeError> {
    Err(ChangeError::Refused(reason))
}

/// Letters, oldest first; without `all` only those that others wait behind, or that are alone.
///
/// # Errors
/// The database's.
pub async fn list(client: &impl GenericClient, all: bool) -> Result<Vec<Letter>, tokio_postgres::Error> {
    let rows = client.query(include_str!("sql/letters.sql"), &[&None::<i64>]).await?;
    Ok(rows.iter().map(Letter::read).filter(|letter| all || letter.is_first).collect())
}

/// One letter.
///
/// # Errors
/// [`ChangeError::Refused`] if there is none.
pub async fn find(client: &impl GenericClient, id: i64) -> Result<Letter, ChangeError> {
    match client.query_opt(include_str!("sql/letters.sql"), &[&Some(id)]).await? {
        Some(row) => Ok(Letter::read(&row)),
        None => refused(format!("there is no dead letter {id}; `dead list` shows what there is")),
    }
}

/// Events at some positions, read with the batches that they are in, so that the chain vouches for them.
///
/// # Errors
/// [`ReadError`].
pub async fn events(
    config: &Config,
    shard: ShardId,
    positions: &[Position],
) -> Result<BTreeMap<Position, StoredEvent>, ReadError> {
    let client = Arc::new(connect(config).await?);
    let reader = LogReader::prepare(Arc::clone(&client)).await?;
    let mut found = BTreeMap::new();
    let wanted: HashSet<Position> = positions.iter().copied().collect();
    for position in positions {
        if found.contains_key(position) {
            continue;
        }
        let Some(row) = client.query_opt(include_str!("sql/batch_of.sql"), &[&shard.0, &position.0]).await? else {
            continue;
        };
        let hash = ChainHash::from_slice(row.get(1)).unwrap_or(ChainHash([0; 32]));
        let page = reader.raw_page(shard, Head { position: Position(row.get(0)), hash }, 1).await?;
        for event in page.check()?.events {
            if wanted.contains(&event.position) {
                found.insert(event.position, event.to_stored());
            }
        }
    }
    Ok(found)
}

/// Writes down that somebody has looked at an event's content.
///
/// # Errors
/// The database's.
pub async fn looked(client: &impl GenericClient, who: &Who, letter: &Letter) -> Result<(), tokio_postgres::Error> {
    let detail = format!(r#"{{"letter":{},"shard":{},"position":{}}}"#, letter.id, letter.shard.0, letter.position.0);
    act::record(client, who, "show payload", (&letter.projection, letter.version), &detail).await.map(drop)
}

/// What came of an attempt.
#[derive(Clone, Debug, Serialize)]
pub struct Retried {
    /// How many letters were applied.
    pub applied: usize,
    /// How many of the stream still wait.
    pub left: i64,
    /// The letter that failed again, and why.
    pub failed: Option<(Position, String)>,
}

/// Tries a letter again and, with `from_here`, what waits behind it, in order, in one transaction with the record of it. The
/// projection stands still meanwhile, so that whoever follows the log with it loads it anew; it does not move on. A letter that fails
/// again stays, and so does everything behind it.
///
/// # Errors
/// [`RetryError`]; then every letter is where it was. After a crash amid it the projection is paused: try again, or resume it.
pub async fn retry(
    config: &Config,
    known: &[Box<dyn Projection>],
    who: &Who,
    id: i64,
    from_here: bool,
) -> Result<Retried, RetryError> {
    let client = connect(config).await?;
    let letter = find(&client, id).await?;
    if !letter.is_first {
        refused(format!("letter {id} waits behind an earlier one of its stream; try that one with --from-here"))?;
    }
    let code = "SELECT code FROM projection.registry WHERE name = $1 AND version = $2";
    let code: i32 = client.query_one(code, &[&letter.projection, &letter.version]).await?.get(0);
    let fold = known.iter().find(|known| known.name() == letter.projection && known.code() == code);
    let Some(fold) = fold.map(|fold| under(fold.fresh(), letter.version)) else {
        let why =
            format!("this program does not have version {code} of {}'s fold; use the one that has", letter.projection);
        return Ok(refused(why)?);
    };
    let limit = if from_here { AT_ONCE } else { 1 };
    let rows = client
        .query(
            include_str!("sql/letters_of_stream.sql"),
            &[&letter.projection, &letter.version, &letter.shard.0, &letter.stream, &limit],
        )
        .await?;
    let positions: Vec<Position> = rows.iter().map(|row| Position(row.get(0))).collect();
    let found = events(config, letter.shard, &positions).await?;
    let mut events = Vec::with_capacity(positions.len());
    for position in &positions {
        let Some(stored) = found.get(position) else {
            return Ok(refused(format!("the log has no event at position {position}"))?);
        };
        let decoded = stored.decode().map_err(|source| ReadError::Decode { position: *position, source })?;
        events.push(Arc::new(decoded));
    }
    stop(&client, &letter).await?;
    let mut store = Store::prepare(client).await?;
    let done = apply(&mut store, fold.as_ref(), who, &letter, &events).await;
    if done.is_err() {
        // The connection may be gone; then an operator resumes it.
        let _no_transaction = store.client().batch_execute("ROLLBACK").await;
        let _best_effort = go_on(store.client(), &letter).await;
    }
    done
}

/// From here on no projector commits anything of this version, and when it goes on it loads everything again.
async fn stop(client: &Client, letter: &Letter) -> Result<(), ChangeError> {
    let sql = "UPDATE projection.checkpoint SET halted = $4, updated_at = clock_timestamp()
               WHERE name = $1 AND version = $2 AND shard = $3 AND (halted IS NULL OR halted = $4)";
    let key: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&letter.projection, &letter.version, &letter.shard.0, &RETRYING];
    match client.execute(sql, &key).await? {
        1 => Ok(()),
        _ => refused(format!("{} has halted; `projection list` says why. Resume it first", letter.title())),
    }
}

async fn go_on(client: &impl GenericClient, letter: &Letter) -> Result<bool, tokio_postgres::Error> {
    let sql = "UPDATE projection.checkpoint SET halted = NULL, updated_at = clock_timestamp()
               WHERE name = $1 AND version = $2 AND shard = $3 AND halted = $4";
    let key: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
        [&letter.projection, &letter.version, &letter.shard.0, &RETRYING];
    Ok(client.execute(sql, &key).await? == 1)
}

async fn apply(
    store: &mut Store,
    fold: &dyn Projection,
    who: &Who,
    letter: &Letter,
    events: &[Arc<Recorded>],
) -> Result<Retried, RetryError> {
    let saved = store.load_version(letter.shard, fold).await?;
    let Some(saved) = saved else { return Ok(refused(format!("{} has no checkpoint", letter.title()))?) };
    let mut unit = Unit::new(saved.unit.projection);
    let part = unit.fold_or_halt(events).map_err(|halt| ChangeError::Refused(halt.reason))?;
    let writes = sql::writes(&fold.schema(), &part.changes);
    store.prepare_writes(&writes).await?;
    store.client().batch_execute("BEGIN; SET LOCAL synchronous_commit = on").await?;
    let mut result = Ok(());
    for write in &writes {
        result = store.send(write).await;
        if result.is_err() {
            break;
        }
    }
    let failed = match result {
        Ok(()) => part.letters.first().cloned(),
        Err(error) => {
            store.client().batch_execute("ROLLBACK; BEGIN; SET LOCAL synchronous_commit = on").await?;
            let cause = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            // Which of them it was the server does not say: all stay, and the first one tells why.
            Some(DeadLetter { stream: stream_of(letter)?, position: letter.position, cause })
        }
    };
    let client = store.client();
    let until = failed.as_ref().map_or(Position(i64::MAX), |failed| failed.position);
    let applied: Vec<i64> = events
        .iter()
        .map(|event| event.position)
        .filter(|position| *position < until)
        .map(|position| position.0)
        .collect();
    let done = "DELETE FROM projection.dead_letter WHERE projection = $1 AND version = $2 AND shard = $3 AND position = ANY ($4)";
    let gone = client.execute(done, &[&letter.projection, &letter.version, &letter.shard.0, &applied]).await?;
    if gone != applied.len() as u64 {
        client.batch_execute("ROLLBACK").await?;
        return Err(ChangeError::Busy("somebody else has tried these letters meanwhile".to_owned()).into());
    }
    if let Some(failed) = &failed {
        let again =
            "UPDATE projection.dead_letter SET attempts = attempts + 1, last_seen = clock_timestamp(), cause = $5
                     WHERE projection = $1 AND version = $2 AND shard = $3 AND position = $4";
        client
            .execute(again, &[&letter.projection, &letter.version, &letter.shard.0, &failed.position.0, &failed.cause])
            .await?;
    }
    let left = "SELECT count(*) FROM projection.dead_letter WHERE projection = $1 AND version = $2 AND shard = $3 AND stream = $4";
    let left: i64 =
        client.query_one(left, &[&letter.projection, &letter.version, &letter.shard.0, &letter.stream]).await?.get(0);
    let retried =
        Retried { applied: applied.len(), left, failed: failed.map(|failed| (failed.position, failed.cause)) };
    let detail = serde_json::json!({ "letter": letter.id, "stream": letter.stream, "result": retried }).to_string();
    act::record(client, who, "retry", (&letter.projection, letter.version), &detail).await?;
    if !go_on(client, letter).await? {
        client.batch_execute("ROLLBACK").await?;
        return Err(ChangeError::Busy(format!("{} was resumed or halted meanwhile", letter.title())).into());
    }
    client.batch_execute("COMMIT").await?;
    Ok(retried)
}

fn stream_of(letter: &Letter) -> Result<StreamId, ChangeError> {
    letter.stream.parse().map_err(|_| ChangeError::Refused(format!("{} is no stream", letter.stream)))
}

/// Where a resolution stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Resolved {
    /// Proposed; somebody else has to say the same.
    Proposed,
    /// The letter is off the list; so many of its stream wait still.
    Done {
        /// Letters of the stream.
        left: i64,
    },
}

/// Takes the first letter of a stream off the list for good, because a later event answers it: the first person proposes, another
/// one who names the same event does it. What waits behind it can be tried then.
///
/// # Errors
/// [`ChangeError`]; then nothing has changed.
pub async fn resolve(client: &mut Client, who: &Who, id: i64, by: Position) -> Result<Resolved, ChangeError> {
    let letter = find(client, id).await?;
    if !letter.is_first {
        return refused(format!("letter {id} waits behind an earlier one of its stream; resolve or try that one"));
    }
    if by <= letter.position {
        return refused(format!("position {by} is not behind the letter's, {}", letter.position));
    }
    let exists = "SELECT EXISTS (SELECT FROM ledger.event WHERE shard = $1 AND position = $2)";
    if !client.query_one(exists, &[&letter.shard.0, &by.0]).await?.get::<_, bool>(0) {
        return refused(format!("the log of shard {} has no position {by}", letter.shard));
    }
    let transaction = client.transaction().await?;
    let lock = "SELECT FROM projection.dead_letter WHERE id = $1 FOR UPDATE";
    if transaction.query_opt(lock, &[&id]).await?.is_none() {
        return refused(format!("letter {id} is gone"));
    }
    let (name, version) = (letter.projection.as_str(), letter.version);
    let detail =
        serde_json::json!({ "letter": id, "shard": letter.shard.0, "position": letter.position.0, "by": by.0 });
    let proposed = "SELECT actor FROM projection.act
                    WHERE act = 'propose resolve' AND projection = $1 AND version = $2 AND detail = $3::text::jsonb
                    ORDER BY id DESC LIMIT 1";
    let proposer: Option<String> =
        transaction.query_opt(proposed, &[&name, &version, &detail.to_string()]).await?.map(|row| row.get(0));
    if proposer.is_none_or(|proposer| proposer == who.actor) {
        act::record(&transaction, who, "propose resolve", (name, version), &detail.to_string()).await?;
        transaction.commit().await?;
        return Ok(Resolved::Proposed);
    }
    let whole = serde_json::json!({ "letter": letter, "by": by.0 }).to_string();
    let act = act::record(&transaction, who, "resolve", (name, version), &whole).await?;
    let keep = "INSERT INTO projection.resolved_letter (projection, version, shard, position, by_position, act)
                VALUES ($1, $2, $3, $4, $5, $6)";
    transaction.execute(keep, &[&name, &version, &letter.shard.0, &letter.position.0, &by.0, &act]).await?;
    transaction.execute("DELETE FROM projection.dead_letter WHERE id = $1", &[&id]).await?;
    let left = "SELECT count(*) FROM projection.dead_letter WHERE projection = $1 AND version = $2 AND shard = $3 AND stream = $4";
    let left = transaction.query_one(left, &[&name, &version, &letter.shard.0, &letter.stream]).await?.get(0);
    transaction.commit().await?;
    Ok(Resolved::Done { left })
}
