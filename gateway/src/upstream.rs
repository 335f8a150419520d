//! Requests to the provider: one attempt each, with every way it can fail named, and what each way means for money and for a
//! further try.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::event::{AttemptError, Billed, Endpoint, ReleaseReason};
use secrecy::ExposeSecret as _;
use tokio::time::{Instant, timeout_at};
use url::Url;

use crate::breaker::Verdict;
use crate::error::CallError;
use crate::members::Members;
use crate::memory::{Memory, Taken};
use crate::options::{Platform, Timeouts};

/// A client of one provider, or of the operator's own router: where it is and which key it takes. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Upstream {
    client: reqwest::Client,
    base: Arc<str>,
    authorization: Option<HeaderValue>,
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
            Some(key) => {
                let mut value = HeaderValue::from_str(&format!("Bearer {}", key.expose_secret()))
                    .map_err(|_| UpstreamError::Key)?;
                value.set_sensitive(true);
                Some(value)
            }
        };
        let base = platform.base_url.as_str().trim_end_matches('/').trim_end_matches("/v1").into();
        Ok(Self { client, base, authorization })
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
        format!("{}/v1/{path}", self.base)
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
        let mut request = self
            .client
            .post(self.url(endpoint))
            .header(CONTENT_TYPE, "application/json")
            .header(ACCEPT, "application/json, text/event-stream")
            .header(ACCEPT_ENCODING, "identity")
            .header("x-litellm-call-id", call_label)
            .body(body);
        if let Some(authorization) = &self.authorization {
            request = request.header(AUTHORIZATION, authorization);
        }
        let response = match timeout_at(deadline, request.send()).await {
            Err(_) => return Err(Failure::timed_out()),
            Ok(Err(error)) if error.is_connect() => return Err(Failure::not_sent()),
            Ok(Err(error)) if error.is_timeout() => return Err(Failure::timed_out()),
            Ok(Err(_)) => return Err(Failure::broken(None)),
            Ok(Ok(response)) => response,
        };
        let status = response.status();
        if !status.is_success() {
            return Err(refused(response, deadline).await);
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

    /// Is the provider there? LiteLLM is asked for its readiness: its health check makes real calls, which cost money.
    pub(crate) async fn probe(&self, limit: Duration) -> (Option<u16>, Option<&'static str>) {
        let request = self.client.get(format!("{}/health/readiness", self.base)).timeout(limit);
        match request.send().await {
            Ok(response) => (Some(response.status().as_u16()), None),
            Err(error) if error.is_timeout() => (None, Some("timed out")),
            Err(_) => (None, Some("cannot be reached")),
        }
    }
}

/// The most that is read of an error's body.
const MAX_ERROR_BODY: usize = 64 << 10;

async fn refused(mut response: reqwest::Response, deadline: Instant) -> Failure {
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
    Failure::of_status(status, &body, wait)
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

    #[test]
    fn the_providers_words_are_shown_without_keys() {
        let body = br#"{"error":{"message":"Incorrect key 'sk-abc' provided: Bearer x\nsecond line","type":"x"}}"#;
        assert_eq!(message_of(body).as_deref(), Some("Incorrect key … provided: … x"));
        assert_eq!(message_of(b"<html>"), None);
        let failure = Failure::of_status(StatusCode::BAD_REQUEST, body, None);
        assert!(!failure.answer.body("r").error.message.contains("sk-abc"));
    }
}
