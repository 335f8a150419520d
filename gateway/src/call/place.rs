//! The beginning of a call: its hold, and what became of an earlier call with the same key.

use std::sync::Arc;
use std::time::Instant;

use http::header::{HeaderName, HeaderValue};
use modelfaucet_schema::event::{CallOutcome, DisconnectPolicy, Dispatch, HoldPlaced, ReleaseReason};
use modelfaucet_schema::http::LEDGER_POSITION;
use modelfaucet_schema::ids::{HoldId, Position};
use modelfaucet_schema::money::Money;

use super::ending::complete;
use super::{Call, of_port};
use crate::answers::Stored;
use crate::bound::Ask;
use crate::error::CallError;
use crate::gateway::Running;
use crate::lost::LeftHold;
use crate::plan::Target;
use crate::port::{BeginCall, EndCall, Ended, Ending, PortError};

/// How often a key may be used again after calls that were given back.
const MAX_GENERATIONS: u32 = 32;

/// A granted hold, and the attempt that runs under it.
pub(super) struct Held {
    pub(super) placed: HoldPlaced,
    pub(super) ask: Ask,
    /// The output cap that goes upstream.
    pub(super) cap: u64,
    /// Which attempt runs: 1, 2, 3.
    pub(super) number: u32,
    /// What happens when the client has gone.
    pub(super) disconnect: DisconnectPolicy,
    _running: Running,
}

/// What became of an earlier call with the same key.
enum Earlier {
    /// The client was answered.
    Answered,
    /// Nothing was charged: the key may be used for another call.
    GivenBack,
}

impl Call<'_> {
    /// Places the hold. `None`: the client was answered.
    pub(super) async fn begin(&mut self) -> Option<Held> {
        for generation in 0..MAX_GENERATIONS {
            let hold_id = HoldId::generate();
            let running = self.gateway.set_running(hold_id);
            let (placed, position, replayed) = self.place(hold_id, generation).await?;
            if !replayed || placed.hold_id == hold_id {
                self.custody.take(LeftHold::of(&placed), self.target);
                return Some(self.held(placed, running));
            }
            drop(running);
            match self.earlier(&placed, position).await {
                Earlier::Answered => return None,
                Earlier::GivenBack => {}
            }
        }
        self.client.fail(reply_expired());
        None
    }

    fn held(&self, placed: HoldPlaced, running: Running) -> Held {
        let ask = self.ask(self.target);
        Held {
            ask,
            cap: self.cap(ask, placed.requested, placed.amount, &placed),
            number: 1,
            disconnect: placed.dispatch.as_ref().map(|dispatch| dispatch.disconnect).unwrap_or_default(),
            placed,
            _running: running,
        }
    }

    /// The output cap that a granted amount buys at the target of the attempt that runs.
    pub(super) fn cap(&self, ask: Ask, requested: Money, granted: Money, placed: &HoldPlaced) -> u64 {
        if granted >= requested {
            return ask.cap;
        }
        metrics::counter!("gateway_clamped_total").increment(1);
        self.target.affordable(ask, granted, &placed.price_rule)
    }

    /// The most that the call can use at a target.
    pub(super) fn ask(&self, target: &Target) -> Ask {
        target.ask(&self.job.request, &self.job.policy, self.gateway.shared.options.limits.default_cap)
    }

    /// The least that is of use.
    pub(super) fn least(&self, ask: Ask) -> Ask {
        if self.job.policy.refuse_clamp { ask } else { ask.least() }
    }

    async fn place(&mut self, hold_id: HoldId, generation: u32) -> Option<(HoldPlaced, Position, bool)> {
        let shared = &self.gateway.shared;
        let (job, target) = (self.job, self.target);
        let ask = self.ask(target);
        let tier = target.dearest_tier(ask);
        let begin = BeginCall {
            hold_id,
            session_id: job.session.session_id,
            feature_key: job.feature_key.clone(),
            route: target.route,
            provider: target.provider.clone(),
            model: target.model.clone(),
            service_tier: tier,
            min_bound: target.bound_at(self.least(ask), tier),
            expires_in: shared.options.timeouts.hold_life(),
            dispatch: Dispatch {
                gateway: shared.options.gateway,
                epoch: shared.options.epoch,
                endpoint: job.request.endpoint,
                bound: target.bound_at(ask, tier),
                input: Some(job.request.input_estimate),
                origin: target.origin.as_ref().to_owned(),
                credential: target.credential,
                // The ledger stamps these.
                disconnect: DisconnectPolicy::Drain,
                policy_version: 0,
            },
            key: job.key.as_ref().map(|key| key.of(job, generation)),
        };
        let began = Instant::now();
        let mut begun = shared.ledger.begin(&job.request_id, begin);
        let Ok(result) = tokio::time::timeout(shared.options.timeouts.hold, &mut begun).await else {
            // Nothing was sent and nothing will be; a grant that comes late is given back.
            self.client.fail(CallError::ledger_unavailable());
            match begun.await {
                Ok(late) if late.placed.hold_id == hold_id => self.give_back_unsent(&late.placed).await,
                Err(PortError::InDoubt) => self.give_back_doubtful(hold_id).await,
                _ => {}
            }
            return None;
        };
        self.hold_time = Some(began.elapsed());
        metrics::histogram!("gateway_stage_seconds", "stage" => "hold").record(began.elapsed());
        match result {
            Ok(begun) => {
                metrics::counter!("gateway_holds_total", "outcome" => "placed").increment(1);
                Some((begun.placed, begun.position, begun.replayed))
            }
            Err(error) => {
                metrics::counter!("gateway_holds_total", "outcome" => "refused").increment(1);
                self.client.fail(of_port(&error));
                if error == PortError::InDoubt {
                    self.give_back_doubtful(hold_id).await;
                }
                None
            }
        }
    }

    async fn give_back_unsent(&self, placed: &HoldPlaced) {
        self.custody.take(LeftHold::of(placed), self.target);
        self.give_back_doubtful(placed.hold_id).await;
        self.custody.end();
    }

    /// Ends a hold that may have been placed, before anything was sent.
    async fn give_back_doubtful(&self, hold_id: HoldId) {
        let ending = Ending::Release(ReleaseReason::NotSent);
        let end = EndCall { hold_id, session_id: self.job.session.session_id, ending, outcome: CallOutcome::default() };
        match self.gateway.end(&self.job.request_id, end).await {
            Ok(_) | Err(PortError::Refused { .. }) => {}
            Err(error) => {
                tracing::error!(hold = %hold_id, %error, "an unused hold could not be given back; it will expire");
            }
        }
    }

    /// The key was used before: the earlier call decides.
    async fn earlier(&mut self, placed: &HoldPlaced, position: Position) -> Earlier {
        let shared = &self.gateway.shared;
        if let Some(stored) = shared.answers.get(placed.hold_id) {
            metrics::counter!("gateway_replays_total").increment(1);
            self.replay(&stored, position).await;
            return Earlier::Answered;
        }
        if self.gateway.is_running(placed.hold_id) {
            self.client.fail(in_progress());
            return Earlier::Answered;
        }
        match shared.ledger.ending(self.job.session.session_id, placed.hold_id).await {
            Ok(Some(Ended::Released(..))) => return Earlier::GivenBack,
            Ok(Some(ended)) => {
                // It may have been stored since we looked, or before this process began.
                match self.stored(placed, &ended).await {
                    Some(stored) => {
                        metrics::counter!("gateway_replays_total").increment(1);
                        self.replay(&stored, position).await;
                    }
                    None => self.client.fail(reply_expired()),
                }
            }
            Ok(None) => self.client.fail(in_progress()),
            Err(error) => self.client.fail(of_port(&error)),
        }
        Earlier::Answered
    }

    /// The answer of an earlier call that was charged.
    async fn stored(&self, placed: &HoldPlaced, ended: &Ended) -> Option<Arc<Stored>> {
        let answers = &self.gateway.shared.answers;
        if let Some(stored) = answers.get(placed.hold_id) {
            return Some(stored);
        }
        let draft = answers.load(placed.call.app_id, placed.hold_id).await?;
        let stored = complete(draft, placed, ended);
        answers.put(placed.hold_id, stored.clone());
        Some(Arc::new(stored))
    }

    async fn replay(&mut self, stored: &Stored, position: Position) {
        let mut headers = stored.headers.clone();
        headers.insert(HeaderName::from_static("idempotent-replayed"), HeaderValue::from_static("true"));
        headers.entry(LEDGER_POSITION).or_insert(HeaderValue::from(position.0));
        if stored.stream {
            self.client.begin_stream(headers);
            for piece in &stored.pieces {
                self.client.send(piece.clone()).await;
            }
            self.client.end();
        } else {
            self.client.whole(headers, stored.pieces.first().cloned().unwrap_or_default());
        }
    }
}

fn in_progress() -> CallError {
    let message = "A request with this idempotency key is still running.";
    CallError::new(409, "idempotency_in_progress", "idempotency_error", message).retry_after(1)
}

fn reply_expired() -> CallError {
    let message = "The call of this idempotency key was made and charged; its answer is not kept any more.";
    CallError::new(409, "idempotency_reply_expired", "idempotency_error", message).should_retry(false)
}
