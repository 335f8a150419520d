//! Holds: placed, clamped, and ended once.

use super::*;

/// A capture of "dollar" costs this many dollars at cost and 1.3 times that at retail.
fn dollars(count: u64) -> Usage {
    Usage::text(count, 0)
}

fn dollar_hold(hold_id: HoldId, amount: &str) -> Command {
    hold(hold_id, call("dollar"), HoldAmount::Fixed(usd(amount)))
}

#[test]
fn a_hold_sets_funds_aside_and_a_capture_gives_the_rest_back() {
    given([granted("10")])
        .when(hold_of(HOLD, "4"))
        .then(["HoldPlaced"])
        .posts([])
        .wallet("10", "0", "4")
        .next()
        .when(capture(HOLD, first_example()))
        .then(["HoldCaptured"])
        .posts([
            ("2010", 30_001),
            ("5010", 23_078),
            ("5020", 2_769),
            ("4010", -30_001),
            ("2110", -23_078),
            ("2210", -2_769),
        ])
        .wallet("9.99969999", "0", "0");
}

#[test]
fn a_hold_for_a_bound_of_the_usage_is_the_price_rounded_up() {
    let usage = Usage { cache_read: 1_023, ..Usage::text(180, 212) };
    let then = given([granted("1")]).when(hold(HOLD, call("small"), HoldAmount::Bound(usage))).then(["HoldPlaced"]);
    let Event::HoldPlaced(event) = then.event() else { panic!() };
    // 23,092.5 units: charged as 23,092, held as 23,093; and 30 % on top.
    assert_eq!(event.amount.units(), 23_093 + 6_927);
    let then = then.next().when(capture(HOLD, usage)).then(["HoldCaptured"]);
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    assert!(!event.over_hold);
    assert_eq!(event.rating.charge.units(), 23_092 + 6_927);
}

#[test]
fn a_hold_is_clamped_to_what_is_available_but_not_below_its_minimum() {
    let clamped = |minimum| Command::PlaceHold {
        hold_id: HOLD,
        call: call("small"),
        amount: HoldAmount::Fixed(usd("12")),
        min_amount: Some(usd(minimum)),
        expires_in: Duration::from_secs(600),
    };
    let then = given([granted("10")]).when(clamped("10")).then(["HoldPlaced"]).wallet("10", "0", "10");
    let Event::HoldPlaced(event) = then.event() else { panic!() };
    assert_eq!((event.requested, event.amount), (usd("12"), usd("10")));
    given([granted("10")])
        .when(clamped("10.00000001"))
        .then_refused_as(&Rejection::InsufficientBalance { available: usd("10"), required: usd("10.00000001") });
    // A minimum above what is asked asks for no more than that.
    given([granted("12")]).when(clamped("99")).then(["HoldPlaced"]).wallet("12", "0", "12");
}

#[test]
fn all_or_nothing_without_a_minimum() {
    given([granted("10")])
        .when(hold_of(HOLD, "12"))
        .then_refused("insufficient_balance")
        .and([hold_of(HOLD, "6").into()])
        .when(hold_of(SECOND_HOLD, "6"))
        .then_refused_as(&Rejection::InFlightHolds { available: usd("4"), required: usd("6") })
        .when(hold_of(SECOND_HOLD, "4"))
        .then(["HoldPlaced"])
        .wallet("10", "0", "10");
}

#[test]
fn a_hold_of_nothing_is_a_hold() {
    given([])
        .when(hold_of(HOLD, "0"))
        .then(["HoldPlaced"])
        .next()
        .when(release(HOLD))
        .then(["HoldReleased"])
        .wallet("0", "0", "0");
}

#[test]
fn a_hold_of_less_than_nothing_is_refused() {
    given([granted("1")]).when(hold_of(HOLD, "-5")).then_refused("amount_out_of_range");
}

#[test]
fn a_capture_above_the_hold_stops_at_the_hold_and_the_platform_bears_the_rest() {
    // Cost 7, retail 9.10, held 5: the customer pays 5, no margin is left to share, 2 are nobody's.
    let then = given([granted("10"), dollar_hold(HOLD, "5").into()])
        .when(capture(HOLD, dollars(7)))
        .then(["HoldCaptured"])
        .posts([
            ("2010", 500_000_000),
            ("5010", 500_000_000),
            ("5030", 200_000_000),
            ("4010", -500_000_000),
            ("2110", -700_000_000),
        ])
        .wallet("5", "0", "0");
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    assert!(event.over_hold);
    assert_eq!((event.rating.retail, event.rating.charge, event.rating.unrecovered), (usd("9.1"), usd("5"), usd("2")));
}

#[test]
fn a_capture_between_cost_and_retail_shares_what_margin_is_left() {
    // Cost 7, held 8: a margin of 1, of which the developer gets 40 %.
    given([granted("10"), dollar_hold(HOLD, "8").into()]).when(capture(HOLD, dollars(7))).then(["HoldCaptured"]).posts(
        [
            ("2010", 800_000_000),
            ("5010", 700_000_000),
            ("5020", 40_000_000),
            ("4010", -800_000_000),
            ("2110", -700_000_000),
            ("2210", -40_000_000),
        ],
    );
}

#[test]
fn a_captured_hold_takes_promotional_credit_first() {
    given([granted("10"), promo_granted("2"), dollar_hold(HOLD, "12").into()])
        .when(capture(HOLD, dollars(5)))
        .then(["HoldCaptured"])
        .posts([
            ("2020", 200_000_000),
            ("2010", 450_000_000),
            ("4095", 200_000_000),
            ("1400", -200_000_000),
            ("5010", 500_000_000),
            ("5020", 60_000_000),
            ("4010", -650_000_000),
            ("2110", -500_000_000),
            ("2210", -60_000_000),
        ])
        .wallet("5.5", "0", "0");
}

#[test]
fn a_hold_ends_once() {
    for end in [Step::from(capture(HOLD, first_example())), release(HOLD).into()] {
        for again in [capture(HOLD, first_example()).into(), release(HOLD).into(), expire(HOLD)] {
            given([granted("10"), hold_of(HOLD, "1").into(), end.clone(), after_seconds(600)])
                .when(again)
                .then_refused("hold_not_found");
        }
    }
}

#[test]
fn a_hold_expires_at_its_time_and_not_before() {
    given([granted("10"), hold_of(HOLD, "1").into(), after_seconds(599)])
        .when(expire(HOLD))
        .then_refused_as(&Rejection::InvalidDeadline)
        .and([after_seconds(1)])
        .when(expire(HOLD))
        .then(["HoldExpired"])
        .posts([])
        .wallet("10", "0", "0")
        .next()
        .when(release(HOLD))
        .then_refused("hold_not_found")
        .when(expire(HOLD))
        .then_refused("hold_not_found");
}

#[test]
fn late_usage_is_charged_once() {
    given([granted("10"), dollar_hold(HOLD, "9").into(), after_seconds(600), expire(HOLD)])
        .when(capture(HOLD, dollars(5)))
        .then(["LateUsageCaptured"])
        .wallet("3.5", "0", "0")
        .next()
        .when(capture(HOLD, dollars(5)))
        .then_refused("hold_not_found");
}

#[test]
fn late_usage_of_a_hold_that_nobody_expired_yet_expires_it_first() {
    given([granted("10"), dollar_hold(HOLD, "9").into(), after_seconds(600)])
        .when(capture(HOLD, dollars(5)))
        .then(["HoldExpired", "LateUsageCaptured"])
        .wallet("3.5", "0", "0")
        .next()
        .when(expire(HOLD))
        .then_refused("hold_not_found");
}

#[test]
fn late_usage_takes_at_most_what_is_available_and_at_most_what_was_held() {
    // The funds went into another hold meanwhile: 1 is left for a retail price of 6.50, 4 of the cost are nobody's.
    given([
        granted("10"),
        dollar_hold(HOLD, "9").into(),
        after_seconds(600),
        expire(HOLD),
        hold_of(SECOND_HOLD, "9").into(),
    ])
    .when(capture(HOLD, dollars(5)))
    .then(["LateUsageCaptured"])
    .posts([
        ("2010", 100_000_000),
        ("5010", 100_000_000),
        ("5030", 400_000_000),
        ("4010", -100_000_000),
        ("2110", -500_000_000),
    ])
    .wallet("9", "0", "9");
    given([granted("10"), dollar_hold(HOLD, "2").into(), after_seconds(600), expire(HOLD)])
        .when(capture(HOLD, dollars(5)))
        .then(["LateUsageCaptured"])
        .wallet("8", "0", "0");
    // Nothing is left: recorded all the same, so that the provider's bill is expected.
    given([
        granted("9"),
        dollar_hold(HOLD, "9").into(),
        after_seconds(600),
        expire(HOLD),
        hold_of(SECOND_HOLD, "9").into(),
    ])
    .when(capture(HOLD, dollars(5)))
    .then(["LateUsageCaptured"])
    .posts([("5030", 500_000_000), ("2110", -500_000_000)]);
}

#[test]
fn the_rate_card_of_the_hold_prices_it_whatever_is_activated_meanwhile() {
    let dearer = activate(vec![model("openai", "small", "15", "7.5", "60")]);
    given([granted("10"), hold_of(HOLD, "4").into(), dearer.into()])
        .when(capture(HOLD, first_example()))
        .then(["HoldCaptured"])
        .wallet("9.99969999", "0", "0")
        .next()
        .and([hold_of(SECOND_HOLD, "4").into()])
        .when(capture(SECOND_HOLD, first_example()))
        .then(["HoldCaptured"])
        // A hundred times the cost, exactly 2,307,750 units, and 30 % on top.
        .wallet("9.96969924", "0", "0");
}

#[test]
fn the_price_rule_of_the_hold_stays_too() {
    let patch = super::super::FeaturePatch {
        pricing: Some(Pricing { markup_bps: bps(100_000), ..pricing() }),
        ..Default::default()
    };
    let change = Command::ChangeFeature { public_app_id: "shop".into(), feature_key: "chat".into(), patch };
    let remove = Command::RemoveFeature { public_app_id: "shop".into(), feature_key: "chat".into() };
    given([granted("10"), hold_of(HOLD, "4").into(), change.into(), remove.into()])
        .when(capture(HOLD, first_example()))
        .then(["HoldCaptured"])
        .wallet("9.99969999", "0", "0");
}

#[test]
fn a_hold_can_be_ended_after_its_session_and_its_app() {
    let disable = Command::ChangeApp {
        public_app_id: "shop".into(),
        patch: super::super::AppPatch { status: Some(Status::Disabled), ..Default::default() },
    };
    let revoke = Command::RevokeSession { session_id: SESSION };
    let world = || given([granted("10"), hold_of(HOLD, "1").into(), revoke.clone().into(), disable.clone().into()]);
    world().when(by(Caller::Session(SESSION), capture(HOLD, first_example()))).then(["HoldCaptured"]);
    world().when(by(Caller::Developer(DEVELOPER, TOKEN), release(HOLD))).then(["HoldReleased"]);
}

#[test]
fn a_used_component_without_a_price_is_refused_and_the_hold_stays() {
    given([granted("10"), hold_of(HOLD, "1").into()])
        .when(capture(HOLD, Usage { output_audio: 1, ..Usage::default() }))
        .then_refused("model_not_priced")
        .when(release(HOLD))
        .then(["HoldReleased"]);
}

#[test]
fn a_hold_lasts_from_a_second_to_a_day() {
    for (seconds, fine) in [(0, false), (1, true), (86_400, true), (86_401, false)] {
        let command = Command::PlaceHold {
            hold_id: HOLD,
            call: call("small"),
            amount: HoldAmount::Fixed(usd("1")),
            min_amount: None,
            expires_in: Duration::from_secs(seconds),
        };
        let then = given([granted("1")]).when(command);
        if fine { drop(then.then(["HoldPlaced"])) } else { drop(then.then_refused_as(&Rejection::InvalidDeadline)) }
    }
}
