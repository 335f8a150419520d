//! F1: no fault at all. Everybody gets an answer, and the service does not grow.

use std::time::Duration;

use modelfaucet_integration_tests::judge::{audit_up, check};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, Plan, Traffic};
use rustix::process::Pid;

use super::asked_for;

/// How long the load goes on, in seconds, unless `MODELFAUCET_SOAK` says otherwise.
const SOAK: u64 = 3;
/// Commands until caches, pools and arenas have their size.
const WARM_UP: u64 = 300;
/// What the service may grow by, in KiB: what it remembers of late (2^18 keys, the newest events) fills up for a long time.
const GROWTH: u64 = 192 << 10;
/// And for every thousand events: wallets, sessions and holds that are there to stay.
const GROWTH_PER_THOUSAND: u64 = 64;

/// Resident memory, in KiB.
fn resident(pid: Pid) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", pid.as_raw_pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_fault_there_is_no_error_and_no_growth() {
    if !has_postgres() {
        return;
    }
    let soak = Duration::from_secs(asked_for("MODELFAUCET_SOAK", SOAK));
    let up = Up::start().await;
    let traffic = Traffic::start(Plan::of("calm", &up, &Dice::of_run()).await);
    traffic.more(WARM_UP).await;
    let (warm, at) = (resident(up.pid()), traffic.acknowledged());
    tokio::time::sleep(soak).await;
    let (end, events) = (resident(up.pid()), traffic.acknowledged() - at);
    let (tally, histories) = traffic.stop().await;
    let all = check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    assert_eq!((tally.in_doubt, tally.undecided, tally.retries, tally.unanswered), (0, 0, 0, 0), "{tally:?}");
    audit_up(&up).await;
    assert!(events > 0 && tally.ok > WARM_UP && tally.repeats > 0 && tally.refused > 0 && tally.reads > 0, "{tally:?}");
    let allowed = GROWTH + GROWTH_PER_THOUSAND * (u64::try_from(events).unwrap() / 1_000);
    assert!(end <= warm + allowed, "{warm} KiB grew to {end} over {events} events; {allowed} more were allowed");
    let demanded = "without a fault nothing fails, nothing is in doubt, memory does not grow with the events";
    report::fault("F1", &Figures { injected: 1, recoveries: &[], demanded, invariants: &[] });
    println!(
        "{soak:?}, {all} events, {warm} KiB after the warm-up, {end} at the end; {:?}; {tally:.2?}",
        tally.latencies
    );
}
