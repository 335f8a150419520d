//! Random histories, told to the product's rules and to a second ledger that was written from the accounting rules alone. After
//! every step both must say the same, and what must always hold is checked (docs/RELIABILITY.md: I4, I5, I10, I12).
#![allow(clippy::unwrap_used, missing_docs, unreachable_pub, reason = "a test")]

#[path = "model/ledger.rs"]
mod ledger;
#[path = "model/translate.rs"]
mod translate;

use ledger::{
    Amount, App, Call, Card, Counts, Hold, Id, Ledger, Life, Order, Payer, Pricing, Route, Scope, Session, Units, Who,
};
use modelfaucet_command::domain::{Command, State, decide};
use modelfaucet_schema::event::{self, Balance, Event, Rating, Recorded};
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use proptest::prelude::*;

/// A step before it meets a history: its numbers pick among what exists then.
type Raw = (u8, u32, u32, u32);

/// Both ledgers and the clock.
struct World {
    state: State,
    model: Ledger,
    /// Both as of the last commit, and how many events there were.
    committed: (State, Ledger, usize),
    log: Vec<Recorded>,
    now: i64,
    last: Option<(Who, Order)>,
    next_id: Id,
}

impl World {
    fn new(seed: u32) -> Self {
        let share = |n: u32| Units::from(n % 5) * 2_500;
        let app = |developer, n| App { developer, active: true, share: share(n) };
        let model = Ledger {
            apps: [(1, app(1, seed)), (2, app(1, seed / 5)), (3, app(2, seed / 25))].into(),
            ..Ledger::default()
        };
        let mut world = Self {
            state: State::default(),
            committed: (State::default(), Ledger::default(), 0),
            log: Vec::new(),
            now: 1_764_000_000,
            last: None,
            next_id: 10,
            model,
        };
        for command in translate::beginning(&world.model) {
            let events =
                decide(&world.state, translate::caller(Who::Operator), &command, world.at(), world.head()).unwrap();
            world.evolve(&events);
        }
        for app in [1, 3] {
            world.obey(Who::Operator, Order::SetFeature { app, feature: 1, pricing: pricing(seed, seed >> 8) });
        }
        world.obey(Who::Operator, Order::Activate(card(seed)));
        world.step((0, seed, seed, seed));
        world.step((36, 0, seed, seed));
        world.commit();
        world
    }

    fn head(&self) -> Position {
        Position::START.plus(self.log.len())
    }

    fn at(&self) -> Timestamp {
        Timestamp::from_micros(self.now * 1_000_000)
    }

    fn commit(&mut self) {
        self.state.commit();
        self.committed = (self.state.clone(), self.model.clone(), self.log.len());
    }

    fn step(&mut self, (kind, a, b, c): Raw) {
        self.next_id += 1;
        let id = self.next_id;
        let wallet = pick(self.model.wallets.keys(), b);
        let amount = amount(c);
        let order = match kind % 100 {
            0..8 => {
                let (app, user) = (1 + a % 3, b % 2);
                let feature = c.is_multiple_of(3).then_some(1 + c / 3 % 2);
                let ttl = [3_600, 86_400, 1_000_000, 0, 60][(c / 16 % 5) as usize];
                Order::OpenSession { session: id, wallet: id, app, user, feature, ttl }
            }
            8..11 => Order::EndSession { session: pick(self.model.sessions.keys(), b), by_time: a.is_multiple_of(2) },
            11..17 => {
                self.now += [1, 30, 601, 7_200, 90_000][(a % 5) as usize];
                return;
            }
            17..22 => return self.expire_what_is_due(),
            22..25 => Order::RequestTopUp {
                top_up: id,
                wallet,
                amount: if a.is_multiple_of(4) { amount } else { Units::from(b % 5_000) * 1_000_000 },
            },
            25..28 => {
                let top_up = pick(self.model.top_ups.keys(), a);
                let requested = self.model.top_ups.get(&top_up).map(|known| known.1);
                Order::CreditTopUp {
                    top_up,
                    amount: if b.is_multiple_of(4) { Some(amount) } else { requested.filter(|_| b % 4 > 1) },
                }
            }
            28 => Order::FailTopUp { top_up: pick(self.model.top_ups.keys(), a) },
            29 => Order::SetApp { app: 1 + a % 3, active: !b.is_multiple_of(4), share: Units::from(c % 5) * 2_500 },
            30..33 => Order::SetFeature { app: 1 + a % 3, feature: 1 + a / 4 % 2, pricing: pricing(b, c) },
            33 => Order::RemoveFeature { app: 1 + a % 3, feature: 1 + a / 4 % 2 },
            34..36 => Order::Activate(card(a)),
            36..40 => Order::TestCredit { wallet, amount },
            40..44 => Order::Promo { wallet, amount },
            44..50 => Order::Adjust {
                wallet,
                other_side: [(5220, 0), (2030, 0), (1130, 0)][(a % 3) as usize],
                credit: a.is_multiple_of(2),
                amount: if c.is_multiple_of(3) {
                    self.model.wallets.get(&wallet).map_or(0, |wallet| wallet.paid)
                } else {
                    amount
                },
            },
            50..68 => Order::Hold {
                hold: id,
                call: self.call(a),
                amount: if b.is_multiple_of(2) { Amount::Fixed(amount) } else { Amount::Bound(counts(b, c)) },
                min: (a % 7 < 3).then_some(amount / 3),
                seconds: [600, 30, 1, 86_400, 86_401][(if a.is_multiple_of(16) { c % 5 } else { c % 3 }) as usize],
            },
            68..80 => Order::Capture { hold: self.hold(a), counts: counts(b, c) },
            80..83 => Order::Release { hold: self.hold(a) },
            83 => Order::Expire { hold: self.hold(a) },
            84..91 => Order::Use { call: self.call(a), counts: counts(b, c), receivable: c.is_multiple_of(2) },
            91..93 => Order::Freeze(self.scope(a, b)),
            93..95 => {
                let frozen: Vec<_> = self.model.frozen.iter().copied().collect();
                Order::Thaw(frozen.get(a as usize % frozen.len().max(1)).copied().unwrap_or(Scope::Usage))
            }
            95..97 => {
                let Some((who, order)) = self.last.clone() else { return };
                return self.obey(who, order);
            }
            97..99 => return self.commit(),
            _ => return self.undo(),
        };
        let who = self.who(&order, a, b);
        self.obey(who, order);
    }

    /// Everything since the last commit did not happen.
    fn undo(&mut self) {
        self.state.undo();
        assert_eq!(self.state, self.committed.0, "undo restores the state");
        self.model = self.committed.1.clone();
        self.log.truncate(self.committed.2);
    }

    fn expire_what_is_due(&mut self) {
        let due = |hold: &Hold| hold.life == Life::Open && hold.end <= self.now;
        let holds: Vec<Id> = self.model.holds.iter().filter(|(_, hold)| due(hold)).map(|(id, _)| *id).collect();
        let over = |session: &Session| session.live && session.end <= self.now;
        let sessions: Vec<Id> =
            self.model.sessions.iter().filter(|(_, session)| over(session)).map(|(id, _)| *id).collect();
        for hold in holds {
            self.obey(Who::Operator, Order::Expire { hold });
        }
        for session in sessions {
            self.obey(Who::Operator, Order::EndSession { session, by_time: true });
        }
    }

    fn hold(&self, a: u32) -> Id {
        // Mostly one that is not over.
        let open: Vec<Id> =
            self.model.holds.iter().filter(|(_, hold)| hold.life != Life::Over).map(|(id, _)| *id).collect();
        if a.is_multiple_of(8) || open.is_empty() {
            pick(self.model.holds.keys(), a / 8)
        } else {
            pick(open.iter(), a / 8)
        }
    }

    fn call(&self, a: u32) -> Call {
        let live: Vec<Id> = self.model.sessions.iter().filter(|(_, session)| session.live).map(|(id, _)| *id).collect();
        let payer = match a % 8 {
            0 => Payer::Session(pick(self.model.sessions.keys(), a / 8)),
            1..3 => Payer::Wallet(pick(self.model.wallets.keys(), a / 8)),
            _ => Payer::Session(pick(live.iter(), a / 8)),
        };
        let route =
            [Route::Platform, Route::Platform, Route::DeveloperKey, Route::Byok, Route::Local][(a / 64 % 5) as usize];
        let model = [1, 1, 1, 2, 3, 9][(a / 512 % 6) as usize];
        let provider = [None, None, Some(1), Some(2)][(a / 4_096 % 4) as usize];
        let feature = [None, None, None, Some(1), Some(2)][(a / 32_768 % 5) as usize];
        Call { payer, feature, route, provider, model }
    }

    fn scope(&self, a: u32, b: u32) -> Scope {
        match a % 6 {
            0 => Scope::App(1 + b % 4),
            1 => Scope::Developer(1 + b % 2),
            2 => Scope::Session(pick(self.model.sessions.keys(), b)),
            3 => Scope::Wallet(pick(self.model.wallets.keys(), b)),
            4 => Scope::TopUps,
            _ => Scope::Usage,
        }
    }

    /// Mostly somebody who may; sometimes somebody else.
    fn who(&self, order: &Order, a: u32, b: u32) -> Who {
        let call = match order {
            Order::Hold { call, .. } | Order::Use { call, .. } => Some(call.payer),
            _ => None,
        };
        match (a.wrapping_add(b) % 8, call) {
            (0, _) => Who::Developer(1 + b % 2),
            (1, _) => Who::Session(pick(self.model.sessions.keys(), b)),
            (2..5, Some(Payer::Session(id))) => Who::Session(id),
            _ => Who::Operator,
        }
    }

    /// Tells both ledgers and compares.
    fn obey(&mut self, who: Who, order: Order) {
        let command = translate::command(&order, &self.model);
        // Somebody else than who froze.
        let caller = match order {
            Order::Thaw(_) if who == Who::Operator => modelfaucet_command::domain::Caller::Admin,
            _ => translate::caller(who),
        };
        let verdict = decide(&self.state, caller, &command, self.at(), self.head());
        assert_eq!(decide(&self.state, caller, &command, self.at(), self.head()), verdict, "decide is deterministic");
        let expected = self.model.obey(who, &order, self.now);
        assert_eq!(translate::answer(&verdict), expected, "{who:?} {order:?} at {}", self.now);
        if let Ok(events) = verdict {
            for event in &events {
                check_entry(event);
            }
            self.evolve(&events);
            check_rating(&command, events.last().unwrap());
        }
        self.check_wallets();
        self.last = Some((who, order));
    }

    fn evolve(&mut self, events: &[Event]) {
        for event in events {
            let stream = event.stream();
            let recorded = Recorded {
                shard: ShardId(0),
                position: Position::START.plus(self.log.len() + 1),
                stream,
                stream_seq: self.state.next_seq(&stream),
                recorded_at: self.at(),
                actor: translate::caller(Who::Operator).actor(),
                request_id: "r".into(),
                key: None,
                event: event.clone(),
            };
            self.state.evolve(&recorded);
            self.log.push(recorded);
        }
    }

    /// I5 and I10, and the figures of the second ledger.
    fn check_wallets(&self) {
        assert_eq!(self.state.wallets.len(), self.model.wallets.len());
        for (id, expected) in &self.model.wallets {
            let wallet = self.state.wallets.get(&translate::wallet_id(*id)).unwrap();
            let Balance { posted, promo, held } = wallet.balance;
            let expected = (expected.paid + expected.promo, expected.promo, self.model.held(*id));
            let units = |money: Money| Units::from(money.units());
            assert_eq!((units(posted), units(promo), units(held)), expected, "wallet {id}");
            assert!(units(posted) - units(held) >= units(wallet.floor), "wallet {id} is below its floor");
            assert!(promo >= Money::ZERO && promo <= posted && held >= Money::ZERO);
        }
        let open: Units = self.state.holds.iter().map(|(_, hold)| Units::from(hold.amount.units())).sum();
        let held: Units = self.state.wallets.iter().map(|(_, wallet)| Units::from(wallet.balance.held.units())).sum();
        assert_eq!(open, held, "open holds add up to what is held");
    }

    /// What must hold of the whole history.
    fn check_history(&self, cut: usize, codec: bool) {
        let mut fold = State::default();
        let mut head = State::default();
        for (index, recorded) in self.log.iter().enumerate() {
            assert_eq!(recorded.stream_seq, fold.next_seq(&recorded.stream));
            if codec {
                assert_eq!(recorded.store().decode().unwrap(), *recorded, "the stored form gives the event back");
            }
            fold.evolve(recorded);
            if codec && index + 1 == cut % self.log.len() {
                // A snapshot at a random place, and the rest on top of it.
                head = serde_json::from_slice(&serde_json::to_vec(&fold).unwrap()).unwrap();
                assert_eq!(head, fold, "a snapshot gives the state back");
                self.log[index + 1..].iter().for_each(|recorded| head.evolve(recorded));
            }
        }
        assert_eq!(fold, self.state, "replaying the log gives the live state");
        assert!(
            head == fold || !codec || cut.is_multiple_of(self.log.len()),
            "a snapshot and the tail give the live state"
        );
        // Every account, and the wallets among them, as the second ledger has them.
        let mut books = ledger::Postings::new();
        for (account, amount) in
            self.log.iter().filter_map(|recorded| recorded.event.entry()).flat_map(translate::postings)
        {
            *books.entry(account).or_default() += amount;
        }
        assert_eq!(books, self.model.books);
        assert_eq!(books.values().sum::<Units>(), 0);
        for (id, wallet) in &self.model.wallets {
            let side = |code: u16| books.get(&(code, *id)).copied().unwrap_or_default();
            assert_eq!((-side(2010), -side(2020), side(1200)), (wallet.paid, wallet.promo, wallet.owes), "wallet {id}");
        }
        assert!(
            books.iter().all(|((code, _), amount)| *code != 2210 || *amount <= 0),
            "a developer is never owed less than nothing"
        );
    }
}

/// I4.
fn check_entry(event: &Event) {
    let sum: Units =
        event.entry().iter().flat_map(|entry| entry.postings()).map(|line| Units::from(line.amount.units())).sum();
    assert_eq!(sum, 0, "{event:?}");
}

/// I12: charge = upstream − unrecovered + developer + platform, and receivable + paid + promotional = charge.
fn check_rating(command: &Command, recorded: &Event) {
    let (rating, call): (&Rating, &event::Call) = match recorded {
        Event::HoldCaptured(event) => {
            assert!(event.rating.charge <= event.held, "a customer pays at most the hold");
            (&event.rating, &event.call)
        }
        Event::LateUsageCaptured(event) => (&event.rating, &event.call),
        Event::UsageRecorded(event) => (&event.rating, &event.call),
        _ => return,
    };
    let units = |money: Money| Units::from(money.units());
    let platform = units(rating.charge) - units(rating.upstream) + units(rating.unrecovered) - units(rating.developer);
    assert!(platform >= 0, "{command:?}: the platform keeps {platform}");
    let paid = recorded.entry().map(translate::postings).unwrap_or_default();
    let side =
        |code: u16| paid.iter().filter(|((known, _), _)| *known == code).map(|(_, amount)| *amount).sum::<Units>();
    assert_eq!(side(1200) + side(2010) + side(2020), units(rating.charge));
    // On the developer's own key the platform loses nothing, and owes the developer at most what was paid.
    let own_key = call.route == event::Route::DeveloperKey;
    let lost = if own_key { 0 } else { units(rating.unrecovered) };
    assert_eq!((side(1200), side(2020), side(5030)), (units(rating.receivable), units(rating.promo), lost));
    assert!(-side(2210) <= side(2010) + side(2020), "{command:?}: a developer is owed more than was paid");
    assert!(rating.charge <= rating.retail && rating.developer >= Money::ZERO && rating.unrecovered >= Money::ZERO);
}

fn pick<'a>(ids: impl Iterator<Item = &'a Id>, n: u32) -> Id {
    let ids: Vec<Id> = ids.copied().collect();
    ids.get(n as usize % ids.len().max(1)).copied().unwrap_or(7)
}

/// From nothing to a little more than a wallet holds, with many small figures; seldom a huge one.
fn amount(c: u32) -> Units {
    match c % 32 {
        0 => 0,
        1 => 9_000_000_000_000_000_000,
        2..10 => Units::from(c / 32 % 50),
        10..20 => Units::from(c / 32 % 2_000_000),
        _ => Units::from(c / 32),
    }
}

fn counts(b: u32, c: u32) -> Counts {
    let small = |n: u32| u64::from(n % [3, 50, 2_000, 300_000][(n / 1_024 % 4) as usize]);
    [small(b), small(b / 7), small(c), u64::from(c.is_multiple_of(61))]
}

fn pricing(b: u32, c: u32) -> Pricing {
    let markup = [3_000, 0, 1, 9_999, 100_000][(b % 5) as usize];
    let share = [None, Some(0), Some(1), Some(4_000), Some(10_000), Some(100_000)][(b / 5 % 6) as usize];
    Pricing { markup, share, fee: [0, 1, 2_000_000, 99_999][(c % 4) as usize] }
}

/// One of a few hundred cards; model 3 is offered by two providers. Prices have halves and tenths of a unit in them.
fn card(a: u32) -> Card {
    let price =
        |n: u32| i128::from([0_i64, 2_500_000, 37_500_000, 150_000_000, 1_000_001, 15_000_000_000][(n % 6) as usize]);
    let prices = |n: u32| [price(n), price(n / 6), price(n / 36)];
    [((1, 1), prices(a)), ((2, 2), prices(a / 7)), ((1, 3), prices(a / 11)), ((2, 3), prices(a / 13))].into()
}

fn steps() -> impl Strategy<Value = Vec<Raw>> {
    proptest::collection::vec((0..100_u8, any::<u32>(), any::<u32>(), any::<u32>()), 60..140)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), max_shrink_iters: 100_000, ..ProptestConfig::default() })]

    #[test]
    fn both_ledgers_say_the_same(seed in any::<u32>(), steps in steps()) {
        let mut world = World::new(seed);
        for step in steps {
            world.step(step);
        }
        world.check_history(seed as usize, seed.is_multiple_of(8));
    }
}

/// Two thousand, or as many as `PROPTEST_CASES` says.
fn cases() -> u32 {
    std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(2_000)
}

#[test]
fn histories_reach_what_they_are_to_test() {
    use proptest::strategy::ValueTree as _;
    use proptest::test_runner::TestRunner;
    let mut runner = TestRunner::deterministic();
    let mut seen = std::collections::BTreeMap::<&str, u32>::new();
    let mut receivables = 0;
    for seed in 0..200 {
        let mut world = World::new(seed * 7_919);
        for step in steps().new_tree(&mut runner).unwrap().current() {
            world.step(step);
        }
        for recorded in &world.log {
            *seen.entry(recorded.event.name()).or_default() += 1;
            if let Event::UsageRecorded(event) = &recorded.event {
                receivables += u32::from(event.rating.receivable.is_positive());
            }
        }
    }
    // Tokens change nothing about money; the rules' own tests try them.
    let untried = ["DeveloperTokenRevoked", "StaffTokenIssued", "StaffTokenRevoked"];
    // Histories of these are elsewhere: command/tests/payments.rs has a book of its own, domain/tests/ has attempts.rs, credentials.rs
    // and budgets.rs; no command of an app or administrator forks a log (integration-tests/tests/backup.rs).
    let elsewhere = [
        "Attempt",
        "DisconnectPolicySet",
        "Credential",
        "TopUpCheckout",
        "Refund",
        "Dispute",
        "WriteOff",
        "Receivable",
        "Credit",
        "StripeTransaction",
        "Payout",
        "Repair",
        "Incident",
        "LogForked",
    ];
    for (name, _) in Event::KINDS.iter().filter(|(name, _)| !elsewhere.iter().any(|kind| name.starts_with(kind))) {
        let enough = seen.get(name).copied().unwrap_or_default() >= 20 || untried.contains(name);
        assert!(enough, "{name}: {seen:?}");
    }
    assert!(receivables > 50, "{receivables} receivables");
}
