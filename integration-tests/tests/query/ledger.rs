//! A small ledger that a test writes by hand: two developers, an app each, a wallet each, and whatever the test adds.

use std::sync::Arc;

use modelfaucet_schema::account::{Account, AccountCode, Name};
use modelfaucet_schema::entry::{EntryBuilder, JournalEntry};
use modelfaucet_schema::event::*;
use modelfaucet_schema::ids::*;
use modelfaucet_schema::log::{AppendBatch, Head, LogAppender, LogReader};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash};
use modelfaucet_schema::usage::{Component, Usage};
use uuid::Uuid;

use crate::database::TestDatabase;

const SHARD: ShardId = ShardId(0);
/// The provider's cost of a call, in units; the customer pays 30 % more.
pub(crate) const COST: i64 = 10_000;
pub(crate) const CHARGE: i64 = 13_000;
pub(crate) const SHARE: i64 = 1_200;

/// One of the two developers and what is its own.
#[derive(Clone, Copy)]
pub(crate) struct Tenant {
    pub(crate) name: &'static str,
    pub(crate) developer: DeveloperId,
    pub(crate) app: AppId,
    pub(crate) user: UserId,
    pub(crate) wallet: WalletId,
    number: u128,
}

impl Tenant {
    fn new(name: &'static str, number: u128) -> Self {
        let id = |kind: u128| Uuid::from_u128(0x0199_0000_0000_7000_8000_0000_0000_0000 | kind << 8 | number);
        Self {
            name,
            developer: DeveloperId(id(1)),
            app: AppId(id(2)),
            user: UserId(id(3)),
            wallet: WalletId(id(4)),
            number,
        }
    }

    pub(crate) fn public_app_id(&self) -> String {
        format!("{}-app", self.name)
    }

    /// The text of a token of this tenant.
    pub(crate) fn token(&self, kind: &str) -> String {
        let prefix = if kind.starts_with("session") { "mf_sess_" } else { "mf_dev_" };
        format!("{prefix}{kind}-of-{}", self.name)
    }
}

/// The log's writer, and the wallets' balances as it knows them.
pub(crate) struct Ledger {
    appender: LogAppender,
    head: Head,
    balances: [Balance; 3],
    events: i64,
    pub(crate) alpha: Tenant,
    pub(crate) beta: Tenant,
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

fn units(units: i64) -> Money {
    Money::from_units(units)
}

fn bps(bps: u32) -> BasisPoints {
    BasisPoints::new(bps).unwrap()
}

impl Ledger {
    /// Begins the log: developers, tokens, apps, a feature, a rate card, wallets and sessions.
    pub(crate) async fn begin(database: &TestDatabase) -> Self {
        let client = Arc::new(database.connect("ledger_command").await);
        let (_, head) = LogReader::prepare(Arc::clone(&client)).await.unwrap().head(SHARD).await.unwrap();
        let appender = LogAppender::prepare(client).await.unwrap();
        let (alpha, beta) = (Tenant::new("alpha", 1), Tenant::new("beta", 2));
        let mut ledger = Self { appender, head, balances: Default::default(), events: 0, alpha, beta };
        for tenant in [alpha, beta] {
            ledger.append(tenant_events(tenant)).await;
        }
        ledger
    }

    pub(crate) fn position(&self) -> i64 {
        self.head.position.0
    }

    /// Appends one batch. The request's id begins with `=`, as a formula would.
    pub(crate) async fn append(&mut self, events: Vec<Event>) {
        let now = Timestamp::now();
        let stored = events.into_iter().enumerate().map(|(index, event)| {
            self.events += 1;
            let recorded = Recorded {
                shard: SHARD,
                position: self.head.position.plus(index + 1),
                stream: event.stream(),
                stream_seq: self.events,
                recorded_at: now,
                actor: Actor::Admin,
                request_id: format!("=req-{}", self.head.position.plus(index + 1)).into(),
                key: None,
                event,
            };
            recorded.store()
        });
        let batch = AppendBatch::seal(SHARD, self.head, BatchId::generate(), now, stored.collect());
        self.appender.append(&batch).await.unwrap();
        self.head = batch.head();
    }

    fn balance(&mut self, tenant: Tenant) -> &mut Balance {
        &mut self.balances[usize::try_from(tenant.number).unwrap()]
    }

    fn posted(&mut self, tenant: Tenant, change: i64) -> Balance {
        let balance = self.balance(tenant);
        balance.posted = units(balance.posted.units() + change);
        *balance
    }

    /// A payment of `amount` arrives.
    pub(crate) fn top_up(&mut self, tenant: Tenant, amount: i64) -> Vec<Event> {
        let (top_up_id, wallet_id, amount) = (TopUpId::generate(), tenant.wallet, units(amount));
        let clearing = Account::house(AccountCode::StripeCharges);
        let entry =
            EntryBuilder::new().debit(clearing, amount).credit(Account::paid(wallet_id), amount).build().unwrap();
        let balance = self.posted(tenant, amount.units());
        let requested = TopUpRequested { top_up_id, wallet_id, amount, provider: name("stripe"), reference: None };
        let payment = format!("pi_{top_up_id}");
        let provider = name("stripe");
        let credited =
            TopUpCredited { top_up_id, wallet_id, amount, provider, payment, occurred_at: None, entry, balance };
        vec![requested.into(), credited.into()]
    }

    /// A call was used.
    pub(crate) fn usage(&mut self, tenant: Tenant) -> Event {
        let balance = self.posted(tenant, -CHARGE);
        let call = Call {
            app_id: tenant.app,
            session_id: None,
            feature_key: Some("chat".to_owned()),
            route: Route::Platform,
            provider: name("openai"),
            model: "@model, \"quoted\"".to_owned(),
            service_tier: ServiceTier::Standard,
        };
        let usage = Usage::text(100, 20);
        let exact_cost = rates().exact_cost(&usage).unwrap();
        let price_rule = PriceRule { markup_bps: bps(3_000), share_bps: bps(4_000), fee_usd: Money::ZERO };
        let rating = Rating {
            rate_card_id: RateCardId(Uuid::from_u128(9)),
            price_rule,
            usage,
            service_tier: ServiceTier::Standard,
            served_model: None,
            exact_cost,
            upstream: units(COST),
            retail: units(CHARGE),
            charge: units(CHARGE),
            developer: units(SHARE),
            unrecovered: Money::ZERO,
            promo: Money::ZERO,
            receivable: Money::ZERO,
        };
        UsageRecorded {
            usage_id: UsageId::generate(),
            wallet_id: tenant.wallet,
            call,
            rating,
            provider_request_id: None,
            occurred_at: None,
            entry: usage_entry(tenant),
            balance,
        }
        .into()
    }
}

fn usage_entry(tenant: Tenant) -> JournalEntry {
    EntryBuilder::new()
        .debit(Account::paid(tenant.wallet), units(CHARGE))
        .debit(Account::house(AccountCode::Upstream), units(COST))
        .debit(Account::house(AccountCode::ChannelShare), units(SHARE))
        .credit(Account::house(AccountCode::UsagePlatform), units(CHARGE))
        .credit(Account::accrued(name("openai")), units(COST))
        .credit(Account::developer(tenant.developer), units(SHARE))
        .build()
        .unwrap()
}

fn rates() -> ModelRates {
    let rates = [(Component::InputUncached, "0.0000005"), (Component::OutputText, "0.0000025")];
    let rates = rates.map(|(component, rate)| (component, rate.parse::<Rate>().unwrap()));
    ModelRates::flat(name("openai"), "@model, \"quoted\"", rates)
}

fn tenant_events(tenant: Tenant) -> Vec<Event> {
    let rate_card_id = RateCardId(Uuid::from_u128(9));
    let mut events: Vec<Event> = vec![
        DeveloperRegistered {
            developer_id: tenant.developer,
            name: tenant.name.to_owned(),
            email: format!("={}@x.test", tenant.name),
        }
        .into(),
        AppRegistered {
            app_id: tenant.app,
            developer_id: tenant.developer,
            public_app_id: tenant.public_app_id(),
            settings: AppSettings {
                name: format!("App of {}", tenant.name),
                vertical: None,
                default_revenue_share_bps: bps(4_000),
                status: Status::Active,
                session_opening: SessionOpening::Public,
            },
        }
        .into(),
        FeatureDefined {
            app_id: tenant.app,
            feature_id: FeatureId::generate(),
            feature_key: "chat".to_owned(),
            display_name: "Chat".to_owned(),
            pricing: Pricing::default(),
            policy: serde_json::Map::new(),
        }
        .into(),
        RateCardPublished { rate_card_id, sha256: "00".repeat(32), source: "test".to_owned(), models: vec![rates()] }
            .into(),
        RateCardActivated { rate_card_id }.into(),
        WalletOpened {
            wallet_id: tenant.wallet,
            app_id: tenant.app,
            user_id: tenant.user,
            user_hash: format!("hmac:{:064x}", tenant.number).parse().unwrap(),
            floor: Money::ZERO,
        }
        .into(),
    ];
    let hour = std::time::Duration::from_hours(1);
    let long_ago = Timestamp::from_micros(0);
    for (kind, scopes, expires_at) in [
        ("all", Scope::ALL.to_vec(), None),
        ("apps", vec![Scope::AppsRead], Some(Timestamp::now().plus(hour))),
        ("old", Scope::ALL.to_vec(), Some(long_ago)),
    ] {
        let token = tenant.token(kind);
        let issued = DeveloperTokenIssued {
            developer_id: tenant.developer,
            token_id: TokenId::generate(),
            name: kind.to_owned(),
            token_hash: TokenHash::of_text(&token),
            token_prefix: token[..15].to_owned(),
            scopes,
            expires_at,
        };
        events.push(issued.into());
    }
    for (kind, expires_at) in [("session", Timestamp::now().plus(hour)), ("session-old", long_ago)] {
        let opened = session(tenant, kind, expires_at);
        events.push(opened.into());
    }
    let revoked = session(tenant, "session-revoked", Timestamp::now().plus(hour));
    let session_id = revoked.session_id;
    events.extend([revoked.into(), SessionRevoked { session_id }.into()]);
    events
}

/// A session of the tenant's user with the token of that kind.
pub(crate) fn session(tenant: Tenant, kind: &str, expires_at: Timestamp) -> SessionOpened {
    SessionOpened {
        session_id: SessionId::generate(),
        app_id: tenant.app,
        user_id: tenant.user,
        wallet_id: tenant.wallet,
        feature_key: None,
        token_hash: TokenHash::of_text(&tenant.token(kind)),
        expires_at,
        balance: Balance::default(),
    }
}
