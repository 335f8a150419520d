//! Which pages in browsers may call. Tokens come in a header that pages set themselves, so credentials of the browser are never allowed.

use axum::response::{IntoResponse as _, Response};
use http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ACCESS_CONTROL_REQUEST_HEADERS,
    ACCESS_CONTROL_REQUEST_METHOD, ORIGIN, VARY,
};
use http::{HeaderMap, HeaderValue, Method, StatusCode};
use modelfaucet_schema::http::ApiError;

/// What a page may read of an answer beside its body.
const EXPOSED: &str = "x-request-id, retry-after, retry-after-ms, x-should-retry, idempotent-replayed, ledger-position, \
    server-timing, x-ratelimit-limit-requests, x-ratelimit-remaining-requests, x-ratelimit-reset-requests, \
    x-ratelimit-limit-tokens, x-ratelimit-remaining-tokens, x-ratelimit-reset-tokens, x-ratelimit-remaining, x-ratelimit-reset, \
    x-mf-attempts, x-mf-price-version, x-mf-max-tokens, x-mf-cost, x-mf-balance, x-mf-required, x-mf-available, \
    x-mf-provider-request-id";
const METHODS: &str = "GET,HEAD,POST,PATCH,DELETE";

/// Whose pages may call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Origins {
    /// Everybody's: for a developer's own machine.
    Any,
    /// Those of these origins; of none, if there are none.
    Listed(Vec<String>),
}

impl Origins {
    /// Reads `https://app.example.com,http://localhost:3000`, or `*`. `None` for what is no list of origins.
    pub(crate) fn read(text: &str) -> Option<Self> {
        if text.trim() == "*" {
            return Some(Self::Any);
        }
        let origins = text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(|text| {
            let url = url::Url::parse(text).ok().filter(|url| matches!(url.scheme(), "http" | "https"))?;
            let origin = url.origin().ascii_serialization();
            // A path, a user or a query would be ignored in silence.
            let given = text.trim_end_matches('/').to_ascii_lowercase();
            let bare =
                given == origin || given == format!("{origin}:{}", url.port_or_known_default().unwrap_or_default());
            bare.then_some(origin)
        });
        origins.collect::<Option<_>>().map(Self::Listed)
    }

    /// The origin of a request, if its page may call.
    pub(super) fn of(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let origin = headers.get(ORIGIN)?;
        let allowed = match self {
            Self::Any => true,
            Self::Listed(origins) => origins.iter().any(|allowed| allowed.as_bytes() == origin.as_bytes()),
        };
        allowed.then(|| origin.clone())
    }

    /// The answer to a browser that asks whether it may send a request; `None` if this is no such question.
    pub(super) fn preflight(&self, method: &Method, headers: &HeaderMap) -> Option<Response> {
        if method != Method::OPTIONS || !headers.contains_key(ORIGIN) {
            return None;
        }
        if !headers.contains_key(ACCESS_CONTROL_REQUEST_METHOD) {
            return Some(ApiError::invalid("Invalid Preflight Request").into_response());
        }
        let mut response = StatusCode::NO_CONTENT.into_response();
        let answer = response.headers_mut();
        answer.insert(VARY, HeaderValue::from_static("Origin, Access-Control-Request-Headers"));
        if let Some(origin) = self.of(headers) {
            answer.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            answer.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static(METHODS));
            answer.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("600"));
            if let Some(asked) = headers.get(ACCESS_CONTROL_REQUEST_HEADERS) {
                answer.insert(ACCESS_CONTROL_ALLOW_HEADERS, asked.clone());
            }
        }
        Some(response)
    }

    /// Lets a page of this origin read the answer. Caches learn that answers differ by origin.
    pub(super) fn allow(&self, origin: Option<HeaderValue>, headers: &mut HeaderMap) {
        if *self == Self::Listed(Vec::new()) {
            return;
        }
        headers.append(VARY, HeaderValue::from_static("Origin"));
        if let Some(origin) = origin {
            headers.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            headers.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins_are_read_or_refused() {
        let listed =
            |origins: &[&str]| Some(Origins::Listed(origins.iter().map(|&origin| origin.to_owned()).collect()));
        for (text, expected) in [
            ("", listed(&[])),
            ("*", Some(Origins::Any)),
            ("https://App.Example.com/", listed(&["https://app.example.com"])),
            ("http://localhost:3000, https://a.test:443", listed(&["http://localhost:3000", "https://a.test"])),
            ("https://a.test/path", None),
            ("https://user@a.test", None),
            ("https://a.test?x", None),
            ("a.test", None),
            ("https://a.test,*", None),
            ("ftp://a.test", None),
            ("null", None),
        ] {
            assert_eq!(Origins::read(text), expected, "{text:?}");
        }
    }
}
