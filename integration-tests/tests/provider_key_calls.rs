//! Calls with keys of users and developers on real processes: who pays whom, budgets under many calls at once, fallbacks, a rotation
//! under load; and no key in clear anywhere.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use modelfaucet_integration_tests::calls::{booked_when_ended, chat, streamed};
use modelfaucet_integration_tests::connection::Answer;
use modelfaucet_integration_tests::process::{Up, free_port, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_schema::event::{Event, Route};
use modelfaucet_schema::ids::HoldId;
use modelfaucet_schema::money::Money;
use serde_json::{Value, json};

/// Part of every key of these tests; it must not be found anywhere.
const CANARY: &str = "cAnArY0123456789";

async fn ask(up: &Up, token: &str, method: &str, path: &str, body: &Value) -> Answer {
    up.connect(token).await.unwrap().json(method, path, "", body).await.unwrap()
}

async fn call(up: &Up, token: &str, body: &Value) -> Answer {
    ask(up, token, "POST", "/v1/chat/completions", body).await
}

fn on(mode: &str, mut body: Value) -> Value {
    body["metadata"] = json!({ "route_mode": mode });
    body
}

/// Requests that a provider saw on its own port: they carry no label of ours.
fn seen(provider: &Provider) -> usize {
    provider.book().get("").map_or(0, Vec::len)
}

async fn up_with(addresses: &[&str]) -> Up {
    Up::start_with_variables(&[("PROVIDER_URL_LOOPBACK", &addresses.join(","))]).await
}

fn address(provider: &Provider) -> String {
    provider.url().trim_start_matches("http://").to_owned()
}

fn key(url: &str) -> Value {
    json!({ "provider": "openai", "api_key": format!("sk-{CANARY}"), "base_url": format!("{url}/v1") })
}

fn with(mut body: Value, name: &str, value: Value) -> Value {
    body[name] = value;
    body
}

async fn add(up: &Up, token: &str, body: &Value) -> String {
    let path = if body["public_app_id"].is_string() { "/v1/developer/provider-keys" } else { "/v1/user/provider-keys" };
    let answer = ask(up, token, "POST", path, body).await;
    assert_eq!(answer.status, 201, "{answer:?}");
    answer.json()["id"].as_str().unwrap().to_owned()
}

/// Everything in the books balances, and nothing is held.
async fn check_books(up: &Up) {
    let report = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &Value::Null).await.json();
    assert_eq!(report["summary"]["mismatch_count"], 0, "{report}");
    let verified = up.run(&["verify", "--data-dir", "data"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_owns_the_key_decides_who_pays_whom() {
    if !has_postgres() {
        return;
    }
    let own = Provider::start().await;
    let mut up = up_with(&[&address(&own)]).await;
    let (session, _) = up.wallet_with("keys-1", "5.00").await;
    let developer = up.secret("developer_token");
    let users = add(&up, &session, &key(&own.url())).await;
    add(&up, &developer, &with(key(&own.url()), "public_app_id", json!("app_pub_demo"))).await;

    let answer = call(&up, &session, &on("byok", chat("tokens=7"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    assert_eq!(answer.json()["modelfaucet"]["route_mode"], "byok");
    assert_eq!(
        (seen(&own), answer.header("x-mf-balance")),
        (1, Some("5.00000000")),
        "the user's provider is the user's matter"
    );
    let stream = call(&up, &session, &on("byok", streamed("tokens=7"))).await;
    assert!(stream.status == 200 && String::from_utf8_lossy(&stream.body).contains("[DONE]"));

    let answer = call(&up, &session, &on("developer_key", chat("tokens=7"))).await;
    assert_eq!((answer.status, seen(&own)), (200, 3), "{answer:?}");
    let charged: Money = answer.json()["modelfaucet"]["estimated_price_usd"].as_str().unwrap().parse().unwrap();
    assert!(charged > Money::ZERO);
    assert_eq!(call(&up, &session, &chat("tokens=7")).await.status, 200, "the platform's own calls go elsewhere");
    assert_eq!(seen(&own), 3);

    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let routes: Vec<Route> = books.values().map(|call| call.placed.call.route).collect();
    assert_eq!(routes, [Route::Byok, Route::Byok, Route::DeveloperKey, Route::Platform]);
    let Event::HoldCaptured(captured) = books.values().nth(2).unwrap().ending() else { panic!("a capture") };
    let owed: BTreeMap<&str, i64> =
        captured.entry.postings().iter().map(|line| (line.account.code().digits(), line.amount.units())).collect();
    let (upstream, share) = (captured.rating.upstream.units(), captured.rating.developer.units());
    assert_eq!(owed["2210"], -(upstream + share), "the cost is owed to the developer, whose key paid");
    assert!(!owed.contains_key("2110"), "and not to the provider");

    // After a start anew the keys are known and open.
    up.stop();
    up.start_again();
    up.wait_until_ready(Duration::from_secs(60)).await;
    assert_eq!(call(&up, &session, &on("byok", chat("tokens=3"))).await.status, 200);
    let path = format!("/v1/user/provider-keys/{users}");
    assert_eq!(ask(&up, &session, "DELETE", &path, &Value::Null).await.status, 200);
    let gone = call(&up, &session, &on("byok", chat("tokens=3"))).await;
    assert_eq!((gone.status, gone.code()), (400, "no_available_route".to_owned()));
    check_books(&up).await;
    assert!(!up.log().contains(CANARY));
    let events: Vec<String> = {
        let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let rows = client.query("SELECT convert_from(payload, 'UTF8') FROM ledger.event", &[]).await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    };
    assert!(!events.is_empty() && events.iter().all(|event| !event.contains(CANARY)));
}

#[tokio::test(flavor = "multi_thread")]
async fn many_calls_at_once_do_not_pass_a_budget() {
    if !has_postgres() {
        return;
    }
    let own = Provider::start().await;
    let up = up_with(&[&address(&own)]).await;
    let (session, _) = up.wallet_with("keys-1", "5.00").await;
    // What one call sets aside at gpt-4o-mini's price: its bound of input, and a hundred tokens of output.
    let body = on("byok", with(chat("tokens=100 delay_ms=500"), "max_tokens", json!(100)));
    let probe = add(&up, &session, &with(key(&own.url()), "budget_limit_usd", json!("0"))).await;
    let refused = call(&up, &session, &body).await;
    assert_eq!((refused.status, refused.code()), (402, "budget_exceeded".to_owned()), "{refused:?}");
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    let message = refused.json()["error"]["message"].as_str().unwrap().to_owned();
    let required: Money = message.split(' ').rev().find_map(|word| word.parse().ok()).unwrap();
    ask(&up, &session, "DELETE", &format!("/v1/user/provider-keys/{probe}"), &Value::Null).await;

    let limit = Money::from_units(required.units() * 5 + required.units() / 2);
    add(&up, &session, &with(key(&own.url()), "budget_limit_usd", json!(limit))).await;
    let calls = (0..40).map(|_| call(&up, &session, &body));
    let answers = futures_util::future::join_all(calls).await;
    let admitted = answers.iter().filter(|answer| answer.status == 200).count();
    assert!(answers.iter().all(|answer| answer.status == 200 || answer.code() == "budget_exceeded"), "{answers:?}");
    assert_eq!((admitted, seen(&own)), (5, 5));

    // A feature's budget, on the platform's route: what users are charged.
    let path = "/v1/developer/apps/app_pub_demo/features/customer_reply";
    let wrong = up.as_admin("PATCH", path, "", &json!({ "policy": { "budget_limit_usd": 1 } })).await;
    assert_eq!((wrong.status, wrong.code()), (400, "invalid_request".to_owned()));
    let policy = json!({ "policy": { "budget_limit_usd": "0.00100000", "clamp": "refuse" } });
    assert_eq!(up.as_admin("PATCH", path, "", &policy).await.status, 200);
    let body = with(chat("tokens=400 delay_ms=300"), "max_tokens", json!(400));
    let answers = futures_util::future::join_all((0..20).map(|_| call(&up, &session, &body))).await;
    assert!(answers.iter().any(|answer| answer.code() == "budget_exceeded"), "{answers:?}");
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let charged =
        |call: &modelfaucet_integration_tests::calls::Booked| call.rating().map_or(0, |rating| rating.charge.units());
    let spent: i64 = books.values().map(charged).sum();
    assert!(spent > 0 && spent <= 100_000, "{spent} units of a budget of 100000");
    check_books(&up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_platform_answers_for_a_key_only_where_its_owner_or_the_feature_allows() {
    if !has_postgres() {
        return;
    }
    let nobody = format!("127.0.0.1:{}", free_port());
    let up = up_with(&[&nobody]).await;
    let (session, _) = up.wallet_with("keys-1", "5.00").await;
    let url = format!("http://{nobody}");
    add(&up, &session, &key(&url)).await;
    let failed = call(&up, &session, &on("byok", chat("tokens=3"))).await;
    assert_eq!((failed.status, failed.code()), (502, "provider_error".to_owned()));
    add(&up, &session, &with(key(&url), "fallback_to_platform", json!(true))).await;
    let answer = call(&up, &session, &on("byok", chat("tokens=3"))).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let last = books.values().next_back().unwrap();
    let started = last.started.last().unwrap();
    assert_eq!((started.call.route, started.credential), (Route::Platform, None));
    assert!(last.rating().unwrap().charge > Money::ZERO, "the platform's price is paid");
    let left: Money = answer.header("x-mf-balance").unwrap().parse().unwrap();
    assert!(left < "5".parse().unwrap(), "from what was there before the key failed");
    // The platform's own route is as good as ever.
    assert_eq!(call(&up, &session, &chat("tokens=3")).await.status, 200);
    check_books(&up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_sealed_anew_under_load_without_a_failed_call() {
    if !has_postgres() {
        return;
    }
    let own = Provider::start().await;
    let mut up = up_with(&[&address(&own)]).await;
    let mut sessions = Vec::new();
    for user in 0..20 {
        let (session, _) = up.open_session(&format!("keys-{user}")).await;
        add(&up, &session, &key(&own.url())).await;
        sessions.push(session);
    }
    assert!(up.run(&["keys", "add", "--data-dir", "data"]).status.success());
    up.stop();
    up.start_again();
    up.wait_until_ready(Duration::from_secs(60)).await;
    let calls = async {
        let mut answered = 0;
        let body = on("byok", chat("tokens=2"));
        for round in 0..10 {
            let all = sessions.iter().map(|session| call(&up, session, &body));
            for answer in futures_util::future::join_all(all).await {
                assert_eq!(answer.status, 200, "round {round}: {answer:?}");
                answered += 1;
            }
        }
        answered
    };
    let rotate = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        tokio::task::block_in_place(|| up.run(&["keys", "rotate", "--data-dir", "data", "--quiet"]))
    };
    let (answered, rotated) = tokio::join!(calls, rotate);
    assert_eq!((answered, seen(&own)), (200, 200));
    let said = String::from_utf8_lossy(&rotated.stdout);
    assert!(rotated.status.success() && said.starts_with("20 provider keys are sealed under key 2 now"), "{said}");
    assert_eq!(call(&up, &sessions[0], &on("byok", chat("tokens=2"))).await.status, 200);
    let books: BTreeMap<HoldId, _> = booked_when_ended(&up.database("ledger_audit")).await;
    assert_eq!(books.len(), 201);
}
