//! `modelfaucet export journal`: the four forms tell the same story as the read tables, and, where they are installed, hledger and
//! beancount agree.
#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, missing_docs, dead_code, reason = "each module of a test is used by its files only")]

#[path = "verify/business.rs"]
mod business;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use business::ledger_with;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::process::binary;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::money::Money;
use serde_json::Value;

fn export(database: &TestDatabase, arguments: &[&str]) -> Output {
    let url = database.url(ServiceRole::Audit);
    let mut command = Command::new(binary());
    command.args(["export", "journal", "--database-url", &url]).args(arguments).env_clear().output().unwrap()
}

fn exported(database: &TestDatabase, arguments: &[&str]) -> String {
    let output = export(database, arguments);
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap()
}

fn units(text: &str) -> i64 {
    text.parse::<Money>().unwrap().units()
}

/// Balances by account code, debit positive, as the read tables have them.
async fn trial_balance(database: &TestDatabase) -> BTreeMap<String, i64> {
    let client = database.connect_as(ServiceRole::Audit).await;
    let sql = "SELECT code, sum(balance)::bigint FROM read.trial_balance GROUP BY code HAVING sum(balance) <> 0";
    client.query(sql, &[]).await.unwrap().iter().map(|row| (row.get(0), row.get(1))).collect()
}

fn without_zeros(mut sums: BTreeMap<String, i64>) -> BTreeMap<String, i64> {
    sums.retain(|_, units| *units != 0);
    sums
}

fn csv_balances(text: &str) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    let mut reader = csv::Reader::from_reader(text.as_bytes());
    for record in reader.records() {
        let record = record.unwrap();
        *sums.entry(record[5].to_owned()).or_default() += units(&record[7]) - units(&record[8]);
        assert!(record[7] == *"0.00000000" || record[8] == *"0.00000000");
    }
    without_zeros(sums)
}

fn json_balances(text: &str) -> BTreeMap<String, i64> {
    let mut sums = BTreeMap::new();
    for line in text.lines() {
        let entry: Value = serde_json::from_str(line).unwrap();
        let mut sum = 0;
        for posting in entry["postings"].as_array().unwrap() {
            let amount = units(posting["debit"].as_str().unwrap()) - units(posting["credit"].as_str().unwrap());
            *sums.entry(posting["code"].as_str().unwrap().to_owned()).or_default() += amount;
            sum += amount;
        }
        assert_eq!(sum, 0, "{line}");
    }
    without_zeros(sums)
}

/// A program in PATH or in the folder that an environment variable names.
fn tool(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    let own = std::env::var_os("MODELFAUCET_TOOLS").map(PathBuf::from);
    let found =
        own.into_iter().chain(std::env::split_paths(&path)).map(|dir| dir.join(name)).find(|program| program.exists());
    let required = std::env::var("MODELFAUCET_REQUIRE").is_ok_and(|list| list.split(',').any(|other| other == name));
    assert!(found.is_some() || !required, "{name} is required and not installed");
    if found.is_none() {
        eprintln!("skipped: {name} is not installed");
    }
    found
}

fn accepts(tool: &Path, arguments: &[&str], file: &Path) -> bool {
    let output = Command::new(tool)
        .args(arguments)
        .arg(file)
        .args(if arguments.is_empty() {
            &[][..]
        } else {
            &["check", "--strict", "ordereddates", "balancednoautoconversion"]
        })
        .output()
        .unwrap();
    let accepted = output.status.success() && output.stdout.is_empty();
    if !accepted {
        eprintln!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    }
    accepted
}

#[tokio::test(flavor = "multi_thread")]
async fn every_form_comes_to_the_trial_balance() {
    let Some(database) = ledger_with(11, 1_500, 24).await else { return };
    let expected = trial_balance(&database).await;
    assert!(expected.len() > 8, "{expected:?}");
    let csv = exported(&database, &["--format", "csv"]);
    assert!(csv.starts_with("position,recorded_at,") && csv.contains("\r\n"));
    assert_eq!(csv_balances(&csv), expected);
    let jsonl = exported(&database, &["--format", "jsonl"]);
    assert_eq!(json_balances(&jsonl), expected);

    let entries: i64 = database
        .connect_as(ServiceRole::Audit)
        .await
        .query_one("SELECT count(*) FROM read.entry", &[])
        .await
        .unwrap()
        .get(0);
    assert_eq!(jsonl.lines().count(), usize::try_from(entries).unwrap());
    let told = export(&database, &["--format", "jsonl"]);
    let told = String::from_utf8(told.stderr).unwrap();
    assert!(told.contains(&format!("{entries} entries, ")), "{told}");
    assert_eq!(exported(&database, &["--format", "jsonl", "--from-time", "1999-01-01", "--to-time", "1999-12-31"]), "");
    assert_eq!(exported(&database, &["--format", "csv"]), csv, "the same log gives the same bytes");
}

#[tokio::test(flavor = "multi_thread")]
async fn hledger_and_beancount_accept_the_books_and_notice_one_unit() {
    let Some(database) = ledger_with(12, 1_500, 24).await else { return };
    let dir = tempfile::tempdir().unwrap();
    let strict: &[&str] = &["-f"];
    for (format, program, arguments) in [("hledger", "hledger", strict), ("beancount", "bean-check", &[])] {
        for detail in [&["--quiet"][..], &["--quiet", "--detail"]] {
            let file = dir.path().join(format!("books{}.{format}", detail.len()));
            let mut all = vec!["--format", format, "--output", file.to_str().unwrap()];
            all.extend(detail);
            assert_eq!(exported(&database, &all), "");
            let book = std::fs::read_to_string(&file).unwrap();
            assert!(book.lines().all(|line| !line.contains("request")), "no text from outside");
            let Some(program) = tool(program) else { continue };
            assert!(accepts(&program, arguments, &file), "{}", file.display());
            // One unit more in one posting, then in one assertion.
            for mark in ["  Income:", " balance Income:", "= "] {
                let Some(at) = book.rfind(mark) else { continue };
                let digit = at + book[at..].find(" USD").unwrap() - if mark == " balance Income:" { 5 } else { 1 };
                let mut wrong = book.clone();
                let other = if wrong.as_bytes()[digit] == b'9' { "8" } else { "9" };
                wrong.replace_range(digit..=digit, other);
                std::fs::write(&file, &wrong).unwrap();
                assert!(!accepts(&program, arguments, &file), "{mark} at {digit} of {}", file.display());
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_log_is_not_exported() {
    let Some(database) = ledger_with(13, 100, 8).await else { return };
    let superuser = database.connect().await;
    superuser
        .batch_execute("ALTER TABLE ledger.event_s00_00000 DISABLE TRIGGER append_only; UPDATE ledger.event SET request_id = 'x' WHERE position = 50")
        .await
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("books.csv");
    let output = export(&database, &["--format", "csv", "--output", file.to_str().unwrap()]);
    assert_eq!(output.status.code(), Some(6), "{output:?}");
    assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "no half a file is left");
}
