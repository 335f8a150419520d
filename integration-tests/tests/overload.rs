//! More commands than can be decided: what waits too long, or finds the queue full, is told so and had no effect; when the obstacle
//! is gone everything goes on as before.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::Duration;

use modelfaucet_integration_tests::judge::{audit_up, check};
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, Plan, Traffic};

/// How many commands may wait; fewer than there are clients.
const QUEUE: usize = 8;
const CLIENTS: usize = 32;
/// How long somebody holds the shard's lock.
const BLOCKED: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_decided_is_shed_and_nothing_is_lost() {
    if !has_postgres() {
        return;
    }
    let variables = vec![("QUEUE_COMMANDS", QUEUE.to_string())];
    let up = Up::start_with(Setting { variables, ..Setting::default() }).await;
    let plan = Plan { clients: CLIENTS, ..Plan::of("overload", &up, &Dice::of_run()).await };
    let mut traffic = Traffic::start(plan);
    let before = traffic.more(200).await;

    let (blocker, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let head = async || -> i64 {
        blocker.query_one("SELECT position FROM ledger.head WHERE shard = 0", &[]).await.unwrap().get(0)
    };
    traffic.fault("F12", "shard 0", "its lock is held");
    blocker.execute("SELECT pg_advisory_lock(7304, 0)", &[]).await.unwrap();
    let (blocked_at, shed) = (head().await, traffic.shed());
    tokio::time::sleep(BLOCKED).await;
    assert_eq!(head().await, blocked_at, "the fault is real: nothing is appended");
    let shed = traffic.shed() - shed;
    assert!(shed > CLIENTS as u64, "{shed} commands were shed");
    blocker.execute("SELECT pg_advisory_unlock(7304, 0)", &[]).await.unwrap();

    let after = traffic.more(200).await;
    let (tally, histories) = traffic.stop().await;
    let events = check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit_up(&up).await;
    // Most did not even begin to wait.
    assert!(tally.shed_at_once > 0, "{tally:?}");
    let demanded =
        "what cannot be decided is shed with no effect, some of it at once; afterwards 200 commands are answered";
    report::fault("F12", &Figures { injected: tally.made("F12"), recoveries: &[after], demanded, invariants: &[] });
    println!("200 commands: {before:.2?} before, {after:.2?} after; {shed} shed, {events} events, {tally:.2?}");
}
