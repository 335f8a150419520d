//! Calls with keys of users and developers: a canary key goes to its own origin and nowhere else, whatever the address, the resolver,
//! the request or the provider does to lead it astray.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::Request;
use http_body_util::BodyExt as _;
use modelfaucet_gateway::guard::{Answers, GuardedClient, Lookup, Policy};
use modelfaucet_gateway::limit::RateLimits;
use modelfaucet_gateway::options::{Limits, Options, Platform, Timeouts};
use modelfaucet_gateway::port::{
    BeginCall, Begun, EndCall, Ended, Ending, KeyUnavailable, KeyVault, Ledger, LocalUsage, MarkAttempt, PortError,
    Reported, SealedKey, StartAttempt,
};
use modelfaucet_gateway::read_model::{RateCard, ReadModel, Session};
use modelfaucet_gateway::sandbox_provider::{Book, router as provider};
use modelfaucet_gateway::{Gateway, ProviderKeys, http::router};
use modelfaucet_schema::event::{
    AttemptStarted, Balance, Call, CredentialAdded, CredentialOwner, DisconnectPolicy, HoldPlaced, HoldReleased,
    KeyProvider, ModelRates, PriceRule, RateCardId, ReleaseReason, Route, ServiceTier,
};
use modelfaucet_schema::http::observe;
use modelfaucet_schema::ids::{
    AppId, CredentialId, DeveloperId, EpochId, GatewayId, HoldId, Position, SessionId, UserId, WalletId,
};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use modelfaucet_schema::usage::Component;
use parking_lot::Mutex;
use secrecy::SecretString;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tower::ServiceExt as _;
use uuid::Uuid;

const CARD: RateCardId = RateCardId(Uuid::from_u128(5));
const TOKEN: &str = "mf_sess_test";
const CANARY: &str = "sk-cAnArY0123456789";
const APP: AppId = AppId(Uuid::from_u128(2));
const DEVELOPER: DeveloperId = DeveloperId(Uuid::from_u128(3));
const USER: UserId = UserId(Uuid::from_u128(4));

/// A command side that grants everything and writes down what was asked of it.
#[derive(Default)]
struct Fake {
    begun: Mutex<Vec<BeginCall>>,
    started: Mutex<Vec<StartAttempt>>,
    ended: Mutex<Vec<EndCall>>,
}

impl Ledger for Fake {
    fn begin(&self, _: &str, begin: BeginCall) -> BoxFuture<'_, Result<Begun, PortError>> {
        let call = Call {
            app_id: APP,
            session_id: Some(begin.session_id),
            feature_key: None,
            route: begin.route,
            provider: begin.provider.clone(),
            model: begin.model.clone(),
            service_tier: ServiceTier::Standard,
        };
        let placed = HoldPlaced {
            hold_id: begin.hold_id,
            wallet_id: WalletId(Uuid::from_u128(1)),
            call,
            requested: Money::from_units(1_000),
            amount: Money::from_units(1_000),
            rate_card_id: CARD,
            price_rule: PriceRule {
                markup_bps: BasisPoints::default(),
                share_bps: BasisPoints::default(),
                fee_usd: Money::ZERO,
            },
            expires_at: Timestamp::now().plus(begin.expires_in),
            dispatch: Some(Box::new(begin.dispatch.clone())),
            balance: Balance::default(),
        };
        self.begun.lock().push(begin);
        async move { Ok(Begun { placed, position: Position(8), replayed: false }) }.boxed()
    }

    fn start(&self, _: &str, start: StartAttempt) -> BoxFuture<'_, Result<AttemptStarted, PortError>> {
        let begun = self.begun.lock().iter().find(|begin| begin.hold_id == start.hold_id).cloned().unwrap();
        let started = AttemptStarted {
            hold_id: start.hold_id,
            wallet_id: WalletId(Uuid::from_u128(1)),
            number: start.number,
            ended: start.ended.clone(),
            call: Call {
                app_id: APP,
                session_id: Some(begun.session_id),
                feature_key: None,
                route: start.route,
                provider: start.provider.clone(),
                model: start.model.clone(),
                service_tier: ServiceTier::Standard,
            },
            bound: start.bound,
            origin: start.origin.clone(),
            credential: start.credential,
            disconnect: DisconnectPolicy::Drain,
            policy_version: 1,
            requested: Money::from_units(1_000),
            replaced: Money::from_units(1_000),
            amount: Money::from_units(1_000),
            balance: Balance::default(),
        };
        self.started.lock().push(start);
        async move { Ok(started) }.boxed()
    }

    fn mark(&self, _: &str, _: MarkAttempt) -> BoxFuture<'_, Result<(), PortError>> {
        async { Ok(()) }.boxed()
    }

    fn end(&self, _: &str, end: EndCall) -> BoxFuture<'_, Result<Ended, PortError>> {
        let released = HoldReleased {
            hold_id: end.hold_id,
            wallet_id: WalletId(Uuid::from_u128(1)),
            amount: Money::ZERO,
            reason: ReleaseReason::Failed,
            outcome: None,
            balance: Balance::default(),
        };
        self.ended.lock().push(end);
        async move { Ok(Ended::Released(Box::new(released), Position(9))) }.boxed()
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

/// A vault that has the canary for every key, and says for what it was opened.
#[derive(Default)]
struct Vault {
    opened: Mutex<Vec<SealedKey>>,
}

impl KeyVault for Vault {
    fn open(&self, key: SealedKey) -> BoxFuture<'_, Result<SecretString, KeyUnavailable>> {
        self.opened.lock().push(key);
        async { Ok(SecretString::from(CANARY)) }.boxed()
    }
}

/// Answers from a list: the first question about a name gets the first answer, the last one stays.
#[derive(Clone, Default)]
struct Script(Arc<Mutex<HashMap<String, Vec<Vec<IpAddr>>>>>);

impl Script {
    fn with(self, name: &str, answers: &[&[&str]]) -> Self {
        let lists = answers.iter().map(|list| list.iter().map(|text| text.parse().unwrap()).collect()).collect();
        self.0.lock().insert(format!("{name}."), lists);
        self
    }
}

impl Lookup for Script {
    fn lookup(&self, absolute: String) -> Answers {
        let answer = match self.0.lock().get_mut(&absolute) {
            Some(lists) if lists.len() > 1 => Ok(lists.remove(0)),
            Some(lists) => Ok(lists[0].clone()),
            None => Err(std::io::Error::other("no such name")),
        };
        Box::pin(async move { answer })
    }
}

/// A listener that counts connections, keeps what it was sent, and says the same to everybody.
struct Listening {
    port: u16,
    connections: Arc<AtomicUsize>,
    heard: Arc<Mutex<String>>,
}

async fn listener(answer: String) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let (connections, heard) = (Arc::new(AtomicUsize::new(0)), Arc::new(Mutex::new(String::new())));
    let (counted, kept) = (Arc::clone(&connections), Arc::clone(&heard));
    tokio::spawn(async move {
        loop {
            let (mut socket, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Ordering::SeqCst);
            let mut request = vec![0; 65_536];
            let mut length = 0;
            // Head and body of our requests come in a few pieces; the body ends with its brace.
            while length == 0 || !request[..length].ends_with(b"}") {
                match socket.read(&mut request[length..]).await {
                    Ok(0) | Err(_) => break,
                    Ok(read) => length += read,
                }
            }
            kept.lock().push_str(&String::from_utf8_lossy(&request[..length]));
            let _written = socket.write_all(answer.as_bytes()).await;
        }
    });
    Listening { port, connections, heard }
}

impl Listening {
    fn count(&self) -> usize {
        self.connections.load(Ordering::SeqCst)
    }

    fn url(&self) -> String {
        format!("http://127.0.0.1:{}/v1", self.port)
    }
}

fn status(line: &str, body: &str) -> String {
    format!(
        "HTTP/1.1 {line}\r\ncontent-type: application/json\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    )
}

fn completion() -> String {
    let body = json!({
        "id": "chatcmpl-1", "object": "chat.completion", "created": 1, "model": "m",
        "choices": [{ "index": 0, "message": { "role": "assistant", "content": "Hi" }, "finish_reason": "stop" }],
        "usage": { "prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4 },
    });
    status("200 OK", &body.to_string())
}

struct World {
    fake: Arc<Fake>,
    vault: Arc<Vault>,
    model: Arc<ReadModel>,
    client: GuardedClient,
    gateway: Gateway,
    router: Router,
}

const USERS: CredentialOwner = CredentialOwner::User { app_id: APP, user_id: USER };
const DEVELOPERS: CredentialOwner = CredentialOwner::Developer { developer_id: DEVELOPER };

/// A gateway over the sandbox provider. Names are looked up in `script`; `ports` may be named beside 443, so that a port is never why
/// something is refused; `outside` may be called although it is on loopback.
async fn world(script: Script, ports: &[u16], outside: &[&Listening]) -> World {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    tokio::spawn(async move { axum::serve(listener, provider(Book::nowhere())).await });
    let model = Arc::new(ReadModel::default());
    let rate = |usd| Rate::per_million(usd).unwrap();
    let rates = [(Component::InputUncached, rate("1")), (Component::OutputText, rate("2"))];
    model.publish_card(CARD, RateCard::new([ModelRates::flat("openai".parse().unwrap(), "m", rates)]));
    model.activate_card(CARD, Timestamp::now());
    model.set_developer(APP, DEVELOPER);
    let session = Session {
        session_id: SessionId(Uuid::from_u128(4)),
        app_id: APP,
        user_id: USER,
        wallet_id: WalletId(Uuid::from_u128(1)),
        feature_key: None,
        expires_at: Timestamp::now().plus(Duration::from_secs(600)),
    };
    model.open_session(TokenHash::of_text(TOKEN), session);
    let options = Options {
        gateway: GatewayId::generate(),
        epoch: EpochId::generate(),
        platform: Platform { base_url, key: Some(SecretString::from("sk-platform-key")) },
        timeouts: Timeouts { retry_delay: Duration::from_millis(1), ..Timeouts::default() },
        limits: Limits::default(),
        rate_limits: RateLimits::default(),
        kept_answers: None,
    };
    let policy = Policy {
        ports: ports.iter().copied().collect(),
        loopback: outside.iter().map(|outside| ([127, 0, 0, 1], outside.port).into()).collect(),
        ..Policy::default()
    };
    let builder = || reqwest::Client::builder().connect_timeout(Duration::from_secs(2));
    let client = GuardedClient::new(builder, policy, script).unwrap();
    let (fake, vault) = (Arc::new(Fake::default()), Arc::new(Vault::default()));
    let keys = ProviderKeys { vault: vault.clone(), client: client.clone() };
    let gateway = Gateway::new(options, fake.clone(), model.clone(), Some(keys)).unwrap();
    let router = Router::from(router(gateway.clone())).layer(from_fn(|request, next| observe("test", request, next)));
    World { fake, vault, model, client, gateway, router }
}

impl World {
    /// A key is in use; the newest is the preferred one.
    fn add(&self, owner: CredentialOwner, base_url: Option<&str>) -> CredentialAdded {
        let provider = KeyProvider::Openai;
        let origin = base_url.map_or_else(
            || provider.default_origin().to_owned(),
            |url| url.parse::<url::Url>().unwrap().origin().ascii_serialization(),
        );
        let key = CredentialAdded {
            credential_id: CredentialId::generate(),
            owner,
            provider,
            base_url: base_url.map(str::to_owned),
            origin,
            masked: "sk-...6789".into(),
            models_allowed: Vec::new(),
            budget_limit: None,
            priority: 100,
            fallback_to_platform: false,
        };
        self.model.take_in(&key.clone().into());
        key
    }

    async fn send(&self, body: &Value) -> (u16, Value) {
        let request = Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        let response = self.router.clone().oneshot(request).await.unwrap();
        let status = response.status().as_u16();
        assert!(!format!("{:?}", response.headers()).contains(CANARY));
        let body = response.into_body().collect().await.unwrap().to_bytes();
        let text = String::from_utf8_lossy(&body);
        assert!(!text.contains("cAnArY"), "{text}");
        (status, serde_json::from_str(&text).unwrap_or_default())
    }

    async fn call(&self, mode: &str) -> (u16, String) {
        let (status, body) = self.send(&chat(mode)).await;
        (status, body["error"]["code"].as_str().unwrap_or_default().to_owned())
    }

    /// How the last hold ended.
    async fn last_ending(&self) -> Ending {
        assert_eq!(self.gateway.finish(Duration::from_secs(20)).await, 0);
        self.fake.ended.lock().last().unwrap().ending.clone()
    }
}

fn chat(mode: &str) -> Value {
    json!({ "model": "m", "messages": [{ "role": "user", "content": "Hello" }], "metadata": { "route_mode": mode } })
}

#[tokio::test]
async fn a_key_goes_to_its_own_address_and_the_platforms_never_does() {
    let outside = listener(completion()).await;
    let world = world(Script::default(), &[], &[&outside]).await;
    let key = world.add(USERS, Some(&outside.url()));
    let (status, body) = world.send(&chat("byok")).await;
    assert_eq!((status, body["modelfaucet"]["route_mode"].as_str()), (200, Some("byok")), "{body}");
    let heard = outside.heard.lock().clone();
    assert!(heard.contains(&format!("authorization: Bearer {CANARY}\r\n")), "{heard}");
    assert!(heard.starts_with("POST /v1/chat/completions ") && !heard.contains("sk-platform-key"), "{heard}");
    assert!(!heard.contains("litellm") && !heard.contains("metadata"), "{heard}");
    let sealed = SealedKey { credential_id: key.credential_id, owner: USERS, origin: key.origin };
    assert_eq!(*world.vault.opened.lock(), [sealed], "opened for its own place");
    let begun = world.fake.begun.lock()[0].clone();
    assert_eq!((begun.route, begun.dispatch.credential), (Route::Byok, Some(key.credential_id)));
    assert!(!format!("{begun:?} {:?}", world.fake.ended.lock()).contains(CANARY));
    // The platform's calls go elsewhere.
    assert_eq!(world.call("platform").await.0, 200);
    assert_eq!(outside.count(), 1);
}

#[tokio::test]
async fn no_address_leads_a_key_inside() {
    let inside = listener(completion()).await;
    let port = inside.port;
    let names: &[(&str, &[&[&str]])] = &[
        ("private.test", &[&["127.0.0.1"]]),
        ("mixed.test", &[&["93.184.215.14", "127.0.0.1"]]),
        ("six.test", &[&["::1"]]),
        ("mapped.test", &[&["::ffff:127.0.0.1"]]),
        ("metadata.test", &[&["169.254.169.254"]]),
        ("localhost", &[&["127.0.0.1"]]),
        ("metadata.google.internal", &[&["127.0.0.1"]]),
    ];
    let script = names.iter().fold(Script::default(), |script, (name, answers)| script.with(name, answers));
    let world = world(script, &[port], &[]).await;
    let mut tried = 0;
    for host in [
        "127.0.0.1",
        "2130706433",
        "0x7f000001",
        "0177.0.0.1",
        "127.1",
        "0x7f.1",
        "１２７.０.０.１",
        "127。0。0。1",
        "%31%32%37.0.0.1",
        "127.0.0.1.",
        "0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[::127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "localhost",
        "LOCALHOST",
        "ⓛocalhost",
        "localhost.",
        "private.test",
        "private.test.",
        "mixed.test",
        "six.test",
        "mapped.test",
        "metadata.test",
        "metadata.google.internal",
        "169.254.169.254",
        "unknown.test",
    ] {
        for scheme in ["https", "http"] {
            // As if a key had been saved with it before the guard knew better.
            let key = world.add(USERS, Some(&format!("{scheme}://{host}:{port}/v1")));
            let (status, code) = world.call("byok").await;
            // A name that is not there is a provider that cannot be reached; all others are refused.
            let gone = host == "unknown.test" && scheme == "https";
            let expected = if gone { (502, "provider_error") } else { (400, "no_available_route") };
            assert_eq!((status, code.as_str()), expected, "{scheme} {host}");
            assert!(matches!(world.last_ending().await, Ending::Release(ReleaseReason::NotSent)), "{host}");
            assert!(world.client.admit(&format!("{scheme}://{host}:{port}/v1")).await.is_err(), "{host}");
            world.model.take_in(
                &modelfaucet_schema::event::CredentialDisabled {
                    credential_id: key.credential_id,
                    reason: modelfaucet_schema::event::DisableReason::Requested,
                }
                .into(),
            );
            tried += 1;
        }
    }
    assert_eq!((inside.count(), world.fake.begun.lock().len()), (0, tried));
}

#[tokio::test]
async fn a_name_that_turns_inside_after_it_was_saved_gets_nothing() {
    let inside = listener(completion()).await;
    let script = Script::default().with("rebind.test", &[&["93.184.215.14"], &["127.0.0.1"]]);
    let world = world(script, &[inside.port], &[]).await;
    let url = format!("https://rebind.test:{}/v1", inside.port);
    assert!(world.client.admit(&url).await.is_ok(), "public when it is saved");
    world.add(USERS, Some(&url));
    for _ in 0..3 {
        assert_eq!(world.call("byok").await, (400, "no_available_route".to_owned()));
    }
    assert_eq!(inside.count(), 0);
}

#[tokio::test]
async fn a_redirect_is_an_answer_like_any_other_failure() {
    let inside = listener(completion()).await;
    for code in [301, 302, 303, 307, 308] {
        let moved = format!(
            "HTTP/1.1 {code} Moved\r\nlocation: http://127.0.0.1:{}/v1/chat/completions\r\ncontent-length: 0\r\nconnection: close\r\n\r\n",
            inside.port
        );
        let outside = listener(moved).await;
        let world = world(Script::default(), &[inside.port], &[&outside]).await;
        world.add(USERS, Some(&outside.url()));
        assert_eq!(world.call("byok").await, (502, "provider_error".to_owned()), "{code}");
        assert_eq!(outside.count(), 1, "once");
    }
    assert_eq!(inside.count(), 0);
}

#[tokio::test]
async fn members_of_a_request_name_no_address() {
    let (inside, outside) = (listener(completion()).await, listener(completion()).await);
    let world = world(Script::default(), &[inside.port], &[&outside]).await;
    world.add(USERS, Some(&outside.url()));
    let url = inside.url();
    for name in
        ["api_base", "base_url", "API_BASE", "extra_headers", "extra_body", "litellm_params", "proxy_server_request"]
    {
        let mut body = chat("byok");
        body[name] = json!({ "api_base": url });
        let (status, answer) = world.send(&body).await;
        assert_eq!((status, answer["error"]["code"].as_str()), (400, Some("unsupported_parameter")), "{name}");
    }
    let mut nested = chat("byok");
    nested["metadata"]["api_base"] = json!(url);
    nested["metadata"]["litellm_params"] = json!({ "base_url": url });
    nested["messages"][0]["api_base"] = json!(url);
    nested["response_format"] = json!({ "type": "text", "base_url": url });
    assert_eq!(world.send(&nested).await.0, 200);
    assert_eq!((inside.count(), outside.count()), (0, 1));
    assert!(!outside.heard.lock().contains("litellm_params"), "metadata stays here");
}

#[tokio::test]
async fn a_refused_key_is_told_to_its_user_rests_and_leaves_the_platform_alone() {
    let body =
        json!({ "error": { "message": format!("Incorrect API key provided: {CANARY}"), "type": "x" } }).to_string();
    let outside = listener(status("401 Unauthorized", &body)).await;
    let world = world(Script::default(), &[], &[&outside]).await;
    world.add(USERS, Some(&outside.url()));
    world.add(DEVELOPERS, Some(&outside.url()));
    assert_eq!(world.call("byok").await, (403, "secret_validation_failed".to_owned()));
    assert!(matches!(world.last_ending().await, Ending::Release(ReleaseReason::Rejected)));
    assert_eq!(world.call("byok").await, (503, "provider_overloaded".to_owned()), "the key rests");
    assert_eq!(world.call("developer_key").await, (502, "provider_auth_failed".to_owned()), "another key does not");
    assert_eq!(outside.count(), 2);
    assert_eq!(world.call("platform").await.0, 200);
}

#[tokio::test]
async fn what_a_provider_says_of_a_key_is_not_passed_on() {
    let body = json!({ "error": { "message": format!("bad ({CANARY}), says the proxy of {CANARY}"), "type": "x" } })
        .to_string();
    let outside = listener(status("400 Bad Request", &body)).await;
    let world = world(Script::default(), &[], &[&outside]).await;
    world.add(DEVELOPERS, Some(&outside.url()));
    let (status, answer) = world.send(&chat("developer_key")).await;
    assert_eq!((status, answer["error"]["message"].as_str()), (400, Some("bad (…), says the proxy of …")));
}

#[tokio::test]
async fn a_users_bad_endpoint_never_opens_the_platforms_breaker() {
    let outside = listener(status("500 Internal Server Error", "{}")).await;
    let world = world(Script::default(), &[], &[&outside]).await;
    world.add(USERS, Some(&outside.url()));
    // Two tries each: half of twenty failures and more.
    for _ in 0..12 {
        let _failed = world.call("byok").await;
    }
    assert_eq!(world.call("byok").await, (503, "provider_overloaded".to_owned()));
    assert_eq!(world.call("platform").await.0, 200, "the same model, endpoint and provider");
}

#[tokio::test]
async fn a_disabled_key_and_a_missing_vault_are_no_route() {
    let outside = listener(completion()).await;
    let world = world(Script::default(), &[], &[&outside]).await;
    assert_eq!(world.call("byok").await, (400, "no_available_route".to_owned()));
    let key = world.add(USERS, Some(&outside.url()));
    world.model.take_in(
        &modelfaucet_schema::event::CredentialDisabled {
            credential_id: key.credential_id,
            reason: modelfaucet_schema::event::DisableReason::Tripwire,
        }
        .into(),
    );
    assert_eq!(world.call("byok").await, (400, "no_available_route".to_owned()));
    assert!(world.fake.begun.lock().is_empty(), "refused before a hold");
    assert_eq!(outside.count(), 0);
}

/// The same key, whose calls the platform may make when it fails.
fn with_fallback(key: CredentialAdded) -> CredentialAdded {
    CredentialAdded { credential_id: CredentialId::generate(), fallback_to_platform: true, ..key }
}

#[tokio::test]
async fn the_platform_answers_for_a_key_that_fails_where_that_is_allowed() {
    for (code, reason) in [("401 Unauthorized", "its key is refused"), ("503 Service Unavailable", "it is overloaded")]
    {
        let outside = listener(status(code, "{}")).await;
        let world = world(Script::default(), &[], &[&outside]).await;
        let key = with_fallback(world.add(USERS, Some(&outside.url())));
        world.model.take_in(&key.clone().into());
        let (status, body) = world.send(&chat("byok")).await;
        assert_eq!(status, 200, "{reason}: {body}");
        let started = world.fake.started.lock().last().cloned().unwrap();
        assert_eq!((started.route, started.credential), (Route::Platform, None), "{reason}");
        assert_eq!((started.ended.route, started.ended.credential), (Route::Byok, Some(key.credential_id)), "{reason}");
    }
}

#[tokio::test]
async fn the_guard_is_not_fallen_back_around() {
    let inside = listener(completion()).await;
    let script = Script::default().with("private.test", &[&["127.0.0.1"]]);
    let world = world(script, &[inside.port], &[]).await;
    let key = with_fallback(world.add(USERS, Some(&format!("https://private.test:{}/v1", inside.port))));
    world.model.take_in(&key.into());
    assert_eq!(world.call("byok").await, (400, "no_available_route".to_owned()));
    assert_eq!((inside.count(), world.fake.started.lock().len()), (0, 0));
}
