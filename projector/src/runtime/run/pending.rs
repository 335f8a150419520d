//! The commit on its way. While the database works on it the next span is folded; what is behind it is not known before it has ended.

use std::time::Instant;

use modelfaucet_schema::log::Head;
use tokio::task::JoinHandle;
use tokio_postgres::error::SqlState;
use tracing::{error, info, warn};

use super::Run;
use crate::feed::join;
use crate::fold::Halt;
use crate::runtime::Progress;
use crate::runtime::lane::Shown;
use crate::runtime::shard::Ended;
use crate::series::figure;
use crate::store::Store;

/// A commit on its way.
pub(super) struct Pending {
    pub(super) task: JoinHandle<(Store, Result<(), tokio_postgres::Error>)>,
    pub(super) begun: Instant,
    pub(super) events: usize,
    pub(super) to: Head,
    pub(super) lane: usize,
    pub(super) halts: Vec<Halt>,
    pub(super) letters: Vec<(&'static str, usize)>,
}

impl Run<'_> {
    /// Waits for the commit on its way and draws the conclusions.
    pub(super) async fn await_commit(&mut self) -> Result<(), Ended> {
        let Some(mut pending) = self.pending.take() else { return Ok(()) };
        let (store, result) = join(&mut pending.task).await;
        self.store = Some(store);
        if let Err(error) = result {
            return self.failed(error, pending.lane, pending.to).await;
        }
        self.committed(&pending);
        self.halt(pending.halts).await
    }

    async fn failed(&mut self, error: tokio_postgres::Error, lane: usize, to: Head) -> Result<(), Ended> {
        let Some(code) = error.code() else { return Err(error.into()) };
        // ML007, and the classes "data exception" and "integrity constraint violation": a projection wrote what its table refuses.
        let refused = code.code() == "ML007" || ["22", "23"].iter().any(|class| code.code().starts_with(class));
        let moved = code.code() == "ML006"
            || *code == SqlState::T_R_DEADLOCK_DETECTED
            || *code == SqlState::T_R_SERIALIZATION_FAILURE;
        let units = self.lanes.get(lane).map_or(0, |lane| lane.series.len());
        if refused && units > 1 {
            warn!(shard = %self.task.shard, %error, position = %to.position, "a projection's table refuses; trying one by one");
            self.task.isolated_until = to.position;
        } else if refused {
            let reason = error.as_db_error().map_or_else(|| error.to_string(), |error| error.message().to_owned());
            self.halt_lane(lane, &format!("before position {}: {reason}", to.position)).await?;
        } else if moved {
            info!(shard = %self.task.shard, "another projector was faster; loading again");
        } else {
            return Err(error.into());
        }
        Err(Ended::Reload)
    }

    fn committed(&mut self, pending: &Pending) {
        let position = pending.to.position;
        self.head = self.head.max(position);
        let rate = self.task.rate.add(pending.events);
        if let Some(lane) = self.lanes.get_mut(pending.lane) {
            for Shown { name, at, series, .. } in &mut lane.series {
                *at = position;
                series.position.set(figure(position.0));
                series.lag_events.set(figure(self.head.0 - position.0));
                series.apply.record(pending.begun.elapsed().as_secs_f64());
                if position >= self.head {
                    series.lag_seconds.set(0.0);
                }
                let letters =
                    pending.letters.iter().find(|(other, _)| other == name).map_or(0, |(_, letters)| *letters);
                if letters > 0 {
                    error!(shard = %self.task.shard, projection = name, letters, "events were put aside; see projection.dead_letter");
                    series.dead_letters.increment(figure(i64::try_from(letters).unwrap_or(i64::MAX)));
                }
            }
        }
        if let Some(on_progress) = &self.task.projector.on_progress {
            on_progress(Progress { shard: self.task.shard, position, head: self.head, events_per_second: rate });
        }
    }
}
