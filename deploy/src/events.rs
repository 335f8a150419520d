//! `modelfaucet events`: the log as it is, to look at: what is new, one place or range, what matches.

mod filter;

use std::io::Write as _;
use std::time::Duration;

use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::ids::{Position, ShardId};
use tokio_postgres::Client;

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::progress::{Manner, Progress};
use crate::reading::{self, Place, Wanted, between, event_json, shown, tell};
use crate::verify::auditor;
use filter::Filter;
pub(crate) use filter::Span;

/// Positions that are read at once: at most about 20 MB.
const PAGE: i64 = 8_192;
/// How often a tail looks for new events.
const LOOK: Duration = Duration::from_millis(250);

/// What to do with events.
#[derive(clap::Subcommand)]
pub(crate) enum EventsVerb {
    /// Print the newest events, and with `--follow` what comes after them until Ctrl-C
    Tail(TailArgs),
    /// Print the event at a place such as s00:812, or those of a range such as s00:812..820
    Get(GetArgs),
    /// Print the events that match everything that is said, oldest first
    Grep(GrepArgs),
}

/// The newest events.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct TailArgs {
    /// How many events that are in the log already
    #[arg(long, short = 'n', value_name = "COUNT", default_value_t = 10, value_parser = clap::value_parser!(u16).range(0..=10_000))]
    lines: u16,
    /// Go on with what is new
    #[arg(long, short = 'f')]
    follow: bool,
    /// The log
    #[arg(long, value_name = "N", default_value_t = 0)]
    shard: i16,
    #[command(flatten)]
    filter: Filter,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object per line, with the payload
    #[arg(long)]
    json: bool,
}

/// A place or a range.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct GetArgs {
    /// SHARD:POSITION or SHARD:FIRST..LAST
    #[arg(value_name = "PLACE")]
    span: Span,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

/// What to look for, and where.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct GrepArgs {
    #[command(flatten)]
    filter: Filter,
    /// Recorded at this time or later, as ISO 8601 with offset
    #[arg(long, value_name = "TIME")]
    since: Option<modelfaucet_schema::time::Timestamp>,
    /// Recorded before this time
    #[arg(long, value_name = "TIME")]
    until: Option<modelfaucet_schema::time::Timestamp>,
    /// First position
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,
    /// Last position
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    /// The log
    #[arg(long, value_name = "N", default_value_t = 0)]
    shard: i16,
    /// Stop after so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u64>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object per line, with the payload
    #[arg(long)]
    json: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong; exit 1 if there is no such event.
pub(crate) fn run(verb: &EventsVerb) -> Result<Exit, Failure> {
    match verb {
        EventsVerb::Tail(args) => {
            reading::with(&args.database, async |auditor| tail(&auditor.connect().await?, args).await)
        }
        EventsVerb::Get(args) => {
            reading::with(&args.database, async |auditor| get(&auditor.connect().await?, args).await)
        }
        EventsVerb::Grep(args) => {
            reading::with(&args.database, async |auditor| grep(&auditor.connect().await?, args).await)
        }
    }
}

/// Prints one event; false if nobody reads any more.
fn print(event: &StoredEvent, json: bool) -> bool {
    let mut out = std::io::stdout().lock();
    let line = if json { event_json(event).to_string() } else { line(event) };
    writeln!(out, "{line}").is_ok()
}

/// One line: where, when, what, to what, by whom.
fn line(event: &StoredEvent) -> String {
    let says = event.decode().map(|recorded| tell(&recorded.event)).unwrap_or_default();
    // What has no sentence is shown as it is stored, cut.
    let says = if says.is_empty() { shown(event).to_string().chars().take(160).collect() } else { says };
    format!(
        "{} {} {} {} {says} · by {}, {}",
        Place::of(event),
        event.recorded_at.to_millis_text(),
        event.name,
        event.stream,
        event.actor,
        event.request_id
    )
}

async fn head(client: &Client, shard: ShardId) -> Result<i64, Failure> {
    let shards = reading::shards(client).await.map_err(auditor::failure)?;
    let found = shards.iter().find(|known| known.id == shard);
    found.map(|shard| shard.head).ok_or_else(|| Failure::new(Exit::Differences, format!("there is no shard {shard}")))
}

async fn read(
    client: &Client,
    shard: ShardId,
    range: (i64, i64),
    wanted: &Wanted,
) -> Result<Vec<StoredEvent>, Failure> {
    between(client, shard, range, wanted).await.map_err(auditor::failure)
}

async fn tail(client: &Client, args: &TailArgs) -> Result<Exit, Failure> {
    let (shard, wanted) = (ShardId(args.shard), args.filter.wanted());
    let mut seen = head(client, shard).await?;
    // Backwards until there are enough; what is printed is in order.
    let (mut newest, mut end) = (Vec::new(), seen);
    while newest.len() < usize::from(args.lines) && end > 0 {
        let first = (end - PAGE + 1).max(1);
        let mut page = read(client, shard, (first, end), &wanted).await?;
        page.append(&mut newest);
        newest = page;
        end = first - 1;
    }
    let surplus = newest.len().saturating_sub(usize::from(args.lines));
    for event in newest.iter().skip(surplus) {
        if !print(event, args.json) {
            return Ok(Exit::Ok);
        }
    }
    if !args.follow {
        return Ok(Exit::Ok);
    }
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK) => {}
            () = crate::interrupted() => return Ok(Exit::Interrupted),
        }
        let end = head(client, shard).await?;
        while seen < end {
            let last = end.min(seen + PAGE);
            for event in read(client, shard, (seen + 1, last), &wanted).await? {
                if !print(&event, args.json) {
                    return Ok(Exit::Ok);
                }
            }
            seen = last;
        }
    }
}

async fn get(client: &Client, args: &GetArgs) -> Result<Exit, Failure> {
    let Span { shard, first, last } = args.span;
    let last = last.min(head(client, shard).await?);
    let (mut from, mut found) = (first, false);
    while from <= last {
        let to = last.min(from + PAGE - 1);
        for event in read(client, shard, (from, to), &Wanted::default()).await? {
            found = true;
            if !print(&event, args.json) {
                return Ok(Exit::Ok);
            }
            if !args.json && first == args.span.last {
                println!("{}", serde_json::to_string_pretty(&shown(&event)).unwrap_or_default());
            }
        }
        from = to + 1;
    }
    if found {
        return Ok(Exit::Ok);
    }
    let place = Place { shard, position: Position(first) };
    Err(Failure::new(Exit::Differences, format!("there is no event at {place}")))
}

async fn grep(client: &Client, args: &GrepArgs) -> Result<Exit, Failure> {
    let (shard, wanted) = (ShardId(args.shard), args.filter.wanted());
    let mut first = args.from.unwrap_or(1);
    let mut last = args.to.unwrap_or(i64::MAX).min(head(client, shard).await?);
    if let Some(since) = args.since {
        first = first.max(reading::last_before(client, shard, since).await.map_err(auditor::failure)? + 1);
    }
    if let Some(until) = args.until {
        last = last.min(reading::last_before(client, shard, until).await.map_err(auditor::failure)?);
    }
    let total = u64::try_from(last - first + 1).unwrap_or(0);
    let mut progress = Progress::start("grep", total, Manner { quiet: args.quiet, json: args.json });
    let (mut from, mut printed) = (first, 0_u64);
    while from <= last {
        let to = last.min(from + PAGE - 1);
        let page = tokio::select! {
            page = read(client, shard, (from, to), &wanted) => page?,
            () = crate::interrupted() => {
                progress.finish();
                eprintln!("broken off; --from {from} goes on");
                return Ok(Exit::Interrupted);
            }
        };
        for event in page {
            if args.limit.is_some_and(|limit| printed >= limit) || !print(&event, args.json) {
                progress.finish();
                return Ok(Exit::Ok);
            }
            printed += 1;
        }
        progress.set(u64::try_from(to - first + 1).unwrap_or(0));
        from = to + 1;
    }
    progress.finish();
    Ok(if printed > 0 { Exit::Ok } else { Exit::Differences })
}
