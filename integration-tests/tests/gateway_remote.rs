//! Gateways without a database: their command side is another process, over HTTP. Whatever dies, every hold ends once and nothing that a
//! client has read to its end is free.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use modelfaucet_integration_tests::calls::{Raw, booked, booked_when_ended, chat, check_read, compare, streamed};
use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::judge::audit;
use modelfaucet_integration_tests::process::{Role, Setting, Up, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_integration_tests::traffic::Dice;
use modelfaucet_schema::event::{Event, ReleaseReason};
use serde_json::{Value, json};

const TOKEN: &str = "a-token-of-gateways-0123456789abcdef";
const KEY: &str = "a-key-of-kept-answers-0123456789abcdef";
const CHAT: &str = "/v1/chat/completions";

fn gateway(up: &Up, dir: &'static str, command: &str, provider: &Provider) -> Role {
    let settings = [
        ("COMMAND_URL", format!("http://{command}")),
        ("GATEWAY_TOKEN", TOKEN.to_owned()),
        ("GATEWAY_ANSWERS_KEY", KEY.to_owned()),
        ("LITELLM_BASE_URL", provider.url()),
        ("GATEWAY_TAKEOVER_MS", "1500".to_owned()),
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0".to_owned()),
    ];
    up.bare_role(&["gateway", "--data-dir", dir], &settings)
}

async fn post(
    address: &str,
    token: &str,
    headers: &str,
    body: &Value,
) -> modelfaucet_integration_tests::connection::Answer {
    let mut client = Connection::open(address, token).await.unwrap();
    client.json("POST", CHAT, headers, body).await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_gateway_without_a_database_does_all_that_one_with_a_writer_does() {
    if !has_postgres() {
        return;
    }
    let provider = Provider::start().await;
    let url = provider.url();
    let settings = [
        ("LITELLM_BASE_URL", url.as_str()),
        ("GATEWAY_TOKEN", TOKEN),
        ("GATEWAY_ANSWERS_KEY", KEY),
        ("GATEWAY_TAKEOVER_MS", "1500"),
    ];
    let mut up = Up::start_with_variables(&settings).await;
    let mut remote = gateway(&up, "remote", &up.address(), &provider);
    remote.wait_until_ready().await;
    // A session that is opened after the start, and used at once.
    let (token, _) = up.wallet_with("remote", "5.00").await;
    let whole = post(&remote.address(), &token, "", &chat("tokens=7")).await;
    assert_eq!(whole.status, 200, "{whole:?}");
    assert_eq!(whole.header("x-mf-balance").map(str::len), Some("4.99999999".len()));
    let stream = post(&remote.address(), &token, "", &streamed("tokens=7")).await;
    assert!(stream.body.ends_with(b"data: [DONE]\n\n"));
    // Refusals of the command side arrive as they are.
    let (poor, _) = up.wallet_with("poor", "0.00000001").await;
    let refused = post(&remote.address(), &poor, "", &chat("tokens=7")).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "insufficient_balance"));
    assert!(refused.header("x-mf-required").is_some());
    let report =
        json!({ "request_id": "r1", "provider": "ollama", "model": "m", "input_tokens": 1, "output_tokens": 1 });
    let mut client = Connection::open(&remote.address(), &token).await.unwrap();
    assert_eq!(client.json("POST", "/v1/usage/report", "", &report).await.unwrap().status, 201);
    assert_eq!(client.json("GET", "/v1/models", "", &json!(null)).await.unwrap().status, 200);
    assert_eq!(post(&remote.address(), "mf_sess_unknown", "", &chat("tokens=1")).await.code(), "invalid_session");
    // A key is good at every gateway, and after the death of the one that made the call.
    let key = "idempotency-key: one\r\n";
    let first = post(&remote.address(), &token, key, &streamed("tokens=9")).await;
    remote.kill().unwrap();
    let elsewhere = post(&up.address(), &token, key, &streamed("tokens=9")).await;
    assert_eq!((elsewhere.header("idempotent-replayed"), &elsewhere.body), (Some("true"), &first.body));
    remote.start_again();
    remote.wait_until_ready().await;
    let again = post(&remote.address(), &token, key, &streamed("tokens=9")).await;
    assert_eq!((again.header("idempotent-replayed"), &again.body), (Some("true"), &first.body));
    assert_eq!(post(&remote.address(), &token, key, &chat("tokens=2")).await.code(), "idempotency_key_reused");
    // The command side is away: nothing is sent, and the gateway says so; then it is back by itself.
    let calls = provider.book().len();
    up.kill();
    let began = Instant::now();
    let mut probe = Connection::open(&remote.address(), "").await.unwrap();
    while probe.json("GET", "/ready", "", &json!(null)).await.unwrap().status == 200 {
        assert!(began.elapsed() < Duration::from_secs(60));
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let away = probe.json("GET", "/ready", "", &json!(null)).await.unwrap().json();
    assert_eq!(away["checks"]["rate_card"], "ok");
    assert!(away["checks"]["command"] != "ok" && away["checks"]["feed"] != "ok", "{away}");
    let refused = post(&remote.address(), &token, "", &chat("tokens=7")).await;
    assert_eq!((refused.status, refused.code().as_str()), (503, "ledger_unavailable"));
    let unknown = post(&remote.address(), "mf_sess_unknown", "", &chat("tokens=7")).await;
    assert_eq!((unknown.status, unknown.code().as_str()), (503, "ledger_unavailable"), "nobody can know");
    assert_eq!(provider.book().len(), calls);
    up.start_again();
    up.wait_until_ready(Duration::from_secs(60)).await;
    remote.wait_until_ready().await;
    assert_eq!(post(&remote.address(), &token, "", &chat("tokens=7")).await.status, 200);
    // One that stays away is ended by the command side, which hears nothing of it any more.
    let mut lost = Raw::send(&remote.address(), &token, "", &chat("tokens=5 delay_ms=20000")).await;
    let calls = provider.book().len();
    while provider.book().len() == calls {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    remote.kill().unwrap();
    assert!(!lost.read_until("HTTP", 1).await);
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let absorbed = |call: &&modelfaucet_integration_tests::calls::Booked| matches!(call.ending(), Event::HoldReleased(released) if released.reason == ReleaseReason::Absorbed);
    assert_eq!(books.values().filter(absorbed).count(), 1);
    compare(&books, &provider.book());
    // Nobody speaks for a gateway but who has its token.
    for (token, status) in [("", 401), (token.as_str(), 401), (up.admin().as_str(), 401), (TOKEN, 200)] {
        let mut client = up.connect(token).await.unwrap();
        let alive = json!({ "gateway": "0193a1b2-0000-7000-8000-000000000001" });
        assert_eq!(client.json("POST", "/v1/gateway/alive", "", &alive).await.unwrap().status, status);
    }
}

#[tokio::test]
async fn the_log_is_read_in_order_by_whoever_may() {
    if !has_postgres() {
        return;
    }
    let up = Up::start_with_variables(&[("GATEWAY_TOKEN", TOKEN)]).await;
    let (token, _) = up.wallet_with("feed", "5.00").await;
    for _ in 0..5 {
        assert_eq!(post(&up.address(), &token, "", &chat("tokens=2")).await.status, 200);
    }
    let mut reader = up.connect(TOKEN).await.unwrap();
    let (mut after, mut positions, mut kinds) = (0, Vec::new(), Vec::new());
    loop {
        let page = reader.json("GET", &format!("/v1/log?after={after}&limit=4"), "", &json!(null)).await.unwrap();
        assert_eq!(page.status, 200, "{page:?}");
        let page = page.json();
        for event in page["events"].as_array().unwrap() {
            positions.push(event["position"].as_i64().unwrap());
            kinds.push(event["type"].as_str().unwrap().to_owned());
            assert!(event["payload"].is_object() && event["recorded_at"].as_str().unwrap().ends_with('Z'));
        }
        after = page["next"].as_i64().unwrap();
        if after == page["head"]["position"].as_i64().unwrap() {
            assert_eq!(page["head"]["hash"].as_str().map(str::len), Some(64));
            break;
        }
    }
    assert_eq!(positions, (1..=after).collect::<Vec<_>>(), "every event, once, in order");
    assert_eq!(kinds.iter().filter(|kind| *kind == "HoldCaptured").count(), 5);
    let only = reader.json("GET", "/v1/log?types=HoldPlaced,HoldCaptured", "", &json!(null)).await.unwrap().json();
    assert_eq!((only["events"].as_array().unwrap().len(), only["next"].as_i64()), (10, Some(after)));
    let but = reader.json("GET", "/v1/log?except=HoldPlaced,HoldCaptured", "", &json!(null)).await.unwrap().json();
    assert_eq!(but["events"].as_array().unwrap().len() + 10, positions.len());
    // At the end it waits for news.
    let waiting = tokio::spawn(async move {
        let path = format!("/v1/log?after={after}&wait_ms=20000");
        reader.json("GET", &path, "", &json!(null)).await.unwrap().json()
    });
    up.open_session("news").await;
    let news = waiting.await.unwrap();
    assert_eq!(news["events"][0]["position"].as_i64(), Some(after + 1));
    let mut admin = up.connect(&up.admin()).await.unwrap();
    for (query, status, param) in [
        ("after=0", 200, None),
        ("shard=1", 404, Some("shard")),
        ("after=-1", 400, Some("after")),
        ("limit=0", 400, Some("limit")),
        ("wait_ms=20001", 400, Some("wait_ms")),
        ("types=Nothing", 400, Some("types")),
        ("except=", 400, Some("except")),
        ("unknown=1", 400, None),
    ] {
        let answer = admin.json("GET", &format!("/v1/log?{query}"), "", &json!(null)).await.unwrap();
        assert_eq!(answer.status, status, "{query}: {answer:?}");
        assert_eq!(answer.json()["error"]["param"].as_str(), param, "{query}");
    }
    for nobody in ["", &token, &up.secret("developer_token")] {
        let mut nobody = up.connect(nobody).await.unwrap();
        assert_eq!(nobody.json("GET", "/v1/log", "", &json!(null)).await.unwrap().status, 401);
    }
}

/// Command, query, projector and two gateways, each in a process of its own; any of them may die at any time.
#[tokio::test(flavor = "multi_thread")]
async fn any_process_may_die_and_every_hold_ends_once() {
    let Some(database) = TestDatabase::durable().await else { return };
    let provider = Provider::start().await;
    // `up` sets up the database and a wallet, and leaves.
    let setting = Setting { database: Some(database.superuser()), ..Setting::default() };
    let mut up = Up::start_with(setting).await;
    let (token, _) = up.wallet_with("crowd", "50.00").await;
    up.stop();
    let settings = [("GATEWAY_TOKEN", TOKEN), ("GATEWAY_TAKEOVER_MS", "1500")];
    let command = up.role_with(&["command"], "ledger_command", &settings);
    command.wait_until_ready().await;
    let address = command.address();
    let mut roles = [
        command,
        up.role("query", "ledger_query"),
        up.role("projector", "ledger_projector"),
        gateway(&up, "one", &address, &provider),
        gateway(&up, "two", &address, &provider),
    ];
    for role in &roles {
        role.wait_until_ready().await;
    }
    let gateways = [roles[3].address(), roles[4].address()];
    let deaths = std::env::var("MODELFAUCET_DEATHS").ok().and_then(|deaths| deaths.parse().ok()).unwrap_or(2);
    let mut victims = [0, 0, 1, 2, 3, 3, 4, 4].repeat(deaths);
    let mut dice = Dice::of_run();
    dice.shuffle(&mut victims);
    let stop = std::sync::Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..8_usize)
        .map(|client| {
            let (address, token, stop) = (gateways[client % 2].clone(), token.clone(), stop.clone());
            tokio::spawn(async move {
                let (mut answers, mut turn) = (Vec::new(), client);
                while !stop.load(std::sync::atomic::Ordering::SeqCst) {
                    turn += 1;
                    let script = format!("tokens={} delay_ms={} gap_ms={}", 3 + turn % 9, turn % 5 * 20, turn % 3 * 10);
                    let body = if turn % 2 == 0 { chat(&script) } else { streamed(&script) };
                    match Raw::try_send(&address, &token, "", &body).await {
                        Ok(raw) => answers.push(raw.rest().await),
                        Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
                    }
                }
                answers
            })
        })
        .collect();
    for victim in victims {
        tokio::time::sleep(Duration::from_millis(dice.between(150, 900))).await;
        roles[victim].kill().unwrap();
        // A gateway now and then stays away so long that its calls are ended for it.
        if victim > 2 && dice.between(0, 3) == 0 {
            tokio::time::sleep(Duration::from_millis(3_500)).await;
        }
        roles[victim].start_again();
        roles[victim].wait_until_ready().await;
    }
    for role in &roles {
        role.wait_until_ready().await;
    }
    tokio::time::sleep(Duration::from_millis(500)).await;
    stop.store(true, std::sync::atomic::Ordering::SeqCst);
    let mut answers = Vec::new();
    for client in clients {
        answers.extend(client.await.unwrap());
    }
    let auditor = up.database("ledger_audit");
    let books = booked_when_ended(&auditor).await;
    check_read(&answers, &books);
    compare(&books, &provider.book());
    let good = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    assert!(good > 50, "{good} of {}", answers.len());
    assert!(booked(&auditor).await.values().all(|call| call.endings.len() == 1));
    audit(&auditor, &roles[1].address(), &up.admin()).await;
}
