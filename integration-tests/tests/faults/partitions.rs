//! F8: one of two `command` processes, the projector or a gateway cannot reach the database, in one direction or in both, for a while
//! or for good. The others go on; when the network is whole again everything is level by itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use modelfaucet_integration_tests::calls::{booked_when_ended, chat, check_read, compare, streamed, until_charged};
use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::judge::{audit, check, level};
use modelfaucet_integration_tests::process::{Role, Setting, Up, url};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_integration_tests::proxy::{Flow, Proxy};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, Plan, Traffic, until};
use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::json;

use super::{asked_for, through_a_proxy};

/// Commands that must be answered meanwhile.
const MEANWHILE: u64 = 20;
/// Clients with calls beside those with commands.
const CALLERS: usize = 2;

/// How the network is broken.
#[derive(Clone, Copy, Debug)]
enum Partition {
    /// Connections are cut, and new ones refused.
    Cut,
    /// Nothing passes; it all comes later.
    Held,
    /// What the server says comes later.
    HeldAnswers,
    /// What the server is asked is lost, and nobody is told.
    LostQuestions,
    /// What the server says is lost, and nobody is told.
    LostAnswers,
}

const ALL: [Partition; 5] =
    [Partition::Cut, Partition::Held, Partition::HeldAnswers, Partition::LostQuestions, Partition::LostAnswers];

impl Partition {
    fn begin(self, proxy: &Proxy) {
        match self {
            Self::Cut => {
                proxy.refuse(true);
                proxy.cut();
            }
            Self::Held => proxy.flow(Flow::Held),
            Self::HeldAnswers => proxy.flow_each(Flow::Free, Flow::Held),
            Self::LostQuestions => proxy.flow_each(Flow::Lost, Flow::Free),
            Self::LostAnswers => proxy.flow_each(Flow::Free, Flow::Lost),
        }
    }

    /// What it has done so far.
    fn trace(self, proxy: &Proxy) -> u64 {
        match self {
            Self::Cut => proxy.refused(),
            Self::Held | Self::HeldAnswers => proxy.held(),
            Self::LostQuestions | Self::LostAnswers => proxy.lost(),
        }
    }
}

/// A role that reaches the database through a proxy.
struct Place {
    name: &'static str,
    proxy: Proxy,
    role: Role,
}

impl Place {
    async fn start(up: &Up, database: &TestDatabase, name: &'static str, verb: &[&str], provider: &Provider) -> Self {
        let user = if verb[0] == "projector" { "ledger_projector" } else { "ledger_command" };
        let (proxy, config) = through_a_proxy(database, user).await;
        let (database, provider) = (url(&config), provider.url());
        let variables = [
            ("DATABASE_URL", database.as_str()),
            ("LITELLM_BASE_URL", provider.as_str()),
            ("GATEWAY_TAKEOVER_MS", "1000"),
            ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0"),
        ];
        let role = up.role_with(verb, user, &variables);
        role.wait_until_ready().await;
        Self { name, proxy, role }
    }
}

/// One who calls models until there is an end of it, with a key for each call.
async fn call(
    address: String,
    token: String,
    number: usize,
    stop: Arc<AtomicBool>,
    count: Arc<AtomicU64>,
) -> Vec<String> {
    let mut answers = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let body = if number == 0 { chat("tokens=3") } else { streamed("tokens=6 gap_ms=10") };
        let key = format!("partitions-{number}-{}", answers.len());
        answers.push(until_charged(|| address.clone(), &token, &key, &body).await);
        count.fetch_add(1, Ordering::Relaxed);
    }
    answers
}

/// Does it decide commands again?
async fn serves(role: &Role, plan: &Plan, key: &str) {
    let path = format!("/v1/admin/wallets/{}/adjustments", plan.wallets[0]);
    let body = json!({ "direction": "credit", "amount_usd": "0.00000001", "reason": "drill" });
    until("a healed process decides", async || {
        let Ok(mut connection) = Connection::open(&role.address(), &plan.token).await else { return false };
        let headers = format!("idempotency-key: {key}\r\n");
        connection.json("POST", &path, &headers, &body).await.is_ok_and(|answer| answer.status == 201)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_that_cannot_reach_the_database_hurts_nobody_else() {
    let Some(database) = TestDatabase::durable().await else { return };
    let mut dice = Dice::of_run();
    let provider = Provider::start().await;
    // `up` sets up the database and the sandbox, opens the wallets, and leaves.
    let mut up = Up::start_with(Setting { database: Some(database.superuser()), ..Setting::default() }).await;
    let plan = Plan::of("partitions", &up, &dice).await;
    let mut callers = Vec::new();
    for number in 0..CALLERS {
        callers.push(up.wallet_with(&format!("caller-{number}"), "50.00").await);
    }
    up.stop();
    let query = up.role("query", "ledger_query");
    query.wait_until_ready().await;
    let mut places = Vec::new();
    for (name, verb) in [
        ("projector", &["projector"][..]),
        ("command-0", &["command"]),
        ("gateway", &["gateway", "--data-dir", "gateway"]),
        ("command-1", &["command"]),
    ] {
        places.push(Place::start(&up, &database, name, verb, &provider).await);
    }
    let commands = places.iter().filter(|place| place.name.starts_with("command")).map(|place| place.role.address());
    let plan = Plan { commands: commands.collect(), reads: query.address(), ..plan };
    let mut traffic = Traffic::start(plan.clone());
    let (stop, calls) = (Arc::new(AtomicBool::new(false)), Arc::<AtomicU64>::default());
    let calling: Vec<_> = (callers.iter().enumerate())
        .map(|(number, (token, _))| {
            let address = places[2].role.address();
            tokio::spawn(call(address, token.clone(), number, Arc::clone(&stop), Arc::clone(&calls)))
        })
        .collect();

    // By night as many as are asked for, each up to half a minute; else each place once, and a connection that is half there first,
    // because that takes longest to be noticed.
    let nightly = asked_for("MODELFAUCET_PARTITIONS", 0);
    let usual = [Partition::LostAnswers, Partition::Held, Partition::Cut, Partition::LostQuestions];
    for round in 0..if nightly > 0 { nightly } else { 4 } {
        let at = usize::try_from(round).unwrap();
        let place = &places[at % 4];
        let (partition, milliseconds) = match usual.get(at).filter(|_| nightly == 0) {
            Some(partition) => (*partition, 800),
            None => (*dice.pick(&ALL), dice.between(1_000, 30_000)),
        };
        traffic.more(MEANWHILE).await;
        traffic.fault("F8", place.name, &format!("{partition:?} for {milliseconds} ms"));
        let before = partition.trace(&place.proxy);
        partition.begin(&place.proxy);
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
        until("the fault is real", async || partition.trace(&place.proxy) > before).await;
        // The others go on meanwhile.
        traffic.more(MEANWHILE).await;
        place.proxy.refuse(false);
        place.proxy.flow(Flow::Free);
        if place.name.starts_with("command") {
            serves(&place.role, &plan, &format!("healed-{round}")).await;
        }
    }
    traffic.more(MEANWHILE).await;
    let called = calls.load(Ordering::Relaxed);
    until("the gateway goes on", async || calls.load(Ordering::Relaxed) > called + 4).await;
    stop.store(true, Ordering::Relaxed);
    let mut answers = Vec::new();
    for caller in calling {
        answers.extend(caller.await.unwrap());
    }
    let (tally, histories) = traffic.stop().await;
    level(&database).await;
    for place in &places {
        place.role.wait_until_ready().await;
    }
    let auditor = database.role(ServiceRole::Audit);
    let books = booked_when_ended(&auditor).await;
    let events = check(&auditor, &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    check_read(&answers, &books);
    compare(&books, &provider.book());
    audit(&auditor, &query.address(), &plan.token).await;
    assert!(tally.ok > 100 && tally.unanswered == 0 && answers.len() > 10, "{} calls, {tally:?}", answers.len());
    let demanded = "a role that cannot reach the database hurts nobody else; all are level once it can";
    report::fault("F8", &Figures { injected: tally.made("F8"), recoveries: &[], demanded, invariants: &[] });
    println!("{} calls, {events} events, {tally:.2?}", answers.len());
}
