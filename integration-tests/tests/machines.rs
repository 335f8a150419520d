//! Two processes of each role over one database, behind the ingress, as on several machines. Clients know the ingress alone. Any process
//! may die at any time, the ingress too; afterwards nothing is lost, nothing is there twice, and no wallet was overspent.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::calls::{booked_when_ended, chat, check_read, compare, streamed, until_charged};
use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::ingress::Ingress;
use modelfaucet_integration_tests::judge::{audit, check, level};
use modelfaucet_integration_tests::process::{Role, Setting, Up};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, Plan, Traffic};
use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::{Value, json};

/// How often each process dies, unless `MODELFAUCET_DEATHS` says otherwise.
const DEATHS: usize = 1;
/// Commands that must be answered while one is dead.
const MEANWHILE: u64 = 20;
/// Clients with calls beside those with commands.
const CALLERS: usize = 4;
/// What is in force everywhere, is so after a second; what a request needs to show it comes on top on a busy machine.
const EVERYWHERE: Duration = Duration::from_secs(5);

/// One who calls models until there is an end of it: the answers, one for each key.
async fn call(address: String, token: String, number: usize, mut dice: Dice, stop: Arc<AtomicBool>) -> Vec<String> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let script = dice.pick(&["tokens=3", "tokens=5 delay_ms=80", "tokens=12 gap_ms=15"]);
        let body = if dice.percent(50) { chat(script) } else { streamed(script) };
        let key = format!("machines-{number}-{}", answers.len());
        answers.push(until_charged(|| address.clone(), &token, &key, &body).await);
    }
    answers
}

/// Asks each of these until it answers so.
async fn everywhere(roles: &[Role], token: &str, ask: (&str, &str, &Value), wanted: &str) {
    let (method, path, body) = ask;
    let began = Instant::now();
    for (number, role) in roles.iter().enumerate() {
        for attempt in 0.. {
            let mut connection = Connection::open(&role.address(), token).await.unwrap();
            let key = format!("idempotency-key: everywhere-{wanted}-{number}-{attempt}\r\n");
            let answer = connection.json(method, path, &key, body).await.unwrap();
            if String::from_utf8_lossy(&answer.body).contains(wanted) {
                break;
            }
            assert!(
                began.elapsed() < EVERYWHERE,
                "{path} at {}: no {wanted}, but {} {}",
                role.address(),
                answer.status,
                answer.json()
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// Sessions, freezes and revocations are in force at each process of a role.
async fn known_everywhere(up: &Up, commands: &[Role], gateways: &[Role], visitor: &str) {
    let mut connection = Connection::open(visitor, "").await.unwrap();
    let open =
        json!({ "public_app_id": "app_pub_demo", "external_user_id": "everywhere", "feature_key": "customer_reply" });
    let opened = connection.json("POST", "/v1/sessions", "", &open).await.unwrap();
    let position = opened.header("ledger-position").unwrap().to_owned();
    let token = opened.json()["session_token"].as_str().unwrap().to_owned();
    let mut reader = Connection::open(visitor, &up.admin()).await.unwrap();
    let path = format!("/v1/developer/sessions?limit=1&min_position={position}");
    let session = reader.json("GET", &path, "", &Value::Null).await.unwrap().json()["items"][0]["id"].clone();
    let hold = json!({ "model": "gpt-4o-mini", "amount_usd": "0.001" });
    let (holds, calls) = (("POST", "/v1/usage/holds", &hold), ("POST", "/v1/chat/completions", &chat("tokens=1")));
    // A session that was just opened, without a cent.
    everywhere(commands, &token, holds, "insufficient_balance").await;
    everywhere(gateways, &token, calls, "insufficient_balance").await;
    let mut admin = Connection::open(&commands[0].address(), &up.admin()).await.unwrap();
    let scope = json!({ "scope": { "kind": "session", "id": session }, "reason": "drill" });
    let frozen = admin.json("POST", "/v1/admin/freezes", "", &scope).await.unwrap();
    assert_eq!(frozen.status, 201, "{frozen:?}");
    everywhere(commands, &token, holds, "frozen").await;
    everywhere(gateways, &token, calls, "frozen").await;
    let path = format!("/v1/sessions/{}", session.as_str().unwrap());
    let revoked = admin.json("DELETE", &path, "", &Value::Null).await.unwrap();
    assert_eq!(revoked.status, 200, "{revoked:?}");
    everywhere(commands, &token, holds, "invalid_session").await;
    everywhere(gateways, &token, calls, "invalid_session").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn any_process_of_several_may_die() {
    let Some(database) = TestDatabase::durable().await else { return };
    let deaths = std::env::var("MODELFAUCET_DEATHS").ok().and_then(|deaths| deaths.parse().ok()).unwrap_or(DEATHS);
    let mut dice = Dice::of_run();
    let provider = Provider::start().await;
    // `up` sets up the database and the sandbox, opens the wallets, and leaves.
    let setting = Setting { database: Some(database.superuser()), ..Setting::default() };
    let mut up = Up::start_with(setting).await;
    let plan = Plan::of("machines", &up, &dice).await;
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        callers.push(up.wallet_with(&format!("caller-{number}"), "50.00").await);
    }
    up.stop();

    let url = provider.url();
    let settings = [
        ("LITELLM_BASE_URL", url.as_str()),
        ("GATEWAY_TAKEOVER_MS", "1000"),
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0"),
        ("TRUSTED_PROXIES", "127.0.0.0/8"),
    ];
    let role = |verb: &str| up.role_with(&[verb], &format!("ledger_{verb}"), &settings);
    let gateway = |name: &str| up.role_with(&["gateway", "--data-dir", name], "ledger_command", &settings);
    let mut commands = [role("command"), role("command")];
    let mut gateways = [gateway("first"), gateway("second")];
    let (mut projectors, mut queries) = ([role("projector"), role("projector")], [role("query"), role("query")]);
    for role in commands.iter().chain(&gateways).chain(&projectors).chain(&queries) {
        role.wait_until_ready().await;
    }
    let Some(mut ingress) = Ingress::start(&commands, &queries, &gateways).await else { return };
    known_everywhere(&up, &commands, &gateways, &ingress.address()).await;

    let token = plan.token.clone();
    let mut traffic = Traffic::start(Plan { commands: vec![ingress.address()], reads: ingress.address(), ..plan });
    let stop = Arc::new(AtomicBool::new(false));
    let calling: Vec<_> = (callers.iter().enumerate())
        .map(|(number, (token, _))| {
            let dice = Dice(dice.roll());
            tokio::spawn(call(ingress.address(), token.clone(), number, dice, Arc::clone(&stop)))
        })
        .collect();
    let mut victims = ["command", "gateway", "projector", "query", "ingress"].repeat(2 * deaths);
    dice.shuffle(&mut victims);
    let mut longest = BTreeMap::<&str, Duration>::new();
    let mut recoveries = BTreeMap::<&str, Vec<Duration>>::new();
    for victim in victims {
        tokio::time::sleep(Duration::from_millis(dice.between(100, 600))).await;
        let which = usize::from(dice.percent(50));
        let number = if victim == "command" { "F2" } else { "F3" };
        traffic.fault(number, &format!("{victim}-{which}"), "kill");
        let killed = Instant::now();
        let role = match victim {
            "command" => &mut commands[which],
            "gateway" => &mut gateways[which],
            "projector" => &mut projectors[which],
            "query" => &mut queries[which],
            _ => {
                ingress.die_and_come_back().await;
                recoveries.entry(number).or_default().push(killed.elapsed());
                let slot = longest.entry(victim).or_default();
                *slot = traffic.more(MEANWHILE).await.max(*slot);
                continue;
            }
        };
        assert_eq!(role.kill().unwrap().signal(), Some(9), "{victim} had ended before; the log:\n{}", up.log());
        // The others go on meanwhile.
        let slot = longest.entry(victim).or_default();
        *slot = traffic.more(MEANWHILE).await.max(*slot);
        role.start_again();
        role.wait_until_ready().await;
        recoveries.entry(number).or_default().push(killed.elapsed());
    }
    traffic.more(MEANWHILE).await;
    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for caller in calling {
        answers.extend(caller.await.unwrap());
    }
    let (tally, histories) = traffic.stop().await;
    level(&database).await;
    let auditor = database.role(ServiceRole::Audit);
    let books = booked_when_ended(&auditor).await;
    let events = check(&auditor, &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    check_read(&answers, &books);
    compare(&books, &provider.book());
    // A key pays once, whoever died: each was repeated until it was answered.
    let paid = books.values().filter(|call| {
        let ours = callers.iter().any(|(_, wallet)| *wallet == call.placed.wallet_id.to_string());
        ours && call.rating().is_some_and(|rating| rating.charge.is_positive())
    });
    assert_eq!(paid.count(), answers.len(), "each key was charged once");
    audit(&auditor, &queries[0].address(), &token).await;
    assert!(
        tally.ok > 200 && tally.repeats > 0 && tally.reads > 0 && answers.len() > 10,
        "{} {tally:?}",
        answers.len()
    );
    for (number, recoveries) in &recoveries {
        let demanded = "clients behind the ingress are served while one of two is dead, no wallet is overspent, each call's key is \
                        charged once";
        report::fault(
            number,
            &Figures { injected: tally.made(number), recoveries, demanded, invariants: &["I2", "I10"] },
        );
    }
    println!(
        "{} deaths, {MEANWHILE} commands meanwhile took {longest:.2?}, {events} events, {} calls, {tally:.2?}",
        10 * deaths,
        answers.len()
    );
}
