//! Migrations: numbered SQL files, applied once each, in order, under a lock, each in its own transaction.

use sha2::{Digest as _, Sha256};
use tokio_postgres::Client;

use crate::ids::{LogId, ShardId};

/// A numbered step.
#[derive(Clone, Copy, Debug)]
pub struct Migration {
    /// Rises; a number may be left out.
    pub number: i32,
    /// Short name.
    pub name: &'static str,
    /// The statements.
    pub sql: &'static str,
}

/// The log's migrations, in order.
pub const MIGRATIONS: &[Migration] = &[
    Migration { number: 1, name: "roles", sql: include_str!("../../migrations/0001_roles.sql") },
    Migration { number: 2, name: "log", sql: include_str!("../../migrations/0002_log.sql") },
    Migration {
        number: 3,
        name: "projection_registry",
        sql: include_str!("../../migrations/0003_projection_registry.sql"),
    },
    Migration { number: 4, name: "batch_size", sql: include_str!("../../migrations/0004_batch_size.sql") },
    Migration { number: 8, name: "answers", sql: include_str!("../../migrations/0008_answers.sql") },
    Migration { number: 9, name: "secrets", sql: include_str!("../../migrations/0009_secrets.sql") },
    Migration { number: 10, name: "payment", sql: include_str!("../../migrations/0010_payment.sql") },
    Migration { number: 11, name: "access", sql: include_str!("../../migrations/0011_access.sql") },
    Migration { number: 12, name: "relay", sql: include_str!("../../migrations/0012_relay.sql") },
    Migration {
        number: 13,
        name: "projection_versions",
        sql: include_str!("../../migrations/0013_projection_versions.sql"),
    },
    Migration { number: 15, name: "backup", sql: include_str!("../../migrations/0015_backup.sql") },
    Migration { number: 16, name: "clock", sql: include_str!("../../migrations/0016_clock.sql") },
    Migration { number: 17, name: "payment_index", sql: include_str!("../../migrations/0017_payment_index.sql") },
];

/// Why the database could not be set up.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// A migration that was applied is not the one that this program knows.
    #[error("migration {number} ({name}) was applied with other content; use the program that matches this database")]
    Changed {
        /// Its number.
        number: i32,
        /// Its name.
        name: String,
    },
    /// The database is ahead of this program.
    #[error("the database has migration {0}, which this program does not know; use a newer program")]
    Newer(i32),
    /// The database's error.
    #[error("migration failed: {0}")]
    Database(#[from] tokio_postgres::Error),
}

/// Brings the database up to date and makes sure that `shards` have logs. Returns the numbers that were applied.
///
/// # Errors
/// [`MigrateError`]; a step that fails leaves nothing behind.
pub async fn migrate(client: &mut Client, shards: &[ShardId]) -> Result<Vec<i32>, MigrateError> {
    // One migrator at a time; the session's lock goes when it disconnects.
    client.batch_execute("SELECT pg_advisory_lock(7303)").await?;
    let result = apply(client, shards).await;
    client.batch_execute("SELECT pg_advisory_unlock(7303)").await?;
    result
}

async fn apply(client: &mut Client, shards: &[ShardId]) -> Result<Vec<i32>, MigrateError> {
    client
        .batch_execute(
            "SET client_min_messages = warning;
             CREATE SCHEMA IF NOT EXISTS migration;
             CREATE TABLE IF NOT EXISTS migration.applied (
                 number integer PRIMARY KEY, name text NOT NULL, sha256 bytea NOT NULL, applied_at timestamptz NOT NULL DEFAULT now());
             GRANT USAGE ON SCHEMA migration TO PUBLIC;
             GRANT SELECT ON migration.applied TO PUBLIC;",
        )
        .await?;
    let known = applied(client).await?;
    let mut done = Vec::new();
    for migration in MIGRATIONS {
        if known.contains(&migration.number) {
            continue;
        }
        let transaction = client.transaction().await?;
        transaction.batch_execute(migration.sql).await?;
        transaction.batch_execute("RESET ROLE").await?;
        let hash = Sha256::digest(migration.sql.as_bytes());
        transaction
            .execute(
                "INSERT INTO migration.applied (number, name, sha256) VALUES ($1, $2, $3)",
                &[&migration.number, &migration.name, &hash.as_slice()],
            )
            .await?;
        transaction.commit().await?;
        done.push(migration.number);
    }
    for shard in shards {
        client.execute("SELECT ledger.create_shard($1, $2)", &[&shard.0, &LogId::generate().0]).await?;
    }
    Ok(done)
}

/// The applied migrations, checked against those that this program knows.
async fn applied(client: &Client) -> Result<Vec<i32>, MigrateError> {
    let rows = client.query("SELECT number, name, sha256 FROM migration.applied ORDER BY number", &[]).await?;
    rows.iter()
        .map(|row| {
            let number: i32 = row.get(0);
            let known = MIGRATIONS.iter().find(|known| known.number == number).ok_or(MigrateError::Newer(number))?;
            if Sha256::digest(known.sql.as_bytes()).as_slice() == row.get::<_, &[u8]>(2) {
                Ok(number)
            } else {
                Err(MigrateError::Changed { number, name: row.get(1) })
            }
        })
        .collect()
}

/// Is the database exactly as far as this program? Anybody may ask.
///
/// # Errors
/// The database's, also where there is no `migration` schema at all.
pub async fn is_current(client: &Client) -> Result<bool, tokio_postgres::Error> {
    let row = client.query_one("SELECT count(*), coalesce(max(number), 0) FROM migration.applied", &[]).await?;
    let newest = MIGRATIONS.last().map_or(0, |migration| migration.number);
    Ok(row.get::<_, i64>(0) == i64::try_from(MIGRATIONS.len()).unwrap_or(0) && row.get::<_, i32>(1) == newest)
}
