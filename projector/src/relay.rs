//! The relay: a reactor that publishes the log to `RabbitMQ`, one message per append batch, in order, with confirms.
//!
//! It reads by position and keeps its own mark, which no rebuild touches and which never passes a message that is not confirmed. So
//! everything in the log has been in the broker at least once, and whatever fails is sent again: subscribers drop what they have. Nobody
//! waits for it: a broker that is away, full or slow makes the mark stand still and nothing else.
//!
//! Of several relays one publishes a shard (a lock of its session says which); the others stand by.

pub mod mark;
mod page;
mod publisher;
mod resend;
mod series;
mod shard;
mod window;

use std::sync::Arc;
use std::time::Duration;

use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::connection::{silent, within};
use modelfaucet_schema::log::{LogReader, ReadError};
use modelfaucet_schema::time::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tokio_postgres::Config;

use crate::broker::{BrokerError, BrokerOptions};
use crate::runtime::{ANSWER, connect};
use series::Series;
use shard::Shard;

pub use resend::{ResendError, Resent, resend};
pub(crate) use series::describe;

/// How often a relay that stands by, or is halted, looks whether it may work.
const STAND_BY: Duration = Duration::from_secs(1);
/// How often it shows how far behind the broker is.
const SHOW: Duration = Duration::from_secs(1);
/// How long a confirm may take while the broker takes messages at all.
const CONFIRM: Duration = Duration::from_secs(5);

/// Publishes the logs of some shards.
#[derive(Clone, Debug)]
pub struct Relay {
    database: Config,
    shards: Vec<ShardId>,
    broker: BrokerOptions,
}

/// Why a session ends, beside being told to.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("the database failed: {0}")]
    Database(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Read(ReadError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Somebody else has moved the mark.
    #[error("the mark is not where this relay has left it")]
    Moved,
    /// What follows is published under another id.
    #[error("the log was forked and goes on under another id")]
    Forked,
    /// The log is not the one that was published.
    #[error("{0}")]
    Halt(String),
}

impl From<ReadError> for RelayError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gap { .. } | ReadError::Chain { .. } | ReadError::NoLog(_) => Self::Halt(error.to_string()),
            ReadError::Database(error) => Self::Database(error),
            ReadError::Decode { .. } => Self::Read(error),
        }
    }
}

impl From<lapin::Error> for RelayError {
    fn from(error: lapin::Error) -> Self {
        Self::Broker(error.into())
    }
}

impl Relay {
    /// A relay that connects to the database as `database` says, which must be as `ledger_projector`.
    pub fn new(database: Config, shards: Vec<ShardId>, broker: BrokerOptions) -> Self {
        describe();
        Self { database, shards, broker }
    }

    /// Publishes until `shutdown` becomes true or its sender is gone. Wake-ups are hints; positions in them do not matter. A database or
    /// broker that is away is waited for.
    pub async fn run(self, wake: watch::Receiver<Position>, shutdown: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        for shard in &self.shards {
            let series = Series::new(*shard);
            tasks.spawn(show(self.database.clone(), *shard, series.clone(), shutdown.clone()));
            let task = Shard { relay: self.clone(), shard: *shard, series };
            tasks.spawn(task.run(wake.clone(), shutdown.clone()));
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
}

/// Has somebody said stop?
fn stopping(shutdown: &watch::Receiver<bool>) -> bool {
    *shutdown.borrow() || shutdown.has_changed().is_err()
}

/// Waits for the time, or for the word to stop.
async fn pause(shutdown: &watch::Receiver<bool>, time: Duration) {
    let mut shutdown = shutdown.clone();
    tokio::select! {
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(time) => {}
    }
}

/// Shows how far behind the broker is, whatever the relay is doing and whoever does it.
async fn show(database: Config, shard: ShardId, series: Series, shutdown: watch::Receiver<bool>) {
    while !stopping(&shutdown) {
        let looking = async {
            let client = Arc::new(connect(&database).await?);
            let reader = within(ANSWER, LogReader::prepare(Arc::clone(&client))).await?;
            while !stopping(&shutdown) {
                let status = match timeout(ANSWER, mark::status(&client, &reader, shard)).await {
                    Ok(status) => status?,
                    Err(_) => return Err(silent().await.into()),
                };
                let age = status.oldest.map_or(Duration::ZERO, |oldest| Timestamp::now().since(oldest));
                series.behind(status.pending(), age);
                series.halted(status.mark.is_some_and(|mark| mark.halted.is_some()));
                pause(&shutdown, SHOW).await;
            }
            Ok::<_, ReadError>(())
        };
        // The working part says what is wrong with the database.
        let _away = looking.await;
        pause(&shutdown, SHOW).await;
    }
}
