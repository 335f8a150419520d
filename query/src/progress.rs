//! How far the projections are, and waiting for them.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{Position, ShardId};
use serde::{Serialize, Serializer};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::Row;

use crate::error::QueryError;
use crate::pooled::ANSWER;
use crate::sql;
use crate::state::QueryState;

/// How often the checkpoints are read while anybody waits; however many wait, once.
const POLL: Duration = Duration::from_millis(10);

/// Positions by shard. Printed as `812` where there is one shard, else as `s00:812,s07:1190774`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct AsOf(BTreeMap<ShardId, Position>);

impl fmt::Display for AsOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.len() < 2 {
            return self.0.values().next().copied().unwrap_or_default().fmt(f);
        }
        for (index, (shard, position)) in self.0.iter().enumerate() {
            let comma = if index > 0 { "," } else { "" };
            write!(f, "{comma}{shard}:{position}")?;
        }
        Ok(())
    }
}

impl Serialize for AsOf {
    /// `{"s00":812}`, as every report prints it.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_map(self.0.iter().map(|(shard, position)| (shard.to_string(), position)))
    }
}

impl FromIterator<(ShardId, Position)> for AsOf {
    /// The lowest position of each shard.
    fn from_iter<T: IntoIterator<Item = (ShardId, Position)>>(iter: T) -> Self {
        let mut lowest = BTreeMap::new();
        for (shard, position) in iter {
            lowest.entry(shard).and_modify(|low: &mut Position| *low = position.min(*low)).or_insert(position);
        }
        Self(lowest)
    }
}

/// Checkpoints of some projections at one moment, by shard.
#[derive(Clone, Debug, Default)]
pub(crate) struct Marks {
    wanted: usize,
    by_shard: BTreeMap<ShardId, Shard>,
}

#[derive(Clone, Debug, Default)]
struct Shard {
    head: Position,
    checkpoints: Vec<Position>,
}

impl Marks {
    /// Of `projections`, out of all checkpoints.
    pub(crate) fn of(projections: &[&str], checkpoints: &[Checkpoint]) -> Self {
        let mut by_shard: BTreeMap<ShardId, Shard> = BTreeMap::new();
        for checkpoint in checkpoints {
            let shard = by_shard.entry(checkpoint.shard).or_default();
            shard.head = checkpoint.head;
            if let Some((name, position)) = &checkpoint.reached
                && projections.contains(&name.as_str())
            {
                shard.checkpoints.push(*position);
            }
        }
        Self { wanted: projections.len(), by_shard }
    }

    /// What all of the projections have of a shard; nothing, if one of them has not begun.
    fn reached(&self, shard: &Shard) -> Position {
        let lowest = shard.checkpoints.iter().min().copied().unwrap_or_default();
        if shard.checkpoints.len() < self.wanted { Position::START } else { lowest }
    }

    pub(crate) fn as_of(&self) -> AsOf {
        AsOf(self.by_shard.iter().map(|(id, shard)| (*id, self.reached(shard))).collect())
    }

    pub(crate) fn is_level(&self) -> bool {
        self.by_shard.values().all(|shard| {
            shard.checkpoints.len() == self.wanted
                && shard.checkpoints.iter().all(|position| *position == self.reached(shard))
        })
    }

    /// Is what some log has at `position` in the read tables, whichever log is meant? A log that ends before it has nothing there.
    fn has(&self, position: Position) -> bool {
        let reached = || self.by_shard.values().map(|shard| (self.reached(shard), shard.head));
        reached().any(|(reached, _)| reached >= position)
            && reached().all(|(reached, head)| reached >= position || reached >= head)
    }

    /// Are the read tables as far as the logs were at `earlier`?
    fn has_heads_of(&self, earlier: &Self) -> bool {
        earlier
            .by_shard
            .iter()
            .all(|(id, then)| self.by_shard.get(id).is_some_and(|now| self.reached(now) >= then.head))
    }
}

/// What all who wait share: one look at the checkpoints serves them all.
#[derive(Default)]
pub(crate) struct Progress(Mutex<Option<Look>>);

struct Look {
    began: Instant,
    checkpoints: Arc<[Checkpoint]>,
}

/// How far a live projection is.
#[derive(Clone, Debug)]
pub(crate) struct Checkpoint {
    shard: ShardId,
    head: Position,
    /// None for a shard that no projection has begun to read.
    reached: Option<(String, Position)>,
}

impl Checkpoint {
    /// Rows of `checkpoints.sql`.
    pub(crate) fn read(rows: &[Row]) -> Result<Vec<Self>, QueryError> {
        let checkpoint = |row: &Row| {
            let name: Option<String> = row.try_get(2)?;
            let position: Option<i64> = row.try_get(3)?;
            let reached = name.zip(position.map(Position));
            Ok(Self { shard: ShardId(row.try_get(0)?), head: Position(row.try_get(1)?), reached })
        };
        rows.iter().map(checkpoint).collect()
    }
}

impl Progress {
    /// Checkpoints as they were at `not_before` or later.
    async fn look(&self, state: &QueryState, not_before: Instant) -> Result<Arc<[Checkpoint]>, QueryError> {
        let mut look = self.0.lock().await;
        if let Some(look) = look.as_ref().filter(|look| look.began >= not_before) {
            return Ok(Arc::clone(&look.checkpoints));
        }
        let began = Instant::now();
        let client = state.client().await?;
        let asked = async {
            let statement = client.prepare_cached(sql::CHECKPOINTS).await?;
            client.query(&statement, &[]).await
        };
        let rows = client.pending().answer(ANSWER, asked).await?;
        let checkpoints: Arc<[Checkpoint]> = Checkpoint::read(&rows)?.into();
        *look = Some(Look { began, checkpoints: Arc::clone(&checkpoints) });
        Ok(checkpoints)
    }

    async fn marks(&self, state: &QueryState, projections: &[&str], not_before: Instant) -> Result<Marks, QueryError> {
        Ok(Marks::of(projections, &self.look(state, not_before).await?))
    }

    /// Waits until `enough`; the marks then, or the last ones before the deadline as an error.
    async fn wait(
        &self,
        state: &QueryState,
        projections: &[&str],
        enough: impl Fn(&Marks) -> bool,
    ) -> Result<Result<Marks, Marks>, QueryError> {
        let deadline = Instant::now() + state.options().max_wait;
        loop {
            let now = Instant::now();
            let marks = self.marks(state, projections, now.checked_sub(POLL).unwrap_or(now)).await?;
            if enough(&marks) {
                return Ok(Ok(marks));
            }
            if Instant::now() >= deadline {
                return Ok(Err(marks));
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// Waits until `projections` have everything that the log has at this moment.
    pub(crate) async fn catch_up(&self, state: &QueryState, projections: &[&str]) -> Result<(), QueryError> {
        let target = self.marks(state, projections, Instant::now()).await?;
        match self.wait(state, projections, |marks| marks.has_heads_of(&target)).await? {
            Ok(_) => Ok(()),
            Err(marks) => Err(behind(&marks.as_of(), None).into()),
        }
    }
}

/// 503: the read tables are at `as_of`, which is too early.
pub(crate) fn behind(as_of: &AsOf, wanted: Option<Position>) -> ApiError {
    let details = serde_json::json!({ "ledger_position": as_of.to_string(), "min_position": wanted });
    ApiError::unavailable("projection_behind", "The read tables have not reached the position yet.").details(details)
}

/// What position a reader asks for, and whether an older answer will do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) min_position: Option<Position>,
    pub(crate) stale: bool,
}

impl At {
    /// Waits for the position, if there is one to wait for.
    pub(crate) async fn wait(&self, state: &QueryState, projections: &[&str]) -> Result<(), QueryError> {
        let Some(position) = self.min_position.filter(|_| !self.stale) else { return Ok(()) };
        match state.progress().wait(state, projections, |marks| marks.has(position)).await? {
            Ok(_) => Ok(()),
            Err(marks) => Err(behind(&marks.as_of(), Some(position)).into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marks(shards: &[(i64, &[i64])]) -> Marks {
        let shard = |(head, checkpoints): &(i64, &[i64])| Shard {
            head: Position(*head),
            checkpoints: checkpoints.iter().copied().map(Position).collect(),
        };
        Marks { wanted: 2, by_shard: (0..).map(ShardId).zip(shards.iter().map(shard)).collect() }
    }

    #[test]
    fn an_answer_is_as_of_what_all_projections_have() {
        for (shards, text) in [
            (&[][..], "0"),
            (&[(9, &[7, 8][..])][..], "7"),
            (&[(9, &[7])], "0"),
            (&[(9, &[7, 7]), (3, &[3, 2])], "s00:7,s01:2"),
        ] {
            assert_eq!(marks(shards).as_of().to_string(), text);
        }
    }

    #[test]
    fn a_position_is_there_once_no_log_can_hide_it() {
        let has = |position, shards| marks(shards).has(Position(position));
        assert!(has(7, &[(9, &[7, 8])]));
        assert!(!has(8, &[(9, &[7, 8])]));
        assert!(!has(10, &[(9, &[9, 9])]), "the log does not have it either");
        assert!(has(7, &[(9, &[7, 7]), (3, &[3, 3])]), "the second log ends before it");
        assert!(!has(7, &[(9, &[7, 7]), (8, &[3, 3])]), "the second log may have meant something else there");
    }

    #[test]
    fn level_means_one_position() {
        assert!(marks(&[(9, &[7, 7])]).is_level());
        assert!(!marks(&[(9, &[7, 8])]).is_level());
        assert!(!marks(&[(9, &[7])]).is_level());
    }

    #[test]
    fn catching_up_is_measured_against_earlier_heads() {
        let then = marks(&[(9, &[7, 7])]);
        assert!(marks(&[(12, &[9, 10])]).has_heads_of(&then));
        assert!(!marks(&[(12, &[8, 10])]).has_heads_of(&then));
    }
}
