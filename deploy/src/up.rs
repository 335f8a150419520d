//! `modelfaucet up`: everything in one process, with a private PostgreSQL or the one that `DATABASE_URL` names.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use modelfaucet_command::http::Api;
use modelfaucet_command::writer::{self, WriterOptions};
use modelfaucet_projector::Projector;
use modelfaucet_query::{QueryOptions, QueryState};
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::AccessLog;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::token::{TokenHash, TokenKind};
use modelfaucet_secrets::Keyring;
use secrecy::{ExposeSecret as _, SecretString};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_postgres::Config as DatabaseConfig;

use crate::backup::Repository;
use crate::backup::follow::Follower;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::keys::{KEK_FILE, Keeper};
use crate::postgres::{PrivatePostgres, PrivatePostgresOptions};
use crate::secrets::Secrets;
use crate::serve::{Limits, serve};
use crate::{app, database, demo, gateway, heads, payments, roles, seed};

/// Runs until Ctrl-C (or, with `demo`, until the demo has ended).
pub(crate) fn run(config: &Config, with_demo: bool) -> Result<(), Failure> {
    let listen = config.listen()?;
    // Before anything is started: another process on the port is the most common mistake.
    let listener = std::net::TcpListener::bind(listen).map_err(|error| {
        Failure::new(Exit::Temporary, format!("cannot listen on {listen}: {error}; choose another --listen"))
    })?;
    listener.set_nonblocking(true)?;
    let data_dir = config.data_dir();
    let named = config.database()?;
    let postgres = if named.is_some() {
        None
    } else {
        let options = PrivatePostgresOptions {
            data_dir: data_dir.clone(),
            settings: Vec::new(),
            bin_dir: config.pg_bindir(),
            ..PrivatePostgresOptions::default()
        };
        Some(PrivatePostgres::start(options)?)
    };
    let secrets = Secrets::open(&data_dir)?;
    let result = crate::runtime()?.block_on(async {
        let (owner, passwords) = match (&postgres, named) {
            (Some(postgres), _) => {
                database::create(&postgres.config(postgres.superuser(), "postgres")).await?;
                (postgres.config(postgres.superuser(), database::DATABASE), None)
            }
            (None, Some(owner)) => (owner, Some(&secrets)),
            (None, None) => return Err(Failure::new(Exit::Config, "no database")),
        };
        let process = Process { config, owner, passwords, secrets: &secrets, listen: listener.local_addr()? };
        process.run(TcpListener::from_std(listener)?, with_demo).await
    });
    if let Some(postgres) = postgres {
        let restarts = postgres.restarts();
        postgres.stop()?;
        tracing::info!(restarts, "PostgreSQL has stopped");
    }
    result
}

struct Process<'a> {
    config: &'a Config,
    owner: DatabaseConfig,
    passwords: Option<&'a Secrets>,
    secrets: &'a Secrets,
    listen: SocketAddr,
}

impl Process<'_> {
    async fn run(&self, listener: TcpListener, with_demo: bool) -> Result<(), Failure> {
        let config = self.config;
        let applied = database::prepare(&self.owner).await?;
        if !applied.is_empty() {
            tracing::info!(?applied, "the database is migrated");
        }
        database::allow_logins(&self.owner, self.passwords).await?;
        let role = |role| database::role_config(&self.owner, role, self.passwords);
        let (command, projector, query) =
            (role(ServiceRole::Command)?, role(ServiceRole::Projector)?, role(ServiceRole::Query)?);
        database::check(&command, ServiceRole::Command).await?;
        database::check(&projector, ServiceRole::Projector).await?;
        database::check(&query, ServiceRole::Query).await?;
        let vault = role(ServiceRole::Secrets)?;
        database::check(&vault, ServiceRole::Secrets).await?;
        heads::guard(config, &command).await?;
        let keeper = Keeper::new(vault, self.keyring()?, config.provider_urls()?)?;

        let limits = config.rate_limits("up")?;
        let edge = config.edge(limits.clone(), self.listen.ip().is_loopback())?;
        let metrics = app::install_metrics()?;
        let admin = self.secret("admin_token", config.admin_token()?)?;
        let user_key = self.secret("user_id_hmac_key", config.user_key()?)?;
        let answers_key = self.secret("gateway_answers_key", config.answers_key()?)?;
        let shared =
            gateway::Shared { rate_limits: limits, answers_key: Some(answers_key), keeper: Some(keeper.clone()) };
        let identity = gateway::Identity::open(&config.data_dir())?;
        let feed = Arc::new(gateway::Feed::default());
        let reports: Arc<gateway::Reports> = Arc::default();
        let options = WriterOptions {
            queue: config.queue()?,
            snapshot_every: config.snapshot_every()?,
            followers: vec![feed.clone()],
            ..WriterOptions::new(command.clone())
        };
        let (ledger, mut writer_task) = writer::start(options).await?;
        let (stop_backup, backup_stopped) = watch::channel(false);
        let mut backup = self.back_up(role(ServiceRole::Backup)?, backup_stopped)?;
        let (stop, stopped) = watch::channel(false);
        let relaying = roles::relay_beside(config.broker()?, projector.clone(), ledger.head(), stopped.clone());
        let projector = Projector::connect(projector, vec![ShardId(0)]).await?.with_tail(ShardId(0), ledger.tail());
        let projecting = tokio::spawn(projector.run(ledger.head(), stopped.clone()));
        let developer = seed::seed(&ledger, self.secrets, &user_key).await?;
        let gateway_base_url = config.gateway_base_url(self.listen)?;
        // It outlives the gateway's last call.
        let (stop_sandbox, sandbox_stopped) = watch::channel(false);
        let configured = config.platform()?;
        let sandboxed = configured.is_none();
        let platform = match configured {
            Some(platform) => platform,
            None => gateway::sandbox(&config.data_dir(), sandbox_stopped).await?,
        };
        let gateway = gateway::start(
            config,
            &identity,
            &feed,
            ledger.clone(),
            platform,
            shared,
            (&command, Arc::clone(&reports)),
        )
        .await?;
        let query = QueryState::connect(QueryOptions {
            pool_size: config.query_pool()?,
            max_wait: config.min_position_wait()?,
            ..QueryOptions::new(query, TokenHash::of(&admin), gateway_base_url.clone())
        })
        .await
        .map_err(database::unreachable)?;
        let showing = tokio::spawn(modelfaucet_query::show_figures(query.clone()));
        let api = Api {
            ledger: ledger.clone(),
            admin_token: TokenHash::of(&admin),
            access: AccessLog::new(command.clone()),
            user_key: user_key.into(),
            session_ttl: config.session_ttl()?,
            gateway_base_url: gateway_base_url.into(),
            vault: Some(Arc::new(keeper.clone())),
            stripe: payments::stripe(config, &command).await?,
            payout_providers: payments::payout_providers(config)?,
            payout_threshold: config.payout_threshold()?,
        };
        let removing = tokio::spawn(keeper.remove_strays(ledger.clone()));
        let mut routes = roles::log_routes(config, &ledger, &command, &admin)?;
        if let Some(for_gateways) = gateway::serve_gateways(config, &ledger, &feed, &reports, &command)? {
            routes = routes.merge(for_gateways);
        }
        let routes = routes
            .merge(modelfaucet_command::http::router(api))
            .merge(modelfaucet_query::router(query.clone()))
            .merge(modelfaucet_gateway::http::router(gateway.clone()));
        let checks = app::Checks { ledger: Some(ledger.clone()), query: Some(query), gateway: Some(gateway.clone()) };
        let router = app::build("modelfaucet", routes, checks, edge, metrics);
        let limits = Limits::new(config.max_connections()?, config.max_connections_per_address()?);
        let serving = tokio::spawn(serve(listener, router, limits, stopped));
        self.print_welcome(&developer, sandboxed);

        let result = tokio::select! {
            result = async { if with_demo { demo::play(self.listen, &admin, &developer).await } else { std::future::pending().await } } => result,
            () = crate::interrupted() => Ok(()),
            error = roles::broke_off(relaying) => Err(error),
            ended = &mut writer_task => Err(match ended {
                Ok(Err(error)) => error.into(),
                Ok(Ok(())) => Failure::new(Exit::Temporary, "the writer has ended"),
                Err(error) => Failure::new(Exit::Temporary, format!("the writer broke off: {error}")),
            }),
            ended = &mut backup => Err(match ended {
                Ok(Err(failure)) => failure,
                Ok(Ok(())) => Failure::new(Exit::Temporary, "the backup of the WAL has ended"),
                Err(error) => Failure::new(Exit::Temporary, format!("the backup of the WAL broke off: {error}")),
            }),
        };
        // Requests first, then the projections, which read on to the end; then the next start is quick.
        let _all_gone = stop.send(true);
        let _ended = serving.await;
        let open = gateway.finish(Duration::from_secs(30)).await;
        if open > 0 {
            tracing::warn!(open, "some calls have not ended; the next start ends their holds");
        }
        let _gone = stop_sandbox.send(true);
        drop(gateway);
        removing.abort();
        showing.abort();
        let _late = tokio::time::timeout(Duration::from_secs(10), projecting).await;
        drop(ledger);
        // Last, so that the last head is witnessed.
        if stop_backup.send(true).is_ok() && !backup.is_finished() {
            let _late = tokio::time::timeout(Duration::from_secs(15), backup).await;
        }
        if let Err(error) = crate::save_snapshot(&command).await {
            tracing::warn!(%error, "no snapshot was taken; the next start takes longer");
        }
        result
    }

    /// Copies the WAL, witnesses the log's head and mirrors its batches, if there is a place for it; else waits for the end.
    fn back_up(
        &self,
        database: DatabaseConfig,
        mut stopped: watch::Receiver<bool>,
    ) -> Result<tokio::task::JoinHandle<Result<(), Failure>>, Failure> {
        let stop = async move {
            let _gone = stopped.wait_for(|stop| *stop).await;
        };
        if self.config.backup_dir().is_none() {
            return Ok(tokio::spawn(async move {
                stop.await;
                Ok(())
            }));
        }
        let repository = Repository::of(self.config)?;
        let follower = Follower::new(self.config, repository, None).with_database(database);
        Ok(tokio::spawn(async move { follower.run(stop).await }))
    }

    /// The configured secret, else the kept one, else a new one.
    fn secret(&self, name: &str, configured: Option<SecretString>) -> Result<SecretString, Failure> {
        match configured {
            Some(secret) => {
                self.secrets.put(name, &secret)?;
                Ok(secret)
            }
            None => Ok(self.secrets.get_or_make(name, TokenKind::Admin)?),
        }
    }

    /// What provider keys are encrypted with: the configured keys, else the kept ones, else a new one.
    fn keyring(&self) -> Result<Keyring, Failure> {
        if let Some(keyring) = self.config.keyring()? {
            return Ok(keyring);
        }
        let kept = self.secrets.get_or_make(KEK_FILE, TokenKind::Admin)?;
        let wrong = |error| Failure::new(Exit::Config, format!("{}: {error}", self.secrets.path(KEK_FILE).display()));
        Keyring::parse(&kept).map_err(wrong)
    }

    /// What somebody who has just typed `up` needs next. Tokens are shown on the first start only.
    fn print_welcome(&self, developer: &SecretString, sandboxed: bool) {
        let base = format!("http://{}", self.listen);
        let shown = self.secrets.path(".shown");
        let first = !shown.exists();
        println!("\nModelFaucet Ledger {} is up: {base}", env!("CARGO_PKG_VERSION"));
        println!("  API document  {base}/docs (for programs: {base}/openapi.json)");
        println!("  ready?        {base}/ready      metrics  {base}/metrics");
        let (admin_path, developer_path) = (self.secrets.path("admin_token"), self.secrets.path(seed::DEVELOPER_TOKEN));
        if first {
            let admin = self.secrets.get("admin_token").ok().flatten();
            println!("\nTokens, shown this once and kept with mode 0600:");
            println!("  admin      {}", admin.as_ref().map_or("", |token| token.expose_secret()));
            println!("             {}", admin_path.display());
            println!("  developer  {}", developer.expose_secret());
            println!("             {}", developer_path.display());
            if let Err(error) = std::fs::write(&shown, "") {
                tracing::warn!(%error, "the tokens will be shown again");
            }
        } else {
            println!("\nTokens: {} and {}", admin_path.display(), developer_path.display());
        }
        if sandboxed {
            println!(
                "\n*** LITELLM_BASE_URL is not set: a SANDBOX PROVIDER answers all calls with MADE-UP TEXT. Prices are real."
            );
            println!(
                "*** What it saw and would bill: {}",
                self.config.data_dir().join("sandbox-provider.jsonl").display()
            );
        }
        println!("\nTry it (in another terminal):");
        println!(
            "  curl -s {base}/v1/sessions -H 'content-type: application/json' -d '{{\"public_app_id\":\"{}\",\"external_user_id\":\"me\",\"feature_key\":\"{}\"}}'",
            seed::DEMO_APP,
            seed::DEMO_FEATURE
        );
        println!(
            "  curl -s {base}/v1/admin/trial-balance -H \"authorization: Bearer $(cat {})\"",
            admin_path.display()
        );
        println!(
            "  curl -s {base}/v1/admin/reconciliation/ledger -H \"authorization: Bearer $(cat {})\"",
            admin_path.display()
        );
        println!(
            "\nOr let it play a session, a top-up, a paid call and the books:  modelfaucet demo --url {base} --data-dir {}",
            self.config.data_dir().display()
        );
        println!("Ctrl-C stops it; the data stays.\n");
    }
}
