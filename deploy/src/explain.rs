//! `modelfaucet explain ID`: the whole story of one thing, from the log: what happened in order, how a price came about, which entry it
//! made, what proves it, what the read tables say, and what was frozen then.

mod asked;
mod call;
mod outside;
mod price;
mod proof;
mod story;
mod views;

use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::ids::ShardId;
use tokio_postgres::{Error, Transaction};
use uuid::Uuid;

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::progress::{Manner, Progress};
use crate::reading::{self, Place, Shard, Wanted, between, near};
use crate::verify::auditor;
use asked::Asked;
use story::{Found, Story};

/// Events of one story at the most; a wallet or session may have millions.
const MOST: usize = 100;
/// Newest positions that are looked at for an id that says nothing about its time.
const NEWEST: i64 = 100_000;
/// Positions that a scan reads at once.
const PAGE: i64 = 16_384;

/// What to explain.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct ExplainArgs {
    /// A request (req_…), an event (s00:812), a hold, session, wallet, user, top-up, refund, payout or anything else with an id; a
    /// closed incident by its name; or Stripe's id of an event, payment, checkout, refund, dispute or movement (evt_, pi_, cs_, re_, du_, txn_ …)
    #[arg(value_name = "ID")]
    id: String,
    /// Read the whole log, newest first, if the id is found in no other way
    #[arg(long)]
    scan: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print the story as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// Explains and prints.
///
/// # Errors
/// A [`Failure`] that says what is wrong; exit 1 if nothing has this id, or a price is not what it should be.
pub(crate) fn run(args: &ExplainArgs) -> Result<Exit, Failure> {
    let asked = Asked::read(&args.id);
    let story = reading::with(&args.database, async |auditor| {
        let mut client = auditor.connect().await?;
        let transaction = auditor::snapshot(&mut client).await.map_err(auditor::failure)?;
        tell(&transaction, &asked, args).await.map_err(auditor::failure)
    })?;
    let Some(story) = story else {
        let more = if args.scan { "" } else { "; --scan reads the whole log" };
        return Err(Failure::new(Exit::Differences, format!("nothing is known of {}{more}", args.id)));
    };
    if args.json {
        println!("{}", story.json());
    } else {
        print!("{}", story.text());
    }
    Ok(if story.is_right() { Exit::Ok } else { Exit::Differences })
}

async fn tell(transaction: &Transaction<'_>, asked: &Asked, args: &ExplainArgs) -> Result<Option<Story>, Error> {
    let shards = reading::shards(transaction).await?;
    let mut found = match asked {
        Asked::Event(place) => call::around(transaction, *place).await?,
        Asked::Id(id) => of_id(transaction, &shards, *id).await?,
        Asked::Request(id) => match of_request(transaction, &shards, id, asked.made_at()).await? {
            None => match outside::incident(transaction, &shards, id).await? {
                // Payments that are entered by hand have any ids.
                None => outside::find(transaction, &shards, id).await?,
                found => found,
            },
            found => found,
        },
        Asked::Outside(id) => outside::find(transaction, &shards, id).await?,
    };
    if found.is_none() && args.scan {
        found = scan(transaction, &shards, asked, Manner { quiet: args.quiet, json: args.json }).await?;
    }
    let Some(mut found) = found else { return Ok(None) };
    found.events.sort_by_key(|event| (event.shard, event.position));
    found.events.dedup_by_key(|event| (event.shard, event.position));
    if found.events.len() > MOST {
        let left_out = found.events.len() - MOST;
        found.events.drain(..left_out);
        found.facts.push(("left out".to_owned(), format!("{left_out} earlier events")));
    }
    Story::of(transaction, &args.id, found).await.map(Some)
}

/// An id of ours: a stream's, or of something that events mention.
async fn of_id(transaction: &Transaction<'_>, shards: &[Shard], id: Uuid) -> Result<Option<Found>, Error> {
    if let Some(found) = outside::thing(transaction, shards, id).await? {
        return Ok(Some(found));
    }
    let Some(made_at) = asked::made_at(id) else { return Ok(None) };
    let text = id.to_string();
    let near = near(transaction, shards, made_at, &Wanted::mention(None, &text)).await?;
    called(transaction, near, &text).await
}

async fn of_request(
    transaction: &Transaction<'_>,
    shards: &[Shard],
    id: &str,
    made_at: Option<modelfaucet_schema::time::Timestamp>,
) -> Result<Option<Found>, Error> {
    let wanted = Wanted::request(id);
    let mut events = Vec::new();
    if let Some(made_at) = made_at {
        events = near(transaction, shards, made_at, &wanted).await?;
    }
    if events.is_empty() {
        for shard in shards {
            events.extend(between(transaction, shard.id, (shard.head - NEWEST + 1, shard.head), &wanted).await?);
        }
    }
    called(transaction, events, id).await
}

/// The events, with the whole story of each call among them.
async fn called(transaction: &Transaction<'_>, events: Vec<StoredEvent>, id: &str) -> Result<Option<Found>, Error> {
    if events.is_empty() {
        return Ok(None);
    }
    let mut found = Found::of("request", Vec::new());
    let mut holds = Vec::new();
    for event in events {
        match call::hold_of(&event) {
            // Something that the event mentions was asked for, such as a hold: then it is that.
            Some(hold) => {
                if holds.len() < 20 && !holds.contains(&hold) {
                    holds.push(hold);
                    let story = call::of_hold(transaction, event.shard, hold, event.position.0).await?;
                    found.facts.extend(story.facts);
                    found.events.extend(story.events);
                }
                found.events.push(event);
            }
            None => found.events.push(event),
        }
    }
    if id.parse::<Uuid>().is_ok() {
        found.kind = if holds.iter().any(|hold| hold.to_string() == id) { "hold" } else { "id" };
    }
    Ok(Some(found))
}

/// Everything, newest first.
async fn scan(
    transaction: &Transaction<'_>,
    shards: &[Shard],
    asked: &Asked,
    manner: Manner,
) -> Result<Option<Found>, Error> {
    let (wanted, id) = match asked {
        Asked::Event(_) => return Ok(None),
        Asked::Request(id) => (Wanted::request(id), id.clone()),
        Asked::Outside(id) => (Wanted::mention(None, id), id.clone()),
        Asked::Id(id) => (Wanted::mention(None, &id.to_string()), id.to_string()),
    };
    let total = shards.iter().map(|shard| u64::try_from(shard.head).unwrap_or(0)).sum();
    let mut progress = Progress::start("scan", total, manner);
    let (mut done, mut events) = (0_u64, Vec::new());
    for shard in shards {
        let mut last = shard.head;
        while last > 0 && events.len() < MOST {
            let first = (last - PAGE + 1).max(1);
            events.extend(between(transaction, shard.id, (first, last), &wanted).await?);
            done += u64::try_from(last - first + 1).unwrap_or(0);
            progress.set(done);
            last = first - 1;
        }
    }
    progress.finish();
    called(transaction, events, &id).await
}

/// The events at these places.
async fn at(transaction: &Transaction<'_>, places: &[(ShardId, i64)]) -> Result<Vec<StoredEvent>, Error> {
    let mut events = Vec::with_capacity(places.len());
    for (shard, position) in places {
        let position = modelfaucet_schema::ids::Position(*position);
        events.extend(reading::event(transaction, Place { shard: *shard, position }).await?);
    }
    Ok(events)
}
