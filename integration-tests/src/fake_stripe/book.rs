//! What really happened to the money, in cents.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::now;

/// What Stripe asks for a dispute.
const DISPUTE_FEE: i64 = 1_500;

/// A payment and everything that became of it.
#[derive(Clone, Debug, Default)]
pub struct Payment {
    /// The charge's id.
    pub charge: String,
    /// What was paid.
    pub amount: i64,
    /// What went back, without refunds that failed.
    pub refunded: i64,
    /// What was lost to disputes.
    pub lost: i64,
    /// The top-up that its checkout was made for.
    pub top_up: String,
}

/// The book of the fake.
#[derive(Debug, Default)]
pub struct Book {
    next: u64,
    /// Checkout sessions by id.
    pub sessions: BTreeMap<String, Value>,
    /// Payments by the id of their intent.
    pub payments: BTreeMap<String, Payment>,
    /// Refunds by id.
    pub refunds: BTreeMap<String, Value>,
    /// Disputes by id.
    pub disputes: BTreeMap<String, Value>,
    /// Every event, oldest first.
    pub events: Vec<Value>,
    taken: usize,
    /// Every movement of the balance, oldest first.
    pub transactions: Vec<Value>,
    /// Answers by idempotency key.
    pub answers: BTreeMap<String, (String, u16, Value)>,
    /// How many of the next answers are lost after their effect.
    pub lose: u32,
    /// How many of the next requests are refused before any effect, with this status.
    pub refuse: Option<(u32, u16)>,
    /// How many more lists are answered; then it fails.
    pub lists_left: Option<u32>,
    /// How many POSTs have come.
    pub posts: u32,
    /// How far back new things are dated, in seconds.
    pub age: i64,
    /// Do events of refunds list the refunds, as old versions of the API do?
    pub lists_refunds: bool,
}

impl Book {
    /// A new id.
    pub fn id(&mut self, prefix: &str) -> String {
        self.next += 1;
        format!("{prefix}_{:012}", self.next)
    }

    fn at(&self) -> i64 {
        now() - self.age
    }

    fn say(&mut self, kind: &str, object: &Value) {
        let (id, created) = (self.id("evt"), self.at());
        self.events.push(json!({
            "id": id, "object": "event", "api_version": "2026-10-28", "created": created, "livemode": false,
            "pending_webhooks": 1, "type": kind, "data": { "object": object },
            "request": { "id": null, "idempotency_key": null },
        }));
    }

    fn moved(&mut self, category: &str, source: &Value, amount: i64, fee: i64) {
        let (id, created) = (self.id("txn"), self.at());
        self.transactions.push(json!({
            "id": id, "object": "balance_transaction", "amount": amount, "fee": fee, "net": amount - fee,
            "currency": "usd", "created": created, "available_on": created + 172_800, "type": category,
            "reporting_category": category, "status": "available", "source": source,
        }));
    }

    /// The events that nobody has taken yet.
    pub fn take_events(&mut self) -> Vec<Value> {
        let new = self.events[self.taken..].to_vec();
        self.taken = self.events.len();
        new
    }

    /// Available and pending together.
    pub fn balance(&self) -> i64 {
        self.transactions.iter().map(|moved| moved["net"].as_i64().expect("a net")).sum()
    }

    /// What was kept in fees.
    pub fn fees(&self) -> i64 {
        self.transactions
            .iter()
            .map(|moved| match moved["reporting_category"].as_str() {
                Some("fee" | "network_cost") => -moved["amount"].as_i64().expect("an amount"),
                _ => moved["fee"].as_i64().expect("a fee"),
            })
            .sum()
    }

    /// A page that somebody can pay on.
    pub fn open_session(&mut self, cents: i64, metadata: &Value, reference: Option<&str>) -> Value {
        let id = self.id("cs_test");
        let session = json!({
            "id": id, "object": "checkout.session", "amount_total": cents, "currency": "usd", "livemode": false,
            "mode": "payment", "payment_intent": null, "payment_status": "unpaid", "status": "open",
            "metadata": metadata, "client_reference_id": reference, "url": format!("https://checkout.stripe.test/c/{id}"),
            "customer_details": { "email": "jo@example.org" },
        });
        self.sessions.insert(id, session.clone());
        session
    }

    fn session(&mut self, id: &str) -> &mut Value {
        self.sessions.get_mut(id).expect("a session")
    }

    /// The user pays; the id of the payment.
    pub fn pay(&mut self, session: &str) -> String {
        let payment = self.charge(session);
        let paid = self.sessions[session].clone();
        self.say("checkout.session.completed", &paid);
        payment
    }

    fn charge(&mut self, session: &str) -> String {
        let (payment, charge) = (self.id("pi"), self.id("ch"));
        let open = self.session(session);
        assert_eq!(open["payment_status"], "unpaid", "a page is paid once");
        open["payment_status"] = json!("paid");
        open["status"] = json!("complete");
        open["payment_intent"] = json!(payment);
        open["url"] = Value::Null;
        let amount = open["amount_total"].as_i64().expect("an amount");
        let top_up = open["client_reference_id"].as_str().unwrap_or_default().to_owned();
        let paid = Payment { charge: charge.clone(), amount, top_up, ..Payment::default() };
        self.payments.insert(payment.clone(), paid);
        let source = json!({ "id": charge, "object": "charge", "payment_intent": payment });
        self.moved("charge", &source, amount, (amount * 29 + 500) / 1_000 + 30);
        payment
    }

    /// The user has promised to pay: the page is complete and not paid.
    pub fn promise(&mut self, session: &str) {
        self.session(session)["status"] = json!("complete");
        let promised = self.sessions[session].clone();
        self.say("checkout.session.completed", &promised);
    }

    /// The promise is kept or not; the id of the payment if it is.
    pub fn settle(&mut self, session: &str, kept: bool) -> Option<String> {
        let payment = kept.then(|| self.charge(session));
        let kind = if kept { "async_payment_succeeded" } else { "async_payment_failed" };
        let settled = self.sessions[session].clone();
        self.say(&format!("checkout.session.{kind}"), &settled);
        payment
    }

    /// Nobody has paid in time.
    pub fn expire(&mut self, session: &str) {
        self.session(session)["status"] = json!("expired");
        let expired = self.sessions[session].clone();
        self.say("checkout.session.expired", &expired);
    }

    /// What can still be refunded of a payment.
    pub fn refundable(&self, payment: &str) -> Option<i64> {
        self.payments.get(payment).map(|paid| paid.amount - paid.refunded - paid.lost)
    }

    /// Gives money back; the refund.
    pub fn refund(&mut self, payment: &str, cents: i64, metadata: &Value) -> Value {
        let (id, created) = (self.id("re"), self.at());
        let paid = self.payments.get_mut(payment).expect("a payment");
        assert!(cents > 0 && paid.refunded + paid.lost + cents <= paid.amount, "a refund passes its charge");
        paid.refunded += cents;
        let charge = paid.charge.clone();
        let refund = json!({
            "id": id, "object": "refund", "amount": cents, "currency": "usd", "charge": charge, "created": created,
            "payment_intent": payment, "status": "succeeded", "metadata": metadata,
        });
        self.refunds.insert(id, refund.clone());
        self.moved("refund", &refund, -cents, 0);
        self.tell_refunded(payment);
        refund
    }

    fn tell_refunded(&mut self, payment: &str) {
        let paid = &self.payments[payment];
        let mut charge = json!({
            "id": paid.charge, "object": "charge", "amount": paid.amount, "amount_refunded": paid.refunded,
            "currency": "usd", "payment_intent": payment, "refunded": paid.refunded == paid.amount,
        });
        if self.lists_refunds {
            charge["refunds"] = json!({ "object": "list", "data": self.refunds_of(payment), "has_more": false });
        }
        self.say("charge.refunded", &charge);
    }

    /// The refunds of a payment, newest first.
    pub fn refunds_of(&self, payment: &str) -> Vec<Value> {
        self.refunds.values().rev().filter(|refund| refund["payment_intent"] == payment).cloned().collect()
    }

    /// The bank sends a refund back.
    pub fn fail_refund(&mut self, id: &str) {
        let refund = self.refunds.get_mut(id).expect("a refund");
        assert_eq!(refund["status"], "succeeded");
        refund["status"] = json!("failed");
        refund["failure_reason"] = json!("lost_or_stolen_card");
        let refund = refund.clone();
        let (payment, cents) = (refund["payment_intent"].as_str().expect("a payment"), refund["amount"].as_i64());
        let cents = cents.expect("an amount");
        self.payments.get_mut(payment).expect("a payment").refunded -= cents;
        self.moved("refund_failure", &refund, cents, 0);
        self.say("refund.failed", &refund);
    }

    /// The customer disputes a payment; the id of the dispute. A warning moves nothing.
    pub fn dispute(&mut self, payment: &str, cents: i64, warning: bool) -> String {
        let id = self.id("dp");
        let charge = self.payments[payment].charge.clone();
        let status = if warning { "warning_needs_response" } else { "needs_response" };
        let dispute = json!({
            "id": id, "object": "dispute", "amount": cents, "currency": "usd", "charge": charge,
            "payment_intent": payment, "reason": "fraudulent", "status": status,
        });
        self.disputes.insert(id.clone(), dispute.clone());
        self.say("charge.dispute.created", &dispute);
        if !warning {
            self.moved("dispute", &dispute, -cents, DISPUTE_FEE);
            self.say("charge.dispute.funds_withdrawn", &dispute);
        }
        id
    }

    /// It is decided.
    pub fn close_dispute(&mut self, id: &str, won: bool) {
        let dispute = self.disputes.get_mut(id).expect("a dispute");
        dispute["status"] = json!(if won { "won" } else { "lost" });
        let dispute = dispute.clone();
        let cents = dispute["amount"].as_i64().expect("an amount");
        if won {
            self.moved("dispute_reversal", &dispute, cents, 0);
            self.say("charge.dispute.funds_reinstated", &dispute);
        } else {
            let payment = dispute["payment_intent"].as_str().expect("a payment");
            self.payments.get_mut(payment).expect("a payment").lost += cents;
        }
        self.say("charge.dispute.closed", &dispute);
    }

    /// Money goes to our bank.
    pub fn pay_out(&mut self, cents: i64) {
        let payout =
            json!({ "id": self.id("po"), "object": "payout", "amount": cents, "currency": "usd", "status": "paid" });
        self.moved("payout", &payout, -cents, 0);
        self.say("payout.created", &payout);
        self.say("payout.paid", &payout);
    }

    /// A fee for something or other.
    pub fn ask_fee(&mut self, cents: i64) {
        self.moved("fee", &Value::Null, -cents, 0);
    }

    /// An event that the ledger does not know.
    pub fn chatter(&mut self) {
        self.say("customer.created", &json!({ "id": "cus_1", "object": "customer" }));
    }
}
