//! What clients saw, and the log behind it, as files for `checker/check.py` (docs/RELIABILITY.md, "History").
//!
//! One file per client. An invoke is written before the bytes leave, its outcome after the answer was read; an invoke without an
//! outcome is in doubt.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::OnceLock;
use std::time::Instant;

use serde_json::{Map, Value, json};
use sha2::{Digest as _, Sha256};
use tokio_postgres::{Config, NoTls};

use crate::connection::Answer;

/// Nanoseconds on a clock that never goes back, the same for all clients of this process.
fn nanoseconds() -> u64 {
    static START: OnceLock<Instant> = OnceLock::new();
    u64::try_from(START.get_or_init(Instant::now).elapsed().as_nanos()).unwrap_or(u64::MAX)
}

fn sha256(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    Sha256::digest(bytes).iter().fold("sha256:".to_owned(), |mut text, byte| {
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// What the first line of each file says.
#[derive(Clone, Debug)]
pub struct Run {
    /// The test's name.
    pub run: &'static str,
    /// What the dice began with.
    pub seed: u64,
    /// The log that the clients wrote to.
    pub log_id: String,
}

/// A command that is about to be sent.
#[derive(Clone, Copy, Debug)]
pub struct Asked<'a> {
    /// The idempotency key.
    pub key: &'a str,
    /// `hold`, `capture`, … as the checker knows them.
    pub operation: &'a str,
    /// The wallet.
    pub wallet: &'a str,
    /// The amount that the event must show, with eight decimals.
    pub amount: Option<&'a str>,
    /// The body's bytes.
    pub body: &'a [u8],
}

/// A history file.
#[derive(Debug)]
pub struct History {
    file: File,
    client: usize,
}

impl History {
    /// Begins the file of one client.
    ///
    /// # Errors
    /// The file's.
    pub fn create(path: &Path, run: &Run, client: usize) -> io::Result<Self> {
        let mut history = Self { file: File::create(path)?, client };
        let commit = option_env!("MODELFAUCET_COMMIT").unwrap_or("unknown");
        let machine = format!("{} {}", std::env::consts::OS, std::env::consts::ARCH);
        let head =
            json!({ "run": run.run, "commit": commit, "seed": run.seed, "log_id": run.log_id, "machine": machine });
        history.write_line(&head)?;
        Ok(history)
    }

    fn write_line(&mut self, record: &Value) -> io::Result<()> {
        self.file.write_all(format!("{record}\n").as_bytes())
    }

    fn write(&mut self, event: &str, fields: Value) -> io::Result<()> {
        let mut record = Map::new();
        record.insert("t".into(), nanoseconds().into());
        record.insert("c".into(), self.client.into());
        record.insert("e".into(), event.into());
        if let Value::Object(fields) = fields {
            record.extend(fields.into_iter().filter(|(_, value)| !value.is_null()));
        }
        self.write_line(&Value::Object(record))
    }

    /// Before the bytes leave.
    ///
    /// # Errors
    /// The file's; then nothing must be sent.
    pub fn invoke(&mut self, asked: &Asked<'_>) -> io::Result<()> {
        let fields = json!({
            "key": asked.key, "op": asked.operation, "wallet": asked.wallet, "amount": asked.amount, "body": sha256(asked.body)
        });
        self.write("invoke", fields)
    }

    /// It took effect, now or before.
    ///
    /// # Errors
    /// The file's, or `InvalidData` for an answer that names no position.
    pub fn ok(&mut self, key: &str, answer: &Answer) -> io::Result<()> {
        let body = answer.json();
        let replayed = (answer.header("idempotent-replayed") == Some("true")).then_some(true);
        // An adjustment's answer shows the posted balance alone.
        let wallet = &body["wallet"];
        let posted = if wallet.is_null() { &body["wallet_balance_usd"] } else { &wallet["balance_usd"] };
        let fields = json!({
            "key": key, "shard": 0, "pos": position(answer)?, "posted": posted, "held": wallet["held_usd"],
            "available": wallet["available_usd"], "replayed": replayed, "reply": sha256(&answer.body)
        });
        self.write("ok", fields)
    }

    /// It certainly had no effect.
    ///
    /// # Errors
    /// The file's.
    pub fn refused(&mut self, key: &str, code: &str) -> io::Result<()> {
        self.write("refused", json!({ "key": key, "code": code }))
    }

    /// Nobody knows yet.
    ///
    /// # Errors
    /// The file's.
    pub fn in_doubt(&mut self, key: &str, why: &str) -> io::Result<()> {
        self.write("in_doubt", json!({ "key": key, "why": why }))
    }

    /// A wallet as the read API showed it, asked for at least position `min`.
    ///
    /// # Errors
    /// As [`History::ok`].
    pub fn read(&mut self, wallet: &str, min: i64, answer: &Answer) -> io::Result<()> {
        let body = answer.json();
        let fields = json!({
            "shard": 0, "min": min, "pos": position(answer)?, "wallet": wallet, "posted": body["balance_usd"],
            "held": body["held_usd"], "available": body["available_usd"]
        });
        self.write("read", fields)
    }

    /// A fault was made.
    ///
    /// # Errors
    /// The file's.
    pub fn fault(&mut self, fault: &str, role: &str, act: &str) -> io::Result<()> {
        self.write("fault", json!({ "f": fault, "role": role, "act": act }))
    }
}

/// The position that an answer names.
///
/// # Errors
/// `InvalidData` if it names none.
pub fn position(answer: &Answer) -> io::Result<i64> {
    let named = answer.header("ledger-position").and_then(|text| text.parse().ok());
    named.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidData, "an answer without a position"))
}

/// Why a log was not exported.
pub type ExportError = Box<dyn std::error::Error + Send + Sync>;

/// The id of shard 0's log.
///
/// # Errors
/// The database's.
pub async fn log_id(database: &Config) -> Result<String, ExportError> {
    let (client, connection) = database.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let id: String = client.query_one("SELECT log_id::text FROM ledger.log WHERE shard = 0", &[]).await?.get(0);
    drop(client);
    connection.await??;
    Ok(id)
}

/// Writes the whole log to a file, as of one moment. Returns how many events it has.
///
/// # Errors
/// The database's or the file's.
pub async fn export_log(database: &Config, path: &Path) -> Result<u64, ExportError> {
    use futures_util::TryStreamExt as _;
    let (client, connection) = database.connect(NoTls).await?;
    let connection = tokio::spawn(connection);
    let mut file = io::BufWriter::new(File::create(path)?);
    let mut events = 0;
    // One statement, so one snapshot.
    let rows = client.query_raw(include_str!("history/export_log.sql"), Vec::<i64>::new()).await?;
    let mut rows = std::pin::pin!(rows);
    while let Some(row) = rows.try_next().await? {
        let line: &str = row.try_get(0)?;
        events += u64::from(line.starts_with(r#"{"table" : "event""#));
        writeln!(file, "{line}")?;
    }
    file.flush()?;
    drop(client);
    connection.await??;
    Ok(events)
}
