//! One gateway: what its calls share.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use modelfaucet_schema::ids::HoldId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::answers::Answers;
use crate::breaker::Breakers;
use crate::lost::LeftHold;
use crate::memory::Memory;
use crate::options::{LostCalls, Options};
use crate::port::{EndCall, Ended, Ledger, PortError};
use crate::read_model::ReadModel;
use crate::upstream::{Upstream, UpstreamError};
use crate::upstreams::{ProviderKeys, Upstreams};

/// The gateway. Cheap to clone.
#[derive(Clone)]
pub struct Gateway {
    pub(crate) shared: Arc<Shared>,
}

pub(crate) struct Shared {
    pub(crate) options: Options,
    pub(crate) ledger: Arc<dyn Ledger>,
    pub(crate) model: Arc<ReadModel>,
    pub(crate) upstreams: Upstreams,
    pub(crate) origin: Arc<str>,
    pub(crate) answers: Answers,
    pub(crate) breakers: Breakers,
    pub(crate) memory: Memory,
    running: Mutex<HashSet<HoldId>>,
    calls: AtomicUsize,
    streams: AtomicUsize,
    all_ended: Notify,
}

impl Gateway {
    /// A gateway before a ledger, with a read model that somebody feeds; without `keys` it calls with the platform's key only.
    ///
    /// # Errors
    /// [`UpstreamError`].
    pub fn new(
        options: Options,
        ledger: Arc<dyn Ledger>,
        model: Arc<ReadModel>,
        keys: Option<ProviderKeys>,
    ) -> Result<Self, UpstreamError> {
        crate::series::begin();
        let upstreams = Upstreams::new(&options.platform, &options.timeouts, keys, Arc::clone(&model))?;
        let origin = Upstream::origin(&options.platform.base_url).into();
        let shared = Shared {
            answers: Answers::new(options.limits.stored_answers, options.kept_answers.clone()),
            breakers: Breakers::default(),
            memory: Memory::new(options.limits.memory),
            options,
            ledger,
            model,
            upstreams,
            origin,
            running: Mutex::default(),
            calls: AtomicUsize::new(0),
            streams: AtomicUsize::new(0),
            all_ended: Notify::new(),
        };
        Ok(Self { shared: Arc::new(shared) })
    }

    /// As [`recover`], through this gateway's ledger.
    pub async fn recover(&self, left: Vec<LeftHold>) -> usize {
        let options = &self.shared.options;
        let patience = options.timeouts.hold_life();
        recover(self.shared.ledger.as_ref(), patience, options.limits.lost, &self.shared.model, left).await
    }

    /// Ends a hold, however often that has to be tried; a refusal is final.
    pub(crate) async fn end(&self, request_id: &str, end: EndCall) -> Result<Ended, PortError> {
        end_hold(self.shared.ledger.as_ref(), self.shared.options.timeouts.hold_life(), request_id, end).await
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

    /// Takes a place for a call; `None` if there are too many of its kind, or too much of them is in memory.
    pub(crate) fn enter(&self, stream: bool) -> Option<Place> {
        let shared = &self.shared;
        let place = Place { shared: Arc::clone(shared), stream };
        let calls = shared.calls.fetch_add(1, Ordering::AcqRel);
        let streams = if stream { shared.streams.fetch_add(1, Ordering::AcqRel) } else { 0 };
        let limits = &shared.options.limits;
        let room = calls < limits.calls && streams < limits.streams && !shared.memory.is_full();
        room.then_some(place)
    }

    pub(crate) fn set_running(&self, hold: HoldId) -> Running {
        self.shared.running.lock().insert(hold);
        Running(Arc::clone(&self.shared), hold)
    }

    pub(crate) fn is_running(&self, hold: HoldId) -> bool {
        self.shared.running.lock().contains(&hold)
    }
}

/// Ends the holds that an earlier life of a gateway left: what their marks show is charged, the others are given back. Each ends once;
/// a hold that has ended meanwhile stays as it is. Tries each for as long as `patience`. Returns how many were ended.
pub async fn recover(
    ledger: &dyn Ledger,
    patience: Duration,
    policy: LostCalls,
    prices: &ReadModel,
    left: Vec<LeftHold>,
) -> usize {
    let (mut absorbed, mut charged) = (0_u64, 0_u64);
    for hold in left {
        match end_hold(ledger, patience, "recovery", hold.end(policy, prices)).await {
            Ok(Ended::Released(..)) => absorbed += 1,
            Ok(Ended::Captured(..) | Ended::CapturedLate(..)) => charged += 1,
            Err(error) => {
                tracing::error!(hold = %hold.hold_id, %error, "the hold of a lost call could not be ended; it will expire");
            }
        }
    }
    if absorbed + charged > 0 {
        tracing::warn!(absorbed, charged, "the calls of a gateway that died were lost; their holds have ended");
        for (how, count) in [("absorbed", absorbed), ("marked", charged)] {
            metrics::counter!("gateway_recovered_total", "how" => how).increment(count);
        }
    }
    usize::try_from(absorbed + charged).unwrap_or(usize::MAX)
}

async fn end_hold(ledger: &dyn Ledger, patience: Duration, request_id: &str, end: EndCall) -> Result<Ended, PortError> {
    let began = tokio::time::Instant::now();
    let mut pause = Duration::from_millis(20);
    loop {
        match ledger.end(request_id, end.clone()).await {
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

/// A call's place, until it is dropped.
pub(crate) struct Place {
    shared: Arc<Shared>,
    stream: bool,
}

impl Drop for Place {
    fn drop(&mut self) {
        if self.stream {
            self.shared.streams.fetch_sub(1, Ordering::AcqRel);
        }
        if self.shared.calls.fetch_sub(1, Ordering::AcqRel) == 1 {
            self.shared.all_ended.notify_waiters();
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
