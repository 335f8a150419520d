//! What the demo's calls must cost, computed here from the price list with whole numbers, so that the ledger is not asked to
//! confirm itself. Prices and shares are those of a first start: 0.15, 0.075 and 0.60 USD per million tokens, markup 30 %, 40 %
//! of the margin for the developer.

use modelfaucet_schema::money::Money;

/// The model that the demo calls.
pub(super) const MODEL: &str = "gpt-4o-mini";
/// Its provider.
pub(super) const PROVIDER: &str = "openai";

/// Prices per token in units of 1e-9 USD, so that every price is a whole number: 0.15 USD per million is 150.
const INPUT: i64 = 150;
const CACHED: i64 = 75;
const OUTPUT: i64 = 600;
/// Units of 1e-9 USD in one unit of money (1e-8 USD).
const NANO_PER_UNIT: i64 = 10;

/// Tokens of a call: input that was not cached, input from the cache, output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Tokens {
    pub(super) input: i64,
    pub(super) cached: i64,
    pub(super) output: i64,
}

/// What a call costs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Cost {
    /// The customer's charge.
    pub(super) charge: Money,
    /// The developer's share of it.
    pub(super) developer: Money,
}

impl Tokens {
    pub(super) const fn new(input: i64, cached: i64, output: i64) -> Self {
        Self { input, cached, output }
    }

    /// The cost before rounding, in units of 1e-9 USD.
    const fn nano(self) -> i64 {
        self.input * INPUT + self.cached * CACHED + self.output * OUTPUT
    }

    /// The tokens as the API takes them.
    pub(super) fn json(self) -> serde_json::Value {
        serde_json::json!({ "input_uncached": self.input, "cache_read": self.cached, "output_text": self.output })
    }

    /// What the call costs: rounded once, half to even; markup and share floored.
    pub(super) fn cost(self) -> Cost {
        let (units, rest) = (self.nano() / NANO_PER_UNIT, self.nano() % NANO_PER_UNIT);
        let upstream = units + i64::from(rest > 5 || (rest == 5 && units % 2 == 1));
        let margin = upstream * 30 / 100;
        Cost { charge: Money::from_units(upstream + margin), developer: Money::from_units(margin * 40 / 100) }
    }

    /// What must be held for a call of at most these tokens: rounded up, plus the markup.
    pub(super) fn bound(self) -> Money {
        let upstream = (self.nano() + NANO_PER_UNIT - 1) / NANO_PER_UNIT;
        Money::from_units(upstream + upstream * 30 / 100)
    }
}

/// The sum; saturates far beyond what the demo spends.
pub(super) fn plus(a: Money, b: Money) -> Money {
    Money::from_units(a.units().saturating_add(b.units()))
}

/// The difference.
pub(super) fn minus(a: Money, b: Money) -> Money {
    Money::from_units(a.units().saturating_sub(b.units()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_figures_are_those_of_the_documents() {
        // docs/OPERATIONS.md, the example of `explain`: 0.000230775 → 0.00023078, share 0.00002769, margin left 0.00004154.
        let cost = Tokens::new(178, 1_025, 212).cost();
        assert_eq!((cost.charge.to_string(), cost.developer.to_string()), ("0.00030001".into(), "0.00002769".into()));
    }

    #[test]
    fn a_tie_goes_to_the_even_unit_and_a_hold_goes_up() {
        let tie = |input| Tokens::new(input, 1_023, 212);
        // 230,925 and 230,775 of 1e-9 USD: 23,092.5 falls to 23,092 and 23,077.5 rises to 23,078.
        assert_eq!(tie(180).cost().charge.units(), 23_092 + 6_927);
        assert_eq!(tie(179).cost().charge.units(), 23_078 + 6_923);
        assert_eq!(tie(180).bound().units(), 23_093 + 6_927);
    }

    /// The ledger's own rating must come to the same, or one of the two is wrong.
    #[test]
    fn the_seeded_prices_give_the_same_costs() {
        use modelfaucet_schema::usage::Usage;
        let card = crate::seed::rate_card().unwrap();
        let offer = card.iter().find(|rates| rates.model == MODEL).unwrap();
        assert_eq!(offer.provider.to_string(), PROVIDER);
        for (input, cached, output) in [(178, 1_025, 212), (0, 1, 0), (1, 1, 1), (7, 3, 0), (999_999, 1, 12_345)] {
            let usage = Usage { input_uncached: input, cache_read: cached, ..Usage::text(0, output) };
            let usage = Usage { input_uncached: input, output_text: output, ..usage };
            let upstream = offer.exact_cost(&usage).unwrap().round().unwrap().units();
            let signed = |count: u64| i64::try_from(count).unwrap();
            let cost = Tokens::new(signed(input), signed(cached), signed(output)).cost();
            assert_eq!(cost.charge.units(), upstream + upstream * 3 / 10, "{usage:?}");
        }
    }
}
