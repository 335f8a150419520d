//! Stripe's webhook, and the way in for what a sweep has fetched from its API. Both store what they got before they work on it.

use axum::Json;
use axum::body::Body;
use axum::extract::{Query, State};
use axum::response::{IntoResponse, Response};
use http::HeaderMap;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::KeyUse;
use modelfaucet_schema::http::{ApiError, JsonBody, MAX_BODY, RequestId, depth_within, not_found, read_body};
use modelfaucet_schema::ids::{RefundId, TopUpId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::auth::Authenticated;
use super::{Api, Key, REQUEST_LIMIT};
use crate::domain::{Caller, Command};
use crate::stripe::event::StripeEvent;
use crate::stripe::inbox::WorkState;
use crate::stripe::signature::verify;
use crate::stripe::work::{CreditedTopUp, Submit, Told, WorkKey, Worked, state_of, unavailable};
use crate::stripe::{PROVIDER, Stripe, StripeError, series};
use crate::writer::core::Outcome;
use crate::writer::{CommandError, Request};

/// How deep an event may nest.
const MAX_DEPTH: usize = 64;
/// How much one call of `rework` takes on.
const REWORK: i64 = 200;

/// Whoever tells what Stripe told: Stripe itself, or an administrator who has fetched it, who then stands in the books. The keys are the
/// administration's: a payment that an administrator has credited is credited.
#[derive(Clone)]
pub(super) struct Teller<'a> {
    api: &'a Api,
    caller: Caller,
    request_id: RequestId,
}

impl Teller<'_> {
    async fn send(&self, command: Command, key: Option<KeyUse>) -> Result<Outcome, CommandError> {
        let request = Request { caller: self.caller, command, key };
        let answer = self.api.ledger.submit(self.request_id.as_str(), request);
        tokio::time::timeout(REQUEST_LIMIT, answer).await.unwrap_or(Err(CommandError::InDoubt))
    }

    /// Without a key.
    pub(super) async fn plain(&self, command: Command) -> Result<Outcome, CommandError> {
        self.send(command, None).await
    }

    /// Under a key that names what it does.
    pub(super) async fn keyed(&self, command: Command, key: WorkKey) -> Result<Outcome, CommandError> {
        let key = Key::new(&key.text, key.operation, &key.path, &key.content).hash("admin");
        self.send(command, Some(key)).await
    }
}

impl Submit for Teller<'_> {
    async fn submit(&self, command: Command, key: Option<WorkKey>) -> Result<Outcome, CommandError> {
        match key {
            Some(key) => self.keyed(command, key).await,
            None => self.plain(command).await,
        }
    }
}

/// The page of a top-up is noted once.
pub(super) fn checkout_key(top_up_id: TopUpId) -> WorkKey {
    let id = top_up_id.to_string();
    WorkKey { text: format!("checkout:{id}"), operation: "note_checkout", path: id, content: String::new() }
}

fn inbox_failed(error: &tokio_postgres::Error) -> ApiError {
    tracing::warn!(%error, "what Stripe told us cannot be stored");
    ApiError::unavailable("ledger_unavailable", "What was sent cannot be stored; send it again.")
}

/// What became of something, for whoever handed it in.
struct Taken {
    known: bool,
    state: WorkState,
    problem: Option<ApiError>,
    credited: Option<Box<CreditedTopUp>>,
}

impl Api {
    /// Stripe itself.
    pub(super) fn as_stripe(&self, request_id: RequestId) -> Teller<'_> {
        Teller { api: self, caller: Caller::Stripe, request_id }
    }

    fn fetched_by(&self, who: &Authenticated) -> Teller<'_> {
        Teller { api: self, caller: who.caller, request_id: who.request_id.clone() }
    }

    /// Stores it, works on it, and notes what became of it. What came before is worked on as it came first; what is done is not
    /// done again.
    async fn take_told(&self, told: Told, body: &[u8], teller: &Teller<'_>) -> Result<Taken, ApiError> {
        let payment = told.payment();
        let letter = told.letter(payment.as_deref(), body);
        let stored = self.stripe.inbox.store(letter).await.map_err(|error| inbox_failed(&error))?;
        let tells_balance = matches!(&told, Told::Event(event) if event.r#type.starts_with("checkout.session."));
        if stored.known && (stored.state == WorkState::Ignored || stored.state == WorkState::Done && !tells_balance) {
            return Ok(Taken { known: true, state: stored.state, problem: None, credited: None });
        }
        let told = if stored.known { Told::read(&stored.body)? } else { told };
        let taken = self.work_on(&told, teller).await;
        if let Some(credited) = &taken.credited {
            self.work_on_waiting(&credited.payment, teller).await;
        }
        Ok(Taken { known: stored.known, ..taken })
    }

    async fn work_on(&self, told: &Told, teller: &Teller<'_>) -> Taken {
        let mut result = told.work(&self.stripe, teller).await;
        self.note(told, &result).await;
        if let Ok(Worked::Waiting) = result {
            // What it waits for may have come while we noted that: then nobody else would look.
            result = told.work(&self.stripe, teller).await;
            self.note(told, &result).await;
        }
        let (state, problem) = state_of(&result);
        let problem = problem.cloned();
        let credited = if let Ok(Worked::Done(credited)) = result { credited } else { None };
        Taken { known: true, state, problem, credited }
    }

    async fn note(&self, told: &Told, result: &Result<Worked, crate::stripe::work::WorkError>) {
        let (state, problem) = state_of(result);
        let problem = problem.map(|error| error.body("").error.message);
        if state == WorkState::Refused {
            tracing::warn!(id = told.id(), problem = problem.as_deref(), "what Stripe told us is refused");
            metrics::counter!("modelfaucet_stripe_refused_total").increment(1);
        }
        // If that fails it is worked on again, to no further effect.
        if let Err(error) = self.stripe.inbox.note(told.id(), state, problem.as_deref()).await {
            tracing::warn!(%error, id = told.id(), "what became of it is not noted");
        }
    }

    async fn work_on_stored(&self, id: &str, body: &[u8], teller: &Teller<'_>) {
        if let Ok(told) = Told::read(body) {
            self.work_on(&told, teller).await;
        } else {
            tracing::error!(id, "a stored event cannot be read");
        }
    }

    async fn work_on_waiting(&self, payment: &str, teller: &Teller<'_>) {
        match self.stripe.inbox.waiting_for(payment).await {
            Ok(waiting) => {
                for (id, body) in waiting {
                    self.work_on_stored(&id, &body, teller).await;
                }
            }
            Err(error) => tracing::warn!(%error, "what waits for a payment is left to the next sweep"),
        }
    }

    /// Sends a refund that Stripe has not taken on; safe to repeat. True if it has now. `again`: it may have been sent before,
    /// perhaps longer ago than Stripe remembers keys, so Stripe is asked first whether it has it.
    pub(super) async fn send_refund(
        &self,
        id: RefundId,
        again: bool,
        request_id: &RequestId,
    ) -> Result<bool, ApiError> {
        if again {
            self.ledger.catch_up().await;
        }
        let Some(refund) = self.ledger.directory().unsent_refund(id) else { return Ok(true) };
        let Some(client) = &self.stripe.client else { return Ok(false) };
        let ledger = self.as_stripe(request_id.clone());
        let known = if again { client.find_refund(id, &refund.payment).await } else { Ok(None) };
        let sent = match known {
            Ok(Some(known)) => Ok(known),
            Ok(None) => client.refund(id, &refund.payment, refund.amount).await,
            // Not to be read as a refusal of the refund.
            Err(_) => Err(StripeError::Unknown),
        };
        match sent {
            Ok(made) => {
                let noted = match made.failure() {
                    Some(reason) => ledger.plain(Command::FailRefund { refund_id: id, reason }).await,
                    None => ledger.plain(Command::ConfirmRefund { refund_id: id, reference: made.id }).await,
                };
                // A webhook may have been faster; what cannot be noted now is told again.
                if let Err(error) = noted {
                    tracing::info!(%error, refund = %id, "a refund was not noted as sent");
                }
                Ok(true)
            }
            Err(StripeError::Unknown) => Ok(false),
            Err(error @ StripeError::Refused { .. }) => {
                let failed = Command::FailRefund { refund_id: id, reason: error.to_string() };
                ledger.plain(failed).await.map_err(|error| super::reply::error(&error))?;
                Err(ApiError::new(502, "payment_provider_error", error.to_string()))
            }
        }
    }
}

/// Of our mode and account?
fn is_ours(stripe: &Stripe, event: &StripeEvent) -> Result<(), ApiError> {
    if event.livemode != stripe.livemode {
        return Err(ApiError::invalid("The event is of another mode (livemode)."));
    }
    if event.account.is_some() && event.account != stripe.account {
        return Err(ApiError::invalid("The event is of another account."));
    }
    Ok(())
}

/// Stripe's answer.
#[derive(Serialize, ToSchema)]
pub(super) struct WebhookReply {
    /// Always true.
    received: bool,
    /// There is nothing to do for it.
    #[serde(skip_serializing_if = "Option::is_none")]
    ignored: Option<bool>,
    /// What it concerns is not known yet; it is worked on when that comes.
    #[serde(skip_serializing_if = "Option::is_none")]
    waiting: Option<bool>,
    /// The top-up that it credited, now or before.
    #[serde(skip_serializing_if = "Option::is_none")]
    topup: Option<WebhookTopUp>,
}

/// A credited top-up.
#[derive(Serialize, ToSchema)]
pub(super) struct WebhookTopUp {
    /// The top-up.
    id: TopUpId,
    /// The wallet.
    wallet_id: WalletId,
    /// Always `stripe`.
    #[schema(example = "stripe")]
    provider: &'static str,
    /// The page that was paid on.
    provider_checkout_session_id: String,
    /// The event.
    provider_event_id: String,
    /// How much.
    amount_usd: Money,
    /// Always `credited`.
    #[schema(example = "credited")]
    status: &'static str,
    /// The wallet's balance after it, the first time only.
    #[serde(skip_serializing_if = "Option::is_none")]
    credited_wallet_balance_usd: Option<Money>,
}

/// Take an event of Stripe.
///
/// The signature is checked over the bytes as they came: `t` within 300 seconds, any `v1` right. Then mode and account, then the
/// event is stored, then it is worked on. An event may come again, late, in any order; it has its effect once. Without
/// `STRIPE_WEBHOOK_SECRET` there is nothing at this path.
#[utoipa::path(post, path = "/v1/stripe/webhook", tag = "payments", request_body = serde_json::Value,
    params(("Stripe-Signature" = String, Header)), security(()), responses(
    (status = 200, description = "It is stored, and worked on as far as that goes now", body = WebhookReply),
    (status = "4XX", description = "invalid_request: not signed by Stripe, of another mode, account or currency, or against a rule; not_found", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt, payment_provider_unavailable: Stripe sends it again", body = ErrorBody)))]
pub(super) async fn webhook(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: Body,
) -> Result<Response, ApiError> {
    let Some(secret) = &api.stripe.webhook_secret else { return Err(not_found().await) };
    let body = read_body(&headers, body, MAX_BODY, "application/json").await?;
    let header = headers.get("stripe-signature").and_then(|value| value.to_str().ok());
    let now = Timestamp::now().micros().div_euclid(1_000_000);
    if let Err(error) = verify(secret, header, &body, now) {
        metrics::counter!("modelfaucet_stripe_unsigned_total").increment(1);
        return Err(ApiError::invalid(error.to_string()));
    }
    if !depth_within(&body, MAX_DEPTH) {
        return Err(ApiError::invalid("Invalid Stripe event."));
    }
    let Told::Event(event) = Told::read(&body)? else { return Err(ApiError::invalid("Invalid Stripe event.")) };
    is_ours(&api.stripe, &event)?;
    series::received();
    let id = event.id.clone();
    let taken = api.take_told(Told::Event(event), &body, &api.as_stripe(request_id)).await?;
    if let Some(problem) = taken.problem {
        return Err(problem);
    }
    let topup = taken.credited.map(|credited| WebhookTopUp {
        id: credited.top_up_id,
        wallet_id: credited.wallet_id,
        provider: PROVIDER,
        provider_checkout_session_id: credited.checkout,
        provider_event_id: id,
        amount_usd: credited.amount,
        status: "credited",
        credited_wallet_balance_usd: credited.balance,
    });
    let reply = WebhookReply {
        received: true,
        ignored: (taken.state == WorkState::Ignored).then_some(true),
        waiting: (taken.state == WorkState::Waiting).then_some(true),
        topup,
    };
    Ok(Json(reply).into_response())
}

/// Whether to change anything.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct TakeParams {
    #[serde(default)]
    dry_run: bool,
}

/// What became of something that Stripe told.
#[derive(Serialize, ToSchema)]
pub(super) struct TakenReply {
    /// Stripe's id of it.
    id: String,
    /// Had it come before?
    known: bool,
    /// `received`, `done`, `ignored`, `waiting` or `refused`; `new` if nothing was changed.
    #[schema(example = "done")]
    state: &'static str,
    /// Why it is not done.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// Take what a sweep has fetched.
///
/// An event or a movement of the balance (`balance_transaction`), as Stripe's API gives it. It is stored and worked on as if the
/// webhook had brought it; what came before has no further effect.
#[utoipa::path(post, path = "/v1/admin/stripe/objects", tag = "payments", security(("bearer" = ["admin"])), request_body = serde_json::Value,
    params(("dry_run" = Option<bool>, Query, description = "`true`: only say whether it is known.")), responses(
    (status = 200, description = "What became of it", body = TakenReply),
    (status = "4XX", description = "invalid_request", body = ErrorBody),
    (status = "5XX", description = "ledger_unavailable", body = ErrorBody)))]
pub(super) async fn take(
    State(api): State<Api>,
    Query(params): Query<TakeParams>,
    headers: HeaderMap,
    request_id: RequestId,
    body: Body,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = read_body(&headers, body, MAX_BODY, "application/json").await?;
    if !depth_within(&body, MAX_DEPTH) {
        return Err(ApiError::invalid("Invalid Stripe event."));
    }
    let told = Told::read(&body)?;
    if let Told::Event(event) = &told {
        is_ours(&api.stripe, event)?;
    }
    let id = told.id().to_owned();
    if params.dry_run {
        let state = api.stripe.inbox.find(&id).await.map_err(|error| inbox_failed(&error))?;
        let (known, state) = (state.is_some(), state.map_or("new", WorkState::name));
        return Ok(Json(TakenReply { id, known, state, problem: None }).into_response());
    }
    api.record_attempt(&who).await.map_err(|error| super::reply::error(&error))?;
    let taken = api.take_told(told, &body, &api.fetched_by(&who)).await?;
    let problem = taken.problem.map(|error| error.body("").error.message);
    Ok(Json(TakenReply { id, known: taken.known, state: taken.state.name(), problem }).into_response())
}

/// Something that is not finished.
#[derive(Serialize, ToSchema)]
pub(super) struct UnfinishedItem {
    /// Stripe's id of it.
    id: String,
    /// Its kind.
    r#type: String,
    /// `received`, `waiting` or `refused`.
    #[schema(example = "refused")]
    state: &'static str,
    /// What was said when it was last tried.
    #[serde(skip_serializing_if = "Option::is_none")]
    problem: Option<String>,
}

/// What is not finished.
#[derive(Serialize, ToSchema)]
pub(super) struct UnfinishedReply {
    /// At most 200, the one that was tried least lately first.
    items: Vec<UnfinishedItem>,
    /// Refunds that Stripe has not taken on yet.
    unsent_refunds: Vec<RefundId>,
}

async fn list_unfinished(api: &Api) -> Result<UnfinishedReply, ApiError> {
    let rows = api.stripe.inbox.unfinished(REWORK).await.map_err(|error| inbox_failed(&error))?;
    let items = rows
        .into_iter()
        .map(|row| UnfinishedItem { id: row.id, r#type: row.kind, state: row.state.name(), problem: row.problem })
        .collect();
    let unsent_refunds = api.ledger.directory().unsent_refunds().into_iter().map(|(id, _)| id).collect();
    Ok(UnfinishedReply { items, unsent_refunds })
}

/// What Stripe told and is not finished.
#[utoipa::path(get, path = "/v1/admin/stripe/unfinished", tag = "payments", security(("bearer" = ["auditor"])), responses(
    (status = 200, description = "What is received, waits or was refused", body = UnfinishedReply),
    (status = "4XX", description = "invalid_session, forbidden", body = ErrorBody),
    (status = "5XX", description = "ledger_unavailable", body = ErrorBody)))]
pub(super) async fn unfinished(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    api.require_staff(&headers, request_id, Power::Read).await?;
    Ok(Json(list_unfinished(&api).await?).into_response())
}

/// Work again on what is not finished.
///
/// Events and movements that wait, were refused or were interrupted, and refunds that Stripe has not taken on. Safe to repeat.
#[utoipa::path(post, path = "/v1/admin/stripe/unfinished/rework", tag = "payments", security(("bearer" = ["admin"])), responses(
    (status = 200, description = "What is still not finished", body = UnfinishedReply),
    (status = "4XX", description = "invalid_session, forbidden", body = ErrorBody),
    (status = "5XX", description = "ledger_unavailable", body = ErrorBody)))]
pub(super) async fn rework(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    api.record_attempt(&who).await.map_err(|error| super::reply::error(&error))?;
    for row in api.stripe.inbox.unfinished(REWORK).await.map_err(|error| inbox_failed(&error))? {
        api.work_on_stored(&row.id, &row.body, &api.fetched_by(&who)).await;
    }
    for (id, _) in api.ledger.directory().unsent_refunds() {
        if let Err(error) = api.send_refund(id, true, &who.request_id).await {
            tracing::warn!(refund = %id, code = error.code(), "a refund is refused");
        }
    }
    Ok(Json(list_unfinished(&api).await?).into_response())
}

/// Up to when everything was fetched, in seconds of Unix time.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct Swept {
    /// Events.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    events_until: Option<i64>,
    /// Movements of the balance.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    transactions_until: Option<i64>,
}

async fn swept_reply(api: &Api) -> Result<Response, ApiError> {
    let until = async |what| api.stripe.inbox.swept_until(what).await.map_err(|error| inbox_failed(&error));
    let swept = Swept { events_until: until("events").await?, transactions_until: until("transactions").await? };
    Ok(Json(swept).into_response())
}

/// Up to when a sweep has fetched everything.
#[utoipa::path(get, path = "/v1/admin/stripe/sweep", tag = "payments", security(("bearer" = ["auditor"])), responses(
    (status = 200, description = "Seconds of Unix time; absent: never", body = Swept),
    (status = "4XX", description = "invalid_session, forbidden", body = ErrorBody),
    (status = "5XX", description = "ledger_unavailable", body = ErrorBody)))]
pub(super) async fn swept(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    api.require_staff(&headers, request_id, Power::Read).await?;
    swept_reply(&api).await
}

/// Note up to when a sweep has fetched everything.
///
/// It never goes back.
#[utoipa::path(post, path = "/v1/admin/stripe/sweep", tag = "payments", security(("bearer" = ["admin"])), request_body = Swept, responses(
    (status = 200, description = "As it is now", body = Swept),
    (status = "4XX", description = "invalid_request, invalid_session, forbidden", body = ErrorBody),
    (status = "5XX", description = "ledger_unavailable", body = ErrorBody)))]
pub(super) async fn sweep(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<Swept>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let latest = Timestamp::now().micros().div_euclid(1_000_000);
    api.record_attempt(&who).await.map_err(|error| super::reply::error(&error))?;
    for (what, until) in [("events", body.events_until), ("transactions", body.transactions_until)] {
        if let Some(until) = until {
            if !(0..=latest).contains(&until) {
                return Err(ApiError::invalid("The time must not lie in the future."));
            }
            api.stripe.inbox.sweep_to(what, until).await.map_err(|error| inbox_failed(&error))?;
            if what == "transactions" {
                series::compared(until);
            }
        }
    }
    swept_reply(&api).await
}

/// 409: nobody to ask.
pub(super) fn not_configured() -> ApiError {
    ApiError::new(409, "payments_not_configured", "No payment provider is configured (STRIPE_SECRET_KEY).")
}

/// 503: the refund is requested; whether Stripe has made it is not known.
pub(super) fn refund_unknown() -> ApiError {
    unavailable()
}
