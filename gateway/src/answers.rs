//! Stored answers: what a repeat with the same idempotency key gets, byte for byte. In memory and bounded; an answer that is no
//! longer here is refused, never made again.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use modelfaucet_schema::ids::HoldId;
use parking_lot::Mutex;

/// How long an answer is kept at most.
const LIFE: Duration = Duration::from_secs(24 * 3_600);
/// The largest answer that is kept.
pub(crate) const MAX_ANSWER: usize = 4 << 20;

/// An answer as it went out.
#[derive(Clone, Debug)]
pub(crate) struct Stored {
    /// Its headers.
    pub(crate) headers: HeaderMap,
    /// The pieces of a stream, or the one piece of another answer.
    pub(crate) pieces: Vec<Bytes>,
    /// Was it a stream?
    pub(crate) stream: bool,
}

impl Stored {
    fn size(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum::<usize>() + 1_024
    }
}

#[derive(Debug, Default)]
struct Shelf {
    answers: HashMap<HoldId, (Arc<Stored>, Instant)>,
    order: VecDeque<HoldId>,
    bytes: usize,
}

/// The answers of this process.
#[derive(Debug)]
pub(crate) struct Answers {
    shelf: Mutex<Shelf>,
    limit: usize,
}

impl Answers {
    /// Room for so many bytes.
    pub(crate) fn new(limit: usize) -> Self {
        Self { shelf: Mutex::default(), limit }
    }

    /// Keeps the answer of a call; the oldest make room.
    pub(crate) fn put(&self, call: HoldId, stored: Stored) {
        let size = stored.size();
        if size > MAX_ANSWER.min(self.limit) {
            return;
        }
        let mut shelf = self.shelf.lock();
        if shelf.answers.insert(call, (Arc::new(stored), Instant::now())).is_none() {
            shelf.order.push_back(call);
            shelf.bytes += size;
        }
        while shelf.bytes > self.limit
            && let Some(oldest) = shelf.order.pop_front()
        {
            if let Some((gone, _)) = shelf.answers.remove(&oldest) {
                shelf.bytes = shelf.bytes.saturating_sub(gone.size());
            }
        }
    }

    /// The answer of a call, if it is still here.
    pub(crate) fn get(&self, call: HoldId) -> Option<Arc<Stored>> {
        let shelf = self.shelf.lock();
        let (stored, since) = shelf.answers.get(&call)?;
        (since.elapsed() < LIFE).then(|| Arc::clone(stored))
    }
}

/// Gathers an answer while it passes, if it is to be kept.
#[derive(Debug, Default)]
pub(crate) struct Recorder {
    pieces: Vec<Bytes>,
    bytes: usize,
    on: bool,
}

impl Recorder {
    /// One that gathers, or one that does not.
    pub(crate) fn new(on: bool) -> Self {
        Self { pieces: Vec::new(), bytes: 0, on }
    }

    /// A piece passes.
    pub(crate) fn add(&mut self, piece: &Bytes) {
        if !self.on {
            return;
        }
        self.bytes += piece.len();
        if self.bytes > MAX_ANSWER {
            *self = Self::default();
        } else {
            self.pieces.push(piece.clone());
        }
    }

    /// What was gathered, if all of it was.
    pub(crate) fn finish(self) -> Option<Vec<Bytes>> {
        self.on.then_some(self.pieces)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(bytes: usize) -> Stored {
        Stored { headers: HeaderMap::new(), pieces: vec![Bytes::from(vec![b'x'; bytes])], stream: false }
    }

    #[test]
    fn the_oldest_make_room() {
        let answers = Answers::new(10_000);
        let calls: Vec<_> = (0..5).map(|_| HoldId::generate()).collect();
        for call in &calls {
            answers.put(*call, stored(2_000));
        }
        let kept: Vec<_> = calls.iter().map(|call| answers.get(*call).is_some()).collect();
        assert_eq!(kept, [false, false, true, true, true]);
        let large = HoldId::generate();
        answers.put(large, stored(20_000));
        assert!(answers.get(large).is_none() && answers.get(calls[4]).is_some());
    }

    #[test]
    fn a_recorder_keeps_all_or_nothing() {
        let piece = Bytes::from(vec![0; MAX_ANSWER / 2]);
        let mut recorder = Recorder::new(true);
        recorder.add(&piece);
        recorder.add(&piece);
        assert_eq!(recorder.finish().unwrap().len(), 2);
        let mut recorder = Recorder::new(true);
        (0..3).for_each(|_| recorder.add(&piece));
        assert!(recorder.finish().is_none());
        let mut recorder = Recorder::new(false);
        recorder.add(&piece);
        assert!(recorder.finish().is_none());
    }
}
