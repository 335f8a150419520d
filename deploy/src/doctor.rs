//! `modelfaucet doctor`: is everything set up so that it can be relied on? Each line says what was looked at, how it is, and what to do.

mod database;
mod host;
mod report;
mod settings;

use crate::DatabaseArgs;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::verify::auditor::Auditor;
use report::{Level, Report};

/// What to examine.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct DoctorArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// Print only what is not in order
    #[arg(long)]
    quiet: bool,
}

/// Examines and prints. Exit 78 for what a service would refuse to start with, 1 for what else has to be mended; warnings are no failure.
///
/// # Errors
/// A [`Failure`] only where nothing can be examined.
pub(crate) fn run(args: &DoctorArgs) -> Result<Exit, Failure> {
    let mut report = Report::default();
    match args.database.config() {
        Err(failure) => report.add("settings", Level::Refuse, failure.message, "correct the setting"),
        Ok(config) => {
            settings::examine(&config, &mut report);
            host::examine(&config, &mut report);
            examine_database(args, &config, &mut report)?;
        }
    }
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text(args.quiet));
    }
    Ok(report.exit())
}

/// Without a database there still is something to say about the rest.
fn examine_database(args: &DoctorArgs, config: &Config, report: &mut Report) -> Result<(), Failure> {
    let auditor = match Auditor::open(&args.database) {
        Ok(auditor) => auditor,
        Err(failure) => {
            report.add("database", Level::Fail, failure.message, "name the database, or the data directory of `up`");
            return Ok(());
        }
    };
    let result = crate::runtime()?.block_on(async {
        let client = auditor.connect_as_it_is().await?;
        database::examine(&client, config, report).await
    });
    auditor.close()?;
    if let Err(failure) = result {
        report.add("database", Level::Fail, failure.message, "start PostgreSQL, or correct DATABASE_URL");
    }
    Ok(())
}
