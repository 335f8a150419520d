//! The projector's decisions without any I/O: which events are new, what they do to the tables, and where to stop.
//!
//! A shell hands in pages and commits the batches that come out. If a commit fails, the folder has seen events that no table
//! shows: the shell drops it and makes a new one from the store.

use std::collections::HashSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;

use modelfaucet_schema::event::{DecodeError, Recorded};
use modelfaucet_schema::ids::{LogId, Position, ShardId, StreamId};
use modelfaucet_schema::log::read::CheckedPage;
use modelfaucet_schema::log::{Head, TailBatch};

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};

/// Whole batches of the log, decoded, with the head behind each of them.
#[derive(Clone, Debug)]
pub struct Span {
    /// The head that the first event follows.
    pub after: Head,
    /// The heads behind the batches, in order.
    pub links: Vec<Head>,
    /// The events.
    pub events: Vec<Arc<Recorded>>,
}

impl Span {
    /// The head behind the last event.
    pub fn head(&self) -> Head {
        self.links.last().copied().unwrap_or(self.after)
    }

    /// Of batches that follow each other; `None` if there are none.
    pub fn of_tail(batches: &[TailBatch]) -> Option<Self> {
        Some(Self {
            after: batches.first()?.after,
            links: batches.iter().map(|batch| batch.head).collect(),
            events: batches.iter().flat_map(|batch| batch.events.iter().cloned()).collect(),
        })
    }

    /// Without the batches behind `position`.
    pub fn cut(&mut self, position: Position) {
        self.links.retain(|link| link.position <= position);
        let end = self.head().position;
        let keep = self.events.partition_point(|event| event.position <= end);
        self.events.truncate(keep);
    }
}

/// Why a span ends before its page does.
#[derive(Debug, thiserror::Error)]
#[error("position {position}: {source}")]
pub struct Undecodable {
    /// The event's position.
    pub position: Position,
    /// What the decoder says.
    #[source]
    pub source: DecodeError,
}

impl Span {
    /// Decodes a page. At an event that does not decode the span ends, behind the last whole batch before it: nobody can fold
    /// such an event, so everybody stops there.
    pub fn decode(page: &CheckedPage<'_>) -> (Self, Option<Undecodable>) {
        let after = page.after;
        let mut events = Vec::with_capacity(page.events.len());
        for stored in &page.events {
            match stored.decode() {
                Ok(event) => events.push(Arc::new(event)),
                Err(source) => {
                    let position = stored.position;
                    let mut span = Self { after, links: page.links.clone(), events };
                    span.cut(Position(position.0 - 1));
                    return (span, Some(Undecodable { position, source }));
                }
            }
        }
        (Self { after, links: page.links.clone(), events }, None)
    }
}

/// An event that a projection could not apply, or that waits behind one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeadLetter {
    /// The stream that is quarantined.
    pub stream: StreamId,
    /// The event.
    pub position: Position,
    /// Why.
    pub cause: String,
}

/// What a span does to one projection.
#[derive(Debug)]
pub struct Part {
    /// The projection.
    pub name: &'static str,
    /// Its version.
    pub version: i32,
    /// What happens to its tables.
    pub changes: Changes,
    /// Events that it puts aside.
    pub letters: Vec<DeadLetter>,
}

/// What has to be committed in one transaction: all changes, and the checkpoints from `from` to `to`.
#[derive(Debug)]
pub struct Batch {
    /// Where every checkpoint must stand.
    pub from: Head,
    /// Where it stands afterwards.
    pub to: Head,
    /// How many events lie between.
    pub events: usize,
    /// The projections that take part.
    pub parts: Vec<Part>,
}

impl Batch {
    /// Takes the batch that comes behind this one: the two become one.
    ///
    /// # Errors
    /// As [`Changes::keep`].
    pub(crate) fn absorb(&mut self, later: Self) -> Result<(), ApplyError> {
        for (mine, theirs) in self.parts.iter_mut().zip(later.parts) {
            mine.changes.absorb(theirs.changes)?;
            mine.letters.extend(theirs.letters);
        }
        self.to = later.to;
        self.events += later.events;
        Ok(())
    }
}

/// A projection that stops, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Halt {
    /// The projection.
    pub name: &'static str,
    /// Its version.
    pub version: i32,
    /// What an operator reads.
    pub reason: String,
}

/// What came of a span.
#[derive(Debug)]
pub enum Outcome {
    /// Nothing new in it.
    Nothing,
    /// A batch to commit. The projections in `halts` take no part in it and are no longer in the folder.
    Folded {
        /// To commit.
        batch: Batch,
        /// To write down.
        halts: Vec<Halt>,
    },
    /// It begins behind the checkpoint: events are missing.
    Gap {
        /// The position that should come.
        expected: Position,
        /// The position that came.
        found: Position,
    },
    /// It tells another story than the one that was folded.
    Fork {
        /// Where the two differ at the latest.
        at: Position,
    },
}

/// A projection with what it keeps in memory.
pub struct Unit {
    /// The fold.
    pub projection: Box<dyn Projection>,
    /// Streams that wait behind a dead letter.
    pub quarantined: HashSet<StreamId>,
    /// Events that two people have taken off the list of dead letters: another event answers them. Only who checks what was folded
    /// before meets them again.
    pub resolved: HashSet<Position>,
}

impl Unit {
    /// A projection that waits for nothing.
    pub fn new(projection: Box<dyn Projection>) -> Self {
        Self { projection, quarantined: HashSet::new(), resolved: HashSet::new() }
    }
}

/// Projections that stand at the same place in one log and are fed from the same spans.
pub struct Folder {
    /// The shard.
    pub shard: ShardId,
    /// The log that the projections have read so far.
    pub log_id: LogId,
    /// How far. Ahead of the store while a batch is being committed.
    pub at: Head,
    /// The projections.
    pub units: Vec<Unit>,
    /// Events that came twice and were dropped.
    pub duplicates: u64,
}

impl Folder {
    /// A folder at a checkpoint.
    pub fn new(shard: ShardId, log_id: LogId, at: Head, units: Vec<Unit>) -> Self {
        Self { shard, log_id, at, units, duplicates: 0 }
    }

    /// A folder of fresh projections at the beginning of a log.
    pub fn beginning(shard: ShardId, log_id: LogId, projections: Vec<Box<dyn Projection>>) -> Self {
        let units = projections.into_iter().map(Unit::new).collect();
        Self::new(shard, log_id, Head::genesis(log_id, shard), units)
    }

    /// Folds what is new in a span. Events at or before the checkpoint are dropped; a span that does not join on is refused.
    pub fn offer(&mut self, span: &Span) -> Outcome {
        let head = span.head();
        if span.after.position > self.at.position {
            return Outcome::Gap { expected: self.at.position.next(), found: span.after.position.next() };
        }
        if head.position <= self.at.position {
            self.duplicates += span.events.len() as u64;
            let same = std::iter::once(&span.after)
                .chain(&span.links)
                .all(|link| link.position != self.at.position || *link == self.at);
            return if same { Outcome::Nothing } else { Outcome::Fork { at: self.at.position } };
        }
        // The checkpoint must be one of the span's own links, or the span continues another log.
        if span.after != self.at && !span.links.contains(&self.at) {
            return Outcome::Fork { at: self.at.position };
        }
        let known = span.events.partition_point(|event| event.position <= self.at.position);
        self.duplicates += known as u64;
        let events = &span.events[known..];
        if let Some(gap) = self.gap(events, head.position) {
            return gap;
        }
        self.fold(events, head)
    }

    fn gap(&self, events: &[Arc<Recorded>], end: Position) -> Option<Outcome> {
        let mut expected = self.at.position;
        for event in events {
            expected = expected.next();
            if event.position != expected || event.shard != self.shard {
                return Some(Outcome::Gap { expected, found: event.position });
            }
        }
        (expected != end).then(|| Outcome::Gap { expected: expected.next(), found: end })
    }

    fn fold(&mut self, events: &[Arc<Recorded>], to: Head) -> Outcome {
        let mut parts = Vec::with_capacity(self.units.len());
        let mut halts = Vec::new();
        self.units.retain_mut(|unit| match unit.fold_or_halt(events) {
            Ok(part) => {
                parts.push(part);
                true
            }
            Err(halt) => {
                halts.push(halt);
                false
            }
        });
        let batch = Batch { from: self.at, to, events: events.len(), parts };
        self.at = to;
        Outcome::Folded { batch, halts }
    }
}

impl Unit {
    /// As [`Unit::fold`]. A projection that panics halts, whatever it is of: what it has in memory cannot be trusted any more, and
    /// the others must not end with it.
    pub(crate) fn fold_or_halt(&mut self, events: &[Arc<Recorded>]) -> Result<Part, Halt> {
        let mut reached = Position::START;
        let folded = catch_unwind(AssertUnwindSafe(|| self.fold(events, &mut reached)));
        folded.unwrap_or_else(|panic| {
            let text = panic.downcast_ref::<&str>().copied().or(panic.downcast_ref::<String>().map(String::as_str));
            let reason = format!("position {reached}: it panicked: {}", text.unwrap_or("without a word"));
            Err(Halt { name: self.projection.name(), version: self.projection.version(), reason })
        })
    }

    /// `reached` is where it was when it did not return.
    fn fold(&mut self, events: &[Arc<Recorded>], reached: &mut Position) -> Result<Part, Halt> {
        let (name, version) = (self.projection.name(), self.projection.version());
        let mut changes = Changes::new(self.projection.tables());
        let mut letters = Vec::new();
        let halt = |position: Position, cause: &ApplyError| Halt {
            name,
            version,
            reason: format!("position {position}: {cause}"),
        };
        for event in events {
            *reached = event.position;
            if self.resolved.contains(&event.position) {
                continue;
            }
            if !self.quarantined.is_empty() && self.quarantined.contains(&event.stream) {
                let cause = "waits behind an earlier event of its stream".to_owned();
                letters.push(DeadLetter { stream: event.stream, position: event.position, cause });
                continue;
            }
            match self.projection.apply(event, &mut changes) {
                // What cannot be merged has spoilt the whole batch, so there is nothing left to go on with.
                Ok(()) => changes.keep().map_err(|error| halt(event.position, &error))?,
                Err(error) if self.projection.is_money() => return Err(halt(event.position, &error)),
                Err(error) => {
                    changes.discard();
                    self.quarantined.insert(event.stream);
                    letters.push(DeadLetter {
                        stream: event.stream,
                        position: event.position,
                        cause: error.to_string(),
                    });
                }
            }
        }
        self.projection.flush(&mut changes);
        let end = events.last().map_or(Position::START, |event| event.position);
        changes.keep().map_err(|error| halt(end, &error))?;
        Ok(Part { name, version, changes, letters })
    }
}
