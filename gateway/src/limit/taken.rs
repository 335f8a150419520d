//! Tokens that a call has taken from its buckets.

use std::sync::atomic::{AtomicBool, Ordering};

use super::{Bucket, RateLimits};

/// The bound of a call, taken when it began. What the call did not use goes back when it tells, what it used above its bound is taken
/// too. A call that never tells has used nothing.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    limits: RateLimits,
    buckets: Vec<Bucket>,
    told: AtomicBool,
}

impl Taken {
    /// What was taken from these buckets.
    pub(crate) fn new(limits: RateLimits, buckets: Vec<Bucket>) -> Self {
        Self { limits, buckets, told: AtomicBool::new(false) }
    }

    /// The call has used so many tokens. The first word counts.
    pub(crate) fn used(&self, tokens: u64) {
        if !self.told.swap(true, Ordering::Relaxed) {
            self.limits.correct(&self.buckets, tokens);
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.used(0);
    }
}
