//! How the gateway runs: where calls go, how long things may take, how large they may be.

use std::time::Duration;

use modelfaucet_schema::event::Route;
use modelfaucet_schema::ids::{EpochId, GatewayId};
use secrecy::SecretString;
use url::Url;

use crate::answers::KeptAnswers;
use crate::limit::{RateLimits, Rates};

/// Everything the gateway is told at its start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Who we are: the owner of our holds, the same after every start.
    pub gateway: GatewayId,
    /// This life of the process.
    pub epoch: EpochId,
    /// Where platform calls go.
    pub platform: Platform,
    /// How long things may take.
    pub timeouts: Timeouts,
    /// How much and how large.
    pub limits: Limits,
    /// Who counts for the rate limits.
    pub rate_limits: RateLimits,
    /// Where answers are kept for repeats; absent: in memory only.
    pub kept_answers: Option<KeptAnswers>,
}

/// The operator's own router or provider.
#[derive(Clone, Debug)]
pub struct Platform {
    /// Its base, with or without `/v1`. From configuration only, so it may be a private address.
    pub base_url: Url,
    /// Its key.
    pub key: Option<SecretString>,
}

/// How long things may take.
#[derive(Clone, Copy, Debug)]
pub struct Timeouts {
    /// Until the request's body has come.
    pub body: Duration,
    /// Until a hold is granted.
    pub hold: Duration,
    /// Until a connection to the provider stands.
    pub connect: Duration,
    /// Until the first byte of a stream.
    pub first_byte_stream: Duration,
    /// Until the first byte of an answer in one piece.
    pub first_byte: Duration,
    /// Between two events of a stream; comments do not count.
    pub idle: Duration,
    /// A whole call.
    pub total: Duration,
    /// Reading on after the client has gone.
    pub drain: Duration,
    /// A client that takes nothing for so long counts as gone.
    pub client_stall: Duration,
    /// The last byte waits for the charge so long; then the call is `capture_pending`.
    pub capture: Duration,
    /// Before the second try; doubles from try to try.
    pub retry_delay: Duration,
    /// Between two marks of a long stream in the log.
    pub mark: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            body: seconds(30),
            hold: seconds(2),
            connect: seconds(3),
            first_byte_stream: seconds(60),
            first_byte: seconds(300),
            idle: seconds(60),
            total: seconds(600),
            drain: seconds(120),
            client_stall: seconds(30),
            capture: seconds(5),
            retry_delay: Duration::from_millis(250),
            mark: seconds(10),
        }
    }
}

impl Timeouts {
    /// When a hold expires: long after everything else has given up, so that a dispatched hold expires only if nobody ended it.
    pub fn hold_life(&self) -> Duration {
        self.total + self.drain + Duration::from_secs(120)
    }
}

/// How much and how large.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest request body.
    pub body: usize,
    /// The largest answer in one piece.
    pub answer: usize,
    /// Bytes on their way to one client.
    pub relay: usize,
    /// Calls at once.
    pub calls: usize,
    /// Streams among them.
    pub streams: usize,
    /// Bytes of whole answers and large events, all calls together; at this no new call begins.
    pub memory: usize,
    /// Tries of one call, wherever they go.
    pub attempts: u32,
    /// Tries of one call at one target.
    pub tries: u32,
    /// The output cap of requests that name none, where the feature names none either.
    pub default_cap: u64,
    /// Bytes of stored answers, for repeats with the same key.
    pub stored_answers: usize,
    /// How much sessions, users and apps may use.
    pub rates: Rates,
    /// What becomes of calls whose gateway died.
    pub lost: LostCalls,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: 20 << 20,
            answer: 32 << 20,
            relay: 64 << 10,
            calls: 10_000,
            streams: 10_000,
            memory: 256 << 20,
            attempts: 3,
            tries: 2,
            default_cap: 4_096,
            stored_answers: 64 << 20,
            rates: Rates::default(),
            lost: LostCalls::default(),
        }
    }
}

/// What becomes of calls whose gateway died, by route: where marks show what was delivered, that is charged; other calls, and those of
/// routes that say so here, are given back, and the platform bears what they cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LostCalls {
    absorbed: [bool; Self::ROUTES.len()],
}

impl LostCalls {
    const ROUTES: [Route; 3] = [Route::Platform, Route::DeveloperKey, Route::Byok];

    /// The same, but calls on this route are given back whatever their marks say.
    #[must_use]
    pub fn absorbing(mut self, route: Route) -> Self {
        for (known, absorbed) in Self::ROUTES.iter().zip(&mut self.absorbed) {
            *absorbed |= *known == route;
        }
        self
    }

    /// Are marks of calls on this route charged?
    pub fn are_charged(self, route: Route) -> bool {
        !Self::ROUTES.iter().zip(self.absorbed).any(|(known, absorbed)| *known == route && absorbed)
    }
}
