//! `modelfaucet replay`: a part of the log, folded again somewhere else, to look at an incident.
//!
//! Everything up to `--to` is appended to the log of an empty database, byte for byte and link by link, through the same
//! `ledger.append()`; the projections of this program fold it there, first up to `--from`, then to the end. The live database is read
//! as an auditor in one transaction that cannot write. Nothing here has a way to a broker, a provider or a bank.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::sync::Arc;

use modelfaucet_projector::ProjectorError;
use modelfaucet_projector::compare::{Compared, Content, Side, compare, contents};
use modelfaucet_projector::projection::{Projection, all};
use modelfaucet_projector::registry::{self, Version};
use modelfaucet_projector::setup::setup_projections;
use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::ids::{BatchId, LogId, Position, ShardId};
use modelfaucet_schema::log::migrate::migrate;
use modelfaucet_schema::log::{AppendBatch, AppendError, EventRow, Head, LogAppender, from_system_time};
use serde_json::{Value, json};
use tokio_postgres::{Client, Config, Transaction};

use crate::DatabaseArgs;
use crate::database;
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, thousands};
use crate::postgres::{PrivatePostgres, PrivatePostgresOptions};
use crate::progress::Progress;
use crate::projection::parse_version;
use crate::verify::auditor::{self, Auditor, snapshot};

/// Batches read together.
const BATCHES: i64 = 256;

/// Replays.
#[derive(clap::Subcommand)]
pub(crate) enum ReplayVerb {
    /// Say what would be copied and folded
    Plan(ReplayArgs),
    /// Do it; exit 1 if the live tables differ from what is folded
    Run(ReplayArgs),
}

/// Which part of the log, and where to.
#[derive(clap::Args)]
pub(crate) struct ReplayArgs {
    #[command(flatten)]
    database: DatabaseArgs,
    /// The first position of the incident; what is before it is folded first
    #[arg(long, value_name = "POSITION", default_value_t = 1, value_parser = clap::value_parser!(i64).range(1..))]
    from: i64,
    /// The last position, widened to a whole append [default: where the live tables stand, so that they can be compared]
    #[arg(long, value_name = "POSITION", value_parser = clap::value_parser!(i64).range(1..))]
    to: Option<i64>,
    /// The shard
    #[arg(long, value_name = "SHARD", default_value_t = 0)]
    shard: i16,
    /// Only this projection
    #[arg(long, value_name = "NAME")]
    projection: Option<String>,
    /// Refuse unless this is the version of the fold that this program has
    #[arg(long, value_name = "VERSION", requires = "projection", value_parser = parse_version)]
    version: Option<i32>,
    /// Where to: `sandbox`, a private PostgreSQL of its own, or the URL of an empty database, as a role that may create roles
    #[arg(long, value_name = "sandbox|URL")]
    into: String,
    /// Data directory of the sandbox
    #[arg(long, value_name = "PATH", default_value = "./sandbox")]
    sandbox_dir: PathBuf,
    /// Leave the sandbox running until Ctrl-C, to look at it with SQL
    #[arg(long)]
    stay: bool,
    /// How many differing rows of each table to name
    #[arg(long, value_name = "N", default_value_t = 20)]
    rows: usize,
    /// Print the result as one JSON object
    #[arg(long)]
    json: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// What is copied.
struct Range {
    shard: ShardId,
    log_id: LogId,
    /// The last position before the incident that an append ends with.
    before: i64,
    to: i64,
    /// The last position of the live log.
    head: i64,
}

/// What a projection says in the sandbox.
struct Said {
    name: &'static str,
    code: i32,
    halted: Option<String>,
    letters: i64,
    before: Vec<(String, Content)>,
    after: Vec<(String, Content)>,
    /// Against the live tables, or why not.
    against: Result<(i32, Vec<Compared>), String>,
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &ReplayVerb) -> Result<Exit, Failure> {
    let (ReplayVerb::Plan(args) | ReplayVerb::Run(args)) = verb;
    let is_plan = matches!(verb, ReplayVerb::Plan(_));
    let folds = folds(args)?;
    let live = Auditor::open(&args.database)?;
    let runtime = crate::runtime()?;
    let result = (|| {
        let range = runtime.block_on(async {
            let mut client = live.connect().await?;
            let transaction = snapshot(&mut client).await.map_err(auditor::failure)?;
            range(args, &transaction, &folds).await
        })?;
        plan(args, &range, &folds, is_plan);
        if is_plan {
            return Ok(Exit::Ok);
        }
        // Started here, for that blocks.
        let sandbox = Sandbox::open(args)?;
        let done = runtime.block_on(replay(args, &live, &sandbox, &folds));
        sandbox.close()?;
        done
    })();
    live.close()?;
    result
}

fn folds(args: &ReplayArgs) -> Result<Vec<Box<dyn Projection>>, Failure> {
    let refuse = |why: String| Err(Failure::new(Exit::Refused, why));
    let mut folds = all();
    if let Some(name) = &args.projection {
        folds.retain(|fold| fold.name() == name);
        let Some(fold) = folds.first() else { return refuse(format!("there is no projection {name}")) };
        if args.version.is_some_and(|version| version != fold.code()) {
            return refuse(format!(
                "this program has version {} of {name}'s fold; use the program whose word you want",
                fold.code()
            ));
        }
    }
    Ok(folds)
}

async fn range(args: &ReplayArgs, live: &Transaction<'_>, folds: &[Box<dyn Projection>]) -> Result<Range, Failure> {
    let shard = ShardId(args.shard);
    // The first id of the log, with which its chain begins, whatever forks came after.
    let sql = "SELECT l.log_id, h.position FROM ledger.log l JOIN ledger.head h USING (shard) WHERE shard = $1";
    let row = live.query_opt(sql, &[&shard.0]).await.map_err(auditor::failure)?;
    let Some(row) = row else { return Err(Failure::new(Exit::Refused, format!("there is no shard {shard}"))) };
    let (log_id, head): (LogId, i64) = (LogId(row.get(0)), row.get(1));
    let to = match args.to {
        Some(to) => to.min(head),
        None => stands(live, shard, folds).await?.unwrap_or(head),
    };
    // Appends are folded whole.
    let end = "SELECT coalesce((SELECT last_pos FROM ledger.batch WHERE shard = $1 AND last_pos >= $2 ORDER BY last_pos LIMIT 1), 0)";
    let start = "SELECT coalesce((SELECT max(last_pos) FROM ledger.batch WHERE shard = $1 AND last_pos < $2), 0)";
    let to: i64 = live.query_one(end, &[&shard.0, &to]).await.map_err(auditor::failure)?.get(0);
    let before: i64 = live.query_one(start, &[&shard.0, &args.from]).await.map_err(auditor::failure)?.get(0);
    if before >= to {
        let why = format!("--from {} lies behind the end, {to}", args.from);
        return Err(Failure::new(Exit::Refused, why));
    }
    Ok(Range { shard, log_id, before, to, head })
}

/// Where the live versions of the projections stand, if all at one place.
async fn stands(live: &Transaction<'_>, shard: ShardId, folds: &[Box<dyn Projection>]) -> Result<Option<i64>, Failure> {
    let versions = registry::list(live, None).await.map_err(auditor::failure)?;
    let mut places: Vec<i64> = versions
        .iter()
        .filter(|version| version.state == "live" && folds.iter().any(|fold| fold.name() == version.name))
        .flat_map(|version| &version.places)
        .filter(|place| place.shard == shard)
        .map(|place| place.position.0)
        .collect();
    places.dedup();
    Ok(if let [one] = places[..] { Some(one).filter(|one| *one > 0) } else { None })
}

fn plan(args: &ReplayArgs, range: &Range, folds: &[Box<dyn Projection>], is_plan: bool) {
    let place =
        if args.into == "sandbox" { args.sandbox_dir.display().to_string() } else { "the database given".to_owned() };
    let names: Vec<String> = folds.iter().map(|fold| format!("{} (fold {})", fold.name(), fold.code())).collect();
    let text = format!(
        "plan  shard {} · {} events are copied into {place}, of them {} before the incident · folded there: {} · \
         live is only read · nothing is sent anywhere",
        range.shard,
        thousands(range.to),
        thousands(range.before),
        names.join(", ")
    );
    if is_plan && args.json {
        let plan =
            json!({ "shard": range.shard, "before": range.before, "to": range.to, "head": range.head, "folds": names });
        println!("{}", json!({ "plan": plan }));
    } else if is_plan {
        println!("{text}");
    } else if !args.quiet {
        eprintln!("{text}");
    }
}

/// Where the copy lives.
struct Sandbox {
    owner: Config,
    postgres: Option<PrivatePostgres>,
}

impl Sandbox {
    fn open(args: &ReplayArgs) -> Result<Self, Failure> {
        if args.into != "sandbox" {
            let database = DatabaseArgs { data_dir: None, database_url: Some(args.into.clone()) };
            return Ok(Self { owner: database.config()?.required_database()?, postgres: None });
        }
        if args.sandbox_dir.exists() {
            let why =
                format!("{} is there already: remove it or choose another --sandbox-dir", args.sandbox_dir.display());
            return Err(Failure::new(Exit::Refused, why));
        }
        let bin_dir = args.database.config()?.pg_bindir();
        let options = PrivatePostgresOptions {
            data_dir: args.sandbox_dir.clone(),
            settings: Vec::new(),
            bin_dir,
            recovery_limit: None,
        };
        let postgres = PrivatePostgres::start(options)?;
        Ok(Self { owner: postgres.config(postgres.superuser(), database::DATABASE), postgres: Some(postgres) })
    }

    /// How the projections connect.
    fn projector(&self) -> Config {
        let mut config = self.owner.clone();
        config.options("-c role=ledger_projector");
        config
    }

    /// Tables without events; refuses a database that has any.
    async fn prepare(&self, range: &Range, folds: &[Box<dyn Projection>]) -> Result<(), Failure> {
        if let Some(postgres) = &self.postgres {
            database::create(&postgres.config(postgres.superuser(), "postgres")).await?;
        }
        let mut client = database::connect(&self.owner).await.map_err(database::unreachable)?;
        let there = "SELECT to_regclass('ledger.event') IS NOT NULL";
        if client.query_one(there, &[]).await?.get::<_, bool>(0) {
            return Err(Failure::new(Exit::Refused, "the database given holds a ledger already; give an empty one"));
        }
        migrate(&mut client, &[]).await?;
        client.execute("SELECT ledger.create_shard($1, $2)", &[&range.shard.0, &range.log_id.0]).await?;
        let mark = format!("COMMENT ON SCHEMA ledger IS 'sandbox: a copy up to position {}; never serve it'", range.to);
        client.batch_execute(&format!("SET ROLE ledger_owner; {mark}; SET ROLE ledger_projector")).await?;
        setup_projections(&mut client, folds).await?;
        if self.postgres.is_some() {
            // So that `verify` and others can look at it.
            database::allow_logins(&self.owner, None).await?;
        }
        Ok(())
    }

    fn close(self) -> Result<(), Failure> {
        Ok(self.postgres.map_or(Ok(()), PrivatePostgres::stop)?)
    }
}

async fn replay(
    args: &ReplayArgs,
    live: &Auditor,
    sandbox: &Sandbox,
    folds: &[Box<dyn Projection>],
) -> Result<Exit, Failure> {
    let mut client = live.connect().await?;
    // Everything that is read of the live database is of this one moment.
    let moment = snapshot(&mut client).await.map_err(auditor::failure)?;
    let range = range(args, &moment, folds).await?;
    sandbox.prepare(&range, folds).await?;
    let mut progress = Progress::start(
        "replay",
        u64::try_from(range.to).unwrap_or_default(),
        crate::progress::Manner { quiet: args.quiet, json: args.json },
    );
    let mut copy = Copy::begin(sandbox, &range).await?;
    copy.up_to(&moment, range.before, &mut progress).await?;
    fold(sandbox, &range, args).await?;
    let before = held(sandbox, folds).await?;
    copy.up_to(&moment, range.to, &mut progress).await?;
    fold(sandbox, &range, args).await?;
    progress.finish();
    let after = held(sandbox, folds).await?;
    let versions = registry::list(&moment, None).await.map_err(auditor::failure)?;
    let mut reader = database::connect(&sandbox.projector()).await?;
    let there = snapshot(&mut reader).await.map_err(auditor::failure)?;
    let mine = registry::list(&there, None).await.map_err(auditor::failure)?;
    let mut said = Vec::new();
    for ((fold, before), after) in folds.iter().zip(before).zip(after) {
        let place = mine.iter().find(|version| version.name == fold.name()).and_then(|version| version.places.first());
        said.push(Said {
            name: fold.name(),
            code: fold.code(),
            halted: place.and_then(|place| place.halted.clone()),
            letters: place.map_or(0, |place| place.dead_letters),
            before,
            after,
            against: against(args, &range, &moment, &versions, &there, fold.as_ref()).await?,
        });
    }
    let differs = said.iter().any(Said::differs);
    if args.json {
        println!("{}", in_json(&range, &said));
    } else {
        print!("{}", text(&range, &said));
    }
    drop(there);
    if args.stay {
        stay(args, sandbox).await;
    }
    Ok(if differs { Exit::Differences } else { Exit::Ok })
}

/// Appends to the sandbox's log what the live log has.
struct Copy {
    appender: LogAppender,
    shard: ShardId,
    head: Head,
}

impl Copy {
    async fn begin(sandbox: &Sandbox, range: &Range) -> Result<Self, Failure> {
        let client = database::connect(&sandbox.owner).await?;
        // A copy may be made again.
        client.batch_execute("SET ROLE ledger_owner; SET synchronous_commit = off").await?;
        let appender = LogAppender::prepare(Arc::new(client)).await?;
        Ok(Self { appender, shard: range.shard, head: Head::genesis(range.log_id, range.shard) })
    }

    async fn up_to(&mut self, live: &Transaction<'_>, to: i64, progress: &mut Progress) -> Result<(), Failure> {
        while self.head.position.0 < to {
            let after = self.head.position.0;
            let batches = live
                .query(include_str!("replay/sql/batches.sql"), &[&self.shard.0, &after, &to, &BATCHES])
                .await
                .map_err(auditor::failure)?;
            let Some(last) = batches.last().map(|row| row.get::<_, i64>(1)) else {
                return Err(damaged(after + 1));
            };
            let events = live
                .query(include_str!("verify/sql/events.sql"), &[&self.shard.0, &(after + 1), &last])
                .await
                .map_err(auditor::failure)?;
            let mut events = events.iter();
            for row in &batches {
                let (first, end): (i64, i64) = (row.get(0), row.get(1));
                let size = usize::try_from(end - first + 1).unwrap_or_default();
                let events: Vec<StoredEvent> = events
                    .by_ref()
                    .take(size)
                    .map(|row| EventRow::stored(self.shard, row))
                    .collect::<Result<_, tokio_postgres::Error>>()
                    .map_err(auditor::failure)?;
                let batch =
                    AppendBatch::seal(self.shard, self.head, BatchId(row.get(2)), from_system_time(row.get(4)), events);
                if batch.head().hash.0.as_slice() != row.get::<_, &[u8]>(3) || batch.head().position != Position(end) {
                    return Err(damaged(first));
                }
                self.append(&batch).await?;
                self.head = batch.head();
            }
            progress.set(u64::try_from(self.head.position.0).unwrap_or_default());
        }
        Ok(())
    }

    async fn append(&self, batch: &AppendBatch) -> Result<(), Failure> {
        loop {
            match self.appender.append(batch).await {
                Ok(_) => return Ok(()),
                Err(AppendError::NoPartition) => {
                    self.appender.ensure_partition(self.shard, batch.head().position).await?;
                }
                Err(error) => return Err(Failure::new(Exit::Temporary, format!("the sandbox refuses: {error}"))),
            }
        }
    }
}

fn damaged(position: i64) -> Failure {
    Failure::new(
        Exit::Violated,
        format!("the live log is damaged at or behind position {position}; run `modelfaucet verify`"),
    )
}

/// Folds what is there. A projection that halts is part of the answer.
async fn fold(sandbox: &Sandbox, range: &Range, args: &ReplayArgs) -> Result<(), Failure> {
    let projector = Operator::projector(&sandbox.projector(), vec![range.shard]).await?;
    let name = args.projection.clone();
    let wanted = move || {
        let mut folds = all();
        folds.retain(|fold| name.as_ref().is_none_or(|name| fold.name() == name));
        folds
    };
    match projector.with_projections(Arc::new(wanted)).catch_up().await {
        Ok(()) | Err(ProjectorError::Halted(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

type Held = Vec<(String, Content)>;

/// What the sandbox's tables hold, projection by projection.
async fn held(sandbox: &Sandbox, folds: &[Box<dyn Projection>]) -> Result<Vec<Held>, Failure> {
    let mut client: Client = database::connect(&sandbox.projector()).await?;
    let moment = snapshot(&mut client).await.map_err(auditor::failure)?;
    let mut all = Vec::with_capacity(folds.len());
    for fold in folds {
        all.push(contents(&moment, &fold.schema()).await.map_err(auditor::failure)?);
    }
    Ok(all)
}

/// The live tables against the sandbox's, if both have read the same.
async fn against(
    args: &ReplayArgs,
    range: &Range,
    live: &Transaction<'_>,
    versions: &[Version],
    sandbox: &Transaction<'_>,
    fold: &dyn Projection,
) -> Result<Result<(i32, Vec<Compared>), String>, Failure> {
    let version = versions.iter().find(|version| version.name == fold.name() && version.state == "live");
    let Some(version) = version else { return Ok(Err("no version of it is live".to_owned())) };
    let at = version.places.iter().find(|place| place.shard == range.shard).map_or(0, |place| place.position.0);
    if at != range.to || version.places.len() != 1 {
        return Ok(Err(format!("the live tables stand at {at}; leave out --to to compare them")));
    }
    let (left, right) = (version.schema(), fold.schema());
    let first = Side { client: live, schema: &left };
    let second = Side { client: sandbox, schema: &right };
    let compared = compare(first, second, args.rows).await.map_err(auditor::failure)?;
    Ok(Ok((version.version, compared)))
}

async fn stay(args: &ReplayArgs, sandbox: &Sandbox) {
    let socket = crate::postgres::running_socket(&args.sandbox_dir);
    if let (Some(socket), Some(_)) = (socket, &sandbox.postgres) {
        eprintln!(
            "stay  psql -h {} -U postgres {} · read.* are the tables, ledger.event_json the events · Ctrl-C ends it",
            socket.display(),
            database::DATABASE
        );
    }
    crate::interrupted().await;
}

impl Said {
    fn differs(&self) -> bool {
        self.halted.is_some()
            || self.letters > 0
            || self.against.as_ref().is_ok_and(|(_, tables)| !tables.iter().all(Compared::is_equal))
    }
}

fn text(range: &Range, said: &[Said]) -> String {
    let mut text = format!("replay  shard {} up to {}, from {}\n", range.shard, range.to, range.before + 1);
    for said in said {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "{} (fold {})", said.name, said.code);
        for (table, content) in &said.after {
            let was = said.before.iter().find(|(name, _)| name == table).map(|(_, content)| content);
            let moved = match was {
                Some(was) if was == content => "unchanged by the range".to_owned(),
                Some(was) => format!("{} rows before the range", thousands(was.rows)),
                None => String::new(),
            };
            let _ = writeln!(text, "  {table:22} {} rows {:.16} · {moved}", thousands(content.rows), content.sha256);
        }
        if let Some(halted) = &said.halted {
            let _ = writeln!(text, "  HALTED: {halted}");
        }
        if said.letters > 0 {
            let _ = writeln!(text, "  {} dead letters", said.letters);
        }
        match &said.against {
            Ok((version, tables)) if tables.iter().all(Compared::is_equal) => {
                let _ = writeln!(text, "  live v{version} holds the same");
            }
            Ok((version, tables)) => {
                let _ = writeln!(text, "  live v{version} DIFFERS (first: live, second: replay)");
                text.push_str(&crate::projection::table_lines(tables));
                for row in tables.iter().flat_map(|table| &table.rows) {
                    let _ = writeln!(text, "    {}", crate::projection::difference_line(row));
                }
            }
            Err(why) => {
                let _ = writeln!(text, "  not compared: {why}");
            }
        }
    }
    text
}

fn in_json(range: &Range, said: &[Said]) -> Value {
    let tables = |held: &Held| -> Value {
        held.iter().map(|(name, content)| (name.clone(), json!(content))).collect::<serde_json::Map<_, _>>().into()
    };
    let said: Vec<Value> = said
        .iter()
        .map(|said| {
            let live = match &said.against {
                Ok((version, compared)) => {
                    let equal = compared.iter().all(Compared::is_equal);
                    json!({ "version": version, "equal": equal, "tables": compared })
                }
                Err(why) => json!({ "not_compared": why }),
            };
            json!({
                "projection": said.name, "fold": said.code, "halted": said.halted, "dead_letters": said.letters,
                "before": tables(&said.before), "after": tables(&said.after), "live": live
            })
        })
        .collect();
    json!({ "shard": range.shard, "from": range.before + 1, "to": range.to, "head": range.head, "projections": said })
}
