//! The one error envelope of every HTTP answer: `{"error":{"code","message","type","param","request_id"}}`.

use serde::{Deserialize, Serialize};

/// The body of every answer that is not a success.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorBody {
    /// The error.
    pub error: ErrorDetail,
}

/// What went wrong, in terms that the caller may know.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, utoipa::ToSchema)]
pub struct ErrorDetail {
    /// Stable and documented; programs decide by it.
    #[schema(example = "insufficient_balance")]
    pub code: String,
    /// For people; may change.
    pub message: String,
    /// The class of error, as OpenAI's clients know it.
    #[schema(example = "invalid_request_error")]
    pub r#type: String,
    /// The member or parameter that is wrong, if it is one.
    pub param: Option<String>,
    /// The value of the answer's `x-request-id` header.
    pub request_id: String,
    /// More facts, by code.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Object>)]
    pub details: Option<serde_json::Value>,
}
