//! Read tables and checkpoints in `PostgreSQL`: what a projector loads when it starts, and one transaction per batch.

use std::collections::HashMap;

use futures_util::future::{BoxFuture, join_all};
use futures_util::{FutureExt as _, SinkExt as _, TryStreamExt as _};
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::{Head, Lineage, from_system_time};
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Error, IsolationLevel, Row, Statement, Transaction};

use crate::binary::read_row;
use crate::fold::{Batch, DeadLetter, Halt, Unit};
use crate::projection::{ApplyError, Projection, under};
use crate::sql::{self, Write};
use crate::table::{ContentDigest, Table, TableDigest};

/// What a writing connection runs with. Generic plans know no row counts, which is right: keys are looked up one by one. Commits
/// do not wait for the disk: the log is there before a projector reads it, and rows go together with their checkpoint, so after a
/// crash of the server the last moments are folded again (docs/decisions/0009).
const SESSION: &str = "SET jit = off; SET plan_cache_mode = force_generic_plan; SET synchronous_commit = off";

/// A projection as it was saved.
pub struct Saved {
    /// With what it remembers; of a halted one nothing is loaded.
    pub unit: Unit,
    /// `live` or `standby`.
    pub state: String,
    /// The log that it has read so far.
    pub log_id: LogId,
    /// How far.
    pub at: Head,
    /// Why it does not go on.
    pub halted: Option<String>,
    /// How many events it has put aside.
    pub letters: i64,
}

/// Why saved projections cannot be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The database's error.
    #[error(transparent)]
    Database(#[from] Error),
    /// A table holds what its projection did not write.
    #[error("projection {0}: {1}")]
    Projection(&'static str, ApplyError),
}

/// A batch, ready to be sent.
#[derive(Debug)]
pub struct Commit {
    shard: ShardId,
    log_id: LogId,
    from: Head,
    to: Head,
    names: Vec<&'static str>,
    versions: Vec<i32>,
    writes: Vec<Write>,
    letters: Vec<(&'static str, i32, Vec<DeadLetter>)>,
    /// How many events lie behind it.
    pub events: usize,
}

impl Commit {
    /// Turns a batch into statements and streams. Costs about as much as folding it.
    pub fn new(shard: ShardId, log_id: LogId, batch: Batch) -> Self {
        let mut commit = Self {
            shard,
            log_id,
            from: batch.from,
            to: batch.to,
            names: Vec::new(),
            versions: Vec::new(),
            writes: Vec::new(),
            letters: Vec::new(),
            events: batch.events,
        };
        for part in batch.parts {
            commit.names.push(part.name);
            commit.versions.push(part.version);
            commit.writes.extend(sql::writes(&format!("p_{}_v{}", part.name, part.version), &part.changes));
            if !part.letters.is_empty() {
                commit.letters.push((part.name, part.version, part.letters));
            }
        }
        commit
    }

    /// Where the checkpoints will stand.
    pub fn to(&self) -> Head {
        self.to
    }

    /// The statements that it runs.
    pub fn statements(&self) -> impl Iterator<Item = &str> {
        self.writes.iter().map(Write::sql)
    }
}

/// A connection that writes read tables.
pub struct Store {
    client: Client,
    advance: Statement,
    letters: Statement,
    prepared: HashMap<String, Statement>,
}

impl Store {
    /// Prepares a connection of `ledger_projector`.
    ///
    /// # Errors
    /// The database's.
    pub async fn prepare(client: Client) -> Result<Self, Error> {
        client.batch_execute(SESSION).await?;
        Ok(Self {
            advance: client.prepare(include_str!("sql/advance.sql")).await?,
            letters: client.prepare(include_str!("sql/dead_letters.sql")).await?,
            prepared: HashMap::new(),
            client,
        })
    }

    /// The connection.
    pub fn client(&self) -> &Client {
        &self.client
    }

    /// Loads those of `known` that are registered, all as of one moment. Projections that have no checkpoint in this shard get
    /// one before the first event.
    ///
    /// # Errors
    /// [`LoadError`].
    pub async fn load(
        &mut self,
        shard: ShardId,
        log_id: LogId,
        known: &[Box<dyn Projection>],
    ) -> Result<Vec<Saved>, LoadError> {
        let lineage = Lineage::read(&self.client, shard).await?;
        // The chain begins with the log's first id, which a fork does not change.
        let genesis = lineage.and_then(|lineage| lineage.genesis()).unwrap_or(Head::genesis(log_id, shard));
        let begin = include_str!("sql/begin_checkpoints.sql");
        self.client.execute(begin, &[&shard.0, &log_id.0, &genesis.hash.0.as_slice()]).await?;
        let transaction = self
            .client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let mut saved = Vec::new();
        for row in transaction.query(include_str!("sql/checkpoints.sql"), &[&shard.0]).await? {
            let (name, code): (&str, i32) = (row.get(0), row.get(7));
            let Some(fold) = known.iter().find(|known| known.name() == name && known.code() == code) else {
                continue;
            };
            let projection = under(fold.fresh(), row.get(1));
            let is_halted = row.get::<_, Option<&str>>(6).is_some();
            saved.push(read_saved(&transaction, shard, projection, &row, !is_halted).await?);
        }
        transaction.commit().await?;
        Ok(saved)
    }

    /// Loads one version, whatever its state and although it is halted; `None` if it has no checkpoint in this shard.
    ///
    /// # Errors
    /// [`LoadError`].
    pub(crate) async fn load_version(
        &mut self,
        shard: ShardId,
        projection: &dyn Projection,
    ) -> Result<Option<Saved>, LoadError> {
        let transaction = self
            .client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await?;
        let key: [&(dyn ToSql + Sync); 3] = [&projection.name(), &projection.version(), &shard.0];
        let Some(row) = transaction.query_opt(include_str!("sql/checkpoint.sql"), &key).await? else {
            return Ok(None);
        };
        let saved = read_saved(&transaction, shard, projection.fresh(), &row, true).await?;
        transaction.commit().await?;
        Ok(Some(saved))
    }

    /// Commits a batch: everything or nothing, in one round trip and as many more as it has streams of new rows.
    ///
    /// # Errors
    /// The database's. Unless it says that a statement failed, the batch may or may not be committed: load to find out.
    pub async fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.prepare_writes(&commit.writes).await?;
        let hashes = [commit.from.hash.0.as_slice(), commit.to.hash.0.as_slice()];
        let move_on: [&(dyn ToSql + Sync); 8] = [
            &commit.names,
            &commit.versions,
            &commit.shard.0,
            &commit.log_id.0,
            &commit.from.position.0,
            &hashes[0],
            &commit.to.position.0,
            &hashes[1],
        ];
        // Sent in this order without waiting in between. The checkpoints come first: they lock out a second projector, and if
        // they are elsewhere their error makes PostgreSQL refuse everything behind it, the commit included.
        let mut steps: Vec<BoxFuture<'_, Result<(), Error>>> = vec![
            self.client.batch_execute("BEGIN").boxed(),
            self.client.execute(&self.advance, &move_on).map_ok_drop(),
        ];
        steps.extend(commit.writes.iter().map(|write| self.send(write).boxed()));
        steps.extend(
            commit
                .letters
                .iter()
                .map(|(name, version, letters)| self.put_aside(commit.shard, name, *version, letters).boxed()),
        );
        steps.push(self.client.batch_execute("COMMIT").boxed());
        let results = join_all(steps).await;
        let failed = results.into_iter().find_map(Result::err);
        if let Some(error) = failed {
            // Harmless where the failed commit has ended the transaction already.
            self.client.batch_execute("ROLLBACK").await.ok();
            return Err(error);
        }
        Ok(())
    }

    /// Prepares what [`Store::send`] needs.
    pub(crate) async fn prepare_writes(&mut self, writes: &[Write]) -> Result<(), Error> {
        for write in writes {
            let sql = write.sql();
            if !self.prepared.contains_key(sql) {
                let statement = self.client.prepare(sql).await?;
                self.prepared.insert(sql.to_owned(), statement);
            }
        }
        Ok(())
    }

    pub(crate) async fn send(&self, write: &Write) -> Result<(), Error> {
        match write {
            Write::Statement { sql, parameters, expected } => {
                let mut all: Vec<&(dyn ToSql + Sync)> =
                    parameters.iter().map(|parameter| parameter as &(dyn ToSql + Sync)).collect();
                if let Some((table, rows)) = expected {
                    all.push(table);
                    all.push(rows);
                }
                self.client.execute(&self.prepared[sql], &all).await.map(drop)
            }
            Write::Copy { sql, pieces } => {
                let sink = self.client.copy_in(&self.prepared[sql]).await?;
                futures_util::pin_mut!(sink);
                for piece in pieces {
                    sink.feed(piece.clone()).await?;
                }
                sink.finish().await.map(drop)
            }
        }
    }

    async fn put_aside(&self, shard: ShardId, name: &str, version: i32, letters: &[DeadLetter]) -> Result<(), Error> {
        let streams: Vec<String> = letters.iter().map(|letter| letter.stream.to_string()).collect();
        let positions: Vec<i64> = letters.iter().map(|letter| letter.position.0).collect();
        let causes: Vec<&str> = letters.iter().map(|letter| letter.cause.as_str()).collect();
        self.client.execute(&self.letters, &[&name, &version, &shard.0, &streams, &positions, &causes]).await.map(drop)
    }

    /// Writes down that a projection stops.
    ///
    /// # Errors
    /// The database's.
    pub async fn halt(&self, shard: ShardId, halt: &Halt) -> Result<(), Error> {
        self.client
            .execute(include_str!("sql/halt.sql"), &[&halt.name, &halt.version, &shard.0, &halt.reason])
            .await
            .map(drop)
    }

    /// Notes that what a projection has read under an earlier id of the log is also in the log as it goes on.
    ///
    /// # Errors
    /// The database's.
    pub async fn adopt(&self, shard: ShardId, log_id: LogId, name: &str, version: i32, at: Head) -> Result<(), Error> {
        let hash = at.hash.0.as_slice();
        self.client
            .execute(include_str!("sql/adopt.sql"), &[&name, &version, &shard.0, &log_id.0, &at.position.0, &hash])
            .await
            .map(drop)
    }

    /// A text that changes when other projections are to be followed, or a halt was lifted.
    ///
    /// # Errors
    /// The database's.
    pub async fn following(&self, shard: ShardId) -> Result<String, Error> {
        Ok(self.client.query_one(include_str!("sql/following.sql"), &[&shard.0]).await?.get(0))
    }

    /// When the first event behind a position was recorded, if there is one.
    ///
    /// # Errors
    /// The database's.
    pub async fn oldest(&self, shard: ShardId, position: Position) -> Result<Option<Timestamp>, Error> {
        let row = self.client.query_opt(include_str!("sql/oldest.sql"), &[&shard.0, &position.0]).await?;
        Ok(row.map(|row| from_system_time(row.get(0))))
    }

    /// The link of the chain at a position, if a batch ends there.
    ///
    /// # Errors
    /// The database's.
    pub async fn link(&self, shard: ShardId, position: Position) -> Result<Option<ChainHash>, Error> {
        let row = self.client.query_opt(include_str!("sql/link.sql"), &[&shard.0, &position.0]).await?;
        Ok(row.and_then(|row| ChainHash::from_slice(row.get(0))))
    }
}

trait DropOk<'a, T> {
    fn map_ok_drop(self) -> BoxFuture<'a, Result<(), Error>>;
}

impl<'a, T, F: Future<Output = Result<T, Error>> + Send + 'a> DropOk<'a, T> for F {
    fn map_ok_drop(self) -> BoxFuture<'a, Result<(), Error>> {
        self.map(|result| result.map(drop)).boxed()
    }
}

/// Reads a checkpoint's row and, where it is wanted, what the projection keeps in memory.
async fn read_saved(
    transaction: &Transaction<'_>,
    shard: ShardId,
    projection: Box<dyn Projection>,
    row: &Row,
    remembering: bool,
) -> Result<Saved, LoadError> {
    let mut unit = Unit::new(projection);
    let mut letters = 0;
    if remembering {
        remember(transaction, shard, unit.projection.as_mut()).await?;
        let (name, version) = (unit.projection.name(), unit.projection.version());
        for row in transaction.query(include_str!("sql/quarantined.sql"), &[&name, &version, &shard.0]).await? {
            letters += row.get::<_, i64>(1);
            let stream = row.get::<_, &str>(0).parse();
            unit.quarantined.insert(
                stream.map_err(|_| LoadError::Projection(name, ApplyError::ForeignRow("projection.dead_letter")))?,
            );
        }
    }
    let hash = ChainHash::from_slice(row.get(5)).unwrap_or(ChainHash([0; 32]));
    let at = Head { position: Position(row.get(4)), hash };
    Ok(Saved { unit, state: row.get(2), log_id: LogId(row.get(3)), at, halted: row.get(6), letters })
}

/// Gives a projection back what it keeps in memory.
async fn remember(
    transaction: &Transaction<'_>,
    shard: ShardId,
    projection: &mut dyn Projection,
) -> Result<(), LoadError> {
    for index in projection.remembers() {
        let table = &projection.tables()[*index];
        let rows = transaction.query_raw(&sql::select_sql(&projection.schema(), table), [shard.0]).await?;
        futures_util::pin_mut!(rows);
        while let Some(row) = rows.try_next().await? {
            let row = read_row(table, &row)?;
            projection.remember(*index, &row).map_err(|error| LoadError::Projection(projection.name(), error))?;
        }
    }
    Ok(())
}

/// What a table holds, over all shards; the same as [`crate::memory::MemoryTable::digest`] gives for the same rows.
///
/// # Errors
/// The database's.
pub async fn digest(client: &Client, schema: &str, table: &Table) -> Result<TableDigest, Error> {
    let rows = client.query_raw(&sql::select_all_sql(schema, table), std::iter::empty::<i16>()).await?;
    futures_util::pin_mut!(rows);
    let mut digest = ContentDigest::new();
    while let Some(row) = rows.try_next().await? {
        digest.row(&read_row(table, &row)?);
    }
    Ok(digest.finish())
}
