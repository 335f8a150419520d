//! An answer before its charge is known: where the charge will stand in it, there is a mark.
//!
//! So an answer can be kept before the charge is made, and a repeat puts in what the log says of the charge.

use bytes::Bytes;
use http::{HeaderMap, HeaderName, HeaderValue};
use memchr::memmem;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::Stored;

/// What stands for the member `modelfaucet`: a text that nobody can foresee, so that no provider can write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Marker(String);

impl Marker {
    pub(crate) fn new() -> Self {
        Self(Uuid::new_v4().simple().to_string())
    }

    /// The mark as a member's value.
    pub(crate) fn value(&self) -> Value {
        Value::String(self.0.clone())
    }

    /// The bytes with the member where the mark stands.
    pub(crate) fn fill(&self, piece: &Bytes, ours: &Value) -> Bytes {
        let mark = format!("\"{}\"", self.0);
        match memmem::find(piece, mark.as_bytes()) {
            None => piece.clone(),
            Some(at) => {
                let ours = ours.to_string();
                let mut filled = Vec::with_capacity(piece.len() + ours.len());
                filled.extend_from_slice(&piece[..at]);
                filled.extend_from_slice(ours.as_bytes());
                filled.extend_from_slice(&piece[at + mark.len()..]);
                filled.into()
            }
        }
    }
}

/// The answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Draft {
    pub(crate) headers: HeaderMap,
    pub(crate) pieces: Vec<Bytes>,
    pub(crate) stream: bool,
    pub(crate) marker: Marker,
}

/// What stands before the pieces.
#[derive(Serialize, Deserialize)]
struct Preface {
    headers: Vec<(String, String)>,
    sizes: Vec<usize>,
    stream: bool,
    marker: Marker,
}

impl Draft {
    /// The answer as it goes out.
    pub(crate) fn complete(self, ours: &Value, further: HeaderMap) -> Stored {
        let pieces = self.pieces.iter().map(|piece| self.marker.fill(piece, ours)).collect();
        let mut headers = self.headers;
        headers.extend(further);
        Stored { headers, pieces, stream: self.stream }
    }

    /// Bytes of its pieces.
    pub(super) fn size(&self) -> usize {
        self.pieces.iter().map(Bytes::len).sum()
    }

    /// As bytes: a line of JSON, then the pieces one after the other. `None` if a header is no text.
    pub(super) fn write(&self) -> Option<Vec<u8>> {
        let text =
            |(name, value): (&HeaderName, &HeaderValue)| Some((name.to_string(), value.to_str().ok()?.to_owned()));
        let preface = Preface {
            headers: self.headers.iter().map(text).collect::<Option<_>>()?,
            sizes: self.pieces.iter().map(Bytes::len).collect(),
            stream: self.stream,
            marker: self.marker.clone(),
        };
        let mut bytes = serde_json::to_vec(&preface).ok()?;
        bytes.push(b'\n');
        self.pieces.iter().for_each(|piece| bytes.extend_from_slice(piece));
        Some(bytes)
    }

    /// From bytes; `None` for what is no answer.
    pub(super) fn read(bytes: &[u8]) -> Option<Self> {
        let end = memchr::memchr(b'\n', bytes)?;
        let preface: Preface = serde_json::from_slice(&bytes[..end]).ok()?;
        let mut rest = Bytes::copy_from_slice(&bytes[end + 1..]);
        let mut pieces = Vec::with_capacity(preface.sizes.len());
        for size in preface.sizes {
            if size > rest.len() {
                return None;
            }
            pieces.push(rest.split_to(size));
        }
        let mut headers = HeaderMap::new();
        for (name, value) in preface.headers {
            headers.append(HeaderName::try_from(name).ok()?, HeaderValue::try_from(value).ok()?);
        }
        rest.is_empty().then_some(Self { headers, pieces, stream: preface.stream, marker: preface.marker })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    #[test]
    fn the_charge_stands_where_the_mark_was() {
        let marker = Marker::new();
        let piece = |ours: &Value| Bytes::from(format!("{{\"a\":1,\"modelfaucet\":{ours}}}"));
        let comment = |ours: &Value| Bytes::from(format!(": modelfaucet {ours}\n\n"));
        let ours = json!({ "estimated_price_usd": "0.5", "request_id": "r" });
        let mark = marker.value();
        assert_eq!(marker.fill(&piece(&mark), &ours), piece(&ours));
        assert_eq!(marker.fill(&comment(&mark), &ours), comment(&ours));
        assert_eq!(marker.fill(&piece(&json!(1)), &ours), piece(&json!(1)));
    }

    proptest! {
        #[test]
        fn a_draft_is_read_as_it_was_written(
            pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..40), 0..6), stream: bool, cut in 0_usize..400,
        ) {
            let mut headers = HeaderMap::new();
            headers.insert("content-type", HeaderValue::from_static("text/event-stream"));
            headers.append("x-mf-attempts", HeaderValue::from_static("1"));
            let draft = Draft { headers, pieces: pieces.into_iter().map(Bytes::from).collect(), stream, marker: Marker::new() };
            let bytes = draft.write().unwrap();
            prop_assert_eq!(Draft::read(&bytes), Some(draft));
            if cut < bytes.len() {
                prop_assert_eq!(Draft::read(&bytes[..cut]), None);
            }
        }
    }
}
