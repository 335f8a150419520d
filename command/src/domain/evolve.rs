//! Taking an event into the state. Total: whatever was recorded is taken in; what it names and the state does not have changes
//! nothing.

use std::sync::Arc;

use modelfaucet_schema::account::{AccountCode, Subject};
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::{Call, Event, FeatureDefined, RateCardId, Rating, Recorded, Status};
use modelfaucet_schema::ids::{CredentialId, FeatureId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;

use super::{
    App, BudgetOf, Credential, Developer, DeveloperToken, Dispute, DisputeState, Feature, Hold, Payment, Payout,
    PayoutState, PendingTopUp, PromoSlice, RateCard, Refund, Repair, Sent, Session, Spend, StaffToken, State, Wallet,
    WriteOff, budget,
};

impl State {
    /// Takes in a recorded event.
    pub fn evolve(&mut self, recorded: &Recorded) {
        self.seqs.set(recorded.stream, recorded.stream_seq);
        if recorded.recorded_at > self.last_recorded_at() {
            self.recorded_at.set((), recorded.recorded_at);
        }
        self.take_in(recorded);
        if ends_stream(&recorded.event) {
            self.seqs.remove(&recorded.stream);
        }
    }

    fn take_in(&mut self, recorded: &Recorded) {
        let event = &recorded.event;
        if let Some((wallet_id, balance)) = event.balance() {
            self.wallets.change(&wallet_id, |wallet| wallet.balance = balance);
        }
        if let Some(entry) = event.entry() {
            self.take_in_debts(entry);
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
                let payment = Payment {
                    wallet_id: event.wallet_id,
                    amount: event.amount,
                    refunded: Money::ZERO,
                    disputed: Money::ZERO,
                };
                self.payments.set(event.payment.clone(), payment);
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
                self.spend_promo(event.wallet_id, event.rating.promo);
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
                self.spend_promo(event.wallet_id, event.rating.promo);
            }
            Event::UsageRecorded(event) => {
                self.spend_promo(event.wallet_id, event.rating.promo);
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
            Event::Frozen(event) => self.freezes.set(event.scope, recorded.actor),
            Event::Thawed(event) => {
                self.freezes.remove(&event.scope);
            }
            Event::PromoGranted(event) => {
                if let (Some(promo_id), Some(expires_at)) = (event.promo_id, event.expires_at) {
                    let slice = PromoSlice { promo_id, left: event.amount, expires_at, due_at: expires_at };
                    self.add_promo(event.wallet_id, slice);
                }
            }
            Event::CreditExpired(event) => self.promos.change(&event.wallet_id, |slices| {
                for slice in slices.iter_mut().filter(|slice| slice.promo_id == event.promo_id) {
                    slice.left = slice.left.checked_sub(event.amount).unwrap_or(Money::ZERO);
                    slice.due_at = event.again_at.unwrap_or(slice.due_at);
                }
                slices.retain(|slice| slice.left.is_positive());
            }),
            Event::RefundRequested(event) => {
                let refund = Refund {
                    payment: event.payment.as_str().into(),
                    amount: event.amount,
                    receivable: event.receivable,
                    sent: event.reference.is_some(),
                    failed: false,
                };
                self.refunds.set(event.refund_id, refund);
                self.change_payment(&event.payment, |payment| payment.refunded = plus(payment.refunded, event.amount));
            }
            Event::RefundSent(event) => self.refunds.change(&event.refund_id, |refund| refund.sent = true),
            Event::RefundFailed(event) => {
                self.refunds.change(&event.refund_id, |refund| refund.failed = true);
                self.change_payment(&event.payment, |payment| payment.refunded = less(payment.refunded, event.amount));
            }
            Event::DisputeOpened(event) => {
                let dispute = Dispute {
                    payment: event.payment.as_str().into(),
                    wallet_id: event.wallet_id,
                    amount: event.amount,
                    held: event.held,
                    froze: event.freezes,
                    state: DisputeState::Open,
                };
                self.disputes.set(event.dispute.clone(), dispute);
                self.change_payment(&event.payment, |payment| payment.disputed = plus(payment.disputed, event.amount));
            }
            Event::DisputeWon(event) => {
                let amount = self.disputes.get(&event.dispute).map_or(Money::ZERO, |dispute| dispute.amount);
                self.end_dispute(&event.dispute, DisputeState::Won);
                self.change_payment(&event.payment, |payment| payment.disputed = less(payment.disputed, amount));
            }
            Event::DisputeLost(event) => self.end_dispute(&event.dispute, DisputeState::Lost),
            Event::WriteOffProposed(event) => {
                let proposed_by = recorded.actor.to_string().into();
                let write_off = WriteOff { wallet_id: event.wallet_id, amount: event.amount, proposed_by };
                self.write_offs.set(event.write_off_id, write_off);
            }
            Event::ReceivableWrittenOff(event) => {
                self.write_offs.remove(&event.write_off_id);
            }
            Event::PayoutRequested(event) => {
                let payout = Payout {
                    developer_id: event.developer_id,
                    amount: event.amount,
                    provider: event.provider.clone(),
                    requested_by: recorded.actor.to_string().into(),
                    state: PayoutState::Pending,
                };
                self.payouts.set(event.payout_id, payout);
                self.open_payouts.set(event.developer_id, event.payout_id);
            }
            Event::PayoutApproved(event) => {
                self.payouts.change(&event.payout_id, |payout| payout.state = PayoutState::Processing);
            }
            Event::PayoutPaid(event) => {
                self.payouts.change(&event.payout_id, |payout| payout.state = PayoutState::Paid);
                self.open_payouts.remove(&event.developer_id);
            }
            Event::PayoutFailed(event) => {
                self.payouts.change(&event.payout_id, |payout| payout.state = PayoutState::Over);
                self.open_payouts.remove(&event.developer_id);
            }
            Event::PayoutCancelled(event) => {
                self.payouts.change(&event.payout_id, |payout| payout.state = PayoutState::Over);
                self.open_payouts.remove(&event.developer_id);
            }
            // Another one may be open by now: this one was not.
            Event::PayoutReturned(event) => {
                self.payouts.change(&event.payout_id, |payout| payout.state = PayoutState::Over);
            }
            Event::RepairProposed(event) => {
                let (digest, proposed_by) = (event.digest.as_str().into(), recorded.actor.to_string().into());
                self.repairs.set(event.repair_id, Repair { digest, proposed_by, approved: false });
            }
            Event::RepairApproved(event) => self.repairs.change(&event.repair_id, |repair| repair.approved = true),
            Event::IncidentClosed(event) => self.incidents.set(event.name.clone(), recorded.position),
            // Their effect is in balances and debts, taken in above, or there is none here.
            Event::TestCreditGranted(_)
            | Event::WalletAdjusted(_)
            | Event::TopUpCheckoutOpened(_)
            | Event::StripeTransactionRecorded(_)
            | Event::LogForked(_) => {}
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

    /// What owners of wallets owe and what developers are owed follows from the postings, whatever made them.
    fn take_in_debts(&mut self, entry: &JournalEntry) {
        for posting in entry.postings() {
            match (posting.account.code(), posting.account.subject()) {
                (AccountCode::Receivable, Subject::Wallet(wallet)) => {
                    let owed = self.receivables.get(wallet).copied().unwrap_or_default();
                    self.receivables.set(*wallet, plus(owed, posting.amount));
                }
                (AccountCode::DeveloperPayable, Subject::Developer(developer)) => {
                    let owed = self.payables.get(developer).copied().unwrap_or_default();
                    self.payables.set(*developer, less(owed, posting.amount));
                }
                _ => {}
            }
        }
    }

    fn change_payment(&mut self, payment: &str, change: impl FnOnce(&mut Payment)) {
        self.payments.change(&payment.to_owned(), change);
    }

    fn end_dispute(&mut self, dispute: &str, state: DisputeState) {
        self.disputes.change(&dispute.to_owned(), |dispute| {
            dispute.held = Money::ZERO;
            dispute.state = state;
        });
    }

    fn add_promo(&mut self, wallet: WalletId, slice: PromoSlice) {
        let mut slices = self.promos.get(&wallet).cloned().unwrap_or_default();
        let at = slices.partition_point(|known| known.expires_at <= slice.expires_at);
        slices.insert(at, slice);
        self.promos.set(wallet, slices);
    }

    /// Promotional credit that expires is spent before the rest of it, what expires first first.
    fn spend_promo(&mut self, wallet: WalletId, amount: Money) {
        if !amount.is_positive() || !self.promos.contains(&wallet) {
            return;
        }
        self.promos.change(&wallet, |slices| {
            let mut rest = amount;
            for slice in slices.iter_mut() {
                let taken = slice.left.min(rest);
                slice.left = less(slice.left, taken);
                rest = less(rest, taken);
            }
            slices.retain(|slice| slice.left.is_positive());
        });
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

/// The sum; decisions refuse what is out of range, so nothing is cut off here.
fn plus(a: Money, b: Money) -> Money {
    a.checked_add(b).unwrap_or(a)
}

/// The difference; as [`plus`].
fn less(a: Money, b: Money) -> Money {
    a.checked_sub(b).unwrap_or(a)
}

/// After these a stream has no further events, so its number need not be remembered.
fn ends_stream(event: &Event) -> bool {
    matches!(
        event,
        Event::SessionRevoked(_)
            | Event::SessionExpired(_)
            | Event::CredentialDisabled(_)
            | Event::StripeTransactionRecorded(_)
            | Event::PayoutFailed(_)
            | Event::PayoutCancelled(_)
            | Event::PayoutReturned(_)
    )
}
