//! Calls through the gateway, and the comparison of the books with what the provider wrote down: the provider's book is the truth,
//! never a counter of ours.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use modelfaucet_schema::event::{
    AttemptProgressed, AttemptStarted, CallOutcome, Event, HoldPlaced, Rating, UsageSource,
};
use modelfaucet_schema::ids::HoldId;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_postgres::{Config, NoTls};

/// The body of a chat completion with a script for the sandbox provider.
pub fn chat(script: &str) -> Value {
    json!({ "model": "gpt-4o-mini", "messages": [{ "role": "user", "content": format!("Hello [[{script}]]") }] })
}

/// The same as a stream.
pub fn streamed(script: &str) -> Value {
    let mut body = chat(script);
    body["stream"] = json!(true);
    body
}

/// How a call is named outside.
pub fn label(hold: HoldId) -> String {
    format!("req_{}", URL_SAFE_NO_PAD.encode(hold.0.as_bytes()))
}

/// What the provider says of one request.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Served {
    /// Its answer's end, empty while it runs.
    pub end: String,
    /// What it bills: input, cached, output and reasoning tokens.
    pub bill: Option<[u64; 4]>,
    /// The output cap that it saw.
    pub cap: Option<u64>,
}

/// What the provider wrote down, by call.
///
/// # Panics
/// If the book is no list of JSON lines.
pub fn provider_book(path: &Path) -> BTreeMap<String, Vec<Served>> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let mut calls: BTreeMap<String, Vec<Served>> = BTreeMap::new();
    let mut open: BTreeMap<u64, (String, usize)> = BTreeMap::new();
    // A killed process may have left half a line.
    for line in text.split_inclusive('\n').filter(|line| line.ends_with('\n')) {
        let line: Value = serde_json::from_str(line).expect("a JSON line");
        let request = line["request"].as_u64().expect("a number");
        if line["what"] == "received" {
            let call = line["call"].as_str().unwrap_or_default().to_owned();
            let served = calls.entry(call.clone()).or_default();
            served.push(Served { cap: line["max_tokens"].as_u64(), ..Served::default() });
            // A provider that was started again counts from one again.
            open.insert(request, (call, served.len() - 1));
            continue;
        }
        let Some(served) = open.remove(&request).and_then(|(call, at)| calls.get_mut(&call)?.get_mut(at)) else {
            continue;
        };
        line["end"].as_str().unwrap_or_default().clone_into(&mut served.end);
        let count = |name: &str| line["bill"][name].as_u64().unwrap_or(0);
        served.bill =
            line["bill"].is_object().then(|| [count("input"), count("cached"), count("output"), count("reasoning")]);
    }
    calls
}

/// One call in the books.
#[derive(Clone, Debug)]
pub struct Booked {
    /// Its hold.
    pub placed: HoldPlaced,
    /// The attempts behind the first.
    pub started: Vec<AttemptStarted>,
    /// The marks of all attempts.
    pub marks: Vec<AttemptProgressed>,
    /// Its endings, in order: one, once it has ended.
    pub endings: Vec<Event>,
}

impl Booked {
    /// What is held in the end.
    pub fn held(&self) -> Money {
        self.started.last().map_or(self.placed.amount, |started| started.amount)
    }

    /// The one ending.
    ///
    /// # Panics
    /// If there is none, or more than one.
    pub fn ending(&self) -> &Event {
        assert_eq!(self.endings.len(), 1, "a hold ends once: {self:?}");
        &self.endings[0]
    }

    /// What it came to, if it was charged.
    pub fn rating(&self) -> Option<&Rating> {
        match self.ending() {
            Event::HoldCaptured(event) => Some(&event.rating),
            Event::LateUsageCaptured(event) => Some(&event.rating),
            _ => None,
        }
    }

    /// How it went.
    ///
    /// # Panics
    /// If its ending does not say.
    pub fn outcome(&self) -> &CallOutcome {
        let outcome = match self.ending() {
            Event::HoldCaptured(event) => event.outcome.as_deref(),
            Event::LateUsageCaptured(event) => event.outcome.as_deref(),
            Event::HoldReleased(event) => event.outcome.as_deref(),
            _ => None,
        };
        outcome.unwrap_or_else(|| panic!("an outcome: {:?}", self.ending()))
    }
}

/// The ids of calls whose answers came whole, from what clients have read.
fn whole(answers: &[String]) -> Vec<String> {
    let ids = answers.iter().filter(|text| text.contains("[DONE]") || text.contains("\"usage\":{")).map(|text| {
        let (_, rest) = text.split_once("\"request_id\":\"req_").unwrap_or_else(|| panic!("a call's id: {text}"));
        format!("req_{}", rest.split('"').next().unwrap_or_default())
    });
    ids.collect()
}

/// Whatever a client has read to its end is charged.
///
/// # Panics
/// If something is not.
pub fn check_read(answers: &[String], books: &BTreeMap<HoldId, Booked>) {
    let booked: BTreeMap<String, &Booked> = books.iter().map(|(hold, call)| (label(*hold), call)).collect();
    for id in whole(answers) {
        let call = booked.get(&id).unwrap_or_else(|| panic!("{id} was answered and is not in the books"));
        assert!(call.rating().is_some_and(|rating| rating.charge.is_positive()), "{id} was answered and not charged");
    }
}

/// The calls in the log, by hold.
///
/// # Panics
/// If the log cannot be read.
pub async fn booked(database: &Config) -> BTreeMap<HoldId, Booked> {
    let (client, connection) = database.connect(NoTls).await.expect("a connection");
    let connection = tokio::spawn(connection);
    let sql = "SELECT type, version, payload FROM ledger.event WHERE shard = 0 ORDER BY position";
    let rows = client.query(sql, &[]).await.expect("rows");
    drop(client);
    let _closed = connection.await;
    let mut calls = BTreeMap::new();
    for row in rows {
        let event = Event::decode(row.get(0), row.get(1), row.get(2)).expect("an event of ours");
        let hold = match &event {
            Event::HoldPlaced(event) if event.dispatch.is_some() => {
                let (placed, started, marks, endings) = (event.clone(), Vec::new(), Vec::new(), Vec::new());
                calls.insert(event.hold_id, Booked { placed, started, marks, endings });
                continue;
            }
            Event::AttemptStarted(event) => {
                if let Some(call) = calls.get_mut(&event.hold_id) {
                    call.started.push(event.clone());
                }
                continue;
            }
            Event::AttemptProgressed(event) => {
                if let Some(call) = calls.get_mut(&event.hold_id) {
                    call.marks.push(event.clone());
                }
                continue;
            }
            Event::HoldCaptured(event) => event.hold_id,
            Event::HoldReleased(event) => event.hold_id,
            Event::HoldExpired(event) => event.hold_id,
            Event::LateUsageCaptured(event) => event.hold_id,
            _ => continue,
        };
        if let Some(call) = calls.get_mut(&hold) {
            call.endings.push(event);
        }
    }
    calls
}

/// The calls in the log, once each has ended.
///
/// # Panics
/// If that takes too long.
pub async fn booked_when_ended(database: &Config) -> BTreeMap<HoldId, Booked> {
    let began = Instant::now();
    loop {
        let calls = booked(database).await;
        let open = calls.values().filter(|call| call.endings.is_empty()).count();
        if open == 0 {
            return calls;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "{open} holds do not end");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// The usage that a bill says.
pub fn usage_of(bill: [u64; 4]) -> Usage {
    let [input, cached, output, reasoning] = bill;
    Usage { cache_read: cached, output_reasoning: reasoning, ..Usage::text(input - cached, output - reasoning) }
}

/// Compares books and truth: nothing was sent without a hold, every hold ended once, and what the provider named is what it bills.
/// Returns how many calls were charged by the provider's own counts.
///
/// # Panics
/// If anything differs.
pub fn compare(books: &BTreeMap<HoldId, Booked>, truth: &BTreeMap<String, Vec<Served>>) -> usize {
    let by_label: BTreeMap<String, &Booked> = books.iter().map(|(hold, call)| (label(*hold), call)).collect();
    for call in truth.keys() {
        assert!(by_label.contains_key(call), "{call} was sent without a hold");
    }
    let mut exact = 0;
    for (name, call) in by_label {
        let outcome = call.outcome();
        let Some(rating) = call.rating() else { continue };
        assert!(rating.charge <= call.held(), "{name} was charged more than was held");
        let served = truth.get(&name).map(Vec::as_slice).unwrap_or_default();
        let last = served.last().unwrap_or_else(|| panic!("{name} was charged and never sent"));
        if outcome.source == Some(UsageSource::Provider) && outcome.anomalies.is_empty() {
            let bill = last.bill.unwrap_or_else(|| panic!("{name} was charged and not billed"));
            assert!(rating.usage == usage_of(bill) || rating.usage == Usage::default(), "{name}: {rating:?}, {bill:?}");
            exact += 1;
        }
    }
    let requests: usize = truth.values().map(Vec::len).sum();
    crate::report::count(&[("calls", books.len() as u64), ("requests to providers", requests as u64)]);
    exact
}

/// The sum of what was charged.
pub fn charged(books: &BTreeMap<HoldId, Booked>) -> Money {
    books.values().filter_map(Booked::rating).map(|rating| rating.charge).sum()
}

/// Asks with a key, again and again and whoever answers, until it is known that the call was charged: the answer.
///
/// # Panics
/// If that takes longer than a minute.
pub async fn until_charged(mut address: impl FnMut() -> String, token: &str, key: &str, body: &Value) -> String {
    let (headers, began) = (format!("idempotency-key: {key}\r\n"), Instant::now());
    loop {
        let answer = match Raw::try_send(&address(), token, &headers, body).await {
            Ok(raw) => raw.rest().await,
            Err(error) => error.to_string(),
        };
        let ended = answer.contains("\"usage\":{") || answer.contains("data: [DONE]");
        let whole = answer.starts_with("HTTP/1.1 200") && ended;
        if whole || answer.contains("idempotency_reply_expired") {
            return answer;
        }
        assert!(began.elapsed() < Duration::from_secs(60), "a key never gets its answer: {answer}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// A request on a connection of its own, to be read in pieces or left.
#[derive(Debug)]
pub struct Raw {
    stream: TcpStream,
    /// What has come so far, as it came.
    pub received: Vec<u8>,
}

impl Raw {
    /// Sends a chat completion.
    ///
    /// # Panics
    /// If there is no connection.
    pub async fn send(address: &str, token: &str, headers: &str, body: &Value) -> Self {
        Self::try_send(address, token, headers, body).await.expect("an open connection")
    }

    /// Sends a chat completion to somebody who may be dead.
    ///
    /// # Errors
    /// The socket's.
    pub async fn try_send(address: &str, token: &str, headers: &str, body: &Value) -> std::io::Result<Self> {
        let body = body.to_string();
        let head = format!(
            "POST /v1/chat/completions HTTP/1.1\r\nhost: {address}\r\nauthorization: Bearer {token}\r\n{headers}content-type: \
             application/json\r\nconnection: close\r\ncontent-length: {}\r\n\r\n",
            body.len()
        );
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(head.as_bytes()).await?;
        stream.write_all(body.as_bytes()).await?;
        Ok(Self { stream, received: Vec::new() })
    }

    /// Reads until this text has come so often; false if the connection ends before.
    pub async fn read_until(&mut self, text: &str, times: usize) -> bool {
        let mut buffer = [0; 4_096];
        loop {
            if String::from_utf8_lossy(&self.received).matches(text).count() >= times {
                return true;
            }
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return false,
                Ok(read) => self.received.extend_from_slice(&buffer[..read]),
            }
        }
    }

    /// Reads on byte by byte: to this text for the `times`-th time, and so many bytes further; false if the connection ends before.
    pub async fn read_bytes_until(&mut self, text: &str, times: usize, further: usize) -> bool {
        let mut left = further;
        let mut byte = [0];
        loop {
            let reached =
                self.received.windows(text.len()).filter(|window| *window == text.as_bytes()).count() >= times;
            if reached && left == 0 {
                return true;
            }
            match self.stream.read(&mut byte).await {
                Ok(0) | Err(_) => return false,
                Ok(_) => self.received.extend_from_slice(&byte),
            }
            left -= usize::from(reached);
        }
    }

    /// Reads to the end of the connection; all that has come.
    pub async fn rest(mut self) -> String {
        let mut rest = Vec::new();
        let _broken = self.stream.read_to_end(&mut rest).await;
        self.received.extend_from_slice(&rest);
        String::from_utf8_lossy(&self.received).into_owned()
    }
}
