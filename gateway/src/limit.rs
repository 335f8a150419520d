//! Rate limits in process, by the generic cell rate algorithm: a moment per session says when its next request may come. They
//! save work; money never depends on them.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::SessionId;
use parking_lot::Mutex;

/// With more sessions than this, those that are not limited now are forgotten.
const MAX_SESSIONS: usize = 100_000;

/// What a request is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Allowance {
    /// Requests per minute.
    pub(crate) limit: u32,
    /// Requests that may come at once from now on.
    pub(crate) remaining: u32,
    /// Until all of them may.
    pub(crate) reset: Duration,
    /// Until one may; zero if this one may.
    pub(crate) retry_after: Duration,
}

impl Allowance {
    /// May it?
    pub(crate) fn is_granted(&self) -> bool {
        self.retry_after.is_zero()
    }
}

/// Requests per session and minute.
#[derive(Debug)]
pub(crate) struct RateLimits {
    limit: u32,
    /// When the last granted request of a session would have come, had they come evenly.
    arrivals: Mutex<HashMap<SessionId, Instant>>,
}

const WINDOW: Duration = Duration::from_secs(60);

impl RateLimits {
    /// So many requests per minute, all of them at once if need be; 0: no limit.
    pub(crate) fn new(limit: u32) -> Self {
        Self { limit, arrivals: Mutex::default() }
    }

    /// A request of a session comes at `now`; `None` without a limit.
    pub(crate) fn take(&self, session: SessionId, now: Instant) -> Option<Allowance> {
        let interval = WINDOW.checked_div(self.limit)?;
        let mut arrivals = self.arrivals.lock();
        if arrivals.len() >= MAX_SESSIONS {
            arrivals.retain(|_, arrival| *arrival > now);
        }
        let before = arrivals.get(&session).copied().map_or(now, |arrival| arrival.max(now));
        let after = before + interval;
        let behind = after.saturating_duration_since(now);
        let granted = behind <= WINDOW;
        if granted {
            arrivals.insert(session, after);
        }
        let backlog = if granted { behind } else { before.saturating_duration_since(now) };
        let free = WINDOW.saturating_sub(backlog);
        Some(Allowance {
            limit: self.limit,
            remaining: u32::try_from(free.as_nanos() / interval.as_nanos().max(1)).unwrap_or(u32::MAX),
            reset: backlog,
            retry_after: if granted { Duration::ZERO } else { behind.saturating_sub(WINDOW) },
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_burst_is_granted_once_and_then_one_at_a_time() {
        let limits = RateLimits::new(60);
        let (session, now) = (SessionId::generate(), Instant::now());
        let granted = (0..100).filter(|_| limits.take(session, now).unwrap().is_granted()).count();
        assert_eq!(granted, 60);
        let refused = limits.take(session, now).unwrap();
        assert_eq!((refused.remaining, refused.retry_after), (0, Duration::from_secs(1)));
        assert!(limits.take(session, now + Duration::from_secs(1)).unwrap().is_granted());
        assert!(limits.take(SessionId::generate(), now).unwrap().is_granted(), "sessions do not share");
        assert_eq!(RateLimits::new(0).take(session, now), None);
    }

    proptest! {
        #[test]
        fn no_window_grants_more_than_twice_the_limit(limit in 1_u32..50, steps in proptest::collection::vec(0_u64..5_000, 1..200)) {
            let limits = RateLimits::new(limit);
            let (session, start) = (SessionId::generate(), Instant::now());
            let (mut now, mut granted) = (start, Vec::new());
            for step in steps {
                now += Duration::from_millis(step);
                if limits.take(session, now).unwrap().is_granted() {
                    granted.push(now);
                }
            }
            for from in &granted {
                let within = granted.iter().filter(|at| *at >= from && at.duration_since(*from) < WINDOW).count();
                prop_assert!(within <= 2 * usize::try_from(limit).unwrap());
            }
        }
    }
}
