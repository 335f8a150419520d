//! What stays true when processes die: clients that keep their keys and repeat them, a service and a server that are killed under
//! them, and afterwards a checker that shares no code with the product. And two writers of one log.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::connection::{Answer, Connection};
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::history::{Asked, History, Run, export_log, log_id, position};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{BatchId, Position, ShardId};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::{AppendBatch, AppendError, Appended, Head, LogAppender, LogReader};
use modelfaucet_schema::time::Timestamp;
use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::{Value, json};
use tokio::sync::Mutex;

const CLIENTS: usize = 16;
const KILLS: usize = 12;
const SERVER_CRASHES: usize = 8;
/// How long a client may need to learn what became of a command.
const PATIENCE: Duration = Duration::from_secs(60);

/// Numbers that look random and are the same for the same seed (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high - 1`.
    fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.next() % (high - low)
    }

    fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }
}

fn usd(units: u64) -> String {
    format!("{}.{:08}", units / 100_000_000, units % 100_000_000)
}

/// A command that keeps its key over all attempts.
#[derive(Clone)]
struct Order {
    operation: &'static str,
    path: String,
    key: String,
    wallet: String,
    amount: Option<String>,
    body: Value,
}

impl Order {
    fn headers(&self) -> String {
        // A credit's key is made of its payment.
        if self.operation == "credit" { String::new() } else { format!("idempotency-key: {}\r\n", self.key) }
    }

    /// The same key for something else: no first request has these figures.
    fn changed(&self) -> Option<Self> {
        let mut other = self.clone();
        match self.operation {
            "hold" | "adjust" => other.body["amount_usd"] = "0.00000007".into(),
            "capture" | "usage" => other.body["usage"]["output_text"] = 1_000.into(),
            "top_up" => other.body["amount_usd"] = "77.77".into(),
            _ => return None,
        }
        Some(other)
    }
}

/// What all clients know.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Commands that were answered ok.
    ok: AtomicU64,
    /// Credits that are on their way or done; others send them again.
    credits: Mutex<Vec<Order>>,
}

#[derive(Debug, Default)]
struct Tally {
    ok: u64,
    refused: u64,
    in_doubt: u64,
    undecided: u64,
    retries: u64,
    repeats: u64,
    reads: u64,
    longest: Duration,
    /// Answers that no honest ledger gives. The checker is asked first: it names what they come from.
    odd: Vec<String>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.undecided += other.undecided;
        self.retries += other.retries;
        self.repeats += other.repeats;
        self.reads += other.reads;
        self.longest = self.longest.max(other.longest);
        self.odd.extend(other.odd);
    }
}

struct Client {
    number: usize,
    address: String,
    token: String,
    wallets: Arc<Vec<String>>,
    shared: Arc<Shared>,
    dice: Dice,
    history: History,
    connection: Option<Connection>,
    orders: u64,
    /// Some that took effect, with their answers.
    done: Vec<(Order, Answer)>,
    seen: i64,
    tally: Tally,
}

impl Client {
    async fn run(mut self) -> Tally {
        while !self.shared.stop.load(Ordering::Relaxed) {
            match self.dice.between(0, 100) {
                0..60 => self.call().await,
                60..85 => self.use_once().await,
                85..92 => self.top_up().await,
                92..98 => self.adjust().await,
                _ => self.read().await,
            }
            if self.dice.percent(2) {
                self.repeat().await;
            }
            if self.dice.percent(1) {
                self.reuse().await;
            }
        }
        self.tally
    }

    fn order(&mut self, operation: &'static str, path: String, wallet: &str, body: Value) -> Order {
        self.orders += 1;
        let key = format!("c{:02}-{:06}-{operation}", self.number, self.orders);
        Order { operation, path, key, wallet: wallet.to_owned(), amount: None, body }
    }

    /// One wallet takes a fifth of the traffic.
    fn wallet(&mut self) -> String {
        let at = if self.dice.percent(20) { 0 } else { self.dice.between(0, self.wallets.len() as u64) };
        self.wallets[usize::try_from(at).unwrap()].clone()
    }

    fn usage(&mut self) -> Value {
        json!({
            "input_uncached": self.dice.between(0, 4_000), "cache_read": self.dice.between(0, 3_000),
            "output_text": self.dice.between(1, 900)
        })
    }

    /// A hold, then its end. One in thirty is left to expire.
    async fn call(&mut self) {
        let wallet = self.wallet();
        let amount = usd(self.dice.between(10_000, 150_000));
        let abandoned = self.dice.between(0, 30) == 0;
        let seconds = if abandoned { 1 } else { 900 };
        let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": amount, "expires_in": seconds });
        let order = Order { amount: Some(amount), ..self.order("hold", "/v1/usage/holds".into(), &wallet, body) };
        let answer = self.settle(&order).await;
        if answer.status == 402 || abandoned {
            return;
        }
        if !self.expect(&order, &answer, &[201]) {
            return;
        }
        let hold = answer.json()["hold_id"].as_str().unwrap().to_owned();
        let order = if self.dice.percent(75) {
            let body = json!({ "usage": self.usage() });
            self.order("capture", format!("/v1/usage/holds/{hold}/capture"), &wallet, body)
        } else {
            self.order("release", format!("/v1/usage/holds/{hold}/release"), &wallet, json!({ "reason": "not_sent" }))
        };
        let answer = self.settle(&order).await;
        self.expect(&order, &answer, &[200]);
    }

    async fn use_once(&mut self) {
        let wallet = self.wallet();
        let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "usage": self.usage() });
        let order = self.order("usage", "/v1/usage".into(), &wallet, body);
        let answer = self.settle(&order).await;
        self.expect(&order, &answer, &[201, 402]);
    }

    /// A requested top-up and its credit; a third of the credits of others is sent again, also while they are on their way.
    async fn top_up(&mut self) {
        let wallet = self.wallet();
        let amount = usd(self.dice.between(1, 30) * 1_000_000);
        let body = json!({ "amount_usd": amount, "provider": "stripe" });
        let path = format!("/v1/admin/wallets/{wallet}/top-ups");
        let order = Order { amount: Some(amount.clone()), ..self.order("top_up", path, &wallet, body) };
        let answer = self.settle(&order).await;
        if !self.expect(&order, &answer, &[201]) {
            return;
        }
        let top_up = answer.json()["top_up_id"].as_str().unwrap().to_owned();
        let payment = format!("pi_{}", order.key);
        let body = json!({ "payment": payment, "amount_usd": amount });
        let path = format!("/v1/admin/top-ups/{top_up}/credit");
        let credit = Order {
            amount: Some(amount),
            key: format!("payment:{payment}"),
            ..self.order("credit", path, &wallet, body)
        };
        let others = {
            let mut credits = self.shared.credits.lock().await;
            credits.push(credit.clone());
            let at = self.dice.between(0, credits.len() as u64);
            if self.dice.percent(33) { credits.get(usize::try_from(at).unwrap()).cloned() } else { None }
        };
        for order in [Some(credit), others].into_iter().flatten() {
            let answer = self.settle(&order).await;
            self.expect(&order, &answer, &[200]);
        }
    }

    async fn adjust(&mut self) {
        let wallet = self.wallet();
        let amount = usd(self.dice.between(1, 50_000));
        let direction = if self.dice.percent(50) { "credit" } else { "debit" };
        let body = json!({ "direction": direction, "amount_usd": amount, "reason": "drill" });
        let path = format!("/v1/admin/wallets/{wallet}/adjustments");
        let order = Order { amount: Some(amount), ..self.order("adjust", path, &wallet, body) };
        let answer = self.settle(&order).await;
        self.expect(&order, &answer, &[201, 402]);
    }

    /// Reads a wallet at or behind the last position that this client was told. Nothing is repeated: a read has no effect.
    async fn read(&mut self) {
        let (wallet, min) = (self.wallet(), self.seen);
        let path = format!("/v1/wallets/{wallet}?min_position={min}");
        match self.exchange("GET", &path, "", b"").await {
            Ok(answer) if answer.status == 200 => {
                self.tally.reads += 1;
                self.history.read(&wallet, min, &answer).unwrap();
            }
            _ => self.connection = None,
        }
    }

    /// An earlier key with the same body: the first answer again, byte for byte.
    async fn repeat(&mut self) {
        let Some((order, first)) = self.earlier() else { return };
        let again = self.settle(&order).await;
        if (again.status, &again.body) != (first.status, &first.body) || again.header("idempotent-replayed").is_none() {
            self.tally.odd.push(format!("{} was answered {first:?}, then {again:?}", order.key));
        }
        self.tally.repeats += 1;
    }

    /// An earlier key with another body.
    async fn reuse(&mut self) {
        let Some((order, _)) = self.earlier() else { return };
        let Some(other) = order.changed() else { return };
        let answer = self.settle(&other).await;
        self.expect(&other, &answer, &[422]);
    }

    /// Is the answer one of those that it can be?
    fn expect(&mut self, order: &Order, answer: &Answer, statuses: &[u16]) -> bool {
        let expected = statuses.contains(&answer.status);
        if !expected {
            self.tally.odd.push(format!("{} was answered {} {}", order.key, answer.status, answer.code()));
        }
        expected
    }

    fn earlier(&mut self) -> Option<(Order, Answer)> {
        let known = self.done.len() as u64;
        if known == 0 { None } else { self.done.get(usize::try_from(self.dice.between(0, known)).unwrap()).cloned() }
    }

    /// Sends a command, and again with the same key, until it is known what became of it.
    async fn settle(&mut self, order: &Order) -> Answer {
        let body = order.body.to_string().into_bytes();
        let asked = Asked {
            key: &order.key,
            operation: order.operation,
            wallet: &order.wallet,
            amount: order.amount.as_deref(),
            body: &body,
        };
        let (began, mut pause) = (Instant::now(), Duration::from_millis(10));
        loop {
            if self.connect().await {
                self.history.invoke(&asked).unwrap();
                match self.exchange("POST", &order.path, &order.headers(), &body).await {
                    Ok(answer) if answer.status < 300 => {
                        self.history.ok(&order.key, &answer).unwrap();
                        self.ok(order, &answer, began);
                        return answer;
                    }
                    Ok(answer) if answer.status < 500 => {
                        self.history.refused(&order.key, &answer.code()).unwrap();
                        self.tally.refused += 1;
                        return answer;
                    }
                    Ok(answer) if answer.status == 503 && answer.code() != "in_doubt" => {
                        assert!(["overloaded", "ledger_unavailable"].contains(&answer.code().as_str()), "{answer:?}");
                        assert!(answer.header("retry-after").is_some(), "{answer:?}");
                        self.history.refused(&order.key, &answer.code()).unwrap();
                        self.tally.undecided += 1;
                    }
                    other => {
                        let why = other.map_or_else(|error| error.to_string(), |answer| answer.code());
                        self.history.in_doubt(&order.key, &why).unwrap();
                        self.tally.in_doubt += 1;
                        self.connection = None;
                    }
                }
            }
            assert!(began.elapsed() < PATIENCE, "nobody says what became of {}", order.key);
            self.tally.retries += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    fn ok(&mut self, order: &Order, answer: &Answer, began: Instant) {
        self.tally.ok += 1;
        self.tally.longest = self.tally.longest.max(began.elapsed());
        self.seen = self.seen.max(position(answer).unwrap());
        self.shared.ok.fetch_add(1, Ordering::Relaxed);
        let at = usize::try_from(self.dice.between(0, 64)).unwrap();
        match self.done.get_mut(at) {
            Some(slot) => *slot = (order.clone(), answer.clone()),
            None => self.done.push((order.clone(), answer.clone())),
        }
    }

    /// Is there a connection? Without one no bytes leave, so nothing is in doubt.
    async fn connect(&mut self) -> bool {
        if self.connection.is_none() {
            self.connection = Connection::open(&self.address, &self.token).await.ok();
        }
        self.connection.is_some()
    }

    async fn exchange(&mut self, method: &str, path: &str, headers: &str, body: &[u8]) -> std::io::Result<Answer> {
        let Some(connection) = &mut self.connection else { return Err(std::io::ErrorKind::NotConnected.into()) };
        let sent = connection.send(method, path, headers, "application/json", body);
        tokio::time::timeout(Duration::from_secs(15), sent).await.map_err(std::io::Error::from)?
    }
}

fn checker(file: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("checker").join(file)
}

/// Runs a program of the checker. `None` if Python is missing.
fn python(file: &str, arguments: &[PathBuf]) -> Option<std::process::Output> {
    match Command::new("python3").arg("-B").arg(checker(file)).args(arguments).output() {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            eprintln!("skipped: python3 is not installed");
            None
        }
        output => Some(output.unwrap()),
    }
}

#[test]
fn the_checker_passes_what_is_honest_and_finds_every_lie() {
    let Some(output) = python("test_checker.py", &[]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// What the ledger itself says about its log: `verify` and the reconciliation.
async fn audit(up: &Up) {
    let output = up.run(&["verify", "--data-dir", "data", "--json", "--quiet"]);
    assert!(
        output.status.success(),
        "{}\n{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let answer = up.as_admin("GET", "/v1/admin/reconciliation/ledger?mismatches_only=true", "", &Value::Null).await;
    assert_eq!(answer.status, 200, "{answer:?}");
    let summary = &answer.json()["summary"];
    assert!(summary["wallet_count"].as_u64() > Some(0) && summary["mismatch_count"] == 0, "{summary}");
}

/// Exports the log and runs the checker on it and the history files.
async fn check(up: &Up, folder: &Path, clients: usize) -> u64 {
    let log = folder.join("log.jsonl");
    let events = export_log(&up.database("ledger_audit"), &log).await.unwrap();
    let histories = (0..=clients).map(|client| folder.join(format!("client-{client:02}.jsonl")));
    let arguments: Vec<PathBuf> = ["--log".into(), log].into_iter().chain(histories).collect();
    if let Some(output) = python("check.py", &arguments) {
        println!("{}", String::from_utf8_lossy(&output.stdout));
        assert!(output.status.success(), "the checker found a violation: {}", String::from_utf8_lossy(&output.stderr));
    }
    events
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// `kill -9` of the service; PostgreSQL goes with it.
    Kill,
    /// An immediate stop of PostgreSQL; the supervisor brings it back.
    ServerCrash,
}

/// Makes a fault, proves that it happened, and waits until a command is answered ok again. Returns how long that took.
async fn make(fault: Fault, up: &mut Up, shared: &Shared) -> Duration {
    // A service that has stopped by itself says why in its log, which this shows.
    up.wait_until_ready(PATIENCE).await;
    let server = up.postmaster().expect("a ready service has a server");
    let began = Instant::now();
    match fault {
        Fault::Kill => {
            up.kill();
            assert!(up.connect("").await.is_err(), "the killed service still answers");
            up.start_again();
            up.wait_until_ready(PATIENCE).await;
        }
        Fault::ServerCrash => {
            assert!(up.crash_postgres(), "there was no server to crash");
            while test_kill_process(server).is_ok() {
                assert!(began.elapsed() < PATIENCE, "the crashed server lives on");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    while up.postmaster().is_none_or(|pid| pid == server) {
        assert!(began.elapsed() < PATIENCE, "no new server; the log:\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    up.wait_until_ready(PATIENCE).await;
    let before = shared.ok.load(Ordering::Relaxed);
    while shared.ok.load(Ordering::Relaxed) == before {
        assert!(began.elapsed() < PATIENCE, "no command is answered after {fault:?}; the log:\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

/// Twelve kills and eight crashes in an order that the dice give.
fn faults(dice: &mut Dice) -> Vec<Fault> {
    let mut faults = [vec![Fault::Kill; KILLS], vec![Fault::ServerCrash; SERVER_CRASHES]].concat();
    for at in (1..faults.len()).rev() {
        faults.swap(at, usize::try_from(dice.between(0, at as u64 + 1)).unwrap());
    }
    faults
}

/// Wallets with test credit; every fifth has almost none, so that some commands are refused.
async fn wallets(up: &Up) -> Vec<String> {
    let mut wallets = Vec::new();
    for number in 0..12 {
        let credit = if number % 5 == 4 { "0.02" } else { "20.00" };
        wallets.push(up.wallet_with(&format!("crash-{number}"), credit).await.1);
    }
    wallets
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_command_is_lost_or_doubled_by_crashes() {
    if !has_postgres() {
        return;
    }
    let seed = std::env::var("MODELFAUCET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed);
    let mut dice = Dice(seed);
    let mut up = Up::start().await;
    let folder = tempfile::tempdir().unwrap();
    let wallets = Arc::new(wallets(&up).await);
    let shared = Arc::new(Shared::default());
    let run = Run { run: "crash", seed, log_id: log_id(&up.database("ledger_audit")).await.unwrap() };
    let file = |client: usize| {
        History::create(&folder.path().join(format!("client-{client:02}.jsonl")), &run, client).unwrap()
    };
    let clients: Vec<_> = (0..CLIENTS)
        .map(|number| Client {
            number,
            address: up.address(),
            token: up.admin(),
            wallets: Arc::clone(&wallets),
            shared: Arc::clone(&shared),
            dice: Dice(seed ^ (number as u64 + 1) << 32),
            history: file(number),
            connection: None,
            orders: 0,
            done: Vec::new(),
            seen: 0,
            tally: Tally::default(),
        })
        .map(|client| tokio::spawn(client.run()))
        .collect();

    let mut diary = file(CLIENTS);
    let mut longest = BTreeMap::new();
    for fault in faults(&mut dice) {
        tokio::time::sleep(Duration::from_millis(dice.between(500, 2_000))).await;
        let (name, role, act) = match fault {
            Fault::Kill => ("F2", "up", "kill"),
            Fault::ServerCrash => ("F4", "postgres", "immediate stop"),
        };
        diary.fault(name, role, act).unwrap();
        let recovery = make(fault, &mut up, &shared).await;
        let slot = longest.entry(name).or_insert(recovery);
        *slot = recovery.max(*slot);
    }
    shared.stop.store(true, Ordering::Relaxed);
    let mut tally = Tally::default();
    for client in clients {
        tally.add(client.await.unwrap());
    }

    let events = check(&up, folder.path(), CLIENTS).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit(&up).await;
    // The traces of the faults in the service's own log.
    let log = up.log();
    let traces = |text: &str| log.matches(text).count();
    assert_eq!(traces("the writer's state is folded"), KILLS + 1);
    assert!(traces("PostgreSQL ended; it is started again") >= SERVER_CRASHES, "{log}");
    assert!(
        tally.ok > 500 && tally.in_doubt > 0 && tally.repeats > 0 && tally.refused > 0 && tally.reads > 0,
        "{tally:?}"
    );
    println!(
        "{KILLS} kills, {SERVER_CRASHES} server crashes, longest recovery {longest:.2?}, {events} events, {tally:.2?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_everything_at_once_loses_nothing() {
    if !has_postgres() {
        return;
    }
    let mut up = Up::start().await;
    let (_, wallet) = up.wallet_with("all-at-once", "1.00").await;
    let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.25" });
    let key = "idempotency-key: before-the-crash\r\n";
    let before = up.as_admin("POST", "/v1/usage/holds", key, &body).await;
    assert_eq!(before.status, 201, "{before:?}");

    let server = up.postmaster().unwrap();
    kill_process(server, Signal::KILL).unwrap();
    up.kill();
    assert!(up.connect("").await.is_err(), "the killed service still answers");
    up.start_again();
    up.wait_until_ready(PATIENCE).await;
    assert_ne!(up.postmaster(), Some(server));

    let after = up.as_admin("POST", "/v1/usage/holds", key, &body).await;
    assert_eq!((after.status, after.header("idempotent-replayed"), &after.body), (201, Some("true"), &before.body));
    let path = format!("/v1/wallets/{wallet}?min_position={}", position(&after).unwrap());
    let wallet = up.as_admin("GET", &path, "", &Value::Null).await.json();
    assert_eq!((&wallet["balance_usd"], &wallet["held_usd"]), (&json!("1.00000000"), &json!("0.25000000")), "{wallet}");
    audit(&up).await;
}

/// Sends until it is decided.
async fn send(connection: &mut Connection, key: &str, body: &Value) -> Answer {
    let began = Instant::now();
    loop {
        let answer =
            connection.json("POST", "/v1/usage/holds", &format!("idempotency-key: {key}\r\n"), body).await.unwrap();
        if answer.status < 500 {
            return answer;
        }
        assert!(answer.status == 503 && began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A thousand holds of the same amount over 64 connections against a wallet that can pay exactly 137 of them.
async fn exactly_so_many(up: &Up, addresses: &[String], user: &str) {
    const PAYABLE: usize = 137;
    let (_, wallet) = up.wallet_with(user, "1.37").await;
    let next = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = (0..64)
        .map(|number| {
            let (address, token, next) = (addresses[number % addresses.len()].clone(), up.admin(), Arc::clone(&next));
            let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.01" });
            let user = user.to_owned();
            tokio::spawn(async move {
                let mut connection = Connection::open(&address, &token).await.unwrap();
                let mut answers = Vec::new();
                loop {
                    let order = next.fetch_add(1, Ordering::Relaxed);
                    if order >= 1_000 {
                        return answers;
                    }
                    answers.push(send(&mut connection, &format!("{user}-{order}"), &body).await);
                }
            })
        })
        .collect();
    let mut statuses = BTreeMap::<(u16, String), usize>::new();
    let mut last = 0;
    for sender in senders {
        for answer in sender.await.unwrap() {
            last = last.max(position(&answer).unwrap_or(0));
            *statuses.entry((answer.status, answer.code())).or_default() += 1;
        }
    }
    let expected = [((201, String::new()), PAYABLE), ((402, "in_flight_holds".to_owned()), 1_000 - PAYABLE)];
    assert_eq!(statuses, BTreeMap::from(expected));
    let path = format!("/v1/wallets/{wallet}?min_position={last}");
    let wallet = up.as_admin("GET", &path, "", &Value::Null).await.json();
    let figures = ["balance_usd", "held_usd", "available_usd"].map(|name| wallet[name].as_str().unwrap_or_default());
    assert_eq!(figures, ["1.37000000", "1.37000000", "0.00000000"], "{wallet}");
}

/// 32 clients send one key at once, a third with another body: one effect, the same bytes for the same body, 422 for the others.
async fn one_key_many_senders(up: &mut Up, addresses: &[String]) {
    let (_, wallet) = up.wallet_with("one-key", "5.00").await;
    let body = |amount: &str| json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": amount });
    let start = Arc::new(tokio::sync::Barrier::new(32));
    let senders: Vec<_> = (0..32)
        .map(|number| {
            let body = body(if number % 3 == 0 { "0.02" } else { "0.01" });
            let (address, token, start) = (addresses[number % addresses.len()].clone(), up.admin(), Arc::clone(&start));
            tokio::spawn(async move {
                let mut connection = Connection::open(&address, &token).await.unwrap();
                start.wait().await;
                (body.clone(), send(&mut connection, "the-one-key", &body).await)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for sender in senders {
        answers.push(sender.await.unwrap());
    }
    let (winner, first) = answers.iter().find(|(_, answer)| answer.status == 201).cloned().expect("one takes effect");
    let fresh = answers.iter().filter(|(_, a)| a.status == 201 && a.header("idempotent-replayed").is_none()).count();
    assert_eq!(fresh, 1, "one effect; the others are its repeats");
    for (body, answer) in &answers {
        if *body == winner {
            assert_eq!((answer.status, &answer.body), (201, &first.body));
        } else {
            assert_eq!((answer.status, answer.code().as_str()), (422, "idempotency_key_reused"));
        }
    }
    // The same after a restart.
    up.kill();
    up.start_again();
    up.wait_until_ready(PATIENCE).await;
    let key = "idempotency-key: the-one-key\r\n";
    let again = up.as_admin("POST", "/v1/usage/holds", key, &winner).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    let other = up.as_admin("POST", "/v1/usage/holds", key, &body("0.03")).await;
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_agree_on_every_winner() {
    if !has_postgres() {
        return;
    }
    let mut up = Up::start().await;
    exactly_so_many(&up, &[up.address()], "one-instance").await;
    let second = up.role("command", "ledger_command");
    second.wait_until_ready().await;
    let both = [up.address(), second.address()];
    exactly_so_many(&up, &both, "two-instances").await;
    one_key_many_senders(&mut up, &both).await;
    audit(&up).await;
}

/// A writer dies while its append waits in the server. Another writer refuses the repeat of a command of that append; then the
/// append must not take effect any more: the client was told that nothing happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_repeat_stays_refused_when_the_dead_writers_append_comes_late() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (_, wallet) = up.wallet_with("late-append", "0.01").await;
    let mut doomed = up.role("command", "ledger_command");
    doomed.wait_until_ready().await;
    let connect = async || {
        let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let (first, second, watch) = (connect().await, connect().await, connect().await);
    let waiting = async |appends: i64| {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7304 AND NOT granted";
        let began = Instant::now();
        while watch.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != appends {
            assert!(began.elapsed() < Duration::from_secs(5), "{appends} waiting for the shard's lock");
        }
    };
    let order = |key: &'static str, path: String, body: Value| {
        let (address, token) = (doomed.address(), up.admin());
        tokio::spawn(async move {
            let mut connection = Connection::open(&address, &token).await.unwrap();
            connection.json("POST", &path, &format!("idempotency-key: {key}\r\n"), &body).await
        })
    };
    let credit =
        |amount: &str| (format!("/v1/admin/wallets/{wallet}/credit-test-balance"), json!({ "amount_usd": amount }));
    let hold = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.50" });

    // An append waits for the lock, behind it we do, behind us the credit and the hold that it makes possible, in one batch.
    first.execute("SELECT pg_advisory_lock(7304, 0)", &[]).await.unwrap();
    let (path, body) = credit("0.02");
    let before = order("append-before", path, body);
    waiting(1).await;
    let lock = tokio::spawn(async move {
        second.execute("SELECT pg_advisory_lock(7304, 0)", &[]).await.unwrap();
        second
    });
    waiting(2).await;
    let (path, body) = credit("1.00");
    let _credit = order("late-credit", path, body);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _hold = order("late-hold", "/v1/usage/holds".into(), hold.clone());
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.execute("SELECT pg_advisory_unlock(7304, 0)", &[]).await.unwrap();
    assert_eq!(before.await.unwrap().unwrap().status, 200);
    let second = lock.await.unwrap();
    waiting(1).await;
    doomed.kill();

    let repeat = up.as_admin("POST", "/v1/usage/holds", "idempotency-key: late-hold\r\n", &hold).await;
    second.execute("SELECT pg_advisory_unlock(7304, 0)", &[]).await.unwrap();
    waiting(0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = up.as_admin("POST", "/v1/usage/holds", "idempotency-key: late-hold\r\n", &hold).await;
    if repeat.status == 402 {
        assert_ne!(
            again.header("idempotent-replayed"),
            Some("true"),
            "refused with {}, then {}",
            repeat.code(),
            again.status
        );
    } else if repeat.status != 503 {
        // 503 says that this request was never decided; the same key asks again.
        assert_eq!((repeat.status, &repeat.body), (again.status, &again.body), "{repeat:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_of_two_callers_is_two_keys() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, wallet) = up.wallet_with("two-callers", "1.00").await;
    let key = "idempotency-key: shared-text\r\n";
    let body = json!({ "model": "gpt-4o-mini", "amount_usd": "0.01" });
    let mut user = up.connect(&session).await.unwrap();
    let users = user.json("POST", "/v1/usage/holds", key, &body).await.unwrap();
    let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.01" });
    let admins = up.as_admin("POST", "/v1/usage/holds", key, &body).await;
    assert_eq!((users.status, admins.status), (201, 201), "{users:?} {admins:?}");
    assert_ne!(users.json()["hold_id"], admins.json()["hold_id"]);
}

/// One event that says nothing, behind a head.
fn one_event(previous: Head, id: BatchId, sequence: i64) -> AppendBatch {
    let at = Timestamp::now();
    let event = StoredEvent {
        shard: ShardId(0),
        position: previous.position.next(),
        stream: "shard:00000000-0000-0000-0000-000000000000".into(),
        stream_seq: sequence,
        name: "Frozen".into(),
        version: 1,
        recorded_at: at,
        actor: "admin".into(),
        request_id: "r".into(),
        key: None,
        payload: br#"{"scope":{"kind":"payouts"},"reason":"drill"}"#.to_vec(),
    };
    AppendBatch::seal(ShardId(0), previous, id, at, vec![event])
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_follows_exactly_the_head_that_it_was_sealed_behind() {
    let Some(database) = TestDatabase::create().await else { return };
    let client = Arc::new(database.connect_as(ServiceRole::Command).await);
    let reader = LogReader::prepare(Arc::clone(&client)).await.unwrap();
    let appender = LogAppender::prepare(client).await.unwrap();
    let (_, start) = reader.head(ShardId(0)).await.unwrap();
    let first = one_event(start, BatchId::generate(), 1);
    assert!(matches!(appender.append(&first).await, Ok(Appended::Now)));
    assert!(matches!(appender.append(&first).await, Ok(Appended::Already)));
    let head = first.head();
    let elsewhere = [
        ("an older head", start),
        ("a position that is too low", Head { position: start.position, ..head }),
        ("a position that is too high", Head { position: Position(head.position.0 + 1), ..head }),
        ("another hash", Head { hash: ChainHash([7; 32]), ..head }),
    ];
    for (what, previous) in elsewhere {
        let refused = appender.append(&one_event(previous, BatchId::generate(), 2)).await;
        assert!(matches!(refused, Err(AppendError::HeadMoved)), "{what}: {refused:?}");
    }
    assert_eq!(reader.head(ShardId(0)).await.unwrap().1, head, "nothing of it was written");
    // Of two that race for one place, one gets it.
    let other = LogAppender::prepare(Arc::new(database.connect_as(ServiceRole::Command).await)).await.unwrap();
    let (left, right) = (one_event(head, BatchId::generate(), 2), one_event(head, BatchId::generate(), 2));
    let (left, right) = tokio::join!(appender.append(&left), other.append(&right));
    assert_eq!([left.is_ok(), right.is_ok()].iter().filter(|won| **won).count(), 1, "{left:?} {right:?}");
}
