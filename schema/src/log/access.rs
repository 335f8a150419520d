//! Who looked at what is audited, and who tried to change something; and when tokens were last used. Beside the log: an act is an
//! event, which says what was done; this says from where, and what was only looked at.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex as Lock;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_postgres::Client;
use tokio_postgres::types::ToSql;

use crate::event::Actor;
use crate::ids::TokenId;
use crate::log::connection;

/// How exact "last used" is.
const USE_NOTED_EVERY: Duration = Duration::from_secs(60);
/// How long a record may take before the request is refused.
const PATIENCE: Duration = Duration::from_secs(3);
/// How long the database may take to show that it is there, and for one; with both there is time for a new connection.
const ANSWER: Duration = Duration::from_millis(1_200);
/// Longest target and reason, in characters.
const LIMITS: (usize, usize) = (2_048, 1_000);

/// Looked at, or about to be changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessKind {
    /// Somebody reads an export or audit data.
    Read,
    /// Somebody of the house is about to change something; if it was changed, an event says so.
    Attempt,
}

impl AccessKind {
    const fn text(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Attempt => "attempt",
        }
    }
}

/// One access.
#[derive(Clone, Debug)]
pub struct Access {
    /// Who.
    pub actor: Actor,
    /// From where.
    pub address: Option<IpAddr>,
    /// To look or to change.
    pub kind: AccessKind,
    /// Method and route.
    pub operation: String,
    /// Path and query.
    pub target: String,
    /// The request.
    pub request_id: String,
    /// Why, if the caller says so.
    pub reason: Option<String>,
}

/// Why an access could not be recorded; then nothing may be shown or changed.
#[derive(Debug, thiserror::Error)]
pub enum AccessError {
    /// The database's error.
    #[error("an access could not be recorded: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// The database does not answer.
    #[error("an access could not be recorded in time")]
    Late,
}

/// What is written.
type Row<'a> = &'a [&'a (dyn ToSql + Sync)];

/// Where accesses are recorded: one connection, as `ledger_command` or `ledger_query`, made when it is needed.
#[derive(Clone)]
pub struct AccessLog(Arc<Inner>);

struct Inner {
    database: tokio_postgres::Config,
    client: Mutex<Option<Client>>,
    noted: Lock<HashMap<TokenId, Instant>>,
}

impl std::fmt::Debug for AccessLog {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("AccessLog").finish_non_exhaustive()
    }
}

impl AccessLog {
    /// Records into this database. Nothing is connected yet.
    pub fn new(mut database: tokio_postgres::Config) -> Self {
        database.application_name("modelfaucet-access");
        Self(Arc::new(Inner { database, client: Mutex::default(), noted: Lock::default() }))
    }

    /// Records an access, before it happens.
    ///
    /// # Errors
    /// [`AccessError`]: whoever cannot record must not go on.
    pub async fn record(&self, access: &Access) -> Result<(), AccessError> {
        let (actor, address) = (access.actor.to_string(), access.address.map(|address| address.to_string()));
        let (target, reason) =
            (cut(&access.target, LIMITS.0), access.reason.as_deref().map(|reason| cut(reason, LIMITS.1)));
        let kind = access.kind.text();
        let sql = "SELECT ledger.record_access($1, $2, $3, $4, $5, $6, $7)";
        let row: Row<'_> = &[&actor, &address, &kind, &access.operation, &target, &access.request_id, &reason];
        tokio::time::timeout(PATIENCE, self.write(sql, row)).await.map_err(|_| AccessError::Late)?
    }

    /// Notes that a token was used, at most once a minute and beside the request: nobody waits for it.
    pub fn note_use(&self, token: TokenId) {
        let now = Instant::now();
        let mut noted = self.0.noted.lock();
        if noted.get(&token).is_some_and(|last| now.duration_since(*last) < USE_NOTED_EVERY) {
            return;
        }
        noted.insert(token, now);
        drop(noted);
        let log = self.clone();
        tokio::spawn(async move {
            if let Err(error) = log.write("SELECT ledger.note_token_use($1)", &[&token.0]).await {
                tracing::warn!(%error, "the use of a token could not be noted");
            }
        });
    }

    /// Writes on the connection that is there if it still answers, else on a new one. What is written is sent once: without an answer
    /// it may be there all the same, and sent again it would tell of two accesses. The connection is kept only when its answer has come:
    /// one that says nothing, or that nobody waits for any more, is not asked again.
    async fn write(&self, sql: &str, row: Row<'_>) -> Result<(), AccessError> {
        let mut place = self.0.client.lock().await;
        let client = match place.take() {
            Some(client) if connection::within(ANSWER, client.check_connection()).await.is_ok() => client,
            _ => self.connect().await?,
        };
        let written = connection::within(ANSWER, client.execute(sql, row)).await;
        if written.as_ref().map_or_else(|error| error.code().is_some(), |_| true) && !client.is_closed() {
            *place = Some(client);
        }
        written?;
        Ok(())
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        let (client, connection) = connection::connect(&self.0.database).await?;
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                tracing::warn!(%error, "the connection of the access log has ended");
            }
        });
        Ok(client)
    }
}

fn cut(text: &str, limit: usize) -> &str {
    text.char_indices().nth(limit).map_or(text, |(end, _)| &text[..end])
}
