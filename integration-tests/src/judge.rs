//! Who says afterwards whether all was well: a checker that shares no code with the product, `verify`, and the reconciliation.
#![expect(clippy::unwrap_used, reason = "without a judgement the test must fail")]

use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, Instant};

use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::Value;
use tokio_postgres::Config;

use crate::connection::Connection;
use crate::database::TestDatabase;
use crate::history::export_log;
use crate::process::{Up, binary, skip, url};
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
    let arguments: Vec<PathBuf> = ["--log".into(), log].into_iter().chain(histories.files()).collect();
    if let Some(output) = python("check.py", &arguments) {
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "the checker found a violation: {}", String::from_utf8_lossy(&output.stderr));
    }
    events
}

/// What the ledger itself says about its log and its read tables: `verify`, as the auditor, and the reconciliation.
///
/// # Panics
/// If anything does not agree.
pub async fn audit(auditor: &Config, reads: &str, token: &str) {
    let arguments = ["verify", "--json", "--quiet", "--database-url", &url(auditor)];
    let output = Command::new(binary()).args(arguments).env_clear().output().unwrap();
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
