//! Who is who, for the edge: tokens and public app ids, as of the last committed event. It may refuse early; every decision is
//! made again by the writer.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::fmt::Debug;
use std::sync::Arc;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{Event, SessionOpening, Status};
use modelfaucet_schema::ids::{
    AppId, CredentialId, DeveloperId, PayoutId, RefundId, SessionId, TokenId, UserId, WalletId,
};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::staff::StaffRole;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash};
use parking_lot::RwLock;

use crate::domain::{PayoutState, State};

/// Somebody else in the process who follows the log: what is committed is shown to it before any command of its batch is answered.
pub trait Follower: Debug + Send + Sync {
    /// Everything, once, before the first event.
    fn reset(&self, state: &State);
    /// The next committed event. Must be quick: the shard waits.
    fn take_in(&self, event: &Event);
}

/// What a session token stands for.
#[derive(Clone, Copy, Debug)]
pub struct SessionFacts {
    /// The session.
    pub session_id: SessionId,
    /// Its app.
    pub app_id: AppId,
    /// Its user.
    pub user_id: UserId,
    /// Its wallet.
    pub wallet_id: WalletId,
    /// When it ends.
    pub expires_at: Timestamp,
}

/// What a developer token stands for.
#[derive(Clone, Debug)]
pub struct TokenFacts {
    /// The token.
    pub token_id: TokenId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// What a staff token stands for.
#[derive(Clone, Copy, Debug)]
pub struct StaffFacts {
    /// The token.
    pub token_id: TokenId,
    /// What it may do.
    pub role: StaffRole,
    /// When it ends.
    pub expires_at: Option<Timestamp>,
}

/// What a public app id stands for.
#[derive(Clone, Copy, Debug)]
pub struct AppFacts {
    /// The app.
    pub app_id: AppId,
    /// Its developer.
    pub developer_id: DeveloperId,
    /// Does it take new work?
    pub active: bool,
    /// May anybody open a session?
    pub public_sessions: bool,
}

/// What is known of a payout that is not over.
#[derive(Clone, Debug)]
pub struct PayoutFacts {
    /// The developer.
    pub developer_id: DeveloperId,
    /// Whole cents.
    pub amount: Money,
    /// Who pays it out.
    pub provider: Name,
    /// Has somebody approved it?
    pub approved: bool,
}

/// What is known of a refund that the payment provider has not taken on yet.
#[derive(Clone, Debug)]
pub struct RefundFacts {
    /// The provider's id of the payment.
    pub payment: String,
    /// Whole cents.
    pub amount: Money,
}

#[derive(Debug, Default)]
struct Maps {
    developers: BTreeSet<DeveloperId>,
    payouts: HashMap<PayoutId, PayoutFacts>,
    refunds: BTreeMap<RefundId, RefundFacts>,
    sessions: HashMap<TokenHash, SessionFacts>,
    session_hashes: HashMap<SessionId, TokenHash>,
    tokens: HashMap<TokenHash, TokenFacts>,
    token_hashes: HashMap<TokenId, TokenHash>,
    staff: HashMap<TokenHash, StaffFacts>,
    staff_hashes: HashMap<TokenId, TokenHash>,
    apps: HashMap<String, AppFacts>,
    app_names: HashMap<AppId, String>,
    keys_in_use: HashSet<CredentialId>,
}

/// The directory of one shard.
#[derive(Debug, Default)]
pub struct Directory {
    maps: RwLock<Maps>,
    followers: Vec<Arc<dyn Follower>>,
}

impl Directory {
    /// An empty one with followers.
    pub fn followed_by(followers: Vec<Arc<dyn Follower>>) -> Self {
        Self { maps: RwLock::default(), followers }
    }

    /// Replaces everything by what the state says.
    pub fn reset(&self, state: &State) {
        let mut maps = Maps::default();
        for (id, session) in state.sessions.iter() {
            let facts = SessionFacts {
                session_id: *id,
                app_id: session.app_id,
                user_id: session.user_id,
                wallet_id: session.wallet_id,
                expires_at: session.expires_at,
            };
            maps.open_session(session.token_hash, facts);
        }
        for (id, token) in state.tokens.iter() {
            let facts = TokenFacts {
                token_id: *id,
                developer_id: token.developer_id,
                scopes: token.scopes.clone(),
                expires_at: token.expires_at,
            };
            maps.issue_token(token.token_hash, facts);
        }
        for (id, token) in state.staff.iter() {
            let facts = StaffFacts { token_id: *id, role: token.role, expires_at: token.expires_at };
            maps.issue_staff_token(token.token_hash, facts);
        }
        for (id, app) in state.apps.iter() {
            let facts = AppFacts {
                app_id: *id,
                developer_id: app.developer_id,
                active: app.is_active(),
                public_sessions: app.opens_publicly(),
            };
            maps.app_names.insert(*id, app.public_app_id.clone());
            maps.apps.insert(app.public_app_id.clone(), facts);
        }
        let in_use = state.credentials.iter().filter(|(_, credential)| credential.status == Status::Active);
        maps.keys_in_use = in_use.map(|(id, _)| *id).collect();
        maps.developers = state.developers.iter().map(|(id, _)| *id).collect();
        for (id, payout) in state.payouts.iter() {
            if matches!(payout.state, PayoutState::Pending | PayoutState::Processing) {
                let facts = PayoutFacts {
                    developer_id: payout.developer_id,
                    amount: payout.amount,
                    provider: payout.provider.clone(),
                    approved: payout.state == PayoutState::Processing,
                };
                maps.payouts.insert(*id, facts);
            }
        }
        for (id, refund) in state.refunds.iter().filter(|(_, refund)| !refund.sent && !refund.failed) {
            maps.refunds.insert(*id, RefundFacts { payment: refund.payment.as_ref().into(), amount: refund.amount });
        }
        *self.maps.write() = maps;
        self.followers.iter().for_each(|follower| follower.reset(state));
    }

    /// Takes in committed events. Locks only if one of them matters here.
    pub fn take_in<'a>(&self, events: impl Iterator<Item = &'a Event>) {
        let mut maps = None;
        let told = events.inspect(|event| self.followers.iter().for_each(|follower| follower.take_in(event)));
        for event in told.filter(|event| matters(event)) {
            maps.get_or_insert_with(|| self.maps.write()).take_in(event);
        }
    }

    /// The session of a token.
    pub fn session(&self, token: &TokenHash) -> Option<SessionFacts> {
        self.maps.read().sessions.get(token).copied()
    }

    /// The developer token of a token.
    pub fn token(&self, token: &TokenHash) -> Option<TokenFacts> {
        self.maps.read().tokens.get(token).cloned()
    }

    /// Is it a provider key that was added and not disabled?
    pub fn is_key_in_use(&self, credential: CredentialId) -> bool {
        self.maps.read().keys_in_use.contains(&credential)
    }

    /// The staff token of a token.
    pub fn staff(&self, token: &TokenHash) -> Option<StaffFacts> {
        self.maps.read().staff.get(token).copied()
    }

    /// Every developer.
    pub fn developers(&self) -> Vec<DeveloperId> {
        self.maps.read().developers.iter().copied().collect()
    }

    /// A payout that is pending or processing.
    pub fn payout(&self, id: PayoutId) -> Option<PayoutFacts> {
        self.maps.read().payouts.get(&id).cloned()
    }

    /// A refund that the payment provider has not taken on yet.
    pub fn unsent_refund(&self, id: RefundId) -> Option<RefundFacts> {
        self.maps.read().refunds.get(&id).cloned()
    }

    /// All refunds that the payment provider has not taken on yet, oldest first.
    pub fn unsent_refunds(&self) -> Vec<(RefundId, RefundFacts)> {
        self.maps.read().refunds.iter().map(|(id, facts)| (*id, facts.clone())).collect()
    }

    /// The app of a public id.
    pub fn app(&self, public_app_id: &str) -> Option<AppFacts> {
        self.maps.read().apps.get(public_app_id).copied()
    }
}

fn matters(event: &Event) -> bool {
    matches!(
        event,
        Event::SessionOpened(_)
            | Event::SessionRevoked(_)
            | Event::SessionExpired(_)
            | Event::DeveloperTokenIssued(_)
            | Event::DeveloperTokenRevoked(_)
            | Event::StaffTokenIssued(_)
            | Event::StaffTokenRevoked(_)
            | Event::AppRegistered(_)
            | Event::AppChanged(_)
            | Event::CredentialAdded(_)
            | Event::CredentialDisabled(_)
            | Event::DeveloperRegistered(_)
            | Event::RefundRequested(_)
            | Event::RefundSent(_)
            | Event::RefundFailed(_)
            | Event::PayoutRequested(_)
            | Event::PayoutApproved(_)
            | Event::PayoutPaid(_)
            | Event::PayoutFailed(_)
            | Event::PayoutCancelled(_)
    )
}

impl Maps {
    fn open_session(&mut self, hash: TokenHash, facts: SessionFacts) {
        self.session_hashes.insert(facts.session_id, hash);
        self.sessions.insert(hash, facts);
    }

    fn issue_token(&mut self, hash: TokenHash, facts: TokenFacts) {
        self.token_hashes.insert(facts.token_id, hash);
        self.tokens.insert(hash, facts);
    }

    fn issue_staff_token(&mut self, hash: TokenHash, facts: StaffFacts) {
        self.staff_hashes.insert(facts.token_id, hash);
        self.staff.insert(hash, facts);
    }

    fn end_session(&mut self, id: SessionId) {
        if let Some(hash) = self.session_hashes.remove(&id) {
            self.sessions.remove(&hash);
        }
    }

    fn take_in(&mut self, event: &Event) {
        match event {
            Event::SessionOpened(event) => {
                let facts = SessionFacts {
                    session_id: event.session_id,
                    app_id: event.app_id,
                    user_id: event.user_id,
                    wallet_id: event.wallet_id,
                    expires_at: event.expires_at,
                };
                self.open_session(event.token_hash, facts);
            }
            Event::SessionRevoked(event) => self.end_session(event.session_id),
            Event::SessionExpired(event) => self.end_session(event.session_id),
            Event::DeveloperTokenIssued(event) => {
                let facts = TokenFacts {
                    token_id: event.token_id,
                    developer_id: event.developer_id,
                    scopes: event.scopes.clone(),
                    expires_at: event.expires_at,
                };
                self.issue_token(event.token_hash, facts);
            }
            Event::DeveloperTokenRevoked(event) => {
                if let Some(hash) = self.token_hashes.remove(&event.token_id) {
                    self.tokens.remove(&hash);
                }
            }
            Event::StaffTokenIssued(event) => {
                let facts = StaffFacts { token_id: event.token_id, role: event.role, expires_at: event.expires_at };
                self.issue_staff_token(event.token_hash, facts);
            }
            Event::StaffTokenRevoked(event) => {
                if let Some(hash) = self.staff_hashes.remove(&event.token_id) {
                    self.staff.remove(&hash);
                }
            }
            Event::AppRegistered(event) => {
                let facts = AppFacts {
                    app_id: event.app_id,
                    developer_id: event.developer_id,
                    active: event.settings.status == Status::Active,
                    public_sessions: event.settings.session_opening == SessionOpening::Public,
                };
                self.app_names.insert(event.app_id, event.public_app_id.clone());
                self.apps.insert(event.public_app_id.clone(), facts);
            }
            Event::DeveloperRegistered(event) => {
                self.developers.insert(event.developer_id);
            }
            Event::RefundRequested(event) if event.reference.is_none() => {
                let facts = RefundFacts { payment: event.payment.clone(), amount: event.amount };
                self.refunds.insert(event.refund_id, facts);
            }
            Event::RefundSent(event) => {
                self.refunds.remove(&event.refund_id);
            }
            Event::RefundFailed(event) => {
                self.refunds.remove(&event.refund_id);
            }
            Event::PayoutRequested(event) => {
                let facts = PayoutFacts {
                    developer_id: event.developer_id,
                    amount: event.amount,
                    provider: event.provider.clone(),
                    approved: false,
                };
                self.payouts.insert(event.payout_id, facts);
            }
            Event::PayoutApproved(event) => {
                if let Some(facts) = self.payouts.get_mut(&event.payout_id) {
                    facts.approved = true;
                }
            }
            Event::PayoutPaid(event) => {
                self.payouts.remove(&event.payout_id);
            }
            Event::PayoutFailed(event) => {
                self.payouts.remove(&event.payout_id);
            }
            Event::PayoutCancelled(event) => {
                self.payouts.remove(&event.payout_id);
            }
            Event::AppChanged(event) => {
                if let Some(facts) = self.app_names.get(&event.app_id).and_then(|name| self.apps.get_mut(name)) {
                    facts.active = event.settings.status == Status::Active;
                    facts.public_sessions = event.settings.session_opening == SessionOpening::Public;
                }
            }
            Event::CredentialAdded(event) => {
                self.keys_in_use.insert(event.credential_id);
            }
            Event::CredentialDisabled(event) => {
                self.keys_in_use.remove(&event.credential_id);
            }
            _ => {}
        }
    }
}
