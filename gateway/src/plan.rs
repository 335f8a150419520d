//! Where a call may go, in order: made of the request, the feature's policy and the rate card before anything is held. Pure.
//!
//! A plan names only what may be tried. A target stands behind another one because a failure of the first allows the second; whether
//! a failure does is the dispatch's matter (`Failure`), and so is the larger hold that a dearer target needs.

use std::sync::Arc;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{
    CredentialAdded, CredentialOwner, Endpoint, Mode, ModelRates, PriceRule, Route, ServiceTier,
};
use modelfaucet_schema::ids::{AppId, CredentialId, UserId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;

use crate::bound::Ask;
use crate::breaker::Subject;
use crate::error::CallError;
use crate::read_model::{Policy, RateCard, ReadModel, asked_first};
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
    pub(crate) offer: Option<Arc<ModelRates>>,
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
        self.offer.as_deref().filter(|_| matches!(self.route, Route::Platform | Route::DeveloperKey))
    }

    /// The most that a request can use here: its own cap, else the feature's, else `default_cap` and what the model makes at most.
    pub(crate) fn ask(&self, request: &CallRequest, policy: &Policy, default_cap: u64) -> Ask {
        let most = self.offer.as_ref().and_then(|offer| offer.max_output_tokens);
        let default = most.map_or(default_cap, |most| most.min(default_cap));
        request.ask(policy.max_output_tokens.unwrap_or(default))
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
        let offer = self.offer.as_deref().filter(|_| self.route == Route::Platform)?;
        self.tiers.iter().filter_map(|tier| offer.exact_cost_at(*tier, usage).ok()?.round_up()).max()
    }
}

/// The targets of a call, the preferred one first; at least one.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Plan(Vec<Target>);

impl Plan {
    /// The targets in order.
    pub(crate) fn into_targets(self) -> Vec<Target> {
        self.0
    }
}

/// What a plan is made of.
#[derive(Clone, Copy)]
pub(crate) struct Planner<'a> {
    /// Features and prices.
    pub(crate) model: &'a ReadModel,
    /// The app that calls.
    pub(crate) app: AppId,
    /// The user that it calls for.
    pub(crate) user: UserId,
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
        let Some((route, key)) = self.chosen_key(request, policy)? else {
            return self.platform_targets(request, policy).map(Plan);
        };
        let mut targets = vec![self.key_target(route, &key, request, policy)?];
        if key.fallback_to_platform || policy.fallback_to_platform {
            // Where the platform cannot serve it there is nothing to fall back to.
            targets.extend(self.platform_targets(request, policy).unwrap_or_default());
        }
        Ok(Plan(targets))
    }

    /// The key of a user or developer that the call is made with; `None`: the platform's. A route that the request names is taken or
    /// refused, never replaced: the user would pay for what was to be free.
    fn chosen_key(
        self,
        request: &CallRequest,
        policy: &Policy,
    ) -> Result<Option<(Route, Arc<CredentialAdded>)>, CallError> {
        let user = CredentialOwner::User { app_id: self.app, user_id: self.user };
        let users = || self.model.preferred_key(user).map(|key| (Route::Byok, key));
        let developer = self.model.developer(self.app).map(|developer_id| CredentialOwner::Developer { developer_id });
        let developers =
            || developer.and_then(|owner| self.model.preferred_key(owner)).map(|key| (Route::DeveloperKey, key));
        match request.route {
            Some(Route::Platform) => Ok(None),
            Some(Route::Byok) => users().map(Some).ok_or_else(|| no_route(Route::Byok)),
            Some(Route::DeveloperKey) => developers().map(Some).ok_or_else(|| no_route(Route::DeveloperKey)),
            Some(Route::Local) => Err(no_route(Route::Local)),
            None => {
                let (byok, developer_key) = asked_first(request.route_preference.as_deref());
                let own = if byok || policy.prefers_byok { users() } else { None };
                Ok(own.or_else(|| if developer_key || policy.prefers_developer_key { developers() } else { None }))
            }
        }
    }

    /// By somebody else's key, at its provider. `auto:…` is the first model that the key names, else the feature's.
    fn key_target(
        self,
        route: Route,
        key: &CredentialAdded,
        request: &CallRequest,
        policy: &Policy,
    ) -> Result<Target, CallError> {
        let aliased;
        let (model, policy) = match request.model.strip_prefix("auto:") {
            None => (request.model.as_str(), policy),
            Some(alias) => {
                aliased = self.model.policy(self.app, alias);
                let policy = aliased.as_deref().unwrap_or(policy);
                let named = key.models_allowed.first().or_else(|| policy.models.first());
                (named.map_or(AUTO_MODEL, String::as_str), policy)
            }
        };
        require_allowed(policy, model)?;
        let biller: Name = key.provider.biller().parse().map_err(|_| CallError::internal())?;
        let card = self.model.active_card().map(|(card, _)| card);
        let listed = card.as_ref().and_then(|card| match (card.offer(&biller, model), card.offers(model)) {
            (Some(offer), _) | (None, [offer]) => Some(offer.clone()),
            (None, _) => None,
        });
        if route == Route::DeveloperKey {
            match (&listed, &card) {
                (Some(listed), _) => priced_for(listed, request)?,
                (None, Some(card)) => drop(offer(card, request, model)?),
                (None, None) => return Err(model_not_found()),
            }
        }
        Ok(Target {
            route,
            // What is priced is named as the price list names it.
            provider: match (&listed, route) {
                (Some(listed), Route::DeveloperKey) => listed.provider.clone(),
                _ => biller,
            },
            model: model.to_owned(),
            tiers: listed.as_ref().map_or_else(Vec::new, |listed| tiers(listed, request.service_tier)),
            offer: listed,
            origin: key.origin.as_str().into(),
            credential: Some(key.credential_id),
            convention: Convention::Inclusive,
        })
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
        require_allowed(policy, model)?;
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

    fn platform_target(self, offer: &Arc<ModelRates>, tier: AskedTier) -> Target {
        Target {
            route: Route::Platform,
            provider: offer.provider.clone(),
            model: offer.model.clone(),
            offer: Some(Arc::clone(offer)),
            tiers: tiers(offer, tier),
            origin: Arc::clone(self.platform),
            credential: None,
            convention: Convention::Inclusive,
        }
    }
}

/// The model that ModelFaucet 1.2 sends where nobody names one.
const AUTO_MODEL: &str = "auto-text";

fn require_allowed(policy: &Policy, model: &str) -> Result<(), CallError> {
    if policy.models.is_empty() || policy.models.iter().any(|allowed| allowed == model) {
        return Ok(());
    }
    let message = "The feature does not allow this model.";
    Err(CallError::new(403, "model_not_allowed", "permission_error", message).param("model"))
}

fn no_route(route: Route) -> CallError {
    let message = format!("No route of the kind `{}` is set up for this call.", route.name());
    CallError::invalid(400, "no_available_route", message).param("metadata.route_mode")
}

fn model_not_found() -> CallError {
    CallError::invalid(404, "model_not_found", "The active rate card does not have this model.").param("model")
}

/// The price list's one entry of a model for requests of this kind.
fn offer<'a>(card: &'a RateCard, request: &CallRequest, model: &str) -> Result<&'a Arc<ModelRates>, CallError> {
    match card.offers(model) {
        [] => Err(model_not_found()),
        [offer] => priced_for(offer, request).map(|()| offer),
        _ => Err(CallError::malformed("model", "Several providers offer this model under one name.")),
    }
}

/// The offer prices requests of this kind.
fn priced_for(offer: &ModelRates, request: &CallRequest) -> Result<(), CallError> {
    let not_priced = |what, param| Err(CallError::invalid(404, "model_not_priced", what).param(param));
    if !answers(offer, request.endpoint) {
        return not_priced("The model has no price for this kind of request.", "model");
    }
    if offer.tables(request.service_tier.named()).is_none() {
        return not_priced("The model has no price for this service tier.", "service_tier");
    }
    Ok(())
}

/// The service tiers that may serve a request and have a price.
fn tiers(offer: &ModelRates, tier: AskedTier) -> Vec<ServiceTier> {
    tier.open().iter().copied().filter(|tier| offer.tables(*tier).is_some()).collect()
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
    use modelfaucet_schema::event::{KeyProvider, RateCardId};
    use modelfaucet_schema::ids::{DeveloperId, FeatureId};
    use modelfaucet_schema::rate::Rate;
    use modelfaucet_schema::time::Timestamp;
    use modelfaucet_schema::usage::Component;
    use serde_json::{Value, json};
    use uuid::Uuid;

    const APP: AppId = AppId(Uuid::from_u128(1));
    const USER: UserId = UserId(Uuid::from_u128(2));
    const DEVELOPER: DeveloperId = DeveloperId(Uuid::from_u128(3));

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
        let planner = Planner { model: &model, app: APP, user: USER, platform: &"http://127.0.0.1:4000".into() };
        let policy = model.policy(APP, "reply").unwrap();
        match planner.plan(&request, &policy) {
            Ok(plan) => Ok(plan.into_targets().into_iter().map(|target| target.model).collect()),
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

    const USERS: CredentialOwner = CredentialOwner::User { app_id: APP, user_id: USER };
    const DEVELOPERS: CredentialOwner = CredentialOwner::Developer { developer_id: DEVELOPER };

    fn key(owner: CredentialOwner, provider: KeyProvider) -> CredentialAdded {
        CredentialAdded {
            credential_id: CredentialId::generate(),
            owner,
            provider,
            base_url: None,
            origin: provider.default_origin().into(),
            masked: "sk-...cdef".into(),
            models_allowed: Vec::new(),
            budget_limit: None,
            priority: 100,
            fallback_to_platform: false,
        }
    }

    /// Route, provider and model of each target, or the code, where these keys are in use.
    fn with_keys(keys: &[CredentialAdded], policy: &Value, request: &Value) -> Result<Vec<String>, &'static str> {
        let model = facts(policy);
        model.set_developer(APP, DEVELOPER);
        for key in keys {
            model.add_key(Arc::new(key.clone()));
        }
        let body = request.to_string();
        let request = crate::request::read(Endpoint::ChatCompletions, body.as_bytes()).unwrap();
        let planner = Planner { model: &model, app: APP, user: USER, platform: &"http://127.0.0.1:4000".into() };
        let plan = planner.plan(&request, &model.policy(APP, "reply").unwrap()).map_err(|error| error.code())?;
        let shown = |target: &Target| {
            assert_eq!(target.credential.is_some(), target.route != Route::Platform);
            assert_eq!(&*target.origin == "http://127.0.0.1:4000", target.route == Route::Platform);
            format!("{} {} {}", target.route.name(), target.provider, target.model)
        };
        Ok(plan.into_targets().iter().map(shown).collect())
    }

    fn asking(model: &str, metadata: Value) -> Value {
        let mut request = chat(model);
        request["metadata"] = metadata;
        request
    }

    #[test]
    fn the_request_then_the_policy_say_whose_key_is_used() {
        let both = [key(USERS, KeyProvider::Openai), key(DEVELOPERS, KeyProvider::Openai)];
        let (users, developers, platform) = (["byok openai a"], ["developer_key openai a"], ["platform openai a"]);
        let list = json!({ "route_preference": ["end_user_byok", "developer_key", "platform_pool"] });
        for (keys, policy, metadata, expected) in [
            (&both[..], json!({}), json!({}), platform.as_slice()),
            (&both[..], json!({}), json!({ "route_mode": "byok" }), users.as_slice()),
            (&both[..], json!({}), json!({ "route_mode": "developer_key" }), developers.as_slice()),
            (&both[..], json!({}), json!({ "route_preference": "byok_first" }), users.as_slice()),
            (&both[..], json!({ "byok": "byok_first" }), json!({}), users.as_slice()),
            (&both[..], json!({ "byok": "byok_first" }), json!({ "route_mode": "platform" }), platform.as_slice()),
            (&both[..], list.clone(), json!({}), users.as_slice()),
            (&both[1..], list.clone(), json!({}), developers.as_slice()),
            (&[], list, json!({}), platform.as_slice()),
        ] {
            let planned = with_keys(keys, &policy, &asking("a", metadata.clone()));
            assert_eq!(planned.as_deref(), Ok(expected.map_texts().as_slice()), "{policy} {metadata}");
        }
        for mode in ["byok", "developer_key"] {
            let refused = with_keys(&[], &json!({}), &asking("a", json!({ "route_mode": mode })));
            assert_eq!(refused, Err("no_available_route"), "a named route is never replaced");
        }
        let stranger = CredentialOwner::User { app_id: APP, user_id: UserId::generate() };
        let others = [key(stranger, KeyProvider::Openai)];
        assert_eq!(
            with_keys(&others, &json!({}), &asking("a", json!({ "route_mode": "byok" }))),
            Err("no_available_route")
        );
    }

    trait Texts {
        fn map_texts(&self) -> Vec<String>;
    }

    impl Texts for [&str] {
        fn map_texts(&self) -> Vec<String> {
            self.iter().map(|&text| text.to_owned()).collect()
        }
    }

    #[test]
    fn the_platform_stands_behind_a_key_only_where_that_is_allowed() {
        let byok = json!({ "route_mode": "byok" });
        let mut own = key(USERS, KeyProvider::Openai);
        let planned = |own: &CredentialAdded, policy: Value, model| {
            with_keys(std::slice::from_ref(own), &policy, &asking(model, byok.clone())).unwrap()
        };
        assert_eq!(planned(&own, json!({}), "a"), ["byok openai a"]);
        assert_eq!(planned(&own, json!({ "fallback_to_platform": true }), "a"), ["byok openai a", "platform openai a"]);
        assert_eq!(
            planned(&own, json!({ "provider_fallback": "platform" }), "a"),
            ["byok openai a", "platform openai a"]
        );
        own.fallback_to_platform = true;
        assert_eq!(
            planned(&own, json!({ "fallback_models": ["b"] }), "a"),
            ["byok openai a", "platform openai a", "platform openai b"]
        );
        assert_eq!(
            planned(&own, json!({}), "home-made"),
            ["byok openai home-made"],
            "what has no price cannot be fallen back to"
        );
    }

    #[test]
    fn an_alias_is_the_keys_first_model_and_a_feature_s_models_bind_keys_too() {
        let mut own = key(USERS, KeyProvider::Anthropic);
        let planned = |own: &CredentialAdded, policy: Value, model| {
            with_keys(std::slice::from_ref(own), &policy, &asking(model, json!({ "route_mode": "byok" })))
        };
        assert_eq!(planned(&own, json!({}), "auto:anything").unwrap(), ["byok anthropic auto-text"]);
        assert_eq!(planned(&own, json!({ "models": ["b"] }), "auto:reply").unwrap(), ["byok anthropic b"]);
        own.models_allowed = vec!["c".into(), "b".into()];
        assert_eq!(planned(&own, json!({}), "auto:reply").unwrap(), ["byok anthropic c"]);
        assert_eq!(planned(&own, json!({ "models": ["b"] }), "auto:reply"), Err("model_not_allowed"));
        assert_eq!(planned(&own, json!({ "models": ["b"] }), "a"), Err("model_not_allowed"));
        assert_eq!(planned(&own, json!({}), "a").unwrap(), ["byok anthropic a"], "models_allowed is for aliases only");
    }

    #[test]
    fn a_developers_key_is_priced_by_the_card() {
        let planned = |provider, model| {
            let keys = [key(DEVELOPERS, provider)];
            with_keys(&keys, &json!({}), &asking(model, json!({ "route_mode": "developer_key" })))
        };
        assert_eq!(
            planned(KeyProvider::Openrouter, "a").unwrap(),
            ["developer_key openai a"],
            "the one offer there is"
        );
        assert_eq!(planned(KeyProvider::AzureOpenai, "shared").unwrap(), ["developer_key azure shared"]);
        assert_eq!(planned(KeyProvider::Openrouter, "shared"), Err("invalid_request"));
        assert_eq!(planned(KeyProvider::Openai, "home-made"), Err("model_not_found"));
        assert_eq!(planned(KeyProvider::Openai, "numbers"), Err("model_not_priced"));
    }
}
