//! What the gateway knows by heart: sessions, features, rate cards, as of the last committed event. It may refuse early; only the
//! command side grants.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{
    CredentialAdded, CredentialOwner, Event, FeatureDefined, ModelRates, RateCardId, Status,
};
use modelfaucet_schema::ids::{AppId, CredentialId, DeveloperId, FeatureId, SessionId, UserId, WalletId};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::TokenHash;
use parking_lot::RwLock;
use serde_json::{Map, Value};

/// A live session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its id.
    pub session_id: SessionId,
    /// The app.
    pub app_id: AppId,
    /// The user.
    pub user_id: UserId,
    /// The wallet that pays.
    pub wallet_id: WalletId,
    /// The feature of calls that name none.
    pub feature_key: Option<Arc<str>>,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a feature says about its calls, read from its policy.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "a policy says yes or no to many things")]
pub struct Policy {
    /// The models that may be called, the preferred one first; empty: every priced one.
    pub models: Vec<String>,
    /// The models that are called in their order if the one that was asked for fails before its first byte. They need not be
    /// among those that may be asked for.
    pub fallback_models: Vec<String>,
    /// The output cap of requests that name none.
    pub max_output_tokens: Option<u64>,
    /// May an answer be shortened to what the wallet can pay?
    pub refuse_clamp: bool,
    /// May a call that timed out before its first byte be made again? The first may be billed.
    pub retry_timeouts: bool,
    /// Is the user's own key used where there is one?
    pub prefers_byok: bool,
    /// Is the developer's key used where there is one?
    pub prefers_developer_key: bool,
    /// Is a call that a user's or developer's key fails made with the platform's?
    pub fallback_to_platform: bool,
}

/// What a request or a policy calls the kinds of keys, in their order of preference.
#[derive(Clone, Copy)]
enum KeyKind {
    Byok,
    DeveloperKey,
}

impl KeyKind {
    /// The word for "this kind first".
    const fn first(self) -> &'static str {
        match self {
            Self::Byok => "byok_first",
            Self::DeveloperKey => "developer_key_first",
        }
    }

    /// Does a list name it before those that it must come before?
    fn leads(self, list: &[Value]) -> bool {
        let (own, others): (_, &[&str]) = match self {
            Self::Byok => ("end_user_byok", &["platform_pool", "developer_key"]),
            Self::DeveloperKey => ("developer_key", &["platform_pool"]),
        };
        let place = |name: &str| list.iter().position(|entry| entry == name);
        place(own).is_some_and(|own| others.iter().all(|other| place(other).is_none_or(|other| own < other)))
    }

    fn is_preferred(self, policy: &Map<String, Value>) -> bool {
        let member = match self {
            Self::Byok => "byok",
            Self::DeveloperKey => "developer_key",
        };
        let says = |name: &str| policy.get(name).and_then(Value::as_str) == Some(self.first());
        let list = policy.get("route_preference").and_then(Value::as_array);
        says("route_preference") || says(member) || list.is_some_and(|list| self.leads(list))
    }
}

/// Does a request's `metadata.route_preference` ask for the user's own key, or the developer's?
pub(crate) fn asked_first(preference: Option<&str>) -> (bool, bool) {
    let is = |kind: KeyKind| preference == Some(kind.first());
    (is(KeyKind::Byok), is(KeyKind::DeveloperKey))
}

impl Policy {
    /// Reads a feature's policy. Members that are missing or of another kind are as if they were not there.
    pub fn read(policy: &Map<String, Value>) -> Self {
        let texts = |name| {
            let list = policy.get(name).and_then(Value::as_array).into_iter().flatten();
            list.filter_map(Value::as_str).map(str::to_owned).collect()
        };
        Self {
            models: texts("models"),
            fallback_models: texts("fallback_models"),
            max_output_tokens: policy.get("max_output_tokens").and_then(Value::as_u64).filter(|cap| *cap > 0),
            refuse_clamp: policy.get("clamp").and_then(Value::as_str) == Some("refuse"),
            retry_timeouts: policy.get("retry_timeouts").and_then(Value::as_bool) == Some(true),
            prefers_byok: KeyKind::Byok.is_preferred(policy),
            prefers_developer_key: KeyKind::DeveloperKey.is_preferred(policy),
            fallback_to_platform: policy.get("fallback_to_platform").and_then(Value::as_bool) == Some(true)
                || policy
                    .get("provider_fallback")
                    .and_then(Value::as_str)
                    .is_some_and(|to| matches!(to, "platform" | "platform_pool")),
        }
    }
}

/// Prices by model.
#[derive(Debug, Default)]
pub struct RateCard {
    models: HashMap<String, Vec<Arc<ModelRates>>>,
}

impl RateCard {
    /// A card of these models.
    pub fn new(models: impl IntoIterator<Item = ModelRates>) -> Self {
        let mut card = Self::default();
        for rates in models {
            card.models.entry(rates.model.clone()).or_default().push(Arc::new(rates));
        }
        card
    }

    /// The offers of a model, one per provider.
    pub fn offers(&self, model: &str) -> &[Arc<ModelRates>] {
        self.models.get(model).map_or(&[], Vec::as_slice)
    }

    /// The offer of a provider.
    pub fn offer(&self, provider: &Name, model: &str) -> Option<&Arc<ModelRates>> {
        self.offers(model).iter().find(|rates| rates.provider == *provider)
    }

    /// Every offer, in no order.
    pub fn all(&self) -> impl Iterator<Item = &ModelRates> {
        self.models.values().flatten().map(Arc::as_ref)
    }
}

#[derive(Debug, Default)]
struct Facts {
    sessions: HashMap<TokenHash, Session>,
    tokens: HashMap<SessionId, TokenHash>,
    inactive_apps: HashSet<AppId>,
    features: HashMap<AppId, HashMap<String, (FeatureId, Arc<Policy>)>>,
    cards: HashMap<RateCardId, Arc<RateCard>>,
    active: Option<(RateCardId, Timestamp)>,
    developers: HashMap<AppId, DeveloperId>,
    /// In the order in which they are used.
    credentials: HashMap<CredentialOwner, Vec<Arc<CredentialAdded>>>,
    credential_owners: HashMap<CredentialId, CredentialOwner>,
}

/// The read model of one shard.
#[derive(Debug, Default)]
pub struct ReadModel {
    facts: RwLock<Facts>,
}

impl ReadModel {
    /// The live session of a token.
    pub fn session(&self, token: &TokenHash) -> Option<Session> {
        let facts = self.facts.read();
        let session = facts.sessions.get(token)?;
        (!facts.inactive_apps.contains(&session.app_id)).then(|| session.clone())
    }

    /// What a feature says; `None` if the app has no such feature.
    pub fn policy(&self, app: AppId, feature_key: &str) -> Option<Arc<Policy>> {
        self.facts.read().features.get(&app)?.get(feature_key).map(|(_, policy)| Arc::clone(policy))
    }

    /// The keys of an app's features.
    pub fn feature_keys(&self, app: AppId) -> Vec<String> {
        let facts = self.facts.read();
        facts.features.get(&app).into_iter().flat_map(HashMap::keys).cloned().collect()
    }

    /// The card that prices new calls, and since when.
    pub fn active_card(&self) -> Option<(Arc<RateCard>, Timestamp)> {
        let facts = self.facts.read();
        let (id, since) = facts.active?;
        Some((facts.cards.get(&id).map(Arc::clone)?, since))
    }

    /// A card, active or not.
    pub fn card(&self, id: RateCardId) -> Option<Arc<RateCard>> {
        self.facts.read().cards.get(&id).map(Arc::clone)
    }

    /// The provider key of an owner that is used: the lowest priority number, then the newest.
    pub fn preferred_key(&self, owner: CredentialOwner) -> Option<Arc<CredentialAdded>> {
        self.facts.read().credentials.get(&owner)?.first().map(Arc::clone)
    }

    /// A provider key, while it is in use.
    pub fn key(&self, id: CredentialId) -> Option<Arc<CredentialAdded>> {
        let facts = self.facts.read();
        let keys = facts.credentials.get(facts.credential_owners.get(&id)?)?;
        keys.iter().find(|key| key.credential_id == id).map(Arc::clone)
    }

    /// An app's developer.
    pub fn developer(&self, app: AppId) -> Option<DeveloperId> {
        self.facts.read().developers.get(&app).copied()
    }

    /// An app is of a developer.
    pub fn set_developer(&self, app: AppId, developer: DeveloperId) {
        self.facts.write().developers.insert(app, developer);
    }

    /// A provider key may be used.
    pub fn add_key(&self, key: Arc<CredentialAdded>) {
        let mut facts = self.facts.write();
        facts.credential_owners.insert(key.credential_id, key.owner);
        let keys = facts.credentials.entry(key.owner).or_default();
        keys.push(key);
        // Ids of version 7 are in the order of their making.
        keys.sort_by_key(|key| (key.priority, std::cmp::Reverse(key.credential_id)));
    }

    fn drop_key(&self, id: CredentialId) {
        let mut facts = self.facts.write();
        let Some(owner) = facts.credential_owners.remove(&id) else { return };
        if let Some(keys) = facts.credentials.get_mut(&owner) {
            keys.retain(|key| key.credential_id != id);
            if keys.is_empty() {
                facts.credentials.remove(&owner);
            }
        }
    }

    /// A session is open.
    pub fn open_session(&self, token: TokenHash, session: Session) {
        let mut facts = self.facts.write();
        facts.tokens.insert(session.session_id, token);
        facts.sessions.insert(token, session);
    }

    /// An app takes new work, or does not.
    pub fn set_app(&self, app: AppId, active: bool) {
        let mut facts = self.facts.write();
        if active {
            facts.inactive_apps.remove(&app);
        } else {
            facts.inactive_apps.insert(app);
        }
    }

    /// A feature is as this says.
    pub fn set_feature(&self, app: AppId, key: &str, feature: FeatureId, policy: &Map<String, Value>) {
        let policy = Arc::new(Policy::read(policy));
        self.facts.write().features.entry(app).or_default().insert(key.to_owned(), (feature, policy));
    }

    /// A rate card is known.
    pub fn publish_card(&self, id: RateCardId, card: RateCard) {
        self.facts.write().cards.insert(id, Arc::new(card));
    }

    /// A rate card prices new calls.
    pub fn activate_card(&self, id: RateCardId, since: Timestamp) {
        self.facts.write().active = Some((id, since));
    }

    /// Takes in a committed event. Locks only if it matters here.
    pub fn take_in(&self, event: &Event) {
        match event {
            Event::SessionOpened(event) => {
                let session = Session {
                    session_id: event.session_id,
                    app_id: event.app_id,
                    user_id: event.user_id,
                    wallet_id: event.wallet_id,
                    feature_key: event.feature_key.as_deref().map(Into::into),
                    expires_at: event.expires_at,
                };
                self.open_session(event.token_hash, session);
            }
            Event::SessionRevoked(event) => self.end_session(event.session_id),
            Event::SessionExpired(event) => self.end_session(event.session_id),
            Event::AppRegistered(event) => {
                self.set_developer(event.app_id, event.developer_id);
                self.set_app(event.app_id, event.settings.status == Status::Active);
            }
            Event::AppChanged(event) => self.set_app(event.app_id, event.settings.status == Status::Active),
            Event::FeatureDefined(event) => self.define_feature(event),
            Event::FeatureChanged(event) => self.define_feature(&event.0),
            Event::FeatureRemoved(event) => {
                if let Some(features) = self.facts.write().features.get_mut(&event.app_id) {
                    features.retain(|_, (id, _)| *id != event.feature_id);
                }
            }
            Event::CredentialAdded(event) => self.add_key(Arc::new(event.clone())),
            Event::CredentialDisabled(event) => self.drop_key(event.credential_id),
            Event::RateCardPublished(event) => {
                self.publish_card(event.rate_card_id, RateCard::new(event.models.iter().cloned()));
            }
            Event::RateCardActivated(event) => self.activate_card(event.rate_card_id, Timestamp::now()),
            _ => {}
        }
    }

    fn define_feature(&self, event: &FeatureDefined) {
        self.set_feature(event.app_id, &event.feature_key, event.feature_id, &event.policy);
    }

    fn end_session(&self, session: SessionId) {
        let mut facts = self.facts.write();
        if let Some(token) = facts.tokens.remove(&session) {
            facts.sessions.remove(&token);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::event::{SessionOpened, SessionRevoked};

    #[test]
    fn a_session_is_known_from_its_opening_to_its_end() {
        let model = ReadModel::default();
        let (session_id, app_id, token) = (SessionId::generate(), AppId::generate(), TokenHash::of_text("mf_sess_1"));
        let opened = SessionOpened {
            session_id,
            app_id,
            user_id: UserId::generate(),
            wallet_id: WalletId::generate(),
            feature_key: Some("reply".into()),
            token_hash: token,
            expires_at: Timestamp::from_micros(5),
            balance: modelfaucet_schema::event::Balance::default(),
        };
        model.take_in(&opened.into());
        assert_eq!(model.session(&token).unwrap().feature_key.as_deref(), Some("reply"));
        model.set_app(app_id, false);
        assert_eq!(model.session(&token), None, "an inactive app has no sessions");
        model.set_app(app_id, true);
        assert!(model.session(&token).is_some());
        model.take_in(&SessionRevoked { session_id }.into());
        assert_eq!(model.session(&token), None);
    }

    #[test]
    fn a_policy_says_what_it_says_and_no_more() {
        let policy = serde_json::json!({
            "models": ["gpt-4o-mini", 7], "clamp": "refuse", "max_output_tokens": 0, "route_preference": "platform"
        });
        let Value::Object(policy) = policy else { unreachable!() };
        let expected = Policy { models: vec!["gpt-4o-mini".into()], refuse_clamp: true, ..Policy::default() };
        assert_eq!(Policy::read(&policy), expected);
    }

    #[test]
    fn a_policy_may_prefer_keys_in_any_of_its_ways() {
        let read = |policy: Value| {
            let Value::Object(policy) = policy else { unreachable!() };
            let policy = Policy::read(&policy);
            (policy.prefers_byok, policy.prefers_developer_key, policy.fallback_to_platform)
        };
        for (policy, expected) in [
            (serde_json::json!({}), (false, false, false)),
            (serde_json::json!({ "route_preference": "byok_first" }), (true, false, false)),
            (serde_json::json!({ "byok": "byok_first" }), (true, false, false)),
            (
                serde_json::json!({ "route_preference": ["end_user_byok", "developer_key", "platform_pool"] }),
                (true, true, false),
            ),
            (
                serde_json::json!({ "route_preference": ["developer_key", "end_user_byok", "platform_pool"] }),
                (false, true, false),
            ),
            (serde_json::json!({ "route_preference": ["platform_pool", "end_user_byok"] }), (false, false, false)),
            (serde_json::json!({ "route_preference": ["end_user_byok"] }), (true, false, false)),
            (serde_json::json!({ "route_preference": "developer_key_first" }), (false, true, false)),
            (serde_json::json!({ "fallback_to_platform": true }), (false, false, true)),
            (serde_json::json!({ "fallback_to_platform": "yes" }), (false, false, false)),
            (serde_json::json!({ "provider_fallback": "platform_pool" }), (false, false, true)),
            (serde_json::json!({ "provider_fallback": "platform" }), (false, false, true)),
        ] {
            assert_eq!(read(policy.clone()), expected, "{policy}");
        }
    }

    #[test]
    fn the_lowest_number_is_used_and_of_equals_the_newest() {
        let model = ReadModel::default();
        let owner = CredentialOwner::Developer { developer_id: DeveloperId::generate() };
        let key = |number: u128, priority| CredentialAdded {
            credential_id: CredentialId(uuid::Uuid::from_u128(number)),
            owner,
            provider: modelfaucet_schema::event::KeyProvider::Openai,
            base_url: None,
            origin: "https://api.openai.com".into(),
            masked: "sk-...cdef".into(),
            models_allowed: Vec::new(),
            budget_limit: None,
            priority,
            fallback_to_platform: false,
        };
        let preferred = || model.preferred_key(owner).map(|key| key.credential_id.0.as_u128());
        let disable = |number: u128| {
            let credential_id = CredentialId(uuid::Uuid::from_u128(number));
            let reason = modelfaucet_schema::event::DisableReason::Requested;
            model.take_in(&modelfaucet_schema::event::CredentialDisabled { credential_id, reason }.into());
        };
        assert_eq!(preferred(), None);
        for (number, priority) in [(1, 100), (3, 50), (2, 50), (4, 100)] {
            model.take_in(&key(number, priority).into());
        }
        for expected in [3, 2, 4, 1] {
            assert_eq!(preferred(), Some(expected));
            disable(expected);
        }
        assert_eq!(preferred(), None);
    }
}
