//! The projector's loop: read a span, fold it, commit rows and checkpoints in one transaction; per shard one task.
//!
//! Projections that stand at the same place form a lane: one decoding, one transaction. A projection that is behind has a lane
//! of its own until it has caught up with another one. While a batch is being committed the next one is folded; if the commit
//! fails, everything is loaded again from the tables, so nothing that was not committed is ever built on.

use std::fmt;
use std::mem;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::connection::{silent, within};
use modelfaucet_schema::log::{Head, LogReader, ReadError, Tail, connection};
use modelfaucet_schema::time::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config};
use tracing::{error, info, warn};

use crate::feed::{Feed, HEAVY, Near, join};
use crate::fold::{Folder, Halt, Outcome, Span, Undecodable, Unit};
use crate::projection::{Projection, all};
use crate::series::{Series, describe, figure};
use crate::store::{Commit, LoadError, Saved, Store};
use crate::subscription::Subscription;

/// How often an idle projector looks at the log although nobody woke it.
const POLL: Duration = Duration::from_millis(20);
/// How long it waits from one commit to the next where little comes, so that a busy log is written in fewer, larger commits. The
/// first event after a pause is not kept waiting.
const PACE: Duration = Duration::from_millis(20);
/// A span with so many events need not wait for more.
const LARGE: usize = 1_024;
/// How often it looks whether an operator has changed what to follow.
const REVIEW: Duration = Duration::from_secs(2);
/// How long the database may take for a page, a commit, a look. After that the connection is given up and everything is loaded again:
/// what was sent may be committed or not.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);
/// How long it may take to give what projections have saved.
const LOADING: Duration = Duration::from_mins(2);
/// Waits between attempts while the database is away.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// How far a shard's projections are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Progress {
    /// The shard.
    pub shard: ShardId,
    /// What the slowest of them has committed.
    pub position: Position,
    /// The end of the log as last seen.
    pub head: Position,
    /// Over the last second or so.
    pub events_per_second: f64,
}

/// Is told about progress after each commit.
pub type OnProgress = Arc<dyn Fn(Progress) + Send + Sync>;

/// Which projections to run; asked again whenever they are loaded.
pub type Catalogue = Arc<dyn Fn() -> Vec<Box<dyn Projection>> + Send + Sync>;

/// Why a projector gave up.
#[derive(Debug, thiserror::Error)]
pub enum ProjectorError {
    /// The database's error.
    #[error("the database failed: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// A shard's log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Saved projections cannot be loaded.
    #[error(transparent)]
    Load(#[from] LoadError),
    /// Projections stopped and wait for an operator.
    #[error("halted: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Halted(Vec<Halt>),
}

impl fmt::Display for Halt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} v{}: {}", self.name, self.version, self.reason)
    }
}

/// Folds the logs of some shards into read tables.
#[derive(Clone)]
pub struct Projector {
    config: Config,
    shards: Vec<ShardId>,
    projections: Catalogue,
    on_progress: Option<OnProgress>,
    near: Option<(ShardId, Near)>,
}

impl Projector {
    /// A projector that will connect as `config` says, which must be as `ledger_projector`. Tries one connection.
    ///
    /// # Errors
    /// The database's.
    pub async fn connect(config: Config, shards: Vec<ShardId>) -> Result<Self, tokio_postgres::Error> {
        describe();
        connect(&config).await?;
        Ok(Self { config, shards, projections: Arc::new(all), on_progress: None, near: None })
    }

    /// Runs these projections instead of all.
    #[must_use]
    pub fn with_projections(mut self, projections: Catalogue) -> Self {
        self.projections = projections;
        self
    }

    /// Takes what the writer of a shard has appended from its memory; the writer must be in this process.
    #[must_use]
    pub fn with_tail(mut self, shard: ShardId, tail: Arc<Tail>) -> Self {
        self.near = Some((shard, Near::Writer(tail)));
        self
    }

    /// Takes what the broker has brought of a shard; the log is read for whatever is missing.
    #[must_use]
    pub fn with_subscription(mut self, subscription: Arc<Subscription>) -> Self {
        self.near = Some((subscription.shard(), Near::Broker(subscription)));
        self
    }

    /// Tells about progress.
    #[must_use]
    pub fn with_progress(mut self, on_progress: OnProgress) -> Self {
        self.on_progress = Some(on_progress);
        self
    }

    /// Follows the logs until `shutdown` becomes true or its sender is gone. Wake-ups are hints; positions in them do not matter.
    /// A database that is away is waited for.
    pub async fn run(self, wake: watch::Receiver<Position>, shutdown: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        for shard in &self.shards {
            let mut task = ShardTask::new(self.clone(), *shard, false);
            let (wake, shutdown) = (wake.clone(), shutdown.clone());
            tasks.spawn(async move { task.run(wake, shutdown).await });
        }
        while let Some(ended) = tasks.join_next().await {
            // A shard that panicked must not look like one that has nothing to do.
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }

    /// Folds until the end of the logs as they are now.
    ///
    /// # Errors
    /// [`ProjectorError`]; all shards are tried.
    pub async fn catch_up(&self) -> Result<(), ProjectorError> {
        let mut result = Ok(());
        for shard in &self.shards {
            let mut task = ShardTask::new(self.clone(), *shard, true);
            let done = task.session(&mut Signals::none()).await;
            result = result.and(done);
        }
        result
    }
}

/// Connects and lets the connection run on its own.
pub(crate) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = connection::connect(config).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            warn!(%error, "connection to the database ended");
        }
    });
    Ok(client)
}

/// What a shard's task listens to.
struct Signals {
    wake: Option<watch::Receiver<Position>>,
    shutdown: Option<watch::Receiver<bool>>,
}

impl Signals {
    fn none() -> Self {
        Self { wake: None, shutdown: None }
    }

    fn stopping(&self) -> bool {
        self.shutdown.as_ref().is_some_and(|shutdown| *shutdown.borrow() || shutdown.has_changed().is_err())
    }

    /// Waits for a wake-up, a shutdown, or the time.
    async fn wait(&mut self, time: Duration) {
        let woken = async {
            let changed = match &mut self.wake {
                Some(wake) => wake.changed().await.is_ok(),
                None => false,
            };
            if !changed {
                std::future::pending::<()>().await;
            }
        };
        let stopped = async {
            match &mut self.shutdown {
                Some(shutdown) => shutdown.wait_for(|stop| *stop).await.map_or((), drop),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = woken => {}
            () = stopped => {}
            () = tokio::time::sleep(time) => {}
        }
    }
}

/// What one projection shows of itself.
struct Shown {
    name: &'static str,
    version: i32,
    at: Position,
    series: Series,
}

/// What came of a span, ready to be sent.
enum Folded {
    Nothing,
    Batch { commit: Option<Box<Commit>>, halts: Vec<Halt>, letters: Vec<(&'static str, usize)> },
    Stop(String),
}

/// Projections at the same place, and where they read.
struct Lane {
    folder: Folder,
    feed: Feed,
    series: Vec<Shown>,
    /// Why they cannot go on behind what was read.
    broken: Option<Undecodable>,
}

/// A commit on its way.
struct Pending {
    task: JoinHandle<(Store, Result<(), tokio_postgres::Error>)>,
    begun: Instant,
    events: usize,
    to: Head,
    lane: usize,
    halts: Vec<Halt>,
    letters: Vec<(&'static str, usize)>,
}

/// Why a session with the database ends.
enum Ended {
    /// Load again from the tables.
    Reload,
    Failed(ProjectorError),
}

impl<E: Into<ProjectorError>> From<E> for Ended {
    fn from(error: E) -> Self {
        Self::Failed(error.into())
    }
}

/// One shard.
struct ShardTask {
    projector: Projector,
    shard: ShardId,
    catch_up: bool,
    /// Up to here every projection has a lane of its own: one of them cannot commit, and this finds out which.
    isolated_until: Position,
    halted: Vec<Halt>,
    rate: Rate,
}

impl ShardTask {
    fn new(projector: Projector, shard: ShardId, catch_up: bool) -> Self {
        Self { projector, shard, catch_up, isolated_until: Position::START, halted: Vec::new(), rate: Rate::new() }
    }

    async fn run(&mut self, wake: watch::Receiver<Position>, shutdown: watch::Receiver<bool>) {
        let mut signals = Signals { wake: Some(wake), shutdown: Some(shutdown) };
        let mut pause = BACK_OFF.0;
        while !signals.stopping() {
            let begun = Instant::now();
            if let Err(error) = self.session(&mut signals).await {
                if begun.elapsed() > BACK_OFF.1 {
                    pause = BACK_OFF.0;
                }
                warn!(shard = %self.shard, %error, ?pause, "projector stopped; trying again");
                Signals { wake: None, shutdown: signals.shutdown.clone() }.wait(pause).await;
                pause = (pause * 2).min(BACK_OFF.1);
            }
        }
    }

    /// One pair of connections, for as long as they last; loads again as often as needed.
    async fn session(&mut self, signals: &mut Signals) -> Result<(), ProjectorError> {
        let reader = connect(&self.projector.config).await?;
        let reader = within(ANSWER, LogReader::prepare(Arc::new(reader))).await?.patient_for(ANSWER);
        let store = connect(&self.projector.config).await?;
        let mut store = within(ANSWER, Store::prepare(store)).await?;
        loop {
            let Ok(loaded) = timeout(LOADING, Run::load(self, reader.clone(), store)).await else {
                return Err(silent().await.into());
            };
            let mut run = match loaded {
                Ok(run) => run,
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Reload) => return Ok(()),
            };
            match run.follow(signals).await {
                Ok(()) => {
                    return if self.catch_up && !self.halted.is_empty() {
                        Err(ProjectorError::Halted(self.halted.clone()))
                    } else {
                        Ok(())
                    };
                }
                Err(Ended::Failed(error)) => return Err(error),
                Err(Ended::Reload) => run.silence(),
            }
            let Some(idle) = run.store.take() else { return Ok(()) };
            store = idle;
        }
    }
}

/// From one loading to the next.
struct Run<'a> {
    task: &'a mut ShardTask,
    reader: LogReader,
    /// Absent while a commit is on its way.
    store: Option<Store>,
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

impl<'a> Run<'a> {
    async fn load(task: &'a mut ShardTask, reader: LogReader, mut store: Store) -> Result<Self, Ended> {
        let shard = task.shard;
        let (log_id, _) = reader.head(shard).await?;
        let known = (task.projector.projections)();
        let following = store.following(shard).await?;
        let saved = store.load(shard, log_id, &known).await?;
        // Asked after the checkpoints were read, so it cannot be behind them unless the log has lost events.
        let (_, head) = reader.head(shard).await?;
        task.halted.clear();
        let mut run = Self {
            task,
            reader,
            store: Some(store),
            lanes: Vec::new(),
            stopped: Vec::new(),
            pending: None,
            following,
            reviewed: Instant::now(),
            head: head.position,
            paced: None,
        };
        for saved in saved {
            run.admit(saved, head.position).await?;
        }
        run.join_lanes();
        Ok(run)
    }

    /// What is loaded next shows itself anew. A version that has another state then, or is gone, must not be shown as behind for ever
    /// under its old one.
    fn silence(&self) {
        for Shown { series, .. } in self.lanes.iter().flat_map(|lane| &lane.series).chain(&self.stopped) {
            series.lag_events.set(0.0);
            series.lag_seconds.set(0.0);
            series.dead_letters.set(0.0);
        }
    }

    /// Gives a loaded projection a lane, or halts it if the log is not the one that it has read.
    async fn admit(&mut self, saved: Saved, head: Position) -> Result<(), Ended> {
        let shard = self.task.shard;
        let (name, version) = (saved.unit.projection.name(), saved.unit.projection.version());
        let series = Series::new(name, version, &saved.state, shard);
        series.position.set(figure(saved.at.position.0));
        series.lag_events.set(figure(head.0 - saved.at.position.0));
        series.lag_seconds.set(0.0);
        series.dead_letters.set(figure(saved.letters));
        let shown = Shown { name, version, at: saved.at.position, series };
        if let Some(reason) = saved.halted {
            self.stopped.push(shown);
            self.task.halted.push(Halt { name, version, reason });
            return Ok(());
        }
        let log_id = match self.reader.admit(shard, saved.log_id, saved.at).await? {
            Ok(log_id) => log_id,
            Err(stranger) => {
                self.stopped.push(shown);
                let reason = format!("{stranger}; rebuild it");
                return self.halt(vec![Halt { name, version, reason }]).await;
            }
        };
        if saved.log_id != log_id
            && let Some(store) = &self.store
        {
            store.adopt(shard, log_id, name, version, saved.at).await?;
        }
        let folder = Folder::new(shard, log_id, saved.at, vec![saved.unit]);
        let near = self.task.projector.near.as_ref().filter(|(of, _)| *of == shard).map(|(_, near)| near.clone());
        let feed = Feed::new(self.reader.clone(), shard, saved.at, near);
        self.lanes.push(Lane { folder, feed, series: vec![shown], broken: None });
        Ok(())
    }

    /// Makes one lane of lanes that stand at the same place.
    fn join_lanes(&mut self) {
        let apart = |lane: &Lane, until: Position| lane.folder.at.position < until || lane.broken.is_some();
        let until = self.task.isolated_until;
        let mut lanes: Vec<Lane> = Vec::with_capacity(self.lanes.len());
        for mut lane in mem::take(&mut self.lanes) {
            let same = lanes
                .iter_mut()
                .find(|known| known.folder.at == lane.folder.at && !apart(known, until) && !apart(&lane, until));
            match same {
                Some(known) => {
                    known.folder.units.append(&mut lane.folder.units);
                    known.series.append(&mut lane.series);
                }
                None => lanes.push(lane),
            }
        }
        self.lanes = lanes;
    }

    async fn follow(&mut self, signals: &mut Signals) -> Result<(), Ended> {
        let end = self.head;
        loop {
            if signals.stopping() {
                return self.settle().await;
            }
            self.pace(signals).await;
            let mut moved = false;
            for lane in 0..self.lanes.len() {
                moved |= self.step(lane).await?;
            }
            if self.lanes.len() > 1 || !moved {
                self.settle().await?;
                self.lanes.retain(|lane| !lane.folder.units.is_empty());
                self.join_lanes();
            }
            let done = !moved || self.lanes.iter().all(|lane| lane.folder.at.position >= end);
            if self.task.catch_up && done {
                return self.settle().await;
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
        match self.fold(lane, span).await {
            Folded::Nothing => return Ok(false),
            Folded::Batch { commit, halts, letters } => {
                self.settle().await?;
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
                    self.settle().await?;
                }
            }
            Folded::Stop(reason) => {
                self.settle().await?;
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
                self.settle().await?;
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
                self.settle().await?;
                self.halt_lane(lane, &broken.to_string()).await?;
                return Ok(None);
            }
            // Cut spans are read again, and end there again.
            self.lanes[lane].broken = (ahead.is_none()).then_some(broken);
        }
        Ok((!span.events.is_empty()).then_some(span))
    }

    async fn fold(&mut self, lane: usize, span: Span) -> Folded {
        let lane = &mut self.lanes[lane];
        let (shard, log_id) = (lane.folder.shard, lane.folder.log_id);
        let empty = Folder::new(shard, log_id, lane.folder.at, Vec::new());
        let mut folder = mem::replace(&mut lane.folder, empty);
        let heavy = span.events.len() >= HEAVY;
        let work = move || {
            let outcome = prepare(folder.offer(&span), shard, log_id);
            (folder, outcome)
        };
        let (mut folder, outcome) = if heavy { join(&mut spawn_blocking(work)).await } else { work() };
        let duplicates = mem::take(&mut folder.duplicates);
        lane.series.iter().for_each(|shown| shown.series.duplicates.increment(duplicates));
        lane.folder = folder;
        outcome
    }

    /// Waits for the commit on its way and draws the conclusions.
    async fn settle(&mut self) -> Result<(), Ended> {
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
        self.settle().await?;
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

/// Events per second over windows of a second.
struct Rate {
    since: Instant,
    events: usize,
    last: f64,
}

impl Rate {
    fn new() -> Self {
        Self { since: Instant::now(), events: 0, last: 0.0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    fn add(&mut self, events: usize) -> f64 {
        self.events += events;
        let elapsed = self.since.elapsed().as_secs_f64();
        let rate = self.events as f64 / elapsed.max(1e-3);
        if elapsed >= 1.0 {
            (self.since, self.events, self.last) = (Instant::now(), 0, rate);
            return rate;
        }
        if self.last > 0.0 { self.last } else { rate }
    }
}
