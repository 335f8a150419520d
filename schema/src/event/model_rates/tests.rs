use proptest::prelude::*;
use rust_decimal::Decimal;

use super::*;

fn rate(text: &str) -> Rate {
    text.parse().unwrap()
}

fn provider() -> Name {
    "acme".parse().unwrap()
}

/// 1 and 2 up to 200,000 input tokens, 3 and 4 above; priority costs ten times that and ends there.
fn tiered() -> ModelRates {
    let table = |input, output| -> Rates {
        [(Component::InputUncached, rate(input)), (Component::OutputText, rate(output))].into()
    };
    let mut model = ModelRates::flat(provider(), "m", table("0.000001", "0.000002"));
    model.contexts = vec![ContextRates { above: 200_000, rates: table("0.000003", "0.000004") }];
    let priority = TierRates {
        rates: table("0.00001", "0.00002"),
        contexts: vec![ContextRates { above: 200_000, rates: Rates::new() }],
    };
    model.service_tiers = [(ServiceTier::Priority, priority)].into();
    model
}

#[test]
fn a_context_tier_prices_the_whole_request_by_all_its_input() {
    let cost = |tier, usage: Usage| tiered().exact_cost_at(tier, &usage).map(|cost| cost.to_string());
    let standard = |input, output| cost(ServiceTier::Standard, Usage::text(input, output));
    assert_eq!(standard(200_000, 1), Ok("0.200002".to_owned()));
    assert_eq!(standard(200_001, 1), Ok("0.600007".to_owned()));
    assert_eq!(standard(0, 300_000), Ok("0.6".to_owned()));
    let priority = |input| cost(ServiceTier::Priority, Usage::text(input, 0));
    assert_eq!(priority(200_000), Ok("2".to_owned()));
    assert_eq!(priority(200_001), Err(Unpriced::Component(Component::InputUncached)));
    assert_eq!(cost(ServiceTier::Flex, Usage::text(1, 0)), Err(Unpriced::ServiceTier(ServiceTier::Flex)));
    // Cached tokens count for the threshold, and are refused where they have no rate.
    let mut model = tiered();
    model.contexts[0].rates.insert(Component::CacheRead, rate("0.000001"));
    let cached = |count| Usage { cache_read: count, ..Usage::text(1, 0) };
    assert_eq!(model.exact_cost(&cached(200_000)).unwrap().to_string(), "0.200003");
    assert_eq!(model.exact_cost(&cached(1)), Err(Unpriced::Component(Component::CacheRead)));
}

#[test]
fn what_may_not_stand_on_a_card_is_known() {
    assert!(tiered().is_valid());
    let wrong: [fn(&mut ModelRates); 8] = [
        |model| model.model.clear(),
        |model| model.rates.clear(),
        |model| model.contexts[0].above = 0,
        |model| model.contexts.push(model.contexts[0].clone()),
        |model| model.contexts[0].rates = [(Component::InputUncached, rate("0.0000009"))].into(),
        |model| model.service_tiers.get_mut(&ServiceTier::Priority).unwrap().rates.clear(),
        |model| {
            let tier = model.service_tiers[&ServiceTier::Priority].clone();
            model.service_tiers.insert(ServiceTier::Standard, tier);
        },
        |model| {
            let tier = model.service_tiers.get_mut(&ServiceTier::Priority).unwrap();
            tier.contexts[0].rates = [(Component::OutputText, rate("0.00001"))].into();
        },
    ];
    for (index, spoil) in wrong.iter().enumerate() {
        let mut model = tiered();
        spoil(&mut model);
        assert!(!model.is_valid(), "case {index}");
    }
}

#[test]
fn a_card_without_tiers_is_written_as_before() {
    let flat = ModelRates::flat(provider(), "m", [(Component::OutputText, rate("0.5"))]);
    let text = r#"{"provider":"acme","model":"m","rates":{"output_text":"0.5"}}"#;
    assert_eq!(serde_json::to_string(&flat).unwrap(), text);
    assert_eq!(serde_json::from_str::<ModelRates>(text).unwrap(), flat);
    let text = serde_json::to_string(&tiered()).unwrap();
    assert_eq!(
        text,
        concat!(
            r#"{"provider":"acme","model":"m","rates":{"input_uncached":"0.000001","output_text":"0.000002"},"#,
            r#""contexts":[{"above":200000,"rates":{"input_uncached":"0.000003","output_text":"0.000004"}}],"#,
            r#""service_tiers":{"priority":{"rates":{"input_uncached":"0.00001","output_text":"0.00002"},"#,
            r#""contexts":[{"above":200000,"rates":{}}]}}}"#
        )
    );
    assert_eq!(serde_json::from_str::<ModelRates>(&text).unwrap(), tiered());
    for tier in ServiceTier::ALL {
        assert_eq!(serde_json::to_string(&tier).unwrap(), format!("\"{}\"", tier.name()));
        assert!(Unpriced::ServiceTier(tier).name().ends_with(tier.name()));
    }
}

/// Rates that rise from table to table, for every component, and thresholds that rise.
fn any_model() -> impl Strategy<Value = ModelRates> {
    let femto = 0..20_000_000_000_i64;
    let step = (1..2_000_u64, proptest::collection::vec(0..5_000_000_000_i64, Component::ALL.len()));
    let first = proptest::collection::vec(femto, Component::ALL.len());
    (first, proptest::collection::vec(step, 0..4)).prop_map(|(first, steps)| {
        let table = |femto: &[i64]| -> Rates {
            let rate = |femto: i64| Decimal::new(femto, 15).to_string().parse().unwrap();
            Component::ALL.iter().copied().zip(femto.iter().copied().map(rate)).collect()
        };
        let mut model = ModelRates::flat(provider(), "m", table(&first));
        let (mut above, mut rates) = (0, first);
        for (width, rises) in steps {
            above += width;
            for (rate, rise) in rates.iter_mut().zip(rises) {
                *rate += rise;
            }
            model.contexts.push(ContextRates { above, rates: table(&rates) });
        }
        model
    })
}

fn any_usage() -> impl Strategy<Value = Usage> {
    proptest::collection::vec(prop_oneof![Just(0), 0..1_500_u64, 0..1_000_000_000_u64], Component::ALL.len()).prop_map(
        |counts| {
            let mut usage = Usage::default();
            for (component, count) in Component::ALL.iter().zip(counts) {
                usage.set(*component, count);
            }
            usage
        },
    )
}

/// The same sum with whole numbers of arbitrary size: decimal digits, added and multiplied as at school.
fn by_hand(model: &ModelRates, usage: &Usage) -> String {
    let input: u128 = Component::ALL
        .iter()
        .filter(|component| component.name().starts_with("input") || component.name().starts_with("cache"))
        .map(|component| u128::from(usage.count(*component)))
        .sum();
    let table = model.contexts.iter().rfind(|context| input > u128::from(context.above)).map(|context| &context.rates);
    let table = table.unwrap_or(&model.rates);
    let mut digits = vec![0_u32; 64];
    for component in Component::ALL {
        let text = table[component].to_string();
        let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
        let rate: Vec<u32> = format!("{whole}{part:0<15}").bytes().rev().map(|digit| u32::from(digit - b'0')).collect();
        let count: Vec<u32> =
            usage.count(*component).to_string().bytes().rev().map(|digit| u32::from(digit - b'0')).collect();
        for (i, a) in rate.iter().enumerate() {
            for (j, b) in count.iter().enumerate() {
                digits[i + j] += a * b;
            }
        }
        let mut carry = 0;
        for digit in &mut digits {
            let value = *digit + carry;
            (*digit, carry) = (value % 10, value / 10);
        }
    }
    let text: String = digits.iter().rev().map(ToString::to_string).collect();
    text.trim_start_matches('0').to_owned()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(5_000))]

    #[test]
    fn the_sum_is_exact(model in any_model(), usage in any_usage()) {
        prop_assert!(model.is_valid());
        let femto = model.exact_cost(&usage).unwrap().femto().to_string();
        prop_assert_eq!(femto.trim_start_matches('0'), by_hand(&model, &usage));
    }

    #[test]
    fn more_never_costs_less(model in any_model(), usage in any_usage(), more in any_usage()) {
        let mut larger = usage;
        for component in Component::ALL {
            larger.set(*component, usage.count(*component) + more.count(*component));
        }
        prop_assert!(model.exact_cost(&usage).unwrap() <= model.exact_cost(&larger).unwrap());
    }

    #[test]
    fn one_token_decides_at_a_threshold(model in any_model(), cached in any::<bool>()) {
        for (index, context) in model.contexts.iter().enumerate() {
            let below = index.checked_sub(1).map_or(&model.rates, |lower| &model.contexts[lower].rates);
            for (input, table) in [(context.above, below), (context.above + 1, &context.rates)] {
                let component = if cached { Component::CacheRead } else { Component::InputUncached };
                let mut usage = Usage::default();
                usage.set(component, input);
                prop_assert_eq!(model.exact_cost(&usage).unwrap(), table[&component].times(input));
            }
        }
    }

    #[test]
    fn a_model_survives_its_text(model in any_model()) {
        let text = serde_json::to_string(&model).unwrap();
        prop_assert_eq!(serde_json::from_str::<ModelRates>(&text).unwrap(), model);
    }
}
