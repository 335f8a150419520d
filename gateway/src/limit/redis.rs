//! Buckets in Redis, shared by the instances of a service. One script does it all, by Redis's own clock.
//!
//! No request waits for Redis longer than a few milliseconds. Once it was too slow, or gone, it is not asked any more until a task of
//! its own has found it well again. The user that the process is in Redis needs no more than `~rl:* +eval +evalsha +script|load +get
//! +set +time +ping`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::RwLock;
use redis::aio::MultiplexedConnection;
use redis::{AsyncConnectionConfig, Client, Cmd};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::sync::Notify;
use uuid::Uuid;

use super::{Bucket, Key};

const TAKE: &str = include_str!("take.lua");
const CORRECT: &str = include_str!("correct.lua");
const LIVE: &str = include_str!("live.lua");

/// How often an instance says that it lives.
const PULSE: Duration = Duration::from_secs(5);
/// After so long without a word an instance is gone.
const GONE_AFTER_SECONDS: u64 = 15;
/// How often a Redis that is away is tried again.
const TRY_AGAIN: Duration = Duration::from_millis(250);
/// How long a new connection may take to stand.
const CONNECT: Duration = Duration::from_secs(2);

/// Where Redis is and who asks.
#[derive(Clone, Debug)]
pub struct RedisOptions {
    /// `redis://[user:password@]host[:port][/database]`, or `redis+unix:///path`.
    pub url: SecretString,
    /// Instances of one service share their limits and count each other.
    pub service: &'static str,
    /// The longest that a request waits for Redis.
    pub patience: Duration,
}

/// An address that is none. It is not quoted: there may be a password in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not an address such as redis://127.0.0.1:6379")]
pub struct RedisError;

/// A connection with its scripts loaded.
#[derive(Clone)]
struct Ready {
    connection: MultiplexedConnection,
    take: Arc<str>,
    correct: Arc<str>,
}

#[derive(Debug)]
pub(super) struct Redis {
    link: Arc<Link>,
}

/// What the requests and the keeper of the connection share.
struct Link {
    ready: RwLock<Option<Ready>>,
    instances: AtomicU64,
    patience: Duration,
    lost: Notify,
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link").field("here", &self.ready.read().is_some()).finish_non_exhaustive()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        // The keeper holds the link weakly: it ends when it next looks.
        self.link.lost.notify_one();
    }
}

impl Redis {
    pub(super) fn start(options: &RedisOptions) -> Result<Self, RedisError> {
        let client = Client::open(options.url.expose_secret()).map_err(|_| RedisError)?;
        let link = Arc::new(Link {
            ready: RwLock::new(None),
            instances: AtomicU64::new(1),
            patience: options.patience,
            lost: Notify::new(),
        });
        tokio::spawn(keep(client, Arc::downgrade(&link), options.service));
        Ok(Self { link })
    }

    /// What is missing from each bucket, after taking from all of them if all admit it; `None` if Redis is away.
    pub(super) async fn take(&self, buckets: &[Bucket]) -> Option<Vec<i64>> {
        let ready = self.link.ready.read().clone()?;
        let mut command = evalsha(&ready.take, buckets.iter().map(|bucket| bucket.key));
        for bucket in buckets {
            command.arg(bucket.rate.window()).arg(bucket.time());
        }
        let backlogs: Vec<i64> = self.link.ask(&ready, &command).await?;
        (backlogs.len() == buckets.len()).then_some(backlogs)
    }

    pub(super) async fn correct(&self, changes: &[(Key, i64)]) {
        let Some(ready) = self.link.ready.read().clone() else { return };
        let mut command = evalsha(&ready.correct, changes.iter().map(|(key, _)| *key));
        for (_, change) in changes {
            command.arg(change);
        }
        let _best_effort: Option<i64> = self.link.ask(&ready, &command).await;
    }

    /// How many instances there were when Redis was last seen.
    pub(super) fn instances(&self) -> u64 {
        self.link.instances.load(Ordering::Relaxed)
    }

    pub(super) fn is_here(&self) -> bool {
        self.link.ready.read().is_some()
    }
}

impl Link {
    /// Asks within our patience. A Redis that fails, or keeps us waiting, is away from now on.
    async fn ask<T: redis::FromRedisValue>(&self, ready: &Ready, command: &Cmd) -> Option<T> {
        let mut connection = ready.connection.clone();
        let why = match tokio::time::timeout(self.patience, command.query_async(&mut connection)).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("no answer within {:?}", self.patience),
        };
        if self.ready.write().take().is_some() {
            tracing::warn!(why, "Redis is away: the process counts for itself");
            metrics::gauge!("gateway_limits_redis_available").set(0);
            self.lost.notify_one();
        }
        None
    }
}

fn evalsha(script: &str, keys: impl ExactSizeIterator<Item = Key>) -> Cmd {
    let mut command = redis::cmd("EVALSHA");
    command.arg(script).arg(keys.len());
    for key in keys {
        command.arg(key.to_string());
    }
    command
}

/// Keeps a connection, for as long as somebody has the link.
async fn keep(client: Client, link: std::sync::Weak<Link>, service: &'static str) {
    let instance = Uuid::new_v4().simple().to_string();
    metrics::gauge!("gateway_limits_redis_available").set(0);
    loop {
        let Some(here) = link.upgrade() else { return };
        let known = here.ready.read().clone();
        let found = match known {
            Some(ready) => Some(ready),
            None => connect(&client).await,
        };
        // It must be quick too before anybody is made to wait for it.
        if let Some(ready) = found
            && let Some(instances) = pulse(&ready, &instance, service, here.patience).await
        {
            here.instances.store(instances.max(1), Ordering::Relaxed);
            let mut slot = here.ready.write();
            if slot.is_none() {
                tracing::info!(instances, "Redis counts");
                metrics::gauge!("gateway_limits_redis_available").set(1);
                *slot = Some(ready);
            }
        } else if here.ready.write().take().is_some() {
            tracing::warn!("Redis is away: the process counts for itself");
            metrics::gauge!("gateway_limits_redis_available").set(0);
        }
        let pause = if here.ready.read().is_some() { PULSE } else { TRY_AGAIN };
        let lost = async { here.lost.notified().await };
        let _woken = tokio::time::timeout(pause, lost).await;
        if pause == PULSE && here.ready.read().is_none() {
            tokio::time::sleep(TRY_AGAIN).await;
        }
    }
}

async fn connect(client: &Client) -> Option<Ready> {
    let config = AsyncConnectionConfig::new().set_connection_timeout(Some(CONNECT)).set_response_timeout(Some(CONNECT));
    let mut connection = client.get_multiplexed_async_connection_with_config(&config).await.ok()?;
    let mut load = async |script: &str| -> Option<Arc<str>> {
        let mut command = redis::cmd("SCRIPT");
        command.arg("LOAD").arg(script);
        let hash: String = command.query_async(&mut connection).await.ok()?;
        Some(hash.into())
    };
    let (take, correct) = (load(TAKE).await?, load(CORRECT).await?);
    Some(Ready { connection, take, correct })
}

async fn pulse(ready: &Ready, instance: &str, service: &str, patience: Duration) -> Option<u64> {
    let mut command = redis::cmd("EVAL");
    command.arg(LIVE).arg(1).arg(format!("rl:live:{service}")).arg(instance).arg(GONE_AFTER_SECONDS);
    let mut connection = ready.connection.clone();
    // The first word on a new connection may take a moment; then it must be quick.
    for _ in 0..2 {
        if let Ok(Ok(instances)) = tokio::time::timeout(patience, command.query_async(&mut connection)).await {
            return Some(instances);
        }
    }
    None
}
