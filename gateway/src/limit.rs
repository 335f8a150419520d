//! Rate limits, by the generic cell rate algorithm: a moment per bucket says when its next request would come, had they all come
//! evenly. They save work and share a provider fairly; money never depends on them.
//!
//! In process, or in Redis, where instances share them. Redis that is away or slow changes nothing but who counts: the process does,
//! with its share of the limit, so that all together let through at most twice the limit in one window.

mod headers;
mod local;
mod rates;
mod redis;
mod taken;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

pub use headers::show;
pub use rates::{Quota, Rates};
pub use redis::{RedisError, RedisOptions};
pub(crate) use taken::Taken;

use local::Local;
use redis::Redis;

/// Whom a limit is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scope {
    /// A client's address, before anybody knows who it is. It fails closed: what cannot be counted is refused.
    Address,
    /// A session.
    Session,
    /// A user, by the wallet.
    User,
    /// An app.
    App,
}

impl Scope {
    /// As it stands in keys and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Address => "address",
            Self::Session => "session",
            Self::User => "user",
            Self::App => "app",
        }
    }
}

/// What is counted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Unit {
    /// Requests.
    Requests,
    /// Tokens, input and output.
    Tokens,
}

impl Unit {
    /// As it stands in keys, headers and errors.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Requests => "requests",
            Self::Tokens => "tokens",
        }
    }
}

/// Names a bucket.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Key {
    /// For whom.
    pub scope: Scope,
    /// Which one of them. Addresses stand here as hashes.
    pub id: Uuid,
    /// Of what.
    pub unit: Unit,
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "rl:{}:{}:{}", self.scope.name(), self.unit.name(), self.id.simple())
    }
}

/// So much per window, all of it at once if need be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// How much; at least 1.
    pub limit: u64,
    /// In how long; at most a day.
    pub window: Duration,
}

/// A bucket and what is to be taken from it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bucket {
    /// Its name.
    pub key: Key,
    /// What it holds.
    pub rate: Rate,
    /// What is taken.
    pub cost: u64,
}

impl Rate {
    /// The window in microseconds, the unit of all times here.
    fn window(self) -> i64 {
        i64::try_from(self.window.as_micros()).unwrap_or(i64::MAX / 4)
    }

    /// How long `cost` takes to flow in again, rounded up. What costs more than the whole bucket takes the whole bucket: else it
    /// could never be had.
    fn time(self, cost: u64) -> i64 {
        let (window, limit) = (u128::from(self.window().unsigned_abs()), u128::from(self.limit.max(1)));
        i64::try_from((window * u128::from(cost)).div_ceil(limit).min(window)).unwrap_or(i64::MAX / 4)
    }

    /// What one of `instances` may let through by itself.
    fn share(self, instances: u64) -> Self {
        Self { limit: (self.limit / instances.max(1)).max(1), ..self }
    }
}

impl Bucket {
    fn time(&self) -> i64 {
        self.rate.time(self.cost)
    }

    /// May it be taken, when what was taken before takes `backlog` to flow in again?
    fn admits(&self, backlog: i64) -> bool {
        backlog + self.time() <= self.rate.window()
    }

    fn shared_by(&self, instances: u64) -> Self {
        Self { rate: self.rate.share(instances), ..*self }
    }
}

/// What the owner of a bucket is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Allowance {
    /// The bucket.
    pub key: Key,
    /// What it holds.
    pub limit: u64,
    /// What may be taken at once from now on.
    pub remaining: u64,
    /// Until it is full.
    pub reset: Duration,
    /// Until what was asked for may be taken; zero if it may be now.
    pub retry_after: Duration,
}

impl Allowance {
    fn of(bucket: &Bucket, backlog: i64, granted: bool) -> Self {
        let window = bucket.rate.window();
        let after = if granted { backlog + bucket.time() } else { backlog };
        let free = u128::from((window - after).max(0).unsigned_abs());
        let remaining = free * u128::from(bucket.rate.limit) / u128::from(window.unsigned_abs().max(1));
        let microseconds = |time: i64| Duration::from_micros(time.max(0).unsigned_abs());
        Self {
            key: bucket.key,
            limit: bucket.rate.limit,
            remaining: u64::try_from(remaining).unwrap_or(u64::MAX),
            reset: microseconds(after),
            retry_after: if granted { Duration::ZERO } else { microseconds(backlog + bucket.time() - window) },
        }
    }
}

/// All of it or nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Decision {
    /// One for each bucket, in order.
    pub allowances: Vec<Allowance>,
    /// The one that refuses, if one does: that which asks for the longest wait.
    pub refused: Option<Allowance>,
}

impl Decision {
    fn of(buckets: &[Bucket], backlogs: &[i64]) -> Self {
        let pairs = || buckets.iter().zip(backlogs.iter().copied());
        let granted = pairs().all(|(bucket, backlog)| bucket.admits(backlog));
        let allowances: Vec<_> = pairs().map(|(bucket, backlog)| Allowance::of(bucket, backlog, granted)).collect();
        let refused = allowances.iter().filter(|allowance| !allowance.retry_after.is_zero());
        Self { refused: refused.max_by_key(|allowance| allowance.retry_after).copied(), allowances }
    }

    /// A bucket that cannot be counted.
    fn closed(bucket: &Bucket) -> Self {
        let retry_after = Duration::from_secs(1);
        let refused = Allowance { remaining: 0, retry_after, ..Allowance::of(bucket, bucket.rate.window(), false) };
        Self { allowances: vec![refused], refused: Some(refused) }
    }

    /// The tightest allowance of a unit: the one that refuses, else the one with the smallest part of its limit left.
    pub fn tightest(&self, unit: Unit) -> Option<Allowance> {
        let of_unit = self.allowances.iter().filter(|allowance| allowance.key.unit == unit);
        let part =
            |allowance: &Allowance| u128::from(allowance.remaining) * 1_000_000 / u128::from(allowance.limit.max(1));
        of_unit.min_by_key(|allowance| (std::cmp::Reverse(allowance.retry_after), part(allowance))).copied()
    }
}

/// The rate limits of a process. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct RateLimits {
    shared: Arc<Shared>,
}

#[derive(Debug, Default)]
struct Shared {
    local: Local,
    redis: Option<Redis>,
}

impl RateLimits {
    /// Limits that the instances of a service share through Redis. Needs a runtime: a task of its own keeps the connection.
    ///
    /// # Errors
    /// [`RedisError`] for an address that is none; Redis itself may be away.
    pub fn shared(options: &RedisOptions) -> Result<Self, RedisError> {
        Ok(Self { shared: Arc::new(Shared { local: Local::default(), redis: Some(Redis::start(options)?) }) })
    }

    /// Takes from all buckets, or from none.
    pub async fn take(&self, buckets: &[Bucket]) -> Decision {
        if buckets.is_empty() {
            return Decision::default();
        }
        let shared = self.shared.as_ref();
        let mut backend = "process";
        let counted = match &shared.redis {
            Some(redis) => redis.take(buckets).await,
            None => None,
        };
        let decision = if let Some(backlogs) = counted {
            backend = "redis";
            Decision::of(buckets, &backlogs)
        } else {
            let instances = shared.redis.as_ref().map_or(1, Redis::instances);
            let own: Vec<_> = buckets.iter().map(|bucket| bucket.shared_by(instances)).collect();
            shared.local.take(&own)
        };
        if let Some(refused) = decision.refused {
            let labels = [("scope", refused.key.scope.name()), ("unit", refused.key.unit.name()), ("backend", backend)];
            metrics::counter!("gateway_limited_total", &labels).increment(1);
        }
        decision
    }

    /// Corrects buckets after the fact: `actual` was used instead of their cost. Best effort, and nobody waits for it.
    pub(crate) fn correct(&self, buckets: &[Bucket], actual: u64) {
        let changes = buckets.iter().map(|bucket| (bucket.key, bucket.rate.time(actual) - bucket.time()));
        let changes: Vec<_> = changes.filter(|(_, change)| *change != 0).collect();
        if changes.is_empty() {
            return;
        }
        self.shared.local.correct(&changes);
        if self.shared.redis.is_some()
            && let Ok(runtime) = tokio::runtime::Handle::try_current()
        {
            let shared = Arc::clone(&self.shared);
            runtime.spawn(async move {
                if let Some(redis) = &shared.redis {
                    redis.correct(&changes).await;
                }
            });
        }
    }

    /// Does Redis count now? `None` if there is none to.
    pub fn redis_counts(&self) -> Option<bool> {
        self.shared.redis.as_ref().map(Redis::is_here)
    }
}

#[cfg(test)]
mod tests;
