//! One call, from its hold to its end. The task that runs it owns the hold: whatever the client does, the hold ends once, with what
//! the call came to.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use futures_util::FutureExt as _;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::event::{
    Attempt, AttemptError, Billed, CallOutcome, DisconnectPolicy, Dispatch, HoldPlaced, KeyUse, ModelRates,
    ReleaseReason, Route, UsageSource,
};
use modelfaucet_schema::http::LEDGER_POSITION;
use modelfaucet_schema::ids::{HoldId, Position};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::short_hash;
use modelfaucet_schema::usage::{Component, Usage};
use parking_lot::Mutex;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::answers::{Recorder, Stored};
use crate::bound::{Ask, table};
use crate::breaker::Verdict;
use crate::client::{Client, Head, listen};
use crate::delivered::Delivered;
use crate::error::CallError;
use crate::gateway::{Gateway, LeftHold, Place, Running};
use crate::port::{BeginCall, EndCall, Ended, Ending, PortError};
use crate::read_model::{Policy, Session};
use crate::relay::{Relay, Said, read_answer, with_member};
use crate::request::CallRequest;
use crate::sse::Splitter;
use crate::upstream::{Answer, Failure, Retry};
use crate::usage::{self, Convention, judge, with_prices};

/// The version of the table of disconnect policies; so far every route drains.
const POLICY_VERSION: u32 = 1;
/// How often a key may be used again after calls that were given back.
const MAX_GENERATIONS: u32 = 32;
/// The longest wait that a provider may ask for before a second try.
const MAX_WAIT: Duration = Duration::from_secs(2);
/// A client of a silent stream hears something so often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// A client's idempotency key and what it was used for.
#[derive(Clone, Debug)]
pub(crate) struct ClientKey {
    text: String,
    body: [u8; 32],
}

impl ClientKey {
    /// The key for a body.
    pub(crate) fn new(text: &str, body: &[u8]) -> Self {
        Self { text: text.to_owned(), body: Sha256::digest(body).into() }
    }

    /// The key of one generation: a call that was given back without charge makes room for the next.
    fn of(&self, job: &Job, generation: u32) -> KeyUse {
        let wallet = job.session.wallet_id.0;
        let endpoint = job.request.endpoint.name().as_bytes();
        KeyUse {
            key: short_hash(&[
                b"gateway",
                wallet.as_bytes(),
                endpoint,
                self.text.as_bytes(),
                &generation.to_be_bytes(),
            ]),
            fingerprint: short_hash(&[b"gateway_begin_call", endpoint, &self.body]),
        }
    }
}

/// A call that was prepared.
pub(crate) struct Job {
    pub(crate) request: CallRequest,
    pub(crate) body: Bytes,
    pub(crate) session: Session,
    pub(crate) feature_key: Option<String>,
    pub(crate) policy: Arc<Policy>,
    pub(crate) offer: ModelRates,
    pub(crate) key: Option<ClientKey>,
    pub(crate) request_id: String,
    pub(crate) began: Instant,
    pub(crate) place: Place,
}

/// Runs a call in a task of its own and says where its first answer comes out.
pub(crate) fn spawn(gateway: Gateway, job: Job) -> oneshot::Receiver<Head> {
    let options = &gateway.shared.options;
    let (client, head) = listen(options.limits.relay, options.timeouts.client_stall);
    let running = async move {
        let custody = Custody::default();
        let call =
            Call { gateway: &gateway, job: &job, custody: &custody, client, attempts: Vec::new(), hold_time: None };
        if AssertUnwindSafe(call.run()).catch_unwind().await.is_err() {
            tracing::error!(request_id = job.request_id, "a call broke off inside the gateway");
            custody.rescue(&gateway, &job).await;
        }
        drop(job.place);
    };
    // Spans of the call belong to its request, also when its client has gone.
    tokio::spawn(running.in_current_span());
    head
}

/// What outlives a panic of the call: the hold that must end, and how much was generated.
#[derive(Default)]
struct Custody {
    hold: Mutex<Option<LeftHold>>,
    delivered: AtomicU64,
}

impl Custody {
    /// Ends the hold of a call that broke off inside: what was delivered is charged, else the funds go back.
    async fn rescue(&self, gateway: &Gateway, job: &Job) {
        let Some(hold) = self.hold.lock().clone() else { return };
        let delivered = self.delivered.load(Ordering::Acquire);
        let usage = Usage::text(job.request.input_estimate, delivered);
        let (ending, source) = if delivered > 0 {
            (Ending::Capture { usage, provider_request_id: None }, Some(UsageSource::Estimated))
        } else {
            (Ending::Release(ReleaseReason::Absorbed), None)
        };
        let attempt = Attempt {
            provider: hold.provider.clone(),
            model: hold.model.clone(),
            started_at: Timestamp::now(),
            first_byte_ms: None,
            total_ms: None,
            status: None,
            error: Some(AttemptError::Lost),
            billed: Billed::Unknown,
            exposure: Some(hold.amount),
        };
        let outcome = CallOutcome { attempts: vec![attempt], source, interrupted: true, ..CallOutcome::default() };
        let end = EndCall { hold_id: hold.hold_id, session_id: hold.session_id, ending, outcome };
        if let Err(error) = gateway.end(&job.request_id, end).await {
            tracing::error!(hold = %hold.hold_id, %error, "the hold of a broken call could not be ended; it will expire");
        }
    }
}

/// A granted hold.
struct Held {
    placed: HoldPlaced,
    ask: Ask,
    /// The output cap that goes upstream.
    cap: u64,
    _running: Running,
}

struct Call<'a> {
    gateway: &'a Gateway,
    job: &'a Job,
    custody: &'a Custody,
    client: Client,
    attempts: Vec<Attempt>,
    hold_time: Option<Duration>,
}

/// A good answer, before any byte of it went to the client.
enum Good {
    Whole(Bytes, Said, Delivered),
    Stream(Answer),
}

impl Call<'_> {
    async fn run(mut self) {
        let Some(held) = self.begin().await else { return };
        if self.client.is_gone() {
            self.release(&held, ReleaseReason::Cancelled).await;
            return;
        }
        match self.dispatch(&held).await {
            Ok(Good::Whole(body, said, delivered)) => self.finish_whole(&held, body, said, delivered).await,
            Ok(Good::Stream(answer)) => self.relay(&held, answer).await,
            Err(failure) => {
                self.release(&held, failure.release).await;
                self.client.fail(failure.answer);
            }
        }
    }

    /// Places the hold. `None`: the client was answered.
    async fn begin(&mut self) -> Option<Held> {
        for generation in 0..MAX_GENERATIONS {
            let hold_id = HoldId::generate();
            let running = self.gateway.set_running(hold_id);
            let (placed, position, replayed) = self.place(hold_id, generation).await?;
            if !replayed || placed.hold_id == hold_id {
                *self.custody.hold.lock() = LeftHold::of(&placed);
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
        let ask = self.job.request.ask(self.default_cap());
        let card = self.gateway.shared.model.card(placed.rate_card_id);
        let offer = card.as_ref().and_then(|card| card.offer(&placed.call.provider, &placed.call.model));
        let cap = if placed.amount >= placed.requested {
            ask.cap
        } else {
            metrics::counter!("gateway_clamped_total").increment(1);
            ask.affordable(placed.amount, offer.unwrap_or(&self.job.offer), &placed.price_rule)
        };
        Held { placed, ask, cap, _running: running }
    }

    fn default_cap(&self) -> u64 {
        let default = self.gateway.shared.options.limits.default_cap;
        let default = self.job.offer.max_output_tokens.map_or(default, |most| most.min(default));
        self.job.policy.max_output_tokens.unwrap_or(default)
    }

    async fn place(&mut self, hold_id: HoldId, generation: u32) -> Option<(HoldPlaced, Position, bool)> {
        let shared = &self.gateway.shared;
        let job = self.job;
        let ask = job.request.ask(self.default_cap());
        let least = if job.policy.refuse_clamp { ask } else { ask.least() };
        let begin = BeginCall {
            hold_id,
            session_id: job.session.session_id,
            feature_key: job.feature_key.clone(),
            route: Route::Platform,
            provider: job.offer.provider.clone(),
            model: job.offer.model.clone(),
            min_bound: least.bound(&job.offer),
            expires_in: shared.options.timeouts.hold_life(),
            dispatch: Dispatch {
                gateway: shared.options.gateway,
                epoch: shared.options.epoch,
                endpoint: job.request.endpoint,
                bound: ask.bound(&job.offer),
                origin: shared.origin.clone(),
                disconnect: DisconnectPolicy::Drain,
                policy_version: POLICY_VERSION,
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
        *self.custody.hold.lock() = LeftHold::of(placed);
        self.give_back_doubtful(placed.hold_id).await;
        *self.custody.hold.lock() = None;
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
            Ok(Some(Ended::Captured(..) | Ended::CapturedLate(..))) => {
                // It may have been stored since we looked.
                match shared.answers.get(placed.hold_id) {
                    Some(stored) => self.replay(&stored, position).await,
                    None => self.client.fail(reply_expired()),
                }
            }
            Ok(None) => self.client.fail(in_progress()),
            Err(error) => self.client.fail(of_port(&error)),
        }
        Earlier::Answered
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

    /// Calls the provider, again where that may help, until there is an answer or none to be had.
    async fn dispatch(&mut self, held: &Held) -> Result<Good, Failure> {
        let options = &self.gateway.shared.options;
        let total = tokio::time::Instant::from_std(self.job.began) + options.timeouts.total;
        let half = tokio::time::Instant::from_std(self.job.began) + options.timeouts.total / 2;
        let mut pause = options.timeouts.retry_delay;
        let mut number = 0;
        loop {
            number += 1;
            let failure = match self.attempt(held, total).await {
                Ok(good) => return Ok(good),
                Err(failure) => failure,
            };
            let may_retry = match failure.retry {
                Retry::Never => false,
                Retry::IfAllowed => self.job.policy.retry_timeouts,
                Retry::After(wait) => wait.is_none_or(|wait| wait <= MAX_WAIT),
            };
            let over = number >= options.limits.attempts || tokio::time::Instant::now() > half;
            if !may_retry || over || self.client.is_gone() {
                return Err(failure);
            }
            let asked = if let Retry::After(Some(wait)) = failure.retry { wait } else { Duration::ZERO };
            tokio::time::sleep(asked.max(with_jitter(pause))).await;
            pause *= 2;
        }
    }

    /// One request to the provider. Its record is kept, whatever comes of it.
    async fn attempt(&mut self, held: &Held, total: tokio::time::Instant) -> Result<Good, Failure> {
        let shared = &self.gateway.shared;
        let job = self.job;
        let (started_at, started) = (Timestamp::now(), tokio::time::Instant::now());
        let first_byte = if job.request.stream {
            shared.options.timeouts.first_byte_stream
        } else {
            shared.options.timeouts.first_byte
        };
        let deadline = (started + first_byte).min(total);
        let mut attempt = Attempt {
            provider: held.placed.call.provider.clone(),
            model: held.placed.call.model.clone(),
            started_at,
            first_byte_ms: None,
            total_ms: None,
            status: None,
            error: None,
            billed: Billed::Yes,
            exposure: None,
        };
        let result = self.request(held, deadline, &mut attempt, started).await;
        let verdict = result.as_ref().map_or_else(Failure::verdict, |_| Verdict::Good);
        shared.breakers.record(&attempt.model, verdict, Instant::now());
        if let Err(failure) = &result {
            attempt.total_ms = Some(milliseconds(started.elapsed()));
            attempt.status = failure.status;
            attempt.error = Some(failure.error);
            attempt.billed = failure.billed;
            attempt.exposure = self.exposure(failure);
            tracing::warn!(
                request_id = job.request_id, model = attempt.model, status = failure.status, error = ?failure.error,
                "an attempt failed"
            );
        }
        let outcome = if result.is_ok() { "answered" } else { "failed" };
        metrics::counter!("gateway_attempts_total", "outcome" => outcome).increment(1);
        self.attempts.push(attempt);
        result
    }

    async fn request(
        &self,
        held: &Held,
        deadline: tokio::time::Instant,
        attempt: &mut Attempt,
        started: tokio::time::Instant,
    ) -> Result<Good, Failure> {
        let shared = &self.gateway.shared;
        let request = &self.job.request;
        let body = request.upstream_body(&self.job.body, &held.placed.call.model, held.cap);
        let body = body.ok_or_else(|| Failure::malformed(0, "The request could not be read again."))?;
        let label = call_label(held.placed.hold_id);
        let mut answer = shared.upstream.send(request.endpoint, body, &label, deadline).await?;
        attempt.first_byte_ms = Some(milliseconds(started.elapsed()));
        attempt.status = Some(answer.status);
        metrics::histogram!("gateway_stage_seconds", "stage" => "first_byte").record(started.elapsed());
        if request.stream {
            let malformed = || Failure::malformed(200, "Provider answered without a stream.");
            return if answer.is_stream { Ok(Good::Stream(answer)) } else { Err(malformed()) };
        }
        let body = answer.whole(shared.options.limits.answer, deadline).await?;
        attempt.total_ms = Some(milliseconds(started.elapsed()));
        match read_answer(request.endpoint, &body) {
            Some((said, delivered)) => Ok(Good::Whole(body, said, delivered)),
            None => Err(Failure::malformed(answer.status, "Provider answer could not be read.")),
        }
    }

    /// The most that a failed attempt can have cost: its input, if it was sent and not refused.
    fn exposure(&self, failure: &Failure) -> Option<Money> {
        if failure.billed == Billed::No || failure.error == AttemptError::Status {
            return None;
        }
        self.job.offer.exact_cost(&Usage::text(self.job.request.input_estimate, 0)).ok()?.round_up()
    }

    async fn release(&mut self, held: &Held, reason: ReleaseReason) {
        let ending = Ending::Release(reason);
        let outcome = CallOutcome { client_gone: self.client.is_gone(), ..CallOutcome::default() };
        let _told_in_the_log = self.end(held, ending, outcome).await;
    }

    /// Ends the hold. Waits for it as long as it takes; the client waits a few seconds.
    async fn end(&mut self, held: &Held, ending: Ending, outcome: CallOutcome) -> Result<Ended, CallError> {
        let outcome = CallOutcome { attempts: std::mem::take(&mut self.attempts), ..outcome };
        let (hold_id, session_id) = (held.placed.hold_id, self.job.session.session_id);
        let end = EndCall { hold_id, session_id, ending, outcome };
        let began = Instant::now();
        let gateway = self.gateway;
        let mut ended = std::pin::pin!(gateway.end(&self.job.request_id, end));
        let patience = gateway.shared.options.timeouts.capture;
        let mut result = tokio::time::timeout(patience, &mut ended).await;
        if result.is_err() {
            self.tell_pending().await;
            result = Ok(ended.await);
        }
        metrics::histogram!("gateway_stage_seconds", "stage" => "capture").record(began.elapsed());
        match result {
            Ok(Ok(ended)) => {
                *self.custody.hold.lock() = None;
                let outcome = match &ended {
                    Ended::Captured(captured, _) => {
                        if captured.over_hold {
                            metrics::counter!("gateway_over_hold_total").increment(1);
                        }
                        "captured"
                    }
                    Ended::CapturedLate(..) => "captured_late",
                    Ended::Released(..) => "released",
                };
                metrics::counter!("gateway_holds_total", "outcome" => outcome).increment(1);
                Ok(ended)
            }
            Ok(Err(error)) => {
                tracing::error!(hold = %hold_id, %error, "a hold could not be ended");
                Err(CallError::internal())
            }
            Err(_) => Err(CallError::capture_pending()),
        }
    }

    /// The charge takes longer than the client should wait.
    async fn tell_pending(&mut self) {
        let error = CallError::capture_pending();
        if !self.client.waits() {
            self.client.send(error_event(&error, &self.job.request_id)).await;
            self.client.end();
        }
        self.client.fail(error);
    }

    /// What the call is charged by, as it goes into the books.
    fn judged(&self, said: &Said, delivered: Delivered, ending: usage::Ending) -> (Ending, CallOutcome) {
        let reading = said.usage.as_deref().and_then(|usage| usage::read(usage, Convention::Inclusive));
        let judged = judge(reading, delivered, self.job.request.input_estimate, ending);
        let judged = with_prices(judged, &self.job.offer);
        let usage = if table(&self.job.offer, judged.usage.input_tokens()).contains_key(&Component::Requests) {
            Usage { requests: 1, ..judged.usage }
        } else {
            judged.usage
        };
        metrics::counter!("gateway_usage_total", "source" => judged.source.name(), "anomaly" => if judged.anomalies.is_empty() { "no" } else { "yes" })
            .increment(1);
        let served = said.model.clone().filter(|model| *model != self.job.offer.model);
        let outcome = CallOutcome {
            attempts: Vec::new(),
            source: Some(judged.source),
            anomalies: judged.anomalies,
            reported: said.usage.clone().filter(|usage| usage.len() <= 4_096),
            served_model: served,
            interrupted: ending == usage::Ending::Interrupted,
            client_gone: self.client.is_gone(),
        };
        (Ending::Capture { usage, provider_request_id: said.id.clone() }, outcome)
    }

    async fn finish_whole(&mut self, held: &Held, body: Bytes, said: Said, delivered: Delivered) {
        self.custody.delivered.store(delivered.tokens(), Ordering::Release);
        let (ending, outcome) = self.judged(&said, delivered, usage::Ending::Clean);
        let source = outcome.source;
        let mut headers = self.headers(held, said.id.as_deref());
        let ended = match self.end(held, ending, outcome).await {
            Ok(ended) => ended,
            Err(error) => return self.client.fail(error),
        };
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        insert(&mut headers, "x-mf-cost", &charge(&ended).to_string());
        insert(&mut headers, "x-mf-balance", &balance(&ended).to_string());
        headers.insert(HeaderName::from_static(LEDGER_POSITION), HeaderValue::from(position(&ended).0));
        let body = Bytes::from(with_member(&body, &ours(held, &ended, source)));
        if self.job.key.is_some() {
            let stored = Stored { headers: headers.clone(), pieces: vec![body.clone()], stream: false };
            self.gateway.shared.answers.put(held.placed.hold_id, stored);
        }
        self.client.whole(headers, body);
    }

    async fn relay(&mut self, held: &Held, mut answer: Answer) {
        let request = &self.job.request;
        let mut relay = Relay::new(request.endpoint, request.usage_wanted);
        let mut recorder = Recorder::new(self.job.key.is_some());
        let mut headers = self.headers(held, None);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let broke = self.read_stream(&mut answer, &mut relay, &mut recorder, &headers).await;
        drop(answer);
        let whole = broke.is_none() && !relay.failed() && (relay.ended() || relay.said().usage.is_some());
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.total_ms = Some(milliseconds(Timestamp::now().since(attempt.started_at)));
            attempt.error = if whole { None } else { Some(broke.unwrap_or(AttemptError::Broken)) };
        }
        let nothing = relay.delivered().tokens() == 0 && relay.said().usage.is_none();
        if !whole && nothing && self.client.waits() {
            // Nothing was generated and nothing has gone out: a failure with a status of its own.
            let timed_out = broke == Some(AttemptError::TimedOut);
            let reason = if timed_out { ReleaseReason::TimedOut } else { ReleaseReason::Failed };
            self.release(held, reason).await;
            return self.client.fail(if timed_out {
                CallError::provider_timed_out()
            } else {
                CallError::provider_failed("The provider's stream failed before it began.")
            });
        }
        let ending = if whole { usage::Ending::Clean } else { usage::Ending::Interrupted };
        let (ending, outcome) = self.judged(relay.said(), relay.delivered(), ending);
        let source = outcome.source;
        let pending = match self.end(held, ending, outcome).await {
            Ok(ended) => Ok(relay.finish(&ours(held, &ended, source))),
            Err(error) => Err(error),
        };
        self.start_stream(&headers);
        let mut tail = match pending {
            Ok(tail) => tail,
            Err(error) => {
                self.client.send(error_event(&error, &self.job.request_id)).await;
                return self.client.end();
            }
        };
        if !whole {
            let error = CallError::provider_failed("The provider's stream broke off.");
            tail.push(error_event(&error, &self.job.request_id));
        }
        for piece in &tail {
            recorder.add(piece);
        }
        if let Some(pieces) = recorder.finish() {
            self.gateway.shared.answers.put(held.placed.hold_id, Stored { headers, pieces, stream: true });
        }
        for piece in tail {
            self.client.send(piece).await;
        }
        self.client.end();
    }

    fn start_stream(&mut self, headers: &HeaderMap) {
        if self.client.waits() {
            self.client.begin_stream(headers.clone());
        }
    }

    /// Reads the provider's stream to its end, or to whatever ends it; sends on what may go on. Says how it broke, if it did.
    async fn read_stream(
        &mut self,
        answer: &mut Answer,
        relay: &mut Relay,
        recorder: &mut Recorder,
        headers: &HeaderMap,
    ) -> Option<AttemptError> {
        let timeouts = self.gateway.shared.options.timeouts;
        let total = tokio::time::Instant::from_std(self.job.began) + timeouts.total;
        let mut splitter = Splitter::default();
        let mut out = Vec::new();
        let mut idle_until = tokio::time::Instant::now() + timeouts.idle;
        let mut drain_until = None;
        loop {
            let now = tokio::time::Instant::now();
            if self.client.is_gone() && drain_until.is_none() {
                metrics::counter!("gateway_disconnects_total", "policy" => "drain").increment(1);
                drain_until = Some(now + timeouts.drain);
            }
            let deadline = idle_until.min(total).min(drain_until.unwrap_or(total));
            let heard = tokio::time::timeout_at(deadline.min(now + KEEP_ALIVE), answer.next()).await;
            let piece = match heard {
                Err(_) if tokio::time::Instant::now() >= deadline => return Some(AttemptError::TimedOut),
                Err(_) => {
                    if !self.client.waits() {
                        self.client.send(Bytes::from_static(b": keep-alive\n\n")).await;
                    }
                    continue;
                }
                Ok(Err(_)) => return Some(AttemptError::Broken),
                Ok(Ok(piece)) => piece,
            };
            let ended = piece.is_none();
            if let Some(piece) = piece {
                splitter.push(&piece);
            }
            loop {
                let frame = match splitter.next() {
                    Ok(Some(frame)) => frame,
                    Ok(None) if ended => match std::mem::take(&mut splitter).finish() {
                        Some(frame) => frame,
                        None => break,
                    },
                    Ok(None) => break,
                    Err(_) => return Some(AttemptError::Malformed),
                };
                if frame.data().is_some() {
                    idle_until = tokio::time::Instant::now() + timeouts.idle;
                }
                relay.take(frame, &mut out);
            }
            self.custody.delivered.store(relay.delivered().tokens(), Ordering::Release);
            if !out.is_empty() {
                self.start_stream(headers);
                for piece in out.drain(..) {
                    recorder.add(&piece);
                    self.client.send(piece).await;
                }
            }
            if relay.failed() || ended {
                return None;
            }
        }
    }

    fn headers(&self, held: &Held, provider_request_id: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        insert(&mut headers, "x-mf-attempts", &self.attempts.len().to_string());
        insert(&mut headers, "x-mf-price-version", &held.placed.rate_card_id.to_string());
        if held.cap < held.ask.cap {
            insert(&mut headers, "x-mf-max-tokens", &held.cap.to_string());
        }
        if let Some(id) = provider_request_id {
            insert(&mut headers, "x-mf-provider-request-id", id);
        }
        let hold = self.hold_time.unwrap_or_default();
        let upstream = self.attempts.last().and_then(|attempt| attempt.first_byte_ms).unwrap_or_default();
        insert(&mut headers, "server-timing", &format!("hold;dur={}, upstream;dur={upstream}", milliseconds(hold)));
        headers
    }
}

/// The member `modelfaucet` of the answer.
fn ours(held: &Held, ended: &Ended, source: Option<UsageSource>) -> Value {
    let mut ours = json!({
        "request_id": call_label(held.placed.hold_id),
        "route_mode": held.placed.call.route.name(),
        "estimated_price_usd": charge(ended),
        "price_version": held.placed.rate_card_id,
        "usage_source": source.unwrap_or_default().name(),
    });
    if let (Some(key), Some(object)) = (&held.placed.call.feature_key, ours.as_object_mut()) {
        object.insert("feature_key".to_owned(), Value::from(key.as_str()));
    }
    ours
}

/// What became of an earlier call with the same key.
enum Earlier {
    /// The client was answered.
    Answered,
    /// Nothing was charged: the key may be used for another call.
    GivenBack,
}

fn in_progress() -> CallError {
    let message = "A request with this idempotency key is still running.";
    CallError::new(409, "idempotency_in_progress", "idempotency_error", message).retry_after(1)
}

fn reply_expired() -> CallError {
    let message = "The call of this idempotency key was made and charged; its answer is not kept any more.";
    CallError::new(409, "idempotency_reply_expired", "idempotency_error", message).should_retry(false)
}

/// What a client is told of a refusal of the command side.
pub(crate) fn of_port(error: &PortError) -> CallError {
    match error {
        PortError::CannotPay { message, available, required, later } => {
            CallError::cannot_pay(message.clone(), *available, *required, *later)
        }
        PortError::Refused { status, code, message } => {
            let kind = match (*status, *code) {
                (422, _) => "idempotency_error",
                (403, _) => "permission_error",
                (500.., _) => "server_error",
                _ => "invalid_request_error",
            };
            let error = CallError::new(*status, code, kind, message.clone());
            if matches!(*status, 409 | 422 | 500..) { error.should_retry(false) } else { error }
        }
        PortError::Overloaded => CallError::overloaded(),
        PortError::Unavailable | PortError::InDoubt => CallError::ledger_unavailable(),
    }
}

/// How a call is named outside: `req_` and its id.
pub(crate) fn call_label(hold_id: HoldId) -> String {
    format!("req_{}", URL_SAFE_NO_PAD.encode(hold_id.0.as_bytes()))
}

fn error_event(error: &CallError, request_id: &str) -> Bytes {
    let body = serde_json::to_string(&error.body(request_id)).unwrap_or_default();
    debug_assert_ne!(error.status(), StatusCode::OK, "an error is none");
    Bytes::from(format!("data: {body}\n\n"))
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// The pause, up to a quarter longer, so that clients do not come back together.
fn with_jitter(pause: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    pause + pause * random / 1_024
}

fn charge(ended: &Ended) -> Money {
    match ended {
        Ended::Captured(event, _) => event.rating.charge,
        Ended::CapturedLate(event, _) => event.rating.charge,
        Ended::Released(..) => Money::ZERO,
    }
}

fn balance(ended: &Ended) -> Money {
    match ended {
        Ended::Captured(event, _) => event.balance.posted,
        Ended::CapturedLate(event, _) => event.balance.posted,
        Ended::Released(event, _) => event.balance.posted,
    }
}

fn position(ended: &Ended) -> Position {
    match ended {
        Ended::Captured(_, position) | Ended::CapturedLate(_, position) | Ended::Released(_, position) => *position,
    }
}
