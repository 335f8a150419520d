//! The database of `up` and `migrate`: created, migrated, with a login per service role.

use std::path::Path;
use std::time::Duration;

use modelfaucet_projector as projector;
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::boot::{self, ServiceRole};
use modelfaucet_schema::log::connection;
use modelfaucet_schema::log::migrate::migrate;
use modelfaucet_schema::token::TokenKind;
use secrecy::ExposeSecret as _;
use tokio_postgres::{Client, Config};

use crate::exit::{Exit, Failure};
use crate::secrets::Secrets;

/// The database's name in the private server.
pub(crate) const DATABASE: &str = "modelfaucet";

/// Connects once.
pub(crate) async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let mut config = config.clone();
    config.connect_timeout(Duration::from_secs(5)).application_name("modelfaucet");
    let (client, connection) = connection::connect(&config).await?;
    tokio::spawn(async move {
        // The client's own calls report what went wrong.
        let _ended = connection.await;
    });
    Ok(client)
}

/// Creates the database in the private server if it is missing.
pub(crate) async fn create(maintenance: &Config) -> Result<(), tokio_postgres::Error> {
    let client = connect(maintenance).await?;
    let exists = client.query_opt("SELECT FROM pg_database WHERE datname = $1", &[&DATABASE]).await?;
    if exists.is_none() {
        client.batch_execute(&format!("CREATE DATABASE {DATABASE} TEMPLATE template0 ENCODING 'UTF8'")).await?;
    }
    Ok(())
}

/// Migrates as the owner; then the projections' tables as the projector. Returns the numbers of the applied migrations.
pub(crate) async fn prepare(owner: &Config) -> Result<Vec<i32>, Failure> {
    let mut client = connect(owner).await?;
    let applied = migrate(&mut client, &[ShardId(0)]).await?;
    client.batch_execute("SET ROLE ledger_projector").await?;
    projector::setup(&mut client).await?;
    Ok(applied)
}

/// Lets the service roles log in. Over a socket of our own without a password; else with passwords kept among the secrets.
pub(crate) async fn allow_logins(owner: &Config, passwords: Option<&Secrets>) -> Result<(), Failure> {
    let client = connect(owner).await?;
    for role in ServiceRole::ALL {
        let password = match passwords {
            None => String::new(),
            Some(secrets) => {
                let secret = secrets.get_or_make(&format!("{}_password", role.name()), TokenKind::Admin)?;
                // Our own tokens have no quotes in them.
                format!(" PASSWORD '{}'", secret.expose_secret())
            }
        };
        client.batch_execute(&format!("ALTER ROLE {} LOGIN{password}", role.name())).await?;
    }
    Ok(())
}

/// How a service role connects: as `owner` does, with its own name and password.
pub(crate) fn role_config(owner: &Config, role: ServiceRole, passwords: Option<&Secrets>) -> Result<Config, Failure> {
    let mut config = owner.clone();
    config.user(role.name());
    if let Some(secrets) = passwords
        && let Some(password) = secrets.get(&format!("{}_password", role.name()))?
    {
        config.password(password.expose_secret());
    }
    Ok(config)
}

/// Refuses a server that could lose money, and a role with rights to spare.
pub(crate) async fn check(config: &Config, role: ServiceRole) -> Result<(), Failure> {
    let client = connect(config).await?;
    Ok(boot::check(&client, role).await?)
}

/// How an auditor's tool connects to the database of a running or stopped `up`.
pub(crate) fn running_private(data_dir: &Path, role: ServiceRole) -> Option<Config> {
    let socket = crate::postgres::running_socket(data_dir)?;
    let mut config = Config::new();
    config.host_path(socket).port(crate::postgres::PORT).user(role.name()).dbname(DATABASE);
    Some(config)
}

/// A failure that tells a missing database from others.
pub(crate) fn unreachable(error: impl std::fmt::Display) -> Failure {
    Failure::new(Exit::Temporary, format!("the database cannot be reached: {error}"))
}
