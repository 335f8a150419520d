//! Stripe's own Python library: what it signs we believe, what our fake signs it believes, and it can use the fake as it uses
//! Stripe. Needs a Python with `stripe` (`MODELFAUCET_TEST_STRIPE_PYTHON`); `deploy/test` sets it up.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use modelfaucet_command::stripe::signature::{SignatureError, verify};
use modelfaucet_integration_tests::fake_stripe::{FakeStripe, SECRET_KEY, WEBHOOK_SECRET, now, signature};
use modelfaucet_integration_tests::process::skip;
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn stripes_own_library_agrees() {
    let Ok(python) = std::env::var("MODELFAUCET_TEST_STRIPE_PYTHON") else {
        return skip("stripe", "MODELFAUCET_TEST_STRIPE_PYTHON is not set");
    };
    let stripe = FakeStripe::start().await;
    stripe.book(|book| {
        let session = book.open_session(5_000, &json!({}), Some("top-up-0"))["id"].as_str().unwrap().to_owned();
        book.pay(&session);
    });
    let event = stripe.take_events().pop().unwrap();
    let bodies = [
        event.to_string(),
        serde_json::to_string_pretty(&event).unwrap(),
        r#"{"id":"evt_2","object":"event","text":"ünicode \" 'quotes' \\ \n"}"#.to_owned(),
        "{}".to_owned(),
    ];
    let at = now();
    let signed: Vec<Value> =
        bodies.iter().map(|body| json!([body, signature(WEBHOOK_SECRET, at, body.as_bytes())])).collect();
    let to_sign: Vec<Value> = bodies.iter().map(|body| json!([body, at])).collect();
    let cases = json!({ "signed": signed, "to_sign": to_sign }).to_string();
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("sdk/stripe_python.py");
    let mut child = Command::new(python)
        .arg(script)
        .args([&stripe.url(), SECRET_KEY, WEBHOOK_SECRET])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(cases.as_bytes()).unwrap();
    let output = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let seen: Value = serde_json::from_slice(&output.stdout).unwrap();

    let secret = secrecy::SecretString::from(WEBHOOK_SECRET.to_owned());
    for (body, header) in bodies.iter().zip(seen["signatures"].as_array().unwrap()) {
        let header = header.as_str().unwrap();
        assert_eq!(verify(&secret, Some(header), body.as_bytes(), at), Ok(()), "{header}");
        let other = format!("{body} ");
        assert_eq!(verify(&secret, Some(header), other.as_bytes(), at), Err(SignatureError::Invalid));
    }
    assert_eq!(seen["refused"], bodies.len());
    assert_eq!((&seen["event"], &seen["same_page"]), (&event["id"], &json!(true)));
    assert_eq!((&seen["amount"], &seen["metadata"]), (&json!(1_234), &json!("top-up-1")));
    assert_eq!(seen["events"], json!(["checkout.session.completed"]));
    assert_eq!(seen["categories"], json!(["charge"]));
    assert_eq!(seen["refund"], json!([100, "succeeded"]));
    println!("stripe for Python {}: {} signatures each way", seen["version"].as_str().unwrap(), bodies.len());
}
