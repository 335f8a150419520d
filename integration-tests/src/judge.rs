//! Who says afterwards whether all was well: a checker that shares no code with the product, `verify`, and the reconciliation.
#![expect(clippy::unwrap_used, reason = "without a judgement the test must fail")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::Value;
use tokio_postgres::{Config, NoTls};

use crate::connection::Connection;
use crate::database::TestDatabase;
use crate::history::export_log;
use crate::process::{Up, binary, skip, url};
use crate::report;
use crate::traffic::{Histories, PATIENCE};

/// Runs a program of the checker. `None` if Python is missing.
///
/// # Panics
/// If `MODELFAUCET_REQUIRE` names python and it is missing.
pub fn python(file: &str, arguments: &[PathBuf]) -> Option<Output> {
    let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("checker").join(file);
    match Command::new("python3").arg("-B").arg(program).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            skip("python", "python3 is not installed");
            None
        }
        output => Some(output.unwrap()),
    }
}

/// Exports the log and runs the checker on it and the history files. Returns how many events there are.
///
/// # Panics
/// If the checker finds a violation.
pub async fn check(database: &Config, histories: &Histories) -> u64 {
    let log = histories.folder().join("log.jsonl");
    let events = export_log(database, &log).await.unwrap();
    if let Some(output) = judge(&log, histories.files()) {
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "the checker found a violation: {}", String::from_utf8_lossy(&output.stderr));
    }
    server(database).await;
    report::count(&[("events", events)]);
    events
}

/// Runs the checker on an exported log and the histories of those who wrote it, and notes what it found. `None` if Python is missing.
///
/// # Panics
/// As [`python`].
pub fn judge(log: &Path, histories: impl Iterator<Item = PathBuf>) -> Option<Output> {
    let summary = log.with_extension("summary");
    let arguments = ["--log".into(), log.to_owned(), "--summary".into(), summary.clone()];
    let output = python("check.py", &arguments.into_iter().chain(histories).collect::<Vec<_>>())?;
    // Without one it has not come to a judgement, and says why.
    let text = std::fs::read_to_string(summary).unwrap_or_else(|_| "{}".to_owned());
    let found: BTreeMap<String, BTreeMap<String, u64>> = serde_json::from_str(&text).unwrap();
    let found: Vec<_> =
        found.iter().map(|(name, found)| (name.as_str(), found["judged"], found["violations"])).collect();
    report::judged("checker", &found);
    Some(output)
}

/// Notes what PostgreSQL promises below a judged log.
async fn server(database: &Config) {
    let (client, connection) = database.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let mut settings = Vec::new();
    for name in ["server_version", "fsync", "synchronous_commit", "full_page_writes"] {
        let row = client.query_one("SELECT current_setting($1)", &[&name]).await.unwrap();
        settings.push((name, row.get::<_, String>(0)));
    }
    report::server(&settings);
}

/// What each check of `verify` shows.
const SHOWN_BY_VERIFY: &[(&str, &str)] = &[
    ("keys", "I2"),
    ("entries", "I4"),
    ("wallets", "I5"),
    ("snapshots", "I6"),
    ("projections", "I6"),
    ("chain", "I7"),
    ("witnesses", "I7"),
    ("guards", "I7"),
    ("positions", "I8"),
    ("streams", "I8"),
    ("times", "I9"),
    ("holds", "I10"),
];

/// Notes what `verify --json` found.
fn verified(result: &Value) {
    let checks = result["checks"].as_array().map(Vec::as_slice).unwrap_or_default();
    let found: Vec<_> = SHOWN_BY_VERIFY
        .iter()
        .filter_map(|(check, invariant)| {
            let told = checks.iter().find(|told| told["check"] == *check)?;
            Some((*invariant, told["checked"].as_u64()?, told["findings"].as_u64()?))
        })
        .collect();
    report::judged("verify", &found);
}

/// What the ledger itself says about its log and its read tables: `verify`, as the auditor, and the reconciliation.
///
/// # Panics
/// If anything does not agree.
pub async fn audit(auditor: &Config, reads: &str, token: &str) {
    let arguments = ["verify", "--json", "--quiet", "--database-url", &url(auditor)];
    let output = Command::new(binary()).args(arguments).env_clear().output().unwrap();
    verified(&serde_json::from_slice(&output.stdout).unwrap_or_default());
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let mut connection = Connection::open(reads, token).await.unwrap();
    let path = "/v1/admin/reconciliation/ledger?mismatches_only=true";
    let answer = connection.json("GET", path, "", &Value::Null).await.unwrap();
    assert_eq!(answer.status, 200, "{answer:?}");
    let summary = &answer.json()["summary"];
    let figure = |name: &str| summary[name].as_u64().unwrap_or_default();
    report::judged("reconciliation", &[("I6", figure("wallet_count"), figure("mismatch_count"))]);
    assert!(summary["wallet_count"].as_u64() > Some(0) && summary["mismatch_count"] == 0, "{summary}");
}

/// Waits until every projection has read the whole log.
///
/// # Panics
/// If one does not within [`PATIENCE`].
pub async fn level(database: &TestDatabase) {
    let (client, began) = (database.connect_as(ServiceRole::Audit).await, Instant::now());
    let sql = "SELECT h.position - min(c.position) FROM ledger.head h, projection.checkpoint c GROUP BY h.position";
    loop {
        let behind: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        if behind == 0 {
            report::judged("level", &[("I16", 1, 0)]);
            return;
        }
        assert!(began.elapsed() < PATIENCE, "I16: a projection stays {behind} events behind");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As [`audit`], of an `up`.
///
/// # Panics
/// If anything does not agree.
pub async fn audit_up(up: &Up) {
    audit(&up.database("ledger_audit"), &up.address(), &up.admin()).await;
}
