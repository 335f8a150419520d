//! Separate roles over one database: two that take commands, one that projects, one that answers. Any of them may die at any time;
//! the others go on, and afterwards nothing is missing and nothing is there twice.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::judge::{audit, check, level};
use modelfaucet_integration_tests::process::{Role, Setting, Up, skip};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, Plan, Traffic, until};
use modelfaucet_schema::log::boot::ServiceRole;

/// How often each of the four dies, unless `MODELFAUCET_DEATHS` says otherwise.
const DEATHS: usize = 3;
/// Commands that must be answered while one is dead.
const MEANWHILE: u64 = 20;

#[tokio::test(flavor = "multi_thread")]
async fn any_role_may_die_at_any_time() {
    let Some(database) = TestDatabase::durable().await else { return };
    let deaths = std::env::var("MODELFAUCET_DEATHS").ok().and_then(|deaths| deaths.parse().ok()).unwrap_or(DEATHS);
    let mut dice = Dice::of_run();
    // `up` sets up the database and the sandbox, opens the wallets, and leaves.
    let setting = Setting { database: Some(database.superuser()), ..Setting::default() };
    let mut up = Up::start_with(setting).await;
    let plan = Plan::of("roles", &up, &dice).await;
    up.stop();

    let verbs = ["command", "command", "projector", "query"];
    let mut roles = verbs.map(|verb| up.role(verb, &format!("ledger_{verb}")));
    for role in &roles {
        role.wait_until_ready().await;
    }
    let commands = roles[..2].iter().map(Role::address).collect();
    let (reads, token) = (roles[3].address(), plan.token.clone());
    let mut traffic = Traffic::start(Plan { commands, reads: reads.clone(), ..plan });
    let mut victims = [0, 1, 2, 3].repeat(deaths);
    dice.shuffle(&mut victims);
    let mut longest = BTreeMap::<&str, Duration>::new();
    let mut recoveries = BTreeMap::<&str, Vec<Duration>>::new();
    for victim in victims {
        tokio::time::sleep(Duration::from_millis(dice.between(100, 800))).await;
        let (verb, role) = (verbs[victim], &mut roles[victim]);
        let number = if verb == "command" { "F2" } else { "F3" };
        traffic.fault(number, &format!("{verb}-{victim}"), "kill");
        let killed = Instant::now();
        assert_eq!(role.kill().unwrap().signal(), Some(9), "{verb} had ended before; the log:\n{}", up.log());
        assert!(Connection::open(&role.address(), "").await.is_err(), "the killed {verb} still answers");
        // The others go on meanwhile.
        let slot = longest.entry(verb).or_default();
        *slot = traffic.more(MEANWHILE).await.max(*slot);
        role.start_again();
        role.wait_until_ready().await;
        recoveries.entry(number).or_default().push(killed.elapsed());
    }
    traffic.more(MEANWHILE).await;
    let (tally, histories) = traffic.stop().await;
    level(&database).await;
    let auditor = database.role(ServiceRole::Audit);
    let events = check(&auditor, &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit(&auditor, &reads, &token).await;
    // The traces in the log of all roles: two starts, and one more for each death.
    assert_eq!(up.log().matches("the writer's state is folded").count() - 1, 2 + 2 * deaths);
    assert!(tally.ok > 200 && tally.in_doubt > 0 && tally.repeats > 0 && tally.reads > 0, "{tally:?}");
    for (number, recoveries) in &recoveries {
        let demanded = "the others answer commands while one is dead; nothing is skipped, nothing is there twice";
        report::fault(number, &Figures { injected: tally.made(number), recoveries, demanded, invariants: &[] });
    }
    println!("{} deaths, {MEANWHILE} commands meanwhile took {longest:.2?}, {events} events, {tally:.2?}", 4 * deaths);
}

/// What makes a process see another time, but no other durations.
fn faketime() -> Option<std::path::PathBuf> {
    let folders = std::fs::read_dir("/usr/lib").into_iter().flatten().flatten();
    let found = folders.map(|folder| folder.path().join("faketime/libfaketimeMT.so.1")).find(|file| file.exists());
    if found.is_none() {
        skip("faketime", "libfaketime is not installed");
    }
    found
}

/// How far a process is from our time, in seconds, by what it says about limits; about a minute more.
async fn skew(role: &Role, token: &str) -> i64 {
    let mut connection = Connection::open(&role.address(), token).await.unwrap();
    let answer = connection.send("POST", "/v1/admin/freezes", "", "application/json", b"{}").await.unwrap();
    let theirs: i64 = answer.header("x-ratelimit-reset").unwrap().parse().unwrap();
    theirs - i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()).unwrap()
}

async fn is_ready(role: &Role) -> bool {
    let mut connection = Connection::open(&role.address(), "").await.unwrap();
    connection.send("GET", "/ready", "", "", b"").await.unwrap().status == 200
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_jumps_moves_neither_money_nor_the_logs_time() {
    let (Some(database), Some(library)) = (TestDatabase::durable().await, faketime()) else { return };
    let dice = Dice::of_run();
    let setting = Setting { database: Some(database.superuser()), ..Setting::default() };
    let mut up = Up::start_with(setting).await;
    let plan = Plan::of("clocks", &up, &dice).await;
    up.stop();

    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("skew");
    std::fs::write(&file, "+0").unwrap();
    let jumps = [
        ("LD_PRELOAD", library.to_str().unwrap()),
        ("FAKETIME_TIMESTAMP_FILE", file.to_str().unwrap()),
        ("FAKETIME_NO_CACHE", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ];
    let commands = [up.role("command", "ledger_command"), up.role_with(&["command"], "ledger_command", &jumps)];
    let others = [up.role("projector", "ledger_projector"), up.role("query", "ledger_query")];
    for role in commands.iter().chain(&others) {
        role.wait_until_ready().await;
    }
    let (reads, token) = (others[1].address(), plan.token.clone());
    let addresses = commands.iter().map(Role::address).collect();
    let mut traffic = Traffic::start(Plan { commands: addresses, reads: reads.clone(), ..plan });
    let (mut refused, mut recoveries) = (0, Vec::new());
    for jump in [3_600, -3_600, 3 * 86_400, -3 * 86_400] {
        traffic.more(MEANWHILE).await;
        traffic.fault("F11", "command-1", &format!("{jump:+} s"));
        let is_at = async |wanted: i64| (skew(&commands[1], &token).await - wanted).abs() < 300;
        std::fs::write(&file, format!("{jump:+}")).unwrap();
        until("the clock jumps", async || is_at(jump).await).await;
        if jump > 0 {
            // It cannot record any more and says so; nobody else is disturbed.
            until("who is ahead is not ready", async || !is_ready(&commands[1]).await).await;
            refused += 1;
        }
        traffic.more(MEANWHILE).await;
        assert!(is_ready(&commands[0]).await, "the other one is not disturbed");
        let set_right = Instant::now();
        std::fs::write(&file, "+0").unwrap();
        until("the clock is set right", async || is_at(0).await && is_ready(&commands[1]).await).await;
        recoveries.push(set_right.elapsed());
    }
    traffic.more(MEANWHILE).await;
    let (tally, histories) = traffic.stop().await;
    level(&database).await;
    let auditor = database.role(ServiceRole::Audit);
    let events = check(&auditor, &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit(&auditor, &reads, &token).await;
    let sql = "SELECT max(recorded_at) <= clock_timestamp() + interval '60 s', count(*) FILTER (WHERE type = 'SessionExpired')
               FROM ledger.event";
    let row = database.connect_as(ServiceRole::Audit).await.query_one(sql, &[]).await.unwrap();
    assert_eq!(
        (row.get::<_, bool>(0), row.get::<_, i64>(1)),
        (true, 0),
        "time went on by itself, and no session ended"
    );
    assert!(refused == 2 && tally.ok > 100, "{tally:?}");
    let demanded = "who is ahead records nothing and is not ready, nothing ends before its time, nobody else notices";
    report::fault("F11", &Figures { injected: tally.made("F11"), recoveries: &recoveries, demanded, invariants: &[] });
    println!("4 jumps, {events} events, {tally:.2?}");
}
