//! Buckets in the memory of the process.

use std::collections::HashMap;
use std::time::Instant;

use parking_lot::Mutex;

use super::{Bucket, Decision, Key, Scope};

/// More buckets than this are not kept; those that are full again make room.
const MAX_BUCKETS: usize = 200_000;

/// The buckets, each as the moment at which it is full again, in microseconds since the process began to count.
#[derive(Debug)]
pub(super) struct Local {
    began: Instant,
    full_at: Mutex<HashMap<Key, i64>>,
    most: usize,
}

impl Default for Local {
    fn default() -> Self {
        Self { began: Instant::now(), full_at: Mutex::default(), most: MAX_BUCKETS }
    }
}

impl Local {
    pub(super) fn take(&self, buckets: &[Bucket]) -> Decision {
        self.take_at(buckets, i64::try_from(self.began.elapsed().as_micros()).unwrap_or(i64::MAX / 4))
    }

    /// Takes at a moment. Buckets that nothing is known of while there is no room for more: those of addresses are refused, the others
    /// granted, since their owners have passed a limit already.
    pub(super) fn take_at(&self, buckets: &[Bucket], now: i64) -> Decision {
        let mut full_at = self.full_at.lock();
        if full_at.len() + buckets.len() > self.most {
            full_at.retain(|_, full_at| *full_at > now);
        }
        let room = full_at.len() + buckets.len() <= self.most;
        if let Some(unknown) = buckets
            .iter()
            .find(|bucket| !room && bucket.key.scope == Scope::Address && !full_at.contains_key(&bucket.key))
        {
            return Decision::closed(unknown);
        }
        let backlog = |bucket: &Bucket| {
            let full_at = full_at.get(&bucket.key).copied().unwrap_or(now);
            (full_at - now).clamp(0, bucket.rate.window())
        };
        let backlogs: Vec<_> = buckets.iter().map(backlog).collect();
        let decision = Decision::of(buckets, &backlogs);
        if decision.refused.is_none() {
            for (bucket, backlog) in buckets.iter().zip(backlogs) {
                if room || full_at.contains_key(&bucket.key) {
                    full_at.insert(bucket.key, now + backlog + bucket.time());
                }
            }
        }
        decision
    }

    /// Moves the moments of buckets that are known.
    pub(super) fn correct(&self, changes: &[(Key, i64)]) {
        let mut full_at = self.full_at.lock();
        for (key, change) in changes {
            if let Some(full_at) = full_at.get_mut(key) {
                *full_at += change;
            }
        }
    }

    #[cfg(test)]
    pub(super) fn with_room_for(most: usize) -> Self {
        Self { most, ..Self::default() }
    }
}
