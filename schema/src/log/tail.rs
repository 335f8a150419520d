//! The newest batches of a log in memory: what a writer has appended, for readers in the same process.
//!
//! Only an offer: a reader that does not find its place here, because it is behind, or because another writer has appended,
//! reads from the database instead. A place is a head, position and hash, so batches of another log never join on.

use std::collections::VecDeque;
use std::sync::Arc;

use parking_lot::Mutex;

use super::Head;
use crate::event::Recorded;

/// Events that are kept at the most, whole batches: about 15 MB.
const KEPT: usize = 8_192;

/// A batch that is in the log.
#[derive(Clone, Debug)]
pub struct TailBatch {
    /// The head that it follows.
    pub after: Head,
    /// The head behind it.
    pub head: Head,
    /// Its events.
    pub events: Arc<[Arc<Recorded>]>,
}

/// The newest batches of one shard. Shared by reference.
#[derive(Debug, Default)]
pub struct Tail(Mutex<Kept>);

#[derive(Debug, Default)]
struct Kept {
    batches: VecDeque<TailBatch>,
    events: usize,
}

impl Tail {
    /// Takes in a batch after its commit is known.
    pub fn push(&self, batch: TailBatch) {
        let mut kept = self.0.lock();
        let joins = kept.batches.back().is_none_or(|last| last.head == batch.after);
        if !joins {
            *kept = Kept::default();
        }
        kept.events += batch.events.len();
        kept.batches.push_back(batch);
        while kept.events > KEPT && kept.batches.len() > 1 {
            let oldest = kept.batches.pop_front().map_or(0, |oldest| oldest.events.len());
            kept.events -= oldest;
        }
    }

    /// Forgets everything.
    pub fn clear(&self) {
        *self.0.lock() = Kept::default();
    }

    /// The batches that follow `at`, in order; none if this place is not known here, or is the end.
    pub fn behind(&self, at: Head) -> Vec<TailBatch> {
        let kept = self.0.lock();
        // Whoever follows closely is near the end.
        let place = kept.batches.iter().rposition(|batch| batch.after == at);
        place.map_or_else(Vec::new, |place| kept.batches.range(place..).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::event::{Actor, Event, TopUpFailed};
    use crate::hash::ChainHash;
    use crate::ids::{Position, ShardId, TopUpId, WalletId};
    use crate::time::Timestamp;
    use uuid::Uuid;

    fn head(position: i64, story: u8) -> Head {
        Head { position: Position(position), hash: ChainHash([story; 32]) }
    }

    fn batch(from: i64, to: i64, story: u8) -> TailBatch {
        let (top_up_id, wallet_id) = (TopUpId(Uuid::nil()), WalletId(Uuid::nil()));
        let event = Event::from(TopUpFailed { top_up_id, wallet_id, reason: String::new() });
        let recorded = |position| {
            Arc::new(Recorded {
                shard: ShardId(0),
                position: Position(position),
                stream: event.stream(),
                stream_seq: position,
                recorded_at: Timestamp::from_micros(0),
                actor: Actor::Clock,
                request_id: "".into(),
                key: None,
                event: event.clone(),
            })
        };
        TailBatch { after: head(from, story), head: head(to, story), events: (from + 1..=to).map(recorded).collect() }
    }

    fn positions(batches: &[TailBatch]) -> Vec<i64> {
        batches.iter().flat_map(|batch| batch.events.iter().map(|event| event.position.0)).collect()
    }

    #[test]
    fn a_reader_gets_what_follows_its_place_and_nothing_if_the_place_is_unknown() {
        let tail = Tail::default();
        tail.push(batch(0, 2, 1));
        tail.push(batch(2, 3, 1));
        assert_eq!(positions(&tail.behind(head(0, 1))), [1, 2, 3]);
        assert_eq!(positions(&tail.behind(head(2, 1))), [3]);
        for unknown in [head(3, 1), head(1, 1), head(2, 2), head(9, 1)] {
            assert!(tail.behind(unknown).is_empty(), "{unknown:?}");
        }
    }

    #[test]
    fn behind_a_gap_or_a_fork_it_begins_anew() {
        for stranger in [batch(4, 5, 1), batch(2, 3, 2)] {
            let tail = Tail::default();
            tail.push(batch(0, 2, 1));
            let (after, expected) = (stranger.after, positions(std::slice::from_ref(&stranger)));
            tail.push(stranger);
            assert!(tail.behind(head(0, 1)).is_empty());
            assert_eq!(positions(&tail.behind(after)), expected);
        }
    }

    #[test]
    fn old_batches_go() {
        let tail = Tail::default();
        let size = i64::try_from(KEPT).unwrap() / 4;
        for number in 0..6 {
            tail.push(batch(number * size, (number + 1) * size, 1));
        }
        assert!(tail.behind(head(0, 1)).is_empty());
        assert_eq!(tail.behind(head(2 * size, 1)).len(), 4);
    }
}
