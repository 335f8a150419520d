//! F26: one of two `command` processes has too little memory. The kernel ends it; it starts again, and nothing is corrupt.

use std::os::unix::process::ExitStatusExt as _;

use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::judge::{audit, check, level};
use modelfaucet_integration_tests::limited::Limited;
use modelfaucet_integration_tests::process::{Role, Setting, Up};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, Plan, Traffic, until};
use modelfaucet_schema::log::boot::ServiceRole;

use super::asked_for;

/// How often it runs out of memory, unless `MODELFAUCET_SHORTAGES` says otherwise.
const SHORTAGES: u64 = 2;
/// What it may take on top of what it has when it is ready, in bytes: less than the load needs.
const MORE: u64 = 1 << 20;
/// Commands that must be answered meanwhile.
const MEANWHILE: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn a_role_without_memory_ends_and_starts_again() {
    let Some(database) = TestDatabase::durable().await else { return };
    let Some(limited) = Limited::to(MORE, "command") else { return };
    let mut up = Up::start_with(Setting { database: Some(database.superuser()), ..Setting::default() }).await;
    let plan = Plan::of("memory", &up, &Dice::of_run()).await;
    up.stop();
    let mut commands = [up.role("command", "ledger_command"), up.role("command", "ledger_command")];
    let others = [up.role("projector", "ledger_projector"), up.role("query", "ledger_query")];
    for role in commands.iter().chain(&others) {
        role.wait_until_ready().await;
    }
    let (reads, token) = (others[1].address(), plan.token.clone());
    let addresses = commands.iter().map(Role::address).collect();
    let mut traffic = Traffic::start(Plan { commands: addresses, reads: reads.clone(), ..plan });
    for shortage in 0..asked_for("MODELFAUCET_SHORTAGES", SHORTAGES) {
        traffic.more(MEANWHILE).await;
        traffic.fault("F26", "command-0", "no memory is left");
        limited.take(commands[0].pid()).unwrap();
        until("the kernel ends it", async || limited.killed() > shortage).await;
        let mut ended = None;
        until("it has ended", async || {
            ended = commands[0].ended();
            ended.is_some()
        })
        .await;
        assert_eq!(ended.unwrap().signal(), Some(9));
        // The other one goes on meanwhile.
        traffic.more(MEANWHILE).await;
        commands[0].start_again();
        commands[0].wait_until_ready().await;
    }
    traffic.more(MEANWHILE).await;
    let (tally, histories) = traffic.stop().await;
    level(&database).await;
    let auditor = database.role(ServiceRole::Audit);
    let events = check(&auditor, &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit(&auditor, &reads, &token).await;
    let demanded = "the other process goes on, the one that the kernel ended starts again over the same log";
    report::fault("F26", &Figures { injected: limited.killed(), recoveries: &[], demanded, invariants: &[] });
    println!("ended {} times for want of memory, {events} events, {tally:.2?}", limited.killed());
}
