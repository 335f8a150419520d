//! `modelfaucet projection rebuild`: a plan, a bar, and a version that follows the log at the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_projector::projection::{Projection, all, under};
use modelfaucet_projector::rebuild::{Rebuilding, extent, rebuild};
use modelfaucet_projector::registry::{self, Version, vector};
use modelfaucet_schema::ids::{Position, ShardId};
use parking_lot::Mutex;
use serde_json::json;
use tokio::sync::watch;
use tokio_postgres::Client;

use super::diff::Vector;
use super::priority::stand_back;
use super::{parse_version, tell, throttle};
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, OperatorArgs, count_interrupts, thousands};
use crate::progress::Progress;
use crate::verify::auditor;

/// What a plan reckons with where nothing was measured: events per second on two cores beside live traffic.
const GUESS: i64 = 20_000;
/// How long a finished build may stand still before we say that nobody follows it.
const FOLLOWED: Duration = Duration::from_secs(30);

/// What to build, and how fast.
#[derive(clap::Args)]
pub(crate) struct RebuildArgs {
    /// The projection
    #[arg(value_name = "NAME")]
    name: String,
    /// The new version [default: the one that is being built, else the next number]
    #[arg(long, value_name = "VERSION", value_parser = parse_version)]
    to: Option<i32>,
    /// Events per second at most
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    max_rate: Option<u64>,
    /// Metrics of the process that takes commands: begin with 4,000/s, slow down while its calls are slower than --p99-limit
    #[arg(long, value_name = "URL")]
    command_metrics: Option<String>,
    /// The 99th percentile of POST /v1/usage… in milliseconds above which it slows down
    #[arg(long, value_name = "MS", default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..))]
    p99_limit: u64,
    /// Print the plan, do nothing
    #[arg(long)]
    dry_run: bool,
    /// Do not wait until a projector has caught up with it
    #[arg(long)]
    no_wait: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Builds. Exit 130 if interrupted, 5 if nobody follows it; the same command goes on.
pub(super) fn run(args: &RebuildArgs) -> Result<Exit, Failure> {
    Operator::run(&args.operator, async |database| {
        let client = database.connect().await?;
        let known = all();
        let Some(fold) = known.iter().find(|fold| fold.name() == args.name) else {
            let names: Vec<&str> = known.iter().map(|fold| fold.name()).collect();
            let why = format!("there is no projection {}; there are {}", args.name, names.join(", "));
            return Err(Failure::new(Exit::Refused, why));
        };
        let versions = registry::list(&client, Some(&args.name)).await.map_err(auditor::failure)?;
        let (number, begun) = choose(args, &versions)?;
        let projection = under(fold.fresh(), number);
        let shards = database.shards(&client).await?;
        let ends = extent(database.config(), &shards).await?;
        let begun_at = begun.map(Version::at).unwrap_or_default();
        plan(args, projection.as_ref(), &versions, &begun_at, &ends);
        if args.dry_run {
            return Ok(Exit::Ok);
        }
        // On a machine that is shared with commands they go first.
        let _unless_forbidden = rustix::process::nice(19);
        let interrupts = count_interrupts();
        let (mut second, third) = (interrupts.clone(), interrupts.clone());
        tokio::select! {
            done = build(args, database, projection.as_ref(), &shards, (&begun_at, &ends), interrupts) => match done? {
                Exit::Ok => follow(args, &client, number, third).await,
                exit => Ok(exit),
            },
            Ok(_) = second.wait_for(|count| *count > 1) => Err(interrupted(args, number)),
        }
    })
}

fn interrupted(args: &RebuildArgs, number: i32) -> Failure {
    let again = format!("modelfaucet projection rebuild {} --to v{number}", args.name);
    Failure::new(Exit::Interrupted, format!("interrupted; what is done is safe. Go on with `{again}`"))
}

/// The version to build, and where an earlier call has left it.
fn choose<'a>(args: &RebuildArgs, versions: &'a [Version]) -> Result<(i32, Option<&'a Version>), Failure> {
    let building = |version: &&Version| version.state == "building";
    let Some(wanted) = args.to else {
        if let Some(begun) = versions.iter().rfind(building) {
            return Ok((begun.version, Some(begun)));
        }
        let next = versions.iter().map(|version| version.version).max().unwrap_or(0) + 1;
        return Ok((next, None));
    };
    match versions.iter().find(|version| version.version == wanted) {
        Some(begun) if begun.state == "building" => Ok((wanted, Some(begun))),
        Some(there) => {
            let why =
                format!("{} is there already, as {}; leave out --to for the next number", there.title(), there.state);
            Err(Failure::new(Exit::Refused, why))
        }
        None => Ok((wanted, None)),
    }
}

/// Events between two vectors.
fn between(from: &[(ShardId, Position)], to: &[(ShardId, Position)]) -> i64 {
    to.iter()
        .map(|(shard, end)| {
            let begun = from.iter().find(|(other, _)| other == shard).map_or(0, |(_, position)| position.0);
            (end.0 - begun).max(0)
        })
        .sum()
}

fn plan(
    args: &RebuildArgs,
    projection: &dyn Projection,
    versions: &[Version],
    begun: &[(ShardId, Position)],
    ends: &[(ShardId, Position)],
) {
    if args.operator.quiet {
        return;
    }
    let events = between(begun, ends);
    let rate = args.max_rate.and_then(|rate| i64::try_from(rate).ok()).map_or(GUESS, |rate| rate.min(GUESS));
    let live = versions.iter().find(|version| version.state == "live");
    let live =
        live.map_or_else(|| "nothing is live".to_owned(), |live| format!("v{} stays live and untouched", live.version));
    let begun = if begun.is_empty() { String::new() } else { format!(" · goes on at {}", vector(begun)) };
    eprintln!(
        "plan  {} shard(s) · {} events · about {} s at {}/s · writes only {} (fold {}) · {live}{begun}",
        ends.len(),
        thousands(events),
        events / rate.max(1) + 1,
        thousands(rate),
        projection.schema(),
        projection.code(),
    );
}

async fn build(
    args: &RebuildArgs,
    database: &Operator,
    projection: &dyn Projection,
    shards: &[ShardId],
    (begun, ends): (&Vector, &Vector),
    mut interrupts: watch::Receiver<u32>,
) -> Result<Exit, Failure> {
    let total = ends.iter().map(|(_, end)| u64::try_from(end.0).unwrap_or_default()).sum();
    let bar = Arc::new(Mutex::new(Progress::start("rebuild", total, args.operator.manner())));
    let first = args.command_metrics.as_ref().map_or(0, |_| throttle::FIRST);
    let limit = Arc::new(AtomicU64::new(match args.max_rate {
        Some(most) if first > 0 => most.min(first),
        most => most.unwrap_or(first),
    }));
    let done = Arc::new(AtomicU64::new(0));
    let (stop, stopped) = watch::channel(false);
    let places: Vec<(ShardId, Position, Position)> = ends
        .iter()
        .map(|(shard, end)| {
            let from =
                begun.iter().find(|(other, _)| other == shard).map_or(Position::START, |(_, position)| *position);
            (*shard, from, *end)
        })
        .collect();
    let places = Mutex::new(places);
    let (shown, counted) = (Arc::clone(&bar), Arc::clone(&done));
    let how = Rebuilding {
        on_progress: Some(Arc::new(move |progress| {
            let mut places = places.lock();
            for place in places.iter_mut().filter(|place| place.0 == progress.shard) {
                (place.1, place.2) = (progress.position, progress.head);
            }
            let sum = |of: fn(&(ShardId, Position, Position)) -> Position| -> u64 {
                places.iter().map(|place| u64::try_from(of(place).0).unwrap_or_default()).sum()
            };
            counted.store(sum(|place| place.1), Ordering::Relaxed);
            let mut bar = shown.lock();
            bar.note(&format!("s{:02}:{}", progress.shard.0, progress.position));
            bar.set_of(sum(|place| place.1), sum(|place| place.2));
        })),
        stop: Some(stopped),
        limit: Arc::clone(&limit),
        on_backend: Some(Arc::new(stand_back)),
    };
    let throttling = match &args.command_metrics {
        None => None,
        Some(url) => {
            let p99 = Duration::from_millis(args.p99_limit);
            let throttle = throttle::Throttle::new(url, p99, limit, done, args.max_rate)?;
            Some(tokio::spawn(throttle.run()))
        }
    };
    let stopping = tokio::spawn(async move {
        if interrupts.wait_for(|count| *count > 0).await.is_ok() {
            stop.send_replace(true);
        }
        // Dropped, the channel would say nothing more; kept, it still says what it said.
        std::future::pending::<()>().await;
    });
    let rebuilt = rebuild(database.config(), projection, shards, &how).await;
    stopping.abort();
    throttling.inspect(tokio::task::JoinHandle::abort);
    drop(how);
    if let Some(bar) = Arc::into_inner(bar) {
        bar.into_inner().finish();
    }
    let rebuilt = rebuilt?;
    if !rebuilt.is_complete {
        return Err(interrupted(args, projection.version()));
    }
    Ok(Exit::Ok)
}

/// Waits until the new version stands where the live one stands.
async fn follow(
    args: &RebuildArgs,
    client: &Client,
    number: i32,
    interrupts: watch::Receiver<u32>,
) -> Result<Exit, Failure> {
    let (mut moved, mut last) = (Instant::now(), Vec::new());
    loop {
        let next = registry::find(client, &args.name, number).await?;
        let live = registry::live(client, &args.name).await.ok();
        let at = next.at();
        let lag: i64 = next.places.iter().map(|place| (place.head.0 - place.position.0).max(0)).sum();
        let is_level = live.as_ref().map_or(lag == 0, |live| live.at() == at);
        if is_level || args.no_wait {
            let from = live.map_or(1, |live| live.version);
            let name = &args.name;
            let said = if is_level { "caught up" } else { "built" };
            let text = format!(
                "done  {said} · {name} v{number} is standby at {} · next: modelfaucet projection diff {name} v{from} v{number}",
                vector(&at)
            );
            tell(
                &args.operator,
                &text,
                &json!({ "projection": name, "version": number, "state": next.state, "at": at, "lag": lag }),
            );
            return Ok(Exit::Ok);
        }
        if *interrupts.borrow() > 0 {
            let why = format!("interrupted; {} is built, and the projector goes on with it by itself", next.title());
            return Err(Failure::new(Exit::Interrupted, why));
        }
        if at != last {
            (moved, last) = (Instant::now(), at);
        }
        if moved.elapsed() > FOLLOWED {
            let why = format!(
                "{} is built and stands at {}, but no projector follows it: start one of this program's version",
                next.title(),
                vector(&last)
            );
            return Err(Failure::new(Exit::Incomplete, why));
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
