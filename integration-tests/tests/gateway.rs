//! Calls through the gateway on a real process. The provider's own book is the truth that the ledger is compared with.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::time::Duration;

use modelfaucet_integration_tests::calls::{
    Booked, Raw, booked, booked_when_ended, charged, chat, compare, provider_book, streamed, usage_of,
};
use modelfaucet_integration_tests::connection::Answer;
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_schema::event::{Anomaly, AttemptError, Event, ReleaseReason, UsageSource};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;
use serde_json::{Value, json};

const CHAT: &str = "/v1/chat/completions";

fn usd(text: &str) -> Money {
    text.parse().unwrap()
}

async fn call(up: &Up, token: &str, body: &Value) -> Answer {
    up.connect(token).await.unwrap().json("POST", CHAT, "", body).await.unwrap()
}

async fn books(up: &Up) -> std::collections::BTreeMap<modelfaucet_schema::ids::HoldId, Booked> {
    booked_when_ended(&up.database("ledger_audit")).await
}

/// The newest call in the books.
async fn last(up: &Up) -> Booked {
    books(up).await.into_values().next_back().unwrap()
}

/// Nothing is held, and every wallet's three figures agree.
async fn check_wallets(up: &Up) {
    let report = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &Value::Null).await.json();
    assert_eq!(report["summary"]["mismatch_count"], 0, "{report}");
}

/// The wallet as of the end of the log.
async fn wallet(up: &Up, token: &str) -> Value {
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT position FROM ledger.head WHERE shard = 0";
    let position: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
    let path = format!("/v1/user/wallet?min_position={position}");
    let answer = up.connect(token).await.unwrap().json("GET", &path, "", &Value::Null).await.unwrap();
    assert_eq!((answer.status, &answer.json()["held_usd"]), (200, &json!("0.00000000")), "nothing stays held");
    answer.json()
}

#[tokio::test]
async fn a_call_is_charged_what_the_provider_bills() {
    use Anomaly::{Missing, PartAboveWhole, ZeroBesideContent};
    use UsageSource::{Estimated, Provider};
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("billed", "10.00").await;
    for (script, source, anomalies) in [
        ("tokens=5", Provider, vec![]),
        ("tokens=7 prompt=40 cached=30 reasoning=2", Provider, vec![]),
        ("usage=beside", Provider, vec![]),
        ("usage=twice", Provider, vec![]),
        ("usage=every", Provider, vec![]),
        ("crlf", Provider, vec![]),
        ("tool_call tokens=9", Provider, vec![]),
        ("served_model=gpt-4o-mini-2024-07-18", Provider, vec![]),
        ("usage=zero empty", Provider, vec![]),
        ("usage=none", Estimated, vec![Missing]),
        ("usage=null", Estimated, vec![Missing]),
        ("usage=zero", Estimated, vec![ZeroBesideContent]),
        ("usage=impossible", Provider, vec![PartAboveWhole]),
    ] {
        for body in [chat(script), streamed(script)] {
            let answer = call(&up, &token, &body).await;
            assert_eq!(answer.status, 200, "{script}: {answer:?}");
            let booked = last(&up).await;
            let outcome = booked.outcome();
            assert_eq!((outcome.source, &outcome.anomalies), (Some(source), &anomalies), "{script}");
            assert_eq!(outcome.attempts.len(), 1);
            let charge = booked.rating().unwrap().charge.to_string();
            if body["stream"] == true {
                let text = String::from_utf8(answer.body).unwrap();
                assert!(text.ends_with("data: [DONE]\n\n"), "{text}");
                assert!(text.contains(&format!("\"estimated_price_usd\":\"{charge}\"")), "{text}");
                assert!(!text.contains("\"usage\":"), "nobody asked for it: {text}");
            } else {
                assert_eq!(answer.header("x-mf-cost"), Some(charge.as_str()));
                assert_eq!(answer.json()["modelfaucet"]["estimated_price_usd"], charge);
            }
            if script == "usage=zero empty" {
                assert_eq!(booked.rating().unwrap().charge, Money::ZERO);
            }
        }
    }
    let books = books(&up).await;
    assert_eq!(compare(&books, &provider_book(&up.provider_book())), 18);
    let spent = usd("10").checked_sub(charged(&books)).unwrap();
    assert_eq!(wallet(&up, &token).await["balance_usd"], spent.to_string());
    check_wallets(&up).await;
}

#[tokio::test]
async fn the_frames_of_a_stream_pass_as_they_are() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("frames", "1.00").await;
    let mut body = streamed("tokens=3");
    body["stream_options"] = json!({ "include_usage": true });
    let text = String::from_utf8(call(&up, &token, &body).await.body).unwrap();
    let chunks: Vec<Value> = text
        .split("\n\n")
        .filter_map(|frame| frame.strip_prefix("data: ").filter(|data| *data != "[DONE]"))
        .map(|data| serde_json::from_str(data).unwrap())
        .collect();
    let content: String = chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(content, "This is a");
    let last = chunks.last().unwrap();
    assert_eq!((&last["choices"], &last["usage"]["completion_tokens"]), (&json!([]), &json!(3)));
    assert_eq!(last["modelfaucet"]["usage_source"], "provider");
    let nulls = chunks.iter().filter(|chunk| chunk.get("usage") == Some(&Value::Null)).count();
    assert_eq!(nulls, chunks.len() - 1, "the client asked, so it sees them");
}

#[tokio::test]
async fn responses_and_embeddings_are_charged_too() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("responses", "1.00").await;
    let mut client = up.connect(&token).await.unwrap();
    let body = json!({ "model": "gpt-4o-mini", "input": "Hello [[tokens=4 reasoning=1]]" });
    let answer = client.json("POST", "/v1/responses", "", &body).await.unwrap();
    assert_eq!((answer.status, &answer.json()["usage"]["output_tokens"]), (200, &json!(4)));
    let mut streaming = body.clone();
    streaming["stream"] = json!(true);
    let answer = client.json("POST", "/v1/responses", "", &streaming).await.unwrap();
    let text = String::from_utf8(answer.body).unwrap();
    let (_, completed) = text.rsplit_once("event: response.completed\ndata: ").unwrap();
    let completed: Value = serde_json::from_str(completed.trim()).unwrap();
    assert_eq!(completed["response"]["usage"]["output_tokens"], 4);
    assert_eq!(completed["modelfaucet"]["route_mode"], "platform");
    let body = json!({ "model": "gpt-4o-mini", "input": ["Hello", "you"] });
    let answer = client.json("POST", "/v1/embeddings", "", &body).await.unwrap();
    assert_eq!((answer.status, &answer.json()["data"][0]["embedding"]), (200, &json!([0.5, -0.25, 0.125])));
    assert_eq!(compare(&books(&up).await, &provider_book(&up.provider_book())), 3);
    let models = client.json("GET", "/v1/models", "", &Value::Null).await.unwrap().json();
    let names: BTreeSet<&str> = models["data"].as_array().unwrap().iter().filter_map(|m| m["id"].as_str()).collect();
    assert!(names.contains("gpt-4o-mini") && names.contains("claude-sonnet-4-5"), "{names:?}");
    assert_eq!(client.json("GET", "/v1/models/gpt-4o", "", &Value::Null).await.unwrap().json()["owned_by"], "openai");
    assert_eq!(client.json("GET", "/v1/models/nothing", "", &Value::Null).await.unwrap().code(), "model_not_found");
    let health = client.json("GET", "/health/providers", "", &Value::Null).await.unwrap().json();
    assert_eq!((&health["ok"], &health["providers"][0]["statusCode"]), (&json!(true), &json!(200)));
}

#[tokio::test]
async fn local_usage_is_recorded_once_and_costs_nothing() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("local", "1.00").await;
    let mut client = up.connect(&token).await.unwrap();
    let report = |tokens: u64| json!({ "request_id": "local-1", "provider": "ollama", "model": "llama3", "input_tokens": 5, "output_tokens": tokens });
    let first = client.json("POST", "/v1/usage/report", "", &report(7)).await.unwrap();
    assert_eq!((first.status, &first.json()["charged_usd"]), (201, &json!("0.00000000")));
    let again = client.json("POST", "/v1/usage/report", "", &report(7)).await.unwrap();
    assert_eq!((&again.body, again.header("idempotent-replayed")), (&first.body, Some("true")));
    let other = client.json("POST", "/v1/usage/report", "", &report(8)).await.unwrap();
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
    let nobody = up.connect("").await.unwrap().json("POST", "/v1/usage/report", "", &report(7)).await.unwrap();
    assert_eq!((nobody.status, nobody.code().as_str()), (401, "invalid_session"));
    for wrong in [
        json!({}),
        json!({ "request_id": "", "provider": "ollama", "model": "m", "input_tokens": 1, "output_tokens": 1 }),
    ] {
        assert_eq!(client.json("POST", "/v1/usage/report", "", &wrong).await.unwrap().status, 400);
    }
    assert_eq!(wallet(&up, &token).await["balance_usd"], "1.00000000");
}

#[tokio::test]
async fn a_provider_that_ignores_the_cap_costs_the_platform_and_not_the_user() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("ignored", "0.001").await;
    let mut body = streamed("tokens=5000 ignore_cap");
    body["max_tokens"] = json!(300);
    assert_eq!(call(&up, &token, &body).await.status, 200);
    let booked = last(&up).await;
    let Event::HoldCaptured(captured) = booked.ending() else { panic!("{booked:?}") };
    assert!(captured.over_hold && captured.rating.unrecovered.is_positive(), "{captured:?}");
    assert_eq!(captured.rating.charge, booked.placed.amount);
    assert!(captured.balance.available() >= Money::ZERO);
    assert_eq!(compare(&books(&up).await, &provider_book(&up.provider_book())), 1);
    check_wallets(&up).await;
}

#[tokio::test]
async fn a_small_wallet_gets_a_shorter_answer_and_an_empty_one_a_refusal() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("small", "0.0003").await;
    let mut body = chat("tokens=2000");
    let answer = call(&up, &token, &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let cap: u64 = answer.header("x-mf-max-tokens").unwrap().parse().unwrap();
    assert_eq!(answer.json()["choices"][0]["finish_reason"], "length");
    assert_eq!(answer.json()["usage"]["completion_tokens"], cap);
    let truth = provider_book(&up.provider_book());
    assert_eq!(truth.values().next().unwrap()[0].cap, Some(cap), "the cap went upstream");
    body["max_tokens"] = json!(4_000);
    let refused = call(&up, &token, &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "insufficient_balance"));
    assert_eq!(refused.header("x-should-retry"), Some("false"));
    assert!(refused.header("x-mf-required").is_some() && refused.header("x-mf-available").is_some());
    assert_eq!(provider_book(&up.provider_book()).len(), 1, "nothing was sent");
    compare(&books(&up).await, &truth);
}

#[tokio::test]
async fn whenever_the_client_leaves_the_whole_answer_is_charged() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("leaver", "5.00").await;
    let mut left = Vec::new();
    for chunks in 0..10 {
        let (address, token) = (up.address(), token.clone());
        left.push(tokio::spawn(async move {
            let mut raw = Raw::send(&address, &token, "", &streamed("tokens=8 delay_ms=200 gap_ms=20")).await;
            if chunks > 0 {
                assert!(raw.read_until("\"content\":", chunks).await);
            } else {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }));
    }
    let mut whole = Raw::send(&up.address(), &token, "", &chat("tokens=8 delay_ms=300")).await;
    assert!(!tokio::time::timeout(Duration::from_millis(150), whole.read_until("HTTP", 1)).await.unwrap_or(false));
    drop(whole);
    for task in left {
        task.await.unwrap();
    }
    let books = books(&up).await;
    assert_eq!(books.len(), 11);
    assert_eq!(compare(&books, &provider_book(&up.provider_book())), 11, "each by the provider's own counts");
    assert!(books.values().all(|call| call.rating().unwrap().usage.output_text == 8));
    let gone = books.values().filter(|call| call.outcome().client_gone).count();
    assert!(gone >= 10, "{gone}");
    check_wallets(&up).await;
}

#[tokio::test]
async fn a_stream_that_stalls_is_cut_and_charged_as_far_as_it_came() {
    if !has_postgres() {
        return;
    }
    let up = Up::start_with_variables(&[("GATEWAY_IDLE_TIMEOUT_MS", "400")]).await;
    let (token, _) = up.wallet_with("stalled", "5.00").await;
    for script in ["tokens=8 stall_after=2", "tokens=8 stall_after=2 comments", "tokens=8 disconnect_after=2"] {
        let answer = call(&up, &token, &streamed(script)).await;
        let text = String::from_utf8(answer.body).unwrap();
        assert_eq!(answer.status, 200);
        assert!(text.contains("\"error\":{\"code\":\"provider_error\"") && !text.contains("[DONE]"), "{text}");
        let booked = last(&up).await;
        let outcome = booked.outcome();
        assert!(outcome.interrupted, "{booked:?}");
        assert_eq!((outcome.source, booked.rating().unwrap().usage.output_text), (Some(UsageSource::Estimated), 2));
    }
    // Before the first token there is nothing to charge, and the failure has a status of its own.
    for (body, status) in [
        (streamed("tokens=8 status=500"), 502),
        (chat("disconnect_after=0"), 502),
        (streamed("tokens=8 disconnect_after=0"), 502),
    ] {
        let answer = call(&up, &token, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, "provider_error"), "{body}");
        assert_eq!(answer.header("x-should-retry"), Some("false"));
        assert!(matches!(last(&up).await.ending(), Event::HoldReleased(_)));
    }
    check_wallets(&up).await;
}

#[tokio::test]
async fn a_repeat_with_the_same_key_gets_the_same_answer_and_costs_nothing() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("repeats", "5.00").await;
    for (key, body) in [("whole-1", chat("tokens=6")), ("stream-1", streamed("tokens=6"))] {
        let header = format!("idempotency-key: {key}\r\n");
        // Fifty at once: one is made, the others are told to wait, or get its answer.
        let at_once = (0..50)
            .map(|_| async { up.connect(&token).await.unwrap().json("POST", CHAT, &header, &body).await.unwrap() });
        let answers = futures_util::future::join_all(at_once).await;
        let good: Vec<_> = answers.iter().filter(|answer| answer.status == 200).collect();
        assert!(answers.iter().all(|answer| answer.status == 200 || answer.code() == "idempotency_in_progress"));
        assert_eq!(good.iter().filter(|answer| answer.header("idempotent-replayed").is_none()).count(), 1);
        let mut client = up.connect(&token).await.unwrap();
        for _ in 0..100 {
            let answer = client.json("POST", CHAT, &header, &body).await.unwrap();
            assert_eq!((answer.status, answer.header("idempotent-replayed")), (200, Some("true")));
            assert_eq!(answer.body, good[0].body);
            assert_eq!(answer.header("content-type"), good[0].header("content-type"));
        }
        let other = client.json("POST", CHAT, &header, &chat("tokens=7")).await.unwrap();
        assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
    }
    // A call that was given back makes room for the next with the same key.
    let header = "idempotency-key: again-1\r\n";
    let mut client = up.connect(&token).await.unwrap();
    let body = chat("tokens=3 status=400 times=1");
    assert_eq!(client.json("POST", CHAT, header, &body).await.unwrap().status, 400);
    assert_eq!(client.json("POST", CHAT, header, &body).await.unwrap().status, 200);
    assert_eq!(client.json("POST", CHAT, header, &body).await.unwrap().header("idempotent-replayed"), Some("true"));
    let books = books(&up).await;
    assert_eq!(books.len(), 4);
    assert_eq!(compare(&books, &provider_book(&up.provider_book())), 3);
    check_wallets(&up).await;
}

#[tokio::test]
async fn an_attempt_that_fails_is_on_the_books_beside_the_one_that_answers() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("attempts", "5.00").await;
    let answer = call(&up, &token, &chat("tokens=5 status=500 times=1 billed")).await;
    assert_eq!((answer.status, answer.header("x-mf-attempts")), (200, Some("2")));
    let booked = last(&up).await;
    let attempts = &booked.outcome().attempts;
    assert_eq!((attempts[0].status, attempts[0].error), (Some(500), Some(AttemptError::Status)));
    assert_eq!((attempts[1].status, attempts[1].error), (Some(200), None));
    let truth = provider_book(&up.provider_book());
    let served = truth.values().next().unwrap();
    assert_eq!(served.len(), 2, "one call, two requests");
    assert_eq!(
        booked.rating().unwrap().usage,
        usage_of(served[1].bill.unwrap()),
        "the user pays for the one that answered"
    );
    assert_eq!(compare(&books(&up).await, &truth), 1);
}

#[tokio::test]
async fn what_fails_is_told_in_openais_shape_and_gives_the_hold_back() {
    if !has_postgres() {
        return;
    }
    let up = Up::start_with_variables(&[("PROVIDER_MAX_RETRIES", "0"), ("PROVIDER_TIMEOUT_MS", "400")]).await;
    let (token, wallet) = up.wallet_with("failures", "5.00").await;
    // A breaker rests the model whose key or patience is used up, so each of these has a model of its own.
    let mut models = ["gpt-4o", "gpt-4.1", "gpt-4.1-mini"].iter();
    for (script, status, code, reason) in [
        ("status=400", 400, "invalid_request", ReleaseReason::Rejected),
        ("status=404", 404, "model_not_found", ReleaseReason::Rejected),
        ("status=422", 422, "invalid_request", ReleaseReason::Rejected),
        ("status=401", 502, "provider_auth_failed", ReleaseReason::Rejected),
        ("status=403", 502, "provider_auth_failed", ReleaseReason::Rejected),
        ("status=429 retry_after=9", 503, "provider_overloaded", ReleaseReason::Rejected),
        ("status=529", 503, "provider_overloaded", ReleaseReason::Rejected),
        ("status=500", 502, "provider_error", ReleaseReason::Failed),
        ("status=504", 504, "provider_error", ReleaseReason::Failed),
        ("delay_ms=2000", 504, "provider_error", ReleaseReason::TimedOut),
    ] {
        let mut body = chat(script);
        if ["401", "403", "429"].iter().any(|status| script.contains(status)) {
            body["model"] = json!(models.next().unwrap());
        }
        let answer = call(&up, &token, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{script}");
        assert_eq!(answer.json()["error"]["request_id"].as_str(), answer.header("x-request-id"), "{script}");
        if script.contains("retry_after") {
            assert_eq!(answer.header("retry-after"), Some("9"));
        }
        let Event::HoldReleased(released) = last(&up).await.ending().clone() else { panic!("{script}") };
        assert_eq!(released.reason, reason, "{script}");
    }
    let mut resting = chat("tokens=1");
    resting["model"] = json!("gpt-4o");
    let before = booked(&up.database("ledger_audit")).await.len();
    let answer = call(&up, &token, &resting).await;
    assert_eq!((answer.status, answer.code().as_str()), (503, "provider_overloaded"));
    assert!(answer.header("retry-after").is_some());
    // Refused before the hold: nothing is recorded, nothing is sent.
    let with = |name: &str, value: Value| {
        let mut body = chat("tokens=1");
        body[name] = value;
        body
    };
    let unknown = "mf_sess_unknown".to_owned();
    for (who, body, status, code) in [
        (&unknown, chat("tokens=1"), 401, "invalid_session"),
        (&up.admin(), chat("tokens=1"), 401, "invalid_session"),
        (&String::new(), chat("tokens=1"), 401, "invalid_session"),
        (&token, with("model", json!("no-such-model")), 404, "model_not_found"),
        (&token, with("model", json!("auto:customer_reply")), 404, "model_not_found"),
        (&token, with("metadata", json!({ "feature_key": "no-such-feature" })), 404, "feature_not_found"),
        (&token, with("metadata", json!({ "route_mode": "byok" })), 400, "no_available_route"),
        (&token, with("api_base", json!("http://127.0.0.1:1")), 400, "unsupported_parameter"),
        (&token, with("mock_response", json!("free")), 400, "unsupported_parameter"),
        (&token, with("messages", json!("Hi")), 400, "invalid_request"),
        (&token, with("service_tier", json!("scale")), 400, "unsupported_parameter"),
        (&token, with("service_tier", json!("priority")), 404, "model_not_priced"),
        (&token, json!([]), 400, "invalid_request"),
    ] {
        let answer = call(&up, who, &body).await;
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{body}");
    }
    let mut client = up.connect(&token).await.unwrap();
    let wrong = client.send("POST", CHAT, "", "text/plain", b"{}").await.unwrap();
    assert_eq!((wrong.status, wrong.code().as_str()), (415, "unsupported_media_type"));
    assert_eq!(booked(&up.database("ledger_audit")).await.len(), before);
    compare(&books(&up).await, &provider_book(&up.provider_book()));
    let freeze = json!({ "scope": { "kind": "wallet", "id": wallet }, "reason": "test" });
    let frozen = up.as_admin("POST", "/v1/admin/freezes", "idempotency-key: f1\r\n", &freeze).await;
    assert!(frozen.status < 300, "{frozen:?}");
    let answer = call(&up, &token, &chat("tokens=1")).await;
    assert_eq!(
        (answer.status, answer.code().as_str(), answer.header("x-should-retry")),
        (503, "frozen", Some("false"))
    );
}

#[tokio::test]
async fn nobody_can_end_the_hold_of_a_call_but_the_gateway() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("thief", "5.00").await;
    let slow = Raw::send(&up.address(), &token, "", &chat("tokens=5 delay_ms=1500")).await;
    let database = up.database("ledger_audit");
    let hold = loop {
        if let Some(hold) = booked(&database).await.into_keys().next() {
            break hold;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    };
    let developer = up.secret("developer_token");
    for thief in [&token, &developer] {
        let mut client = up.connect(thief).await.unwrap();
        let release = format!("/v1/usage/holds/{hold}/release");
        assert_eq!(client.json("POST", &release, "", &json!({})).await.unwrap().code(), "hold_not_found");
        let capture = format!("/v1/usage/holds/{hold}/capture");
        let free = json!({ "usage": { "output_text": 0 } });
        assert_eq!(client.json("POST", &capture, "", &free).await.unwrap().code(), "hold_not_found");
    }
    assert!(slow.rest().await.starts_with("HTTP/1.1 200"));
    assert_eq!(compare(&books(&up).await, &provider_book(&up.provider_book())), 1);
}

/// Many calls of every kind at once; then no hold is open and nothing is held.
#[tokio::test]
async fn after_many_mixed_calls_nothing_is_held() {
    if !has_postgres() {
        return;
    }
    let settings = [
        ("GATEWAY_IDLE_TIMEOUT_MS", "300"),
        ("PROVIDER_RETRY_DELAY_MS", "5"),
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0"),
    ];
    let up = Up::start_with_variables(&settings).await;
    let (token, _) = up.wallet_with("mixed", "5000.00").await;
    let calls: usize =
        std::env::var("MODELFAUCET_MIXED_CALLS").ok().and_then(|calls| calls.parse().ok()).unwrap_or(480);
    let scripts = [
        "tokens=3",
        "tokens=9 gap_ms=2",
        "usage=none",
        "usage=zero",
        "usage=twice",
        "status=500",
        "status=429",
        "status=400",
        "tokens=4 stall_after=1",
        "tokens=4 disconnect_after=2",
        "empty usage=zero",
        "usage=every",
    ];
    let clients = (0..24).map(|client| {
        let (address, token) = (up.address(), token.clone());
        tokio::spawn(async move {
            for turn in 0..calls / 24 {
                let number = client * 31 + turn * 7;
                let script = scripts[number % scripts.len()];
                let body = if number % 2 == 0 { chat(script) } else { streamed(script) };
                let mut raw = Raw::send(&address, &token, "", &body).await;
                if number % 5 == 0 {
                    let _cut = tokio::time::timeout(Duration::from_millis(10), raw.read_until("content", 1)).await;
                } else {
                    raw.rest().await;
                }
            }
        })
    });
    for client in clients.collect::<Vec<_>>() {
        client.await.unwrap();
    }
    let books = books(&up).await;
    let truth = provider_book(&up.provider_book());
    let exact = compare(&books, &truth);
    // Almost all were calls: few clients left before theirs was taken, and nobody was told to come back later.
    assert!(books.len() > calls / 10 * 9 && exact > calls / 5, "{exact} of {} of {calls}", books.len());
    let spent = usd("5000").checked_sub(charged(&books)).unwrap();
    assert_eq!(wallet(&up, &token).await["balance_usd"], spent.to_string());
    check_wallets(&up).await;
    let demanded = "errors, stalls, missing and doubled usage, clients that leave: each call has one ending, charged as the provider \
                    bills, nothing stays held, no whole answer is free";
    let injected = books.len() as u64;
    // Nothing that was delivered was free.
    for call in books.values() {
        let served = &truth.get(&modelfaucet_integration_tests::calls::label(call.placed.hold_id));
        let complete = served.is_some_and(|served| served.iter().any(|served| served.end == "complete"));
        let billed =
            served.is_some_and(|served| served.iter().any(|s| s.bill.is_some_and(|bill| bill[3] + bill[2] > 0)));
        let free = call.rating().is_none_or(|rating| rating.usage == Usage::default());
        assert!(!(complete && billed && free), "a whole answer was free: {call:?} {served:?}");
    }
    report::fault("F21", &Figures { injected, recoveries: &[], demanded, invariants: &["I5", "I10", "I12"] });
}
