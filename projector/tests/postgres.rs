//! The projector against a real `PostgreSQL`.
#![allow(clippy::unwrap_used, reason = "a test")]

// The same as for the tests of whole processes, which know this crate.
#[path = "../../integration-tests/src/report.rs"]
#[allow(dead_code, unreachable_pub, missing_docs, reason = "of it only what is said of a fault")]
mod report;
mod support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use modelfaucet_projector::act::Who;
use modelfaucet_projector::broker::message::Message;
use modelfaucet_projector::changes::Changes;
use modelfaucet_projector::compare::{Cells, Moment, Side};
use modelfaucet_projector::fold::{Folder, Outcome};
use modelfaucet_projector::memory::MemoryStore;
use modelfaucet_projector::projection::{ApplyError, Projection, all, under};
use modelfaucet_projector::rebuild::{Rebuilding, rebuild};
use modelfaucet_projector::runtime::OnProgress;
use modelfaucet_projector::setup::setup_projections;
use modelfaucet_projector::store::{Commit, Store, digest};
use modelfaucet_projector::subscription::Subscription;
use modelfaucet_projector::table::{Table, TableDigest};
use modelfaucet_projector::{Projector, ProjectorError, compare, letters, registry, setup, sql};
use modelfaucet_schema::event::{Event, Recorded, StoredRef};
use modelfaucet_schema::hash::BatchHasher;
use modelfaucet_schema::ids::{LogId, Position, StreamId};
use modelfaucet_schema::log::read::{CheckedPage, Seal};
use modelfaucet_schema::log::{AppendBatch, Head, LogAppender, LogReader};
use support::database::TestDatabase;
use support::log::{Generator, Mix, SHARD};
use tokio::sync::watch;
use tokio_postgres::Client;

/// Everybody's rows are wanted.
const HOUSE: &str = "SET app.tenant = '00000000-0000-0000-0000-000000000000'";

/// A database with read tables and a log that grows.
struct Bed {
    database: TestDatabase,
    appender: LogAppender,
    generator: Generator,
    head: Head,
}

macro_rules! bed {
    () => {
        match Bed::new().await {
            Some(bed) => bed,
            None => return,
        }
    };
}

impl Bed {
    async fn new() -> Option<Self> {
        let database = TestDatabase::create().await?;
        setup(&mut database.connect("ledger_projector").await).await.unwrap();
        let appender = LogAppender::prepare(database.connect("ledger_command").await.into()).await.unwrap();
        let mut bed = Self {
            database,
            appender,
            generator: Generator::new(7, Mix::Everything, 8),
            head: Head::genesis(LogId::generate(), SHARD),
        };
        (_, bed.head) = bed.reader().await.head(SHARD).await.unwrap();
        Some(bed)
    }

    async fn reader(&self) -> LogReader {
        LogReader::prepare(Arc::new(self.database.connect("ledger_projector").await)).await.unwrap()
    }

    async fn append(&mut self, sizes: &[usize]) -> Vec<AppendBatch> {
        let mut batches = Vec::new();
        for size in sizes {
            let batch = self.generator.batch(self.head, *size);
            self.appender.append(&batch).await.unwrap();
            self.head = batch.head();
            batches.push(batch);
        }
        batches
    }

    /// What `log fork` does: the log goes on under another id, which it returns.
    async fn fork(&mut self) -> LogId {
        let (was, is) = (self.reader().await.head(SHARD).await.unwrap().0, LogId::generate());
        let mut owner = self.database.connect_admin().await;
        let transaction = owner.transaction().await.unwrap();
        let (position, lost) = (self.head.position.0, self.head.position.plus(5).0);
        let sql = "SELECT ledger.fork_log($1, $2, $3, $4, $5)";
        transaction.query_one(sql, &[&SHARD.0, &position, &self.head.hash.0.as_slice(), &is.0, &lost]).await.unwrap();
        transaction.commit().await.unwrap();
        let batch = self.generator.fork(self.head, was, is);
        self.appender.append(&batch).await.unwrap();
        self.head = batch.head();
        is
    }

    async fn projector(&self) -> Projector {
        Projector::connect(self.database.role("ledger_projector"), vec![SHARD]).await.unwrap()
    }

    async fn digests(&self) -> BTreeMap<String, TableDigest> {
        let client = self.database.connect("ledger_query").await;
        client.batch_execute(HOUSE).await.unwrap();
        let mut digests = BTreeMap::new();
        for projection in all() {
            for table in projection.tables() {
                digests.insert(table.name.to_owned(), digest(&client, &projection.schema(), table).await.unwrap());
            }
        }
        digests
    }

    /// What the log folds to in memory.
    async fn expected(&self) -> BTreeMap<String, TableDigest> {
        let reader = self.reader().await;
        let (log_id, end) = reader.head(SHARD).await.unwrap();
        let genesis = reader.genesis(SHARD).await.unwrap();
        let mut store = MemoryStore::new(&all(), log_id, genesis);
        let mut folder = Folder::beginning(SHARD, log_id, all());
        folder.at = genesis;
        while folder.at != end {
            let page = reader.raw_page(SHARD, folder.at, 1).await.unwrap();
            let (span, broken) = modelfaucet_projector::fold::Span::decode(&page.check().unwrap());
            assert!(broken.is_none());
            let Outcome::Folded { batch, halts } = folder.offer(&span) else { panic!() };
            assert_eq!(halts, []);
            store.commit(log_id, &batch).unwrap();
        }
        let tables = all().into_iter().zip(&store.projections).flat_map(|(projection, saved)| {
            projection
                .tables()
                .iter()
                .zip(&saved.tables)
                .map(|(shape, table)| (shape.name.to_owned(), table.digest()))
                .collect::<Vec<_>>()
        });
        tables.collect()
    }

    async fn halted(&self) -> BTreeMap<String, String> {
        let rows = self
            .database
            .connect_admin()
            .await
            .query("SELECT name, halted FROM projection.checkpoint", &[])
            .await
            .unwrap();
        rows.iter().filter_map(|row| Some((row.get(0), row.get::<_, Option<String>>(1)?))).collect()
    }

    async fn positions(&self) -> BTreeMap<String, i64> {
        let rows = self
            .database
            .connect_admin()
            .await
            .query("SELECT name, position FROM projection.checkpoint", &[])
            .await
            .unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    async fn caught_up(&self) -> bool {
        let positions = self.positions().await;
        positions.len() == all().len() && positions.values().all(|position| *position == self.head.position.0)
    }

    /// Appends events whose stored form `change` has spoilt, with hashes that hold.
    async fn append_spoilt(
        &mut self,
        count: usize,
        change: impl Fn(usize, &mut modelfaucet_schema::event::StoredEvent),
    ) {
        let batch = self.generator.batch(self.head, count);
        let mut events = batch.events().to_vec();
        events.iter_mut().enumerate().for_each(|(index, event)| change(index, event));
        let spoilt = AppendBatch::seal(SHARD, self.head, batch.id(), batch.recorded_at(), events);
        self.appender.append(&spoilt).await.unwrap();
        self.head = spoilt.head();
    }
}

/// Waits until a condition holds.
macro_rules! eventually {
    ($condition:expr) => {
        for attempt in 0.. {
            if $condition {
                break;
            }
            assert!(attempt < 1_200, "{} does not become true", stringify!($condition));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
}

#[tokio::test(flavor = "multi_thread")]
async fn both_sinks_hold_the_same() {
    let mut bed = bed!();
    // Small batches take statements, large ones COPY; the last is larger than a page.
    bed.append(&[1, 2, 30, 700, 1, 4_000, 4_000, 2_500]).await;
    bed.projector().await.catch_up().await.unwrap();
    let digests = bed.digests().await;
    assert_eq!(digests, bed.expected().await);
    assert!(digests.iter().all(|(name, digest)| digest.rows > 0 || name == "freeze"), "{digests:?}");
    bed.append(&[20, 1]).await;
    bed.projector().await.catch_up().await.unwrap();
    assert_eq!(bed.digests().await, bed.expected().await);
    assert!(bed.positions().await.values().all(|position| *position == bed.head.position.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projector_that_is_dropped_anywhere_never_doubles() {
    let mut bed = bed!();
    bed.append(&[3_000; 8]).await;
    for millis in [5, 20, 60, 90, 120, 180, 250] {
        let projector = bed.projector().await;
        // Dropped in the middle of whatever it does.
        tokio::time::timeout(Duration::from_millis(millis), projector.catch_up()).await.ok();
    }
    bed.projector().await.catch_up().await.unwrap();
    assert_eq!(bed.digests().await, bed.expected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_projectors_at_once_do_not_double() {
    let mut bed = bed!();
    let (wake, shutdown) = (watch::channel(Position::START), watch::channel(false));
    let mut running = Vec::new();
    for _ in 0..2 {
        running.push(tokio::spawn(bed.projector().await.run(wake.1.clone(), shutdown.1.clone())));
    }
    for _ in 0..40 {
        bed.append(&[7, 1, 90]).await;
        wake.0.send_replace(bed.head.position);
    }
    eventually!(bed.caught_up().await);
    shutdown.0.send_replace(true);
    for task in running {
        task.await.unwrap();
    }
    assert_eq!(bed.halted().await, BTreeMap::new());
    assert_eq!(bed.digests().await, bed.expected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_batch_is_refused() {
    let mut bed = bed!();
    bed.append(&[50, 50]).await;
    let reader = bed.reader().await;
    let (log_id, _) = reader.head(SHARD).await.unwrap();
    let page = reader.raw_page(SHARD, Head::genesis(log_id, SHARD), 1).await.unwrap();
    let (span, _) = modelfaucet_projector::fold::Span::decode(&page.check().unwrap());
    let mut folder = Folder::beginning(SHARD, log_id, all());
    let Outcome::Folded { batch, .. } = folder.offer(&span) else { panic!() };
    let commit = Commit::new(SHARD, log_id, batch);
    let mut store = Store::prepare(bed.database.connect("ledger_projector").await).await.unwrap();
    store.load(SHARD, log_id, &all()).await.unwrap();
    store.commit(&commit).await.unwrap();
    let before = bed.digests().await;
    let error = store.commit(&commit).await.unwrap_err();
    assert_eq!(error.code().unwrap().code(), "ML006");
    assert_eq!(bed.digests().await, before);
    assert_eq!(before, bed.expected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_joins_late_catches_up_under_load() {
    let mut bed = bed!();
    let client = bed.database.connect("ledger_projector").await;
    client.batch_execute("UPDATE projection.registry SET state = 'building' WHERE name = 'journal'").await.unwrap();
    bed.append(&[4_000; 3]).await;
    let (wake, shutdown) = (watch::channel(Position::START), watch::channel(false));
    let running = tokio::spawn(bed.projector().await.run(wake.1, shutdown.1));
    eventually!(bed.positions().await.get("wallets") == Some(&bed.head.position.0));
    client.batch_execute("UPDATE projection.registry SET state = 'live' WHERE name = 'journal'").await.unwrap();
    for _ in 0..60 {
        bed.append(&[50]).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    eventually!(bed.caught_up().await);
    // From here on they go in one transaction: no reader sees them apart.
    for _ in 0..20 {
        bed.append(&[5]).await;
        let positions = bed.positions().await;
        assert!(positions.values().all(|position| *position == positions["wallets"]), "{positions:?}");
    }
    eventually!(bed.caught_up().await);
    shutdown.0.send_replace(true);
    running.await.unwrap();
    assert_eq!(bed.digests().await, bed.expected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_that_break_are_made_again() {
    let mut bed = bed!();
    let (wake, shutdown) = (watch::channel(Position::START), watch::channel(false));
    let running = tokio::spawn(bed.projector().await.run(wake.1, shutdown.1));
    let admin = bed.database.connect_admin().await;
    for _ in 0..5 {
        bed.append(&[500, 1]).await;
        let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND query ~ 'advance|ledger.event|COMMIT|COPY|stored' AND pid <> pg_backend_pid()
                      AND query !~ 'ledger.append'";
        admin.batch_execute(kill).await.unwrap();
    }
    eventually!(bed.caught_up().await);
    shutdown.0.send_replace(true);
    running.await.unwrap();
    assert_eq!(bed.digests().await, bed.expected().await);
}

/// Changes the log as only its owner with the triggers off can.
async fn tamper(admin: &Client, sql: &str) {
    admin
        .batch_execute(
            "ALTER TABLE ledger.event_s00_00000 DISABLE TRIGGER ALL; ALTER TABLE ledger.batch_s00 DISABLE TRIGGER ALL",
        )
        .await
        .unwrap();
    admin.batch_execute(sql).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_tampered_with_halts_everything() {
    let mut bed = bed!();
    bed.append(&[20, 20]).await;
    bed.projector().await.catch_up().await.unwrap();
    bed.append(&[20]).await;
    let admin = bed.database.connect_admin().await;
    tamper(&admin, "UPDATE ledger.event SET request_id = 'forged' WHERE position = 45").await;
    let error = bed.projector().await.catch_up().await.unwrap_err();
    assert!(matches!(&error, ProjectorError::Halted(halts) if halts.len() == all().len()), "{error}");
    assert!(bed.halted().await.values().all(|reason| reason.contains("41 to 60")), "{:?}", bed.halted().await);
    assert!(bed.positions().await.values().all(|position| *position == 40));
    // An operator repairs the log and lifts the halts.
    admin.batch_execute("UPDATE ledger.event SET request_id = 'req_45' WHERE position = 45; UPDATE projection.checkpoint SET halted = NULL").await.unwrap();
    bed.projector().await.catch_up().await.unwrap();
    assert_eq!(bed.digests().await, bed.expected().await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_event_and_a_lost_end_halt() {
    let mut bed = bed!();
    bed.append(&[20, 20]).await;
    let admin = bed.database.connect_admin().await;
    tamper(&admin, "DELETE FROM ledger.event WHERE position = 30").await;
    assert!(matches!(bed.projector().await.catch_up().await, Err(ProjectorError::Halted(_))));
    let mut bed = bed!();
    bed.append(&[20, 20]).await;
    bed.projector().await.catch_up().await.unwrap();
    let admin = bed.database.connect_admin().await;
    tamper(&admin, "DELETE FROM ledger.event WHERE position > 20; DELETE FROM ledger.batch WHERE last_pos > 20").await;
    let error = bed.projector().await.catch_up().await.unwrap_err();
    assert!(error.to_string().contains("it has lost events"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_log_behind_the_checkpoint_halts() {
    let mut bed = bed!();
    let batches = bed.append(&[20]).await;
    bed.projector().await.catch_up().await.unwrap();
    let admin = bed.database.connect_admin().await;
    // The same positions with another content, hashes right: only the checkpoint knows better.
    let batch = &batches[0];
    let mut events = batch.events().to_vec();
    events[4].request_id = "other".into();
    let mut hasher =
        BatchHasher::new(batch.previous().hash, SHARD, Position(1), Position(20), batch.id(), batch.recorded_at());
    for event in &events {
        hasher.event(event);
    }
    let hash = hasher.finish();
    let sql = format!(
        "UPDATE ledger.event SET request_id = 'other' WHERE position = 5; UPDATE ledger.batch SET hash = '\\x{hash}'"
    );
    tamper(&admin, &sql).await;
    let error = bed.projector().await.catch_up().await.unwrap_err();
    assert!(error.to_string().contains("another hash"), "{error}");
    // A new log id, as a fork has.
    admin.batch_execute("UPDATE projection.checkpoint SET halted = NULL; ALTER TABLE ledger.log DISABLE TRIGGER ALL; UPDATE ledger.log SET log_id = gen_random_uuid()").await.unwrap();
    let error = bed.projector().await.catch_up().await.unwrap_err();
    assert!(error.to_string().contains("were read from"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_event_that_nobody_knows_halts_everything_right_before_it() {
    let mut bed = bed!();
    bed.append(&[10, 10]).await;
    bed.append_spoilt(5, |index, event| {
        if index == 2 {
            event.name = "Mystery".into();
        }
    })
    .await;
    bed.append(&[10]).await;
    let error = bed.projector().await.catch_up().await.unwrap_err();
    assert!(error.to_string().contains("position 23: unknown event Mystery"), "{error}");
    assert!(bed.positions().await.values().all(|position| *position == 20), "whole batches before it are folded");
    assert_eq!(bed.halted().await.len(), all().len());
    poisoned("whole batches before an event that nobody knows are folded, and every projection halts there");
}

/// A poison event, in the report of the run.
fn poisoned(demanded: &str) {
    report::fault("F13", &report::Figures { injected: 1, recoveries: &[], demanded, invariants: &["I6"] });
}

/// Counts events and chokes on those of one stream.
struct Picky {
    money: bool,
    panics: bool,
    stream: Option<StreamId>,
}

static COUNTED: [Table; 1] = [Table {
    name: "counted",
    columns: &[
        modelfaucet_projector::table::key("shard", modelfaucet_projector::table::Kind::I16),
        modelfaucet_projector::table::key("position", modelfaucet_projector::table::Kind::I64),
    ],
    writing: modelfaucet_projector::table::Writing::Append,
    indexes: &[],
}];

impl Projection for Picky {
    fn name(&self) -> &'static str {
        if self.money { "picky_money" } else { "picky" }
    }

    fn tables(&self) -> &'static [Table] {
        &COUNTED
    }

    fn is_money(&self) -> bool {
        self.money
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        changes.append(0, vec![event.shard.0.into(), event.position.0.into()]);
        match &event.event {
            Event::TopUpCredited(_) if Some(event.stream) == self.stream => {
                assert!(!self.panics, "tastes terrible");
                Err(ApplyError::Other("does not taste".into()))
            }
            _ => Ok(()),
        }
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self { money: self.money, panics: self.panics, stream: self.stream })
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_poisonous_event_halts_money_and_quarantines_a_stream_elsewhere() {
    let mut bed = bed!();
    let batches = bed.append(&[10, 10, 500]).await;
    let poison = batches[2]
        .events()
        .iter()
        .map(|event| event.decode().unwrap())
        .find(|event| matches!(event.event, Event::TopUpCredited(_)))
        .unwrap();
    let stream = poison.stream;
    let known = move || {
        let mut known = all();
        known.push(Box::new(Picky { money: false, panics: false, stream: Some(stream) }));
        known.push(Box::new(Picky { money: true, panics: false, stream: Some(stream) }));
        known
    };
    setup_projections(&mut bed.database.connect("ledger_projector").await, &known()).await.unwrap();
    let projector = bed.projector().await.with_projections(Arc::new(known));
    let error = projector.catch_up().await.unwrap_err();
    assert!(
        error.to_string().contains(&format!("picky_money v1: position {}: does not taste", poison.position)),
        "{error}"
    );
    assert_eq!(bed.halted().await.keys().collect::<Vec<_>>(), ["picky_money"]);
    assert_eq!(bed.digests().await, bed.expected().await, "the others have gone on");
    // After a restart the stream still waits.
    bed.append(&[200]).await;
    projector.catch_up().await.unwrap_err();
    let admin = bed.database.connect_admin().await;
    let waiting = "SELECT count(*), count(*) FILTER (WHERE cause LIKE 'waits%'), bool_and(stream = $1) FROM projection.dead_letter WHERE projection = 'picky'";
    let row = admin.query_one(waiting, &[&stream.to_string()]).await.unwrap();
    let (letters, behind): (i64, i64) = (row.get(0), row.get(1));
    assert!(letters > 1 && behind == letters - 1 && row.get(2), "{letters} {behind}");
    let missing = "SELECT count(*) FROM ledger.event e WHERE NOT EXISTS (SELECT FROM p_picky_v1.counted c WHERE c.position = e.position)
                   AND NOT EXISTS (SELECT FROM projection.dead_letter d WHERE d.projection = 'picky' AND d.position = e.position)";
    assert_eq!(admin.query_one(missing, &[]).await.unwrap().get::<_, i64>(0), 0, "nothing is skipped");
    poisoned("an event that cannot be applied halts money and puts its stream aside elsewhere; nothing is skipped");
}

#[tokio::test(flavor = "multi_thread")]
async fn letters_that_a_mended_fold_can_apply_are_applied_in_order() {
    let mut bed = bed!();
    let batches = bed.append(&[10, 500]).await;
    let credited = |event: &Recorded| matches!(event.event, Event::TopUpCredited(_));
    let poison = batches[1].events().iter().map(|event| event.decode().unwrap()).find(credited).unwrap();
    let known = move |stream| {
        let mut known = all();
        known.push(Box::new(Picky { money: false, panics: false, stream }));
        known
    };
    let config = bed.database.role("ledger_projector");
    setup_projections(&mut bed.database.connect("ledger_projector").await, &known(None)).await.unwrap();
    let picky = bed.projector().await.with_projections(Arc::new(move || known(Some(poison.stream))));
    picky.catch_up().await.unwrap();
    let client = bed.database.connect("ledger_projector").await;
    let letter = letters::list(&client, false).await.unwrap().remove(0);
    assert_eq!((letter.position, letter.attempts, letter.is_first), (poison.position, 1, true));
    assert!(letter.waiting > 0);
    let who = Who { actor: "os:1".to_owned(), reason: Some("test".to_owned()) };

    // The same fold fails at the same place; nothing is applied, nothing is lost, and the projection goes on.
    let again = letters::retry(&config, &known(Some(poison.stream)), &who, letter.id, true).await.unwrap();
    assert_eq!((again.applied, again.left), (0, letter.waiting + 1));
    assert_eq!(again.failed, Some((poison.position, "does not taste".to_owned())));
    assert_eq!(letters::find(&client, letter.id).await.unwrap().attempts, 2);
    // A program that does not know the fold changes nothing either.
    letters::retry(&config, &all(), &who, letter.id, true).await.unwrap_err();
    bed.append(&[50]).await;
    picky.catch_up().await.unwrap();

    // The mended one: first the letter alone, then the rest.
    let one = letters::retry(&config, &known(None), &who, letter.id, false).await.unwrap();
    assert_eq!((one.applied, one.failed), (1, None));
    let next = letters::list(&client, false).await.unwrap().remove(0);
    assert!(next.is_first && next.position > letter.position);
    let rest = letters::retry(&config, &known(None), &who, next.id, true).await.unwrap();
    assert_eq!((rest.left, rest.failed), (0, None));
    assert!(letters::list(&client, true).await.unwrap().is_empty());
    bed.append(&[50]).await;
    bed.projector().await.with_projections(Arc::new(move || known(None))).catch_up().await.unwrap();
    let counted = "SELECT count(*) FROM p_picky_v1.counted";
    let counted: i64 = client.query_one(counted, &[]).await.unwrap().get(0);
    assert_eq!(counted, bed.head.position.0, "nothing is skipped, nothing doubled");
    assert_eq!(bed.halted().await, BTreeMap::new());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_that_was_stopped_goes_on_and_what_differs_is_found() {
    let mut bed = bed!();
    bed.append(&[4_000, 4_000, 4_000, 4_000, 4_000]).await;
    bed.projector().await.catch_up().await.unwrap();
    let config = bed.database.role("ledger_projector");
    let wallets = || all().into_iter().find(|projection| projection.name() == "wallets").unwrap();
    let next = under(wallets(), 2);
    assert_eq!((next.code(), next.schema().as_str()), (1, "p_wallets_v2"));
    // Asked to stop after the first page.
    let (stop, stopped) = watch::channel(false);
    let on_progress: OnProgress = Arc::new(move |_| {
        stop.send_replace(true);
    });
    let how = Rebuilding { on_progress: Some(on_progress), stop: Some(stopped), ..Rebuilding::default() };
    let first = rebuild(&config, next.as_ref(), &[SHARD], &how).await.unwrap();
    assert!(!first.is_complete && first.events < 20_000, "{first:?}");
    let client = bed.database.connect("ledger_projector").await;
    let begun = registry::find(&client, "wallets", 2).await.unwrap();
    assert_eq!((begun.state.as_str(), begun.places[0].position.0), ("building", i64::try_from(first.events).unwrap()));
    bed.append(&[100]).await;
    let rest = rebuild(&config, next.as_ref(), &[SHARD], &Rebuilding::default()).await.unwrap();
    assert!(rest.is_complete, "{rest:?}");
    assert_eq!(registry::find(&client, "wallets", 2).await.unwrap().state, "standby");
    bed.projector().await.catch_up().await.unwrap();

    // Both hold the same, and a row that somebody changes is found.
    let mut reader = bed.database.connect("ledger_projector").await;
    let compared = async |reader: &mut Client| {
        let Moment::Level(moment, _) = compare::moment(reader, "wallets", (1, 2)).await.unwrap() else { panic!() };
        let side = |schema| Side { client: &moment, schema };
        compare::compare(side("p_wallets_v1"), side("p_wallets_v2"), 5).await.unwrap()
    };
    assert!(compared(&mut reader).await.iter().all(compare::Compared::is_equal));
    client
        .batch_execute(
            "UPDATE p_wallets_v2.wallet SET held = held + 1 WHERE ctid = (SELECT min(ctid) FROM p_wallets_v2.wallet)",
        )
        .await
        .unwrap();
    let tables = compared(&mut reader).await;
    let different: Vec<_> = tables.iter().filter(|table| !table.is_equal()).collect();
    assert_eq!((different.len(), different[0].table.as_str(), different[0].rows.len()), (1, "wallet", 1));
    let Cells::Changed(cells) = &different[0].rows[0].cells else { panic!("{different:?}") };
    assert_eq!((cells.len(), cells[0].0.as_str()), (1, "held"));
    // It is there: it is not built again under the same number.
    rebuild(&config, next.as_ref(), &[SHARD], &Rebuilding::default()).await.unwrap_err();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_under_way_and_a_projector_that_runs_go_on_where_the_log_forks() {
    let mut bed = bed!();
    bed.append(&[4_000, 4_000, 4_000, 4_000, 4_000]).await;
    let (stop, shutdown) = watch::channel(false);
    let (_wake, wake) = watch::channel(Position(0));
    let running = tokio::spawn(bed.projector().await.run(wake.clone(), shutdown.clone()));
    eventually!(bed.caught_up().await);

    // A rebuild is stopped before the fork, another one after it, which has not heard of it.
    let config = bed.database.role("ledger_projector");
    let wallets = all().into_iter().find(|projection| projection.name() == "wallets").unwrap();
    let next = under(wallets, 2);
    let page = async || {
        let (stop, stopped) = watch::channel(false);
        let on_progress: OnProgress = Arc::new(move |_| {
            stop.send_replace(true);
        });
        let how = Rebuilding { on_progress: Some(on_progress), stop: Some(stopped), ..Rebuilding::default() };
        rebuild(&config, next.as_ref(), &[SHARD], &how).await.unwrap().is_complete
    };
    assert!(!page().await);
    let log_id = bed.fork().await;
    bed.append(&[4_000]).await;
    // The projector reads on over the fork under the id that it knows, and stands behind the loss that the fork names.
    eventually!(bed.positions().await.iter().all(|(name, at)| name == "wallets" || *at == bed.head.position.0));
    let client = bed.database.connect("ledger_projector").await;
    let ids = async || {
        let sql = "SELECT DISTINCT log_id FROM projection.checkpoint WHERE version = 1";
        client.query(sql, &[]).await.unwrap().iter().map(|row| LogId(row.get(0))).collect::<Vec<_>>()
    };
    assert_ne!(ids().await, [log_id], "nobody told it");
    stop.send_replace(true);
    running.await.unwrap();

    // Loaded again, both go on, under the id that the log has now.
    assert!(!page().await);
    assert!(rebuild(&config, next.as_ref(), &[SHARD], &Rebuilding::default()).await.unwrap().is_complete);
    bed.append(&[100]).await;
    bed.projector().await.catch_up().await.unwrap();
    assert_eq!((ids().await, bed.halted().await), (vec![log_id], BTreeMap::new()));
    let expected = bed.expected().await;
    assert_eq!(bed.digests().await, expected);
    assert_eq!(digest(&client, "p_wallets_v2", &next.tables()[0]).await.unwrap(), expected["wallet"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_projection_that_panics_halts_alone_and_goes_on_once_it_is_mended() {
    let mut bed = bed!();
    let batches = bed.append(&[10, 500]).await;
    let credited = |event: &Recorded| matches!(event.event, Event::TopUpCredited(_));
    let poison = batches[1].events().iter().map(|event| event.decode().unwrap()).find(credited).unwrap();
    let known = move |panics| {
        let mut known = all();
        known.push(Box::new(Picky { money: false, panics, stream: panics.then_some(poison.stream) }));
        known
    };
    setup_projections(&mut bed.database.connect("ledger_projector").await, &known(true)).await.unwrap();
    let projector = bed.projector().await.with_projections(Arc::new(move || known(true)));
    let error = projector.catch_up().await.unwrap_err();
    let reason = format!("picky v1: position {}: it panicked: tastes terrible", poison.position);
    assert!(error.to_string().contains(&reason), "{error}");
    assert_eq!(bed.halted().await.keys().collect::<Vec<_>>(), ["picky"]);
    assert_eq!(bed.digests().await, bed.expected().await, "the others have gone on");
    // A program without the fault, and an operator who lifts the halt.
    let admin = bed.database.connect_admin().await;
    admin.batch_execute("UPDATE projection.checkpoint SET halted = NULL").await.unwrap();
    bed.projector().await.with_projections(Arc::new(move || known(false))).catch_up().await.unwrap();
    let counted = "SELECT count(*) FROM p_picky_v1.counted";
    assert_eq!(
        admin.query_one(counted, &[]).await.unwrap().get::<_, i64>(0),
        510,
        "nothing is skipped, nothing doubled"
    );
    poisoned("a projection that panics halts alone, and once it is mended nothing is skipped and nothing doubled");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_refuses_halts_its_projection_alone() {
    let mut bed = bed!();
    bed.append(&[100]).await;
    bed.projector().await.catch_up().await.unwrap();
    let admin = bed.database.connect_admin().await;
    // Somebody took rows away that later events change.
    admin.batch_execute("DELETE FROM p_wallets_v1.wallet").await.unwrap();
    bed.append(&[100]).await;
    let error = bed.projector().await.catch_up().await.unwrap_err();
    assert!(error.to_string().contains("rows of p_wallets_v1.wallet are missing"), "{error}");
    assert_eq!(bed.halted().await.keys().collect::<Vec<_>>(), ["wallets"]);
    let (mut digests, mut expected) = (bed.digests().await, bed.expected().await);
    digests.remove("wallet");
    expected.remove("wallet");
    assert_eq!(digests, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_gives_the_same_tables() {
    let mut bed = bed!();
    bed.append(&[4_000, 4_000, 3_000, 17]).await;
    bed.projector().await.catch_up().await.unwrap();
    let expected = bed.digests().await;
    let client = bed.database.connect("ledger_projector").await;
    for projection in all() {
        let forget = format!(
            "DROP SCHEMA {} CASCADE; DELETE FROM projection.registry WHERE name = '{1}'; DELETE FROM projection.checkpoint WHERE name = '{1}'",
            projection.schema(),
            projection.name()
        );
        client.batch_execute(&forget).await.unwrap();
        rebuild(&bed.database.role("ledger_projector"), projection.as_ref(), &[SHARD], &Rebuilding::default())
            .await
            .unwrap();
    }
    assert_eq!(bed.digests().await, expected);
    bed.append(&[30]).await;
    bed.projector().await.catch_up().await.unwrap();
    assert_eq!(bed.digests().await, bed.expected().await, "and is followed from there");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_statement_prepares() {
    let bed = bed!();
    let client = bed.database.connect("ledger_projector").await;
    let mut statements: Vec<String> = Vec::new();
    for projection in all() {
        let schema = projection.schema();
        for table in projection.tables() {
            let all_columns = (1..=table.columns.len()).map(|columns| (1_u64 << columns) - 1);
            statements.extend([
                sql::insert_sql(&schema, table),
                sql::upsert_sql(&schema, table),
                sql::delete_sql(&schema, table),
                sql::copy_sql(&schema, table, ""),
                sql::select_sql(&schema, table),
                sql::select_all_sql(&schema, table),
            ]);
            let beyond_key = all_columns.skip(table.key_len());
            statements.extend(beyond_key.map(|mask| sql::patch_sql(&schema, table, mask)));
        }
    }
    let files = ["/src/sql", "/src/relay/sql"]
        .map(|dir| std::fs::read_dir(env!("CARGO_MANIFEST_DIR").to_owned() + dir).unwrap());
    for file in files.into_iter().flatten() {
        let text = std::fs::read_to_string(file.unwrap().path()).unwrap();
        if !text.contains("CREATE ") {
            statements.push(text);
        }
    }
    assert!(statements.len() > 100);
    for statement in statements {
        client.prepare(&statement).await.unwrap_or_else(|error| panic!("{statement}\n{error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn readers_see_the_views_and_nothing_of_the_log() {
    let mut bed = bed!();
    bed.append(&[300]).await;
    bed.projector().await.catch_up().await.unwrap();
    let client = bed.database.connect("ledger_query").await;
    // Who does not say whose rows are wanted gets none.
    client.query("SELECT * FROM read.wallet", &[]).await.unwrap_err();
    client.batch_execute(HOUSE).await.unwrap();
    let views =
        client.query("SELECT viewname::text FROM pg_views WHERE schemaname = 'read' ORDER BY 1", &[]).await.unwrap();
    let names: Vec<String> = views.iter().map(|row| row.get(0)).collect();
    for expected in [
        "wallet",
        "wallet_usd",
        "entry",
        "account",
        "posting",
        "trial_balance",
        "usage_record",
        "usage_daily",
        "freeze",
        "wallet_fold",
    ] {
        assert!(names.iter().any(|name| name == expected), "{expected} is missing in {names:?}");
    }
    for name in &names {
        client.query(&format!("SELECT * FROM read.{name} LIMIT 3"), &[]).await.unwrap();
        client.execute(&format!("DELETE FROM read.{name}"), &[]).await.unwrap_err();
    }
    for log in ["event", "event_json", "idempotency"] {
        client.query(&format!("SELECT * FROM ledger.{log}"), &[]).await.unwrap_err();
    }
    let row = client
        .query_one("SELECT sum(balance)::bigint, sum(balance_usd)::text FROM read.trial_balance", &[])
        .await
        .unwrap();
    assert_eq!((row.get::<_, i64>(0), row.get::<_, &str>(1)), (0, "0.00000000"));
    let row = client.query_one("SELECT count(*) FROM read.posting p JOIN read.entry e USING (shard, position) WHERE p.line = 1 AND p.amount <> e.amounts[1]", &[]).await.unwrap();
    assert_eq!(row.get::<_, i64>(0), 0);
    let hashes = "SELECT count(*) FROM read.audit_log WHERE detail ~ 'sha256:|hmac:|_hash'";
    assert_eq!(client.query_one(hashes, &[]).await.unwrap().get::<_, i64>(0), 0);
    // Set up again, as every start does.
    setup(&mut bed.database.connect("ledger_projector").await).await.unwrap();
}

/// Waits until it is so.
async fn until(what: &str, mut is_so: impl AsyncFnMut() -> bool) {
    let began = std::time::Instant::now();
    while began.elapsed() < Duration::from_secs(20) {
        if is_so().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    panic!("{what}: not within 20 s");
}

/// I6: messages come doubled, in any order, invented, or not at all; the end is what the log says.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_broker_brings_the_tables_are_those_of_the_log() {
    let mut bed = bed!();
    let reader = bed.reader().await;
    let (log_id, _) = reader.head(SHARD).await.unwrap();
    let subscription = Subscription::new(SHARD);
    let offer = |message: &Message| {
        subscription.offer(&message.properties(), message.body.as_deref().unwrap_or_default()).unwrap();
    };
    let ((stop, stopped), (wake, woken)) = (watch::channel(false), watch::channel(Position::START));
    let projector = bed.projector().await.with_subscription(Arc::clone(&subscription));
    subscription.set_live(true);
    let running = tokio::spawn(projector.run(woken, stopped));
    for round in 0..6 {
        let after = bed.head;
        bed.append(&[3, 1, 40, 2, 300, 7, 1, 1]).await;
        let page = reader.raw_page(SHARD, after, 10_000).await.unwrap();
        let mut messages = Message::of_page(log_id, SHARD, &page.check().unwrap());
        assert_eq!(messages.len(), 8);
        match round {
            0 => {}
            1 => messages.reverse(),
            2 => drop(messages.drain(2..5)),
            3 => messages = messages.iter().flat_map(|message| [message.clone(), message.clone()]).collect(),
            4 => messages.iter_mut().for_each(|message| message.body = None),
            // Nothing comes, and nobody says so.
            _ => messages.clear(),
        }
        messages.iter().for_each(offer);
        wake.send_replace(subscription.told());
        let head = bed.head.position.0;
        until("every projection is there", async || {
            let positions = bed.positions().await;
            positions.len() == all().len() && positions.values().all(|position| *position == head)
        })
        .await;
    }
    // A batch that continues the log, with a right hash, and was never appended.
    let invented = bed.generator.batch(bed.head, 2);
    let page = CheckedPage {
        after: invented.previous(),
        links: vec![invented.head()],
        seals: vec![Seal { id: invented.id(), recorded_at: invented.recorded_at() }],
        events: invented.events().iter().map(StoredRef::from).collect(),
    };
    offer(&Message::of_page(log_id, SHARD, &page)[0]);
    assert_eq!(subscription.told(), invented.head().position);
    wake.send_replace(subscription.told());
    until("it is forgotten", async || subscription.told() == bed.head.position).await;
    stop.send_replace(true);
    running.await.unwrap();
    assert_eq!(bed.halted().await, BTreeMap::new());
    assert!(bed.positions().await.values().all(|position| *position == bed.head.position.0));
    assert_eq!(bed.digests().await, bed.expected().await);
}
