//! The end of a call: what it is charged, how its hold ends, what the client is told of it.

use std::time::Instant;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, HeaderName, HeaderValue};
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::event::{CallOutcome, HoldPlaced, ReleaseReason, ServiceTier};
use modelfaucet_schema::http::LEDGER_POSITION;
use modelfaucet_schema::ids::{HoldId, Position};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;
use serde_json::{Value, json};

use super::place::Held;
use super::{Call, milliseconds};
use crate::answers::{Draft, Marker, Stored};
use crate::delivered::Delivered;
use crate::error::CallError;
use crate::fault::{self, Point};
use crate::plan::Target;
use crate::port::{EndCall, Ended, Ending, PortError};
use crate::relay::{Said, with_member};
use crate::served::served;
use crate::usage::{self, judge, with_prices};

impl Call<'_> {
    pub(super) async fn release(&mut self, held: &Held, reason: ReleaseReason) {
        let outcome = CallOutcome { client_gone: self.client.is_gone(), ..CallOutcome::default() };
        let _told_in_the_log = self.end(held, Ending::Release(reason), outcome).await;
    }

    /// Gives the hold of a call back that was cut.
    pub(super) async fn release_cut(&mut self, held: &Held) {
        let outcome = CallOutcome { client_gone: true, cut: Some(held.disconnect), ..CallOutcome::default() };
        let _told_in_the_log = self.end(held, Ending::Release(ReleaseReason::Absorbed), outcome).await;
    }

    /// Ends the hold. Waits for it as long as it takes; the client waits a few seconds.
    pub(super) async fn end(&mut self, held: &Held, ending: Ending, outcome: CallOutcome) -> Result<Ended, CallError> {
        self.span.ends(self.job.request.endpoint, self.target, self.attempts.last());
        let outcome = CallOutcome { attempts: std::mem::take(&mut self.attempts), ..outcome };
        let (hold_id, session_id) = (held.placed.hold_id, self.job.session.session_id);
        let end = EndCall { hold_id, session_id, ending, outcome };
        fault::at(Point::BeforeEnd);
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
                fault::at(Point::AfterEnd);
                self.custody.end();
                let outcome = match &ended {
                    Ended::Captured(captured, _) => {
                        let usage = captured.rating.usage;
                        self.span.charged(&usage);
                        self.job.taken.used(usage.input_tokens().saturating_add(usage.output_tokens()));
                        if captured.over_hold {
                            metrics::counter!("gateway_over_hold_total").increment(1);
                        }
                        "captured"
                    }
                    Ended::CapturedLate(late, _) => {
                        self.span.charged(&late.rating.usage);
                        "captured_late"
                    }
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
    pub(super) fn judged(
        &self,
        held: &Held,
        said: &Said,
        delivered: Delivered,
        ending: usage::Ending,
    ) -> (Ending, CallOutcome) {
        self.span.said(said);
        let reading = said.usage.as_deref().and_then(|usage| usage::read(usage, self.target.convention));
        let mut judged = judge(reading, delivered, self.job.request.input_estimate, ending);
        let (mut service_tier, mut served_model) = (None, None);
        if let Some(offer) = self.target.priced_by() {
            let card = self.gateway.shared.model.card(held.placed.rate_card_id);
            let served = served(said, self.target, card.as_deref(), self.job.request.service_tier.named());
            judged.anomalies.extend(&served.anomalies);
            // What has no price is charged as it was held for.
            let tier = served.tier.unwrap_or_else(|| self.target.dearest_tier(held.ask));
            judged = with_prices(judged, served.offer.as_deref().unwrap_or(offer), tier);
            service_tier = Some(tier);
            served_model = served.offer.map(|offer| offer.model.clone());
        }
        metrics::counter!("gateway_usage_total", "source" => judged.source.name(), "anomaly" => if judged.anomalies.is_empty() { "no" } else { "yes" })
            .increment(1);
        let outcome = CallOutcome {
            source: Some(judged.source),
            anomalies: judged.anomalies,
            reported: said.usage.clone().filter(|usage| usage.len() <= 4_096),
            served_model: said.model.clone().filter(|model| *model != self.target.model),
            interrupted: ending == usage::Ending::Interrupted,
            client_gone: self.client.is_gone(),
            ..CallOutcome::default()
        };
        let provider_request_id = said.id.clone();
        (Ending::Capture { usage: judged.usage, service_tier, served_model, provider_request_id }, outcome)
    }

    pub(super) async fn finish_whole(&mut self, held: &Held, body: Bytes, said: Said, delivered: Delivered) {
        self.custody.delivered(delivered);
        let (ending, outcome) = self.judged(held, &said, delivered, usage::Ending::Clean);
        let mut headers = self.headers(held, said.id.as_deref());
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
        let marker = Marker::new();
        let pieces = vec![Bytes::from(with_member(&body, &marker.value()))];
        let draft = Draft { headers, pieces, stream: false, marker };
        self.keep(held, Some(&draft)).await;
        let ended = match self.end(held, ending, outcome).await {
            Ok(ended) => ended,
            Err(error) => return self.client.fail(error),
        };
        let stored = complete(draft, &held.placed, &ended);
        let (headers, body) = (stored.headers.clone(), stored.pieces.first().cloned().unwrap_or_default());
        if self.job.key.is_some() {
            self.gateway.shared.answers.put(held.placed.hold_id, stored);
        }
        self.client.whole(headers, body);
    }

    /// Keeps an answer for repeats before it is charged, if its call has a key.
    pub(super) async fn keep(&self, held: &Held, draft: Option<&Draft>) {
        if let (Some(draft), true) = (draft, self.job.key.is_some()) {
            self.gateway.shared.answers.keep(held.placed.call.app_id, held.placed.hold_id, draft).await;
        }
    }

    pub(super) fn headers(&self, held: &Held, provider_request_id: Option<&str>) -> HeaderMap {
        let mut headers = HeaderMap::new();
        insert(&mut headers, "x-mf-attempts", &held.number.to_string());
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

/// What was delivered so far by our own count, in components that have a price on the service tier that is held for.
pub(super) fn estimate(target: &Target, tier: ServiceTier, input: u64, delivered: Delivered) -> Usage {
    let judged = judge(None, delivered, input, usage::Ending::Interrupted);
    target.priced_by().map_or(judged.usage, |offer| with_prices(judged.clone(), offer, tier).usage)
}

/// The member `modelfaucet` of the answer: all of it from the log.
pub(super) fn ours(placed: &HoldPlaced, ended: &Ended) -> Value {
    let (call, outcome) = match ended {
        Ended::Captured(event, _) => (&event.call, &event.outcome),
        Ended::CapturedLate(event, _) => (&event.call, &event.outcome),
        Ended::Released(event, _) => (&placed.call, &event.outcome),
    };
    let source = outcome.as_ref().and_then(|outcome| outcome.source).unwrap_or_default();
    let mut ours = json!({
        "request_id": call_label(placed.hold_id),
        "route_mode": call.route.name(),
        "estimated_price_usd": charge(ended),
        "price_version": placed.rate_card_id,
        "usage_source": source.name(),
    });
    if let (Some(key), Some(object)) = (&placed.call.feature_key, ours.as_object_mut()) {
        object.insert("feature_key".to_owned(), Value::from(key.as_str()));
    }
    ours
}

/// An answer with its charge, as it goes out, and goes out again: all of it from the log.
pub(super) fn complete(draft: Draft, placed: &HoldPlaced, ended: &Ended) -> Stored {
    let mut further = HeaderMap::new();
    if !draft.stream {
        insert(&mut further, "x-mf-cost", &charge(ended).to_string());
        insert(&mut further, "x-mf-balance", &balance(ended).to_string());
        further.insert(HeaderName::from_static(LEDGER_POSITION), HeaderValue::from(position(ended).0));
    }
    draft.complete(&ours(placed, ended), further)
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
                (402, _) => "insufficient_quota",
                (403, _) => "permission_error",
                (500.., _) => "server_error",
                _ => "invalid_request_error",
            };
            let error = CallError::new(*status, code, kind, message.clone());
            if matches!(*status, 402 | 409 | 422 | 500..) { error.should_retry(false) } else { error }
        }
        PortError::Overloaded => CallError::overloaded(),
        PortError::Unavailable | PortError::InDoubt => CallError::ledger_unavailable(),
    }
}

/// How a call is named outside: `req_` and its id.
pub(super) fn call_label(hold_id: HoldId) -> String {
    format!("req_{}", URL_SAFE_NO_PAD.encode(hold_id.0.as_bytes()))
}

pub(super) fn error_event(error: &CallError, request_id: &str) -> Bytes {
    let body = serde_json::to_string(&error.body(request_id)).unwrap_or_default();
    debug_assert_ne!(error.status(), StatusCode::OK, "an error is none");
    Bytes::from(format!("data: {body}\n\n"))
}

fn insert(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
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
