//! What an id can be the id of.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use modelfaucet_schema::ids::HoldId;
use modelfaucet_schema::time::Timestamp;
use uuid::Uuid;

use crate::reading::Place;

/// Prefixes of Stripe's ids.
const OUTSIDE: [&str; 10] = ["evt_", "pi_", "cs_", "re_", "pyr_", "dp_", "du_", "txn_", "po_", "ch_"];

/// An id, as far as its form tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Asked {
    /// A place in the log.
    Event(Place),
    /// One of our ids.
    Id(Uuid),
    /// Stripe's.
    Outside(String),
    /// A request, ours or named by the client.
    Request(String),
}

impl Asked {
    /// Reads an id; what is nothing else is a request, since clients may name theirs as they like.
    pub(super) fn read(text: &str) -> Self {
        let text = text.trim();
        // An id as the log's stream names it: `wallet:…`.
        let id = text.rsplit_once(':').map_or(text, |(_, id)| id);
        if let Ok(id) = Uuid::parse_str(id)
            && id.as_hyphenated().to_string().len() == 36
        {
            return Self::Id(id);
        }
        if let Ok(place) = text.parse() {
            return Self::Event(place);
        }
        if OUTSIDE.iter().any(|prefix| text.starts_with(prefix)) {
            return Self::Outside(text.to_owned());
        }
        Self::Request(text.to_owned())
    }

    /// When it was made, if it tells.
    pub(super) fn made_at(&self) -> Option<Timestamp> {
        match self {
            Self::Id(id) => made_at(*id),
            Self::Request(id) => {
                let bytes = URL_SAFE_NO_PAD.decode(id.strip_prefix("req_")?).ok()?;
                made_at(Uuid::from_slice(&bytes).ok()?)
            }
            Self::Event(_) | Self::Outside(_) => None,
        }
    }
}

/// The time inside an id of version 7.
pub(super) fn made_at(id: Uuid) -> Option<Timestamp> {
    HoldId(id).made_at()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_form_is_known() {
        let id = Uuid::now_v7();
        for text in [id.to_string(), format!("wallet:{id}"), id.simple().to_string()] {
            assert_eq!(Asked::read(&text), Asked::Id(id), "{text}");
        }
        assert!(matches!(Asked::read("s00:812"), Asked::Event(_)));
        for text in ["pi_3P", "evt_1", "cs_test_1", "txn_1", "du_1"] {
            assert_eq!(Asked::read(text), Asked::Outside(text.to_owned()));
        }
        assert_eq!(Asked::read("my-own-request"), Asked::Request("my-own-request".to_owned()));
    }

    #[test]
    fn our_own_request_ids_tell_when_they_were_made() {
        let id = Uuid::now_v7();
        let request = Asked::read(&format!("req_{}", URL_SAFE_NO_PAD.encode(id.as_bytes())));
        assert!(request.made_at().is_some() && request.made_at() == made_at(id));
        for foreign in ["req_1", "req_!", "abc", "req_AAAAAAAAAAAAAAAAAAAAAA"] {
            assert_eq!(Asked::read(foreign).made_at(), None, "{foreign}");
        }
    }
}
