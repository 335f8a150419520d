//! A plausible business, through the real writer: users, top-ups, calls on every route with and without holds, corrections,
//! freezes. Everything is drawn from a seed, except ids and times.

use std::time::Duration;

use modelfaucet_command::domain::{AppPatch, CallRequest, Caller, Command, HoldAmount, OnShortfall, Payer};
use modelfaucet_command::snapshot;
use modelfaucet_command::writer::{self, CommandError, Ledger, Request, WriterOptions};
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_projector::Projector;
use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::*;
use modelfaucet_schema::ids::*;
use modelfaucet_schema::log::LogReader;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{TokenHash, UserHash};
use modelfaucet_schema::usage::{Component, Usage};
use uuid::Uuid;

/// Numbers that look random and are the same for the same seed.
pub struct Dice(u64);

impl Dice {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub fn roll(&mut self, below: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) % below
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[usize::try_from(self.roll(from.len() as u64)).unwrap()]
    }
}

pub struct Business {
    pub dice: Dice,
    app: AppId,
    sessions: Vec<(SessionId, WalletId)>,
    holds: Vec<HoldId>,
    top_ups: Vec<TopUpId>,
    frozen: Option<FreezeScope>,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn user_hash(user: u32) -> UserHash {
    format!("hmac:{user:064x}").parse().unwrap()
}

impl Business {
    /// Registers a developer, an app, two features and a rate card, and opens sessions for `users`.
    pub async fn open(ledger: &Ledger, seed: u64, users: u32) -> Self {
        let app = AppId::generate();
        let mut business = Self {
            dice: Dice::new(seed),
            app,
            sessions: Vec::new(),
            holds: Vec::new(),
            top_ups: Vec::new(),
            frozen: None,
        };
        let developer_id = DeveloperId::generate();
        let rate = |usd: &str| Rate::per_million(usd).unwrap();
        let rates = [
            (Component::InputUncached, rate("0.15")),
            (Component::CacheRead, rate("0.075")),
            (Component::OutputText, rate("0.60")),
        ];
        let models = vec![ModelRates::flat(name("openai"), "gpt-4o-mini", rates)];
        let settings = AppSettings {
            name: "App".into(),
            vertical: None,
            default_revenue_share_bps: BasisPoints::new(4_000).unwrap(),
            status: Status::Active,
            session_opening: SessionOpening::Public,
        };
        let feature = |key: &str, fee: i64| Command::DefineFeature {
            feature_id: FeatureId::generate(),
            public_app_id: "app_pub_test".into(),
            feature_key: key.into(),
            display_name: "Feature".into(),
            pricing: Pricing { fee_usd: Money::from_units(fee), ..Pricing::default() },
            policy: serde_json::Map::new(),
        };
        let mut setup = vec![
            Command::RegisterDeveloper { developer_id, name: "Ann".into(), email: "ann@example.com".into() },
            Command::ActivateRateCard { source: "price list".into(), models },
            Command::RegisterApp { app_id: app, developer_id, public_app_id: "app_pub_test".into(), settings },
            feature("chat", 0),
            feature("own_key", 100_000),
        ];
        for user in 0..users {
            let (session_id, wallet_id) = (SessionId::generate(), WalletId::generate());
            setup.push(Command::OpenSession {
                session_id,
                wallet_id,
                user_id: UserId::generate(),
                app_id: app,
                user_hash: user_hash(user),
                feature_key: Some("chat".into()),
                token_hash: TokenHash::of_text(&session_id.to_string()),
                ttl: Duration::from_secs(3_600),
            });
            setup.push(Command::GrantTestCredit { wallet_id, amount: Money::from_dollars(20).unwrap() });
            business.sessions.push((session_id, wallet_id));
        }
        business.submit(ledger, setup).await;
        business
    }

    /// Submits commands together. A refusal is as good an answer as any.
    pub async fn submit(&mut self, ledger: &Ledger, commands: Vec<Command>) {
        let request = |(at, command): (usize, Command)| {
            let key = (at % 3 > 0).then(|| KeyUse { key: Uuid::new_v4(), fingerprint: Uuid::new_v4() });
            // Somebody else than who froze.
            let caller = if matches!(command, Command::Thaw { .. }) { Caller::Operator } else { Caller::Admin };
            Request { caller, command, key }
        };
        let requests = commands.into_iter().enumerate().map(request).collect();
        for answer in ledger.submit_all("test-request", requests).await.unwrap() {
            assert!(matches!(answer, Ok(_) | Err(CommandError::Rejected(_))), "{answer:?}");
        }
    }

    fn call(&mut self, session: SessionId) -> CallRequest {
        let route = *self.dice.pick(&[
            Route::Platform,
            Route::Platform,
            Route::Platform,
            Route::DeveloperKey,
            Route::Byok,
            Route::Local,
        ]);
        let own = matches!(route, Route::Byok | Route::Local);
        CallRequest {
            payer: Payer::Session(session),
            feature_key: own.then(|| "own_key".to_owned()),
            route,
            provider: Some(name(if route == Route::Local { "ollama" } else { "openai" })),
            model: "gpt-4o-mini".into(),
            service_tier: ServiceTier::Standard,
        }
    }

    fn usage(&mut self) -> Usage {
        Usage { cache_read: self.dice.roll(2_000), ..Usage::text(1 + self.dice.roll(3_000), 1 + self.dice.roll(1_000)) }
    }

    /// One thing that happens.
    pub fn command(&mut self) -> Command {
        let (session, wallet_id) = *self.dice.pick(&self.sessions.clone());
        let cents = Money::from_units(1_000_000 * (1 + i64::try_from(self.dice.roll(500)).unwrap()));
        let occurred_at = (self.dice.roll(4) == 0).then(Timestamp::now);
        match self.dice.roll(100) {
            0..=34 => Command::RecordUsage {
                usage_id: UsageId::generate(),
                call: self.call(session),
                usage: self.usage(),
                on_shortfall: if self.dice.roll(2) == 0 { OnShortfall::Receivable } else { OnShortfall::Refuse },
                provider_request_id: Some(format!("chatcmpl-{}", self.dice.roll(1 << 40))),
                occurred_at,
            },
            35..=59 => {
                let hold_id = HoldId::generate();
                self.holds.push(hold_id);
                let call = self.call(session);
                // Some are too small, and the customer pays no more than the hold.
                let amount =
                    HoldAmount::Fixed(Money::from_units(1_000 + i64::try_from(self.dice.roll(200_000)).unwrap()));
                let expires_in = Duration::from_secs(if self.dice.roll(5) == 0 { 1 } else { 600 });
                Command::PlaceHold { hold_id, call, amount, min_amount: None, expires_in }
            }
            60..=81 if !self.holds.is_empty() => {
                let at = usize::try_from(self.dice.roll(self.holds.len() as u64)).unwrap();
                let hold_id = self.holds.swap_remove(at);
                if self.dice.roll(5) == 0 {
                    return Command::ReleaseHold { hold_id, reason: ReleaseReason::Failed };
                }
                Command::CaptureHold {
                    hold_id,
                    usage: self.usage(),
                    service_tier: None,
                    provider_request_id: Some("chatcmpl-1".into()),
                    occurred_at,
                }
            }
            82..=86 => {
                let top_up_id = TopUpId::generate();
                self.top_ups.push(top_up_id);
                Command::RequestTopUp { top_up_id, wallet_id, amount: cents, provider: name("stripe"), reference: None }
            }
            87..=90 if !self.top_ups.is_empty() => {
                let top_up_id = self.top_ups.swap_remove(0);
                if self.dice.roll(6) == 0 {
                    return Command::FailTopUp { top_up_id, reason: "card declined".into() };
                }
                Command::CreditTopUp { top_up_id, payment: format!("pi_{top_up_id}"), amount: None, occurred_at }
            }
            91..=92 => Command::GrantPromo {
                promo_id: PromoId::generate(),
                wallet_id,
                amount: cents,
                reason: "launch".into(),
                expires_at: (self.dice.roll(2) == 0).then(|| Timestamp::now().plus(Duration::from_secs(1))),
            },
            93..=95 => Command::AdjustWallet {
                adjustment_id: AdjustmentId::generate(),
                wallet_id,
                kind: *self.dice.pick(&[
                    AdjustmentKind::Adjustment,
                    AdjustmentKind::Refund,
                    AdjustmentKind::Chargeback,
                ]),
                direction: *self.dice.pick(&[Direction::Credit, Direction::Debit]),
                amount: cents,
                reason: Some("=a correction, \"quoted\"".into()),
                expected: None,
            },
            96 => Command::ChangeApp {
                public_app_id: "app_pub_test".into(),
                patch: AppPatch { name: Some(format!("App {}", self.dice.roll(9))), ..AppPatch::default() },
            },
            97..=98 => {
                if let Some(scope) = self.frozen.take() {
                    Command::Thaw { scope, reason: "over".into() }
                } else {
                    let scope = FreezeScope::Wallet(wallet_id);
                    self.frozen = Some(scope);
                    Command::Freeze { scope, reason: "look".into() }
                }
            }
            _ => {
                // The same user comes back.
                let session_id = SessionId::generate();
                Command::OpenSession {
                    session_id,
                    wallet_id: WalletId::generate(),
                    user_id: UserId::generate(),
                    app_id: self.app,
                    user_hash: user_hash(0),
                    feature_key: None,
                    token_hash: TokenHash::of_text(&session_id.to_string()),
                    ttl: Duration::from_secs(3_600),
                }
            }
        }
    }
}

/// A database whose log has at least `events` events in appends of at most `together` commands, and read tables and snapshots of
/// all of it.
pub async fn ledger_with(seed: u64, events: i64, together: u64) -> Option<TestDatabase> {
    let database = TestDatabase::create().await?;
    let (ledger, writer) = writer::start(WriterOptions::new(database.role(ServiceRole::Command))).await.unwrap();
    let mut business = Business::open(&ledger, seed, 12).await;
    let snapshots = [events / 2, events];
    for until in snapshots {
        while ledger.head().borrow().0 < until {
            let count = 1 + business.dice.roll(together);
            let commands = (0..count).map(|_| business.command()).collect();
            business.submit(&ledger, commands).await;
        }
        // Short holds have expired; some are captured late.
        tokio::time::sleep(Duration::from_millis(1_300)).await;
        let client = std::sync::Arc::new(database.connect_as(ServiceRole::Command).await);
        let reader = LogReader::prepare(std::sync::Arc::clone(&client)).await.unwrap();
        snapshot::refresh(&client, &reader, ShardId(0), 1).await.unwrap().expect("a snapshot");
    }
    drop(ledger);
    writer.await.unwrap().unwrap();
    let projector = Projector::connect(database.role(ServiceRole::Projector), vec![ShardId(0)]).await.unwrap();
    projector.catch_up().await.unwrap();
    Some(database)
}
