//! The log: append by one, read by many, changed by nobody.
//!
//! [`append`] writes a batch in one round trip, [`read`] reads whole batches in order and halts on a gap or a wrong hash,
//! [`access`] records who looked, [`connection`] reaches the database, [`tail`] keeps the newest batches in memory for readers in the writer's process, [`lineage`] knows the ids that a log has had, [`migrate`] sets up the database, [`boot`] refuses a server or role that would not keep the promises.

pub mod access;
pub mod append;
pub mod boot;
pub mod connection;
pub mod lineage;
pub mod migrate;
pub mod read;
mod row;
pub mod tail;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

pub use access::{Access, AccessError, AccessKind, AccessLog};
pub use append::{AppendBatch, AppendError, Appended, LogAppender};
pub use lineage::{Line, Lineage, Seen, Stranger};
pub use read::{LogReader, Page, ReadError};
pub use row::EventRow;
pub use tail::{Tail, TailBatch};

use crate::hash::ChainHash;
use crate::ids::{LogId, Position, ShardId};
use crate::time::Timestamp;

/// The end of a log as somebody has seen it: a position and the link of the chain there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Head {
    /// The last position.
    pub position: Position,
    /// The link of the batch that ends there.
    pub hash: ChainHash,
}

impl Head {
    /// Before the first event of a log.
    pub fn genesis(log: LogId, shard: ShardId) -> Self {
        Self { position: Position::START, hash: ChainHash::genesis(log, shard) }
    }
}

/// The most events that one append carries; readers read whole appends, so their pages are at least this large.
pub const MAX_BATCH_EVENTS: usize = 4_096;

/// A time for the database driver.
pub fn to_system_time(time: Timestamp) -> SystemTime {
    let micros = time.micros();
    let distance = Duration::from_micros(micros.unsigned_abs());
    if micros >= 0 { UNIX_EPOCH + distance } else { UNIX_EPOCH - distance }
}

/// A time from the database driver.
pub fn from_system_time(time: SystemTime) -> Timestamp {
    let micros = |distance: Duration| i64::try_from(distance.as_micros()).unwrap_or(i64::MAX);
    Timestamp::from_micros(match time.duration_since(UNIX_EPOCH) {
        Ok(after) => micros(after),
        Err(before) => micros(before.duration()).saturating_neg(),
    })
}
