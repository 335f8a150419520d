//! A second opinion on every wallet at every position, from the business amounts alone: what was credited, charged, adjusted, set
//! aside. The writer's stated balances and the postings must agree with it. Nothing of the writer's own fold is used.

use std::collections::HashMap;

use modelfaucet_schema::account::Account;
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::{Balance, Direction, Event, Rating, Recorded};
use modelfaucet_schema::ids::{HoldId, ShardId, WalletId};
use modelfaucet_schema::money::Money;

use super::report::{Check, Findings};

/// Figures of a wallet, in units of 1e-8 USD. Wider than what is stored, so sums cannot overflow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Figures {
    posted: i128,
    promo: i128,
    held: i128,
}

impl Figures {
    fn of(balance: Balance) -> Self {
        let units = |money: Money| i128::from(money.units());
        Self { posted: units(balance.posted), promo: units(balance.promo), held: units(balance.held) }
    }

    fn plus(self, change: Self) -> Self {
        Self { posted: self.posted + change.posted, promo: self.promo + change.promo, held: self.held + change.held }
    }
}

/// What an event does to a wallet.
#[derive(Clone, Copy, Debug, Default)]
struct Change {
    figures: Figures,
    /// What the owner owes from now on.
    receivable: i128,
}

impl Change {
    fn credited(amount: Money, promo: bool) -> Self {
        let posted = i128::from(amount.units());
        Self { figures: Figures { posted, promo: if promo { posted } else { 0 }, held: 0 }, receivable: 0 }
    }

    fn held(units: i128) -> Self {
        Self { figures: Figures { held: units, ..Figures::default() }, receivable: 0 }
    }

    /// A charge, and what of a hold ends with it.
    fn charged(rating: &Rating, ended: Money) -> Self {
        let units = |money: Money| i128::from(money.units());
        let (charge, receivable) = (units(rating.charge), units(rating.receivable));
        Self {
            figures: Figures { posted: receivable - charge, promo: -units(rating.promo), held: -units(ended) },
            receivable,
        }
    }

    fn adjusted(direction: Direction, amount: Money) -> Self {
        let units = i128::from(amount.units());
        let posted = if direction == Direction::Credit { units } else { -units };
        Self { figures: Figures { posted, ..Figures::default() }, receivable: 0 }
    }

    /// An amount that leaves for the card; part of it may become a receivable, and what was held for it is free.
    fn taken(amount: Money, receivable: Money, ended: Money) -> Self {
        let units = |money: Money| i128::from(money.units());
        let receivable = units(receivable);
        let figures = Figures { posted: receivable - units(amount), promo: 0, held: -units(ended) };
        Self { figures, receivable }
    }

    /// The opposite.
    fn given_back(amount: Money, receivable: Money) -> Self {
        let Self { figures, receivable } = Self::taken(amount, receivable, Money::ZERO);
        Self { figures: Figures { posted: -figures.posted, ..figures }, receivable: -receivable }
    }

    /// Which wallet an event concerns, and what it does to it.
    fn of(event: &Event) -> Option<(WalletId, Self)> {
        Some(match event {
            Event::WalletOpened(event) => (event.wallet_id, Self::default()),
            Event::SessionOpened(event) => (event.wallet_id, Self::default()),
            Event::TopUpCredited(event) => (event.wallet_id, Self::credited(event.amount, false)),
            Event::TestCreditGranted(event) => (event.wallet_id, Self::credited(event.amount, false)),
            Event::PromoGranted(event) => (event.wallet_id, Self::credited(event.amount, true)),
            Event::WalletAdjusted(event) => (event.wallet_id, Self::adjusted(event.direction, event.amount)),
            Event::HoldPlaced(event) => (event.wallet_id, Self::held(i128::from(event.amount.units()))),
            Event::AttemptStarted(event) => {
                let units = |money: Money| i128::from(money.units());
                (event.wallet_id, Self::held(units(event.amount) - units(event.replaced)))
            }
            Event::HoldCaptured(event) => (event.wallet_id, Self::charged(&event.rating, event.held)),
            Event::HoldReleased(event) => (event.wallet_id, Self::held(-i128::from(event.amount.units()))),
            Event::HoldExpired(event) => (event.wallet_id, Self::held(-i128::from(event.amount.units()))),
            Event::LateUsageCaptured(event) => (event.wallet_id, Self::charged(&event.rating, Money::ZERO)),
            Event::UsageRecorded(event) => (event.wallet_id, Self::charged(&event.rating, Money::ZERO)),
            Event::CreditExpired(event) => {
                let gone = -i128::from(event.amount.units());
                let figures = Figures { posted: gone, promo: gone, held: 0 };
                (event.wallet_id, Self { figures, receivable: 0 })
            }
            Event::RefundRequested(event) => {
                (event.wallet_id, Self::taken(event.amount, event.receivable, Money::ZERO))
            }
            Event::RefundFailed(event) => (event.wallet_id, Self::given_back(event.amount, event.receivable)),
            Event::DisputeOpened(event) => (event.wallet_id, Self::held(i128::from(event.held.units()))),
            Event::DisputeWon(event) => (event.wallet_id, Self::held(-i128::from(event.released.units()))),
            Event::DisputeLost(event) => (event.wallet_id, Self::taken(event.amount, event.receivable, event.released)),
            Event::ReceivableWrittenOff(event) => {
                let receivable = -i128::from(event.amount.units());
                (event.wallet_id, Self { receivable, ..Self::default() })
            }
            _ => return None,
        })
    }
}

/// The balance that an event states for its wallet.
fn stated(event: &Event) -> Option<Balance> {
    match event {
        Event::SessionOpened(event) => Some(event.balance),
        event => event.balance().map(|(_, balance)| balance),
    }
}

#[derive(Clone, Copy, Debug, Default)]
struct Wallet {
    floor: i128,
    figures: Figures,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Hold {
    wallet: WalletId,
    amount: Money,
}

/// All wallets and holds of one shard, and the sums of its postings.
pub(super) struct Wallets {
    shard: ShardId,
    wallets: HashMap<WalletId, Wallet>,
    open: HashMap<HoldId, Hold>,
    expired: HashMap<HoldId, Hold>,
    /// What open disputes hold.
    disputes: HashMap<String, Hold>,
    /// Debits minus credits per account.
    accounts: HashMap<Account, i128>,
}

impl Wallets {
    pub(super) fn new(shard: ShardId) -> Self {
        Self {
            shard,
            wallets: HashMap::new(),
            open: HashMap::new(),
            expired: HashMap::new(),
            disputes: HashMap::new(),
            accounts: HashMap::new(),
        }
    }

    /// Takes the next event.
    pub(super) fn event(&mut self, recorded: &Recorded, findings: &mut Findings) {
        let (shard, at) = (self.shard, (recorded.position.0, recorded.position.0));
        let event = &recorded.event;
        let entry = event.entry();
        if let Some(entry) = entry {
            self.post(entry);
            findings.checked(Check::Entries, 1);
        }
        if let Event::WalletOpened(opened) = event {
            let wallet = Wallet { floor: i128::from(opened.floor.units()), figures: Figures::default() };
            if self.wallets.insert(opened.wallet_id, wallet).is_some() {
                findings.add(Check::Wallets, shard, at, format!("wallet {} is opened a second time", opened.wallet_id));
            }
        }
        if let Some(problem) = self.dispute(event) {
            findings.add(Check::Holds, shard, at, problem);
        }
        if let Some(problem) = self.hold(event) {
            findings.add(Check::Holds, shard, at, problem);
        }
        let Some((id, change)) = Change::of(event) else { return };
        findings.checked(Check::Wallets, 1);
        if let Some(problem) = misposted(entry, id, change) {
            findings.add(Check::Entries, shard, at, problem);
        }
        let Some(wallet) = self.wallets.get_mut(&id) else {
            // From here on it is known, so that this is said once.
            self.wallets.insert(id, Wallet { floor: 0, figures: stated(event).map(Figures::of).unwrap_or_default() });
            findings.add(Check::Wallets, shard, at, format!("wallet {id} was never opened"));
            return;
        };
        wallet.figures = wallet.figures.plus(change.figures);
        if let Some(balance) = stated(event) {
            let stated = Figures::of(balance);
            if stated != wallet.figures {
                let what = format!("wallet {id} states {stated:?}, the amounts add up to {:?}", wallet.figures);
                findings.add(Check::Wallets, shard, at, what);
                wallet.figures = stated;
            }
        }
        let Figures { posted, promo, held } = wallet.figures;
        if posted - held < wallet.floor || promo < 0 || held < 0 || posted - promo < wallet.floor.min(0) {
            let what = format!("wallet {id} is below its floor: {:?}, floor {}", wallet.figures, wallet.floor);
            findings.add(Check::Wallets, shard, at, what);
        }
    }

    fn post(&mut self, entry: &JournalEntry) {
        for posting in entry.postings() {
            let units = i128::from(posting.amount.units());
            match self.accounts.get_mut(&posting.account) {
                Some(sum) => *sum += units,
                None => drop(self.accounts.insert(posting.account.clone(), units)),
            }
        }
    }

    /// Keeps what disputes hold; what is wrong with this one.
    fn dispute(&mut self, event: &Event) -> Option<String> {
        let (id, wallet, released) = match event {
            Event::DisputeOpened(event) => {
                let hold = Hold { wallet: event.wallet_id, amount: event.held };
                let again = self.disputes.insert(event.dispute.clone(), hold).is_some();
                return again.then(|| format!("dispute {} is opened a second time", event.dispute));
            }
            Event::DisputeWon(event) => (&event.dispute, event.wallet_id, event.released),
            Event::DisputeLost(event) => (&event.dispute, event.wallet_id, event.released),
            _ => return None,
        };
        let expected = Hold { wallet, amount: released };
        match self.disputes.remove(id) {
            Some(held) if held == expected => None,
            held => Some(format!("dispute {id} ends as {expected:?}, it holds {held:?}")),
        }
    }

    /// Keeps the holds; what is wrong with this one.
    fn hold(&mut self, event: &Event) -> Option<String> {
        let hold = |wallet, amount| Hold { wallet, amount };
        let (id, ended, expected) = match event {
            Event::HoldPlaced(event) => {
                let known = self.open.insert(event.hold_id, hold(event.wallet_id, event.amount));
                let again = known.is_some() || self.expired.contains_key(&event.hold_id);
                let problem = if again { "is placed a second time" } else { "is below zero" };
                return (again || event.amount.is_negative()).then(|| format!("hold {} {problem}", event.hold_id));
            }
            Event::AttemptStarted(event) => {
                let known = self.open.insert(event.hold_id, hold(event.wallet_id, event.amount));
                let right = known == Some(hold(event.wallet_id, event.replaced)) && !event.amount.is_negative();
                return (!right).then(|| {
                    format!("attempt {} of hold {} replaces another amount than was held", event.number, event.hold_id)
                });
            }
            Event::AttemptProgressed(event) => {
                let open = self.open.get(&event.hold_id).is_some_and(|hold| hold.wallet == event.wallet_id);
                return (!open)
                    .then(|| format!("attempt {} of hold {} runs and has no hold", event.number, event.hold_id));
            }
            Event::HoldCaptured(event) => {
                (event.hold_id, self.open.remove(&event.hold_id), hold(event.wallet_id, event.held))
            }
            Event::HoldReleased(event) => {
                (event.hold_id, self.open.remove(&event.hold_id), hold(event.wallet_id, event.amount))
            }
            Event::HoldExpired(event) => {
                let ended = self.open.remove(&event.hold_id);
                if let Some(hold) = ended {
                    self.expired.insert(event.hold_id, hold);
                }
                (event.hold_id, ended, hold(event.wallet_id, event.amount))
            }
            Event::LateUsageCaptured(event) => {
                let ended = self.expired.remove(&event.hold_id);
                let amount = ended.map_or(Money::ZERO, |hold| hold.amount);
                (event.hold_id, ended, hold(event.wallet_id, amount))
            }
            _ => return None,
        };
        match ended {
            None => Some(format!("hold {id} was never placed or has ended before")),
            Some(placed) if placed != expected => {
                Some(format!("hold {id} ends as {expected:?}, it was placed as {placed:?}"))
            }
            Some(_) => None,
        }
    }

    /// Sums at the end of the log: over all postings, and per wallet against its holds and its accounts.
    pub(super) fn finish(&self, findings: &mut Findings) {
        let sum: i128 = self.accounts.values().sum();
        if sum != 0 {
            findings.add(Check::Entries, self.shard, None, format!("all postings together are {sum} units, not zero"));
        }
        let mut held: HashMap<WalletId, i128> = HashMap::new();
        for hold in self.open.values().chain(self.disputes.values()) {
            *held.entry(hold.wallet).or_default() += i128::from(hold.amount.units());
        }
        findings.checked(Check::Holds, self.open.len() as u64);
        for (id, wallet) in &self.wallets {
            let open = held.get(id).copied().unwrap_or_default();
            if open != wallet.figures.held {
                let what = format!("wallet {id} holds {}, its open holds are {open} units", wallet.figures.held);
                findings.add(Check::Holds, self.shard, None, what);
            }
            let balance = |account| self.accounts.get(&account).copied().unwrap_or_default();
            let (paid, promo) = (-balance(Account::paid(*id)), -balance(Account::promo(*id)));
            if (paid + promo, promo) != (wallet.figures.posted, wallet.figures.promo) {
                let what =
                    format!("wallet {id} has {:?}, its accounts {paid} paid and {promo} promotional", wallet.figures);
                findings.add(Check::Entries, self.shard, None, what);
            }
        }
    }
}

/// What is wrong with the postings to a wallet's own accounts.
fn misposted(entry: Option<&JournalEntry>, wallet: WalletId, change: Change) -> Option<String> {
    let posted = |account: Account| entry.map_or(0, |entry| entry.amount_of(&account));
    // The wallet's accounts are liabilities: credits are gains.
    let promo = -posted(Account::promo(wallet));
    let paid = -posted(Account::paid(wallet));
    let receivable = posted(Account::receivable(wallet));
    let Figures { posted, promo: wanted, .. } = change.figures;
    let right = (paid + promo, promo, receivable) == (posted, wanted, change.receivable);
    (!right).then(|| format!("the entry gives wallet {wallet} {paid} paid and {promo} promotional, the event says {posted} in all, {wanted} promotional"))
}
