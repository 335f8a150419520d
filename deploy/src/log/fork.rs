//! A log that has lost its end and goes on: another log id, and `LogForked` as the first event under it. It gives acknowledged events
//! up, so it takes two people and the owner of the database.

use std::path::PathBuf;
use std::sync::Arc;

use modelfaucet_command::domain::State;
use modelfaucet_command::snapshot;
use modelfaucet_schema::event::{Actor, Event, LogForked, Recorded};
use modelfaucet_schema::ids::{BatchId, LogId, Position, ShardId};
use modelfaucet_schema::log::{AppendBatch, LogAppender, LogReader, to_system_time};
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use tokio_postgres::{Client, Config as DatabaseConfig};

use super::{Reach, mirror};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::heads::Book;
use crate::operator::Consent;
use crate::secrets::Secrets;
use crate::{DatabaseArgs, backup, database, fault};

/// What an operator does then.
const NEXT: &str =
    "next: start the writers; rebuild projections that have halted; tell consumers outside the new log id";

/// What is lost, and who says so.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct ForkArgs {
    /// The positions that are lost, such as 1190775..1190802: from the one behind the log's end to the highest that anybody has seen
    #[arg(long, value_name = "FIRST..LAST", value_parser = range)]
    lost: (i64, i64),
    /// Why they cannot be recovered; kept in the log for ever
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// File with the token of an administrator
    #[arg(long, value_name = "PATH")]
    first_token_file: PathBuf,
    /// File with the token of another administrator
    #[arg(long, value_name = "PATH")]
    second_token_file: PathBuf,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    database: DatabaseArgs,
}

fn range(text: &str) -> Result<(i64, i64), String> {
    let (first, last) = text.split_once("..").ok_or("is not FIRST..LAST, such as 12..17")?;
    let number = |text: &str| text.parse::<i64>().ok().filter(|number| *number > 0);
    match (number(first), number(last)) {
        (Some(first), Some(last)) if first <= last => Ok((first, last)),
        _ => Err("is not FIRST..LAST, such as 12..17".to_owned()),
    }
}

pub(super) fn run(args: &ForkArgs) -> Result<Exit, Failure> {
    let config = args.database.config()?;
    // The private server's superuser; a named database is reached as its owner, as for `migrate`.
    let reach = Reach::open(&config, "postgres")?;
    let result = crate::runtime()?.block_on(fork(&config, reach.database(), args));
    reach.close()?;
    result
}

fn refused(message: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Refused, message)
}

async fn fork(config: &Config, database: &DatabaseConfig, args: &ForkArgs) -> Result<Exit, Failure> {
    let shard = ShardId(0);
    let client = Arc::new(database::connect(database).await?);
    client.batch_execute("SET ROLE ledger_owner; SET lock_timeout = '5s'").await?;
    let reader = LogReader::prepare(Arc::clone(&client)).await?;
    let damaged = |error: snapshot::SnapshotError| Failure::new(Exit::Violated, error);
    let (mut state, start) = snapshot::load(&client, &reader, shard).await.map_err(damaged)?;
    let head = snapshot::fold_to_end(&reader, shard, &mut state, start)
        .await
        .map_err(|error| Failure::new(Exit::Violated, error))?;
    let (previous_log_id, _) = reader.head(shard).await.map_err(|error| Failure::new(Exit::Violated, error))?;
    let (first, last) = args.lost;
    if let Some(log_id) = forked_before(&client, shard, args.lost).await? {
        println!("{shard} was forked there before and goes on as log {log_id}; lost and named: {first}..{last}");
        println!("head {} {}", head.position, head.hash);
        println!("{NEXT}");
        return Ok(Exit::Ok);
    }
    if first != head.position.next().0 {
        return Err(refused(format!(
            "the log ends at position {}: what is lost begins at {}, not at {first}",
            head.position,
            head.position.next()
        )));
    }
    if args.reason.trim().is_empty() || args.reason.chars().count() > 500 {
        return Err(refused("--reason needs 1 to 500 characters"));
    }
    name_the_whole_loss(config, shard, previous_log_id, last)?;
    let actors = (person(config, &state, &args.first_token_file)?, person(config, &state, &args.second_token_file)?);
    if actors.0 == actors.1 {
        return Err(refused("a fork takes two people, and both tokens are of the same one"));
    }
    if !args.consent.is_given() {
        let (one, other) = &actors;
        println!(
            "{shard} would go on under another log id behind position {}, which has the hash {}; lost and named: {first}..{last}; by {one} and {other}\n{}",
            head.position,
            head.hash,
            Consent::NOTHING_DONE
        );
        return Ok(Exit::Ok);
    }
    let at = now_behind(&client, shard).await?;
    let log_id = LogId::generate();
    client.batch_execute("BEGIN").await?;
    let sql = "SELECT ledger.fork_log($1, $2, $3, $4, $5)";
    let hash = head.hash.0.as_slice();
    let row = client.query_one(sql, &[&shard.0, &head.position.0, &hash, &log_id.0, &last]).await?;
    let event: Event = LogForked {
        log_id,
        previous_log_id,
        epoch: row.get(0),
        common: head.position,
        common_hash: head.hash.to_string(),
        lost_from: Position(first),
        lost_until: Position(last),
        reason: args.reason.trim().to_owned(),
        approved_by: actors.1,
    }
    .into();
    fault::at("fork_recorded");
    let stream = event.stream();
    let recorded = Recorded {
        shard,
        position: head.position.next(),
        stream,
        stream_seq: state.next_seq(&stream),
        recorded_at: at,
        actor: actors.0,
        request_id: "log-fork".into(),
        key: None,
        event,
    };
    let batch = AppendBatch::seal(shard, head, BatchId::generate(), at, vec![recorded.store()]);
    let appender = LogAppender::prepare(Arc::clone(&client)).await?;
    appender.ensure_partition(shard, batch.head().position).await?;
    appender.append(&batch).await.map_err(|error| refused(format!("nothing was changed: {error}")))?;
    fault::at("fork_appended");
    // Whoever reads the id before the commit sees the old one, and the old head.
    let unknown = |error: tokio_postgres::Error| {
        Failure::new(
            Exit::Incomplete,
            format!("the database went away ({error}): run the same command again, it tells whether the log is forked"),
        )
    };
    client.batch_execute("COMMIT").await.map_err(unknown)?;
    fault::at("fork_committed");
    println!("{shard} goes on as log {log_id} behind position {}; lost and named: {first}..{last}", head.position);
    println!("head {} {}", batch.head().position, batch.head().hash);
    println!("{NEXT}");
    Ok(Exit::Ok)
}

/// The id under which an earlier run of the same command has made the log go on: its answer was lost, or it was killed. No log can fork
/// twice behind the same position, since the first fork has appended there.
async fn forked_before(
    client: &Client,
    shard: ShardId,
    (first, last): (i64, i64),
) -> Result<Option<LogId>, tokio_postgres::Error> {
    let sql = "SELECT log_id FROM ledger.fork WHERE shard = $1 AND position = $2::int8 - 1 AND lost_until = $3";
    Ok(client.query_opt(sql, &[&shard.0, &first, &last]).await?.map(|row| LogId(row.get(0))))
}

/// A fork that names less than was seen would leave positions that are neither there nor lost.
fn name_the_whole_loss(config: &Config, shard: ShardId, log_id: LogId, last: i64) -> Result<(), Failure> {
    let seen = match config.heads_dir() {
        Some(dir) => Book::read(&dir, shard)?,
        None => Vec::new(),
    };
    let witnessed = seen.iter().filter(|head| head.log_id == log_id).map(|head| head.position.0).max();
    if let Some(position) = witnessed.filter(|position| *position > last) {
        return Err(refused(format!(
            "position {position} was seen: name everything up to it, --lost FIRST..{position}"
        )));
    }
    let mirrored = match config.backup_dir() {
        Some(dir) => mirror::reach(&backup::mirror_dir(&dir), shard, log_id)?,
        None => None,
    };
    match mirrored {
        Some(head) if head.position.0 > last => Err(refused(format!(
            "the mirror has position {}: recover from it first, `modelfaucet log recover`, or name everything up to it",
            head.position
        ))),
        _ => Ok(()),
    }
}

/// Whose token it is: an administrator's of the log as it is, or the root's.
fn person(config: &Config, state: &State, file: &std::path::Path) -> Result<Actor, Failure> {
    let text = std::fs::read_to_string(file)
        .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", file.display())))?;
    let hash = TokenHash::of_text(text.trim());
    let root = match config.admin_token()? {
        Some(token) => Some(token),
        None if config.data_dir().join("secrets").is_dir() => Secrets::open(&config.data_dir())?.get("admin_token")?,
        None => None,
    };
    if root.is_some_and(|token| TokenHash::of(&token) == hash) {
        return Ok(Actor::Admin);
    }
    let now = Timestamp::now();
    let found = state.staff.iter().find(|(_, token)| token.token_hash == hash);
    match found {
        Some((id, token)) if token.role.may(Power::Administer) && token.expires_at.is_none_or(|end| end > now) => {
            Ok(Actor::Staff(token.role, *id))
        }
        _ => Err(refused(format!("{}: is not the token of an administrator of this log", file.display()))),
    }
}

/// Now, or just as late as the newest event: time never goes back in a log.
async fn now_behind(client: &Client, shard: ShardId) -> Result<Timestamp, Failure> {
    let row = client
        .query_one(
            "SELECT greatest($2, (SELECT committed_at FROM ledger.head WHERE shard = $1))",
            &[&shard.0, &to_system_time(Timestamp::now())],
        )
        .await?;
    Ok(modelfaucet_schema::log::from_system_time(row.get(0)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_written_with_two_dots() {
        assert_eq!(range("12..17"), Ok((12, 17)));
        for wrong in ["", "12", "17..12", "0..3", "a..b", "1...2", "-1..2"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
