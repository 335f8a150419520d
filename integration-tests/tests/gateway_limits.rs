//! What a gateway does not let through: too many tokens, too many requests of one address, too many streams, too much in memory.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use modelfaucet_integration_tests::calls::{Raw, booked_when_ended, chat, compare, provider_book, streamed};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use serde_json::json;

/// Tokens count by the bound when a call begins and by what it used when it has ended; a browser's page is told all of it.
#[tokio::test]
async fn a_session_has_its_tokens_and_an_address_its_requests() {
    if !has_postgres() {
        return;
    }
    let settings = [
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0"),
        ("GATEWAY_RATE_LIMIT_MAX_TOKENS", "10000"),
        ("GATEWAY_RATE_LIMIT_WINDOW_MS", "3600000"),
        ("GATEWAY_RATE_LIMIT_ADDRESS_REQUESTS", "6"),
        ("TRUSTED_PROXIES", "127.0.0.1/32"),
        ("GATEWAY_CORS_ORIGINS", "https://app.test"),
    ];
    let up = Up::start_with_variables(&settings).await;
    let (token, _) = up.wallet_with("tokens", "5.00").await;
    let mut client = up.connect(&token).await.unwrap();
    let from = "x-forwarded-for: 198.51.100.7\r\norigin: https://app.test\r\n";
    let mut body = chat("tokens=10");
    body["max_tokens"] = json!(3_000);
    let mut left = 10_000;
    for _ in 0..3 {
        let answer = client.json("POST", "/v1/chat/completions", from, &body).await.unwrap();
        assert_eq!(answer.status, 200, "{answer:?}");
        assert_eq!(answer.header("access-control-allow-origin"), Some("https://app.test"));
        assert_eq!(answer.header("x-ratelimit-limit-tokens"), Some("10000"));
        // When it began, its bound was taken; the one before has given back what it did not use.
        let remaining: i64 = answer.header("x-ratelimit-remaining-tokens").unwrap().parse().unwrap();
        assert!((left - 3_600..=left - 3_000).contains(&remaining), "{remaining} of {left}");
        let usage = &answer.json()["usage"];
        left -= usage["total_tokens"].as_i64().unwrap();
    }
    body["max_tokens"] = json!(9_999);
    let refused = client.json("POST", "/v1/chat/completions", from, &body).await.unwrap();
    assert_eq!((refused.status, refused.code().as_str()), (429, "rate_limited"));
    assert_eq!(refused.json()["error"]["type"], "tokens");
    assert!(refused.header("retry-after").is_some() && refused.header("retry-after-ms").is_some());
    assert!(refused.header("x-ratelimit-reset-tokens").is_some());
    // Before anybody asks who it is: the address has had its six, with any token or none.
    let mut nobody = up.connect("").await.unwrap();
    for status in [401, 401, 429, 429] {
        let answer = nobody.json("POST", "/v1/chat/completions", from, &body).await.unwrap();
        assert_eq!(answer.status, status, "{answer:?}");
    }
    let elsewhere = client.json("GET", "/v1/models", "x-forwarded-for: 198.51.100.8\r\n", &json!(null)).await.unwrap();
    assert_eq!(elsewhere.status, 200);
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    assert_eq!(books.len(), 3, "what is refused leaves no event");
}

/// Sends a call until it is answered with this status.
async fn call_until(up: &Up, token: &str, status: &str) -> String {
    let began = Instant::now();
    loop {
        let answer = Raw::send(&up.address(), token, "", &chat("tokens=2")).await.rest().await;
        if answer.starts_with(&format!("HTTP/1.1 {status}")) {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

#[tokio::test]
async fn above_its_streams_and_its_memory_a_gateway_begins_nothing_new() {
    if !has_postgres() {
        return;
    }
    let settings = [
        ("GATEWAY_MAX_STREAMS", "1"),
        ("GATEWAY_MEMORY_BYTES", "1048576"),
        ("GATEWAY_IDLE_TIMEOUT_MS", "4000"),
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0"),
    ];
    let up = Up::start_with_variables(&settings).await;
    let (token, _) = up.wallet_with("full", "5.00").await;
    // A stream whose answer is gathered for repeats until it is above a mebibyte, and then stalls.
    let mut large = streamed("tokens=12000 stall_after=10000");
    large["max_tokens"] = json!(12_000);
    let mut stream = Raw::send(&up.address(), &token, "idempotency-key: large\r\n", &large).await;
    assert!(stream.read_until("\"content\":", 1).await);
    let second = Raw::send(&up.address(), &token, "", &streamed("tokens=2")).await.rest().await;
    assert!(second.starts_with("HTTP/1.1 503") && second.contains("\"overloaded\""), "one stream only: {second}");
    let reading = tokio::spawn(stream.rest());
    let refused = call_until(&up, &token, "503").await;
    assert!(refused.contains("\"overloaded\"") && refused.to_ascii_lowercase().contains("retry-after: 1"), "{refused}");
    // The stream goes on, is cut at its stall, and makes room.
    assert!(reading.await.unwrap().contains("provider_error"));
    call_until(&up, &token, "200").await;
    let again = Raw::send(&up.address(), &token, "", &streamed("tokens=2")).await.rest().await;
    assert!(again.starts_with("HTTP/1.1 200"), "{again}");
    compare(&booked_when_ended(&up.database("ledger_audit")).await, &provider_book(&up.provider_book()));
}
