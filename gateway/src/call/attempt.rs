//! Attempts: requests to providers, one after the other, until there is an answer or none to be had. Each after the first is in the log
//! before it leaves, with the hold that it needs.

use std::time::{Duration, Instant};

use bytes::Bytes;
use modelfaucet_schema::event::{Attempt, Billed, DisconnectPolicy};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::usage::Usage;

use super::ending::call_label;
use super::place::Held;
use super::{Call, milliseconds, of_port};
use crate::breaker::Verdict;
use crate::delivered::Delivered;
use crate::fault::{self, Point};
use crate::memory::Taken;
use crate::plan::Target;
use crate::port::{PortError, StartAttempt};
use crate::relay::{Said, read_answer};
use crate::upstream::{Answer, Failure, Retry};

/// The longest wait that a provider may ask for before a second try.
const MAX_WAIT: Duration = Duration::from_secs(2);

/// A good answer, before any byte of it went to the client.
pub(super) enum Good {
    Whole(Bytes, Said, Delivered, Taken),
    Stream(Answer),
}

/// What follows a failure.
enum Next<'a> {
    /// The same target, after a pause.
    Again(Duration),
    /// The next target that does not rest.
    Target(&'a Target),
    /// Nothing.
    Over,
}

impl<'a> Call<'a> {
    /// Calls the targets, again where that may help, until there is an answer or none to be had.
    pub(super) async fn dispatch(&mut self, held: &mut Held) -> Result<Good, Failure> {
        let mut pause = self.gateway.shared.options.timeouts.retry_delay;
        let mut tries = 1;
        loop {
            let failure = match self.attempt(held).await {
                Ok(good) => return Ok(good),
                Err(failure) => failure,
            };
            let next = match self.next(held, tries, &failure) {
                Next::Over => return Err(failure),
                Next::Target(target) => {
                    tries = 1;
                    target
                }
                Next::Again(asked) => {
                    tokio::time::sleep(asked.max(with_jitter(pause))).await;
                    if self.client.is_gone() {
                        return Err(failure);
                    }
                    pause *= 2;
                    tries += 1;
                    self.target
                }
            };
            self.start(held, next, failure).await?;
        }
    }

    /// What may follow a failure: never more attempts than allowed, never after half of the time, never for a client that has gone.
    fn next(&self, held: &Held, tries: u32, failure: &Failure) -> Next<'a> {
        let options = &self.gateway.shared.options;
        let late = self.job.began.elapsed() > options.timeouts.total / 2;
        if held.number >= options.limits.attempts || late || self.client.is_gone() {
            return Next::Over;
        }
        let (again, elsewhere) = match failure.retry {
            Retry::Never => (None, false),
            Retry::Elsewhere => (None, true),
            Retry::IfAllowed => {
                let allowed = self.job.policy.retry_timeouts;
                (allowed.then_some(Duration::ZERO), allowed)
            }
            Retry::After(wait) => (Some(wait.unwrap_or_default()), true),
        };
        let now = Instant::now();
        let rests = |target: &Target| {
            let subject = target.subject(self.job.request.endpoint);
            self.gateway.shared.breakers.admit(&subject, now).err().unwrap_or_default()
        };
        // A target that asked for a moment rests so long itself.
        let again = again.filter(|_| tries < options.limits.tries).map(|wait| wait.max(rests(self.target)));
        match again {
            Some(wait) if wait <= MAX_WAIT => Next::Again(wait),
            _ if elsewhere => {
                let behind = self.job.targets.iter().skip_while(|target| !target.is_same_as(self.target)).skip(1);
                behind.into_iter().find(|target| rests(target).is_zero()).map_or(Next::Over, Next::Target)
            }
            _ => Next::Over,
        }
    }

    /// Puts the next attempt into the log, with its hold in place of the one before. Nothing is sent unless that is certain.
    async fn start(&mut self, held: &mut Held, next: &'a Target, failure: Failure) -> Result<(), Failure> {
        let Some(ended) = self.attempts.pop() else { return Err(failure) };
        let ask = self.ask(next);
        let tier = next.dearest_tier(ask);
        let shared = &self.gateway.shared;
        let start = StartAttempt {
            hold_id: held.placed.hold_id,
            session_id: self.job.session.session_id,
            gateway: shared.options.gateway,
            number: held.number + 1,
            ended: ended.clone(),
            route: next.route,
            provider: next.provider.clone(),
            model: next.model.clone(),
            service_tier: tier,
            bound: next.bound_at(ask, tier),
            min_bound: next.bound_at(self.least(ask), tier),
            origin: next.origin.as_ref().to_owned(),
            credential: next.credential,
        };
        fault::at(Point::BeforeAttempt);
        let begin = shared.ledger.start(&self.job.request_id, start);
        let result = tokio::time::timeout(shared.options.timeouts.hold, begin).await.unwrap_or(Err(PortError::InDoubt));
        let started = match result {
            Ok(started) => started,
            Err(error) => {
                tracing::warn!(request_id = self.job.request_id, %error, "no further attempt may begin");
                self.attempts.push(ended);
                // A wallet that cannot pay the next target, or a session that has ended, is the client's to know; what is wrong
                // with the ledger is not: the provider's failure stands.
                let told = matches!(error, PortError::CannotPay { .. } | PortError::Refused { status: 400..=499, .. });
                return Err(if told { Failure { answer: of_port(&error), ..failure } } else { failure });
            }
        };
        fault::at(Point::AfterAttempt);
        metrics::counter!("gateway_fallbacks_total", "kind" => if next.is_same_as(self.target) { "again" } else { "elsewhere" })
            .increment(1);
        self.target = next;
        self.custody.start(&started, next);
        held.number = started.number;
        held.ask = ask;
        held.cap = self.cap(ask, started.requested, started.amount, &held.placed);
        held.disconnect = started.disconnect;
        Ok(())
    }

    /// One request to the provider. Its record is kept, whatever comes of it.
    async fn attempt(&mut self, held: &Held) -> Result<Good, Failure> {
        let shared = &self.gateway.shared;
        let job = self.job;
        let started = tokio::time::Instant::now();
        let timeouts = &shared.options.timeouts;
        let first_byte = if job.request.stream { timeouts.first_byte_stream } else { timeouts.first_byte };
        let total = tokio::time::Instant::from_std(job.began) + timeouts.total;
        let deadline = (started + first_byte).min(total);
        let mut attempt = Attempt {
            route: self.target.route,
            provider: self.target.provider.clone(),
            model: self.target.model.clone(),
            credential: self.target.credential,
            started_at: Timestamp::now(),
            first_byte_ms: None,
            total_ms: None,
            status: None,
            error: None,
            billed: Billed::Yes,
            exposure: None,
        };
        // An answer in one piece cannot be cut: its provider makes it to the end.
        let cut = job.request.stream && held.disconnect != DisconnectPolicy::Drain;
        let result = {
            let (gateway, target) = (self.gateway, self.target);
            let request = request(gateway, job, target, held, deadline, &mut attempt, started);
            tokio::select! {
                biased;
                result = request => result,
                () = self.client.left(), if cut => Err(Failure::client_gone()),
            }
        };
        let verdict = result.as_ref().map_or_else(Failure::verdict, |_| Verdict::Good);
        shared.breakers.record(&self.target.subject(job.request.endpoint), verdict, Instant::now());
        if let Err(failure) = &result {
            attempt.total_ms = Some(milliseconds(started.elapsed()));
            attempt.status = failure.status;
            attempt.error = Some(failure.error);
            attempt.billed = failure.billed;
            attempt.exposure = self.exposure(failure);
            if failure.is_tripwire() {
                self.suspend().await;
            }
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

    /// Takes the key of the attempt that runs out of use.
    async fn suspend(&self) {
        let Some(credential) = self.target.credential else { return };
        let session = self.job.session.session_id;
        if let Err(error) = self.gateway.shared.ledger.suspend(&self.job.request_id, session, credential).await {
            tracing::error!(%credential, %error, "a provider key whose request went astray could not be taken out of use");
        }
    }

    /// The most that a failed attempt can have cost: its input, if it was sent and not refused.
    fn exposure(&self, failure: &Failure) -> Option<Money> {
        if failure.billed == Billed::No { None } else { self.input_cost() }
    }

    /// What the input costs the platform at the target of the attempt that runs.
    pub(super) fn input_cost(&self) -> Option<Money> {
        self.target.cost(&Usage::text(self.job.request.input_estimate, 0))
    }
}

async fn request(
    gateway: &crate::gateway::Gateway,
    job: &super::Job,
    target: &Target,
    held: &Held,
    deadline: tokio::time::Instant,
    attempt: &mut Attempt,
    started: tokio::time::Instant,
) -> Result<Good, Failure> {
    let shared = &gateway.shared;
    let request = &job.request;
    let body = request.upstream_body(&job.body, &target.model, held.cap);
    let body = body.ok_or_else(|| Failure::malformed(0, "The request could not be read again."))?;
    let label = call_label(held.placed.hold_id);
    let upstream = shared.upstreams.to(target).await?;
    fault::at(Point::BeforeSend);
    let mut answer = upstream.send(request.endpoint, body, &label, deadline).await?;
    fault::at(Point::FirstByte);
    attempt.first_byte_ms = Some(milliseconds(started.elapsed()));
    attempt.status = Some(answer.status);
    metrics::histogram!("gateway_stage_seconds", "stage" => "first_byte").record(started.elapsed());
    if request.stream {
        let malformed = || Failure::malformed(200, "Provider answered without a stream.");
        return if answer.is_stream { Ok(Good::Stream(answer)) } else { Err(malformed()) };
    }
    let (body, taken) = answer.whole(shared.options.limits.answer, deadline, &shared.memory).await?;
    attempt.total_ms = Some(milliseconds(started.elapsed()));
    match read_answer(request.endpoint, &body) {
        Some((said, delivered)) => Ok(Good::Whole(body, said, delivered, taken)),
        None => Err(Failure::malformed(answer.status, "Provider answer could not be read.")),
    }
}

/// The pause, up to a quarter longer, so that clients do not come back together.
fn with_jitter(pause: Duration) -> Duration {
    let random = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
    pause + pause * random / 1_024
}
