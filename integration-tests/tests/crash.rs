//! What stays true when processes die: clients that keep their keys and repeat them, a service and a server that are killed under
//! them, and afterwards a checker that shares no code with the product. And two writers of one log.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::connection::{Answer, Connection};
use modelfaucet_integration_tests::history::position;
use modelfaucet_integration_tests::judge::{audit_up, check, python};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Traffic};
use rustix::process::{Signal, kill_process, test_kill_process};
use serde_json::{Value, json};

const KILLS: usize = 12;
const SERVER_CRASHES: usize = 8;

#[test]
fn the_checker_passes_what_is_honest_and_finds_every_lie() {
    let Some(output) = python("test_checker.py", &[]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// `kill -9` of the service; PostgreSQL goes with it.
    Kill,
    /// An immediate stop of PostgreSQL; the supervisor brings it back.
    ServerCrash,
}

/// Waits until a command is answered ok again.
///
/// # Errors
/// What the service says that has stopped by itself, or answers nobody.
async fn going_on(up: &mut Up, traffic: &Traffic) -> Result<(), String> {
    let (began, before) = (Instant::now(), traffic.ok());
    while traffic.ok() == before {
        let ended = up.ended();
        if ended.is_some() || began.elapsed() > PATIENCE / 2 {
            let log = up.log();
            let last: Vec<&str> = log.lines().rev().take(5).collect();
            return Err(format!("the service does not go on ({ended:?}); its last words, backwards: {last:#?}"));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(())
}

/// Makes a fault, proves that it happened, and waits until a command is answered ok again. Returns how long that took.
async fn make(fault: Fault, up: &mut Up, traffic: &Traffic) -> Result<Duration, String> {
    going_on(up, traffic).await?;
    let server = up.postmaster().ok_or("a ready service has a server")?;
    let began = Instant::now();
    match fault {
        Fault::Kill => {
            up.kill();
            assert!(up.connect("").await.is_err(), "the killed service still answers");
            up.start_again();
        }
        Fault::ServerCrash => {
            assert!(up.crash_postgres(), "there was no server to crash");
            while test_kill_process(server).is_ok() {
                assert!(began.elapsed() < PATIENCE, "the crashed server lives on");
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }
    while up.postmaster().is_none_or(|pid| pid == server) {
        if let Some(ended) = up.ended() {
            return Err(format!("the service has stopped by itself ({ended})"));
        }
        assert!(began.elapsed() < PATIENCE, "no new server; the log:\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    going_on(up, traffic).await?;
    Ok(began.elapsed())
}

/// Twelve kills and eight crashes in an order that the dice give.
fn faults(dice: &mut Dice) -> Vec<Fault> {
    let mut faults = [vec![Fault::Kill; KILLS], vec![Fault::ServerCrash; SERVER_CRASHES]].concat();
    dice.shuffle(&mut faults);
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn no_acknowledged_command_is_lost_or_doubled_by_crashes() {
    if !has_postgres() {
        return;
    }
    let mut dice = Dice::of_run();
    let mut up = Up::start().await;
    let mut traffic = Traffic::start(Plan::of("crash", &up, &dice).await);
    let (mut recoveries, mut stopped) = (BTreeMap::<&str, Vec<Duration>>::new(), None);
    for fault in faults(&mut dice) {
        tokio::time::sleep(Duration::from_millis(dice.between(500, 2_000))).await;
        let (name, role, act) = match fault {
            Fault::Kill => ("F2", "up", "kill"),
            Fault::ServerCrash => ("F4", "postgres", "immediate stop"),
        };
        traffic.fault(name, role, act);
        match make(fault, &mut up, &traffic).await {
            Ok(recovery) => recoveries.entry(name).or_default().push(recovery),
            Err(problem) => {
                // The checker is to say what it came from, so everybody gets home first.
                stopped = Some(problem);
                up.kill();
                up.start_again();
                up.wait_until_ready(PATIENCE).await;
                traffic.give_up();
                break;
            }
        }
    }
    let (tally, histories) = traffic.stop().await;
    let events = check(&up.database("ledger_audit"), &histories).await;
    assert!(stopped.is_none(), "{}", stopped.unwrap_or_default());
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit_up(&up).await;
    // The traces of the faults in the service's own log.
    let log = up.log();
    let traces = |text: &str| log.matches(text).count();
    assert_eq!(traces("the writer's state is folded"), KILLS + 1);
    assert!(traces("PostgreSQL ended; it is started again") >= SERVER_CRASHES, "{log}");
    assert!(
        tally.ok > 500 && tally.in_doubt > 0 && tally.repeats > 0 && tally.refused > 0 && tally.reads > 0,
        "{tally:?}"
    );
    for (number, recoveries) in &recoveries {
        let figures = Figures {
            injected: tally.made(number),
            recoveries,
            demanded: "every command that was answered ok is in the log once, a repeated key gets the first answer, and commands \
                       are answered again",
            invariants: &[],
        };
        report::fault(number, &figures);
    }
    let longest: BTreeMap<_, _> = recoveries.iter().map(|(number, all)| (number, all.iter().max())).collect();
    println!(
        "{KILLS} kills, {SERVER_CRASHES} server crashes, longest recovery {longest:.2?}, {events} events, {tally:.2?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crash_of_everything_at_once_loses_nothing() {
    if !has_postgres() {
        return;
    }
    let mut up = Up::start().await;
    let (_, wallet) = up.wallet_with("all-at-once", "1.00").await;
    let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.25" });
    let key = "idempotency-key: before-the-crash\r\n";
    let before = up.as_admin("POST", "/v1/usage/holds", key, &body).await;
    assert_eq!(before.status, 201, "{before:?}");

    let server = up.postmaster().unwrap();
    kill_process(server, Signal::KILL).unwrap();
    up.kill();
    assert!(up.connect("").await.is_err(), "the killed service still answers");
    up.start_again();
    up.wait_until_ready(PATIENCE).await;
    assert_ne!(up.postmaster(), Some(server));

    let after = up.as_admin("POST", "/v1/usage/holds", key, &body).await;
    assert_eq!((after.status, after.header("idempotent-replayed"), &after.body), (201, Some("true"), &before.body));
    let path = format!("/v1/wallets/{wallet}?min_position={}", position(&after).unwrap());
    let wallet = up.as_admin("GET", &path, "", &Value::Null).await.json();
    assert_eq!((&wallet["balance_usd"], &wallet["held_usd"]), (&json!("1.00000000"), &json!("0.25000000")), "{wallet}");
    audit_up(&up).await;
    let demanded = "PostgreSQL and the service die at once, and the key is answered as before";
    report::fault("F4", &Figures { injected: 1, recoveries: &[], demanded, invariants: &["I1", "I2"] });
}

/// Sends until it is decided.
async fn send(connection: &mut Connection, key: &str, body: &Value) -> Answer {
    let began = Instant::now();
    loop {
        let answer =
            connection.json("POST", "/v1/usage/holds", &format!("idempotency-key: {key}\r\n"), body).await.unwrap();
        if answer.status < 500 {
            return answer;
        }
        assert!(answer.status == 503 && began.elapsed() < PATIENCE, "{answer:?}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// A thousand holds of the same amount over 64 connections against a wallet that can pay exactly 137 of them.
async fn exactly_so_many(up: &Up, addresses: &[String], user: &str) {
    const PAYABLE: usize = 137;
    let (_, wallet) = up.wallet_with(user, "1.37").await;
    let next = Arc::new(AtomicU64::new(0));
    let senders: Vec<_> = (0..64)
        .map(|number| {
            let (address, token, next) = (addresses[number % addresses.len()].clone(), up.admin(), Arc::clone(&next));
            let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.01" });
            let user = user.to_owned();
            tokio::spawn(async move {
                let mut connection = Connection::open(&address, &token).await.unwrap();
                let mut answers = Vec::new();
                loop {
                    let order = next.fetch_add(1, Ordering::Relaxed);
                    if order >= 1_000 {
                        return answers;
                    }
                    answers.push(send(&mut connection, &format!("{user}-{order}"), &body).await);
                }
            })
        })
        .collect();
    let mut statuses = BTreeMap::<(u16, String), usize>::new();
    let mut last = 0;
    for sender in senders {
        for answer in sender.await.unwrap() {
            last = last.max(position(&answer).unwrap_or(0));
            *statuses.entry((answer.status, answer.code())).or_default() += 1;
        }
    }
    let expected = [((201, String::new()), PAYABLE), ((402, "in_flight_holds".to_owned()), 1_000 - PAYABLE)];
    assert_eq!(statuses, BTreeMap::from(expected));
    let path = format!("/v1/wallets/{wallet}?min_position={last}");
    let wallet = up.as_admin("GET", &path, "", &Value::Null).await.json();
    let figures = ["balance_usd", "held_usd", "available_usd"].map(|name| wallet[name].as_str().unwrap_or_default());
    assert_eq!(figures, ["1.37000000", "1.37000000", "0.00000000"], "{wallet}");
}

/// 32 clients send one key at once, a third with another body: one effect, the same bytes for the same body, 422 for the others.
async fn one_key_many_senders(up: &mut Up, addresses: &[String]) {
    let (_, wallet) = up.wallet_with("one-key", "5.00").await;
    let body = |amount: &str| json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": amount });
    let start = Arc::new(tokio::sync::Barrier::new(32));
    let senders: Vec<_> = (0..32)
        .map(|number| {
            let body = body(if number % 3 == 0 { "0.02" } else { "0.01" });
            let (address, token, start) = (addresses[number % addresses.len()].clone(), up.admin(), Arc::clone(&start));
            tokio::spawn(async move {
                let mut connection = Connection::open(&address, &token).await.unwrap();
                start.wait().await;
                (body.clone(), send(&mut connection, "the-one-key", &body).await)
            })
        })
        .collect();
    let mut answers = Vec::new();
    for sender in senders {
        answers.push(sender.await.unwrap());
    }
    let (winner, first) = answers.iter().find(|(_, answer)| answer.status == 201).cloned().expect("one takes effect");
    let fresh = answers.iter().filter(|(_, a)| a.status == 201 && a.header("idempotent-replayed").is_none()).count();
    assert_eq!(fresh, 1, "one effect; the others are its repeats");
    for (body, answer) in &answers {
        if *body == winner {
            assert_eq!((answer.status, &answer.body), (201, &first.body));
        } else {
            assert_eq!((answer.status, answer.code().as_str()), (422, "idempotency_key_reused"));
        }
    }
    // The same after a restart.
    up.kill();
    up.start_again();
    up.wait_until_ready(PATIENCE).await;
    let key = "idempotency-key: the-one-key\r\n";
    let again = up.as_admin("POST", "/v1/usage/holds", key, &winner).await;
    assert_eq!((again.status, &again.body), (201, &first.body));
    let other = up.as_admin("POST", "/v1/usage/holds", key, &body("0.03")).await;
    assert_eq!((other.status, other.code().as_str()), (422, "idempotency_key_reused"));
}

#[tokio::test(flavor = "multi_thread")]
async fn two_instances_agree_on_every_winner() {
    if !has_postgres() {
        return;
    }
    let mut up = Up::start().await;
    exactly_so_many(&up, &[up.address()], "one-instance").await;
    let second = up.role("command", "ledger_command");
    second.wait_until_ready().await;
    let both = [up.address(), second.address()];
    exactly_so_many(&up, &both, "two-instances").await;
    one_key_many_senders(&mut up, &both).await;
    audit_up(&up).await;
    let demanded = "of a thousand holds at once, on one writer and on two, exactly as many as the wallet pays";
    report::fault("F17", &Figures { injected: 2, recoveries: &[], demanded, invariants: &["I5"] });
    let demanded = "of 32 senders of a key one takes effect, the same bytes for the same body, 422 for the others, also after a \
                    restart";
    report::fault("F18", &Figures { injected: 1, recoveries: &[], demanded, invariants: &["I2", "I3"] });
}

/// An append whose answer was lost, and which the database refuses for its time when it is sent again, does not keep the shard until that
/// time has come: whoever waits is told that nobody knows, and the same key brings it in once.
#[tokio::test(flavor = "multi_thread")]
async fn an_append_in_doubt_that_is_ahead_of_the_clock_is_given_up() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (_, wallet) = up.wallet_with("ahead", "0.01").await;
    let (client, connection) = up.database("postgres").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let waiting = async |other_than: i32| {
        let sql =
            "SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = 7304 AND NOT granted AND pid <> $1";
        let began = Instant::now();
        loop {
            if let Some(row) = client.query_opt(sql, &[&other_than]).await.unwrap() {
                return row.get::<_, i32>(0);
            }
            assert!(began.elapsed() < PATIENCE, "no append waits for the shard's lock");
        }
    };
    let credit = || {
        let (address, token) = (up.address(), up.admin());
        let path = format!("/v1/admin/wallets/{wallet}/credit-test-balance");
        tokio::spawn(async move {
            let mut connection = Connection::open(&address, &token).await.unwrap();
            let body = json!({ "amount_usd": "1.00" });
            connection.json("POST", &path, "idempotency-key: ahead\r\n", &body).await.unwrap()
        })
    };
    client.execute("SELECT pg_advisory_lock(7304, 0)", &[]).await.unwrap();
    let first = credit();
    let pid = waiting(0).await;
    // Everything that is sealed by now is too early, as by a clock that is ahead, whatever that clock says later.
    client
        .batch_execute(
            "DO $do$ BEGIN EXECUTE format('CREATE OR REPLACE FUNCTION ledger.refuse_future() RETURNS trigger LANGUAGE plpgsql AS $f$
             BEGIN
                 IF NEW.committed_at <= %L THEN RAISE EXCEPTION ''ahead'' USING ERRCODE = ''ML006''; END IF;
                 RETURN NEW;
             END $f$', clock_timestamp()); END $do$",
        )
        .await
        .unwrap();
    client.execute("SELECT pg_terminate_backend($1)", &[&pid]).await.unwrap();
    waiting(pid).await;
    client.execute("SELECT pg_advisory_unlock(7304, 0)", &[]).await.unwrap();
    let first = first.await.unwrap();
    assert_eq!((first.status, first.code().as_str()), (503, "in_doubt"), "{first:?}");
    let began = Instant::now();
    let second = loop {
        let again = credit().await.unwrap();
        if again.status == 200 {
            break again;
        }
        assert!(again.status == 503 && began.elapsed() < PATIENCE, "{again:?}");
    };
    assert_eq!(second.header("idempotent-replayed"), None, "the first one never came");
    let third = credit().await.unwrap();
    assert_eq!((third.status, third.header("idempotent-replayed")), (200, Some("true")));
    assert_eq!(third.body, second.body);
}

/// A writer dies while its append waits in the server. Another writer refuses the repeat of a command of that append; then the
/// append must not take effect any more: the client was told that nothing happened.
#[tokio::test(flavor = "multi_thread")]
async fn a_refused_repeat_stays_refused_when_the_dead_writers_append_comes_late() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (_, wallet) = up.wallet_with("late-append", "0.01").await;
    let mut doomed = up.role("command", "ledger_command");
    doomed.wait_until_ready().await;
    let connect = async || {
        let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    };
    let (first, second, watch) = (connect().await, connect().await, connect().await);
    let waiting = async |appends: i64| {
        let sql = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 7304 AND NOT granted";
        let began = Instant::now();
        while watch.query_one(sql, &[]).await.unwrap().get::<_, i64>(0) != appends {
            assert!(began.elapsed() < Duration::from_secs(5), "{appends} waiting for the shard's lock");
        }
    };
    let order = |key: &'static str, path: String, body: Value| {
        let (address, token) = (doomed.address(), up.admin());
        tokio::spawn(async move {
            let mut connection = Connection::open(&address, &token).await.unwrap();
            connection.json("POST", &path, &format!("idempotency-key: {key}\r\n"), &body).await
        })
    };
    let credit =
        |amount: &str| (format!("/v1/admin/wallets/{wallet}/credit-test-balance"), json!({ "amount_usd": amount }));
    let hold = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.50" });

    // An append waits for the lock, behind it we do, behind us the credit and the hold that it makes possible, in one batch.
    first.execute("SELECT pg_advisory_lock(7304, 0)", &[]).await.unwrap();
    let (path, body) = credit("0.02");
    let before = order("append-before", path, body);
    waiting(1).await;
    let lock = tokio::spawn(async move {
        second.execute("SELECT pg_advisory_lock(7304, 0)", &[]).await.unwrap();
        second
    });
    waiting(2).await;
    let (path, body) = credit("1.00");
    let _credit = order("late-credit", path, body);
    tokio::time::sleep(Duration::from_millis(50)).await;
    let _hold = order("late-hold", "/v1/usage/holds".into(), hold.clone());
    tokio::time::sleep(Duration::from_millis(50)).await;
    first.execute("SELECT pg_advisory_unlock(7304, 0)", &[]).await.unwrap();
    assert_eq!(before.await.unwrap().unwrap().status, 200);
    let second = lock.await.unwrap();
    waiting(1).await;
    doomed.kill().unwrap();

    let repeat = up.as_admin("POST", "/v1/usage/holds", "idempotency-key: late-hold\r\n", &hold).await;
    second.execute("SELECT pg_advisory_unlock(7304, 0)", &[]).await.unwrap();
    waiting(0).await;
    tokio::time::sleep(Duration::from_millis(200)).await;
    let again = up.as_admin("POST", "/v1/usage/holds", "idempotency-key: late-hold\r\n", &hold).await;
    if repeat.status == 402 {
        assert_ne!(
            again.header("idempotent-replayed"),
            Some("true"),
            "refused with {}, then {}",
            repeat.code(),
            again.status
        );
    } else if repeat.status != 503 {
        // 503 says that this request was never decided; the same key asks again.
        assert_eq!((repeat.status, &repeat.body), (again.status, &again.body), "{repeat:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_key_of_two_callers_is_two_keys() {
    if !has_postgres() {
        return;
    }
    let up = Up::start().await;
    let (session, wallet) = up.wallet_with("two-callers", "1.00").await;
    let key = "idempotency-key: shared-text\r\n";
    let body = json!({ "model": "gpt-4o-mini", "amount_usd": "0.01" });
    let mut user = up.connect(&session).await.unwrap();
    let users = user.json("POST", "/v1/usage/holds", key, &body).await.unwrap();
    let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.01" });
    let admins = up.as_admin("POST", "/v1/usage/holds", key, &body).await;
    assert_eq!((users.status, admins.status), (201, 201), "{users:?} {admins:?}");
    assert_ne!(users.json()["hold_id"], admins.json()["hold_id"]);
}
