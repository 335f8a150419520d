//! Tokens of the people who run the ledger, on real processes: what each role may, and that a revoked one is refused everywhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use modelfaucet_integration_tests::connection::{Answer, Connection};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::{Value, json};

struct Token {
    text: String,
    id: String,
}

async fn issue(up: &Up, role: &str, more: Value) -> Token {
    let mut body = json!({ "name": format!("test {role}"), "role": role });
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    let answer = up.as_admin("POST", "/v1/admin/tokens", "", &body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let (token, item) = (answer.json()["token"].clone(), answer.json()["item"].clone());
    let text = token.as_str().unwrap().to_owned();
    assert!(text.starts_with("mf_staff_") && text.len() == "mf_staff_".len() + 43);
    assert_eq!(item["token_prefix"], text[..17], "the first eight characters behind the prefix");
    Token { text, id: item["id"].as_str().unwrap().to_owned() }
}

async fn ask(address: &str, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    let mut connection = Connection::open(address, token).await.unwrap();
    // A key is for one request, whatever it asks for.
    let key = format!("idempotency-key: staff{}\r\n", path.replace('/', "-"));
    connection.json(method, path, &key, body).await.unwrap()
}

#[tokio::test]
async fn each_role_reads_and_only_its_acts_are_taken() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (_, wallet) = up.wallet_with("staff", "1.00").await;
    let none = json!({});
    let tokens = [
        issue(&up, "auditor", none.clone()).await,
        issue(&up, "operator", none.clone()).await,
        issue(&up, "admin", none).await,
    ];
    let mut position = String::new();
    for (power, token) in tokens.iter().enumerate() {
        for path in ["/v1/admin/trial-balance", "/v1/admin/tokens", "/v1/developer/apps", "/v1/apps/app_pub_demo/usage"]
        {
            let answer = ask(&up.address(), &token.text, "GET", path, &Value::Null).await;
            assert_eq!(answer.status, 200, "{path} {answer:?}");
            let shown = String::from_utf8_lossy(&answer.body).into_owned();
            assert!(!shown.contains(&token.text) && !shown.contains("sha256:"), "{path} shows a secret");
        }
        let freeze = json!({ "scope": { "kind": "wallet", "id": wallet }, "reason": "look" });
        let incident =
            json!({ "name": "INC-1", "first": 1, "last": 2, "digest": "5f".repeat(32), "bytes": 3, "reason": "look" });
        let acts = [
            (1, "POST", "/v1/admin/freezes".to_owned(), freeze),
            (1, "POST", "/v1/admin/incidents".to_owned(), incident),
            (2, "POST", format!("/v1/admin/wallets/{wallet}/credit-test-balance"), json!({ "amount_usd": "1" })),
            (2, "PATCH", "/v1/developer/apps/app_pub_demo".to_owned(), json!({ "name": "Renamed" })),
            (3, "POST", "/v1/admin/tokens".to_owned(), json!({ "name": "second person", "role": "admin" })),
        ];
        for (needs, method, path, body) in acts {
            let answer = ask(&up.address(), &token.text, method, &path, &body).await;
            let allowed = power >= needs;
            let right = if allowed { answer.status < 300 || answer.status == 409 } else { answer.status == 403 };
            assert!(right, "{path} with power {power}: {answer:?}");
            if let Some(written) = answer.header("ledger-position") {
                written.clone_into(&mut position);
            }
        }
    }
    // What they did stands under their own names.
    let path = format!("/v1/admin/audit-log?min_position={position}");
    let log = up.as_admin("GET", &path, "", &Value::Null).await.json().to_string();
    assert!(log.contains(&format!("operator:{}", tokens[1].id)) && log.contains(&format!("admin:{}", tokens[2].id)));
}

#[tokio::test]
async fn a_revoked_or_ended_token_is_refused_on_every_process() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let other = up.role("command", "ledger_command");
    let reads = up.role("query", "ledger_query");
    other.wait_until_ready().await;
    reads.wait_until_ready().await;
    let end = json!({ "expires_at": "2020-01-01T00:00:00Z" });
    let ended = issue(&up, "admin", end).await;
    let token = issue(&up, "admin", json!({})).await;
    let look = async |text: &str| {
        let write = json!({ "name": "Dora", "email": "dora@example.com" });
        let mut seen = Vec::new();
        for address in [up.address(), other.address()] {
            seen.push(ask(&address, text, "POST", "/v1/admin/developers", &write).await.status);
        }
        for address in [up.address(), reads.address()] {
            seen.push(ask(&address, text, "GET", "/v1/admin/freezes", &Value::Null).await.status);
        }
        seen
    };
    assert_eq!(look(&ended.text).await, [401; 4]);
    assert_eq!(look(&token.text).await, [201, 201, 200, 200]);
    // Each may give up the own token.
    let gone = ask(&up.address(), &token.text, "DELETE", &format!("/v1/admin/tokens/{}", token.id), &Value::Null).await;
    assert_eq!(gone.status, 200, "{gone:?}");
    let began = Instant::now();
    while look(&token.text).await != [401; 4] {
        assert!(began.elapsed() < Duration::from_secs(30), "it is still good somewhere");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    println!("refused everywhere after {} ms", began.elapsed().as_millis());
    let again = up.as_admin("DELETE", &format!("/v1/admin/tokens/{}", token.id), "", &Value::Null).await;
    assert_eq!((again.status, again.code().as_str()), (404, "token_not_found"));
}

#[tokio::test]
async fn the_command_line_issues_lists_and_revokes() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let url = format!("http://{}", up.address());
    let run = |words: &[&str]| {
        let output = up.run(&[words, &["--url", &url, "--data-dir", "data"]].concat());
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let token = run(&["staff", "issue", "Grace", "--role", "auditor"]);
    assert_eq!(ask(&up.address(), token.trim(), "GET", "/v1/admin/freezes", &Value::Null).await.status, 200);
    let list = run(&["staff", "list"]);
    assert!(list.contains("Grace") && list.contains("auditor") && !list.contains(token.trim()), "{list}");
    let id = list.split_whitespace().next().unwrap().to_owned();
    run(&["staff", "revoke", &id]);
    // The list is a read table, which follows in a moment.
    let began = Instant::now();
    while !run(&["staff", "list"]).contains("revoked") {
        assert!(began.elapsed() < Duration::from_secs(30), "the list does not show it");
    }
}
