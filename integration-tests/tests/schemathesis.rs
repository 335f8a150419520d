//! Generated requests over the whole API document: no 5xx, and no answer that the document does not have. `MODELFAUCET_TEST_SCHEMATHESIS`
//! names the program `st`; `MODELFAUCET_SCHEMATHESIS_EXAMPLES` how many requests per operation and phase, 8 unless it is set;
//! `MODELFAUCET_SCHEMATHESIS_SECONDS` how long each run may take, 45 unless it is set.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::Command;

use modelfaucet_integration_tests::process::{Up, has_postgres, skip};
use serde_json::json;

/// Whose requests.
const RUNS: [&str; 3] = ["root", "developer", "session"];
/// What would stop all others, or replace the prices: tried by tests of their own.
const LEFT_OUT: [&str; 3] = ["/v1/admin/freezes", "/v1/admin/freezes/thaw", "/v1/admin/rate-cards"];

#[tokio::test]
async fn no_generated_request_gets_a_5xx_or_an_answer_that_is_not_documented() {
    if !has_postgres() {
        return;
    }
    let Some(st) = std::env::var_os("MODELFAUCET_TEST_SCHEMATHESIS") else {
        return skip("schemathesis", "MODELFAUCET_TEST_SCHEMATHESIS does not name st");
    };
    let examples = std::env::var("MODELFAUCET_SCHEMATHESIS_EXAMPLES").unwrap_or_else(|_| "8".to_owned());
    let seconds = std::env::var("MODELFAUCET_SCHEMATHESIS_SECONDS").unwrap_or_else(|_| "45".to_owned());
    let seed = std::env::var("MODELFAUCET_SCHEMATHESIS_SEED").unwrap_or_else(|_| "7".to_owned());
    let up = Up::start().await;
    let (session, _) = up.wallet_with("generated", "100").await;
    let url = format!("http://{}", up.address());
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("schemathesis");
    for who in RUNS {
        let token = match who {
            "root" => up.admin(),
            "developer" => up.secret("developer_token"),
            _ => session.clone(),
        };
        let mut command = Command::new(&st);
        command
            .args(["run", &format!("{url}/openapi.json"), "--url", &url])
            .args(["--phases", "examples,coverage,fuzzing", "--mode", "all", "--checks"])
            .arg("not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance")
            // One worker: with more its generators meet errors of their own.
            .args(["--max-examples", &examples, "--seed", &seed, "--workers", "1", "--no-color"])
            .args(["--max-time", &seconds])
            .args(["-H", &format!("Authorization: Bearer {token}")])
            .env("SCHEMATHESIS_HOOKS", folder.join("hooks.py"))
            .current_dir(up.data_dir());
        for path in LEFT_OUT {
            command.args(["--exclude-path", path]);
        }
        let output = command.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        let summary: Vec<&str> = text.lines().rev().take(30).collect();
        println!("as {who}: {}", summary.into_iter().rev().collect::<Vec<_>>().join("\n"));
        assert!(output.status.success(), "as {who}:\n{text}\n{}", String::from_utf8_lossy(&output.stderr));
    }
    // It still works, and its books are right.
    let books = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &json!(null)).await;
    assert_eq!((books.status, &books.json()["summary"]["mismatch_count"]), (200, &json!(0)));
    assert!(!up.log().contains("panicked"), "{}", up.log());
}
