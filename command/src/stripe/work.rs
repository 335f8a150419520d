//! What becomes of what Stripe tells: for each kind of event the commands that it means. Everything here may happen any number of
//! times, in any order, at any time: credits are keyed by the payment, movements by their id, and refunds and disputes are known
//! by theirs.

use modelfaucet_schema::event::{Event, TransactionCategory};
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{RefundId, TopUpId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::short_hash;
use serde::de::DeserializeOwned;
use serde_json::Value;

use super::event::{
    BalanceTransaction, Charge, CheckoutSession, Dispute, Reference, Refund, StripeEvent, cents, seconds,
};
use super::inbox::{Letter, WorkState};
use super::{Stripe, StripeError};
use crate::domain::{Command, DisputePhase, DisputeReport, RefundReport, Rejection, TransactionReport};
use crate::writer::CommandError;
use crate::writer::core::Outcome;

/// How the work reaches the writer.
pub(crate) trait Submit: Sync {
    /// Submits a command of Stripe's, under a key made of `key` if there is one.
    fn submit(
        &self,
        command: Command,
        key: Option<WorkKey>,
    ) -> impl Future<Output = Result<Outcome, CommandError>> + Send;
}

/// An idempotency key: what it names, the operation, and what the operation is about.
#[derive(Clone, Debug)]
pub(crate) struct WorkKey {
    pub(crate) text: String,
    pub(crate) operation: &'static str,
    pub(crate) path: String,
    pub(crate) content: String,
}

/// What became of an event.
#[derive(Debug)]
pub(crate) enum Worked {
    /// It is in the ledger, now or since before.
    Done(Option<Box<CreditedTopUp>>),
    /// Nothing to do.
    Ignored,
    /// What it concerns is not known yet.
    Waiting,
}

/// A top-up that an event credited.
#[derive(Debug)]
pub(crate) struct CreditedTopUp {
    pub(crate) top_up_id: TopUpId,
    pub(crate) wallet_id: WalletId,
    pub(crate) checkout: String,
    pub(crate) payment: String,
    pub(crate) amount: Money,
    /// The wallet after it, if this was the first time.
    pub(crate) balance: Option<Money>,
}

/// Why an event was not worked on to the end.
#[derive(Debug)]
pub(crate) enum WorkError {
    /// For now: the same event may come again.
    Later(ApiError),
    /// Somebody has to look.
    Refused(ApiError),
}

impl From<CommandError> for WorkError {
    fn from(error: CommandError) -> Self {
        match &error {
            CommandError::Rejected(rejection) if rejection.status() < 500 => Self::refused(rejection),
            _ => Self::Later(crate::http::command_error(&error)),
        }
    }
}

impl WorkError {
    fn refused(rejection: &Rejection) -> Self {
        Self::Refused(crate::http::command_error(&CommandError::Rejected(rejection.clone())))
    }

    fn invalid(message: &'static str) -> Self {
        Self::Refused(ApiError::invalid(message))
    }
}

fn not_usd() -> WorkError {
    WorkError::invalid("The currency is not USD.")
}

fn malformed() -> WorkError {
    WorkError::invalid("The event's object is not of the form that its type has.")
}

fn object<T: DeserializeOwned>(value: &Value) -> Result<T, WorkError> {
    T::deserialize(value).map_err(|_| malformed())
}

fn money(amount: i64, currency: &str) -> Result<Money, WorkError> {
    if currency != "usd" {
        return Err(not_usd());
    }
    cents(amount).ok_or_else(malformed)
}

/// The answer of a command whose effect may be there already.
fn worked(answer: Result<Outcome, CommandError>) -> Result<Worked, WorkError> {
    match answer {
        Ok(_) | Err(CommandError::Rejected(Rejection::AlreadyExists | Rejection::RefundClosed)) => {
            Ok(Worked::Done(None))
        }
        Err(CommandError::Rejected(Rejection::PaymentNotFound)) => Ok(Worked::Waiting),
        Err(error) => Err(error.into()),
    }
}

/// Works on an event.
pub(crate) async fn event(stripe: &Stripe, ledger: &impl Submit, event: &StripeEvent) -> Result<Worked, WorkError> {
    let at = event.occurred_at();
    match event.r#type.as_str() {
        "checkout.session.completed" | "checkout.session.async_payment_succeeded" => {
            let session: CheckoutSession = object(&event.data.object)
                .map_err(|_| WorkError::invalid("Invalid Stripe checkout completion event."))?;
            if session.payment_status.as_deref().is_some_and(|status| status != "paid") {
                return Ok(Worked::Ignored);
            }
            credit(ledger, &session, at).await
        }
        "checkout.session.async_payment_failed" => fail(ledger, &event.data.object, "the payment failed").await,
        "checkout.session.expired" => fail(ledger, &event.data.object, "the checkout expired").await,
        "charge.refunded" => refunded(stripe, ledger, &object(&event.data.object)?).await,
        "refund.failed" | "refund.updated" | "charge.refund.updated" => {
            let refund: Refund = object(&event.data.object)?;
            match (event.r#type.as_str(), refund.failure()) {
                ("refund.failed", failure) => {
                    let why = failure.unwrap_or_else(|| "failed".to_owned());
                    report_refund(ledger, &refund, Some(why), at).await
                }
                (_, Some(why)) => report_refund(ledger, &refund, Some(why), at).await,
                (_, None) => Ok(Worked::Ignored),
            }
        }
        "charge.dispute.created"
        | "charge.dispute.updated"
        | "charge.dispute.funds_withdrawn"
        | "charge.dispute.funds_reinstated"
        | "charge.dispute.closed" => disputed(ledger, &object(&event.data.object)?, at).await,
        // The movement of the balance posts it; this only says that there was one.
        kind if kind.starts_with("payout.") => Ok(Worked::Done(None)),
        _ => Ok(Worked::Ignored),
    }
}

fn top_up_of(session: &CheckoutSession) -> Option<TopUpId> {
    let named = session.metadata.as_ref().and_then(|metadata| metadata.get("top_up_id"));
    named.or(session.client_reference_id.as_ref())?.parse().ok()
}

fn unknown_top_up() -> WorkError {
    WorkError::Refused(ApiError::new(404, "invalid_request", "Stripe checkout top-up was not found."))
}

/// Credits the top-up of a checkout: once per payment, for ever, whoever repeats it.
async fn credit(ledger: &impl Submit, session: &CheckoutSession, at: Option<Timestamp>) -> Result<Worked, WorkError> {
    let invalid = || WorkError::invalid("Invalid Stripe checkout completion event.");
    let paid = session.amount_total.filter(|cents| *cents > 0).ok_or_else(invalid)?;
    if session.currency.as_deref() != Some("usd") {
        return Err(invalid());
    }
    let amount = cents(paid).ok_or_else(invalid)?;
    let top_up_id = top_up_of(session).ok_or_else(unknown_top_up)?;
    let payment = session.payment_intent.as_ref().map_or(session.id.as_str(), Reference::id).to_owned();
    // As an administrator's credit of this payment: one of both is the first.
    let key = WorkKey {
        text: format!("payment:{payment}"),
        operation: "credit_top_up",
        path: top_up_id.to_string(),
        content: payment.clone(),
    };
    let command = Command::CreditTopUp { top_up_id, payment, amount: Some(amount), occurred_at: at };
    match ledger.submit(command, Some(key)).await {
        Ok(outcome) => {
            let Event::TopUpCredited(credited) = &outcome.recorded.event else { return Err(malformed()) };
            if credited.amount != amount {
                return Err(amount_differs());
            }
            Ok(Worked::Done(Some(Box::new(CreditedTopUp {
                top_up_id,
                wallet_id: credited.wallet_id,
                checkout: session.id.clone(),
                payment: credited.payment.clone(),
                amount,
                balance: (!outcome.replayed).then_some(credited.balance.posted),
            }))))
        }
        Err(CommandError::Rejected(Rejection::TopUpNotFound)) => Err(unknown_top_up()),
        Err(CommandError::Rejected(Rejection::AmountMismatch { .. })) => Err(amount_differs()),
        Err(error) => Err(error.into()),
    }
}

fn amount_differs() -> WorkError {
    WorkError::invalid("Stripe checkout amount did not match the pending top-up.")
}

async fn fail(ledger: &impl Submit, value: &Value, why: &str) -> Result<Worked, WorkError> {
    let session: CheckoutSession = object(value)?;
    let Some(top_up_id) = top_up_of(&session) else { return Ok(Worked::Ignored) };
    match ledger.submit(Command::FailTopUp { top_up_id, reason: why.to_owned() }, None).await {
        Ok(_) => Ok(Worked::Done(None)),
        // Not ours, or ended before.
        Err(CommandError::Rejected(Rejection::TopUpNotFound)) => Ok(Worked::Ignored),
        Err(error) => Err(error.into()),
    }
}

/// Takes in every refund of a charge. Where the event does not list them, or not all, they are fetched as they are now.
async fn refunded(stripe: &Stripe, ledger: &impl Submit, charge: &Charge) -> Result<Worked, WorkError> {
    if charge.currency != "usd" {
        return Err(not_usd());
    }
    let payment = charge.payment_intent.as_ref().map_or(charge.id.as_str(), Reference::id);
    let listed = charge.refunds.as_ref().filter(|list| !list.has_more).map(|list| list.data.clone());
    let mut refunds = match (listed, &stripe.client) {
        (Some(refunds), _) => refunds,
        (None, Some(client)) => match client.refunds_of(payment).await {
            Ok(list) => list.data,
            Err(StripeError::Unknown) => return Err(WorkError::Later(unavailable())),
            Err(StripeError::Refused { .. }) => {
                return Err(WorkError::invalid("The refunds of this charge cannot be fetched."));
            }
        },
        (None, None) => {
            return Err(WorkError::invalid(
                "The event does not list its refunds, and without STRIPE_SECRET_KEY they cannot be fetched.",
            ));
        }
    };
    refunds.sort_by_key(|refund| refund.created);
    let mut worked = Worked::Done(None);
    for refund in &refunds {
        let refund = Refund {
            payment_intent: refund.payment_intent.clone().or_else(|| Some(Reference::Id(payment.to_owned()))),
            ..refund.clone()
        };
        if let Worked::Waiting = report_refund(ledger, &refund, refund.failure(), refund.created.map(seconds)).await? {
            worked = Worked::Waiting;
        }
    }
    Ok(worked)
}

async fn report_refund(
    ledger: &impl Submit,
    refund: &Refund,
    failed: Option<String>,
    at: Option<Timestamp>,
) -> Result<Worked, WorkError> {
    let amount = money(refund.amount, &refund.currency)?;
    let payment = refund.payment_intent.as_ref().or(refund.charge.as_ref()).ok_or_else(malformed)?;
    let report = RefundReport {
        own: refund.metadata.as_ref().and_then(|metadata| metadata.get("refund_id")?.parse().ok()),
        refund_id: RefundId(short_hash(&[b"stripe refund", refund.id.as_bytes()])),
        reference: refund.id.clone(),
        payment: payment.id().to_owned(),
        amount,
        failed,
        occurred_at: at,
    };
    worked(ledger.submit(Command::ReportRefund(Box::new(report)), None).await)
}

async fn disputed(ledger: &impl Submit, dispute: &Dispute, at: Option<Timestamp>) -> Result<Worked, WorkError> {
    let phase = match dispute.status.as_str() {
        "won" => DisputePhase::Won,
        "lost" => DisputePhase::Lost,
        // An early warning moves nothing; neither does its end.
        status if status.starts_with("warning_") => return Ok(Worked::Ignored),
        _ => DisputePhase::Opened,
    };
    let payment = dispute.payment_intent.as_ref().or(dispute.charge.as_ref()).ok_or_else(malformed)?;
    let report = DisputeReport {
        dispute: dispute.id.clone(),
        payment: payment.id().to_owned(),
        amount: money(dispute.amount, &dispute.currency)?,
        reason: dispute.reason.clone().unwrap_or_else(|| "general".to_owned()),
        phase,
        occurred_at: at,
    };
    worked(ledger.submit(Command::ReportDispute(Box::new(report)), None).await)
}

/// Works on a movement of Stripe's balance. One without a template is refused, never guessed.
pub(crate) async fn movement(ledger: &impl Submit, movement: &BalanceTransaction) -> Result<Worked, WorkError> {
    let known = TransactionCategory::ALL.into_iter().find(|known| known.name() == movement.reporting_category);
    let category = known.ok_or_else(|| WorkError::invalid("No journal entry is known for this reporting_category."))?;
    if movement.amount.checked_sub(movement.fee) != Some(movement.net) {
        return Err(WorkError::invalid("amount - fee is not net."));
    }
    let report = TransactionReport {
        transaction: movement.id.clone(),
        category,
        source: movement.source.as_ref().map(|source| source.id().to_owned()),
        payment: movement.source.as_ref().and_then(Reference::payment).map(str::to_owned),
        amount: money(movement.amount, &movement.currency)?,
        fee: money(movement.fee, &movement.currency)?,
        occurred_at: seconds(movement.created),
    };
    let key = WorkKey {
        text: format!("transaction:{}", movement.id),
        operation: "record_transaction",
        path: movement.id.clone(),
        content: format!("{} {} {}", movement.reporting_category, movement.amount, movement.fee),
    };
    worked(ledger.submit(Command::RecordTransaction(Box::new(report)), Some(key)).await)
}

/// 503: Stripe did not answer.
pub(crate) fn unavailable() -> ApiError {
    ApiError::unavailable("payment_provider_unavailable", StripeError::Unknown.to_string())
}

/// Something that Stripe told us, once it can be read.
#[derive(Debug)]
pub(crate) enum Told {
    Event(Box<StripeEvent>),
    Movement(Box<BalanceTransaction>),
}

impl Told {
    /// Reads an event or, where `object` says so, a movement of the balance.
    pub(crate) fn read(body: &[u8]) -> Result<Self, ApiError> {
        #[derive(serde::Deserialize)]
        struct Kind {
            #[serde(default)]
            object: Option<String>,
        }
        let invalid = |_| ApiError::invalid("Invalid Stripe event.");
        let kind: Kind = serde_json::from_slice(body).map_err(invalid)?;
        if kind.object.as_deref() == Some("balance_transaction") {
            return serde_json::from_slice(body).map(|movement| Self::Movement(Box::new(movement))).map_err(invalid);
        }
        serde_json::from_slice(body).map(|event| Self::Event(Box::new(event))).map_err(invalid)
    }

    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Event(event) => &event.id,
            Self::Movement(movement) => &movement.id,
        }
    }

    /// Works on it.
    pub(crate) async fn work(&self, stripe: &Stripe, ledger: &impl Submit) -> Result<Worked, WorkError> {
        match self {
            Self::Event(told) => event(stripe, ledger, told).await,
            Self::Movement(told) => movement(ledger, told).await,
        }
    }

    /// What is stored of it.
    pub(crate) fn letter<'a>(&'a self, payment: Option<&'a str>, body: &'a [u8]) -> Letter<'a> {
        match self {
            Self::Event(event) => Letter {
                id: &event.id,
                kind: &event.r#type,
                payment,
                created_at: event.occurred_at().unwrap_or_else(Timestamp::now),
                body,
            },
            Self::Movement(movement) => Letter {
                id: &movement.id,
                kind: "balance_transaction",
                payment,
                created_at: seconds(movement.created),
                body,
            },
        }
    }

    pub(crate) fn payment(&self) -> Option<String> {
        match self {
            Self::Event(event) => event.payment(),
            Self::Movement(movement) => movement.source.as_ref().and_then(Reference::payment).map(str::to_owned),
        }
    }
}

/// How a result is noted.
pub(crate) fn state_of(result: &Result<Worked, WorkError>) -> (WorkState, Option<&ApiError>) {
    match result {
        Ok(Worked::Done(_)) => (WorkState::Done, None),
        Ok(Worked::Ignored) => (WorkState::Ignored, None),
        Ok(Worked::Waiting) => (WorkState::Waiting, None),
        Err(WorkError::Later(error)) => (WorkState::Received, Some(error)),
        Err(WorkError::Refused(error)) => (WorkState::Refused, Some(error)),
    }
}
