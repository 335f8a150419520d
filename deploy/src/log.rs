//! `modelfaucet log`: the head of the log as a note to keep elsewhere, a mirror of its batches, and the two ways out when a restore
//! has lost its end: recover it from the mirror, or fork the log.

mod fork;
mod head;
pub(crate) mod mirror;
pub(crate) mod note;
mod recover;

use std::path::PathBuf;

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::boot::ServiceRole;
use tokio_postgres::Config as DatabaseConfig;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::postgres::{PrivatePostgres, PrivatePostgresOptions};
use crate::{DatabaseArgs, backup, database};
use mirror::Mirror;

/// What to do with the log.
#[derive(clap::Subcommand)]
pub(crate) enum LogVerb {
    /// Print the head as a note; signed if there is a key. Keep it elsewhere: `verify --against` tells later if it still holds
    Head {
        #[command(flatten)]
        database: DatabaseArgs,
        /// Print one JSON object per shard
        #[arg(long)]
        json: bool,
    },
    /// Print the key that others check notes with; makes the signing key in the data directory if there is none
    Key(DatabaseArgs),
    /// Append every batch, byte for byte, to files below a directory; goes on where it ended
    Mirror {
        /// Where the mirror is; on another disk or host
        #[arg(value_name = "DIR")]
        dir: PathBuf,
        /// Go on until Ctrl-C, at most a second behind the log
        #[arg(long)]
        follow: bool,
        #[command(flatten)]
        database: DatabaseArgs,
    },
    /// Append what a restored log has lost from a mirror, to the same positions and hashes
    Recover(recover::RecoverArgs),
    /// Go on under another log id without what is lost; takes two people
    Fork(fork::ForkArgs),
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &LogVerb) -> Result<Exit, Failure> {
    match verb {
        LogVerb::Head { database, json } => head::print(database, *json),
        LogVerb::Key(database) => head::key(&database.config()?),
        LogVerb::Mirror { dir, follow, database } => {
            let config = database.config()?;
            let reach = Reach::open(&config, ServiceRole::Backup.name())?;
            let result = crate::runtime()?.block_on(keep_mirror(reach.database(), dir, *follow));
            reach.close()?;
            result
        }
        LogVerb::Recover(args) => recover::run(args),
        LogVerb::Fork(args) => fork::run(args),
    }
}

/// A way to the database with the rights of a role: the one that is named, else the private one of the data directory, which is
/// started for the duration if nobody runs it.
pub(crate) struct Reach {
    database: DatabaseConfig,
    postgres: Option<PrivatePostgres>,
}

impl Reach {
    /// Finds the database. `role` is the database role in the private server; a database that is named has its own.
    pub(crate) fn open(config: &Config, role: &str) -> Result<Self, Failure> {
        if let Some(named) = config.database()? {
            return Ok(Self { database: named, postgres: None });
        }
        let data_dir = config.data_dir();
        if let Some(mut running) = database::running_private(&data_dir, ServiceRole::Audit) {
            running.user(role);
            return Ok(Self { database: running, postgres: None });
        }
        if !data_dir.join("postgres").is_dir() {
            let message =
                format!("{} holds no ledger: choose another --data-dir or set DATABASE_URL", data_dir.display());
            return Err(Failure::new(Exit::Config, message));
        }
        let options =
            PrivatePostgresOptions { data_dir, bin_dir: config.pg_bindir(), ..PrivatePostgresOptions::default() };
        let postgres = PrivatePostgres::start(options)?;
        Ok(Self { database: postgres.config(role, database::DATABASE), postgres: Some(postgres) })
    }

    /// How to connect.
    pub(crate) fn database(&self) -> &DatabaseConfig {
        &self.database
    }

    /// Stops what was started.
    pub(crate) fn close(self) -> Result<(), Failure> {
        Ok(self.postgres.map_or(Ok(()), PrivatePostgres::stop)?)
    }
}

async fn keep_mirror(database: &DatabaseConfig, dir: &std::path::Path, follow: bool) -> Result<Exit, Failure> {
    let client = database::connect(database).await?;
    let mut mirror = Mirror::of(dir, ShardId(0), &client).await?;
    let mut events = mirror.extend(&client).await?;
    if follow {
        let stop = crate::interrupted();
        tokio::pin!(stop);
        loop {
            tokio::select! {
                () = &mut stop => break,
                () = tokio::time::sleep(backup::LOOK_EVERY) => events += mirror.extend(&client).await?,
            }
        }
    }
    println!("{}: position {}, hash {}, {events} events added", ShardId(0), mirror.head().position, mirror.head().hash);
    Ok(Exit::Ok)
}
