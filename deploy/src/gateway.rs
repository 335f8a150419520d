//! The gateway in a process: its port to the command side, its feed, who it is, and the sandbox provider for those who have none.

mod answers;
mod holds;
mod in_process;
mod remote;
mod server;
mod takeover;
mod wire;

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Seek as _, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::Path;
use std::sync::Arc;

use futures_util::FutureExt as _;
use modelfaucet_command::directory::Follower;
use modelfaucet_command::domain::State;
use modelfaucet_command::writer::Ledger;
use modelfaucet_gateway::fault::{self, Fault};
use modelfaucet_gateway::limit::RateLimits;
use modelfaucet_gateway::options::{Options, Platform};
use modelfaucet_gateway::port::AnswerStore;
use modelfaucet_gateway::read_model::{RateCard, ReadModel, Session};
use modelfaucet_gateway::sandbox_provider::{self, Book};
use modelfaucet_gateway::{Gateway, KeptAnswers, LeftHold, Sealer};
use modelfaucet_schema::event::{Event, Status};
use modelfaucet_schema::ids::{EpochId, GatewayId};
use modelfaucet_schema::token::TokenHash;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_postgres::Config as DatabaseConfig;
use utoipa_axum::router::OpenApiRouter;

pub(crate) use self::holds::OpenHolds;
pub(crate) use self::remote::Remote;
pub(crate) use self::takeover::Reports;

use self::answers::AnswerTable;
use self::in_process::InProcess;
use self::server::Server;
use self::takeover::Watch;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::keys::Keeper;
use crate::serve::{Limits, serve};

/// Feeds the gateway's read model with what is committed.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    model: Arc<ReadModel>,
    holds: Arc<OpenHolds>,
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
        self.holds.reset(state);
    }

    fn take_in(&self, event: &Event) {
        match event {
            Event::HoldPlaced(_) | Event::HoldCaptured(_) | Event::HoldReleased(_) | Event::HoldExpired(_) => {
                self.holds.take_in(event);
            }
            Event::AttemptStarted(_) | Event::AttemptProgressed(_) => self.holds.take_in(event),
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

/// What a gateway shares with others.
pub(crate) struct Shared {
    /// Who counts for the rate limits.
    pub(crate) rate_limits: RateLimits,
    /// What seals kept answers; absent: they are in memory only.
    pub(crate) answers_key: Option<SecretString>,
    /// What opens the provider keys of users and developers; absent: none of their keys is used.
    pub(crate) keeper: Option<Keeper>,
}

impl Shared {
    fn options(
        self,
        config: &Config,
        gateway: GatewayId,
        platform: Platform,
        store: Arc<dyn AnswerStore>,
    ) -> Result<Options, Failure> {
        Ok(Options {
            gateway,
            epoch: EpochId::generate(),
            platform,
            timeouts: config.gateway_timeouts()?,
            limits: config.gateway_limits()?,
            rate_limits: self.rate_limits,
            kept_answers: self.answers_key.map(|key| KeptAnswers { store, sealer: Sealer::new(key) }),
        })
    }
}

fn answer_table(config: &Config, database: &DatabaseConfig) -> Result<AnswerTable, Failure> {
    AnswerTable::open(database, config.answers_life()?).map_err(|error| Failure::new(Exit::Config, error))
}

/// Starts the gateway over a writer of this process, gives back what its earlier life has left, and watches over other gateways.
pub(crate) async fn start(
    config: &Config,
    identity: &Identity,
    feed: &Feed,
    ledger: Ledger,
    platform: Platform,
    shared: Shared,
    (database, reports): (&DatabaseConfig, Arc<Reports>),
) -> Result<Gateway, Failure> {
    let keys = shared.keeper.as_ref().map(Keeper::provider_keys);
    let options = shared.options(config, identity.gateway, platform, Arc::new(answer_table(config, database)?))?;
    let gateway = Gateway::new(options, Arc::new(InProcess(ledger)), Arc::clone(&feed.model), keys)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    arm_faults()?;
    gateway.recover(feed.holds.of(identity.gateway)).await;
    let recovering = gateway.clone();
    let watch = Watch {
        database: database.clone(),
        own: Some(identity.gateway),
        reports,
        holds: Arc::clone(&feed.holds),
        after: config.takeover_after()?,
        recover: Arc::new(move |left| {
            let gateway = recovering.clone();
            async move { gateway.recover(left).await }.boxed()
        }),
    };
    watch.start().await;
    Ok(gateway)
}

/// Starts the gateway over the command side at another address: no writer and no database of its own.
pub(crate) async fn start_remote(
    config: &Config,
    identity: &Identity,
    platform: Platform,
    shared: Shared,
    remote: &Remote,
) -> Result<Gateway, Failure> {
    let temporary = |error: &dyn std::fmt::Display| Failure::new(Exit::Temporary, error);
    let model: Arc<ReadModel> = Arc::default();
    // Before anything else: whoever hears of us does not end our calls.
    remote.alive(identity.gateway).await.map_err(|error| temporary(&error))?;
    remote.read_to_end(&model).await.map_err(|error| temporary(&error))?;
    let keys = shared.keeper.as_ref().map(Keeper::provider_keys);
    let options = shared.options(config, identity.gateway, platform, Arc::new(remote.clone()))?;
    let gateway = Gateway::new(options, Arc::new(remote.clone()), Arc::clone(&model), keys)
        .map_err(|error| Failure::new(Exit::Config, error))?;
    let left = remote.left(identity.gateway).await.map_err(|error| temporary(&error))?;
    gateway.recover(left).await;
    tokio::spawn(remote.clone().follow(model));
    tokio::spawn(remote.clone().stay_alive(identity.gateway, config.takeover_after()? / 6));
    Ok(gateway)
}

/// The way to the command side that `COMMAND_URL` names; `None` if it names none.
pub(crate) fn remote(config: &Config) -> Result<Option<Remote>, Failure> {
    let Some(url) = config.command_url()? else { return Ok(None) };
    let token = Config::required("GATEWAY_TOKEN", config.gateway_token()?)?;
    Remote::new(&url, &token).map(Some).map_err(|error| Failure::new(Exit::Config, error))
}

/// The routes for gateways without a database, if there is a token for them.
pub(crate) fn serve_gateways(
    config: &Config,
    ledger: &Ledger,
    feed: &Feed,
    reports: &Arc<Reports>,
    database: &DatabaseConfig,
) -> Result<Option<OpenApiRouter>, Failure> {
    let Some(token) = config.gateway_token()? else { return Ok(None) };
    let answers = answer_table(config, database)?;
    let ledger = InProcess(ledger.clone());
    let server = Server::new(ledger, Arc::clone(&feed.holds), Arc::clone(reports), answers, TokenHash::of(&token));
    Ok(Some(server.router()))
}

/// Watches over gateways from a process that has none.
pub(crate) async fn watch(
    config: &Config,
    ledger: &Ledger,
    feed: &Feed,
    reports: &Arc<Reports>,
    database: &DatabaseConfig,
) -> Result<(), Failure> {
    let (patience, policy) = (config.gateway_timeouts()?.hold_life(), config.gateway_limits()?.lost);
    let prices = Arc::clone(&feed.model);
    let ledger = InProcess(ledger.clone());
    let watch = Watch {
        database: database.clone(),
        own: None,
        reports: Arc::clone(reports),
        holds: Arc::clone(&feed.holds),
        after: config.takeover_after()?,
        recover: Arc::new(move |left: Vec<LeftHold>| {
            let (ledger, prices) = (ledger.clone(), Arc::clone(&prices));
            async move { modelfaucet_gateway::recover(&ledger, patience, policy, &prices, left).await }.boxed()
        }),
    };
    watch.start().await;
    Ok(())
}

/// Faults of tests, in builds for tests only.
fn arm_faults() -> Result<(), Failure> {
    if cfg!(debug_assertions)
        && let Ok(text) = std::env::var("MODELFAUCET_TEST_FAULTS")
    {
        let faults = text.split(',').filter(|fault| !fault.is_empty()).map(str::parse::<Fault>);
        let faults: Result<Vec<_>, _> = faults.collect();
        fault::arm(faults.map_err(|error| Failure::new(Exit::Config, error))?);
    }
    Ok(())
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
