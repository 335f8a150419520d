//! Values whose stored form is a text: written and read without a copy of it on the heap.

use std::fmt::{self, Display, Write as _};
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserializer, Serializer, de};

/// Reads a text and parses it. `what` stands before the parser's complaint, as in `amount must be …`; empty for nothing.
///
/// # Errors
/// The parser's, or that it is no text.
pub(crate) fn parse<'de, D: Deserializer<'de>, T>(deserializer: D, what: &'static str) -> Result<T, D::Error>
where
    T: FromStr<Err: Display>,
{
    struct Text<T>(&'static str, PhantomData<T>);

    impl<T: FromStr<Err: Display>> de::Visitor<'_> for Text<T> {
        type Value = T;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a string")
        }

        fn visit_str<E: de::Error>(self, text: &str) -> Result<T, E> {
            text.parse().map_err(|error| match self.0 {
                "" => E::custom(error),
                what => E::custom(format_args!("{what} {error}")),
            })
        }
    }

    deserializer.deserialize_str(Text(what, PhantomData))
}

/// Longer than any text of fixed size that is written: `2210:` and a UUID have 41 bytes, a hash with its prefix 71.
const SHORT: usize = 80;

/// Writes a value as its text.
///
/// # Errors
/// The serializer's.
pub(crate) fn write<S: Serializer>(value: &impl Display, serializer: S) -> Result<S::Ok, S::Error> {
    let mut short = Short { bytes: [0; SHORT], length: 0 };
    if write!(short, "{value}").is_ok()
        && let Ok(text) = std::str::from_utf8(&short.bytes[..short.length])
    {
        return serializer.serialize_str(text);
    }
    serializer.collect_str(value)
}

/// A text on the stack; refuses what does not fit.
struct Short {
    bytes: [u8; SHORT],
    length: usize,
}

impl fmt::Write for Short {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        let end = self.length + text.len();
        self.bytes.get_mut(self.length..end).ok_or(fmt::Error)?.copy_from_slice(text.as_bytes());
        self.length = end;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Long(usize);

    impl Display for Long {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            (0..self.0).try_for_each(|_| f.write_str("ü"))
        }
    }

    impl serde::Serialize for Long {
        fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
            write(self, serializer)
        }
    }

    #[test]
    fn texts_of_any_length_are_written_whole() {
        for length in [0, 1, SHORT / 2, SHORT / 2 + 1, 1_000] {
            assert_eq!(serde_json::to_string(&Long(length)).unwrap(), format!("\"{}\"", "ü".repeat(length)));
        }
    }
}
