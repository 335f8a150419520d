//! The database as an auditor sees it: the one that is named, else the private one of the data directory, which is started for
//! the duration if nobody runs it. Nothing is created, migrated or written.

use std::error::Error as _;

use modelfaucet_schema::log::boot::{BootError, ServiceRole};
use modelfaucet_schema::log::migrate::is_current;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Config, Error, IsolationLevel, Transaction};

use crate::DatabaseArgs;
use crate::database::{self, DATABASE};
use crate::exit::{Exit, Failure};
use crate::postgres::{PrivatePostgres, PrivatePostgresOptions};

/// What an auditor's session runs with: no time limits, and nobody else's functions in place of the server's own.
pub(crate) const SESSION: &str =
    "SET search_path = pg_catalog, pg_temp; SET statement_timeout = 0; SET lock_timeout = 0;
    SET idle_in_transaction_session_timeout = 0; SET jit = off; SET work_mem = '64MB'";

/// A way to the database.
pub(crate) struct Auditor {
    config: Config,
    postgres: Option<PrivatePostgres>,
}

impl Auditor {
    /// Finds the database; starts it if it is private and at rest. Blocks: call it off the async threads.
    pub(crate) fn open(args: &DatabaseArgs) -> Result<Self, Failure> {
        Self::open_as(args, ServiceRole::Audit)
    }

    /// As [`Auditor::open`], but as another role where the database is private.
    pub(crate) fn open_as(args: &DatabaseArgs, role: ServiceRole) -> Result<Self, Failure> {
        let config = args.config()?;
        if let Some(named) = config.database()? {
            return Ok(Self { config: named, postgres: None });
        }
        let data_dir = config.data_dir();
        if let Some(running) = database::running_private(&data_dir, role) {
            return Ok(Self { config: running, postgres: None });
        }
        if !data_dir.join("postgres").is_dir() {
            let message =
                format!("{} holds no ledger: choose another --data-dir or set DATABASE_URL", data_dir.display());
            return Err(Failure::new(Exit::Config, message));
        }
        let options = PrivatePostgresOptions {
            data_dir,
            settings: Vec::new(),
            bin_dir: config.pg_bindir(),
            ..PrivatePostgresOptions::default()
        };
        let postgres = PrivatePostgres::start(options)?;
        Ok(Self { config: postgres.config(role.name(), DATABASE), postgres: Some(postgres) })
    }

    /// How to connect.
    pub(crate) fn config(&self) -> &Config {
        &self.config
    }

    /// A connection to a database that this program knows.
    pub(crate) async fn connect(&self) -> Result<Client, Failure> {
        let client = self.connect_as_it_is().await?;
        if !is_current(&client).await.unwrap_or(false) {
            return Err(BootError::NotMigrated.into());
        }
        Ok(client)
    }

    /// A connection to whatever is there.
    pub(crate) async fn connect_as_it_is(&self) -> Result<Client, Failure> {
        let client = database::connect(&self.config).await.map_err(|error| database::unreachable(told(&error)))?;
        client.batch_execute(SESSION).await.map_err(failure)?;
        Ok(client)
    }

    /// Stops what was started.
    pub(crate) fn close(self) -> Result<(), Failure> {
        Ok(self.postgres.map_or(Ok(()), PrivatePostgres::stop)?)
    }
}

/// One moment of the database, for reading. What is committed later does not show.
pub(crate) async fn snapshot(client: &mut Client) -> Result<Transaction<'_>, Error> {
    client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await
}

/// What the server or the system says, which the driver's own text leaves out.
fn told(error: &Error) -> String {
    error.source().map_or_else(|| error.to_string(), |cause| format!("{error}: {cause}"))
}

/// A missing table is damage, a missing right is a matter of configuration, the rest may pass.
#[expect(clippy::needless_pass_by_value, reason = "the signature is that of map_err")]
pub(crate) fn failure(error: Error) -> Failure {
    let told = told(&error);
    match error.code().map(SqlState::code) {
        Some("42P01" | "42703" | "42883" | "3F000") => {
            Failure::new(Exit::Violated, format!("the tables are not as they were made: {told}"))
        }
        Some("42501") => {
            Failure::new(Exit::Config, format!("{told}; connect as {} or as the owner", ServiceRole::Audit.name()))
        }
        _ => Failure::new(Exit::Temporary, format!("the database does not answer: {told}")),
    }
}
