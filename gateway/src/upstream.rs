//! Requests to the provider: one attempt each, with every way it can fail named, and what each way means for money and for a
//! further try.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::event::{AttemptError, Billed, CredentialAdded, Endpoint, ReleaseReason, Route};
use secrecy::{ExposeSecret as _, SecretString};
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::breaker::Verdict;
use crate::error::CallError;
use crate::guard::{GuardedClient, GuardedError, Refused};
use crate::members::Members;
use crate::memory::{Memory, Taken};
use crate::options::{Platform, Timeouts};

/// A client of one provider, or of the operator's own router: where it is and which key it takes. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Upstream {
    way: Way,
    /// The root of its API: paths such as `/chat/completions` are added.
    root: Arc<str>,
    authorization: Option<HeaderValue>,
    route: Route,
}

/// How requests get there.
#[derive(Clone)]
enum Way {
    /// To the operator's own address.
    Own(reqwest::Client),
    /// To an address that somebody else named.
    Guarded(GuardedClient),
}

/// The root of an API that is named with or without `/v1`.
fn root_of(base: &str) -> String {
    format!("{}/v1", base.trim_end_matches('/').trim_end_matches("/v1"))
}

/// A key as a header.
fn bearer(key: &SecretString) -> Option<HeaderValue> {
    let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret())).ok()?;
    value.set_sensitive(true);
    Some(value)
}

/// A client that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum UpstreamError {
    /// The HTTP client does not start.
    #[error("the HTTP client cannot be made: {0}")]
    Client(#[from] reqwest::Error),
    /// A key that no header can carry.
    #[error("the provider's key has characters that a header cannot carry")]
    Key,
}

/// What may be tried after a failure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Retry {
    /// Nothing: it would fail again, wherever it goes.
    Never,
    /// Another target only: this one would fail again.
    Elsewhere,
    /// Another try, here or at another target; at the earliest after so long, if the provider said so.
    After(Option<Duration>),
    /// Another try only where a feature allows it: the first one may be billed.
    IfAllowed,
}

/// An attempt without an answer, before any byte went to the client.
#[derive(Debug)]
pub(crate) struct Failure {
    /// The HTTP status, if there was one.
    pub(crate) status: Option<u16>,
    /// What happened.
    pub(crate) error: AttemptError,
    /// Does the provider bill it?
    pub(crate) billed: Billed,
    /// May another try help?
    pub(crate) retry: Retry,
    /// Why the hold is given back, if this was the last try.
    pub(crate) release: ReleaseReason,
    /// What the client is told then.
    pub(crate) answer: CallError,
}

/// The head of a good answer, and the first bytes behind it.
#[derive(Debug)]
pub(crate) struct Answer {
    response: reqwest::Response,
    first: Option<Bytes>,
    /// The status.
    pub(crate) status: u16,
    /// Is it a stream of events?
    pub(crate) is_stream: bool,
}

impl Answer {
    /// The next bytes; `None` at the end.
    ///
    /// # Errors
    /// If the connection breaks.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, reqwest::Error> {
        match self.first.take() {
            Some(first) => Ok(Some(first)),
            None => self.response.chunk().await,
        }
    }

    /// All of it.
    ///
    /// # Errors
    /// [`Failure`] if it breaks off, is larger than `limit`, or does not come in time.
    pub(crate) async fn whole(
        &mut self,
        limit: usize,
        deadline: Instant,
        memory: &Memory,
    ) -> Result<(Bytes, Taken), Failure> {
        let mut body = BytesMut::new();
        let mut taken = memory.take();
        loop {
            match timeout_at(deadline, self.next()).await {
                Err(_) => return Err(Failure::timed_out()),
                Ok(Err(_)) => return Err(Failure::broken(Some(self.status))),
                Ok(Ok(None)) => return Ok((body.freeze(), taken)),
                Ok(Ok(Some(piece))) if body.len() + piece.len() > limit => {
                    return Err(Failure::malformed(self.status, "Provider answer is too large."));
                }
                Ok(Ok(Some(piece))) => {
                    body.extend_from_slice(&piece);
                    taken.set(body.len());
                }
            }
        }
    }
}

/// TLS of this process is made by ring. Called before its first HTTP client; again it does nothing.
pub fn use_ring() {
    let _set_already = rustls::crypto::ring::default_provider().install_default();
}

impl Upstream {
    /// A client of the operator's own router or provider. Its address comes from configuration only.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub(crate) fn new(platform: &Platform, timeouts: &Timeouts) -> Result<Self, UpstreamError> {
        use_ring();
        let client = reqwest::Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .referer(false)
            .connect_timeout(timeouts.connect)
            .pool_idle_timeout(Duration::from_secs(30))
            .tcp_nodelay(true)
            .user_agent(concat!("modelfaucet/", env!("CARGO_PKG_VERSION")))
            .build()?;
        let authorization = match &platform.key {
            None => None,
            Some(key) => Some(bearer(key).ok_or(UpstreamError::Key)?),
        };
        let root = root_of(platform.base_url.as_str()).into();
        Ok(Self { way: Way::Own(client), root, authorization, route: Route::Platform })
    }

    /// The way to the provider of somebody's key, with that key; `None` for one that no header can carry, which is not taken in.
    pub(crate) fn guarded(
        client: &GuardedClient,
        key: &CredentialAdded,
        route: Route,
        secret: &SecretString,
    ) -> Option<Self> {
        let root = key.base_url.as_deref().map_or_else(|| key.provider.default_root().to_owned(), root_of);
        let authorization = Some(bearer(secret)?);
        Some(Self { way: Way::Guarded(client.clone()), root: root.into(), authorization, route })
    }

    /// Scheme, host and port of an address, without path or anything secret.
    pub(crate) fn origin(base: &Url) -> String {
        base.origin().ascii_serialization()
    }

    fn url(&self, endpoint: Endpoint) -> String {
        let path = match endpoint {
            Endpoint::ChatCompletions => "chat/completions",
            Endpoint::Responses => "responses",
            Endpoint::Embeddings => "embeddings",
        };
        format!("{}/{path}", self.root)
    }

    /// Sends a call and waits for the first byte of a good answer.
    ///
    /// # Errors
    /// [`Failure`].
    pub(crate) async fn send(
        &self,
        endpoint: Endpoint,
        body: Vec<u8>,
        call_label: &str,
        deadline: Instant,
    ) -> Result<Answer, Failure> {
        let request = self.request(endpoint, body, call_label).ok_or_else(Failure::not_sent)?;
        let response = match timeout_at(deadline, self.execute(request)).await {
            Err(_) => return Err(Failure::timed_out()),
            Ok(response) => response?,
        };
        let status = response.status();
        if !status.is_success() {
            return Err(refused(response, deadline, self.key()).await.on(self.route));
        }
        let kind = response.headers().get(CONTENT_TYPE).and_then(|kind| kind.to_str().ok()).unwrap_or_default();
        let is_stream = kind.trim_start().to_ascii_lowercase().starts_with("text/event-stream");
        let mut answer = Answer { response, first: None, status: status.as_u16(), is_stream };
        match timeout_at(deadline, answer.next()).await {
            Err(_) => Err(Failure::timed_out()),
            Ok(Err(_)) => Err(Failure::broken(Some(answer.status))),
            Ok(Ok(first)) => {
                answer.first = first;
                Ok(answer)
            }
        }
    }

    /// The key that it is called with, to keep it out of what is told.
    fn key(&self) -> Option<&str> {
        self.authorization.as_ref()?.to_str().ok()?.strip_prefix("Bearer ")
    }

    fn request(&self, endpoint: Endpoint, body: Vec<u8>, call_label: &str) -> Option<reqwest::Request> {
        let mut request = reqwest::Request::new(http::Method::POST, self.url(endpoint).parse().ok()?);
        let headers = request.headers_mut();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        headers.insert(ACCEPT, HeaderValue::from_static("application/json, text/event-stream"));
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        if self.route == Route::Platform {
            headers.insert("x-litellm-call-id", HeaderValue::from_str(call_label).ok()?);
        }
        if let Some(authorization) = &self.authorization {
            headers.insert(AUTHORIZATION, authorization.clone());
        }
        *request.body_mut() = Some(body.into());
        Some(request)
    }

    async fn execute(&self, request: reqwest::Request) -> Result<reqwest::Response, Failure> {
        let error = match &self.way {
            Way::Own(client) => match client.execute(request).await {
                Ok(response) => return Ok(response),
                Err(error) => error,
            },
            Way::Guarded(client) => match client.execute(request).await {
                Ok(response) => return Ok(response),
                // The name is not there: a failure like any other.
                Err(GuardedError::Refused(Refused::NotFound(_))) => return Err(Failure::not_sent()),
                Err(GuardedError::Refused(refused)) => {
                    metrics::counter!("gateway_guard_refusals_total", "reason" => refused.reason()).increment(1);
                    return Err(Failure::guarded());
                }
                // The answer is dropped unread.
                Err(GuardedError::Tripwire(address)) => {
                    metrics::counter!("gateway_tripwires_total").increment(1);
                    tracing::error!(%address, "an answer to a provider key's request came from an address that is not public");
                    return Err(Failure::tripwire());
                }
                Err(GuardedError::Http(error)) => error,
            },
        };
        Err(if error.is_connect() {
            Failure::not_sent()
        } else if error.is_timeout() {
            Failure::timed_out()
        } else {
            Failure::broken(None)
        })
    }

    /// Is the provider there? LiteLLM is asked for its readiness: its health check makes real calls, which cost money.
    pub(crate) async fn probe(&self, limit: Duration) -> (Option<u16>, Option<&'static str>) {
        let Way::Own(client) = &self.way else { return (None, Some("is not asked")) };
        let base = self.root.trim_end_matches("/v1");
        let request = client.get(format!("{base}/health/readiness")).timeout(limit);
        match request.send().await {
            Ok(response) => (Some(response.status().as_u16()), None),
            Err(error) if error.is_timeout() => (None, Some("timed out")),
            Err(_) => (None, Some("cannot be reached")),
        }
    }
}

/// The most that is read of an error's body.
const MAX_ERROR_BODY: usize = 64 << 10;

async fn refused(mut response: reqwest::Response, deadline: Instant, key: Option<&str>) -> Failure {
    let status = response.status();
    let wait = retry_after(response.headers());
    let mut body = Vec::new();
    // What cannot be read of it is not told.
    while let Ok(Ok(Some(piece))) = timeout_at(deadline, response.chunk()).await {
        body.extend_from_slice(&piece);
        if body.len() > MAX_ERROR_BODY {
            break;
        }
    }
    // A provider may quote the key, which is not the caller's to see.
    let text = String::from_utf8_lossy(&body);
    let text =
        key.filter(|key| !key.is_empty()).map_or_else(|| text.clone().into_owned(), |key| text.replace(key, "…"));
    Failure::of_status(status, text.as_bytes(), wait)
}

/// Whole seconds; dates are not understood.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let seconds: u64 = headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok()?;
    Some(Duration::from_secs(seconds.min(3_600)))
}

/// The provider's own words, as far as they may be shown: one line, without keys.
fn message_of(body: &[u8]) -> Option<String> {
    let members = Members::parse(body).ok()?;
    let error = Members::parse(members.present("error")?.as_bytes()).ok()?;
    let message: String = error.read("message").ok()??;
    let line = message.lines().next().unwrap_or_default();
    let words = line.split(' ').map(|word| {
        let hidden = ["sk-", "key-", "Bearer"]
            .iter()
            .any(|prefix| word.trim_start_matches(['\'', '"', '`']).starts_with(prefix));
        if hidden { "…" } else { word }
    });
    let text: String = words.collect::<Vec<_>>().join(" ").chars().filter(|c| !c.is_control()).take(300).collect();
    (!text.is_empty()).then_some(text)
}

impl Failure {
    /// What a breaker makes of it. What the request itself caused says nothing about the provider.
    pub(crate) fn verdict(&self) -> Verdict {
        match (self.status, self.retry) {
            (Some(401 | 403), _) => Verdict::KeyRefused,
            (Some(429), Retry::After(Some(wait))) => Verdict::Cool(wait),
            (_, Retry::Never) if matches!(self.error, AttemptError::Status | AttemptError::ClientGone) => Verdict::Good,
            _ => Verdict::Bad,
        }
    }

    /// There is no key to call with, or not any more: nothing was sent.
    pub(crate) fn no_key() -> Self {
        let message = "The provider key of this call cannot be used.";
        let answer = CallError::invalid(400, "no_available_route", message);
        Self { retry: Retry::Elsewhere, answer, ..Self::not_sent() }
    }

    /// The guard refused the address: nothing was sent, and nothing else is tried instead.
    fn guarded() -> Self {
        let message = "The address of this call's provider key leads to no public place.";
        let answer = CallError::invalid(400, "no_available_route", message);
        Self { error: AttemptError::Guard, retry: Retry::Never, answer, ..Self::not_sent() }
    }

    /// The request has gone out, with its key, to an address that the guard would have refused.
    fn tripwire() -> Self {
        Self { error: AttemptError::Guard, retry: Retry::Never, ..Self::broken(None) }
    }

    /// Did a request go astray? Then its key may be known to somebody else.
    pub(crate) fn is_tripwire(&self) -> bool {
        self.error == AttemptError::Guard && self.billed != Billed::No
    }

    /// What it means where this key paid: a user may know that the own key is refused, and can do something about it.
    fn on(self, route: Route) -> Self {
        if route == Route::Byok && matches!(self.status, Some(401 | 403)) {
            let message = "The provider does not accept your key.";
            let answer = CallError::new(403, "secret_validation_failed", "permission_error", message);
            return Self { answer: answer.should_retry(false), ..self };
        }
        self
    }

    /// No connection stood: nothing was sent.
    pub(crate) fn not_sent() -> Self {
        let answer = CallError::provider_failed("Provider request failed before a response was received.");
        Self {
            status: None,
            error: AttemptError::Connect,
            billed: Billed::No,
            retry: Retry::After(None),
            release: ReleaseReason::NotSent,
            answer,
        }
    }

    fn timed_out() -> Self {
        Self {
            status: None,
            error: AttemptError::TimedOut,
            billed: Billed::Unknown,
            retry: Retry::IfAllowed,
            release: ReleaseReason::TimedOut,
            answer: CallError::provider_timed_out(),
        }
    }

    fn broken(status: Option<u16>) -> Self {
        let answer = CallError::provider_failed("Provider request failed before a response was received.");
        Self {
            status,
            error: AttemptError::Broken,
            billed: Billed::Unknown,
            retry: Retry::After(None),
            release: ReleaseReason::Failed,
            answer,
        }
    }

    /// The client left before the first byte, and the request was cut.
    pub(crate) fn client_gone() -> Self {
        Self {
            status: None,
            error: AttemptError::ClientGone,
            billed: Billed::Unknown,
            retry: Retry::Never,
            release: ReleaseReason::Absorbed,
            answer: CallError::internal(),
        }
    }

    /// A success that is none.
    pub(crate) fn malformed(status: u16, message: &str) -> Self {
        Self {
            status: Some(status),
            error: AttemptError::Malformed,
            billed: Billed::Unknown,
            retry: Retry::Never,
            release: ReleaseReason::Failed,
            answer: CallError::provider_failed(message),
        }
    }

    /// A status that is no success.
    fn of_status(status: StatusCode, body: &[u8], wait: Option<Duration>) -> Self {
        let number = status.as_u16();
        let message = || message_of(body).unwrap_or_else(|| format!("Provider request failed with status {number}."));
        let failed = format!("Provider request failed with status {number}.");
        let (retry, release, billed, answer) = match number {
            400 | 422 => (
                Retry::Never,
                ReleaseReason::Rejected,
                Billed::No,
                CallError::invalid(number, "invalid_request", message()),
            ),
            404 => {
                let answer = CallError::invalid(404, "model_not_found", message()).param("model");
                (Retry::Never, ReleaseReason::Rejected, Billed::No, answer)
            }
            413 => (
                Retry::Never,
                ReleaseReason::Rejected,
                Billed::No,
                CallError::invalid(413, "request_too_large", message()),
            ),
            401 | 403 => {
                let answer = CallError::new(
                    502,
                    "provider_auth_failed",
                    "upstream_error",
                    "The provider does not accept the key that it was called with.",
                );
                (Retry::Elsewhere, ReleaseReason::Rejected, Billed::No, answer.should_retry(false))
            }
            429 | 503 | 529 => {
                let seconds = wait.map_or(1, |wait| u32::try_from(wait.as_secs()).unwrap_or(60).max(1));
                let answer = CallError::new(
                    503,
                    "provider_overloaded",
                    "upstream_error",
                    "The provider is overloaded; try again.",
                );
                (Retry::After(wait), ReleaseReason::Rejected, Billed::No, answer.retry_after(seconds))
            }
            408 | 504 => (Retry::After(None), ReleaseReason::Failed, Billed::Unknown, CallError::provider_timed_out()),
            500..=599 => {
                (Retry::After(None), ReleaseReason::Failed, Billed::Unknown, CallError::provider_failed(failed))
            }
            _ => (Retry::Never, ReleaseReason::Rejected, Billed::No, CallError::provider_failed(failed)),
        };
        Self { status: Some(number), error: AttemptError::Status, billed, retry, release, answer }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_says_what_becomes_of_hold_and_client() {
        let never = Retry::Never;
        let elsewhere = Retry::Elsewhere;
        let again = Retry::After(None);
        for (status, retry, release, shown, code) in [
            (400, never, ReleaseReason::Rejected, 400, "invalid_request"),
            (404, never, ReleaseReason::Rejected, 404, "model_not_found"),
            (413, never, ReleaseReason::Rejected, 413, "request_too_large"),
            (422, never, ReleaseReason::Rejected, 422, "invalid_request"),
            (401, elsewhere, ReleaseReason::Rejected, 502, "provider_auth_failed"),
            (403, elsewhere, ReleaseReason::Rejected, 502, "provider_auth_failed"),
            (429, again, ReleaseReason::Rejected, 503, "provider_overloaded"),
            (503, again, ReleaseReason::Rejected, 503, "provider_overloaded"),
            (529, again, ReleaseReason::Rejected, 503, "provider_overloaded"),
            (408, again, ReleaseReason::Failed, 504, "provider_error"),
            (500, again, ReleaseReason::Failed, 502, "provider_error"),
            (502, again, ReleaseReason::Failed, 502, "provider_error"),
            (504, again, ReleaseReason::Failed, 504, "provider_error"),
            (302, never, ReleaseReason::Rejected, 502, "provider_error"),
            (418, never, ReleaseReason::Rejected, 502, "provider_error"),
        ] {
            let failure = Failure::of_status(StatusCode::from_u16(status).unwrap(), b"", None);
            let told = (failure.answer.status().as_u16(), failure.answer.code());
            assert_eq!((failure.retry, failure.release, told), (retry, release, (shown, code)), "{status}");
        }
    }

    #[tokio::test]
    async fn a_request_that_went_astray_is_a_tripwire_and_its_answer_is_not_read() {
        use crate::guard::tests::sockets::{astray, listener};
        use modelfaucet_schema::event::{CredentialOwner, KeyProvider};
        use modelfaucet_schema::ids::{CredentialId, DeveloperId};
        let body = r#"{"id":"x","choices":[]}"#;
        let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (port, _) = listener(answer).await;
        let key = CredentialAdded {
            credential_id: CredentialId::generate(),
            owner: CredentialOwner::Developer { developer_id: DeveloperId::generate() },
            provider: KeyProvider::Openai,
            base_url: Some(format!("http://odd.test:{port}/v1")),
            origin: format!("http://odd.test:{port}"),
            masked: String::new(),
            models_allowed: Vec::new(),
            budget_limit: None,
            priority: 100,
            fallback_to_platform: true,
        };
        let secret = SecretString::from("sk-0123456789");
        let upstream = Upstream::guarded(&astray(port), &key, Route::DeveloperKey, &secret).unwrap();
        let deadline = Instant::now() + Duration::from_secs(10);
        let failure = upstream.send(Endpoint::ChatCompletions, b"{}".to_vec(), "req_1", deadline).await.unwrap_err();
        assert!(failure.is_tripwire());
        assert_eq!(
            (failure.retry, failure.billed, failure.answer.code()),
            (Retry::Never, Billed::Unknown, "provider_error")
        );
        assert!(!Failure::guarded().is_tripwire() && !Failure::no_key().is_tripwire());
    }

    #[test]
    fn roots_are_named_with_and_without_their_version() {
        for (base, root) in [
            ("https://api.example.com", "https://api.example.com/v1"),
            ("https://api.example.com/", "https://api.example.com/v1"),
            ("https://api.example.com/v1", "https://api.example.com/v1"),
            ("https://api.example.com/openai/v1/", "https://api.example.com/openai/v1"),
            ("https://api.example.com/api", "https://api.example.com/api/v1"),
        ] {
            assert_eq!(root_of(base), root);
        }
    }

    #[test]
    fn only_the_own_key_s_refusal_is_told_to_the_user() {
        for (route, status, shown) in [
            (Route::Byok, 401, (403, "secret_validation_failed")),
            (Route::Byok, 403, (403, "secret_validation_failed")),
            (Route::Byok, 500, (502, "provider_error")),
            (Route::DeveloperKey, 401, (502, "provider_auth_failed")),
            (Route::Platform, 403, (502, "provider_auth_failed")),
        ] {
            let failure = Failure::of_status(StatusCode::from_u16(status).unwrap(), b"", None).on(route);
            assert_eq!((failure.answer.status().as_u16(), failure.answer.code()), shown, "{route:?} {status}");
        }
    }

    #[test]
    fn the_providers_words_are_shown_without_keys() {
        let body = br#"{"error":{"message":"Incorrect key 'sk-abc' provided: Bearer x\nsecond line","type":"x"}}"#;
        assert_eq!(message_of(body).as_deref(), Some("Incorrect key … provided: … x"));
        assert_eq!(message_of(b"<html>"), None);
        let failure = Failure::of_status(StatusCode::BAD_REQUEST, body, None);
        assert!(!failure.answer.body("r").error.message.contains("sk-abc"));
    }
}
