//! Three gateways under calls of every kind, while gateways, PostgreSQL and both are killed again and again. Afterwards the
//! provider's own book is laid beside the log: whatever it billed has one ending, and nothing that it delivered is missing.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::calls::{
    Booked, Raw, Served, booked_when_ended, charged, chat, check_read, compare, label, streamed, until_charged,
};
use modelfaucet_integration_tests::process::{Role, Up, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::Dice;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::ids::HoldId;
use modelfaucet_schema::money::Money;
use serde_json::Value;

/// How many deaths, unless `MODELFAUCET_KILLS` says otherwise.
const KILLS: usize = 100;
/// Clients at once; every third repeats what it could not read to the end, with the same key.
const CLIENTS: u64 = 12;
/// What calls do at the provider.
const SCRIPTS: &[&str] = &[
    "tokens=3",
    "tokens=12 gap_ms=15",
    "tokens=6 delay_ms=120",
    "tokens=20 gap_ms=40",
    "usage=none tokens=5",
    "status=500",
    "tokens=4 disconnect_after=2",
    "tokens=8 stall_after=3",
];
/// A client gives up on a key after so long.
const PATIENCE: Duration = Duration::from_secs(60);

/// What one client saw.
#[derive(Default)]
struct Seen {
    answers: Vec<String>,
    /// Keys whose call is known to be charged.
    charged: usize,
    /// Keys that were used.
    keys: usize,
}

struct Client {
    dice: Dice,
    addresses: Vec<String>,
    token: String,
    stop: Arc<AtomicBool>,
}

impl Client {
    async fn ask(&mut self, headers: &str, body: &Value) -> String {
        let address = self.dice.pick(&self.addresses).clone();
        if let Ok(raw) = Raw::try_send(&address, &self.token, headers, body).await {
            return raw.rest().await;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
        String::new()
    }

    fn body(&mut self) -> Value {
        let script = self.dice.pick(SCRIPTS);
        if self.dice.percent(50) { chat(script) } else { streamed(script) }
    }

    /// Calls without a key; some clients leave in the middle.
    async fn plain(mut self) -> Seen {
        let mut seen = Seen::default();
        while !self.stop.load(Ordering::Relaxed) {
            let body = self.body();
            if self.dice.percent(15) {
                let patience = Duration::from_millis(self.dice.between(1, 120));
                let _left = tokio::time::timeout(patience, self.ask("", &body)).await;
            } else {
                seen.answers.push(self.ask("", &body).await);
            }
        }
        seen
    }

    /// Calls with a key each.
    async fn keyed(mut self, name: u64) -> Seen {
        let mut seen = Seen::default();
        while !self.stop.load(Ordering::Relaxed) {
            seen.keys += 1;
            let script = self.dice.pick(&["tokens=3", "tokens=5 delay_ms=80", "tokens=4 delay_ms=250"]);
            let (body, key) = (chat(script), format!("kill-{name}-{}", seen.keys));
            let (dice, addresses) = (&mut self.dice, &self.addresses);
            let answer = until_charged(|| dice.pick(addresses).clone(), &self.token, &key, &body).await;
            seen.charged += 1;
            seen.answers.push(answer);
        }
        seen
    }
}

/// What the provider billed and we did not charge stands in the books as a cost that may come, never in silence.
fn check_released(books: &BTreeMap<HoldId, Booked>, truth: &BTreeMap<String, Vec<Served>>) -> usize {
    let mut absorbed = 0;
    for (hold, call) in books {
        let served = truth.get(&label(*hold)).map(Vec::as_slice).unwrap_or_default();
        let billed = served.iter().any(|served| served.bill.is_some_and(|bill| bill[2] + bill[3] > 0));
        let Event::HoldReleased(released) = call.ending() else { continue };
        if !billed {
            continue;
        }
        absorbed += 1;
        let told = call.outcome().attempts.iter().any(|attempt| attempt.exposure.is_some_and(Money::is_positive));
        assert!(told, "{} was billed and given back in silence: {released:?} {served:?}", label(*hold));
    }
    absorbed
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_dies_each_billed_call_has_one_ending() {
    if !has_postgres() {
        return;
    }
    let kills = std::env::var("MODELFAUCET_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(KILLS);
    let mut dice = Dice::of_run();
    let provider = Provider::start().await;
    let url = provider.url();
    let settings = [
        ("LITELLM_BASE_URL", url.as_str()),
        ("GATEWAY_TAKEOVER_MS", "1000"),
        ("GATEWAY_IDLE_TIMEOUT_MS", "400"),
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0"),
        ("PROVIDER_RETRY_DELAY_MS", "20"),
    ];
    let mut up = Up::start_with_variables(&settings).await;
    let role = |name: &str| up.role_with(&["gateway", "--data-dir", name], "ledger_command", &settings);
    let mut gateways = [role("second"), role("third")];
    for gateway in &gateways {
        gateway.wait_until_ready().await;
    }
    let (token, _) = up.wallet_with("killed", "500.00").await;
    let addresses: Vec<_> = std::iter::once(up.address()).chain(gateways.iter().map(Role::address)).collect();
    let stop = Arc::new(AtomicBool::new(false));
    let (mut clients, mut keyed_wallets) = (Vec::new(), Vec::new());
    for number in 0..CLIENTS {
        let mut client = Client {
            dice: Dice(dice.roll()),
            addresses: addresses.clone(),
            token: token.clone(),
            stop: Arc::clone(&stop),
        };
        if number % 3 == 0 {
            let (token, wallet) = up.wallet_with(&format!("keyed-{number}"), "50.00").await;
            client.token = token;
            keyed_wallets.push(wallet);
            clients.push(tokio::spawn(client.keyed(number)));
        } else {
            clients.push(tokio::spawn(client.plain()));
        }
    }
    // Of each hundred deaths: seventy of a gateway alone, fifteen of PostgreSQL, fifteen of the process that has both.
    let mut recoveries = BTreeMap::<&str, Vec<Duration>>::new();
    for _ in 0..kills {
        tokio::time::sleep(Duration::from_millis(dice.between(30, 350))).await;
        let began = Instant::now();
        let what = match dice.between(0, 100) {
            0..70 => {
                let victim = usize::from(dice.percent(50));
                gateways[victim].kill().unwrap();
                if dice.percent(8) {
                    // It stays away so long that another one ends its calls.
                    tokio::time::sleep(Duration::from_millis(2_500)).await;
                }
                gateways[victim].start_again();
                gateways[victim].wait_until_ready().await;
                "gateway"
            }
            70..85 => {
                assert!(up.crash_postgres());
                // It is noticed, and started again.
                tokio::time::sleep(Duration::from_millis(100)).await;
                up.wait_until_ready(PATIENCE).await;
                "PostgreSQL"
            }
            _ => {
                up.kill();
                up.start_again();
                up.wait_until_ready(PATIENCE).await;
                for gateway in &gateways {
                    gateway.wait_until_ready().await;
                }
                "gateway and PostgreSQL"
            }
        };
        recoveries.entry(what).or_default().push(began.elapsed());
    }
    tokio::time::sleep(Duration::from_millis(300)).await;
    stop.store(true, Ordering::Relaxed);
    let mut seen = Seen::default();
    for client in clients {
        let client = client.await.unwrap();
        seen.answers.extend(client.answers);
        seen.charged += client.charged;
        seen.keys += client.keys;
    }
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let truth = provider.book();
    check_read(&seen.answers, &books);
    let exact = compare(&books, &truth);
    let absorbed = check_released(&books, &truth);
    // A key pays once, whoever died: each was repeated until it was answered.
    let of_keys = books.values().filter(|call| {
        keyed_wallets.contains(&call.placed.wallet_id.to_string())
            && call.rating().is_some_and(|r| r.charge.is_positive())
    });
    assert_eq!((of_keys.count(), seen.charged), (seen.keys, seen.keys), "each key was charged once");
    let report = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &Value::Null).await.json();
    assert_eq!(report["summary"]["mismatch_count"], 0, "{report}");
    let verified = up.run(&["verify", "--data-dir", "data"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    let requests: usize = truth.values().map(Vec::len).sum();
    assert!(books.len() > kills && exact > kills, "{} calls, {exact} by the provider's counts", books.len());
    for (number, what) in [("F3", "gateway"), ("F4", "PostgreSQL"), ("F2", "gateway and PostgreSQL")] {
        let recoveries = recoveries.get(what).map(Vec::as_slice).unwrap_or_default();
        let figures = Figures {
            injected: recoveries.len() as u64,
            recoveries,
            demanded: "each call that the provider billed has one ending, no answer that was read is missing, each key is charged once",
            invariants: &["I1", "I2", "I10"],
        };
        report::fault(number, &figures);
    }
    let deaths: BTreeMap<_, _> = recoveries.iter().map(|(what, all)| (what, all.len())).collect();
    let longest: BTreeMap<_, _> = recoveries.iter().map(|(what, all)| (what, all.iter().max())).collect();
    println!(
        "{deaths:?}, back after at most {longest:.2?}; {} calls, {requests} requests seen by the provider, {exact} charged by its \
         counts, {absorbed} billed and absorbed, {} keys, {} USD charged",
        books.len(),
        seen.keys,
        charged(&books)
    );
}
