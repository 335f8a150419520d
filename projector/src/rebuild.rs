//! Builds one projection from the first event into fresh tables, as fast as `PostgreSQL` takes them: new rows stream in by COPY,
//! rows that change are folded in memory and go in at the end, keys and indexes come last.

use std::mem;
use std::time::{Duration, Instant};

use futures_util::SinkExt as _;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::{Head, LogReader};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_postgres::{Client, Config, Error};

use crate::binary::copy_stream;
use crate::feed::{Feed, join};
use crate::fold::{Batch, Folder, Halt, Outcome};
use crate::memory::MemoryTable;
use crate::projection::Projection;
use crate::runtime::{OnProgress, Progress, ProjectorError, connect};
use crate::sql::{copy_sql, index_ddl, schema_ddl, table_ddl};

/// Rows per piece where rows come from memory.
const ROWS: usize = 50_000;

/// What a rebuild did.
#[derive(Clone, Copy, Debug)]
pub struct Rebuilt {
    /// Events folded, over all shards.
    pub events: u64,
    /// How long it took, indexes included.
    pub elapsed: Duration,
}

/// Builds `projection` in its own schema, which must not exist, and registers it as `standby` at the position reached: from there
/// a running projector follows the log with it. Everything is one transaction; a rebuild that is killed leaves nothing.
///
/// # Errors
/// [`ProjectorError`]; an event that cannot be applied ends the rebuild, whatever the projection.
pub async fn rebuild(
    config: &Config,
    projection: &dyn Projection,
    shards: &[ShardId],
    on_progress: Option<&OnProgress>,
) -> Result<Rebuilt, ProjectorError> {
    let begun = Instant::now();
    let reader = LogReader::prepare(std::sync::Arc::new(connect(config).await?)).await?;
    let client = connect(config).await?;
    let schema = projection.schema();
    client.batch_execute("BEGIN").await?;
    crate::setup::shared(&client).await?;
    client
        .execute(
            "INSERT INTO projection.registry (name, version, state) VALUES ($1, $2, 'standby')",
            &[&projection.name(), &projection.version()],
        )
        .await?;
    let tables: String = projection.tables().iter().map(|table| table_ddl(&schema, table)).collect();
    client.batch_execute(&(schema_ddl(&schema) + &tables)).await?;
    let mut build = Build { client: Some(client), pending: None, reader, projection, schema, events: 0, begun };
    for shard in shards {
        build.shard(*shard, on_progress).await?;
    }
    build.finish().await
}

struct Build<'a> {
    /// Absent while rows are on their way.
    client: Option<Client>,
    pending: Option<JoinHandle<(Client, Result<(), Error>)>>,
    reader: LogReader,
    projection: &'a dyn Projection,
    schema: String,
    events: u64,
    begun: Instant,
}

impl Build<'_> {
    async fn shard(&mut self, shard: ShardId, on_progress: Option<&OnProgress>) -> Result<(), ProjectorError> {
        let (log_id, end) = self.reader.head(shard).await?;
        let mut folder = Folder::beginning(shard, log_id, vec![self.projection.fresh()]);
        // The chain begins with the log's first id, which a fork does not change.
        folder.at = self.reader.genesis(shard).await?;
        let mut tables: Vec<MemoryTable> = self.projection.tables().iter().map(|_| MemoryTable::default()).collect();
        let mut feed = Feed::new(self.reader.clone(), shard, folder.at, None);
        let first = self.events;
        while folder.at.position < end.position {
            let (span, broken) = feed.next().await?;
            if let Some(broken) = broken {
                return Err(self.halted(broken.to_string()));
            }
            self.events += span.events.len() as u64;
            let schema = self.schema.clone();
            let work = move || {
                let result = fold(&schema, &mut folder, &mut tables, &span);
                (folder, tables, result)
            };
            let (after, kept, result) = join(&mut spawn_blocking(work)).await;
            (folder, tables) = (after, kept);
            match result {
                Ok(streams) => self.send(streams).await?,
                Err(reason) => return Err(self.halted(reason)),
            }
            if let Some(on_progress) = on_progress {
                #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
                let events_per_second = (self.events - first) as f64 / self.begun.elapsed().as_secs_f64();
                on_progress(Progress { shard, position: folder.at.position, head: end.position, events_per_second });
            }
        }
        for (shape, table) in self.projection.tables().iter().zip(&tables) {
            let rows: Vec<_> = table.rows().collect();
            for rows in rows.chunks(ROWS) {
                let stream = Stream { sql: frozen(&self.schema, shape), pieces: copy_stream(rows.iter().copied()) };
                self.send(vec![stream]).await?;
            }
        }
        self.checkpoint(shard, log_id, folder.at).await
    }

    async fn checkpoint(&mut self, shard: ShardId, log_id: LogId, at: Head) -> Result<(), ProjectorError> {
        let (name, version) = (self.projection.name(), self.projection.version());
        let client = self.settle().await?;
        let sql = "INSERT INTO projection.checkpoint (name, version, shard, log_id, position, hash) VALUES ($1, $2, $3, $4, $5, $6)";
        client.execute(sql, &[&name, &version, &shard.0, &log_id.0, &at.position.0, &at.hash.0.as_slice()]).await?;
        Ok(())
    }

    async fn finish(mut self) -> Result<Rebuilt, ProjectorError> {
        let indexes: String = self.projection.tables().iter().map(|table| index_ddl(&self.schema, table)).collect();
        let projection = self.projection;
        let client = self.settle().await?;
        // Sorting for the indexes is worth some memory; it is given back with the transaction.
        client.batch_execute("SET LOCAL maintenance_work_mem = '256MB'").await?;
        client.batch_execute(&indexes).await?;
        crate::tenant::secure(client, projection).await?;
        client.batch_execute("COMMIT").await?;
        Ok(Rebuilt { events: self.events, elapsed: self.begun.elapsed() })
    }

    /// Sends rows while the next ones are folded.
    async fn send(&mut self, streams: Vec<Stream>) -> Result<(), ProjectorError> {
        self.settle().await?;
        if let Some(client) = self.client.take() {
            self.pending = Some(tokio::spawn(async move {
                let sent = send_all(&client, streams).await;
                (client, sent)
            }));
        }
        Ok(())
    }

    async fn settle(&mut self) -> Result<&Client, ProjectorError> {
        if let Some(mut pending) = self.pending.take() {
            let (client, sent) = join(&mut pending).await;
            self.client = Some(client);
            sent?;
        }
        self.client.as_ref().ok_or_else(|| self.halted("its connection is gone".to_owned()))
    }

    fn halted(&self, reason: String) -> ProjectorError {
        ProjectorError::Halted(vec![Halt { name: self.projection.name(), version: self.projection.version(), reason }])
    }
}

struct Stream {
    sql: String,
    pieces: Vec<bytes::Bytes>,
}

/// The tables were made by this transaction, so their rows can be born frozen and need no vacuum.
fn frozen(schema: &str, table: &crate::table::Table) -> String {
    copy_sql(schema, table, ", FREEZE")
}

async fn send_all(client: &Client, streams: Vec<Stream>) -> Result<(), Error> {
    for stream in streams {
        let sink = client.copy_in(&stream.sql).await?;
        futures_util::pin_mut!(sink);
        for piece in stream.pieces {
            sink.feed(piece).await?;
        }
        sink.finish().await?;
    }
    Ok(())
}

/// Folds a span: changed rows into memory, new rows into streams.
fn fold(
    schema: &str,
    folder: &mut Folder,
    tables: &mut [MemoryTable],
    span: &crate::fold::Span,
) -> Result<Vec<Stream>, String> {
    let mut batch: Batch = match folder.offer(span) {
        Outcome::Nothing => return Ok(Vec::new()),
        Outcome::Folded { batch, halts } => match halts.into_iter().next() {
            Some(halt) => return Err(halt.reason),
            None => batch,
        },
        Outcome::Gap { expected, .. } => return Err(format!("position {expected} is missing")),
        Outcome::Fork { at } => return Err(format!("the log tells another story at position {at}")),
    };
    let mut streams = Vec::new();
    for part in &mut batch.parts {
        if let Some(letter) = part.letters.first() {
            return Err(format!("position {}: {}", letter.position, letter.cause));
        }
        for (table, changes) in tables.iter_mut().zip(part.changes.tables_mut()) {
            let appended = mem::take(&mut changes.appended);
            if !appended.is_empty() {
                streams.push(Stream { sql: frozen(schema, changes.table), pieces: copy_stream(appended.iter()) });
            }
            table.take(changes).map_err(|error| format!("before position {}: {error}", batch.to.position))?;
        }
    }
    Ok(streams)
}

/// How far a rebuild has to go, for a plan before it begins.
///
/// # Errors
/// [`ProjectorError`].
pub async fn extent(config: &Config, shards: &[ShardId]) -> Result<Vec<(ShardId, Position)>, ProjectorError> {
    let reader = LogReader::prepare(std::sync::Arc::new(connect(config).await?)).await?;
    let mut ends = Vec::with_capacity(shards.len());
    for shard in shards {
        ends.push((*shard, reader.head(*shard).await?.1.position));
    }
    Ok(ends)
}
