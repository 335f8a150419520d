//! The inbox: what Stripe told us, stored with its hash before anything is made of it, and what became of each piece. A crash
//! after storing leaves it `received`: Stripe repeats the event, and a sweep works on what is left.

use std::sync::Arc;
use std::time::Duration;

use modelfaucet_schema::log::connection;
use modelfaucet_schema::log::to_system_time;
use modelfaucet_schema::time::Timestamp;
use sha2::{Digest as _, Sha256};
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Error};

use super::PROVIDER;

/// How long a statement may take before its connection is given up; the server gives up earlier.
const LIMIT: Duration = Duration::from_secs(4);

/// Every statement: its file's name and its text. A test prepares them all.
pub const STATEMENTS: &[(&str, &str)] = &[
    ("store", include_str!("sql/store.sql")),
    ("find", include_str!("sql/find.sql")),
    ("note", include_str!("sql/note.sql")),
    ("waiting_for", include_str!("sql/waiting_for.sql")),
    ("unfinished", include_str!("sql/unfinished.sql")),
    ("swept_until", include_str!("sql/swept_until.sql")),
    ("sweep_to", include_str!("sql/sweep_to.sql")),
];

/// What became of something that was received.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkState {
    /// Not worked on yet, or the work was interrupted.
    Received,
    /// In the ledger.
    Done,
    /// Nothing to do.
    Ignored,
    /// What it concerns is not known yet.
    Waiting,
    /// A rule said no; somebody has to look.
    Refused,
}

impl WorkState {
    /// The name in the table.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Received => "received",
            Self::Done => "done",
            Self::Ignored => "ignored",
            Self::Waiting => "waiting",
            Self::Refused => "refused",
        }
    }

    fn of(text: &str) -> Self {
        let all = [Self::Done, Self::Ignored, Self::Waiting, Self::Refused];
        all.into_iter().find(|state| state.name() == text).unwrap_or(Self::Received)
    }
}

/// What is stored of something.
#[derive(Debug)]
pub struct Stored {
    /// Was it there before?
    pub known: bool,
    /// What became of it so far.
    pub state: WorkState,
    /// The bytes that came first.
    pub body: Vec<u8>,
}

/// Something to store.
#[derive(Clone, Copy, Debug)]
pub struct Letter<'a> {
    /// Stripe's id of it.
    pub id: &'a str,
    /// Its kind.
    pub kind: &'a str,
    /// The payment that it concerns, if that can be said.
    pub payment: Option<&'a str>,
    /// When it happened by Stripe's clock.
    pub created_at: Timestamp,
    /// Exactly as it came.
    pub body: &'a [u8],
}

/// The tables `payment.*`, over one connection that is opened again when it is lost.
#[derive(Debug)]
pub struct Inbox {
    database: Config,
    client: Mutex<Option<Arc<Client>>>,
}

impl Inbox {
    /// An inbox in this database, as the role `ledger_command`. Nothing is opened yet.
    pub fn new(database: Config) -> Self {
        Self { database, client: Mutex::new(None) }
    }

    async fn client(&self) -> Result<Arc<Client>, Error> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let mut config = self.database.clone();
        config.connect_timeout(Duration::from_secs(2)).application_name("modelfaucet-inbox");
        let (client, connection) = connection::connect(&config).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "the inbox's connection ended");
            }
        });
        let settings = "SET statement_timeout = '3s'; SET lock_timeout = '1s'; SET synchronous_commit = on";
        connection::within(LIMIT, client.batch_execute(settings)).await?;
        let client = Arc::new(client);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Asks the database. A connection that says nothing is given up: what was asked may have happened.
    async fn ask<T>(&self, asked: impl AsyncFnOnce(&Client) -> Result<T, Error>) -> Result<T, Error> {
        let client = self.client().await?;
        let answer = connection::within(LIMIT, asked(&client)).await;
        if answer.as_ref().is_err_and(|error| error.code().is_none()) {
            let mut kept = self.client.lock().await;
            if kept.as_ref().is_some_and(|kept| Arc::ptr_eq(kept, &client)) {
                *kept = None;
            }
        }
        answer
    }

    /// Stores something that may have come before; then what came first stands.
    ///
    /// # Errors
    /// The database's; then it may be stored or not.
    pub async fn store(&self, letter: Letter<'_>) -> Result<Stored, Error> {
        let sha256 = Sha256::digest(letter.body);
        let created_at = to_system_time(letter.created_at);
        let parameters: [&(dyn ToSql + Sync); 7] =
            [&PROVIDER, &letter.id, &letter.kind, &letter.payment, &created_at, &sha256.as_slice(), &letter.body];
        let row = self.ask(async |client| client.query_one(include_str!("sql/store.sql"), &parameters).await).await?;
        Ok(Stored { known: row.try_get(0)?, state: WorkState::of(row.try_get(1)?), body: row.try_get(2)? })
    }

    /// What is stored under an id, if anything.
    ///
    /// # Errors
    /// The database's.
    pub async fn find(&self, id: &str) -> Result<Option<WorkState>, Error> {
        let sql = include_str!("sql/find.sql");
        let row = self.ask(async |client| client.query_opt(sql, &[&PROVIDER, &id]).await).await?;
        row.map(|row| row.try_get(0).map(WorkState::of)).transpose()
    }

    /// Notes what became of it. `done` and `ignored` are final.
    ///
    /// # Errors
    /// The database's; then it stays as it was and the work is done again, to no further effect.
    pub async fn note(&self, id: &str, state: WorkState, problem: Option<&str>) -> Result<(), Error> {
        let (sql, name) = (include_str!("sql/note.sql"), state.name());
        self.ask(async |client| client.execute(sql, &[&PROVIDER, &id, &name, &problem]).await).await.map(drop)
    }

    /// What waits for a payment, oldest first.
    ///
    /// # Errors
    /// The database's.
    pub async fn waiting_for(&self, payment: &str) -> Result<Vec<(String, Vec<u8>)>, Error> {
        let sql = include_str!("sql/waiting_for.sql");
        let rows = self.ask(async |client| client.query(sql, &[&PROVIDER, &payment]).await).await?;
        rows.iter().map(|row| Ok((row.try_get(0)?, row.try_get(1)?))).collect()
    }

    /// What is neither done nor ignored, least lately tried first.
    ///
    /// # Errors
    /// The database's.
    pub async fn unfinished(&self, limit: i64) -> Result<Vec<Unfinished>, Error> {
        let sql = include_str!("sql/unfinished.sql");
        let rows = self.ask(async |client| client.query(sql, &[&PROVIDER, &limit]).await).await?;
        rows.iter()
            .map(|row| {
                Ok(Unfinished {
                    id: row.try_get(0)?,
                    kind: row.try_get(1)?,
                    state: WorkState::of(row.try_get(2)?),
                    problem: row.try_get(3)?,
                    body: row.try_get(4)?,
                })
            })
            .collect()
    }

    /// Up to when everything of a kind was fetched, in seconds of Unix time.
    ///
    /// # Errors
    /// The database's.
    pub async fn swept_until(&self, what: &str) -> Result<Option<i64>, Error> {
        let sql = include_str!("sql/swept_until.sql");
        let row = self.ask(async |client| client.query_opt(sql, &[&PROVIDER, &what]).await).await?;
        row.map(|row| row.try_get(0)).transpose()
    }

    /// Notes up to when everything of a kind was fetched. It never goes back.
    ///
    /// # Errors
    /// The database's.
    pub async fn sweep_to(&self, what: &str, until: i64) -> Result<(), Error> {
        let sql = include_str!("sql/sweep_to.sql");
        self.ask(async |client| client.execute(sql, &[&PROVIDER, &what, &until]).await).await.map(drop)
    }
}

/// Something that is not finished.
#[derive(Debug)]
pub struct Unfinished {
    /// Stripe's id of it.
    pub id: String,
    /// Its kind.
    pub kind: String,
    /// Why it is not finished.
    pub state: WorkState,
    /// What was said when it was last tried.
    pub problem: Option<String>,
    /// As it came.
    pub body: Vec<u8>,
}
