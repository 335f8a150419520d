//! Numbers within streams, and time: both only go up.

use std::collections::HashMap;

use modelfaucet_schema::event::{Event, Recorded};
use modelfaucet_schema::ids::{ShardId, StreamId};
use modelfaucet_schema::time::Timestamp;

use super::report::{Check, Findings};

/// What has been seen of one shard.
pub(super) struct Order {
    shard: ShardId,
    /// The last number of each stream that may go on; `None` where the beginning of the log was not read.
    seqs: Option<HashMap<StreamId, i64>>,
    recorded_at: Option<Timestamp>,
}

impl Order {
    pub(super) fn new(shard: ShardId, from_the_beginning: bool) -> Self {
        Self { shard, seqs: from_the_beginning.then(HashMap::new), recorded_at: None }
    }

    /// Takes the time of the next row, whatever else is in it.
    pub(super) fn time(&mut self, position: i64, recorded_at: Timestamp, findings: &mut Findings) {
        if self.recorded_at.is_some_and(|before| recorded_at < before) {
            findings.add(Check::Times, self.shard, (position, position), "was recorded before the event before it");
        }
        self.recorded_at = Some(recorded_at);
        findings.checked(Check::Times, 1);
    }

    /// Takes the next event.
    pub(super) fn event(&mut self, recorded: &Recorded, findings: &mut Findings) {
        let Some(seqs) = &mut self.seqs else { return };
        findings.checked(Check::Streams, 1);
        let last = seqs.entry(recorded.stream).or_default();
        let expected = last.saturating_add(1);
        *last = recorded.stream_seq;
        if recorded.stream_seq != expected {
            let at = recorded.position.0;
            let what =
                format!("is number {} of {}, after number {}", recorded.stream_seq, recorded.stream, expected - 1);
            findings.add(Check::Streams, self.shard, (at, at), what);
        }
        // Sessions end, and then nothing more is said about them; the writer forgets their numbers as well.
        if matches!(recorded.event, Event::SessionRevoked(_) | Event::SessionExpired(_)) {
            seqs.remove(&recorded.stream);
        }
    }
}
