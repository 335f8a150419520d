//! Events of wallets' and sessions' beginnings and ends.

use serde::{Deserialize, Serialize};

use super::Balance;
use crate::ids::{AppId, SessionId, UserId, WalletId};
use crate::money::Money;
use crate::time::Timestamp;
use crate::token::{TokenHash, UserHash};

/// A user of an app has a wallet from now on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct WalletOpened {
    /// The wallet.
    pub wallet_id: WalletId,
    /// The app.
    pub app_id: AppId,
    /// The user, one per app and outside id.
    pub user_id: UserId,
    /// HMAC of the app's own id for the user; the id itself is never stored.
    pub user_hash: UserHash,
    /// The balance below which the wallet never goes.
    pub floor: Money,
}

/// A user may spend from the wallet with this session's token.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionOpened {
    /// The session.
    pub session_id: SessionId,
    /// The app.
    pub app_id: AppId,
    /// The user.
    pub user_id: UserId,
    /// The user's wallet.
    pub wallet_id: WalletId,
    /// The feature that calls are priced by if they name none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub feature_key: Option<String>,
    /// SHA-256 of the session token.
    pub token_hash: TokenHash,
    /// From this time on the session is refused.
    pub expires_at: Timestamp,
    /// The wallet as the session found it; part of the reply.
    pub balance: Balance,
}

/// Somebody ended the session.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionRevoked {
    /// The session.
    pub session_id: SessionId,
}

/// The session's time is over.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SessionExpired {
    /// The session.
    pub session_id: SessionId,
}
