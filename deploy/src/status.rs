//! `modelfaucet status`: one screen that says how the ledger is, and what needs attention.

mod books;
mod outside;
mod report;

use std::time::Duration;

use modelfaucet_schema::hash::{BatchHasher, ChainHash};
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::from_system_time;
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::{Error, Transaction};

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::reading::{self, Shard, Wanted, batches, between, last_before_moved};
use crate::verify::auditor::{self, Auditor};
use report::{FreezeLine, Holds, LogLine, ProjectionLine, Status};

/// The newest appends whose links are hashed again, in positions.
const CHAIN: i64 = 1_024;
/// Over how many seconds the rate is measured.
const RATE_OVER: i64 = 60;
/// How far a projection may be behind before somebody should look.
const LATE: Duration = Duration::from_secs(10);
/// The largest snapshot, and the most events behind it, for which holds are counted here.
const SMALL: (i64, i64) = (64 << 20, 200_000);

/// What to look at.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct StatusArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Looks and prints; exit 1 if something needs attention.
///
/// # Errors
/// A [`Failure`] if the database cannot be had.
pub(crate) fn run(args: &StatusArgs) -> Result<Exit, Failure> {
    let config = args.database.config()?;
    let status = reading::with(&args.database, async |auditor| {
        let mut client = auditor.connect().await?;
        let transaction = auditor::snapshot(&mut client).await.map_err(auditor::failure)?;
        let mut status = look(&transaction).await.map_err(auditor::failure)?;
        status.books = books::look(&transaction).await.map_err(auditor::failure)?;
        let relay = outside::relay(&transaction).await.map_err(auditor::failure)?;
        drop(transaction);
        status.holds = holds(auditor, &status).await?;
        status.outside = outside::look(&config, relay, Timestamp::now()).await?;
        Ok(status)
    })?;
    if args.json {
        println!("{}", status.json());
    } else {
        print!("{}", status.text());
    }
    Ok(if status.attention().is_empty() { Exit::Ok } else { Exit::Differences })
}

async fn look(transaction: &Transaction<'_>) -> Result<Status, Error> {
    let (shards, now) = (reading::shards(transaction).await?, Timestamp::now());
    let mut logs = Vec::new();
    for shard in &shards {
        let before = last_before_moved(transaction, shard.id, now, -1_000 * RATE_OVER).await?;
        logs.push(LogLine {
            shard: shard.id,
            log_id: shard.log,
            events: shard.head,
            newest: shard.recorded_at,
            last_minute: shard.head - before,
            checked: chain(transaction, shard).await?,
        });
    }
    let rows = transaction.query(include_str!("status/sql/projections.sql"), &[]).await?;
    let projections = rows
        .iter()
        .map(|row| ProjectionLine {
            name: row.get(0),
            version: row.get(1),
            state: row.get(2),
            shard: row.get::<_, Option<i16>>(3).map(ShardId),
            lag: row.get(4),
            waits: row.get::<_, Option<_>>(5).map(|since| now.since(from_system_time(since))),
            halted: row.get(6),
            letters: row.get(7),
            oldest_letter: row.get::<_, Option<_>>(8).map(from_system_time),
        })
        .collect();
    let sql = "SELECT shard, kind, id, reason, since, actor, position FROM read.freeze ORDER BY since";
    let freezes = transaction
        .query(sql, &[])
        .await?
        .iter()
        .map(|row| FreezeLine {
            shard: ShardId(row.get(0)),
            kind: row.get(1),
            id: row.get(2),
            reason: row.get(3),
            since: from_system_time(row.get(4)),
            actor: row.get(5),
            position: row.get(6),
        })
        .collect();
    Ok(Status::new(now, logs, projections, freezes, LATE))
}

/// How many of the newest events hash to their links; `None` if they do not.
async fn chain(transaction: &Transaction<'_>, shard: &Shard) -> Result<Option<i64>, Error> {
    let first = (shard.head - CHAIN + 1).max(1);
    let links = batches(transaction, shard.id, (first, shard.head)).await?;
    let Some(begin) = links.first().map(|link| link.first) else { return Ok(Some(0)) };
    let events = between(transaction, shard.id, (begin, shard.head), &Wanted::default()).await?;
    let mut events = events.iter().peekable();
    let mut previous: Option<ChainHash> = None;
    for link in &links {
        let Some(joined) = link.previous.filter(|hash| previous.is_none_or(|known| known == *hash)) else {
            return Ok(None);
        };
        let (first, last) = (Position(link.first), Position(link.last));
        let mut hasher = BatchHasher::new(joined, shard.id, first, last, link.id, link.recorded_at);
        let mut expected = link.first;
        while let Some(event) = events.next_if(|event| event.position.0 <= link.last) {
            if event.position.0 != expected {
                return Ok(None);
            }
            expected += 1;
            hasher.event(event);
        }
        if expected != link.last + 1 || link.hash != Some(hasher.finish()) {
            return Ok(None);
        }
        previous = link.hash;
    }
    Ok((previous == shard.hash).then_some(shard.head - begin + 1))
}

/// The open holds, where counting them is quick.
async fn holds(auditor: &Auditor, status: &Status) -> Result<Option<Holds>, Failure> {
    let client = auditor.connect().await?;
    let mut holds = Holds::default();
    for log in &status.logs {
        let sql = "SELECT position, octet_length(state)::bigint FROM ledger.snapshot WHERE shard = $1 ORDER BY position DESC LIMIT 1";
        let row = client.query_opt(sql, &[&log.shard.0]).await.map_err(auditor::failure)?;
        let (position, size): (i64, i64) = row.map_or((0, 0), |row| (row.get(0), row.get(1)));
        if size > SMALL.0 || log.events - position > SMALL.1 {
            return Ok(None);
        }
        let (state, _) = reading::state(auditor, log.shard).await?;
        for (_, hold) in state.holds.iter() {
            holds.take(hold.expires_at, hold.amount, status.now);
        }
    }
    Ok(Some(holds))
}
