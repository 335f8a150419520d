//! Tokens that a call has taken from its buckets.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Bucket, RateLimits};

/// The bound of a call, taken when it began. What the call did not use goes back when it is settled, what it used above its bound is
/// taken too. A call that is never settled has used nothing.
#[derive(Debug, Default)]
pub(crate) struct Charge {
    limits: RateLimits,
    buckets: Vec<Bucket>,
    settled: AtomicBool,
}

impl Charge {
    /// What was taken from these buckets.
    pub(crate) fn new(limits: RateLimits, buckets: Vec<Bucket>) -> Self {
        Self { limits, buckets, settled: AtomicBool::new(false) }
    }

    /// The call has used so many tokens. The first word counts.
    pub(crate) fn settle(&self, tokens: u64) {
        if !self.settled.swap(true, Ordering::Relaxed) {
            self.limits.correct(&self.buckets, tokens);
        }
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.settle(0);
    }
}
