//! How fast a shard is, for people.

use std::time::Instant;

/// Events per second over windows of a second.
pub(super) struct Rate {
    since: Instant,
    events: usize,
    last: f64,
}

impl Rate {
    pub(super) fn new() -> Self {
        Self { since: Instant::now(), events: 0, last: 0.0 }
    }

    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    pub(super) fn add(&mut self, events: usize) -> f64 {
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
