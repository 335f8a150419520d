//! The relay of one shard: sessions with database and broker, one after the other.

use std::sync::Arc;
use std::time::Instant;

use futures_util::FutureExt as _;
use lapin::options::ConfirmSelectOptions;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::LogReader;
use modelfaucet_schema::log::connection::within;
use tokio::sync::watch;
use tracing::{error, info, warn};

use super::mark::{Mark, Marks};
use super::publisher::Publisher;
use super::series::Series;
use super::{Relay, RelayError, STAND_BY, pause, stopping};
use crate::broker::{self, BackOff, answered};
use crate::runtime::{ANSWER, connect};

/// The relay of one shard.
pub(super) struct Shard {
    pub(super) relay: Relay,
    pub(super) shard: ShardId,
    pub(super) series: Series,
}

impl Shard {
    pub(super) async fn run(self, wake: watch::Receiver<Position>, shutdown: watch::Receiver<bool>) {
        let mut back_off = BackOff::new();
        while !stopping(&shutdown) {
            let begun = Instant::now();
            let ended = self.session(wake.clone(), &shutdown).await;
            self.series.working(false);
            self.series.blocked(false);
            let Err(error) = ended else { continue };
            if begun.elapsed() > BackOff::LAST {
                back_off.reset();
            }
            let wait = back_off.next();
            warn!(shard = %self.shard, %error, ?wait, "relay stopped; trying again");
            pause(&shutdown, wait).await;
        }
    }

    /// One session with the database: stands by until it may work, then publishes until something fails.
    async fn session(
        &self,
        wake: watch::Receiver<Position>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), RelayError> {
        let reader = connect(&self.relay.database).await?;
        let reader = within(ANSWER, LogReader::prepare(Arc::new(reader))).await?.patient_for(ANSWER);
        let marks = Marks::prepare(connect(&self.relay.database).await?).await?;
        while !marks.lock(self.shard).await? {
            if stopping(shutdown) {
                return Ok(());
            }
            pause(shutdown, STAND_BY).await;
        }
        let (log_id, _) = reader.head(self.shard).await?;
        let mut mark = marks.load(self.shard, log_id, reader.genesis(self.shard).await?).await?;
        if mark.halted.is_some() {
            self.series.halted(true);
            pause(shutdown, STAND_BY).await;
            return Ok(());
        }
        let published = match reader.admit(self.shard, mark.log_id, mark.at).await? {
            Err(stranger) => {
                Err(RelayError::Halt(format!("{stranger}; say where to go on: `modelfaucet relay rewind`")))
            }
            Ok(log_id) if marks.adopt(self.shard, mark.log_id, log_id, mark.at).await? => {
                mark.log_id = log_id;
                self.publish(&reader, &marks, mark, wake, shutdown).await
            }
            Ok(_) => Err(RelayError::Moved),
        };
        match &published {
            Err(RelayError::Halt(reason)) => {
                error!(shard = %self.shard, reason, "relay halted");
                marks.halt(self.shard, reason).await?;
            }
            Err(error) => {
                // For `relay status`; the database may be what failed.
                let _unwritten = marks.state(self.shard, &format!("waiting: {error}")).await;
            }
            Ok(()) => {
                let _unwritten = marks.state(self.shard, "stopped").await;
            }
        }
        published
    }

    async fn publish(
        &self,
        reader: &LogReader,
        marks: &Marks,
        mark: Mark,
        wake: watch::Receiver<Position>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), RelayError> {
        let (connection, channel) = broker::connect(&self.relay.broker, "modelfaucet relay").await?;
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        info!(shard = %self.shard, position = %mark.at.position, "publishing behind");
        marks.state(self.shard, "publishing").await?;
        self.series.working(true);
        let mut publisher = Publisher::new(self, marks, &mark, channel);
        let ended = publisher.follow(reader, &connection, wake, shutdown).await;
        // What was sent and not confirmed is sent again, by whoever works next.
        self.series.lost.increment(publisher.unconfirmed() as u64);
        let _gone = connection.close(200, "done".into()).now_or_never();
        ended
    }
}
