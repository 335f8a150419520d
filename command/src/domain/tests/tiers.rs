//! Prices by length of input and by service tier.

use modelfaucet_schema::event::{ContextRates, TierRates};

use super::*;

/// USD per million: 1 in and 2 out; above 1,000 tokens of input 3 and 4; on priority 10 and 20, and nothing above.
fn tiered() -> ModelRates {
    let rates = |input, output| model("openai", "tiered", input, input, output).rates;
    let mut model = model("openai", "tiered", "1", "1", "2");
    model.contexts = vec![ContextRates { above: 1_000, rates: rates("3", "4") }];
    let none = ContextRates { above: 1_000, rates: std::collections::BTreeMap::new() };
    let priority = TierRates { rates: rates("10", "20"), contexts: vec![none] };
    model.service_tiers = [(ServiceTier::Priority, priority)].into();
    model
}

fn served(usage: Usage, service_tier: Option<ServiceTier>) -> Command {
    Command::CaptureHold { hold_id: HOLD, usage, service_tier, provider_request_id: None, occurred_at: None }
}

fn on(service_tier: ServiceTier) -> CallRequest {
    CallRequest { service_tier, ..call("tiered") }
}

/// A shop with the model, and ten dollars.
fn shop_with_tiers() -> World {
    given([granted("10"), activate(vec![tiered()]).into()])
}

fn upstream(then: &Then) -> (ServiceTier, i64) {
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    (event.rating.service_tier, event.rating.upstream.units())
}

#[test]
fn a_long_input_prices_the_whole_call() {
    for (input, units) in [(1_000, 100_000 + 200), (1_001, 300_300 + 400)] {
        let then = shop_with_tiers()
            .and([hold(HOLD, call("tiered"), HoldAmount::Bound(Usage::text(2_000, 1))).into()])
            .when(capture(HOLD, Usage::text(input, 1)))
            .then(["HoldCaptured"]);
        assert_eq!(upstream(&then), (ServiceTier::Standard, units));
    }
}

#[test]
fn the_tier_that_served_is_charged() {
    let bound = || HoldAmount::Bound(Usage::text(1_000, 10));
    let place = || shop_with_tiers().and([hold(HOLD, on(ServiceTier::Priority), bound()).into()]);
    let usage = Usage::text(1_000, 1);
    for (tier, expected) in [
        (None, (ServiceTier::Priority, 1_002_000)),
        (Some(ServiceTier::Priority), (ServiceTier::Priority, 1_002_000)),
        (Some(ServiceTier::Standard), (ServiceTier::Standard, 100_200)),
    ] {
        let then = place().when(served(usage, tier)).then(["HoldCaptured"]);
        assert_eq!(upstream(&then), expected, "{tier:?}");
    }
    // A dearer tier than the hold was placed for is charged up to the hold; the rest is the platform's loss.
    let then = shop_with_tiers()
        .and([hold(HOLD, call("tiered"), bound()).into()])
        .when(served(usage, Some(ServiceTier::Priority)))
        .then(["HoldCaptured"]);
    let Event::HoldCaptured(event) = then.event() else { panic!() };
    assert!(event.over_hold);
    assert_eq!((event.rating.charge, event.rating.upstream.units()), (event.held, 1_002_000));
    assert_eq!(event.rating.unrecovered.units(), 1_002_000 - event.held.units());
}

#[test]
fn what_a_tier_does_not_price_is_refused() {
    for (tier, input, component) in
        [(ServiceTier::Flex, 1, "service tier flex"), (ServiceTier::Priority, 1_001, "input_uncached")]
    {
        let refusal = Rejection::ModelNotPriced { component };
        let usage = Usage::text(input, 1);
        shop_with_tiers().when(hold(HOLD, on(tier), HoldAmount::Bound(usage))).then_refused_as(&refusal);
        shop_with_tiers().when(record_usage(on(tier), usage, OnShortfall::Refuse)).then_refused_as(&refusal);
        shop_with_tiers()
            .and([hold(HOLD, call("tiered"), HoldAmount::Fixed(usd("1"))).into()])
            .when(served(usage, Some(tier)))
            .then_refused_as(&refusal);
    }
}
