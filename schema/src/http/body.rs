//! Strict JSON bodies: bounded, typed, unknown members refused, with the member named that is wrong.

use std::time::Duration;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::ApiError;

/// The largest body, unless a route says otherwise: 1 MiB.
pub const MAX_BODY: usize = 1 << 20;
/// The largest rate card: 8 MiB. The price map of all models that are known is a fifth of that.
pub const MAX_RATE_CARD: usize = 8 << 20;
/// How long a body may take to arrive: as long as a whole command may take.
const BODY_TIME: Duration = Duration::from_secs(10);
/// How deep JSON may nest.
const MAX_DEPTH: usize = 32;

/// A JSON body of type `T` of at most `LIMIT` bytes. An absent body reads as `{}`, so that all-optional bodies may be left out.
#[derive(Clone, Copy, Debug)]
pub struct StrictJson<T, const LIMIT: usize = MAX_BODY>(pub T);

impl<S: Sync, T: DeserializeOwned, const LIMIT: usize> FromRequest<S> for StrictJson<T, LIMIT> {
    type Rejection = ApiError;

    async fn from_request(request: Request, _: &S) -> Result<Self, ApiError> {
        let (parts, body) = request.into_parts();
        let read = read(&parts.headers, body, LIMIT, "application/json");
        let Ok(bytes) = tokio::time::timeout(BODY_TIME, read).await else {
            return Err(ApiError::new(408, "request_timeout", "The request took too long to arrive."));
        };
        let bytes = bytes?;
        parse_json(if bytes.is_empty() { b"{}" } else { &bytes }).map(Self)
    }
}

/// Reads a bounded, uncompressed body of the given content type (or none, if it is empty).
///
/// # Errors
/// 413, 415, or 400 for a body that breaks off.
pub async fn read(headers: &HeaderMap, body: axum::body::Body, limit: usize, kind: &str) -> Result<Bytes, ApiError> {
    if headers.contains_key(CONTENT_ENCODING) {
        return Err(ApiError::new(415, "unsupported_media_type", "Compressed request bodies are not accepted."));
    }
    let too_large =
        || ApiError::new(413, "request_too_large", format!("The request body is larger than {limit} bytes."));
    let bytes = match Limited::new(body, limit).collect().await {
        Ok(collected) => collected.to_bytes(),
        Err(error) if error.is::<LengthLimitError>() => return Err(too_large()),
        Err(_) => return Err(ApiError::invalid("The request body broke off.")),
    };
    let is_kind = |value: &[u8]| value.len() >= kind.len() && value[..kind.len()].eq_ignore_ascii_case(kind.as_bytes());
    if !bytes.is_empty() && !headers.get(CONTENT_TYPE).is_some_and(|value| is_kind(value.as_bytes())) {
        return Err(ApiError::new(415, "unsupported_media_type", format!("The content type must be {kind}.")));
    }
    Ok(bytes)
}

/// Parses JSON of type `T`.
///
/// # Errors
/// 400 `invalid_request`; `param` names the member if the parser does.
pub fn parse_json<'a, T: Deserialize<'a>>(bytes: &'a [u8]) -> Result<T, ApiError> {
    if !depth_within(bytes, MAX_DEPTH) {
        return Err(ApiError::invalid(format!("The JSON nests deeper than {MAX_DEPTH} levels.")));
    }
    serde_json::from_slice(bytes).map_err(|error| {
        let message = error.to_string();
        let invalid = ApiError::invalid(format!("The request body is not valid: {}", bounded(&message)));
        match named_member(&message) {
            Some(member) => invalid.param(member),
            None => invalid,
        }
    })
}

/// Error texts may quote what was sent; nobody needs a megabyte of it.
fn bounded(message: &str) -> String {
    match message.char_indices().nth(300) {
        Some((end, _)) => format!("{}…", &message[..end]),
        None => message.to_owned(),
    }
}

/// The member in texts such as "missing field `amount_usd` at line 1".
fn named_member(message: &str) -> Option<String> {
    let quoted = message.strip_prefix("missing field `").or_else(|| message.strip_prefix("unknown field `"));
    let quoted = quoted.or_else(|| message.strip_prefix("duplicate field `"))?;
    quoted.split('`').next().filter(|member| member.len() <= 64).map(str::to_owned)
}

/// Does the JSON nest at most `limit` deep? Counts brackets outside strings; says nothing about validity.
pub fn depth_within(bytes: &[u8], limit: usize) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in bytes {
        if in_string {
            match byte {
                _ if escaped => escaped = false,
                b'\\' => escaped = true,
                b'"' => in_string = false,
                _ => {}
            }
            continue;
        }
        match byte {
            b'"' => in_string = true,
            b'{' | b'[' => {
                depth += 1;
                if depth > limit {
                    return false;
                }
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn depth_is_counted_outside_strings() {
        assert!(depth_within(br#"{"a":["[[[[","\"[["]}"#, 2));
        assert!(!depth_within(b"[[[", 2));
        assert!(!depth_within("[".repeat(1_000_000).as_bytes(), MAX_DEPTH));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_does_not_come_is_not_waited_for() {
        let half = futures_util::stream::iter([Ok::<_, std::io::Error>(Bytes::from_static(b"{"))]);
        let body = axum::body::Body::from_stream(futures_util::StreamExt::chain(half, futures_util::stream::pending()));
        let request = Request::post("/").header(CONTENT_TYPE, "application/json").body(body).unwrap();
        let error = StrictJson::<serde_json::Value>::from_request(request, &()).await.unwrap_err();
        assert_eq!((error.status().as_u16(), error.code()), (408, "request_timeout"));
    }

    #[test]
    fn the_wrong_member_is_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[expect(dead_code, reason = "only its presence matters")]
            amount: u8,
        }
        for (text, param) in [("{}", Some("amount")), (r#"{"amount":1,"x":2}"#, Some("x")), ("nonsense", None)] {
            let error = parse_json::<Body>(text.as_bytes()).unwrap_err();
            assert_eq!(error.body("r").error.param.as_deref(), param, "{text}");
        }
    }
}
