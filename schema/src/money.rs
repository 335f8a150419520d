//! Money: an exact count of units of 1e-8 USD. On the wire a decimal string with exactly eight decimals; never a float.

use std::fmt;
use std::str::FromStr;

use rust_decimal::Decimal;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::text;

/// Units in one dollar.
pub const UNITS_PER_USD: i64 = 100_000_000;
/// Units in one cent; what leaves or enters through a bank or card comes in whole cents.
pub const UNITS_PER_CENT: i64 = 1_000_000;

/// An amount of USD in units of 1e-8, positive or negative. Holds up to ± 92 billion dollars.
///
/// Arithmetic is checked: every operation that can leave the range says so.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, example = "0.00030001", pattern = r"^-?(0|[1-9]\d*)\.\d{8}$")]
pub struct Money(i64);

impl Money {
    /// No money.
    pub const ZERO: Self = Self(0);
    /// The most there can be.
    pub const MAX: Self = Self(i64::MAX);
    /// The largest amount that one request may name: one hundred million dollars.
    pub const MAX_REQUEST: Self = Self(100_000_000 * UNITS_PER_USD);

    /// The amount of `units` × 1e-8 USD.
    pub const fn from_units(units: i64) -> Self {
        Self(units)
    }

    /// The amount of `dollars` whole dollars, or `None` if that is out of range.
    pub fn from_dollars(dollars: i64) -> Option<Self> {
        dollars.checked_mul(UNITS_PER_USD).map(Self)
    }

    /// How many units of 1e-8 USD.
    pub const fn units(self) -> i64 {
        self.0
    }

    /// The sum, or `None` if it is out of range.
    pub const fn checked_add(self, other: Self) -> Option<Self> {
        match self.0.checked_add(other.0) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// The difference, or `None` if it is out of range.
    pub const fn checked_sub(self, other: Self) -> Option<Self> {
        match self.0.checked_sub(other.0) {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// The amount with its sign turned, or `None` for the one amount that has no opposite.
    pub const fn checked_neg(self) -> Option<Self> {
        match self.0.checked_neg() {
            Some(units) => Some(Self(units)),
            None => None,
        }
    }

    /// `⌊self × bps / 10⁴⌋` for an amount that is not negative (accounting rule: shares and markups are floored).
    ///
    /// Returns `None` for a negative amount or a result out of range.
    pub fn share_bps(self, bps: BasisPoints) -> Option<Self> {
        if self.0 < 0 {
            return None;
        }
        let share = i128::from(self.0).checked_mul(i128::from(bps.get()))?.checked_div(10_000)?;
        i64::try_from(share).ok().map(Self)
    }

    /// Above zero?
    pub const fn is_positive(self) -> bool {
        self.0 > 0
    }

    /// Below zero?
    pub const fn is_negative(self) -> bool {
        self.0 < 0
    }

    /// Nothing?
    pub const fn is_zero(self) -> bool {
        self.0 == 0
    }

    /// A whole number of cents?
    pub const fn is_whole_cents(self) -> bool {
        self.0 % UNITS_PER_CENT == 0
    }

    /// The amount as a decimal number of dollars with eight decimals.
    pub fn to_decimal(self) -> Decimal {
        Decimal::new(self.0, 8)
    }

    /// Parses an amount that a request may carry: `^(0|[1-9]\d*)(\.\d{1,8})?$`, at most [`Money::MAX_REQUEST`].
    ///
    /// # Errors
    /// [`InvalidMoney`] for a sign, an exponent, a leading zero, a ninth decimal, blanks, or too large an amount.
    pub fn parse_request(text: &str) -> Result<Self, InvalidMoney> {
        if text.starts_with('-') {
            return Err(InvalidMoney::Form);
        }
        let money: Self = text.parse()?;
        if money > Self::MAX_REQUEST { Err(InvalidMoney::TooLarge) } else { Ok(money) }
    }
}

impl std::iter::Sum for Money {
    /// Saturating, for display only; books are added with [`Money::checked_add`].
    fn sum<I: Iterator<Item = Self>>(iter: I) -> Self {
        Self(iter.fold(0_i64, |sum, money| sum.saturating_add(money.0)))
    }
}

impl fmt::Display for Money {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; MONEY_TEXT];
        f.pad(write_units(self.0, &mut buffer))
    }
}

/// Longest text of an amount: sign, 11 digits, point, 8 digits.
const MONEY_TEXT: usize = 24;

/// Writes the eight-decimal text from the right end of the buffer.
fn write_units(units: i64, buffer: &mut [u8; MONEY_TEXT]) -> &str {
    let mut rest = units.unsigned_abs();
    let mut at = MONEY_TEXT;
    let mut digits = 0;
    while rest > 0 || digits < 9 {
        if digits == 8 {
            at -= 1;
            buffer[at] = b'.';
        }
        at -= 1;
        buffer[at] = b'0' + u8::try_from(rest % 10).unwrap_or(0);
        rest /= 10;
        digits += 1;
    }
    if units < 0 {
        at -= 1;
        buffer[at] = b'-';
    }
    std::str::from_utf8(&buffer[at..]).unwrap_or("?")
}

impl FromStr for Money {
    type Err = InvalidMoney;

    /// Parses `-?(0|[1-9]\d*)(\.\d{1,8})?`.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        // 11 digits, point, 8 decimals and a sign fit in 21 characters: longer is refused before it is looked at.
        if text.is_empty() || text.len() > 32 {
            return Err(if text.is_empty() { InvalidMoney::Form } else { InvalidMoney::TooLarge });
        }
        let (negative, digits) = match text.strip_prefix('-') {
            Some(rest) => (true, rest),
            None => (false, text),
        };
        let (whole, fraction) = match digits.split_once('.') {
            Some((_, "")) => return Err(InvalidMoney::Form),
            Some((whole, fraction)) => (whole, fraction),
            None => (digits, ""),
        };
        if whole.is_empty() || (whole.len() > 1 && whole.starts_with('0')) {
            return Err(InvalidMoney::Form);
        }
        if !whole.bytes().chain(fraction.bytes()).all(|byte| byte.is_ascii_digit()) {
            return Err(InvalidMoney::Form);
        }
        if fraction.len() > 8 {
            return Err(InvalidMoney::TooManyDecimals);
        }
        let whole: i64 = whole.parse().map_err(|_| InvalidMoney::TooLarge)?;
        let mut part: i64 = 0;
        for index in 0..8 {
            let digit = fraction.as_bytes().get(index).map_or(0, |byte| i64::from(byte - b'0'));
            part = part * 10 + digit;
        }
        let units =
            whole.checked_mul(UNITS_PER_USD).and_then(|units| units.checked_add(part)).ok_or(InvalidMoney::TooLarge)?;
        if negative && units == 0 {
            return Err(InvalidMoney::Form);
        }
        Ok(Self(if negative { -units } else { units }))
    }
}

/// Why a text is not an amount.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMoney {
    /// Not a plain decimal number.
    #[error("must be a decimal string such as \"12.34000000\" without sign, exponent, blanks or leading zeros")]
    Form,
    /// A ninth decimal.
    #[error("must have at most 8 decimals")]
    TooManyDecimals,
    /// Out of range.
    #[error("is too large")]
    TooLarge,
}

impl Serialize for Money {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() {
            let mut buffer = [0; MONEY_TEXT];
            serializer.serialize_str(write_units(self.0, &mut buffer))
        } else {
            serializer.serialize_i64(self.0)
        }
    }
}

impl<'de> Deserialize<'de> for Money {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl de::Visitor<'_> for Text {
            type Value = Money;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a decimal string with at most eight decimals")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Money, E> {
                text.parse().map_err(|error: InvalidMoney| E::custom(format!("amount {error}")))
            }

            fn visit_i64<E: de::Error>(self, units: i64) -> Result<Money, E> {
                Ok(Money(units))
            }
        }
        if deserializer.is_human_readable() {
            deserializer.deserialize_str(Text)
        } else {
            deserializer.deserialize_i64(Text)
        }
    }
}

/// An amount as a request may carry it: not negative, bounded (see [`Money::parse_request`]).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "10.00", pattern = r"^(0|[1-9]\d*)(\.\d{1,8})?$")]
pub struct RequestMoney(pub Money);

impl FromStr for RequestMoney {
    type Err = InvalidMoney;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Money::parse_request(text).map(Self)
    }
}

impl<'de> Deserialize<'de> for RequestMoney {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "amount")
    }
}

/// Hundredths of a percent, 0 to 100,000 (ten times the base).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
pub struct BasisPoints(u32);

impl BasisPoints {
    /// The largest markup: ten times the cost.
    pub const MAX: u32 = 100_000;
    /// The whole.
    pub const WHOLE: Self = Self(10_000);

    /// `bps` hundredths of a percent, or `None` above [`BasisPoints::MAX`].
    pub const fn new(bps: u32) -> Option<Self> {
        if bps > Self::MAX { None } else { Some(Self(bps)) }
    }

    /// The number of hundredths of a percent.
    pub const fn get(self) -> u32 {
        self.0
    }
}

impl<'de> Deserialize<'de> for BasisPoints {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bps = u32::deserialize(deserializer)?;
        Self::new(bps).ok_or_else(|| de::Error::custom("basis points must be between 0 and 100000"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_wire_form_is_a_string_with_eight_decimals() {
        for (units, text) in [
            (0, "0.00000000"),
            (1, "0.00000001"),
            (-1, "-0.00000001"),
            (30_001, "0.00030001"),
            (UNITS_PER_USD, "1.00000000"),
            (i64::MAX, "92233720368.54775807"),
            (i64::MIN, "-92233720368.54775808"),
        ] {
            assert_eq!(Money(units).to_string(), text);
            assert_eq!(serde_json::to_string(&Money(units)).unwrap(), format!("\"{text}\""));
        }
    }

    #[test]
    fn what_is_not_an_amount_is_refused() {
        for text in [
            "",
            " ",
            "1 ",
            "+1",
            "1.",
            ".5",
            "01",
            "00",
            "1e3",
            "1E-9",
            "NaN",
            "-0",
            "-0.0",
            "1,0",
            "0x1",
            "1.123456789",
            "١",
            "92233720368.54775808",
            "--1",
            "1.-1",
        ] {
            assert!(text.parse::<Money>().is_err(), "{text}");
        }
        assert_eq!("9".repeat(10_000).parse::<Money>(), Err(InvalidMoney::TooLarge));
        assert!(Money::parse_request("-1").is_err());
        assert_eq!(Money::parse_request("100000000.00000001"), Err(InvalidMoney::TooLarge));
        assert!(serde_json::from_str::<Money>("1.5").is_err(), "a JSON number is a float in most clients");
    }

    #[test]
    fn shares_are_floored() {
        let share = |units, bps| Money(units).share_bps(BasisPoints::new(bps).unwrap()).map(Money::units);
        assert_eq!(share(23_078, 3_000), Some(6_923));
        assert_eq!(share(i64::MAX, 10_000), Some(i64::MAX));
        assert_eq!(share(i64::MAX, 10_001), None);
        assert_eq!(share(-1, 1), None);
    }

    proptest! {
        #[test]
        fn text_and_units_are_the_same(units in any::<i64>().prop_filter("has an opposite", |u| *u != i64::MIN)) {
            let money = Money(units);
            prop_assert_eq!(money.to_string().parse::<Money>(), Ok(money));
            prop_assert_eq!(money.to_decimal().to_string(), money.to_string());
            let json = serde_json::to_string(&money).unwrap();
            prop_assert_eq!(serde_json::from_str::<Money>(&json).unwrap(), money);
        }
    }
}
