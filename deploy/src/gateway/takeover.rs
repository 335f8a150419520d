//! Whether gateways live, and what becomes of the holds of one that does not.
//!
//! Each gateway keeps an advisory lock of the database as long as its process lives: PostgreSQL lets go of it when the connection
//! ends, however the process ended. For a gateway that has no database of its own, the process that it reports to keeps the lock as
//! long as it hears of it. Who can take another's lock for long enough ends its open holds, one command each. A gateway that was only
//! cut off can then be late, but never end a hold twice.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use modelfaucet_gateway::LeftHold;
use modelfaucet_schema::ids::GatewayId;
use modelfaucet_schema::log::connection::within;
use modelfaucet_schema::token::short_hash;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tokio_postgres::{Client, Config};

use super::holds::OpenHolds;
use crate::database;

/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// How long the database may take to answer.
const ANSWER: Duration = Duration::from_secs(5);
/// How long a start waits for its own lock before it goes on without.
const START: Duration = Duration::from_secs(5);

/// Gateways that report to this process, and when they did last.
#[derive(Debug, Default)]
pub(crate) struct Reports(Mutex<HashMap<GatewayId, Instant>>);

impl Reports {
    /// A gateway lives.
    pub(super) fn alive(&self, gateway: GatewayId) {
        self.0.lock().insert(gateway, Instant::now());
    }

    /// Those that have reported within `life`.
    fn living(&self, life: Duration) -> HashSet<GatewayId> {
        let mut reports = self.0.lock();
        reports.retain(|_, last| last.elapsed() < life);
        reports.keys().copied().collect()
    }
}

/// How the holds of a gateway that is away are ended; says how many were.
pub(crate) type Recover = Arc<dyn Fn(Vec<LeftHold>) -> BoxFuture<'static, usize> + Send + Sync>;

/// A watch over gateways.
pub(crate) struct Watch {
    /// As `ledger_command`.
    pub(crate) database: Config,
    /// The gateway of this process, if it has one.
    pub(crate) own: Option<GatewayId>,
    /// Those that report to it.
    pub(crate) reports: Arc<Reports>,
    /// What is open.
    pub(crate) holds: Arc<OpenHolds>,
    /// How long a gateway must have been away.
    pub(crate) after: Duration,
    /// What is done then.
    pub(crate) recover: Recover,
}

impl Watch {
    /// Takes this gateway's lock, then watches over the others for as long as the process lives.
    pub(crate) async fn start(self) {
        let (locked, first) = oneshot::channel();
        tokio::spawn(self.run(locked));
        if tokio::time::timeout(START, first).await.is_err() {
            tracing::warn!("this gateway has no lock of its own yet; until it has, another may end its calls");
        }
    }

    async fn run(self, locked: oneshot::Sender<()>) {
        let mut locked = Some(locked);
        loop {
            if let Err(error) = self.run_connected(&mut locked).await {
                tracing::warn!(%error, "the locks of gateways cannot be seen");
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }

    async fn run_connected(&self, locked: &mut Option<oneshot::Sender<()>>) -> Result<(), tokio_postgres::Error> {
        let client = database::connect(&self.database).await?;
        if let Some(own) = self.own {
            while !try_lock(&client, own).await? {
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
        if let Some(locked) = locked.take() {
            let _nobody_waits = locked.send(());
        }
        let mut kept: HashSet<GatewayId> = HashSet::new();
        let mut away: HashMap<GatewayId, Instant> = HashMap::new();
        loop {
            tokio::time::sleep(LOOK.min(self.after / 3)).await;
            // Also tells whether the connection, and with it our own lock, is still there.
            within(ANSWER, client.simple_query("SELECT 1")).await?;
            self.keep_locks(&client, &mut kept).await?;
            let mut holds = self.holds.by_gateway();
            // A lock of ours says nothing: the same connection can take it again.
            holds.retain(|id, _| Some(*id) != self.own && !kept.contains(id));
            away.retain(|id, _| holds.contains_key(id));
            for (id, left) in holds {
                if !try_lock(&client, id).await? {
                    away.remove(&id);
                    continue;
                }
                let since = *away.entry(id).or_insert_with(Instant::now);
                if since.elapsed() >= self.after {
                    tracing::warn!(gateway = %id, holds = left.len(), "a gateway is away; its holds are ended here");
                    (self.recover)(left).await;
                }
                unlock(&client, id).await?;
            }
        }
    }

    /// Keeps the locks of the gateways that report, and lets go of the others'.
    async fn keep_locks(&self, client: &Client, kept: &mut HashSet<GatewayId>) -> Result<(), tokio_postgres::Error> {
        // A gateway reports three times as often.
        let living = self.reports.living(self.after / 2);
        for id in kept.difference(&living).copied().collect::<Vec<_>>() {
            kept.remove(&id);
            unlock(client, id).await?;
        }
        for id in living.difference(kept).copied().collect::<Vec<_>>() {
            // It may report to two processes in turn: one lock is enough.
            if try_lock(client, id).await? {
                kept.insert(id);
            }
        }
        Ok(())
    }
}

async fn try_lock(client: &Client, gateway: GatewayId) -> Result<bool, tokio_postgres::Error> {
    let key = key(gateway);
    Ok(within(ANSWER, client.query_one("SELECT pg_try_advisory_lock($1)", &[&key])).await?.get(0))
}

async fn unlock(client: &Client, gateway: GatewayId) -> Result<(), tokio_postgres::Error> {
    let key = key(gateway);
    within(ANSWER, client.query_one("SELECT pg_advisory_unlock($1)", &[&key])).await.map(drop)
}

/// A number that no shard has: shards count from 0, and these are spread over all 64 bits.
fn key(gateway: GatewayId) -> i64 {
    let hash = short_hash(&[b"gateway", gateway.0.as_bytes()]);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_be_bytes(bytes)
}
