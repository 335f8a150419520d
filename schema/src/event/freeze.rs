//! Kill switches as events: behind a freeze at position p, no event of the frozen class has a higher position until the thaw.

use serde::{Deserialize, Serialize};

use crate::ids::{AppId, DeveloperId, SessionId, WalletId};

/// What a freeze stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(tag = "kind", content = "id", rename_all = "snake_case")]
pub enum FreezeScope {
    /// New sessions, holds, usage and top-ups of an app.
    App(AppId),
    /// The same for all apps of a developer.
    Developer(DeveloperId),
    /// New holds and usage of one session.
    Session(SessionId),
    /// New holds, usage and debits of one wallet.
    Wallet(WalletId),
    /// Requesting and crediting of top-ups, and granting of credit.
    TopUps,
    /// New holds and usage everywhere; open holds may still be captured or released.
    Usage,
    /// Payouts to developers.
    Payouts,
    /// Refunds to cards.
    Refunds,
}

/// A kill switch went on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Frozen {
    /// What it stops.
    pub scope: FreezeScope,
    /// Why.
    pub reason: String,
}

/// A kill switch went off.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Thawed {
    /// What goes on.
    pub scope: FreezeScope,
    /// Why.
    pub reason: String,
}
