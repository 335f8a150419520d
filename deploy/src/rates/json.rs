//! JSON whose numbers stay text and whose members stay in order; a member that stands twice is an error.

use std::fmt;

use serde::de::{self, Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use super::number::Number;

/// The members of an object.
#[derive(Debug)]
pub(super) struct Members<'a>(pub(super) Vec<(String, &'a RawValue)>);

impl<'de> Deserialize<'de> for Members<'de> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Read;

        impl<'de> Visitor<'de> for Read {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut seen = std::collections::HashSet::new();
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if !seen.insert(name.clone()) {
                        return Err(de::Error::custom(format!("{name:?} stands twice")));
                    }
                    members.push((name, value));
                }
                Ok(Members(members))
            }
        }

        deserializer.deserialize_map(Read)
    }
}

/// What a member holds, as far as prices are concerned.
#[derive(Debug)]
pub(super) enum Value<'a> {
    /// `null`: as if it were not there.
    Absent,
    /// `true` or `false`.
    Flag(bool),
    /// A number, or a text that is one.
    Number(Number),
    /// A number that cannot be a price, for example a negative one.
    Odd,
    /// Any other text.
    Text(String),
    /// An object.
    Object(Members<'a>),
    /// A list.
    List(Vec<&'a RawValue>),
}

impl<'a> Value<'a> {
    /// Reads a value. The text has been parsed as JSON before.
    pub(super) fn of(raw: &'a RawValue) -> Result<Self, serde_json::Error> {
        let text = raw.get();
        Ok(match text.as_bytes().first() {
            Some(b'n') => Self::Absent,
            Some(b't') => Self::Flag(true),
            Some(b'f') => Self::Flag(false),
            Some(b'{') => Self::Object(serde_json::from_str(text)?),
            Some(b'[') => Self::List(serde_json::from_str(text)?),
            Some(b'"') => {
                let text: String = serde_json::from_str(text)?;
                let looks_like_one = text.trim_start_matches('-').starts_with(|c: char| c.is_ascii_digit());
                match text.parse() {
                    Ok(number) => Self::Number(number),
                    Err(_)
                        if looks_like_one && text.chars().all(|c| "0123456789.eE+-".contains(c)) && !is_date(&text) =>
                    {
                        Self::Odd
                    }
                    Err(_) => Self::Text(text),
                }
            }
            _ => text.parse().map_or(Self::Odd, Self::Number),
        })
    }
}

/// Of the form 2026-11-24.
fn is_date(text: &str) -> bool {
    text.len() == 10
        && text
            .bytes()
            .enumerate()
            .all(|(at, byte)| if at == 4 || at == 7 { byte == b'-' } else { byte.is_ascii_digit() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kind(text: &str) -> String {
        let raw: &RawValue = serde_json::from_str(text).unwrap();
        format!("{:?}", Value::of(raw).unwrap()).chars().take_while(|c| c.is_alphabetic()).collect()
    }

    #[test]
    fn values_are_known_by_their_text() {
        for (text, expected) in [
            ("null", "Absent"),
            ("true", "Flag"),
            ("1e-7", "Number"),
            (r#""1e-7""#, "Number"),
            ("-1", "Odd"),
            (r#""-1e-7""#, "Odd"),
            ("1e999", "Odd"),
            (r#""2026-11-24""#, "Text"),
            (r#""3 per day""#, "Text"),
            (r#""""#, "Text"),
            ("{}", "Object"),
            ("[1]", "List"),
        ] {
            assert_eq!(kind(text), expected, "{text}");
        }
        let error = serde_json::from_str::<Members<'_>>(r#"{"a":1,"b":2,"a":1}"#).unwrap_err();
        assert!(error.to_string().starts_with("\"a\" stands twice"), "{error}");
    }
}
