//! Usage without a hold: rounding, promotional credit first, shortfalls.

use super::*;

#[test]
fn the_first_example_a_tie_goes_to_the_even_unit() {
    given([granted("1")])
        .when(record_usage(call("small"), first_example(), OnShortfall::Refuse))
        .then(["UsageRecorded"])
        .posts([
            ("2010", 30_001),
            ("5010", 23_078),
            ("5020", 2_769),
            ("4010", -30_001),
            ("2110", -23_078),
            ("2210", -2_769),
        ])
        .wallet("0.99969999", "0", "0");
}

#[test]
fn a_tie_goes_down_where_the_even_unit_is_below() {
    let usage = Usage { cache_read: 1_023, ..Usage::text(180, 212) };
    let then =
        given([granted("1")]).when(record_usage(call("small"), usage, OnShortfall::Refuse)).then(["UsageRecorded"]);
    let Event::UsageRecorded(event) = then.event() else { panic!() };
    assert_eq!((event.rating.exact_cost.to_string().as_str(), event.rating.upstream.units()), ("0.000230925", 23_092));
}

#[test]
fn the_second_example_promotional_credit_pays_first() {
    given([granted("1"), promo_granted("0.000005")])
        .when(record_usage(call("tiny"), second_example(), OnShortfall::Refuse))
        .then(["UsageRecorded"])
        .posts([
            ("2020", 500),
            ("2010", 356),
            ("5010", 659),
            ("5020", 78),
            ("4095", 500),
            ("4010", -856),
            ("2110", -659),
            ("2210", -78),
            ("1400", -500),
        ])
        .wallet("0.99999644", "0", "0");
}

#[test]
fn a_shortfall_is_refused_or_becomes_a_receivable() {
    let usage = Usage::text(7, 0);
    // Seven dollars at cost, 9.10 at retail; the developer earns on what was paid, and five dollars do not cover the cost.
    given([granted("5")])
        .when(record_usage(call("dollar"), usage, OnShortfall::Refuse))
        .then_refused_as(&Rejection::InsufficientBalance { available: usd("5"), required: usd("9.1") })
        .when(record_usage(call("dollar"), usage, OnShortfall::Receivable))
        .then(["UsageRecorded"])
        .posts([
            ("2010", 500_000_000),
            ("1200", 410_000_000),
            ("5010", 700_000_000),
            ("4010", -910_000_000),
            ("2110", -700_000_000),
        ])
        .wallet("0", "0", "0");
}

#[test]
fn nobody_earns_on_calls_that_nobody_pays() {
    // On the developer's own key: what the wallet paid is owed to the developer, not what was reported.
    let route = CallRequest { route: Route::DeveloperKey, ..call("dollar") };
    given([granted("5")])
        .when(record_usage(route, Usage::text(1_000, 0), OnShortfall::Receivable))
        .then(["UsageRecorded"])
        .posts([
            ("2010", 500_000_000),
            ("1200", 129_500_000_000),
            ("5015", 500_000_000),
            ("4020", -130_000_000_000),
            ("2210", -500_000_000),
        ])
        .wallet("0", "0", "0");
    // A hold of nothing pays for nothing.
    let route = CallRequest { route: Route::DeveloperKey, ..call("dollar") };
    let hold = hold(HOLD, route, HoldAmount::Fixed(Money::ZERO));
    given([granted("5"), hold.into()])
        .when(capture(HOLD, Usage::text(1_000, 0)))
        .then(["HoldCaptured"])
        .posts([])
        .wallet("5", "0", "0");
}

#[test]
fn a_receivable_leaves_open_holds_covered() {
    given([granted("5"), promo_granted("1"), hold_of(HOLD, "4").into()])
        .when(record_usage(call("dollar"), Usage::text(7, 0), OnShortfall::Receivable))
        .then(["UsageRecorded"])
        .wallet("4", "0", "4");
}

#[test]
fn what_only_open_holds_keep_from_being_paid_is_told_apart() {
    given([granted("10"), hold_of(HOLD, "5").into()])
        .when(record_usage(call("dollar"), Usage::text(5, 0), OnShortfall::Refuse))
        .then_refused_as(&Rejection::InFlightHolds { available: usd("5"), required: usd("6.5") });
}

#[test]
fn the_platform_keeps_what_the_developer_does_not_get() {
    let all = Pricing { revenue_share_bps: Some(bps(10_000)), ..pricing() };
    let none = Pricing { revenue_share_bps: Some(bps(0)), ..pricing() };
    for (key, pricing, developer) in [("all", all, 6_923), ("none", none, 0)] {
        let call = CallRequest { feature_key: Some(key.into()), ..call("small") };
        let then = given([granted("1"), define_feature(key, pricing).into()])
            .when(record_usage(call, first_example(), OnShortfall::Refuse))
            .then(["UsageRecorded"]);
        let Event::UsageRecorded(event) = then.event() else { panic!() };
        assert_eq!((event.rating.charge.units(), event.rating.developer.units()), (30_001, developer));
    }
}

#[test]
fn usage_of_nothing_is_recorded_without_an_entry() {
    given([])
        .when(record_usage(call("small"), Usage::default(), OnShortfall::Refuse))
        .then(["UsageRecorded"])
        .posts([]);
}

#[test]
fn outrageous_counts_are_refused_and_nothing_overflows() {
    let usage = Usage { input_uncached: u64::MAX, cache_read: u64::MAX, output_text: u64::MAX, ..Usage::default() };
    given([granted("1"), hold_of(HOLD, "1").into()])
        .when(record_usage(call("dollar"), usage, OnShortfall::Receivable))
        .then_refused("amount_out_of_range")
        .when(capture(HOLD, usage))
        .then_refused("amount_out_of_range")
        .when(release(HOLD))
        .then(["HoldReleased"]);
}

#[test]
fn without_a_feature_the_usual_markup_and_the_apps_share_apply() {
    let mut plain = open_session(SessionId(Uuid::from_u128(0x52)));
    if let Command::OpenSession { feature_key, .. } = &mut plain {
        *feature_key = None;
    }
    let call = CallRequest { payer: Payer::Session(SessionId(Uuid::from_u128(0x52))), ..call("small") };
    let then = given([granted("1"), plain.into()]).when(record_usage(call, first_example(), OnShortfall::Refuse));
    let Event::UsageRecorded(event) = then.event() else { panic!() };
    assert_eq!((event.rating.charge.units(), event.rating.developer.units()), (30_001, 2_769));
    assert_eq!(event.call.feature_key, None);
}
