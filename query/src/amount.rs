//! Totals. One amount fits in 64 bits; the sum of what all accounts turned over in years need not.

use std::fmt;
use std::str::FromStr;

use serde::{Serialize, Serializer};

/// Units of 1e-8 USD in one dollar.
const UNITS_PER_USD: u128 = 100_000_000;

/// A sum of amounts in units of 1e-8 USD; printed like [`modelfaucet_schema::money::Money`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String, example = "0.00030001", pattern = r"^-?(0|[1-9]\d*)\.\d{8}$")]
pub(crate) struct Total(i128);

impl Total {
    /// The sum; saturates far beyond all money there is.
    #[must_use]
    pub(crate) fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// The difference; saturates like [`Total::plus`].
    #[must_use]
    pub(crate) fn minus(self, other: Self) -> Self {
        Self(self.0.saturating_sub(other.0))
    }

    /// Nothing?
    pub(crate) fn is_zero(self) -> bool {
        self.0 == 0
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:08}", units / UNITS_PER_USD, units % UNITS_PER_USD)
    }
}

impl FromStr for Total {
    type Err = std::num::ParseIntError;

    /// Parses units, as the database sums them.
    fn from_str(units: &str) -> Result<Self, Self::Err> {
        units.parse().map(Self)
    }
}

impl Serialize for Total {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_print_like_money() {
        for (units, text) in [
            ("0", "0.00000000"),
            ("-1", "-0.00000001"),
            ("30001", "0.00030001"),
            ("92233720368547758080", "922337203685.47758080"),
        ] {
            assert_eq!(units.parse::<Total>().unwrap().to_string(), text);
        }
    }
}
