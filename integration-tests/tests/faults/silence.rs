//! F9: the database is there and says nothing, or next to nothing: connections that trickle, connections that are only half there, a
//! server that stands still. Every request has an outcome, and everything goes on by itself afterwards.

use std::time::Duration;

use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::judge::{audit, audit_up, check, level};
use modelfaucet_integration_tests::process::{Setting, Up, has_postgres};
use modelfaucet_integration_tests::proxy::Flow;
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::stopped::Stopped;
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Tally, Traffic, until};
use modelfaucet_schema::log::boot::ServiceRole;

use super::{asked_for, through_a_proxy};

/// How long each silence lasts, in seconds, unless `MODELFAUCET_SILENCE` says otherwise: on top of the time until the service says that it is not ready.
const SILENCE: u64 = 4;

async fn is_ready(up: &Up) -> bool {
    let Ok(mut visitor) = Connection::open(&up.address(), "").await else { return false };
    visitor.send("GET", "/ready", "", "", b"").await.is_ok_and(|answer| answer.status == 200)
}

/// What must hold of what clients were told.
fn judge(tally: &Tally) {
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    assert_eq!(tally.unanswered, 0, "every request has an outcome: {tally:?}");
    assert!(tally.undecided > 0, "what was not decided was said to be so: {tally:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_says_nothing_holds_nobody_up() {
    let Some(database) = TestDatabase::durable().await else { return };
    let silence = Duration::from_secs(asked_for("MODELFAUCET_SILENCE", SILENCE));
    let (proxy, config) = through_a_proxy(&database, "postgres").await;
    let mut up = Up::start_with(Setting { database: Some(config), ..Setting::default() }).await;
    let mut traffic = Traffic::start(Plan::of("silence", &up, &Dice::of_run()).await);
    traffic.more(100).await;
    for (name, flow) in [("half-open connections", Flow::Lost), ("20 bytes a second", Flow::Trickle(20))] {
        traffic.fault("F9", "postgres", name);
        let (lost, held) = (proxy.lost(), proxy.held());
        proxy.flow(flow);
        until("the ledger says that it is not ready", async || !is_ready(&up).await).await;
        tokio::time::sleep(silence).await;
        assert!(proxy.lost() > lost || proxy.held() > held, "the fault is real");
        proxy.flow(Flow::Free);
        up.wait_until_ready(PATIENCE).await;
        traffic.more(100).await;
    }
    let (tally, histories) = traffic.stop().await;
    level(&database).await;
    let auditor = database.role(ServiceRole::Audit);
    let events = check(&auditor, &histories).await;
    judge(&tally);
    audit(&auditor, &up.address(), &up.admin()).await;
    assert!(up.log().contains("the database does not answer"), "the service has noticed");
    let demanded = "every request has an outcome while a connection says nothing; the service goes on over a new one";
    report::fault("F9", &Figures { injected: tally.made("F9"), recoveries: &[], demanded, invariants: &[] });
    println!("{} bytes lost, {} pieces held back, {events} events, {tally:.2?}", proxy.lost(), proxy.held());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_stands_still_holds_nobody_up() {
    if !has_postgres() {
        return;
    }
    let silence = Duration::from_secs(asked_for("MODELFAUCET_SILENCE", SILENCE));
    let mut up = Up::start().await;
    let mut traffic = Traffic::start(Plan::of("still", &up, &Dice::of_run()).await);
    traffic.more(100).await;
    let server = up.postmaster().unwrap();
    traffic.fault("F9", "postgres", "SIGSTOP of every process");
    let stopped = tokio::task::block_in_place(|| Stopped::server(server));
    until("the ledger says that it is not ready", async || !is_ready(&up).await).await;
    let answered = traffic.ok();
    tokio::time::sleep(silence).await;
    assert!(stopped.is_so() && traffic.ok() == answered, "the fault is real: nothing is answered ok");
    drop(stopped);
    up.wait_until_ready(PATIENCE).await;
    traffic.more(100).await;
    assert_eq!(up.postmaster(), Some(server), "the same server");
    let (tally, histories) = traffic.stop().await;
    let events = check(&up.database("ledger_audit"), &histories).await;
    judge(&tally);
    audit_up(&up).await;
    let demanded = "every request has an outcome while the server stands still; it goes on with the same server";
    report::fault("F9", &Figures { injected: tally.made("F9"), recoveries: &[], demanded, invariants: &[] });
    println!("stood still for {silence:?} and more, {events} events, {tally:.2?}");
}
