//! A stream on its way: read from the provider, relayed to the client, marked in the log while it is long, and cut or drained when the
//! client has gone.

use bytes::Bytes;
use http::HeaderMap;
use http::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};
use modelfaucet_schema::event::{AttemptError, DisconnectPolicy, ReleaseReason};
use modelfaucet_schema::time::Timestamp;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::ending::{complete, error_event, estimate, ours};
use super::place::Held;
use super::{Call, milliseconds};
use crate::answers::{Draft, Marker, Recorder};
use crate::delivered::{COUNTER, Delivered};
use crate::error::CallError;
use crate::fault::{self, Point};
use crate::port::{MarkAttempt, PortError};
use crate::relay::{Relay, Said};
use crate::sse::Splitter;
use crate::upstream::Answer;
use crate::usage;

/// A client of a silent stream hears something so often.
const KEEP_ALIVE: Duration = Duration::from_secs(15);

/// Why a stream was not read to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Broke {
    /// The provider, or the way to it.
    There(AttemptError),
    /// We cut it: the client has gone, and the policy says so.
    Here,
}

/// The marks of one stream.
struct Marks {
    every: Duration,
    next: Instant,
    /// The last one, until the log has it.
    running: Option<JoinHandle<Result<(), PortError>>>,
}

impl Call<'_> {
    pub(super) async fn relay(&mut self, held: &Held, mut answer: Answer) {
        let request = &self.job.request;
        let mut relay = Relay::new(request.endpoint, request.usage_wanted);
        let mut recorder = Recorder::new(self.job.key.is_some());
        let mut headers = self.headers(held, None);
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/event-stream; charset=utf-8"));
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
        let broke = self.read_stream(held, &mut answer, &mut relay, &mut recorder, &headers).await;
        drop(answer);
        if broke == Some(Broke::Here) {
            return self.cut(held, relay.said(), relay.delivered()).await;
        }
        let broke = match broke {
            Some(Broke::There(error)) => Some(error),
            Some(Broke::Here) | None => None,
        };
        let whole = broke.is_none() && !relay.failed() && (relay.ended() || relay.said().usage.is_some());
        self.close_attempt(if whole { None } else { Some(broke.unwrap_or(AttemptError::Broken)) });
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
        let (ending, outcome) = self.judged(held, relay.said(), relay.delivered(), ending);
        let marker = Marker::new();
        let mut tail = relay.finish(&marker.value());
        if !whole {
            let error = CallError::provider_failed("The provider's stream broke off.");
            tail.push(error_event(&error, &self.job.request_id));
        }
        for piece in &tail {
            recorder.add(piece);
        }
        let draft = recorder.finish().map(|pieces| Draft {
            headers: headers.clone(),
            pieces,
            stream: true,
            marker: marker.clone(),
        });
        self.keep(held, draft.as_ref()).await;
        let ended = self.end(held, ending, outcome).await;
        self.start_stream(&headers);
        let ended = match ended {
            Ok(ended) => ended,
            Err(error) => {
                self.client.send(error_event(&error, &self.job.request_id)).await;
                return self.client.end();
            }
        };
        if let Some(draft) = draft {
            self.gateway.shared.answers.put(held.placed.hold_id, complete(draft, &held.placed, &ended));
        }
        let ours = ours(&held.placed, &ended);
        for piece in tail {
            self.client.send(marker.fill(&piece, &ours)).await;
        }
        self.client.end();
    }

    /// The client left before the answer began, and the request was cut.
    pub(super) async fn cut_before_content(&mut self, held: &Held) {
        self.cut(held, &Said::default(), Delivered::default()).await;
    }

    /// The client has gone and the answer was cut: charges what was made so far, or nothing where the policy allows that and no content
    /// has gone out.
    async fn cut(&mut self, held: &Held, said: &Said, delivered: Delivered) {
        metrics::counter!("gateway_disconnects_total", "policy" => held.disconnect.name()).increment(1);
        self.close_attempt(Some(AttemptError::ClientGone));
        let nothing = delivered.tokens() == 0 && said.usage.is_none();
        if held.disconnect == DisconnectPolicy::Cancel && nothing {
            let exposure = self.input_cost();
            if let Some(attempt) = self.attempts.last_mut() {
                attempt.exposure = exposure;
            }
            return self.release_cut(held).await;
        }
        // What is charged is nobody's risk any more.
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.exposure = None;
        }
        let (ending, mut outcome) = self.judged(held, said, delivered, usage::Ending::Interrupted);
        outcome.cut = Some(held.disconnect);
        let _told_in_the_log = self.end(held, ending, outcome).await;
    }

    fn close_attempt(&mut self, error: Option<AttemptError>) {
        if let Some(attempt) = self.attempts.last_mut() {
            attempt.total_ms = Some(milliseconds(Timestamp::now().since(attempt.started_at)));
            attempt.error = error;
        }
    }

    fn start_stream(&mut self, headers: &HeaderMap) {
        if self.client.waits() {
            self.client.begin_stream(headers.clone());
        }
    }

    /// Reads the provider's stream to its end, or to whatever ends it; sends on what may go on. Says how it broke, if it did.
    async fn read_stream(
        &mut self,
        held: &Held,
        answer: &mut Answer,
        relay: &mut Relay,
        recorder: &mut Recorder,
        headers: &HeaderMap,
    ) -> Option<Broke> {
        let timeouts = self.gateway.shared.options.timeouts;
        let total = Instant::from_std(self.job.began) + timeouts.total;
        let mut splitter = Splitter::default();
        let mut taken = self.gateway.shared.memory.take();
        let mut out = Vec::new();
        let mut idle_until = Instant::now() + timeouts.idle;
        let mut drain_until = None;
        let mut bytes = 0;
        let mut marks = Marks { every: timeouts.mark, next: Instant::now() + timeouts.mark, running: None };
        loop {
            let now = Instant::now();
            if self.client.is_gone() && drain_until.is_none() {
                if held.disconnect != DisconnectPolicy::Drain {
                    return Some(Broke::Here);
                }
                metrics::counter!("gateway_disconnects_total", "policy" => "drain").increment(1);
                drain_until = Some(now + timeouts.drain);
            }
            let deadline = idle_until.min(total).min(drain_until.unwrap_or(total));
            let heard = tokio::select! {
                biased;
                heard = timeout_at(deadline.min(now + KEEP_ALIVE), answer.next()) => heard,
                () = self.client.left(), if drain_until.is_none() => continue,
            };
            let piece = match heard {
                Err(_) if Instant::now() >= deadline => return Some(Broke::There(AttemptError::TimedOut)),
                Err(_) => {
                    if !self.client.waits() {
                        self.client.send(Bytes::from_static(b": keep-alive\n\n")).await;
                    }
                    continue;
                }
                Ok(Err(_)) => return Some(Broke::There(AttemptError::Broken)),
                Ok(Ok(piece)) => piece,
            };
            let ended = piece.is_none();
            if let Some(piece) = piece {
                bytes += u64::try_from(piece.len()).unwrap_or(u64::MAX);
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
                    Err(_) => return Some(Broke::There(AttemptError::Malformed)),
                };
                if frame.data().is_some() {
                    idle_until = Instant::now() + timeouts.idle;
                }
                relay.take(frame, &mut out);
            }
            // An event that is not whole yet, and what is gathered for repeats.
            taken.set(splitter.waiting() + recorder.bytes());
            self.custody.delivered(relay.delivered());
            self.mark(held, &mut marks, bytes, relay.delivered());
            if !out.is_empty() {
                self.start_stream(headers);
                for piece in out.drain(..) {
                    recorder.add(&piece);
                    self.client.send(piece).await;
                }
                fault::at(Point::Relayed);
            }
            if relay.failed() || ended {
                return None;
            }
        }
    }

    /// Leaves a mark, if it is time and the last one is in the log. The stream does not wait for it, and goes on without it.
    fn mark(&self, held: &Held, marks: &mut Marks, bytes: u64, delivered: Delivered) {
        let busy = marks.running.as_ref().is_some_and(|running| !running.is_finished());
        if busy || delivered.tokens() == 0 || Instant::now() < marks.next {
            return;
        }
        marks.next = Instant::now() + marks.every;
        let mark = MarkAttempt {
            hold_id: held.placed.hold_id,
            session_id: self.job.session.session_id,
            gateway: self.gateway.shared.options.gateway,
            number: held.number,
            bytes,
            usage: estimate(
                self.target,
                self.target.dearest_tier(held.ask),
                self.job.request.input_estimate,
                delivered,
            ),
            counter: COUNTER,
        };
        let (gateway, request_id) = (self.gateway.clone(), self.job.request_id.clone());
        marks.running = Some(tokio::spawn(async move { gateway.shared.ledger.mark(&request_id, mark).await }));
    }
}
