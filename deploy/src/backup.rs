//! `modelfaucet backup`: base backups and the WAL behind them in a repository, a directory on another disk or host.
//!
//! What is where in `BACKUP_DIR`: `base/LABEL` (a base backup as `pg_basebackup` makes it, with checksums and manifest) and
//! `base/LABEL.json`; `wal/TIMELINE` (segments as `pg_receivewal` writes them); `heads` and `mirror` (what was seen of the log, and its
//! batches); `drills.jsonl`. Made with PostgreSQL's own programs, of the server's version.

mod base;
mod check;
pub(crate) mod follow;
mod list;
pub(crate) mod metrics;
pub(crate) mod repository;
pub(crate) mod segment;
pub(crate) mod server;

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::DatabaseArgs;
use crate::config::Config;
use crate::exit::{Exit, Failure};

pub(crate) use check::check_base;
pub(crate) use repository::{Base, Repository};

/// How often the log's head is looked at by whoever witnesses or mirrors it.
pub(crate) const LOOK_EVERY: Duration = Duration::from_millis(250);

/// What to do with backups.
#[derive(clap::Subcommand)]
pub(crate) enum BackupVerb {
    /// Make a base backup of the running server, verify it, and remove what need not be kept
    Run {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        metrics: MetricsArgs,
        /// Base backups to keep at least [default: `BACKUP_KEEP`]
        #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=10_000))]
        keep: Option<u64>,
    },
    /// Copy the WAL as it is written and force it to disk, witness the log's head and mirror its batches, until Ctrl-C; `up` with `BACKUP_DIR` does it by
    /// itself
    Wal {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        metrics: MetricsArgs,
    },
    /// Can the backups be used? Exit 1 if one is damaged, a piece of the WAL is missing, or they are too old
    Check {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        metrics: MetricsArgs,
        /// Verify every base backup that is kept, not only the newest one
        #[arg(long)]
        all: bool,
        /// How old the newest base backup may be, in hours
        #[arg(long, value_name = "HOURS", default_value_t = 36)]
        max_age: u32,
        /// How far the copied WAL may be behind, in seconds
        #[arg(long, value_name = "SECONDS", default_value_t = 60)]
        max_wal_age: u32,
        /// Print the result as one JSON object
        #[arg(long)]
        json: bool,
    },
    /// List the base backups
    List {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object per base backup
        #[arg(long)]
        json: bool,
    },
}

/// Where backups are, and of what.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Place {
    /// The repository [default: `BACKUP_DIR`]
    #[arg(long, value_name = "PATH")]
    backup_dir: Option<PathBuf>,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Where metrics go.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct MetricsArgs {
    /// Also write Prometheus metrics to this file, for a collector of text files
    #[arg(long = "metrics", value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
}

impl Place {
    pub(crate) fn config(&self) -> Result<Config, Failure> {
        let backup_dir = self.backup_dir.as_ref().map(|path| path.display().to_string());
        self.database.config_with(&[("BACKUP_DIR", backup_dir)])
    }
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &BackupVerb) -> Result<Exit, Failure> {
    match verb {
        BackupVerb::Run { place, metrics, keep } => {
            let config = place.config()?;
            let repository = Repository::of(&config)?;
            let keep = match keep {
                Some(keep) => usize::try_from(*keep).unwrap_or(usize::MAX),
                None => config.backup_keep()?,
            };
            let made = crate::runtime()?.block_on(base::make(&config, &repository, keep));
            metrics::write(metrics.file.as_deref(), &repository)?;
            println!("{}", list::line(&made?));
            Ok(Exit::Ok)
        }
        BackupVerb::Wal { place, metrics } => {
            let config = place.config()?;
            let repository = Repository::of(&config)?;
            let _traces = crate::start_log(&config, "modelfaucet-backup")?;
            let follower = follow::Follower::new(&config, repository, metrics.file.clone());
            crate::runtime()?.block_on(follower.run(crate::interrupted()))?;
            Ok(Exit::Ok)
        }
        BackupVerb::Check { place, metrics, all, max_age, max_wal_age, json } => {
            let config = place.config()?;
            let repository = Repository::of(&config)?;
            let limits = check::Limits {
                base: Duration::from_secs(u64::from(*max_age) * 3_600),
                wal: Duration::from_secs(u64::from(*max_wal_age)),
            };
            let report = check::check(&config, &repository, *all, limits)?;
            metrics::write(metrics.file.as_deref(), &repository)?;
            if *json {
                println!("{}", report.json());
            } else {
                print!("{}", report.text());
            }
            Ok(report.exit())
        }
        BackupVerb::List { place, json } => list::print(&Repository::of(&place.config()?)?, *json),
    }
}

/// Where the mirror of a repository is.
pub(crate) fn mirror_dir(backup_dir: &Path) -> PathBuf {
    backup_dir.join("mirror")
}
