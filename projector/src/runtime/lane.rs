//! Projections that stand at the same place: read, decoded and folded together.

use std::mem;

use modelfaucet_schema::ids::{LogId, Position, ShardId};
use tokio::task::spawn_blocking;

use crate::feed::{Feed, HEAVY, join};
use crate::fold::{Folder, Halt, Outcome, Span, Undecodable};
use crate::series::Series;
use crate::store::Commit;

/// What one projection shows of itself.
pub(super) struct Shown {
    pub(super) name: &'static str,
    pub(super) version: i32,
    pub(super) at: Position,
    pub(super) series: Series,
}

/// What came of a span, ready to be sent.
pub(super) enum Folded {
    Nothing,
    Batch { commit: Option<Box<Commit>>, halts: Vec<Halt>, letters: Vec<(&'static str, usize)> },
    Stop(String),
}

/// Projections at the same place, and where they read.
pub(super) struct Lane {
    pub(super) folder: Folder,
    pub(super) feed: Feed,
    pub(super) series: Vec<Shown>,
    /// Why they cannot go on behind what was read.
    pub(super) broken: Option<Undecodable>,
}

impl Lane {
    /// Folds a span. A large one is folded on a thread of its own.
    pub(super) async fn fold(&mut self, span: Span) -> Folded {
        let (shard, log_id) = (self.folder.shard, self.folder.log_id);
        let empty = Folder::new(shard, log_id, self.folder.at, Vec::new());
        let mut folder = mem::replace(&mut self.folder, empty);
        let heavy = span.events.len() >= HEAVY;
        let work = move || {
            let outcome = prepare(folder.offer(&span), shard, log_id);
            (folder, outcome)
        };
        let (mut folder, outcome) = if heavy { join(&mut spawn_blocking(work)).await } else { work() };
        let duplicates = mem::take(&mut folder.duplicates);
        self.series.iter().for_each(|shown| shown.series.duplicates.increment(duplicates));
        self.folder = folder;
        outcome
    }
}

fn prepare(outcome: Outcome, shard: ShardId, log_id: LogId) -> Folded {
    match outcome {
        Outcome::Nothing => Folded::Nothing,
        Outcome::Folded { batch, halts } => {
            let letters = batch.parts.iter().map(|part| (part.name, part.letters.len())).collect();
            let commit = (!batch.parts.is_empty()).then(|| Box::new(Commit::new(shard, log_id, batch)));
            Folded::Batch { commit, halts, letters }
        }
        Outcome::Gap { expected, found } => {
            Folded::Stop(format!("position {found} came where {expected} was expected"))
        }
        Outcome::Fork { at } => Folded::Stop(format!("the log tells another story at position {at}")),
    }
}
