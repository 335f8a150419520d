//! Whose rows an answer may show. Every look at the read tables says so twice: our statements filter by it, and the database's row
//! security, which is told the same, would hide what a statement forgot.

use modelfaucet_schema::ids::{DeveloperId, UserId, WalletId};
use uuid::Uuid;

use crate::state::QueryState;

/// Whose rows may be seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tenant {
    /// Everybody's: for those who run the ledger, and to find out who asks.
    House,
    /// Those of a developer, its apps, and their users.
    Developer(DeveloperId),
    /// Those of one wallet.
    Wallet(WalletId),
    /// The provider keys of one user.
    User(UserId),
}

impl Tenant {
    /// What row security is told: the id of a developer, wallet or user, or the nil id for the house.
    pub(crate) fn setting(self) -> String {
        match self {
            Self::House => Uuid::nil().to_string(),
            Self::Developer(developer) => developer.to_string(),
            Self::Wallet(wallet) => wallet.to_string(),
            Self::User(user) => user.to_string(),
        }
    }

    /// What our statements filter by; null shows every developer's rows.
    pub(crate) fn developer(self, state: &QueryState) -> Option<Uuid> {
        match self {
            Self::Developer(developer) if !state.options().without_own_filter => Some(developer.0),
            Self::Developer(_) | Self::House => None,
            // A wallet or user owns no app: it sees nothing that is listed by developer.
            Self::Wallet(wallet) => Some(wallet.0),
            Self::User(user) => Some(user.0),
        }
    }
}
