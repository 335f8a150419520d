//! Whether gateways live, and what becomes of the holds of one that does not.
//!
//! Each gateway keeps an advisory lock of the database as long as its process lives: PostgreSQL lets go of it when the connection
//! ends, however the process ended. Who can take another's lock for long enough ends its open holds, one command each. A gateway
//! that was only cut off can then be late, but never end a hold twice.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelfaucet_gateway::Gateway;
use modelfaucet_schema::ids::GatewayId;
use modelfaucet_schema::token::short_hash;
use tokio_postgres::{Client, Config};

use super::Feed;
use crate::database;

/// The longest pause between two looks.
const LOOK: Duration = Duration::from_secs(5);
/// How long a start waits for its own lock before it goes on without.
const START: Duration = Duration::from_secs(5);

/// Takes this gateway's lock, then watches over the others for as long as the process lives.
pub(super) async fn start(database: Config, feed: Arc<Feed>, gateway: Gateway, after: Duration) {
    let (locked, first) = tokio::sync::oneshot::channel();
    tokio::spawn(watch(database, feed, gateway, after, locked));
    if tokio::time::timeout(START, first).await.is_err() {
        tracing::warn!("this gateway has no lock of its own yet; until it has, another may end its calls");
    }
}

async fn watch(
    config: Config,
    feed: Arc<Feed>,
    gateway: Gateway,
    after: Duration,
    locked: tokio::sync::oneshot::Sender<()>,
) {
    let mut locked = Some(locked);
    loop {
        if let Err(error) = watch_connected(&config, &feed, &gateway, after, &mut locked).await {
            tracing::warn!(%error, "the locks of gateways cannot be seen");
        }
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
}

async fn watch_connected(
    config: &Config,
    feed: &Feed,
    gateway: &Gateway,
    after: Duration,
    locked: &mut Option<tokio::sync::oneshot::Sender<()>>,
) -> Result<(), tokio_postgres::Error> {
    let client = database::connect(config).await?;
    while !try_lock(&client, feed.gateway).await? {
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    if let Some(locked) = locked.take() {
        let _nobody_waits = locked.send(());
    }
    let mut away: HashMap<GatewayId, Instant> = HashMap::new();
    loop {
        tokio::time::sleep(LOOK.min(after / 3)).await;
        // Also tells whether the connection, and with it our own lock, is still there.
        client.simple_query("SELECT 1").await?;
        let holds = feed.foreign_holds();
        away.retain(|id, _| holds.contains_key(id));
        for (id, left) in holds {
            if !try_lock(&client, id).await? {
                away.remove(&id);
                continue;
            }
            let since = *away.entry(id).or_insert_with(Instant::now);
            if since.elapsed() >= after {
                tracing::warn!(gateway = %id, holds = left.len(), "a gateway is away; its holds are ended here");
                gateway.recover(left).await;
            }
            client.query_one("SELECT pg_advisory_unlock($1)", &[&key(id)]).await?;
        }
    }
}

async fn try_lock(client: &Client, gateway: GatewayId) -> Result<bool, tokio_postgres::Error> {
    Ok(client.query_one("SELECT pg_try_advisory_lock($1)", &[&key(gateway)]).await?.get(0))
}

/// A number that no shard has: shards count from 0, and these are spread over all 64 bits.
fn key(gateway: GatewayId) -> i64 {
    let hash = short_hash(&[b"gateway", gateway.0.as_bytes()]);
    let mut bytes = [0; 8];
    bytes.copy_from_slice(&hash.as_bytes()[..8]);
    i64::from_be_bytes(bytes)
}
