//! Snapshots that the writer copies while it works: each is the fold of the log at its place, and a start from one goes on as if
//! nothing had happened.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use modelfaucet_integration_tests::judge::{audit_up, check};
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, Plan, Traffic};

const PATIENCE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
async fn a_start_from_a_copied_snapshot_goes_on_with_the_same_state() {
    if !has_postgres() {
        return;
    }
    let variables = vec![("SNAPSHOT_EVERY_EVENTS", "50".to_owned())];
    let mut up = Up::start_with(Setting { variables, ..Setting::default() }).await;
    let plan = Plan { clients: 8, ..Plan::of("snapshot", &up, &Dice::of_run()).await };
    let mut traffic = Traffic::start(plan);
    let mut recoveries = Vec::new();
    for _ in 0..3 {
        traffic.more(300).await;
        let newest = newest_snapshot(&up).await;
        up.kill();
        traffic.fault("F2", "up", "kill");
        let killed = Instant::now();
        up.start_again();
        up.wait_until_ready(PATIENCE).await;
        recoveries.push(killed.elapsed());
        let began = up.log().lines().rev().find_map(|line| line.split("snapshot=").nth(1).map(str::to_owned));
        let position: i64 = began.unwrap().split_whitespace().next().unwrap().parse().unwrap();
        assert!(position >= newest, "the start began at {position}, though there was a snapshot at {newest}");
    }
    traffic.more(100).await;
    let (tally, histories) = traffic.stop().await;
    let events = check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    // `verify` compares every kept snapshot with the fold of the log at its place.
    audit_up(&up).await;
    let demanded = "the start goes on from the newest snapshot, and snapshots are the fold of the log";
    report::fault("F2", &Figures { injected: tally.made("F2"), recoveries: &recoveries, demanded, invariants: &[] });
    println!("{events} events, {tally:.2?}");
}

/// The place of the newest snapshot, once there is one.
async fn newest_snapshot(up: &Up) -> i64 {
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let began = Instant::now();
    loop {
        let row = client.query_one("SELECT coalesce(max(position), 0) FROM ledger.snapshot", &[]).await.unwrap();
        let position: i64 = row.get(0);
        if position > 0 {
            return position;
        }
        assert!(began.elapsed() < PATIENCE, "no snapshot is taken");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
