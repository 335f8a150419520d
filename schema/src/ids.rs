//! Typed identifiers. A bare `Uuid` never appears in a public signature, so a wallet cannot be passed where a session is meant.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::time::Timestamp;

macro_rules! typed_ids {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(transparent)]
        #[schema(value_type = uuid::Uuid)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new time-ordered id (UUID version 7): index pages of recent rows stay together.
            pub fn generate() -> Self {
                Self(Uuid::now_v7())
            }

            /// When it was made, if it tells: the time inside an id of version 7.
            pub fn made_at(self) -> Option<Timestamp> {
                let (seconds, nanos) = self.0.get_timestamp()?.to_unix();
                let micros =
                    i64::try_from(seconds).ok()?.checked_mul(1_000_000)?.checked_add(i64::from(nanos / 1_000))?;
                Some(Timestamp::from_micros(micros))
            }

            /// The UUID inside.
            pub fn uuid(self) -> Uuid {
                self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }

        impl FromStr for $name {
            type Err = uuid::Error;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                Uuid::from_str(text).map(Self)
            }
        }
    )+};
}

typed_ids! {
    /// A developer: owns apps, earns a share.
    DeveloperId,
    /// An API token of a developer or of staff (its id, never its text).
    TokenId,
    /// An app of a developer.
    AppId,
    /// A feature of an app: the unit that has a price.
    FeatureId,
    /// An end user of one app. The same person in two apps is two users.
    UserId,
    /// A wallet: the customer account that is guarded from overspending.
    WalletId,
    /// A session that an app opened for one of its users.
    SessionId,
    /// A top-up of a wallet.
    TopUpId,
    /// A hold: funds set aside until a deadline.
    HoldId,
    /// A recorded use of a model, with or without a hold.
    UsageId,
    /// A credit or debit of a wallet by an administrator.
    AdjustmentId,
    /// A refund of a payment.
    RefundId,
    /// A proposal to write a receivable off.
    WriteOffId,
    /// A grant of promotional credit that expires.
    PromoId,
    /// A payout to a developer.
    PayoutId,
    /// A plan of compensating commands; follows from its digest.
    RepairId,
    /// One log line: `ledger.log.log_id`. A restored log that lost a suffix gets a new one.
    LogId,
    /// A gateway: the owner of the holds of its calls, the same after every start.
    GatewayId,
    /// One life of a gateway's process.
    EpochId,
    /// A key of a provider that a developer or a user keeps here (its id, never its text).
    CredentialId,
    /// One append to the log; makes an append whose answer was lost safe to repeat.
    BatchId,
}

/// A shard: one log, one line of positions, one in-memory state. An app lives in one shard.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct ShardId(pub i16);

impl fmt::Display for ShardId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "s{:02}", self.0)
    }
}

/// The place of an event in its shard's log: 1, 2, 3 … without a gap. Zero is "before the first event".
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(transparent)]
pub struct Position(pub i64);

impl Position {
    /// Before the first event.
    pub const START: Self = Self(0);

    /// The position after this one.
    #[must_use]
    pub fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The position `n` places further on.
    #[must_use]
    pub fn plus(self, n: usize) -> Self {
        Self(self.0.saturating_add(i64::try_from(n).unwrap_or(i64::MAX)))
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for Position {
    type Err = std::num::ParseIntError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        text.parse().map(Self)
    }
}

/// What kind of thing a stream tells the story of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StreamKind {
    /// A developer and its tokens.
    Developer,
    /// An app and its features.
    App,
    /// A rate card.
    RateCard,
    /// A session.
    Session,
    /// A wallet: top-ups, holds, usage, adjustments.
    Wallet,
    /// A provider key.
    Credential,
    /// A staff token.
    Staff,
    /// Matters of the whole shard: freezes.
    Shard,
    /// A movement of the payment provider's own balance.
    Transaction,
    /// A payout to a developer.
    Payout,
    /// A plan of compensating commands.
    Repair,
}

impl StreamKind {
    const fn prefix(self) -> &'static str {
        match self {
            Self::Developer => "developer",
            Self::App => "app",
            Self::RateCard => "rate_card",
            Self::Session => "session",
            Self::Wallet => "wallet",
            Self::Credential => "credential",
            Self::Staff => "staff",
            Self::Shard => "shard",
            Self::Transaction => "transaction",
            Self::Payout => "payout",
            Self::Repair => "repair",
        }
    }
}

/// The events of one thing. Stored as `kind:uuid`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct StreamId {
    /// The kind of thing.
    pub kind: StreamKind,
    /// The thing's id.
    pub id: Uuid,
}

impl StreamId {
    /// The stream of the thing `id` of kind `kind`.
    pub fn new(kind: StreamKind, id: Uuid) -> Self {
        Self { kind, id }
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut buffer = [0; uuid::fmt::Hyphenated::LENGTH];
        f.write_str(self.kind.prefix())?;
        f.write_str(":")?;
        f.write_str(self.id.hyphenated().encode_lower(&mut buffer))
    }
}

impl FromStr for StreamId {
    type Err = InvalidStreamId;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidStreamId(text.to_owned());
        let (prefix, id) = text.split_once(':').ok_or_else(invalid)?;
        let kind = [
            StreamKind::Developer,
            StreamKind::App,
            StreamKind::RateCard,
            StreamKind::Session,
            StreamKind::Wallet,
            StreamKind::Credential,
            StreamKind::Staff,
            StreamKind::Shard,
            StreamKind::Transaction,
            StreamKind::Payout,
            StreamKind::Repair,
        ]
        .into_iter()
        .find(|kind| kind.prefix() == prefix)
        .ok_or_else(invalid)?;
        Ok(Self { kind, id: Uuid::from_str(id).map_err(|_| invalid())? })
    }
}

/// A text that is not a stream id.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not a stream id (expected kind:uuid)")]
pub struct InvalidStreamId(String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stream_ids_survive_their_text_form() {
        let stream = StreamId::new(StreamKind::RateCard, Uuid::from_u128(7));
        assert_eq!(stream.to_string(), "rate_card:00000000-0000-0000-0000-000000000007");
        assert_eq!(stream.to_string().parse::<StreamId>().unwrap(), stream);
        assert!("wallet".parse::<StreamId>().is_err());
        assert!("purse:00000000-0000-0000-0000-000000000007".parse::<StreamId>().is_err());
    }
}
