//! One gateway: what its calls share.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use modelfaucet_schema::event::{Attempt, AttemptError, Billed, CallOutcome, HoldPlaced, ReleaseReason};
use modelfaucet_schema::ids::{HoldId, SessionId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::answers::Answers;
use crate::breaker::Breakers;
use crate::limit::RateLimits;
use crate::options::Options;
use crate::port::{EndCall, Ended, Ending, Ledger, PortError};
use crate::read_model::ReadModel;
use crate::upstream::{Upstream, UpstreamError};

/// A hold that an earlier life of this gateway left open.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeftHold {
    /// The hold.
    pub hold_id: HoldId,
    /// Its session.
    pub session_id: SessionId,
    /// What is held: the most that the call can have cost.
    pub amount: Money,
    /// The provider and the model that may have been called.
    pub provider: modelfaucet_schema::account::Name,
    /// See `provider`.
    pub model: String,
}

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) upstream: Upstream,
    pub(crate) origin: String,
    pub(crate) answers: Answers,
    pub(crate) limits: RateLimits,
    pub(crate) breakers: Breakers,
    running: Mutex<HashSet<HoldId>>,
    calls: AtomicUsize,
    all_ended: Notify,
}

impl Gateway {
    /// A gateway before a ledger, with a read model that somebody feeds.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn new(options: Options, ledger: Arc<dyn Ledger>, model: Arc<ReadModel>) -> Result<Self, UpstreamError> {
        crate::series::begin();
        let upstream = Upstream::new(&options.platform, &options.timeouts)?;
        let origin = Upstream::origin(&options.platform.base_url);
        let shared = Shared {
            answers: Answers::new(options.limits.stored_answers),
            limits: RateLimits::new(options.limits.requests_per_minute),
            breakers: Breakers::default(),
            options,
            ledger,
            model,
            upstream,
            origin,
            running: Mutex::default(),
            calls: AtomicUsize::new(0),
            all_ended: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// Gives back the holds that an earlier life of this gateway left: whether their calls were made is not known, what they cost
    /// is ours. Each ends once; a hold that has ended meanwhile stays as it is. Returns how many were given back.
    pub async fn recover(&self, left: Vec<LeftHold>) -> usize {
        let mut recovered = 0;
        for hold in left {
            let attempt = Attempt {
                provider: hold.provider,
                model: hold.model,
                started_at: Timestamp::now(),
                first_byte_ms: None,
                total_ms: None,
                status: None,
                error: Some(AttemptError::Lost),
                billed: Billed::Unknown,
                exposure: Some(hold.amount),
            };
            let end = EndCall {
                hold_id: hold.hold_id,
                session_id: hold.session_id,
                ending: Ending::Release(ReleaseReason::Absorbed),
                outcome: CallOutcome { attempts: vec![attempt], ..CallOutcome::default() },
            };
            match self.end("recovery", end).await {
                Ok(Ended::Released(..)) => recovered += 1,
                Ok(_) => {}
                Err(error) => {
                    tracing::error!(hold = %hold.hold_id, %error, "a hold could not be given back; it will expire");
                }
            }
        }
        if recovered > 0 {
            tracing::warn!(recovered, "calls of an earlier life of this gateway were lost; their holds are given back");
            metrics::counter!("gateway_recovered_total", "how" => "absorbed")
                .increment(u64::try_from(recovered).unwrap_or(u64::MAX));
        }
        recovered
    }

    /// Ends a hold, however often that has to be tried; a refusal is final.
    pub(crate) async fn end(&self, request_id: &str, end: EndCall) -> Result<Ended, PortError> {
        let patience = self.shared.options.timeouts.hold_life();
        let began = tokio::time::Instant::now();
        let mut pause = Duration::from_millis(20);
        loop {
            match self.shared.ledger.end(request_id, end.clone()).await {
                Ok(ended) => return Ok(ended),
                Err(error @ (PortError::Refused { .. } | PortError::CannotPay { .. })) => return Err(error),
                Err(error) if began.elapsed() > patience => return Err(error),
                Err(error) => {
                    tracing::warn!(hold = %end.hold_id, %error, "a hold could not be ended yet; it is tried again");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
            }
        }
    }

    /// Waits until every call has ended, or the time is over. Returns how many have not; recovery is for them.
    pub async fn finish(&self, limit: Duration) -> usize {
        let ended = async {
            loop {
                let notified = self.shared.all_ended.notified();
                if self.shared.calls.load(Ordering::Acquire) == 0 {
                    return;
                }
                notified.await;
            }
        };
        let _late = tokio::time::timeout(limit, ended).await;
        self.shared.calls.load(Ordering::Acquire)
    }

    /// Takes a place for a call; `None` if there are too many.
    pub(crate) fn enter(&self) -> Option<Place> {
        let place = Place(Arc::clone(&self.shared));
        let before = self.shared.calls.fetch_add(1, Ordering::AcqRel);
        (before < self.shared.options.limits.calls).then_some(place)
    }

    pub(crate) fn set_running(&self, hold: HoldId) -> Running {
        self.shared.running.lock().insert(hold);
        Running(Arc::clone(&self.shared), hold)
    }

    pub(crate) fn is_running(&self, hold: HoldId) -> bool {
        self.shared.running.lock().contains(&hold)
    }
}

/// A call's place, until it is dropped.
pub(crate) struct Place(Arc<Shared>);

impl Drop for Place {
    fn drop(&mut self) {
        if self.0.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.0.all_ended.notify_waiters();
        }
    }
}

/// A call that runs here, until it is dropped.
pub(crate) struct Running(Arc<Shared>, HoldId);

impl Drop for Running {
    fn drop(&mut self) {
        self.0.running.lock().remove(&self.1);
    }
}

/// A hold as recovery needs it.
impl LeftHold {
    /// The hold of an event, if a session pays for it.
    pub fn of(placed: &HoldPlaced) -> Option<Self> {
        Some(Self {
            hold_id: placed.hold_id,
            session_id: placed.call.session_id?,
            amount: placed.amount,
            provider: placed.call.provider.clone(),
            model: placed.call.model.clone(),
        })
    }
}
