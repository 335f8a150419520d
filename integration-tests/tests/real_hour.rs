//! A real hour of calls (Azure's public trace), metered for 200 users at a real model's price: the totals are what an independent
//! computation says, to the last digit; a repeat changes nothing; an import that is killed is finished by the next one; hledger
//! and beancount accept the books.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use modelfaucet_integration_tests::process::{Up, binary, has_postgres};
use serde_json::Value;

const USERS: usize = 200;

/// The trace, where it lies beside the checkout.
fn trace() -> Option<PathBuf> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data/azure-llm-2023-conv.csv");
    if path.exists() {
        return Some(path);
    }
    eprintln!("skipped: the trace azure-llm-2023-conv.csv is not beside the checkout");
    None
}

/// What the books must say, in units of 1e-8 USD.
#[derive(Debug, Default, PartialEq)]
struct Expected {
    calls: i64,
    input: i64,
    output: i64,
    upstream: i64,
    retail: i64,
    developer: i64,
    /// What each user pays.
    users: Vec<i64>,
}

/// By hand: claude-haiku-4-5 costs 1.00 and 5.00 USD per million, so 100 and 500 units per token, and nothing is rounded; markup
/// 30 %, share 40 %, both floored per call; rows go to the users in turn.
fn expected(path: &Path) -> Expected {
    let mut sums = Expected { users: vec![0; USERS], ..Expected::default() };
    for (number, line) in std::fs::read_to_string(path).unwrap().lines().skip(1).enumerate() {
        let mut cells = line.split(',').skip(1).map(|cell| cell.trim().parse::<i64>().unwrap());
        let (input, output) = (cells.next().unwrap(), cells.next().unwrap());
        let upstream = input * 100 + output * 500;
        let margin = upstream * 3_000 / 10_000;
        sums.calls += 1;
        sums.input += input;
        sums.output += output;
        sums.upstream += upstream;
        sums.retail += upstream + margin;
        sums.developer += margin * 4_000 / 10_000;
        sums.users[number % USERS] += upstream + margin;
    }
    sums
}

fn import(up: &Up, file: &Path) -> Command {
    let mut command = Command::new(binary());
    command
        .args(["import", "usage"])
        .arg(file)
        .args(["--url", &format!("http://{}", up.address()), "--data-dir"])
        .arg(up.data_dir())
        .args(["--users", &USERS.to_string(), "--model", "claude-haiku-4-5", "--top-up", "25.00", "--json", "--quiet"])
        .env_clear()
        .stdin(Stdio::null());
    command
}

fn units(text: &str) -> i64 {
    let (whole, part) = text.split_once('.').unwrap();
    let value = format!("{}{part}", whole.trim_start_matches('-')).parse::<i64>().unwrap();
    if text.starts_with('-') { -value } else { value }
}

/// Balance of an account code in the trial balance, debit positive.
fn balance(books: &Value, code: &str) -> i64 {
    let accounts = books["items"].as_array().unwrap_or_else(|| panic!("{books}"));
    accounts
        .iter()
        .filter(|account| account["code"] == code)
        .map(|account| units(account["debit_usd"].as_str().unwrap()) - units(account["credit_usd"].as_str().unwrap()))
        .sum()
}

async fn books(up: &Up) -> Value {
    let position = {
        let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
        let connection = tokio::spawn(connection);
        let row = client.query_one("SELECT position FROM ledger.head WHERE shard = 0", &[]).await.unwrap();
        let position: i64 = row.get(0);
        drop(client);
        connection.await.unwrap().unwrap();
        position
    };
    let path = format!("/v1/admin/trial-balance?min_position={position}");
    for _ in 0..100 {
        let answer = up.as_admin("GET", &path, "", &Value::Null).await;
        if answer.status == 200 {
            return answer.json();
        }
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    panic!("the read tables do not catch up");
}

fn check(books: &Value, expected: &Expected) {
    assert_eq!(books["balanced"], true);
    assert_eq!(balance(books, "4010"), -expected.retail);
    assert_eq!(balance(books, "5010"), expected.upstream);
    assert_eq!(balance(books, "2110"), -expected.upstream);
    assert_eq!(balance(books, "5020"), expected.developer);
    assert_eq!(balance(books, "2210"), -expected.developer);
    let paid_in = 25 * 100_000_000 * i64::try_from(USERS).unwrap();
    assert_eq!(balance(books, "1110"), paid_in);
    // The sandbox's own user has ten dollars of test credit.
    let seeded = 10 * 100_000_000;
    assert_eq!(balance(books, "2010"), expected.retail - paid_in - seeded);
}

#[tokio::test]
async fn a_real_hour_comes_to_the_last_digit() {
    let (true, Some(trace)) = (has_postgres(), trace()) else { return };
    let expected = expected(&trace);
    let up = Up::start().await;

    // Killed in the middle, again and again, each time further on; then finished.
    for milliseconds in [300, 700] {
        let mut running = import(&up, &trace).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        let _gone = running.kill();
        running.wait().unwrap();
    }
    let finished = import(&up, &trace).output().unwrap();
    assert!(finished.status.success(), "{finished:?}");
    let first = books(&up).await;
    check(&first, &expected);

    // Again: nothing changes.
    let again = import(&up, &trace).output().unwrap();
    assert!(again.status.success(), "{again:?}");
    let summary: Value = serde_json::from_slice(&again.stdout).unwrap();
    assert_eq!(summary["recorded"], 0, "{summary}");
    assert_eq!(summary["replayed"].as_i64(), Some(expected.calls), "{summary}");
    check(&books(&up).await, &expected);

    // Every user pays for his own calls.
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let sql = "SELECT (sum(charge))::bigint, (sum(input_tokens))::bigint, (sum(output_tokens))::bigint FROM read.usage_record GROUP BY wallet_id";
    let rows = client.query(sql, &[]).await.unwrap();
    let mut charged: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    let mut users = expected.users.clone();
    charged.sort_unstable();
    users.sort_unstable();
    assert_eq!(charged, users);
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(1)).sum::<i64>(), expected.input);
    assert_eq!(rows.iter().map(|row| row.get::<_, i64>(2)).sum::<i64>(), expected.output);
    drop(client);
    connection.await.unwrap().unwrap();

    let compared = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &Value::Null).await.json();
    assert_eq!(compared["summary"]["mismatch_count"], 0);
    // With that of the sandbox's own user.
    assert_eq!(compared["summary"]["wallet_count"].as_u64(), Some(USERS as u64 + 1));

    // The books, as others read them.
    for (format, tool, arguments) in [
        (
            "hledger",
            "MODELFAUCET_HLEDGER",
            &["check", "--strict", "ordereddates", "balancednoautoconversion", "-f"][..],
        ),
        ("beancount", "MODELFAUCET_BEAN_CHECK", &[][..]),
    ] {
        let file = up.data_dir().join(format!("books.{format}"));
        let exported = up.run(&[
            "export",
            "journal",
            "--quiet",
            "--data-dir",
            "data",
            "--format",
            format,
            "--output",
            file.to_str().unwrap(),
        ]);
        assert!(exported.status.success(), "{exported:?}");
        let Some(program) = std::env::var_os(tool) else {
            eprintln!("skipped: {tool} names no program, so the {format} books are not checked");
            continue;
        };
        let checked = Command::new(program).args(arguments).arg(&file).output().unwrap();
        assert!(checked.status.success(), "{format}: {checked:?}");
    }
    let verified = up.run(&["verify", "--quiet", "--data-dir", "data"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    println!("{} calls, {} users, {} units of retail", expected.calls, USERS, expected.retail);
}
