//! The table of ciphertexts, reached as the database role `ledger_secrets`, which may do nothing else.

use std::sync::Arc;
use std::time::Duration;

use modelfaucet_schema::event::CredentialOwner;
use modelfaucet_schema::ids::CredentialId;
use modelfaucet_schema::log::connection;
use secrecy::SecretString;
use tokio::sync::Mutex;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Config, Row};
use uuid::Uuid;

use crate::envelope::{self, Fresh, OpenError, Place, SealError};
use crate::keyring::{KekId, KeyEncryption};

macro_rules! statements {
    ($($constant:ident = $file:literal;)+) => {
        $(const $constant: &str = include_str!(concat!("sql/", $file, ".sql"));)+

        /// Every statement: its file's name and its text. A test prepares them all.
        pub const STATEMENTS: &[(&str, &str)] = &[$(($file, $constant)),+];
    };
}

statements! {
    CENSUS = "census";
    GET = "get";
    PUT = "put";
    REMOVE = "remove";
    RESEAL = "reseal";
    SEALS = "seals";
    STORED_BEFORE = "stored_before";
    UNDER_OTHER_KEYS = "under_other_keys";
}

/// The table, as sealed secrets name it. Never changes, or they cannot be opened.
const TABLE: &str = "credential";
/// Rows that are read at once.
const PAGE: i64 = 100;
/// How long a statement may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Seals of one key after which somebody is told to bring a new one, of the 2^32 that are safe with random nonces.
const ALARM: i64 = 1 << 28;
/// Seals of one key after which it seals no more.
const MOST: i64 = 1 << 32;

/// Why a secret could not be kept or given.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// There is none of this id: it was disabled, or never kept.
    #[error("there is no secret of this id")]
    Missing,
    /// It does not open.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// It cannot be sealed.
    #[error(transparent)]
    Seal(#[from] SealError),
    /// The key has sealed as often as is safe.
    #[error("key {0} has sealed as often as is safe; put a new one before it")]
    Exhausted(KekId),
    /// The database's error.
    #[error("the table of secrets cannot be reached: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// The database does not answer in time.
    #[error("the table of secrets does not answer")]
    TimedOut,
}

/// A provider key, as it is sealed: what is needed to open it comes from the log, never from the row.
#[derive(Clone, Copy, Debug)]
pub struct ProviderKey<'a> {
    /// Its id.
    pub credential_id: CredentialId,
    /// Whose it is.
    pub owner: CredentialOwner,
    /// Scheme, host and port that it may be sent to.
    pub origin: &'a str,
}

impl ProviderKey<'_> {
    fn purpose(&self) -> String {
        format!("provider_key {}", self.origin)
    }
}

fn place<'a>(id: &'a CredentialId, owner: &'a str, purpose: &'a str) -> Place<'a> {
    Place { owner, table: TABLE, row: id.0.as_bytes(), purpose }
}

/// What a key-encryption key has to do with the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// The key.
    pub kek: KekId,
    /// Secrets that need it to be opened.
    pub secrets: i64,
    /// How often it has sealed.
    pub seals: i64,
}

/// What a step of a rotation came to.
#[derive(Clone, Debug, Default)]
pub struct Resealed {
    /// Sealed under the current key now.
    pub done: u64,
    /// Gone or changed meanwhile: nothing was left to do.
    pub passed: u64,
    /// Not to be opened, and why.
    pub failed: Vec<(CredentialId, OpenError)>,
    /// Where the next step begins; `None` at the end.
    pub next: Option<CredentialId>,
}

/// The store. One connection, opened again when it breaks.
pub struct Store {
    database: Config,
    keys: Arc<dyn KeyEncryption>,
    client: Mutex<Option<Arc<Client>>>,
}

impl Store {
    /// A store in a database, as the role `ledger_secrets`. Connects when it is needed.
    pub fn new(database: Config, keys: Arc<dyn KeyEncryption>) -> Self {
        Self { database, keys, client: Mutex::new(None) }
    }

    async fn client(&self) -> Result<Arc<Client>, StoreError> {
        let mut kept = self.client.lock().await;
        if let Some(client) = kept.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let mut config = self.database.clone();
        config.connect_timeout(Duration::from_secs(2)).application_name("modelfaucet-secrets");
        let (client, connection) = connection::connect(&config).await?;
        tokio::spawn(async move {
            // The client's own calls report what went wrong.
            let _ended = connection.await;
        });
        client.batch_execute("SET statement_timeout = '3s'; SET lock_timeout = '1s'").await?;
        let client = Arc::new(client);
        *kept = Some(Arc::clone(&client));
        Ok(client)
    }

    async fn query(&self, sql: &str, parameters: &[&(dyn ToSql + Sync)]) -> Result<Vec<Row>, StoreError> {
        let asked = async { Ok(self.client().await?.query(sql, parameters).await?) };
        if let Ok(answer) = tokio::time::timeout(LIMIT, asked).await {
            return answer;
        }
        // It may never say anything again. Who holds the place is opening another one.
        if let Ok(mut kept) = self.client.try_lock() {
            *kept = None;
        }
        Err(StoreError::TimedOut)
    }

    /// Seals a key and keeps it.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn put(&self, key: ProviderKey<'_>, secret: &SecretString) -> Result<(), StoreError> {
        let (owner, purpose) = (key.owner.to_string(), key.purpose());
        let kek = self.keys.current();
        self.require_unspent(kek).await?;
        let sealed = envelope::seal(&*self.keys, &place(&key.credential_id, &owner, &purpose), Fresh::draw()?, secret)?;
        let kek_id = i64::from(kek.0);
        let rows = self.query(PUT, &[&key.credential_id.0, &owner, &purpose, &kek_id, &sealed]).await?;
        let seals = rows.first().map_or(0, |row| row.get::<_, i64>(0));
        if seals >= ALARM {
            tracing::error!(%kek, seals, "a key-encryption key has sealed very often; put a new one before it");
        }
        Ok(())
    }

    async fn require_unspent(&self, kek: KekId) -> Result<(), StoreError> {
        let rows = self.query(SEALS, &[&i64::from(kek.0)]).await?;
        let seals = rows.first().map_or(0, |row| row.get::<_, i64>(0));
        if seals >= MOST { Err(StoreError::Exhausted(kek)) } else { Ok(()) }
    }

    /// Opens a key.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn get(&self, key: ProviderKey<'_>) -> Result<SecretString, StoreError> {
        let rows = self.query(GET, &[&key.credential_id.0]).await?;
        let sealed: &[u8] = rows.first().ok_or(StoreError::Missing)?.get(0);
        let (owner, purpose) = (key.owner.to_string(), key.purpose());
        Ok(envelope::open(&*self.keys, &place(&key.credential_id, &owner, &purpose), sealed)?)
    }

    /// Removes keys; those that are not there are not missed.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn remove(&self, ids: &[CredentialId]) -> Result<(), StoreError> {
        let ids: Vec<Uuid> = ids.iter().map(|id| id.0).collect();
        self.query(REMOVE, &[&ids]).await.map(drop)
    }

    /// The next keys behind `after` that were stored at least so long ago, in order.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn stored_before(&self, age: Duration, after: CredentialId) -> Result<Vec<CredentialId>, StoreError> {
        let seconds = i32::try_from(age.as_secs()).unwrap_or(i32::MAX);
        let rows = self.query(STORED_BEFORE, &[&seconds, &after.0, &PAGE]).await?;
        Ok(rows.iter().map(|row| CredentialId(row.get(0))).collect())
    }

    /// How many secrets each key-encryption key is needed for.
    ///
    /// # Errors
    /// [`StoreError`]
    pub async fn census(&self) -> Result<Vec<Census>, StoreError> {
        let rows = self.query(CENSUS, &[]).await?;
        let kek = |row: &Row| KekId(u32::try_from(row.get::<_, i64>(0)).unwrap_or(u32::MAX));
        Ok(rows.iter().map(|row| Census { kek: kek(row), secrets: row.get(1), seals: row.get(2) }).collect())
    }

    /// Opens the next secrets that are not sealed under the current key, and seals them under it. It may be broken off at any place and
    /// begun again; several at once do no harm.
    ///
    /// # Errors
    /// [`StoreError`]; what was done stays done.
    pub async fn reseal_next(&self, after: CredentialId) -> Result<Resealed, StoreError> {
        let kek = self.keys.current();
        self.require_unspent(kek).await?;
        let rows = self.query(UNDER_OTHER_KEYS, &[&i64::from(kek.0), &after.0, &PAGE]).await?;
        let mut came = Resealed::default();
        for row in &rows {
            let id = CredentialId(row.get(0));
            let (owner, purpose, sealed): (&str, &str, &[u8]) = (row.get(1), row.get(2), row.get(3));
            let place = place(&id, owner, purpose);
            match envelope::open(&*self.keys, &place, sealed) {
                Err(error) => came.failed.push((id, error)),
                Ok(secret) => {
                    let anew = envelope::seal(&*self.keys, &place, Fresh::draw()?, &secret)?;
                    let changed = self.query(RESEAL, &[&id.0, &sealed, &i64::from(kek.0), &anew]).await?;
                    if changed.first().is_some_and(|row| row.get::<_, i64>(0) == 1) {
                        came.done += 1;
                    } else {
                        came.passed += 1;
                    }
                }
            }
            came.next = Some(id);
        }
        Ok(came)
    }
}
