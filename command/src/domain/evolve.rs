//! Taking an event into the state. Total: whatever was recorded is taken in; what it names and the state does not have changes
//! nothing.

use std::sync::Arc;

use modelfaucet_schema::event::{Call, Event, FeatureDefined, RateCardId, Rating, Recorded, Status};
use modelfaucet_schema::ids::{CredentialId, FeatureId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;

use super::{
    App, BudgetOf, Credential, Developer, DeveloperToken, Feature, Hold, PendingTopUp, RateCard, Sent, Session, Spend,
    State, Wallet, budget,
};

impl State {
    /// Takes in a recorded event.
    pub fn evolve(&mut self, recorded: &Recorded) {
        self.seqs.set(recorded.stream, recorded.stream_seq);
        if recorded.recorded_at > self.last_recorded_at() {
            self.recorded_at.set((), recorded.recorded_at);
        }
        self.take_in(&recorded.event);
        if ends_stream(&recorded.event) {
            self.seqs.remove(&recorded.stream);
        }
    }

    fn take_in(&mut self, event: &Event) {
        if let Some((wallet_id, balance)) = event.balance() {
            self.wallets.change(&wallet_id, |wallet| wallet.balance = balance);
        }
        match event {
            Event::DeveloperRegistered(event) => self.developers.set(event.developer_id, Developer { tokens: 0 }),
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
            Event::AppRegistered(event) => {
                let app = App {
                    developer_id: event.developer_id,
                    public_app_id: event.public_app_id.clone(),
                    settings: event.settings.clone(),
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
                    feature_id: self.feature_of(&event.call),
                    credential: event.dispatch.as_ref().and_then(|dispatch| {
                        self.reserve(event.rate_card_id, &event.call, dispatch.credential, &dispatch.bound)
                    }),
                    sent: event.dispatch.as_ref().map(|dispatch| Box::new(Sent::of(dispatch))),
                };
                self.hold_budgets(&hold);
                self.holds.set(event.hold_id, hold);
            }
            Event::AttemptStarted(event) => {
                if let Some(mut hold) = self.holds.get(&event.hold_id).cloned() {
                    self.free_budgets(&hold);
                    hold.amount = event.amount;
                    hold.call = Arc::new(event.call.clone());
                    hold.credential = self.reserve(hold.rate_card_id, &event.call, event.credential, &event.bound);
                    if let Some(sent) = &mut hold.sent {
                        sent.attempts.push(event.ended.clone());
                        (sent.credential, sent.mark) = (event.credential, None);
                    }
                    self.hold_budgets(&hold);
                    self.holds.set(event.hold_id, hold);
                }
            }
            Event::AttemptProgressed(event) => self.holds.change(&event.hold_id, |hold| {
                if let Some(sent) = &mut hold.sent {
                    sent.mark = Some(event.usage);
                }
            }),
            Event::DisconnectPolicySet(event) => {
                self.disconnect_policies.set((event.provider.clone(), event.endpoint, event.route), event.policy);
                self.disconnect_version.set((), event.version);
            }
            Event::HoldCaptured(event) => {
                if let Some(hold) = self.holds.remove(&event.hold_id) {
                    self.free_budgets(&hold);
                    self.spend_budgets(&hold, &event.rating);
                }
            }
            Event::HoldReleased(event) => {
                if let Some(hold) = self.holds.remove(&event.hold_id) {
                    self.free_budgets(&hold);
                }
            }
            Event::HoldExpired(event) => {
                if let Some(hold) = self.holds.remove(&event.hold_id) {
                    self.free_budgets(&hold);
                    self.expired_holds.set(event.hold_id, hold);
                }
            }
            Event::LateUsageCaptured(event) => {
                if let Some(hold) = self.expired_holds.remove(&event.hold_id) {
                    self.spend_budgets(&hold, &event.rating);
                }
            }
            Event::UsageRecorded(event) => {
                if let Some(feature) = self.feature_of(&event.call) {
                    self.change_spend(BudgetOf::Feature(feature), |spend| spend.end(Money::ZERO, event.rating.charge));
                }
            }
            Event::CredentialAdded(event) => {
                let credential = Credential { added: Arc::new(event.clone()), status: Status::Active };
                self.credentials.set(event.credential_id, credential);
                let count = self.key_counts.get(&event.owner).copied().unwrap_or_default();
                self.key_counts.set(event.owner, count.saturating_add(1));
            }
            Event::CredentialDisabled(event) => {
                let owner = self.credentials.get(&event.credential_id).map(|credential| credential.added.owner);
                self.credentials.change(&event.credential_id, |credential| credential.status = Status::Disabled);
                if let Some(owner) = owner {
                    self.key_counts.change(&owner, |count| *count = count.saturating_sub(1));
                }
            }
            Event::Frozen(event) => self.freezes.set(event.scope, ()),
            Event::Thawed(event) => {
                self.freezes.remove(&event.scope);
            }
            // Their effect is the wallet's balance, taken in above.
            Event::TestCreditGranted(_) | Event::PromoGranted(_) | Event::WalletAdjusted(_) => {}
        }
    }

    fn feature_of(&self, call: &Call) -> Option<FeatureId> {
        let key = call.feature_key.as_ref()?;
        self.features.get(&(call.app_id, key.clone())).map(|feature| feature.feature_id)
    }

    /// What an attempt sets aside of the budget of its key.
    fn reserve(
        &self,
        card: RateCardId,
        call: &Call,
        credential: Option<CredentialId>,
        bound: &Usage,
    ) -> Option<(CredentialId, Money)> {
        let credential = credential?;
        let card = self.cards.get(&card);
        let cost = card.and_then(|card| budget::cost(card, call, call.service_tier, bound));
        Some((credential, cost.unwrap_or(Money::ZERO)))
    }

    fn hold_budgets(&mut self, hold: &Hold) {
        if let Some(feature) = hold.feature_id {
            self.change_spend(BudgetOf::Feature(feature), |spend| spend.hold(hold.amount));
        }
        if let Some((credential, reserved)) = hold.credential {
            self.change_spend(BudgetOf::Credential(credential), |spend| spend.hold(reserved));
        }
    }

    fn free_budgets(&mut self, hold: &Hold) {
        if let Some(feature) = hold.feature_id {
            self.change_spend(BudgetOf::Feature(feature), |spend| spend.end(hold.amount, Money::ZERO));
        }
        if let Some((credential, reserved)) = hold.credential {
            self.change_spend(BudgetOf::Credential(credential), |spend| spend.end(reserved, Money::ZERO));
        }
    }

    fn spend_budgets(&mut self, hold: &Hold, rating: &Rating) {
        if let Some(feature) = hold.feature_id {
            self.change_spend(BudgetOf::Feature(feature), |spend| spend.end(Money::ZERO, rating.charge));
        }
        if let Some((credential, reserved)) = hold.credential {
            let card = self.cards.get(&rating.rate_card_id);
            let cost = card.and_then(|card| budget::cost(card, &hold.call, rating.service_tier, &rating.usage));
            // A usage of which something has no price counts as what was set aside for it.
            let cost = cost.unwrap_or(reserved);
            self.change_spend(BudgetOf::Credential(credential), |spend| spend.end(Money::ZERO, cost));
        }
    }

    fn change_spend(&mut self, of: BudgetOf, change: impl FnOnce(&mut Spend)) {
        let mut spend = self.spend.get(&of).copied().unwrap_or_default();
        change(&mut spend);
        self.spend.set(of, spend);
    }

    fn define_feature(&mut self, event: &FeatureDefined) {
        let feature = Feature {
            feature_id: event.feature_id,
            display_name: event.display_name.clone(),
            pricing: event.pricing,
            policy: serde_json::Value::Object(event.policy.clone()).to_string(),
            // What was recorded before limits were checked may be anything; then it sets none.
            budget_limit: budget::of_policy(&event.policy).unwrap_or_default(),
        };
        self.features.set((event.app_id, event.feature_key.clone()), feature);
    }
}

/// After these a stream has no further events, so its number need not be remembered.
fn ends_stream(event: &Event) -> bool {
    matches!(event, Event::SessionRevoked(_) | Event::SessionExpired(_) | Event::CredentialDisabled(_))
}
