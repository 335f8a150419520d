//! From rows to events: the part of the work that needs nothing of what came before, so that pages can be read side by side.

use std::error::Error as _;

use modelfaucet_schema::event::{Recorded, StoredEvent, StoredRef};
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::EventRow;
use tokio_postgres::{Error, Row};

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
    let EventRow { event: stored, half_a_key } = match EventRow::read(shard, row) {
        Ok(read) => read,
        Err(error) => {
            let problem = Some(format!("a column cannot be read: {error}"));
            return Ok(ReadEvent { position, stored: None, recorded: None, problem });
        }
    };
    let (recorded, problem) = match stored.decode() {
        Ok(recorded) => {
            let problem =
                if half_a_key { Some("has half an idempotency key".to_owned()) } else { differs(stored, &recorded) };
            decoded.push(recorded);
            (Some(decoded.len() - 1), problem)
        }
        Err(error) => {
            let cause = error.source().map_or(String::new(), |cause| format!(": {cause}"));
            (None, Some(format!("{error}{cause}")))
        }
    };
    Ok(ReadEvent { position, stored: Some(stored.into()), recorded, problem })
}

/// What a decoded event would be stored as otherwise than it is.
fn differs(stored: StoredRef<'_>, recorded: &Recorded) -> Option<String> {
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
