//! Events of developers, apps, features and rate cards.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

use super::{ModelRates, Status};
use crate::ids::{AppId, DeveloperId, FeatureId, TokenId};
use crate::money::{BasisPoints, Money};
use crate::time::Timestamp;
use crate::token::{Scope, TokenHash};

/// A developer may register apps from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeveloperRegistered {
    /// The developer.
    pub developer_id: DeveloperId,
    /// Name shown to operators.
    pub name: String,
    /// Business contact.
    pub email: String,
}

/// A developer got an API token. Only its hash is known.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeveloperTokenIssued {
    /// The developer.
    pub developer_id: DeveloperId,
    /// The token's id.
    pub token_id: TokenId,
    /// Name given by its owner.
    pub name: String,
    /// SHA-256 of the token.
    pub token_hash: TokenHash,
    /// The first characters, to recognise it by.
    pub token_prefix: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it ends, if ever.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
}

/// A developer's token is refused from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeveloperTokenRevoked {
    /// The developer.
    pub developer_id: DeveloperId,
    /// The token's id.
    pub token_id: TokenId,
}

/// Who may open a session for a user of an app.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum SessionOpening {
    /// Anybody who knows the public app id, as ModelFaucet 1.2 allows.
    #[default]
    Public,
    /// Only the app's server, with a developer token that has the scope `developer:sessions:write`.
    Server,
}

/// An app exists from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppRegistered {
    /// The app.
    pub app_id: AppId,
    /// Its developer.
    pub developer_id: DeveloperId,
    /// The id that apps put into their clients.
    pub public_app_id: String,
    /// What can change later.
    pub settings: AppSettings,
}

/// What can be changed about an app.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppSettings {
    /// Name shown to people.
    pub name: String,
    /// Line of business.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub vertical: Option<String>,
    /// The developer's part of the margin where a feature names none.
    pub default_revenue_share_bps: BasisPoints,
    /// Active or disabled.
    pub status: Status,
    /// Who may open sessions.
    pub session_opening: SessionOpening,
}

/// An app has new settings.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AppChanged {
    /// The app.
    pub app_id: AppId,
    /// The settings from now on, all of them.
    pub settings: AppSettings,
}

/// What a feature costs on top of the provider's price.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct Pricing {
    /// Markup on the provider's cost.
    #[serde(default = "default_markup")]
    pub markup_bps: BasisPoints,
    /// The developer's part of the margin; absent: the app's default.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revenue_share_bps: Option<BasisPoints>,
    /// Fee per call on the user's own key or machine.
    #[serde(default, skip_serializing_if = "Money::is_zero_ref")]
    pub fee_usd: Money,
}

fn default_markup() -> BasisPoints {
    Pricing::default().markup_bps
}

impl Default for Pricing {
    /// ModelFaucet 1.2's constants: markup 30 %, share by the app, no fee.
    fn default() -> Self {
        Self { markup_bps: BasisPoints::new(3_000).unwrap_or_default(), revenue_share_bps: None, fee_usd: Money::ZERO }
    }
}

impl Money {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
    pub(crate) fn is_zero_ref(&self) -> bool {
        self.is_zero()
    }
}

/// An app has a feature from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureDefined {
    /// The app.
    pub app_id: AppId,
    /// The feature.
    pub feature_id: FeatureId,
    /// The key that apps name it by; unique in its app.
    pub feature_key: String,
    /// Name shown to people.
    pub display_name: String,
    /// What it costs.
    pub pricing: Pricing,
    /// Routing and other policy, read by the gateway.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub policy: Map<String, Value>,
}

/// A feature has new settings, all of which are named.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FeatureChanged(pub FeatureDefined);

/// A feature is gone; calls that name it are refused.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FeatureRemoved {
    /// The app.
    pub app_id: AppId,
    /// The feature.
    pub feature_id: FeatureId,
}

/// A rate card's name: the first 16 bytes of the SHA-256 of its canonical bytes, as a UUID of version 8.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = Uuid)]
pub struct RateCardId(pub Uuid);

impl std::fmt::Display for RateCardId {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

/// A rate card is known from now on; immutable.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateCardPublished {
    /// Its name, derived from its content.
    pub rate_card_id: RateCardId,
    /// Full SHA-256 of the canonical bytes, hexadecimal.
    pub sha256: String,
    /// Where the prices come from.
    pub source: String,
    /// Prices by model.
    pub models: Vec<ModelRates>,
}

impl RateCardPublished {
    /// The card of these models: sorted by provider and model, and named by the SHA-256 of their canonical bytes.
    ///
    /// # Errors
    /// If they do not serialize, which models in memory do.
    pub fn of(source: String, mut models: Vec<ModelRates>) -> Result<Self, serde_json::Error> {
        models.sort_by(|a, b| (&a.provider, &a.model).cmp(&(&b.provider, &b.model)));
        let hash: [u8; 32] = Sha256::digest(serde_json::to_vec(&models)?).into();
        let mut cut = [0; 16];
        cut.copy_from_slice(&hash[..16]);
        let rate_card_id = RateCardId(uuid::Builder::from_custom_bytes(cut).into_uuid());
        let sha256 = hash.iter().fold(String::with_capacity(64), |mut text, byte| {
            use std::fmt::Write as _;
            let written = write!(text, "{byte:02x}");
            debug_assert!(written.is_ok(), "writing to a string does not fail");
            text
        });
        Ok(Self { rate_card_id, sha256, source, models })
    }

    /// Is every model in order, and there once?
    pub fn is_valid(&self) -> bool {
        let twice = |pair: &[ModelRates]| matches!(pair, [a, b] if (&a.provider, &a.model) == (&b.provider, &b.model));
        !self.models.is_empty() && self.models.iter().all(ModelRates::is_valid) && !self.models.windows(2).any(twice)
    }
}

/// New holds and usages are priced by this card from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateCardActivated {
    /// The card.
    pub rate_card_id: RateCardId,
}
