//! What happens around every request: its id, the error envelope, metrics.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, LazyLock};
use std::time::Instant;

use axum::extract::{FromRequestParts, MatchedPath, Request};
use axum::middleware::Next;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use http::header::HeaderValue;
use http::request::Parts;
use http::{HeaderName, Method, StatusCode, Uri};
use metrics::{Counter, Histogram};
use parking_lot::RwLock;
use uuid::Uuid;

use super::{AUDIT_REASON, ApiError, REQUEST_ID};
use crate::event::Actor;
use crate::log::{Access, AccessKind};

/// Who is at the other end of the connection; put beside the request by the accept loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Peer(pub IpAddr);

/// The id of a request: the client's `x-request-id` if it is 1 to 128 visible ASCII characters, else made here. A label, never a
/// key. It knows what it names, for the record.
#[derive(Clone, Debug)]
pub struct RequestId {
    text: HeaderValue,
    origin: Arc<Origin>,
}

/// Where a request comes from and what it asks for.
#[derive(Debug)]
struct Origin {
    peer: Option<Peer>,
    method: Method,
    route: Option<MatchedPath>,
    uri: Uri,
    reason: Option<HeaderValue>,
}

impl RequestId {
    fn of(request: &Request) -> Self {
        let given = request.headers().get(REQUEST_ID).and_then(|value| value.to_str().ok()).map(str::trim);
        let usable = given.filter(|id| (1..=128).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_graphic()));
        let own = || format!("req_{}", URL_SAFE_NO_PAD.encode(Uuid::now_v7().as_bytes()));
        let text = usable.map_or_else(own, str::to_owned);
        let origin = Origin {
            peer: request.extensions().get().copied(),
            method: request.method().clone(),
            route: request.extensions().get().cloned(),
            uri: request.uri().clone(),
            reason: request.headers().get(AUDIT_REASON).cloned(),
        };
        Self {
            text: HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static("req_unknown")),
            origin: Arc::new(origin),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        self.text.to_str().unwrap_or_default()
    }

    /// The template of the path; empty where there is none.
    pub fn route(&self) -> &str {
        self.origin.route.as_ref().map_or("", MatchedPath::as_str)
    }

    /// The request as an access of somebody, for the record.
    pub fn access(&self, actor: Actor, kind: AccessKind) -> Access {
        let origin = &self.origin;
        let reason = origin.reason.as_ref().and_then(|value| value.to_str().ok()).map(str::trim);
        Access {
            actor,
            address: origin.peer.map(|peer| peer.0),
            kind,
            operation: format!("{} {}", origin.method, self.route()),
            target: origin.uri.path_and_query().map_or_else(String::new, ToString::to_string),
            request_id: self.as_str().to_owned(),
            reason: reason.filter(|reason| !reason.is_empty()).map(str::to_owned),
        }
    }
}

impl<S: Sync> FromRequestParts<S> for RequestId {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        parts.extensions.get::<Self>().cloned().ok_or_else(ApiError::internal)
    }
}

/// Names the request, fills in the error envelope, counts and times. Route labels are templates, never paths.
pub async fn observe(service: &'static str, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = RequestId::of(&request);
    request.extensions_mut().insert(id.clone());
    let method = request.method().clone();
    let route = request.extensions().get::<MatchedPath>().cloned();
    let mut response = next.run(request).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let headers = std::mem::take(response.headers_mut());
        response = error.answer(id.as_str());
        for (name, value) in headers {
            if let Some(name) = name
                && !response.headers().contains_key(&name)
                && name != http::header::CONTENT_LENGTH
            {
                response.headers_mut().insert(name, value);
            }
        }
    } else if is_bare(&response) {
        // Answers that the framework made by itself, such as 405.
        response = bare_error(response.status()).answer(id.as_str());
    }
    let headers = response.headers_mut();
    if headers.get(http::header::CONTENT_TYPE).is_some_and(|kind| kind.as_bytes() == b"application/json") {
        headers.insert(http::header::CONTENT_TYPE, HeaderValue::from_static("application/json; charset=utf-8"));
    }
    let route = route.as_ref().map_or("none", MatchedPath::as_str);
    if response.status().is_server_error() && route.starts_with("/v1/") {
        let milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX);
        let (request_id, status) = (id.as_str(), response.status().as_u16());
        tracing::warn!(request_id, %method, route, status, milliseconds, "a request failed");
    }
    response.headers_mut().insert(HeaderName::from_static(REQUEST_ID), id.text);
    let series = series(service, &method, route, response.status());
    series.requests.increment(1);
    series.duration.record(began.elapsed());
    response
}

/// What is counted of one kind of request.
#[derive(Clone)]
struct Series {
    requests: Counter,
    duration: Histogram,
}

type SeriesOfRoute = HashMap<(&'static str, Method, StatusCode), Series>;

/// By route. Looking a series up by its labels costs more than all else that happens here, so that is done once each; the
/// process installs its recorder before it serves.
static SERIES: LazyLock<RwLock<HashMap<Box<str>, SeriesOfRoute>>> = LazyLock::new(RwLock::default);

fn series(service: &'static str, method: &Method, route: &str, status: StatusCode) -> Series {
    let key = (service, method.clone(), status);
    if let Some(series) = SERIES.read().get(route).and_then(|of_route| of_route.get(&key)) {
        return series.clone();
    }
    let labels = [
        ("service", service.to_owned()),
        ("method", method.as_str().to_owned()),
        ("route", route.to_owned()),
        ("status", status.as_u16().to_string()),
    ];
    let series = Series {
        requests: metrics::counter!("modelfaucet_http_requests_total", &labels),
        duration: metrics::histogram!("modelfaucet_http_request_duration_seconds", &labels[..3]),
    };
    // Methods are the client's words: only the usual ones are kept, so that nobody fills the memory.
    if [Method::GET, Method::HEAD, Method::POST, Method::PATCH, Method::DELETE, Method::OPTIONS].contains(method) {
        SERIES.write().entry(route.into()).or_default().insert(key, series.clone());
    }
    series
}

fn is_bare(response: &Response) -> bool {
    let status = response.status();
    (status.is_client_error() || status.is_server_error())
        && response
            .headers()
            .get(http::header::CONTENT_TYPE)
            .is_none_or(|kind| !kind.as_bytes().starts_with(b"application/json"))
}

fn bare_error(status: StatusCode) -> ApiError {
    match status.as_u16() {
        404 => ApiError::new(404, "not_found", "There is nothing at this path."),
        405 => ApiError::new(405, "method_not_allowed", "The path exists, but not for this method."),
        408 => ApiError::new(408, "request_timeout", "The request took too long to arrive."),
        413 => ApiError::new(413, "request_too_large", "The request body is too large."),
        414 => ApiError::new(414, "uri_too_long", "The path or query is too long."),
        status @ 400..=499 => ApiError::new(status, "invalid_request", "The request is malformed."),
        _ => ApiError::internal(),
    }
}
