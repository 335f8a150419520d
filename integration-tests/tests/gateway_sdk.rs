//! OpenAI's own clients, unchanged, through the gateway and straight at the provider: they must see the same. Needs a Python with
//! `openai` (`MODELFAUCET_TEST_PYTHON`) and a folder with the Node package (`MODELFAUCET_TEST_NODE_DIR`); `deploy/test` sets both up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::path::Path;
use std::process::{Child, Command, Stdio};

use modelfaucet_integration_tests::calls::{booked_when_ended, compare, provider_book};
use modelfaucet_integration_tests::process::{Up, binary, free_port, has_postgres};
use serde_json::Value;

/// A value of the tester's environment. If it is missing says so; fails where `MODELFAUCET_REQUIRE` names openai.
fn configured(name: &str) -> Option<String> {
    let value = std::env::var(name).ok();
    let required = std::env::var("MODELFAUCET_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "openai"));
    assert!(value.is_some() || !required, "{name} is required and not set");
    if value.is_none() {
        eprintln!("skipped: {name} is not set");
    }
    value
}

fn script(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk").join(name).display().to_string()
}

fn run(program: &str, arguments: &[&str]) -> Value {
    let output = Command::new(program).args(arguments).output().unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{errors}"))
}

struct Direct(Child, u16);

impl Direct {
    fn start() -> Self {
        let port = free_port();
        let listen = format!("127.0.0.1:{port}");
        let child =
            Command::new(binary()).args(["sandbox-provider", "--listen", &listen]).stdout(Stdio::null()).spawn();
        let direct = Self(child.unwrap(), port);
        let began = std::time::Instant::now();
        while std::net::TcpStream::connect(&listen).is_err() {
            assert!(began.elapsed().as_secs() < 20, "the provider does not start");
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        direct
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.1)
    }
}

impl Drop for Direct {
    fn drop(&mut self) {
        let _gone = self.0.kill();
        let _status = self.0.wait();
    }
}

/// Runs a client both ways and compares what it saw; then the books with what the provider bills.
async fn same(user: &str, calls: usize, client: impl Fn(&str, &str) -> Value) {
    let up = Up::start_with_variables(&[("PROVIDER_MAX_RETRIES", "0")]).await;
    let (token, _) = up.wallet_with(user, "5.00").await;
    let direct = Direct::start();
    let expected = client(&direct.url(), "any");
    let seen = client(&format!("http://{}/v1", up.address()), &token);
    for (name, expected) in expected.as_object().unwrap() {
        assert_eq!(&seen[name], expected, "{name}");
    }
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let truth = provider_book(&up.provider_book());
    compare(&books, &truth);
    // A failure of the provider is told in a way that keeps the client from trying again: one call, one request.
    assert_eq!(truth.values().map(Vec::len).sum::<usize>(), calls, "{truth:?}");
}

#[tokio::test]
async fn openai_python_sees_the_same() {
    let Some(python) = configured("MODELFAUCET_TEST_PYTHON") else { return };
    if has_postgres() {
        same("python", 12, |url, token| run(&python, &[&script("openai_python.py"), url, token])).await;
    }
}

#[tokio::test]
async fn openai_node_sees_the_same() {
    let Some(folder) = configured("MODELFAUCET_TEST_NODE_DIR") else { return };
    if has_postgres() {
        same("node", 9, |url, token| run("node", &[&script("openai_node.mjs"), url, token, &folder])).await;
    }
}

/// The client repeats what takes too long. With a key that is one call and one bill; without one each try is a call of its own,
/// which the documentation says.
#[tokio::test]
async fn a_client_that_repeats_pays_once_if_it_names_a_key() {
    let Some(python) = configured("MODELFAUCET_TEST_PYTHON") else { return };
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, wallet) = up.wallet_with("repeating", "5.00").await;
    let url = format!("http://{}/v1", up.address());
    let seen = run(&python, &[&script("openai_retries.py"), &url, &token]);
    assert_eq!(seen["with a key"], 3, "{seen}");
    assert_eq!(seen["after a failure that was billed"], 4, "{seen}");
    assert_eq!(seen["without a key"], "APITimeoutError", "{seen}");
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let truth = provider_book(&up.provider_book());
    compare(&books, &truth);
    // What was billed for answers of three, four and five tokens.
    let billed = |tokens: u64| {
        truth.values().flatten().filter(|served| served.bill.is_some_and(|bill| bill[2] == tokens)).count()
    };
    let charged = |tokens: u64| {
        books.values().filter(|call| call.rating().is_some_and(|rating| rating.usage.output_text == tokens)).count()
    };
    assert_eq!((billed(3), charged(3)), (1, 1), "with a key: one bill and one charge, however often it was sent");
    // One call with two attempts; the first, which failed, is the platform's to pay.
    assert_eq!(charged(4), 1);
    assert_eq!((billed(5), charged(5)), (3, 3), "without a key: each of the three tries");
    assert!(books.values().all(|call| call.placed.wallet_id.to_string() == wallet));
}
