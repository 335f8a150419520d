//! Reading whole batches in order. A reader that meets a gap, a wrong link or bytes that do not hash to their link stops there:
//! going on would turn one damaged row into wrong figures everywhere.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::{Client, Error, Row, Statement};
use uuid::Uuid;

use super::connection::within;
use super::{EventRow, Head, Lineage, MAX_BATCH_EVENTS, Stranger, from_system_time};
use crate::event::{DecodeError, KeyUse, Recorded, StoredRef};
use crate::hash::{BatchHasher, ChainHash};
use crate::ids::{BatchId, LogId, Position, ShardId};

/// Events of whole batches, in order, and the head behind them.
#[derive(Clone, Debug)]
pub struct Page {
    /// The head that the first event follows.
    pub after: Head,
    /// The head at the last event.
    pub head: Head,
    /// The events in between.
    pub events: Vec<Recorded>,
}

/// Why a reader stopped.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// A position is missing or there twice.
    #[error("log damaged at position {found}: expected {expected}; run `modelfaucet verify`")]
    Gap {
        /// The position that should come.
        expected: Position,
        /// The position that came.
        found: Position,
    },
    /// A link or an event behind it was changed.
    #[error("log damaged in positions {first} to {last}: the hash chain does not hold; run `modelfaucet verify`")]
    Chain {
        /// First position of the batch.
        first: Position,
        /// Last position of the batch.
        last: Position,
    },
    /// An event that this program cannot read.
    #[error("event at position {position}: {source}")]
    Decode {
        /// Its position.
        position: Position,
        /// What is wrong.
        #[source]
        source: DecodeError,
    },
    /// The shard has no log.
    #[error("shard {0} has no log; run `modelfaucet migrate`")]
    NoLog(ShardId),
    /// The database's error.
    #[error("the log cannot be read: {0}")]
    Database(#[from] tokio_postgres::Error),
}

/// A connection prepared for reading. Cheap to clone; queries of clones are pipelined on the one connection.
#[derive(Clone)]
pub struct LogReader {
    client: Arc<Client>,
    head: Statement,
    batches: Statement,
    events: Statement,
    link: Statement,
    keys: Option<Statement>,
    await_appends: Option<Statement>,
    patience: Option<Duration>,
}

impl LogReader {
    /// Prepares a connection for reading events.
    ///
    /// # Errors
    /// The database's.
    pub async fn prepare(client: Arc<Client>) -> Result<Self, tokio_postgres::Error> {
        Ok(Self {
            head: client.prepare(include_str!("sql/head.sql")).await?,
            batches: client.prepare(include_str!("sql/read_batches.sql")).await?,
            events: client.prepare(include_str!("sql/read_events.sql")).await?,
            link: client.prepare(include_str!("sql/link.sql")).await?,
            keys: None,
            await_appends: None,
            patience: None,
            client,
        })
    }

    /// Waits so long at most for each answer. Behind an error that is not the server's the connection is of no use any more.
    #[must_use]
    pub fn patient_for(mut self, patience: Duration) -> Self {
        self.patience = Some(patience);
        self
    }

    async fn ask<T>(&self, asked: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        match self.patience {
            Some(patience) => within(patience, asked).await,
            None => asked.await,
        }
    }

    /// Prepares a connection for reading events and looking up keys, which not every role may.
    ///
    /// # Errors
    /// The database's.
    pub async fn prepare_with_keys(client: Arc<Client>) -> Result<Self, tokio_postgres::Error> {
        let keys = client.prepare(include_str!("sql/keys.sql")).await?;
        let await_appends = client.prepare(include_str!("sql/await_appends.sql")).await?;
        Ok(Self { keys: Some(keys), await_appends: Some(await_appends), ..Self::prepare(client).await? })
    }

    /// The log's id and its head now.
    ///
    /// # Errors
    /// [`ReadError::NoLog`] or the database's.
    pub async fn head(&self, shard: ShardId) -> Result<(LogId, Head), ReadError> {
        let row = self.ask(self.client.query_opt(&self.head, &[&shard.0])).await?.ok_or(ReadError::NoLog(shard))?;
        let hash = ChainHash::from_slice(row.get(2)).unwrap_or(ChainHash([0; 32]));
        Ok((LogId(row.get(0)), Head { position: Position(row.get(1)), hash }))
    }

    /// The head before the first event.
    ///
    /// # Errors
    /// [`ReadError::NoLog`] or the database's.
    pub async fn genesis(&self, shard: ShardId) -> Result<Head, ReadError> {
        let lineage = self.ask(Lineage::read(&self.client, shard)).await?;
        lineage.and_then(|lineage| lineage.genesis()).ok_or(ReadError::NoLog(shard))
    }

    /// The link of the chain at a position, if a batch ends there.
    ///
    /// # Errors
    /// The database's.
    pub async fn link(&self, shard: ShardId, position: Position) -> Result<Option<ChainHash>, ReadError> {
        let row = self.ask(self.client.query_opt(&self.link, &[&shard.0, &position.0])).await?;
        Ok(row.and_then(|row| ChainHash::from_slice(row.get(0))))
    }

    /// May somebody go on behind `at` who has read the log up to there under the id `log_id`? The log's id now, or why not. The place must
    /// have been read before this is asked: a log that ends before it has lost events.
    ///
    /// # Errors
    /// [`ReadError::NoLog`] or the database's.
    pub async fn admit(&self, shard: ShardId, log_id: LogId, at: Head) -> Result<Result<LogId, Stranger>, ReadError> {
        let (_, end) = self.head(shard).await?;
        let lineage = Lineage::read(&self.client, shard).await?.ok_or(ReadError::NoLog(shard))?;
        let link = self.link(shard, at.position).await?;
        Ok(lineage.admit(log_id, at, end.position, link))
    }

    /// As [`LogReader::head`], but waits first for the appends that the server has begun, also of writers that are gone.
    ///
    /// # Errors
    /// As [`LogReader::head`]; the database's if the shard's lock cannot be had in time.
    pub async fn head_behind_appends(&self, shard: ShardId) -> Result<(LogId, Head), ReadError> {
        let Some(await_appends) = &self.await_appends else { return self.head(shard).await };
        // Sent together, run one after the other, each in its own transaction: the second sees what the first has waited for.
        let shard_number = i32::from(shard.0);
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 1] = [&shard_number];
        let (awaited, head) =
            futures_util::future::join(self.ask(self.client.execute(await_appends, &parameters)), self.head(shard))
                .await;
        awaited?;
        head
    }

    /// The next whole batches behind `after`, at most about `limit` events (raised to the size of the largest batch); an empty
    /// page at the end of the log.
    ///
    /// # Errors
    /// [`ReadError`]; nothing of a damaged batch or anything behind it is returned.
    pub async fn page(&self, shard: ShardId, after: Head, limit: usize) -> Result<Page, ReadError> {
        let raw = self.raw_page(shard, after, limit).await?;
        let page = raw.check()?;
        let mut events = Vec::with_capacity(page.events.len());
        for event in &page.events {
            events.push(event.decode().map_err(|source| ReadError::Decode { position: event.position, source })?);
        }
        Ok(Page { after, head: page.head(), events })
    }

    /// As [`LogReader::page`], but neither checked nor decoded yet, which is the greater part of the work.
    ///
    /// # Errors
    /// The database's.
    pub async fn raw_page(&self, shard: ShardId, after: Head, limit: usize) -> Result<RawPage, ReadError> {
        let limit = limit.max(MAX_BATCH_EVENTS);
        let rows = i64::try_from(limit).unwrap_or(i64::MAX);
        // Batches first: every batch seen has its events in the second answer, unless the limit cuts them off.
        let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 3] = [&shard.0, &after.position.0, &rows];
        let (batches, events) = self
            .ask(futures_util::future::try_join(
                self.client.query(&self.batches, &parameters),
                self.client.query(&self.events, &parameters),
            ))
            .await?;
        Ok(RawPage { shard, after, limit, batches, events })
    }

    /// The events that answer `keys`, for the keys that were used.
    ///
    /// # Errors
    /// [`ReadError`]. A reader that was not prepared for keys finds none.
    pub async fn keys(&self, shard: ShardId, keys: &[Uuid]) -> Result<HashMap<Uuid, Recorded>, ReadError> {
        let Some(statement) = &self.keys else { return Ok(HashMap::new()) };
        let rows = self.ask(self.client.query(statement, &[&shard.0, &keys])).await?;
        rows.iter()
            .map(|row| {
                let key: Uuid = row.get(0);
                let position = Position(row.get(1));
                let event = StoredRef {
                    shard,
                    position,
                    stream: row.get(2),
                    stream_seq: row.get(3),
                    name: row.get(4),
                    version: row.get(5),
                    recorded_at: from_system_time(row.get(6)),
                    actor: row.get(7),
                    request_id: row.get(8),
                    key: row.get::<_, Option<Uuid>>(9).map(|fingerprint| KeyUse { key, fingerprint }),
                    payload: row.get(10),
                };
                let recorded = event.decode().map_err(|source| ReadError::Decode { position, source })?;
                Ok((key, recorded))
            })
            .collect()
    }
}

/// Whole batches as the database gave them, and perhaps the beginning of one more.
#[derive(Debug)]
pub struct RawPage {
    shard: ShardId,
    after: Head,
    limit: usize,
    batches: Vec<Row>,
    events: Vec<Row>,
}

impl RawPage {
    /// The head that the first event follows.
    pub fn after(&self) -> Head {
        self.after
    }

    /// About how many events.
    pub fn len(&self) -> usize {
        self.events.len()
    }

    /// Nothing behind [`RawPage::after`]?
    pub fn is_empty(&self) -> bool {
        self.batches.is_empty()
    }

    /// Where the next page begins, provided that this one holds what it says.
    pub fn head(&self) -> Head {
        let end = self.after.position.plus(self.events.len());
        let links = self.batches.iter().map(Link::from_row).take_while(|link| link.last <= end);
        let last = links.last().and_then(|link| Some(Head { position: link.last, hash: link.hash? }));
        last.unwrap_or(self.after)
    }

    /// Checks every position and recomputes every link.
    ///
    /// # Errors
    /// [`ReadError::Gap`] or [`ReadError::Chain`]; the database's for a row without a value.
    pub fn check(&self) -> Result<CheckedPage<'_>, ReadError> {
        let mut page = CheckedPage {
            after: self.after,
            links: Vec::with_capacity(self.batches.len()),
            seals: Vec::with_capacity(self.batches.len()),
            events: Vec::with_capacity(self.events.len()),
        };
        let mut rows = self.events.iter();
        for batch in &self.batches {
            let link = Link::from_row(batch);
            let head = page.head();
            if link.first != head.position.next() {
                return Err(ReadError::Gap { expected: head.position.next(), found: link.first });
            }
            let size = usize::try_from(link.last.0 - link.first.0 + 1).unwrap_or(0);
            if rows.len() < size {
                // Cut off by the limit, or missing.
                if page.events.is_empty() || rows.len() + page.events.len() < self.limit {
                    let found = rows.clone().map(|row| Position(row.get(0))).last();
                    let expected = found.map_or(link.first, Position::next);
                    return Err(ReadError::Gap { expected, found: link.last });
                }
                break;
            }
            let start = page.events.len();
            for (offset, row) in rows.by_ref().take(size).enumerate() {
                let event = EventRow::read(self.shard, row)?.event;
                let expected = link.first.plus(offset);
                if event.position != expected {
                    return Err(ReadError::Gap { expected, found: event.position });
                }
                page.events.push(event);
            }
            page.links.push(link.check(self.shard, head, &page.events[start..])?);
            page.seals.push(Seal { id: link.id, recorded_at: link.recorded_at });
        }
        Ok(page)
    }
}

/// What a link covers beside the events and their places.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Seal {
    /// The batch.
    pub id: BatchId,
    /// The writer's clock when it was sealed.
    pub recorded_at: crate::time::Timestamp,
}

/// Whole batches that hold what their links say.
#[derive(Clone, Debug)]
pub struct CheckedPage<'a> {
    /// The head that the first event follows.
    pub after: Head,
    /// The head behind each batch, in order.
    pub links: Vec<Head>,
    /// What each link covers beside, in the same order.
    pub seals: Vec<Seal>,
    /// The events.
    pub events: Vec<StoredRef<'a>>,
}

impl CheckedPage<'_> {
    /// The head behind the last event.
    pub fn head(&self) -> Head {
        self.links.last().copied().unwrap_or(self.after)
    }
}

/// A row of `ledger.batch`.
struct Link {
    first: Position,
    last: Position,
    id: BatchId,
    previous: Option<ChainHash>,
    hash: Option<ChainHash>,
    recorded_at: crate::time::Timestamp,
}

impl Link {
    fn from_row(row: &Row) -> Self {
        Self {
            first: Position(row.get(0)),
            last: Position(row.get(1)),
            id: BatchId(row.get(2)),
            previous: ChainHash::from_slice(row.get(3)),
            hash: ChainHash::from_slice(row.get(4)),
            recorded_at: from_system_time(row.get(5)),
        }
    }

    /// Recomputes the link; the head behind it if it holds.
    fn check(&self, shard: ShardId, after: Head, events: &[StoredRef<'_>]) -> Result<Head, ReadError> {
        let mut hasher = BatchHasher::new(after.hash, shard, self.first, self.last, self.id, self.recorded_at);
        for event in events {
            hasher.event(*event);
        }
        let hash = hasher.finish();
        if self.previous == Some(after.hash) && self.hash == Some(hash) {
            Ok(Head { position: self.last, hash })
        } else {
            Err(ReadError::Chain { first: self.first, last: self.last })
        }
    }
}
