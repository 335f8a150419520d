//! A JSON object as a list of raw members: what we do not know passes byte for byte, what we set is set.

use std::fmt;

use serde::de::{self, Deserializer, MapAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

/// The members of an object in their order. Of members with one name the last is kept, as most readers do.
#[derive(Clone, Debug)]
pub(crate) struct Members<'a>(Vec<(String, Raw<'a>)>);

#[derive(Clone, Debug)]
enum Raw<'a> {
    Borrowed(&'a RawValue),
    Own(String),
}

impl Raw<'_> {
    fn text(&self) -> &str {
        match self {
            Self::Borrowed(raw) => raw.get(),
            Self::Own(text) => text,
        }
    }
}

impl<'de: 'a, 'a> Deserialize<'de> for Members<'a> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a JSON object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members: Vec<(String, Raw<'de>)> = Vec::with_capacity(16);
                while let Some((name, value)) = map.next_entry::<String, &'de RawValue>()? {
                    if members.len() >= 1_024 {
                        return Err(de::Error::custom("the object has more than 1024 members"));
                    }
                    match members.iter_mut().find(|(known, _)| *known == name) {
                        Some((_, known)) => *known = Raw::Borrowed(value),
                        None => members.push((name, Raw::Borrowed(value))),
                    }
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

impl<'a> Members<'a> {
    /// Reads an object.
    ///
    /// # Errors
    /// The parser's, for what is no JSON object.
    pub(crate) fn parse(bytes: &'a [u8]) -> serde_json::Result<Self> {
        serde_json::from_slice(bytes)
    }

    /// The JSON text of a member.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| value.text())
    }

    /// The JSON text of a member that is there and not null.
    pub(crate) fn present(&self, name: &str) -> Option<&str> {
        self.get(name).filter(|text| *text != "null")
    }

    /// A member as `T`: `None` if it is absent or null.
    ///
    /// # Errors
    /// The parser's, for a member of another type.
    pub(crate) fn read<'s, T: Deserialize<'s>>(&'s self, name: &str) -> serde_json::Result<Option<T>> {
        self.present(name).map(serde_json::from_str).transpose()
    }

    /// The names.
    pub(crate) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|(name, _)| name.as_str())
    }

    /// Sets a member to a JSON text.
    pub(crate) fn set_raw(&mut self, name: &str, text: String) {
        match self.0.iter_mut().find(|(known, _)| known == name) {
            Some((_, value)) => *value = Raw::Own(text),
            None => self.0.push((name.to_owned(), Raw::Own(text))),
        }
    }

    /// Sets a member.
    pub(crate) fn set(&mut self, name: &str, value: &impl Serialize) {
        // The values are texts, numbers and structures of ours, which always serialize.
        if let Ok(text) = serde_json::to_string(value) {
            self.set_raw(name, text);
        }
    }

    /// Takes a member away.
    pub(crate) fn remove(&mut self, name: &str) {
        self.0.retain(|(known, _)| known != name);
    }

    /// The object as JSON.
    pub(crate) fn to_bytes(&self) -> Vec<u8> {
        let length = self.0.iter().map(|(name, value)| name.len() + value.text().len() + 8).sum();
        let mut bytes = Vec::with_capacity(length);
        for (index, (name, value)) in self.0.iter().enumerate() {
            bytes.push(if index == 0 { b'{' } else { b',' });
            let name = serde_json::to_string(name).unwrap_or_default();
            bytes.extend_from_slice(name.as_bytes());
            bytes.push(b':');
            bytes.extend_from_slice(value.text().as_bytes());
        }
        if self.0.is_empty() {
            bytes.push(b'{');
        }
        bytes.push(b'}');
        bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::Value;

    #[test]
    fn what_is_not_touched_stays_as_it_is() {
        let text = br#"{"a": 1.50, "b":{"x":[1e3,"\u00e9"]} ,"a":2, "c":null}"#;
        let mut members = Members::parse(text).unwrap();
        assert_eq!((members.get("a"), members.present("c"), members.get("d")), (Some("2"), None, None));
        members.set("model", &"m\"");
        members.remove("c");
        let bytes = String::from_utf8(members.to_bytes()).unwrap();
        assert_eq!(bytes, r#"{"a":2,"b":{"x":[1e3,"\u00e9"]},"model":"m\""}"#);
        assert_eq!(Members::parse(b" {} ").unwrap().to_bytes(), b"{}");
        assert!(Members::parse(b"[]").is_err() && Members::parse(b"{}x").is_err());
    }

    fn json() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![Just(Value::Null), any::<i64>().prop_map(Value::from), ".{0,6}".prop_map(Value::from)];
        leaf.prop_recursive(2, 8, 4, |inner| proptest::collection::vec(inner, 0..4).prop_map(Value::from))
    }

    proptest! {
        #[test]
        fn an_edit_changes_one_member(object in proptest::collection::btree_map(".{0,4}", json(), 0..6), name in ".{0,4}") {
            let text = serde_json::to_vec(&object).unwrap();
            let mut members = Members::parse(&text).unwrap();
            prop_assert_eq!(serde_json::from_slice::<Value>(&members.to_bytes()).unwrap(), serde_json::to_value(&object).unwrap());
            members.set(&name, &7);
            let mut expected = object.clone();
            expected.insert(name.clone(), Value::from(7));
            prop_assert_eq!(serde_json::from_slice::<Value>(&members.to_bytes()).unwrap(), serde_json::to_value(&expected).unwrap());
        }
    }
}
