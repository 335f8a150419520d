//! The contract of `ledger.append()`: it follows exactly the head that a batch was sealed behind, takes a batch once and a key once,
//! refuses what no reader could take in, and costs one round trip.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_schema::event::{KeyUse, StoredEvent};
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{BatchId, Position, ShardId};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::{
    AppendBatch, AppendError, Appended, Head, LogAppender, LogReader, MAX_BATCH_EVENTS, from_system_time,
};
use modelfaucet_schema::time::Timestamp;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio_postgres::config::Host;
use tokio_postgres::{Config, NoTls};
use uuid::Uuid;

/// Events that say nothing, behind a head.
fn events(previous: Head, id: BatchId, sequence: i64, count: usize) -> AppendBatch {
    events_at(Timestamp::now(), previous, id, sequence, count)
}

fn events_at(at: Timestamp, previous: Head, id: BatchId, sequence: i64, count: usize) -> AppendBatch {
    let event = |number: usize| StoredEvent {
        shard: ShardId(0),
        position: previous.position.plus(number + 1),
        stream: "shard:00000000-0000-0000-0000-000000000000".into(),
        stream_seq: sequence + i64::try_from(number).unwrap(),
        name: "Frozen".into(),
        version: 1,
        recorded_at: at,
        actor: "admin".into(),
        request_id: "r".into(),
        key: None,
        payload: br#"{"scope":{"kind":"payouts"},"reason":"drill"}"#.to_vec(),
    };
    AppendBatch::seal(ShardId(0), previous, id, at, (0..count).map(event).collect())
}

fn one_event(previous: Head, id: BatchId, sequence: i64) -> AppendBatch {
    events(previous, id, sequence, 1)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_follows_exactly_the_head_that_it_was_sealed_behind() {
    let Some(database) = TestDatabase::create().await else { return };
    let client = Arc::new(database.connect_as(ServiceRole::Command).await);
    let reader = LogReader::prepare(Arc::clone(&client)).await.unwrap();
    let appender = LogAppender::prepare(client).await.unwrap();
    let (_, start) = reader.head(ShardId(0)).await.unwrap();
    let first = one_event(start, BatchId::generate(), 1);
    assert!(matches!(appender.append(&first).await, Ok(Appended::Now)));
    assert!(matches!(appender.append(&first).await, Ok(Appended::Already)));
    let head = first.head();
    let elsewhere = [
        ("an older head", start),
        ("a position that is too low", Head { position: start.position, ..head }),
        ("a position that is too high", Head { position: Position(head.position.0 + 1), ..head }),
        ("another hash", Head { hash: ChainHash([7; 32]), ..head }),
    ];
    for (what, previous) in elsewhere {
        let refused = appender.append(&one_event(previous, BatchId::generate(), 2)).await;
        assert!(matches!(refused, Err(AppendError::HeadMoved)), "{what}: {refused:?}");
    }
    assert_eq!(reader.head(ShardId(0)).await.unwrap().1, head, "nothing of it was written");
    // Of two that race for one place, one gets it.
    let other = LogAppender::prepare(Arc::new(database.connect_as(ServiceRole::Command).await)).await.unwrap();
    let (left, right) = (one_event(head, BatchId::generate(), 2), one_event(head, BatchId::generate(), 2));
    let (left, right) = tokio::join!(appender.append(&left), other.append(&right));
    assert_eq!([left.is_ok(), right.is_ok()].iter().filter(|won| **won).count(), 1, "{left:?} {right:?}");
}

/// One event for each of these keys.
fn keyed(previous: Head, sequence: i64, keys: &[u128]) -> AppendBatch {
    let id = BatchId::generate();
    let plain = events(previous, id, sequence, keys.len());
    let (mut events, at) = (plain.events().to_vec(), plain.recorded_at());
    for (event, key) in events.iter_mut().zip(keys) {
        event.key = Some(KeyUse { key: Uuid::from_u128(*key), fingerprint: Uuid::from_u128(1) });
    }
    AppendBatch::seal(ShardId(0), previous, id, at, events)
}

/// Whatever a writer remembers: the log itself takes a key once, and a batch with a used one leaves nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_used_once() {
    let Some(database) = TestDatabase::create().await else { return };
    let client = Arc::new(database.connect_as(ServiceRole::Command).await);
    let reader = LogReader::prepare_with_keys(Arc::clone(&client)).await.unwrap();
    let appender = LogAppender::prepare(client).await.unwrap();
    let (_, start) = reader.head(ShardId(0)).await.unwrap();
    let first = keyed(start, 1, &[7, 8]);
    assert!(matches!(appender.append(&first).await, Ok(Appended::Now)));
    let head = first.head();
    for keys in [&[7][..], &[9, 8], &[9, 9]] {
        let refused = appender.append(&keyed(head, 3, keys)).await;
        assert!(matches!(refused, Err(AppendError::KeysUsed)), "the used keys {keys:?}: {refused:?}");
    }
    assert_eq!(reader.head(ShardId(0)).await.unwrap().1, head, "nothing of it was written");
    let keys = [7, 8, 9].map(Uuid::from_u128);
    let found = reader.keys(ShardId(0), &keys).await.unwrap();
    let places = keys.map(|key| found.get(&key).map(|recorded| recorded.position));
    assert_eq!(places, [Some(Position(1)), Some(Position(2)), None]);
    // What was refused has not used its keys up.
    assert!(matches!(appender.append(&keyed(head, 3, &[9])).await, Ok(Appended::Now)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_ahead_does_not_move_the_logs_time() {
    let Some(database) = TestDatabase::create().await else { return };
    let client = Arc::new(database.connect_as(ServiceRole::Command).await);
    let reader = LogReader::prepare(Arc::clone(&client)).await.unwrap();
    let appender = LogAppender::prepare(client).await.unwrap();
    let (_, start) = reader.head(ShardId(0)).await.unwrap();
    let later = |seconds| Timestamp::now().plus(Duration::from_secs(seconds));
    for seconds in [70, 3_600, 3 * 86_400] {
        let refused = appender.append(&events_at(later(seconds), start, BatchId::generate(), 1, 1)).await.unwrap_err();
        assert!(matches!(refused, AppendError::Refused(_)) && refused.to_string().contains("ahead"), "{refused}");
    }
    assert_eq!(reader.head(ShardId(0)).await.unwrap().1, start, "nothing of it was written");
    // Machines are never quite together; and the past is fine, as for what is recovered.
    let near = events_at(later(30), start, BatchId::generate(), 1, 1);
    assert!(matches!(appender.append(&near).await, Ok(Appended::Now)));
    let past = events_at(Timestamp::from_micros(0), near.head(), BatchId::generate(), 2, 1);
    assert!(matches!(appender.append(&past).await, Ok(Appended::Now)));
    // The database's clock was set back: what moves no time goes on.
    let ahead = "UPDATE ledger.batch SET committed_at = clock_timestamp() + interval '1 hour' WHERE last_pos = 2";
    let superuser = database.connect().await;
    superuser
        .batch_execute(&format!(
            "SET session_replication_role = replica; ALTER TABLE ledger.batch DISABLE TRIGGER append_only; {ahead}"
        ))
        .await
        .unwrap();
    let at: std::time::SystemTime =
        superuser.query_one("SELECT committed_at FROM ledger.batch WHERE last_pos = 2", &[]).await.unwrap().get(0);
    let same = events_at(from_system_time(at), past.head(), BatchId::generate(), 3, 1);
    assert!(matches!(appender.append(&same).await, Ok(Appended::Now)));
    let forward = events_at(from_system_time(at).plus(Duration::from_secs(1)), same.head(), BatchId::generate(), 4, 1);
    assert!(matches!(appender.append(&forward).await, Err(AppendError::Refused(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_no_reader_could_take_in_is_refused() {
    let Some(database) = TestDatabase::create().await else { return };
    let client = Arc::new(database.connect_as(ServiceRole::Command).await);
    let reader = LogReader::prepare(Arc::clone(&client)).await.unwrap();
    let appender = LogAppender::prepare(client).await.unwrap();
    let (_, start) = reader.head(ShardId(0)).await.unwrap();
    for size in [0, MAX_BATCH_EVENTS + 1] {
        let refused = appender.append(&events(start, BatchId::generate(), 1, size)).await;
        assert!(matches!(refused, Err(AppendError::Refused(_))), "{size} events: {refused:?}");
    }
    let largest = events(start, BatchId::generate(), 1, MAX_BATCH_EVENTS);
    assert!(matches!(appender.append(&largest).await, Ok(Appended::Now)));
    let page = reader.page(ShardId(0), start, 1).await.unwrap();
    assert_eq!((page.events.len(), page.head), (MAX_BATCH_EVENTS, largest.head()), "and read again as a whole");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_partition_is_named_and_can_be_made() {
    let Some(database) = TestDatabase::create().await else { return };
    let client = Arc::new(database.connect_as(ServiceRole::Command).await);
    let reader = LogReader::prepare(Arc::clone(&client)).await.unwrap();
    let appender = LogAppender::prepare(Arc::clone(&client)).await.unwrap();
    let size: i64 = client.query_one("SELECT ledger.partition_size()", &[]).await.unwrap().get(0);
    let (_, start) = reader.head(ShardId(0)).await.unwrap();
    // As if the first partition were full.
    let end = Head { position: Position(size), hash: start.hash };
    let superuser = database.connect().await;
    let sql = "INSERT INTO ledger.batch VALUES (0, $1, $1, gen_random_uuid(), $2, $2, now())";
    superuser.execute(sql, &[&size, &start.hash.0.as_slice()]).await.unwrap();
    let next = one_event(end, BatchId::generate(), 1);
    let missing = appender.append(&next).await;
    assert!(matches!(missing, Err(AppendError::NoPartition)), "{missing:?}");
    assert_eq!(reader.head(ShardId(0)).await.unwrap().1, end, "nothing of it was written");
    appender.ensure_partition(ShardId(0), next.head().position).await.unwrap();
    assert!(matches!(appender.append(&next).await, Ok(Appended::Now)));
}

/// Passes bytes on between a client and the server, and counts how often the server said that it was ready for more: once per
/// round trip.
fn counting(server: &Config, folder: &std::path::Path) -> (Config, Arc<AtomicU64>) {
    let [Host::Unix(directory)] = server.get_hosts() else { panic!("a server on a Unix socket") };
    let target = directory.join(format!(".s.PGSQL.{}", server.get_ports().first().copied().unwrap_or(5432)));
    let listener = UnixListener::bind(folder.join(".s.PGSQL.5432")).unwrap();
    let count = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&count);
    tokio::spawn(async move {
        let (client, _) = listener.accept().await.unwrap();
        let (mut from_client, mut to_client) = client.into_split();
        let (mut from_server, mut to_server) = UnixStream::connect(target).await.unwrap().into_split();
        tokio::spawn(async move { tokio::io::copy(&mut from_client, &mut to_server).await });
        loop {
            let mut head = [0; 5];
            if from_server.read_exact(&mut head).await.is_err() {
                return;
            }
            let length = u32::from_be_bytes([head[1], head[2], head[3], head[4]]);
            let mut body = vec![0; usize::try_from(length).unwrap() - 4];
            from_server.read_exact(&mut body).await.unwrap();
            counted.fetch_add(u64::from(head[0] == b'Z'), Ordering::SeqCst);
            if to_client.write_all(&[&head[..], &body].concat()).await.is_err() {
                return;
            }
        }
    });
    let mut config = Config::new();
    config.host_path(folder).user(ServiceRole::Command.name()).dbname(server.get_dbname().unwrap());
    (config, count)
}

#[tokio::test(flavor = "multi_thread")]
async fn an_append_is_one_round_trip_however_large() {
    let Some(database) = TestDatabase::create().await else { return };
    if std::env::var_os("MODELFAUCET_TEST_DATABASE_URL").is_some() {
        eprintln!("skipped: the server may not be on a Unix socket");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let (config, trips) = counting(&database.role(ServiceRole::Command), folder.path());
    let (client, connection) = config.connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    let client = Arc::new(client);
    let (_, mut head) = LogReader::prepare(Arc::clone(&client)).await.unwrap().head(ShardId(0)).await.unwrap();
    let appender = LogAppender::prepare(client).await.unwrap();
    let mut sequence = 1;
    for size in [1, 10, 1_000] {
        let batch = events(head, BatchId::generate(), sequence, size);
        let before = trips.load(Ordering::SeqCst);
        assert!(matches!(appender.append(&batch).await, Ok(Appended::Now)));
        assert_eq!(trips.load(Ordering::SeqCst) - before, 1, "round trips for {size} events");
        head = batch.head();
        sequence += i64::try_from(size).unwrap();
    }
}
