//! A yardstick: the gateway with the money off. The same code reads, prepares, forwards and relays every call; holds and charges are
//! granted from memory and go nowhere. What the real gateway takes longer than this is the price of exact, durable money.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::middleware::from_fn;
use clap::Parser;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use modelfaucet_gateway::http::router;
use modelfaucet_gateway::limit::RateLimits;
use modelfaucet_gateway::options::{Limits, Options, Platform, Timeouts};
use modelfaucet_gateway::port::{
    BeginCall, Begun, EndCall, Ended, Ending, Ledger, LocalUsage, MarkAttempt, PortError, Reported, StartAttempt,
};
use modelfaucet_gateway::read_model::{RateCard, ReadModel, Session};
use modelfaucet_gateway::{Gateway, LeftHold};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{
    AttemptStarted, Balance, Call, HoldCaptured, HoldPlaced, HoldReleased, ModelRates, PriceRule, RateCardId, Rating,
    Route, ServiceTier,
};
use modelfaucet_schema::http::observe;
use modelfaucet_schema::ids::{AppId, CredentialId, EpochId, GatewayId, HoldId, Position, SessionId, UserId, WalletId};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::{ExactCost, Rate};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use modelfaucet_schema::usage::Component;
use tokio::net::TcpListener;
use url::Url;
use uuid::Uuid;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const CARD: RateCardId = RateCardId(Uuid::from_u128(5));
const WALLET: WalletId = WalletId(Uuid::from_u128(1));
const APP: AppId = AppId(Uuid::from_u128(2));
const RULE: PriceRule =
    PriceRule { markup_bps: BasisPoints::WHOLE, share_bps: BasisPoints::WHOLE, fee_usd: Money::ZERO };

/// Serves the gateway with the money off.
#[derive(Parser)]
struct Args {
    #[arg(long)]
    listen: String,
    /// The provider's base.
    #[arg(long)]
    provider: Url,
    /// The one session's token.
    #[arg(long)]
    token: String,
}

/// Grants everything and writes nothing down.
struct MoneyOff;

impl Ledger for MoneyOff {
    fn begin(&self, _: &str, begin: BeginCall) -> BoxFuture<'_, Result<Begun, PortError>> {
        let amount = Money::from_units(100_000_000);
        let placed = HoldPlaced {
            hold_id: begin.hold_id,
            wallet_id: WALLET,
            call: call(Some(begin.session_id), &begin.model),
            requested: amount,
            amount,
            rate_card_id: CARD,
            price_rule: RULE,
            expires_at: Timestamp::now().plus(begin.expires_in),
            dispatch: Some(Box::new(begin.dispatch)),
            balance: Balance::default(),
        };
        async { Ok(Begun { placed, position: Position(1), replayed: false }) }.boxed()
    }

    fn start(&self, _: &str, _: StartAttempt) -> BoxFuture<'_, Result<AttemptStarted, PortError>> {
        async { Err(PortError::Unavailable) }.boxed()
    }

    fn mark(&self, _: &str, _: MarkAttempt) -> BoxFuture<'_, Result<(), PortError>> {
        async { Ok(()) }.boxed()
    }

    fn end(&self, _: &str, end: EndCall) -> BoxFuture<'_, Result<Ended, PortError>> {
        let (hold_id, wallet_id, balance) = (end.hold_id, WALLET, Balance::default());
        let ended = match end.ending {
            Ending::Release(reason) => {
                let released = HoldReleased { hold_id, wallet_id, amount: Money::ZERO, reason, outcome: None, balance };
                Ended::Released(Box::new(released), Position(1))
            }
            Ending::Capture { usage, provider_request_id, .. } => {
                let entry = EntryBuilder::new().build().unwrap_or_default();
                let captured = HoldCaptured {
                    hold_id,
                    wallet_id,
                    call: call(Some(end.session_id), "gpt-4o-mini"),
                    held: Money::ZERO,
                    rating: Rating {
                        rate_card_id: CARD,
                        price_rule: RULE,
                        service_tier: ServiceTier::Standard,
                        served_model: None,
                        usage,
                        exact_cost: ExactCost::ZERO,
                        upstream: Money::ZERO,
                        retail: Money::ZERO,
                        charge: Money::ZERO,
                        developer: Money::ZERO,
                        unrecovered: Money::ZERO,
                        promo: Money::ZERO,
                        receivable: Money::ZERO,
                    },
                    over_hold: false,
                    provider_request_id,
                    occurred_at: None,
                    outcome: None,
                    entry,
                    balance,
                };
                Ended::Captured(Box::new(captured), Position(1))
            }
        };
        async { Ok(ended) }.boxed()
    }

    fn report(&self, _: &str, _: LocalUsage) -> BoxFuture<'_, Result<Reported, PortError>> {
        async { Err(PortError::Unavailable) }.boxed()
    }

    fn ending(&self, _: SessionId, _: HoldId) -> BoxFuture<'_, Result<Option<Ended>, PortError>> {
        async { Ok(None) }.boxed()
    }

    fn suspend(&self, _: &str, _: SessionId, _: CredentialId) -> BoxFuture<'_, Result<(), PortError>> {
        async { Ok(()) }.boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, ()> {
        async {}.boxed()
    }

    fn is_ready(&self) -> bool {
        true
    }
}

fn call(session_id: Option<SessionId>, model: &str) -> Call {
    Call {
        app_id: APP,
        session_id,
        feature_key: None,
        route: Route::Platform,
        provider: "openai".parse().unwrap_or_else(|_| unreachable!("a name")),
        model: model.to_owned(),
        service_tier: ServiceTier::Standard,
    }
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let model = Arc::new(ReadModel::default());
    let rates = [(Component::InputUncached, Rate::per_million("1")?), (Component::OutputText, Rate::per_million("2")?)];
    model.publish_card(CARD, RateCard::new([ModelRates::flat("openai".parse()?, "gpt-4o-mini", rates)]));
    model.activate_card(CARD, Timestamp::now());
    let session = Session {
        session_id: SessionId(Uuid::from_u128(4)),
        app_id: APP,
        user_id: UserId(Uuid::from_u128(3)),
        wallet_id: WALLET,
        feature_key: None,
        expires_at: Timestamp::now().plus(Duration::from_secs(86_400)),
    };
    model.open_session(TokenHash::of_text(&args.token), session);
    let options = Options {
        gateway: GatewayId::generate(),
        epoch: EpochId::generate(),
        platform: Platform { base_url: args.provider, key: None },
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        rate_limits: RateLimits::default(),
        kept_answers: None,
    };
    let gateway = Gateway::new(options, Arc::new(MoneyOff), model, None)?;
    gateway.recover(Vec::<LeftHold>::new()).await;
    let router = Router::from(router(gateway)).layer(from_fn(|request, next| observe("bench", request, next)));
    let listener = TcpListener::bind(&args.listen).await?;
    println!("listening");
    Ok(axum::serve(NoDelay(listener), router).await?)
}

/// Accepts without waiting for full packets, as the product's own loop does.
struct NoDelay(TcpListener);

impl axum::serve::Listener for NoDelay {
    type Io = tokio::net::TcpStream;
    type Addr = std::net::SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = axum::serve::Listener::accept(&mut self.0).await;
        let _slower = stream.set_nodelay(true);
        (stream, address)
    }

    fn local_addr(&self) -> std::io::Result<Self::Addr> {
        self.0.local_addr()
    }
}
