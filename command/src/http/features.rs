//! Features: what an app uses models for, and what that costs.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Event, FeatureDefined, Pricing};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId};
use modelfaucet_schema::ids::FeatureId;
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::time::ApiTime;
use modelfaucet_schema::token::Scope;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use serde_json::{Map, Value};
use utoipa::ToSchema;

use super::Api;
use super::apps::{app, share};
use super::reply::{Done, OkReply};
use super::values::{Identifier, Text};
use crate::domain::{Command, FeaturePatch};

/// A feature to define.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DefineFeature {
    /// The key that apps name it by.
    feature_key: Identifier,
    /// Name shown to people.
    display_name: Text<1, 256>,
    /// What it costs on top of the provider's price; absent: markup 30 %, the app's share.
    pricing: Option<PricingBody>,
    /// Routing and other policy.
    #[schema(value_type = Option<Object>)]
    policy: Option<Map<String, Value>>,
}

/// What a feature costs, as developers write it.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PricingBody {
    /// Markup on the provider's cost, in hundredths of a percent.
    markup_bps: Option<BasisPoints>,
    /// The same in percent, with at most two decimals, as ModelFaucet 1.2 writes it.
    #[schema(value_type = Option<f64>, example = 30)]
    markup_percent: Option<Box<RawValue>>,
    /// The developer's part of the margin; absent: the app's default.
    revenue_share_bps: Option<BasisPoints>,
    /// Fee per call on the user's own key or machine; absent: none.
    fee_usd: Option<Money>,
}

impl PricingBody {
    fn read(self) -> Result<Pricing, ApiError> {
        let markup_bps = match (self.markup_bps, self.markup_percent) {
            (Some(_), Some(_)) => {
                let message = "Name the markup once: markup_bps or markup_percent.";
                return Err(ApiError::invalid(message).param("pricing.markup_percent"));
            }
            (Some(bps), None) => bps,
            (None, Some(percent)) => percent_as_bps(percent.get()).ok_or_else(|| {
                let message = "A markup is a percentage from 0 to 1000 with at most two decimals.";
                ApiError::invalid(message).param("pricing.markup_percent")
            })?,
            (None, None) => Pricing::default().markup_bps,
        };
        check_pricing(Pricing {
            markup_bps,
            revenue_share_bps: self.revenue_share_bps,
            fee_usd: self.fee_usd.unwrap_or(Money::ZERO),
        })
    }
}

/// Percent as JSON, a number or a text, in hundredths: digits are moved, nothing is rounded.
fn percent_as_bps(json: &str) -> Option<BasisPoints> {
    let text = json.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(json);
    let (whole, decimals) = text.split_once('.').unwrap_or((text, ""));
    let digits = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if whole.is_empty() || whole.len() > 4 || decimals.len() > 2 || !digits(whole) || !digits(decimals) {
        return None;
    }
    format!("{whole}{decimals:0<2}").parse().ok().and_then(BasisPoints::new)
}

/// A feature.
#[derive(Serialize, ToSchema)]
pub(super) struct FeatureReply {
    /// The feature.
    id: FeatureId,
    /// Its app.
    public_app_id: String,
    /// Its key.
    feature_key: String,
    /// Its name.
    display_name: String,
    /// What it costs.
    pricing: Pricing,
    /// Its policy.
    #[schema(value_type = Object)]
    policy: Map<String, Value>,
    /// When it was defined.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
}

fn feature_answer(done: &Done, public_app_id: &str, status: StatusCode) -> Result<Response, ApiError> {
    let feature: &FeatureDefined = match &done.recorded().event {
        Event::FeatureDefined(event) => event,
        Event::FeatureChanged(event) => &event.0,
        _ => return Err(done.unexpected()),
    };
    let updated_at = done.recorded().recorded_at;
    let reply = FeatureReply {
        id: feature.feature_id,
        public_app_id: public_app_id.to_owned(),
        feature_key: feature.feature_key.clone(),
        display_name: feature.display_name.clone(),
        pricing: feature.pricing,
        policy: feature.policy.clone(),
        created_at: ApiTime(feature.feature_id.made_at().unwrap_or(updated_at)),
        updated_at: ApiTime(updated_at),
    };
    Ok(done.answer(status, &reply))
}

/// Shares within a pricing are at most the whole, fees within what a request may name.
fn check_pricing(pricing: Pricing) -> Result<Pricing, ApiError> {
    if let Some(bps) = pricing.revenue_share_bps {
        share(bps.get(), "pricing.revenue_share_bps")?;
    }
    if pricing.fee_usd.is_negative() || pricing.fee_usd > Money::MAX_REQUEST {
        return Err(ApiError::invalid("A fee is not negative.").param("pricing.fee_usd"));
    }
    Ok(pricing)
}

/// In the words of ModelFaucet 1.2.
fn feature_not_found(error: ApiError) -> ApiError {
    error.renamed("feature_not_found", "invalid_request", "Feature could not be found.")
}

/// Define a feature.
#[utoipa::path(post, path = "/v1/developer/apps/{public_app_id}/features", tag = "catalogue", request_body = DefineFeature,
    params(("public_app_id" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:features:write"])),
    responses(
    (status = 201, description = "The feature", body = FeatureReply),
    (status = "4XX", description = "invalid_app, already_exists, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn define_feature(
    State(api): State<Api>,
    Path(public_app_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<DefineFeature>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let body = body.read().await?;
    let command = Command::DefineFeature {
        feature_id: FeatureId::generate(),
        public_app_id: app(&public_app_id)?,
        feature_key: body.feature_key.0,
        display_name: body.display_name.0,
        pricing: body.pricing.map(PricingBody::read).transpose()?.unwrap_or_default(),
        policy: body.policy.unwrap_or_default(),
    };
    let done = api.submit(&who, command, None).await;
    let done = done.map_err(|error| error.renamed("invalid_app", "invalid_app", "The public app id is invalid."))?;
    feature_answer(&done, &public_app_id, StatusCode::CREATED)
}

/// What to change about a feature; objects are replaced whole.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ChangeFeature {
    /// New name.
    display_name: Option<Text<1, 256>>,
    /// New pricing.
    pricing: Option<PricingBody>,
    /// New policy.
    #[schema(value_type = Option<Object>)]
    policy: Option<Map<String, Value>>,
}

/// Change a feature.
#[utoipa::path(patch, path = "/v1/developer/apps/{public_app_id}/features/{feature_key}", tag = "catalogue",
    request_body = ChangeFeature, params(("public_app_id" = String, Path), ("feature_key" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:features:write"])),
    responses(
    (status = 200, description = "The feature", body = FeatureReply),
    (status = "4XX", description = "invalid_app, feature_not_found, invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn change_feature(
    State(api): State<Api>,
    Path((public_app_id, feature_key)): Path<(String, String)>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ChangeFeature>,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let body = body.read().await?;
    let command = Command::ChangeFeature {
        public_app_id: app(&public_app_id)?,
        feature_key: Identifier::parse(&feature_key, "feature_key")?.0,
        patch: FeaturePatch {
            display_name: body.display_name.map(|text| text.0),
            pricing: body.pricing.map(PricingBody::read).transpose()?,
            policy: body.policy,
        },
    };
    let done = api.submit(&who, command, None).await.map_err(feature_not_found)?;
    feature_answer(&done, &public_app_id, StatusCode::OK)
}

/// Remove a feature.
#[utoipa::path(delete, path = "/v1/developer/apps/{public_app_id}/features/{feature_key}", tag = "catalogue",
    params(("public_app_id" = String, Path), ("feature_key" = String, Path)), security(("bearer" = ["admin"]), ("bearer" = ["developer:features:write"])),
    responses(
    (status = 200, description = "Calls that name it are refused from now on", body = OkReply),
    (status = "4XX", description = "invalid_app, feature_not_found", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn remove_feature(
    State(api): State<Api>,
    Path((public_app_id, feature_key)): Path<(String, String)>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_developer(&headers, request_id, Scope::FeaturesWrite).await?;
    let command = Command::RemoveFeature {
        public_app_id: app(&public_app_id)?,
        feature_key: Identifier::parse(&feature_key, "feature_key")?.0,
    };
    let done = api.submit(&who, command, None).await.map_err(feature_not_found)?;
    Ok(done.answer(StatusCode::OK, &OkReply::of(&done)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentages_become_basis_points_digit_by_digit() {
        for (json, bps) in [("30", 3_000), ("\"12.5\"", 1_250), ("0.07", 7), ("0", 0), ("1000", 100_000)] {
            assert_eq!(percent_as_bps(json).map(BasisPoints::get), Some(bps), "{json}");
        }
        for json in ["-1", "0.001", "1e2", "", "\"\"", ".5", "1001", "null", "[1]", "\"1,5\""] {
            assert_eq!(percent_as_bps(json), None, "{json}");
        }
    }
}
