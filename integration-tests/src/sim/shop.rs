//! What the clients want, as the edge would make commands of it: every sending of a request makes new ids, the body stays.

use std::time::Duration;

use modelfaucet_command::domain::{CallRequest, Command, HoldAmount, OnShortfall, Payer};
use modelfaucet_schema::event::{
    AdjustmentKind, AppSettings, Direction, FreezeScope, ModelRates, Pricing, ReleaseReason, Route, ServiceTier,
    SessionOpening, Status,
};
use modelfaucet_schema::ids::PromoId;
use modelfaucet_schema::ids::{
    AdjustmentId, AppId, DeveloperId, FeatureId, HoldId, SessionId, TopUpId, UsageId, UserId, WalletId,
};
use modelfaucet_schema::money::{BasisPoints, Money, UNITS_PER_CENT};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::token::{TokenHash, short_hash};
use modelfaucet_schema::usage::{Component, Usage};
use uuid::Uuid;

use super::random::Random;

/// How many users there are, half of them in each of two apps.
pub(super) const USERS: u64 = 6;

/// The body of a request.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Body {
    OpenSession { user: u64 },
    Hold { wallet: WalletId, cents: i64, seconds: u64, part: bool },
    Capture { hold: HoldId, tokens: u64 },
    Release { hold: HoldId },
    Use { wallet: WalletId, tokens: u64, receivable: bool },
    RequestTopUp { wallet: WalletId, cents: i64 },
    CreditTopUp { top_up: TopUpId },
    TestCredit { wallet: WalletId, cents: i64 },
    Promo { wallet: WalletId, cents: i64 },
    Adjust { wallet: WalletId, cents: i64, credit: bool },
    Freeze(FreezeScope),
    Thaw(FreezeScope),
    Activate { dollars: u64 },
}

fn app(user: u64) -> AppId {
    AppId(Uuid::from_u64_pair(0xa0, user % 2))
}

fn cents(cents: i64) -> Money {
    Money::from_units(cents * UNITS_PER_CENT)
}

fn call(wallet: WalletId) -> CallRequest {
    CallRequest {
        payer: Payer::Wallet(wallet),
        feature_key: Some("chat".into()),
        route: Route::Platform,
        provider: None,
        model: "m".into(),
        service_tier: ServiceTier::Standard,
    }
}

impl Body {
    /// What a second request with the same body shares with the first.
    pub(super) fn fingerprint(&self) -> Uuid {
        short_hash(&[format!("{self:?}").as_bytes()])
    }

    /// The command, with ids of this sending.
    pub(super) fn command(&self, random: &mut Random) -> Command {
        match *self {
            Self::OpenSession { user } => Command::OpenSession {
                session_id: SessionId(random.uuid()),
                wallet_id: WalletId(random.uuid()),
                user_id: UserId(random.uuid()),
                app_id: app(user),
                user_hash: format!("hmac:{user:064x}").parse().expect("64 hexadecimal digits"),
                feature_key: None,
                token_hash: TokenHash::of_text(&random.next().to_string()),
                ttl: Duration::from_secs(20),
            },
            Self::Hold { wallet, cents: amount, seconds, part } => Command::PlaceHold {
                hold_id: HoldId(random.uuid()),
                call: call(wallet),
                amount: HoldAmount::Fixed(cents(amount)),
                min_amount: part.then_some(cents(1)),
                expires_in: Duration::from_secs(seconds),
            },
            Self::Capture { hold, tokens } => Command::CaptureHold {
                hold_id: hold,
                usage: Usage::text(tokens, tokens / 2),
                service_tier: None,
                provider_request_id: None,
                occurred_at: None,
            },
            Self::Release { hold } => Command::ReleaseHold { hold_id: hold, reason: ReleaseReason::Cancelled },
            Self::Use { wallet, tokens, receivable } => Command::RecordUsage {
                usage_id: UsageId(random.uuid()),
                call: call(wallet),
                usage: Usage::text(tokens, tokens / 3),
                on_shortfall: if receivable { OnShortfall::Receivable } else { OnShortfall::Refuse },
                provider_request_id: None,
                occurred_at: None,
            },
            Self::RequestTopUp { wallet, cents: amount } => Command::RequestTopUp {
                top_up_id: TopUpId(random.uuid()),
                wallet_id: wallet,
                amount: cents(amount),
                provider: "stripe".parse().expect("a name"),
                reference: None,
            },
            Self::CreditTopUp { top_up } => Command::CreditTopUp {
                top_up_id: top_up,
                payment: format!("pi_{top_up}"),
                amount: None,
                occurred_at: None,
            },
            Self::TestCredit { wallet, cents: amount } => {
                Command::GrantTestCredit { wallet_id: wallet, amount: cents(amount) }
            }
            Self::Promo { wallet, cents: amount } => Command::GrantPromo {
                promo_id: PromoId(random.uuid()),
                wallet_id: wallet,
                amount: cents(amount),
                reason: "promo".into(),
                expires_at: None,
            },
            Self::Adjust { wallet, cents: amount, credit } => Command::AdjustWallet {
                adjustment_id: AdjustmentId(random.uuid()),
                wallet_id: wallet,
                kind: AdjustmentKind::Refund,
                direction: if credit { Direction::Credit } else { Direction::Debit },
                amount: cents(amount),
                reason: None,
                expected: None,
            },
            Self::Freeze(scope) => Command::Freeze { scope, reason: "incident".into() },
            Self::Thaw(scope) => Command::Thaw { scope, reason: "over".into() },
            Self::Activate { dollars } => rate_card(dollars),
        }
    }

    /// What two clients do under one key: the webhook of a payment comes twice.
    pub(super) fn shared_key(&self) -> Option<String> {
        if let Self::CreditTopUp { top_up } = self { Some(format!("payment:{top_up}")) } else { None }
    }
}

fn rate_card(dollars_per_million: u64) -> Command {
    let rate = |times: u64| Rate::per_million(&format!("{}.37", dollars_per_million * times)).expect("a rate");
    Command::ActivateRateCard {
        source: "sim".into(),
        models: vec![ModelRates::flat(
            "openai".parse().expect("a name"),
            "m",
            [(Component::InputUncached, rate(1)), (Component::OutputText, rate(4))],
        )],
    }
}

/// What has to exist before users come.
pub(super) fn beginning() -> Vec<Command> {
    let bps = |bps| BasisPoints::new(bps).expect("in range");
    let developer_id = DeveloperId(Uuid::from_u64_pair(0xd0, 0));
    let mut commands = vec![
        Command::RegisterDeveloper { developer_id, name: "d".into(), email: "d@example.org".into() },
        rate_card(1_000),
    ];
    for user in 0..2 {
        let public_app_id = format!("app-{user}");
        let settings = AppSettings {
            name: public_app_id.clone(),
            vertical: None,
            default_revenue_share_bps: bps(4_000),
            status: Status::Active,
            session_opening: SessionOpening::Public,
        };
        commands.push(Command::RegisterApp {
            app_id: app(user),
            developer_id,
            public_app_id: public_app_id.clone(),
            settings,
        });
        commands.push(Command::DefineFeature {
            feature_id: FeatureId(Uuid::from_u64_pair(0xf0, user)),
            public_app_id,
            feature_key: "chat".into(),
            display_name: "Chat".into(),
            pricing: Pricing::default(),
            policy: serde_json::Map::new(),
        });
    }
    commands
}

/// A scope for a freeze.
pub(super) fn scope(random: &mut Random, wallet: WalletId) -> FreezeScope {
    match random.below(4) {
        0 => FreezeScope::Usage,
        1 => FreezeScope::TopUps,
        2 => FreezeScope::App(app(random.below(2))),
        _ => FreezeScope::Wallet(wallet),
    }
}
