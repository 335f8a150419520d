//! The relay's metrics; operations.md lists their names.

use std::time::Duration;

use metrics::{Counter, Gauge, counter, describe_counter, describe_gauge, gauge};
use modelfaucet_schema::ids::ShardId;

/// Says what the series mean.
pub(crate) fn describe() {
    describe_gauge!("modelfaucet_relay_pending", "Events in the log that the broker has not confirmed");
    describe_gauge!("modelfaucet_relay_oldest_age_seconds", "Age of the oldest of them; 0 for none");
    describe_gauge!("modelfaucet_relay_working", "1 if this process publishes the shard, 0 if it stands by or cannot");
    describe_gauge!(
        "modelfaucet_relay_halted",
        "1 if the shard is not published until an operator says where to go on"
    );
    describe_gauge!(
        "modelfaucet_amqp_blocked",
        "1 while the broker takes no messages because it is short of memory or disk"
    );
    describe_counter!("modelfaucet_publish_total", "Messages to the broker, by what became of them");
}

/// The series of one shard.
#[derive(Clone)]
pub(crate) struct Series {
    pending: Gauge,
    oldest_age: Gauge,
    working: Gauge,
    halted: Gauge,
    blocked: Gauge,
    pub(crate) confirmed: Counter,
    pub(crate) returned: Counter,
    pub(crate) refused: Counter,
    pub(crate) lost: Counter,
}

impl Series {
    /// Every series is there from the start, zero included.
    pub(crate) fn new(shard: ShardId) -> Self {
        let shard = [("shard", shard.0.to_string())];
        let publish = |outcome: &'static str| {
            let counter = counter!("modelfaucet_publish_total", "outcome" => outcome);
            counter.increment(0);
            counter
        };
        let series = Self {
            pending: gauge!("modelfaucet_relay_pending", &shard),
            oldest_age: gauge!("modelfaucet_relay_oldest_age_seconds", &shard),
            working: gauge!("modelfaucet_relay_working", &shard),
            halted: gauge!("modelfaucet_relay_halted", &shard),
            blocked: gauge!("modelfaucet_amqp_blocked"),
            confirmed: publish("confirmed"),
            returned: publish("returned"),
            refused: publish("refused"),
            lost: publish("lost"),
        };
        series.behind(0, Duration::ZERO);
        series.working(false);
        series.halted(false);
        series.blocked(false);
        series
    }

    #[expect(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
    pub(crate) fn behind(&self, events: i64, age: Duration) {
        self.pending.set(events as f64);
        self.oldest_age.set(age.as_secs_f64());
    }

    pub(crate) fn working(&self, yes: bool) {
        self.working.set(f64::from(u8::from(yes)));
    }

    pub(crate) fn halted(&self, yes: bool) {
        self.halted.set(f64::from(u8::from(yes)));
    }

    pub(crate) fn blocked(&self, yes: bool) {
        self.blocked.set(f64::from(u8::from(yes)));
    }
}
