//! Writes a plausible log: balances, entries and holds agree with each other as the writer's would.

mod payments;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use modelfaucet_projector::fold::Span;
use modelfaucet_schema::account::{Account, AccountCode, Name};
use modelfaucet_schema::entry::{EntryBuilder, JournalEntry};
use modelfaucet_schema::event::*;
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::*;
use modelfaucet_schema::log::{AppendBatch, Head};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::staff::StaffRole;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{TokenHash, UserHash};
use modelfaucet_schema::usage::{Component, Usage};
use uuid::Uuid;

pub const SHARD: ShardId = ShardId(0);

/// What most events are about.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mix {
    /// A bit of everything.
    Everything,
    /// Hold, capture, hold, capture …
    Calls,
    /// Usage reported without holds.
    Usage,
}

struct Wallet {
    id: WalletId,
    user: UserId,
    app: usize,
    balance: Balance,
    holds: Vec<(HoldId, Money, Call)>,
    pending: Vec<(TopUpId, Money)>,
    session: Option<SessionId>,
}

pub struct Generator {
    random: u64,
    mix: Mix,
    now: Timestamp,
    position: Position,
    seqs: HashMap<StreamId, i64>,
    developer: DeveloperId,
    token: Option<TokenId>,
    staff: Option<TokenId>,
    provider_key: Option<CredentialId>,
    apps: Vec<(AppId, FeatureId)>,
    cards: Vec<RateCardId>,
    wallets: Vec<Wallet>,
    wanted_wallets: usize,
    frozen: Option<FreezeScope>,
    queue: Vec<(Actor, Event)>,
}

fn units(units: i64) -> Money {
    Money::from_units(units)
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn bps(bps: u32) -> BasisPoints {
    BasisPoints::new(bps).unwrap()
}

impl Generator {
    pub fn new(seed: u64, mix: Mix, wanted_wallets: usize) -> Self {
        let mut generator = Self {
            random: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            mix,
            now: Timestamp::from_micros(1_790_000_000_000_000),
            position: Position::START,
            seqs: HashMap::new(),
            developer: DeveloperId(Uuid::nil()),
            token: None,
            staff: None,
            provider_key: None,
            apps: Vec::new(),
            cards: Vec::new(),
            wallets: Vec::new(),
            wanted_wallets,
            frozen: None,
            queue: Vec::new(),
        };
        generator.begin();
        generator
    }

    fn roll(&mut self, below: u64) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below
    }

    fn money(&mut self, below: u64) -> Money {
        units(i64::try_from(self.roll(below)).unwrap() + 1)
    }

    /// Ordered by time, as version 7 is.
    fn id(&mut self) -> Uuid {
        let millis = u128::try_from(self.now.micros() / 1_000).unwrap();
        let (high, low) = (self.roll(1 << 53), self.roll(1 << 53));
        Uuid::from_u128(
            millis << 80 | 7 << 76 | u128::from(high & 0xfff) << 64 | 2 << 62 | u128::from(low & ((1 << 62) - 1)),
        )
    }

    fn say(&mut self, actor: Actor, event: impl Into<Event>) {
        self.queue.insert(0, (actor, event.into()));
    }

    fn begin(&mut self) {
        self.developer = DeveloperId(self.id());
        let developer_id = self.developer;
        self.say(
            Actor::Admin,
            DeveloperRegistered { developer_id, name: "Ann".into(), email: "ann@example.com".into() },
        );
        self.new_token();
        for _ in 0..3 {
            let (app_id, feature_id) = (AppId(self.id()), FeatureId(self.id()));
            self.apps.push((app_id, feature_id));
            let settings = Self::settings("App");
            self.say(
                Actor::Admin,
                AppRegistered { app_id, developer_id, public_app_id: format!("app_{app_id}"), settings },
            );
            self.say(Actor::Admin, Self::feature(app_id, feature_id, "chat"));
        }
        self.new_card();
    }

    fn settings(name: &str) -> AppSettings {
        AppSettings {
            name: name.into(),
            vertical: None,
            default_revenue_share_bps: bps(4_000),
            status: Status::Active,
            session_opening: SessionOpening::Public,
        }
    }

    fn feature(app_id: AppId, feature_id: FeatureId, display_name: &str) -> FeatureDefined {
        FeatureDefined {
            app_id,
            feature_id,
            feature_key: "chat".into(),
            display_name: display_name.into(),
            pricing: Pricing::default(),
            policy: serde_json::Map::new(),
        }
    }

    fn new_token(&mut self) {
        let token_id = TokenId(self.id());
        self.token = Some(token_id);
        let issued = DeveloperTokenIssued {
            developer_id: self.developer,
            token_id,
            name: "ci".into(),
            token_hash: TokenHash::of_text(&token_id.to_string()),
            token_prefix: "mf_dev_abcd".into(),
            scopes: modelfaucet_schema::token::Scope::ALL.to_vec(),
            expires_at: None,
        };
        self.say(Actor::Admin, issued);
    }

    fn new_card(&mut self) {
        let rate_card_id = RateCardId(self.id());
        let rates = [(Component::InputUncached, "0.15"), (Component::OutputText, "0.60")];
        let rates = rates.map(|(component, usd)| (component, Rate::per_million(usd).unwrap()));
        let model = ModelRates::flat(name("openai"), "gpt-4o-mini", rates);
        let published =
            RateCardPublished { rate_card_id, sha256: "ab".repeat(32), source: "test".into(), models: vec![model] };
        self.cards.push(rate_card_id);
        self.say(Actor::Operator, published);
        self.say(Actor::Operator, RateCardActivated { rate_card_id });
    }

    fn open_wallet(&mut self) {
        let app = usize::try_from(self.roll(3)).unwrap();
        let (id, user, session) = (WalletId(self.id()), UserId(self.id()), SessionId(self.id()));
        let app_id = self.apps[app].0;
        let user_hash = UserHash::of(&"key".to_owned().into(), app_id, &user.to_string());
        self.say(Actor::Public, WalletOpened { wallet_id: id, app_id, user_id: user, user_hash, floor: Money::ZERO });
        self.wallets.push(Wallet {
            id,
            user,
            app,
            balance: Balance::default(),
            holds: Vec::new(),
            pending: Vec::new(),
            session: Some(session),
        });
        self.open_session(self.wallets.len() - 1, session);
        self.top_up(self.wallets.len() - 1, true);
    }

    fn open_session(&mut self, wallet: usize, session_id: SessionId) {
        let owner = &mut self.wallets[wallet];
        owner.session = Some(session_id);
        let opened = SessionOpened {
            session_id,
            app_id: self.apps[owner.app].0,
            user_id: owner.user,
            wallet_id: owner.id,
            feature_key: Some("chat".into()),
            token_hash: TokenHash::of_text(&session_id.to_string()),
            expires_at: self.now.plus(Duration::from_hours(1)),
            balance: owner.balance,
        };
        self.say(Actor::Public, opened);
    }

    fn top_up(&mut self, wallet: usize, credit: bool) {
        let (top_up_id, amount) =
            (TopUpId(self.id()), units(1_000_000 * i64::try_from(1_000 + self.roll(100_000)).unwrap()));
        let wallet_id = self.wallets[wallet].id;
        let reference = Some(format!("cs_{top_up_id}"));
        let provider = name("stripe");
        self.say(Actor::Public, TopUpRequested { top_up_id, wallet_id, amount, provider, reference });
        self.wallets[wallet].pending.push((top_up_id, amount));
        if credit {
            self.credit(wallet);
        }
    }

    fn credit(&mut self, wallet: usize) {
        let Some((top_up_id, amount)) = self.wallets[wallet].pending.pop() else { return };
        let wallet_id = self.wallets[wallet].id;
        let entry = EntryBuilder::new()
            .debit(Account::house(AccountCode::StripeCharges), amount)
            .credit(Account::paid(wallet_id), amount)
            .build()
            .unwrap();
        let balance = self.change(wallet, amount.units(), 0, 0);
        let occurred_at = Some(Timestamp::from_micros(self.now.micros() - 1_000_000));
        let payment = format!("pi_{top_up_id}");
        self.say(
            Actor::Admin,
            TopUpCredited {
                top_up_id,
                wallet_id,
                amount,
                provider: name("stripe"),
                payment,
                occurred_at,
                entry,
                balance,
            },
        );
    }

    fn change(&mut self, wallet: usize, posted: i64, promo: i64, held: i64) -> Balance {
        let balance = &mut self.wallets[wallet].balance;
        balance.posted = units(balance.posted.units() + posted);
        balance.promo = units(balance.promo.units() + promo);
        balance.held = units(balance.held.units() + held);
        assert!(!balance.held.is_negative() && !balance.promo.is_negative());
        *balance
    }

    fn call(&mut self, wallet: usize) -> Call {
        let route = match self.roll(10) {
            0 => Route::DeveloperKey,
            1 => Route::Byok,
            _ => Route::Platform,
        };
        let owner = &self.wallets[wallet];
        Call {
            app_id: self.apps[owner.app].0,
            session_id: owner.session,
            feature_key: Some("chat".into()),
            route,
            provider: name(["openai", "anthropic", "mistral"][owner.app]),
            model: "gpt-4o-mini".into(),
            service_tier: ServiceTier::Standard,
        }
    }

    fn rating(&mut self, wallet: usize, route: Route, limit: Money) -> Rating {
        let usage = Usage::text(1 + self.roll(4_000), 1 + self.roll(1_000));
        let exact_cost = Rate::per_million("0.15")
            .unwrap()
            .times(usage.input_uncached)
            .plus(Rate::per_million("0.60").unwrap().times(usage.output_text));
        let upstream = exact_cost.round().unwrap();
        let price_rule = PriceRule { markup_bps: bps(3_000), share_bps: bps(4_000), fee_usd: units(10) };
        let own = matches!(route, Route::Byok | Route::Local);
        let retail = if own { units(10) } else { units(upstream.units() * 13 / 10) };
        let charge = retail.min(limit);
        let margin = if own { charge.units() } else { (charge.units() - upstream.units()).max(0) };
        Rating {
            rate_card_id: *self.cards.last().unwrap(),
            price_rule,
            usage,
            service_tier: ServiceTier::Standard,
            served_model: None,
            exact_cost,
            upstream,
            retail,
            charge,
            developer: units(margin * 4 / 10),
            unrecovered: if own { Money::ZERO } else { units((upstream.units() - charge.units()).max(0)) },
            promo: charge.min(self.wallets[wallet].balance.promo),
            receivable: Money::ZERO,
        }
    }

    fn entry(&self, wallet: WalletId, call: &Call, rating: &Rating) -> JournalEntry {
        let (income, cost, owed) = match call.route {
            Route::Platform => {
                (AccountCode::UsagePlatform, AccountCode::Upstream, Account::accrued(call.provider.clone()))
            }
            Route::DeveloperKey => {
                (AccountCode::UsageDeveloperKey, AccountCode::UpstreamReimbursed, Account::developer(self.developer))
            }
            Route::Byok | Route::Local => {
                (AccountCode::FeesByok, AccountCode::Upstream, Account::accrued(call.provider.clone()))
            }
        };
        let upstream = if matches!(call.route, Route::Byok | Route::Local) { Money::ZERO } else { rating.upstream };
        let paid = rating.charge.checked_sub(rating.promo).unwrap().checked_sub(rating.receivable).unwrap();
        EntryBuilder::new()
            .debit(Account::promo(wallet), rating.promo)
            .debit(Account::paid(wallet), paid)
            .debit(Account::receivable(wallet), rating.receivable)
            .debit(Account::house(cost), upstream.checked_sub(rating.unrecovered).unwrap())
            .debit(Account::house(AccountCode::Unrecovered), rating.unrecovered)
            .debit(Account::house(AccountCode::ChannelShare), rating.developer)
            .debit(Account::house(AccountCode::ContraPromo), rating.promo)
            .credit(Account::house(income), rating.charge)
            .credit(owed, upstream)
            .credit(Account::developer(self.developer), rating.developer)
            .credit(Account::house(AccountCode::DeferredPromoCost), rating.promo)
            .build()
            .unwrap()
    }

    fn hold(&mut self, wallet: usize) {
        let amount = self.money(300_000);
        if self.wallets[wallet].balance.available() < amount {
            return self.top_up(wallet, true);
        }
        let (hold_id, call) = (HoldId(self.id()), self.call(wallet));
        let balance = self.change(wallet, 0, 0, amount.units());
        self.wallets[wallet].holds.push((hold_id, amount, call.clone()));
        let placed = HoldPlaced {
            hold_id,
            wallet_id: self.wallets[wallet].id,
            call,
            requested: amount,
            amount,
            rate_card_id: *self.cards.last().unwrap(),
            price_rule: PriceRule { markup_bps: bps(3_000), share_bps: bps(4_000), fee_usd: Money::ZERO },
            expires_at: self.now.plus(Duration::from_mins(5)),
            dispatch: None,
            balance,
        };
        let actor = self.user(wallet);
        self.say(actor, placed);
        if self.roll(5) == 0 {
            self.attempt(wallet);
        }
    }

    /// The newest hold leaves a mark, and its second attempt holds twice or half as much.
    fn attempt(&mut self, wallet: usize) {
        let available = self.wallets[wallet].balance.available();
        let Some((hold_id, replaced, call)) = self.wallets[wallet].holds.pop() else { return };
        let amount = if available > replaced { units(replaced.units() * 2) } else { units(replaced.units() / 2) };
        let balance = self.change(wallet, 0, 0, amount.units() - replaced.units());
        self.wallets[wallet].holds.push((hold_id, amount, call.clone()));
        let (wallet_id, bound) = (self.wallets[wallet].id, Usage::text(4_000, 1_000));
        let actor = self.user(wallet);
        let usage = Usage::text(100, 7);
        self.say(actor, AttemptProgressed { hold_id, wallet_id, number: 1, bytes: 900, usage, counter: 1 });
        self.say(
            actor,
            AttemptStarted {
                hold_id,
                wallet_id,
                number: 2,
                ended: self.failed(&call),
                call,
                bound,
                origin: "http://127.0.0.1:4000".into(),
                credential: None,
                disconnect: DisconnectPolicy::Drain,
                policy_version: 1,
                requested: amount,
                replaced,
                amount,
                balance,
            },
        );
    }

    fn failed(&self, call: &Call) -> Attempt {
        Attempt {
            route: call.route,
            provider: call.provider.clone(),
            model: call.model.clone(),
            credential: None,
            started_at: self.now,
            first_byte_ms: None,
            total_ms: Some(12),
            status: Some(503),
            error: Some(AttemptError::Status),
            billed: Billed::Unknown,
            exposure: Some(units(7)),
        }
    }

    /// How a call went: one attempt failed before the last.
    fn outcome(&mut self, call: &Call) -> Option<Box<CallOutcome>> {
        let failed = self.failed(call);
        let last = Attempt { error: None, billed: Billed::Yes, exposure: None, ..failed.clone() };
        (self.roll(4) == 0).then(|| Box::new(CallOutcome { attempts: vec![failed, last], ..CallOutcome::default() }))
    }

    fn user(&self, wallet: usize) -> Actor {
        self.wallets[wallet].session.map_or(Actor::Admin, Actor::Session)
    }

    fn capture(&mut self, wallet: usize) {
        let Some((hold_id, held, call)) = self.wallets[wallet].holds.pop() else { return self.hold(wallet) };
        let rating = self.rating(wallet, call.route, held);
        let wallet_id = self.wallets[wallet].id;
        let entry = self.entry(wallet_id, &call, &rating);
        let balance = self.change(wallet, -rating.charge.units(), -rating.promo.units(), -held.units());
        let over_hold = rating.retail > rating.charge;
        let provider_request_id = Some(format!("chatcmpl-{hold_id}"));
        let actor = self.user(wallet);
        let outcome = self.outcome(&call);
        self.say(
            actor,
            HoldCaptured {
                hold_id,
                wallet_id,
                call,
                held,
                rating,
                over_hold,
                provider_request_id,
                occurred_at: None,
                outcome,
                entry,
                balance,
            },
        );
    }

    fn end_hold(&mut self, wallet: usize) {
        let Some((hold_id, amount, call)) = self.wallets[wallet].holds.pop() else { return self.hold(wallet) };
        let wallet_id = self.wallets[wallet].id;
        let balance = self.change(wallet, 0, 0, -amount.units());
        if self.roll(2) == 0 {
            let actor = self.user(wallet);
            let reason = ReleaseReason::Failed;
            let outcome = self.outcome(&call);
            return self.say(actor, HoldReleased { hold_id, wallet_id, amount, reason, outcome, balance });
        }
        self.say(Actor::Clock, HoldExpired { hold_id, wallet_id, amount, balance });
        let rating = self.rating(wallet, call.route, balance.available());
        let entry = self.entry(wallet_id, &call, &rating);
        let balance = self.change(wallet, -rating.charge.units(), -rating.promo.units(), 0);
        let late = LateUsageCaptured {
            hold_id,
            wallet_id,
            call,
            rating,
            provider_request_id: None,
            occurred_at: None,
            outcome: None,
            entry,
            balance,
        };
        let actor = self.user(wallet);
        self.say(actor, late);
    }

    fn usage(&mut self, wallet: usize) {
        let available = self.wallets[wallet].balance.available();
        if available < units(1_000_000) {
            return self.top_up(wallet, true);
        }
        let call = self.call(wallet);
        let mut rating = self.rating(wallet, call.route, available);
        if self.roll(50) == 0 {
            // A part that the wallet could not pay.
            rating.receivable = units((rating.charge.units() - rating.promo.units()) / 3);
        }
        let (usage_id, wallet_id) = (UsageId(self.id()), self.wallets[wallet].id);
        let entry = self.entry(wallet_id, &call, &rating);
        let balance = self.change(wallet, rating.receivable.units() - rating.charge.units(), -rating.promo.units(), 0);
        let occurred_at = Some(Timestamp::from_micros(self.now.micros() - 50_000));
        let provider_request_id = Some(format!("batch-{usage_id}"));
        let actor = Actor::Token(self.token.unwrap_or(TokenId(Uuid::nil())));
        self.say(
            actor,
            UsageRecorded { usage_id, wallet_id, call, rating, provider_request_id, occurred_at, entry, balance },
        );
    }

    fn grant(&mut self, wallet: usize) {
        let (wallet_id, amount) = (self.wallets[wallet].id, self.money(50_000_000));
        let (kind, direction) =
            (AdjustmentKind::Adjustment, if self.roll(2) == 0 { Direction::Credit } else { Direction::Debit });
        let adjustments = || Account::adjustments(name("goodwill"));
        let booked = |debit, credit| EntryBuilder::new().debit(debit, amount).credit(credit, amount).build().unwrap();
        match self.roll(3) {
            0 => {
                let entry = booked(Account::house(AccountCode::DeferredPromoCost), Account::promo(wallet_id));
                let balance = self.change(wallet, amount.units(), amount.units(), 0);
                let reason = "launch".into();
                let granted =
                    PromoGranted { promo_id: None, wallet_id, amount, reason, expires_at: None, entry, balance };
                self.say(Actor::Admin, granted);
            }
            1 => {
                let entry = booked(adjustments(), Account::paid(wallet_id));
                let balance = self.change(wallet, amount.units(), 0, 0);
                self.say(Actor::Admin, TestCreditGranted { wallet_id, user_id: None, amount, entry, balance });
            }
            _ => {
                let balance = self.wallets[wallet].balance;
                let paid = balance.available().units() - balance.promo.units();
                let (direction, signed) = match direction {
                    Direction::Debit if paid >= amount.units() => (Direction::Debit, -amount.units()),
                    _ => (Direction::Credit, amount.units()),
                };
                let entry = match direction {
                    Direction::Debit => booked(Account::paid(wallet_id), adjustments()),
                    Direction::Credit => booked(adjustments(), Account::paid(wallet_id)),
                };
                let balance = self.change(wallet, signed, 0, 0);
                let adjustment_id = AdjustmentId(self.id());
                self.say(
                    Actor::Admin,
                    WalletAdjusted { adjustment_id, wallet_id, kind, direction, amount, reason: None, entry, balance },
                );
            }
        }
    }

    fn administrate(&mut self, wallet: usize) {
        let app = usize::try_from(self.roll(3)).unwrap();
        let (app_id, feature_id) = self.apps[app];
        match self.roll(11) {
            10 => self.provider_key(wallet),
            0 => {
                if let Some(token_id) = self.token.take() {
                    let developer_id = self.developer;
                    self.say(Actor::Admin, DeveloperTokenRevoked { developer_id, token_id });
                } else {
                    self.new_token();
                }
            }
            1 => {
                let settings = Self::settings("Renamed");
                self.say(Actor::Admin, AppChanged { app_id, settings });
            }
            2 => self.say(Actor::Admin, FeatureChanged(Self::feature(app_id, feature_id, "Chat it is"))),
            3 => {
                self.say(Actor::Admin, FeatureRemoved { app_id, feature_id });
                self.apps[app].1 = FeatureId(self.id());
                self.say(Actor::Admin, Self::feature(app_id, self.apps[app].1, "Chat again"));
            }
            4 => self.new_card(),
            5 => {
                let rate_card_id = self.cards[0];
                self.say(Actor::Operator, RateCardActivated { rate_card_id });
            }
            6 => {
                if let Some(scope) = self.frozen.take() {
                    self.say(Actor::Admin, Thawed { scope, reason: "over".into() });
                } else {
                    let scope = if self.roll(2) == 0 {
                        FreezeScope::Wallet(self.wallets[wallet].id)
                    } else {
                        FreezeScope::Payouts
                    };
                    self.frozen = Some(scope);
                    self.say(Actor::Admin, Frozen { scope, reason: "look".into() });
                }
            }
            8 => {
                if let Some(token_id) = self.staff.take() {
                    self.say(Actor::Staff(StaffRole::Admin, token_id), StaffTokenRevoked { token_id });
                } else {
                    let token_id = TokenId(self.id());
                    self.staff = Some(token_id);
                    let issued = StaffTokenIssued {
                        token_id,
                        name: "Grace".into(),
                        role: StaffRole::Operator,
                        token_hash: TokenHash::of_text(&token_id.to_string()),
                        token_prefix: "mf_staff_abcd".into(),
                        expires_at: Some(self.now),
                    };
                    self.say(Actor::Admin, issued);
                }
            }
            7 => {
                if let Some(session_id) = self.wallets[wallet].session.take() {
                    if self.roll(2) == 0 {
                        self.say(Actor::Admin, SessionRevoked { session_id });
                    } else {
                        self.say(Actor::Clock, SessionExpired { session_id });
                    }
                } else {
                    let session_id = SessionId(self.id());
                    self.open_session(wallet, session_id);
                }
            }
            _ => {
                self.top_up(wallet, false);
                if let Some((top_up_id, _)) = self.wallets[wallet].pending.pop() {
                    let wallet_id = self.wallets[wallet].id;
                    self.say(Actor::Admin, TopUpFailed { top_up_id, wallet_id, reason: "card declined".into() });
                }
            }
        }
    }

    /// A key is added, of a user or the developer, and disabled later.
    fn provider_key(&mut self, wallet: usize) {
        if let Some(credential_id) = self.provider_key.take() {
            let disabled = CredentialDisabled { credential_id, reason: DisableReason::Requested };
            return self.say(Actor::Admin, disabled);
        }
        let credential_id = CredentialId(self.id());
        self.provider_key = Some(credential_id);
        let owner = if self.roll(2) == 0 {
            CredentialOwner::Developer { developer_id: self.developer }
        } else {
            let Wallet { user, app, .. } = self.wallets[wallet];
            CredentialOwner::User { app_id: self.apps[app].0, user_id: user }
        };
        let added = CredentialAdded {
            credential_id,
            owner,
            provider: KeyProvider::Openai,
            base_url: None,
            origin: "https://api.openai.com".into(),
            masked: "sk-...cdef".into(),
            models_allowed: vec!["gpt-4o-mini".into()],
            budget_limit: Some(units(1_000_000)),
            priority: 100,
            fallback_to_platform: self.roll(2) == 0,
        };
        self.say(Actor::Admin, added);
    }

    fn happen(&mut self) {
        if self.wallets.len() < self.wanted_wallets {
            return self.open_wallet();
        }
        let wallet = usize::try_from(self.roll(self.wallets.len() as u64)).unwrap();
        match (self.mix, self.roll(100)) {
            (Mix::Everything, 0..=7) => self.administrate(wallet),
            (Mix::Everything, 8) => self.payment(wallet),
            (Mix::Everything, 9) => self.payout(),
            (Mix::Everything, 10..=19) => self.grant(wallet),
            (Mix::Everything, 20..=29) => self.end_hold(wallet),
            (Mix::Everything, 30..=54) => self.hold(wallet),
            (Mix::Everything, 55..=79) | (Mix::Calls, _) => self.capture(wallet),
            (Mix::Everything | Mix::Usage, _) => self.usage(wallet),
        }
    }

    /// The next event.
    pub fn next(&mut self) -> Recorded {
        while self.queue.is_empty() {
            self.happen();
        }
        let (actor, event) = self.queue.pop().unwrap();
        self.now = self.now.plus(Duration::from_micros(137));
        self.position = self.position.next();
        let stream = event.stream();
        let seq = self.seqs.entry(stream).or_default();
        *seq += 1;
        Recorded {
            shard: SHARD,
            position: self.position,
            stream,
            stream_seq: *seq,
            recorded_at: self.now,
            actor,
            request_id: format!("req_{}", self.position).into(),
            key: None,
            event,
        }
    }

    /// What a fork appends behind `previous`: the log is `log_id` from here on.
    pub fn fork(&mut self, previous: Head, previous_log_id: LogId, log_id: LogId) -> AppendBatch {
        let forked = LogForked {
            log_id,
            previous_log_id,
            epoch: 2,
            common: previous.position,
            common_hash: previous.hash.to_string(),
            lost_from: previous.position.next(),
            lost_until: previous.position.plus(5),
            reason: "disk".into(),
            approved_by: Actor::Admin,
        };
        self.queue.push((Actor::Admin, forked.into()));
        self.batch(previous, 1)
    }

    /// The next `count` events as one sealed append behind `previous`.
    pub fn batch(&mut self, previous: Head, count: usize) -> AppendBatch {
        let mut events: Vec<_> = (0..count).map(|_| self.next().store()).collect();
        for event in &mut events {
            event.recorded_at = self.now;
        }
        AppendBatch::seal(SHARD, previous, BatchId(self.id()), self.now, events)
    }
}

pub const LOG: LogId = LogId(Uuid::from_u128(77));

/// A log in memory: events with the heads behind their batches.
pub struct MemoryLog {
    pub events: Vec<Recorded>,
    pub links: Vec<Head>,
}

impl MemoryLog {
    /// Batches of these sizes.
    pub fn generate(seed: u64, mix: Mix, wallets: usize, sizes: &[usize]) -> Self {
        let mut generator = Generator::new(seed, mix, wallets);
        let mut log = Self { events: Vec::new(), links: vec![Head::genesis(LOG, SHARD)] };
        for size in sizes {
            let batch = generator.batch(*log.links.last().unwrap(), *size);
            log.links.push(batch.head());
            log.events.extend(batch.events().iter().map(|event| event.decode().unwrap()));
        }
        log
    }

    /// The span of batches `from` (exclusive) to `to` (inclusive).
    pub fn span(&self, from: usize, to: usize) -> Span {
        let (after, head) = (self.links[from], self.links[to]);
        let index = |head: Head| usize::try_from(head.position.0).unwrap();
        Span {
            after,
            links: self.links[from + 1..=to].to_vec(),
            events: self.events[index(after)..index(head)].iter().cloned().map(Arc::new).collect(),
        }
    }

    pub fn whole(&self) -> Span {
        self.span(0, self.links.len() - 1)
    }
}

pub fn other_hash(head: Head) -> Head {
    let mut hash = head.hash.0;
    hash[0] ^= 1;
    Head { position: head.position, hash: ChainHash(hash) }
}
