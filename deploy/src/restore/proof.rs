//! What was restored is proved: the head against what was seen, then everything that `modelfaucet verify` recomputes, and the trial
//! balance of the read tables.

use std::time::Instant;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::from_system_time;
use tokio::process::Command;
use tokio_postgres::Client;

use super::Depth;
use super::plan::Plan;
use super::report::{Loss, Report};
use crate::backup::Repository;
use crate::config::Config;
use crate::database::{self, DATABASE};
use crate::exit::{Exit, Failure};
use crate::heads::{self, Standing, Witnessed};
use crate::postgres::{PrivatePostgres, Programs};
use crate::verify::{self, auditor};

const SHARD: ShardId = ShardId(0);

/// Proves a restored server. `began` is when the restore began.
pub(super) async fn prove(
    config: &Config,
    repository: &Repository,
    plan: &Plan,
    postgres: &PrivatePostgres,
    began: Instant,
    depth: &Depth,
) -> Result<Report, Failure> {
    let name = database_name(postgres).await?;
    let audit = postgres.config(ServiceRole::Audit.name(), &name);
    let mut client = database::connect(&audit).await.map_err(database::unreachable)?;
    let row = client
        .query_one("SELECT log_id, position, hash, committed_at FROM ledger.head WHERE shard = $1", &[&SHARD.0])
        .await
        .map_err(auditor::failure)?;
    let to_serve = began.elapsed();
    let (log_id, position) = (LogId(row.get(0)), Position(row.get(1)));
    let hash = ChainHash::from_slice(row.get(2)).unwrap_or(ChainHash([0; 32]));
    let committed_at = row.get::<_, Option<_>>(3).map(from_system_time);
    let seen: Vec<Witnessed> = plan.highest.iter().cloned().collect();
    let loss = match heads::standing(&client, SHARD, &seen).await? {
        Standing::Whole => Loss::None,
        Standing::Short { lost, seen } => {
            let seconds = committed_at.map_or(0.0, |at| seen.at.since(at).as_secs_f64());
            Loss::Events { first: lost.0, last: lost.1, seconds }
        }
        Standing::Contradicts(what) => Loss::Contradicts(what),
    };
    // What was certainly in the WAL before the target.
    let at_target: Vec<Witnessed> = plan.head.iter().cloned().collect();
    let missed = match heads::standing(&client, SHARD, &at_target).await? {
        Standing::Whole => (plan.expected.0 - position.0).max(0),
        Standing::Short { lost, .. } => lost.1 - lost.0 + 1,
        Standing::Contradicts(what) => {
            return Err(Failure::new(Exit::Violated, format!("the restored log is another one: {what}")));
        }
    };
    let base_hash = link(&client, plan.base.position).await?;
    let mut findings = Vec::new();
    if plan.base.position.0 > 0 && base_hash != plan.base.hash() {
        findings.push(format!("position {} has another hash than when the base backup was made", plan.base.position));
    }
    if missed > 0 {
        findings.push(format!("{missed} events that were in the WAL before the target are not there"));
    }
    let verifying = Instant::now();
    let (mut verified, mut balance, mut amcheck) = (None, None, None);
    if depth.verify {
        client.batch_execute(auditor::SESSION).await.map_err(auditor::failure)?;
        let transaction = auditor::snapshot(&mut client).await.map_err(auditor::failure)?;
        balance = Some(trial_balance(&transaction).await.map_err(auditor::failure)?);
        verified = Some(verify::everything(&transaction, depth.quiet).await.map_err(auditor::failure)?);
    }
    if depth.amcheck {
        amcheck = Some(look_at_every_page(config, repository, plan, postgres, &name).await?);
    }
    Ok(Report {
        into: std::path::PathBuf::new(),
        target: plan.aim.to_string(),
        base: plan.base.label.clone(),
        log_id,
        position,
        hash,
        highest: plan.highest.clone(),
        loss,
        missed,
        findings,
        bytes: plan.bytes(),
        to_serve,
        proving: verifying.elapsed(),
        verified,
        balance,
        amcheck,
    })
}

/// The ledger's database in the restored server, whatever it was called.
async fn database_name(postgres: &PrivatePostgres) -> Result<String, Failure> {
    // The one of `up`, or the one that a connection may be made to and that has a ledger.
    let names = {
        let first = database::connect(&postgres.config(ServiceRole::Audit.name(), DATABASE)).await;
        if first.is_ok() {
            return Ok(DATABASE.to_owned());
        }
        let client = database::connect(&postgres.config(ServiceRole::Audit.name(), "postgres"))
            .await
            .map_err(database::unreachable)?;
        client
            .query("SELECT datname::text FROM pg_database WHERE datallowconn AND NOT datistemplate ORDER BY 1", &[])
            .await?
    };
    for name in names.iter().map(|row| row.get::<_, String>(0)) {
        if let Ok(client) = database::connect(&postgres.config(ServiceRole::Audit.name(), &name)).await
            && client.query_one("SELECT to_regclass('ledger.head') IS NOT NULL", &[]).await.is_ok_and(|row| row.get(0))
        {
            return Ok(name);
        }
    }
    Err(Failure::new(Exit::Violated, "no database of the restored server holds a ledger"))
}

async fn link(client: &Client, position: Position) -> Result<Option<ChainHash>, Failure> {
    let sql = "SELECT hash FROM ledger.batch WHERE shard = $1 AND last_pos = $2";
    let row = client.query_opt(sql, &[&SHARD.0, &position.0]).await.map_err(auditor::failure)?;
    Ok(row.and_then(|row| ChainHash::from_slice(row.get(0))))
}

/// Debits less credits of all accounts, as text; zero if the books balance. Sums may be wider than 64 bits.
async fn trial_balance(transaction: &tokio_postgres::Transaction<'_>) -> Result<String, tokio_postgres::Error> {
    let row =
        transaction.query_one("SELECT coalesce(sum(debit) - sum(credit), 0)::text FROM read.account", &[]).await?;
    Ok(row.get(0))
}

/// `pg_amcheck` over everything, if it is installed: `None` in words if not.
async fn look_at_every_page(
    config: &Config,
    repository: &Repository,
    plan: &Plan,
    postgres: &PrivatePostgres,
    name: &str,
) -> Result<Result<(), String>, Failure> {
    let program = Programs::find(config.pg_bindir().as_deref(), plan.base.major())?.path("pg_amcheck");
    if !program.exists() {
        return Ok(Err("pg_amcheck is not installed".to_owned()));
    }
    let superuser = superuser(postgres, name).await?;
    let mut command = Command::new(program);
    command.env("LC_ALL", "C").arg("--host").arg(postgres.socket_dir());
    command.args(["--port", &crate::postgres::PORT.to_string(), "--username", &superuser, "--no-password"]);
    command.args(["--install-missing", "--database", name]).current_dir(repository.dir());
    let output = command.kill_on_drop(true).output().await?;
    if output.status.success() {
        return Ok(Ok(()));
    }
    let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    Err(Failure::new(Exit::Violated, format!("pg_amcheck: {}", text.lines().take(5).collect::<Vec<_>>().join("; "))))
}

async fn superuser(postgres: &PrivatePostgres, name: &str) -> Result<String, Failure> {
    let client = database::connect(&postgres.config(ServiceRole::Audit.name(), name)).await?;
    let sql = "SELECT rolname::text FROM pg_roles WHERE rolsuper AND rolcanlogin ORDER BY rolname = 'postgres' DESC, oid LIMIT 1";
    Ok(client.query_one(sql, &[]).await?.get(0))
}
