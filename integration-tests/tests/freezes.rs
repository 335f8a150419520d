//! Kill switches under load, on two processes over one log: behind the position of a freeze, and before that of its thaw, nothing of the
//! frozen class was recorded. `MODELFAUCET_FREEZES` says how many freezes; 60 unless it is set.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_schema::event::{Event, FreezeScope};
use modelfaucet_schema::ids::{AppId, DeveloperId, Position, SessionId, WalletId};
use modelfaucet_schema::log::LogReader;
use serde_json::{Value, json};

/// Users who spend at the same time.
const USERS: usize = 4;

/// How long something is frozen.
struct Frozen {
    scope: FreezeScope,
    from: i64,
    to: i64,
}

/// What an event does, as far as freezes go, and to whom.
#[derive(Default)]
#[expect(clippy::struct_excessive_bools, reason = "each freeze asks for others of them")]
struct Deed {
    app: Option<AppId>,
    wallet: Option<WalletId>,
    session: Option<SessionId>,
    uses: bool,
    opens: bool,
    credits: bool,
    pays_out: Option<DeveloperId>,
    /// Goes on whatever is frozen.
    ends: bool,
}

fn deed(event: &Event, apps: &BTreeMap<WalletId, AppId>) -> Deed {
    let of = |wallet: WalletId| Deed { app: apps.get(&wallet).copied(), wallet: Some(wallet), ..Deed::default() };
    match event {
        Event::HoldPlaced(event) => Deed { uses: true, session: event.call.session_id, ..of(event.wallet_id) },
        Event::UsageRecorded(event) => Deed { uses: true, session: event.call.session_id, ..of(event.wallet_id) },
        Event::SessionOpened(event) => Deed { opens: true, ..of(event.wallet_id) },
        Event::TopUpRequested(event) => Deed { opens: false, credits: true, ..of(event.wallet_id) },
        Event::TopUpCredited(event) => Deed { credits: true, ..of(event.wallet_id) },
        Event::TestCreditGranted(event) => Deed { credits: true, ..of(event.wallet_id) },
        Event::PayoutRequested(event) => Deed { pays_out: Some(event.developer_id), ..Deed::default() },
        Event::PayoutApproved(event) => Deed { pays_out: Some(event.developer_id), ..Deed::default() },
        Event::Frozen(_)
        | Event::Thawed(_)
        | Event::StaffTokenIssued(_)
        | Event::HoldCaptured(_)
        | Event::HoldReleased(_)
        | Event::HoldExpired(_)
        | Event::LateUsageCaptured(_)
        | Event::SessionRevoked(_)
        | Event::SessionExpired(_) => Deed { ends: true, ..Deed::default() },
        _ => Deed::default(),
    }
}

fn is_stopped(scope: FreezeScope, deed: &Deed) -> bool {
    match scope {
        FreezeScope::App(app) => deed.app == Some(app) && (deed.uses || deed.opens),
        FreezeScope::Wallet(wallet) => deed.wallet == Some(wallet) && (deed.uses || deed.opens),
        FreezeScope::Session(session) => deed.session == Some(session) && deed.uses,
        // The sandbox has one developer, of all apps.
        FreezeScope::Developer(developer) => deed.pays_out == Some(developer) || deed.uses || deed.opens,
        FreezeScope::Payouts => deed.pays_out.is_some(),
        FreezeScope::Usage => deed.uses,
        FreezeScope::TopUps => deed.credits,
        FreezeScope::Everything => !deed.ends,
        FreezeScope::Refunds | FreezeScope::ProviderCredential(_) => panic!("{scope:?} is not tried here"),
    }
}

/// A user of the sandbox app, until there is an end of it. Refusals are what the test is about.
async fn spend(address: String, token: String, number: usize, stop: Arc<AtomicBool>, done: Arc<AtomicU64>) {
    let mut connection = Connection::open(&address, &token).await.unwrap();
    let used = json!({ "model": "gpt-4o-mini", "usage": { "output_text": 1 } });
    let held = json!({ "model": "gpt-4o-mini", "amount_usd": "0.001" });
    let mut round = 0_u64;
    while !stop.load(Ordering::Acquire) {
        round += 1;
        let key = format!("idempotency-key: u{number}-{round}\r\n");
        let answer = connection.json("POST", "/v1/usage", &key, &used).await.unwrap();
        done.fetch_add(u64::from(answer.status == 201), Ordering::Relaxed);
        let key = format!("idempotency-key: h{number}-{round}\r\n");
        let hold = connection.json("POST", "/v1/usage/holds", &key, &held).await.unwrap();
        if let Some(id) = hold.json()["hold_id"].as_str() {
            let path = format!("/v1/usage/holds/{id}/release");
            let released = connection.json("POST", &path, "", &Value::Null).await.unwrap();
            assert_eq!(released.status, 200, "open holds still end: {released:?}");
        }
        assert!(matches!(answer.status, 201 | 503), "{answer:?}");
    }
}

/// Opens sessions and gives credit, as administration does.
async fn administrate(address: String, admin: String, wallet: String, stop: Arc<AtomicBool>) {
    let mut admin = Connection::open(&address, &admin).await.unwrap();
    let mut visitor = Connection::open(&address, "").await.unwrap();
    let open = json!({ "public_app_id": "app_pub_demo", "external_user_id": "frozen-0" });
    let credit = format!("/v1/admin/wallets/{wallet}/credit-test-balance");
    while !stop.load(Ordering::Acquire) {
        let opened = visitor.json("POST", "/v1/sessions", "", &open).await.unwrap();
        let credited = admin.json("POST", &credit, "", &json!({ "amount_usd": "0.01" })).await.unwrap();
        assert!(matches!((opened.status, credited.status), (200 | 503, 200 | 503)), "{opened:?} {credited:?}");
    }
}

/// Requests payouts of a cent and has somebody else approve them; then they fail, and the cent is owed again.
async fn pay_out(
    address: String,
    [requester, approver]: [String; 2],
    developer: DeveloperId,
    stop: Arc<AtomicBool>,
    done: Arc<AtomicU64>,
) {
    let mut requester = Connection::open(&address, &requester).await.unwrap();
    let mut approver = Connection::open(&address, &approver).await.unwrap();
    let body = json!({ "developer_id": developer, "amount_usd": "0.01" });
    let reason = json!({ "reason": "drill" });
    for round in 0.. {
        if stop.load(Ordering::Acquire) {
            break;
        }
        let key = format!("idempotency-key: p{round}\r\n");
        let requested = requester.json("POST", "/v1/admin/payouts", &key, &body).await.unwrap();
        assert!(matches!(requested.status, 201 | 503), "{requested:?}");
        let Some(id) = requested.json()["id"].as_str().map(|id| format!("/v1/admin/payouts/{id}")) else { continue };
        let approved = approver.json("POST", &format!("{id}/approve"), "", &json!({})).await.unwrap();
        assert!(matches!(approved.status, 200 | 503), "{approved:?}");
        done.fetch_add(u64::from(approved.status == 200), Ordering::Relaxed);
        let end = if approved.status == 200 { "fail" } else { "cancel" };
        // Only a freeze of everything stops this.
        while requester.json("POST", &format!("{id}/{end}"), "", &reason).await.unwrap().status == 503 {}
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_a_frozen_class_lies_behind_its_freeze() {
    if !has_postgres() {
        return;
    }
    let wanted: usize = std::env::var("MODELFAUCET_FREEZES").ok().and_then(|count| count.parse().ok()).unwrap_or(60);
    let up = Up::start().await;
    let second = up.role("command", "ledger_command");
    second.wait_until_ready().await;
    let thawer = json!({ "name": "thaws", "role": "operator" });
    let thawer =
        up.as_admin("POST", "/v1/admin/tokens", "", &thawer).await.json()["token"].as_str().unwrap().to_owned();
    let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let (mut tasks, mut wallets) = (Vec::new(), Vec::new());
    for number in 0..USERS {
        let (token, wallet) = up.wallet_with(&format!("frozen-{number}"), "1000").await;
        let address = if number % 2 == 0 { up.address() } else { second.address() };
        tasks.push(tokio::spawn(spend(address, token, number, Arc::clone(&stop), Arc::clone(&done))));
        wallets.push(wallet);
    }
    tasks.push(tokio::spawn(administrate(second.address(), up.admin(), wallets[1].clone(), Arc::clone(&stop))));
    let mut earner = up.connect(&up.wallet_with("frozen-earner", "1000").await.0).await.unwrap();
    let used = json!({ "model": "gpt-4o-mini", "usage": { "output_text": 10_000_000 } });
    assert_eq!(earner.json("POST", "/v1/usage", "idempotency-key: earned\r\n", &used).await.unwrap().status, 201);
    let developer = up.as_admin("GET", "/v1/developer/apps", "", &Value::Null).await.json();
    let developer: DeveloperId = developer["items"][0]["developer_id"].as_str().unwrap().parse().unwrap();
    let approver = json!({ "name": "approves", "role": "admin" });
    let approver =
        up.as_admin("POST", "/v1/admin/tokens", "", &approver).await.json()["token"].as_str().unwrap().to_owned();
    let paid_out = Arc::new(AtomicU64::new(0));
    let people = [up.admin(), approver];
    tasks.push(tokio::spawn(pay_out(up.address(), people, developer, Arc::clone(&stop), Arc::clone(&paid_out))));
    let sessions = up.as_admin("GET", "/v1/developer/sessions?limit=200", "", &Value::Null).await.json();
    let session_of = |wallet: &str| {
        let items = sessions["items"].as_array().unwrap();
        items.iter().find(|item| item["wallet_id"] == wallet).unwrap()["id"].as_str().unwrap().to_owned()
    };
    let app = apps(&up).await.values().next().copied().unwrap();
    let scopes: Vec<FreezeScope> = vec![
        FreezeScope::Usage,
        FreezeScope::Everything,
        FreezeScope::TopUps,
        FreezeScope::Payouts,
        FreezeScope::Developer(developer),
        FreezeScope::App(app),
        FreezeScope::Wallet(wallets[0].parse().unwrap()),
        FreezeScope::Session(session_of(&wallets[1]).parse().unwrap()),
    ];
    let mut random = u64::from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().subsec_nanos()) | 1;
    let mut roll = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let mut freezer = up.connect(&up.admin()).await.unwrap();
    let mut other = Connection::open(&second.address(), &thawer).await.unwrap();
    let mut frozen = Vec::with_capacity(wanted);
    for _ in 0..wanted {
        let scope = scopes[usize::try_from(roll(scopes.len() as u64)).unwrap()];
        let body = json!({ "scope": scope, "reason": "drill" });
        tokio::time::sleep(Duration::from_micros(roll(3_000))).await;
        let on = freezer.json("POST", "/v1/admin/freezes", "", &body).await.unwrap();
        assert_eq!(on.status, 201, "{on:?}");
        tokio::time::sleep(Duration::from_micros(roll(3_000))).await;
        let off = other.json("POST", "/v1/admin/freezes/thaw", "", &body).await.unwrap();
        assert_eq!(off.status, 200, "{off:?}");
        let position = |answer: &Value| answer["position"].as_i64().unwrap();
        frozen.push(Frozen { scope, from: position(&on.json()), to: position(&off.json()) });
    }
    stop.store(true, Ordering::Release);
    for task in tasks {
        task.await.unwrap();
    }

    let apps = apps(&up).await;
    let (mut behind, mut stoppable, mut between) = (Vec::new(), 0_u64, 0_u64);
    for (position, event) in log(&up).await {
        let deed = deed(&event, &apps);
        stoppable += u64::from(deed.uses || deed.opens || deed.credits || deed.pays_out.is_some());
        for frozen in frozen.iter().filter(|frozen| frozen.from < position && position < frozen.to) {
            between += 1;
            if is_stopped(frozen.scope, &deed) {
                behind.push(format!("{} at {position} behind {:?} at {}", event.name(), frozen.scope, frozen.from));
            }
        }
    }
    println!(
        "{} freezes, {stoppable} events that a freeze can stop, {between} events between freezes and thaws, {} behind",
        frozen.len(),
        behind.len()
    );
    report::judged("freezes", &[("I13", between, behind.len() as u64)]);
    assert_eq!(behind, Vec::<String>::new());
    assert!(stoppable > 100 && between > 10, "there was no load: {stoppable} {between}");
    assert!(paid_out.load(Ordering::Relaxed) > 0, "nothing was paid out");
    let (injected, demanded) = (frozen.len() as u64, "nothing of a frozen class lies between its freeze and its thaw");
    report::fault("F19", &Figures { injected, recoveries: &[], demanded, invariants: &[] });
}

/// The whole log, as an auditor reads it.
async fn log(up: &Up) -> Vec<(i64, Event)> {
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    let connection = tokio::spawn(connection);
    let reader = LogReader::prepare(Arc::new(client)).await.unwrap();
    let shard = modelfaucet_schema::ids::ShardId(0);
    let (log_id, _) = reader.head(shard).await.unwrap();
    let mut head = modelfaucet_schema::log::Head::genesis(log_id, shard);
    let mut events = Vec::new();
    loop {
        let page = reader.page(shard, head, 8_192).await.unwrap();
        if page.events.is_empty() {
            break;
        }
        head = page.head;
        events.extend(page.events.into_iter().map(|recorded| {
            let Position(position) = recorded.position;
            (position, recorded.event)
        }));
    }
    drop(reader);
    connection.await.unwrap().unwrap();
    events
}

/// Which app each wallet is of.
async fn apps(up: &Up) -> BTreeMap<WalletId, AppId> {
    let opened = |(_, event)| match event {
        Event::WalletOpened(event) => Some((event.wallet_id, event.app_id)),
        _ => None,
    };
    log(up).await.into_iter().filter_map(opened).collect()
}
