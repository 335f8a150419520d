//! Events: what happened, immutable. Each has a name, a version and a stored form (JSON bytes) that is kept readable forever;
//! `schema/events/NAME.vN.json` holds one golden example per version.

mod attempt;
mod call;
mod catalogue;
mod credential;
mod disconnect;
mod fork;
mod freeze;
mod incident;
mod model_rates;
mod money;
mod payment;
mod payout;
mod recorded;
mod repair;
mod session;
mod staff;

use serde::{Deserialize, Serialize};

pub use attempt::*;
pub use call::*;
pub use catalogue::*;
pub use credential::*;
pub use disconnect::*;
pub use fork::*;
pub use freeze::*;
pub use incident::*;
pub use model_rates::*;
pub use money::*;
pub use payment::*;
pub use payout::*;
pub use recorded::*;
pub use repair::*;
pub use session::*;
pub use staff::*;

use crate::entry::JournalEntry;
use crate::ids::{StreamId, StreamKind, WalletId};

macro_rules! events {
    ($($name:ident = $version:literal),+ $(,)?) => {
        /// Everything that can happen.
        #[derive(Clone, Debug, PartialEq)]
        #[expect(missing_docs, reason = "each variant is documented at its payload type")]
        pub enum Event {
            $($name($name),)+
        }

        impl Event {
            /// Names and current versions of all events.
            pub const KINDS: &'static [(&'static str, i16)] = &[$((stringify!($name), $version)),+];

            /// The name as stored, for example `HoldPlaced`.
            pub const fn name(&self) -> &'static str {
                match self { $(Self::$name(_) => stringify!($name),)+ }
            }

            /// The version of the stored form that [`Event::encode`] writes.
            pub const fn version(&self) -> i16 {
                match self { $(Self::$name(_) => $version,)+ }
            }

            /// The stored form: the exact bytes that are hashed and kept.
            pub fn encode(&self) -> Vec<u8> {
                let mut bytes = Vec::with_capacity(1_024);
                let written = match self { $(Self::$name(payload) => serde_json::to_writer(&mut bytes, payload),)+ };
                debug_assert!(written.is_ok(), "payload types serialize into memory without fail");
                bytes
            }

            /// Reads a stored form.
            ///
            /// # Errors
            /// [`DecodeError`] for an unknown name or version, or bytes that are not its stored form. A reader that gets one
            /// stops: skipping an event would make every figure behind it a lie.
            pub fn decode(name: &str, version: i16, payload: &[u8]) -> Result<Self, DecodeError> {
                match (name, version) {
                    $((stringify!($name), $version) => serde_json::from_slice(payload)
                        .map(Self::$name)
                        .map_err(|source| DecodeError::Payload { name: name.to_owned(), version, source }),)+
                    _ => Err(DecodeError::Unknown { name: name.to_owned(), version }),
                }
            }
        }

        $(impl From<$name> for Event {
            fn from(payload: $name) -> Self {
                Self::$name(payload)
            }
        })+
    };
}

events! {
    DeveloperRegistered = 1,
    DeveloperTokenIssued = 1,
    DeveloperTokenRevoked = 1,
    AppRegistered = 1,
    AppChanged = 1,
    FeatureDefined = 1,
    FeatureChanged = 1,
    FeatureRemoved = 1,
    RateCardPublished = 1,
    RateCardActivated = 1,
    WalletOpened = 1,
    SessionOpened = 1,
    SessionRevoked = 1,
    SessionExpired = 1,
    TopUpRequested = 1,
    TopUpCredited = 1,
    TopUpFailed = 1,
    TestCreditGranted = 1,
    PromoGranted = 1,
    WalletAdjusted = 1,
    HoldPlaced = 1,
    HoldCaptured = 1,
    HoldReleased = 1,
    HoldExpired = 1,
    LateUsageCaptured = 1,
    UsageRecorded = 1,
    AttemptStarted = 1,
    AttemptProgressed = 1,
    DisconnectPolicySet = 1,
    Frozen = 1,
    Thawed = 1,
    CredentialAdded = 1,
    CredentialDisabled = 1,
    StaffTokenIssued = 1,
    StaffTokenRevoked = 1,
    LogForked = 1,
    TopUpCheckoutOpened = 1,
    RefundRequested = 1,
    RefundSent = 1,
    RefundFailed = 1,
    DisputeOpened = 1,
    DisputeWon = 1,
    DisputeLost = 1,
    WriteOffProposed = 1,
    ReceivableWrittenOff = 1,
    CreditExpired = 1,
    StripeTransactionRecorded = 1,
    PayoutRequested = 1,
    PayoutApproved = 1,
    PayoutPaid = 1,
    PayoutFailed = 1,
    PayoutCancelled = 1,
    PayoutReturned = 1,
    RepairProposed = 1,
    RepairApproved = 1,
    IncidentClosed = 1,
}

impl Event {
    /// The stream it belongs to.
    pub fn stream(&self) -> StreamId {
        let (kind, id) = match self {
            Self::DeveloperRegistered(event) => (StreamKind::Developer, event.developer_id.0),
            Self::DeveloperTokenIssued(event) => (StreamKind::Developer, event.developer_id.0),
            Self::DeveloperTokenRevoked(event) => (StreamKind::Developer, event.developer_id.0),
            Self::AppRegistered(event) => (StreamKind::App, event.app_id.0),
            Self::AppChanged(event) => (StreamKind::App, event.app_id.0),
            Self::FeatureDefined(event) | Self::FeatureChanged(FeatureChanged(event)) => {
                (StreamKind::App, event.app_id.0)
            }
            Self::FeatureRemoved(event) => (StreamKind::App, event.app_id.0),
            Self::RateCardPublished(event) => (StreamKind::RateCard, event.rate_card_id.0),
            Self::RateCardActivated(event) => (StreamKind::RateCard, event.rate_card_id.0),
            Self::SessionOpened(event) => (StreamKind::Session, event.session_id.0),
            Self::SessionRevoked(event) => (StreamKind::Session, event.session_id.0),
            Self::SessionExpired(event) => (StreamKind::Session, event.session_id.0),
            Self::WalletOpened(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::TopUpRequested(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::TopUpCredited(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::TopUpFailed(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::TestCreditGranted(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::PromoGranted(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::WalletAdjusted(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::HoldPlaced(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::HoldCaptured(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::HoldReleased(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::HoldExpired(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::LateUsageCaptured(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::UsageRecorded(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::CredentialAdded(event) => (StreamKind::Credential, event.credential_id.0),
            Self::CredentialDisabled(event) => (StreamKind::Credential, event.credential_id.0),
            Self::AttemptStarted(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::AttemptProgressed(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::StaffTokenIssued(event) => (StreamKind::Staff, event.token_id.0),
            Self::StaffTokenRevoked(event) => (StreamKind::Staff, event.token_id.0),
            Self::DisconnectPolicySet(_) | Self::Frozen(_) | Self::Thawed(_) | Self::LogForked(_) => {
                (StreamKind::Shard, uuid::Uuid::nil())
            }
            Self::TopUpCheckoutOpened(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::RefundRequested(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::RefundSent(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::RefundFailed(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::DisputeOpened(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::DisputeWon(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::DisputeLost(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::WriteOffProposed(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::ReceivableWrittenOff(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::CreditExpired(event) => (StreamKind::Wallet, event.wallet_id.0),
            Self::StripeTransactionRecorded(event) => (StreamKind::Transaction, event.stream_id()),
            Self::PayoutRequested(event) => (StreamKind::Payout, event.payout_id.0),
            Self::PayoutApproved(event) => (StreamKind::Payout, event.payout_id.0),
            Self::PayoutPaid(event) => (StreamKind::Payout, event.payout_id.0),
            Self::PayoutFailed(event) => (StreamKind::Payout, event.payout_id.0),
            Self::PayoutCancelled(event) => (StreamKind::Payout, event.payout_id.0),
            Self::PayoutReturned(event) => (StreamKind::Payout, event.payout_id.0),
            Self::RepairProposed(event) => (StreamKind::Repair, event.repair_id.0),
            Self::RepairApproved(event) => (StreamKind::Repair, event.repair_id.0),
            Self::IncidentClosed(_) => (StreamKind::Shard, uuid::Uuid::nil()),
        };
        StreamId::new(kind, id)
    }

    /// The journal entry it carries, if it moves money.
    pub fn entry(&self) -> Option<&JournalEntry> {
        let entry = match self {
            Self::TopUpCredited(event) => &event.entry,
            Self::TestCreditGranted(event) => &event.entry,
            Self::PromoGranted(event) => &event.entry,
            Self::WalletAdjusted(event) => &event.entry,
            Self::HoldCaptured(event) => &event.entry,
            Self::LateUsageCaptured(event) => &event.entry,
            Self::UsageRecorded(event) => &event.entry,
            Self::RefundRequested(event) => &event.entry,
            Self::RefundFailed(event) => &event.entry,
            Self::DisputeLost(event) => &event.entry,
            Self::ReceivableWrittenOff(event) => &event.entry,
            Self::CreditExpired(event) => &event.entry,
            Self::StripeTransactionRecorded(event) => &event.entry,
            Self::PayoutRequested(event) => &event.entry,
            Self::PayoutPaid(event) => &event.entry,
            Self::PayoutFailed(event) => &event.entry,
            Self::PayoutCancelled(event) => &event.entry,
            Self::PayoutReturned(event) => &event.entry,
            _ => return None,
        };
        (!entry.is_empty()).then_some(entry)
    }

    /// The wallet it concerns and the wallet's balance after it, if it changes one.
    pub fn balance(&self) -> Option<(WalletId, Balance)> {
        match self {
            Self::WalletOpened(event) => Some((event.wallet_id, Balance::default())),
            Self::TopUpCredited(event) => Some((event.wallet_id, event.balance)),
            Self::TestCreditGranted(event) => Some((event.wallet_id, event.balance)),
            Self::PromoGranted(event) => Some((event.wallet_id, event.balance)),
            Self::WalletAdjusted(event) => Some((event.wallet_id, event.balance)),
            Self::HoldPlaced(event) => Some((event.wallet_id, event.balance)),
            Self::HoldCaptured(event) => Some((event.wallet_id, event.balance)),
            Self::HoldReleased(event) => Some((event.wallet_id, event.balance)),
            Self::HoldExpired(event) => Some((event.wallet_id, event.balance)),
            Self::LateUsageCaptured(event) => Some((event.wallet_id, event.balance)),
            Self::UsageRecorded(event) => Some((event.wallet_id, event.balance)),
            Self::AttemptStarted(event) => Some((event.wallet_id, event.balance)),
            Self::RefundRequested(event) => Some((event.wallet_id, event.balance)),
            Self::RefundFailed(event) => Some((event.wallet_id, event.balance)),
            Self::DisputeOpened(event) => Some((event.wallet_id, event.balance)),
            Self::DisputeWon(event) => Some((event.wallet_id, event.balance)),
            Self::DisputeLost(event) => Some((event.wallet_id, event.balance)),
            Self::ReceivableWrittenOff(event) => Some((event.wallet_id, event.balance)),
            Self::CreditExpired(event) => Some((event.wallet_id, event.balance)),
            _ => None,
        }
    }

    /// When it happened by the source's clock, if the source named a time other than the recording's.
    pub fn occurred_at(&self) -> Option<crate::time::Timestamp> {
        match self {
            Self::TopUpCredited(event) => event.occurred_at,
            Self::HoldCaptured(event) => event.occurred_at,
            Self::LateUsageCaptured(event) => event.occurred_at,
            Self::UsageRecorded(event) => event.occurred_at,
            Self::RefundRequested(event) => event.occurred_at,
            Self::RefundFailed(event) => event.occurred_at,
            Self::DisputeOpened(event) => event.occurred_at,
            Self::DisputeWon(event) => event.occurred_at,
            Self::DisputeLost(event) => event.occurred_at,
            Self::PayoutPaid(event) => event.occurred_at,
            Self::PayoutReturned(event) => event.occurred_at,
            Self::StripeTransactionRecorded(event) => Some(event.occurred_at),
            _ => None,
        }
    }
}

/// Stored bytes that are not an event we know.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// A newer program wrote it, or nobody did.
    #[error("unknown event {name} version {version}; this program is older than the log")]
    Unknown {
        /// The stored name.
        name: String,
        /// The stored version.
        version: i16,
    },
    /// The bytes are not its stored form.
    #[error("payload of {name} version {version} does not decode")]
    Payload {
        /// The stored name.
        name: String,
        /// The stored version.
        version: i16,
        /// What the decoder says.
        #[source]
        source: serde_json::Error,
    },
}

/// Active or not; a disabled thing stays in the books.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Status {
    /// In use.
    #[default]
    Active,
    /// Refuses new work.
    Disabled,
}
