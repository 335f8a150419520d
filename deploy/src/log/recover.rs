//! What a restored log has lost is appended again from a mirror, through `ledger.append()`, byte for byte: the positions get the
//! hashes that they had, so nobody who has read them before can tell. Broken off, the same command goes on. Writers wait meanwhile: what
//! they would write between two batches would take the place of what is to come.

use std::path::PathBuf;
use std::sync::Arc;

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::{AppendBatch, AppendError, LogAppender, LogReader, ReadError};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config as DatabaseConfig};

use super::{Reach, mirror};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::heads::{self, Book, Standing};
use crate::progress::Progress;
use crate::{DatabaseArgs, database, fault};

/// Batches that are read ahead of being appended.
const AHEAD: usize = 4;

/// Where from.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct RecoverArgs {
    /// The mirror, as `log mirror` or `backup wal` keeps it
    #[arg(long, value_name = "DIR")]
    from: PathBuf,
    /// Only say what would be appended
    #[arg(long)]
    dry_run: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
    #[command(flatten)]
    database: DatabaseArgs,
}

pub(super) fn run(args: &RecoverArgs) -> Result<Exit, Failure> {
    let config = args.database.config()?;
    let reach = Reach::open(&config, ServiceRole::Command.name())?;
    let result = crate::runtime()?.block_on(recover(&config, reach.database(), args));
    reach.close()?;
    result
}

fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Database(error) => error.into(),
        error => Failure::new(Exit::Violated, error),
    }
}

async fn recover(config: &Config, database: &DatabaseConfig, args: &RecoverArgs) -> Result<Exit, Failure> {
    let shard = ShardId(0);
    let client = Arc::new(database::connect(database).await?);
    let reader = LogReader::prepare_with_keys(Arc::clone(&client)).await?;
    let appender = LogAppender::prepare(Arc::clone(&client)).await?;
    if !args.dry_run {
        lock_the_log(&client, shard).await?;
    }
    let (log_id, begin) = reader.head_behind_appends(shard).await.map_err(unreadable)?;
    let reach = mirror::reach(&args.from, shard, log_id)?;
    let missing = reach.map_or(0, |reach| (reach.position.0 - begin.position.0).max(0));
    if args.dry_run || missing == 0 {
        // The whole way, so that a damaged mirror is known before anything is restored with it.
        mirror::replay(&args.from, shard, log_id, begin, |_| Ok(true))?;
        println!("{}", told(begin.position.0, missing, "would be appended"));
        return Ok(Exit::Ok);
    }
    let (send, mut batches) = tokio::sync::mpsc::channel::<AppendBatch>(AHEAD);
    let from = args.from.clone();
    let reading = tokio::task::spawn_blocking(move || {
        mirror::replay(&from, shard, log_id, begin, |batch| Ok(send.blocking_send(batch).is_ok()))
    });
    let mut progress = Progress::start("recover", u64::try_from(missing).unwrap_or(0), args.quiet);
    let mut head = begin;
    while let Some(batch) = batches.recv().await {
        append(&appender, shard, &batch).await?;
        fault::at("recover_appended");
        head = batch.head();
        progress.set(u64::try_from(head.position.0 - begin.position.0).unwrap_or(0));
    }
    progress.finish();
    reading.await.map_err(|error| Failure::new(Exit::Temporary, format!("the mirror was not read: {error}")))??;
    println!("{}", told(begin.position.0, head.position.0 - begin.position.0, "are in the log again"));
    println!("head {} {}", head.position, head.hash);
    let Some(dir) = config.heads_dir() else { return Ok(Exit::Ok) };
    match heads::standing(&client, shard, &Book::read(&dir, shard)?).await? {
        Standing::Whole => Ok(Exit::Ok),
        short => Err(heads::refusal(shard, &short, config)),
    }
}

fn told(end: i64, missing: i64, what: &str) -> String {
    if missing == 0 {
        format!("the mirror has nothing behind position {end}")
    } else {
        format!("positions {}..{} {what}", end + 1, end + missing)
    }
}

/// Takes the lock of `ledger.append()` for as long as the connection lasts.
async fn lock_the_log(client: &Client, shard: ShardId) -> Result<(), Failure> {
    let lock = "SET lock_timeout = '10s'; SELECT pg_advisory_lock(7304, ";
    let held = client.batch_execute(&format!("{lock}{})", shard.0)).await;
    held.map_err(|error| {
        if error.code() == Some(&SqlState::LOCK_NOT_AVAILABLE) {
            let message = "somebody else holds the log for longer than 10 s: stop every writer, then run this again";
            return Failure::new(Exit::Temporary, message);
        }
        error.into()
    })
}

/// Sends a batch until it is in; a lost answer is asked for again with the same batch.
async fn append(appender: &LogAppender, shard: ShardId, batch: &AppendBatch) -> Result<(), Failure> {
    let refused = |error: AppendError| match error {
        AppendError::HeadMoved => Failure::new(
            Exit::Refused,
            "somebody else appends to this log: stop every writer first, then run this again",
        ),
        AppendError::InDoubt(error) => Failure::new(
            Exit::Incomplete,
            format!("the database went away ({error}); what was appended is safe, the same command goes on"),
        ),
        error => Failure::new(Exit::Violated, format!("position {}: {error}", batch.previous().position.next())),
    };
    match appender.append(batch).await {
        Ok(_) => Ok(()),
        Err(AppendError::NoPartition) => {
            appender.ensure_partition(shard, batch.head().position).await?;
            appender.append(batch).await.map(drop).map_err(refused)
        }
        Err(error) => Err(refused(error)),
    }
}
