//! A disk that is full, and a power cut: what was acknowledged is there afterwards. Both need file systems of their own, so both need
//! root; without it they say so and are skipped.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::fs::File;
use std::io::{ErrorKind, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::connection::Connection;
use modelfaucet_integration_tests::judge::{audit_up, check};
use modelfaucet_integration_tests::process::{Setting, Up, Volume, has_postgres};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::stopped::Stopped;
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Traffic};
use rustix::process::test_kill_process;
use tokio_postgres::{Client, NoTls};

/// How often the power is cut, unless `MODELFAUCET_POWER_CUTS` says otherwise.
const CUTS: usize = 2;

async fn on(volume: Volume) -> Up {
    Up::start_with(Setting { volume: Some(volume), ..Setting::default() }).await
}

async fn is_ready(up: &Up) -> bool {
    let mut visitor = Connection::open(&up.address(), "").await.unwrap();
    visitor.send("GET", "/ready", "", "", b"").await.unwrap().status == 200
}

/// Takes all the space that is left.
fn fill(ballast: &mut File) {
    let block = vec![0; 64 << 10];
    loop {
        match ballast.write(&block) {
            Ok(_) => {}
            Err(error) if error.kind() == ErrorKind::StorageFull => return,
            Err(error) => panic!("{error}"),
        }
    }
}

/// Fills the disk until the ledger says that it is not ready; returns the ballast and how long that took.
async fn fill_until_not_ready(up: &Up) -> (PathBuf, Duration) {
    let path = up.data_dir().join("ballast");
    let (mut ballast, began) = (File::create(&path).unwrap(), Instant::now());
    fill(&mut ballast);
    while is_ready(up).await {
        assert!(began.elapsed() < PATIENCE, "the disk is full and the ledger says that it is ready:\n{}", up.log());
        tokio::time::sleep(Duration::from_millis(20)).await;
        // What the server gives back is taken, too.
        fill(&mut ballast);
    }
    (path, began.elapsed())
}

fn server_log(up: &Up) -> String {
    std::fs::read_to_string(up.data_dir().join("postgres.log")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_stops_the_ledger_and_loses_nothing() {
    if !has_postgres() {
        return;
    }
    let Some(volume) = Volume::memory(160) else { return };
    let mut up = on(volume).await;
    let mut traffic = Traffic::start(Plan::of("disk-full", &up, &Dice::of_run()).await);
    traffic.more(100).await;
    // Tables cannot grow: the server refuses.
    traffic.fault("F10", "postgres", "disk full");
    let (ballast, deaf) = fill_until_not_ready(&up).await;
    let logs = up.log() + &server_log(&up);
    assert!(logs.contains("No space left on device"), "the fault is real:\n{logs}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(!is_ready(&up).await, "ready again without any space");
    let began = Instant::now();
    std::fs::remove_file(ballast).unwrap();
    up.wait_until_ready(PATIENCE).await;
    traffic.more(50).await;
    let served = began.elapsed();

    // Its write-ahead log cannot grow: it panics, and cannot start again.
    traffic.fault("F10", "postgres", "disk full, server panics");
    let (ballast, _) = fill_until_not_ready(&up).await;
    let server = up.postmaster().unwrap();
    let superuser = connect(&up, "postgres").await;
    let began = Instant::now();
    // Its last words have no space either, but it is gone.
    while test_kill_process(server).is_ok() {
        assert!(began.elapsed() < PATIENCE, "the server does not panic:\n{}", server_log(&up));
        let _broken = superuser.batch_execute("SELECT pg_switch_wal()").await;
        let _broken = superuser.batch_execute("SELECT txid_current()").await;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    let began = Instant::now();
    std::fs::remove_file(ballast).unwrap();
    up.wait_until_ready(PATIENCE).await;
    traffic.more(50).await;
    let recovered = began.elapsed();
    let (tally, histories) = traffic.stop().await;
    let events = check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit_up(&up).await;
    let demanded =
        "not ready while there is no space, also when the server panics over it; serving again once there is";
    let recoveries = [served, recovered];
    report::fault("F10", &Figures { injected: tally.made("F10"), recoveries: &recoveries, demanded, invariants: &[] });
    println!(
        "not ready {deaf:.2?} after the disk was full; serving {served:.2?} after there was space, {recovered:.2?} after a panic; {events} events, {tally:.2?}"
    );
}

/// What a disk has that loses its power now: the server is stopped where it is, and what has reached the image is copied. What it
/// only believes to have written, in the cache of the file system on the image, is not in the copy. `meanwhile` is asked before the
/// server goes on.
fn cut_power<T>(up: &Up, image: &Path, copy: &Path, meanwhile: impl FnOnce() -> T) -> T {
    let stopped = Stopped::server(up.postmaster().unwrap());
    let copied = Command::new("cp").arg("--sparse=always").args([image, copy]).status().unwrap();
    assert!(copied.success());
    let seen = meanwhile();
    drop(stopped);
    seen
}

async fn connect(up: &Up, role: &str) -> Client {
    let (client, connection) = up.database(role).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Every link of the chain.
async fn links(up: &Up) -> Vec<(i64, Vec<u8>)> {
    let sql = "SELECT last_pos, hash FROM ledger.batch ORDER BY last_pos";
    let rows = connect(up, "ledger_audit").await.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

/// How far two logs are the same.
fn common(one: &[(i64, Vec<u8>)], other: &[(i64, Vec<u8>)]) -> i64 {
    one.iter().zip(other).take_while(|(one, other)| one == other).last().map_or(0, |(link, _)| link.0)
}

/// Commits that are acknowledged before they are on disk, one after the other; the last acknowledged one.
async fn careless(up: &Up) -> i64 {
    let client = connect(up, "postgres").await;
    client.batch_execute("SET synchronous_commit = off; CREATE TABLE public.careless (n bigint)").await.unwrap();
    let (began, mut acknowledged) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_millis(700) {
        client.execute("INSERT INTO public.careless VALUES ($1)", &[&(acknowledged + 1)]).await.unwrap();
        acknowledged += 1;
    }
    acknowledged
}

#[tokio::test(flavor = "multi_thread")]
async fn a_power_cut_takes_nothing_that_was_acknowledged() {
    if !has_postgres() {
        return;
    }
    let cuts = std::env::var("MODELFAUCET_POWER_CUTS").ok().and_then(|cuts| cuts.parse().ok()).unwrap_or(CUTS);
    let folder = tempfile::tempdir().unwrap();
    let image = folder.path().join("disk");
    let mut dice = Dice::of_run();
    let Some(volume) = Volume::image(&image, 512) else { return };
    let up = on(volume).await;
    let mut traffic = Traffic::start(Plan::of("power-cut", &up, &dice).await);
    let mut copies: Vec<(PathBuf, i64)> = Vec::new();
    for number in 0..cuts {
        traffic.more(dice.between(100, 400)).await;
        traffic.fault("F28", "everything", "power cut");
        let copy = folder.path().join(format!("copy-{number}"));
        let acknowledged = tokio::task::block_in_place(|| cut_power(&up, &image, &copy, || traffic.acknowledged()));
        copies.push((copy, acknowledged));
    }
    let (tally, histories) = traffic.stop().await;
    check(&up.database("ledger_audit"), &histories).await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    audit_up(&up).await;
    // The same fault on commits that do not wait for the disk: it does take something.
    let copy = folder.path().join("careless");
    let careless = careless(&up).await;
    tokio::task::block_in_place(|| cut_power(&up, &image, &copy, || ()));

    let whole = links(&up).await;
    drop(up);
    let mut kept = Vec::new();
    for (copy, acknowledged) in copies {
        let restored = on(Volume::Image(copy)).await;
        // Behind what it has of the log the restored ledger has begun its own: it lets holds expire.
        let end = common(&links(&restored).await, &whole);
        assert!(end >= acknowledged, "I1: position {acknowledged} was acknowledged, the power cut left {end}");
        audit_up(&restored).await;
        kept.push(end - acknowledged);
    }
    let restored = on(Volume::Image(copy)).await;
    let sql = "SELECT coalesce(max(n), 0) FROM public.careless";
    let left: i64 = match connect(&restored, "postgres").await.query_one(sql, &[]).await {
        Ok(row) => row.get(0),
        // Not even the table.
        Err(_) => 0,
    };
    assert!(left < careless, "the fault is real: of {careless} careless commits {left} are left");
    let demanded =
        "nothing that was acknowledged is missing from the copy of the disk; commits that do not wait for it are lost";
    report::fault("F28", &Figures { injected: tally.made("F28"), recoveries: &[], demanded, invariants: &["I1"] });
    println!(
        "{cuts} power cuts, {kept:?} events more than acknowledged; {} of {careless} careless commits lost",
        careless - left
    );
}
