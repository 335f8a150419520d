//! Events of provider keys. A key itself is never in an event: only where it may be sent, and enough of it to recognise it by.

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, CredentialId, DeveloperId, UserId};
use crate::money::Money;

/// A provider whose keys are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum KeyProvider {
    /// OpenAI.
    Openai,
    /// `OpenRouter`.
    Openrouter,
    /// Anthropic, through its OpenAI-compatible endpoint.
    Anthropic,
    /// Google's Gemini, through its OpenAI-compatible endpoint.
    Gemini,
    /// The same under its maker's name.
    Google,
    /// OpenAI's models at Azure.
    AzureOpenai,
    /// Anybody who speaks OpenAI's API.
    OpenaiCompatible,
}

impl KeyProvider {
    /// Every provider.
    pub const ALL: [Self; 7] = [
        Self::Openai,
        Self::Openrouter,
        Self::Anthropic,
        Self::Gemini,
        Self::Google,
        Self::AzureOpenai,
        Self::OpenaiCompatible,
    ];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Openrouter => "openrouter",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Google => "google",
            Self::AzureOpenai => "azure_openai",
            Self::OpenaiCompatible => "openai_compatible",
        }
    }

    /// The name that rate cards and calls have for who bills.
    pub const fn biller(self) -> &'static str {
        match self {
            Self::Openai => "openai",
            Self::Openrouter => "openrouter",
            Self::Anthropic => "anthropic",
            Self::Gemini | Self::Google => "gemini",
            Self::AzureOpenai => "azure",
            Self::OpenaiCompatible => "openai-compatible",
        }
    }

    /// Where a key goes that names no address: the root of an OpenAI-compatible API, to which a path such as `/chat/completions` is
    /// added.
    pub const fn default_root(self) -> &'static str {
        match self {
            Self::Openai | Self::AzureOpenai | Self::OpenaiCompatible => "https://api.openai.com/v1",
            Self::Openrouter => "https://openrouter.ai/api/v1",
            Self::Anthropic => "https://api.anthropic.com/v1",
            Self::Gemini | Self::Google => "https://generativelanguage.googleapis.com/v1beta/openai",
        }
    }

    /// Scheme and host of that address.
    pub fn default_origin(self) -> &'static str {
        let root = self.default_root();
        let path = root.match_indices('/').nth(2).map_or(root.len(), |(at, _)| at);
        &root[..path]
    }
}

/// Whose key it is, and so whose calls it may serve.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum CredentialOwner {
    /// A user of an app: it serves that user's calls.
    User {
        /// The app.
        app_id: AppId,
        /// The user.
        user_id: UserId,
    },
    /// A developer: it serves calls of all users of the developer's apps.
    Developer {
        /// The developer.
        developer_id: DeveloperId,
    },
}

impl std::fmt::Display for CredentialOwner {
    /// As the owner is named where keys are sealed: `user:…` or `developer:…`. Never changes, or sealed keys cannot be opened.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::User { user_id, .. } => write!(f, "user:{user_id}"),
            Self::Developer { developer_id } => write!(f, "developer:{developer_id}"),
        }
    }
}

/// A provider key may be used from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialAdded {
    /// The key's id.
    pub credential_id: CredentialId,
    /// Whose it is.
    pub owner: CredentialOwner,
    /// The provider.
    pub provider: KeyProvider,
    /// The address that the owner named for it; absent: the provider's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base_url: Option<String>,
    /// Scheme, host and port that it may be sent to, and no other.
    pub origin: String,
    /// What is shown of it.
    pub masked: String,
    /// Models that stand for `auto:…`, the preferred one first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub models_allowed: Vec<String>,
    /// The most that calls with it may cost at the provider, by our rate cards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub budget_limit: Option<Money>,
    /// The key with the lowest number is used, 1 to 1000.
    pub priority: u16,
    /// Is a call that it fails made with the platform's key?
    pub fallback_to_platform: bool,
}

/// Why a key is not used any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DisableReason {
    /// Its owner, or an administrator, wanted that.
    Requested,
    /// An answer came from an address of the inside: the key may be known to whoever sent it.
    Tripwire,
}

/// A provider key is not used any more, and its ciphertext is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CredentialDisabled {
    /// The key's id.
    pub credential_id: CredentialId,
    /// Why.
    pub reason: DisableReason,
}
