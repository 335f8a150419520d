//! An answer and the position that it is as of.

use axum::Json;
use axum::http::header::{CACHE_CONTROL, HeaderMap, HeaderName, HeaderValue};
use axum::response::{IntoResponse, Response};
use modelfaucet_schema::http::{ApiError, LEDGER_POSITION};
use serde::Serialize;

use crate::progress::AsOf;

/// JSON, or a refusal that depends on the position too, such as "not found".
pub(crate) struct Answer<T> {
    pub(crate) as_of: AsOf,
    pub(crate) result: Result<T, ApiError>,
}

impl<T: Serialize> IntoResponse for Answer<T> {
    fn into_response(self) -> Response {
        let mut response = match self.result {
            Ok(body) => Json(body).into_response(),
            Err(error) => error.into_response(),
        };
        stamp(response.headers_mut(), &self.as_of);
        response
    }
}

/// Adds what every answer carries.
pub(crate) fn stamp(headers: &mut HeaderMap, as_of: &AsOf) {
    if let Ok(position) = HeaderValue::try_from(as_of.to_string()) {
        headers.insert(HeaderName::from_static(LEDGER_POSITION), position);
    }
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
}
