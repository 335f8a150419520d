//! HTTP load on a running ledger: a closed loop for the most it can do, an open loop for honest latencies.
//!
//! An open loop fixes the arrival times in advance and counts latency from the planned time, so a server that stalls is charged
//! for every request that should have been sent meanwhile. The client is a few lines on raw TCP, because it shares the cores with
//! what it measures. One line of JSON per run.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::{Parser, ValueEnum};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

type Error = Box<dyn std::error::Error + Send + Sync>;

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// One `POST /v1/usage` per request.
    Usage,
    /// A hold, then its capture: two requests.
    HoldCapture,
    /// `POST /v1/usage/batch` with `--items` items per request.
    Batch,
    /// `GET /health`: the HTTP stack alone.
    Health,
    /// One chat completion through the gateway, each connection with a session of its own; with `--bare`, straight at a provider.
    Chat,
    /// The same as a stream.
    ChatStream,
    /// Streams whose pieces say when the provider sent them: how long each piece, and the end, was on its way.
    ChunkDelay,
    /// As many streams as connections, all open and silent for the whole time: what an open stream costs.
    OpenStreams,
}

impl Mode {
    fn is_call(self) -> bool {
        matches!(self, Self::Chat | Self::ChatStream | Self::ChunkDelay | Self::OpenStreams)
    }
}

/// Loads a running ledger and prints one line of JSON.
#[derive(Parser)]
struct Args {
    /// Address of the ledger.
    #[arg(long, default_value = "127.0.0.1:8080")]
    address: String,
    /// Data directory of `up`, for its tokens.
    #[arg(long, default_value = "./data")]
    data_dir: PathBuf,
    #[arg(long, value_enum, default_value = "usage")]
    mode: Mode,
    #[arg(long, default_value_t = 64)]
    connections: usize,
    #[arg(long, default_value_t = 10.0)]
    seconds: f64,
    /// Not counted, before the measurement.
    #[arg(long, default_value_t = 2.0)]
    warm_up: f64,
    /// Requests per second over all connections; 0: a closed loop.
    #[arg(long, default_value_t = 0.0)]
    rate: f64,
    /// Wallets that pay.
    #[arg(long, default_value_t = 200)]
    wallets: usize,
    /// Items per batch request.
    #[arg(long, default_value_t = 1_000)]
    items: usize,
    /// The address is a yardstick: nobody opens wallets there, and for calls `--token` will do.
    #[arg(long)]
    bare: bool,
    /// Tells on standard error of each request that took longer: when it was due, in milliseconds since 1970, and how many it took.
    /// What stands close together has one cause.
    #[arg(long, value_name = "MS")]
    slow: Option<u64>,
    /// The token of calls at a yardstick.
    #[arg(long, default_value = "none")]
    token: String,
}

/// A keep-alive connection that sends one request at a time.
struct Connection {
    stream: TcpStream,
    buffer: Vec<u8>,
    request: Vec<u8>,
    head: String,
}

impl Connection {
    async fn open(address: &str, token: &str) -> Result<Self, Error> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        let head = format!("host: {address}\r\nauthorization: Bearer {token}\r\ncontent-type: ");
        Ok(Self { stream, buffer: Vec::with_capacity(1 << 16), request: Vec::new(), head })
    }

    /// Sends a request; its status and body.
    async fn send(
        &mut self,
        method: &str,
        path: &str,
        headers: &str,
        kind: &str,
        body: &[u8],
    ) -> Result<(u16, &[u8]), Error> {
        use std::io::Write as _;
        self.request.clear();
        write!(
            self.request,
            "{method} {path} HTTP/1.1\r\n{}{kind}\r\n{headers}content-length: {}\r\n\r\n",
            self.head,
            body.len()
        )?;
        self.request.extend_from_slice(body);
        self.stream.write_all(&self.request).await?;
        self.buffer.clear();
        loop {
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err("the server closed the connection".into());
            }
            let Some(end) = self.buffer.windows(4).position(|window| window == b"\r\n\r\n") else { continue };
            let head = std::str::from_utf8(&self.buffer[..end])?;
            let status = head.get(9..12).and_then(|status| status.parse().ok()).ok_or("no status")?;
            if head.contains("transfer-encoding: chunked") {
                while !self.buffer.ends_with(b"\r\n0\r\n\r\n") {
                    if self.stream.read_buf(&mut self.buffer).await? == 0 {
                        return Err("the stream broke off".into());
                    }
                }
                return Ok((status, &self.buffer[end + 4..]));
            }
            let length = head.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            let length: usize = length.ok_or("no content-length")?.parse()?;
            let total = end + 4 + length;
            while self.buffer.len() < total {
                if self.stream.read_buf(&mut self.buffer).await? == 0 {
                    return Err("the answer broke off".into());
                }
            }
            return Ok((status, &self.buffer[end + 4..total]));
        }
    }

    /// Sends a streamed call and reads it to the end; notes how long its pieces and its end were on their way.
    async fn stamped(&mut self, body: &[u8], delays: &mut Delays) -> Result<u16, Error> {
        const MARK: &[u8] = b"\"stamp\":\"";
        self.begin_call(body).await?;
        let (mut seen, mut last) = (0, Duration::ZERO);
        loop {
            let read = self.stream.read_buf(&mut self.buffer).await?;
            let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
            while let Some(at) = self.buffer[seen..].windows(MARK.len()).position(|window| window == MARK) {
                let start = seen + at + MARK.len();
                let Some(digits) = self.buffer.get(start..start + 16) else { break };
                let sent = Duration::from_micros(std::str::from_utf8(digits)?.parse()?);
                delays.pieces.push(now.saturating_sub(sent));
                last = sent;
                seen = start + 16;
            }
            if read == 0 {
                return Err("the stream broke off".into());
            }
            if self.buffer.ends_with(b"\r\n0\r\n\r\n") {
                delays.ends.push(now.saturating_sub(last));
                return Ok(std::str::from_utf8(&self.buffer[9..12])?.parse()?);
            }
        }
    }

    async fn begin_call(&mut self, body: &[u8]) -> Result<(), Error> {
        use std::io::Write as _;
        self.request.clear();
        write!(
            self.request,
            "POST /v1/chat/completions HTTP/1.1\r\n{}application/json\r\ncontent-length: {}\r\n\r\n",
            self.head,
            body.len()
        )?;
        self.request.extend_from_slice(body);
        self.buffer.clear();
        Ok(self.stream.write_all(&self.request).await?)
    }

    async fn json(&mut self, method: &str, path: &str, headers: &str, body: &Value) -> Result<Value, Error> {
        let text = if body.is_null() { Vec::new() } else { serde_json::to_vec(body)? };
        let (status, answer) = self.send(method, path, headers, "application/json", &text).await?;
        if status >= 300 {
            return Err(format!("{method} {path}: {status} {}", String::from_utf8_lossy(answer)).into());
        }
        Ok(serde_json::from_slice(answer)?)
    }
}

/// Opens wallets with ten thousand dollars each; their ids, or, for calls, the tokens of their sessions.
async fn prepare(args: &Args, admin: &str) -> Result<Vec<String>, Error> {
    const AT_ONCE: usize = 32;
    let run = Uuid::now_v7();
    let openers = (0..AT_ONCE.min(args.wallets)).map(|opener| async move {
        let mut wallets = Vec::new();
        let mut connection = Connection::open(&args.address, admin).await?;
        let mut visitor = Connection::open(&args.address, "").await?;
        for number in (opener..args.wallets).step_by(AT_ONCE) {
            wallets.push(open_wallet(args, &mut visitor, &mut connection, &format!("load-{run}-{number}")).await?);
        }
        Ok::<_, Error>(wallets)
    });
    Ok(futures_util::future::try_join_all(openers).await?.into_iter().flatten().collect())
}

async fn open_wallet(
    args: &Args,
    visitor: &mut Connection,
    admin: &mut Connection,
    user: &str,
) -> Result<String, Error> {
    // Without the admin token: the app's public id opens the session.
    visitor.head = format!("host: {}\r\ncontent-type: ", args.address);
    let body = json!({ "public_app_id": "app_pub_demo", "external_user_id": user });
    let session = visitor.json("POST", "/v1/sessions", "", &body).await?;
    let token = session["session_token"].as_str().ok_or("no token")?;
    visitor.head = format!("host: {}\r\nauthorization: Bearer {token}\r\ncontent-type: ", args.address);
    let bound = json!({ "model": "gpt-4o-mini", "amount_usd": "0" });
    let key = format!("idempotency-key: {}\r\n", Uuid::now_v7());
    let hold = visitor.json("POST", "/v1/usage/holds", &key, &bound).await?;
    let wallet = hold["wallet"]["wallet_id"].as_str().ok_or("no wallet")?.to_owned();
    let path = format!("/v1/admin/wallets/{wallet}/credit-test-balance");
    admin.json("POST", &path, "", &json!({ "amount_usd": "10000.00" })).await?;
    Ok(if args.mode.is_call() { token.to_owned() } else { wallet })
}

/// How long the parts of streams were on their way.
#[derive(Default)]
struct Delays {
    /// From the moment in which the provider sent a piece.
    pieces: Vec<Duration>,
    /// The last byte, from the moment in which the provider sent the last piece: what the provider does behind that piece is in it.
    ends: Vec<Duration>,
}

impl Delays {
    fn append(&mut self, other: &mut Self) {
        self.pieces.append(&mut other.pieces);
        self.ends.append(&mut other.ends);
    }
}

/// What one connection saw.
#[derive(Default)]
struct Seen {
    latencies: Vec<Duration>,
    statuses: BTreeMap<u16, u64>,
    late: u64,
    delays: Delays,
}

/// A small generator of pseudo-random numbers (xorshift64*).
struct Random(u64);

impl Random {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) % limit.max(1)
    }
}

fn usage_body(random: &mut Random, wallet: &str, id: Option<Uuid>) -> String {
    let id = id.map_or(String::new(), |id| format!(r#""request_id":"{id}","#));
    format!(
        r#"{{{id}"wallet_id":"{wallet}","model":"gpt-4o-mini","usage":{{"input_uncached":{},"cache_read":{},"output_text":{}}}}}"#,
        random.below(3_000) + 1,
        random.below(1_000),
        random.below(500) + 1
    )
}

async fn one_request(
    connection: &mut Connection,
    mode: Mode,
    items: usize,
    random: &mut Random,
    wallet: &str,
    delays: &mut Delays,
) -> Result<u16, Error> {
    let key = || format!("idempotency-key: {}\r\n", Uuid::now_v7());
    match mode {
        Mode::Health => Ok(connection.send("GET", "/health", "", "text/plain", b"").await?.0),
        Mode::Chat | Mode::ChatStream => {
            let stream = mode == Mode::ChatStream;
            let body = format!(
                r#"{{"model":"gpt-4o-mini","max_tokens":64,"stream":{stream},"messages":[{{"role":"user","content":"Hello [[tokens=16]]"}}]}}"#
            );
            Ok(connection.send("POST", "/v1/chat/completions", "", "application/json", body.as_bytes()).await?.0)
        }
        Mode::ChunkDelay => {
            let body = r#"{"model":"gpt-4o-mini","max_tokens":64,"stream":true,"stream_options":{"include_usage":true},"messages":[{"role":"user","content":"Hello [[tokens=32 gap_ms=10 stamp]]"}]}"#;
            connection.stamped(body.as_bytes(), delays).await
        }
        Mode::OpenStreams => unreachable!("has a loop of its own"),
        Mode::Usage => {
            let body = usage_body(random, wallet, None);
            Ok(connection.send("POST", "/v1/usage", &key(), "application/json", body.as_bytes()).await?.0)
        }
        Mode::HoldCapture => {
            let body = format!(r#"{{"wallet_id":"{wallet}","model":"gpt-4o-mini","amount_usd":"0.01"}}"#);
            let (status, answer) =
                connection.send("POST", "/v1/usage/holds", &key(), "application/json", body.as_bytes()).await?;
            if status != 201 {
                return Ok(status);
            }
            // The id comes first: {"hold_id":"…
            let id = String::from_utf8_lossy(answer.get(12..48).ok_or("short answer")?).into_owned();
            let body = format!(
                r#"{{"usage":{{"input_uncached":{},"output_text":{}}}}}"#,
                random.below(3_000) + 1,
                random.below(500) + 1
            );
            Ok(connection
                .send("POST", &format!("/v1/usage/holds/{id}/capture"), "", "application/json", body.as_bytes())
                .await?
                .0)
        }
        Mode::Batch => {
            let mut body = String::with_capacity(items * 200);
            for _ in 0..items {
                body.push_str(&usage_body(random, wallet, Some(Uuid::now_v7())));
                body.push('\n');
            }
            Ok(connection.send("POST", "/v1/usage/batch", "", "application/x-ndjson", body.as_bytes()).await?.0)
        }
    }
}

/// The value of a rank in a sorted list, in milliseconds.
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, clippy::cast_precision_loss, reason = "a rank")]
fn milliseconds_at(sorted: &[Duration], part: f64) -> f64 {
    let rank = (sorted.len().saturating_sub(1) as f64 * part) as usize;
    sorted.get(rank).map_or(0.0, |value| (value.as_secs_f64() * 1e6).round() / 1e3)
}

/// Opens streams, says so, keeps them open, and leaves.
async fn open_streams(args: &Args, tokens: &[String]) -> Result<(), Error> {
    let body = r#"{"model":"gpt-4o-mini","max_tokens":64,"stream":true,"messages":[{"role":"user","content":"Hello [[tokens=2 gap_ms=45000]]"}]}"#;
    println!("{}", json!({ "open": 0 }));
    // Time to look at the server before the first stream.
    tokio::time::sleep(Duration::from_secs(1)).await;
    let mut streams = Vec::new();
    for number in 0..args.connections {
        let mut stream = Connection::open(&args.address, &tokens[number % tokens.len()]).await?;
        stream.begin_call(body.as_bytes()).await?;
        while !stream.buffer.windows(5).any(|window| window == b"data:") {
            if stream.stream.read_buf(&mut stream.buffer).await? == 0 {
                return Err("a stream broke off".into());
            }
        }
        streams.push(stream);
    }
    println!("{}", json!({ "open": streams.len() }));
    tokio::time::sleep(Duration::from_secs_f64(args.seconds)).await;
    Ok(())
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), Error> {
    let args = Args::parse();
    let token = args.data_dir.join("secrets/admin_token");
    let admin = if args.bare { "none".to_owned() } else { std::fs::read_to_string(token)?.trim().to_owned() };
    let wallets = Arc::new(if args.bare && args.mode.is_call() {
        vec![args.token.clone()]
    } else if args.bare || args.mode == Mode::Health {
        (0..args.wallets.max(1)).map(|_| Uuid::now_v7().to_string()).collect()
    } else {
        prepare(&args, &admin).await?
    });
    if args.mode == Mode::OpenStreams {
        return open_streams(&args, &wallets).await;
    }
    let planned = Arc::new(AtomicU64::new(0));
    let start = Instant::now() + Duration::from_millis(50);
    let counted_from = start + Duration::from_secs_f64(args.warm_up);
    let end = counted_from + Duration::from_secs_f64(args.seconds);
    let mut tasks = Vec::new();
    for number in 0..args.connections {
        let (wallets, planned, address, admin) =
            (Arc::clone(&wallets), Arc::clone(&planned), args.address.clone(), admin.clone());
        let (mode, items, rate, slow) = (args.mode, args.items, args.rate, args.slow.map(Duration::from_millis));
        tasks.push(tokio::spawn(async move {
            let token = if mode.is_call() { &wallets[number % wallets.len()] } else { &admin };
            let mut connection = Connection::open(&address, token).await?;
            let mut random = Random(0x9E37_79B9_7F4A_7C15 ^ (u64::try_from(number)? + 1));
            let mut seen = Seen::default();
            loop {
                // Open loop: the next arrival of the whole run, whichever connection is free takes it.
                let due = if rate > 0.0 {
                    #[expect(clippy::cast_precision_loss, reason = "a plan in time")]
                    let due = start + Duration::from_secs_f64(planned.fetch_add(1, Ordering::Relaxed) as f64 / rate);
                    tokio::time::sleep_until(due.into()).await;
                    due
                } else {
                    Instant::now().max(start)
                };
                if due >= end {
                    return Ok::<_, Error>(seen);
                }
                let wallet = &wallets[usize::try_from(random.below(wallets.len() as u64))?];
                let counted = due >= counted_from;
                let mut delays = Delays::default();
                let status = one_request(&mut connection, mode, items, &mut random, wallet, &mut delays).await?;
                if counted {
                    seen.delays.append(&mut delays);
                    let latency = due.elapsed();
                    if slow.is_some_and(|slow| latency >= slow) {
                        let due = SystemTime::now().duration_since(UNIX_EPOCH)?.saturating_sub(latency);
                        eprintln!("{} {}", due.as_millis(), latency.as_millis());
                    }
                    seen.late += u64::from(rate > 0.0 && Instant::now() > end);
                    seen.latencies.push(latency);
                    *seen.statuses.entry(status).or_default() += 1;
                }
            }
        }));
    }
    let mut all = Seen::default();
    for task in tasks {
        let mut seen = task.await??;
        all.latencies.extend(seen.latencies);
        all.delays.append(&mut seen.delays);
        all.late += seen.late;
        for (status, count) in seen.statuses {
            *all.statuses.entry(status).or_default() += count;
        }
    }
    all.latencies.sort_unstable();
    all.delays.pieces.sort_unstable();
    all.delays.ends.sort_unstable();
    let at = |part: f64| milliseconds_at(&all.latencies, part);
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let per_second = (all.latencies.len() as f64 / args.seconds).round();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let items = if args.mode == Mode::Batch { per_second * args.items as f64 } else { per_second };
    println!(
        "{}",
        json!({
            "mode": format!("{:?}", args.mode), "connections": args.connections, "rate": args.rate, "seconds": args.seconds,
            "requests_per_second": per_second, "items_per_second": items, "statuses": all.statuses, "late": all.late,
            "p50_ms": at(0.5), "p90_ms": at(0.9), "p99_ms": at(0.99), "p999_ms": at(0.999), "max_ms": at(1.0),
            "pieces": all.delays.pieces.len(), "piece_p50_ms": milliseconds_at(&all.delays.pieces, 0.5),
            "piece_p99_ms": milliseconds_at(&all.delays.pieces, 0.99), "end_p50_ms": milliseconds_at(&all.delays.ends, 0.5),
            "end_p99_ms": milliseconds_at(&all.delays.ends, 0.99),
        })
    );
    Ok(())
}
