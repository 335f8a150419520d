//! A second ledger, written from docs/ACCOUNTING.md alone: small, slow, with its own arithmetic in `i128` units of 1e-8 USD. Nothing
//! here is shared with the product; ids are plain numbers.

use std::collections::{BTreeMap, BTreeSet};

pub type Id = u32;
/// 1e-8 USD.
pub type Units = i128;
/// Counts of input, cached and output tokens, and of requests, which no card prices.
pub type Counts = [u64; 4];
/// Provider and model, with the price of each count in 1e-15 USD.
pub type Card = BTreeMap<(Id, Id), [i128; 3]>;
/// Account code and whose it is; debits positive.
pub type Postings = BTreeMap<(u16, Id), Units>;

const DAY: i64 = 86_400;
/// The largest sum that fits into 64 bits.
const MOST: Units = 9_223_372_036_854_775_807;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Who {
    Operator,
    Developer(Id),
    Session(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Payer {
    Session(Id),
    Wallet(Id),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    Platform,
    DeveloperKey,
    Byok,
    Local,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Scope {
    App(Id),
    Developer(Id),
    Session(Id),
    Wallet(Id),
    TopUps,
    Usage,
}

/// Markup and share in hundredths of a percent; a fee for calls that cost us nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pricing {
    pub markup: Units,
    pub share: Option<Units>,
    pub fee: Units,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Call {
    pub payer: Payer,
    pub feature: Option<Id>,
    pub route: Route,
    pub provider: Option<Id>,
    pub model: Id,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    Fixed(Units),
    Bound(Counts),
}

/// What somebody wants. Times are in seconds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    SetApp { app: Id, active: bool, share: Units },
    SetFeature { app: Id, feature: Id, pricing: Pricing },
    RemoveFeature { app: Id, feature: Id },
    Activate(Card),
    OpenSession { session: Id, wallet: Id, app: Id, user: Id, feature: Option<Id>, ttl: i64 },
    EndSession { session: Id, by_time: bool },
    RequestTopUp { top_up: Id, wallet: Id, amount: Units },
    CreditTopUp { top_up: Id, amount: Option<Units> },
    FailTopUp { top_up: Id },
    TestCredit { wallet: Id, amount: Units },
    Promo { wallet: Id, amount: Units },
    Adjust { wallet: Id, other_side: (u16, Id), credit: bool, amount: Units },
    Hold { hold: Id, call: Call, amount: Amount, min: Option<Units>, seconds: i64 },
    Capture { hold: Id, counts: Counts },
    Release { hold: Id },
    Expire { hold: Id },
    Use { call: Call, counts: Counts, receivable: bool },
    Freeze(Scope),
    Thaw(Scope),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct App {
    pub developer: Id,
    pub active: bool,
    pub share: Units,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wallet {
    pub app: Id,
    pub user: Id,
    pub paid: Units,
    pub promo: Units,
    pub owes: Units,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Session {
    pub wallet: Id,
    pub feature: Option<Id>,
    pub end: i64,
    pub live: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    Open,
    Expired,
    Over,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Hold {
    pub wallet: Id,
    session: Option<Id>,
    pub amount: Units,
    tariff: Tariff,
    pub end: i64,
    pub life: Life,
}

/// What a call is priced by, fixed when it is agreed.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Tariff {
    route: Route,
    provider: Id,
    prices: Option<[i128; 3]>,
    markup: Units,
    share: Units,
    fee: Units,
}

/// The names of the events and the last one's postings, or the code of the refusal.
pub type Answer = Result<(Vec<&'static str>, Postings), &'static str>;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Ledger {
    pub apps: BTreeMap<Id, App>,
    pub features: BTreeMap<(Id, Id), Pricing>,
    pub cards: Vec<Card>,
    pub active: Option<Card>,
    pub wallets: BTreeMap<Id, Wallet>,
    pub sessions: BTreeMap<Id, Session>,
    pub top_ups: BTreeMap<Id, (Id, Units)>,
    pub holds: BTreeMap<Id, Hold>,
    pub frozen: BTreeSet<Scope>,
    pub books: Postings,
}

impl Ledger {
    /// Posts what follows from an order, or says why nothing does.
    pub fn obey(&mut self, who: Who, order: &Order, now: i64) -> Answer {
        let answer = self.decide(who, order, now);
        if let Ok((_, postings)) = &answer {
            assert_eq!(postings.values().sum::<Units>(), 0, "{order:?}");
            for (account, amount) in postings {
                *self.books.entry(*account).or_default() += amount;
            }
        }
        answer
    }

    pub fn held(&self, wallet: Id) -> Units {
        self.holds
            .values()
            .filter(|hold| hold.wallet == wallet && hold.life == Life::Open)
            .map(|hold| hold.amount)
            .sum()
    }

    fn posted(&self, wallet: Id) -> Units {
        self.wallets[&wallet].paid + self.wallets[&wallet].promo
    }

    fn available(&self, wallet: Id) -> Units {
        self.posted(wallet) - self.held(wallet)
    }

    /// On the developer's own key credit that was given away pays nothing.
    fn usable(&self, wallet: Id, route: Route) -> Units {
        self.posted(wallet) - if matches!(route, Route::DeveloperKey) { self.wallets[&wallet].promo } else { 0 }
    }

    fn decide(&mut self, who: Who, order: &Order, now: i64) -> Answer {
        let simple = |name| Ok((vec![name], Postings::new()));
        match *order {
            Order::SetApp { app, active, share } => {
                let old = *self.owned(who, app).ok_or("invalid_app")?;
                self.apps.insert(app, App { active, share, ..old });
                simple("AppChanged")
            }
            Order::SetFeature { app, feature, pricing } => {
                self.owned(who, app).ok_or("invalid_app")?;
                let name = if self.features.insert((app, feature), pricing).is_none() {
                    "FeatureDefined"
                } else {
                    "FeatureChanged"
                };
                simple(name)
            }
            Order::RemoveFeature { app, feature } => {
                self.owned(who, app).ok_or("invalid_app")?;
                self.features.remove(&(app, feature)).ok_or("feature_not_found")?;
                simple("FeatureRemoved")
            }
            Order::Activate(ref card) => {
                operator(who)?;
                let known = self.cards.contains(card);
                if self.active.as_ref() == Some(card) {
                    return Err("already_exists");
                }
                self.active = Some(card.clone());
                self.cards.extend((!known).then(|| card.clone()));
                if known {
                    simple("RateCardActivated")
                } else {
                    Ok((vec!["RateCardPublished", "RateCardActivated"], Postings::new()))
                }
            }
            Order::OpenSession { session, wallet, app, user, feature, ttl } => {
                self.open_session(who, (session, wallet, app, user), feature, ttl, now)
            }
            Order::EndSession { session, by_time } => self.end_session(who, session, by_time, now),
            Order::RequestTopUp { top_up, wallet, amount } => {
                if let Who::Session(id) = who {
                    let session = self.sessions.get(&id).filter(|session| session.live).ok_or("invalid_session")?;
                    if session.end <= now {
                        return Err("expired_session");
                    }
                    if session.wallet != wallet {
                        return Err("wallet_not_found");
                    }
                } else {
                    operator(who)?;
                }
                let app = self.wallets.get(&wallet).ok_or("wallet_not_found")?.app;
                if amount <= 0 || amount % 1_000_000 != 0 {
                    return Err("invalid_request");
                }
                self.unfrozen(&[Scope::TopUps, Scope::App(app), Scope::Developer(self.apps[&app].developer)])?;
                if self.top_ups.contains_key(&top_up) {
                    return Err("already_exists");
                }
                self.top_ups.insert(top_up, (wallet, amount));
                simple("TopUpRequested")
            }
            Order::CreditTopUp { top_up, amount } => {
                operator(who)?;
                let (wallet, requested) = *self.top_ups.get(&top_up).ok_or("top_up_not_found")?;
                self.unfrozen(&[Scope::TopUps])?;
                if amount.is_some_and(|amount| amount != requested) {
                    return Err("amount_mismatch");
                }
                self.credit(wallet, requested, false)?;
                self.top_ups.remove(&top_up);
                Ok((vec!["TopUpCredited"], pair((1110, 0), (2010, wallet), requested)))
            }
            Order::FailTopUp { top_up } => {
                operator(who)?;
                self.top_ups.remove(&top_up).ok_or("top_up_not_found")?;
                simple("TopUpFailed")
            }
            Order::TestCredit { wallet, amount } | Order::Promo { wallet, amount } => {
                let promo = matches!(order, Order::Promo { .. });
                operator(who)?;
                self.wallets.get(&wallet).ok_or("wallet_not_found")?;
                positive(amount)?;
                self.unfrozen(&[Scope::TopUps])?;
                self.credit(wallet, amount, promo)?;
                let (name, from, to) =
                    if promo { ("PromoGranted", (1400, 0), 2020) } else { ("TestCreditGranted", (5220, 0), 2010) };
                Ok((vec![name], pair(from, (to, wallet), amount)))
            }
            Order::Adjust { wallet, other_side, credit, amount } => {
                self.adjust(who, wallet, other_side, credit, amount)
            }
            Order::Hold { hold, call, amount, min, seconds } => {
                self.place(who, hold, call, amount, min, (now, seconds))
            }
            Order::Capture { hold, counts } => self.capture(who, hold, counts, now),
            Order::Release { hold } => {
                self.own_hold(who, hold)?;
                self.end_hold(hold, Life::Over)?;
                simple("HoldReleased")
            }
            Order::Expire { hold } => {
                operator(who)?;
                let end = self.holds.get(&hold).filter(|hold| hold.life == Life::Open).ok_or("hold_not_found")?.end;
                if end > now {
                    return Err("invalid_request");
                }
                self.end_hold(hold, Life::Expired)?;
                simple("HoldExpired")
            }
            Order::Use { call, counts, receivable } => {
                let wallet = self.payer(who, call.payer, now)?;
                let tariff = self.tariff(wallet, call)?;
                let (_, retail) = tariff.price(counts, false)?;
                let usable = self.usable(wallet, call.route).max(0);
                let available = (usable - self.held(wallet)).max(0);
                if retail > available && !receivable {
                    return Err(if retail > usable { "insufficient_balance" } else { "in_flight_holds" });
                }
                Ok((vec!["UsageRecorded"], self.charge(wallet, &tariff, counts, retail, available)?))
            }
            Order::Freeze(scope) => {
                operator(who)?;
                match scope {
                    Scope::App(id) if !self.apps.contains_key(&id) => return Err("invalid_app"),
                    Scope::Session(id) if !self.sessions.get(&id).is_some_and(|session| session.live) => {
                        return Err("session_not_found");
                    }
                    Scope::Wallet(id) if !self.wallets.contains_key(&id) => return Err("wallet_not_found"),
                    _ => {}
                }
                if self.frozen.insert(scope) { simple("Frozen") } else { Err("already_frozen") }
            }
            Order::Thaw(scope) => {
                operator(who)?;
                if self.frozen.remove(&scope) { simple("Thawed") } else { Err("not_frozen") }
            }
        }
    }

    fn owned(&self, who: Who, app: Id) -> Option<&App> {
        self.apps.get(&app).filter(|app| who == Who::Operator || who == Who::Developer(app.developer))
    }

    fn unfrozen(&self, scopes: &[Scope]) -> Result<(), &'static str> {
        if scopes.iter().any(|scope| self.frozen.contains(scope)) { Err("frozen") } else { Ok(()) }
    }

    fn credit(&mut self, wallet: Id, amount: Units, promo: bool) -> Result<(), &'static str> {
        if self.posted(wallet) + amount > MOST {
            return Err("amount_out_of_range");
        }
        let wallet = self.wallets.get_mut(&wallet).ok_or("wallet_not_found")?;
        *if promo { &mut wallet.promo } else { &mut wallet.paid } += amount;
        Ok(())
    }

    fn adjust(&mut self, who: Who, wallet: Id, other: (u16, Id), credit: bool, amount: Units) -> Answer {
        operator(who)?;
        let paid = self.wallets.get(&wallet).ok_or("wallet_not_found")?.paid;
        positive(amount)?;
        if credit {
            self.credit(wallet, amount, false)?;
            return Ok((vec!["WalletAdjusted"], pair(other, (2010, wallet), amount)));
        }
        self.unfrozen(&[Scope::Wallet(wallet)])?;
        if amount > self.available(wallet).min(paid) {
            return Err("insufficient_balance");
        }
        self.wallets.entry(wallet).and_modify(|wallet| wallet.paid -= amount);
        Ok((vec!["WalletAdjusted"], pair((2010, wallet), other, amount)))
    }

    fn open_session(&mut self, who: Who, ids: (Id, Id, Id, Id), feature: Option<Id>, ttl: i64, now: i64) -> Answer {
        let (session, wallet, app, user) = ids;
        let settings = *self.apps.get(&app).filter(|app| app.active).ok_or("invalid_app")?;
        if matches!(who, Who::Session(_)) {
            return Err("forbidden");
        }
        self.owned(who, app).ok_or("invalid_app")?;
        if feature.is_some_and(|feature| !self.features.contains_key(&(app, feature))) {
            return Err("feature_not_found");
        }
        if !(1..=30 * DAY).contains(&ttl) {
            return Err("invalid_request");
        }
        let known = self.wallets.iter().find(|(_, wallet)| wallet.app == app && wallet.user == user).map(|(id, _)| *id);
        self.unfrozen(&[Scope::App(app), Scope::Developer(settings.developer)])?;
        self.unfrozen(&known.map(Scope::Wallet).into_iter().collect::<Vec<_>>())?;
        if self.sessions.get(&session).is_some_and(|session| session.live)
            || (known.is_none() && self.wallets.contains_key(&wallet))
        {
            return Err("already_exists");
        }
        let wallet = known.unwrap_or(wallet);
        self.wallets.entry(wallet).or_insert(Wallet { app, user, ..Wallet::default() });
        self.sessions.insert(session, Session { wallet, feature, end: now + ttl, live: true });
        Ok((
            if known.is_none() { vec!["WalletOpened", "SessionOpened"] } else { vec!["SessionOpened"] },
            Postings::new(),
        ))
    }

    fn end_session(&mut self, who: Who, session: Id, by_time: bool, now: i64) -> Answer {
        if by_time {
            operator(who)?;
        }
        let known = *self.sessions.get(&session).filter(|session| session.live).ok_or("session_not_found")?;
        if by_time && known.end > now {
            return Err("invalid_request");
        }
        if who != Who::Session(session) {
            self.owned(who, self.wallets[&known.wallet].app).ok_or("session_not_found")?;
        }
        self.sessions.insert(session, Session { live: false, ..known });
        Ok((vec![if by_time { "SessionExpired" } else { "SessionRevoked" }], Postings::new()))
    }

    /// The wallet that pays, if it may.
    fn payer(&self, who: Who, payer: Payer, now: i64) -> Result<Id, &'static str> {
        let through_session = matches!(who, Who::Session(_));
        let (wallet, session) = match payer {
            Payer::Wallet(wallet) => (wallet, None),
            Payer::Session(id) => {
                let missing = if through_session { "invalid_session" } else { "session_not_found" };
                let session = self.sessions.get(&id).filter(|session| session.live).ok_or(missing)?;
                if session.end <= now {
                    return Err("expired_session");
                }
                (session.wallet, Some(id))
            }
        };
        let app = self.wallets.get(&wallet).ok_or("wallet_not_found")?.app;
        let may = if through_session { session.map(Who::Session) == Some(who) } else { self.owned(who, app).is_some() };
        if !may {
            return Err(if session.is_some() && !through_session { "session_not_found" } else { "wallet_not_found" });
        }
        if !self.apps[&app].active {
            return Err(if through_session { "invalid_session" } else { "invalid_app" });
        }
        let mut scopes =
            vec![Scope::Usage, Scope::Wallet(wallet), Scope::App(app), Scope::Developer(self.apps[&app].developer)];
        scopes.extend(session.map(Scope::Session));
        self.unfrozen(&scopes)?;
        Ok(wallet)
    }

    fn tariff(&self, wallet: Id, call: Call) -> Result<Tariff, &'static str> {
        let default = if let Payer::Session(id) = call.payer { self.sessions[&id].feature } else { None };
        let app = self.wallets[&wallet].app;
        let pricing = match call.feature.or(default) {
            None => Pricing { markup: 3_000, share: None, fee: 0 },
            Some(feature) => *self.features.get(&(app, feature)).ok_or("feature_not_found")?,
        };
        let card = self.active.as_ref().ok_or("model_not_priced")?;
        let offers: Vec<Id> =
            card.keys().filter(|(_, model)| *model == call.model).map(|(provider, _)| *provider).collect();
        let free = matches!(call.route, Route::Byok | Route::Local);
        let provider = match (call.provider, offers.as_slice()) {
            (Some(provider), _) => provider,
            (None, [only]) => *only,
            (None, []) if !free => return Err("model_not_found"),
            (None, _) => return Err("provider_required"),
        };
        let prices = card.get(&(provider, call.model)).copied();
        if prices.is_none() && !free {
            return Err("model_not_found");
        }
        let share = pricing.share.unwrap_or(self.apps[&app].share).min(10_000);
        Ok(Tariff { route: call.route, provider, prices, markup: pricing.markup, share, fee: pricing.fee })
    }

    fn place(
        &mut self,
        who: Who,
        hold: Id,
        call: Call,
        amount: Amount,
        min: Option<Units>,
        time: (i64, i64),
    ) -> Answer {
        let (now, seconds) = time;
        let wallet = self.payer(who, call.payer, now)?;
        let tariff = self.tariff(wallet, call)?;
        if !(1..=DAY).contains(&seconds) {
            return Err("invalid_request");
        }
        if self.holds.get(&hold).is_some_and(|hold| hold.life != Life::Over) {
            return Err("already_exists");
        }
        let asked = match amount {
            Amount::Fixed(amount) => amount,
            Amount::Bound(counts) => tariff.price(counts, true)?.1,
        };
        let least = min.unwrap_or(asked).min(asked);
        let usable = self.usable(wallet, call.route);
        let granted = asked.min((usable - self.held(wallet)).max(0));
        if granted < least {
            return Err(if usable.max(0) < least { "insufficient_balance" } else { "in_flight_holds" });
        }
        let session = if let Payer::Session(id) = call.payer { Some(id) } else { None };
        self.holds
            .insert(hold, Hold { wallet, session, amount: granted, tariff, end: now + seconds, life: Life::Open });
        Ok((vec!["HoldPlaced"], Postings::new()))
    }

    /// A hold whose usage may still come, if the caller may end it.
    fn own_hold(&self, who: Who, hold: Id) -> Result<Hold, &'static str> {
        let hold = self.holds.get(&hold).filter(|hold| hold.life != Life::Over).ok_or("hold_not_found")?;
        let own = match who {
            Who::Session(id) => hold.session == Some(id),
            _ => self.owned(who, self.wallets[&hold.wallet].app).is_some(),
        };
        if own { Ok(hold.clone()) } else { Err("hold_not_found") }
    }

    fn end_hold(&mut self, hold: Id, life: Life) -> Result<(), &'static str> {
        let hold = self.holds.get_mut(&hold).filter(|hold| hold.life == Life::Open).ok_or("hold_not_found")?;
        hold.life = life;
        Ok(())
    }

    fn capture(&mut self, who: Who, id: Id, counts: Counts, now: i64) -> Answer {
        let hold = self.own_hold(who, id)?;
        hold.tariff.price(counts, false)?;
        self.holds.entry(id).and_modify(|hold| hold.life = Life::Over);
        if hold.life == Life::Open && now < hold.end {
            let most = hold.amount.min(self.usable(hold.wallet, hold.tariff.route));
            return Ok((vec!["HoldCaptured"], self.charge(hold.wallet, &hold.tariff, counts, most, most)?));
        }
        let names =
            if hold.life == Life::Open { vec!["HoldExpired", "LateUsageCaptured"] } else { vec!["LateUsageCaptured"] };
        let usable = self.usable(hold.wallet, hold.tariff.route) - self.held(hold.wallet);
        let most = hold.amount.min(usable.max(0));
        Ok((names, self.charge(hold.wallet, &hold.tariff, counts, most, most)?))
    }

    /// Charges at most `most`, of which the wallet pays `payable` and owes the rest.
    fn charge(
        &mut self,
        id: Id,
        tariff: &Tariff,
        counts: Counts,
        most: Units,
        payable: Units,
    ) -> Result<Postings, &'static str> {
        let (cost, retail) = tariff.price(counts, false)?;
        let charge = retail.min(most);
        let developer = self.apps[&self.wallets[&id].app].developer;
        let wallet = self.wallets.get_mut(&id).ok_or("wallet_not_found")?;
        let paid = charge.min(payable);
        // The developer earns on what was paid; what nobody pays of a call on its own key is the developer's own loss.
        let share = (paid - cost).max(0) * tariff.share / 10_000;
        let own_key = matches!(tariff.route, Route::DeveloperKey);
        let lost = (cost - if own_key { paid } else { charge }).max(0);
        let promo = if own_key { 0 } else { paid.min(wallet.promo) };
        wallet.promo -= promo;
        wallet.paid -= paid - promo;
        wallet.owes += charge - paid;
        let (income, expense, creditor) = match tariff.route {
            Route::Platform => (4010, 5010, (2110, tariff.provider)),
            Route::DeveloperKey => (4020, 5015, (2210, developer)),
            Route::Byok => (4030, 5010, (2110, tariff.provider)),
            Route::Local => (4040, 5010, (2110, tariff.provider)),
        };
        let mut postings = Postings::new();
        for (account, amount) in [
            ((2020, id), promo),
            ((2010, id), paid - promo),
            ((1200, id), charge - paid),
            ((income, 0), -charge),
            ((expense, 0), cost - lost),
            ((5030, 0), if own_key { 0 } else { lost }),
            (creditor, if own_key { lost - cost } else { -cost }),
            ((5020, 0), share),
            ((2210, developer), -share),
            ((4095, 0), promo),
            ((1400, 0), -promo),
        ] {
            *postings.entry(account).or_default() += amount;
        }
        postings.retain(|_, amount| *amount != 0);
        Ok(postings)
    }
}

impl Tariff {
    /// Cost and retail price; the cost rounded half to even, or up for a hold.
    fn price(&self, counts: Counts, up: bool) -> Result<(Units, Units), &'static str> {
        let Some(prices) = self.prices.filter(|_| matches!(self.route, Route::Platform | Route::DeveloperKey)) else {
            return Ok((0, self.fee));
        };
        if counts[3] > 0 {
            return Err("model_not_priced");
        }
        let exact: i128 = prices.iter().zip(counts).map(|(price, count)| price * i128::from(count)).sum();
        let (unit, rest) = (exact / 10_000_000, exact % 10_000_000);
        let more = if up { rest > 0 } else { rest > 5_000_000 || (rest == 5_000_000 && unit % 2 == 1) };
        let cost = unit + i128::from(more);
        Ok((cost, cost + cost * self.markup / 10_000))
    }
}

fn operator(who: Who) -> Result<(), &'static str> {
    if who == Who::Operator { Ok(()) } else { Err("forbidden") }
}

fn positive(amount: Units) -> Result<(), &'static str> {
    if amount > 0 { Ok(()) } else { Err("invalid_request") }
}

fn pair(debit: (u16, Id), credit: (u16, Id), amount: Units) -> Postings {
    Postings::from([(debit, amount), (credit, -amount)])
}
