//! Routes: whose key is used decides who owes what to whom.

use modelfaucet_schema::event::{AdjustmentKind, Direction};
use modelfaucet_schema::ids::AdjustmentId;

use super::*;

fn on(route: Route) -> CallRequest {
    CallRequest { route, ..call("small") }
}

#[test]
fn on_the_developers_key_the_cost_is_owed_to_the_developer() {
    given([granted("1")])
        .when(record_usage(on(Route::DeveloperKey), first_example(), OnShortfall::Refuse))
        .then(["UsageRecorded"])
        .posts([("2010", 30_001), ("5015", 23_078), ("5020", 2_769), ("4020", -30_001), ("2210", -25_847)]);
}

/// Whoever runs an app could otherwise report calls of a user who was given credit, and be paid out what nobody has paid in.
#[test]
fn credit_that_was_given_away_pays_nothing_on_the_developers_key() {
    let own = || CallRequest { route: Route::DeveloperKey, ..call("dollar") };
    let one = || Usage::text(1, 0);
    // Neither reported, nor held, nor as a debt of the user.
    given([promo_granted("5")])
        .when(record_usage(own(), one(), OnShortfall::Refuse))
        .then_refused_as(&Rejection::InsufficientBalance { available: Money::ZERO, required: usd("1.3") })
        .when(hold(HOLD, own(), HoldAmount::Fixed(usd("1.3"))))
        .then_refused("insufficient_balance")
        .when(record_usage(own(), one(), OnShortfall::Receivable))
        .then(["UsageRecorded"])
        .posts([("1200", 130_000_000), ("4020", -130_000_000)])
        .wallet("5", "5", "0");
    // Paid credit pays, and what was given away stays.
    given([promo_granted("5"), granted("2"), hold(HOLD, own(), HoldAmount::Fixed(usd("1.3"))).into()])
        .when(capture(HOLD, one()))
        .then(["HoldCaptured"])
        .posts([
            ("2010", 130_000_000),
            ("5015", 100_000_000),
            ("5020", 12_000_000),
            ("4020", -130_000_000),
            ("2210", -112_000_000),
        ])
        .wallet("5.7", "5", "0");
    // Open holds are taken from paid credit first: two calls cannot count on the same money.
    given([promo_granted("5"), granted("2"), hold_of(HOLD, "1").into()])
        .when(record_usage(own(), one(), OnShortfall::Refuse))
        .then_refused_as(&Rejection::InFlightHolds { available: usd("1"), required: usd("1.3") });
    let debit = Command::AdjustWallet {
        adjustment_id: AdjustmentId(Uuid::from_u128(1)),
        wallet_id: WALLET,
        kind: AdjustmentKind::Adjustment,
        direction: Direction::Debit,
        amount: usd("1.5"),
        reason: None,
        expected: None,
    };
    // Paid credit that an administrator has taken from behind an open hold is not replaced by what was given away.
    let taken = given([promo_granted("5"), granted("2"), hold(HOLD, own(), HoldAmount::Fixed(usd("1.3"))).into()]);
    taken.and([debit.into()]).when(capture(HOLD, one())).then(["HoldCaptured"]).posts([
        ("2010", 50_000_000),
        ("5015", 50_000_000),
        ("4020", -50_000_000),
        ("2210", -50_000_000),
    ]);
}

#[test]
fn on_the_users_own_key_or_machine_there_is_only_a_fee() {
    for (route, income) in [(Route::Byok, "4030"), (Route::Local, "4040")] {
        given([granted("1")])
            .when(record_usage(on(route), first_example(), OnShortfall::Refuse))
            .then(["UsageRecorded"])
            .posts([("2010", 2_000_000), ("5020", 800_000), (income, -2_000_000), ("2210", -800_000)])
            .wallet("0.98", "0", "0");
    }
}

#[test]
fn without_a_fee_the_tokens_are_recorded_and_nothing_is_posted() {
    let call = CallRequest { feature_key: Some("free".into()), ..on(Route::Byok) };
    let free = Pricing { fee_usd: Money::ZERO, ..pricing() };
    let then = given([
        define_feature("free", free).into(),
        hold(HOLD, call.clone(), HoldAmount::Bound(first_example())).into(),
    ])
    .when(capture(HOLD, first_example()))
    .then(["HoldCaptured"])
    .posts([]);
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    assert_eq!(event.rating.usage, first_example());
}

#[test]
fn a_negative_fee_is_refused() {
    let pricing = Pricing { fee_usd: usd("-0.01"), ..pricing() };
    let patch = super::super::FeaturePatch { pricing: Some(pricing), ..Default::default() };
    given([])
        .when(define_feature("gift", pricing))
        .then_refused("amount_out_of_range")
        .when(Command::ChangeFeature { public_app_id: "shop".into(), feature_key: "chat".into(), patch })
        .then_refused("amount_out_of_range");
}

#[test]
fn a_fee_is_held_and_stops_at_the_hold() {
    let held = hold(HOLD, on(Route::Byok), HoldAmount::Bound(first_example()));
    given([granted("1"), held.into()]).when(capture(HOLD, Usage::default())).then(["HoldCaptured"]).posts([
        ("2010", 2_000_000),
        ("5020", 800_000),
        ("4030", -2_000_000),
        ("2210", -800_000),
    ]);
    let less = hold(HOLD, on(Route::Byok), HoldAmount::Fixed(usd("0.01")));
    given([granted("1"), less.into()]).when(capture(HOLD, Usage::default())).then(["HoldCaptured"]).posts([
        ("2010", 1_000_000),
        ("5020", 400_000),
        ("4030", -1_000_000),
        ("2210", -400_000),
    ]);
}

#[test]
fn the_users_own_key_reaches_models_that_are_not_on_the_card() {
    let own = |provider| CallRequest { route: Route::Byok, provider, ..call("home-made") };
    given([granted("1")])
        .when(record_usage(own(Some("home".parse().unwrap())), first_example(), OnShortfall::Refuse))
        .then(["UsageRecorded"])
        .next()
        .when(record_usage(own(None), first_example(), OnShortfall::Refuse))
        .then_refused("provider_required");
}

#[test]
fn a_provider_is_named_where_several_offer_the_model() {
    let shared = |provider: Option<&str>| {
        let call = CallRequest { provider: provider.map(|name| name.parse().unwrap()), ..call("shared") };
        record_usage(call, Usage::text(1_000_000, 0), OnShortfall::Refuse)
    };
    given([granted("10")])
        .when(shared(None))
        .then_refused("provider_required")
        .when(shared(Some("mistral")))
        .then_refused("model_not_found")
        .when(shared(Some("anthropic")))
        .then(["UsageRecorded"])
        .wallet("7.4", "0", "0");
}
