//! Prices as they stand in a file: decimal digits, read as text. A binary fraction never comes near them.

use std::fmt;
use std::str::FromStr;

use modelfaucet_schema::rate::{InvalidRate, Rate};

/// Digits that a price is taken at. What a program printed beyond them is dust of its floating-point arithmetic.
const SIGNIFICANT: usize = 12;
/// The largest exponent that is read, either way.
const MAX_EXPONENT: i32 = 60;
/// The longest text that is read.
const MAX_LENGTH: usize = 64;

/// A decimal number that is not negative: `digits × 10^exponent`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Number {
    /// Without zeros at either end; empty for zero.
    digits: Vec<u8>,
    exponent: i32,
}

/// Not a number that can be a price.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a number of zero or more")]
pub(super) struct NotANumber;

impl Number {
    /// Is it nothing?
    pub(super) fn is_zero(&self) -> bool {
        self.digits.is_empty()
    }

    /// The number with twelve significant digits, rounded half to even, where it has more.
    pub(super) fn without_dust(&self) -> Self {
        let Some((kept, dropped)) =
            self.digits.split_at_checked(SIGNIFICANT).filter(|(_, dropped)| !dropped.is_empty())
        else {
            return self.clone();
        };
        let above_half = match dropped.split_first() {
            Some((5, rest)) => !rest.is_empty() || kept.last().is_some_and(|digit| digit % 2 == 1),
            Some((first, _)) => *first > 5,
            None => false,
        };
        let mut digits = kept.to_vec();
        if above_half {
            for digit in digits.iter_mut().rev() {
                *digit = (*digit + 1) % 10;
                if *digit != 0 {
                    break;
                }
            }
            if digits.first() == Some(&0) {
                digits.insert(0, 1);
            }
        }
        let moved = i32::try_from(dropped.len()).unwrap_or(MAX_EXPONENT);
        Self::normal(digits, self.exponent + moved)
    }

    /// The price per thing.
    ///
    /// # Errors
    /// [`InvalidRate`] if it is finer than 1e-15 USD or too large.
    pub(super) fn rate(&self) -> Result<Rate, InvalidRate> {
        self.to_string().parse()
    }

    /// A whole number, if it is one.
    pub(super) fn whole(&self) -> Option<u64> {
        if self.exponent < 0 { None } else { self.to_string().parse().ok() }
    }

    fn normal(mut digits: Vec<u8>, mut exponent: i32) -> Self {
        while digits.last() == Some(&0) {
            digits.pop();
            exponent += 1;
        }
        let zeros = digits.iter().take_while(|digit| **digit == 0).count();
        digits.drain(..zeros);
        if digits.is_empty() {
            exponent = 0;
        }
        Self { digits, exponent }
    }
}

impl FromStr for Number {
    type Err = NotANumber;

    fn from_str(text: &str) -> Result<Self, NotANumber> {
        if text.len() > MAX_LENGTH {
            return Err(NotANumber);
        }
        let (mantissa, power) = match text.split_once(['e', 'E']) {
            Some((mantissa, power)) => (mantissa, power.parse::<i32>().map_err(|_| NotANumber)?),
            None => (text, 0),
        };
        let (whole, part) = mantissa.split_once('.').unwrap_or((mantissa, ""));
        let plain = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
        if whole.is_empty() || !plain(whole) || !plain(part) || mantissa.ends_with('.') {
            return Err(NotANumber);
        }
        let decimals = i32::try_from(part.len()).map_err(|_| NotANumber)?;
        if power.checked_abs().is_none_or(|power| power > MAX_EXPONENT) {
            return Err(NotANumber);
        }
        Ok(Self::normal(whole.bytes().chain(part.bytes()).map(|byte| byte - b'0').collect(), power - decimals))
    }
}

impl fmt::Display for Number {
    /// Plain digits, no exponent.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text: String = self.digits.iter().map(|digit| char::from(b'0' + digit)).collect();
        let places = usize::try_from(self.exponent.unsigned_abs()).unwrap_or_default();
        if self.exponent >= 0 {
            text.extend(std::iter::repeat_n('0', places));
        } else {
            let missing = (places + 1).saturating_sub(text.len());
            text.insert_str(0, &"0".repeat(missing));
            text.insert(text.len() - places, '.');
        }
        f.write_str(if text.is_empty() { "0" } else { &text })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn number(text: &str) -> Number {
        text.parse().unwrap()
    }

    #[test]
    fn numbers_are_read_as_they_stand() {
        for (text, plain) in [
            ("0", "0"),
            ("0.0", "0"),
            ("0e9", "0"),
            ("1.25e-06", "0.00000125"),
            ("5E-8", "0.00000005"),
            ("3e+2", "300"),
            ("256000.0", "256000"),
            ("0.10", "0.1"),
            ("12.5", "12.5"),
            ("007", "7"),
            ("2.0751953125e-09", "0.0000000020751953125"),
        ] {
            assert_eq!(number(text).to_string(), plain, "{text}");
        }
        for text in
            ["", "-1", "-0", "+1", ".5", "1.", "1e", "e5", "1e99", "1e-61", "NaN", "inf", "0x1", "1_0", "1 ", "1e5.0"]
        {
            assert_eq!(text.parse::<Number>(), Err(NotANumber), "{text}");
        }
        assert!("1".repeat(65).parse::<Number>().is_err());
        assert_eq!(
            (number("256000.0").whole(), number("0.5").whole(), number("1e30").whole()),
            (Some(256_000), None, None)
        );
    }

    /// The first digits and the power of ten, for numbers of at most 30 digits.
    fn parts(number: &Number) -> (u128, i32) {
        (number.digits.iter().fold(0, |sum, digit| sum * 10 + u128::from(*digit)), number.exponent)
    }

    proptest! {
        #[test]
        fn a_number_survives_its_text(digits in "[0-9]{1,25}", decimals in 0_usize..25, power in -20_i32..20) {
            let (whole, part) = digits.split_at(digits.len().saturating_sub(decimals).max(1));
            let dot = if part.is_empty() { "" } else { "." };
            let read = number(&format!("{whole}{dot}{part}e{power}"));
            prop_assert_eq!(number(&read.to_string()), read.clone());
            // The digits are those that were written, and the point is where it was.
            let written: u128 = digits.parse().unwrap();
            let (value, exponent) = parts(&read);
            let shift = u32::try_from(exponent - (power - i32::try_from(part.len()).unwrap())).unwrap_or_default();
            prop_assert_eq!(value * 10_u128.pow(if written == 0 { 0 } else { shift }), written);
        }

        #[test]
        fn a_cut_moves_by_half_of_the_last_digit_at_most(digits in "[1-9][0-9]{0,24}", power in -40_i32..0) {
            let full = number(&format!("{digits}e{power}"));
            let clean = full.without_dust();
            prop_assert!(clean.digits.len() <= SIGNIFICANT);
            let value: u128 = digits.parse().unwrap();
            let (kept, exponent) = parts(&clean);
            let unit = 10_u128.pow(u32::try_from(digits.len().saturating_sub(SIGNIFICANT)).unwrap());
            let scaled = kept * 10_u128.pow(u32::try_from(exponent - power).unwrap());
            prop_assert!(scaled.abs_diff(value) * 2 <= unit);
            prop_assert_eq!(clean.without_dust(), clean.clone());
        }

        #[test]
        fn no_text_is_too_odd_to_be_refused(text in r"[0-9eE.+\-]{0,20}|\PC{0,80}") {
            if let Ok(number) = text.parse::<Number>() {
                prop_assert_eq!(number.to_string().parse::<Number>(), Ok(number));
            }
        }
    }

    #[test]
    fn dust_is_cut_and_nothing_else() {
        for (text, clean) in [
            ("5.0000000000000004E-8", "0.00000005"),
            ("9.499999999999999e-07", "0.00000095"),
            ("3.0001999999999996e-07", "0.00000030002"),
            ("8.33333333333e-05", "0.0000833333333333"),
            ("9.9999999999999e-07", "0.000001"),
            // Ties go to the even digit, and anything more goes up.
            ("1.000000000005e-06", "0.000001"),
            ("1.000000000015e-06", "0.00000100000000002"),
            ("1.0000000000050001e-06", "0.00000100000000001"),
            ("1.41953125e-07", "0.000000141953125"),
            ("0", "0"),
        ] {
            assert_eq!(number(text).without_dust().to_string(), clean, "{text}");
        }
        assert_eq!(number("5.0000000000000004E-8").without_dust().rate(), "0.00000005".parse());
        assert_eq!(number("2.0751953125e-09").rate(), Err(InvalidRate::TooManyDecimals));
        assert_eq!(number("1e20").rate(), Err(InvalidRate::TooLarge));
    }
}
