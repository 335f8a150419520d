//! The HTTP edge that the command and query sides share: request ids, strict JSON, bearer tokens, the error envelope, metrics.

mod body;
mod error;
mod layer;

pub use body::{JsonBody, MAX_BODY, MAX_RATE_CARD, StrictJson, depth_within, parse_json, read as read_body};
pub use error::{ApiError, not_found};
pub use layer::{Peer, RequestId, observe};

use http::HeaderMap;
use http::header::AUTHORIZATION;

/// Header that names a request; taken from the client if it is sane, else made here.
pub const REQUEST_ID: &str = "x-request-id";
/// Header with the position that an answer is as of.
pub const LEDGER_POSITION: &str = "ledger-position";
/// Header of answers that repeat an earlier answer to the same key.
pub const IDEMPOTENT_REPLAYED: &str = "idempotent-replayed";
/// Header in which those who run the ledger say why they look or act; recorded with what they do.
pub const AUDIT_REASON: &str = "x-audit-reason";
/// Header with the client's idempotency key.
pub const IDEMPOTENCY_KEY: &str = "idempotency-key";

/// The token of an `Authorization: Bearer …` header (scheme in any case), if there is one.
pub fn bearer(headers: &HeaderMap) -> Option<&str> {
    let value = headers.get(AUTHORIZATION)?.to_str().ok()?;
    let (scheme, token) = value.split_once(char::is_whitespace)?;
    let token = token.trim();
    (scheme.eq_ignore_ascii_case("bearer") && !token.is_empty() && token.len() <= 512).then_some(token)
}

/// The client's idempotency key: 1 to 255 visible ASCII characters.
///
/// # Errors
/// [`ApiError`] 400 for a key that is not of that form.
pub fn idempotency_key(headers: &HeaderMap) -> Result<Option<&str>, ApiError> {
    let Some(value) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let key = value.to_str().unwrap_or_default();
    if (1..=255).contains(&key.len()) && key.bytes().all(|byte| byte.is_ascii_graphic()) {
        Ok(Some(key))
    } else {
        Err(ApiError::invalid("Idempotency-Key must be 1 to 255 visible ASCII characters.").param("Idempotency-Key"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_bearer_tokens_count() {
        let header = |text: &str| {
            let mut headers = HeaderMap::new();
            headers.insert(AUTHORIZATION, text.parse().unwrap());
            bearer(&headers).map(str::to_owned)
        };
        assert_eq!(header("Bearer abc").as_deref(), Some("abc"));
        assert_eq!(header("bEARER  abc ").as_deref(), Some("abc"));
        for text in ["abc", "Basic abc", "Bearer", "Bearer ", &format!("Bearer {}", "x".repeat(600))] {
            assert_eq!(header(text), None, "{text}");
        }
    }
}
