//! Texts of requests with bounds, parsed once at the edge.

use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{SessionId, WalletId};
use serde::{Deserialize, Deserializer, Serialize, de};
use utoipa::{PartialSchema, ToSchema};

use super::auth::Authenticated;
use crate::domain::{Caller, Payer};

/// Text of `MIN` to `MAX` characters without control characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(transparent)]
pub(super) struct Text<const MIN: usize, const MAX: usize>(pub(super) String);

impl<'de, const MIN: usize, const MAX: usize> Deserialize<'de> for Text<MIN, MAX> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let long_enough = text.len() >= MIN && (text.len() <= MAX || text.chars().count() <= MAX);
        if long_enough && !text.chars().any(char::is_control) {
            Ok(Self(text))
        } else {
            Err(de::Error::custom(format!("text must have {MIN} to {MAX} characters and no control characters")))
        }
    }
}

impl<const MIN: usize, const MAX: usize> PartialSchema for Text<MIN, MAX> {
    fn schema() -> utoipa::openapi::RefOr<utoipa::openapi::Schema> {
        utoipa::openapi::ObjectBuilder::new()
            .schema_type(utoipa::openapi::schema::Type::String)
            .min_length(Some(MIN))
            .max_length(Some(MAX))
            .into()
    }
}

impl<const MIN: usize, const MAX: usize> ToSchema for Text<MIN, MAX> {
    fn name() -> std::borrow::Cow<'static, str> {
        format!("Text{MIN}To{MAX}").into()
    }
}

/// `^[a-zA-Z0-9_:-]+$`, 1 to 128 characters.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, pattern = "^[a-zA-Z0-9_:-]{1,128}$", example = "app_pub_demo")]
pub(super) struct Identifier(pub(super) String);

impl Identifier {
    /// Checks a text from a path.
    pub(super) fn parse(text: &str, param: &str) -> Result<Self, ApiError> {
        if Self::is_valid(text) {
            Ok(Self(text.to_owned()))
        } else {
            Err(ApiError::invalid(format!("{param} must be 1 to 128 of a-z A-Z 0-9 _ : -")).param(param))
        }
    }

    fn is_valid(text: &str) -> bool {
        (1..=128).contains(&text.len())
            && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-'))
    }
}

impl<'de> Deserialize<'de> for Identifier {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        if Self::is_valid(&text) {
            Ok(Self(text))
        } else {
            Err(de::Error::custom("identifier must be 1 to 128 of a-z A-Z 0-9 _ : -"))
        }
    }
}

/// A SHA-256 is 64 hexadecimal digits, written in one way only.
///
/// # Errors
/// 400 for anything else.
pub(super) fn require_digest(text: &str) -> Result<(), ApiError> {
    if text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte)) {
        Ok(())
    } else {
        Err(ApiError::invalid("digest must be 64 hexadecimal digits in lower case").param("digest"))
    }
}

/// An id in a path.
///
/// # Errors
/// 400 for what is not a UUID.
pub(super) fn path_id<T: std::str::FromStr>(text: &str, param: &'static str) -> Result<T, ApiError> {
    // The hyphenated form only, so that one thing has one name.
    let parsed = if text.len() == 36 { text.parse().ok() } else { None };
    parsed.ok_or_else(|| ApiError::invalid(format!("Missing or invalid {param}.")).param(param))
}

/// Who pays: the caller's own session, or the one session or wallet that the body names.
pub(super) fn payer(
    who: &Authenticated,
    session: Option<SessionId>,
    wallet: Option<WalletId>,
) -> Result<Payer, ApiError> {
    match (who.caller, session, wallet) {
        (Caller::Session(own), None, None) => Ok(Payer::Session(own)),
        (Caller::Session(own), Some(named), None) if own == named => Ok(Payer::Session(own)),
        (Caller::Session(_), Some(_), _) => {
            Err(ApiError::invalid("A session token pays for itself only.").param("session_id"))
        }
        (Caller::Session(_), ..) => Err(ApiError::invalid("A session token pays for itself only.").param("wallet_id")),
        (_, Some(session), None) => Ok(Payer::Session(session)),
        (_, None, Some(wallet)) => Ok(Payer::Wallet(wallet)),
        _ => Err(ApiError::invalid("Name either session_id or wallet_id.").param("session_id")),
    }
}
