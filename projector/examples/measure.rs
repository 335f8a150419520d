//! How many events per second a projector folds and writes. Run with `--release`; `MODELFAUCET_TEST_DURABLE=1` for a server that
//! syncs. Arguments: events, wallets.
#![allow(clippy::unwrap_used, clippy::cast_precision_loss, reason = "prints figures for people")]

#[path = "../tests/support/mod.rs"]
mod support;

use std::sync::Arc;
use std::time::Instant;

use modelfaucet_projector::fold::{Folder, Outcome, Span};
use modelfaucet_projector::projection::{Projection, all};
use modelfaucet_projector::rebuild::rebuild;
use modelfaucet_projector::store::Commit;
use modelfaucet_projector::{Projector, setup};
use modelfaucet_schema::log::{LogAppender, LogReader};
use support::database::TestDatabase;
use support::log::{Generator, MemoryLog, Mix, SHARD};

fn rate(what: &str, events: usize, begun: Instant) {
    let seconds = begun.elapsed().as_secs_f64();
    println!("  {what:<44} {:>9.0} events/s", events as f64 / seconds);
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
        println!("  fold {name:<16} {:>6.0} ns, encode {:>6.0} ns per event", folded * 1e9 / 96_000.0, encoded * 1e9 / 96_000.0);
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
    for sql in ["VACUUM ANALYZE", "CHECKPOINT"] {
        admin.batch_execute(sql).await.unwrap();
    }
    let mut at = reader.head(SHARD).await.map(|(log_id, _)| modelfaucet_schema::log::Head::genesis(log_id, SHARD)).unwrap();
    let (begun, mut decoding) = (Instant::now(), 0.0);
    while at != head {
        let page = reader.stored_page(SHARD, at, 8_192).await.unwrap();
        let begun = Instant::now();
        at = Span::decode(at, &page).0.head();
        decoding += begun.elapsed().as_secs_f64();
    }
    rate("read, check, decode, one after another", events, begun);
    println!("  of this decoding {:.0} ns per event", decoding * 1e9 / events as f64);
    let config = database.role("ledger_projector");
    for projection in all() {
        let client = database.connect("ledger_projector").await;
        let sql = format!("DROP SCHEMA {} CASCADE; DELETE FROM projection.registry WHERE name = '{}'", projection.schema(), projection.name());
        client.batch_execute(&sql).await.unwrap();
        let begun = Instant::now();
        rebuild(&config, projection.as_ref(), &[SHARD], None).await.unwrap();
        rate(&format!("rebuild {}", projection.name()), events, begun);
        let sql = format!("DROP SCHEMA {} CASCADE; DELETE FROM projection.registry; DELETE FROM projection.checkpoint", projection.schema());
        client.batch_execute(&sql).await.unwrap();
    }
    for group in [&["wallets"][..], &["reconciliation"], &["wallets", "reconciliation", "sessions", "top_ups"], &["journal"], &["usage"], &[]] {
        let client = &mut database.connect("ledger_projector").await;
        client.batch_execute("DO $$ DECLARE s text; BEGIN FOR s IN SELECT nspname FROM pg_namespace WHERE nspname LIKE 'p\\_%' LOOP EXECUTE format('DROP SCHEMA %I CASCADE', s); END LOOP; END $$; DELETE FROM projection.registry; DELETE FROM projection.checkpoint").await.unwrap();
        setup(client).await.unwrap();
        let wanted = move || -> Vec<Box<dyn Projection>> {
            all().into_iter().filter(|projection| group.is_empty() || group.contains(&projection.name())).collect()
        };
        let projector = Projector::connect(config.clone(), vec![SHARD]).await.unwrap().with_projections(Arc::new(wanted));
        let begun = Instant::now();
        projector.catch_up().await.unwrap();
        let what = if group.is_empty() { "all nine".to_owned() } else { group.join(" + ") };
        rate(&format!("live path, {what}"), events, begun);
    }
}

#[tokio::main]
async fn main() {
    let mut arguments = std::env::args().skip(1).map(|argument| argument.parse::<usize>().unwrap());
    let events = arguments.next().unwrap_or(400_000);
    let wallets = arguments.next().unwrap_or(2_000);
    for mix in [Mix::Calls, Mix::Usage, Mix::Everything] {
        measure(mix, events, wallets).await;
    }
}
