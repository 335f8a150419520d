//! The hash chain. Each append is one link: SHA-256 over the link before it and the canonical bytes of its events.
//!
//! Canonical bytes cover every stored column; every variable part is preceded by its length (4 bytes, big endian), so no two
//! different batches share their bytes.

use sha2::{Digest, Sha256};

use crate::event::StoredRef;
use crate::ids::{BatchId, LogId, Position, ShardId};
use crate::time::Timestamp;

/// A link of the chain: 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// The link before the first batch of a log.
    pub fn genesis(log: LogId, shard: ShardId) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"modelfaucet.log.v1");
        digest.update(log.0.as_bytes());
        digest.update(shard.0.to_be_bytes());
        Self(digest.finalize().into())
    }

    /// Reads 32 bytes.
    pub fn from_slice(bytes: &[u8]) -> Option<Self> {
        bytes.try_into().ok().map(Self)
    }
}

impl std::fmt::Display for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl std::fmt::Debug for ChainHash {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{self}")
    }
}

/// Computes the link of one batch, event by event.
pub struct BatchHasher {
    digest: Sha256,
    buffer: Vec<u8>,
}

impl BatchHasher {
    /// Begins the link behind `previous`.
    pub fn new(
        previous: ChainHash,
        shard: ShardId,
        first: Position,
        last: Position,
        batch: BatchId,
        recorded_at: Timestamp,
    ) -> Self {
        let mut digest = Sha256::new();
        digest.update(b"modelfaucet.batch.v1");
        digest.update(previous.0);
        digest.update(shard.0.to_be_bytes());
        digest.update(first.0.to_be_bytes());
        digest.update(last.0.to_be_bytes());
        digest.update(batch.0.as_bytes());
        digest.update(recorded_at.micros().to_be_bytes());
        Self { digest, buffer: Vec::with_capacity(2_048) }
    }

    /// Adds the next event.
    pub fn event<'a>(&mut self, event: impl Into<StoredRef<'a>>) {
        self.buffer.clear();
        canonical_bytes(event.into(), &mut self.buffer);
        self.digest.update(length(self.buffer.len()));
        self.digest.update(&self.buffer);
    }

    /// The link.
    pub fn finish(self) -> ChainHash {
        ChainHash(self.digest.finalize().into())
    }
}

/// Appends the canonical bytes of an event: every column, numbers big endian, texts and bytes behind their length.
pub fn canonical_bytes(event: StoredRef<'_>, out: &mut Vec<u8>) {
    let text = |out: &mut Vec<u8>, part: &[u8]| {
        out.extend_from_slice(&length(part.len()));
        out.extend_from_slice(part);
    };
    out.extend_from_slice(&event.shard.0.to_be_bytes());
    out.extend_from_slice(&event.position.0.to_be_bytes());
    text(out, event.stream.as_bytes());
    out.extend_from_slice(&event.stream_seq.to_be_bytes());
    text(out, event.name.as_bytes());
    out.extend_from_slice(&event.version.to_be_bytes());
    out.extend_from_slice(&event.recorded_at.micros().to_be_bytes());
    text(out, event.actor.as_bytes());
    text(out, event.request_id.as_bytes());
    match event.key {
        None => out.push(0),
        Some(used) => {
            out.push(1);
            out.extend_from_slice(used.key.as_bytes());
            out.extend_from_slice(used.fingerprint.as_bytes());
        }
    }
    text(out, event.payload);
}

/// Lengths are below 4 GiB by the limits of the API.
fn length(bytes: usize) -> [u8; 4] {
    u32::try_from(bytes).unwrap_or(u32::MAX).to_be_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{KeyUse, StoredEvent};
    use uuid::Uuid;

    fn event() -> StoredEvent {
        StoredEvent {
            shard: ShardId(0),
            position: Position(7),
            stream: "wallet:a".into(),
            stream_seq: 3,
            name: "HoldPlaced".into(),
            version: 1,
            recorded_at: Timestamp::from_micros(5),
            actor: "admin".into(),
            request_id: "r".into(),
            key: Some(KeyUse { key: Uuid::from_u128(1), fingerprint: Uuid::from_u128(2) }),
            payload: b"{}".to_vec(),
        }
    }

    fn bytes(event: &StoredEvent) -> Vec<u8> {
        let mut out = Vec::new();
        canonical_bytes(event.into(), &mut out);
        out
    }

    #[test]
    fn every_column_changes_the_bytes() {
        let base = bytes(&event());
        let changes: [fn(&mut StoredEvent); 11] = [
            |e| e.shard = ShardId(1),
            |e| e.position = Position(8),
            |e| e.stream.push('b'),
            |e| e.stream_seq += 1,
            |e| e.name.push('2'),
            |e| e.version = 2,
            |e| e.recorded_at = Timestamp::from_micros(6),
            |e| e.actor = "clock".into(),
            |e| e.request_id = String::new(),
            |e| e.key = None,
            |e| e.payload.push(b' '),
        ];
        for change in changes {
            let mut changed = event();
            change(&mut changed);
            assert_ne!(bytes(&changed), base, "{changed:?}");
        }
    }

    #[test]
    fn moving_a_character_between_neighbouring_columns_changes_the_bytes() {
        let (mut left, mut right) = (event(), event());
        (left.actor, left.request_id) = ("ab".into(), "c".into());
        (right.actor, right.request_id) = ("a".into(), "bc".into());
        assert_ne!(bytes(&left), bytes(&right));
    }

    #[test]
    fn the_link_depends_on_what_came_before() {
        let log = LogId(Uuid::from_u128(9));
        let link = |previous, at| {
            BatchHasher::new(previous, ShardId(0), Position(1), Position(1), BatchId(Uuid::nil()), at).finish()
        };
        let start = ChainHash::genesis(log, ShardId(0));
        assert_ne!(start, ChainHash::genesis(log, ShardId(1)));
        let at = Timestamp::from_micros(1);
        assert_ne!(link(start, at), link(ChainHash([0; 32]), at));
        assert_ne!(link(start, at), link(start, Timestamp::from_micros(2)));
    }
}
