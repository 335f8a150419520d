//! Whatever happens to client, ledger or the code itself: a hold that was granted ends once, and the last byte waits for the charge.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::middleware::from_fn;
use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body_util::BodyExt as _;
use modelfaucet_gateway::limit::RateLimits;
use modelfaucet_gateway::options::{Limits, Options, Platform, Timeouts};
use modelfaucet_gateway::port::{
    BeginCall, Begun, EndCall, Ended, Ending, Ledger, LocalUsage, MarkAttempt, PortError, Reported, StartAttempt,
};
use modelfaucet_gateway::read_model::{RateCard, ReadModel, Session};
use modelfaucet_gateway::sandbox_provider::{Book, router as provider};
use modelfaucet_gateway::{Gateway, http::router};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{
    Attempt, AttemptError, AttemptStarted, Balance, Call, DisconnectPolicy, HoldCaptured, HoldPlaced, HoldReleased,
    ModelRates, PriceRule, RateCardId, Rating, ReleaseReason, ServiceTier,
};
use modelfaucet_schema::http::observe;
use modelfaucet_schema::ids::{
    AppId, CredentialId, EpochId, FeatureId, GatewayId, HoldId, Position, SessionId, UserId, WalletId,
};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::{ExactCost, Rate};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use modelfaucet_schema::usage::Component;
use parking_lot::Mutex;
use tower::ServiceExt as _;
use uuid::Uuid;

const CARD: RateCardId = RateCardId(Uuid::from_u128(5));
const TOKEN: &str = "mf_sess_test";

/// A command side that grants everything, and misbehaves as a test wants it to.
#[derive(Default)]
struct Fake {
    begun: Mutex<Vec<BeginCall>>,
    started: Mutex<Vec<StartAttempt>>,
    marks: Mutex<Vec<MarkAttempt>>,
    /// Further attempts are refused in this way.
    refuses_starts: Mutex<Option<PortError>>,
    /// What is stamped on holds.
    disconnect: Mutex<DisconnectPolicy>,
    start_panics: AtomicU32,
    mark_panics: AtomicU32,
    ended: Mutex<Vec<EndCall>>,
    begin_takes: Mutex<Duration>,
    end_takes: Mutex<Duration>,
    /// So many endings panic, then so many are refused for now.
    panics: AtomicU32,
    unavailable: AtomicU32,
    has_ended: AtomicBool,
}

/// Is one of so many left?
fn due(counter: &AtomicU32) -> bool {
    counter.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok()
}

fn wallet() -> WalletId {
    WalletId(Uuid::from_u128(1))
}

fn rule() -> PriceRule {
    PriceRule { markup_bps: BasisPoints::default(), share_bps: BasisPoints::default(), fee_usd: Money::ZERO }
}

fn placed(begin: &BeginCall) -> HoldPlaced {
    HoldPlaced {
        hold_id: begin.hold_id,
        wallet_id: wallet(),
        call: Call {
            app_id: AppId(Uuid::from_u128(2)),
            session_id: Some(begin.session_id),
            feature_key: None,
            route: begin.route,
            provider: begin.provider.clone(),
            model: begin.model.clone(),
            service_tier: ServiceTier::Standard,
        },
        requested: Money::from_units(1_000),
        amount: Money::from_units(1_000),
        rate_card_id: CARD,
        price_rule: rule(),
        expires_at: Timestamp::now().plus(begin.expires_in),
        dispatch: Some(Box::new(begin.dispatch.clone())),
        balance: Balance::default(),
    }
}

fn ended(end: &EndCall, call: Call) -> Ended {
    let (hold_id, wallet_id, balance) = (end.hold_id, wallet(), Balance::default());
    match &end.ending {
        Ending::Release(reason) => {
            let released =
                HoldReleased { hold_id, wallet_id, amount: Money::ZERO, reason: *reason, outcome: None, balance };
            Ended::Released(Box::new(released), Position(9))
        }
        Ending::Capture { usage, .. } => {
            let rating = Rating {
                rate_card_id: CARD,
                price_rule: rule(),
                service_tier: ServiceTier::Standard,
                served_model: None,
                usage: *usage,
                exact_cost: ExactCost::ZERO,
                upstream: Money::ZERO,
                retail: Money::ZERO,
                charge: Money::from_units(77),
                developer: Money::ZERO,
                unrecovered: Money::ZERO,
                promo: Money::ZERO,
                receivable: Money::ZERO,
            };
            let captured = HoldCaptured {
                hold_id,
                wallet_id,
                call,
                held: Money::ZERO,
                rating,
                over_hold: false,
                provider_request_id: None,
                occurred_at: None,
                outcome: None,
                entry: EntryBuilder::new().build().unwrap(),
                balance,
            };
            Ended::Captured(Box::new(captured), Position(9))
        }
    }
}

impl Ledger for Fake {
    fn begin(&self, _: &str, begin: BeginCall) -> BoxFuture<'_, Result<Begun, PortError>> {
        async move {
            let takes = *self.begin_takes.lock();
            tokio::time::sleep(takes).await;
            let mut placed = placed(&begin);
            if let Some(dispatch) = &mut placed.dispatch {
                dispatch.disconnect = *self.disconnect.lock();
            }
            self.begun.lock().push(begin);
            Ok(Begun { placed, position: Position(8), replayed: false })
        }
        .boxed()
    }

    fn start(&self, _: &str, start: StartAttempt) -> BoxFuture<'_, Result<AttemptStarted, PortError>> {
        async move {
            assert!(!due(&self.start_panics), "a planted panic");
            let placed = self.begun.lock().iter().find(|begin| begin.hold_id == start.hold_id).map(placed);
            let call = Call { model: start.model.clone(), ..placed.unwrap().call };
            self.started.lock().push(start.clone());
            if let Some(error) = self.refuses_starts.lock().clone() {
                return Err(error);
            }
            Ok(AttemptStarted {
                hold_id: start.hold_id,
                wallet_id: wallet(),
                number: start.number,
                ended: start.ended,
                call,
                bound: start.bound,
                origin: start.origin,
                credential: None,
                disconnect: DisconnectPolicy::Drain,
                policy_version: 1,
                requested: Money::from_units(1_000),
                replaced: Money::from_units(1_000),
                amount: Money::from_units(1_000),
                balance: Balance::default(),
            })
        }
        .boxed()
    }

    fn mark(&self, _: &str, mark: MarkAttempt) -> BoxFuture<'_, Result<(), PortError>> {
        async move {
            self.marks.lock().push(mark);
            assert!(!due(&self.mark_panics), "a planted panic");
            Ok(())
        }
        .boxed()
    }

    fn end(&self, _: &str, end: EndCall) -> BoxFuture<'_, Result<Ended, PortError>> {
        async move {
            assert!(!due(&self.panics), "a planted panic");
            if due(&self.unavailable) {
                return Err(PortError::Unavailable);
            }
            let takes = *self.end_takes.lock();
            tokio::time::sleep(takes).await;
            let begin = self.begun.lock().iter().find(|begin| begin.hold_id == end.hold_id).cloned();
            let Some(begin) = begin else {
                return Err(PortError::Refused { status: 404, code: "hold_not_found", message: "none".into() });
            };
            self.has_ended.store(true, Ordering::SeqCst);
            let answer = ended(&end, placed(&begin).call);
            self.ended.lock().push(end);
            Ok(answer)
        }
        .boxed()
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

struct World {
    fake: Arc<Fake>,
    gateway: Gateway,
    router: Router,
    /// Where the provider's book is.
    dir: tempfile::TempDir,
}

async fn world() -> World {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let book = Book::open(&dir.path().join("book")).unwrap();
    tokio::spawn(async move { axum::serve(listener, provider(book)).await });
    let model = Arc::new(ReadModel::default());
    let rate = |usd| Rate::per_million(usd).unwrap();
    let rates = [(Component::InputUncached, rate("1")), (Component::OutputText, rate("2"))];
    let offer = |name: &str| ModelRates::flat("openai".parse().unwrap(), name, rates);
    model.publish_card(CARD, RateCard::new(["m", "second", "third"].map(offer)));
    let policy = serde_json::json!({ "fallback_models": ["second", "third"] });
    let serde_json::Value::Object(policy) = policy else { unreachable!() };
    model.set_feature(AppId(Uuid::from_u128(2)), "careful", FeatureId::generate(), &policy);
    model.activate_card(CARD, Timestamp::now());
    let session = Session {
        session_id: SessionId(Uuid::from_u128(4)),
        app_id: AppId(Uuid::from_u128(2)),
        user_id: UserId(Uuid::from_u128(3)),
        wallet_id: wallet(),
        feature_key: None,
        expires_at: Timestamp::now().plus(Duration::from_secs(600)),
    };
    model.open_session(TokenHash::of_text(TOKEN), session);
    let timeouts = Timeouts {
        hold: Duration::from_millis(100),
        capture: Duration::from_millis(200),
        retry_delay: Duration::from_millis(1),
        mark: Duration::ZERO,
        ..Timeouts::default()
    };
    let options = Options {
        gateway: GatewayId::generate(),
        epoch: EpochId::generate(),
        platform: Platform { base_url, key: None },
        timeouts,
        limits: Limits::default(),
        rate_limits: RateLimits::default(),
        kept_answers: None,
    };
    let fake = Arc::new(Fake::default());
    let gateway = Gateway::new(options, fake.clone(), model, None).unwrap();
    let router = Router::from(router(gateway.clone())).layer(from_fn(|request, next| observe("test", request, next)));
    World { fake, gateway, router, dir }
}

impl World {
    async fn send(&self, script: &str, stream: bool) -> Response<Body> {
        let body = serde_json::json!({
            "model": "m", "stream": stream, "messages": [{ "role": "user", "content": format!("[[{script}]]") }],
        });
        self.post(&body).await
    }

    /// The same under a feature that falls back to two other models.
    async fn send_carefully(&self, script: &str, stream: bool) -> Response<Body> {
        let body = serde_json::json!({
            "model": "m", "stream": stream, "messages": [{ "role": "user", "content": format!("[[{script}]]") }],
            "metadata": { "feature_key": "careful" },
        });
        self.post(&body).await
    }

    async fn post(&self, body: &serde_json::Value) -> Response<Body> {
        let request = Request::post("/v1/chat/completions")
            .header("authorization", format!("Bearer {TOKEN}"))
            .header("content-type", "application/json")
            .body(Body::from(body.to_string()))
            .unwrap();
        self.router.clone().oneshot(request).await.unwrap()
    }

    /// Sends a call, and leaves it as soon as the provider has it.
    async fn send_and_leave(&self, script: &str, stream: bool) {
        let received = async {
            while !std::fs::read_to_string(self.dir.path().join("book")).unwrap_or_default().contains("received") {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        tokio::select! {
            response = self.send(script, stream) => panic!("an answer came first: {response:?}"),
            () = received => {}
        }
    }

    async fn text(response: Response<Body>) -> String {
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    /// Waits for every call and says how each hold ended.
    async fn endings(&self) -> Vec<Ending> {
        assert_eq!(self.gateway.finish(Duration::from_secs(20)).await, 0);
        let (begun, ended) = (self.fake.begun.lock(), self.fake.ended.lock());
        let ends = |begin: &BeginCall| ended.iter().filter(|end| end.hold_id == begin.hold_id).count();
        assert!(begun.iter().all(|begin| ends(begin) == 1), "each hold ends once");
        ended.iter().map(|end| end.ending.clone()).collect()
    }
}

#[tokio::test]
async fn a_panic_at_the_capture_still_ends_the_hold() {
    for stream in [false, true] {
        let world = world().await;
        world.fake.panics.store(1, Ordering::SeqCst);
        let response = world.send("tokens=4", stream).await;
        if stream {
            assert!(response.into_body().collect().await.is_err(), "a stream that broke does not look complete");
        } else {
            assert_eq!(response.status(), 500);
        }
        let endings = world.endings().await;
        assert!(matches!(endings[0], Ending::Capture { usage, .. } if usage.output_text == 5), "{endings:?}");
    }
}

#[tokio::test]
async fn a_ledger_that_is_away_for_a_moment_is_asked_again() {
    let world = world().await;
    world.fake.unavailable.store(2, Ordering::SeqCst);
    let response = world.send("tokens=4", false).await;
    assert_eq!(response.status(), 200);
    assert!(matches!(world.endings().await[..], [Ending::Capture { usage, .. }] if usage.output_text == 4));
}

#[tokio::test]
async fn a_grant_that_comes_too_late_is_given_back_and_nothing_was_sent() {
    let world = world().await;
    *world.fake.begin_takes.lock() = Duration::from_millis(400);
    let response = world.send("tokens=4", false).await;
    assert_eq!((response.status().as_u16(), response.headers()["retry-after"].as_bytes()), (503, b"1".as_slice()));
    assert!(World::text(response).await.contains("ledger_unavailable"));
    assert!(matches!(world.endings().await[..], [Ending::Release(ReleaseReason::NotSent)]));
}

#[tokio::test]
async fn a_charge_that_takes_too_long_is_told_and_still_made() {
    for stream in [false, true] {
        let world = world().await;
        *world.fake.end_takes.lock() = Duration::from_millis(600);
        let response = world.send("tokens=4", stream).await;
        let (status, retry) = (response.status().as_u16(), response.headers().get("x-should-retry").cloned());
        let text = World::text(response).await;
        assert!(text.contains("capture_pending") && !text.contains("[DONE]"), "{text}");
        if !stream {
            assert_eq!((status, retry.unwrap().as_bytes()), (503, b"false".as_slice()));
        }
        assert!(matches!(world.endings().await[..], [Ending::Capture { usage, .. }] if usage.output_text == 4));
    }
}

#[tokio::test]
async fn the_last_byte_waits_for_the_charge() {
    for (script, stream) in
        [("tokens=4", false), ("tokens=4", true), ("tokens=4 usage=none", true), ("tokens=4 usage=beside", true)]
    {
        let world = world().await;
        *world.fake.end_takes.lock() = Duration::from_millis(50);
        let mut body = world.send(script, stream).await.into_body();
        while let Some(frame) = body.frame().await {
            let frame = frame.unwrap();
            let text = String::from_utf8_lossy(frame.data_ref().unwrap()).into_owned();
            let last = !stream || text.contains("[DONE]") || text.contains("modelfaucet");
            assert!(!last || world.fake.has_ended.load(Ordering::SeqCst), "{script}: {text}");
        }
        assert!(world.fake.has_ended.load(Ordering::SeqCst));
        world.endings().await;
    }
}

#[tokio::test]
async fn a_client_that_leaves_at_once_drops_no_money() {
    let world = world().await;
    world.send_and_leave("tokens=4 delay_ms=500", true).await;
    assert!(matches!(world.endings().await[..], [Ending::Capture { usage, .. }] if usage.output_text == 4));
}

/// The attempts of the one call, as the log has them: those that were followed by another, then those that its end names.
fn attempts(world: &World) -> Vec<(String, Option<AttemptError>)> {
    let (started, ended) = (world.fake.started.lock(), world.fake.ended.lock());
    let followed = started.iter().map(|start| &start.ended);
    let all: Vec<&Attempt> = followed.chain(&ended[0].outcome.attempts).collect();
    all.iter().map(|attempt| (attempt.model.clone(), attempt.error)).collect()
}

#[tokio::test]
async fn a_call_falls_back_only_as_far_as_it_may() {
    let failed = |model: &str| (model.to_owned(), Some(AttemptError::Status));
    let good = |model: &str| (model.to_owned(), None);
    for (script, status, expected) in [
        // Twice at one target, three times in all.
        ("status=500", 502, vec![failed("m"), failed("m"), failed("second")]),
        ("status=500 only=m", 200, vec![failed("m"), failed("m"), good("second")]),
        ("status=503 times=1", 200, vec![failed("m"), good("m")]),
        ("status=429 retry_after=1 times=1", 200, vec![failed("m"), good("m")]),
        // What would fail here again is tried elsewhere at once.
        ("status=429 retry_after=30 only=m", 200, vec![failed("m"), good("second")]),
        ("status=401 only=m", 200, vec![failed("m"), good("second")]),
        ("status=401", 502, vec![failed("m"), failed("second"), failed("third")]),
        // What the request itself is at fault for is tried nowhere.
        ("status=400 only=m", 400, vec![failed("m")]),
        ("status=404 only=m", 404, vec![failed("m")]),
    ] {
        for stream in [false, true] {
            let world = world().await;
            let response = world.send_carefully(script, stream).await;
            assert_eq!(response.status().as_u16(), status, "{script}");
            if status == 200 {
                assert_eq!(response.headers()["x-mf-attempts"], expected.len().to_string().as_str());
            }
            World::text(response).await;
            world.endings().await;
            assert_eq!(attempts(&world), expected, "{script}");
            let numbers: Vec<_> = world.fake.started.lock().iter().map(|start| start.number).collect();
            assert_eq!(numbers, (2..=u32::try_from(expected.len()).unwrap()).collect::<Vec<_>>());
        }
    }
}

#[tokio::test]
async fn a_model_that_rests_is_passed_over() {
    let world = world().await;
    World::text(world.send_carefully("status=401 only=m", false).await).await;
    let response = world.send_carefully("tokens=2", false).await;
    assert_eq!((response.status().as_u16(), &response.headers()["x-mf-attempts"]), (200, &"1".parse().unwrap()));
    World::text(response).await;
    world.endings().await;
    assert_eq!(world.fake.begun.lock()[1].model, "second", "the hold is for the first that does not rest");
}

#[tokio::test]
async fn what_the_wallet_cannot_pay_is_not_fallen_back_to() {
    for (refusal, status, code) in [
        (
            PortError::CannotPay {
                message: "none".into(),
                available: Money::ZERO,
                required: Money::from_units(9),
                later: false,
            },
            402,
            "insufficient_balance",
        ),
        (PortError::Refused { status: 401, code: "invalid_session", message: "gone".into() }, 401, "invalid_session"),
        (PortError::Unavailable, 502, "provider_error"),
        (PortError::InDoubt, 502, "provider_error"),
    ] {
        let world = world().await;
        *world.fake.refuses_starts.lock() = Some(refusal);
        let response = world.send_carefully("status=500", false).await;
        assert_eq!(response.status().as_u16(), status);
        assert!(World::text(response).await.contains(code));
        assert!(matches!(world.endings().await[..], [Ending::Release(ReleaseReason::Failed)]));
        assert_eq!(world.fake.ended.lock()[0].outcome.attempts.len(), 1, "nothing was sent that is not in the log");
    }
}

#[tokio::test]
async fn a_panic_between_attempts_or_at_a_mark_ends_the_hold_once() {
    let world = world().await;
    world.fake.start_panics.store(1, Ordering::SeqCst);
    assert_eq!(world.send_carefully("status=500", false).await.status(), 500);
    assert!(matches!(world.endings().await[..], [Ending::Release(ReleaseReason::Absorbed)]));
    let world = self::world().await;
    world.fake.mark_panics.store(1, Ordering::SeqCst);
    World::text(world.send("tokens=4 gap_ms=5", true).await).await;
    assert!(matches!(world.endings().await[..], [Ending::Capture { usage, .. }] if usage.output_text == 4));
}

#[tokio::test]
async fn a_long_stream_leaves_marks_that_rise() {
    let world = world().await;
    World::text(world.send("tokens=6 gap_ms=5 even", true).await).await;
    world.endings().await;
    let marks = world.fake.marks.lock();
    assert!(!marks.is_empty(), "every mark is due at once");
    assert!(marks.windows(2).all(|pair| pair[0].usage.output_text <= pair[1].usage.output_text));
    assert!(marks.iter().all(|mark| mark.number == 1 && mark.usage.output_text <= 6 && mark.bytes > 0));
    assert!(marks.iter().all(|mark| mark.usage.input_uncached > 0));
}

/// Sends a stream that falls silent after so many tokens, and leaves it there. How the hold ended.
async fn leave_after(policy: DisconnectPolicy, tokens: usize) -> (Ending, EndCall) {
    let world = world().await;
    *world.fake.disconnect.lock() = policy;
    let script = format!("tokens=8 even stall_after={tokens}");
    let mut body = world.send(&script, true).await.into_body();
    let mut text = String::new();
    while text.matches(" one").count() < tokens {
        text.push_str(&String::from_utf8_lossy(body.frame().await.unwrap().unwrap().data_ref().unwrap()));
    }
    drop(body);
    let ending = world.endings().await.remove(0);
    let end = world.fake.ended.lock().remove(0);
    (ending, end)
}

#[tokio::test]
async fn a_stream_that_is_left_is_cut_and_charged_as_far_as_it_came() {
    use DisconnectPolicy::{BillToHere, Cancel};
    for policy in [BillToHere, Cancel] {
        for tokens in 1..8 {
            let (ending, end) = leave_after(policy, tokens).await;
            let outcome = &end.outcome;
            assert!(outcome.client_gone && outcome.cut == Some(policy), "{outcome:?}");
            assert_eq!(outcome.attempts[0].error, Some(AttemptError::ClientGone));
            assert_eq!(outcome.attempts[0].exposure, None, "somebody pays for it");
            let Ending::Capture { usage, .. } = ending else { panic!("free tokens: {policy:?} {tokens}") };
            assert_eq!(usage.output_text, u64::try_from(tokens).unwrap());
            assert!(usage.input_uncached > 0, "never under the input");
        }
    }
}

#[tokio::test]
async fn a_request_that_is_left_before_its_answer_is_cut_too_but_one_in_one_piece_is_not() {
    for (policy, stream, charged) in [
        (DisconnectPolicy::BillToHere, true, Some(0)),
        (DisconnectPolicy::Cancel, true, None),
        (DisconnectPolicy::Drain, true, Some(4)),
        (DisconnectPolicy::BillToHere, false, Some(4)),
        (DisconnectPolicy::Cancel, false, Some(4)),
    ] {
        let world = world().await;
        *world.fake.disconnect.lock() = policy;
        world.send_and_leave("tokens=4 delay_ms=500", stream).await;
        match (world.endings().await.remove(0), charged) {
            (Ending::Capture { usage, .. }, Some(tokens)) => assert_eq!(usage.output_text, tokens, "{policy:?}"),
            (Ending::Release(ReleaseReason::Absorbed), None) => {
                let ended = world.fake.ended.lock();
                assert!(ended[0].outcome.attempts[0].exposure.is_some(), "the input may be billed");
            }
            other => panic!("{policy:?} {stream} {other:?}"),
        }
    }
}
