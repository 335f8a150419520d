//! A payment provider to test against: the part of Stripe's API that the ledger uses, with events that are signed as Stripe signs
//! them. Its own book is the ground truth. What it tells can be held back, repeated, reordered, aged and forged; what it answers
//! can be lost.

mod book;
mod server;

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hmac::{Hmac, KeyInit as _, Mac as _};
use parking_lot::Mutex;
use serde_json::Value;
use sha2::Sha256;

pub use book::{Book, Payment};

use crate::connection::{Answer, Connection};

/// The key that it wants to see.
pub const SECRET_KEY: &str = "sk_test_51FakeFakeFakeFake";
/// What it signs with.
pub const WEBHOOK_SECRET: &str = "whsec_fakefakefakefakefake";

/// A running fake, on loopback; it ends with this value.
#[derive(Debug)]
pub struct FakeStripe {
    address: String,
    book: Arc<Mutex<Book>>,
    server: tokio::task::JoinHandle<()>,
}

impl FakeStripe {
    /// Starts one.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("a bound address").to_string();
        let book = Arc::new(Mutex::new(Book::default()));
        let router = server::router(Arc::clone(&book));
        let server = tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        });
        Self { address, book, server }
    }

    /// For `STRIPE_API_BASE_URL`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Variables of a ledger that uses it.
    pub fn variables(&self) -> Vec<(&'static str, String)> {
        vec![
            ("STRIPE_API_BASE_URL", self.url()),
            ("STRIPE_SECRET_KEY", SECRET_KEY.to_owned()),
            ("STRIPE_WEBHOOK_SECRET", WEBHOOK_SECRET.to_owned()),
        ]
    }

    /// Looks at the book, or does something in it.
    pub fn book<T>(&self, look: impl FnOnce(&mut Book) -> T) -> T {
        look(&mut self.book.lock())
    }

    /// The events that nobody has taken yet; afterwards they are taken.
    pub fn take_events(&self) -> Vec<Value> {
        self.book(Book::take_events)
    }
}

impl Drop for FakeStripe {
    fn drop(&mut self) {
        self.server.abort();
    }
}

/// Seconds of Unix time.
///
/// # Panics
/// If the clock stands before 1970.
pub fn now() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock behind 1970");
    i64::try_from(since.as_secs()).expect("a clock of this age")
}

/// The header for a body that is signed with this secret at this time.
///
/// # Panics
/// Never: HMAC takes keys of any length.
pub fn signature(secret: &str, at: i64, body: &[u8]) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("a key of any length");
    mac.update(format!("{at}.").as_bytes());
    mac.update(body);
    let code = mac.finalize().into_bytes().iter().fold(String::new(), |mut code, byte| {
        write!(code, "{byte:02x}").expect("a string takes everything");
        code
    });
    format!("t={at},v1={code},v0=5257a869e7ecebeda32affa62cdca3fa51cad7e77a0e56ff536d0ce8e108d8bd")
}

/// Sends a body to the webhook of the ledger at `address` with this signature.
///
/// # Errors
/// The socket's.
pub async fn post(address: &str, header: &str, body: &[u8]) -> std::io::Result<Answer> {
    let mut connection = Connection::open(address, "").await?;
    let header = format!("stripe-signature: {header}\r\n");
    connection.send("POST", "/v1/stripe/webhook", &header, "application/json; charset=utf-8", body).await
}

/// Delivers an event as Stripe would now. Every delivery differs a little, as Stripe's do.
///
/// # Errors
/// The socket's.
pub async fn deliver(address: &str, event: &Value, attempt: u32) -> std::io::Result<Answer> {
    let mut event = event.clone();
    event["pending_webhooks"] = attempt.into();
    let body = serde_json::to_vec_pretty(&event).unwrap_or_default();
    post(address, &signature(WEBHOOK_SECRET, now(), &body), &body).await
}
