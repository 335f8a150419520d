//! The stored form of a mirrored batch.

use std::io;

use modelfaucet_schema::event::{KeyUse, StoredEvent};
use modelfaucet_schema::ids::{BatchId, LogId, Position, ShardId};
use modelfaucet_schema::log::{AppendBatch, Head, from_system_time};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use tokio_postgres::Row;
use uuid::Uuid;

use crate::heads;

/// One batch.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Line {
    log_id: LogId,
    shard: ShardId,
    /// The position before its first event.
    after: Position,
    /// The link there, in hexadecimal.
    previous: String,
    batch_id: BatchId,
    recorded_at: Timestamp,
    /// Its own link.
    hash: String,
    events: Vec<LineEvent>,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct LineEvent {
    stream: String,
    stream_seq: i64,
    #[serde(rename = "type")]
    name: String,
    version: i16,
    actor: String,
    request_id: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Uuid>,
    /// The exact text that was hashed.
    payload: String,
}

impl Line {
    pub(super) fn of(log_id: LogId, shard: ShardId, batch: &AppendBatch) -> Self {
        let event = |event: &StoredEvent| LineEvent {
            stream: event.stream.clone(),
            stream_seq: event.stream_seq,
            name: event.name.clone(),
            version: event.version,
            actor: event.actor.clone(),
            request_id: event.request_id.clone(),
            key: event.key.map(|used| used.key),
            fingerprint: event.key.map(|used| used.fingerprint),
            payload: String::from_utf8_lossy(&event.payload).into_owned(),
        };
        Self {
            log_id,
            shard,
            after: batch.previous().position,
            previous: batch.previous().hash.to_string(),
            batch_id: batch.id(),
            recorded_at: batch.recorded_at(),
            hash: batch.head().hash.to_string(),
            events: batch.events().iter().map(event).collect(),
        }
    }

    /// The line with its end.
    pub(super) fn text(&self) -> io::Result<String> {
        let mut text = serde_json::to_string(self)?;
        text.push('\n');
        // Payloads are JSON, so they are text; a line that would not come back is not written.
        match Self::parse(&text).and_then(|line| line.batch(self.shard)) {
            Some(_) => Ok(text),
            None => Err(io::Error::other(format!("the batch behind position {} is not text", self.after))),
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str(text).ok()
    }

    /// The batch, if it hashes to its link.
    pub(super) fn batch(self, shard: ShardId) -> Option<AppendBatch> {
        let previous = Head { position: self.after, hash: heads::parse_hash(&self.previous)? };
        let event = |(index, event): (usize, LineEvent)| {
            let key = match (event.key, event.fingerprint) {
                (Some(key), Some(fingerprint)) => Some(KeyUse { key, fingerprint }),
                _ => None,
            };
            StoredEvent {
                shard: self.shard,
                position: self.after.plus(index + 1),
                stream: event.stream,
                stream_seq: event.stream_seq,
                name: event.name,
                version: event.version,
                recorded_at: self.recorded_at,
                actor: event.actor,
                request_id: event.request_id,
                key,
                payload: event.payload.into_bytes(),
            }
        };
        let events = self.events.into_iter().enumerate().map(event).collect();
        let batch = AppendBatch::seal(self.shard, previous, self.batch_id, self.recorded_at, events);
        (self.shard == shard && batch.head().hash.to_string() == self.hash).then_some(batch)
    }
}

/// The batch of a row of `sql/links.sql`, hashed again behind `after`; whoever reads it compares its head with the row's.
pub(super) fn sealed(shard: ShardId, after: Head, link: &Row, events: Vec<StoredEvent>) -> AppendBatch {
    AppendBatch::seal(shard, after, BatchId(link.get(2)), from_system_time(link.get(5)), events)
}
