//! Builds a version of a projection from the first event beside the live one. What is new streams in by COPY, what changes is merged
//! over tens of thousands of events and written once; further indexes come last.
//!
//! Rows and checkpoint are committed together, segment by segment: whatever ends a rebuild, the same call goes on behind the last
//! committed segment, and a rebuild holds no snapshot that would keep the server from cleaning up.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::LogReader;
use tokio::sync::watch;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_postgres::{Client, Config, Error};

use crate::feed::{Feed, join};
use crate::fold::{Batch, Folder, Halt, Outcome, Span};
use crate::projection::Projection;
use crate::runtime::{OnProgress, Progress, ProjectorError, connect};
use crate::sql::{further_index_ddl, index_ddl, key_ddl, schema_ddl, table_ddl, view_ddl};
use crate::store::{Commit, Saved, Store};
use crate::table::Writing;

/// Events per commit; two segments are in memory at most.
const SEGMENT: usize = 32_768;
/// A segment is committed after this time although it is small, so that little is done twice.
const SEGMENT_TIME: Duration = Duration::from_secs(1);
/// Under a limit, pages per second, each committed by itself: whoever commits meanwhile waits until what a rebuild has written before is on
/// the disk, too.
const LIMITED_PAGES: u64 = 50;
/// A page has at least so many events.
const LEAST_PAGE: u64 = 32;
/// What the log may be ahead when the indexes are made; the projector brings the rest.
const NEAR: i64 = 8_192;
/// How long an earlier rebuild that was killed may take to let go.
const TAKE_OVER: Duration = Duration::from_secs(20);

/// What a rebuild did.
#[derive(Clone, Copy, Debug)]
pub struct Rebuilt {
    /// Events folded by this call, over all shards.
    pub events: u64,
    /// How long it took, indexes included.
    pub elapsed: Duration,
    /// False if it was asked to stop first; the same call goes on.
    pub is_complete: bool,
}

/// How to rebuild.
#[derive(Clone, Default)]
pub struct Rebuilding {
    /// Is told after each page.
    pub on_progress: Option<OnProgress>,
    /// Stops at the next commit once this is true.
    pub stop: Option<watch::Receiver<bool>>,
    /// Events per second at most, over all shards; 0 for as fast as it goes. May change at any time.
    pub limit: Arc<AtomicU64>,
    /// Is told of each process of the server that works for the rebuild, so that it can be made to stand back.
    pub on_backend: Option<OnBackend>,
}

/// A process of the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    /// Its id where the server runs.
    pub pid: i32,
    /// What its title has there: user, database, and where its client is.
    pub title: String,
}

/// Is told of a process of the server.
pub type OnBackend = Arc<dyn Fn(&Backend) + Send + Sync>;

impl Rebuilding {
    fn limit(&self) -> u64 {
        self.limit.load(Ordering::Relaxed)
    }

    async fn tell_of(&self, client: &Client) -> Result<(), Error> {
        let Some(on_backend) = &self.on_backend else { return Ok(()) };
        let sql = "SELECT pg_backend_pid(), session_user || ' ' || current_database() || ' '
                       || coalesce(host(inet_client_addr()) || '(' || inet_client_port() || ')', '[local]')";
        let row = client.query_one(sql, &[]).await?;
        on_backend(&Backend { pid: row.get(0), title: row.get(1) });
        Ok(())
    }
}

/// Builds `projection` in its own schema and registers it as `standby` at the position reached: from there a running projector
/// follows the log with it. Goes on with a rebuild of the same version that was broken off.
///
/// # Errors
/// [`ProjectorError`]; an event that cannot be applied ends the rebuild, whatever the projection.
pub async fn rebuild(
    config: &Config,
    projection: &dyn Projection,
    shards: &[ShardId],
    how: &Rebuilding,
) -> Result<Rebuilt, ProjectorError> {
    let begun = Instant::now();
    let (reading, client) = (connect(config).await?, connect(config).await?);
    how.tell_of(&reading).await?;
    how.tell_of(&client).await?;
    let reader = LogReader::prepare(Arc::new(reading)).await?;
    let mut build = Build { store: None, pending: None, reader, projection, how, events: 0, begun };
    build.take_over(&client).await?;
    build.create(&client).await?;
    build.store = Some(Store::prepare(client).await?);
    let mut is_complete = true;
    for shard in shards {
        is_complete = is_complete && build.shard(*shard).await?;
    }
    if is_complete {
        build.finish().await?;
    }
    Ok(Rebuilt { events: build.events, elapsed: begun.elapsed(), is_complete })
}

/// Events that go into one commit.
struct Segment {
    batch: Option<Batch>,
    since: Instant,
}

impl Segment {
    fn is_due(&self, limit: u64) -> bool {
        let is_due = |batch: &Batch| batch.events >= SEGMENT || limit > 0 || self.since.elapsed() >= SEGMENT_TIME;
        self.batch.as_ref().is_some_and(is_due)
    }
}

struct Build<'a> {
    /// Absent while rows are on their way.
    store: Option<Store>,
    pending: Option<JoinHandle<(Store, Result<(), Error>)>>,
    reader: LogReader,
    projection: &'a dyn Projection,
    how: &'a Rebuilding,
    events: u64,
    begun: Instant,
}

impl Build<'_> {
    /// Nobody else may build the same tables. The lock goes with the connection, so with the process.
    async fn take_over(&self, client: &Client) -> Result<(), ProjectorError> {
        let lock = "SELECT pg_try_advisory_lock(7307, hashtext($1))";
        let began = Instant::now();
        while !client.query_one(lock, &[&self.projection.schema()]).await?.get::<_, bool>(0) {
            if began.elapsed() > TAKE_OVER {
                return Err(self.halted("another process is building it".to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(())
    }

    /// Schema, tables and what an update needs, unless they are there already.
    async fn create(&self, client: &Client) -> Result<(), ProjectorError> {
        let (name, version, code) = (self.projection.name(), self.projection.version(), self.projection.code());
        client.batch_execute("BEGIN").await?;
        crate::setup::shared(client).await?;
        let register = "INSERT INTO projection.registry (name, version, code, state) VALUES ($1, $2, $3, 'building')
                        ON CONFLICT DO NOTHING";
        if client.execute(register, &[&name, &version, &code]).await? == 0 {
            let known = "SELECT state, code FROM projection.registry WHERE name = $1 AND version = $2";
            let row = client.query_one(known, &[&name, &version]).await?;
            client.batch_execute("ROLLBACK").await?;
            let (state, of): (&str, i32) = (row.get(0), row.get(1));
            return match state {
                "building" if of == code => Ok(()),
                "building" => Err(self.halted(format!("it was begun with version {of} of the fold; drop it first"))),
                _ => Err(self.halted(format!("it is there already, as {state}"))),
            };
        }
        let schema = self.projection.schema();
        let mut ddl = schema_ddl(&schema);
        for table in self.projection.tables() {
            ddl.push_str(&table_ddl(&schema, table));
            if self.how.limit() > 0 {
                // An index that is made at the end writes as much in a moment as the rebuild in a minute.
                ddl.push_str(&index_ddl(&schema, table));
            } else if table.writing == Writing::Upsert {
                // Rows that change are found by their key; those that are only added need none before the end.
                ddl.push_str(&key_ddl(&schema, table));
            }
        }
        client.batch_execute(&ddl).await?;
        crate::tenant::secure(client, self.projection).await?;
        Ok(client.batch_execute("COMMIT").await?)
    }

    /// Folds a shard to its end; false if it was asked to stop.
    async fn shard(&mut self, shard: ShardId) -> Result<bool, ProjectorError> {
        let (_, mut end) = self.reader.head(shard).await?;
        let saved = self.saved(shard).await?;
        let log_id = saved.log_id;
        let mut folder = Folder::new(shard, log_id, saved.at, vec![saved.unit]);
        let mut feed = Feed::new(self.reader.clone(), shard, folder.at, None);
        let mut segment = Segment { batch: None, since: Instant::now() };
        loop {
            if folder.at.position >= end.position {
                let now = self.reader.head(shard).await?.1;
                if now.position.0 - folder.at.position.0 <= NEAR {
                    break;
                }
                end = now;
            }
            let page_begun = Instant::now();
            feed.set_page(page(self.how.limit()));
            let (span, broken) = feed.next().await?;
            if span.events.is_empty() {
                let why = broken.map_or_else(|| "the log ends early".to_owned(), |broken| broken.to_string());
                return Err(self.halted(why));
            }
            let events = span.events.len();
            let work = move || {
                let result = fold(&mut folder, &mut segment, &span);
                (folder, segment, result)
            };
            let (after, kept, result) = join(&mut spawn_blocking(work)).await;
            (folder, segment) = (after, kept);
            result.map_err(|reason| self.halted(reason))?;
            self.events += events as u64;
            self.tell(shard, folder.at.position, end.position);
            self.pace(events, page_begun).await;
            if self.is_stopping() {
                break;
            }
            if segment.is_due(self.how.limit()) {
                self.send(shard, log_id, &mut segment).await?;
            }
        }
        self.send(shard, log_id, &mut segment).await?;
        self.await_commit().await?;
        Ok(!self.is_stopping())
    }

    /// Where an earlier call has come to, or the beginning. A log that was forked behind that place goes on.
    async fn saved(&mut self, shard: ShardId) -> Result<Saved, ProjectorError> {
        let (log_id, _) = self.reader.head(shard).await?;
        let (name, version) = (self.projection.name(), self.projection.version());
        // The chain begins with the log's first id, which a fork does not change.
        let genesis = self.reader.genesis(shard).await?;
        let begin = "INSERT INTO projection.checkpoint (name, version, shard, log_id, position, hash) VALUES ($1, $2, $3, $4, 0, $5)
                     ON CONFLICT DO NOTHING";
        self.await_commit()
            .await?
            .client()
            .execute(begin, &[&name, &version, &shard.0, &log_id.0, &genesis.hash.0.as_slice()])
            .await?;
        let gone = self.halted("its checkpoint is gone".to_owned());
        let projection = self.projection;
        let mut saved = self.await_commit().await?.load_version(shard, projection).await?.ok_or(gone)?;
        let admitted = self.reader.admit(shard, saved.log_id, saved.at).await?;
        let log_id = admitted.map_err(|stranger| self.halted(format!("{stranger}; drop it and build it anew")))?;
        if let Some(reason) = saved.halted {
            return Err(self.halted(reason));
        }
        if saved.log_id != log_id {
            self.await_commit().await?.adopt(shard, log_id, name, version, saved.at).await?;
            saved.log_id = log_id;
        }
        Ok(saved)
    }

    fn tell(&self, shard: ShardId, position: Position, head: Position) {
        if let Some(on_progress) = &self.how.on_progress {
            #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
            let events_per_second = self.events as f64 / self.begun.elapsed().as_secs_f64().max(1e-3);
            on_progress(Progress { shard, position, head: head.max(position), events_per_second });
        }
    }

    fn is_stopping(&self) -> bool {
        self.how.stop.as_ref().is_some_and(|stop| *stop.borrow())
    }

    /// Waits until a page has taken as long as the limit wants; the limit may be lifted meanwhile.
    async fn pace(&self, events: usize, begun: Instant) {
        loop {
            let limit = self.how.limit();
            if limit == 0 || self.is_stopping() {
                return;
            }
            let micros = (events as u64).saturating_mul(1_000_000) / limit;
            let rest = Duration::from_micros(micros).saturating_sub(begun.elapsed());
            if rest.is_zero() {
                return;
            }
            tokio::time::sleep(rest.min(Duration::from_millis(200))).await;
        }
    }

    /// Commits a segment while the next one is folded.
    async fn send(&mut self, shard: ShardId, log_id: LogId, segment: &mut Segment) -> Result<(), ProjectorError> {
        segment.since = Instant::now();
        let Some(batch) = segment.batch.take() else { return Ok(()) };
        let commit = join(&mut spawn_blocking(move || Commit::new(shard, log_id, batch))).await;
        self.await_commit().await?;
        if let Some(mut store) = self.store.take() {
            self.pending = Some(tokio::spawn(async move {
                let result = store.commit(&commit).await;
                (store, result)
            }));
        }
        Ok(())
    }

    /// Waits for the commit on its way; the store behind it.
    async fn await_commit(&mut self) -> Result<&mut Store, ProjectorError> {
        if let Some(mut pending) = self.pending.take() {
            let (store, sent) = join(&mut pending).await;
            self.store = Some(store);
            sent?;
        }
        let gone = self.halted("its connection is gone".to_owned());
        self.store.as_mut().ok_or(gone)
    }

    /// Indexes, statistics, and the word that it may be followed.
    async fn finish(&mut self) -> Result<(), ProjectorError> {
        let projection = self.projection;
        let (schema, views) = (projection.schema(), view_ddl(projection));
        let client = self.await_commit().await?.client();
        let mut indexes = String::new();
        for table in projection.tables() {
            // What the call that created the tables has left for now.
            let there = "SELECT count(*) FROM pg_indexes WHERE schemaname = $1 AND tablename = $2";
            let there: i64 = client.query_one(there, &[&schema, &table.name]).await?.get(0);
            match usize::try_from(there).unwrap_or_default() {
                0 => indexes.push_str(&index_ddl(&schema, table)),
                1 => indexes.push_str(&further_index_ddl(&schema, table)),
                _ => {}
            }
        }
        // Sorting for the indexes is worth some memory; it is given back with the transaction. Not worth processors that others need.
        let room = "BEGIN; SET LOCAL maintenance_work_mem = '256MB'; SET LOCAL max_parallel_maintenance_workers = 0";
        client.batch_execute(room).await?;
        client.batch_execute(&indexes).await?;
        let ready = "UPDATE projection.registry SET state = 'standby', views = $3 WHERE name = $1 AND version = $2";
        client.execute(ready, &[&projection.name(), &projection.version(), &views]).await?;
        client.batch_execute("COMMIT").await?;
        // Whoever reads after a switch shall have plans that fit.
        let analyze: Vec<String> =
            projection.tables().iter().map(|table| format!("ANALYZE {schema}.{}", table.name)).collect();
        Ok(client.batch_execute(&analyze.join("; ")).await?)
    }

    fn halted(&self, reason: String) -> ProjectorError {
        ProjectorError::Halted(vec![Halt { name: self.projection.name(), version: self.projection.version(), reason }])
    }
}

/// Events to read at a time under a limit of the rate; 0 is none.
fn page(limit: u64) -> usize {
    match limit {
        0 => usize::MAX,
        limit => usize::try_from((limit / LIMITED_PAGES).max(LEAST_PAGE)).unwrap_or(usize::MAX),
    }
}

/// Folds a span into the segment.
fn fold(folder: &mut Folder, segment: &mut Segment, span: &Span) -> Result<(), String> {
    let batch = match folder.offer(span) {
        Outcome::Nothing => return Ok(()),
        Outcome::Folded { batch, halts } => match halts.into_iter().next() {
            Some(halt) => return Err(halt.reason),
            None => batch,
        },
        Outcome::Gap { expected, .. } => return Err(format!("position {expected} is missing")),
        Outcome::Fork { at } => return Err(format!("the log tells another story at position {at}")),
    };
    if let Some(letter) = batch.parts.iter().flat_map(|part| &part.letters).next() {
        return Err(format!("position {}: {}", letter.position, letter.cause));
    }
    let to = batch.to;
    match &mut segment.batch {
        None => segment.batch = Some(batch),
        Some(first) => {
            first.absorb(batch).map_err(|error| format!("before position {}: {error}", to.position))?;
        }
    }
    Ok(())
}

/// How far a rebuild has to go, for a plan before it begins.
///
/// # Errors
/// [`ProjectorError`].
pub async fn extent(config: &Config, shards: &[ShardId]) -> Result<Vec<(ShardId, Position)>, ProjectorError> {
    let reader = LogReader::prepare(Arc::new(connect(config).await?)).await?;
    let mut ends = Vec::with_capacity(shards.len());
    for shard in shards {
        ends.push((*shard, reader.head(*shard).await?.1.position));
    }
    Ok(ends)
}
