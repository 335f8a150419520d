//! Random histories of money that comes, goes back and goes out, told to the rules and to a small book that was written from
//! docs/ACCOUNTING.md alone. After every step: entries sum to zero, no wallet is below its floor, refunds and lost disputes never
//! pass their payment, no developer is paid more than was earned (docs/RELIABILITY.md: I4, I5, I10, I11).
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use modelfaucet_command::domain::{
    CallRequest, Caller, Command, DisputePhase, DisputeReport, OnShortfall, Payer, PayoutStep, RefundReport, Rejection,
    State, TransactionReport, decide,
};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::*;
use modelfaucet_schema::ids::*;
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{TokenHash, UserHash, short_hash};
use modelfaucet_schema::usage::{Component, Usage};
use proptest::prelude::*;
use uuid::Uuid;

const CENT: i64 = 1_000_000;
const MAKER: Caller = Caller::Admin;
const CHECKER: Caller = Caller::Operator;

type Raw = (u8, u32, u32);

fn id(number: u32) -> Uuid {
    Uuid::from_u128(u128::from(number) + 1)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// What the outside says happened: the truth of the payments.
#[derive(Default)]
struct Outside {
    /// Paid, and given back or lost since, in units.
    payments: BTreeMap<String, (i64, i64)>,
    refunds: BTreeMap<u32, (String, i64, bool)>,
    disputes: BTreeMap<u32, (String, i64)>,
    moved: i64,
    fees: i64,
}

struct World {
    state: State,
    log: Vec<Recorded>,
    books: BTreeMap<String, i128>,
    outside: Outside,
    now: i64,
    next: u32,
    done: BTreeSet<&'static str>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            state: State::default(),
            log: Vec::new(),
            books: BTreeMap::new(),
            outside: Outside::default(),
            now: 1_764_000_000,
            next: 100,
            done: BTreeSet::new(),
        };
        let rates = [(Component::InputUncached, Rate::per_million("1000000").unwrap())];
        let settings = AppSettings {
            name: "App".into(),
            vertical: None,
            default_revenue_share_bps: BasisPoints::new(4_000).unwrap(),
            status: Status::Active,
            session_opening: SessionOpening::Public,
        };
        let developer_id = DeveloperId(id(1));
        let mut setup = vec![
            Command::RegisterDeveloper { developer_id, name: "Ann".into(), email: "ann@example.org".into() },
            Command::RegisterApp { app_id: AppId(id(2)), developer_id, public_app_id: "app".into(), settings },
            Command::ActivateRateCard {
                source: "test".into(),
                models: vec![ModelRates::flat(name("openai"), "dollar", rates)],
            },
        ];
        for user in 0..2 {
            setup.push(Command::OpenSession {
                session_id: SessionId(id(10 + user)),
                wallet_id: WalletId(id(20 + user)),
                user_id: UserId(id(30 + user)),
                app_id: AppId(id(2)),
                user_hash: format!("hmac:{user:064x}").parse::<UserHash>().unwrap(),
                feature_key: None,
                token_hash: TokenHash::of_text(&user.to_string()),
                ttl: Duration::from_hours(300),
            });
        }
        for command in setup {
            world.obey(MAKER, &command).unwrap();
        }
        world
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.now * 1_000_000)
    }

    fn number(&mut self) -> u32 {
        self.next += 1;
        self.next
    }

    fn pick<K: Clone>(keys: impl Iterator<Item = K>, at: u32) -> Option<K> {
        let keys: Vec<K> = keys.collect();
        (!keys.is_empty()).then(|| keys[at as usize % keys.len()].clone())
    }

    /// Decides, checks, and takes in.
    fn obey(&mut self, caller: Caller, command: &Command) -> Result<(), Rejection> {
        let head = Position::START.plus(self.log.len());
        let events = decide(&self.state, caller, command, self.at(), head)?;
        assert!((1..=3).contains(&events.len()));
        let before = self.state.clone();
        let recorded: Vec<Recorded> = events.into_iter().map(|event| self.record(caller, event)).collect();
        let after = self.state.clone();
        self.state.undo();
        assert_eq!(self.state, before, "undo takes {command:?} back");
        for recorded in recorded {
            self.state.evolve(&recorded);
            for posting in recorded.event.entry().iter().flat_map(|entry| entry.postings()) {
                *self.books.entry(posting.account.to_string()).or_default() += i128::from(posting.amount.units());
            }
            self.done.insert(recorded.event.name());
            self.log.push(recorded);
        }
        assert_eq!(self.state, after);
        self.state.commit();
        self.check();
        Ok(())
    }

    fn record(&mut self, caller: Caller, event: Event) -> Recorded {
        let stream = event.stream();
        let recorded = Recorded {
            shard: ShardId(0),
            position: Position::START.plus(self.log.len() + 1),
            stream,
            stream_seq: self.state.next_seq(&stream),
            recorded_at: self.at(),
            actor: caller.actor(),
            request_id: "r".into(),
            key: None,
            event,
        };
        assert_eq!(recorded.store().decode().unwrap(), recorded, "the stored form gives the event back");
        self.state.evolve(&recorded);
        recorded
    }

    fn book(&self, account: &str) -> i128 {
        self.books.get(account).copied().unwrap_or_default()
    }

    fn check(&self) {
        assert_eq!(self.books.values().sum::<i128>(), 0, "I4");
        for (wallet_id, wallet) in self.state.wallets.iter() {
            let Balance { posted, promo, held } = wallet.balance;
            assert!(wallet.balance.available() >= wallet.floor && promo >= Money::ZERO && promo <= posted, "I5");
            let credit = -self.book(&format!("2010:{wallet_id}")) - self.book(&format!("2020:{wallet_id}"));
            assert_eq!(credit, i128::from(posted.units()), "the books show another balance");
            let open: i64 = self
                .state
                .disputes
                .iter()
                .filter(|(_, d)| d.wallet_id == *wallet_id)
                .map(|(_, d)| d.held.units())
                .sum();
            assert_eq!(held.units(), open, "I10");
            let owed = self.state.receivables.get(wallet_id).copied().unwrap_or_default();
            assert_eq!(self.book(&format!("1200:{wallet_id}")), i128::from(owed.units()));
            assert!(owed >= Money::ZERO, "nobody owes less than nothing");
            let slices = self.state.promos.get(wallet_id).cloned().unwrap_or_default();
            let expiring: i64 = slices.iter().map(|slice| slice.left.units()).sum();
            assert!(expiring <= promo.units(), "no grant outlives its credit");
        }
        for (payment, known) in self.state.payments.iter() {
            let lost: i64 = self
                .state
                .disputes
                .iter()
                .filter(|(_, d)| {
                    d.payment.as_ref() == payment && d.state == modelfaucet_command::domain::DisputeState::Lost
                })
                .map(|(_, d)| d.amount.units())
                .sum();
            assert!(known.refunded.units() + lost <= known.amount.units(), "I11: {payment} {known:?}");
        }
        let developer = DeveloperId(id(1));
        let (owed, away, paid) = (-self.book(&format!("2210:{developer}")), -self.book("2220"), -self.book("1020"));
        assert!(owed >= 0 && away >= 0 && paid >= 0, "I11");
        let earned = self.book("5020");
        assert_eq!(owed + away + paid - self.book("5130"), earned, "I11: what was earned is owed, on its way or paid");
    }

    fn step(&mut self, (kind, a, b): Raw) {
        let (wallet_id, session) = (WalletId(id(20 + a % 2)), SessionId(id(10 + a % 2)));
        let cents = Money::from_units(CENT * i64::from(1 + b % 2_000));
        match kind % 20 {
            0..3 => self.pay(wallet_id, cents),
            3 | 4 => {
                let call = CallRequest {
                    payer: Payer::Session(session),
                    feature_key: None,
                    route: Route::Platform,
                    provider: None,
                    model: "dollar".into(),
                    service_tier: ServiceTier::Standard,
                };
                let (usage_id, usage) = (UsageId(id(self.number())), Usage::text(u64::from(1 + b % 60), 0));
                let on_shortfall = if b.is_multiple_of(3) { OnShortfall::Receivable } else { OnShortfall::Refuse };
                let used = Command::RecordUsage {
                    usage_id,
                    call,
                    usage,
                    on_shortfall,
                    provider_request_id: None,
                    occurred_at: None,
                };
                let _refused = self.obey(Caller::Session(session), &used);
            }
            5 | 6 => self.refund_here(a, cents),
            7 | 8 => self.refund_there(a, cents, b.is_multiple_of(4)),
            9 => self.fail_refund(a),
            10 => self.dispute(a, b),
            11 => self.close(a, b.is_multiple_of(2)),
            12 => self.expiring(wallet_id, cents, b),
            13 => {
                self.now += i64::from(b % 7_200);
                self.expire_what_is_due();
            }
            14 => {
                let write_off_id = WriteOffId(id(self.number()));
                let amount = self.state.receivables.get(&wallet_id).copied().unwrap_or_default();
                let propose = Command::ProposeWriteOff { write_off_id, wallet_id, amount, reason: "gone".into() };
                if self.obey(MAKER, &propose).is_ok() {
                    let approve = Command::ApproveWriteOff { write_off_id };
                    assert_eq!(self.obey(MAKER, &approve), Err(Rejection::SameActor));
                    self.obey(CHECKER, &approve).unwrap();
                }
            }
            15 | 16 => self.request_payout(a, cents),
            17 | 18 => self.step_payout(a, b),
            _ => {
                let scopes: Vec<FreezeScope> = self.state.freezes.iter().map(|(scope, _)| *scope).collect();
                for scope in scopes {
                    self.obey(CHECKER, &Command::Thaw { scope, reason: "over".into() }).unwrap();
                }
            }
        }
    }

    fn pay(&mut self, wallet_id: WalletId, amount: Money) {
        let number = self.number();
        let (top_up_id, payment) = (TopUpId(id(number)), format!("pi_{number}"));
        let request = Command::RequestTopUp { top_up_id, wallet_id, amount, provider: name("stripe"), reference: None };
        self.obey(MAKER, &request).unwrap();
        let credit =
            Command::CreditTopUp { top_up_id, payment: payment.clone(), amount: Some(amount), occurred_at: None };
        self.obey(Caller::Stripe, &credit).unwrap();
        assert_eq!(self.obey(Caller::Stripe, &credit), Err(Rejection::TopUpNotFound), "credited once");
        self.outside.payments.insert(payment.clone(), (amount.units(), 0));
        self.moved(TransactionCategory::Charge, &payment, amount.units(), 30 * CENT);
    }

    fn moved(&mut self, category: TransactionCategory, payment: &str, amount: i64, fee: i64) {
        let report = TransactionReport {
            transaction: format!("txn_{}", self.number()),
            category,
            source: None,
            payment: Some(payment.to_owned()),
            amount: Money::from_units(amount),
            fee: Money::from_units(fee),
            occurred_at: self.at(),
        };
        self.obey(Caller::Stripe, &Command::RecordTransaction(Box::new(report))).unwrap();
        self.outside.moved += amount - fee;
        self.outside.fees += fee;
    }

    fn refund_here(&mut self, a: u32, amount: Money) {
        let Some(payment) = Self::pick(self.outside.payments.keys().cloned(), a) else { return };
        let number = self.number();
        let (refund_id, request) = (RefundId(id(number)), payment.clone());
        let request = Command::RequestRefund { refund_id, payment: request, amount, reason: None };
        if self.obey(MAKER, &request).is_err() {
            return;
        }
        // Stripe refuses what an open dispute has withdrawn already; then it fails at once.
        let (paid, gone) = self.outside.payments[&payment];
        if gone + amount.units() > paid {
            self.obey(Caller::Stripe, &Command::FailRefund { refund_id, reason: "disputed".into() }).unwrap();
            return;
        }
        let confirm = Command::ConfirmRefund { refund_id, reference: format!("re_{number}") };
        self.obey(Caller::Stripe, &confirm).unwrap();
        self.outside.payments.get_mut(&payment).unwrap().1 += amount.units();
        self.outside.refunds.insert(number, (payment.clone(), amount.units(), true));
        self.moved(TransactionCategory::Refund, &payment, -amount.units(), 0);
    }

    fn report(&self, number: u32, failed: bool) -> Command {
        let (payment, amount, own) = &self.outside.refunds[&number];
        let reference = format!("re_{number}");
        Command::ReportRefund(Box::new(RefundReport {
            own: own.then(|| RefundId(id(number))),
            refund_id: RefundId(short_hash(&[reference.as_bytes()])),
            reference,
            payment: payment.clone(),
            amount: Money::from_units(*amount),
            failed: failed.then(|| "failed".to_owned()),
            occurred_at: None,
        }))
    }

    /// `unheard`: its failure is all that the ledger hears of it.
    fn refund_there(&mut self, a: u32, amount: Money, unheard: bool) {
        let Some(payment) = Self::pick(self.outside.payments.keys().cloned(), a) else { return };
        let (paid, gone) = self.outside.payments[&payment];
        let amount = amount.units().min(paid - gone);
        if amount <= 0 {
            return;
        }
        let number = self.number();
        self.outside.refunds.insert(number, (payment.clone(), amount, false));
        self.moved(TransactionCategory::Refund, &payment, -amount, 0);
        if unheard {
            let report = self.report(number, true);
            self.obey(Caller::Stripe, &report).unwrap();
            self.outside.refunds.remove(&number);
            self.moved(TransactionCategory::RefundFailure, &payment, amount, 0);
            return;
        }
        self.outside.payments.get_mut(&payment).unwrap().1 += amount;
        let report = self.report(number, false);
        self.obey(Caller::Stripe, &report).unwrap();
        assert_eq!(self.obey(Caller::Stripe, &report), Err(Rejection::AlreadyExists), "a repeat has no effect");
    }

    fn fail_refund(&mut self, a: u32) {
        let Some(number) = Self::pick(self.outside.refunds.keys().copied(), a) else { return };
        let report = self.report(number, true);
        self.obey(Caller::Stripe, &report).unwrap();
        assert_eq!(self.obey(Caller::Stripe, &report), Err(Rejection::AlreadyExists));
        let (payment, amount, _) = self.outside.refunds.remove(&number).unwrap();
        self.outside.payments.get_mut(&payment).unwrap().1 -= amount;
        self.moved(TransactionCategory::RefundFailure, &payment, amount, 0);
    }

    fn tell(&mut self, number: u32, phase: DisputePhase) -> Result<(), Rejection> {
        let (payment, amount) = self.outside.disputes[&number].clone();
        let report = DisputeReport {
            dispute: format!("dp_{number}"),
            payment,
            amount: Money::from_units(amount),
            reason: "fraudulent".into(),
            phase,
            occurred_at: None,
        };
        self.obey(Caller::Stripe, &Command::ReportDispute(Box::new(report)))
    }

    /// Sometimes its end is all that the ledger hears of it.
    fn dispute(&mut self, a: u32, b: u32) {
        let Some(payment) = Self::pick(self.outside.payments.keys().cloned(), a) else { return };
        let (paid, gone) = self.outside.payments[&payment];
        if paid == gone {
            return;
        }
        let number = self.number();
        self.outside.payments.get_mut(&payment).unwrap().1 = paid;
        self.outside.disputes.insert(number, (payment.clone(), paid - gone));
        self.moved(TransactionCategory::Dispute, &payment, gone - paid, 15 * CENT);
        if !b.is_multiple_of(3) {
            self.tell(number, DisputePhase::Opened).unwrap();
            assert_eq!(self.tell(number, DisputePhase::Opened), Err(Rejection::AlreadyExists));
        }
    }

    fn close(&mut self, a: u32, won: bool) {
        let Some(number) = Self::pick(self.outside.disputes.keys().copied(), a) else { return };
        let phase = if won { DisputePhase::Won } else { DisputePhase::Lost };
        self.tell(number, phase).unwrap();
        assert_eq!(self.tell(number, DisputePhase::Opened), Err(Rejection::AlreadyExists), "late and harmless");
        let (payment, amount) = self.outside.disputes.remove(&number).unwrap();
        if won {
            self.outside.payments.get_mut(&payment).unwrap().1 -= amount;
            self.moved(TransactionCategory::DisputeReversal, &payment, amount, 0);
        }
    }

    fn expiring(&mut self, wallet_id: WalletId, amount: Money, b: u32) {
        let promo_id = PromoId(id(self.number()));
        let expires_at = (!b.is_multiple_of(4)).then(|| self.at().plus(Duration::from_secs(u64::from(1 + b % 9_000))));
        let grant = Command::GrantPromo { promo_id, wallet_id, amount, reason: "launch".into(), expires_at };
        self.obey(MAKER, &grant).unwrap();
    }

    fn expire_what_is_due(&mut self) {
        let due: Vec<(WalletId, PromoId)> = self
            .state
            .promos
            .iter()
            .flat_map(|(wallet, slices)| slices.iter().map(move |slice| (*wallet, *slice)))
            .filter(|(_, slice)| slice.due_at <= self.at())
            .map(|(wallet, slice)| (wallet, slice.promo_id))
            .collect();
        for (wallet_id, promo_id) in due {
            self.obey(Caller::Clock, &Command::ExpireCredit { wallet_id, promo_id }).unwrap();
        }
    }

    fn request_payout(&mut self, a: u32, amount: Money) {
        let request = Command::RequestPayout {
            payout_id: PayoutId(id(self.number())),
            developer_id: DeveloperId(id(1)),
            amount: a.is_multiple_of(2).then_some(amount),
            threshold: Money::from_units(CENT),
            provider: name("mock"),
            trigger: PayoutTrigger::Threshold,
        };
        let _refused = self.obey(MAKER, &request);
    }

    fn step_payout(&mut self, a: u32, b: u32) {
        let mut payouts: Vec<PayoutId> = self.state.payouts.iter().map(|(id, _)| *id).collect();
        payouts.sort_unstable();
        let Some(payout_id) = Self::pick(payouts.into_iter(), a) else { return };
        let (reason, reference) = ("x".to_owned(), "x".to_owned());
        let step = match b % 8 {
            0..3 => PayoutStep::Approve { note: None },
            3..5 => PayoutStep::Pay { reference, fee: Money::ZERO, occurred_at: None },
            5 => PayoutStep::Fail { reason },
            6 => PayoutStep::Cancel { reason },
            _ => PayoutStep::Return { reason, reference, occurred_at: None },
        };
        let maker = self.obey(MAKER, &Command::StepPayout { payout_id, step: step.clone() });
        if maker == Err(Rejection::SameActor) {
            self.obey(CHECKER, &Command::StepPayout { payout_id, step }).unwrap();
        }
    }

    /// Everything that is open outside ends; then both sources have told everything.
    fn drain(&mut self) {
        while !self.outside.disputes.is_empty() {
            self.close(0, false);
        }
        assert_eq!(self.book("1010"), i128::from(self.outside.moved), "the provider's balance");
        assert_eq!(self.book("5110") + self.book("5120"), i128::from(self.outside.fees), "the provider's fees");
        assert_eq!((self.book("1110"), self.book("2030"), self.book("1130")), (0, 0, 0), "clearing accounts");
        for (payment, (paid, gone)) in &self.outside.payments {
            let known = self.state.payments.get(payment).unwrap();
            let back = known.refunded.units() + known.disputed.units();
            assert_eq!((known.amount.units(), back), (*paid, *gone), "{payment}");
        }
        let mut fold = State::default();
        self.log.iter().for_each(|recorded| fold.evolve(recorded));
        assert_eq!(fold, self.state, "replaying the log gives the live state");
        let saved: State = serde_json::from_slice(&serde_json::to_vec(&fold).unwrap()).unwrap();
        assert_eq!(saved, fold, "a snapshot gives the state back");
    }
}

fn history(steps: &[Raw]) -> World {
    let mut world = World::new();
    for step in steps {
        world.step(*step);
    }
    world.drain();
    world
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, ..ProptestConfig::default() })]

    #[test]
    fn money_goes_back_and_out_by_the_rules(steps in proptest::collection::vec(any::<Raw>(), 1..120)) {
        history(&steps);
    }
}

#[test]
fn histories_reach_what_they_are_to_test() {
    let mut dice = 7_u64;
    let mut roll = || {
        dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        u32::try_from(dice >> 32).unwrap()
    };
    let steps: Vec<Raw> = (0..4_000).map(|_| (u8::try_from(roll() % 256).unwrap(), roll(), roll())).collect();
    let world = history(&steps);
    for event in [
        "RefundRequested",
        "RefundSent",
        "RefundFailed",
        "DisputeOpened",
        "DisputeWon",
        "DisputeLost",
        "ReceivableWrittenOff",
        "CreditExpired",
        "StripeTransactionRecorded",
        "PayoutRequested",
        "PayoutApproved",
        "PayoutPaid",
        "PayoutFailed",
        "PayoutCancelled",
        "PayoutReturned",
        "Frozen",
        "Thawed",
    ] {
        assert!(world.done.contains(event), "{event} never happens");
    }
}
