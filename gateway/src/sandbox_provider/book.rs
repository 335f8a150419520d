//! What the provider saw and bills: one JSON line each, appended and flushed before the last byte of an answer leaves.

use std::collections::HashMap;
use std::fs::{File, OpenOptions};
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use http::HeaderMap;
use modelfaucet_schema::time::Timestamp;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::script::{Cancel, Script};

/// An answer's length where no script says another.
const DEFAULT_TOKENS: u64 = 23;

#[derive(Debug, Default)]
struct Inner {
    file: Option<File>,
    scripts: HashMap<String, u64>,
}

/// The provider's book.
#[derive(Debug, Default)]
pub struct Book {
    inner: Mutex<Inner>,
    requests: AtomicU64,
}

impl Book {
    /// A book that is kept nowhere.
    pub fn nowhere() -> Arc<Self> {
        Arc::default()
    }

    /// A book in a file; goes on where it ended.
    ///
    /// # Errors
    /// The file system's.
    pub fn open(path: &Path) -> io::Result<Arc<Self>> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        Ok(Arc::new(Self { inner: Mutex::new(Inner { file: Some(file), ..Inner::default() }), ..Self::default() }))
    }

    fn write(&self, line: &Value) {
        if let Some(file) = &mut self.inner.lock().file {
            // A book that cannot be written must not look complete.
            if let Err(error) = file.write_all(format!("{line}\n").as_bytes()).and_then(|()| file.flush()) {
                tracing::error!(%error, "the sandbox provider's book cannot be written");
            }
        }
    }

    /// A request has come. Its number.
    pub(super) fn received(&self, model: &str, body: &Value, headers: &HeaderMap, bytes: usize) -> u64 {
        let number = self.requests.fetch_add(1, Ordering::AcqRel) + 1;
        let call = headers.get("x-litellm-call-id").and_then(|value| value.to_str().ok());
        self.write(&json!({
            "what": "received", "at": Timestamp::now(), "request": number, "call": call, "model": model, "bytes": bytes,
            "stream": body["stream"], "max_tokens": super::cap(body), "members": body.as_object().map(|o| o.keys().collect::<Vec<_>>()),
        }));
        number
    }

    /// How often a script has come, this time included.
    pub(super) fn count(&self, script: &str) -> u64 {
        let mut inner = self.inner.lock();
        let count = inner.scripts.entry(script.to_owned()).or_default();
        *count += 1;
        *count
    }

    /// The bill of a request.
    pub(super) fn bill(self: &Arc<Self>, request: u64, script: &Script, input: u64, cap: Option<u64>) -> Bill {
        let wanted = script.tokens.unwrap_or(DEFAULT_TOKENS);
        let output = match cap {
            Some(cap) if !script.ignore_cap => wanted.min(cap),
            _ => wanted,
        };
        Bill {
            book: Arc::clone(self),
            request,
            input: script.prompt.unwrap_or(input),
            cached: script.cached,
            reasoning: script.reasoning,
            output: if script.empty { 0 } else { output },
            cut: output < wanted,
            sent: AtomicU64::new(0),
            closed: AtomicBool::new(false),
            cancel: script.cancel,
        }
    }
}

/// What one request costs. Dropped before it is closed, the reader has gone; the script says what is billed then.
#[derive(Debug)]
pub struct Bill {
    book: Arc<Book>,
    request: u64,
    input: u64,
    cached: u64,
    reasoning: u64,
    output: u64,
    cut: bool,
    sent: AtomicU64,
    closed: AtomicBool,
    cancel: Cancel,
}

impl Bill {
    /// Input tokens.
    pub fn input(&self) -> u64 {
        self.input
    }

    /// Output tokens of the whole answer.
    pub fn output(&self) -> u64 {
        self.output
    }

    /// Why the answer ends.
    pub fn finish_reason(&self) -> &'static str {
        if self.cut { "length" } else { "stop" }
    }

    /// So many tokens were sent.
    pub(super) fn sent(&self, tokens: u64) {
        self.sent.store(tokens, Ordering::Release);
    }

    /// Writes the bill, once.
    pub(super) fn close(&self, output: u64, billed: bool, end: &str) {
        if self.closed.swap(true, Ordering::AcqRel) {
            return;
        }
        let bill = billed.then(|| {
            json!({ "input": self.input, "cached": self.cached.min(self.input), "output": output, "reasoning": self.reasoning.min(output) })
        });
        self.book.write(
            &json!({ "what": "ended", "at": Timestamp::now(), "request": self.request, "end": end, "bill": bill }),
        );
    }
}

impl Drop for Bill {
    fn drop(&mut self) {
        let (output, billed) = match self.cancel {
            Cancel::Sent => (self.sent.load(Ordering::Acquire), true),
            Cancel::Whole => (self.output, true),
            Cancel::Nothing => (0, false),
        };
        self.close(output, billed, "reader_gone");
    }
}
