//! What the ledger leans on beside its database: is it there? And what other tools know of relay, backups and drills.

use std::time::Duration;

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::time::Timestamp;
use tokio::net::{TcpStream, UnixStream};
use tokio_postgres::{Error, Transaction};

use crate::backup::repository::Repository;
use crate::config::{Config, RedisPlace};
use crate::drill;
use crate::exit::Failure;
use crate::reading::ago;

/// How old the newest base backup, the copied WAL and the last drill may be: as the alerts have it.
const OLD: [Duration; 3] = [Duration::from_hours(36), Duration::from_mins(2), Duration::from_hours(48)];
/// How many events may wait for the broker before somebody should look.
const MANY: i64 = 100_000;
/// How long a connection may take.
const PATIENCE: Duration = Duration::from_secs(2);

/// How something outside is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Is {
    Up,
    Down,
    /// Nothing is known of it here.
    NotConfigured,
    /// As it should be, and more about it.
    Fine(String),
    /// Somebody should look.
    Bad(String),
}

impl Is {
    pub(super) fn name(&self) -> &str {
        match self {
            Self::Up => "up",
            Self::Down => "DOWN",
            Self::NotConfigured => "not configured",
            Self::Fine(how) | Self::Bad(how) => how,
        }
    }
}

/// One line: what, and how it is.
pub(super) type Line = (&'static str, Is);

/// Looks at what is beside the database.
pub(super) async fn look(config: &Config, relay: Is, now: Timestamp) -> Result<Vec<Line>, Failure> {
    let (backup, drill) = if config.backup_dir().is_some() {
        let repository = Repository::of(config)?;
        (backup(&repository, now)?, last_drill(&repository, now))
    } else {
        (Is::NotConfigured, Is::NotConfigured)
    };
    let redis = redis(config.redis_place()?).await;
    Ok(vec![("postgres", Is::Up), ("redis", redis), ("relay", relay), ("backup", backup), ("drill", drill)])
}

/// How far the log is published, and what the relay says of the broker.
pub(super) async fn relay(transaction: &Transaction<'_>) -> Result<Is, Error> {
    let mut waiting = 0;
    let rows = transaction.query(include_str!("sql/relay.sql"), &[]).await?;
    for row in &rows {
        let (shard, pending, state, halted): (i16, i64, &str, Option<&str>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        let shard = ShardId(shard);
        waiting += pending;
        if let Some(reason) = halted {
            return Ok(Is::Bad(format!("HALTED on {shard}: {reason}")));
        }
        if !row.get::<_, bool>(4) {
            return Ok(Is::Bad(format!("nobody publishes {shard}, {pending} waiting")));
        }
        if state != "publishing" || pending > MANY {
            return Ok(Is::Bad(format!("{state} on {shard}, {pending} waiting")));
        }
    }
    Ok(if rows.is_empty() { Is::NotConfigured } else { Is::Fine(format!("{waiting} waiting")) })
}

fn backup(repository: &Repository, now: Timestamp) -> Result<Is, Failure> {
    if repository.is_contradicted() {
        return Ok(Is::Bad("the log lacks or contradicts what was seen of it: `modelfaucet restore plan`".to_owned()));
    }
    let Some(base) = repository.bases()?.last().map(|base| now.since(base.ended)) else {
        return Ok(Is::Bad("no base backup yet: `modelfaucet backup run`".to_owned()));
    };
    let wal = repository.archived().map(|archived| now.since(archived.until));
    let copied = wal.map_or("nobody copies WAL".to_owned(), |wal| format!("WAL {} behind", ago(wal)));
    let said = format!("base {} old, {copied}", ago(base));
    let fine = base <= OLD[0] && wal.is_some_and(|wal| wal <= OLD[1]);
    Ok(if fine { Is::Fine(said) } else { Is::Bad(said) })
}

fn last_drill(repository: &Repository, now: Timestamp) -> Is {
    let drills = drill::history(&repository.drills());
    let Some(last) = drills.last() else { return Is::Fine("never".to_owned()) };
    let since = now.since(last.at);
    if !last.passed {
        return Is::Bad(format!("FAILED {} ago: {}", ago(since), last.problem));
    }
    let said =
        format!("passed {} ago, {} events lost, {:.1} s to serve", ago(since), last.events_lost, last.seconds_to_serve);
    if since > OLD[2] { Is::Bad(said) } else { Is::Fine(said) }
}

async fn redis(place: Option<RedisPlace>) -> Is {
    let connected = match place {
        None => return Is::NotConfigured,
        Some(RedisPlace::Tcp(host, port)) => {
            tokio::time::timeout(PATIENCE, TcpStream::connect((host.as_str(), port))).await.is_ok_and(|c| c.is_ok())
        }
        Some(RedisPlace::Unix(path)) => {
            tokio::time::timeout(PATIENCE, UnixStream::connect(path)).await.is_ok_and(|c| c.is_ok())
        }
    };
    if connected { Is::Up } else { Is::Down }
}
