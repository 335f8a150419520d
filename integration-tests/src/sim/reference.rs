//! The books, folded a second time from what the events say was done: own sums, no code of the product but the event types.

use std::collections::{BTreeMap, HashMap, HashSet};

use modelfaucet_schema::event::{Direction, Event, FreezeScope, Rating, Recorded};
use modelfaucet_schema::ids::{AppId, HoldId, Position, StreamId, TopUpId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use uuid::Uuid;

/// A wallet's figures in units of 1e-8 USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Purse {
    pub(super) posted: i128,
    pub(super) promo: i128,
    pub(super) held: i128,
    floor: i128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Life {
    Open,
    Expired,
    Over,
}

struct Hold {
    wallet: WalletId,
    amount: i128,
    expires_at: Timestamp,
    life: Life,
}

/// The fold up to the last event.
#[derive(Default)]
pub(super) struct Reference {
    position: i64,
    recorded_at: Timestamp,
    seqs: HashMap<StreamId, i64>,
    purses: BTreeMap<WalletId, Purse>,
    apps: HashMap<WalletId, AppId>,
    holds: HashMap<HoldId, Hold>,
    accounts: HashMap<String, i128>,
    top_ups: HashMap<TopUpId, (WalletId, i128)>,
    payments: HashSet<String>,
    frozen: HashSet<FreezeScope>,
    keys: HashSet<Uuid>,
    /// The wallets at the end of each batch.
    history: BTreeMap<Position, BTreeMap<WalletId, Purse>>,
}

fn units(money: Money) -> i128 {
    money.units().into()
}

impl Reference {
    /// Takes in a batch and checks what must hold at every position.
    pub(super) fn take_in(&mut self, events: &[Recorded]) {
        for event in events {
            self.event(event);
        }
        self.history.insert(Position(self.position), self.purses.clone());
        let held: i128 = self.holds.values().filter(|hold| hold.life == Life::Open).map(|hold| hold.amount).sum();
        assert_eq!(held, self.purses.values().map(|purse| purse.held).sum(), "I10: open holds add up to what is held");
    }

    /// The wallets behind a batch.
    pub(super) fn purses_at(&self, position: Position) -> &BTreeMap<WalletId, Purse> {
        static NONE: BTreeMap<WalletId, Purse> = BTreeMap::new();
        self.history.get(&position).unwrap_or(&NONE)
    }

    /// The wallets at the end.
    pub(super) fn purses(&self) -> &BTreeMap<WalletId, Purse> {
        &self.purses
    }

    pub(super) fn open_holds(&self) -> impl Iterator<Item = (HoldId, Timestamp)> + '_ {
        self.holds.iter().filter(|(_, hold)| hold.life == Life::Open).map(|(id, hold)| (*id, hold.expires_at))
    }

    fn event(&mut self, recorded: &Recorded) {
        self.position += 1;
        assert_eq!(recorded.position.0, self.position, "I8: positions have no gap");
        let seq = self.seqs.entry(recorded.stream).or_default();
        *seq += 1;
        assert_eq!(recorded.stream_seq, *seq, "I8: streams have no gap");
        assert!(recorded.recorded_at >= self.recorded_at, "the writer's clock goes back");
        self.recorded_at = recorded.recorded_at;
        assert!(recorded.key.is_none_or(|used| self.keys.insert(used.key)), "I2: a key has two effects");
        let event = &recorded.event;
        let wallet = self.apply(event, recorded.recorded_at);
        self.post(event);
        if let Some((id, balance)) = event.balance() {
            assert_eq!(wallet, Some(id), "{event:?}");
            let purse = self.purses[&id];
            let stated = (units(balance.posted), units(balance.promo), units(balance.held));
            assert_eq!(
                stated,
                (purse.posted, purse.promo, purse.held),
                "I9: the stated balance is the fold at {}",
                self.position
            );
        }
        if let Some(id) = wallet {
            self.check_wallet(id);
        }
    }

    fn check_wallet(&self, id: WalletId) {
        let purse = self.purses[&id];
        assert!(purse.posted - purse.held >= purse.floor, "I5: a wallet is below its floor: {purse:?}");
        assert!(purse.promo >= 0 && purse.promo <= purse.posted && purse.held >= 0, "I5: {purse:?}");
        let credit = |code: &str| -self.accounts.get(&format!("{code}:{id}")).copied().unwrap_or_default();
        assert_eq!(
            (credit("2010"), credit("2020")),
            (purse.posted - purse.promo, purse.promo),
            "the books show another balance"
        );
    }

    /// I4.
    fn post(&mut self, event: &Event) {
        let mut sum = 0;
        for line in event.entry().iter().flat_map(|entry| entry.postings()) {
            sum += units(line.amount);
            *self.accounts.entry(line.account.to_string()).or_default() += units(line.amount);
        }
        assert_eq!(sum, 0, "I4: an entry does not sum to zero: {event:?}");
    }

    fn purse(&mut self, id: WalletId) -> &mut Purse {
        self.purses.get_mut(&id).expect("an event names a wallet that was opened")
    }

    /// I13: nothing of a frozen class.
    fn thawed(&self, wallet: WalletId, scopes: &[FreezeScope]) {
        let both = [FreezeScope::App(self.apps[&wallet]), FreezeScope::Wallet(wallet)];
        let frozen = scopes.iter().chain(&both).find(|scope| self.frozen.contains(scope));
        assert_eq!(frozen, None, "I13: at position {}", self.position);
    }

    /// The wallet that an event changes.
    fn apply(&mut self, event: &Event, at: Timestamp) -> Option<WalletId> {
        Some(match event {
            Event::WalletOpened(event) => {
                let purse = Purse { floor: units(event.floor), ..Purse::default() };
                assert!(self.purses.insert(event.wallet_id, purse).is_none(), "a wallet is opened once");
                self.apps.insert(event.wallet_id, event.app_id);
                event.wallet_id
            }
            Event::TopUpRequested(event) => {
                assert!(self.top_ups.insert(event.top_up_id, (event.wallet_id, units(event.amount))).is_none());
                return None;
            }
            Event::TopUpCredited(event) => {
                let requested = self.top_ups.remove(&event.top_up_id);
                assert_eq!(
                    requested,
                    Some((event.wallet_id, units(event.amount))),
                    "I2: credited is what was requested, once"
                );
                assert!(self.payments.insert(event.payment.clone()), "I2: one payment is credited twice");
                assert!(!self.frozen.contains(&FreezeScope::TopUps), "I13");
                self.purse(event.wallet_id).posted += units(event.amount);
                event.wallet_id
            }
            Event::TestCreditGranted(event) => {
                self.purse(event.wallet_id).posted += units(event.amount);
                event.wallet_id
            }
            Event::PromoGranted(event) => {
                let purse = self.purse(event.wallet_id);
                purse.posted += units(event.amount);
                purse.promo += units(event.amount);
                event.wallet_id
            }
            Event::WalletAdjusted(event) => {
                let sign = if event.direction == Direction::Credit { 1 } else { -1 };
                self.purse(event.wallet_id).posted += sign * units(event.amount);
                event.wallet_id
            }
            Event::CreditExpired(event) => {
                let purse = self.purse(event.wallet_id);
                purse.posted -= units(event.amount);
                purse.promo -= units(event.amount);
                event.wallet_id
            }
            Event::HoldPlaced(event) => {
                self.thawed(event.wallet_id, &[FreezeScope::Usage]);
                let (wallet, amount) = (event.wallet_id, units(event.amount));
                let hold = Hold { wallet, amount, expires_at: event.expires_at, life: Life::Open };
                assert!(self.holds.insert(event.hold_id, hold).is_none(), "I10: a hold is placed once");
                self.purse(wallet).held += amount;
                wallet
            }
            Event::AttemptStarted(event) => {
                self.thawed(event.wallet_id, &[FreezeScope::Usage]);
                let hold = self.holds.get_mut(&event.hold_id).expect("I10: an attempt has a hold");
                assert_eq!((hold.life, hold.amount), (Life::Open, units(event.replaced)), "I10");
                hold.amount = units(event.amount);
                self.purse(event.wallet_id).held += units(event.amount) - units(event.replaced);
                event.wallet_id
            }
            Event::HoldCaptured(event) => {
                let held = self.end(event.hold_id, Life::Open, Life::Over);
                assert_eq!(held, units(event.held));
                assert!(units(event.rating.charge) <= held, "I10: captured is at most what is held");
                assert!(at < self.holds[&event.hold_id].expires_at, "I10: an expired hold is captured");
                self.charge(event.wallet_id, &event.rating)
            }
            Event::LateUsageCaptured(event) => {
                self.end(event.hold_id, Life::Expired, Life::Over);
                self.charge(event.wallet_id, &event.rating)
            }
            Event::HoldReleased(event) => {
                assert_eq!(self.end(event.hold_id, Life::Open, Life::Over), units(event.amount));
                event.wallet_id
            }
            Event::HoldExpired(event) => {
                assert_eq!(self.end(event.hold_id, Life::Open, Life::Expired), units(event.amount));
                assert!(at >= self.holds[&event.hold_id].expires_at, "I10: a hold expires before its time");
                event.wallet_id
            }
            Event::UsageRecorded(event) => {
                self.thawed(event.wallet_id, &[FreezeScope::Usage]);
                self.charge(event.wallet_id, &event.rating)
            }
            Event::Frozen(event) => {
                assert!(self.frozen.insert(event.scope));
                return None;
            }
            Event::Thawed(event) => {
                assert!(self.frozen.remove(&event.scope));
                return None;
            }
            _ => return None,
        })
    }

    /// I10: each hold ends once. What it held.
    fn end(&mut self, id: HoldId, from: Life, to: Life) -> i128 {
        let hold = self.holds.get_mut(&id).expect("I10: a hold ends that was placed");
        assert_eq!(hold.life, from, "I10: hold {id} ends twice");
        hold.life = to;
        let (wallet, amount) = (hold.wallet, hold.amount);
        if from == Life::Open {
            self.purse(wallet).held -= amount;
        }
        amount
    }

    /// I12.
    fn charge(&mut self, wallet: WalletId, rating: &Rating) -> WalletId {
        let platform =
            units(rating.charge) - units(rating.upstream) + units(rating.unrecovered) - units(rating.developer);
        assert!(platform >= 0, "I12: {rating:?}");
        let purse = self.purse(wallet);
        purse.posted -= units(rating.charge) - units(rating.receivable);
        purse.promo -= units(rating.promo);
        wallet
    }
}
