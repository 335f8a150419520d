//! From the second ledger's orders to the product's commands, and from the product's answers to the second ledger's terms.

use std::time::Duration;

use modelfaucet_command::domain::{
    AppPatch, CallRequest, Caller, Command, FeaturePatch, HoldAmount, OnShortfall, Payer as DomainPayer, Rejection,
};
use modelfaucet_schema::account::{Name, Subject};
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::{
    AdjustmentKind, AppSettings, Direction, Event, FreezeScope, ModelRates, Pricing as DomainPricing, ReleaseReason,
    Route as DomainRoute, ServiceTier, SessionOpening, Status,
};
use modelfaucet_schema::ids::PromoId;
use modelfaucet_schema::ids::{
    AdjustmentId, AppId, DeveloperId, FeatureId, HoldId, SessionId, TokenId, TopUpId, UsageId, UserId, WalletId,
};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::token::TokenHash;
use modelfaucet_schema::usage::{Component, Usage};
use uuid::Uuid;

use super::ledger::{
    Amount, Answer, Call, Card, Counts, Id, Ledger, Order, Payer, Postings, Pricing, Route, Scope, Units, Who,
};

const fn uuid(id: Id) -> Uuid {
    Uuid::from_u128(id as u128)
}

pub fn wallet_id(id: Id) -> WalletId {
    WalletId(uuid(id))
}

fn number(uuid: Uuid) -> Id {
    Id::try_from(uuid.as_u128()).unwrap()
}

pub fn money(units: Units) -> Money {
    Money::from_units(i64::try_from(units).unwrap())
}

fn bps(bps: Units) -> BasisPoints {
    BasisPoints::new(u32::try_from(bps).unwrap()).unwrap()
}

fn seconds(seconds: i64) -> Duration {
    Duration::from_secs(u64::try_from(seconds).unwrap())
}

fn provider(id: Id) -> Name {
    format!("provider-{id}").parse().unwrap()
}

fn key(feature: Id) -> String {
    format!("feature-{feature}")
}

pub fn app_name(app: Id) -> String {
    format!("app-{app}")
}

pub fn caller(who: Who) -> Caller {
    match who {
        Who::Operator => Caller::Operator,
        Who::Developer(id) => Caller::Developer(DeveloperId(uuid(id)), TokenId(uuid(id))),
        Who::Session(id) => Caller::Session(SessionId(uuid(id))),
    }
}

/// Who there is from the beginning: developers with a token each, and their apps.
pub fn beginning(ledger: &Ledger) -> Vec<Command> {
    let mut commands = Vec::new();
    let mut developers: Vec<Id> = ledger.apps.values().map(|app| app.developer).collect();
    developers.dedup();
    for id in developers {
        let (developer_id, token_id) = (DeveloperId(uuid(id)), TokenId(uuid(id)));
        commands.push(Command::RegisterDeveloper { developer_id, name: "d".into(), email: "d@example.org".into() });
        commands.push(Command::IssueDeveloperToken {
            token_id,
            developer_id,
            name: "t".into(),
            token_hash: TokenHash::of_text("t"),
            token_prefix: "t".into(),
            scopes: Vec::new(),
            expires_at: None,
        });
    }
    for (id, app) in &ledger.apps {
        let settings = AppSettings {
            name: app_name(*id),
            vertical: None,
            default_revenue_share_bps: bps(app.share),
            status: if app.active { Status::Active } else { Status::Disabled },
            session_opening: SessionOpening::Public,
        };
        let developer_id = DeveloperId(uuid(app.developer));
        commands.push(Command::RegisterApp {
            app_id: AppId(uuid(*id)),
            developer_id,
            public_app_id: app_name(*id),
            settings,
        });
    }
    commands
}

fn pricing(pricing: Pricing) -> DomainPricing {
    DomainPricing {
        markup_bps: bps(pricing.markup),
        revenue_share_bps: pricing.share.map(bps),
        fee_usd: money(pricing.fee),
    }
}

fn usage(counts: Counts) -> Usage {
    Usage { cache_read: counts[1], requests: counts[3], ..Usage::text(counts[0], counts[2]) }
}

fn call(call: Call) -> CallRequest {
    CallRequest {
        payer: match call.payer {
            Payer::Session(id) => DomainPayer::Session(SessionId(uuid(id))),
            Payer::Wallet(id) => DomainPayer::Wallet(wallet_id(id)),
        },
        feature_key: call.feature.map(key),
        route: match call.route {
            Route::Platform => DomainRoute::Platform,
            Route::DeveloperKey => DomainRoute::DeveloperKey,
            Route::Byok => DomainRoute::Byok,
            Route::Local => DomainRoute::Local,
        },
        provider: call.provider.map(provider),
        model: format!("model-{}", call.model),
        service_tier: ServiceTier::Standard,
    }
}

fn models(card: &Card) -> Vec<ModelRates> {
    let rate = |femto: i128| -> Rate { format!("0.{femto:015}").parse().unwrap() };
    card.iter()
        .map(|((provider_id, model), [input, cached, output])| {
            let rates = [
                (Component::InputUncached, rate(*input)),
                (Component::CacheRead, rate(*cached)),
                (Component::OutputText, rate(*output)),
            ];
            ModelRates::flat(provider(*provider_id), format!("model-{model}"), rates)
        })
        .collect()
}

fn scope(scope: Scope) -> FreezeScope {
    match scope {
        Scope::App(id) => FreezeScope::App(AppId(uuid(id))),
        Scope::Developer(id) => FreezeScope::Developer(DeveloperId(uuid(id))),
        Scope::Session(id) => FreezeScope::Session(SessionId(uuid(id))),
        Scope::Wallet(id) => FreezeScope::Wallet(wallet_id(id)),
        Scope::TopUps => FreezeScope::TopUps,
        Scope::Usage => FreezeScope::Usage,
    }
}

/// The order as the edge would send it. `known` says what exists already.
pub fn command(order: &Order, known: &Ledger) -> Command {
    match order {
        Order::SetApp { app, active, share } => Command::ChangeApp {
            public_app_id: app_name(*app),
            patch: AppPatch {
                status: Some(if *active { Status::Active } else { Status::Disabled }),
                default_revenue_share_bps: Some(bps(*share)),
                ..AppPatch::default()
            },
        },
        Order::SetFeature { app, feature, pricing: price } if known.features.contains_key(&(*app, *feature)) => {
            Command::ChangeFeature {
                public_app_id: app_name(*app),
                feature_key: key(*feature),
                patch: FeaturePatch { pricing: Some(pricing(*price)), ..FeaturePatch::default() },
            }
        }
        Order::SetFeature { app, feature, pricing: price } => Command::DefineFeature {
            feature_id: FeatureId(uuid(*feature)),
            public_app_id: app_name(*app),
            feature_key: key(*feature),
            display_name: key(*feature),
            pricing: pricing(*price),
            policy: serde_json::Map::new(),
        },
        Order::RemoveFeature { app, feature } => {
            Command::RemoveFeature { public_app_id: app_name(*app), feature_key: key(*feature) }
        }
        Order::Activate(card) => Command::ActivateRateCard { source: "model".into(), models: models(card) },
        Order::OpenSession { session, wallet, app, user, feature, ttl } => Command::OpenSession {
            session_id: SessionId(uuid(*session)),
            wallet_id: wallet_id(*wallet),
            user_id: UserId(uuid(*user)),
            app_id: AppId(uuid(*app)),
            user_hash: format!("hmac:{user:064x}").parse().unwrap(),
            feature_key: feature.map(key),
            token_hash: TokenHash::of_text("s"),
            ttl: seconds(*ttl),
        },
        Order::EndSession { session, by_time: true } => {
            Command::ExpireSession { session_id: SessionId(uuid(*session)) }
        }
        Order::EndSession { session, by_time: false } => {
            Command::RevokeSession { session_id: SessionId(uuid(*session)) }
        }
        Order::RequestTopUp { top_up, wallet, amount } => Command::RequestTopUp {
            top_up_id: TopUpId(uuid(*top_up)),
            wallet_id: wallet_id(*wallet),
            amount: money(*amount),
            provider: provider(0),
            reference: None,
        },
        Order::CreditTopUp { top_up, amount } => Command::CreditTopUp {
            top_up_id: TopUpId(uuid(*top_up)),
            payment: "p".into(),
            amount: amount.map(money),
            occurred_at: None,
        },
        Order::FailTopUp { top_up } => Command::FailTopUp { top_up_id: TopUpId(uuid(*top_up)), reason: "r".into() },
        Order::TestCredit { wallet, amount } => {
            Command::GrantTestCredit { wallet_id: wallet_id(*wallet), amount: money(*amount) }
        }
        Order::Promo { wallet, amount } => Command::GrantPromo {
            promo_id: PromoId(uuid::Uuid::nil()),
            wallet_id: wallet_id(*wallet),
            amount: money(*amount),
            reason: "r".into(),
            expires_at: None,
        },
        Order::Adjust { wallet, other_side, credit, amount } => Command::AdjustWallet {
            adjustment_id: AdjustmentId(uuid(0)),
            wallet_id: wallet_id(*wallet),
            kind: match other_side.0 {
                5220 => AdjustmentKind::Adjustment,
                2030 => AdjustmentKind::Refund,
                _ => AdjustmentKind::Chargeback,
            },
            direction: if *credit { Direction::Credit } else { Direction::Debit },
            amount: money(*amount),
            reason: None,
            expected: None,
        },
        Order::Hold { hold, call: facts, amount, min, seconds: time } => Command::PlaceHold {
            hold_id: HoldId(uuid(*hold)),
            call: call(*facts),
            amount: match amount {
                Amount::Fixed(units) => HoldAmount::Fixed(money(*units)),
                Amount::Bound(counts) => HoldAmount::Bound(usage(*counts)),
            },
            min_amount: min.map(money),
            expires_in: seconds(*time),
        },
        Order::Capture { hold, counts } => Command::CaptureHold {
            hold_id: HoldId(uuid(*hold)),
            usage: usage(*counts),
            service_tier: None,
            provider_request_id: None,
            occurred_at: None,
        },
        Order::Release { hold } => {
            Command::ReleaseHold { hold_id: HoldId(uuid(*hold)), reason: ReleaseReason::Cancelled }
        }
        Order::Expire { hold } => Command::ExpireHold { hold_id: HoldId(uuid(*hold)) },
        Order::Use { call: facts, counts, receivable } => Command::RecordUsage {
            usage_id: UsageId(uuid(0)),
            call: call(*facts),
            usage: usage(*counts),
            on_shortfall: if *receivable { OnShortfall::Receivable } else { OnShortfall::Refuse },
            provider_request_id: None,
            occurred_at: None,
        },
        Order::Freeze(what) => Command::Freeze { scope: scope(*what), reason: "r".into() },
        Order::Thaw(what) => Command::Thaw { scope: scope(*what), reason: "r".into() },
    }
}

/// The product's answer in the second ledger's terms.
pub fn answer(verdict: &Result<Vec<Event>, Rejection>) -> Answer {
    match verdict {
        Ok(events) => {
            let entry = events.last().and_then(Event::entry).map(postings).unwrap_or_default();
            Ok((events.iter().map(Event::name).collect(), entry))
        }
        Err(refusal) => Err(refusal.code()),
    }
}

pub fn postings(entry: &JournalEntry) -> Postings {
    let mut postings = Postings::new();
    for line in entry.postings() {
        let subject = match line.account.subject() {
            Subject::House => 0,
            Subject::Wallet(id) => number(id.0),
            Subject::Developer(id) => number(id.0),
            Subject::Name(name) => name.as_str().strip_prefix("provider-").map_or(0, |id| id.parse().unwrap()),
        };
        let code = line.account.code().digits().parse().unwrap();
        *postings.entry((code, subject)).or_default() += Units::from(line.amount.units());
    }
    postings
}
