//! Budgets of provider keys and features, with open holds, in the same decision as the hold.

use modelfaucet_schema::event::{CredentialOwner, FreezeScope};
use modelfaucet_schema::ids::CredentialId;
use serde_json::{Value, json};

use super::calls::{begin_on, captured, end_of};
use super::*;
use crate::domain::{BudgetOf, CallEnding, FeaturePatch, Spend, StartAttempt};

fn key(number: u128) -> CredentialId {
    CredentialId(Uuid::from_u128(number))
}

/// The session's user adds a key whose calls may cost so much.
pub(super) fn add_limited(number: u128, limit: &str) -> Step {
    let limit = usd(limit);
    credentials::add_with(|added| {
        added.credential_id = key(number);
        added.budget_limit = Some(limit);
    })
}

fn own(route: Route, model: &str) -> CallRequest {
    CallRequest { route, provider: Some(provider()), ..call(model) }
}

/// A call of "dollar" with the user's key of this number, of so many tokens at most, a dollar each.
pub(super) fn byok(hold_id: HoldId, number: u128, tokens: u64) -> Step {
    byok_of("dollar", hold_id, number, tokens)
}

/// The same of another model.
pub(super) fn byok_of(model: &str, hold_id: HoldId, number: u128, tokens: u64) -> Step {
    let usage = Usage::text(0, tokens);
    begin_on(hold_id, own(Route::Byok, model), Some(key(number)), usage, usage)
}

fn end(hold_id: HoldId, ending: CallEnding) -> Step {
    end_of(hold_id, Caller::Gateway(SESSION), ending)
}

/// A feature "limited" without fee or markup, with this policy.
pub(super) fn limited_feature(policy: &Value) -> Command {
    let free = Pricing { markup_bps: bps(0), fee_usd: Money::ZERO, ..pricing() };
    let mut command = define_feature("limited", free);
    if let (Command::DefineFeature { policy, .. }, Value::Object(new)) = (&mut command, policy) {
        policy.clone_from(new);
    }
    command
}

fn of_feature(model: &str) -> CallRequest {
    CallRequest { feature_key: Some("limited".into()), ..call(model) }
}

fn spend_of_key(world: &World) -> Spend {
    world.state.spend.get(&BudgetOf::Credential(key(1))).copied().unwrap_or_default()
}

fn spend(spent: &str, held: &str) -> Spend {
    Spend { spent: usd(spent), held: usd(held) }
}

#[test]
fn a_keys_budget_counts_what_its_calls_cost_and_open_holds_too() {
    // The feature "chat" of the session takes a fee of two cents, which is not the provider's.
    let world = given([granted("1"), add_limited(1, "10"), byok(HOLD, 1, 6)]);
    assert_eq!(spend_of_key(&world), spend("0", "6"));
    let world = world
        .when(byok(SECOND_HOLD, 1, 5))
        .then_refused_as(&Rejection::BudgetExceeded { available: usd("4"), required: usd("5") })
        .and([end(HOLD, captured(Usage::text(1, 2)))]);
    assert_eq!(spend_of_key(&world), spend("3", "0"));
    let world = world.and([byok(SECOND_HOLD, 1, 7), end(SECOND_HOLD, CallEnding::Release(ReleaseReason::Failed))]);
    assert_eq!(spend_of_key(&world), spend("3", "0"), "what was given back is free again");
    let other = HoldId(Uuid::from_u128(0x43));
    world.when(byok(other, 1, 8)).then_refused("budget_exceeded");
}

#[test]
fn what_came_late_counts_once() {
    let world = given([granted("1"), add_limited(1, "10"), byok(HOLD, 1, 6), after_seconds(601)]);
    let world = world.and([expire(HOLD)]);
    assert_eq!(spend_of_key(&world), Spend::default());
    let world = world.and([end(HOLD, captured(Usage::text(0, 6)))]);
    assert_eq!(spend_of_key(&world), spend("6", "0"));
}

#[test]
fn a_key_without_a_budget_needs_no_price_and_one_with_a_budget_does() {
    given([granted("1"), credentials::add_number(1)])
        .when(byok_of("home-made", HOLD, 1, 1_000_000))
        .then(["HoldPlaced"]);
    given([granted("1"), add_limited(1, "1000000")])
        .when(byok_of("home-made", HOLD, 1, 1))
        .then_refused_as(&Rejection::BudgetNotPriced);
}

#[test]
fn only_the_payers_own_keys_and_its_developers_serve_a_call() {
    let developers = CredentialOwner::Developer { developer_id: DEVELOPER };
    let strangers = CredentialOwner::Developer { developer_id: OTHER_DEVELOPER };
    let world = || {
        given([
            granted("100"),
            register_developer(OTHER_DEVELOPER).into(),
            credentials::add_number(1),
            credentials::add(2, developers).into(),
            credentials::add(3, strangers).into(),
            credentials::add_number(4),
            credentials::disable_number(4),
        ])
    };
    let usage = Usage::text(1, 1);
    let begin = |route, number: Option<u128>| begin_on(HOLD, own(route, "dollar"), number.map(key), usage, usage);
    for (route, number) in [
        (Route::Byok, None),
        (Route::Byok, Some(2)),
        (Route::Byok, Some(3)),
        (Route::Byok, Some(4)),
        (Route::Byok, Some(9)),
        (Route::DeveloperKey, None),
        (Route::DeveloperKey, Some(1)),
        (Route::DeveloperKey, Some(3)),
        (Route::Platform, Some(1)),
        (Route::Platform, Some(2)),
        (Route::Local, Some(1)),
    ] {
        world().when(begin(route, number)).then_refused_as(&Rejection::NoAvailableRoute);
    }
    for (route, number) in [(Route::Byok, Some(1)), (Route::DeveloperKey, Some(2)), (Route::Platform, None)] {
        world().when(begin(route, number)).then(["HoldPlaced"]);
    }
}

#[test]
fn a_call_on_the_developers_key_is_charged_and_owed_and_counted() {
    let developers = CredentialOwner::Developer { developer_id: DEVELOPER };
    let usage = Usage::text(2, 8);
    let then = given([granted("20"), credentials::add(1, developers).into()])
        .when(begin_on(HOLD, own(Route::DeveloperKey, "dollar"), Some(key(1)), usage, usage))
        .then(["HoldPlaced"])
        .wallet("20", "0", "13")
        .next()
        .when(end(HOLD, captured(Usage::text(2, 3))))
        .then(["HoldCaptured"])
        .posts([
            ("2010", 650_000_000),
            ("5015", 500_000_000),
            ("5020", 60_000_000),
            ("4020", -650_000_000),
            ("2210", -560_000_000),
        ])
        .wallet("13.5", "0", "0");
    assert_eq!(spend_of_key(&then.next()), spend("5", "0"));
}

#[test]
fn a_call_on_the_own_key_costs_the_fee_whatever_was_used() {
    given([granted("1"), credentials::add_number(1), byok(HOLD, 1, 5)])
        .when(end(HOLD, captured(Usage::text(2, 3))))
        .then(["HoldCaptured"])
        .posts([("2010", 2_000_000), ("5020", 800_000), ("4030", -2_000_000), ("2210", -800_000)]);
}

#[test]
fn a_features_budget_shortens_holds_and_then_refuses_them() {
    let world = given([granted("100"), limited_feature(&json!({ "budget_limit_usd": "10" })).into()]);
    let call = |hold_id, most, least| {
        begin_on(hold_id, of_feature("dollar"), None, Usage::text(0, most), Usage::text(0, least))
    };
    let then = world.when(call(HOLD, 20, 5)).then(["HoldPlaced"]);
    let Event::HoldPlaced(placed) = then.event() else { panic!() };
    assert_eq!((placed.requested, placed.amount), (usd("20"), usd("10")), "as much as the budget has left");
    let world = then.next();
    let world = world
        .when(call(SECOND_HOLD, 1, 1))
        .then_refused_as(&Rejection::BudgetExceeded { available: usd("0"), required: usd("1") })
        .and([end(HOLD, captured(Usage::text(0, 4)))]);
    world
        .when(record_usage(of_feature("dollar"), Usage::text(7, 0), OnShortfall::Receivable))
        .then_refused_as(&Rejection::BudgetExceeded { available: usd("6"), required: usd("7") })
        .when(record_usage(of_feature("dollar"), Usage::text(6, 0), OnShortfall::Refuse))
        .then(["UsageRecorded"])
        .next()
        .when(hold(HOLD, of_feature("dollar"), HoldAmount::Fixed(usd("0.01"))))
        .then_refused("budget_exceeded");
}

#[test]
fn a_limit_that_is_set_later_counts_what_was_spent_before() {
    let change = |policy: Value| {
        let Value::Object(policy) = policy else { unreachable!() };
        let patch = FeaturePatch { policy: Some(policy), ..FeaturePatch::default() };
        Command::ChangeFeature { public_app_id: "shop".into(), feature_key: "limited".into(), patch }
    };
    let use_it = |tokens| record_usage(of_feature("dollar"), Usage::text(tokens, 0), OnShortfall::Refuse);
    let mut world = given([granted("100"), limited_feature(&json!({})).into(), use_it(8).into()]);
    for wrong in [json!(10), json!("-1"), json!("1e3")] {
        world = world.when(change(json!({ "budget_limit_usd": wrong }))).then_refused_as(&Rejection::InvalidBudget);
    }
    world
        .and([change(json!({ "budget_limit_usd": "10" })).into()])
        .when(use_it(3))
        .then_refused("budget_exceeded")
        .and([change(json!({ "budget_limit_usd": "11" })).into()])
        .when(use_it(3))
        .then(["UsageRecorded"])
        .next()
        .and([change(json!({})).into()])
        .when(use_it(50))
        .then(["UsageRecorded"]);
}

/// The second attempt of a call, elsewhere.
fn start(call: &CallRequest, credential: Option<u128>, tokens: u64) -> Step {
    let Step::Command(_, Command::BeginCall(begun)) = byok(HOLD, 1, 1) else { unreachable!() };
    let ended = modelfaucet_schema::event::Attempt {
        route: Route::Byok,
        provider: provider(),
        model: "dollar".into(),
        credential: Some(key(1)),
        started_at: Timestamp::from_micros(1),
        first_byte_ms: None,
        total_ms: None,
        status: Some(500),
        error: None,
        billed: modelfaucet_schema::event::Billed::Unknown,
        exposure: None,
    };
    let start = StartAttempt {
        hold_id: HOLD,
        gateway: begun.dispatch.gateway,
        number: 2,
        ended,
        route: call.route,
        provider: provider(),
        model: call.model.clone(),
        service_tier: ServiceTier::Standard,
        bound: Usage::text(0, tokens),
        min_bound: Usage::text(0, tokens),
        origin: "https://elsewhere.example".into(),
        credential: credential.map(key),
    };
    by(Caller::Gateway(SESSION), Command::StartAttempt(Box::new(start)))
}

#[test]
fn an_attempt_elsewhere_frees_the_budget_of_the_key_before() {
    let world = || given([granted("100"), add_limited(1, "10"), add_limited(2, "3"), byok(HOLD, 1, 8)]);
    let then = world().when(start(&own(Route::Platform, "dollar"), None, 8)).then(["AttemptStarted"]);
    assert_eq!(spend_of_key(&then.next()), Spend::default());
    // The same key again has its own budget to itself; another one has its own limit, and must be one's own.
    let then = world().when(start(&own(Route::Byok, "dollar"), Some(1), 10)).then(["AttemptStarted"]);
    assert_eq!(spend_of_key(&then.next()), spend("0", "10"));
    world().when(start(&own(Route::Byok, "dollar"), Some(1), 11)).then_refused("budget_exceeded");
    world().when(start(&own(Route::Byok, "dollar"), Some(2), 4)).then_refused("budget_exceeded");
    world().when(start(&own(Route::Byok, "dollar"), Some(9), 1)).then_refused("no_available_route");
    world().when(start(&own(Route::Platform, "dollar"), Some(1), 1)).then_refused("no_available_route");
    let world = world().and([start(&own(Route::Byok, "dollar"), Some(2), 3)]);
    assert_eq!(spend_of_key(&world), Spend::default());
    let world = world.and([end(HOLD, captured(Usage::text(0, 2)))]);
    let second = world.state.spend.get(&BudgetOf::Credential(key(2))).copied();
    assert_eq!(second, Some(spend("2", "0")), "what was used counts against the key that answered");
}

#[test]
fn an_attempt_elsewhere_has_the_features_budget_to_itself() {
    let feature = |tokens, number| {
        let usage = Usage::text(0, tokens);
        let call = CallRequest { feature_key: Some("limited".into()), ..own(Route::Byok, "dollar") };
        begin_on(HOLD, call, Some(key(number)), usage, usage)
    };
    let world = || {
        given([
            granted("100"),
            limited_feature(&json!({ "budget_limit_usd": "10" })).into(),
            credentials::add_number(1),
            feature(5, 1),
        ])
    };
    let platform = own(Route::Platform, "dollar");
    world().when(start(&platform, None, 11)).then_refused("budget_exceeded");
    world().when(start(&platform, None, 10)).then(["AttemptStarted"]).wallet("100", "0", "10");
}

#[test]
fn a_frozen_key_begins_no_call_and_ends_those_that_run() {
    let freeze = Command::Freeze { scope: FreezeScope::ProviderCredential(key(1)), reason: "leaked".into() };
    let world = given([granted("100"), credentials::add_number(1), credentials::add_number(2), byok(HOLD, 1, 6)]);
    let world = world.and([freeze.into()]);
    let world = world.when(byok(SECOND_HOLD, 1, 1)).then_refused("frozen").and([byok(SECOND_HOLD, 2, 1)]);
    world.when(end(HOLD, captured(Usage::text(1, 2)))).then(["HoldCaptured"]);
}
