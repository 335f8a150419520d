//! From rows to events: the part of the work that needs nothing of what came before, so that pages can be read side by side.

use std::error::Error as _;

use modelfaucet_schema::event::{KeyUse, Recorded, StoredEvent};
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::from_system_time;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::chain::Link;
use super::keys::{self, KeyRow};

/// A row of `ledger.event` and what it says.
pub(super) struct ReadEvent {
    pub(super) position: i64,
    /// Absent if a column has no value.
    pub(super) stored: Option<StoredEvent>,
    /// Its place among the page's decoded events; absent if it is not an event.
    pub(super) recorded: Option<usize>,
    pub(super) problem: Option<String>,
}

/// Rows as they come from the database.
#[derive(Default)]
pub(super) struct Page {
    pub(super) events: Vec<Row>,
    pub(super) links: Vec<Row>,
    pub(super) keys: Vec<Row>,
}

/// A page, read.
#[derive(Default)]
pub(super) struct ReadPage {
    pub(super) events: Vec<ReadEvent>,
    /// Apart from the rows, since they are large and are handed on as a whole.
    pub(super) recorded: Vec<Recorded>,
    pub(super) links: Vec<Link>,
    pub(super) keys: Vec<KeyRow>,
}

impl Page {
    /// Reads all rows.
    ///
    /// # Errors
    /// A row without a position, or a link with a column that has no value: nothing made by the migrations allows that.
    pub(super) fn read(&self, shard: ShardId) -> Result<ReadPage, Error> {
        let mut recorded = Vec::with_capacity(self.events.len());
        Ok(ReadPage {
            events: self.events.iter().map(|row| read(shard, row, &mut recorded)).collect::<Result<_, _>>()?,
            recorded,
            links: self.links.iter().map(Link::read).collect::<Result<_, _>>()?,
            keys: self.keys.iter().map(keys::read).collect::<Result<_, _>>()?,
        })
    }
}

fn read(shard: ShardId, row: &Row, decoded: &mut Vec<Recorded>) -> Result<ReadEvent, Error> {
    let position = row.try_get(0)?;
    let (stored, half_a_key) = match stored(shard, position, row) {
        Ok(read) => read,
        Err(error) => {
            let problem = Some(format!("a column cannot be read: {error}"));
            return Ok(ReadEvent { position, stored: None, recorded: None, problem });
        }
    };
    let (recorded, problem) = match stored.decode() {
        Ok(recorded) => {
            let problem =
                if half_a_key { Some("has half an idempotency key".to_owned()) } else { differs(&stored, &recorded) };
            decoded.push(recorded);
            (Some(decoded.len() - 1), problem)
        }
        Err(error) => {
            let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
            (None, Some(format!("{error}{cause}")))
        }
    };
    Ok(ReadEvent { position, stored: Some(stored), recorded, problem })
}

/// A row of `ledger.event` as `sql/events.sql` gives it, and whether it has half an idempotency key.
pub(crate) fn stored(shard: ShardId, position: i64, row: &Row) -> Result<(StoredEvent, bool), Error> {
    let (key, fingerprint) = (row.try_get::<_, Option<Uuid>>(8)?, row.try_get::<_, Option<Uuid>>(9)?);
    let half_a_key = key.is_some() != fingerprint.is_some();
    let stored = StoredEvent {
        shard,
        position: Position(position),
        stream: row.try_get(1)?,
        stream_seq: row.try_get(2)?,
        name: row.try_get(3)?,
        version: row.try_get(4)?,
        recorded_at: from_system_time(row.try_get(5)?),
        actor: row.try_get(6)?,
        request_id: row.try_get(7)?,
        key: key.zip(fingerprint).map(|(key, fingerprint)| KeyUse { key, fingerprint }),
        payload: row.try_get(10)?,
    };
    Ok((stored, half_a_key))
}

/// What a decoded event would be stored as otherwise than it is.
fn differs(stored: &StoredEvent, recorded: &Recorded) -> Option<String> {
    let stream = recorded.event.stream();
    if recorded.stream != stream || stream.to_string() != stored.stream {
        return Some(format!("is in stream {}, but tells about {stream}", stored.stream));
    }
    if recorded.actor.to_string() != stored.actor {
        return Some(format!("its actor {:?} is not in the form that is written", stored.actor));
    }
    // An older version is kept as it was written.
    let current = stored.version == recorded.event.version();
    (current && recorded.event.encode() != stored.payload)
        .then(|| "decodes, but is not in the form that is written".to_owned())
}
