//! Attempts of a call: each later one replaces the hold in one event; marks move no money.

use modelfaucet_schema::event::{
    Attempt, AttemptError, Billed, CallOutcome, DisconnectPolicy, Dispatch, Endpoint, FreezeScope,
};
use modelfaucet_schema::ids::{EpochId, GatewayId};
use proptest::prelude::*;

use super::*;
use crate::domain::{BeginCall, CallEnding, EndCall, MarkAttempt, StartAttempt};

const GATEWAY: GatewayId = GatewayId(Uuid::from_u128(0x6a));
const ME: Caller = Caller::Gateway(SESSION);

/// A call of a model of which a token costs a dollar and 30 % on top ("dollar"), a fifth ("cheap") or twice that ("dear").
pub(super) fn begin(bound: Usage) -> Step {
    let dispatch = Dispatch {
        gateway: GATEWAY,
        epoch: EpochId(Uuid::from_u128(0x6b)),
        endpoint: Endpoint::ChatCompletions,
        bound,
        input: Some(2),
        origin: "http://127.0.0.1:4000".into(),
        credential: None,
        disconnect: DisconnectPolicy::Cancel,
        policy_version: 77,
    };
    let expires_in = Duration::from_secs(600);
    let begin = BeginCall { hold_id: HOLD, call: call("dollar"), min_bound: bound, expires_in, dispatch };
    by(ME, Command::BeginCall(Box::new(begin)))
}

fn failed(model: &str) -> Attempt {
    Attempt {
        route: Route::Platform,
        provider: "openai".parse().unwrap(),
        model: model.into(),
        credential: None,
        started_at: Timestamp::from_micros(1),
        first_byte_ms: None,
        total_ms: Some(5),
        status: Some(500),
        error: Some(AttemptError::Status),
        billed: Billed::Unknown,
        exposure: None,
    }
}

fn wish(number: u32, model: &str, bound: Usage, min_bound: Usage) -> StartAttempt {
    StartAttempt {
        hold_id: HOLD,
        gateway: GATEWAY,
        number,
        ended: failed("dollar"),
        route: Route::Platform,
        provider: "openai".parse().unwrap(),
        model: model.into(),
        service_tier: ServiceTier::Standard,
        bound,
        min_bound,
        origin: "http://127.0.0.1:4000".into(),
        credential: None,
    }
}

pub(super) fn start(number: u32, model: &str, bound: Usage) -> Step {
    by(ME, Command::StartAttempt(Box::new(wish(number, model, bound, bound))))
}

fn mark(number: u32, usage: Usage) -> Step {
    let mark = MarkAttempt { hold_id: HOLD, gateway: GATEWAY, number, bytes: 9, usage, counter: 1 };
    by(ME, Command::MarkAttempt(Box::new(mark)))
}

fn captured(usage: Usage, served_model: Option<&str>) -> Step {
    let ending = CallEnding::Capture {
        usage,
        service_tier: None,
        served_model: served_model.map(str::to_owned),
        provider_request_id: None,
    };
    ended(ending, vec![failed("last")])
}

fn ended(ending: CallEnding, attempts: Vec<Attempt>) -> Step {
    let outcome = CallOutcome { attempts, ..CallOutcome::default() };
    by(ME, Command::EndCall(Box::new(EndCall { hold_id: HOLD, ending, outcome })))
}

/// A shop with twenty dollars and a call that holds thirteen of them.
fn calling() -> World {
    let prices = activate(vec![
        model("openai", "small", "0.15", "0.075", "0.60"),
        model("openai", "dollar", "1000000", "0", "1000000"),
        model("openai", "cheap", "200000", "0", "200000"),
        model("openai", "dear", "2000000", "0", "2000000"),
    ]);
    given([granted("20"), prices.into(), begin(Usage::text(2, 8))])
}

#[test]
fn a_dearer_attempt_replaces_the_hold_in_one_event() {
    let then = calling().when(start(2, "dear", Usage::text(2, 5))).then(["AttemptStarted"]).wallet("20", "0", "18.2");
    let Event::AttemptStarted(event) = then.event() else { panic!() };
    assert_eq!((event.replaced, event.amount, event.requested), (usd("13"), usd("18.2"), usd("18.2")));
    assert_eq!((event.number, event.call.model.as_str(), event.ended.status), (2, "dear", Some(500)));
    // Priced by what answered, and every attempt is named.
    let then = then.next().when(captured(Usage::text(2, 3), None)).then(["HoldCaptured"]).wallet("7", "0", "0");
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    assert_eq!((event.held, event.call.model.as_str()), (usd("18.2"), "dear"));
    let attempts: Vec<_> = event.outcome.as_ref().unwrap().attempts.iter().map(|a| a.model.as_str()).collect();
    assert_eq!(attempts, ["dollar", "last"]);
}

#[test]
fn a_cheaper_attempt_frees_what_it_does_not_need() {
    calling()
        .when(start(2, "cheap", Usage::text(2, 8)))
        .then(["AttemptStarted"])
        .wallet("20", "0", "2.6")
        .next()
        .when(ended(CallEnding::Release(ReleaseReason::Failed), vec![]))
        .then(["HoldReleased"])
        .wallet("20", "0", "0");
}

#[test]
fn what_the_wallet_cannot_pay_is_refused_and_the_old_hold_stays() {
    let most = Usage::text(2, 98);
    let then = calling()
        .when(start(2, "dear", most))
        .then_refused_as(&Rejection::InsufficientBalance { available: usd("20"), required: usd("260") });
    // A shorter answer is granted what there is, the old hold included.
    let less = Command::StartAttempt(Box::new(wish(2, "dear", most, Usage::text(2, 5))));
    then.when(by(ME, less)).then(["AttemptStarted"]).wallet("20", "0", "20");
}

#[test]
fn other_holds_stand_in_the_way_of_a_larger_one() {
    calling()
        .and([hold_of(SECOND_HOLD, "4").into()])
        .when(start(2, "dear", Usage::text(2, 5)))
        .then_refused_as(&Rejection::InFlightHolds { available: usd("16"), required: usd("18.2") });
}

#[test]
fn an_attempt_begins_once_in_its_turn_and_only_for_its_gateway() {
    let usage = Usage::text(2, 8);
    for number in [0, 1, 3] {
        calling().when(start(number, "cheap", usage)).then_refused("attempt_out_of_order");
    }
    calling()
        .and([start(2, "cheap", usage)])
        .when(start(2, "cheap", usage))
        .then_refused("attempt_out_of_order")
        .when(start(3, "dollar", usage))
        .then(["AttemptStarted"]);
    calling().when(start(2, "unknown", usage)).then_refused("model_not_found");
    let foreign = StartAttempt { gateway: GatewayId(Uuid::from_u128(0x6c)), ..wish(2, "cheap", usage, usage) };
    calling().when(by(ME, Command::StartAttempt(Box::new(foreign)))).then_refused("hold_not_found");
    let start = Command::StartAttempt(Box::new(wish(2, "cheap", usage, usage)));
    for caller in [Caller::Operator, Caller::Session(SESSION), Caller::Public] {
        calling().when(by(caller, start.clone())).then_refused("forbidden");
    }
    let other = Caller::Gateway(SessionId(Uuid::from_u128(0x52)));
    calling().when(by(other, start.clone())).then_refused("hold_not_found");
    calling().and([after_seconds(600)]).when(by(ME, start)).then_refused("hold_not_found");
}

#[test]
fn whoever_may_begin_no_call_may_begin_no_attempt() {
    let usage = Usage::text(2, 8);
    let freeze = Command::Freeze { scope: FreezeScope::Wallet(WALLET), reason: "test".into() };
    calling()
        .and([freeze.into()])
        .when(start(2, "cheap", usage))
        .then_refused("frozen")
        .when(captured(Usage::text(2, 3), None))
        .then(["HoldCaptured"]);
    let revoke = Command::RevokeSession { session_id: SESSION };
    calling().and([revoke.into()]).when(start(2, "cheap", usage)).then_refused("invalid_session");
}

#[test]
fn marks_rise_and_move_no_money() {
    let then = calling().when(mark(1, Usage::text(2, 3))).then(["AttemptProgressed"]);
    let then = then.next().when(mark(1, Usage::text(2, 3))).then(["AttemptProgressed"]);
    let then = then
        .next()
        .when(mark(1, Usage::text(2, 2)))
        .then_refused("attempt_out_of_order")
        .when(mark(2, Usage::text(2, 9)))
        .then_refused("attempt_out_of_order");
    let then = then.when(start(2, "cheap", Usage::text(2, 8))).then(["AttemptStarted"]);
    // The next attempt begins to count anew.
    let then = then.next().when(mark(1, Usage::text(2, 9))).then_refused("attempt_out_of_order");
    let then = then.when(mark(2, Usage::text(2, 1))).then(["AttemptProgressed"]);
    let then = then.next().when(captured(Usage::text(2, 1), None)).then(["HoldCaptured"]);
    then.next().when(mark(2, Usage::text(2, 5))).then_refused("hold_not_found");
}

#[test]
fn the_model_that_served_prices_the_call_within_the_hold() {
    let charge = |served| {
        let then = calling().when(captured(Usage::text(2, 3), served)).then(["HoldCaptured"]);
        let Event::HoldCaptured(event) = then.event() else { panic!() };
        (event.rating.charge, event.rating.served_model.clone(), event.over_hold)
    };
    assert_eq!(charge(None), (usd("6.5"), None, false));
    assert_eq!(charge(Some("dollar")), (usd("6.5"), None, false));
    assert_eq!(charge(Some("nobody knows")), (usd("6.5"), None, false));
    assert_eq!(charge(Some("cheap")), (usd("1.3"), Some("cheap".into()), false));
    assert_eq!(charge(Some("dear")), (usd("13"), Some("dear".into()), false));
    let then = calling().when(captured(Usage::text(2, 8), Some("dear"))).then(["HoldCaptured"]);
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    assert_eq!((event.rating.charge, event.over_hold), (usd("13"), true), "never more than the hold");
}

pub(super) fn set(route: Route) -> Command {
    Command::SetDisconnectPolicy {
        provider: "openai".parse().unwrap(),
        endpoint: Endpoint::ChatCompletions,
        route,
        policy: DisconnectPolicy::BillToHere,
        reason: "measured".into(),
    }
}

#[test]
fn a_policy_is_stamped_by_the_ledger_and_set_by_administrators_only() {
    let stamped = |world: World| {
        let then = world.when(begin(Usage::text(2, 8))).then(["HoldPlaced"]);
        let Event::HoldPlaced(event) = then.event() else { panic!() };
        event.dispatch.as_ref().map(|dispatch| (dispatch.disconnect, dispatch.policy_version)).unwrap()
    };
    assert_eq!(stamped(given([granted("20")])), (DisconnectPolicy::Drain, 1), "whatever is asked for");
    let there = given([granted("20"), set(Route::Platform).into()]);
    assert_eq!(stamped(there), (DisconnectPolicy::BillToHere, 2));
    let elsewhere = given([granted("20"), set(Route::Byok).into()]);
    assert_eq!(stamped(elsewhere), (DisconnectPolicy::Drain, 2));
    for caller in [ME, Caller::Session(SESSION), Caller::Developer(DEVELOPER, TOKEN), Caller::Public] {
        given([]).when(by(caller, set(Route::Platform))).then_refused("forbidden");
    }
    given([]).when(set(Route::Local)).then_refused("invalid_request");
    // A call that runs keeps its policy; its next attempt gets the new one.
    let then = calling().and([set(Route::Platform).into()]).when(start(2, "cheap", Usage::text(2, 8)));
    let Event::AttemptStarted(event) = then.event() else { panic!() };
    assert_eq!((event.disconnect, event.policy_version), (DisconnectPolicy::BillToHere, 2));
}

#[derive(Clone, Debug)]
enum Move {
    Start(&'static str, u64, u64),
    Mark(u64),
    Other(i64),
    Capture(u64),
    Release,
    Wait(u64),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let models = prop::sample::select(vec!["cheap", "dollar", "dear", "unknown"]);
    let one = prop_oneof![
        4 => (models, 0_u64..20, 0_u64..20).prop_map(|(model, most, least)| Move::Start(model, most, least)),
        3 => (0_u64..20).prop_map(Move::Mark),
        1 => (1_i64..5).prop_map(Move::Other),
        1 => (0_u64..40).prop_map(Move::Capture),
        1 => Just(Move::Release),
        1 => (1_u64..200).prop_map(Move::Wait),
    ];
    prop::collection::vec(one, 0..24)
}

proptest! {
    /// Whatever attempts follow each other: at every step the wallet covers what open holds hold (checked by the world), the charge is
    /// at most what is held, and the hold ends at most once.
    #[test]
    fn attempts_never_overspend(moves in moves()) {
        let (mut world, mut number, mut endings) = (calling(), 2, 0);
        let mut held = usd("13");
        for (turn, step) in moves.into_iter().enumerate() {
            let step = match step {
                Move::Start(model, most, least) => {
                    let wish = wish(number, model, Usage::text(2, most), Usage::text(2, least.min(most)));
                    by(ME, Command::StartAttempt(Box::new(wish)))
                }
                Move::Mark(tokens) => mark(number - 1, Usage::text(2, tokens)),
                Move::Other(dollars) => {
                    let id = HoldId(Uuid::from_u128(0x1000 + turn as u128));
                    hold_of(id, &dollars.to_string()).into()
                }
                Move::Capture(tokens) => captured(Usage::text(2, tokens), None),
                Move::Release => ended(CallEnding::Release(ReleaseReason::Failed), vec![]),
                Move::Wait(seconds) => after_seconds(seconds),
            };
            for event in world.take(&step).unwrap_or_default() {
                match event {
                    Event::AttemptStarted(event) => {
                        prop_assert_eq!((event.replaced, event.number), (held, number));
                        prop_assert!(event.amount <= event.requested);
                        held = event.amount;
                        number += 1;
                    }
                    Event::HoldCaptured(event) => {
                        prop_assert_eq!(event.held, held);
                        prop_assert!(event.rating.charge <= held);
                        endings += 1;
                    }
                    Event::HoldReleased(event) if event.hold_id == HOLD => {
                        prop_assert_eq!(event.amount, held);
                        endings += 1;
                    }
                    Event::LateUsageCaptured(_) => endings += 1,
                    _ => {}
                }
            }
            prop_assert!(endings <= 1);
        }
    }
}
