//! `modelfaucet import usage`: calls from a CSV file, each charged once. The key of a row is the file's hash and the row's number:
//! a second import changes nothing, and one that was killed is finished by running it again.

mod batch;
mod columns;
mod rows;
mod tally;
mod users;

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use modelfaucet_schema::money::Money;
use secrecy::SecretString;
use serde_json::Value;
use tokio::sync::watch;

use crate::client::{Call, LedgerArgs, Patience};
use crate::exit::{Exit, Failure};
use crate::progress::Progress;
use crate::seed;
use batch::{Batch, Courier, OnShortfall};
use columns::Field;
use rows::{Plan, Source};
use tally::Tally;
use users::{Opening, Users};

/// How long temporary failures are borne before the import gives up for now.
const PATIENCE: Duration = Duration::from_mins(1);

/// A file, and how to read and charge it.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct ImportArgs {
    /// CSV file with a header; columns are found by name: time, input, output, cached, model, user, `request_id` and their synonyms
    #[arg(value_name = "FILE.csv")]
    file: PathBuf,
    #[command(flatten)]
    ledger: LedgerArgs,
    /// The app whose users these are
    #[arg(long, value_name = "PUBLIC_APP_ID", default_value = seed::DEMO_APP)]
    app: String,
    /// The feature that prices the calls
    #[arg(long, value_name = "FEATURE_KEY", default_value = seed::DEMO_FEATURE)]
    feature: String,
    /// How many users share the rows in turn, where no column names them
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1_000_000))]
    users: u64,
    /// The model, where no column names one
    #[arg(long, value_name = "MODEL", default_value = "gpt-4o-mini")]
    model: String,
    /// Names a column where its own name is not enough, for example input=ContextTokens; may be given several times
    #[arg(long = "column", value_name = "FIELD=NAME", value_parser = columns::parse_choice)]
    columns: Vec<(Field, String)>,
    /// Credits every user once per file with this amount first
    #[arg(long, value_name = "USD", value_parser = parse_top_up)]
    top_up: Option<Money>,
    /// What to do with calls that a wallet cannot pay
    #[arg(long, value_enum, default_value_t = OnShortfall::Refuse)]
    on_shortfall: OnShortfall,
    /// Whose token reports the calls. Keys are unique per caller: the same file imported as both is charged twice
    #[arg(long = "as", value_enum, default_value_t = Caller::Admin)]
    caller: Caller,
    /// Rows per request
    #[arg(long, value_name = "N", default_value_t = 1_000, value_parser = clap::value_parser!(u64).range(1..=10_000))]
    batch: u64,
    /// Requests at the same time
    #[arg(long, value_name = "N", default_value_t = 2, value_parser = clap::value_parser!(u64).range(1..=16))]
    in_flight: u64,
    /// Skips the rows before this one, the first being 1; an import that ends early says where to go on
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..))]
    from_row: u64,
    /// No progress
    #[arg(long)]
    quiet: bool,
    /// The summary as one JSON object
    #[arg(long)]
    json: bool,
}

/// Whose token is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Caller {
    /// `ADMIN_TOKEN` or the one that `up` keeps
    Admin,
    /// The developer's token that `up` keeps
    Developer,
}

fn parse_top_up(text: &str) -> Result<Money, String> {
    let amount = Money::parse_request(text).map_err(|error| error.to_string())?;
    if amount.is_positive() && amount.is_whole_cents() {
        Ok(amount)
    } else {
        Err("must be whole cents, above zero".to_owned())
    }
}

/// Imports a file.
///
/// # Errors
/// A [`Failure`] that says what is wrong and, once rows were sent, how to go on.
pub(crate) fn run(args: &ImportArgs) -> Result<Exit, Failure> {
    let tokens = args.ledger.tokens()?;
    let token = match args.caller {
        Caller::Admin => tokens.admin()?,
        Caller::Developer if args.top_up.is_some() => {
            usage_error("--top-up needs the admin token; leave out --as developer");
        }
        Caller::Developer => tokens.developer()?,
    };
    let client = args.ledger.client()?;
    let source = Source::open(&args.file, &args.columns).unwrap_or_else(|problem| usage_error(&problem));
    if args.from_row > source.rows.max(1) {
        usage_error(&format!("--from-row {}: the file has {} rows", args.from_row, source.rows));
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        // Nobody there is known at once; patience is for a ledger that goes away later.
        client.send(&Call::get("/health")).await?;
        let interrupts = count_interrupts();
        let patience = Patience::of(PATIENCE).until(interrupts.clone());
        let opening = Opening {
            client: client.clone(),
            patience: patience.clone(),
            token: token.clone(),
            app: args.app.clone(),
            feature: args.feature.clone(),
            digest: source.digest.clone(),
            top_up: args.top_up,
        };
        let courier = courier(args, &source, client, patience, token.clone());
        let mut import = Import {
            args,
            source: &source,
            users: Users::new(opening),
            courier: Arc::new(courier),
            interrupts,
            tally: Tally::default(),
            next_row: args.from_row,
        };
        import.run().await
    })
}

/// Ends the process with exit code 2, as for any other wrong argument.
fn usage_error(problem: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{problem}\n")).exit()
}

fn courier(
    args: &ImportArgs,
    source: &Source,
    client: crate::client::Client,
    patience: Patience,
    token: SecretString,
) -> Courier {
    Courier {
        client,
        patience,
        token,
        feature: args.feature.clone(),
        on_shortfall: args.on_shortfall,
        digest: source.digest.clone(),
    }
}

/// Counts how often the user has interrupted: the first time ends after what is on its way, the second at once.
fn count_interrupts() -> watch::Receiver<u32> {
    let (sender, receiver) = watch::channel(0);
    tokio::spawn(async move {
        loop {
            crate::interrupted().await;
            sender.send_modify(|count| *count += 1);
        }
    });
    receiver
}

/// An import on its way.
struct Import<'a> {
    args: &'a ImportArgs,
    source: &'a Source,
    users: Users,
    courier: Arc<Courier>,
    interrupts: watch::Receiver<u32>,
    tally: Tally,
    /// Every row before it has its answer.
    next_row: u64,
}

impl Import<'_> {
    async fn run(&mut self) -> Result<Exit, Failure> {
        let (began, total) = (Instant::now(), (self.source.rows + 1).saturating_sub(self.args.from_row));
        if !self.args.quiet {
            eprintln!("{}", self.describe());
        }
        let mut progress =
            Progress::start("import", total, crate::progress::Manner { quiet: self.args.quiet, json: self.args.json });
        let mut interrupts = self.interrupts.clone();
        let end = tokio::select! {
            end = self.send(&mut progress) => end,
            Ok(_) = interrupts.wait_for(|count| *count > 1) => Ok(()),
        };
        progress.finish();
        // Refused before the first row: there is nothing to report, and nothing to go on with.
        if self.tally.rows() == 0
            && let Err(failure) = &end
            && failure.exit != Exit::Temporary
        {
            return end.map(|()| Exit::Ok);
        }
        self.report(began.elapsed());
        self.verdict(end)
    }

    fn describe(&self) -> String {
        let source = self.source;
        let users = match source.columns.user {
            Some(_) => String::new(),
            None if self.args.users == 1 => " · one user".to_owned(),
            None => format!(" · {} users in turn", self.args.users),
        };
        let columns = source.columns.describe(&source.header);
        format!("{} · {} rows · sha256 {}… · {columns}{users}", source.name, source.rows, source.digest)
    }

    /// Keeps so many batches on their way until the file ends, something fails or the user interrupts.
    async fn send(&mut self, progress: &mut Progress) -> Result<(), Failure> {
        let size = usize::try_from(self.args.batch).unwrap_or(usize::MAX);
        let in_flight = usize::try_from(self.args.in_flight).unwrap_or(1);
        let plan = Plan { model: self.args.model.clone(), users: self.args.users };
        let mut rows = self.source.rows(self.args.from_row, plan)?;
        let mut flying = VecDeque::new();
        let (mut open, mut end, mut gap) = (true, Ok(()), false);
        loop {
            while open && flying.len() < in_flight {
                open = match self.batch(&mut rows, size).await {
                    Ok(Some((batch, wallets))) => {
                        let courier = Arc::clone(&self.courier);
                        flying.push_back(tokio::spawn(async move { courier.deliver(batch, wallets).await }));
                        true
                    }
                    Ok(None) => false,
                    Err(failure) => {
                        end = Err(failure);
                        false
                    }
                };
            }
            let Some(next) = flying.pop_front() else { return end };
            let delivery =
                next.await.map_err(|error| Failure::new(Exit::Incomplete, format!("a request broke off: {error}")))?;
            self.tally.add(delivery.tally);
            match delivery.end {
                Ok(()) if gap => {}
                Ok(()) => {
                    self.next_row = delivery.last + 1;
                    progress.set(self.next_row - self.args.from_row);
                }
                Err(error) => {
                    (open, gap) = (false, true);
                    end = end.and(Err(error.into()));
                }
            }
        }
    }

    /// The next batch with its wallets; `None` at the end of the file or when the user has interrupted.
    async fn batch(
        &mut self,
        rows: &mut rows::Rows<'_>,
        size: usize,
    ) -> Result<Option<(Batch, Vec<modelfaucet_schema::ids::WalletId>)>, Failure> {
        if *self.interrupts.borrow() > 0 {
            return Ok(None);
        }
        let batch = Batch::fill(rows, size)?;
        if batch.is_empty() {
            return Ok(None);
        }
        let wallets = self.users.wallets(&batch.rows).await?;
        Ok(Some((batch, wallets)))
    }

    /// Results go to standard output, what was refused to standard error.
    fn report(&self, time: Duration) {
        eprint!("{}", self.tally.refusal_lines());
        if !self.args.json {
            print!("{}", self.tally.table(self.users.len(), time));
            return;
        }
        let mut summary = self.tally.json(self.users.len(), time);
        summary["file"] = Value::from(self.source.name.as_str());
        summary["sha256_16"] = Value::from(self.source.digest.as_str());
        summary["resume_from_row"] = if self.is_done() { Value::Null } else { Value::from(self.next_row) };
        println!("{summary}");
    }

    fn is_done(&self) -> bool {
        self.next_row > self.source.rows
    }

    fn verdict(&self, end: Result<(), Failure>) -> Result<Exit, Failure> {
        let go_on = || {
            format!(
                "every row before {} has its answer; go on with:\n  {}",
                self.next_row,
                resume(std::env::args(), self.next_row)
            )
        };
        match end {
            // The file was changed: its row numbers mean something else now.
            Err(failure) if failure.exit == Exit::Differences => Err(failure),
            _ if !self.is_done() && *self.interrupts.borrow() > 0 => {
                Err(Failure::new(Exit::Interrupted, format!("interrupted; {}", go_on())))
            }
            Err(failure) => {
                let exit = if failure.exit == Exit::Temporary { Exit::Incomplete } else { failure.exit };
                Err(Failure::new(exit, format!("{}\n{}", failure.message, go_on())))
            }
            Ok(()) if self.tally.refusals() > 0 => Ok(Exit::Differences),
            Ok(()) => Ok(Exit::Ok),
        }
    }
}

/// The same command from a row on, as a shell takes it.
fn resume(command: impl Iterator<Item = String>, row: u64) -> String {
    let mut words = vec!["modelfaucet".to_owned()];
    let mut command = command.skip(1);
    while let Some(word) = command.next() {
        if word == "--from-row" {
            command.next();
        } else if !word.starts_with("--from-row=") {
            words.push(quoted(&word));
        }
    }
    words.push(format!("--from-row {row}"));
    words.join(" ")
}

fn quoted(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_./:=,@+".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        format!("'{}'", word.replace('\'', r"'\''"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        args: ImportArgs,
    }

    fn parse(line: &str) -> Result<ImportArgs, String> {
        let words = std::iter::once("import").chain(line.split_whitespace());
        Cli::try_parse_from(words).map(|cli| cli.args).map_err(|error| error.to_string())
    }

    #[test]
    fn the_command_line_is_read() {
        let args = parse("a.csv --column input=A --column output=B --top-up 5.00 --on-shortfall receivable --from-row 3 --from-row 7").unwrap();
        assert_eq!((args.columns.len(), args.from_row, args.on_shortfall), (2, 7, OnShortfall::Receivable));
        assert_eq!(args.top_up.map(Money::units), Some(500_000_000));
        assert_eq!(
            (args.app.as_str(), args.feature.as_str(), args.batch, args.in_flight),
            ("app_pub_demo", "customer_reply", 1_000, 2)
        );
        for wrong in [
            "",
            "a.csv --batch 0",
            "a.csv --batch 10001",
            "a.csv --top-up 0",
            "a.csv --top-up 1.005",
            "a.csv --users 0",
            "a.csv --column x=y",
        ] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_way_to_go_on_is_the_same_command() {
        let words = [
            "/usr/bin/modelfaucet",
            "import",
            "usage",
            "my file.csv",
            "--from-row",
            "5",
            "--top-up",
            "5",
            "--from-row=9",
        ];
        let line = resume(words.iter().map(|word| (*word).to_owned()), 4_001);
        assert_eq!(line, "modelfaucet import usage 'my file.csv' --top-up 5 --from-row 4001");
    }
}
