//! The rules, as sentences: given what happened, when somebody wants something, then this follows.
//!
//! [`World`] is the only code that touches the API. Beside what a test states, every step checks what must always hold: entries sum
//! to zero, the event survives its stored form, undoing takes the state back, no wallet is below its floor.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod attempts;
mod budgets;
mod calls;
mod catalogue;
mod credentials;
mod credit;
mod freezes;
mod holds;
mod incidents;
mod payments;
mod payouts;
mod promos;
mod refusals;
mod repairs;
mod routes;
mod sessions;
mod staff;
mod tiers;
mod usage;

use std::collections::BTreeMap;
use std::time::Duration;

use modelfaucet_schema::event::{
    AppSettings, Balance, Event, ModelRates, Pricing, Recorded, ReleaseReason, Route, ServiceTier, SessionOpening,
    Status,
};
use modelfaucet_schema::ids::{
    AppId, DeveloperId, FeatureId, HoldId, Position, PromoId, SessionId, ShardId, TokenId, TopUpId, UsageId, UserId,
    WalletId,
};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash, UserHash};
use modelfaucet_schema::usage::{Component, Usage};
use uuid::Uuid;

use super::{CallRequest, Caller, Command, HoldAmount, OnShortfall, Payer, Rejection, State, decide};

const DEVELOPER: DeveloperId = DeveloperId(Uuid::from_u128(0xd1));
const OTHER_DEVELOPER: DeveloperId = DeveloperId(Uuid::from_u128(0xd2));
const TOKEN: TokenId = TokenId(Uuid::from_u128(0x71));
const OTHER_TOKEN: TokenId = TokenId(Uuid::from_u128(0x72));
const APP: AppId = AppId(Uuid::from_u128(0xa1));
const WALLET: WalletId = WalletId(Uuid::from_u128(0xb1));
const SESSION: SessionId = SessionId(Uuid::from_u128(0x51));
const TOP_UP: TopUpId = TopUpId(Uuid::from_u128(0xc1));
const HOLD: HoldId = HoldId(Uuid::from_u128(0x41));
const SECOND_HOLD: HoldId = HoldId(Uuid::from_u128(0x42));

/// Something that was wanted or that happened.
#[derive(Clone, Debug)]
#[expect(clippy::large_enum_variant, reason = "a few dozen per test")]
enum Step {
    Command(Caller, Command),
    Seconds(u64),
}

impl From<Command> for Step {
    /// Unless a test says otherwise, the operator wants it.
    fn from(command: Command) -> Self {
        Self::Command(Caller::Operator, command)
    }
}

fn by(caller: Caller, command: Command) -> Step {
    Step::Command(caller, command)
}

fn after_seconds(seconds: u64) -> Step {
    Step::Seconds(seconds)
}

/// A ledger in memory, with its clock.
struct World {
    state: State,
    now: Timestamp,
    position: Position,
}

/// A shop with a user: developer, app, feature "chat" (markup 30 %, share 40 %), a rate card, and a session of a day.
fn given<const N: usize>(steps: [Step; N]) -> World {
    given_nothing().and(shop()).and(steps)
}

fn given_nothing() -> World {
    World { state: State::default(), now: Timestamp::from_micros(1_764_000_000_000_000), position: Position::START }
}

impl World {
    fn and(mut self, steps: impl IntoIterator<Item = Step>) -> Self {
        for step in steps {
            if let Err(refusal) = self.take(&step) {
                panic!("{step:?} was refused: {refusal:?}");
            }
        }
        self
    }

    fn when(mut self, step: impl Into<Step>) -> Then {
        let verdict = self.take(&step.into());
        Then { world: self, verdict }
    }

    fn take(&mut self, step: &Step) -> Result<Vec<Event>, Rejection> {
        let (caller, command) = match step {
            Step::Seconds(seconds) => {
                self.now = self.now.plus(Duration::from_secs(*seconds));
                return Ok(Vec::new());
            }
            Step::Command(caller, command) => (*caller, command),
        };
        let events = decide(&self.state, caller, command, self.now, self.position)?;
        assert_eq!(
            decide(&self.state, caller, command, self.now, self.position).as_ref(),
            Ok(&events),
            "the same again gives the same"
        );
        assert!((1..=3).contains(&events.len()), "a command makes one to three events");
        let before = self.state.clone();
        let recorded: Vec<_> = events.iter().map(|event| self.record(caller, event)).collect();
        self.state.undo();
        assert_eq!(self.state, before, "undo takes {command:?} back");
        for recorded in &recorded {
            self.state.evolve(recorded);
            self.position = recorded.position;
        }
        self.state.commit();
        check_wallets(&self.state);
        Ok(events)
    }

    fn record(&mut self, caller: Caller, event: &Event) -> Recorded {
        let stream = event.stream();
        let recorded = Recorded {
            shard: ShardId(0),
            position: self.position.next(),
            stream,
            stream_seq: self.state.next_seq(&stream),
            recorded_at: self.now,
            actor: caller.actor(),
            request_id: "test".into(),
            key: None,
            event: event.clone(),
        };
        assert_eq!(recorded.store().decode().unwrap(), recorded, "the stored form gives the event back");
        let sum: i128 =
            event.entry().iter().flat_map(|entry| entry.postings()).map(|line| i128::from(line.amount.units())).sum();
        assert_eq!(sum, 0, "an entry sums to zero");
        self.state.evolve(&recorded);
        recorded
    }
}

fn check_wallets(state: &State) {
    for (id, wallet) in state.wallets.iter() {
        let Balance { posted, promo, held } = wallet.balance;
        let open: i64 =
            state.holds.iter().filter(|(_, hold)| hold.wallet_id == *id).map(|(_, hold)| hold.amount.units()).sum();
        let disputed: i64 =
            state.disputes.iter().filter(|(_, d)| d.wallet_id == *id).map(|(_, d)| d.held.units()).sum();
        assert_eq!(held.units(), open + disputed, "what is held is what open holds hold");
        assert!(wallet.balance.available() >= wallet.floor, "{:?} is below its floor", wallet.balance);
        assert!(promo >= Money::ZERO && promo <= posted, "promotional credit is a part of the credit");
    }
}

/// What became of it.
struct Then {
    world: World,
    verdict: Result<Vec<Event>, Rejection>,
}

impl Then {
    /// Events of these names happened.
    fn then<const N: usize>(self, names: [&str; N]) -> Self {
        let events = self.verdict.as_ref().unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
        assert_eq!(events.iter().map(Event::name).collect::<Vec<_>>(), names);
        self
    }

    /// It is refused with this code.
    #[track_caller]
    fn then_refused(self, code: &str) -> World {
        match self.verdict {
            Err(refusal) => assert_eq!(refusal.code(), code, "{refusal:?}"),
            Ok(events) => panic!("not refused: {events:?}"),
        }
        self.world
    }

    /// It is refused for exactly this reason.
    #[track_caller]
    fn then_refused_as(self, refusal: &Rejection) -> World {
        assert_eq!(self.verdict.as_ref(), Err(refusal));
        self.world
    }

    /// The wallet shows these figures.
    #[track_caller]
    fn wallet(self, posted: &str, promo: &str, held: &str) -> Self {
        let balance = self.world.state.wallets.get(&WALLET).unwrap().balance;
        assert_eq!(balance, Balance { posted: usd(posted), promo: usd(promo), held: usd(held) });
        self
    }

    /// The last event's entry has these postings in units of 1e-8 USD, debits positive.
    #[track_caller]
    fn posts<const N: usize>(self, postings: [(&str, i64); N]) -> Self {
        let events = self.verdict.as_ref().unwrap_or_else(|refusal| panic!("refused: {refusal:?}"));
        let mut posted = BTreeMap::new();
        for line in events.last().and_then(Event::entry).iter().flat_map(|entry| entry.postings()) {
            let before = posted.insert(line.account.code().digits(), line.amount.units());
            assert_eq!(before, None, "an account is posted to once");
        }
        assert_eq!(posted, BTreeMap::from(postings));
        self
    }

    /// The last event.
    fn event(&self) -> &Event {
        self.verdict.as_ref().unwrap().last().unwrap()
    }

    /// Goes on from here.
    fn next(self) -> World {
        self.world
    }
}

fn usd(text: &str) -> Money {
    text.parse().unwrap()
}

fn bps(bps: u32) -> BasisPoints {
    BasisPoints::new(bps).unwrap()
}

fn provider() -> modelfaucet_schema::account::Name {
    "openai".parse().unwrap()
}

fn settings() -> AppSettings {
    AppSettings {
        name: "Shop".into(),
        vertical: None,
        default_revenue_share_bps: bps(4_000),
        status: Status::Active,
        session_opening: SessionOpening::Public,
    }
}

fn pricing() -> Pricing {
    Pricing { markup_bps: bps(3_000), revenue_share_bps: None, fee_usd: usd("0.02") }
}

fn register_developer(developer_id: DeveloperId) -> Command {
    Command::RegisterDeveloper { developer_id, name: "Dora".into(), email: "dora@example.org".into() }
}

fn issue_token(token_id: TokenId, developer_id: DeveloperId, scopes: &[Scope]) -> Command {
    Command::IssueDeveloperToken {
        token_id,
        developer_id,
        name: "token".into(),
        token_hash: TokenHash::of_text(&token_id.to_string()),
        token_prefix: "mf_dev_".into(),
        scopes: scopes.to_vec(),
        expires_at: None,
    }
}

fn register_app() -> Command {
    Command::RegisterApp { app_id: APP, developer_id: DEVELOPER, public_app_id: "shop".into(), settings: settings() }
}

fn define_feature(feature_key: &str, pricing: Pricing) -> Command {
    Command::DefineFeature {
        feature_id: FeatureId(modelfaucet_schema::token::short_hash(&[feature_key.as_bytes()])),
        public_app_id: "shop".into(),
        feature_key: feature_key.into(),
        display_name: feature_key.into(),
        pricing,
        policy: serde_json::Map::new(),
    }
}

/// A model with prices in USD per million tokens.
fn model(provider: &str, model: &str, input: &str, cached: &str, output: &str) -> ModelRates {
    let rate = |text| Rate::per_million(text).unwrap();
    let rates = [
        (Component::InputUncached, rate(input)),
        (Component::CacheRead, rate(cached)),
        (Component::OutputText, rate(output)),
    ];
    ModelRates::flat(provider.parse().unwrap(), model, rates)
}

/// The rate card of accounting's examples: "small" is the first, "tiny" the second; two providers offer "shared".
fn rate_card() -> Command {
    activate(vec![
        model("openai", "small", "0.15", "0.075", "0.60"),
        model("openai", "tiny", "0.0375", "0.01", "0.15"),
        model("openai", "dollar", "1000000", "0", "1000000"),
        model("openai", "shared", "1", "1", "1"),
        model("anthropic", "shared", "2", "2", "2"),
    ])
}

fn activate(models: Vec<ModelRates>) -> Command {
    Command::ActivateRateCard { source: "test".into(), models }
}

fn open_session(session_id: SessionId) -> Command {
    Command::OpenSession {
        session_id,
        wallet_id: WALLET,
        user_id: UserId(Uuid::from_u128(0xee)),
        app_id: APP,
        user_hash: user_hash('1'),
        feature_key: Some("chat".into()),
        token_hash: TokenHash::of_text(&session_id.to_string()),
        ttl: Duration::from_secs(24 * 3_600),
    }
}

fn user_hash(digit: char) -> UserHash {
    format!("hmac:{}", digit.to_string().repeat(64)).parse().unwrap()
}

fn shop() -> Vec<Step> {
    vec![
        register_developer(DEVELOPER).into(),
        issue_token(TOKEN, DEVELOPER, Scope::ALL).into(),
        register_app().into(),
        define_feature("chat", pricing()).into(),
        rate_card().into(),
        open_session(SESSION).into(),
    ]
}

fn granted(amount: &str) -> Step {
    Command::GrantTestCredit { wallet_id: WALLET, amount: usd(amount) }.into()
}

fn promo(amount: &str, expires_at: Option<Timestamp>) -> Command {
    let promo_id = PromoId(modelfaucet_schema::token::short_hash(&[amount.as_bytes()]));
    Command::GrantPromo { promo_id, wallet_id: WALLET, amount: usd(amount), reason: "welcome".into(), expires_at }
}

fn promo_granted(amount: &str) -> Step {
    promo(amount, None).into()
}

fn call(model: &str) -> CallRequest {
    CallRequest {
        payer: Payer::Session(SESSION),
        feature_key: None,
        route: Route::Platform,
        provider: None,
        model: model.into(),
        service_tier: ServiceTier::Standard,
    }
}

fn hold(hold_id: HoldId, call: CallRequest, amount: HoldAmount) -> Command {
    Command::PlaceHold { hold_id, call, amount, min_amount: None, expires_in: Duration::from_secs(600) }
}

/// A hold of a fixed amount for a call of "small".
fn hold_of(hold_id: HoldId, amount: &str) -> Command {
    hold(hold_id, call("small"), HoldAmount::Fixed(usd(amount)))
}

fn capture(hold_id: HoldId, usage: Usage) -> Command {
    Command::CaptureHold { hold_id, usage, service_tier: None, provider_request_id: None, occurred_at: None }
}

fn release(hold_id: HoldId) -> Command {
    Command::ReleaseHold { hold_id, reason: ReleaseReason::Cancelled }
}

fn expire(hold_id: HoldId) -> Step {
    by(Caller::Clock, Command::ExpireHold { hold_id })
}

fn record_usage(call: CallRequest, usage: Usage, on_shortfall: OnShortfall) -> Command {
    Command::RecordUsage {
        usage_id: UsageId(Uuid::from_u128(0x99)),
        call,
        usage,
        on_shortfall,
        provider_request_id: None,
        occurred_at: None,
    }
}

/// The first example of accounting: cached tokens were counted inside the input.
fn first_example() -> Usage {
    Usage { cache_read: 1_025, ..Usage::text(178, 212) }
}

/// The second example: cached tokens were counted beside the input.
fn second_example() -> Usage {
    Usage { cache_read: 400, ..Usage::text(57, 3) }
}
