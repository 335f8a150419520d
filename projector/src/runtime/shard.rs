//! The task of one shard: sessions with the database, one after the other, and what has to outlive them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::LogReader;
use modelfaucet_schema::log::connection::{silent, within};
use tokio::sync::watch;
use tokio::time::timeout;
use tracing::warn;

use super::rate::Rate;
use super::run::Run;
use super::signals::Signals;
use super::{ANSWER, Projector, ProjectorError, connect};
use crate::fold::Halt;
use crate::store::Store;

/// How long it may take to give what projections have saved.
const LOADING: Duration = Duration::from_mins(2);
/// Waits between attempts while the database is away.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(5));

/// Why a session with the database ends.
pub(super) enum Ended {
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
pub(super) struct ShardTask {
    pub(super) projector: Projector,
    pub(super) shard: ShardId,
    pub(super) catch_up: bool,
    /// Up to here every projection has a lane of its own: one of them cannot commit, and this finds out which.
    pub(super) isolated_until: Position,
    pub(super) halted: Vec<Halt>,
    pub(super) rate: Rate,
}

impl ShardTask {
    pub(super) fn new(projector: Projector, shard: ShardId, catch_up: bool) -> Self {
        Self { projector, shard, catch_up, isolated_until: Position::START, halted: Vec::new(), rate: Rate::new() }
    }

    pub(super) async fn run(&mut self, wake: watch::Receiver<Position>, shutdown: watch::Receiver<bool>) {
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
    pub(super) async fn session(&mut self, signals: &mut Signals) -> Result<(), ProjectorError> {
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
