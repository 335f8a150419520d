//! One role per process: the write side, the read API, the projector.

use std::sync::Arc;

use modelfaucet_command::http::Api;
use modelfaucet_command::vault::Vault;
use modelfaucet_command::writer::{self, Ledger, WriterOptions};
use modelfaucet_gateway::Gateway;
use modelfaucet_gateway::limit::RateLimits;
use modelfaucet_gateway::sandbox_provider::Book;
use modelfaucet_projector::Projector;
use modelfaucet_projector::broker::BrokerOptions;
use modelfaucet_projector::relay::Relay;
use modelfaucet_projector::subscription::Subscription;
use modelfaucet_query::{QueryOptions, QueryState};
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::AccessLog;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::token::TokenHash;
use secrecy::SecretString;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{JoinError, JoinHandle};
use utoipa_axum::router::OpenApiRouter;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::keys::Keeper;
use crate::log_feed::{self, LogFeed};
use crate::serve::{Limits, serve};
use crate::{app, database, gateway, heads, payments};

/// The write side alone.
pub(crate) async fn command(config: &Config) -> Result<(), Failure> {
    let database = config.required_database()?;
    database::check(&database, ServiceRole::Command).await?;
    heads::guard(config, &database).await?;
    let admin = Config::required("ADMIN_TOKEN", config.admin_token()?)?;
    let user_key = Config::required("USER_ID_HMAC_KEY", config.user_key()?)?;
    let keeper = Keeper::of(config).await?;
    let edge = config.edge(config.rate_limits("command")?, false)?;
    let listener = bind(config).await?;
    let metrics = app::install_metrics()?;
    let feed = Arc::new(gateway::Feed::default());
    let reports: Arc<gateway::Reports> = Arc::default();
    let serves_gateways = config.gateway_token()?.is_some();
    let access = AccessLog::new(database.clone());
    let options = WriterOptions {
        queue: config.queue()?,
        snapshot_every: config.snapshot_every()?,
        followers: if serves_gateways { vec![feed.clone()] } else { Vec::new() },
        ..WriterOptions::new(database.clone())
    };
    let (ledger, mut writer) = writer::start(options).await?;
    let mut routes = log_routes(config, &ledger, &database, &admin)?;
    if let Some(for_gateways) = gateway::serve_gateways(config, &ledger, &feed, &reports, &database)? {
        routes = routes.merge(for_gateways);
        gateway::watch(config, &ledger, &feed, &reports, &database).await?;
    }
    let api = Api {
        ledger: ledger.clone(),
        admin_token: TokenHash::of(&admin),
        access,
        user_key: user_key.into(),
        session_ttl: config.session_ttl()?,
        gateway_base_url: config.gateway_base_url(listener.local_addr()?)?.into(),
        vault: keeper.clone().map(|keeper| Arc::new(keeper) as Arc<dyn Vault>),
        stripe: payments::stripe(config, &database).await?,
        payout_providers: payments::payout_providers(config)?,
        payout_threshold: config.payout_threshold()?,
    };
    if let Some(keeper) = keeper {
        tokio::spawn(keeper.remove_strays(ledger.clone()));
    }
    let routes = routes.merge(modelfaucet_command::http::router(api));
    let router = app::build(
        "modelfaucet-command",
        routes,
        app::Checks { ledger: Some(ledger), ..app::Checks::default() },
        edge,
        metrics,
    );
    tokio::select! {
        result = until_interrupted(config, listener, router) => result,
        ended = &mut writer => Err(match ended {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(_) => Failure::new(Exit::Temporary, "the writer has ended"),
        }),
    }
}

/// The read API alone.
pub(crate) async fn query(config: &Config) -> Result<(), Failure> {
    let database = config.required_database()?;
    database::check(&database, ServiceRole::Query).await?;
    let admin = Config::required("ADMIN_TOKEN", config.admin_token()?)?;
    let edge = config.edge(config.rate_limits("query")?, false)?;
    let listener = bind(config).await?;
    let metrics = app::install_metrics()?;
    let query = QueryState::connect(QueryOptions {
        pool_size: config.query_pool()?,
        max_wait: config.min_position_wait()?,
        ..QueryOptions::new(database, TokenHash::of(&admin), config.gateway_base_url(listener.local_addr()?)?)
    })
    .await
    .map_err(database::unreachable)?;
    tokio::spawn(modelfaucet_query::show_figures(query.clone()));
    let routes = modelfaucet_query::router(query.clone());
    let checks = app::Checks { query: Some(query), ..app::Checks::default() };
    let router = app::build("modelfaucet-query", routes, checks, edge, metrics);
    until_interrupted(config, listener, router).await
}

/// The projector alone, with the relay if there is a broker; it serves probes and metrics only.
pub(crate) async fn projector(config: &Config) -> Result<(), Failure> {
    let database = config.required_database()?;
    database::check(&database, ServiceRole::Projector).await?;
    let (broker, feeding) = (config.broker()?, config.projector_broker()?);
    let edge = config.edge(RateLimits::default(), false)?;
    let listener = bind(config).await?;
    let metrics = app::install_metrics()?;
    let mut projector = Projector::connect(database.clone(), vec![ShardId(0)]).await?;
    let (stop, stopped) = watch::channel(false);
    // Only messages of the broker wake it here; otherwise it looks every few milliseconds.
    let (wake, woken) = watch::channel(Position::START);
    let _receiving = feeding.map(|options| {
        let subscription = Subscription::new(ShardId(0));
        projector = projector.clone().with_subscription(Arc::clone(&subscription));
        tokio::spawn(subscription.run(options, wake.clone(), stopped.clone()))
    });
    let relaying = relay_beside(broker, database, woken.clone(), stopped.clone());
    let mut projecting = tokio::spawn(projector.run(woken, stopped));
    let router = app::build("modelfaucet-projector", OpenApiRouter::new(), app::Checks::default(), edge, metrics);
    let result = tokio::select! {
        result = until_interrupted(config, listener, router) => result,
        // A projector that broke off must not look like one that has nothing to do.
        ended = &mut projecting => {
            let why = ended.err().map_or_else(String::new, |error| format!(": {error}"));
            return Err(Failure::new(Exit::Temporary, format!("the projector has ended{why}")));
        }
        error = broke_off(relaying) => return Err(error),
    };
    let _gone = stop.send(true);
    let _ended = projecting.await;
    result
}

/// The relay alone; it serves probes and metrics only.
pub(crate) async fn relay(config: &Config) -> Result<(), Failure> {
    let database = config.required_database()?;
    database::check(&database, ServiceRole::Projector).await?;
    let broker = config.required_broker()?;
    let edge = config.edge(RateLimits::default(), false)?;
    let listener = bind(config).await?;
    let metrics = app::install_metrics()?;
    let (stop, stopped) = watch::channel(false);
    // Nobody wakes it here: it looks every few milliseconds.
    let (_wake, woken) = watch::channel(Position::START);
    let mut relaying = tokio::spawn(Relay::new(database, vec![ShardId(0)], broker).run(woken, stopped));
    let router = app::build("modelfaucet-relay", OpenApiRouter::new(), app::Checks::default(), edge, metrics);
    let result = tokio::select! {
        result = until_interrupted(config, listener, router) => result,
        error = broke_off(Some(&mut relaying)) => return Err(error),
    };
    let _gone = stop.send(true);
    let _ended = relaying.await;
    result
}

/// The relay beside something else, if there is a broker.
pub(crate) fn relay_beside(
    broker: Option<BrokerOptions>,
    database: tokio_postgres::Config,
    woken: watch::Receiver<Position>,
    stopped: watch::Receiver<bool>,
) -> Option<JoinHandle<()>> {
    broker.map(|broker| tokio::spawn(Relay::new(database, vec![ShardId(0)], broker).run(woken, stopped)))
}

/// A relay that broke off must not look like one that has nothing to do. Waits for ever if there is none.
pub(crate) async fn broke_off(relaying: Option<impl Future<Output = Result<(), JoinError>>>) -> Failure {
    let ended = match relaying {
        Some(relaying) => relaying.await,
        None => std::future::pending().await,
    };
    let why = ended.err().map_or_else(String::new, |error| format!(": {error}"));
    Failure::new(Exit::Temporary, format!("the relay has ended{why}"))
}

/// The log over HTTP, for those who run the ledger and for gateways.
pub(crate) fn log_routes(
    config: &Config,
    ledger: &Ledger,
    database: &tokio_postgres::Config,
    admin: &SecretString,
) -> Result<OpenApiRouter, Failure> {
    let gateways = config.gateway_token()?.as_ref().map(TokenHash::of);
    Ok(LogFeed::new(ledger.clone(), database.clone(), TokenHash::of(admin), gateways).router())
}

/// The gateway alone: with a writer of its own over the same log, or without a database, over a command side elsewhere. Several may
/// run; each has its own data directory.
pub(crate) async fn gateway(config: &Config) -> Result<(), Failure> {
    if let Some(remote) = gateway::remote(config)? {
        return remote_gateway(config, &remote).await;
    }
    let database = config.required_database()?;
    database::check(&database, ServiceRole::Command).await?;
    heads::guard(config, &database).await?;
    let platform = Config::required("LITELLM_BASE_URL", config.platform()?)?;
    let keeper = Keeper::of(config).await?;
    let limits = config.rate_limits("gateway")?;
    let edge = config.edge(limits.clone(), false)?;
    let shared = gateway::Shared { rate_limits: limits, answers_key: config.answers_key()?, keeper };
    let identity = gateway::Identity::open(&config.data_dir())?;
    let feed = Arc::new(gateway::Feed::default());
    let listener = bind(config).await?;
    let metrics = app::install_metrics()?;
    let options = WriterOptions {
        queue: config.queue()?,
        snapshot_every: config.snapshot_every()?,
        followers: vec![feed.clone()],
        ..WriterOptions::new(database.clone())
    };
    let (ledger, mut writer) = writer::start(options).await?;
    let gateway =
        gateway::start(config, &identity, &feed, ledger.clone(), platform, shared, (&database, Arc::default())).await?;
    let routes = modelfaucet_gateway::http::router(gateway.clone());
    let checks = app::Checks { ledger: Some(ledger), gateway: Some(gateway.clone()), ..app::Checks::default() };
    let router = app::build("modelfaucet-gateway", routes, checks, edge, metrics);
    let result = tokio::select! {
        result = until_interrupted(config, listener, router) => result,
        ended = &mut writer => Err(match ended {
            Ok(Err(error)) => error.into(),
            Ok(Ok(())) | Err(_) => Failure::new(Exit::Temporary, "the writer has ended"),
        }),
    };
    finish(&gateway).await;
    result
}

async fn remote_gateway(config: &Config, remote: &gateway::Remote) -> Result<(), Failure> {
    let platform = Config::required("LITELLM_BASE_URL", config.platform()?)?;
    let keeper = Keeper::of(config).await?;
    let limits = config.rate_limits("gateway")?;
    let edge = config.edge(limits.clone(), false)?;
    let shared = gateway::Shared { rate_limits: limits, answers_key: config.answers_key()?, keeper };
    let identity = gateway::Identity::open(&config.data_dir())?;
    let listener = bind(config).await?;
    let metrics = app::install_metrics()?;
    let gateway = gateway::start_remote(config, &identity, platform, shared, remote).await?;
    let routes = modelfaucet_gateway::http::router(gateway.clone());
    let checks = app::Checks { gateway: Some(gateway.clone()), ..app::Checks::default() };
    let router = app::build("modelfaucet-gateway", routes, checks, edge, metrics);
    let result = until_interrupted(config, listener, router).await;
    finish(&gateway).await;
    result
}

/// Lets the calls of a gateway end.
async fn finish(gateway: &Gateway) {
    let open = gateway.finish(std::time::Duration::from_secs(30)).await;
    if open > 0 {
        tracing::warn!(open, "some calls have not ended; the next start ends their holds");
    }
}

/// The sandbox provider alone: no ledger, no database.
pub(crate) async fn sandbox_provider(listen: &str, log: Option<&std::path::Path>) -> Result<(), Failure> {
    let listener = TcpListener::bind(listen)
        .await
        .map_err(|error| Failure::new(Exit::Temporary, format!("cannot listen on {listen}: {error}")))?;
    let book = match log {
        Some(path) => Book::open(path)?,
        None => Book::nowhere(),
    };
    println!("sandbox provider on http://{}: made-up answers, real counts", listener.local_addr()?);
    let (stop, stopped) = watch::channel(false);
    let router = modelfaucet_gateway::sandbox_provider::router(book);
    let serving = tokio::spawn(serve(listener, router, Limits::new(100_000, 100_000), stopped));
    crate::interrupted().await;
    let _gone = stop.send(true);
    let _ended = serving.await;
    Ok(())
}

/// The document of the whole API, without a server behind it.
pub(crate) fn openapi() -> String {
    let document = modelfaucet_command::http::openapi()
        .merge_from(log_feed::openapi())
        .merge_from(modelfaucet_query::openapi())
        .merge_from(modelfaucet_gateway::http::openapi());
    app::describe(document).to_pretty_json().unwrap_or_default()
}

async fn bind(config: &Config) -> Result<TcpListener, Failure> {
    let listen = config.listen()?;
    TcpListener::bind(listen).await.map_err(|error| {
        Failure::new(Exit::Temporary, format!("cannot listen on {listen}: {error}; choose another --listen"))
    })
}

async fn until_interrupted(config: &Config, listener: TcpListener, router: axum::Router) -> Result<(), Failure> {
    let limits = Limits::new(config.max_connections()?, config.max_connections_per_address()?);
    tracing::info!(listen = %listener.local_addr()?, "serving");
    let (stop, stopped) = watch::channel(false);
    let serving = tokio::spawn(serve(listener, router, limits, stopped));
    crate::interrupted().await;
    let _gone = stop.send(true);
    let _ended = serving.await;
    Ok(())
}
