//! One shard from one loading to the next: lane by lane a span is read, folded and sent to the database.

mod loading;
mod pending;

use std::mem;
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::Position;
use modelfaucet_schema::log::connection::within;
use modelfaucet_schema::log::{LogReader, ReadError};
use modelfaucet_schema::time::Timestamp;
use tracing::error;

use super::ANSWER;
use super::lane::{Folded, Lane, Shown};
use super::shard::{Ended, ShardTask};
use super::signals::Signals;
use crate::feed::HEAVY;
use crate::fold::{Halt, Span, Unit};
use crate::series::figure;
use crate::store::Store;
use pending::Pending;

/// How often an idle projector looks at the log although nobody woke it.
const POLL: Duration = Duration::from_millis(20);
/// How long it waits from one commit to the next where little comes, so that a busy log is written in fewer, larger commits. The
/// first event after a pause is not kept waiting.
const PACE: Duration = Duration::from_millis(20);
/// A span with so many events need not wait for more.
const LARGE: usize = 1_024;
/// How often it looks whether an operator has changed what to follow.
const REVIEW: Duration = Duration::from_secs(2);

/// From one loading to the next.
pub(super) struct Run<'a> {
    task: &'a mut ShardTask,
    reader: LogReader,
    /// Absent while a commit is on its way.
    pub(super) store: Option<Store>,
    lanes: Vec<Lane>,
    /// Of projections that are halted: their lag grows.
    stopped: Vec<Shown>,
    pending: Option<Pending>,
    following: String,
    reviewed: Instant,
    head: Position,
    /// When something was read last, unless it was so much that the next may follow at once.
    paced: Option<Instant>,
}

impl Run<'_> {
    pub(super) async fn follow(&mut self, signals: &mut Signals) -> Result<(), Ended> {
        let end = self.head;
        loop {
            if signals.stopping() {
                return self.await_commit().await;
            }
            self.pace(signals).await;
            let mut moved = false;
            for lane in 0..self.lanes.len() {
                moved |= self.step(lane).await?;
            }
            if self.lanes.len() > 1 || !moved {
                self.await_commit().await?;
                self.lanes.retain(|lane| !lane.folder.units.is_empty());
                self.join_lanes();
            }
            let done = !moved || self.lanes.iter().all(|lane| lane.folder.at.position >= end);
            if self.task.catch_up && done {
                return self.await_commit().await;
            }
            self.review().await?;
            if !moved {
                signals.wait(POLL).await;
            }
        }
    }

    /// Lets some events gather, unless there are many already.
    async fn pace(&mut self, signals: &Signals) {
        if let Some(last) = self.paced.take().filter(|_| !self.task.catch_up) {
            let rest = PACE.saturating_sub(last.elapsed());
            Signals { wake: None, shutdown: signals.shutdown.clone() }.wait(rest).await;
        }
    }

    /// Moves a lane on by one span; false if there was none.
    async fn step(&mut self, lane: usize) -> Result<bool, Ended> {
        if self.lanes[lane].folder.units.is_empty() {
            return Ok(false);
        }
        let Some(span) = self.read(lane).await? else { return Ok(false) };
        self.watch_lag(lane, &span).await?;
        if span.events.len() < LARGE {
            self.paced.get_or_insert_with(Instant::now);
        }
        let alone = self.lanes.len() == 1;
        let begun = Instant::now();
        match self.lanes[lane].fold(span).await {
            Folded::Nothing => return Ok(false),
            Folded::Batch { commit, halts, letters } => {
                self.await_commit().await?;
                if let (Some(commit), Some(mut store)) = (commit, self.store.take()) {
                    let (events, to) = (commit.events, commit.to());
                    let task = tokio::spawn(async move {
                        let result = within(ANSWER, store.commit(&commit)).await;
                        (store, result)
                    });
                    self.pending = Some(Pending { task, begun, events, to, lane, halts, letters });
                } else {
                    self.halt(halts).await?;
                }
                if !alone {
                    self.await_commit().await?;
                }
            }
            Folded::Stop(reason) => {
                self.await_commit().await?;
                self.halt_lane(lane, &reason).await?;
            }
        }
        Ok(true)
    }

    /// The next span of a lane, at most as far as the next lane ahead of it stands, so that the two can join.
    async fn read(&mut self, lane: usize) -> Result<Option<Span>, Ended> {
        let ahead = self
            .lanes
            .iter()
            .map(|other| other.folder.at.position)
            .filter(|at| *at > self.lanes[lane].folder.at.position)
            .min();
        let mine = &mut self.lanes[lane];
        mine.feed.seek(mine.folder.at);
        let read = match mine.broken.take() {
            Some(broken) => Ok((Span { after: mine.folder.at, links: Vec::new(), events: Vec::new() }, Some(broken))),
            None => mine.feed.next().await,
        };
        let (mut span, broken) = match read {
            Ok(read) => read,
            Err(error @ (ReadError::Gap { .. } | ReadError::Chain { .. } | ReadError::Decode { .. })) => {
                self.await_commit().await?;
                self.halt_lane(lane, &error.to_string()).await?;
                return Ok(None);
            }
            Err(error) => return Err(error.into()),
        };
        if let Some(limit) = ahead {
            span.cut(limit);
        }
        if let Some(broken) = broken {
            if span.events.is_empty() {
                self.await_commit().await?;
                self.halt_lane(lane, &broken.to_string()).await?;
                return Ok(None);
            }
            // Cut spans are read again, and end there again.
            self.lanes[lane].broken = (ahead.is_none()).then_some(broken);
        }
        Ok((!span.events.is_empty()).then_some(span))
    }

    /// What is read is not applied yet: it has an age.
    async fn watch_lag(&mut self, lane: usize, span: &Span) -> Result<(), Ended> {
        self.head = self.head.max(span.head().position);
        if span.events.len() >= HEAVY {
            self.head = self.reader.head(self.task.shard).await?.1.position;
        }
        if let Some(oldest) = span.events.first() {
            let age = Timestamp::now().since(oldest.recorded_at).as_secs_f64();
            self.lanes[lane].series.iter().for_each(|shown| shown.series.lag_seconds.set(age));
        }
        Ok(())
    }

    async fn halt_lane(&mut self, lane: usize, reason: &str) -> Result<(), Ended> {
        let units = mem::take(&mut self.lanes[lane].folder.units);
        let halt = |unit: &Unit| Halt {
            name: unit.projection.name(),
            version: unit.projection.version(),
            reason: reason.to_owned(),
        };
        self.halt(units.iter().map(halt).collect()).await
    }

    /// Writes down that projections stop. What they kept in memory is gone; an operator's word makes them load again.
    async fn halt(&mut self, halts: Vec<Halt>) -> Result<(), Ended> {
        let Some(store) = &self.store else { return Ok(()) };
        for halt in &halts {
            error!(shard = %self.task.shard, projection = halt.name, version = halt.version, reason = halt.reason, "projection halted");
            within(ANSWER, store.halt(self.task.shard, halt)).await?;
        }
        if !halts.is_empty() {
            self.following = within(ANSWER, store.following(self.task.shard)).await?;
        }
        for lane in &mut self.lanes {
            let halted =
                |shown: &mut Shown| halts.iter().any(|halt| (halt.name, halt.version) == (shown.name, shown.version));
            self.stopped.extend(lane.series.extract_if(.., halted));
        }
        self.task.halted.extend(halts);
        Ok(())
    }

    /// Has an operator added, switched or resumed a projection?
    async fn review(&mut self) -> Result<(), Ended> {
        if self.task.catch_up || self.reviewed.elapsed() < REVIEW {
            return Ok(());
        }
        self.reviewed = Instant::now();
        self.await_commit().await?;
        let Some(store) = &self.store else { return Ok(()) };
        for Shown { at, series, .. } in &self.stopped {
            series.lag_events.set(figure(self.head.0 - at.0));
            let age = within(ANSWER, store.oldest(self.task.shard, *at))
                .await?
                .map_or(0.0, |oldest| Timestamp::now().since(oldest).as_secs_f64());
            series.lag_seconds.set(age);
        }
        if within(ANSWER, store.following(self.task.shard)).await? == self.following {
            Ok(())
        } else {
            Err(Ended::Reload)
        }
    }
}
