//! How much to hold: the price of the most that a call can use, and the output that a smaller hold still buys. Pure.

use modelfaucet_schema::event::{ModelRates, PriceRule, Rates, ServiceTier};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::{Component, Usage};

use crate::usage::dearest;

/// With less output than this a shortened answer is of no use: the least that is held for.
pub(crate) const MIN_OUTPUT_TOKENS: u64 = 256;
/// The most tokens that one image can come to, for models whose rate card does not say.
pub(crate) const IMAGE_TOKENS: u64 = 48_000;

/// The most that a request can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    /// Input tokens.
    pub(crate) input: u64,
    /// How many answers.
    pub(crate) answers: u64,
    /// Output tokens of each answer.
    pub(crate) cap: u64,
}

/// Input is billed as one of these; a discount for cached input is never assumed.
const INPUT: [Component; 5] = [
    Component::InputUncached,
    Component::CacheWrite5m,
    Component::CacheWrite30m,
    Component::CacheWrite1h,
    Component::CacheWrite12h,
];
/// Output is billed as one of these.
const OUTPUT: [Component; 2] = [Component::OutputText, Component::OutputReasoning];

impl Ask {
    /// The usage vector with every token at its dearest on a service tier. Components without a price stand where the plain ones are,
    /// so that the ledger names them when it refuses.
    pub(crate) fn bound_at(self, offer: &ModelRates, tier: ServiceTier) -> Usage {
        let mut usage = Usage::default();
        // No rate falls with the length of the input, so the table of the longest input bounds the others.
        let rates = table(offer, tier, self.input);
        let input = if rates.contains_key(&Component::InputUncached) { dearest(rates, &INPUT) } else { None };
        let output = if rates.contains_key(&Component::OutputText) { dearest(rates, &OUTPUT) } else { None };
        usage.set(input.unwrap_or(Component::InputUncached), self.input);
        usage.set(output.unwrap_or(Component::OutputText), self.answers.saturating_mul(self.cap));
        if rates.contains_key(&Component::Requests) {
            usage.requests = 1;
        }
        usage
    }

    /// The dearest of the tiers that may serve it.
    pub(crate) fn dearest_tier(self, offer: &ModelRates, tiers: &[ServiceTier]) -> ServiceTier {
        let cost = |tier: &ServiceTier| offer.exact_cost_at(*tier, &self.bound_at(offer, *tier)).ok();
        let dearest = tiers.iter().copied().reduce(|best, next| if cost(&next) > cost(&best) { next } else { best });
        dearest.unwrap_or_default()
    }

    /// The same with the least output that is of use.
    #[must_use]
    pub(crate) fn least(self) -> Self {
        Self { cap: self.cap.min(MIN_OUTPUT_TOKENS), ..self }
    }

    /// The largest cap, at most the asked one, whose price `granted` covers on every tier that may serve it.
    pub(crate) fn affordable(self, granted: Money, offer: &ModelRates, tiers: &[ServiceTier], rule: &PriceRule) -> u64 {
        let covered = |cap| {
            let ask = Self { cap, ..self };
            tiers.iter().all(|tier| {
                price(&ask.bound_at(offer, *tier), offer, *tier, rule).is_some_and(|price| price <= granted)
            })
        };
        if covered(self.cap) {
            return self.cap;
        }
        // The price does not fall when the cap rises: halve the span between what is covered and what is not.
        let (mut covered_cap, mut above) = (0, self.cap);
        while above - covered_cap > 1 {
            let middle = covered_cap + (above - covered_cap) / 2;
            if covered(middle) {
                covered_cap = middle;
            } else {
                above = middle;
            }
        }
        covered_cap
    }
}

/// The rates of a call with so many input tokens on a service tier; the standard ones for a tier without prices.
pub(crate) fn table(offer: &ModelRates, tier: ServiceTier, input: u64) -> &Rates {
    offer.table(tier, input).or_else(|| offer.table(ServiceTier::Standard, input)).unwrap_or(&offer.rates)
}

/// What is held for a usage; `None` for a component without a price, or a sum out of range.
pub(crate) fn price(usage: &Usage, offer: &ModelRates, tier: ServiceTier, rule: &PriceRule) -> Option<Money> {
    rule.retail(offer.exact_cost_at(tier, usage).ok()?.round_up()?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::money::BasisPoints;
    use modelfaucet_schema::rate::Rate;
    use proptest::prelude::*;

    const STANDARD: ServiceTier = ServiceTier::Standard;

    fn offer(rates: &[(Component, &str)]) -> ModelRates {
        let rates: Rates = rates.iter().map(|(component, usd)| (*component, Rate::per_million(usd).unwrap())).collect();
        ModelRates::flat("openai".parse().unwrap(), "m", rates)
    }

    fn small() -> ModelRates {
        offer(&[
            (Component::InputUncached, "0.15"),
            (Component::CacheRead, "0.075"),
            (Component::CacheWrite1h, "0.30"),
            (Component::OutputText, "0.60"),
            (Component::OutputReasoning, "0.60"),
        ])
    }

    fn rule() -> PriceRule {
        PriceRule {
            markup_bps: BasisPoints::new(3_000).unwrap(),
            share_bps: BasisPoints::default(),
            fee_usd: Money::ZERO,
        }
    }

    #[test]
    fn every_token_is_held_for_at_its_dearest() {
        let ask = Ask { input: 100, answers: 2, cap: 50 };
        assert_eq!(
            ask.bound_at(&small(), STANDARD),
            Usage { cache_write_1h: 100, output_text: 100, ..Usage::default() }
        );
        assert_eq!(
            ask.bound_at(&offer(&[(Component::CacheRead, "1")]), STANDARD),
            Usage::text(100, 100),
            "nothing is free"
        );
        assert_eq!(ask.least(), ask);
        assert_eq!(Ask { cap: 9_999, ..ask }.least().cap, MIN_OUTPUT_TOKENS);
    }

    #[test]
    fn a_long_input_is_held_for_at_the_rates_of_long_inputs() {
        let mut long = small();
        let above: Rates =
            small().rates.into_keys().map(|component| (component, Rate::per_million("9").unwrap())).collect();
        long.contexts = vec![modelfaucet_schema::event::ContextRates { above: 1_000, rates: above }];
        let held = |input| {
            price(&Ask { input, answers: 1, cap: 0 }.bound_at(&long, STANDARD), &long, STANDARD, &rule()).unwrap()
        };
        assert_eq!(held(1_000).units(), 1_000 * 30 * 13 / 10);
        assert_eq!(held(1_001).units(), (1_001 * 900) * 13 / 10);
    }

    /// The same with a flex tier at half and a priority tier at twice the price.
    fn tiered() -> ModelRates {
        let times = |numerator: u32, denominator: u32| {
            let rates = [("0.15", Component::InputUncached), ("0.60", Component::OutputText)];
            let rates = rates.map(|(usd, component)| {
                let cents: u32 = usd.trim_start_matches("0.").parse().unwrap();
                let cents = cents * 10 * numerator / denominator;
                (component, Rate::per_million(&format!("0.{cents:03}")).unwrap())
            });
            modelfaucet_schema::event::TierRates { rates: rates.into(), contexts: vec![] }
        };
        let mut offer = offer(&[(Component::InputUncached, "0.15"), (Component::OutputText, "0.40")]);
        offer.service_tiers = [(ServiceTier::Flex, times(1, 2)), (ServiceTier::Priority, times(3, 2))].into();
        offer
    }

    #[test]
    fn the_dearest_tier_that_is_left_open_is_held_for() {
        let (flex, priority) = (ServiceTier::Flex, ServiceTier::Priority);
        let ask = Ask { input: 1_000, answers: 1, cap: 1_000 };
        for (open, dearest) in [
            (vec![STANDARD], STANDARD),
            (vec![flex, STANDARD], STANDARD),
            (vec![STANDARD, flex, priority], priority),
            (vec![], STANDARD),
        ] {
            assert_eq!(ask.dearest_tier(&tiered(), &open), dearest, "{open:?}");
        }
        // What is granted buys as much as the dearest of them sells.
        let held = price(&ask.bound_at(&tiered(), priority), &tiered(), priority, &rule()).unwrap();
        assert_eq!(ask.affordable(held, &tiered(), &[STANDARD, flex, priority], &rule()), 1_000);
        let standard = price(&ask.bound_at(&tiered(), STANDARD), &tiered(), STANDARD, &rule()).unwrap();
        let less = ask.affordable(standard, &tiered(), &[STANDARD, flex, priority], &rule());
        assert!(less < 1_000 && ask.affordable(standard, &tiered(), &[STANDARD, flex], &rule()) == 1_000, "{less}");
    }

    proptest! {
        #[test]
        fn the_cap_is_the_largest_that_is_covered(input in 0_u64..100_000, answers in 1_u64..4, cap in 1_u64..200_000, part in 0_u64..=100) {
            let ask = Ask { input, answers, cap };
            let full = price(&ask.bound_at(&small(), STANDARD), &small(), STANDARD, &rule()).unwrap();
            let least = price(&Ask { cap: 0, ..ask }.bound_at(&small(), STANDARD), &small(), STANDARD, &rule()).unwrap();
            let span = u64::try_from(full.checked_sub(least).unwrap().units()).unwrap();
            let granted = least.checked_add(Money::from_units(i64::try_from(span * part / 100).unwrap())).unwrap();
            let affordable = ask.affordable(granted, &small(), &[STANDARD], &rule());
            let price_of = |cap| price(&Ask { cap, ..ask }.bound_at(&small(), STANDARD), &small(), STANDARD, &rule()).unwrap();
            prop_assert!(price_of(affordable) <= granted);
            prop_assert!(affordable == cap || price_of(affordable + 1) > granted);
        }

        /// What is captured never passes what was held, as long as the bound holds.
        #[test]
        fn no_usage_within_the_bound_costs_more(input in 0_u64..100_000, cap in 0_u64..100_000, cached in 0_u64..100, written in 0_u64..100, used in 0_u64..=100, reasoning in 0_u64..=100) {
            let ask = Ask { input, answers: 1, cap };
            let held = price(&ask.bound_at(&small(), STANDARD), &small(), STANDARD, &rule()).unwrap();
            let part = |of: u64, hundredths: u64| of * hundredths / 100;
            let (cache_read, cache_write_1h) = (part(input, cached), part(input - part(input, cached), written));
            let output = part(cap, used);
            let usage = Usage {
                input_uncached: input - cache_read - cache_write_1h,
                cache_read,
                cache_write_1h,
                output_reasoning: part(output, reasoning),
                output_text: output - part(output, reasoning),
                ..Usage::default()
            };
            prop_assert!(rule().retail(small().exact_cost(&usage).unwrap().round().unwrap()).unwrap() <= held);
        }
    }
}
