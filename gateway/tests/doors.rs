//! Every way that leads to a provider places a hold first. The list of ways is the API document itself: a new path that spends and
//! is not known here fails this test.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Method, Request};
use modelfaucet_gateway::Gateway;
use modelfaucet_gateway::http::{openapi, router};
use modelfaucet_gateway::limit::RateLimits;
use modelfaucet_gateway::options::{Limits, Options, Platform, Timeouts};
use modelfaucet_gateway::port::{
    BeginCall, Begun, EndCall, Ended, Ledger, LocalUsage, MarkAttempt, PortError, Reported, StartAttempt,
};
use modelfaucet_gateway::read_model::{RateCard, ReadModel, Session};
use modelfaucet_schema::event::{AttemptStarted, ModelRates, RateCardId};
use modelfaucet_schema::http::observe;
use modelfaucet_schema::ids::{AppId, CredentialId, EpochId, GatewayId, HoldId, SessionId, UserId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use modelfaucet_schema::usage::Component;
use serde_json::json;
use tower::ServiceExt as _;
use uuid::Uuid;

const TOKEN: &str = "mf_sess_test";
/// What spends, and must ask for a hold.
const SPENDS: [&str; 3] = ["/v1/chat/completions", "/v1/embeddings", "/v1/responses"];
/// What takes a POST and reaches no provider.
const NO_CALL: [&str; 1] = ["/v1/usage/report"];

/// A command side that lets nobody in.
#[derive(Default)]
struct Closed {
    asked: AtomicU32,
}

impl Ledger for Closed {
    fn begin(&self, _: &str, _: BeginCall) -> BoxFuture<'_, Result<Begun, PortError>> {
        self.asked.fetch_add(1, Ordering::SeqCst);
        let error = PortError::CannotPay {
            message: "The wallet is empty.".to_owned(),
            available: Money::ZERO,
            required: Money::from_units(1),
            later: false,
        };
        async { Err(error) }.boxed()
    }

    fn start(&self, _: &str, _: StartAttempt) -> BoxFuture<'_, Result<AttemptStarted, PortError>> {
        async { Err(PortError::Unavailable) }.boxed()
    }

    fn mark(&self, _: &str, _: MarkAttempt) -> BoxFuture<'_, Result<(), PortError>> {
        async { Ok(()) }.boxed()
    }

    fn end(&self, _: &str, end: EndCall) -> BoxFuture<'_, Result<Ended, PortError>> {
        panic!("nothing was held: {end:?}")
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

#[tokio::test]
async fn nothing_reaches_a_provider_without_a_hold() {
    // A provider that counts whatever could cost something.
    let posts = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&posts);
    let provider = Router::new().fallback(move |method: Method| {
        counted.fetch_add(u32::from(method != Method::GET && method != Method::HEAD), Ordering::SeqCst);
        async { "{}" }
    });
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, provider).await });

    let model = Arc::new(ReadModel::default());
    let rate = |usd| Rate::per_million(usd).unwrap();
    let rates = [(Component::InputUncached, rate("1")), (Component::OutputText, rate("2"))];
    let card = RateCardId(Uuid::from_u128(5));
    model.publish_card(card, RateCard::new([ModelRates::flat("openai".parse().unwrap(), "m", rates)]));
    model.activate_card(card, Timestamp::now());
    let session = Session {
        session_id: SessionId(Uuid::from_u128(4)),
        app_id: AppId(Uuid::from_u128(2)),
        user_id: UserId(Uuid::from_u128(3)),
        wallet_id: WalletId(Uuid::from_u128(1)),
        feature_key: None,
        expires_at: Timestamp::now().plus(Duration::from_secs(600)),
    };
    model.open_session(TokenHash::of_text(TOKEN), session);
    let options = Options {
        gateway: GatewayId::generate(),
        epoch: EpochId::generate(),
        platform: Platform { base_url, key: None },
        timeouts: Timeouts::default(),
        limits: Limits::default(),
        rate_limits: RateLimits::default(),
        kept_answers: None,
    };
    let closed = Arc::new(Closed::default());
    let gateway = Gateway::new(options, closed.clone(), model, None).unwrap();
    let routes = Router::from(router(gateway)).layer(from_fn(|request, next| observe("test", request, next)));

    let document = serde_json::to_value(openapi()).unwrap();
    let mut taking_posts = BTreeSet::new();
    for (path, operations) in document["paths"].as_object().unwrap() {
        for method in operations.as_object().unwrap().keys().filter(|method| *method != "parameters") {
            let posts_to_it = method.as_str() == "post";
            if posts_to_it {
                taking_posts.insert(path.clone());
            }
            for stream in [false, true] {
                let mut body = json!({ "model": "m", "input": "Hello", "stream": stream });
                if !path.contains("responses") {
                    body["messages"] = json!([{ "role": "user", "content": "Hello" }]);
                }
                let before = closed.asked.load(Ordering::SeqCst);
                let request = Request::builder()
                    .method(method.to_ascii_uppercase().as_str())
                    .uri(path.replace("{model}", "m"))
                    .header("authorization", format!("Bearer {TOKEN}"))
                    .header("content-type", "application/json")
                    .body(if posts_to_it { Body::from(body.to_string()) } else { Body::empty() })
                    .unwrap();
                let answer = routes.clone().oneshot(request).await.unwrap();
                if SPENDS.contains(&path.as_str()) && posts_to_it {
                    // The answer is the ledger's no.
                    assert_eq!(answer.status(), 402, "{method} {path}");
                    assert_eq!(closed.asked.load(Ordering::SeqCst), before + 1, "{method} {path} asks for a hold");
                }
            }
        }
    }
    assert_eq!(posts.load(Ordering::SeqCst), 0, "nothing that costs was sent");
    let known: BTreeSet<String> = SPENDS.iter().chain(&NO_CALL).map(|&path| path.to_owned()).collect();
    assert_eq!(taking_posts, known, "a path that takes a POST must be in one of the two lists");
}
