//! What this machine can do with nothing of a ledger in the way: the ceilings that our own figures stand beside.
//!
//! `append` inserts batches of rows with the columns of the log, on one connection; `ledger` does so with the log's own function,
//! hash chain included. `serve` is the smallest group commit behind
//! HTTP: one task appends whatever has gathered and answers after the commit; it checks nothing and keeps no balance. Both run
//! on the server, and with the durability, that the ledger uses in the same run.

use std::future::IntoFuture as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::post;
use axum::{Json, Router};
use clap::{Parser, Subcommand};
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_schema::event::{KeyUse, StoredEvent};
use modelfaucet_schema::ids::{BatchId, ShardId, StreamId, StreamKind};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::{AppendBatch, LogAppender, LogReader};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::{Client, NoTls, Statement};
use uuid::Uuid;

type Error = Box<dyn std::error::Error + Send + Sync>;

/// A stored call of the usual size.
const PAYLOAD: &[u8] = include_bytes!("../../../schema/events/UsageRecorded.v1.json");
/// Rows per append at the most, for `serve`.
const MOST: usize = 1_000;

const TABLES: &str = "
    DROP SCHEMA IF EXISTS yardstick CASCADE;
    CREATE SCHEMA yardstick;
    CREATE TABLE yardstick.event (
        shard smallint NOT NULL, position bigint NOT NULL, stream text NOT NULL, stream_seq bigint NOT NULL, type text NOT NULL,
        version smallint NOT NULL, recorded_at timestamptz NOT NULL, actor text NOT NULL, request_id text NOT NULL,
        key uuid, fingerprint uuid, payload bytea NOT NULL, PRIMARY KEY (shard, position));
    ALTER TABLE yardstick.event ALTER COLUMN payload SET STORAGE EXTERNAL;
    CREATE TABLE yardstick.idempotency (
        shard smallint NOT NULL, key uuid NOT NULL, position bigint NOT NULL, PRIMARY KEY (shard, key));";
const INSERT: &str = "
    WITH rows AS (
        SELECT * FROM unnest($1::bigint[], $2::text[], $3::bigint[], $4::uuid[], $5::bytea[])
                      AS row (position, stream, stream_seq, key, payload)
    ), keys AS (
        INSERT INTO yardstick.idempotency SELECT 0, key, position FROM rows
    )
    INSERT INTO yardstick.event
    SELECT 0, position, stream, stream_seq, 'UsageRecorded', 1, now(), 'admin', 'req_AZq2ZEKudSyHY0XxGqOVvg', key, key, payload
    FROM rows";

/// Measures what the machine can do without a ledger.
#[derive(Parser)]
struct Args {
    /// How to connect as a superuser; the schema `yardstick` is made anew.
    #[arg(long)]
    database: String,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// Batches of rows on one connection; prints one line of JSON.
    Append {
        #[arg(long, default_value_t = 1_000)]
        rows: usize,
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// The same through `ledger.append()`, in a database of its own; prints one line of JSON.
    Ledger {
        #[arg(long, default_value_t = 1_000)]
        rows: usize,
        #[arg(long, default_value_t = 10.0)]
        seconds: f64,
    },
    /// `POST /v1/usage` on a bare group commit, until it is ended.
    Serve {
        #[arg(long, default_value = "127.0.0.1:18080")]
        listen: String,
    },
}

/// Rows by column.
#[derive(Default)]
struct Rows {
    positions: Vec<i64>,
    streams: Vec<String>,
    seqs: Vec<i64>,
    keys: Vec<Uuid>,
    payloads: Vec<Vec<u8>>,
}

impl Rows {
    fn push(&mut self, position: i64, wallet: Uuid, key: Uuid, payload: Vec<u8>) {
        self.positions.push(position);
        self.streams.push(format!("wallet:{wallet}"));
        self.seqs.push(position);
        self.keys.push(key);
        self.payloads.push(payload);
    }

    async fn insert(&self, client: &Client, statement: &Statement) -> Result<u64, tokio_postgres::Error> {
        client.execute(statement, &[&self.positions, &self.streams, &self.seqs, &self.keys, &self.payloads]).await
    }
}

async fn connect(database: &str) -> Result<(Client, Statement), Error> {
    let (client, connection) = tokio_postgres::connect(database, NoTls).await?;
    tokio::spawn(connection);
    client.batch_execute(TABLES).await?;
    client.batch_execute("SET plan_cache_mode = force_generic_plan").await?;
    let statement = client.prepare(INSERT).await?;
    Ok((client, statement))
}

async fn append(database: &str, rows: usize, seconds: f64) -> Result<(), Error> {
    let (client, statement) = connect(database).await?;
    let wallets: Vec<Uuid> = (0..200).map(|_| Uuid::now_v7()).collect();
    let (begun, mut position, mut most) = (Instant::now(), 0, Duration::ZERO);
    while begun.elapsed().as_secs_f64() < seconds {
        let mut batch = Rows::default();
        for wallet in wallets.iter().cycle().take(rows) {
            position += 1;
            batch.push(position, *wallet, Uuid::new_v4(), PAYLOAD.to_vec());
        }
        let sent = Instant::now();
        batch.insert(&client, &statement).await?;
        most = most.max(sent.elapsed());
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = position as f64 / begun.elapsed().as_secs_f64();
    let line =
        serde_json::json!({ "rows_per_batch": rows, "rows_per_second": rate.round(), "longest_ms": most.as_millis() });
    println!("{line}");
    Ok(())
}

/// Seals and appends batches of the usual events.
async fn ledger(database: &str, rows: usize, seconds: f64) -> Result<(), Error> {
    let database = TestDatabase::create_on(database.parse()?).await;
    let appender = LogAppender::prepare(Arc::new(database.connect_as(ServiceRole::Command).await)).await?;
    let reader = LogReader::prepare(Arc::new(database.connect_as(ServiceRole::Command).await)).await?;
    let shard = ShardId(0);
    let (_, mut head) = reader.head(shard).await?;
    let wallets: Vec<StreamId> = (0..200).map(|_| StreamId::new(StreamKind::Wallet, Uuid::now_v7())).collect();
    let begun = Instant::now();
    while begun.elapsed().as_secs_f64() < seconds {
        let now = Timestamp::now();
        let events = (1..=rows).zip(wallets.iter().cycle()).map(|(place, stream)| StoredEvent {
            shard,
            position: head.position.plus(place),
            stream: stream.to_string(),
            stream_seq: head.position.plus(place).0,
            name: "UsageRecorded".into(),
            version: 1,
            recorded_at: now,
            actor: "admin".into(),
            request_id: "req_AZq2ZEKudSyHY0XxGqOVvg".into(),
            key: Some(KeyUse { key: Uuid::new_v4(), fingerprint: Uuid::new_v4() }),
            payload: PAYLOAD.to_vec(),
        });
        let batch = AppendBatch::seal(shard, head, BatchId::generate(), now, events.collect());
        appender.append(&batch).await?;
        head = batch.head();
    }
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let rate = head.position.0 as f64 / begun.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({ "rows_per_batch": rows, "rows_per_second": rate.round() }));
    database.remove().await;
    Ok(())
}

#[derive(Deserialize)]
struct Call {
    wallet_id: Uuid,
    #[expect(dead_code, reason = "parsed as the ledger does, stored as it came")]
    model: String,
    #[expect(dead_code, reason = "as above")]
    usage: Box<RawValue>,
}

#[derive(Serialize)]
struct Reply {
    wallet_id: Uuid,
    position: i64,
}

struct Job {
    wallet: Uuid,
    payload: Vec<u8>,
    reply: oneshot::Sender<i64>,
}

async fn record(State(jobs): State<mpsc::Sender<Job>>, body: axum::body::Bytes) -> Result<Json<Reply>, StatusCode> {
    let call: Call = serde_json::from_slice(&body).map_err(|_| StatusCode::BAD_REQUEST)?;
    let (reply, answer) = oneshot::channel();
    let job = Job { wallet: call.wallet_id, payload: body.to_vec(), reply };
    jobs.send(job).await.map_err(|_| StatusCode::SERVICE_UNAVAILABLE)?;
    let position = answer.await.map_err(|_| StatusCode::INTERNAL_SERVER_ERROR)?;
    Ok(Json(Reply { wallet_id: call.wallet_id, position }))
}

async fn write(database: String, mut jobs: mpsc::Receiver<Job>) -> Result<(), Error> {
    let (client, statement) = connect(&database).await?;
    let (mut taken, mut position) = (Vec::with_capacity(MOST), 0);
    while jobs.recv_many(&mut taken, MOST).await > 0 {
        let (mut batch, mut replies) = (Rows::default(), Vec::with_capacity(taken.len()));
        for job in taken.drain(..) {
            position += 1;
            batch.push(position, job.wallet, Uuid::new_v4(), job.payload);
            replies.push((job.reply, position));
        }
        batch.insert(&client, &statement).await?;
        for (reply, position) in replies {
            let _gone = reply.send(position);
        }
    }
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    match args.what {
        What::Append { rows, seconds } => append(&args.database, rows, seconds).await,
        What::Ledger { rows, seconds } => ledger(&args.database, rows, seconds).await,
        What::Serve { listen } => {
            let (jobs, inbox) = mpsc::channel(8_192);
            let writing = tokio::spawn(write(args.database, inbox));
            let router = Router::new().route("/v1/usage", post(record)).with_state(jobs);
            let listener = tokio::net::TcpListener::bind(&listen).await?;
            println!("listening on {listen}");
            tokio::select! {
                served = axum::serve(listener, router).into_future() => Ok(served?),
                written = writing => written?,
            }
        }
    }
}

/// As the product's binary has it.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;
