//! Calls through the gateway while processes and databases are killed: every hold ends once, and no answer that a client has read to
//! its end is missing from the books.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use modelfaucet_integration_tests::calls::{
    Raw, booked, booked_when_ended, charged, chat, check_read, compare, label, provider_book, streamed, usage_of,
};
use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_schema::event::{AttemptError, Event, ReleaseReason};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::money::Money;
use serde_json::{Value, json};

#[tokio::test]
async fn a_killed_gateway_leaves_no_hold_and_no_answer_uncharged() {
    if !has_postgres() {
        return;
    }
    let provider = Provider::start().await;
    let mut up = Up::start_with_variables(&[("LITELLM_BASE_URL", &provider.url())]).await;
    let (token, _) = up.wallet_with("killed", "50.00").await;
    let mut answers = Vec::new();
    for round in 0..8_u64 {
        let calls: Vec<_> = (0..12_u64)
            .map(|number| {
                let (address, token) = (up.address(), token.clone());
                let script = format!("tokens=6 delay_ms={} gap_ms={}", number * 20, number % 4 * 10);
                let body = if number % 2 == 0 { chat(&script) } else { streamed(&script) };
                tokio::spawn(async move { Raw::send(&address, &token, "", &body).await.rest().await })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(40 + round * 35)).await;
        up.kill();
        for call in calls {
            answers.extend(call.await.ok());
        }
        up.start_again();
        up.wait_until_ready(Duration::from_secs(60)).await;
        // Recovery is done before anything is served.
        let open = booked(&up.database("ledger_audit")).await.values().filter(|call| call.endings.is_empty()).count();
        assert_eq!(open, 0, "round {round}");
    }
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    assert!(books.len() >= 40, "{}", books.len());
    check_read(&answers, &books);
    compare(&books, &provider.book());
    let lost: Vec<_> = books
        .values()
        .filter(|call| matches!(call.ending(), Event::HoldReleased(e) if e.reason == ReleaseReason::Absorbed))
        .collect();
    assert!(!lost.is_empty(), "some calls were hit");
    for call in lost {
        let attempt = &call.outcome().attempts[0];
        let exposure = attempt.exposure.unwrap();
        assert_eq!(attempt.error, Some(AttemptError::Lost));
        assert!(exposure.is_positive() && exposure < call.placed.amount, "the input's cost, not the hold: {exposure}");
    }
    let report = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &Value::Null).await.json();
    assert_eq!(report["summary"]["mismatch_count"], 0, "{report}");
    assert!(up.run(&["verify", "--data-dir", "data"]).status.success());
}

#[tokio::test]
async fn a_key_outlives_the_process_and_never_pays_twice() {
    if !has_postgres() {
        return;
    }
    let provider = Provider::start().await;
    let mut up = Up::start_with_variables(&[("LITELLM_BASE_URL", &provider.url())]).await;
    let (token, _) = up.wallet_with("keys", "5.00").await;
    let send = async |address: &str, key: &str, body: &Value| {
        let header = format!("idempotency-key: {key}\r\n");
        let mut client = Connection::open(address, &token).await.unwrap();
        client.json("POST", "/v1/chat/completions", &header, body).await.unwrap()
    };
    let mut wanted = streamed("tokens=5 wanted");
    wanted["stream_options"] = json!({ "include_usage": true });
    let made = [
        ("whole", chat("tokens=4 made")),
        ("stream", streamed("tokens=9 cast")),
        ("usage", wanted),
        ("broken", streamed("tokens=8 disconnect_after=2")),
    ];
    let lost = chat("tokens=4 delay_ms=3000 lost");
    let mut first = Vec::new();
    for (key, body) in &made {
        let answer = send(&up.address(), key, body).await;
        assert_eq!((answer.status, answer.header("idempotent-replayed")), (200, None), "{answer:?}");
        first.push(answer);
    }
    let (address, token_of_lost, body) = (up.address(), token.clone(), lost.clone());
    let cut = tokio::spawn(async move {
        Raw::send(&address, &token_of_lost, "idempotency-key: lost\r\n", &body).await.rest().await
    });
    while provider.book().len() < 5 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    up.kill();
    assert_eq!(cut.await.unwrap(), "");
    up.start_again();
    up.wait_until_ready(Duration::from_secs(60)).await;
    // Charged, and kept: the same bytes, here and from a gateway that has never seen the call.
    let (url, key) = (provider.url(), up.secret("gateway_answers_key"));
    // It has no room in memory: the table alone answers.
    let settings = [
        ("LITELLM_BASE_URL", url.as_str()),
        ("GATEWAY_ANSWERS_KEY", key.as_str()),
        ("GATEWAY_STORED_ANSWERS_BYTES", "0"),
    ];
    let other = up.role_with(&["gateway", "--data-dir", "other"], "ledger_command", &settings);
    other.wait_until_ready().await;
    for address in [up.address(), other.address()] {
        for ((key, body), first) in made.iter().zip(&first) {
            let again = send(&address, key, body).await;
            assert_eq!((again.status, again.header("idempotent-replayed")), (200, Some("true")), "{key}: {again:?}");
            assert_eq!(String::from_utf8_lossy(&again.body), String::from_utf8_lossy(&first.body), "{key}");
            for name in ["content-type", "x-mf-cost", "x-mf-balance", "x-mf-attempts", "x-mf-price-version"] {
                assert_eq!(again.header(name), first.header(name), "{key}: {name}");
            }
        }
    }
    let reused = send(&up.address(), "whole", &lost).await;
    assert_eq!((reused.status, reused.code().as_str()), (422, "idempotency_key_reused"));
    // Given back without charge: the key makes a new call.
    assert_eq!(send(&up.address(), "lost", &lost).await.status, 200);
    // Nothing of a prompt or an answer can be read in the database.
    let (client, connection) = up.database("ledger_command").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client.query("SELECT sealed FROM gateway.answer", &[]).await.unwrap();
    assert_eq!(rows.len(), 5);
    for row in rows {
        let sealed: &[u8] = row.get(0);
        assert!(!sealed.windows(7).any(|window| window == b"content" || window == b"choices"));
    }
    // Charged, and gone: refused, never made again.
    client.execute("DELETE FROM gateway.answer", &[]).await.unwrap();
    drop(client);
    up.kill();
    up.start_again();
    up.wait_until_ready(Duration::from_secs(60)).await;
    let gone = send(&up.address(), "whole", &made[0].1).await;
    assert_eq!((gone.status, gone.code().as_str()), (409, "idempotency_reply_expired"));
    assert_eq!(gone.header("x-should-retry"), Some("false"));
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let charged = books.values().filter(|call| call.rating().is_some()).count();
    assert_eq!((books.len(), charged, provider.book().len()), (6, 5, 6));
    compare(&books, &provider.book());
}

/// Fifty senders of one key, while the process is killed in their midst: whatever was lost is given back, one call is charged, and
/// everybody who is answered gets the same bytes.
#[tokio::test]
async fn fifty_senders_of_one_key_pay_once_whatever_dies() {
    if !has_postgres() {
        return;
    }
    let provider = Provider::start().await;
    let mut up = Up::start_with_variables(&[("LITELLM_BASE_URL", &provider.url())]).await;
    let (token, _) = up.wallet_with("fifty", "5.00").await;
    for round in 0..4_u64 {
        let body = if round % 2 == 0 { chat("tokens=6 delay_ms=150") } else { streamed("tokens=6 gap_ms=30") };
        let header = format!("idempotency-key: fifty-{round}\r\n");
        let (address, began) = (up.address(), std::time::Instant::now());
        let senders: Vec<_> = (0..50)
            .map(|_| {
                let (address, token, header, body) = (address.clone(), token.clone(), header.clone(), body.clone());
                tokio::spawn(async move {
                    // Who is told to wait, or cut off, sends the same again.
                    while began.elapsed() < Duration::from_secs(60) {
                        if let Ok(mut client) = Connection::open(&address, &token).await
                            && let Ok(answer) = client.json("POST", "/v1/chat/completions", &header, &body).await
                            && answer.status == 200
                        {
                            return answer.body;
                        }
                        tokio::time::sleep(Duration::from_millis(100)).await;
                    }
                    panic!("a sender was never answered");
                })
            })
            .collect();
        tokio::time::sleep(Duration::from_millis(60 + round * 70)).await;
        up.kill();
        up.start_again();
        let mut answers = std::collections::BTreeSet::new();
        for sender in senders {
            answers.insert(sender.await.unwrap());
        }
        assert_eq!(
            answers.len(),
            1,
            "round {round}: {:?}",
            answers.iter().map(|a| String::from_utf8_lossy(a)).collect::<Vec<_>>()
        );
        up.wait_until_ready(Duration::from_secs(60)).await;
    }
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    assert_eq!(books.values().filter(|call| call.rating().is_some()).count(), 4, "one charge for each key");
    compare(&books, &provider.book());
}

#[tokio::test]
async fn a_database_that_is_away_at_the_capture_loses_no_usage() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("away", "5.00").await;
    let mut calls = Vec::new();
    for script in ["tokens=9 delay_ms=600", "tokens=9 gap_ms=80"] {
        for body in [chat(script), streamed(script)] {
            let (address, token) = (up.address(), token.clone());
            calls.push(tokio::spawn(async move { Raw::send(&address, &token, "", &body).await.rest().await }));
        }
    }
    let database = up.database("ledger_audit");
    while booked(&database).await.len() < 4 {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    assert!(up.crash_postgres());
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    // PostgreSQL comes back by itself; whoever could not wait was told that the charge is on its way.
    let mut up = up;
    up.wait_until_ready(Duration::from_secs(60)).await;
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let truth = provider_book(&up.provider_book());
    assert_eq!((books.len(), compare(&books, &truth)), (4, 4), "{answers:?}");
    check_read(&answers, &books);
    for (hold, call) in &books {
        let bill = truth[&label(*hold)][0].bill.unwrap();
        assert_eq!(call.rating().unwrap().usage, usage_of(bill));
    }
    for answer in answers {
        assert!(
            answer.contains("[DONE]") || answer.contains("\"usage\":{") || answer.contains("capture_pending"),
            "{answer}"
        );
    }
}

#[tokio::test]
async fn the_calls_of_a_gateway_that_stays_away_are_ended_by_another() {
    if !has_postgres() {
        return;
    }
    let provider = Provider::start().await;
    let url = provider.url();
    let settings = [("LITELLM_BASE_URL", url.as_str()), ("GATEWAY_TAKEOVER_MS", "1500")];
    let up = Up::start_with_variables(&settings).await;
    let mut doomed = up.role_with(&["gateway", "--data-dir", "doomed"], "ledger_command", &settings);
    let living = up.role_with(&["gateway", "--data-dir", "living"], "ledger_command", &settings);
    doomed.wait_until_ready().await;
    living.wait_until_ready().await;
    let (token, _) = up.wallet_with("orphans", "5.00").await;
    let slow = chat("tokens=5 delay_ms=6000");
    let mut lost = Raw::send(&doomed.address(), &token, "", &slow).await;
    let kept = Raw::send(&living.address(), &token, "", &slow).await;
    let database = up.database("ledger_audit");
    while provider.book().len() < 2 {
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    doomed.kill().unwrap();
    assert!(!lost.read_until("HTTP", 1).await);
    assert!(kept.rest().await.starts_with("HTTP/1.1 200"), "a call that takes long is nobody's to end");
    let books = booked_when_ended(&database).await;
    let reasons: Vec<_> = books
        .values()
        .map(|call| match call.ending() {
            Event::HoldReleased(released) => Some(released.reason),
            _ => None,
        })
        .collect();
    assert!(reasons.contains(&None) && reasons.contains(&Some(ReleaseReason::Absorbed)), "{reasons:?}");
    compare(&books, &provider.book());
}

/// At every position of the log the wallet covers what is held and charged.
async fn never_overspent(log: &tokio_postgres::Config) {
    let (client, connection) = log.connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let rows = client.query("SELECT type, version, payload FROM ledger.event ORDER BY position", &[]).await.unwrap();
    for row in rows {
        let event = Event::decode(row.get(0), row.get(1), row.get(2)).unwrap();
        if let Some((id, balance)) = event.balance() {
            assert!(balance.available() >= Money::ZERO, "{id} is overspent after {event:?}");
        }
    }
}

/// A thousand calls at once through three gateways, with writers of their own, at a wallet that is worth so many of them.
#[tokio::test]
async fn three_gateways_never_overspend_one_wallet() {
    const CALLS: usize = 1_000;
    const WORTH: usize = 50;
    if !has_postgres() {
        return;
    }
    let provider = Provider::start().await;
    let url = provider.url();
    let settings = [("LITELLM_BASE_URL", url.as_str()), ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0")];
    let up = Up::start_with_variables(&settings).await;
    let second = up.role_with(&["gateway", "--data-dir", "second"], "ledger_command", &settings);
    let third = up.role_with(&["gateway", "--data-dir", "third"], "ledger_command", &settings);
    second.wait_until_ready().await;
    third.wait_until_ready().await;
    // What one such call is held for, from a first one.
    let (token, _) = up.wallet_with("first", "1.00").await;
    let mut body = chat("tokens=300 delay_ms=20");
    body["max_tokens"] = json!(200);
    assert!(Raw::send(&up.address(), &token, "", &body).await.rest().await.starts_with("HTTP/1.1 200"));
    let held = booked(&up.database("ledger_audit")).await.into_values().next().unwrap().placed.amount;
    let worth = Money::from_units(held.units() * i64::try_from(WORTH).unwrap());
    let (token, wallet) = up.wallet_with("crowd", &worth.to_string()).await;
    let addresses = [up.address(), second.address(), third.address()];
    let calls: Vec<_> = (0..CALLS)
        .map(|number| {
            let (address, token, body) = (addresses[number % 3].clone(), token.clone(), body.clone());
            tokio::spawn(async move { Raw::send(&address, &token, "", &body).await.rest().await })
        })
        .collect();
    let mut answers = Vec::new();
    for call in calls {
        answers.push(call.await.unwrap());
    }
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let crowd: BTreeMap<_, _> =
        books.into_iter().filter(|(_, call)| call.placed.wallet_id.to_string() == wallet).collect();
    let good = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 200")).count();
    let refused = answers.iter().filter(|answer| answer.starts_with("HTTP/1.1 402")).count();
    assert_eq!(good, crowd.len(), "each admitted call is answered");
    assert!(good >= WORTH && good + refused > CALLS / 2, "{good} answered, {refused} refused");
    check_read(&answers, &crowd);
    assert!(charged(&crowd) <= worth, "never more than the wallet had");
    never_overspent(&up.database("ledger_audit")).await;
    let truth = provider.book();
    assert_eq!(truth.keys().filter(|call| crowd.keys().any(|hold| label(*hold) == **call)).count(), good);
}

/// No projection runs, and every gateway is killed and started again in the middle: what may be spent is known to the log alone.
#[tokio::test]
async fn limits_hold_without_projections_and_over_restarts() {
    const WORTH: usize = 20;
    let Some(database) = TestDatabase::durable().await else { return };
    let provider = Provider::start().await;
    let url = provider.url();
    let settings = [("LITELLM_BASE_URL", url.as_str()), ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0")];
    let setting = Setting { database: Some(database.superuser()), ..Setting::default() };
    let mut up = Up::start_with(setting).await;
    let (first, _) = up.wallet_with("first", "1.00").await;
    let mut body = chat("tokens=300 delay_ms=5");
    body["max_tokens"] = serde_json::json!(200);
    assert!(Raw::send(&up.address(), &first, "", &body).await.rest().await.starts_with("HTTP/1.1 200"));
    let held = booked(&up.database("ledger_audit")).await.into_values().next().unwrap().placed.amount;
    let worth = Money::from_units(held.units() * i64::try_from(WORTH).unwrap());
    let (token, wallet) = up.wallet_with("crowd", &worth.to_string()).await;
    let log = database.role(ServiceRole::Audit);
    let checkpoints = async || {
        let client = database.connect_as(ServiceRole::Audit).await;
        let sum = "SELECT sum(position)::bigint FROM projection.checkpoint";
        client.query_one(sum, &[]).await.unwrap().get::<_, i64>(0)
    };
    // With `up` go the projector and the writer that made all this.
    up.stop();
    let before = checkpoints().await;
    let gateway = |name: &str| up.role_with(&["gateway", "--data-dir", name], "ledger_command", &settings);
    let mut gateways = [gateway("one"), gateway("two")];
    for gateway in &gateways {
        gateway.wait_until_ready().await;
    }
    let (mut good, mut refused) = (0, 0);
    for round in 0..4 {
        let calls: Vec<_> = (0..100)
            .map(|number| {
                let (address, token, body) = (gateways[number % 2].address(), token.clone(), body.clone());
                tokio::spawn(async move {
                    match Raw::try_send(&address, &token, "", &body).await {
                        Ok(raw) => raw.rest().await,
                        Err(_) => String::new(),
                    }
                })
            })
            .collect();
        if round % 2 == 0 {
            tokio::time::sleep(Duration::from_millis(60)).await;
            for gateway in &mut gateways {
                gateway.kill().unwrap();
                gateway.start_again();
            }
            for gateway in &gateways {
                gateway.wait_until_ready().await;
            }
        }
        for call in calls {
            let answer = call.await.unwrap();
            good += usize::from(answer.starts_with("HTTP/1.1 200"));
            refused += usize::from(answer.starts_with("HTTP/1.1 402"));
        }
    }
    assert_eq!(checkpoints().await, before, "no projection has moved");
    let books = booked_when_ended(&log).await;
    let crowd: BTreeMap<_, _> =
        books.into_iter().filter(|(_, call)| call.placed.wallet_id.to_string() == wallet).collect();
    assert!(good >= WORTH / 2 && refused > WORTH, "{good} answered, {refused} refused");
    assert!(charged(&crowd) <= worth, "never more than the wallet had");
    never_overspent(&log).await;
    compare(
        &crowd,
        &provider.book().into_iter().filter(|(call, _)| crowd.keys().any(|id| label(*id) == *call)).collect(),
    );
}
