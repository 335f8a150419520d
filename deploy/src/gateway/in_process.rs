//! The writer of this process as the gateway's command side.

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use modelfaucet_command::domain::{self, CallEnding, CallRequest, Caller, Command, OnShortfall, Payer, Rejection};
use modelfaucet_command::writer::core::Outcome;
use modelfaucet_command::writer::{CommandError, Ledger, Request};
use modelfaucet_gateway::port::{
    BeginCall, Begun, EndCall, Ended, Ending, LocalUsage, MarkAttempt, PortError, Reported, StartAttempt, attempt_key,
    end_key,
};
use modelfaucet_schema::event::{AttemptStarted, CallOutcome, DisableReason, Event, ReleaseReason, Route, ServiceTier};
use modelfaucet_schema::ids::{CredentialId, HoldId, SessionId, UsageId};

/// The writer.
#[derive(Clone)]
pub(crate) struct InProcess(pub(crate) Ledger);

impl modelfaucet_gateway::port::Ledger for InProcess {
    fn begin(&self, request_id: &str, begin: BeginCall) -> BoxFuture<'_, Result<Begun, PortError>> {
        let request_id = request_id.to_owned();
        let command = Command::BeginCall(Box::new(domain::BeginCall {
            hold_id: begin.hold_id,
            call: CallRequest {
                payer: Payer::Session(begin.session_id),
                feature_key: begin.feature_key,
                route: begin.route,
                provider: Some(begin.provider),
                model: begin.model,
                service_tier: begin.service_tier,
            },
            min_bound: begin.min_bound,
            expires_in: begin.expires_in,
            dispatch: begin.dispatch,
        }));
        let request = Request { caller: Caller::Gateway(begin.session_id), command, key: begin.key };
        async move {
            let outcome = self.0.submit(&request_id, request).await.map_err(refused)?;
            match &outcome.recorded.event {
                Event::HoldPlaced(placed) => Ok(Begun {
                    placed: placed.clone(),
                    position: outcome.recorded.position,
                    replayed: outcome.replayed,
                }),
                other => Err(unexpected(other)),
            }
        }
        .boxed()
    }

    fn start(&self, request_id: &str, start: StartAttempt) -> BoxFuture<'_, Result<AttemptStarted, PortError>> {
        let request_id = request_id.to_owned();
        let key = Some(attempt_key(start.hold_id, start.number));
        let command = Command::StartAttempt(Box::new(domain::StartAttempt {
            hold_id: start.hold_id,
            gateway: start.gateway,
            number: start.number,
            ended: start.ended,
            route: start.route,
            provider: start.provider,
            model: start.model,
            service_tier: start.service_tier,
            bound: start.bound,
            min_bound: start.min_bound,
            origin: start.origin,
            credential: start.credential,
        }));
        let request = Request { caller: Caller::Gateway(start.session_id), command, key };
        async move {
            let outcome = self.0.submit(&request_id, request).await.map_err(refused)?;
            match &outcome.recorded.event {
                Event::AttemptStarted(started) => Ok(started.clone()),
                other => Err(unexpected(other)),
            }
        }
        .boxed()
    }

    fn mark(&self, request_id: &str, mark: MarkAttempt) -> BoxFuture<'_, Result<(), PortError>> {
        let request_id = request_id.to_owned();
        let command = Command::MarkAttempt(Box::new(domain::MarkAttempt {
            hold_id: mark.hold_id,
            gateway: mark.gateway,
            number: mark.number,
            bytes: mark.bytes,
            usage: mark.usage,
            counter: mark.counter,
        }));
        let request = Request { caller: Caller::Gateway(mark.session_id), command, key: None };
        async move { self.0.submit(&request_id, request).await.map(drop).map_err(refused) }.boxed()
    }

    fn end(&self, request_id: &str, end: EndCall) -> BoxFuture<'_, Result<Ended, PortError>> {
        let request_id = request_id.to_owned();
        let ending = match end.ending {
            Ending::Capture { usage, service_tier, served_model, provider_request_id } => {
                CallEnding::Capture { usage, service_tier, served_model, provider_request_id }
            }
            Ending::Release(reason) => CallEnding::Release(reason),
        };
        let command = domain::EndCall { hold_id: end.hold_id, ending, outcome: end.outcome };
        let caller = Caller::Gateway(end.session_id);
        async move { self.submit_end(&request_id, caller, command).await }.boxed()
    }

    fn report(&self, request_id: &str, usage: LocalUsage) -> BoxFuture<'_, Result<Reported, PortError>> {
        let request_id = request_id.to_owned();
        let command = Command::RecordUsage {
            usage_id: UsageId::generate(),
            call: CallRequest {
                payer: Payer::Session(usage.session_id),
                feature_key: usage.feature_key,
                route: Route::Local,
                provider: Some(usage.provider),
                model: usage.model,
                service_tier: ServiceTier::Standard,
            },
            usage: usage.usage,
            on_shortfall: OnShortfall::Refuse,
            provider_request_id: Some(usage.label),
            occurred_at: usage.occurred_at,
        };
        let request = Request { caller: Caller::Gateway(usage.session_id), command, key: Some(usage.key) };
        async move {
            let outcome = self.0.submit(&request_id, request).await.map_err(refused)?;
            match &outcome.recorded.event {
                Event::UsageRecorded(recorded) => Ok(Reported {
                    recorded: recorded.clone(),
                    position: outcome.recorded.position,
                    replayed: outcome.replayed,
                }),
                other => Err(unexpected(other)),
            }
        }
        .boxed()
    }

    /// Nobody may end the hold of a gateway but itself, so this is refused, unless the key of the ending was used: then it gets the
    /// ending, as every repeat does.
    fn ending(&self, _: SessionId, hold_id: HoldId) -> BoxFuture<'_, Result<Option<Ended>, PortError>> {
        let ending = CallEnding::Release(ReleaseReason::Cancelled);
        let command = domain::EndCall { hold_id, ending, outcome: CallOutcome::default() };
        async move {
            match self.submit_end("look-up", Caller::Public, command).await {
                Ok(ended) => Ok(Some(ended)),
                Err(PortError::Refused { .. }) => Ok(None),
                Err(error) => Err(error),
            }
        }
        .boxed()
    }

    fn suspend(
        &self,
        request_id: &str,
        session_id: SessionId,
        credential_id: CredentialId,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        let request_id = request_id.to_owned();
        let command = Command::DisableCredential { credential_id, reason: DisableReason::Tripwire };
        let request = Request { caller: Caller::Gateway(session_id), command, key: None };
        async move {
            match self.0.submit(&request_id, request).await {
                Ok(_) | Err(CommandError::Rejected(Rejection::AlreadyDisabled)) => Ok(()),
                Err(error) => Err(refused(error)),
            }
        }
        .boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, ()> {
        self.0.catch_up().boxed()
    }

    fn is_ready(&self) -> bool {
        self.0.is_ready()
    }
}

impl InProcess {
    async fn submit_end(&self, request_id: &str, caller: Caller, end: domain::EndCall) -> Result<Ended, PortError> {
        let key = Some(end_key(end.hold_id));
        let request = Request { caller, command: Command::EndCall(Box::new(end)), key };
        ended(&self.0.submit(request_id, request).await.map_err(refused)?)
    }
}

fn ended(outcome: &Outcome) -> Result<Ended, PortError> {
    let position = outcome.recorded.position;
    match &outcome.recorded.event {
        Event::HoldCaptured(event) => Ok(Ended::Captured(Box::new(event.clone()), position)),
        Event::LateUsageCaptured(event) => Ok(Ended::CapturedLate(Box::new(event.clone()), position)),
        Event::HoldReleased(event) => Ok(Ended::Released(Box::new(event.clone()), position)),
        other => Err(unexpected(other)),
    }
}

/// Cannot happen, since the fingerprint of the key names the operation.
fn unexpected(event: &Event) -> PortError {
    tracing::error!(event = event.name(), "an operation was answered by another operation's event");
    PortError::Refused {
        status: 500,
        code: "internal_error",
        message: "The request could not be processed.".to_owned(),
    }
}

fn refused(error: CommandError) -> PortError {
    match error {
        CommandError::Rejected(rejection) => {
            let message = rejection.to_string();
            match rejection {
                Rejection::InsufficientBalance { available, required } => {
                    PortError::CannotPay { message, available, required, later: false }
                }
                Rejection::InFlightHolds { available, required } => {
                    PortError::CannotPay { message, available, required, later: true }
                }
                other => PortError::Refused { status: other.status(), code: other.code(), message },
            }
        }
        CommandError::Overloaded => PortError::Overloaded,
        CommandError::Unavailable => PortError::Unavailable,
        CommandError::InDoubt => PortError::InDoubt,
    }
}
