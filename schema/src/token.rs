//! Tokens: 256 random bits behind a prefix, shown once, stored as SHA-256; and the hashes that stand for outside names.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256};
use subtle::ConstantTimeEq as _;
use uuid::Uuid;

use crate::ids::AppId;
use crate::text;

/// What a token is for; each kind has its own prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TokenKind {
    /// A user's session.
    Session,
    /// A developer's API access.
    Developer,
    /// A staff member's API access.
    Staff,
    /// The operator's administration.
    Admin,
}

impl TokenKind {
    /// The characters every token of this kind begins with.
    pub const fn prefix(self) -> &'static str {
        match self {
            Self::Session => "mf_sess_",
            Self::Developer => "mf_dev_",
            Self::Staff => "mf_staff_",
            Self::Admin => "mf_admin_",
        }
    }
}

impl TokenKind {
    /// How many characters of a token are shown to recognise it by: the prefix and eight more.
    pub const fn shown(self) -> usize {
        self.prefix().len() + 8
    }
}

/// Makes a new token: prefix and 32 random bytes in base64url without padding.
///
/// # Errors
/// If the system has no randomness to give.
pub fn generate_token(kind: TokenKind) -> Result<SecretString, getrandom::Error> {
    let mut random = [0_u8; 32];
    getrandom::fill(&mut random)?;
    Ok(SecretString::from(format!("{}{}", kind.prefix(), URL_SAFE_NO_PAD.encode(random))))
}

/// SHA-256 of a token. Stored as `sha256:` and 64 hexadecimal digits, as ModelFaucet 1.2 does.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct TokenHash([u8; 32]);

impl TokenHash {
    /// The hash of a token's text.
    pub fn of(token: &SecretString) -> Self {
        Self::of_text(token.expose_secret())
    }

    /// The hash of a token as it came in a header.
    pub fn of_text(token: &str) -> Self {
        Self(Sha256::digest(token.as_bytes()).into())
    }

    /// Equality in constant time.
    pub fn matches(&self, other: &Self) -> bool {
        self.0.ct_eq(&other.0).into()
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// An app's own id for a user, as HMAC-SHA-256 with the operator's key over app id and outside id: the same person in two apps
/// gets two hashes, and without the key nobody can try out names.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct UserHash([u8; 32]);

impl UserHash {
    /// The hash of `external_user_id` in `app`.
    pub fn of(key: &SecretString, app: AppId, external_user_id: &str) -> Self {
        let mut mac = <Hmac<Sha256>>::new_from_slice(key.expose_secret().as_bytes())
            .unwrap_or_else(|_| unreachable!("HMAC takes keys of any length"));
        mac.update(app.0.as_bytes());
        mac.update(external_user_id.as_bytes());
        Self(mac.finalize().into_bytes().into())
    }

    /// The 32 bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

macro_rules! hash_text {
    ($name:ident, $prefix:literal) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str($prefix)?;
                self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{self}")
            }
        }

        impl FromStr for $name {
            type Err = InvalidHash;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                let digits = text.strip_prefix($prefix).ok_or(InvalidHash)?.as_bytes();
                if digits.len() != 64 {
                    return Err(InvalidHash);
                }
                let mut bytes = [0_u8; 32];
                for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
                    let digit = |at: usize| pair.get(at).and_then(|d| char::from(*d).to_digit(16)).ok_or(InvalidHash);
                    *byte = u8::try_from(digit(0)? * 16 + digit(1)?).map_err(|_| InvalidHash)?;
                }
                Ok(Self(bytes))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                text::write(self, serializer)
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                text::parse(deserializer, "")
            }
        }
    };
}

hash_text!(TokenHash, "sha256:");
hash_text!(UserHash, "hmac:");

/// A text that is not a hash.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not a hash of 64 hexadecimal digits behind its prefix")]
pub struct InvalidHash;

/// The 128-bit hash that an idempotency key or fingerprint is stored as. Parts are joined behind their lengths.
pub fn short_hash(parts: &[&[u8]]) -> Uuid {
    let mut digest = Sha256::new();
    for part in parts {
        digest.update(u64::try_from(part.len()).unwrap_or(u64::MAX).to_be_bytes());
        digest.update(part);
    }
    let hash: [u8; 32] = digest.finalize().into();
    let mut cut = [0_u8; 16];
    cut.copy_from_slice(&hash[..16]);
    Uuid::from_bytes(cut)
}

macro_rules! scopes {
    ($($(#[$doc:meta])* $variant:ident = $text:literal),+ $(,)?) => {
        /// What a developer's token may do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum Scope {
            $($(#[$doc])* #[serde(rename = $text)] $variant,)+
        }

        impl Scope {
            /// Every scope.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The text on the wire.
            pub const fn text(self) -> &'static str {
                match self { $(Self::$variant => $text,)+ }
            }
        }
    };
}

scopes! {
    /// List apps.
    AppsRead = "developer:apps:read",
    /// Register and change apps.
    AppsWrite = "developer:apps:write",
    /// List features.
    FeaturesRead = "developer:features:read",
    /// Define and change features.
    FeaturesWrite = "developer:features:write",
    /// List provider keys.
    ProviderKeysRead = "developer:provider_keys:read",
    /// Store and disable provider keys.
    ProviderKeysWrite = "developer:provider_keys:write",
    /// List tokens.
    TokensRead = "developer:tokens:read",
    /// Issue and revoke tokens.
    TokensWrite = "developer:tokens:write",
    /// Read usage, wallets, statements and top-ups of own apps.
    OperationsRead = "developer:operations:read",
    /// Open and revoke sessions of own apps.
    SessionsWrite = "developer:sessions:write",
    /// Place, capture and release holds and record usage of own apps.
    UsageWrite = "developer:usage:write",
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_have_their_prefix_and_256_random_bits() {
        let (one, two) = (generate_token(TokenKind::Session).unwrap(), generate_token(TokenKind::Session).unwrap());
        let text = one.expose_secret();
        assert!(text.starts_with("mf_sess_"));
        assert_eq!(text.len(), "mf_sess_".len() + 43);
        assert_ne!(text, two.expose_secret());
        let hash = TokenHash::of(&one);
        assert_eq!(hash.to_string().parse::<TokenHash>().unwrap(), hash);
        assert!(hash.matches(&TokenHash::of_text(text)) && !hash.matches(&TokenHash::of(&two)));
    }

    #[test]
    fn a_user_of_two_apps_has_two_hashes() {
        let key = SecretString::from("key");
        let hash = |app| UserHash::of(&key, AppId(Uuid::from_u128(app)), "crm-demo-user");
        assert_ne!(hash(1), hash(2));
        assert_eq!(hash(1), hash(1));
        assert_ne!(hash(1), UserHash::of(&SecretString::from("other"), AppId(Uuid::from_u128(1)), "crm-demo-user"));
    }

    #[test]
    fn joined_parts_keep_their_borders() {
        assert_ne!(short_hash(&[b"ab", b"c"]), short_hash(&[b"a", b"bc"]));
        assert_ne!(short_hash(&[b"ab"]), short_hash(&[b"ab", b""]));
    }
}
