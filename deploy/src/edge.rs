//! The outer edge of a process: which browsers' pages may call it, and how often one address may, before anybody asks who it is.

mod address;
mod cors;

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{MatchedPath, Request};
use axum::middleware::Next;
use axum::response::{IntoResponse as _, Response};
use http::HeaderValue;
use http::header::HeaderName;
use modelfaucet_gateway::guard::Network;
use modelfaucet_gateway::http::is_own_path;
use modelfaucet_gateway::limit::{Bucket, Key, Rate, RateLimits, Scope, Unit, show};
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::short_hash;

pub(crate) use address::Peer;
pub(crate) use cors::Origins;

/// What has its own rules: the API, or the gateway.
#[derive(Clone, Debug)]
pub(crate) struct Side {
    /// Whose pages may call.
    pub(crate) origins: Origins,
    /// How often one address may.
    pub(crate) rate: Option<Rate>,
    /// Until what was used is there again; told also where there is no limit.
    pub(crate) window: Duration,
}

/// The edge of a process.
#[derive(Clone, Debug)]
pub(crate) struct Edge {
    pub(crate) limits: RateLimits,
    /// Who may say in `X-Forwarded-For` for whom it asks.
    pub(crate) trusted: Vec<Network>,
    pub(crate) api: Side,
    pub(crate) gateway: Side,
}

/// Tells the layers within whose request it is.
pub(crate) async fn introduce(edge: Arc<Edge>, mut request: Request, next: Next) -> Response {
    let client = address::client(&request, &edge.trusted);
    request.extensions_mut().insert(modelfaucet_schema::http::Peer(client));
    next.run(request).await
}

/// Answers preflights, counts, and lets pass.
pub(crate) async fn guard(edge: Arc<Edge>, request: Request, next: Next) -> Response {
    let gateway = is_own_path(request.uri().path());
    let side = if gateway { &edge.gateway } else { &edge.api };
    if let Some(preflight) = side.origins.preflight(request.method(), request.headers()) {
        return preflight;
    }
    let origin = side.origins.of(request.headers());
    let limited = is_limited(request.uri().path());
    let bucket = if limited { edge.bucket(side, gateway, &request) } else { None };
    let decision = edge.limits.take(bucket.as_slice()).await;
    let mut response = match &decision.refused {
        Some(_) => ApiError::new(429, "rate_limited", "Rate limit exceeded.").into_response(),
        None => next.run(request).await,
    };
    // A call through the gateway tells of the session's limits instead.
    if decision.refused.is_some() || !gateway {
        show(response.headers_mut(), &decision);
    }
    if limited && !gateway && decision.allowances.is_empty() {
        show_no_limit(&mut response, side.window);
    }
    side.origins.allow(origin, response.headers_mut());
    response
}

/// Probes are not, and a gateway, which speaks for many, is not either: its own limits have passed what it sends.
fn is_limited(path: &str) -> bool {
    !matches!(path, "/health" | "/ready" | "/metrics" | "/v1/log") && !path.starts_with("/v1/gateway/")
}

impl Edge {
    /// The bucket of an address. Our own machine is not limited, unless it asks for others.
    fn bucket(&self, side: &Side, gateway: bool, request: &Request) -> Option<Bucket> {
        let rate = side.rate?;
        let client = address::client(request, &self.trusted);
        if client.is_loopback() {
            return None;
        }
        // Templates, not paths: an id in a path must not make a bucket of its own.
        let route = request.extensions().get::<MatchedPath>().map_or("", MatchedPath::as_str);
        let route = if gateway { "gateway" } else { route };
        let id = short_hash(&[b"address", address::network(client).as_bytes(), route.as_bytes()]);
        let key = Key { scope: Scope::Address, id, unit: Unit::Requests };
        Some(Bucket { key, rate, cost: 1 })
    }
}

/// As ModelFaucet 1.2 tells that there is no limit.
fn show_no_limit(response: &mut Response, window: Duration) {
    let reset = Timestamp::now().plus(window).micros().div_euclid(1_000_000) + 1;
    let headers = response.headers_mut();
    headers.insert(HeaderName::from_static("x-ratelimit-remaining"), HeaderValue::from_static("Infinity"));
    headers.insert(HeaderName::from_static("x-ratelimit-reset"), HeaderValue::from(reset));
}

#[cfg(test)]
mod tests;
