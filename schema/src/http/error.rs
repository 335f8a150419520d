//! Errors of the API. The envelope is filled in by [`super::observe`], which knows the request's id.

use axum::response::{IntoResponse, Response};
use http::header::{HeaderValue, RETRY_AFTER};
use http::{HeaderName, StatusCode};

use crate::error::{ErrorBody, ErrorDetail};

/// An error that a caller may see.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    message: String,
    param: Option<String>,
    details: Option<Box<serde_json::Value>>,
    retry_after: Option<u32>,
}

impl ApiError {
    /// An error with a status, a stable code and a message for people.
    pub fn new(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        Self { status, code, message: message.into(), param: None, details: None, retry_after: None }
    }

    /// 400 `invalid_request`.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request", message)
    }

    /// 500 `internal_error`. The cause goes to the log, never to the caller.
    pub fn internal() -> Self {
        Self::new(500, "internal_error", "The request could not be processed.")
    }

    /// 503 with a `Retry-After` header.
    pub fn unavailable(code: &'static str, message: impl Into<String>) -> Self {
        Self { retry_after: Some(1), ..Self::new(503, code, message) }
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

    /// Other words for people; the rest stays.
    #[must_use]
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = message.into();
        self
    }

    /// As `code` and `message`, if it is the error `known`: where a route promises other words than the rule that refuses.
    #[must_use]
    pub fn renamed(mut self, known: &str, code: &'static str, message: &str) -> Self {
        if self.code == known {
            self.code = code;
            message.clone_into(&mut self.message);
        }
        self
    }

    /// Says after how many seconds to try again.
    #[must_use]
    pub fn retry_after(mut self, seconds: u32) -> Self {
        self.retry_after = Some(seconds);
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
                r#type: self.kind().to_owned(),
                param: self.param.clone(),
                request_id: request_id.to_owned(),
                details: self.details.as_deref().cloned(),
            },
        }
    }

    /// OpenAI's class of the error.
    fn kind(&self) -> &'static str {
        match self.status.as_u16() {
            402 => "insufficient_quota",
            403 => "permission_error",
            409 | 422 if self.code.starts_with("idempotency") => "idempotency_error",
            429 => "requests",
            400..=499 => "invalid_request_error",
            _ => "server_error",
        }
    }

    /// The whole answer for a request.
    pub(super) fn answer(&self, request_id: &str) -> Response {
        let mut response = (self.status, axum::Json(self.body(request_id))).into_response();
        let headers = response.headers_mut();
        if let Some(seconds) = self.retry_after {
            headers.insert(RETRY_AFTER, seconds.into());
        }
        // A refusal that a repeat cannot change: clients that retry by themselves are told not to.
        if matches!(self.status.as_u16(), 402 | 409 | 422) && self.retry_after.is_none() {
            headers.insert(HeaderName::from_static("x-should-retry"), HeaderValue::from_static("false"));
        }
        response
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = self.status.into_response();
        response.extensions_mut().insert(self);
        response
    }
}

/// 404 for paths that do not exist.
pub async fn not_found() -> ApiError {
    ApiError::new(404, "not_found", "There is nothing at this path.")
}
