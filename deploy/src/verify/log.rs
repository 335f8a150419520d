//! One shard's log from end to end, in one pass: the database sends rows, pages are decoded side by side, one thread checks them
//! in order, and another folds what is sound once more. Memory holds a few pages and the state that the checks need.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

use modelfaucet_projector::fold::Span;
use modelfaucet_schema::event::Recorded;
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::Head;
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};
use tokio_postgres::{Error, Portal, Row, Transaction};

use super::chain::Chain;
use super::keys::Keys;
use super::order::Order;
use super::report::{Check, Findings, LogRead};
use super::rows::{Page, ReadEvent, ReadPage};
use super::shadow::Shadow;
use super::wallets::Wallets;
use crate::progress::Progress;

/// Rows per page, about three kilobytes each. Small pages stay in the caches.
const PAGE: i32 = 1_024;
/// Pages that wait between two threads.
const AHEAD: usize = 2;

/// A shard and what of it is read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Extent {
    pub(super) shard: ShardId,
    /// The id that the chain begins with.
    pub(super) log_id: Option<LogId>,
    /// The id that it has now; another one behind a fork.
    pub(super) named: Option<LogId>,
    /// First and last position; whole batches.
    pub(super) first: i64,
    pub(super) last: i64,
    /// Is that everything, so that rows anywhere else are damage as well?
    pub(super) open_end: bool,
}

impl Extent {
    /// Widens what is asked to whole batches and ends where the log does.
    pub(super) async fn find(
        transaction: &Transaction<'_>,
        shard: ShardId,
        log_id: Option<LogId>,
        asked: (Option<i64>, Option<i64>),
    ) -> Result<Self, Error> {
        let (from, to) = (asked.0.unwrap_or(1).max(1), asked.1.unwrap_or(i64::MAX));
        let row = transaction.query_one(include_str!("sql/extent.sql"), &[&shard.0, &from, &to]).await?;
        let first = if from == 1 { 1 } else { row.get::<_, Option<i64>>(0).unwrap_or(from).min(from) };
        let end: i64 = row.get(2);
        let last = row.get::<_, Option<i64>>(1).unwrap_or(to).max(to).min(end);
        Ok(Self { shard, log_id, named: log_id, first, last, open_end: asked.1.is_none() })
    }

    pub(super) fn is_from_the_beginning(&self) -> bool {
        self.first == 1
    }

    pub(super) fn events(&self) -> u64 {
        u64::try_from(self.last.saturating_sub(self.first).saturating_add(1)).unwrap_or(0)
    }

    /// What is asked of the database: where nothing is left out, also rows that should not be there.
    fn bounds(&self) -> (i64, i64) {
        (
            if self.is_from_the_beginning() { i64::MIN } else { self.first },
            if self.open_end { i64::MAX } else { self.last },
        )
    }
}

/// Rows of one table, page by page.
struct Rows {
    portal: Portal,
    ended: bool,
}

impl Rows {
    async fn open(transaction: &Transaction<'_>, sql: &str, extent: &Extent) -> Result<Self, Error> {
        let (first, last) = extent.bounds();
        let statement = transaction.prepare(sql).await?;
        Ok(Self { portal: transaction.bind(&statement, &[&extent.shard.0, &first, &last]).await?, ended: false })
    }

    async fn next(&mut self, transaction: &Transaction<'_>, rows: &mut Vec<Row>) -> Result<(), Error> {
        let before = rows.len();
        rows.extend(transaction.query_portal(&self.portal, PAGE).await?);
        self.ended = rows.len() == before;
        Ok(())
    }
}

/// The three tables of the log; a page has whatever belongs to its events.
struct Source {
    events: Rows,
    links: Rows,
    keys: Rows,
    /// How far batches and keys have been sent.
    linked: i64,
    keyed: i64,
}

impl Source {
    async fn open(transaction: &Transaction<'_>, extent: &Extent) -> Result<Self, Error> {
        Ok(Self {
            events: Rows::open(transaction, include_str!("sql/events.sql"), extent).await?,
            links: Rows::open(transaction, include_str!("sql/links.sql"), extent).await?,
            keys: Rows::open(transaction, include_str!("sql/keys.sql"), extent).await?,
            linked: i64::MIN,
            keyed: i64::MIN,
        })
    }

    /// The next page; `None` when all three have ended.
    async fn next(&mut self, transaction: &Transaction<'_>) -> Result<Option<Page>, Error> {
        let mut page = Page::default();
        if !self.events.ended {
            self.events.next(transaction, &mut page.events).await?;
        }
        // Behind the last event everything else is read to its end, one page at a time.
        let end = page.events.last().map(|row| row.try_get(0)).transpose()?;
        loop {
            let lagging = |reached: i64| end.is_none_or(|end: i64| reached < end);
            let (links, keys) = (!self.links.ended && lagging(self.linked), !self.keys.ended && lagging(self.keyed));
            if links {
                self.links.next(transaction, &mut page.links).await?;
                self.linked = page.links.last().map_or(Ok(self.linked), |row| row.try_get(1))?;
            }
            if keys {
                self.keys.next(transaction, &mut page.keys).await?;
                self.keyed = page.keys.last().map_or(Ok(self.keyed), |row| row.try_get(0))?;
            }
            if end.is_none() || (!links && !keys) {
                break;
            }
        }
        let all_ended = self.events.ended && self.links.ended && self.keys.ended;
        Ok((!all_ended || !page.events.is_empty() || !page.links.is_empty() || !page.keys.is_empty()).then_some(page))
    }
}

/// Something that has seen a position of the log, and the hash that was there.
#[derive(Clone, Debug)]
pub(super) struct Witness {
    who: String,
    position: i64,
    hash: Option<ChainHash>,
    log_id: Option<LogId>,
}

impl Witness {
    async fn all(transaction: &Transaction<'_>, shard: ShardId) -> Result<Vec<Self>, Error> {
        let rows = transaction.query(include_str!("sql/witnesses.sql"), &[&shard.0]).await?;
        let read = |row: &Row| Self {
            who: row.get(0),
            position: row.get(1),
            hash: ChainHash::from_slice(row.get(2)),
            log_id: row.get::<_, Option<_>>(3).map(LogId),
        };
        Ok(rows.iter().map(read).collect())
    }
}

/// What comes back from a shard.
pub(super) struct Checked {
    pub(super) log: LogRead,
    pub(super) findings: Findings,
    pub(super) shadow: Shadow,
}

/// Reads and checks one shard.
pub(super) async fn check(
    transaction: &Transaction<'_>,
    extent: Extent,
    mut shadow: Shadow,
    progress: &mut Progress,
    done: &mut u64,
) -> Result<Checked, Error> {
    let witnesses = Witness::all(transaction, extent.shard).await?;
    let shadow_log = extent.log_id.filter(|_| extent.is_from_the_beginning());
    if let Some(log_id) = shadow_log {
        shadow.begin(transaction, extent.shard, log_id, extent.last).await?;
    }
    let (spans, folding) = sync_channel::<Span>(AHEAD);
    let wants = shadow_log.is_some() && shadow.wants(Position::START);
    let folding = spawn_blocking(move || fold(shadow, &folding));
    let (pages, read) = mpsc::channel::<JoinHandle<Result<ReadPage, Error>>>(AHEAD);
    let handle = Handle::current();
    let checking = spawn_blocking(move || {
        let mut check = ShardCheck::new(&extent, witnesses, wants.then_some(spans));
        check.run(read, &handle).map(|()| check.finish(&extent))
    });

    let mut source = Source::open(transaction, &extent).await?;
    while let Some(page) = source.next(transaction).await? {
        *done += page.events.len() as u64;
        let shard = extent.shard;
        if pages.send(spawn_blocking(move || page.read(shard))).await.is_err() {
            break;
        }
        progress.set(*done);
    }
    drop(pages);
    let (log, findings) = joined(checking).await?;
    Ok(Checked { log, findings, shadow: joined(folding).await })
}

/// A thread that panicked takes this one with it.
async fn joined<T>(task: JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

fn fold(mut shadow: Shadow, spans: &Receiver<Span>) -> Shadow {
    while let Ok(span) = spans.recv() {
        shadow.take(&span);
    }
    shadow
}

/// The checks that need what came before.
struct ShardCheck {
    shard: ShardId,
    findings: Findings,
    chain: Chain,
    keys: Keys,
    order: Order,
    wallets: Option<Wallets>,
    witnesses: Vec<Witness>,
    /// The last head, sound or not.
    head: Head,
    /// Whole batches for whoever folds them; gone as soon as the log is not sound.
    spans: Option<SyncSender<Span>>,
    span: Span,
}

impl ShardCheck {
    fn new(extent: &Extent, witnesses: Vec<Witness>, spans: Option<SyncSender<Span>>) -> Self {
        let shard = extent.shard;
        let whole = extent.is_from_the_beginning();
        let genesis = extent.log_id.map(|log_id| ChainHash::genesis(log_id, shard));
        let head = Head {
            position: Position(extent.first - 1),
            hash: genesis.filter(|_| whole).unwrap_or(ChainHash([0; 32])),
        };
        let mut findings = Findings::new();
        findings.checked(Check::Genesis, 1);
        if genesis.is_none() {
            findings.add(Check::Genesis, shard, None, "there are rows of a shard that has no log");
        }
        let mut check = Self {
            shard,
            findings,
            chain: Chain::new(shard, extent.first, genesis.filter(|_| whole)),
            keys: Keys::new(shard),
            order: Order::new(shard, whole),
            wallets: whole.then(|| Wallets::new(shard)),
            witnesses,
            head,
            spans,
            span: Span { after: head, links: Vec::new(), events: Vec::new() },
        };
        check.first_witnesses(extent);
        check
    }

    /// Witnesses of another log, and of the place where this one begins; those out of reach are left out.
    fn first_witnesses(&mut self, extent: &Extent) {
        for witness in std::mem::take(&mut self.witnesses) {
            let other_log = witness.log_id.is_some() && witness.log_id != extent.log_id;
            if other_log {
                let what = format!("{} is of another log than this one", witness.who);
                self.findings.add(Check::Witnesses, self.shard, (0, witness.position), what);
            } else if witness.position == 0 && extent.is_from_the_beginning() {
                self.witness(&witness, self.head.hash);
            } else if witness.position >= extent.first && (extent.open_end || witness.position <= extent.last) {
                self.witnesses.push(witness);
            }
        }
    }

    fn witness(&mut self, witness: &Witness, hash: ChainHash) {
        self.findings.checked(Check::Witnesses, 1);
        if witness.hash != Some(hash) {
            let what =
                format!("{} has seen another hash here: the log was written anew up to this position", witness.who);
            self.findings.add(Check::Witnesses, self.shard, (1.min(witness.position), witness.position), what);
        }
    }

    fn run(
        &mut self,
        mut pages: mpsc::Receiver<JoinHandle<Result<ReadPage, Error>>>,
        handle: &Handle,
    ) -> Result<(), Error> {
        while let Some(page) = pages.blocking_recv() {
            let mut page = handle.block_on(joined(page))?;
            self.chain.extend(page.links);
            self.keys.extend(page.keys);
            for event in &page.events {
                self.event(event, event.recorded.and_then(|at| page.recorded.get(at)));
            }
            if self.spans.is_some() {
                self.span.events.extend(page.recorded.drain(..).map(Arc::new));
            }
            self.batches_ended();
            self.hand_on();
        }
        Ok(())
    }

    fn event(&mut self, event: &ReadEvent, recorded: Option<&Recorded>) {
        let ReadEvent { position, stored, problem, .. } = event;
        let position = *position;
        let repeated = position < self.chain.expected();
        self.findings.checked(Check::Positions, 1);
        self.chain.event(position, stored.as_ref(), &mut self.findings);
        if repeated {
            return;
        }
        let key = stored.as_ref().and_then(|stored| stored.key).map(|used| used.key);
        self.keys.event(position, key, &mut self.findings);
        self.findings.checked(Check::Events, 1);
        if let Some(problem) = problem {
            self.findings.add(Check::Events, self.shard, (position, position), problem.as_str());
        }
        if let Some(stored) = stored {
            self.order.time(position, stored.recorded_at, &mut self.findings);
        }
        if let Some(recorded) = recorded {
            self.order.event(recorded, &mut self.findings);
            if let Some(wallets) = &mut self.wallets {
                wallets.event(recorded, &mut self.findings);
            }
        }
    }

    fn batches_ended(&mut self) {
        for head in std::mem::take(&mut self.chain.ended) {
            self.head = head;
            while let Some(at) = self.witnesses.iter().position(|witness| witness.position == head.position.0) {
                let witness = self.witnesses.swap_remove(at);
                self.witness(&witness, head.hash);
            }
            if self.spans.is_some() {
                self.span.links.push(head);
            }
        }
    }

    /// Hands whole batches on while everything is sound: what is folded from a damaged log means nothing.
    fn hand_on(&mut self) {
        let Some(spans) = self.spans.take_if(|_| self.findings.log_is_sound()) else {
            self.spans = None;
            self.span.events = Vec::new();
            return;
        };
        let end = self.span.head();
        let whole = self.span.events.partition_point(|event| event.position <= end.position);
        let rest = self.span.events.split_off(whole);
        let next = Span { after: end, links: Vec::new(), events: rest };
        let span = std::mem::replace(&mut self.span, next);
        if span.links.is_empty() || spans.send(span).is_ok() {
            self.spans = Some(spans);
        }
    }

    fn finish(mut self, extent: &Extent) -> (LogRead, Findings) {
        self.chain.finish(&mut self.findings);
        self.keys.finish(&mut self.findings);
        self.batches_ended();
        for witness in std::mem::take(&mut self.witnesses) {
            let end = self.chain.expected() - 1;
            let (positions, what) = if witness.position > end {
                (
                    (end + 1, witness.position),
                    format!(
                        "{} has seen positions up to {}: the end of the log was cut off",
                        witness.who, witness.position
                    ),
                )
            } else {
                ((witness.position, witness.position), format!("{} has seen a batch that ends here", witness.who))
            };
            self.findings.add(Check::Witnesses, self.shard, positions, what);
        }
        match &self.wallets {
            Some(wallets) => wallets.finish(&mut self.findings),
            None => {
                for check in
                    [Check::Streams, Check::Entries, Check::Wallets, Check::Holds, Check::Snapshots, Check::Projections]
                {
                    self.findings.skip(check, "needs the log from its beginning");
                }
            }
        }
        self.findings.checked(Check::Chain, self.chain.batches);
        self.hand_on();
        let log = LogRead {
            shard: self.shard,
            log_id: extent.named.map_or("unknown".to_owned(), |log_id| log_id.to_string()),
            positions: (extent.first, self.head.position.0),
            head_hash: self.head.hash.to_string(),
        };
        (log, self.findings)
    }
}
