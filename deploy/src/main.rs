//! The binary `modelfaucet`: one subcommand per role and tool, `up` for all in one.

mod app;
mod backup;
mod client;
mod config;
mod database;
mod dead;
mod demo;
mod docs;
mod doctor;
mod drill;
mod edge;
mod events;
mod exit;
mod explain;
mod export;
mod fault;
mod freeze;
mod gateway;
mod heads;
mod holds;
mod import;
mod incident;
mod keys;
mod log;
mod log_feed;
mod operator;
mod payments;
mod postgres;
mod progress;
mod projection;
mod rates;
mod reading;
mod relay;
mod repair;
mod replay;
mod restore;
mod roles;
mod secrets;
mod seed;
mod serve;
mod staff;
mod status;
mod trace;
mod up;
mod verify;
mod wallet;

use std::io::IsTerminal as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, Parser, Subcommand};
use modelfaucet_command::snapshot;
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::LogReader;

use config::Config;
use exit::{Exit, Failure};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// `ModelFaucet` Ledger: prepaid wallets for AI calls, exact, durable, fast.
#[derive(Parser)]
#[command(name = "modelfaucet", version, disable_help_subcommand = true, args_override_self = true)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Run everything in one process, with a private PostgreSQL unless `DATABASE_URL` names one
    Up {
        #[command(flatten)]
        server: ServerArgs,
        /// Play the demo once everything is up, then stop; exit 0 only if everything adds up
        #[arg(long)]
        demo: bool,
    },
    /// Run the write side alone (needs `DATABASE_URL` as `ledger_command`)
    Command(ServerArgs),
    /// Run the read API alone (needs `DATABASE_URL` as `ledger_query`)
    Query(ServerArgs),
    /// Run the projector alone (needs `DATABASE_URL` as `ledger_projector`)
    Projector(ServerArgs),
    /// Publish the log to a broker (needs `AMQP_URL`, and `DATABASE_URL` as `ledger_projector`), or look after that
    #[command(args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
    Relay {
        #[command(flatten)]
        server: ServerArgs,
        #[command(subcommand)]
        verb: Option<relay::RelayVerb>,
    },
    /// Run the gateway alone, with a writer of its own (needs `DATABASE_URL` as `ledger_command` and `LITELLM_BASE_URL`), or without
    /// a database (needs `COMMAND_URL` and `GATEWAY_TOKEN` instead)
    Gateway {
        #[command(flatten)]
        server: ServerArgs,
        /// The command side, for a gateway without a database [default: a writer of its own]
        #[arg(long, value_name = "URL")]
        command_url: Option<String>,
    },
    /// Run a provider that makes answers up: for first steps and tests
    SandboxProvider {
        /// Address and port
        #[arg(long, value_name = "ADDRESS:PORT", default_value = "127.0.0.1:4010")]
        listen: String,
        /// File to which it appends what it saw and would bill, as JSON lines
        #[arg(long, value_name = "PATH")]
        log: Option<PathBuf>,
    },
    /// Ask a running process whether it can work; exit 4 if not. For health checks where there is no curl
    Probe {
        /// What to ask
        #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080")]
        url: String,
    },
    /// Create or update the tables of a database
    Migrate(DatabaseArgs),
    /// Recompute positions, hashes, sums, floors and read tables from the log; exit 6 if anything was tampered with
    Verify(verify::VerifyArgs),
    /// One screen: log, projections, holds, freezes, books, what it leans on; exit 1 if something needs attention
    Status(status::StatusArgs),
    /// Is everything set up so that it can be relied on? Each line with what to do; exit 78 for what a service would refuse
    Doctor(doctor::DoctorArgs),
    /// The whole story of one thing: request, event, hold, wallet, payment, anything with an id
    Explain(explain::ExplainArgs),
    /// The log to look at: what is new, one place, what matches
    Events {
        #[command(subcommand)]
        verb: events::EventsVerb,
    },
    /// A wallet now or at any point of the log, and what it came from
    Wallet {
        #[command(subcommand)]
        verb: wallet::WalletVerb,
    },
    /// Funds that are set aside
    Holds {
        #[command(subcommand)]
        verb: holds::HoldsVerb,
    },
    /// Turn a kill switch on; its cut is exact. Done with --yes only
    Freeze(freeze::FreezeArgs),
    /// Turn a kill switch off; takes somebody else than who turned it on. Done with --yes only
    Thaw(freeze::TurnArgs),
    /// Compensating commands from a plan that two people agree on
    Repair {
        #[command(subcommand)]
        verb: repair::RepairVerb,
    },
    /// Incidents that are over: close one with the report that proves it, list them, check a report
    Incident {
        #[command(subcommand)]
        verb: incident::IncidentVerb,
    },
    /// Versions of read tables: built, compared and switched beside live traffic (needs `DATABASE_URL` as `ledger_projector`)
    Projection {
        #[command(subcommand)]
        verb: projection::ProjectionVerb,
    },
    /// Events that a projection could not apply (needs `DATABASE_URL` as `ledger_projector`)
    Dead {
        #[command(subcommand)]
        verb: dead::DeadVerb,
    },
    /// Look at an incident: a part of the log, folded again in a sandbox (needs `DATABASE_URL` as `ledger_audit`)
    Replay {
        #[command(subcommand)]
        verb: replay::ReplayVerb,
    },
    /// Import usage from a file into a running ledger
    Import {
        #[command(subcommand)]
        what: ImportWhat,
    },
    /// Rate cards: what providers charge
    Rates {
        #[command(subcommand)]
        verb: rates::RatesVerb,
    },
    /// Key-encryption keys: what provider keys are encrypted with
    Keys {
        #[command(subcommand)]
        verb: keys::KeysVerb,
    },
    /// Tokens for the people who run the ledger: auditors, operators, administrators
    Staff {
        #[command(subcommand)]
        verb: staff::StaffVerb,
    },
    /// Payments: what Stripe knows and we may have missed
    Stripe {
        #[command(subcommand)]
        verb: payments::StripeVerb,
    },
    /// Backups: a base backup, the WAL behind it, what is kept, whether it can be used
    Backup {
        #[command(subcommand)]
        verb: backup::BackupVerb,
    },
    /// Restore a backup into a new data directory, prove it, and say what is lost; exit 6 if events are
    Restore {
        #[command(subcommand)]
        verb: restore::RestoreVerb,
    },
    /// Restore random moments of the backups and prove them; for every night
    Drill(drill::DrillArgs),
    /// The log itself: its head as a note, a mirror of its batches, what to do when a restore has lost its end
    Log {
        #[command(subcommand)]
        verb: log::LogVerb,
    },
    /// Write the books to a file or standard output
    Export {
        #[command(subcommand)]
        what: ExportWhat,
    },
    /// Play session, top-up, hold, capture, statement and reconciliation against a running ledger
    Demo(demo::DemoArgs),
    /// Print the API document
    Openapi,
    /// Explain settings: `modelfaucet help config`
    Help {
        /// `config`, or a verb
        topic: Option<String>,
    },
}

#[derive(Subcommand)]
enum ImportWhat {
    /// Usage of calls from a CSV file; resumable, a repeat changes nothing
    Usage(import::ImportArgs),
}

#[derive(Subcommand)]
enum ExportWhat {
    /// All journal entries
    Journal(export::ExportArgs),
}

/// Where to serve and where the data is.
#[derive(Args)]
#[command(args_override_self = true)]
struct ServerArgs {
    /// Address and port [default: 127.0.0.1:8080]
    #[arg(long, value_name = "ADDRESS:PORT")]
    listen: Option<String>,
    /// Redis in which instances share their rate limits; better given as `REDIS_URL`
    #[arg(long, value_name = "URL")]
    redis_url: Option<String>,
    #[command(flatten)]
    database: DatabaseArgs,
}

/// Which database.
#[derive(Args, Clone, Default)]
#[command(args_override_self = true)]
struct DatabaseArgs {
    /// Data directory of `up` [default: ./data]
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
    /// PostgreSQL to use instead; better given as `DATABASE_URL`, since flags are seen by other users
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
}

impl DatabaseArgs {
    fn config(&self) -> Result<Config, Failure> {
        self.config_with(&[])
    }

    fn config_with(&self, further: &[(&'static str, Option<String>)]) -> Result<Config, Failure> {
        let data_dir = self.data_dir.as_ref().map(|path| path.display().to_string());
        let mut flags = vec![("DATA_DIR", data_dir), ("DATABASE_URL", self.database_url.clone())];
        flags.extend_from_slice(further);
        let config = Config::read(&flags)?;
        config.check()?;
        config.trust()?;
        Ok(config)
    }
}

impl ServerArgs {
    fn config(&self) -> Result<Config, Failure> {
        self.config_with(&[])
    }

    fn config_with(&self, further: &[(&'static str, Option<String>)]) -> Result<Config, Failure> {
        let data_dir = self.database.data_dir.as_ref().map(|path| path.display().to_string());
        let url = self.database.database_url.clone();
        let mut flags = vec![
            ("LISTEN", self.listen.clone()),
            ("REDIS_URL", self.redis_url.clone()),
            ("DATA_DIR", data_dir),
            ("DATABASE_URL", url),
        ];
        flags.extend_from_slice(further);
        let config = Config::read(&flags)?;
        config.check()?;
        config.trust()?;
        Ok(config)
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    match run(cli.verb) {
        Ok(exit) => exit.into(),
        Err(failure) => {
            eprintln!("modelfaucet: {}", failure.message);
            failure.exit.into()
        }
    }
}

fn run(verb: Verb) -> Result<Exit, Failure> {
    match verb {
        Verb::Up { server, demo } => {
            let config = server.config()?;
            let _traces = start_log(&config, "modelfaucet")?;
            up::run(&config, demo).map(|()| Exit::Ok)
        }
        Verb::Command(server) => serve_role(&server, "modelfaucet-command", roles::command),
        Verb::Query(server) => serve_role(&server, "modelfaucet-query", roles::query),
        Verb::Projector(server) => serve_role(&server, "modelfaucet-projector", roles::projector),
        Verb::Relay { server, verb: None } => serve_role(&server, "modelfaucet-relay", roles::relay),
        Verb::Relay { verb: Some(verb), .. } => relay::run(&verb),
        Verb::Gateway { server, command_url } => {
            let config = server.config_with(&[("COMMAND_URL", command_url)])?;
            serve_configured(&config, "modelfaucet-gateway", roles::gateway)
        }
        Verb::SandboxProvider { listen, log } => {
            runtime()?.block_on(roles::sandbox_provider(&listen, log.as_deref())).map(|()| Exit::Ok)
        }
        Verb::Probe { url } => runtime()?.block_on(probe(&url)),
        Verb::Migrate(database) => {
            let owner = database.config()?.required_database()?;
            let applied = runtime()?.block_on(database::prepare(&owner))?;
            println!(
                "{}",
                if applied.is_empty() { "nothing to do".to_owned() } else { format!("applied {applied:?}") }
            );
            Ok(Exit::Ok)
        }
        Verb::Verify(args) => verify::run(&args),
        Verb::Status(args) => status::run(&args),
        Verb::Doctor(args) => doctor::run(&args),
        Verb::Explain(args) => explain::run(&args),
        Verb::Events { verb } => events::run(&verb),
        Verb::Wallet { verb } => wallet::run(&verb),
        Verb::Holds { verb } => holds::run(&verb),
        Verb::Freeze(args) => freeze::freeze(&args),
        Verb::Thaw(args) => freeze::thaw(&args),
        Verb::Repair { verb } => repair::run(&verb),
        Verb::Incident { verb } => incident::run(&verb),
        Verb::Projection { verb } => projection::run(&verb),
        Verb::Dead { verb } => dead::run(&verb),
        Verb::Replay { verb } => replay::run(&verb),
        Verb::Import { what: ImportWhat::Usage(args) } => import::run(&args),
        Verb::Rates { verb } => rates::run(&verb),
        Verb::Keys { verb } => keys::run(&verb),
        Verb::Stripe { verb } => payments::run(&verb),
        Verb::Staff { verb } => staff::run(&verb),
        Verb::Backup { verb } => backup::run(&verb),
        Verb::Restore { verb } => restore::run(&verb),
        Verb::Drill(args) => drill::run(&args),
        Verb::Log { verb } => log::run(&verb),
        Verb::Export { what: ExportWhat::Journal(args) } => export::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Openapi => {
            println!("{}", roles::openapi());
            Ok(Exit::Ok)
        }
        Verb::Help { topic } => help(topic.as_deref()),
    }
}

fn serve_role(
    server: &ServerArgs,
    service: &'static str,
    role: impl AsyncFnOnce(&Config) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    serve_configured(&server.config()?, service, role)
}

fn serve_configured(
    config: &Config,
    service: &'static str,
    role: impl AsyncFnOnce(&Config) -> Result<(), Failure>,
) -> Result<Exit, Failure> {
    let _traces = start_log(config, service)?;
    runtime()?.block_on(role(config)).map(|()| Exit::Ok)
}

/// One look at `/ready`, five seconds at most.
async fn probe(url: &str) -> Result<Exit, Failure> {
    let client = client::Client::new(url)?;
    let call = client::Call::get("/ready");
    match tokio::time::timeout(std::time::Duration::from_secs(5), client.send(&call)).await {
        Ok(Ok(_)) => Ok(Exit::Ok),
        Ok(Err(error)) => Err(Failure::new(Exit::Temporary, error)),
        Err(_) => Err(Failure::new(Exit::Temporary, format!("{url}/ready does not answer"))),
    }
}

fn help(topic: Option<&str>) -> Result<Exit, Failure> {
    use clap::CommandFactory as _;
    let mut command = Cli::command();
    match topic {
        None => command.print_long_help()?,
        Some("config") => print!("{}", config::help()),
        Some(verb) => match command.find_subcommand_mut(verb) {
            Some(found) => found.print_long_help()?,
            None => {
                return Err(Failure::new(
                    Exit::Config,
                    format!("there is no help on {verb:?}; try `modelfaucet help`"),
                ));
            }
        },
    }
    Ok(Exit::Ok)
}

/// The async runtime of servers.
fn runtime() -> std::io::Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()
}

/// Logs go to standard error; results of commands to standard output. Traces go out until the returned value is dropped.
fn start_log(config: &Config, service: &'static str) -> Result<Option<trace::Traces>, Failure> {
    let (filter, json) = config.log()?;
    if let Some(options) = config.traces()? {
        return trace::start(options, service, filter, json).map(Some);
    }
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    if json {
        builder.json().init();
    } else {
        let colour = std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
        builder.with_ansi(colour).init();
    }
    Ok(None)
}

/// Waits for Ctrl-C or a request to end.
async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    let terminate = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signal) => drop(signal.recv().await),
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        _ = tokio::signal::ctrl_c() => {}
        () = terminate => {}
    }
}

/// Saves the writer's state, so that the next start reads little of the log.
async fn save_snapshot(database: &tokio_postgres::Config) -> Result<(), snapshot::SnapshotError> {
    let client = Arc::new(database::connect(database).await?);
    let reader = LogReader::prepare(Arc::clone(&client)).await?;
    snapshot::refresh(&client, &reader, ShardId(0), 1_000).await.map(drop)
}
