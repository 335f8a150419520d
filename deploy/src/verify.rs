//! `modelfaucet verify`: recomputes everything that can be recomputed from one moment of the database, and says where it differs.
//!
//! The log first: positions, hash chain, keys, streams, times, entries, wallets, holds. Then what has seen it: projections,
//! snapshots, read tables. Then what guards it. What it cannot see: an attacker who owns the server and rewrites log, projections
//! and snapshots together. Against that, keep the printed head elsewhere.

mod against;
pub(crate) mod auditor;
mod chain;
mod guards;
mod keys;
mod log;
mod order;
mod report;
mod rows;
mod shadow;
mod wallets;

use std::time::Instant;

use modelfaucet_schema::ids::{LogId, ShardId};
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::{Error, Transaction};

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::log::note::Verifier;
use crate::progress::{Manner, Progress};
use auditor::Auditor;
use log::Extent;
pub(crate) use report::Report;
use report::{Check, Findings};
use shadow::Shadow;

/// What to check.
#[derive(clap::Args, Default)]
#[command(args_override_self = true)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// First position to check; without the beginning there are no wallets, holds, streams, snapshots and read tables to compare
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    from: Option<i64>,
    /// Last position to check; the range is widened to whole appends
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    /// Leave out the read tables; comparing them takes memory for every wallet and session, and 24 bytes for every call
    #[arg(long)]
    no_projections: bool,
    /// A note of `log head` that was kept elsewhere: does the log still hold what it says? May be given more than once
    #[arg(long, value_name = "FILE")]
    against: Vec<std::path::PathBuf>,
    /// Believe notes only if this key has signed them, as `log key` prints it
    #[arg(long, value_name = "KEY", requires = "against")]
    log_key: Option<Verifier>,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// Also write the result as Prometheus metrics to this file, for a collector of text files
    #[arg(long, value_name = "PATH")]
    metrics: Option<std::path::PathBuf>,
}

/// Checks and prints. Exit 6 for anything wrong with the log or its guards, 1 if only what is folded from it differs.
pub(crate) fn run(args: &VerifyArgs) -> Result<Exit, Failure> {
    if let (Some(from), Some(to)) = (args.from, args.to)
        && from > to
    {
        let message = format!("--from {from} lies behind --to {to}");
        clap::Error::raw(clap::error::ErrorKind::ValueValidation, message + "\n").exit();
    }
    let notes = against::read(&args.against, args.log_key.as_ref())?;
    let auditor = Auditor::open(&args.database)?;
    let result: Result<Report, Failure> = crate::runtime()?.block_on(async {
        let mut client = auditor.connect().await?;
        let transaction = auditor::snapshot(&mut client).await.map_err(auditor::failure)?;
        let mut report = verify(&transaction, args).await.map_err(auditor::failure)?;
        against::check(&transaction, &notes, &mut report.findings).await.map_err(auditor::failure)?;
        Ok(report)
    });
    auditor.close()?;
    let report = result?;
    if args.json {
        println!("{}", report.json());
    } else {
        print!("{}", report.text());
    }
    if let Some(path) = &args.metrics {
        write_beside(path, &report.metrics(Timestamp::now()))
            .map_err(|error| Failure::new(Exit::Temporary, format!("{}: {error}", path.display())))?;
    }
    Ok(report.findings.exit())
}

/// Whoever reads the file meanwhile sees the old text or the new one.
fn write_beside(path: &std::path::Path, text: &str) -> std::io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// Checks everything that there is.
///
/// # Errors
/// The database's.
pub(crate) async fn everything(transaction: &Transaction<'_>, quiet: bool) -> Result<Report, Error> {
    let args = VerifyArgs { quiet, ..VerifyArgs::default() };
    verify(transaction, &args).await
}

/// What is wrong with the guards of the log: triggers and rights.
///
/// # Errors
/// The database's.
pub(crate) async fn guards(client: &impl tokio_postgres::GenericClient) -> Result<Vec<String>, Error> {
    let mut findings = Findings::new();
    guards::check(client, &mut findings).await?;
    Ok(findings.told())
}

async fn verify(transaction: &Transaction<'_>, args: &VerifyArgs) -> Result<Report, Error> {
    let began = Instant::now();
    let mut findings = Findings::new();
    guards::check(transaction, &mut findings).await?;
    let mut extents = Vec::new();
    for row in transaction.query(include_str!("verify/sql/shards.sql"), &[]).await? {
        let log_id = row.get::<_, Option<_>>(1).map(LogId);
        let mut extent = Extent::find(transaction, ShardId(row.get(0)), log_id, (args.from, args.to)).await?;
        extent.named = row.get::<_, Option<_>>(2).map(LogId);
        extents.push(extent);
    }
    if extents.is_empty() {
        findings.add(Check::Genesis, None, None, "there is no log");
    }
    // Comparing a table of all shards with a part of the log would find differences everywhere.
    let whole = args.from.is_none_or(|from| from == 1) && args.to.is_none();
    let left_out =
        if args.no_projections { Some("left out as asked") } else { (!whole).then_some("needs the whole log") };
    let mut progress = Progress::start(
        "verify",
        extents.iter().map(Extent::events).sum(),
        Manner { quiet: args.quiet, json: args.json },
    );
    let mut shadow = Shadow::prepare(transaction, left_out).await?;
    let (mut logs, mut done) = (Vec::new(), 0);
    for extent in extents {
        let checked = log::check(transaction, extent, shadow, &mut progress, &mut done).await?;
        findings.merge(checked.findings);
        logs.push(checked.log);
        shadow = checked.shadow;
    }
    progress.finish();
    let sound = findings.log_is_sound();
    findings.merge(if sound {
        shadow.compare(transaction).await?
    } else {
        shadow.give_up("the log itself is damaged")
    });
    Ok(Report { logs, findings, events: done, seconds: began.elapsed().as_secs_f64() })
}
