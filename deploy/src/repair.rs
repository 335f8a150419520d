//! `modelfaucet repair`: compensating commands from a plan that two people have agreed on. A plan is a file; the ledger keeps its digest,
//! who proposed it and who else agreed. Each command says what it expects, and is sent under a key that follows from the plan, so that
//! carrying a plan out may be broken off anywhere and begun again, and nothing happens twice.

mod apply;
mod draft;
mod plan;

use std::path::{Path, PathBuf};

use modelfaucet_schema::event::FreezeScope;
use modelfaucet_schema::ids::{HoldId, ShardId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::DatabaseArgs;
use crate::client::Call;
use crate::exit::{Exit, Failure};
use crate::freeze::{StaffArgs, scope};
use crate::operator::Consent;
use crate::reading;
use draft::Order;
use plan::Plan;

/// What to do with repairs.
#[derive(clap::Subcommand)]
pub(crate) enum RepairVerb {
    /// Write a plan into a file, with the figures that each step expects and leaves, and propose it
    Plan(PlanArgs),
    /// Agree to a plan that somebody else has proposed; prints its steps
    Approve(ApproveArgs),
    /// Carry an approved plan out; goes on where it was broken off, and stops at the first step whose "before" does not hold
    Apply(ApplyArgs),
}

/// What to plan. Steps come in this order: freezes, releases, adjustments, thaws.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct PlanArgs {
    /// Where to write the plan; it must not exist
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Freeze this scope first, such as usage or app:ID
    #[arg(long, value_name = "SCOPE", value_parser = scope_text)]
    freeze: Vec<FreezeScope>,
    /// Give this hold back
    #[arg(long, value_name = "HOLD")]
    release: Vec<HoldId>,
    /// Give every open hold back whose time is over
    #[arg(long)]
    release_overdue: bool,
    /// Credit (1.50) or debit (-1.50) a wallet
    #[arg(long, value_name = "WALLET=USD", value_parser = amount, allow_hyphen_values = true)]
    adjust: Vec<(WalletId, Money)>,
    /// Bring the posted balance of a wallet to this figure
    #[arg(long, value_name = "WALLET=USD", value_parser = amount)]
    to_balance: Vec<(WalletId, Money)>,
    /// Thaw this scope at the end; takes somebody else than who froze it
    #[arg(long, value_name = "SCOPE", value_parser = scope_text)]
    thaw: Vec<FreezeScope>,
    /// Why, for the record; for example the name of the incident
    #[arg(long, value_name = "TEXT")]
    reason: String,
    #[command(flatten)]
    consent: Consent,
    /// PostgreSQL to read; better given as `DATABASE_URL`
    #[arg(long, value_name = "URL")]
    database_url: Option<String>,
    #[command(flatten)]
    staff: StaffArgs,
}

/// Which plan.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct ApproveArgs {
    /// The plan
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    staff: StaffArgs,
}

/// Which plan, and in earnest or not.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct ApplyArgs {
    /// The plan
    #[arg(value_name = "FILE")]
    file: PathBuf,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    staff: StaffArgs,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// `KIND` or `KIND:ID`.
fn scope_text(text: &str) -> Result<FreezeScope, String> {
    let (kind, id) = text.split_once(':').map_or((text, None), |(kind, id)| (kind, Some(id)));
    scope(kind, id)
}

/// `WALLET=USD`.
fn amount(text: &str) -> Result<(WalletId, Money), String> {
    let (wallet, usd) = text.split_once('=').ok_or("must be WALLET=USD")?;
    let wallet = wallet.parse().map_err(|_| "does not begin with a wallet's id")?;
    let usd = usd.parse().map_err(|_| "does not end with an amount such as 1.50")?;
    Ok((wallet, usd))
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong; exit 3 if a rule refuses, 4 if the ledger is away: the same command goes on.
pub(crate) fn run(verb: &RepairVerb) -> Result<Exit, Failure> {
    match verb {
        RepairVerb::Plan(args) => draw_up(args),
        RepairVerb::Approve(args) => crate::runtime()?.block_on(approve(args)),
        RepairVerb::Apply(args) => crate::runtime()?.block_on(apply::run(args)),
    }
}

impl PlanArgs {
    fn orders(&self) -> Vec<Order> {
        let freezes = self.freeze.iter().map(|scope| Order::Freeze(*scope));
        let releases = self.release.iter().map(|hold| Order::Release(*hold));
        let overdue = self.release_overdue.then_some(Order::ReleaseOverdue);
        let adjusts = self.adjust.iter().map(|(wallet, by)| Order::Adjust { wallet: *wallet, by: *by });
        let balances = self.to_balance.iter().map(|(wallet, to)| Order::ToBalance { wallet: *wallet, to: *to });
        let thaws = self.thaw.iter().map(|scope| Order::Thaw(*scope));
        freezes.chain(releases).chain(overdue).chain(adjusts).chain(balances).chain(thaws).collect()
    }

    fn database(&self) -> DatabaseArgs {
        DatabaseArgs { data_dir: self.staff.ledger.data_dir().cloned(), database_url: self.database_url.clone() }
    }
}

fn draw_up(args: &PlanArgs) -> Result<Exit, Failure> {
    let orders = args.orders();
    let plan = reading::with(&args.database(), async |auditor| {
        let (state, head) = reading::state(auditor, ShardId(0)).await?;
        let now = Timestamp::now();
        let steps = draft::steps(&state, &orders, now).map_err(|problem| Failure::new(Exit::Refused, problem))?;
        Ok(Plan::new(args.reason.trim(), now, head.position, steps))
    })?;
    plan.check().map_err(|problem| Failure::new(Exit::Refused, problem))?;
    let digest = plan.digest();
    let mut proposed = None;
    if args.consent.is_given() {
        write_new(&args.file, &plan.text())?;
        let body = json!({ "digest": digest, "steps": plan.steps.len(), "reason": plan.reason });
        proposed = Some(crate::runtime()?.block_on(send(&args.staff, &Call::post("/v1/admin/repairs", &body)))?);
    }
    let position = proposed.as_ref().map(|reply| reply.position);
    if args.staff.json {
        println!(
            "{}",
            json!({ "file": args.file, "digest": digest, "proposed_at": position, "done": position.is_some(), "plan": plan })
        );
    } else {
        print!("{}", plan.told());
        let file = args.file.display();
        match position {
            Some(position) => println!(
                "proposed at s00:{position}. Next: somebody else reads {file} and runs `modelfaucet repair approve {file} --yes`"
            ),
            None => println!("would be written to {file} and proposed\n{}", Consent::NOTHING_DONE),
        }
    }
    Ok(Exit::Ok)
}

/// A plan that exists is never written over: somebody may have approved it.
fn write_new(path: &Path, text: &str) -> Result<(), Failure> {
    use std::io::Write as _;
    let named = |error: std::io::Error| Failure::new(Exit::Config, format!("{}: {error}", path.display()));
    let mut file = std::fs::File::create_new(path).map_err(named)?;
    file.write_all(text.as_bytes()).and_then(|()| file.sync_all()).map_err(named)
}

/// Reads a plan and checks that it adds up.
fn read(path: &Path) -> Result<Plan, Failure> {
    let text =
        std::fs::read(path).map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", path.display())))?;
    let wrong = |problem: String| Failure::new(Exit::Config, format!("{}: {problem}", path.display()));
    let plan: Plan = serde_json::from_slice(&text).map_err(|error| wrong(format!("is no plan: {error}")))?;
    plan.check().map_err(|problem| wrong(problem.to_string()))?;
    Ok(plan)
}

/// What the ledger says of a plan.
#[derive(Deserialize)]
struct Standing {
    status: String,
    position: i64,
}

async fn send(staff: &StaffArgs, call: &Call<'_>) -> Result<Standing, Failure> {
    let (client, token) = (staff.ledger.client()?, staff.token()?);
    Ok(client.send(&call.clone().token(&token)).await?.json()?)
}

async fn approve(args: &ApproveArgs) -> Result<Exit, Failure> {
    let plan = read(&args.file)?;
    let digest = plan.digest();
    let mut standing: Option<Standing> = None;
    if args.consent.is_given() {
        let call = Call::post(format!("/v1/admin/repairs/{digest}/approve"), &Value::Null);
        standing = Some(send(&args.staff, &call).await?);
    }
    if args.staff.json {
        let (status, position) = standing.map(|standing| (standing.status, standing.position)).unzip();
        println!(
            "{}",
            json!({ "digest": digest, "status": status, "approved_at": position, "done": position.is_some(), "plan": plan })
        );
        return Ok(Exit::Ok);
    }
    print!("{}", plan.told());
    match standing {
        Some(standing) => {
            let file = args.file.display();
            println!("approved at s00:{}. Next: `modelfaucet repair apply {file} --yes`", standing.position);
        }
        None => println!("{}", Consent::NOTHING_DONE),
    }
    Ok(Exit::Ok)
}
