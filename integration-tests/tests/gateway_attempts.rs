//! Attempts on real processes: fallbacks and what they hold, marks and recovery, clients that leave, and what serves a call. The
//! provider's own book is the truth.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::time::Duration;

use modelfaucet_gateway::fault::Point;
use modelfaucet_integration_tests::calls::{
    Booked, Raw, Served, booked, booked_when_ended, chat, compare, label, provider_book, streamed, usage_of,
};
use modelfaucet_integration_tests::connection::Answer;
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_schema::event::{
    Anomaly, AttemptError, Billed, DisconnectPolicy, Event, ReleaseReason, ServiceTier, UsageSource,
};
use modelfaucet_schema::ids::HoldId;
use modelfaucet_schema::money::Money;
use serde_json::{Value, json};

async fn call(up: &Up, token: &str, body: &Value) -> Answer {
    up.connect(token).await.unwrap().json("POST", "/v1/chat/completions", "", body).await.unwrap()
}

async fn books(up: &Up) -> BTreeMap<HoldId, Booked> {
    booked_when_ended(&up.database("ledger_audit")).await
}

/// The newest call in the books.
async fn last(up: &Up) -> Booked {
    books(up).await.into_values().next_back().unwrap()
}

/// What the provider says of a call.
fn served(up: &Up, call: &Booked) -> Vec<Served> {
    provider_book(&up.provider_book()).remove(&label(call.placed.hold_id)).unwrap_or_default()
}

async fn set_policy(up: &Up, policy: &Value) {
    let path = "/v1/developer/apps/app_pub_demo/features/customer_reply";
    let answer = up.as_admin("PATCH", path, "", &json!({ "policy": policy })).await;
    assert_eq!(answer.status, 200, "{answer:?}");
}

/// The log is sound, the read tables are what it says, and nothing is held.
async fn check_books(up: &Up) {
    let report = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &Value::Null).await.json();
    assert_eq!(report["summary"]["mismatch_count"], 0, "{report}");
    let verified = up.run(&["verify", "--data-dir", "data"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
}

/// What so many tokens cost at a price in units of 1e-8 USD each.
fn cost(tokens: u64, units: u64) -> Money {
    Money::from_units(i64::try_from(tokens * units).unwrap())
}

/// What a bill of input and output tokens costs.
fn bill_cost([input, _, output, _]: [u64; 4], input_units: u64, output_units: u64) -> Money {
    cost(1, input * input_units + output * output_units)
}

#[tokio::test]
async fn an_attempt_that_bills_and_fails_and_one_that_answers_are_one_call_and_both_on_the_books() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("fallback", "5.00").await;
    set_policy(&up, &json!({ "fallback_models": ["gpt-4.1-nano", "gpt-4o"] })).await;
    for body in
        [chat("tokens=5 status=500 billed only=gpt-4o-mini"), streamed("tokens=5 status=500 billed only=gpt-4o-mini")]
    {
        let answer = call(&up, &token, &body).await;
        assert_eq!((answer.status, answer.header("x-mf-attempts")), (200, Some("3")), "{answer:?}");
        let booked = last(&up).await;
        let attempts = &booked.outcome().attempts;
        let models: Vec<_> = attempts.iter().map(|attempt| (attempt.model.as_str(), attempt.status)).collect();
        let failed = ("gpt-4o-mini", Some(500));
        assert_eq!(models, [failed, failed, ("gpt-4.1-nano", Some(200))]);
        assert_eq!(booked.started.iter().map(|started| started.number).collect::<Vec<_>>(), [2, 3]);
        assert!(booked.started[1].amount < booked.placed.amount, "a cheaper model holds less");
        let truth = served(&up, &booked);
        assert_eq!(truth.len(), 3, "one call, three requests");
        let bill = truth[2].bill.unwrap();
        let rating = booked.rating().unwrap();
        assert_eq!(rating.usage, usage_of(bill), "the user pays for the one that answered");
        assert_eq!(rating.upstream, bill_cost(bill, 10, 40), "at its own price");
        for (attempt, served) in attempts.iter().zip(&truth[..2]) {
            assert_eq!(attempt.billed, Billed::Unknown);
            assert_eq!(attempt.exposure, Some(cost(served.bill.unwrap()[0], 15)), "what the provider bills of it");
        }
    }
    // Reports count calls, and beside them the attempts that may be on an invoice.
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let sql = "SELECT provider, model, billed, exposure FROM read.failed_attempt ORDER BY position, number";
    let mut rows = Vec::new();
    for _ in 0..200 {
        rows = client.query(sql, &[]).await.unwrap();
        if rows.len() == 4 {
            break;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    assert_eq!(rows.len(), 4);
    for row in rows {
        let (provider, model, billed, exposure): (&str, &str, &str, Option<i64>) =
            (row.get(0), row.get(1), row.get(2), row.get(3));
        assert_eq!((provider, model, billed), ("openai", "gpt-4o-mini", "unknown"));
        assert!(exposure.is_some_and(|units| units > 0));
    }
    assert_eq!(compare(&books(&up).await, &provider_book(&up.provider_book())), 2);
    check_books(&up).await;
}

#[tokio::test]
async fn a_dearer_fallback_holds_more_first_or_the_call_ends_unpaid() {
    if !has_postgres() {
        return;
    }
    let up = Up::start_with_variables(&[("PROVIDER_MAX_RETRIES", "0")]).await;
    set_policy(&up, &json!({ "fallback_models": ["gpt-4o"], "clamp": "refuse" })).await;
    let mut body = chat("tokens=5 status=503 only=gpt-4o-mini");
    body["max_tokens"] = json!(1_000);
    let (rich, _) = up.wallet_with("rich", "5.00").await;
    assert_eq!(call(&up, &rich, &body).await.status, 200);
    let booked = last(&up).await;
    let started = &booked.started[0];
    assert_eq!((started.replaced, started.amount), (booked.placed.amount, started.requested));
    assert!(started.amount > booked.placed.amount, "dearer");
    assert!(booked.rating().unwrap().charge <= started.amount);
    let (poor, _) = up.wallet_with("poor", "0.002").await;
    let refused = call(&up, &poor, &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (402, "insufficient_balance"), "{refused:?}");
    let booked = last(&up).await;
    assert!(booked.started.is_empty());
    let Event::HoldReleased(released) = booked.ending() else { panic!("{booked:?}") };
    assert_eq!(released.reason, ReleaseReason::Rejected);
    assert_eq!(served(&up, &booked).len(), 1, "nothing was sent that is not held for");
    check_books(&up).await;
}

#[tokio::test]
async fn a_killed_stream_is_charged_at_its_last_mark_and_once() {
    if !has_postgres() {
        return;
    }
    for (route, charged) in [("", true), ("platform", false)] {
        let settings = [("GATEWAY_MARK_INTERVAL_MS", "1"), ("GATEWAY_ABSORB_LOST_ROUTES", route)];
        let mut up = Up::start_with_variables(if route.is_empty() { &settings[..1] } else { &settings }).await;
        let (token, _) = up.wallet_with("marked", "5.00").await;
        let mut raw = Raw::send(&up.address(), &token, "", &streamed("tokens=400 gap_ms=20 even")).await;
        assert!(raw.read_until(" one", 5).await);
        let database = up.database("ledger_audit");
        while booked(&database).await.values().all(|call| call.marks.is_empty()) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        up.kill();
        up.start_again();
        up.wait_until_ready(Duration::from_secs(60)).await;
        let booked = last(&up).await;
        let mark = booked.marks.last().unwrap();
        let outcome = booked.outcome();
        assert!(outcome.interrupted && outcome.attempts[0].error == Some(AttemptError::Lost), "{outcome:?}");
        assert!(mark.usage.output_text > 0 && mark.bytes > 0);
        if charged {
            assert_eq!(outcome.source, Some(UsageSource::Estimated));
            assert_eq!(booked.rating().unwrap().usage, mark.usage);
        } else {
            let Event::HoldReleased(released) = booked.ending() else { panic!("{booked:?}") };
            assert_eq!(released.reason, ReleaseReason::Absorbed);
            assert_eq!(
                outcome.attempts[0].exposure,
                Some(cost(1, mark.usage.input_uncached * 15 + mark.usage.output_text * 60)),
                "what is known of it"
            );
        }
        check_books(&up).await;
    }
}

#[tokio::test]
async fn another_gateway_charges_the_marks_of_one_that_died_and_counts_its_attempts() {
    if !has_postgres() {
        return;
    }
    let provider = Provider::start().await;
    let url = provider.url();
    let settings =
        [("LITELLM_BASE_URL", url.as_str()), ("GATEWAY_TAKEOVER_MS", "1500"), ("GATEWAY_MARK_INTERVAL_MS", "1")];
    let up = Up::start_with_variables(&settings).await;
    set_policy(&up, &json!({ "fallback_models": ["gpt-4o"] })).await;
    let (token, _) = up.wallet_with("orphan", "5.00").await;
    let mut doomed = up.role_with(&["gateway", "--data-dir", "doomed"], "ledger_command", &settings);
    doomed.wait_until_ready().await;
    // The first attempt fails, the second one streams.
    let script = "tokens=400 gap_ms=20 even status=429 retry_after=30 only=gpt-4o-mini";
    let mut raw = Raw::send(&doomed.address(), &token, "", &streamed(script)).await;
    assert!(raw.read_until(" one", 5).await, "{}", String::from_utf8_lossy(&raw.received));
    let database = up.database("ledger_audit");
    while booked(&database).await.values().all(|call| call.marks.is_empty()) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    doomed.kill().unwrap();
    let booked = last(&up).await;
    let (started, mark) = (&booked.started[0], booked.marks.last().unwrap());
    assert_eq!((started.call.model.as_str(), mark.number), ("gpt-4o", 2));
    let Event::HoldCaptured(captured) = booked.ending() else { panic!("{booked:?}") };
    assert_eq!((captured.call.model.as_str(), captured.held), ("gpt-4o", started.amount));
    assert_eq!(captured.rating.usage, mark.usage);
    let errors: Vec<_> = booked.outcome().attempts.iter().map(|attempt| attempt.error).collect();
    assert_eq!(errors, [Some(AttemptError::Status), Some(AttemptError::Lost)]);
    check_books(&up).await;
}

async fn set_disconnect_policy(up: &Up, policy: DisconnectPolicy) -> u64 {
    let body = json!({
        "provider": "openai", "endpoint": "chat_completions", "route": "platform", "policy": policy.name(), "reason": "test",
    });
    let answer = up.as_admin("POST", "/v1/admin/disconnect-policies", "", &body).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.json()["version"].as_u64().unwrap()
}

/// Cuts at every chunk boundary and inside frames; whatever the policy, the charge is what the provider bills.
#[tokio::test]
async fn wherever_a_client_is_cut_the_charge_is_the_providers_bill() {
    const TOKENS: usize = 6;
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("cut", "5.00").await;
    let nobody = json!({ "provider": "openai", "endpoint": "chat_completions", "route": "platform", "policy": "cancel", "reason": "x" });
    let refused = up.connect(&token).await.unwrap().json("POST", "/v1/admin/disconnect-policies", "", &nobody).await;
    assert_eq!(refused.unwrap().status, 401, "nobody but an administrator sets a policy");
    for (index, policy) in
        [DisconnectPolicy::Drain, DisconnectPolicy::BillToHere, DisconnectPolicy::Cancel].into_iter().enumerate()
    {
        let version = set_disconnect_policy(&up, policy).await;
        assert_eq!(version, 2 + u64::try_from(index).unwrap());
        let before = books(&up).await.len();
        for tokens in 1..=TOKENS {
            // Behind a frame, before its content, and amid it.
            for (text, further) in [("\n\n", 0), ("\"content\":\"", 0), ("\"content\":\"", 2)] {
                // The provider is silent behind what the client may see: what it made is what was delivered.
                let script = match policy {
                    DisconnectPolicy::Drain => format!("tokens={TOKENS} gap_ms=3 even cancel=whole"),
                    _ => format!("tokens={TOKENS} even stall_after={tokens} cancel=sent"),
                };
                let mut raw = Raw::send(&up.address(), &token, "", &streamed(&script)).await;
                // One frame comes before the first token.
                let read = raw.read_bytes_until(text, tokens + 1, further).await;
                assert!(read, "{}", String::from_utf8_lossy(&raw.received));
            }
        }
        let books = books(&up).await;
        assert_eq!(books.len(), before + TOKENS * 3);
        let new = books.values().rev().take(TOKENS * 3);
        for call in new {
            let dispatch = call.placed.dispatch.as_ref().unwrap();
            assert_eq!((dispatch.disconnect, u64::from(dispatch.policy_version)), (policy, version));
            let bill = served(&up, call)[0].bill.unwrap();
            let rating = call.rating().unwrap_or_else(|| panic!("free tokens: {call:?}"));
            assert_eq!(rating.usage, usage_of(bill), "{policy:?}: {:?}", call.outcome());
            let outcome = call.outcome();
            // The end may have come before it was noticed.
            let drained = policy == DisconnectPolicy::Drain;
            assert!(outcome.client_gone || drained);
            assert_eq!(outcome.cut, (!drained).then_some(policy));
            let source = if drained { UsageSource::Provider } else { UsageSource::Estimated };
            assert_eq!((outcome.source, outcome.interrupted), (Some(source), !drained), "estimates are flagged");
        }
    }
    // Before the answer began.
    for (policy, free) in
        [(DisconnectPolicy::Drain, false), (DisconnectPolicy::BillToHere, false), (DisconnectPolicy::Cancel, true)]
    {
        set_disconnect_policy(&up, policy).await;
        let known = provider_book(&up.provider_book()).len();
        let script = if free { "tokens=4 even delay_ms=1500 cancel=nothing" } else { "tokens=4 even delay_ms=1500" };
        let raw = Raw::send(&up.address(), &token, "", &streamed(script)).await;
        while provider_book(&up.provider_book()).len() == known {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(raw);
        let call = last(&up).await;
        let bill = served(&up, &call)[0].bill;
        match call.rating() {
            Some(rating) => assert_eq!((rating.usage, free), (usage_of(bill.unwrap()), false), "{policy:?}"),
            None => assert!(free && bill.is_none() && call.outcome().attempts[0].exposure.is_some(), "{call:?}"),
        }
    }
    check_books(&up).await;
}

#[tokio::test]
async fn the_model_and_tier_that_serve_are_charged_and_the_dearest_is_held_for() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (token, _) = up.wallet_with("tiers", "9.00").await;
    let rates = |input: &str, output: &str| json!({ "input_uncached": input, "output_text": output });
    let models = json!([
        {
            "provider": "openai", "model": "gpt-4o-mini", "rates": rates("0.000001", "0.000002"),
            "service_tiers": {
                "flex": { "rates": rates("0.0000005", "0.000001") },
                "priority": { "rates": rates("0.000003", "0.000006") },
            },
        },
        { "provider": "openai", "model": "gpt-4o", "rates": rates("0.00001", "0.00002") },
    ]);
    let card = up.as_admin("POST", "/v1/admin/rate-cards", "", &json!({ "source": "test", "models": models })).await;
    assert!(card.status < 300, "{card:?}");
    // (asked, what answers) → (held for, charged tier, charged model, units per token of input and output, anomalies)
    let (standard, flex, priority) = (ServiceTier::Standard, ServiceTier::Flex, ServiceTier::Priority);
    for (asked, answers, held, tier, model, (input, output), anomalies) in [
        (None, "", standard, standard, None, (100, 200), vec![]),
        (Some("default"), "served_tier=default", standard, standard, None, (100, 200), vec![]),
        (Some("priority"), "served_tier=priority", priority, priority, None, (300, 600), vec![]),
        (Some("priority"), "served_tier=default", priority, standard, None, (100, 200), vec![]),
        (Some("priority"), "", priority, priority, None, (300, 600), vec![]),
        (Some("flex"), "served_tier=flex", standard, flex, None, (50, 100), vec![]),
        (Some("flex"), "served_tier=default", standard, standard, None, (100, 200), vec![]),
        (Some("auto"), "served_tier=priority", priority, priority, None, (300, 600), vec![]),
        (Some("auto"), "served_tier=scale", priority, priority, None, (300, 600), vec![Anomaly::ServedTierUnpriced]),
        (None, "served_model=gpt-4o-mini-2024-07-18", standard, standard, None, (100, 200), vec![]),
        (None, "served_model=gpt-4o", standard, standard, Some("gpt-4o"), (1_000, 2_000), vec![]),
        (None, "served_model=gpt-9", standard, standard, None, (100, 200), vec![Anomaly::ServedModelUnpriced]),
    ] {
        for body in [chat(&format!("tokens=5 {answers}")), streamed(&format!("tokens=5 {answers}"))] {
            let mut body = body;
            if let Some(asked) = asked {
                body["service_tier"] = json!(asked);
            }
            let answer = call(&up, &token, &body).await;
            assert_eq!(answer.status, 200, "{answer:?}");
            let booked = last(&up).await;
            let what = format!("{asked:?} {answers}");
            assert_eq!(booked.placed.call.service_tier, held, "{what}");
            let rating = booked.rating().unwrap();
            assert_eq!((rating.service_tier, rating.served_model.as_deref()), (tier, model), "{what}");
            let bill = served(&up, &booked)[0].bill.unwrap();
            assert_eq!(rating.upstream, bill_cost(bill, input, output), "{what}");
            assert!(rating.charge <= booked.placed.amount);
            assert_eq!(booked.outcome().anomalies, anomalies, "{what}");
        }
    }
    let mut unpriced = chat("tokens=1");
    unpriced["model"] = json!("gpt-4o");
    unpriced["service_tier"] = json!("flex");
    let refused = call(&up, &token, &unpriced).await;
    assert_eq!((refused.status, refused.code().as_str()), (404, "model_not_priced"), "never at another price");
    check_books(&up).await;
}

/// A stream whose first attempt fails, so that it passes every point; `name` makes the script one of its own.
fn passing_every_point(name: &str) -> Value {
    streamed(&format!("tokens=3 gap_ms=5 even status=503 times=1 {name}"))
}

/// Whatever broke off, and wherever: the hold has ended once, and nothing that the client read to its end was free.
fn check_broken(point: Point, call: &Booked, answer: &str) {
    let read = answer.contains("[DONE]");
    match call.ending() {
        Event::HoldCaptured(captured) => {
            assert!(captured.rating.charge.is_positive() && captured.rating.charge <= call.held(), "{point:?}");
        }
        Event::HoldReleased(released) => {
            assert!(!read && released.reason == ReleaseReason::Absorbed, "{point:?}: {released:?} {answer}");
            let lost = call.outcome().attempts.last().unwrap();
            assert_eq!(lost.error, Some(AttemptError::Lost));
            assert!(lost.exposure.is_some_and(Money::is_positive), "{point:?}");
        }
        other => panic!("{point:?}: {other:?}"),
    }
    // Attempts that were in the log before it broke are named by its end, each once.
    let outcome = call.outcome();
    let numbers: Vec<u32> = call.started.iter().map(|started| started.number).collect();
    assert!(numbers.len() <= 1 && outcome.attempts.len() <= 2, "{point:?}: {outcome:?}");
    for started in &call.started {
        assert_eq!(outcome.attempts.iter().filter(|attempt| **attempt == started.ended).count(), 1, "{point:?}");
    }
}

#[tokio::test]
async fn a_call_that_panics_at_any_point_ends_its_hold_once() {
    if !has_postgres() {
        return;
    }
    let faults: Vec<String> = Point::ALL.iter().map(|(_, name)| format!("{name}=panic")).collect();
    let up = Up::start_with_variables(&[("MODELFAUCET_TEST_FAULTS", &faults.join(","))]).await;
    let (token, _) = up.wallet_with("panics", "5.00").await;
    for (point, name) in Point::ALL {
        let answer = Raw::send(&up.address(), &token, "", &passing_every_point(name)).await.rest().await;
        let broken = !answer.contains("[DONE]");
        assert!(broken, "{point:?}: {answer}");
        check_broken(point, &last(&up).await, &answer);
    }
    let answer = Raw::send(&up.address(), &token, "", &passing_every_point("whole")).await.rest().await;
    assert!(answer.contains("[DONE]"), "nothing is left armed: {answer}");
    assert_eq!(books(&up).await.len(), Point::ALL.len() + 1);
    compare(&books(&up).await, &provider_book(&up.provider_book()));
    check_books(&up).await;
}

#[tokio::test]
async fn a_process_that_dies_at_any_point_leaves_no_hold_open() {
    if !has_postgres() {
        return;
    }
    for (point, name) in Point::ALL {
        let provider = Provider::start().await;
        let (url, fault) = (provider.url(), format!("{name}=abort"));
        let settings = [("LITELLM_BASE_URL", url.as_str()), ("MODELFAUCET_TEST_FAULTS", fault.as_str())];
        let mut up = Up::start_with_variables(&settings).await;
        let (token, _) = up.wallet_with("deaths", "5.00").await;
        let answer = Raw::send(&up.address(), &token, "", &passing_every_point(name)).await.rest().await;
        assert!(!answer.contains("[DONE]"), "{point:?}: {answer}");
        up.kill();
        up.start_again();
        up.wait_until_ready(Duration::from_secs(60)).await;
        let books = booked(&up.database("ledger_audit")).await;
        assert_eq!(books.len(), 1, "{point:?}");
        let call = books.values().next().unwrap();
        check_broken(point, call, &answer);
        compare(&books, &provider.book());
        // What the provider was asked is in the log.
        let asked = provider.book().remove(&label(call.placed.hold_id)).unwrap_or_default().len();
        assert!(asked <= 1 + call.started.len(), "{point:?}: {asked} requests");
        if point == Point::AfterAttempt {
            check_books(&up).await;
        }
    }
}
