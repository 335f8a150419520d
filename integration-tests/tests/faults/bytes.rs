//! F15: bytes on the disk are not what was written. The server's checksums, the verifier or the writer says so; nothing goes on in
//! silence.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, Instant};

use modelfaucet_integration_tests::judge::audit_up;
use modelfaucet_integration_tests::process::{Up, has_postgres, url};
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_integration_tests::traffic::{Dice, PATIENCE, Plan, Traffic, until};
use rustix::process::test_kill_process;
use serde_json::json;
use tokio_postgres::{Client, NoTls};

use super::asked_for;

/// Bits flipped in tables and indexes, unless `MODELFAUCET_FLIPS` says otherwise.
const FLIPS: u64 = 3;
/// What a page of the server is.
const PAGE: u64 = 8_192;
/// What is damaged: what the log is, what finds it, and what is read.
const TABLES: &[(&str, &str)] = &[
    ("ledger", "event_s00_00000"),
    ("ledger", "batch_s00"),
    ("p_wallets_v1", "%"),
    ("ledger", "idempotency_s00"),
    ("ledger", "event_s00_00000_pkey"),
    ("ledger", "batch_s00_pkey"),
];
/// The largest relation of a schema with such a name, and its file.
const RELATION: &str = "SELECT c.oid::regclass::text, pg_relation_filepath(c.oid) FROM pg_class c
                        WHERE c.relnamespace = $1::text::regnamespace AND c.relname LIKE $2 AND c.relkind IN ('r', 'i')
                        ORDER BY pg_relation_size(c.oid) DESC LIMIT 1";

async fn superuser(up: &Up) -> Client {
    let mut session = None;
    until("the server accepts", async || {
        if let Ok((client, connection)) = up.database("postgres").connect(NoTls).await {
            tokio::spawn(connection);
            session = Some(client);
        }
        session.is_some()
    })
    .await;
    session.unwrap()
}

/// Ends the server, and waits for the next one: what it had in memory is gone.
async fn forget(up: &Up) {
    let server = up.postmaster().unwrap();
    assert!(up.crash_postgres());
    until("another server", async || {
        test_kill_process(server).is_err() && up.postmaster().is_some_and(|pid| pid != server)
    })
    .await;
    drop(superuser(up).await);
}

async fn head(client: &Client) -> i64 {
    client.query_one("SELECT position FROM ledger.head WHERE shard = 0", &[]).await.unwrap().get(0)
}

/// Turns one bit of one byte.
fn flip(path: &Path, at: u64, bit: u64) {
    let file = OpenOptions::new().read(true).write(true).open(path).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    byte[0] ^= 1 << bit;
    file.write_all_at(&byte, at).unwrap();
    file.sync_all().unwrap();
}

fn verify(up: &Up) -> Output {
    up.run(&["verify", "--json", "--quiet", "--database-url", &url(&up.database("ledger_audit"))])
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

/// Reads every page of a relation, as `pg_dump` and any reader would.
async fn read_all(client: &Client, table: &str) -> Result<i64, String> {
    let sql = format!(
        "SELECT count(get_raw_page('{table}', number)) FROM generate_series(0, pg_relation_size('{table}')::int / 8192 - 1) number"
    );
    let read = client.query_one(&sql, &[]).await;
    read.map(|row| row.get(0))
        .map_err(|error| error.as_db_error().map_or_else(|| error.to_string(), ToString::to_string))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_a_table_is_reported() {
    if !has_postgres() {
        return;
    }
    let (flips, mut dice) = (asked_for("MODELFAUCET_FLIPS", FLIPS), Dice::of_run());
    let up = Up::start().await;
    let mut traffic = Traffic::start(Plan::of("bytes", &up, &dice).await);
    traffic.more(300).await;
    traffic.fault("F15", "postgres", "bits of tables are flipped");
    let (tally, _) = traffic.stop().await;
    assert!(tally.odd.is_empty(), "{:#?}", tally.odd);
    let client = superuser(&up).await;
    // What is written after the damage would heal it when the server recovers: holds that were left alone expire first.
    until("nothing is written any more", async || {
        let before = head(&client).await;
        tokio::time::sleep(Duration::from_millis(1_200)).await;
        head(&client).await == before
    })
    .await;
    let checksums: String = client.query_one("SHOW data_checksums", &[]).await.unwrap().get(0);
    assert_eq!(checksums, "on");
    drop(client);
    let (mut by_verify, mut by_server) = (0, 0);
    for flipped in 0..flips {
        let (schema, name) = TABLES[usize::try_from(flipped).unwrap() % TABLES.len()];
        let client = superuser(&up).await;
        client.batch_execute("CREATE EXTENSION IF NOT EXISTS pageinspect; CHECKPOINT").await.unwrap();
        let row = client.query_one(RELATION, &[&schema, &name]).await.unwrap();
        let table: String = row.get(0);
        let path: PathBuf = up.data_dir().join("postgres").join(row.get::<_, String>(1));
        let size = File::open(&path).unwrap().metadata().unwrap().len();
        assert!(size >= PAGE, "{table} has something in it");
        let (at, bit) = (dice.between(0, size), dice.between(0, 8));
        drop(client);
        flip(&path, at, bit);
        forget(&up).await;
        let client = superuser(&up).await;
        let said = read_all(&client, &table).await;
        assert!(said.as_ref().is_err_and(|error| error.contains("invalid page")), "{table} at byte {at}: {said:?}");
        by_server += 1;
        // What is read in order is read by the verifier, too; indexes need not be.
        let verified = verify(&up);
        if !table.ends_with("pkey") {
            assert!(!verified.status.success(), "{table} at byte {at}: {}", text(&verified));
        }
        by_verify += u64::from(!verified.status.success());
        drop(client);
        flip(&path, at, bit);
        forget(&up).await;
        let verified = verify(&up);
        assert!(verified.status.success(), "put back, and {table} is as it was: {}", text(&verified));
    }
    let demanded = "each flipped bit of the log and of a read table is refused by the server or reported by verify, none is read in silence";
    report::fault("F15", &Figures { injected: flips, recoveries: &[], demanded, invariants: &["I7"] });
    println!("{flips} bits: the server refused {by_server} of them, `verify` reported {by_verify}");
}

/// Where the next record of the write-ahead log will be: its file, and the place in it.
async fn end_of_wal(up: &Up, client: &Client) -> (PathBuf, u64) {
    let sql = "SELECT file_name, file_offset FROM pg_walfile_name_offset(pg_current_wal_insert_lsn())";
    let row = client.query_one(sql, &[]).await.unwrap();
    let offset = u64::try_from(row.get::<_, i32>(1)).unwrap();
    (up.data_dir().join("postgres/pg_wal").join(row.get::<_, String>(0)), offset)
}

/// A server that recovers takes a damaged record for the end of its log: what was acknowledged behind it is gone without a word of
/// its own.
#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_bit_in_the_write_ahead_log_is_reported() {
    if !has_postgres() {
        return;
    }
    for everything_dies in [false, true] {
        // While the service lives it knows what it has acknowledged. Else only a book of heads outside of the database does.
        let outside = tempfile::tempdir().unwrap();
        let mut up = Up::start_with_variables(&[("BACKUP_DIR", outside.path().to_str().unwrap())]).await;
        let (_, wallet) = up.wallet_with("wal", "5.00").await;
        audit_up(&up).await;
        let client = superuser(&up).await;
        client.batch_execute("CHECKPOINT").await.unwrap();
        let (file, offset) = end_of_wal(&up, &client).await;
        let body = json!({ "wallet_id": wallet, "model": "gpt-4o-mini", "amount_usd": "0.25" });
        for number in 0..20 {
            let key = format!("idempotency-key: wal-{number}\r\n");
            let placed = up.as_admin("POST", "/v1/usage/holds", &key, &body).await;
            assert_eq!(placed.status, 201, "{placed:?}");
        }
        let acknowledged = head(&client).await;
        drop(client);
        until("the head is witnessed", async || {
            let book = std::fs::read_to_string(outside.path().join("heads/s00.heads")).unwrap_or_default();
            book.lines().any(|line| line.split(' ').nth(2) == Some(acknowledged.to_string().as_str()))
        })
        .await;
        let server = up.postmaster().unwrap();
        if everything_dies {
            rustix::process::kill_process(server, rustix::process::Signal::KILL).unwrap();
            up.kill();
            flip(&file, offset + 30, 3);
            up.start_again();
        } else {
            // The supervisor waits a moment before it starts another server.
            assert!(up.crash_postgres());
            flip(&file, offset + 30, 3);
        }
        // It must not go on as if nothing had been lost.
        let began = Instant::now();
        let ended = loop {
            if let Some(status) = up.ended() {
                break status;
            }
            assert!(began.elapsed() < PATIENCE, "it goes on in silence; its log:\n{}", up.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        };
        let log = up.log();
        assert!(!ended.success() && log.contains(&acknowledged.to_string()), "{ended}, {acknowledged}:\n{log}");
        let last: Vec<&str> = log.lines().rev().take(2).collect();
        println!("everything died: {everything_dies}; {ended}; {last:#?}");
    }
    let demanded = "a write-ahead log that was cut by a flipped bit is noticed by whoever knows more of the log, and nobody writes on";
    report::fault("F15", &Figures { injected: 2, recoveries: &[], demanded, invariants: &["I1", "I7"] });
}
