//! `modelfaucet relay status|resend|rewind`: how far the log is published, and publishing parts of it again. Nothing is written without
//! `--yes`; what is, is on record.

use std::sync::Arc;
use std::time::Duration;

use modelfaucet_projector::relay::mark::{self, Status};
use modelfaucet_projector::relay::{self, ResendError, Resent};
use modelfaucet_schema::event::Actor;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::{Access, AccessKind, AccessLog, Head, LogReader, ReadError};
use modelfaucet_schema::time::Timestamp;
use serde_json::json;
use tokio_postgres::Client;
use uuid::Uuid;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::operator::{ActArgs, Consent, OperatorArgs};
use crate::progress::Progress;
use crate::{DatabaseArgs, database};

/// The one shard so far.
const SHARD: ShardId = ShardId(0);
/// From this age on `status` says that the relay is behind.
const BEHIND: Duration = Duration::from_secs(60);

/// What to do with the relay.
#[derive(clap::Subcommand)]
pub(crate) enum RelayVerb {
    /// Show how far the log is published; exit 1 if it is behind, 6 if it is halted
    Status {
        #[command(flatten)]
        database: DatabaseArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Publish every batch with a position FROM..TO again, beside the relay
    Resend {
        /// First and last position, such as 100..200
        #[arg(value_name = "FROM..TO", value_parser = range)]
        range: (i64, i64),
        #[command(flatten)]
        act: Act,
    },
    /// Let the relay go on behind another position, and lift a halt
    Rewind {
        /// The position; the end of a batch at it or before it is taken
        #[arg(value_name = "POSITION", value_parser = clap::value_parser!(i64).range(0..))]
        position: i64,
        #[command(flatten)]
        act: Act,
    },
}

/// What everything that writes needs.
#[derive(clap::Args)]
pub(crate) struct Act {
    #[command(flatten)]
    act: ActArgs,
    #[command(flatten)]
    operator: OperatorArgs,
}

impl Act {
    fn is_meant(&self) -> bool {
        self.act.consent.is_given()
    }
}

fn range(text: &str) -> Result<(i64, i64), String> {
    let parsed = text.split_once("..").and_then(|(from, to)| Some((from.parse().ok()?, to.parse().ok()?)));
    parsed.filter(|(from, to)| 1 <= *from && from <= to).ok_or_else(|| "is not a range such as 100..200".to_owned())
}

/// Does it.
pub(crate) fn run(verb: &RelayVerb) -> Result<Exit, Failure> {
    let runtime = crate::runtime()?;
    match verb {
        RelayVerb::Status { database, json } => runtime.block_on(status(database, *json)),
        RelayVerb::Resend { range, act } => runtime.block_on(resend(*range, act)),
        RelayVerb::Rewind { position, act } => runtime.block_on(rewind(Position(*position), act)),
    }
}

/// The database, as the relay sees it.
struct Place {
    config: Config,
    database: tokio_postgres::Config,
    client: Arc<Client>,
    reader: LogReader,
}

impl Place {
    async fn open(args: &DatabaseArgs) -> Result<Self, Failure> {
        let config = args.config()?;
        let named = config.database()?;
        let database = named.or_else(|| database::running_private(&config.data_dir(), ServiceRole::Projector));
        let database = database.ok_or_else(|| {
            let message = format!(
                "no ledger runs in {}: set DATABASE_URL as ledger_projector, or choose another --data-dir",
                config.data_dir().display()
            );
            Failure::new(Exit::Config, message)
        })?;
        database::check(&database, ServiceRole::Projector).await?;
        let client = Arc::new(database::connect(&database).await?);
        let reader = LogReader::prepare(Arc::clone(&client)).await?;
        Ok(Self { config, database, client, reader })
    }

    /// Puts an act on record before it happens.
    async fn record(&self, operation: &str, target: String, reason: &str) -> Result<(), Failure> {
        let access = Access {
            actor: Actor::Operator,
            address: None,
            kind: AccessKind::Attempt,
            operation: operation.to_owned(),
            target,
            request_id: Uuid::new_v4().to_string(),
            reason: Some(reason.to_owned()),
        };
        let log = AccessLog::new(self.database.clone());
        log.record(&access).await.map_err(|error| Failure::new(Exit::Temporary, error))
    }
}

fn unreadable(error: ReadError) -> Failure {
    let exit = match error {
        ReadError::Database(_) => Exit::Temporary,
        _ => Exit::Violated,
    };
    Failure::new(exit, error)
}

async fn status(args: &DatabaseArgs, as_json: bool) -> Result<Exit, Failure> {
    let place = Place::open(args).await?;
    let status = mark::status(&place.client, &place.reader, SHARD).await.map_err(unreadable)?;
    let age = status.oldest.map_or(Duration::ZERO, |oldest| Timestamp::now().since(oldest));
    if as_json {
        println!("{}", as_object(&status, age));
    } else {
        print!("{}", as_text(&status, age));
    }
    Ok(match &status.mark {
        Some(mark) if mark.halted.is_some() => Exit::Violated,
        Some(_) if status.worked_on && age < BEHIND => Exit::Ok,
        _ => Exit::Differences,
    })
}

fn as_object(status: &Status, age: Duration) -> serde_json::Value {
    let mark = status.mark.as_ref();
    json!({
        "shard": SHARD.0,
        "log_id": mark.map(|mark| mark.log_id.0),
        "published": mark.map(|mark| mark.at.position.0),
        "head": status.head.0,
        "pending": status.pending(),
        "oldest_age_seconds": age.as_secs(),
        "worked_on": status.worked_on,
        "state": mark.map(|mark| mark.state.clone()),
        "state_since": mark.map(|mark| mark.state_since),
        "blocked": mark.is_some_and(|mark| mark.state.starts_with("blocked")),
        "halted": mark.and_then(|mark| mark.halted.clone()),
    })
}

fn as_text(status: &Status, age: Duration) -> String {
    let Some(mark) = &status.mark else {
        return format!("shard {SHARD}  nothing published yet of {} events; no relay has ever run\n", status.head);
    };
    let waits = match status.pending() {
        0 => "nothing waits".to_owned(),
        pending => format!("{pending} events wait, the oldest for {} s", age.as_secs()),
    };
    let worked_on = if status.worked_on { "a relay works" } else { "NO RELAY WORKS" };
    let halted = mark.halted.as_ref().map_or_else(String::new, |reason| {
        format!("         HALTED: {reason}\n         see docs/runbooks/relay-halted.md\n")
    });
    format!(
        "shard {SHARD}  published {} of {}  {waits}\n         {worked_on}: {}, since {}\n{halted}",
        mark.at.position, status.head, mark.state, mark.state_since
    )
}

async fn resend((from, to): (i64, i64), act: &Act) -> Result<Exit, Failure> {
    let place = Place::open(&act.operator.database).await?;
    // The end of the batch before the one that has FROM.
    let place_before = mark::boundary(&place.client, &place.reader, SHARD, Position(from - 1));
    let before = place_before.await.map_err(unreadable)?;
    let plan = publish(&place, before, to, None, act, "plan").await?;
    let Some((first, last)) = plan.positions else {
        return Err(Failure::new(Exit::Config, format!("the log has no position {from} yet")));
    };
    if !act.is_meant() {
        tell(act, &plan, false);
        return Ok(Exit::Ok);
    }
    let broker = place.config.required_broker()?;
    place
        .record("modelfaucet relay resend", format!("shard {SHARD} positions {first}..{last}"), &act.act.reason)
        .await?;
    let done = publish(&place, before, to, Some(&broker), act, "resend").await?;
    tell(act, &done, true);
    Ok(Exit::Ok)
}

async fn publish(
    place: &Place,
    before: (LogId, Head),
    to: i64,
    broker: Option<&modelfaucet_projector::broker::BrokerOptions>,
    act: &Act,
    task: &'static str,
) -> Result<Resent, Failure> {
    let (_, head) = place.reader.head(SHARD).await.map_err(unreadable)?;
    let last = Position(to.min(head.position.0));
    let total = u64::try_from(last.0 - before.1.position.0).unwrap_or(0);
    // Counting takes no time worth showing.
    let manner = if broker.is_none() { true.into() } else { act.operator.manner() };
    let mut progress = Progress::start(task, total, manner);
    let tell = |resent: &Resent| progress.set(u64::try_from(resent.events).unwrap_or(0));
    let result = relay::resend(&place.reader, SHARD, before, last, broker, tell).await;
    progress.finish();
    result.map_err(|error| match error {
        ResendError::Read(error) => unreadable(error),
        ResendError::Broker(error) => Failure::new(Exit::Temporary, error),
    })
}

fn tell(act: &Act, resent: &Resent, done: bool) {
    let (first, last) = resent.positions.unwrap_or((Position::START, Position::START));
    if act.operator.json {
        let object = json!({
            "done": done, "first_position": first.0, "last_position": last.0,
            "messages": resent.messages, "events": resent.events, "bytes": resent.bytes,
        });
        println!("{object}");
        return;
    }
    let what = format!(
        "positions {first}..{last}: {} messages, {} events, {} bytes",
        resent.messages, resent.events, resent.bytes
    );
    if done {
        println!("published again, {what}");
    } else {
        println!("would publish again, {what}\n{}", Consent::NOTHING_DONE);
    }
}

async fn rewind(position: Position, act: &Act) -> Result<Exit, Failure> {
    let place = Place::open(&act.operator.database).await?;
    let (log_id, to) = mark::boundary(&place.client, &place.reader, SHARD, position).await.map_err(unreadable)?;
    let status = mark::status(&place.client, &place.reader, SHARD).await.map_err(unreadable)?;
    let was = status.mark.map_or(Position::START, |mark| mark.at.position);
    if act.is_meant() {
        let target = format!("shard {SHARD} from {was} to {}", to.position);
        place.record("modelfaucet relay rewind", target, &act.act.reason).await?;
        mark::rewind(&place.client, &place.reader, SHARD, log_id, to).await.map_err(unreadable)?;
    }
    if act.operator.json {
        println!("{}", json!({ "done": act.is_meant(), "was": was.0, "is": to.position.0, "log_id": log_id.0 }));
    } else if act.is_meant() {
        println!("the relay goes on behind {} (it was at {was})", to.position);
    } else {
        println!("the relay would go on behind {} (it is at {was})\n{}", to.position, Consent::NOTHING_DONE);
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_two_positions_in_order() {
        assert_eq!(range("1..1"), Ok((1, 1)));
        assert_eq!(range("100..200"), Ok((100, 200)));
        for wrong in ["", "1", "..", "0..1", "2..1", "1..x", "-1..2", "1...2"] {
            assert!(range(wrong).is_err(), "{wrong}");
        }
    }
}
