//! `modelfaucet export journal`: the books, straight from the log, in forms that others can check: rows for spreadsheets and
//! scripts, plain-text accounting for hledger and beancount.
//!
//! An entry belongs to the UTC day on which it was recorded, not to the day on which it occurred: that order never changes, so an
//! export of a past period is the same for ever. The log's hash chain is checked while it is read; a damaged log is not exported.

mod books;
mod entries;
mod output;
mod rows;
mod sums;

use std::io::Write;
use std::path::PathBuf;
use std::sync::Arc;

use clap::ValueEnum;
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::Recorded;
use modelfaucet_schema::log::LogReader;
use modelfaucet_schema::time::Timestamp;

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::verify::auditor::{self, Auditor};
use books::{Book, Style};
use entries::{Entries, Logs};
use output::Output;
use sums::Sums;

/// How the journal is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    /// One line per posting, RFC 4180
    Csv,
    /// One JSON object per entry
    Jsonl,
    /// A journal for hledger
    Hledger,
    /// A ledger for beancount
    Beancount,
}

/// What to write, and where.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct ExportArgs {
    /// How it is written
    #[arg(long, value_enum)]
    format: Format,
    /// File to write, all or nothing; `-` for standard output
    #[arg(long, value_name = "FILE", default_value = "-")]
    output: PathBuf,
    /// First UTC day of recording, such as 2026-11-01; books open with the balances before it
    #[arg(long, value_name = "DAY", value_parser = day)]
    from_time: Option<i64>,
    /// Last UTC day of recording, that day included
    #[arg(long, value_name = "DAY", value_parser = day)]
    to_time: Option<i64>,
    /// hledger and beancount: every call by itself, instead of usage per day and account
    #[arg(long)]
    detail: bool,
    #[command(flatten)]
    database: DatabaseArgs,
    /// No progress and no control sums on standard error
    #[arg(long)]
    quiet: bool,
}

/// Days since 1970 of a date.
fn day(text: &str) -> Result<i64, String> {
    let midnight = format!("{text}T00:00:00Z").parse::<Timestamp>();
    midnight.map(entries::day_of).map_err(|_| "is not a day such as 2026-11-01".to_owned())
}

/// Exports and prints control sums.
pub(crate) fn run(args: &ExportArgs) -> Result<Exit, Failure> {
    let auditor = Auditor::open(&args.database)?;
    let result = crate::runtime()?.block_on(export(&auditor, args));
    auditor.close()?;
    let sums = result?;
    if !args.quiet {
        eprintln!("{sums}");
    }
    Ok(Exit::Ok)
}

async fn export(auditor: &Auditor, args: &ExportArgs) -> Result<Sums, Failure> {
    let client = auditor.connect().await?;
    // One moment for both passes. It ends with the connection.
    client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ, READ ONLY").await.map_err(auditor::failure)?;
    let reader = LogReader::prepare(Arc::new(client)).await.map_err(auditor::failure)?;
    let logs = Logs::find(reader).await?;
    let books = matches!(args.format, Format::Hledger | Format::Beancount);
    let mut progress = Progress::start("export", logs.events() * if books { 2 } else { 1 }, args.quiet);
    let period = Period { from: args.from_time, to: args.to_time };
    let mut output = Output::create(&args.output)?;
    let sums = if books {
        let style = if args.format == Format::Hledger { Style::Hledger } else { Style::Beancount };
        // Accounts and sums stand at the head of a book, so they are counted first.
        let mut sums = Sums::default();
        let count = |place, recorded: &Recorded, entry: &JournalEntry| {
            sums.add(place, recorded.shard, entry);
            Ok(())
        };
        read(&logs, period, &mut |events| progress.set(events), count).await?;
        let mut book = Book::open(&mut output, style, args.detail, &logs.heads, &sums, period)?;
        let entry = |place, recorded: &Recorded, entry: &JournalEntry| match place {
            Place::Within(day) => book.entry(day, recorded, entry),
            Place::Before => Ok(()),
        };
        read(&logs, period, &mut |events| progress.set(logs.events() + events), entry).await?;
        book.close(&sums)?;
        sums
    } else {
        let mut sums = Sums::default();
        let mut rows = rows::Rows::open(&mut output, args.format == Format::Csv)?;
        let entry = |place, recorded: &Recorded, entry: &JournalEntry| {
            sums.add(place, recorded.shard, entry);
            if matches!(place, Place::Within(_)) { rows.entry(recorded, entry) } else { Ok(()) }
        };
        read(&logs, period, &mut |events| progress.set(events), entry).await?;
        rows.close()?;
        sums
    };
    progress.finish();
    output.commit()?;
    Ok(sums)
}

/// Days since 1970 of the first and last day that are asked for.
#[derive(Clone, Copy, Debug)]
struct Period {
    from: Option<i64>,
    to: Option<i64>,
}

/// Where an entry lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    /// Before the period: only the opening balances know it.
    Before,
    /// On this day since 1970.
    Within(i64),
}

/// Reads all entries up to the period's end, day by day, in each day shard by shard.
async fn read(
    logs: &Logs,
    period: Period,
    done: &mut dyn FnMut(u64),
    mut each: impl FnMut(Place, &Recorded, &JournalEntry) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let mut entries = Entries::open(logs);
    while let Some((day, recorded)) = entries.next().await? {
        if entries.events().is_multiple_of(1_024) {
            done(entries.events());
        }
        if period.to.is_some_and(|to| day > to) {
            break;
        }
        if let Some(entry) = recorded.event.entry() {
            let place = if period.from.is_some_and(|from| day < from) { Place::Before } else { Place::Within(day) };
            each(place, &recorded, entry)?;
        }
    }
    done(entries.events());
    Ok(())
}

/// Writes into memory or a file fail alike.
fn written(result: std::io::Result<()>) -> Result<(), Failure> {
    result.map_err(|error| Failure::new(Exit::Temporary, format!("the export cannot be written: {error}")))
}

/// Writes a line.
fn line(out: &mut impl Write, text: std::fmt::Arguments<'_>) -> Result<(), Failure> {
    written(out.write_fmt(text).and_then(|()| out.write_all(b"\n")))
}
