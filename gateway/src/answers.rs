//! Stored answers: what a repeat with the same idempotency key gets, byte for byte. The newest are in memory; all of them are kept
//! outside, sealed, where there is such a place. An answer that is nowhere any more is refused, never made again.

mod draft;
mod seal;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http::HeaderMap;
use modelfaucet_schema::ids::{AppId, HoldId};
use parking_lot::Mutex;

pub(crate) use draft::{Draft, Marker};
pub use seal::Sealer;

use crate::port::AnswerStore;

/// How long an answer is kept in memory at most.
const LIFE: Duration = Duration::from_secs(24 * 3_600);
/// A call waits for its answer to be kept no longer than this; then it goes on without.
const KEEP: Duration = Duration::from_millis(500);
/// A repeat waits for its answer so long.
const LOAD: Duration = Duration::from_secs(5);
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

/// Where answers are kept outside, and how they are sealed.
#[derive(Clone)]
pub struct KeptAnswers {
    /// The place.
    pub store: Arc<dyn AnswerStore>,
    /// The seal.
    pub sealer: Sealer,
}

impl std::fmt::Debug for KeptAnswers {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("KeptAnswers").finish_non_exhaustive()
    }
}

/// The answers of this process.
#[derive(Debug)]
pub(crate) struct Answers {
    shelf: Mutex<Shelf>,
    limit: usize,
    kept: Option<KeptAnswers>,
}

impl Answers {
    /// Room for so many bytes in memory, and a place outside.
    pub(crate) fn new(limit: usize, kept: Option<KeptAnswers>) -> Self {
        Self { shelf: Mutex::default(), limit, kept }
    }

    /// Keeps an answer outside before its charge: complete is it only once the charge is in the log. A place that is slow or away
    /// costs the repeat its answer, never the call.
    pub(crate) async fn keep(&self, app: AppId, call: HoldId, draft: &Draft) {
        let Some(kept) = &self.kept else { return };
        let plain = if draft.size() > MAX_ANSWER { None } else { draft.write() };
        let sealed = plain.and_then(|plain| kept.sealer.seal(app, call, plain));
        let outcome = match sealed {
            None => "not_kept",
            Some(sealed) => match tokio::time::timeout(KEEP, kept.store.put(call, sealed)).await {
                Ok(Ok(())) => "kept",
                Ok(Err(error)) => {
                    tracing::warn!(%call, %error, "an answer could not be kept for repeats");
                    "failed"
                }
                Err(_) => {
                    tracing::warn!(%call, "keeping an answer for repeats takes too long");
                    "late"
                }
            },
        };
        metrics::counter!("gateway_answers_kept_total", "outcome" => outcome).increment(1);
    }

    /// An answer that was kept outside.
    pub(crate) async fn load(&self, app: AppId, call: HoldId) -> Option<Draft> {
        let kept = self.kept.as_ref()?;
        let sealed = match tokio::time::timeout(LOAD, kept.store.get(call)).await {
            Ok(Ok(sealed)) => sealed?,
            Ok(Err(error)) => {
                tracing::warn!(%call, %error, "a kept answer cannot be read");
                return None;
            }
            Err(_) => return None,
        };
        let draft = kept.sealer.open(app, call, sealed).and_then(|plain| Draft::read(&plain));
        if draft.is_none() {
            tracing::warn!(%call, "a kept answer is sealed with another key, or damaged");
        }
        draft
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

    /// How much was gathered so far.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
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
        let answers = Answers::new(10_000, None);
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
