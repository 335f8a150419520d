//! What can go wrong here, and what of it a caller may know.

use axum::response::{IntoResponse, Response};
use deadpool_postgres::{BuildError, PoolError};
use modelfaucet_schema::http::ApiError;
use tokio_postgres::error::SqlState;

/// Why a read gets no answer.
#[derive(Debug, thiserror::Error)]
pub enum QueryError {
    /// The request is refused; the caller is told this.
    #[error("refused: {0:?}")]
    Refused(ApiError),
    /// The database's error.
    #[error("the database answers with an error: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// No connection to the database within the time allowed.
    #[error("no connection to the database: {0}")]
    Pool(#[from] PoolError),
    /// The pool cannot be built.
    #[error("the connection pool cannot be built: {0}")]
    Build(#[from] BuildError),
    /// A stored value of a read table makes no sense.
    #[error("a read table holds a value that this program cannot read: {0}")]
    Foreign(&'static str),
}

impl From<ApiError> for QueryError {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl QueryError {
    /// What the caller is told. Logs the cause where the fault is ours.
    pub(crate) fn into_api(self) -> ApiError {
        if let Self::Refused(error) = self {
            return error;
        }
        let answer = self.answer();
        if answer.status().as_u16() == 500 {
            tracing::error!(error = %Causes(&self), "a read failed");
        } else {
            tracing::warn!(error = %Causes(&self), "a read could not be answered now");
        }
        answer
    }

    fn answer(&self) -> ApiError {
        match self {
            Self::Refused(error) => error.clone(),
            Self::Pool(_) => {
                ApiError::unavailable("database_unavailable", "The database cannot be reached at the moment.")
            }
            Self::Build(_) | Self::Foreign(_) => ApiError::internal(),
            Self::Database(error) => match error.code() {
                Some(&SqlState::QUERY_CANCELED) => {
                    ApiError::unavailable("query_timeout", "The answer took too long; narrow the range.")
                        .retry_after(30)
                }
                // Views of projections are made by the projector when it first runs, and replaced when a version goes live.
                Some(
                    &SqlState::UNDEFINED_TABLE | &SqlState::INVALID_SCHEMA_NAME | &SqlState::FEATURE_NOT_SUPPORTED,
                ) => ApiError::unavailable("projections_missing", "The read tables are not there yet.").retry_after(5),
                Some(code)
                    if code.code().starts_with("08")
                        || code.code().starts_with("57")
                        || code.code().starts_with("53") =>
                {
                    ApiError::unavailable("database_unavailable", "The database cannot be reached at the moment.")
                }
                // The connection broke, or the server says nothing.
                None if error.is_closed() || has_broken(error) => {
                    ApiError::unavailable("database_unavailable", "The database cannot be reached at the moment.")
                }
                _ => ApiError::internal(),
            },
        }
    }
}

/// Is the cause the connection's, not the driver's or a value's?
fn has_broken(error: &tokio_postgres::Error) -> bool {
    std::error::Error::source(error).is_some_and(<dyn std::error::Error>::is::<std::io::Error>)
}

impl IntoResponse for QueryError {
    fn into_response(self) -> Response {
        self.into_api().into_response()
    }
}

/// An error with all its causes on one line; the database driver keeps the server's text in a cause.
struct Causes<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Causes<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}
