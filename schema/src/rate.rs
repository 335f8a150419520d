//! Prices per token at full precision, and what they add up to before the one rounding.
//!
//! A [`Rate`] has at most 15 decimals; sums of `count × rate` are exact integers of 1e-15 USD.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::money::Money;
use crate::text;

/// Decimals of a rate.
const RATE_DECIMALS: u32 = 15;
/// 1e-15 USD in one unit of money (1e-8 USD).
const FEMTO_PER_UNIT: i128 = 10_000_000;

/// A price per token (or per request, image, …) in units of 1e-15 USD; not negative, at most 9,223 USD.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, example = "0.00000015")]
pub struct Rate(i64);

impl Rate {
    /// Free. Only an operator says so, never a missing price.
    pub const FREE: Self = Self(0);

    /// The price of `count` things, exactly.
    pub fn times(self, count: u64) -> ExactCost {
        ExactCost(i128::from(self.0).saturating_mul(i128::from(count)))
    }

    /// The rate of a price per million tokens, as price lists print it.
    ///
    /// # Errors
    /// [`InvalidRate`] if it has more than nine decimals or is out of range.
    pub fn per_million(usd: &str) -> Result<Self, InvalidRate> {
        let usd = Decimal::from_str_exact(usd).map_err(|_| InvalidRate::Form)?;
        Self::from_decimal(usd.checked_div(Decimal::from(1_000_000)).ok_or(InvalidRate::TooLarge)?)
    }

    /// The rate as a decimal number of dollars.
    pub fn to_decimal(self) -> Decimal {
        Decimal::new(self.0, RATE_DECIMALS).normalize()
    }

    fn from_decimal(usd: Decimal) -> Result<Self, InvalidRate> {
        let usd = usd.normalize();
        if usd.is_sign_negative() && !usd.is_zero() {
            return Err(InvalidRate::Form);
        }
        let missing = RATE_DECIMALS.checked_sub(usd.scale()).ok_or(InvalidRate::TooManyDecimals)?;
        10_i128
            .checked_pow(missing)
            .and_then(|factor| usd.mantissa().checked_mul(factor))
            .and_then(|femto| i64::try_from(femto).ok())
            .map(Self)
            .ok_or(InvalidRate::TooLarge)
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.to_decimal().fmt(f)
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let plain =
            !text.is_empty() && text.len() <= 32 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.');
        if !plain || text.starts_with('.') || text.ends_with('.') {
            return Err(InvalidRate::Form);
        }
        Self::from_decimal(Decimal::from_str_exact(text).map_err(|_| InvalidRate::Form)?)
    }
}

/// Why a text is not a rate.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidRate {
    /// Not a plain decimal number.
    #[error("must be a plain decimal string such as \"0.00000015\"")]
    Form,
    /// Finer than 1e-15.
    #[error("must have at most 15 decimals")]
    TooManyDecimals,
    /// Out of range.
    #[error("is too large")]
    TooLarge,
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { text::write(self, serializer) } else { serializer.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            text::parse(deserializer, "rate")
        } else {
            i64::deserialize(deserializer).map(Self)
        }
    }
}

/// A sum of `count × rate` in units of 1e-15 USD, before rounding. Never negative.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, example = "0.000230775")]
pub struct ExactCost(i128);

impl ExactCost {
    /// Nothing.
    pub const ZERO: Self = Self(0);

    /// The sum.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        Self(self.0.saturating_add(other.0))
    }

    /// Units of 1e-15 USD.
    pub const fn femto(self) -> i128 {
        self.0
    }

    /// The one rounding per usage: half to even, to 1e-8 USD. `None` if that is more than money can hold.
    pub fn round(self) -> Option<Money> {
        let (quotient, rest) = (self.0 / FEMTO_PER_UNIT, self.0 % FEMTO_PER_UNIT);
        let up = match (2 * rest).cmp(&FEMTO_PER_UNIT) {
            std::cmp::Ordering::Less => 0,
            std::cmp::Ordering::Equal => quotient & 1,
            std::cmp::Ordering::Greater => 1,
        };
        i64::try_from(quotient + up).ok().map(Money::from_units)
    }

    /// The next unit of money at or above: what a hold sets aside.
    pub fn round_up(self) -> Option<Money> {
        let up = i128::from(self.0 % FEMTO_PER_UNIT != 0);
        i64::try_from(self.0 / FEMTO_PER_UNIT + up).ok().map(Money::from_units)
    }
}

impl fmt::Display for ExactCost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let femto_per_usd = 10_i128.pow(RATE_DECIMALS);
        let (whole, part) = (self.0 / femto_per_usd, self.0 % femto_per_usd);
        if part == 0 {
            return write!(f, "{whole}");
        }
        let digits = format!("{part:015}");
        write!(f, "{whole}.{}", digits.trim_end_matches('0'))
    }
}

impl FromStr for ExactCost {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 48 {
            return Err(InvalidRate::TooLarge);
        }
        let (whole, part) = text.split_once('.').unwrap_or((text, ""));
        if part.len() > 15 {
            return Err(InvalidRate::TooManyDecimals);
        }
        if whole.is_empty() || !whole.bytes().chain(part.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidRate::Form);
        }
        let whole: i128 = whole.parse().map_err(|_| InvalidRate::TooLarge)?;
        // At most 15 digits; the places that are not written are zeros.
        let mut femto = part.bytes().fold(0_i64, |sum, digit| sum * 10 + i64::from(digit - b'0'));
        (part.len()..15).for_each(|_| femto *= 10);
        let whole = whole.checked_mul(10_i128.pow(RATE_DECIMALS)).and_then(|whole| whole.checked_add(femto.into()));
        whole.map(Self).ok_or(InvalidRate::TooLarge)
    }
}

impl Serialize for ExactCost {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::write(self, serializer)
    }
}

impl<'de> Deserialize<'de> for ExactCost {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "exact cost")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn ties_go_to_the_even_unit() {
        // accounting.md section 4: 178 × 15 + 1,025 × 7.5 + 212 × 60 = 23,077.5 units.
        let rate = |text: &str| Rate::per_million(text).unwrap();
        let exact = |input, cached, output| {
            rate("0.15").times(input).plus(rate("0.075").times(cached)).plus(rate("0.60").times(output))
        };
        assert_eq!(exact(178, 1_025, 212).to_string(), "0.000230775");
        assert_eq!(exact(178, 1_025, 212).round().unwrap().units(), 23_078);
        assert_eq!(exact(180, 1_023, 212).round().unwrap().units(), 23_092);
        assert_eq!(exact(180, 1_023, 212).round_up().unwrap().units(), 23_093);
        assert_eq!(ExactCost::ZERO.to_string(), "0");
    }

    #[test]
    fn what_is_not_a_rate_is_refused() {
        for text in ["", "-1", "1e-7", ".5", "1.", "0.0000000000000001", "99999999999", "NaN", "1_0"] {
            assert!(text.parse::<Rate>().is_err(), "{text}");
        }
        assert_eq!("0.00000015".parse::<Rate>().unwrap(), Rate::per_million("0.15").unwrap());
    }

    proptest! {
        #[test]
        fn rates_and_costs_survive_their_text(femto in 0..i64::MAX, count in 0_u64..1_000_000_000) {
            let rate = Rate(femto);
            prop_assert_eq!(rate.to_string().parse::<Rate>(), Ok(rate));
            let cost = rate.times(count);
            prop_assert_eq!(cost.to_string().parse::<ExactCost>(), Ok(cost));
            prop_assert_eq!(cost.femto(), i128::from(femto) * i128::from(count));
        }

        #[test]
        fn rounding_moves_by_half_a_unit_at_most(femto in 0..i128::from(i64::MAX)) {
            let cost = ExactCost(femto);
            let rounded = i128::from(cost.round().unwrap().units()) * FEMTO_PER_UNIT;
            prop_assert!((rounded - femto).abs() * 2 <= FEMTO_PER_UNIT);
            prop_assert!(i128::from(cost.round_up().unwrap().units()) * FEMTO_PER_UNIT >= femto);
        }
    }
}
