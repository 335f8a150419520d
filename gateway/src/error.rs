//! What a caller is told when a call fails: OpenAI's shape, stable codes, and headers that keep clients from trying in vain.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::header::{CONNECTION, HeaderName, HeaderValue, RETRY_AFTER};
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::{ErrorBody, ErrorDetail};
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::money::Money;

/// Header that decides for OpenAI's clients whether they try again, whatever the status.
pub const SHOULD_RETRY: HeaderName = HeaderName::from_static("x-should-retry");

/// A call that failed.
#[derive(Clone, Debug, PartialEq)]
pub struct CallError {
    status: StatusCode,
    code: &'static str,
    kind: &'static str,
    message: String,
    param: Option<String>,
    details: Option<Box<serde_json::Value>>,
    headers: Box<HeaderMap>,
}

impl CallError {
    /// An error with a status, a stable code, OpenAI's class and a message for people.
    pub fn new(status: u16, code: &'static str, kind: &'static str, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, kind, message: message.into(), param: None, details: None, headers: Box::default() }
    }

    /// 4xx because of what was sent.
    pub fn invalid(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, code, "invalid_request_error", message)
    }

    /// 400 `invalid_request` that names a member.
    pub fn malformed(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(400, "invalid_request", message).param(param)
    }

    /// 400 `unsupported_parameter` that names the member.
    pub fn unsupported(param: impl Into<String>) -> Self {
        let param = param.into();
        Self::invalid(400, "unsupported_parameter", format!("`{param}` is not supported here.")).param(param)
    }

    /// 400 `unbounded_cost` that names the member.
    pub fn unbounded(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self::invalid(400, "unbounded_cost", message).param(param)
    }

    /// 401 `invalid_session`.
    pub fn invalid_session(message: &'static str) -> Self {
        Self::invalid(401, "invalid_session", message)
    }

    /// 401 `expired_session`.
    pub fn expired_session() -> Self {
        Self::invalid(401, "expired_session", "The session token is expired.")
    }

    /// 402: the wallet cannot pay. With `later`, only until its open holds have ended.
    pub fn cannot_pay(message: String, available: Money, required: Money, later: bool) -> Self {
        let details = serde_json::json!({ "available_usd": available, "required_usd": required });
        let code = if later { "in_flight_holds" } else { "insufficient_balance" };
        let error = Self::new(402, code, "insufficient_quota", message)
            .details(details)
            .header("x-mf-required", &required.to_string())
            .header("x-mf-available", &available.to_string());
        if later { error.retry_after(2).should_retry(true) } else { error.should_retry(false) }
    }

    /// 503 `ledger_unavailable`: certainly no effect.
    pub fn ledger_unavailable() -> Self {
        Self::new(503, "ledger_unavailable", "server_error", "The ledger is not available; try again.").retry_after(1)
    }

    /// 503 `overloaded`: certainly no effect.
    pub fn overloaded() -> Self {
        Self::new(503, "overloaded", "server_error", "Too much is waiting; try again.").retry_after(1)
    }

    /// 503 `capture_pending`: the call was made and its charge is on its way.
    pub fn capture_pending() -> Self {
        let message =
            "The call was made, but its charge could not be recorded yet; it will be. The answer is withheld.";
        Self::new(503, "capture_pending", "server_error", message).should_retry(false)
    }

    /// 502 `provider_error`.
    pub fn provider_failed(message: impl Into<String>) -> Self {
        Self::new(502, "provider_error", "upstream_error", message).should_retry(false)
    }

    /// 504 `provider_error`.
    pub fn provider_timed_out() -> Self {
        Self::new(504, "provider_error", "upstream_error", "Provider request timed out.").should_retry(false)
    }

    /// 500 `internal_error`. The cause goes to the log, never to the caller.
    pub fn internal() -> Self {
        Self::new(500, "internal_error", "server_error", "The request could not be processed.").should_retry(false)
    }

    /// Names the member or parameter that is wrong.
    #[must_use]
    pub fn param(mut self, param: impl Into<String>) -> Self {
        self.param = Some(param.into());
        self
    }

    /// Adds facts.
    #[must_use]
    pub fn details(mut self, details: serde_json::Value) -> Self {
        self.details = Some(Box::new(details));
        self
    }

    /// Adds a header; a value that no header can have is left out.
    #[must_use]
    pub fn header(mut self, name: &'static str, value: &str) -> Self {
        if let Ok(value) = HeaderValue::from_str(value) {
            self.headers.insert(HeaderName::from_static(name), value);
        }
        self
    }

    /// Says after how many seconds to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.headers.insert(RETRY_AFTER, seconds.into());
        self
    }

    /// Says whether trying again can help, where the status alone says something else to OpenAI's clients.
    #[must_use]
    pub fn should_retry(mut self, should: bool) -> Self {
        self.headers.insert(SHOULD_RETRY, HeaderValue::from_static(if should { "true" } else { "false" }));
        self
    }

    /// The stable code.
    pub fn code(&self) -> &'static str {
        self.code
    }

    /// The status.
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The envelope.
    pub fn body(&self, request_id: &str) -> ErrorBody {
        ErrorBody {
            error: ErrorDetail {
                code: self.code.to_owned(),
                message: self.message.clone(),
                r#type: self.kind.to_owned(),
                param: self.param.clone(),
                request_id: request_id.to_owned(),
                details: self.details.as_deref().cloned(),
            },
        }
    }

    /// The whole answer for a request.
    pub fn answer(&self, request_id: &str) -> Response {
        let mut response = (self.status, Json(self.body(request_id))).into_response();
        response.headers_mut().extend(self.headers.iter().map(|(name, value)| (name.clone(), value.clone())));
        if self.status == StatusCode::PAYLOAD_TOO_LARGE {
            response.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

impl From<ApiError> for CallError {
    /// Errors of the HTTP edge: bodies that are too large, of another type, or no JSON.
    fn from(error: ApiError) -> Self {
        let body = error.body("");
        let kind = if error.status().is_server_error() { "server_error" } else { "invalid_request_error" };
        let mut converted = Self::new(error.status().as_u16(), error.code(), kind, body.error.message);
        converted.param = body.error.param;
        converted
    }
}
