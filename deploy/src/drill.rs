//! `modelfaucet drill`: a backup that was never restored does not count. Picks a moment of the log at random among those that were
//! witnessed and are still kept, restores it beside everything, proves it, and writes down what came of it.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};

use crate::backup::{Base, MetricsArgs, Place, Repository, metrics};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::heads::{Book, Lsn, Witnessed};
use crate::restore::{Depth, Plan, Target, restore};

/// How many drills, and where.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct DrillArgs {
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    metrics: MetricsArgs,
    /// How many moments to restore
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..=1_000))]
    count: u32,
    /// Where to restore to, in a folder that is removed again [default: `BACKUP_DIR`/scratch]
    #[arg(long, value_name = "PATH")]
    scratch: Option<PathBuf>,
    /// Print one JSON object per drill
    #[arg(long)]
    json: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// What came of a drill; one line of `drills.jsonl`.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Drill {
    pub(crate) at: Timestamp,
    pub(crate) passed: bool,
    pub(crate) base: String,
    /// The WAL place that was aimed at.
    pub(crate) lsn: String,
    /// The position that was seen there, and the one that was restored.
    pub(crate) expected: Position,
    pub(crate) restored: Position,
    /// Events that were in the WAL before that place and were not found.
    pub(crate) events_lost: i64,
    pub(crate) seconds_to_serve: f64,
    pub(crate) seconds_to_prove: f64,
    pub(crate) bytes: u64,
    /// What is wrong; empty if nothing is.
    pub(crate) problem: String,
}

/// Drills. Exit 6 or 1 if one fails, after all of them.
///
/// # Errors
/// What stops them before there is a result.
pub(crate) fn run(args: &DrillArgs) -> Result<Exit, Failure> {
    let config = args.place.config()?;
    let repository = Repository::of(&config)?;
    let scratch = args.scratch.clone().unwrap_or_else(|| repository.dir().join("scratch"));
    repository.create(&scratch)?;
    let mut worst = Exit::Ok;
    for number in 1..=args.count {
        let head = pick(&config, &repository)?;
        let into = scratch.join(format!("drill-{}-{number}", std::process::id()));
        let (drill, exit) = one(&config, &repository, &head, &into, args.quiet);
        let removed = fs::remove_dir_all(&into);
        record(&repository, &drill)?;
        metrics::write(args.metrics.file.as_deref(), &repository)?;
        if args.json {
            println!("{}", serde_json::to_string(&drill).unwrap_or_default());
        } else {
            println!("{}", line(number, args.count, &drill));
        }
        if let Err(error) = removed.or_else(|error| if into.exists() { Err(error) } else { Ok(()) }) {
            eprintln!("{}: {error}; remove it by hand", into.display());
        }
        if worst != Exit::Violated && exit != Exit::Ok {
            worst = exit;
        }
    }
    Ok(worst)
}

/// A head at random, among those behind a base backup that is kept, and those of the base backups. The newest one is left out if there
/// are others: what is just being written need not be copied yet.
fn pick(config: &Config, repository: &Repository) -> Result<Witnessed, Failure> {
    let bases = repository.bases()?;
    let Some(newest) = bases.last() else {
        let message =
            format!("no base backup in {}; make one with `modelfaucet backup run`", repository.dir().display());
        return Err(Failure::new(Exit::Config, message));
    };
    let dir = config.heads_dir().unwrap_or_else(|| repository.dir().join("heads"));
    let copied = repository.archived().and_then(|archived| Some((archived.timeline, archived.lsn.parse().ok()?)));
    let mut heads: Vec<Witnessed> = Book::read(&dir, ShardId(0))?;
    heads.retain(|head| {
        let reaches = |base: &Base| base.timeline == head.timeline && base.end() <= head.lsn;
        head.log_id == newest.log_id && is_copied(head, copied) && bases.iter().any(reaches)
    });
    if heads.len() > 1 {
        heads.pop();
    }
    // A ledger at rest has none; then the base backups themselves are the moments.
    let of_base = |base: &Base| {
        let (at, log_id, position) = (base.ended, base.log_id, base.position);
        Some(Witnessed { at, log_id, position, hash: base.hash()?, lsn: base.end(), timeline: base.timeline })
    };
    heads.extend(bases.iter().filter(|base| base.log_id == newest.log_id).filter_map(of_base));
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(|error| Failure::new(Exit::Temporary, error))?;
    let at = u64::from_ne_bytes(random) % (heads.len().max(1) as u64);
    heads
        .into_iter()
        .nth(usize::try_from(at).unwrap_or(0))
        .ok_or_else(|| Failure::new(Exit::Violated, format!("base backup {} has no hash of a head", newest.label)))
}

/// Whether the WAL has been copied up to a head. What a busy disk holds back is no fault of the backup; `backup check` says how far the
/// copy is behind. A timeline that is not followed any more is copied as far as it will ever be.
fn is_copied(head: &Witnessed, copied: Option<(u32, Lsn)>) -> bool {
    copied.is_none_or(|(timeline, lsn)| head.timeline != timeline || head.lsn <= lsn)
}

fn one(config: &Config, repository: &Repository, head: &Witnessed, into: &Path, quiet: bool) -> (Drill, Exit) {
    let mut drill = Drill {
        at: Timestamp::now(),
        passed: false,
        base: String::new(),
        lsn: head.lsn.to_string(),
        expected: head.position,
        restored: Position::START,
        events_lost: head.position.0,
        seconds_to_serve: 0.0,
        seconds_to_prove: 0.0,
        bytes: 0,
        problem: String::new(),
    };
    let depth = Depth { verify: true, amcheck: true, quiet };
    let result = Plan::make(config, repository, &Target::Head(Box::new(head.clone()))).and_then(|plan| {
        plan.label().clone_into(&mut drill.base);
        drill.bytes = plan.bytes();
        plan.check_base(config, repository)?;
        restore(config, repository, &plan, into, &depth)
    });
    let exit = match result {
        Ok(report) => {
            drill.restored = report.position();
            drill.events_lost = report.missed();
            drill.seconds_to_serve = report.to_serve().as_secs_f64();
            drill.seconds_to_prove = report.proving().as_secs_f64();
            drill.problem = report.problem();
            report.soundness()
        }
        Err(failure) => {
            drill.problem = failure.message;
            if failure.exit == Exit::Violated { Exit::Violated } else { Exit::Differences }
        }
    };
    drill.passed = exit == Exit::Ok;
    (drill, exit)
}

fn line(number: u32, count: u32, drill: &Drill) -> String {
    let result = if drill.passed { "passed" } else { "FAILED" };
    let mut line = format!(
        "drill {number}/{count}  {result}  {} at {}: position {} of {}, {} events lost, {:.1} s to serve, {:.1} s to prove",
        drill.base,
        drill.lsn,
        drill.restored,
        drill.expected,
        drill.events_lost,
        drill.seconds_to_serve,
        drill.seconds_to_prove
    );
    if !drill.problem.is_empty() {
        line.push_str("\n  ");
        line.push_str(&drill.problem);
    }
    line
}

fn record(repository: &Repository, drill: &Drill) -> Result<(), Failure> {
    let path = repository.drills();
    let text = serde_json::to_string(drill).unwrap_or_default() + "\n";
    let open = OpenOptions::new().append(true).create(true).mode(0o600).open(&path);
    open.and_then(|mut file| file.write_all(text.as_bytes())).map_err(|error| repository.failure(&path, &error))
}

/// Every drill that was written down, the oldest first.
pub(crate) fn history(path: &Path) -> Vec<Drill> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
}

/// How long the last drill took until it could serve, per byte.
pub(crate) fn seconds_per_byte(path: &Path) -> Option<f64> {
    let drills = history(path);
    let last = drills.iter().rev().find(|drill| drill.passed && drill.bytes > 0)?;
    #[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
    Some(last.seconds_to_serve / last.bytes as f64)
}

#[cfg(test)]
mod tests {
    use modelfaucet_schema::hash::ChainHash;
    use modelfaucet_schema::ids::LogId;
    use uuid::Uuid;

    use super::*;

    #[test]
    fn only_what_has_been_copied_is_a_moment() {
        let head = |timeline, lsn| Witnessed {
            at: Timestamp::from_micros(0),
            log_id: LogId(Uuid::from_u128(1)),
            position: Position(7),
            hash: ChainHash([7; 32]),
            lsn: Lsn(lsn),
            timeline,
        };
        let copied = Some((2, Lsn(100)));
        assert!(is_copied(&head(2, 100), copied));
        assert!(!is_copied(&head(2, 101), copied), "the copy is behind");
        assert!(is_copied(&head(1, 900), copied), "an older timeline");
        assert!(is_copied(&head(2, 101), None), "nobody says how far the copy is");
    }
}
