//! The gateway in a process: its port to the writer, its feed, who it is, and the sandbox provider for those who have none.

mod takeover;

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use modelfaucet_command::directory::Follower;
use modelfaucet_command::domain::{
    self, CallEnding, CallRequest, Caller, Command, OnShortfall, Payer, Rejection, State,
};
use modelfaucet_command::writer::core::Outcome;
use modelfaucet_command::writer::{CommandError, Ledger, Request};
use modelfaucet_gateway::options::{Options, Platform};
use modelfaucet_gateway::port::{
    BeginCall, Begun, EndCall, Ended, Ending, LocalUsage, MarkAttempt, PortError, Reported, StartAttempt, attempt_key,
    end_key,
};
use modelfaucet_gateway::read_model::{RateCard, ReadModel, Session};
use modelfaucet_gateway::sandbox_provider::{self, Book};
use modelfaucet_gateway::{Gateway, LeftHold};
use modelfaucet_schema::event::{
    AttemptStarted, CallOutcome, DisableReason, Event, ReleaseReason, Route, ServiceTier, Status,
};
use modelfaucet_schema::ids::{CredentialId, EpochId, GatewayId, HoldId, SessionId, UsageId};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::keys::Keeper;
use crate::serve::{Limits, serve};

/// The writer of this process as the gateway's command side.
struct InProcess(Ledger);

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

/// Feeds the gateway's read model with what is committed, and finds what an earlier life of the gateway has left open.
#[derive(Debug)]
pub(crate) struct Feed {
    gateway: GatewayId,
    model: Arc<ReadModel>,
    /// Holds of our own earlier life.
    left: Mutex<Vec<LeftHold>>,
    /// Open holds of other gateways.
    foreign: Mutex<HashMap<HoldId, (GatewayId, LeftHold)>>,
}

impl Feed {
    pub(crate) fn new(gateway: GatewayId) -> Arc<Self> {
        Arc::new(Self { gateway, model: Arc::default(), left: Mutex::default(), foreign: Mutex::default() })
    }

    /// The open holds of other gateways, by gateway.
    fn foreign_holds(&self) -> HashMap<GatewayId, Vec<LeftHold>> {
        let mut holds: HashMap<_, Vec<_>> = HashMap::new();
        for (gateway, hold) in self.foreign.lock().values() {
            holds.entry(*gateway).or_default().push(hold.clone());
        }
        holds
    }

    fn forget(&self, hold: HoldId) {
        self.foreign.lock().remove(&hold);
    }
}

impl Follower for Feed {
    fn reset(&self, state: &State) {
        for (id, app) in state.apps.iter() {
            self.model.set_app(*id, app.is_active());
            self.model.set_developer(*id, app.developer_id);
        }
        for (_, credential) in state.credentials.iter() {
            if credential.status == Status::Active {
                self.model.add_key(Arc::clone(&credential.added));
            }
        }
        for ((app, key), feature) in state.features.iter() {
            let policy = serde_json::from_str(&feature.policy).unwrap_or_default();
            self.model.set_feature(*app, key, feature.feature_id, &policy);
        }
        for (id, card) in state.cards.iter() {
            self.model.publish_card(*id, RateCard::new(card.models().iter().cloned()));
        }
        if let Some(id) = state.active_card.get(&()) {
            self.model.activate_card(*id, state.last_recorded_at());
        }
        for (id, session) in state.sessions.iter() {
            let known = Session {
                session_id: *id,
                app_id: session.app_id,
                user_id: session.user_id,
                wallet_id: session.wallet_id,
                feature_key: session.feature_key.clone(),
                expires_at: session.expires_at,
            };
            self.model.open_session(session.token_hash, known);
        }
        let (mut left, mut foreign) = (self.left.lock(), self.foreign.lock());
        left.clear();
        foreign.clear();
        for (id, hold) in state.holds.iter() {
            let (Some(gateway), Some(session_id), Some(sent)) = (hold.gateway, hold.call.session_id, &hold.sent) else {
                continue;
            };
            let hold = LeftHold {
                hold_id: *id,
                session_id,
                call: hold.call.as_ref().clone(),
                rate_card_id: hold.rate_card_id,
                credential: sent.credential,
                input: sent.input,
                mark: sent.mark,
            };
            if gateway == self.gateway {
                left.push(hold);
            } else {
                foreign.insert(*id, (gateway, hold));
            }
        }
    }

    fn take_in(&self, event: &Event) {
        match event {
            Event::HoldPlaced(placed) => {
                let other = placed.dispatch.as_ref().map(|dispatch| dispatch.gateway).filter(|id| *id != self.gateway);
                if let (Some(gateway), Some(hold)) = (other, LeftHold::of(placed)) {
                    self.foreign.lock().insert(placed.hold_id, (gateway, hold));
                }
            }
            Event::AttemptStarted(event) => {
                if let Some((_, hold)) = self.foreign.lock().get_mut(&event.hold_id) {
                    hold.start(event);
                }
            }
            Event::AttemptProgressed(event) => {
                if let Some((_, hold)) = self.foreign.lock().get_mut(&event.hold_id) {
                    hold.mark = Some(event.usage);
                }
            }
            Event::HoldCaptured(event) => self.forget(event.hold_id),
            Event::HoldReleased(event) => self.forget(event.hold_id),
            Event::HoldExpired(event) => self.forget(event.hold_id),
            _ => self.model.take_in(event),
        }
    }
}

/// Who this gateway is: an id kept in the data directory, whose file is locked as long as the process lives, so that no two
/// processes own the same holds.
pub(crate) struct Identity {
    pub(crate) gateway: GatewayId,
    _lock: File,
}

impl Identity {
    /// The kept id, or a new one.
    pub(crate) fn open(data_dir: &Path) -> Result<Self, Failure> {
        std::fs::create_dir_all(data_dir)?;
        let path = data_dir.join("gateway_id");
        let mut file =
            OpenOptions::new().read(true).write(true).create(true).truncate(false).mode(0o600).open(&path)?;
        rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive).map_err(|_| {
            let message = format!("another gateway uses {}; give this one a --data-dir of its own", path.display());
            Failure::new(Exit::Config, message)
        })?;
        let mut text = String::new();
        file.read_to_string(&mut text)?;
        let gateway = if text.is_empty() {
            let gateway = GatewayId::generate();
            file.rewind()?;
            file.write_all(format!("{gateway}\n").as_bytes())?;
            file.sync_all()?;
            gateway
        } else {
            let wrong = || Failure::new(Exit::Config, format!("{} holds no gateway id; remove it", path.display()));
            text.trim().parse().map_err(|_| wrong())?
        };
        Ok(Self { gateway, _lock: file })
    }
}

/// Starts the gateway over a writer of this process, gives back what its earlier life has left, and watches over other gateways.
pub(crate) async fn start(
    config: &Config,
    identity: &Identity,
    feed: &Arc<Feed>,
    ledger: Ledger,
    platform: Platform,
    database: &tokio_postgres::Config,
    keeper: Option<&Keeper>,
) -> Result<Gateway, Failure> {
    let options = Options {
        gateway: identity.gateway,
        epoch: EpochId::generate(),
        platform,
        timeouts: config.gateway_timeouts()?,
        limits: config.gateway_limits()?,
    };
    let keys = keeper.map(Keeper::provider_keys);
    let gateway = Gateway::new(options, Arc::new(InProcess(ledger)), Arc::clone(&feed.model), keys)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let left = std::mem::take(&mut *feed.left.lock());
    gateway.recover(left).await;
    takeover::start(database.clone(), Arc::clone(feed), gateway.clone(), config.takeover_after()?).await;
    Ok(gateway)
}

/// The sandbox provider in this process: made-up answers on a port of its own, on loopback.
pub(crate) async fn sandbox(data_dir: &Path, stop: watch::Receiver<bool>) -> Result<Platform, Failure> {
    let listener = TcpListener::bind(SocketAddr::from(([127, 0, 0, 1], 0))).await?;
    let address = listener.local_addr()?;
    let book = Book::open(&data_dir.join("sandbox-provider.jsonl"))?;
    tokio::spawn(serve(listener, sandbox_provider::router(book), Limits::new(10_000, 10_000), stop));
    let base_url = format!("http://{address}").parse().map_err(|error| Failure::new(Exit::Config, error))?;
    Ok(Platform { base_url, key: None })
}
