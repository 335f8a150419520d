//! `modelfaucet restore`: a backup becomes a new data directory, as `up` has it; what is in it is proved, and what is lost is named.
//! Nothing that lives is touched: the target must be empty, and the restored server listens on a socket of its own.

mod plan;
mod proof;
mod recovery;
mod report;
mod target;

use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::backup::{Place, Repository};
use crate::config::Config;
use crate::exit::{Exit, Failure};

pub(crate) use plan::Plan;
pub(crate) use report::Report;
pub(crate) use target::{Target, TargetArgs};

/// What to do.
#[derive(clap::Subcommand)]
pub(crate) enum RestoreVerb {
    /// Say which base backup and which WAL it takes, what is expected and what is lost; changes nothing
    Plan {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        target: TargetArgs,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
    /// Restore into a new data directory, recover, verify, and say what is lost and how long it took; exit 6 if events are lost
    Run {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        target: TargetArgs,
        /// The new data directory; must not exist or be empty
        #[arg(long, value_name = "PATH")]
        into: PathBuf,
        /// Leave verification out: serve first, `modelfaucet verify --data-dir` later
        #[arg(long)]
        no_verify: bool,
        /// No progress on standard error
        #[arg(long)]
        quiet: bool,
        /// Print one JSON object
        #[arg(long)]
        json: bool,
    },
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &RestoreVerb) -> Result<Exit, Failure> {
    match verb {
        RestoreVerb::Plan { place, target, json } => {
            let config = place.config()?;
            let plan = Plan::make(&config, &Repository::of(&config)?, &target.target()?)?;
            if *json {
                println!("{}", plan.json());
            } else {
                print!("{}", plan.text());
            }
            Ok(Exit::Ok)
        }
        RestoreVerb::Run { place, target, into, no_verify, quiet, json } => {
            let config = place.config()?;
            let repository = Repository::of(&config)?;
            let plan = Plan::make(&config, &repository, &target.target()?)?;
            if !quiet {
                eprint!("{}", plan.text());
            }
            let report = restore(
                &config,
                &repository,
                &plan,
                into,
                &Depth { verify: !no_verify, amcheck: false, quiet: *quiet },
            )?;
            if *json {
                println!("{}", report.json());
            } else {
                print!("{}", report.text());
            }
            Ok(report.exit())
        }
    }
}

/// How much is proved.
pub(crate) struct Depth {
    pub(crate) verify: bool,
    /// Also look at every index and page, where `pg_amcheck` is installed.
    pub(crate) amcheck: bool,
    pub(crate) quiet: bool,
}

/// Restores and proves. The restored server is stopped again.
///
/// # Errors
/// What stops it; what is found out is in the report.
pub(crate) fn restore(
    config: &Config,
    repository: &Repository,
    plan: &Plan,
    into: &Path,
    depth: &Depth,
) -> Result<Report, Failure> {
    let began = Instant::now();
    recovery::place(repository, plan, into)?;
    let postgres = recovery::recover(config, plan, into)?;
    let result = crate::runtime()?.block_on(proof::prove(config, repository, plan, &postgres, began, depth));
    postgres.stop()?;
    let mut report = result?;
    report.into = into.to_path_buf();
    Ok(report)
}
