//! How many events per second a projector folds and writes. Run with `--release`; `MODELFAUCET_TEST_DURABLE=1` for a server that
//! syncs. Arguments: events, wallets, mix.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, clippy::similar_names, reason = "prints figures for people")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Instant;

use modelfaucet_projector::fold::{Folder, Outcome, Span};
use modelfaucet_projector::projection::{Projection, all};
use modelfaucet_projector::rebuild::{Rebuilding, rebuild};
use modelfaucet_projector::store::Commit;
use modelfaucet_projector::{Projector, setup};
use modelfaucet_schema::log::{LogAppender, LogReader};
use support::database::TestDatabase;
use support::log::{Generator, MemoryLog, Mix, SHARD};

/// Processor time of a process, in hundredths of a second, with that of children that have ended.
fn ticks(pid: &str, with_children: bool) -> u64 {
    let Ok(stat) = std::fs::read_to_string(format!("/proc/{pid}/stat")) else { return 0 };
    let fields: Vec<u64> =
        stat.rsplit(')').next().unwrap().split_whitespace().map(|field| field.parse().unwrap_or(0)).collect();
    fields[11..if with_children { 15 } else { 13 }].iter().sum()
}

/// Wall clock and processor time; the latter tells something on a busy machine, too.
struct Watch {
    begun: Instant,
    own: u64,
    server: u64,
}

/// Processor time of the server and all its sessions.
fn server_ticks(postmaster: &str) -> u64 {
    let parent = |pid: &str| -> Option<String> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        Some(stat.rsplit(')').next()?.split_whitespace().nth(1)?.to_owned())
    };
    let all = std::fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().into_string().ok());
    let children: u64 =
        all.filter(|pid| parent(pid).as_deref() == Some(postmaster)).map(|pid| ticks(&pid, false)).sum();
    ticks(postmaster, true) + children
}

static POSTMASTER: std::sync::OnceLock<String> = std::sync::OnceLock::new();

impl Watch {
    fn start() -> Self {
        Self { begun: Instant::now(), own: ticks("self", false), server: server_ticks(POSTMASTER.get().unwrap()) }
    }

    fn stop(self, what: &str, events: usize) {
        let seconds = self.begun.elapsed().as_secs_f64();
        let each = |ticks: u64| ticks as f64 * 10_000.0 / events as f64;
        let (own, server) =
            (each(ticks("self", false) - self.own), each(server_ticks(POSTMASTER.get().unwrap()) - self.server));
        println!(
            "  {what:<62} {:>8.0} events/s; CPU per event: projector {own:>5.1} us, server {server:>5.1} us",
            events as f64 / seconds
        );
    }
}

/// Folding and encoding alone, per projection.
fn pure(mix: Mix, wallets: usize) {
    let log = MemoryLog::generate(5, mix, wallets, &[4_000; 25]);
    for projection in all() {
        let name = projection.name();
        let mut folder = Folder::beginning(SHARD, support::log::LOG, vec![projection]);
        let (mut folded, mut encoded) = (0.0, 0.0);
        for from in (0..24).step_by(2) {
            let span: Span = log.span(from, from + 2);
            let begun = Instant::now();
            let Outcome::Folded { batch, .. } = folder.offer(&span) else { panic!() };
            folded += begun.elapsed().as_secs_f64();
            let begun = Instant::now();
            Commit::new(SHARD, support::log::LOG, batch);
            encoded += begun.elapsed().as_secs_f64();
        }
        println!(
            "  fold {name:<16} {:>6.0} ns, encode {:>6.0} ns per event",
            folded * 1e9 / 96_000.0,
            encoded * 1e9 / 96_000.0
        );
    }
}

async fn measure(mix: Mix, events: usize, wallets: usize) {
    println!("{mix:?}, {events} events, {wallets} wallets");
    pure(mix, wallets);
    let Some(database) = TestDatabase::create().await else { return };
    setup(&mut database.connect("ledger_projector").await).await.unwrap();
    let appender = LogAppender::prepare(database.connect("ledger_command").await.into()).await.unwrap();
    let mut generator = Generator::new(11, mix, wallets);
    let reader = LogReader::prepare(Arc::new(database.connect("ledger_projector").await)).await.unwrap();
    let (_, mut head) = reader.head(SHARD).await.unwrap();
    let mut left = events;
    while left > 0 {
        let batch = generator.batch(head, left.min(2_000));
        appender.append(&batch).await.unwrap();
        head = batch.head();
        left -= left.min(2_000);
    }
    let admin = database.connect_admin().await;
    let backend: i32 = admin.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let stat = std::fs::read_to_string(format!("/proc/{backend}/stat")).unwrap();
    POSTMASTER.get_or_init(|| stat.rsplit(')').next().unwrap().split_whitespace().nth(1).unwrap().to_owned());
    for sql in ["VACUUM ANALYZE", "CHECKPOINT"] {
        admin.batch_execute(sql).await.unwrap();
    }
    let genesis =
        reader.head(SHARD).await.map(|(log_id, _)| modelfaucet_schema::log::Head::genesis(log_id, SHARD)).unwrap();
    let (mut at, mut best) = (genesis, f64::MAX);
    let watch = Watch::start();
    while at != head {
        let raw = reader.raw_page(SHARD, at, 8_192).await.unwrap();
        let page = raw.check().unwrap();
        at = Span::decode(&page).0.head();
        // The best of many short runs: what a quiet machine would need.
        for events in page.events.chunks(256) {
            let begun = Instant::now();
            for event in events {
                drop(event.decode());
            }
            best = best.min(begun.elapsed().as_secs_f64() / events.len() as f64);
        }
    }
    watch.stop("read, check, decode twice, one after another", events);
    println!("  decoding at best {:.0} ns per event", best * 1e9);
    let config = database.role("ledger_projector");
    for projection in all() {
        let client = database.connect("ledger_projector").await;
        let sql = format!(
            "DROP SCHEMA {} CASCADE; DELETE FROM projection.registry WHERE name = '{}'",
            projection.schema(),
            projection.name()
        );
        client.batch_execute(&sql).await.unwrap();
        let watch = Watch::start();
        rebuild(&config, projection.as_ref(), &[SHARD], &Rebuilding::default()).await.unwrap();
        watch.stop(&format!("rebuild {}", projection.name()), events);
        let sql = format!(
            "DROP SCHEMA {} CASCADE; DELETE FROM projection.registry; DELETE FROM projection.checkpoint",
            projection.schema()
        );
        client.batch_execute(&sql).await.unwrap();
    }
    for group in [
        &["wallets"][..],
        &["reconciliation"],
        &["wallets", "reconciliation", "sessions", "top_ups"],
        &["journal"],
        &["usage"],
        &[],
    ] {
        let client = &mut database.connect("ledger_projector").await;
        client.batch_execute("DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'p\\_%' LOOP EXECUTE format('DROP SCHEMA %I CASCADE', s); END LOOP; END $$; DELETE FROM projection.registry; DELETE FROM projection.checkpoint").await.unwrap();
        setup(client).await.unwrap();
        let wanted = move || -> Vec<Box<dyn Projection>> {
            all().into_iter().filter(|projection| group.is_empty() || group.contains(&projection.name())).collect()
        };
        let projector =
            Projector::connect(config.clone(), vec![SHARD]).await.unwrap().with_projections(Arc::new(wanted));
        let watch = Watch::start();
        projector.catch_up().await.unwrap();
        let what = if group.is_empty() { "all nine".to_owned() } else { group.join(" + ") };
        watch.stop(&format!("live path, {what}"), events);
    }
}

/// As the product's binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).take(2).map(|argument| argument.parse::<usize>().unwrap());
    let events = arguments.next().unwrap_or(400_000);
    let wallets = arguments.next().unwrap_or(2_000);
    let mixes = std::env::args().nth(3).unwrap_or_default();
    for mix in [Mix::Calls, Mix::Usage, Mix::Everything] {
        if mixes.is_empty() || mixes == format!("{mix:?}") {
            measure(mix, events, wallets).await;
        }
    }
}
