//! Payouts to developers.

use modelfaucet_schema::event::{FreezeScope, PayoutTrigger};
use modelfaucet_schema::ids::PayoutId;

use super::super::PayoutStep;
use super::*;

pub(super) const PAYOUT: PayoutId = PayoutId(Uuid::from_u128(0x90));
const SECOND: PayoutId = PayoutId(Uuid::from_u128(0x91));

/// The developer has earned 30,000 × 0.12 USD and a bit: a call of 1 USD at 30 % markup shares 40 % of the margin.
pub(super) fn earned(dollars: u64) -> [Step; 2] {
    let usage = Usage::text(dollars, 0);
    [granted("100000"), record_usage(call("dollar"), usage, OnShortfall::Refuse).into()]
}

pub(super) fn payout(payout_id: PayoutId, amount: Option<&str>, threshold: &str) -> Command {
    Command::RequestPayout {
        payout_id,
        developer_id: DEVELOPER,
        amount: amount.map(usd),
        threshold: usd(threshold),
        provider: "mock".parse().unwrap(),
        trigger: PayoutTrigger::Threshold,
    }
}

pub(super) fn step(step: PayoutStep) -> Command {
    Command::StepPayout { payout_id: PAYOUT, step }
}

pub(super) fn approve() -> Command {
    step(PayoutStep::Approve { note: None })
}

fn pay() -> Command {
    step(PayoutStep::Pay { reference: "po_mock_1".into(), fee: usd("0.25"), occurred_at: None })
}

fn owed(world: &World) -> Money {
    world.state.payables.get(&DEVELOPER).copied().unwrap()
}

#[test]
fn a_payout_goes_from_request_to_paid() {
    let world = given([]).and(earned(10));
    assert_eq!(owed(&world), usd("1.2"));
    let requested = world.when(payout(PAYOUT, None, "1")).then(["PayoutRequested"]);
    let world = requested.posts([("2210", 120_000_000), ("2220", -120_000_000)]).next();
    assert_eq!(owed(&world), usd("0"));
    let world = world.when(pay()).then_refused("invalid_request");
    let world = world.when(approve()).then_refused("same_actor");
    let world = world.when(by(Caller::Admin, approve())).then(["PayoutApproved"]).posts([]).next();
    let world = world.when(by(Caller::Admin, approve())).then_refused("invalid_request");
    let paid = world.when(pay()).then(["PayoutPaid"]);
    let paid = paid.posts([("2220", 120_000_000), ("5130", 25_000_000), ("1020", -145_000_000)]);
    let world = paid.next().when(pay()).then_refused("invalid_request");
    let back = PayoutStep::Return { reason: "closed".into(), reference: "r_1".into(), occurred_at: None };
    let back = world.when(step(back)).then(["PayoutReturned"]);
    let world = back.posts([("1020", 120_000_000), ("2210", -120_000_000)]).next();
    assert_eq!(owed(&world), usd("1.2"));
}

#[test]
fn whole_cents_are_paid_and_the_rest_waits() {
    let fraction = || record_usage(call("small"), first_example(), OnShortfall::Refuse).into();
    let world = given([]).and(earned(10)).and([fraction()]);
    let owed_before = owed(&world);
    assert!(!owed_before.is_whole_cents());
    let world = world.when(payout(PAYOUT, None, "0")).posts([("2210", 120_000_000), ("2220", -120_000_000)]).next();
    assert_eq!(owed(&world), owed_before.checked_sub(usd("1.2")).unwrap());
}

#[test]
fn more_than_is_owed_cannot_be_requested() {
    let world = given([]).and(earned(10));
    let world = world.when(payout(PAYOUT, Some("1.21"), "0")).then_refused("insufficient_balance");
    let world = world.when(payout(PAYOUT, Some("0.005"), "0")).then_refused("invalid_request");
    let world = world.when(payout(PAYOUT, Some("0"), "0")).then_refused("invalid_request");
    let world = world.when(payout(PAYOUT, None, "1.21")).then_refused("below_threshold");
    let world = world.and([payout(PAYOUT, Some("0.5"), "0").into()]);
    let world = world.when(payout(SECOND, Some("0.5"), "0")).then_refused("payout_open");
    world.when(payout(PAYOUT, Some("0.5"), "0")).then_refused("already_exists");
}

#[test]
fn a_payout_that_fails_or_is_cancelled_is_owed_again() {
    let pending = || given([]).and(earned(10)).and([payout(PAYOUT, None, "0").into()]);
    let cancel = || step(PayoutStep::Cancel { reason: "typo".into() });
    let fail = || step(PayoutStep::Fail { reason: "no such account".into() });
    let again = [("2220", 120_000_000), ("2210", -120_000_000)];
    let world = pending().when(fail()).then_refused("invalid_request");
    let world = world.when(cancel()).then(["PayoutCancelled"]).posts(again).next();
    assert_eq!(owed(&world), usd("1.2"));
    let world = world.when(cancel()).then_refused("invalid_request");
    let world = world.and([payout(SECOND, None, "0").into()]);
    world.when(payout(PAYOUT, None, "0")).then_refused("already_exists");
    let world = pending().and([by(Caller::Admin, approve())]).when(cancel()).then_refused("invalid_request");
    world.when(fail()).then(["PayoutFailed"]).posts(again);
}

#[test]
fn frozen_payouts_stop_but_money_can_come_back() {
    let freeze = |scope| Step::from(Command::Freeze { scope, reason: "look".into() });
    for scope in [FreezeScope::Payouts, FreezeScope::Developer(DEVELOPER)] {
        let world = given([]).and(earned(10)).and([freeze(scope)]);
        world.when(payout(PAYOUT, None, "0")).then_refused("frozen");
        let world = given([]).and(earned(10)).and([payout(PAYOUT, None, "0").into(), freeze(scope)]);
        let world = world.when(by(Caller::Admin, approve())).then_refused("frozen");
        world.when(step(PayoutStep::Cancel { reason: "look".into() })).then(["PayoutCancelled"]);
    }
}

#[test]
fn only_administrators_pay_out() {
    for caller in [Caller::Session(SESSION), Caller::Public, Caller::Stripe, Caller::Developer(DEVELOPER, TOKEN)] {
        let world = given([]).and(earned(10));
        let world = world.when(by(caller, payout(PAYOUT, None, "0"))).then_refused("forbidden");
        let world = world.and([payout(PAYOUT, None, "0").into()]);
        world.when(by(caller, approve())).then_refused("forbidden");
    }
}
