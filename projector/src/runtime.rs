//! The projector's loop: read a span, fold it, commit rows and checkpoints in one transaction; per shard one task.
//!
//! Projections that stand at the same place form a lane: one decoding, one transaction. A projection that is behind has a lane
//! of its own until it has caught up with another one. While a batch is being committed the next one is folded; if the commit
//! fails, everything is loaded again from the tables, so nothing that was not committed is ever built on.

mod lane;
mod rate;
mod run;
mod shard;
mod signals;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::{ReadError, Tail, connection};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Config};
use tracing::warn;

use crate::feed::Near;
use crate::fold::Halt;
use crate::projection::{Projection, all};
use crate::series::describe;
use crate::store::LoadError;
use crate::subscription::Subscription;
use shard::ShardTask;
use signals::Signals;

/// How long the database may take for a page, a commit, a look. After that the connection is given up and everything is loaded again:
/// what was sent may be committed or not.
pub(crate) const ANSWER: Duration = Duration::from_secs(15);

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
