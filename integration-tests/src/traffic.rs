//! Clients that keep their keys: each sends one command after the other, and again with the same key until it knows what became of
//! it. What they see goes into history files, which [`crate::judge`] compares with the log.
#![expect(clippy::unwrap_used, reason = "a client that cannot write its history must not go on")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::Mutex;
use tokio::task::JoinHandle;

use crate::connection::{Answer, Connection};
use crate::history::{Asked, History, Run, position};
use crate::process::Up;
use crate::report;

/// Waits until it is so.
///
/// # Panics
/// If it is not within [`PATIENCE`].
pub async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = Instant::now();
    while !is_so().await {
        assert!(began.elapsed() < PATIENCE, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// Between two commands of a client that was slowed down.
const PAUSE: Duration = Duration::from_millis(100);
/// How long a client may need to learn what became of a command.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// How long a client waits for the answer to one request. Every request has an outcome within 10 s; the rest is for a busy machine.
const ANSWER: Duration = Duration::from_secs(20);

/// Numbers that look random and are the same for the same seed (`SplitMix64`).
#[derive(Clone, Debug)]
pub struct Dice(pub u64);

impl Dice {
    /// The dice of a run: `MODELFAUCET_SEED`, or always the same.
    pub fn of_run() -> Self {
        Self(std::env::var("MODELFAUCET_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x5eed))
    }

    /// The next number.
    pub fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// From `low` to `high - 1`.
    pub fn between(&mut self, low: u64, high: u64) -> u64 {
        low + self.roll() % (high - low)
    }

    /// True so many times in a hundred.
    pub fn percent(&mut self, percent: u64) -> bool {
        self.between(0, 100) < percent
    }

    /// One of a list.
    ///
    /// # Panics
    /// If the list is empty.
    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.between(0, from.len() as u64)).unwrap()]
    }

    /// Another order.
    pub fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            list.swap(at, usize::try_from(self.between(0, at as u64 + 1)).unwrap());
        }
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

    /// The same key for something else.
    fn changed(&self) -> Option<Self> {
        let mut other = self.clone();
        match self.operation {
            // Nothing that the dice give.
            "hold" | "adjust" => other.body["amount_usd"] = "0.00200000".into(),
            "capture" | "usage" => other.body["usage"]["output_text"] = 1_000.into(),
            "top_up" => other.body["amount_usd"] = "77.00".into(),
            _ => return None,
        }
        Some(other)
    }
}

/// What all clients know.
#[derive(Default)]
struct Shared {
    stop: AtomicBool,
    /// Clients pause between commands.
    slow: AtomicBool,
    /// The run has failed: nobody waits long any more.
    failed: AtomicBool,
    /// Commands that were answered ok.
    ok: AtomicU64,
    /// The highest position that anybody was told.
    told: AtomicI64,
    /// Commands that were not decided.
    shed: AtomicU64,
    /// Credits that are on their way or done; others send them again.
    credits: Mutex<Vec<Order>>,
}

/// What became of all requests.
#[derive(Debug, Default)]
pub struct Tally {
    /// Commands answered ok, repeats included.
    pub ok: u64,
    /// Commands refused by a rule.
    pub refused: u64,
    /// Requests without an answer, or with the answer that nobody knows.
    pub in_doubt: u64,
    /// Requests that were not decided: too much was waiting, or the log was away.
    pub undecided: u64,
    /// Of those, so many within 100 ms.
    pub shed_at_once: u64,
    /// Requests sent again.
    pub retries: u64,
    /// Keys used again on purpose.
    pub repeats: u64,
    /// Wallets read.
    pub reads: u64,
    /// Requests that had no outcome at all until the client gave up.
    pub unanswered: u64,
    /// The longest that a client had to wait for its answer, over all attempts.
    pub longest: Duration,
    /// How long each command took that was answered ok, over all attempts.
    pub latencies: Latencies,
    /// Faults that were made meanwhile, by number (`F4`).
    pub faults: BTreeMap<String, u64>,
    /// Answers that no honest ledger gives. The checker is asked first: it names what they come from.
    pub odd: Vec<String>,
}

/// Durations, shown as a few quantiles.
#[derive(Default)]
pub struct Latencies(Vec<Duration>);

impl Latencies {
    /// What so many of a thousand took no longer than.
    pub fn permille(&self, permille: usize) -> Duration {
        let mut sorted = self.0.clone();
        sorted.sort_unstable();
        let at = (sorted.len() * permille / 1_000).min(sorted.len().saturating_sub(1));
        sorted.get(at).copied().unwrap_or_default()
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let [p50, p99, p999] = [500, 990, 999].map(|permille| self.permille(permille));
        write!(f, "p50 {p50:.2?}, p99 {p99:.2?}, p99.9 {p999:.2?}")
    }
}

impl Tally {
    /// How often a fault was made meanwhile.
    pub fn made(&self, fault: &str) -> u64 {
        self.faults.get(fault).copied().unwrap_or_default()
    }

    fn add(&mut self, other: Self) {
        self.ok += other.ok;
        self.refused += other.refused;
        self.in_doubt += other.in_doubt;
        self.undecided += other.undecided;
        self.shed_at_once += other.shed_at_once;
        self.retries += other.retries;
        self.repeats += other.repeats;
        self.reads += other.reads;
        self.unanswered += other.unanswered;
        self.latencies.0.extend(other.latencies.0);
        self.longest = self.longest.max(other.longest);
        self.odd.extend(other.odd);
    }
}

struct Client {
    number: usize,
    plan: Arc<Plan>,
    shared: Arc<Shared>,
    dice: Dice,
    history: History,
    /// To one of the processes that take commands.
    connection: Option<Connection>,
    /// To the one that is read from.
    reader: Option<Connection>,
    orders: u64,
    /// Some that took effect, with their answers.
    done: Vec<(Order, Answer)>,
    seen: i64,
    tally: Tally,
}

impl Client {
    async fn run(mut self) -> Tally {
        while !self.shared.stop.load(Ordering::Relaxed) {
            if self.shared.slow.load(Ordering::Relaxed) {
                tokio::time::sleep(PAUSE).await;
            }
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
        let wallets = &self.plan.wallets;
        if self.dice.percent(20) { wallets[0].clone() } else { self.dice.pick(wallets).clone() }
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
        let answer = self.outcome(&order).await;
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
        let answer = self.outcome(&order).await;
        self.expect(&order, &answer, &[200]);
    }

    async fn use_once(&mut self) {
        let wallet = self.wallet();
        let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "usage": self.usage() });
        let order = self.order("usage", "/v1/usage".into(), &wallet, body);
        let answer = self.outcome(&order).await;
        self.expect(&order, &answer, &[201, 402]);
    }

    /// A requested top-up and its credit; a third of the credits of others is sent again, also while they are on their way.
    async fn top_up(&mut self) {
        let wallet = self.wallet();
        let amount = usd(self.dice.between(1, 30) * 1_000_000);
        let body = json!({ "amount_usd": amount, "provider": "stripe" });
        let path = format!("/v1/admin/wallets/{wallet}/top-ups");
        let order = Order { amount: Some(amount.clone()), ..self.order("top_up", path, &wallet, body) };
        let answer = self.outcome(&order).await;
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
            let answer = self.outcome(&order).await;
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
        let answer = self.outcome(&order).await;
        self.expect(&order, &answer, &[201, 402]);
    }

    /// Reads a wallet at or behind the last position that this client was told. Nothing is repeated: a read has no effect.
    async fn read(&mut self) {
        let (wallet, min) = (self.wallet(), self.seen);
        let path = format!("/v1/wallets/{wallet}?min_position={min}");
        if self.reader.is_none() {
            self.reader = Connection::open(&self.plan.reads, &self.plan.token).await.ok();
        }
        match exchange(self.reader.as_mut(), "GET", &path, "", b"").await {
            Ok(answer) if answer.status == 200 => {
                self.tally.reads += 1;
                self.history.read(&wallet, min, &answer).unwrap();
            }
            other => {
                self.reader = None;
                match other {
                    Ok(answer) if answer.status == 500 => {
                        self.tally.odd.push(format!("a read was answered {answer:?}"));
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::TimedOut => self.tally.unanswered += 1,
                    _ => {}
                }
            }
        }
    }

    /// An earlier key with the same body: the first answer again, byte for byte.
    async fn repeat(&mut self) {
        let Some((order, first)) = self.earlier() else { return };
        let again = self.outcome(&order).await;
        if (again.status, &again.body) != (first.status, &first.body) || again.header("idempotent-replayed").is_none() {
            self.tally.odd.push(format!("{} was answered {first:?}, then {again:?}", order.key));
        }
        self.tally.repeats += 1;
    }

    /// An earlier key with another body.
    async fn reuse(&mut self) {
        let Some((order, _)) = self.earlier() else { return };
        let Some(other) = order.changed() else { return };
        let answer = self.outcome(&other).await;
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

    /// Sends a command, and again with the same key, until it is known what became of it. An answer without a status: nobody says.
    async fn outcome(&mut self, order: &Order) -> Answer {
        let body = order.body.to_string().into_bytes();
        let asked = Asked {
            key: &order.key,
            operation: order.operation,
            wallet: &order.wallet,
            amount: order.amount.as_deref(),
            body: &body,
        };
        let (began, mut failed, mut pause) = (Instant::now(), None, Duration::from_millis(10));
        loop {
            if self.connect().await {
                self.history.invoke(&asked).unwrap();
                let sent = Instant::now();
                match exchange(self.connection.as_mut(), "POST", &order.path, &order.headers(), &body).await {
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
                        self.tally.shed_at_once += u64::from(sent.elapsed() < Duration::from_millis(100));
                        self.shared.shed.fetch_add(1, Ordering::Relaxed);
                    }
                    other => {
                        let is_unanswered =
                            other.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::TimedOut);
                        self.tally.unanswered += u64::from(is_unanswered);
                        let why = other.map_or_else(|error| error.to_string(), |answer| answer.code());
                        self.history.in_doubt(&order.key, &why).unwrap();
                        self.tally.in_doubt += 1;
                        self.connection = None;
                    }
                }
            }
            if self.shared.failed.load(Ordering::Relaxed) && failed.is_none() {
                failed = Some(Instant::now());
            }
            if began.elapsed() > PATIENCE || failed.is_some_and(|failed| failed.elapsed() > PATIENCE / 12) {
                self.tally.odd.push(format!("nobody says what became of {}", order.key));
                return Answer::default();
            }
            self.tally.retries += 1;
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(Duration::from_millis(500));
        }
    }

    fn ok(&mut self, order: &Order, answer: &Answer, began: Instant) {
        self.tally.ok += 1;
        self.tally.longest = self.tally.longest.max(began.elapsed());
        self.tally.latencies.0.push(began.elapsed());
        self.seen = self.seen.max(position(answer).unwrap());
        self.shared.told.fetch_max(self.seen, Ordering::Relaxed);
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
            let address = self.dice.pick(&self.plan.commands);
            self.connection = Connection::open(address, &self.plan.token).await.ok();
        }
        self.connection.is_some()
    }
}

async fn exchange(
    connection: Option<&mut Connection>,
    method: &str,
    path: &str,
    headers: &str,
    body: &[u8],
) -> std::io::Result<Answer> {
    let Some(connection) = connection else { return Err(std::io::ErrorKind::NotConnected.into()) };
    let sent = connection.send(method, path, headers, "application/json", body);
    tokio::time::timeout(ANSWER, sent).await.map_err(std::io::Error::from)?
}

/// Wallets with test credit; every fifth has almost none, so that some commands are refused.
pub async fn wallets(up: &Up) -> Vec<String> {
    let mut wallets = Vec::new();
    for number in 0..12 {
        let credit = if number % 5 == 4 { "0.02" } else { "20.00" };
        wallets.push(up.wallet_with(&format!("crash-{number}"), credit).await.1);
    }
    wallets
}

/// Who sends what where.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The test's name.
    pub run: &'static str,
    /// The log.
    pub log_id: String,
    /// Decides what the clients do.
    pub dice: Dice,
    /// How many clients.
    pub clients: usize,
    /// Processes that take commands.
    pub commands: Vec<String>,
    /// The process that is read from.
    pub reads: String,
    /// The administrator's token.
    pub token: String,
    /// See [`wallets`].
    pub wallets: Vec<String>,
}

impl Plan {
    /// Sixteen clients of an `up`, with wallets of their own.
    pub async fn of(run: &'static str, up: &Up, dice: &Dice) -> Self {
        Self {
            run,
            log_id: crate::history::log_id(&up.database("ledger_audit")).await.unwrap(),
            dice: dice.clone(),
            clients: 16,
            commands: vec![up.address()],
            reads: up.address(),
            token: up.admin(),
            wallets: wallets(up).await,
        }
    }
}

/// Clients at work.
pub struct Traffic {
    shared: Arc<Shared>,
    clients: Vec<JoinHandle<Tally>>,
    diary: History,
    faults: BTreeMap<String, u64>,
    /// The history files, in a folder of their own.
    folder: tempfile::TempDir,
}

/// The files that the clients have written.
#[derive(Debug)]
pub struct Histories {
    folder: tempfile::TempDir,
    clients: usize,
}

impl Histories {
    /// Where more can be written beside them.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The files; the last one tells of the faults.
    pub fn files(&self) -> impl Iterator<Item = PathBuf> {
        (0..=self.clients).map(|client| file(self.folder.path(), client))
    }
}

fn file(folder: &Path, client: usize) -> PathBuf {
    folder.join(format!("client-{client:02}.jsonl"))
}

impl Traffic {
    /// Lets the clients begin.
    ///
    /// # Panics
    /// If a history cannot be written.
    pub fn start(plan: Plan) -> Self {
        let (folder, shared) = (tempfile::tempdir().unwrap(), Arc::new(Shared::default()));
        let run = Run { run: plan.run, seed: plan.dice.0, log_id: plan.log_id.clone() };
        let history = |client| History::create(&file(folder.path(), client), &run, client).unwrap();
        let plan = Arc::new(plan);
        let client = |number: usize| Client {
            number,
            plan: Arc::clone(&plan),
            shared: Arc::clone(&shared),
            dice: Dice(plan.dice.0 ^ (number as u64 + 1) << 32),
            history: history(number),
            connection: None,
            reader: None,
            orders: 0,
            done: Vec::new(),
            seen: 0,
            tally: Tally::default(),
        };
        let clients = (0..plan.clients).map(|number| tokio::spawn(client(number).run())).collect();
        let diary = history(plan.clients);
        Self { shared, clients, diary, faults: BTreeMap::new(), folder }
    }

    /// Notes a fault that is about to be made.
    ///
    /// # Panics
    /// If it cannot be written.
    pub fn fault(&mut self, fault: &str, role: &str, act: &str) {
        self.diary.fault(fault, role, act).unwrap();
        *self.faults.entry(fault.to_owned()).or_default() += 1;
    }

    /// How many commands were answered ok so far.
    pub fn ok(&self) -> u64 {
        self.shared.ok.load(Ordering::Relaxed)
    }

    /// How many were not decided so far.
    pub fn shed(&self) -> u64 {
        self.shared.shed.load(Ordering::Relaxed)
    }

    /// The highest position that was acknowledged so far.
    pub fn acknowledged(&self) -> i64 {
        self.shared.told.load(Ordering::Relaxed)
    }

    /// Waits until so many more commands are answered ok; returns how long that took.
    ///
    /// # Panics
    /// If it takes longer than [`PATIENCE`].
    pub async fn more(&self, commands: u64) -> Duration {
        let (began, before) = (Instant::now(), self.ok());
        while self.ok() < before + commands {
            assert!(began.elapsed() < PATIENCE, "no command is answered any more");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        began.elapsed()
    }

    /// Makes every client pause between commands, or go on as fast as it can: what is behind on a busy machine can catch up.
    pub fn slow_down(&self, slow: bool) {
        self.shared.slow.store(slow, Ordering::Relaxed);
    }

    /// The run has failed: from now on a client waits five seconds at most for what it has begun.
    pub fn give_up(&self) {
        self.shared.failed.store(true, Ordering::Relaxed);
    }

    /// Lets every client bring home what it has begun.
    ///
    /// # Panics
    /// If one cannot.
    pub async fn stop(self) -> (Tally, Histories) {
        self.shared.stop.store(true, Ordering::Relaxed);
        let mut tally = Tally { faults: self.faults, ..Tally::default() };
        let clients = self.clients.len();
        for client in self.clients {
            tally.add(client.await.unwrap());
        }
        report::count(&[
            ("commands answered", tally.ok + tally.refused),
            ("requests in doubt", tally.in_doubt),
            ("requests not decided", tally.undecided),
        ]);
        (tally, Histories { folder: self.folder, clients })
    }
}
