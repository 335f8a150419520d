//! What a gateway without a database and the command side say to each other. Both are of one version: this is no public API.

use axum::Json;
use axum::response::{IntoResponse as _, Response};
use modelfaucet_gateway::port::PortError;
use modelfaucet_schema::ids::{CredentialId, GatewayId, SessionId};
use modelfaucet_schema::money::Money;
use serde::{Deserialize, Serialize};

/// The path under which the command side answers gateways.
pub(super) const CALLS: &str = "/v1/gateway/calls";
/// As [`CALLS`], for local usage.
pub(super) const USAGE: &str = "/v1/gateway/usage";
/// As [`CALLS`], for the sign of life.
pub(super) const ALIVE: &str = "/v1/gateway/alive";
/// As [`CALLS`], for the open holds of one gateway.
pub(super) const HOLDS: &str = "/v1/gateway/holds";

/// As [`CALLS`], for a provider key whose request went astray.
pub(super) const SUSPENSIONS: &str = "/v1/gateway/suspensions";

/// A provider key to take out of use, and the session whose call showed why.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Suspension {
    pub(super) session_id: SessionId,
    pub(super) credential_id: CredentialId,
}

/// A sign of life.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Alive {
    pub(super) gateway: GatewayId,
}

/// An answer of the command side, told or refused; both come with status 200.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Reply<T> {
    Ok(T),
    Err(Refusal),
}

/// As [`PortError`].
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Refusal {
    CannotPay { message: String, available: Money, required: Money, later: bool },
    Refused { status: u16, code: String, message: String },
    Overloaded,
    Unavailable,
    InDoubt,
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        match error {
            PortError::CannotPay { message, available, required, later } => {
                Self::CannotPay { message, available, required, later }
            }
            PortError::Refused { status, code, message } => Self::Refused { status, code: code.to_owned(), message },
            PortError::Overloaded => Self::Overloaded,
            PortError::Unavailable => Self::Unavailable,
            PortError::InDoubt => Self::InDoubt,
        }
    }
}

impl From<Refusal> for PortError {
    fn from(refusal: Refusal) -> Self {
        match refusal {
            Refusal::CannotPay { message, available, required, later } => {
                Self::CannotPay { message, available, required, later }
            }
            Refusal::Refused { status, code, message } => Self::Refused { status, code: known(&code), message },
            Refusal::Overloaded => Self::Overloaded,
            Refusal::Unavailable => Self::Unavailable,
            Refusal::InDoubt => Self::InDoubt,
        }
    }
}

/// The code of a rule; both sides know the same.
fn known(code: &str) -> &'static str {
    let table = modelfaucet_command::http::rejection_table();
    table.iter().find(|(_, known, _)| *known == code).map_or("internal_error", |(_, known, _)| known)
}

impl<T: Serialize> Reply<T> {
    pub(super) fn of(result: Result<T, PortError>) -> Response {
        let reply = match result {
            Ok(answer) => Self::Ok(answer),
            Err(error) => Self::Err(error.into()),
        };
        Json(reply).into_response()
    }
}

impl<T> Reply<T> {
    pub(super) fn into_result(self) -> Result<T, PortError> {
        match self {
            Self::Ok(answer) => Ok(answer),
            Self::Err(refusal) => Err(refusal.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refusal_arrives_as_it_was() {
        let message = || "no".to_owned();
        let mut errors = vec![PortError::Overloaded, PortError::Unavailable, PortError::InDoubt];
        errors.extend([true, false].map(|later| PortError::CannotPay {
            message: message(),
            available: Money::ZERO,
            required: Money::from_units(1),
            later,
        }));
        for (status, code, _) in modelfaucet_command::http::rejection_table() {
            errors.push(PortError::Refused { status, code, message: message() });
        }
        for error in errors {
            let text = serde_json::to_string(&Reply::<()>::Err(error.clone().into())).unwrap();
            assert_eq!(serde_json::from_str::<Reply<()>>(&text).unwrap().into_result(), Err(error));
        }
    }
}
