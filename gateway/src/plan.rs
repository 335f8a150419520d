//! Where a call may go, in order: made of the request, the feature's policy and the rate card before anything is held. Pure.
//!
//! A plan names only what may be tried. A target stands behind another one because a failure of the first allows the second; whether
//! a failure does is the dispatch's matter (`Failure`), and so is the larger hold that a dearer target needs.

use std::sync::Arc;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{Endpoint, Mode, ModelRates, PriceRule, Route, ServiceTier};
use modelfaucet_schema::ids::{AppId, CredentialId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;

use crate::bound::Ask;
use crate::breaker::Subject;
use crate::error::CallError;
use crate::read_model::{Policy, RateCard, ReadModel};
use crate::request::{AskedTier, CallRequest};
use crate::usage::Convention;

/// One place that a call may be sent to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Target {
    /// Whose key is used, and so who owes what to whom.
    pub(crate) route: Route,
    /// Who bills for it.
    pub(crate) provider: Name,
    /// The model, as it is priced and as it goes upstream.
    pub(crate) model: String,
    /// The price list's entry; absent only where the provider's price is not ours.
    pub(crate) offer: Option<ModelRates>,
    /// The service tiers that may serve it here and have a price.
    pub(crate) tiers: Vec<ServiceTier>,
    /// Scheme, host and port; what is written down of the address.
    pub(crate) origin: Arc<str>,
    /// The key of a developer or user that it is called with; absent: the platform's.
    pub(crate) credential: Option<CredentialId>,
    /// How its provider counts cached input.
    pub(crate) convention: Convention,
}

impl Target {
    /// What its breaker watches.
    pub(crate) fn subject(&self, endpoint: Endpoint) -> Subject {
        match self.credential {
            Some(id) => Subject::Credential(id),
            None => Subject::Model { provider: self.provider.clone(), endpoint, model: self.model.clone() },
        }
    }

    /// Is it the same place, model and key?
    pub(crate) fn is_same_as(&self, other: &Self) -> bool {
        (self.route, &self.provider, &self.model, self.credential)
            == (other.route, &other.provider, &other.model, other.credential)
    }

    /// The price list's entry, where the provider's price is ours to pass on.
    pub(crate) fn priced_by(&self) -> Option<&ModelRates> {
        self.offer.as_ref().filter(|_| matches!(self.route, Route::Platform | Route::DeveloperKey))
    }

    /// The dearest service tier that may serve a request here: what is held for.
    pub(crate) fn dearest_tier(&self, ask: Ask) -> ServiceTier {
        self.priced_by().map_or(ServiceTier::Standard, |offer| ask.dearest_tier(offer, &self.tiers))
    }

    /// The most that a request can use here, if a tier serves it.
    pub(crate) fn bound_at(&self, ask: Ask, tier: ServiceTier) -> Usage {
        match self.priced_by() {
            Some(offer) => ask.bound_at(offer, tier),
            None => Usage::text(ask.input, ask.answers.saturating_mul(ask.cap)),
        }
    }

    /// The output cap that `granted` covers here; where only a fee is due, the one that was asked for.
    pub(crate) fn affordable(&self, ask: Ask, granted: Money, rule: &PriceRule) -> u64 {
        self.priced_by().map_or(ask.cap, |offer| ask.affordable(granted, offer, &self.tiers, rule))
    }

    /// The most that a usage can cost the platform, rounded up; `None` where somebody else's key pays, or something has no price.
    pub(crate) fn cost(&self, usage: &Usage) -> Option<Money> {
        let offer = self.offer.as_ref().filter(|_| self.route == Route::Platform)?;
        self.tiers.iter().filter_map(|tier| offer.exact_cost_at(*tier, usage).ok()?.round_up()).max()
    }
}

/// The targets of a call, the preferred one first; at least one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan(Vec<Target>);

impl Plan {
    /// The targets in order.
    pub(crate) fn targets(&self) -> &[Target] {
        &self.0
    }
}

/// What a plan is made of.
#[derive(Clone, Copy)]
pub(crate) struct Planner<'a> {
    /// Features and prices.
    pub(crate) model: &'a ReadModel,
    /// The app that calls.
    pub(crate) app: AppId,
    /// Where the platform's calls go.
    pub(crate) platform: &'a Arc<str>,
}

impl Planner<'_> {
    /// The plan of a request under the policy of its feature.
    ///
    /// # Errors
    /// 400 `no_available_route`, 403 `model_not_allowed`, 404 `feature_not_found`, `model_not_found` or `model_not_priced`: nothing can be
    /// called.
    pub(crate) fn plan(self, request: &CallRequest, policy: &Policy) -> Result<Plan, CallError> {
        if let Some(route) = request.route
            && route != Route::Platform
        {
            return Err(no_route(route));
        }
        self.platform_targets(request, policy).map(Plan)
    }

    /// What an app's feature says.
    pub(crate) fn feature(self, key: &str) -> Result<Arc<Policy>, CallError> {
        self.model.policy(self.app, key).ok_or_else(|| {
            CallError::invalid(404, "feature_not_found", "The feature could not be found.")
                .param("metadata.feature_key")
        })
    }

    /// By the platform's key: the model that is asked for, then those that the feature falls back to, as far as they have a price.
    fn platform_targets(self, request: &CallRequest, policy: &Policy) -> Result<Vec<Target>, CallError> {
        let Some((card, _)) = self.model.active_card() else {
            return Err(CallError::invalid(404, "model_not_priced", "No rate card is active.").param("model"));
        };
        let aliased;
        let (model, policy) = match request.model.strip_prefix("auto:") {
            None => (request.model.as_str(), policy),
            Some(key) => {
                aliased = self.feature(key)?;
                (aliased.models.first().ok_or_else(model_not_found)?.as_str(), aliased.as_ref())
            }
        };
        if !policy.models.is_empty() && !policy.models.iter().any(|allowed| allowed == model) {
            let message = "The feature does not allow this model.";
            return Err(CallError::new(403, "model_not_allowed", "permission_error", message).param("model"));
        }
        let tier = request.service_tier;
        let mut targets = vec![self.platform_target(offer(&card, request, model)?, tier)];
        for model in &policy.fallback_models {
            let Ok(offer) = offer(&card, request, model) else { continue };
            let target = self.platform_target(offer, tier);
            if !targets.iter().any(|known| known.is_same_as(&target)) {
                targets.push(target);
            }
        }
        Ok(targets)
    }

    fn platform_target(self, offer: &ModelRates, tier: AskedTier) -> Target {
        Target {
            route: Route::Platform,
            provider: offer.provider.clone(),
            model: offer.model.clone(),
            offer: Some(offer.clone()),
            tiers: tier.open().iter().copied().filter(|tier| offer.tables(*tier).is_some()).collect(),
            origin: Arc::clone(self.platform),
            credential: None,
            convention: Convention::Inclusive,
        }
    }
}

fn no_route(route: Route) -> CallError {
    let message = format!("No route of the kind `{}` is set up for this call.", route.name());
    CallError::invalid(400, "no_available_route", message).param("metadata.route_mode")
}

fn model_not_found() -> CallError {
    CallError::invalid(404, "model_not_found", "The active rate card does not have this model.").param("model")
}

/// The price list's one entry of a model for requests of this kind.
fn offer<'a>(card: &'a RateCard, request: &CallRequest, model: &str) -> Result<&'a ModelRates, CallError> {
    let not_priced = |what, param| CallError::invalid(404, "model_not_priced", what).param(param);
    match card.offers(model) {
        [] => Err(model_not_found()),
        [offer] if !answers(offer, request.endpoint) => {
            Err(not_priced("The model has no price for this kind of request.", "model"))
        }
        [offer] if offer.tables(request.service_tier.named()).is_none() => {
            Err(not_priced("The model has no price for this service tier.", "service_tier"))
        }
        [offer] => Ok(offer),
        _ => Err(CallError::malformed("model", "Several providers offer this model under one name.")),
    }
}

/// Does a model answer such requests? One that does not say answers any.
fn answers(offer: &ModelRates, endpoint: Endpoint) -> bool {
    match (offer.mode, endpoint) {
        (None, _)
        | (Some(Mode::Chat), Endpoint::ChatCompletions | Endpoint::Responses)
        | (Some(Mode::Responses), Endpoint::Responses)
        | (Some(Mode::Embedding), Endpoint::Embeddings) => true,
        (Some(_), _) => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::event::RateCardId;
    use modelfaucet_schema::ids::FeatureId;
    use modelfaucet_schema::rate::Rate;
    use modelfaucet_schema::time::Timestamp;
    use modelfaucet_schema::usage::Component;
    use serde_json::{Value, json};
    use uuid::Uuid;

    const APP: AppId = AppId(Uuid::from_u128(1));

    fn rates(provider: &str, model: &str, mode: Option<Mode>) -> ModelRates {
        let rates = [(Component::InputUncached, Rate::per_million("1").unwrap())];
        ModelRates { mode, ..ModelRates::flat(provider.parse().unwrap(), model, rates) }
    }

    /// A card with "a", "b", "c" of one provider, "shared" of two and "numbers" for embeddings, and a feature of this policy.
    fn facts(policy: &Value) -> ReadModel {
        let model = ReadModel::default();
        let mut offers: Vec<_> = ["a", "b", "c", "shared"].map(|name| rates("openai", name, None)).to_vec();
        offers.push(rates("azure", "shared", None));
        offers.push(rates("openai", "numbers", Some(Mode::Embedding)));
        model.publish_card(RateCardId(Uuid::nil()), RateCard::new(offers));
        model.activate_card(RateCardId(Uuid::nil()), Timestamp::now());
        let Value::Object(policy) = policy else { panic!("an object") };
        model.set_feature(APP, "reply", FeatureId::generate(), policy);
        model
    }

    fn planned(policy: &Value, request: &Value) -> Result<Vec<String>, (&'static str, String)> {
        let model = facts(policy);
        let body = request.to_string();
        let request = crate::request::read(Endpoint::ChatCompletions, body.as_bytes()).unwrap();
        let planner = Planner { model: &model, app: APP, platform: &"http://127.0.0.1:4000".into() };
        let policy = model.policy(APP, "reply").unwrap();
        match planner.plan(&request, &policy) {
            Ok(plan) => Ok(plan.targets().iter().map(|target| target.model.clone()).collect()),
            Err(error) => Err((error.code(), error.body("").error.param.unwrap_or_default())),
        }
    }

    fn chat(model: &str) -> Value {
        json!({ "model": model, "messages": [{ "role": "user", "content": "Hi" }] })
    }

    #[test]
    fn the_model_that_is_asked_for_comes_first_and_then_the_fallbacks() {
        let policy = json!({ "models": ["b", "a"], "fallback_models": ["c", "a", "c"] });
        assert_eq!(planned(&policy, &chat("a")).unwrap(), ["a", "c"]);
        assert_eq!(planned(&policy, &chat("b")).unwrap(), ["b", "c", "a"]);
        assert_eq!(planned(&policy, &chat("auto:reply")).unwrap(), ["b", "c", "a"]);
        assert_eq!(planned(&json!({}), &chat("a")).unwrap(), ["a"]);
    }

    #[test]
    fn what_has_no_price_is_no_fallback() {
        let policy = json!({ "fallback_models": ["unknown", "shared", "numbers", "b"] });
        assert_eq!(planned(&policy, &chat("a")).unwrap(), ["a", "b"]);
    }

    #[test]
    fn what_cannot_be_called_is_refused() {
        let with = |route: &str| {
            let mut request = chat("a");
            request["metadata"] = json!({ "route_mode": route });
            request
        };
        let fast = |model| {
            let mut request = chat(model);
            request["service_tier"] = json!("priority");
            request
        };
        let policy = json!({ "models": ["a"], "fallback_models": ["b"] });
        for (policy, request, code, param) in [
            (json!({}), chat("unknown"), "model_not_found", "model"),
            (json!({}), chat("shared"), "invalid_request", "model"),
            (json!({}), chat("numbers"), "model_not_priced", "model"),
            (json!({}), chat("auto:reply"), "model_not_found", "model"),
            (json!({}), chat("auto:nothing"), "feature_not_found", "metadata.feature_key"),
            (policy, chat("b"), "model_not_allowed", "model"),
            (json!({}), with("byok"), "no_available_route", "metadata.route_mode"),
            (json!({}), with("developer_key"), "no_available_route", "metadata.route_mode"),
            (json!({}), with("local"), "no_available_route", "metadata.route_mode"),
            (json!({}), fast("a"), "model_not_priced", "service_tier"),
        ] {
            assert_eq!(planned(&policy, &request), Err((code, param.to_owned())), "{request}");
        }
        assert_eq!(planned(&json!({}), &with("platform")).unwrap(), ["a"]);
    }
}
