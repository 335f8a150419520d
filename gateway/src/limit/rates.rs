//! How much a session, a user and an app may use.

use std::time::Duration;

use modelfaucet_schema::ids::{AppId, SessionId, WalletId};
use uuid::Uuid;

use super::{Bucket, Key, Rate, Scope, Unit};

/// How much one of them may use per window; 0: no limit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Quota {
    /// Requests.
    pub requests: u64,
    /// Tokens: the bound of a call when it begins, what it used when it has ended.
    pub tokens: u64,
}

/// The limits on calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rates {
    /// The window.
    pub window: Duration,
    /// Of one session.
    pub session: Quota,
    /// Of one user, over all sessions.
    pub user: Quota,
    /// Of one app, over all users.
    pub app: Quota,
}

impl Default for Rates {
    /// No limits.
    fn default() -> Self {
        let none = Quota::default();
        Self { window: Duration::from_secs(60), session: none, user: none, app: none }
    }
}

impl Rates {
    /// The buckets of one request, and of its tokens.
    pub(crate) fn buckets(
        &self,
        session: SessionId,
        user: WalletId,
        app: AppId,
        tokens: u64,
    ) -> (Vec<Bucket>, Vec<Bucket>) {
        let owners = [
            (Scope::Session, session.0, self.session),
            (Scope::User, user.0, self.user),
            (Scope::App, app.0, self.app),
        ];
        let bucket = |scope, id: Uuid, unit, limit: u64, cost| {
            let rate = Rate { limit, window: self.window };
            (limit > 0).then_some(Bucket { key: Key { scope, id, unit }, rate, cost })
        };
        let requests =
            owners.iter().filter_map(|(scope, id, quota)| bucket(*scope, *id, Unit::Requests, quota.requests, 1));
        let of_tokens =
            owners.iter().filter_map(|(scope, id, quota)| bucket(*scope, *id, Unit::Tokens, quota.tokens, tokens));
        (requests.collect(), of_tokens.collect())
    }
}
