//! Calls of the gateway: holds that it alone ends.

use modelfaucet_schema::event::{CallOutcome, DisconnectPolicy, Dispatch, Endpoint, UsageSource};
use modelfaucet_schema::ids::{CredentialId, EpochId, GatewayId};

use super::*;
use crate::domain::{BeginCall, CallEnding, EndCall};

const GATEWAY: GatewayId = GatewayId(Uuid::from_u128(0x6a));

/// A call of "dollar": a token costs a dollar, and 30 % on top.
fn begin(bound: Usage, min_bound: Usage) -> Step {
    begin_on(HOLD, call("dollar"), None, bound, min_bound)
}

/// A call on any route.
pub(super) fn begin_on(
    hold_id: HoldId,
    call: CallRequest,
    credential_id: Option<CredentialId>,
    bound: Usage,
    min_bound: Usage,
) -> Step {
    let dispatch = Dispatch {
        gateway: GATEWAY,
        epoch: EpochId(Uuid::from_u128(0x6b)),
        endpoint: Endpoint::ChatCompletions,
        bound,
        input: Some(2),
        origin: "http://127.0.0.1:4000".into(),
        credential: credential_id,
        disconnect: DisconnectPolicy::Drain,
        policy_version: 1,
    };
    let expires_in = Duration::from_secs(600);
    let begin = BeginCall { hold_id, call, min_bound, expires_in, dispatch };
    by(Caller::Gateway(SESSION), Command::BeginCall(Box::new(begin)))
}

fn end(caller: Caller, ending: CallEnding) -> Step {
    end_of(HOLD, caller, ending)
}

pub(super) fn end_of(hold_id: HoldId, caller: Caller, ending: CallEnding) -> Step {
    let outcome = CallOutcome { source: Some(UsageSource::Provider), ..CallOutcome::default() };
    by(caller, Command::EndCall(Box::new(EndCall { hold_id, ending, outcome })))
}

pub(super) fn captured(usage: Usage) -> CallEnding {
    CallEnding::Capture {
        usage,
        service_tier: None,
        served_model: None,
        provider_request_id: Some("chatcmpl-1".into()),
    }
}

#[test]
fn a_call_is_held_for_at_its_bound_and_charged_what_it_used() {
    let then = given([granted("20")]).when(begin(Usage::text(2, 8), Usage::text(2, 8))).then(["HoldPlaced"]);
    let Event::HoldPlaced(event) = then.event() else { panic!() };
    assert_eq!((event.amount, event.dispatch.as_ref().map(|dispatch| dispatch.gateway)), (usd("13"), Some(GATEWAY)));
    let then = then
        .next()
        .when(end(Caller::Gateway(SESSION), captured(Usage::text(2, 3))))
        .then(["HoldCaptured"])
        .wallet("13.5", "0", "0");
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    assert_eq!(event.outcome.as_ref().and_then(|outcome| outcome.source), Some(UsageSource::Provider));
}

#[test]
fn less_is_granted_if_it_buys_the_least_that_is_of_use() {
    let then = given([granted("10")]).when(begin(Usage::text(2, 98), Usage::text(2, 5))).then(["HoldPlaced"]);
    let Event::HoldPlaced(event) = then.event() else { panic!() };
    assert_eq!((event.requested, event.amount), (usd("130"), usd("10")));
    given([granted("9")])
        .when(begin(Usage::text(2, 98), Usage::text(2, 5)))
        .then_refused_as(&Rejection::InsufficientBalance { available: usd("9"), required: usd("9.1") });
}

#[test]
fn nobody_but_the_gateway_ends_its_hold() {
    let world = || given([granted("20"), begin(Usage::text(2, 8), Usage::text(2, 8))]);
    let developer = Caller::Developer(DEVELOPER, TOKEN);
    let other = Caller::Gateway(SessionId(Uuid::from_u128(0x52)));
    for caller in [Caller::Session(SESSION), developer, Caller::Public, other] {
        world().when(by(caller, release(HOLD))).then_refused("hold_not_found");
        world().when(by(caller, capture(HOLD, Usage::default()))).then_refused("hold_not_found");
        world().when(end(caller, CallEnding::Release(ReleaseReason::Failed))).then_refused("hold_not_found");
        world().when(end(caller, captured(Usage::default()))).then_refused("hold_not_found");
    }
    for caller in [Caller::Gateway(SESSION), Caller::Operator] {
        world()
            .when(end(caller, CallEnding::Release(ReleaseReason::Failed)))
            .then(["HoldReleased"])
            .wallet("20", "0", "0");
    }
}

#[test]
fn the_gateway_ends_no_hold_of_an_app_and_begins_no_call_for_another_session() {
    given([granted("20"), hold_of(HOLD, "4").into()])
        .when(end(Caller::Gateway(SESSION), CallEnding::Release(ReleaseReason::Failed)))
        .then_refused("hold_not_found");
    let Step::Command(_, command) = begin(Usage::text(1, 1), Usage::text(1, 1)) else { panic!() };
    let other = SessionId(Uuid::from_u128(0x52));
    given([granted("20")]).when(by(Caller::Gateway(other), command.clone())).then_refused("wallet_not_found");
    for caller in [Caller::Session(SESSION), Caller::Operator, Caller::Public] {
        given([granted("20")]).when(by(caller, command.clone())).then_refused("forbidden");
    }
}

#[test]
fn a_call_begins_once() {
    given([granted("40"), begin(Usage::text(2, 8), Usage::text(2, 8))])
        .when(begin(Usage::text(2, 8), Usage::text(2, 8)))
        .then_refused("already_exists");
}

#[test]
fn the_wallet_pays_no_more_than_the_hold() {
    given([granted("20"), begin(Usage::text(2, 8), Usage::text(2, 8))])
        .when(end(Caller::Gateway(SESSION), captured(Usage::text(2, 998))))
        .then(["HoldCaptured"])
        .wallet("7", "0", "0");
}

#[test]
fn a_call_that_ends_after_its_hold_expired_is_charged_as_far_as_the_wallet_can_pay() {
    given([granted("20"), begin(Usage::text(2, 8), Usage::text(2, 8)), after_seconds(601)])
        .when(end(Caller::Gateway(SESSION), captured(Usage::text(2, 3))))
        .then(["HoldExpired", "LateUsageCaptured"])
        .wallet("13.5", "0", "0");
}

#[test]
fn a_call_may_end_after_its_session() {
    let revoke = by(Caller::Operator, Command::RevokeSession { session_id: SESSION });
    given([granted("20"), begin(Usage::text(2, 8), Usage::text(2, 8)), revoke])
        .when(end(Caller::Gateway(SESSION), captured(Usage::text(2, 3))))
        .then(["HoldCaptured"]);
}
