//! Whoever has read an answer to its end has read a charge that is durable: the service dies in the moment in which a client reads the
//! last byte, again and again, and afterwards each client's own record is laid beside the log.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::calls::{Raw, booked_when_ended, charged, chat, compare, label, streamed};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::Dice;
use modelfaucet_schema::money::Money;
use rustix::process::{Signal, kill_process};
use serde_json::Value;
use tokio::sync::mpsc;

/// How many answers are read to their end, unless `MODELFAUCET_LAST_BYTES` says otherwise.
const ANSWERS: usize = 2_000;
/// A death comes with one answer in so many, at random.
const ANSWERS_PER_DEATH: u64 = 200;
const CLIENTS: usize = 24;
const PATIENCE: Duration = Duration::from_secs(60);

/// What a client has written down of an answer that it has read to its end.
struct Receipt {
    call: String,
    charge: Money,
}

/// The answer's own words: whose call it was, and what it cost. `None`: the answer has not come whole.
fn receipt(answer: &str) -> Option<Receipt> {
    let (head, body) = answer.split_once("\r\n\r\n")?;
    let whole = if head.contains("text/event-stream") {
        // The end of the last chunk behind the protocol's own end.
        body.contains("data: [DONE]") && body.ends_with("0\r\n\r\n")
    } else {
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "))?;
        head.starts_with("HTTP/1.1 200") && body.len() == length.parse::<usize>().ok()?
    };
    let after = |name: &str| Some(body.split_once(name)?.1.split('"').next()?.to_owned());
    whole.then(|| {
        let call = after("\"request_id\":\"").unwrap_or_else(|| panic!("a call's id: {answer}"));
        let charge = after("\"estimated_price_usd\":\"").unwrap_or_else(|| panic!("a charge: {answer}"));
        Receipt { call, charge: charge.parse().unwrap() }
    })
}

struct Client {
    dice: Dice,
    address: String,
    token: String,
    stop: Arc<AtomicBool>,
}

impl Client {
    /// Calls until it is told to stop, and hands each receipt on in the moment in which it has read the end.
    async fn run(mut self, receipts: mpsc::UnboundedSender<Receipt>) {
        while !self.stop.load(Ordering::Relaxed) {
            let script = *self.dice.pick(&["tokens=1", "tokens=3", "tokens=4 gap_ms=2", "tokens=2 delay_ms=5"]);
            let body: Value = if self.dice.percent(50) { chat(script) } else { streamed(script) };
            let answer = match Raw::try_send(&self.address, &self.token, "", &body).await {
                Ok(raw) => raw.rest().await,
                Err(_) => String::new(),
            };
            match receipt(&answer) {
                Some(receipt) => receipts.send(receipt).unwrap(),
                None => tokio::time::sleep(Duration::from_millis(20)).await,
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_read_to_its_last_byte_is_charged_whatever_dies_then() {
    if !has_postgres() {
        return;
    }
    let wanted = std::env::var("MODELFAUCET_LAST_BYTES").ok().and_then(|n| n.parse().ok()).unwrap_or(ANSWERS);
    let mut dice = Dice::of_run();
    let provider = Provider::start().await;
    let url = provider.url();
    let settings = [("LITELLM_BASE_URL", url.as_str()), ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "0")];
    let mut up = Up::start_with_variables(&settings).await;
    let stop = Arc::new(AtomicBool::new(false));
    let (sender, mut read) = mpsc::unbounded_channel();
    let mut clients = Vec::new();
    for number in 0..CLIENTS {
        let (token, _) = up.wallet_with(&format!("reader-{number}"), "1000.00").await;
        let (dice, address, stop) = (Dice(dice.roll()), up.address(), Arc::clone(&stop));
        clients.push(tokio::spawn(Client { dice, address, token, stop }.run(sender.clone())));
    }
    drop(sender);
    let (mut receipts, mut deaths, mut recoveries) = (Vec::new(), BTreeMap::<&str, u64>::new(), Vec::new());
    let mut next = dice.between(1, ANSWERS_PER_DEATH);
    while receipts.len() < wanted {
        let last = tokio::time::timeout(PATIENCE, read.recv()).await.expect("answers come").unwrap();
        receipts.push(last);
        next -= 1;
        if next > 0 {
            continue;
        }
        next = dice.between(1, 2 * ANSWERS_PER_DEATH);
        let (began, both) = (Instant::now(), dice.percent(30));
        let what = if both {
            // The service, and the server at once: its backends must not bring anything to its end.
            let postmaster = up.postmaster().unwrap();
            kill_process(postmaster, Signal::KILL).unwrap();
            up.kill();
            "gateway and PostgreSQL"
        } else {
            up.kill();
            "gateway"
        };
        *deaths.entry(what).or_default() += 1;
        up.start_again();
        up.wait_until_ready(PATIENCE).await;
        recoveries.push(began.elapsed());
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.unwrap();
    }
    while let Some(last) = read.recv().await {
        receipts.push(last);
    }
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    let charges: BTreeMap<String, Money> =
        books.iter().filter_map(|(hold, call)| Some((label(*hold), call.rating()?.charge))).collect();
    for Receipt { call, charge } in &receipts {
        assert_eq!(charges.get(call), Some(charge), "{call} was read to its end");
    }
    let once: BTreeSet<&str> = receipts.iter().map(|receipt| receipt.call.as_str()).collect();
    assert_eq!(once.len(), receipts.len(), "each answer is a call of its own");
    let exact = compare(&books, &provider.book());
    assert!(exact >= receipts.len() && receipts.iter().all(|receipt| receipt.charge.is_positive()));
    let verified = up.run(&["verify", "--data-dir", "data"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    assert!(deaths.values().sum::<u64>() > u64::try_from(wanted).unwrap() / (3 * ANSWERS_PER_DEATH), "{deaths:?}");
    let longest = recoveries.iter().max().copied().unwrap_or_default();
    let demanded = "each answer that a client has read to its last byte is charged in the log, with the amount that the client was told";
    let injected = deaths.values().sum();
    report::fault("F3", &Figures { injected, recoveries: &recoveries, demanded, invariants: &["I1"] });
    println!(
        "{} answers read to the last byte, {deaths:?}, back after at most {longest:.2?}; {} calls, {exact} charged by the provider's \
         counts, {} USD",
        receipts.len(),
        books.len(),
        charged(&books)
    );
}
