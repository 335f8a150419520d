//! The way to the command side: what the gateway asks of it and what it may answer. The binary implements it, in process or over
//! HTTP; the gateway knows neither writer nor database.

use std::time::Duration;

use futures_util::future::BoxFuture;
use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{
    Attempt, AttemptStarted, CallOutcome, CredentialOwner, Dispatch, HoldCaptured, HoldPlaced, HoldReleased, KeyUse,
    LateUsageCaptured, ReleaseReason, Route, ServiceTier, UsageRecorded,
};
use modelfaucet_schema::ids::{CredentialId, GatewayId, HoldId, Position, SessionId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::short_hash;
use modelfaucet_schema::usage::Usage;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};

/// A hold that the gateway wants for a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct BeginCall {
    /// The hold's id, which is the call's.
    pub hold_id: HoldId,
    /// The session that pays.
    pub session_id: SessionId,
    /// The feature; absent: the session's.
    pub feature_key: Option<String>,
    /// The route.
    pub route: Route,
    /// The provider.
    pub provider: Name,
    /// The model.
    pub model: String,
    /// The dearest service tier that can serve it: what is held for.
    pub service_tier: ServiceTier,
    /// Grants the price of the dispatch's bound, or less, but at least the price of this.
    pub min_bound: Usage,
    /// Time until the hold expires.
    pub expires_in: Duration,
    /// How the call is sent.
    pub dispatch: Dispatch,
    /// The client's idempotency key, if it gave one.
    pub key: Option<KeyUse>,
}

/// A hold that is durable.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Begun {
    /// The event.
    pub placed: HoldPlaced,
    /// Its place.
    pub position: Position,
    /// Is it the hold of an earlier call with the same key?
    pub replayed: bool,
}

/// The next attempt of a call, after one that failed.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct StartAttempt {
    /// The hold.
    pub hold_id: HoldId,
    /// Its session.
    pub session_id: SessionId,
    /// Who owns it.
    pub gateway: GatewayId,
    /// Which attempt begins: 2, 3 …
    pub number: u32,
    /// How the one before it went.
    pub ended: Attempt,
    /// The route of the new one.
    pub route: Route,
    /// Its provider.
    pub provider: Name,
    /// Its model.
    pub model: String,
    /// The dearest service tier that can serve it.
    pub service_tier: ServiceTier,
    /// The most that it can use.
    pub bound: Usage,
    /// Grants the price of the bound, or less, but at least the price of this.
    pub min_bound: Usage,
    /// Where it goes: scheme, host and port.
    pub origin: String,
    /// The key of a developer or user that it is called with.
    pub credential: Option<CredentialId>,
}

/// How far an attempt has come.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct MarkAttempt {
    /// The hold.
    pub hold_id: HoldId,
    /// Its session.
    pub session_id: SessionId,
    /// Who owns it.
    pub gateway: GatewayId,
    /// Which attempt.
    pub number: u32,
    /// Bytes of its answer so far.
    pub bytes: u64,
    /// What it has used so far, by our own count.
    pub usage: Usage,
    /// The version of our way of counting.
    pub counter: u32,
}

/// How a hold is to end.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[expect(clippy::large_enum_variant, reason = "one per call")]
pub enum Ending {
    /// Charge what was used.
    Capture {
        /// What was used.
        usage: Usage,
        /// The service tier that served it; absent: the one that was held for.
        service_tier: Option<ServiceTier>,
        /// The model that served it, if the rate card prices it and it is another one than was asked for.
        served_model: Option<String>,
        /// The provider's id of the call.
        provider_request_id: Option<String>,
    },
    /// Give the funds back.
    Release(ReleaseReason),
}

/// The end of a call.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct EndCall {
    /// The hold.
    pub hold_id: HoldId,
    /// Its session.
    pub session_id: SessionId,
    /// Charge or release.
    pub ending: Ending,
    /// How it went, with the attempts that the log does not have yet.
    pub outcome: CallOutcome,
}

/// How a hold has ended: the first ending stands, whoever asks for another.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Ended {
    /// Charged.
    Captured(Box<HoldCaptured>, Position),
    /// Charged after its time.
    CapturedLate(Box<LateUsageCaptured>, Position),
    /// Given back.
    Released(Box<HoldReleased>, Position),
}

/// Why the command side did nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PortError {
    /// The wallet cannot pay; with `later`, only until its open holds have ended.
    #[error("{message}")]
    CannotPay {
        /// For people.
        message: String,
        /// What can be held.
        available: Money,
        /// What is needed at least.
        required: Money,
        /// Is it for open holds only?
        later: bool,
    },
    /// Another rule says no: HTTP status, stable code, message.
    #[error("{message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// The stable code.
        code: &'static str,
        /// For people.
        message: String,
    },
    /// Too much is waiting; certainly no effect.
    #[error("too much is waiting")]
    Overloaded,
    /// The log cannot be reached; certainly no effect.
    #[error("the ledger is not available")]
    Unavailable,
    /// Not known; the same request again gives the truth.
    #[error("the result is not known yet")]
    InDoubt,
}

/// Usage of a model on the user's own machine: nothing was called through us.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LocalUsage {
    /// The session that reports it.
    pub session_id: SessionId,
    /// The feature; absent: the session's.
    pub feature_key: Option<String>,
    /// Who runs the model.
    pub provider: Name,
    /// The model.
    pub model: String,
    /// What was used, as the client counts it.
    pub usage: Usage,
    /// The client's own id of the call.
    pub label: String,
    /// When, by the client's clock.
    pub occurred_at: Option<Timestamp>,
    /// The key under which it is recorded once.
    pub key: KeyUse,
}

/// A local usage in the log.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Reported {
    /// The event.
    pub recorded: UsageRecorded,
    /// Its place.
    pub position: Position,
    /// Was it recorded before?
    pub replayed: bool,
}

/// The command side, as the gateway sees it. Every request may be repeated.
pub trait Ledger: Send + Sync + 'static {
    /// Places a hold. Dropping the future does not take it back.
    fn begin(&self, request_id: &str, begin: BeginCall) -> BoxFuture<'_, Result<Begun, PortError>>;

    /// Lets the next attempt begin, with its hold in place of the one before; a repeat gets the same event.
    fn start(&self, request_id: &str, start: StartAttempt) -> BoxFuture<'_, Result<AttemptStarted, PortError>>;

    /// Writes down how far an attempt has come. Whether it succeeds changes nothing for the call.
    fn mark(&self, request_id: &str, mark: MarkAttempt) -> BoxFuture<'_, Result<(), PortError>>;

    /// Ends a hold; a repeat, and any later wish, gets the first ending.
    fn end(&self, request_id: &str, end: EndCall) -> BoxFuture<'_, Result<Ended, PortError>>;

    /// Records local usage, once per key.
    fn report(&self, request_id: &str, usage: LocalUsage) -> BoxFuture<'_, Result<Reported, PortError>>;

    /// How a hold has ended; `None` while it is open.
    fn ending(&self, session_id: SessionId, hold_id: HoldId) -> BoxFuture<'_, Result<Option<Ended>, PortError>>;

    /// Takes a provider key out of use whose request went astray.
    fn suspend(
        &self,
        request_id: &str,
        session_id: SessionId,
        credential_id: CredentialId,
    ) -> BoxFuture<'_, Result<(), PortError>>;

    /// Waits until the read model has all that the log holds now.
    fn catch_up(&self) -> BoxFuture<'_, ()>;

    /// Can the log be reached?
    fn is_ready(&self) -> bool;

    /// Does the read model keep up with the log? In one process with the writer it does whenever that can be reached.
    fn is_fed(&self) -> bool {
        self.is_ready()
    }
}

/// A place for sealed answers that outlives the process. What it loses is a repeat's answer, never money.
pub trait AnswerStore: Send + Sync + 'static {
    /// Keeps the answer of a call; the first stays.
    fn put(&self, call: HoldId, sealed: Vec<u8>) -> BoxFuture<'_, Result<(), StoreError>>;

    /// The answer of a call, if it is still there.
    fn get(&self, call: HoldId) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>>;
}

/// Why an answer could not be kept or read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct StoreError(pub String);

/// A sealed provider key that the gateway wants to use. It opens for exactly this owner and origin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SealedKey {
    /// The key's id.
    pub credential_id: CredentialId,
    /// Whose it is.
    pub owner: CredentialOwner,
    /// Scheme, host and port that it may be sent to.
    pub origin: String,
}

/// A provider key could not be opened; the log says why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the provider key cannot be opened")]
pub struct KeyUnavailable;

/// Opens provider keys.
pub trait KeyVault: Send + Sync + 'static {
    /// The key, for one attempt.
    fn open(&self, key: SealedKey) -> BoxFuture<'_, Result<SecretString, KeyUnavailable>>;
}

/// The key under which a hold ends. It says nothing of how, so that the first ending is the only one.
pub fn end_key(hold_id: HoldId) -> KeyUse {
    KeyUse {
        key: short_hash(&[b"gateway", b"end", hold_id.0.as_bytes()]),
        fingerprint: short_hash(&[b"gateway_end_call", hold_id.0.as_bytes()]),
    }
}

/// The key under which an attempt begins: once per hold and number.
pub fn attempt_key(hold_id: HoldId, number: u32) -> KeyUse {
    let number = number.to_be_bytes();
    KeyUse {
        key: short_hash(&[b"gateway", b"attempt", hold_id.0.as_bytes(), &number]),
        fingerprint: short_hash(&[b"gateway_start_attempt", hold_id.0.as_bytes(), &number]),
    }
}
