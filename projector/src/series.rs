//! The projector's metrics; operations.md lists their names.

use metrics::{
    Counter, Gauge, Histogram, counter, describe_counter, describe_gauge, describe_histogram, gauge, histogram,
};
use modelfaucet_schema::ids::ShardId;

/// Says what the series mean.
pub fn describe() {
    describe_gauge!("modelfaucet_projection_position", "Position that the projection has reached");
    describe_gauge!("modelfaucet_projection_lag_events", "Events in the log that the projection has not applied");
    describe_gauge!(
        "modelfaucet_projection_lag_seconds",
        "Age of the oldest event that the projection has not applied; 0 for none"
    );
    describe_histogram!("modelfaucet_projection_apply_duration_seconds", "Folding and committing one batch");
    describe_counter!("modelfaucet_projection_duplicates_total", "Events that came twice and were dropped");
    describe_counter!(
        "modelfaucet_projector_events_total",
        "Events that were offered to projections, by where they came from"
    );
    describe_gauge!("modelfaucet_dead_letters", "Events that the projection has put aside");
    for source in ["log", "writer", "broker"] {
        counter!("modelfaucet_projector_events_total", "source" => source).increment(0);
    }
}

/// The series of one projection in one shard.
pub(crate) struct Series {
    pub(crate) position: Gauge,
    pub(crate) lag_events: Gauge,
    pub(crate) lag_seconds: Gauge,
    pub(crate) apply: Histogram,
    pub(crate) duplicates: Counter,
    pub(crate) dead_letters: Gauge,
}

impl Series {
    pub(crate) fn new(projection: &'static str, version: i32, state: &str, shard: ShardId) -> Self {
        let labels = [
            ("projection", projection.to_owned()),
            ("version", version.to_string()),
            ("state", state.to_owned()),
            ("shard", shard.0.to_string()),
        ];
        let series = Self {
            position: gauge!("modelfaucet_projection_position", &labels),
            lag_events: gauge!("modelfaucet_projection_lag_events", &labels),
            lag_seconds: gauge!("modelfaucet_projection_lag_seconds", &labels),
            apply: histogram!("modelfaucet_projection_apply_duration_seconds", &labels),
            duplicates: counter!("modelfaucet_projection_duplicates_total", &labels),
            dead_letters: gauge!("modelfaucet_dead_letters", &labels),
        };
        // Every series is there from the start, zero included.
        series.duplicates.increment(0);
        series
    }
}

/// Events came from the log, the writer's memory, or the broker.
pub(crate) fn fed(source: &'static str, events: usize) {
    if events > 0 {
        counter!("modelfaucet_projector_events_total", "source" => source).increment(events as u64);
    }
}

/// A figure for a gauge; exact to 2⁵³, which no position reaches.
#[expect(clippy::cast_precision_loss, reason = "positions are far below 2^53")]
pub(crate) fn figure(number: i64) -> f64 {
    number as f64
}
