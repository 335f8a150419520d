//! What a shard's task listens to while it works and while it waits.

use std::time::Duration;

use modelfaucet_schema::ids::Position;
use tokio::sync::watch;

/// What a shard's task listens to.
pub(super) struct Signals {
    pub(super) wake: Option<watch::Receiver<Position>>,
    pub(super) shutdown: Option<watch::Receiver<bool>>,
}

impl Signals {
    pub(super) fn none() -> Self {
        Self { wake: None, shutdown: None }
    }

    pub(super) fn stopping(&self) -> bool {
        self.shutdown.as_ref().is_some_and(|shutdown| *shutdown.borrow() || shutdown.has_changed().is_err())
    }

    /// Waits for a wake-up, a shutdown, or the time.
    pub(super) async fn wait(&mut self, time: Duration) {
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
