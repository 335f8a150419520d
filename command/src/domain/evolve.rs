//! Taking an event into the state. Total: whatever was recorded is taken in; what it names and the state does not have changes
//! nothing.

use std::sync::Arc;

use modelfaucet_schema::event::{Event, FeatureDefined, Recorded};

use super::{
    App, Developer, DeveloperToken, Feature, Hold, PendingTopUp, RateCard, Session, StaffToken, State, Wallet,
};

impl State {
    /// Takes in a recorded event.
    pub fn evolve(&mut self, recorded: &Recorded) {
        self.seqs.set(recorded.stream, recorded.stream_seq);
        if recorded.recorded_at > self.last_recorded_at() {
            self.recorded_at.set((), recorded.recorded_at);
        }
        self.take_in(&recorded.event, recorded);
        if ends_stream(&recorded.event) {
            self.seqs.remove(&recorded.stream);
        }
    }

    fn take_in(&mut self, event: &Event, recorded: &Recorded) {
        if let Some((wallet_id, balance)) = event.balance() {
            self.wallets.change(&wallet_id, |wallet| wallet.balance = balance);
        }
        match event {
            Event::DeveloperRegistered(event) => {
                let developer = Developer {
                    name: event.name.clone(),
                    email: event.email.clone(),
                    registered_at: recorded.recorded_at,
                    tokens: 0,
                };
                self.developers.set(event.developer_id, developer);
            }
            Event::DeveloperTokenIssued(event) => {
                self.developers
                    .change(&event.developer_id, |developer| developer.tokens = developer.tokens.saturating_add(1));
                let token = DeveloperToken {
                    developer_id: event.developer_id,
                    token_hash: event.token_hash,
                    scopes: event.scopes.clone(),
                    expires_at: event.expires_at,
                };
                self.tokens.set(event.token_id, token);
            }
            Event::DeveloperTokenRevoked(event) => {
                self.tokens.remove(&event.token_id);
            }
            Event::StaffTokenIssued(event) => {
                let token = StaffToken { token_hash: event.token_hash, role: event.role, expires_at: event.expires_at };
                self.staff.set(event.token_id, token);
            }
            Event::StaffTokenRevoked(event) => {
                self.staff.remove(&event.token_id);
            }
            Event::AppRegistered(event) => {
                let app = App {
                    developer_id: event.developer_id,
                    public_app_id: event.public_app_id.clone(),
                    settings: event.settings.clone(),
                    registered_at: recorded.recorded_at,
                };
                self.apps.set(event.app_id, app);
                self.app_names.set(event.public_app_id.clone(), event.app_id);
            }
            Event::AppChanged(event) => self.apps.change(&event.app_id, |app| app.settings = event.settings.clone()),
            Event::FeatureDefined(event) => self.define_feature(event),
            Event::FeatureChanged(event) => self.define_feature(&event.0),
            Event::FeatureRemoved(event) => {
                let key = self
                    .features
                    .iter()
                    .find(|((app, _), feature)| *app == event.app_id && feature.feature_id == event.feature_id)
                    .map(|(key, _)| key.clone());
                if let Some(key) = key {
                    self.features.remove(&key);
                }
            }
            Event::RateCardPublished(event) => {
                self.cards.set(event.rate_card_id, Arc::new(RateCard::new(event.models.clone())));
            }
            Event::RateCardActivated(event) => self.active_card.set((), event.rate_card_id),
            Event::WalletOpened(event) => {
                let wallet = Wallet {
                    app_id: event.app_id,
                    user_id: event.user_id,
                    floor: event.floor,
                    balance: modelfaucet_schema::event::Balance::default(),
                };
                self.wallets.set(event.wallet_id, wallet);
                self.users.set((event.app_id, event.user_hash), event.wallet_id);
            }
            Event::SessionOpened(event) => {
                let session = Session {
                    app_id: event.app_id,
                    user_id: event.user_id,
                    wallet_id: event.wallet_id,
                    feature_key: event.feature_key.as_deref().map(Into::into),
                    token_hash: event.token_hash,
                    expires_at: event.expires_at,
                };
                self.sessions.set(event.session_id, session);
            }
            Event::SessionRevoked(event) => {
                self.sessions.remove(&event.session_id);
            }
            Event::SessionExpired(event) => {
                self.sessions.remove(&event.session_id);
            }
            Event::TopUpRequested(event) => {
                let top_up =
                    PendingTopUp { wallet_id: event.wallet_id, amount: event.amount, provider: event.provider.clone() };
                self.top_ups.set(event.top_up_id, top_up);
            }
            Event::TopUpCredited(event) => {
                self.top_ups.remove(&event.top_up_id);
            }
            Event::TopUpFailed(event) => {
                self.top_ups.remove(&event.top_up_id);
            }
            Event::HoldPlaced(event) => {
                let hold = Hold {
                    wallet_id: event.wallet_id,
                    call: Arc::new(event.call.clone()),
                    amount: event.amount,
                    rate_card_id: event.rate_card_id,
                    price_rule: event.price_rule,
                    expires_at: event.expires_at,
                    gateway: event.dispatch.as_ref().map(|dispatch| dispatch.gateway),
                };
                self.holds.set(event.hold_id, hold);
            }
            Event::HoldCaptured(event) => {
                self.holds.remove(&event.hold_id);
            }
            Event::HoldReleased(event) => {
                self.holds.remove(&event.hold_id);
            }
            Event::HoldExpired(event) => {
                if let Some(hold) = self.holds.remove(&event.hold_id) {
                    self.expired_holds.set(event.hold_id, hold);
                }
            }
            Event::LateUsageCaptured(event) => {
                self.expired_holds.remove(&event.hold_id);
            }
            Event::Frozen(event) => self.freezes.set(event.scope, recorded.actor),
            Event::Thawed(event) => {
                self.freezes.remove(&event.scope);
            }
            // Their effect is the wallet's balance, taken in above.
            Event::TestCreditGranted(_)
            | Event::PromoGranted(_)
            | Event::WalletAdjusted(_)
            | Event::UsageRecorded(_) => {}
        }
    }

    fn define_feature(&mut self, event: &FeatureDefined) {
        let feature = Feature {
            feature_id: event.feature_id,
            display_name: event.display_name.clone(),
            pricing: event.pricing,
            policy: serde_json::Value::Object(event.policy.clone()).to_string(),
        };
        self.features.set((event.app_id, event.feature_key.clone()), feature);
    }
}

/// After these a stream has no further events, so its number need not be remembered.
fn ends_stream(event: &Event) -> bool {
    matches!(event, Event::SessionRevoked(_) | Event::SessionExpired(_))
}
