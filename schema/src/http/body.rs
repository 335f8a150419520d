//! Strict JSON bodies: bounded, typed, unknown members refused, with the member named that is wrong.

use std::time::Duration;

use std::convert::Infallible;
use std::marker::PhantomData;

use axum::extract::{FromRequest, Request};
use bytes::Bytes;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_TYPE};
use http_body_util::{BodyExt as _, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::json;
use serde_path_to_error::Segment;

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

/// A JSON body that is read when it is asked for: behind the question who sends it.
#[derive(Debug)]
pub struct JsonBody<T, const LIMIT: usize = MAX_BODY> {
    headers: HeaderMap,
    body: axum::body::Body,
    kind: PhantomData<fn() -> T>,
}

impl<S: Sync, T, const LIMIT: usize> FromRequest<S> for JsonBody<T, LIMIT> {
    type Rejection = Infallible;

    async fn from_request(request: Request, _: &S) -> Result<Self, Infallible> {
        let (parts, body) = request.into_parts();
        Ok(Self { headers: parts.headers, body, kind: PhantomData })
    }
}

impl<T: DeserializeOwned, const LIMIT: usize> JsonBody<T, LIMIT> {
    /// The body; one that is absent reads as `{}`.
    ///
    /// # Errors
    /// As [`StrictJson`].
    pub async fn read(self) -> Result<T, ApiError> {
        let bytes = read(&self.headers, self.body, LIMIT, "application/json").await?;
        parse_json(if bytes.is_empty() { b"{}" } else { &bytes })
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
        // Once more, to see where: what is right need not keep track of that.
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        match serde_path_to_error::deserialize::<_, T>(&mut reader) {
            Ok(_) => invalid_body(None, &error),
            Err(placed) => invalid_body(placed.path().iter().next(), placed.inner()),
        }
    })
}

/// 400 with the member that is wrong. The details are what clients of ModelFaucet 1.2 show: texts by top-level member, and texts
/// about the whole.
fn invalid_body(place: Option<&Segment>, error: &serde_json::Error) -> ApiError {
    let text = without_value(error.to_string());
    let message = bounded(&text);
    let invalid = ApiError::invalid(format!("The request body is not valid: {message}"));
    let unknown = message.starts_with("unknown field `");
    let top = match place {
        Some(Segment::Map { key }) => Some(key.clone()),
        _ => None,
    };
    let named = named_member(&text);
    // serde's path stops above a member that is missing.
    let field = if unknown { None } else { top.clone().or_else(|| named.clone()) };
    let details = match (&field, unknown.then_some(named.as_ref()).flatten()) {
        (Some(field), _) => json!({ "formErrors": [], "fieldErrors": { field: [message] } }),
        (None, Some(key)) => json!({ "formErrors": [format!("Unrecognized key: \"{key}\"")], "fieldErrors": {} }),
        (None, None) => json!({ "formErrors": [message], "fieldErrors": {} }),
    };
    match named.or(top).filter(|member| member.len() <= 64) {
        Some(member) => invalid.param(member).details(details),
        None => invalid.details(details),
    }
}

/// serde quotes a string that is wrong. It may be a secret in the wrong member, and answers end up in other people's logs.
fn without_value(text: String) -> String {
    for (quoted, end, kind) in [
        ("invalid type: string \"", "\", expected ", "invalid type: string"),
        ("invalid value: string \"", "\", expected ", "invalid value: string"),
        ("unknown variant `", "`, expected ", "unknown variant"),
    ] {
        // The last one: a value may hold such words too.
        if let Some((_, expected)) = text.strip_prefix(quoted).and_then(|rest| rest.rsplit_once(end)) {
            return format!("{kind}, expected {expected}");
        }
    }
    text
}

/// Error texts may quote names of members that were sent; nobody needs a megabyte of them.
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
    fn a_wrong_value_is_not_quoted() {
        #[derive(Debug, serde::Deserialize)]
        #[expect(dead_code, reason = "only what is refused matters")]
        struct Body {
            amount: Option<u8>,
            address: Option<std::net::IpAddr>,
            kind: Option<Kind>,
        }
        #[derive(Debug, serde::Deserialize)]
        #[serde(rename_all = "lowercase")]
        enum Kind {
            One,
            Two,
        }
        for (text, message) in [
            (r#"{"amount":"secret"}"#, "invalid type: string, expected u8 at line 1 column 18"),
            (r#"{"amount":"secret\", expected secret"}"#, "invalid type: string, expected u8 at line 1 column 37"),
            (r#"{"kind":"secret"}"#, "unknown variant, expected `one` or `two` at line 1 column 16"),
            (r#"{"kind":"`, expected secret"}"#, "unknown variant, expected `one` or `two` at line 1 column 28"),
            (r#"{"amount":300}"#, "invalid value: integer `300`, expected u8 at line 1 column 13"),
        ] {
            let error = parse_json::<Body>(text.as_bytes()).unwrap_err().body("r").error;
            assert_eq!(error.message, format!("The request body is not valid: {message}"), "{text}");
            assert!(!format!("{:?}", error.details).contains("secret"), "{text}: {:?}", error.details);
        }
        let error = parse_json::<Body>(br#"{"address":"secret"}"#).unwrap_err().body("r").error;
        assert!(!format!("{error:?}").contains("secret"), "{error:?}");
    }

    #[test]
    fn the_wrong_member_is_named() {
        #[derive(Debug, serde::Deserialize)]
        #[serde(deny_unknown_fields)]
        struct Body {
            #[expect(dead_code, reason = "only its presence matters")]
            amount: u8,
        }
        let missing =
            json!({ "formErrors": [], "fieldErrors": { "amount": ["missing field `amount` at line 1 column 2"] } });
        let unknown = json!({ "formErrors": ["Unrecognized key: \"x\""], "fieldErrors": {} });
        for (text, param, details) in [
            ("{}", Some("amount"), Some(missing)),
            (r#"{"amount":1,"x":2}"#, Some("x"), Some(unknown)),
            (r#"{"amount":"much"}"#, Some("amount"), None),
            (r#"{"amount":1} {}"#, None, None),
            ("nonsense", None, None),
        ] {
            let error = parse_json::<Body>(text.as_bytes()).unwrap_err().body("r").error;
            assert_eq!(error.param.as_deref(), param, "{text}");
            assert!(details.is_none_or(|details| error.details == Some(details)), "{text}");
        }
    }
}
