//! Money in and back through a payment provider that repeats, reorders, delays, forgets, and answers nobody. Its own book is the
//! truth: in the end every payment was credited exactly once with exactly its amount, and every clearing account is zero.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::time::Duration;

use modelfaucet_command::stripe::inbox::STATEMENTS;
use modelfaucet_integration_tests::connection::Answer;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::fake_stripe::{Book, FakeStripe, WEBHOOK_SECRET, deliver, now, post, signature};
use modelfaucet_integration_tests::history::export_log;
use modelfaucet_integration_tests::judge::judge;
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::{Value, json};

/// Numbers that look random and are the same every time.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, below: u64) -> u64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % below
    }

    fn shuffle<T>(&mut self, list: &mut [T]) {
        for at in (1..list.len()).rev() {
            let other = usize::try_from(self.roll(at as u64 + 1)).unwrap();
            list.swap(at, other);
        }
    }
}

struct Shop {
    up: Up,
    stripe: FakeStripe,
    keys: u32,
}

impl Shop {
    async fn open() -> Self {
        let stripe = FakeStripe::start().await;
        let up = Up::start_with(Setting { variables: stripe.variables(), ..Setting::default() }).await;
        Self { up, stripe, keys: 0 }
    }

    fn key(&mut self) -> String {
        self.keys += 1;
        format!("idempotency-key: test-{}\r\n", self.keys)
    }

    async fn checkout(&self, token: &str, cents: i64, key: &str) -> Answer {
        let body = json!({ "amount_usd": usd(cents), "success_url": "https://app.example/ok?a=b&c=d",
                           "cancel_url": "https://app.example/no" });
        let mut user = self.up.connect(token).await.unwrap();
        user.json("POST", "/v1/user/stripe/checkout-sessions", key, &body).await.unwrap()
    }

    async fn open_checkout(&mut self, token: &str, cents: i64) -> String {
        let key = self.key();
        let answer = self.checkout(token, cents, &key).await;
        assert_eq!(answer.status, 201, "{answer:?}");
        let reply = answer.json();
        assert_eq!((&reply["status"], &reply["amount_usd"]), (&json!("pending"), &json!(usd(cents))));
        reply["checkout_session_id"].as_str().unwrap().to_owned()
    }

    async fn admin(&mut self, path: &str, body: &Value) -> Answer {
        let key = self.key();
        self.up.as_admin("POST", path, &key, body).await
    }

    /// Reads as of the end of the log.
    async fn read(&self, path: &str) -> Value {
        let answer = self.up.as_admin("GET", path, "", &Value::Null).await;
        assert_eq!(answer.status, 200, "{answer:?}");
        answer.json()
    }

    /// Waits until the read tables stand at the end of the log.
    async fn level(&self) {
        let (client, connection) = self.up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql = "SELECT coalesce(max(last_pos), 0) FROM ledger.batch";
        let head: i64 = client.query_one(sql, &[]).await.unwrap().get(0);
        for _ in 0..400 {
            let path = format!("/v1/admin/reconciliation/stripe?min_position={head}");
            if self.up.as_admin("GET", &path, "", &Value::Null).await.status == 200 {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("the read tables do not catch up");
    }

    /// Delivers until it is answered; a service that was killed is started again.
    async fn deliver(&mut self, event: &Value, attempt: u32) -> Answer {
        loop {
            if let Ok(answer) = deliver(&self.up.address(), event, attempt).await
                && answer.status < 500
            {
                return answer;
            }
            if self.up.ended().is_some() {
                self.up.start_again();
                self.up.wait_until_ready(Duration::from_secs(60)).await;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn sweep(&self, further: &[&str]) -> (Option<i32>, String) {
        let url = format!("http://{}", self.up.address());
        let mut arguments = vec!["stripe", "sweep", "--url", url.as_str(), "--data-dir", "data", "--quiet"];
        arguments.extend(further);
        let output = self.up.run_with(&arguments, &self.stripe.variables());
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(errors.is_empty() || output.status.code() == Some(4), "{errors}");
        (output.status.code(), text)
    }

    /// Every credited payment with its amount in cents.
    async fn credited(&self) -> BTreeMap<String, Vec<i64>> {
        let mut found: BTreeMap<String, Vec<i64>> = BTreeMap::new();
        let mut cursor = String::new();
        loop {
            let page = self.read(&format!("/v1/admin/top-ups?status=credited&limit=200{cursor}")).await;
            for item in page["items"].as_array().unwrap() {
                let payment = item["provider_payment_id"].as_str().unwrap().to_owned();
                found.entry(payment).or_default().push(cents(&item["amount_usd"]));
            }
            match page["next_cursor"].as_str() {
                Some(next) => cursor = format!("&cursor={next}"),
                None => return found,
            }
        }
    }

    /// Waits until a series shows a figure that is right; the figures of the books are looked up every few seconds.
    async fn shows(&self, series: &str, right: RangeInclusive<f64>) {
        let mut seen = None;
        for _ in 0..800 {
            let text = self.up.connect("").await.unwrap().send("GET", "/metrics", "", "", b"").await.unwrap().body;
            let text = String::from_utf8(text).unwrap();
            let line = text.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
            seen = line.map(|figure| figure.parse::<f64>().unwrap());
            if seen.is_some_and(|seen| right.contains(&seen)) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        panic!("{series} is {seen:?}");
    }

    /// The balance of each code of the chart, debits positive, in units of 1e-8 USD.
    async fn balances(&self) -> BTreeMap<String, i128> {
        let trial = self.read("/v1/admin/trial-balance").await;
        assert_eq!(trial["balanced"], true);
        let items = trial["items"].as_array().unwrap().iter();
        items.map(|row| (row["code"].as_str().unwrap().to_owned(), units(&row["balance_usd"]))).collect()
    }
}

fn usd(cents: i64) -> String {
    format!("{}.{:02}000000", cents / 100, cents % 100)
}

/// A decimal text with eight decimals.
fn units(amount: &Value) -> i128 {
    let text = amount.as_str().unwrap();
    text.replace('.', "").parse().unwrap_or_else(|_| panic!("{text}"))
}

fn cents(amount: &Value) -> i64 {
    let units = units(amount);
    assert_eq!(units % 1_000_000, 0, "{amount}");
    i64::try_from(units / 1_000_000).unwrap()
}

/// What the provider has, in the ledger's units.
fn truth(cents: i64) -> i128 {
    i128::from(cents) * 1_000_000
}

#[tokio::test(flavor = "multi_thread")]
async fn stripe_runs() {
    if !has_postgres() {
        return;
    }
    let (mut shop, mut dice) = (Shop::open().await, Dice(7));
    let mut users = Vec::new();
    for user in 0..12 {
        users.push(shop.up.open_session(&format!("payer-{user}")).await);
    }

    // Sixty checkouts, some of them three days ago; most are paid.
    let (mut paid, mut ended) = (Vec::new(), 0);
    for number in 0..60_usize {
        let (token, _) = users[number % users.len()].clone();
        let amount = 50 + i64::try_from(dice.roll(9_950)).unwrap();
        let session = shop.open_checkout(&token, amount).await;
        shop.stripe.book(|book| book.age = if number % 5 == 0 { 3 * 86_400 } else { 0 });
        let payment = shop.stripe.book(|book| match number % 10 {
            7 => {
                book.promise(&session);
                book.settle(&session, true)
            }
            8 => {
                book.promise(&session);
                book.settle(&session, false)
            }
            9 => {
                book.expire(&session);
                None
            }
            _ => Some(book.pay(&session)),
        });
        match payment {
            Some(payment) => paid.push((payment, number % users.len())),
            None => ended += 1,
        }
    }
    shop.stripe.book(|book| book.age = 0);
    let first = shop.stripe.take_events();
    let (mut deliveries, mut kills, mut duplicates) = (0_u32, 0_u32, 0_u32);

    // What is refunded through us must be credited first: half of the payments are told of now, three times each.
    let is_early = |event: &Value| {
        let payment = event["data"]["object"]["payment_intent"].as_str().unwrap_or_default();
        paid.iter().position(|(known, _)| known == payment).is_some_and(|at| at % 2 == 0)
    };
    let (early, mut late): (Vec<Value>, Vec<Value>) = first.into_iter().partition(is_early);
    let mut early: Vec<Value> = early.iter().flat_map(|event| [event.clone(), event.clone(), event.clone()]).collect();
    dice.shuffle(&mut early);
    for (at, event) in early.iter().enumerate() {
        if at % 25 == 20 {
            shop.up.kill();
            kills += 1;
        }
        let answer = shop.deliver(event, u32::try_from(at).unwrap()).await;
        assert_eq!(answer.status, 200, "{answer:?} {event}");
        deliveries += 1;
    }

    // Three partial refunds of each of six payments, through us and in the provider's dashboard; two fail later.
    let mut refunds = 0;
    for at in [0, 2, 4, 1, 3, 5] {
        let (payment, _) = paid[at].clone();
        for part in 0..3 {
            let amount = shop.stripe.book(|book| book.payments[&payment].amount) / 5;
            if at % 2 == 0 && part < 2 {
                let body = json!({ "payment": payment, "amount_usd": usd(amount), "reason": "unhappy" });
                let answer = shop.admin("/v1/admin/refunds", &body).await;
                assert_eq!(answer.status, 201, "{answer:?}");
                assert_eq!(answer.json()["status"], "sent");
            } else {
                shop.stripe.book(|book| {
                    book.lists_refunds = part == 1;
                    book.refund(&payment, amount, &json!({}))
                });
            }
            refunds += 1;
        }
    }
    let failing = shop.stripe.book(|book| {
        let failing: Vec<String> = book.refunds.keys().step_by(8).cloned().collect();
        for id in &failing {
            book.fail_refund(id);
        }
        failing.len()
    });

    // Six disputes: won and lost, of wallets with money and, after everything was spent, without any.
    for (at, wallet) in [(6, true), (8, false), (10, true), (12, false), (7, true), (9, false)] {
        let (payment, user) = paid[at].clone();
        if !wallet {
            let (_, id) = users[user].clone();
            shop.level().await;
            let held = shop.read(&format!("/v1/wallets/{id}")).await;
            if units(&held["available_usd"]) > 0 {
                let body = json!({ "direction": "debit", "amount_usd": held["available_usd"], "reason": "spent" });
                let answer = shop.admin(&format!("/v1/admin/wallets/{id}/adjustments"), &body).await;
                // One of these users may have a wallet that an earlier dispute has frozen.
                assert!(answer.status == 201 || answer.code() == "frozen", "{answer:?}");
            }
        }
        shop.stripe.book(|book| {
            let amount = book.refundable(&payment).unwrap();
            let dispute = book.dispute(&payment, amount, false);
            book.close_dispute(&dispute, at % 4 == 2 || at == 7);
        });
    }
    let warned = paid[14].0.clone();
    shop.stripe.book(|book| {
        book.dispute(&warned, 100, true);
        book.ask_fee(25);
        book.pay_out(5_000);
        book.chatter();
    });

    // Everything else: shuffled, doubled, some of it never delivered; the service is killed again and again.
    late.extend(shop.stripe.take_events());
    let never = late.len() / 6;
    dice.shuffle(&mut late);
    let mut told: Vec<Value> = late[never..].to_vec();
    duplicates += u32::try_from(told.len()).unwrap();
    told.extend(told.clone());
    dice.shuffle(&mut told);
    let mut waiting = 0;
    for (at, event) in told.iter().enumerate() {
        if at % 60 == 40 {
            shop.up.kill();
            kills += 1;
        }
        let answer = shop.deliver(event, u32::try_from(at).unwrap()).await;
        assert_eq!(answer.status, 200, "{answer:?} {event}");
        waiting += u32::from(answer.json()["waiting"] == true);
        deliveries += 1;
    }

    // What is not ours, not true, or not now.
    let refused = refusals(&mut shop, &users[0].0).await;

    // Alerts see what only one source has told; none of it is old.
    shop.shows("modelfaucet_recon_exceptions{source=\"stripe\",age=\"day\"}", 1.0..=f64::MAX).await;
    shop.shows("modelfaucet_recon_unexplained_units{source=\"stripe\"}", 0.0..=0.0).await;
    shop.shows("modelfaucet_clearing_units{account=\"1110\"}", 1.0..=f64::MAX).await;
    shop.shows("modelfaucet_recon_last_success_timestamp_seconds{source=\"stripe\"}", 0.0..=0.0).await;

    // The sweep brings the rest, and the second source.
    let (_, dry) = shop.sweep(&["--dry-run"]);
    let missing = never + 1;
    assert!(dry.contains(&format!("{missing} new")), "{missing} events were never delivered: {dry}");
    // One that breaks off has what it has, and the next goes on from there.
    shop.stripe.book(|book| book.lists_left = Some(115));
    let (code, part) = shop.sweep(&[]);
    assert_eq!(code, Some(4), "{part}");
    shop.stripe.book(|book| book.lists_left = None);
    let reached = shop.read("/v1/admin/stripe/sweep").await["events_until"].as_i64().unwrap();
    assert!(reached > now() - 3 * 86_400 && reached < now() - 3_600, "{reached}: {part}");
    let (code, swept) = shop.sweep(&[]);
    assert!(swept.contains(&format!(" since {}, ", reached - 3_600)), "{reached}: {swept}");
    assert_eq!(code, Some(1), "what was refused is still there: {swept}");
    assert_eq!(swept.matches("unfinished").count(), 3, "{swept}");
    let (_, again) = shop.sweep(&["--days", "30"]);
    assert!(again.contains(", 0 new, ") && !again.contains(" new, 1 refused"), "{again}");

    // The truth.
    shop.level().await;
    let expected = shop.stripe.book(|book| {
        book.payments.iter().map(|(id, paid)| (id.clone(), vec![paid.amount])).collect::<BTreeMap<_, _>>()
    });
    assert_eq!(shop.credited().await, expected, "each payment is credited once, with its amount");
    let clearing = shop.read("/v1/admin/reconciliation/stripe").await;
    assert_eq!((&clearing["clear"], &clearing["open"]), (&json!(true), &json!([])), "{clearing}");
    let balances = shop.balances().await;
    let balance = |code: &str| balances.get(code).copied().unwrap_or_default();
    let (at_stripe, fees) = shop.stripe.book(|book| (book.balance(), book.fees()));
    assert_eq!(balance("1010"), truth(at_stripe), "the provider's balance");
    assert_eq!(balance("5110") + balance("5120"), truth(fees), "the provider's fees");
    assert_eq!((balance("1110"), balance("2030"), balance("1130")), (0, 0, 0), "clearing accounts");
    assert_eq!(balance("1120"), truth(5_000), "on its way to the bank");
    shop.shows("modelfaucet_clearing_units{account=\"1120\"}", 5e9..=5e9).await;
    shop.shows("modelfaucet_clearing_units{account=\"1110\"}", 0.0..=0.0).await;
    shop.shows("modelfaucet_recon_exceptions{source=\"stripe\",age=\"day\"}", 0.0..=0.0).await;
    let until = shop.read("/v1/admin/stripe/sweep").await["transactions_until"].as_f64().unwrap();
    shop.shows("modelfaucet_recon_last_success_timestamp_seconds{source=\"stripe\"}", until..=until).await;
    let lately = f64::from(u32::try_from(now() - 3_600).unwrap());
    shop.shows("modelfaucet_webhook_last_received_timestamp_seconds{provider=\"stripe\"}", lately..=f64::MAX).await;
    let wallets = shop.read("/v1/admin/reconciliation/ledger").await;
    assert_eq!(wallets["summary"]["mismatch_count"], 0, "{wallets}");
    let verified = shop.up.run(&["verify", "--data-dir", "data"]);
    assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stdout));
    second_opinion(&shop.up).await;
    let figures = Figures {
        injected: u64::from(duplicates) + u64::from(kills) + u64::from(refused) + never as u64 + failing as u64,
        recoveries: &[],
        demanded: "events doubled, late, lost, forged, of others, kills: each payment is credited once, refunds and disputes never \
                   pass it, and clearing accounts are zero in the end",
        invariants: &["I2", "I11"],
    };
    report::fault("F20", &figures);
    println!(
        "{} payments of {} USD, {ended} checkouts without one; {deliveries} deliveries, {duplicates} of them in doubles, {waiting} \
         that had to wait, {never} events never delivered, {kills} kills; {refunds} partial refunds, {failing} of them failed; 6 \
         disputes, {} USD to receivables; {refused} refused; at the provider {} USD, fees {} USD; 1110, 1130, 2030: 0",
        expected.len(),
        usd(expected.values().flatten().sum()),
        usd(i64::try_from(balance("1200") / 1_000_000).unwrap()),
        usd(at_stripe),
        usd(fees),
    );
}

/// The checker that shares no code with the product, over the log.
async fn second_opinion(up: &Up) {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("log.jsonl");
    export_log(&up.database("ledger_audit"), &log).await.unwrap();
    if let Some(output) = judge(&log, std::iter::empty()) {
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{said}{}", String::from_utf8_lossy(&output.stderr));
        println!("{said}");
    }
}

/// Events that must not credit anything; how many were tried.
async fn refusals(shop: &mut Shop, token: &str) -> u32 {
    let session = shop.open_checkout(token, 1_000).await;
    let honest = shop.stripe.book(|book| {
        let mut object = book.sessions[&session].clone();
        object["payment_status"] = json!("paid");
        object["payment_intent"] = json!("pi_not_paid");
        json!({ "id": "evt_refusal", "type": "checkout.session.completed", "created": now(), "livemode": false,
                "data": { "object": object } })
    });
    let changed = |id: &str, change: &dyn Fn(&mut Value)| {
        let mut event = honest.clone();
        event["id"] = json!(id);
        change(&mut event);
        event
    };
    let object = |event: &mut Value, name: &str, value: Value| event["data"]["object"][name] = value;
    let unknown = changed("evt_unknown", &|event| {
        object(event, "metadata", json!({ "top_up_id": "00000000-0000-4000-8000-000000000000" }));
    });
    let euro = changed("evt_euro", &|event| object(event, "currency", json!("eur")));
    let amount = changed("evt_amount", &|event| object(event, "amount_total", json!(999)));
    let live = changed("evt_live", &|event| event["livemode"] = json!(true));
    let foreign = changed("evt_foreign", &|event| event["account"] = json!("acct_other"));
    let address = shop.up.address();
    let mut tried = 0;
    for (event, status, message) in [
        (&unknown, 404, "Stripe checkout top-up was not found."),
        (&euro, 400, "Invalid Stripe checkout completion event."),
        (&amount, 400, "Stripe checkout amount did not match the pending top-up."),
        (&live, 400, "The event is of another mode (livemode)."),
        (&foreign, 400, "The event is of another account."),
    ] {
        for attempt in 0..2 {
            let answer = deliver(&address, event, attempt).await.unwrap();
            let error = answer.json()["error"].clone();
            assert_eq!((answer.status, &error["message"]), (status, &json!(message)), "{answer:?}");
            assert_eq!(error["code"], "invalid_request");
            tried += 1;
        }
    }
    let body = honest.to_string().into_bytes();
    let other = b"{}".to_vec();
    for (header, body) in [
        (signature("whsec_guessed_by_somebody", now(), &body), &body),
        (signature(WEBHOOK_SECRET, now() - 400, &body), &body),
        (signature(WEBHOOK_SECRET, now() + 400, &body), &body),
        (signature(WEBHOOK_SECRET, now(), &other), &body),
        (String::new(), &body),
        ("v1=00".to_owned(), &body),
        (signature(WEBHOOK_SECRET, now(), b"not json"), &b"not json".to_vec()),
    ] {
        let answer = post(&address, &header, body).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (400, "invalid_request"), "{answer:?}");
        tried += 1;
    }
    // It was not paid; nobody knows better.
    shop.stripe.book(|book| book.expire(&session));
    tried
}

#[tokio::test(flavor = "multi_thread")]
async fn without_secrets_there_is_nothing_to_call() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let body = br#"{"id":"evt_1","type":"x","data":{"object":{}}}"#;
    let answer = post(&up.address(), &signature(WEBHOOK_SECRET, now(), body), body).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (404, "not_found"));
    let (token, _) = up.open_session("payer").await;
    let mut user = up.connect(&token).await.unwrap();
    let body = json!({ "amount_usd": "10.00", "success_url": "https://a.example", "cancel_url": "https://a.example" });
    let answer = user.json("POST", "/v1/user/stripe/checkout-sessions", "", &body).await.unwrap();
    assert_eq!((answer.status, answer.code().as_str()), (409, "payments_not_configured"));
    let body = json!({ "payment": "pi_1", "amount_usd": "1.00" });
    let answer = up.as_admin("POST", "/v1/admin/refunds", "idempotency-key: r\r\n", &body).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "payments_not_configured"));
}

#[tokio::test(flavor = "multi_thread")]
async fn answers_that_are_lost_make_no_second_checkout_and_no_second_refund() {
    if !has_postgres() {
        return;
    }
    let mut shop = Shop::open().await;
    let (token, wallet) = shop.up.open_session("payer").await;

    // Both tries of the first request are lost after their effect; the same key finds the same page.
    shop.stripe.book(|book| book.lose = 2);
    let key = "idempotency-key: checkout-1\r\n";
    let lost = shop.checkout(&token, 1_000, key).await;
    assert_eq!((lost.status, lost.code().as_str()), (503, "payment_provider_unavailable"));
    let found = shop.checkout(&token, 1_000, key).await;
    assert_eq!(found.status, 201, "{found:?}");
    let session = found.json()["checkout_session_id"].as_str().unwrap().to_owned();
    assert_eq!(shop.stripe.book(|book| book.sessions.len()), 1, "one page, whatever was lost");
    let other = shop.checkout(&token, 2_000, key).await;
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));

    // One that Stripe refuses fails, and says so.
    shop.stripe.book(|book| book.refuse = Some((1, 402)));
    let refused = shop.checkout(&token, 3_000, "").await;
    assert_eq!((refused.status, refused.code().as_str()), (502, "payment_provider_error"), "{refused:?}");
    let too_small = shop.checkout(&token, 10, "").await;
    assert_eq!((too_small.status, too_small.code().as_str()), (502, "payment_provider_error"));
    for (body, param) in [
        (
            json!({ "amount_usd": "0", "success_url": "https://a.example", "cancel_url": "https://a.example" }),
            "amount_usd",
        ),
        (
            json!({ "amount_usd": "1.005", "success_url": "https://a.example", "cancel_url": "https://a.example" }),
            "amount_usd",
        ),
        (json!({ "amount_usd": "1", "success_url": "javascript:x", "cancel_url": "https://a.example" }), "success_url"),
        (json!({ "amount_usd": "1", "success_url": "https://a.example", "cancel_url": "/here" }), "cancel_url"),
    ] {
        let mut user = shop.up.connect(&token).await.unwrap();
        let answer = user.json("POST", "/v1/user/stripe/checkout-sessions", "", &body).await.unwrap();
        assert_eq!((answer.status, &answer.json()["error"]["param"]), (400, &json!(param)), "{answer:?}");
    }

    // Paid; the webhook says what ModelFaucet 1.2 says.
    let payment = shop.stripe.book(|book| book.pay(&session));
    let event = shop.stripe.take_events().pop().unwrap();
    let credited = shop.deliver(&event, 1).await.json();
    let top_up = &credited["topup"];
    assert_eq!((&credited["received"], &top_up["status"]), (&json!(true), &json!("credited")));
    assert_eq!(top_up["provider_checkout_session_id"], session.as_str());
    assert_eq!((&top_up["wallet_id"], &top_up["amount_usd"]), (&json!(wallet), &json!("10.00000000")));
    assert_eq!(top_up["credited_wallet_balance_usd"], "10.00000000");
    let again = shop.deliver(&event, 2).await.json();
    assert_eq!(again["topup"]["id"], top_up["id"]);
    assert!(again["topup"]["credited_wallet_balance_usd"].is_null(), "only the first time: {again}");
    shop.stripe.book(Book::chatter);
    let chatter = shop.stripe.take_events().pop().unwrap();
    for attempt in 0..2 {
        assert_eq!(shop.deliver(&chatter, attempt).await.json(), json!({ "received": true, "ignored": true }));
    }

    // The refund's answers are lost, the process dies, and the same key still makes one refund.
    shop.stripe.book(|book| book.lose = 2);
    let body = json!({ "payment": payment, "amount_usd": "4.00" });
    let key = "idempotency-key: refund-1\r\n";
    let lost = shop.up.as_admin("POST", "/v1/admin/refunds", key, &body).await;
    assert_eq!((lost.status, lost.code().as_str()), (503, "payment_provider_unavailable"), "{lost:?}");
    shop.up.kill();
    shop.up.start_again();
    shop.up.wait_until_ready(Duration::from_secs(60)).await;
    let unsent = shop.read("/v1/admin/stripe/unfinished").await;
    assert_eq!(unsent["unsent_refunds"].as_array().unwrap().len(), 1, "{unsent}");
    let sent = shop.up.as_admin("POST", "/v1/admin/refunds", key, &body).await;
    assert_eq!((sent.status, &sent.json()["wallet"]["balance_usd"]), (201, &json!("6.00000000")), "{sent:?}");
    assert_eq!(shop.stripe.book(|book| book.refunds.len()), 1, "one refund, whatever was lost");
    // One whose answer nobody ever hears is finished by a sweep.
    shop.stripe.book(|book| book.lose = 2);
    let body = json!({ "payment": payment, "amount_usd": "1.00" });
    let lost = shop.up.as_admin("POST", "/v1/admin/refunds", "idempotency-key: refund-2\r\n", &body).await;
    assert_eq!(lost.status, 503);
    let (code, swept) = shop.sweep(&[]);
    assert_eq!(code, Some(0), "{swept}");
    assert_eq!(shop.stripe.book(|book| book.refunds.len()), 2);
    // One that Stripe refuses is money again.
    shop.stripe.book(|book| book.refuse = Some((1, 400)));
    let body = json!({ "payment": payment, "amount_usd": "2.00" });
    let refused = shop.up.as_admin("POST", "/v1/admin/refunds", "idempotency-key: refund-3\r\n", &body).await;
    assert_eq!((refused.status, refused.code().as_str()), (502, "payment_provider_error"));
    let (code, swept) = shop.sweep(&[]);
    assert_eq!(code, Some(0), "{swept}");
    shop.level().await;
    assert_eq!(shop.read(&format!("/v1/wallets/{wallet}")).await["balance_usd"], "5.00000000");
    let balances = shop.balances().await;
    assert_eq!((balances["1110"], balances["2030"]), (0, 0), "{balances:?}");
    let refunds = shop.read("/v1/admin/refunds").await;
    let statuses: Vec<&str> =
        refunds["items"].as_array().unwrap().iter().map(|item| item["status"].as_str().unwrap()).collect();
    assert_eq!(statuses, ["failed", "sent", "sent"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_inbox_is_insert_only_and_its_statements_prepare() {
    let Some(database) = TestDatabase::create().await else { return };
    let command = database.connect_as(ServiceRole::Command).await;
    for (name, sql) in STATEMENTS {
        command.prepare(sql).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    }
    let store = "INSERT INTO payment.received (provider, id, type, created_at, sha256, body)
                 VALUES ('stripe', 'evt_1', 'x', now(), sha256('x'), 'x')";
    command.batch_execute(store).await.unwrap();
    let superuser = database.connect().await;
    for attack in
        ["UPDATE payment.received SET body = 'y'", "DELETE FROM payment.received", "TRUNCATE payment.received CASCADE"]
    {
        assert!(command.batch_execute(attack).await.is_err(), "{attack}");
        assert!(superuser.batch_execute(attack).await.is_err(), "{attack}, by a superuser");
    }
    for role in [ServiceRole::Query, ServiceRole::Projector] {
        let other = database.connect_as(role).await;
        assert!(
            other.query("SELECT body FROM payment.received", &[]).await.is_err(),
            "{role:?} reads what customers sent"
        );
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_event_from_everywhere_at_once_credits_once() {
    if !has_postgres() {
        return;
    }
    let mut shop = Shop::open().await;
    let (token, wallet) = shop.up.open_session("payer").await;
    let session = shop.open_checkout(&token, 2_500).await;
    let payment = shop.stripe.book(|book| book.pay(&session));
    let event = shop.stripe.take_events().pop().unwrap();
    // While top-ups are frozen nothing is credited, and Stripe is told to come again.
    let freeze = json!({ "scope": { "kind": "top_ups" }, "reason": "look" });
    let operator = json!({ "name": "on duty", "role": "operator" });
    let operator = shop.admin("/v1/admin/tokens", &operator).await.json()["token"].as_str().unwrap().to_owned();
    let mut on_duty = shop.up.connect(&operator).await.unwrap();
    let key = "idempotency-key: freeze-1\r\n";
    assert_eq!(on_duty.json("POST", "/v1/admin/freezes", key, &freeze).await.unwrap().status, 201);
    for attempt in 0..3 {
        let answer = deliver(&shop.up.address(), &event, attempt).await.unwrap();
        assert_eq!((answer.status, answer.code().as_str()), (503, "frozen"), "{answer:?}");
    }
    let unfinished = shop.read("/v1/admin/stripe/unfinished").await;
    assert_eq!((&unfinished["items"][0]["id"], &unfinished["items"][0]["state"]), (&event["id"], &json!("received")));
    assert_eq!(shop.admin("/v1/admin/freezes/thaw", &freeze).await.status, 200);
    let mut deliveries = tokio::task::JoinSet::new();
    for attempt in 0..32 {
        let (address, event) = (shop.up.address(), event.clone());
        deliveries.spawn(async move { deliver(&address, &event, attempt).await.unwrap() });
    }
    let answers = deliveries.join_all().await;
    assert!(
        answers.iter().all(|answer| answer.status == 200 && answer.json()["topup"]["status"] == "credited"),
        "{answers:?}"
    );
    let first = answers.iter().filter(|answer| !answer.json()["topup"]["credited_wallet_balance_usd"].is_null());
    assert_eq!(first.count(), 1, "one of them was the first");
    // What came first is kept, byte for byte, with its hash.
    let (client, connection) = shop.up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let kept = "SELECT body, sha256 = sha256(body), (SELECT state FROM payment.work) FROM payment.received";
    let kept = client.query_one(kept, &[]).await.unwrap();
    let mut first = event.clone();
    first["pending_webhooks"] = json!(0);
    assert_eq!(kept.get::<_, Vec<u8>>(0), serde_json::to_vec_pretty(&first).unwrap());
    assert_eq!((kept.get::<_, bool>(1), kept.get::<_, &str>(2)), (true, "done"));
    // An administrator who credits the same payment by hand gets the same answer.
    let top_up = answers[0].json()["topup"]["id"].as_str().unwrap().to_owned();
    let by_hand = shop.admin(&format!("/v1/admin/top-ups/{top_up}/credit"), &json!({ "payment": payment })).await;
    assert_eq!((by_hand.status, by_hand.header("idempotent-replayed")), (200, Some("true")), "{by_hand:?}");
    shop.level().await;
    assert_eq!(shop.read(&format!("/v1/wallets/{wallet}")).await["balance_usd"], "25.00000000");
}
