//! A row of `ledger.event`, as every reader of whole events selects it.

use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::from_system_time;
use crate::event::{KeyUse, StoredEvent, StoredRef};
use crate::ids::{Position, ShardId};

/// An event as it is stored, and whether its row has half an idempotency key, which nothing writes.
#[derive(Clone, Copy, Debug)]
pub struct EventRow<'a> {
    /// The event; without a key where the row has half of one.
    pub event: StoredRef<'a>,
    /// Has it a key without a fingerprint, or the other way round?
    pub half_a_key: bool,
}

impl<'a> EventRow<'a> {
    /// Reads the columns position, stream, `stream_seq`, type, version, `recorded_at`, actor, `request_id`, key, fingerprint, payload, in this
    /// order. Nothing is copied.
    ///
    /// # Errors
    /// A column that is missing, of another type, or null where it must not be.
    pub fn read(shard: ShardId, row: &'a Row) -> Result<Self, Error> {
        let (key, fingerprint) = (row.try_get::<_, Option<Uuid>>(8)?, row.try_get::<_, Option<Uuid>>(9)?);
        let event = StoredRef {
            shard,
            position: Position(row.try_get(0)?),
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
        Ok(Self { event, half_a_key: key.is_some() != fingerprint.is_some() })
    }

    /// As [`EventRow::read`], the event alone and on its own.
    ///
    /// # Errors
    /// As [`EventRow::read`].
    pub fn stored(shard: ShardId, row: &Row) -> Result<StoredEvent, Error> {
        Ok(EventRow::read(shard, row)?.event.into())
    }
}
