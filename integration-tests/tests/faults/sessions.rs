//! F5: sessions of the database are ended under load, one after the other, and single processes of the server are killed, which makes
//! the server end all sessions and recover.

use std::time::Duration;

use modelfaucet_integration_tests::judge::{audit_up, check};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Traffic, until};
use rustix::process::{Pid, Signal, kill_process, test_kill_process};
use tokio_postgres::{Client, NoTls};

use super::asked_for;

/// How many sessions are ended, unless `MODELFAUCET_SESSIONS` says otherwise; a tenth as many processes are killed.
const SESSIONS: u64 = 20;
/// Sessions of the service: those of its roles in the database.
const OURS: &str = "SELECT pid, application_name FROM pg_stat_activity
                    WHERE usename LIKE 'ledger\\_%' AND backend_type = 'client backend' ORDER BY pid";

async fn superuser(up: &Up) -> Option<Client> {
    let (client, connection) = up.database("postgres").connect(NoTls).await.ok()?;
    tokio::spawn(connection);
    Some(client)
}

/// A session of the service.
async fn victim(client: &Client, dice: &mut Dice) -> Option<(i32, String)> {
    let rows = client.query(OURS, &[]).await.ok()?;
    let sessions: Vec<(i32, String)> = rows.iter().map(|row| (row.get(0), row.get(1))).collect();
    (!sessions.is_empty()).then(|| dice.pick(&sessions).clone())
}

fn server_log(up: &Up) -> String {
    std::fs::read_to_string(up.data_dir().join("postgres.log")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn lost_sessions_leave_nothing_but_doubts_that_repeats_resolve() {
    if !has_postgres() {
        return;
    }
    let (sessions, mut dice) = (asked_for("MODELFAUCET_SESSIONS", SESSIONS), Dice::of_run());
    let mut up = Up::start().await;
    let mut traffic = Traffic::start(Plan::of("sessions", &up, &dice).await);
    traffic.more(100).await;
    let server = up.postmaster().unwrap();
    let client = superuser(&up).await.unwrap();
    let mut ended = std::collections::BTreeMap::<String, u64>::new();
    for _ in 0..sessions {
        tokio::time::sleep(Duration::from_millis(dice.between(20, 80))).await;
        let Some((pid, name)) = victim(&client, &mut dice).await else { continue };
        traffic.fault("F5", &name, "pg_terminate_backend");
        let was_there: bool = client.query_one("SELECT pg_terminate_backend($1, 10000)", &[&pid]).await.unwrap().get(0);
        *ended.entry(name).or_default() += u64::from(was_there);
        traffic.more(5).await;
    }
    assert_eq!(up.postmaster(), Some(server), "the server lives on");
    assert!(ended.values().sum::<u64>() > sessions / 2 && ended.contains_key("modelfaucet-command"), "{ended:?}");

    let kills = sessions / 10;
    for kill in 0..kills {
        traffic.more(20).await;
        let mut client = None;
        until("the server accepts", async || {
            client = superuser(&up).await;
            client.is_some()
        })
        .await;
        let Some((pid, name)) = victim(&client.unwrap(), &mut dice).await else { continue };
        let pid = Pid::from_raw(pid).unwrap();
        traffic.fault("F5", &name, "kill -9 of its process in the server");
        kill_process(pid, Signal::KILL).unwrap();
        until("the process is gone", async || test_kill_process(pid).is_err()).await;
        let died = usize::try_from(kill + 1).unwrap();
        until("the server ends all sessions", async || {
            server_log(&up).matches("was terminated by signal 9").count() >= died
        })
        .await;
    }
    assert_eq!(up.postmaster(), Some(server), "it has recovered by itself");
    traffic.more(50).await;
    up.wait_until_ready(PATIENCE).await;
    let (tally, histories) = traffic.stop().await;
    let events = check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit_up(&up).await;
    assert!(tally.ok > 200 && tally.reads > 0 && tally.unanswered == 0, "{tally:?}");
    let demanded = "nothing but doubts that repeats resolve; the service goes on by itself";
    report::fault("F5", &Figures { injected: tally.made("F5"), recoveries: &[], demanded, invariants: &[] });
    println!("sessions ended: {ended:?}; {kills} processes killed; {events} events, {tally:.2?}");
}
