//! Batches that the broker brings to a projector: into memory, in order, where a [`crate::feed`] finds them. Messages come twice, late,
//! in any order, or not at all; what is missing is read from the log, so a message is acknowledged as soon as it is taken in
//! (docs/decisions/0025-the-log-vouches-for-what-the-broker-brings.md).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use lapin::BasicProperties;
use lapin::message::Delivery;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions, BasicRejectOptions};
use lapin::types::FieldTable;
use metrics::{counter, describe_counter};
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::{Head, Tail, TailBatch};
use parking_lot::Mutex;
use tokio::sync::watch;
use tracing::{info, warn};

use crate::broker::message::{MessageError, Received, read};
use crate::broker::{self, BackOff, BrokerError, BrokerOptions, answered, while_connected};

/// Messages that the broker sends ahead.
const PREFETCH: u16 = 256;

/// Says what the series mean.
pub(crate) fn describe() {
    describe_counter!("modelfaucet_broker_messages_total", "Messages from the broker, by what became of them");
}

/// What the broker has brought of one shard. Shared by reference.
#[derive(Debug)]
pub struct Subscription {
    shard: ShardId,
    tail: Tail,
    /// The end of the last batch in the tail, and the highest position that any message has told of.
    seen: Mutex<(Option<Head>, Position)>,
    live: AtomicBool,
}

impl Subscription {
    /// Of a shard; nothing is connected before [`Subscription::run`].
    pub fn new(shard: ShardId) -> Arc<Self> {
        describe();
        for outcome in ["taken", "known", "early", "news", "refused"] {
            counter!("modelfaucet_broker_messages_total", "outcome" => outcome).increment(0);
        }
        Arc::new(Self {
            shard,
            tail: Tail::default(),
            seen: Mutex::new((None, Position::START)),
            live: AtomicBool::new(false),
        })
    }

    /// Its shard.
    pub fn shard(&self) -> ShardId {
        self.shard
    }

    /// The batches that follow `at`.
    pub(crate) fn behind(&self, at: Head) -> Vec<TailBatch> {
        self.tail.behind(at)
    }

    /// Is there something to be read from the log at once? Yes if nothing would tell of it, or if messages have told of more than came.
    pub(crate) fn wants_log(&self, at: Position) -> bool {
        !self.live.load(Ordering::SeqCst) || self.seen.lock().1 > at
    }

    /// What messages told of is not in the log, or not as they told it.
    pub(crate) fn disown(&self, at: Position) {
        self.tail.clear();
        *self.seen.lock() = (None, at);
    }

    /// The highest position that any message has told of.
    pub fn told(&self) -> Position {
        self.seen.lock().1
    }

    /// Takes in what a message brought.
    fn take(&self, received: Received) -> &'static str {
        let mut seen = self.seen.lock();
        let batch = match received {
            Received::News(position) => {
                seen.1 = seen.1.max(position);
                return "news";
            }
            Received::Batch(batch) => batch,
        };
        let outcome = match seen.0 {
            Some(last) if batch.head.position <= last.position => return "known",
            Some(last) if last != batch.after => "early",
            _ => "taken",
        };
        seen.0 = Some(batch.head);
        seen.1 = seen.1.max(batch.head.position);
        // If it does not join on, the tail begins anew with it; what lies between comes from the log.
        self.tail.push(batch);
        outcome
    }

    /// Receives until `shutdown` becomes true or its sender is gone, and wakes the projector for each batch. A broker that is away is
    /// waited for.
    pub async fn run(
        self: Arc<Self>,
        options: BrokerOptions,
        wake: watch::Sender<Position>,
        shutdown: watch::Receiver<bool>,
    ) {
        let mut back_off = BackOff::new();
        let mut stop = shutdown.clone();
        while !*shutdown.borrow() && shutdown.has_changed().is_ok() {
            let ended = tokio::select! {
                ended = self.receive(&options, &wake, &mut back_off) => ended,
                _ = stop.wait_for(|stop| *stop) => return,
            };
            self.set_live(false);
            wake.send_modify(|_| {});
            let wait = back_off.next();
            if let Err(error) = ended {
                warn!(shard = %self.shard, %error, ?wait, "nothing comes from the broker; reading the log");
            }
            tokio::select! {
                () = tokio::time::sleep(wait) => {}
                _ = stop.wait_for(|stop| *stop) => return,
            }
        }
    }

    async fn receive(
        &self,
        options: &BrokerOptions,
        wake: &watch::Sender<Position>,
        back_off: &mut BackOff,
    ) -> Result<(), BrokerError> {
        let (connection, channel) = broker::connect(options, "modelfaucet projector").await?;
        answered(channel.basic_qos(PREFETCH, BasicQosOptions::default())).await?;
        let (queue, consume) = (options.queue(), BasicConsumeOptions::default());
        let mut deliveries =
            answered(channel.basic_consume(queue.into(), "".into(), consume, FieldTable::default())).await?;
        info!(shard = %self.shard, queue, "receiving from the broker");
        self.set_live(true);
        while let Some(delivery) = while_connected(&connection, deliveries.next()).await? {
            back_off.reset();
            while_connected(&connection, self.handle(delivery?, wake)).await??;
        }
        Err(BrokerError::Ended)
    }

    async fn handle(&self, delivery: Delivery, wake: &watch::Sender<Position>) -> Result<(), BrokerError> {
        match self.offer(&delivery.properties, &delivery.data) {
            Ok(()) => {
                wake.send_replace(self.told());
                delivery.ack(BasicAckOptions::default()).await?;
            }
            Err(error) => {
                warn!(shard = %self.shard, %error, "a message from the broker is refused");
                delivery.reject(BasicRejectOptions { requeue: false }).await?;
            }
        }
        Ok(())
    }

    /// Takes in a message as it came.
    ///
    /// # Errors
    /// [`MessageError`] if it is not what it says.
    pub fn offer(&self, properties: &BasicProperties, body: &[u8]) -> Result<(), MessageError> {
        let result = read(self.shard, properties, body).map(|received| self.take(received));
        let outcome = *result.as_ref().unwrap_or(&"refused");
        counter!("modelfaucet_broker_messages_total", "outcome" => outcome).increment(1);
        result.map(drop)
    }

    /// Does anybody bring messages? While nobody does, the log is read all the time.
    pub fn set_live(&self, live: bool) {
        self.live.store(live, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::hash::ChainHash;

    fn head(position: i64) -> Head {
        Head { position: Position(position), hash: ChainHash([1; 32]) }
    }

    /// Events do not matter here.
    fn batch(from: i64, to: i64) -> Received {
        Received::Batch(TailBatch { after: head(from), head: head(to), events: Arc::new([]) })
    }

    fn ends(subscription: &Subscription, at: i64) -> Vec<i64> {
        subscription.behind(head(at)).iter().map(|batch| batch.head.position.0).collect()
    }

    #[test]
    fn what_comes_twice_or_late_is_dropped_and_what_comes_early_is_a_gap() {
        let subscription = Subscription::new(ShardId(0));
        subscription.set_live(true);
        assert_eq!(subscription.take(batch(0, 2)), "taken");
        assert_eq!(subscription.take(batch(2, 3)), "taken");
        assert_eq!(subscription.take(batch(0, 2)), "known");
        assert_eq!(ends(&subscription, 0), [2, 3], "a repeat changes nothing");
        assert_eq!(subscription.take(batch(5, 6)), "early");
        assert_eq!(subscription.take(batch(3, 5)), "known");
        assert!(ends(&subscription, 3).is_empty() && subscription.wants_log(Position(3)));
        assert_eq!(ends(&subscription, 5), [6], "behind the gap it goes on");
        assert!(!subscription.wants_log(Position(6)));
    }

    #[test]
    fn news_and_silence_send_the_reader_to_the_log() {
        let subscription = Subscription::new(ShardId(0));
        assert!(subscription.wants_log(Position(0)), "nobody is connected");
        subscription.set_live(true);
        assert!(!subscription.wants_log(Position(0)));
        assert_eq!(subscription.take(Received::News(Position(4))), "news");
        assert!(subscription.wants_log(Position(3)) && !subscription.wants_log(Position(4)));
    }

    #[test]
    fn what_the_log_does_not_have_is_forgotten() {
        let subscription = Subscription::new(ShardId(0));
        subscription.set_live(true);
        subscription.take(batch(0, 9));
        subscription.disown(Position(2));
        assert!(ends(&subscription, 0).is_empty() && !subscription.wants_log(Position(2)));
        assert_eq!(subscription.take(batch(2, 4)), "taken");
    }
}
