//! The ledger over HTTP/1.1, as demo and import see it: connections stay open, no wait is without a limit, and what fails for the
//! moment is sent again. That is safe because a repeat has no second effect: calls that move money carry a key.

use std::error::Error as _;
use std::path::PathBuf;
use std::time::Duration;

use bytes::Bytes;
use http::header::{AUTHORIZATION, CONTENT_TYPE};
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use modelfaucet_schema::error::{ErrorBody, ErrorDetail};
use modelfaucet_schema::http::{IDEMPOTENCY_KEY, IDEMPOTENT_REPLAYED, LEDGER_POSITION};
use secrecy::{ExposeSecret as _, SecretString};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::secrets::Secrets;
use crate::seed;

/// How long one request may take in all.
const REQUEST_TIME: Duration = Duration::from_secs(30);
/// How long an unused connection is kept: less than the server keeps it, so that it is not closed while we send.
const IDLE_TIME: Duration = Duration::from_secs(3);
/// The largest answer that is read: 64 MiB.
const MAX_ANSWER: usize = 64 << 20;
/// The first pause before a repeat, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Which ledger, and where its tokens are.
#[derive(clap::Args)]
pub(crate) struct LedgerArgs {
    /// Where the ledger listens
    #[arg(long, value_name = "URL", default_value = "http://127.0.0.1:8080", value_parser = parse_url)]
    url: String,
    /// Data directory of `up`, for the tokens in its folder `secrets` [default: ./data]; `ADMIN_TOKEN` wins
    #[arg(long, value_name = "PATH")]
    data_dir: Option<PathBuf>,
}

impl LedgerArgs {
    /// The data directory, if it is named.
    pub(crate) fn data_dir(&self) -> Option<&PathBuf> {
        self.data_dir.as_ref()
    }

    /// The client of that ledger.
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(&self.url)
    }

    /// The tokens, from environment and data directory.
    pub(crate) fn tokens(&self) -> Result<Tokens, Failure> {
        let data_dir = self.data_dir.as_ref().map(|path| path.display().to_string());
        let config = Config::read(&[("DATA_DIR", data_dir)])?;
        let data_dir = config.data_dir();
        let place = data_dir.join("secrets");
        let kept = |name| -> Result<_, Failure> {
            // Looking must not create the folder.
            if !place.is_dir() {
                return Ok(None);
            }
            Secrets::open(&data_dir)
                .and_then(|secrets| secrets.get(name))
                .map_err(|error| Failure::new(Exit::Config, format!("{}: {error}", place.join(name).display())))
        };
        let admin = match config.admin_token()? {
            Some(token) => Some(token),
            None => kept("admin_token")?,
        };
        Ok(Tokens { admin, developer: kept(seed::DEVELOPER_TOKEN)?, place })
    }
}

/// The tokens that were found.
pub(crate) struct Tokens {
    admin: Option<SecretString>,
    developer: Option<SecretString>,
    place: PathBuf,
}

impl Tokens {
    /// The administrator's, or how to name it.
    pub(crate) fn admin(&self) -> Result<&SecretString, Failure> {
        self.admin.as_ref().ok_or_else(|| {
            let message = format!(
                "no admin token: set ADMIN_TOKEN, or name the data directory with --data-dir ({} has none)",
                self.place.display()
            );
            Failure::new(Exit::Config, message)
        })
    }

    /// The sandbox developer's, or how to name it.
    pub(crate) fn developer(&self) -> Result<&SecretString, Failure> {
        self.developer.as_ref().ok_or_else(|| {
            let message = format!(
                "no developer token: name the data directory with --data-dir ({} has none)",
                self.place.display()
            );
            Failure::new(Exit::Config, message)
        })
    }
}

/// A request.
#[derive(Clone)]
pub(crate) struct Call<'a> {
    method: Method,
    path: String,
    token: Option<&'a SecretString>,
    key: Option<String>,
    kind: &'static str,
    body: Bytes,
}

impl<'a> Call<'a> {
    fn with_body(method: Method, path: impl Into<String>, kind: &'static str, body: Bytes) -> Self {
        Self { method, path: path.into(), token: None, key: None, kind, body }
    }

    /// Has no body.
    pub(crate) fn new(method: Method, path: impl Into<String>) -> Self {
        Self::with_body(method, path, "application/json", Bytes::new())
    }

    /// Reads.
    pub(crate) fn get(path: impl Into<String>) -> Self {
        Self::new(Method::GET, path)
    }

    /// Writes one thing. A body that cannot be serialised is sent empty, and refused.
    pub(crate) fn post(path: impl Into<String>, body: &impl Serialize) -> Self {
        let body = serde_json::to_vec(body).unwrap_or_default();
        Self::with_body(Method::POST, path, "application/json", body.into())
    }

    /// Writes many things, one JSON object per line.
    pub(crate) fn post_lines(path: impl Into<String>, lines: Bytes) -> Self {
        Self::with_body(Method::POST, path, "application/x-ndjson", lines)
    }

    /// As whom.
    pub(crate) fn token(self, token: &'a SecretString) -> Self {
        Self { token: Some(token), ..self }
    }

    /// Under which idempotency key.
    pub(crate) fn key(self, key: impl Into<String>) -> Self {
        Self { key: Some(key.into()), ..self }
    }

    /// Method and path.
    pub(crate) fn name(&self) -> String {
        format!("{} {}", self.method, self.path)
    }

    /// The body as it is sent; it is JSON, so it is text.
    pub(crate) fn body(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap_or_default()
    }

    fn request(&self, base: &str) -> Result<Request<Full<Bytes>>, http::Error> {
        let mut request =
            Request::builder().method(&self.method).uri(format!("{base}{}", self.path)).header(CONTENT_TYPE, self.kind);
        if let Some(token) = self.token {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose_secret()))?;
            value.set_sensitive(true);
            request = request.header(AUTHORIZATION, value);
        }
        if let Some(key) = &self.key {
            request = request.header(IDEMPOTENCY_KEY, key);
        }
        request.body(Full::new(self.body.clone()))
    }
}

/// An answer of success.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    /// The position that it is as of.
    pub(crate) position: Option<i64>,
    /// Is it the answer to an earlier request under the same key?
    pub(crate) replayed: bool,
    pub(crate) body: Bytes,
    call: String,
}

impl Reply {
    /// The body as JSON.
    pub(crate) fn json<T: DeserializeOwned>(&self) -> Result<T, ClientError> {
        serde_json::from_slice(&self.body).map_err(|error| self.unexpected(error))
    }

    /// The body as JSON, one value per line.
    pub(crate) fn lines<T: DeserializeOwned>(&self) -> Result<Vec<T>, ClientError> {
        let lines = self.body.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.map(|line| serde_json::from_slice(line).map_err(|error| self.unexpected(error))).collect()
    }

    /// The answer is not what this program knows.
    pub(crate) fn unexpected(&self, problem: impl std::fmt::Display) -> ClientError {
        ClientError::Unexpected { call: self.call.clone(), status: self.status, problem: problem.to_string() }
    }
}

/// Why there is no answer of success.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ClientError {
    /// Nobody answers; whether the request had an effect is not known.
    #[error("no answer from {base}: {cause}")]
    Unreachable { base: String, cause: String },
    /// The ledger says no.
    #[error("{}: {} ({call}, status {status}, request {})", detail.code, detail.message, detail.request_id)]
    Refused { call: String, status: StatusCode, detail: Box<ErrorDetail> },
    /// Somebody else answers, or the ledger in a way that this program does not know.
    #[error("{call} has an answer that is not the ledger's (status {status}): {problem}")]
    Unexpected { call: String, status: StatusCode, problem: String },
}

impl ClientError {
    /// May the same request succeed in a moment? A freeze lasts until somebody thaws.
    pub(crate) fn is_temporary(&self) -> bool {
        match self {
            Self::Unreachable { .. } => true,
            Self::Refused { status, detail, .. } => is_temporary(*status, &detail.code),
            Self::Unexpected { status, .. } => is_temporary(*status, ""),
        }
    }
}

/// May what was answered like this succeed in a moment?
pub(crate) fn is_temporary(status: StatusCode, code: &str) -> bool {
    matches!(status.as_u16(), 429 | 502 | 503 | 504) && code != "frozen"
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let exit = match &error {
            _ if error.is_temporary() => Exit::Temporary,
            ClientError::Refused { status: StatusCode::UNAUTHORIZED, .. } | ClientError::Unexpected { .. } => {
                Exit::Config
            }
            ClientError::Refused { .. } | ClientError::Unreachable { .. } => Exit::Refused,
        };
        Self::new(exit, error)
    }
}

/// Checks an address; what is returned has no slash at its end.
fn parse_url(url: &str) -> Result<String, &'static str> {
    let uri: Uri = url.parse().map_err(|_| "must be a URL such as http://127.0.0.1:8080")?;
    match uri.scheme() {
        Some(scheme) if *scheme == Scheme::HTTP => {}
        Some(scheme) if *scheme == Scheme::HTTPS => {
            return Err(
                "needs TLS, which this command does not speak; use an http:// address on this machine or a private network",
            );
        }
        _ => return Err("must begin with http://"),
    }
    if uri.authority().is_none_or(|authority| authority.as_str().contains('@')) || uri.query().is_some() {
        return Err("must name a host, and neither a user nor a query");
    }
    Ok(url.trim_end_matches('/').to_owned())
}

/// A ledger that is spoken to over HTTP.
#[derive(Clone)]
pub(crate) struct Client {
    base: String,
    http: hyper_util::client::legacy::Client<HttpConnector, Full<Bytes>>,
}

impl Client {
    /// A client of the ledger at this address. Nothing is sent yet.
    ///
    /// # Errors
    /// A [`Failure`] if the address is not of the form `http://host:port`.
    pub(crate) fn new(url: &str) -> Result<Self, Failure> {
        let base = parse_url(url).map_err(|problem| Failure::new(Exit::Config, format!("{url:?}: {problem}")))?;
        let mut connector = HttpConnector::new();
        connector.set_nodelay(true);
        connector.set_connect_timeout(Some(REQUEST_TIME));
        let http = hyper_util::client::legacy::Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME)
            .build(connector);
        Ok(Self { base, http })
    }

    /// Where the ledger is.
    pub(crate) fn base(&self) -> &str {
        &self.base
    }

    /// Sends once.
    ///
    /// # Errors
    /// [`ClientError`]
    pub(crate) async fn send(&self, call: &Call<'_>) -> Result<Reply, ClientError> {
        match tokio::time::timeout(REQUEST_TIME, self.exchange(call)).await {
            Ok(result) => result,
            Err(_) => Err(self.unreachable(format!("{} took longer than {} s", call.name(), REQUEST_TIME.as_secs()))),
        }
    }

    /// Sends until there is an answer that lasts, or the patience is over.
    ///
    /// # Errors
    /// [`ClientError`]: the last one.
    pub(crate) async fn send_patiently(&self, call: &Call<'_>, patience: &Patience) -> Result<Reply, ClientError> {
        let mut pauses = patience.begin();
        loop {
            match self.send(call).await {
                Err(error) if error.is_temporary() && pauses.pause().await => {}
                result => return result,
            }
        }
    }

    async fn exchange(&self, call: &Call<'_>) -> Result<Reply, ClientError> {
        let request = call.request(&self.base).map_err(|error| self.unreachable(error.to_string()))?;
        let response = self.http.request(request).await.map_err(|error| self.unreachable(first_cause(&error)))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_ANSWER)
            .collect()
            .await
            .map_err(|error| self.unreachable(error.to_string()))?
            .to_bytes();
        let header = |name| head.headers.get(name).and_then(|value| value.to_str().ok());
        let reply = Reply {
            status: head.status,
            position: header(LEDGER_POSITION).and_then(|position| position.parse().ok()),
            replayed: header(IDEMPOTENT_REPLAYED) == Some("true"),
            body,
            call: call.name(),
        };
        if head.status.is_success() {
            return Ok(reply);
        }
        match reply.json::<ErrorBody>() {
            Ok(body) => {
                Err(ClientError::Refused { call: reply.call, status: head.status, detail: Box::new(body.error) })
            }
            Err(_) => Err(reply.unexpected("no error envelope")),
        }
    }

    fn unreachable(&self, cause: String) -> ClientError {
        ClientError::Unreachable { base: self.base.clone(), cause }
    }
}

/// The innermost cause: "connection refused" tells more than "client error".
fn first_cause(error: &hyper_util::client::legacy::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = cause.to_string();
        source = cause.source();
    }
    text
}

/// How long temporary failures are borne, and what ends that early.
#[derive(Clone)]
pub(crate) struct Patience {
    limit: Duration,
    /// How often the user has interrupted.
    interrupts: Option<watch::Receiver<u32>>,
}

impl Patience {
    /// Bears failures for so long.
    pub(crate) fn of(limit: Duration) -> Self {
        Self { limit, interrupts: None }
    }

    /// Gives up at the first interrupt.
    pub(crate) fn until(self, interrupts: watch::Receiver<u32>) -> Self {
        Self { interrupts: Some(interrupts), ..self }
    }

    /// The time runs from here.
    pub(crate) fn begin(&self) -> Pauses {
        Pauses { end: Instant::now() + self.limit, next: PAUSES.0, interrupts: self.interrupts.clone() }
    }
}

/// Pauses between repeats, each twice as long as the one before.
pub(crate) struct Pauses {
    end: Instant,
    next: Duration,
    interrupts: Option<watch::Receiver<u32>>,
}

impl Pauses {
    /// Waits; false if it is time to give up.
    pub(crate) async fn pause(&mut self) -> bool {
        if Instant::now() + self.next > self.end {
            return false;
        }
        let interrupted = async {
            let seen = match &mut self.interrupts {
                Some(interrupts) => interrupts.wait_for(|count| *count > 0).await.is_ok(),
                None => false,
            };
            if !seen {
                // Nobody is there to interrupt.
                std::future::pending::<()>().await;
            }
        };
        let go_on = tokio::select! {
            () = tokio::time::sleep(self.next) => true,
            () = interrupted => false,
        };
        self.next = (self.next * 2).min(PAUSES.1);
        go_on
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio::net::TcpListener;

    #[test]
    fn only_plain_addresses_are_spoken_to() {
        for url in ["http://127.0.0.1:8080", "http://localhost", "http://[::1]:8080/", "http://ledger:8080/books"] {
            assert!(Client::new(url).is_ok(), "{url}");
        }
        for url in [
            "127.0.0.1:8080",
            "https://ledger",
            "ftp://ledger",
            "",
            "http://me:secret@ledger",
            "http://ledger/?a=b",
            "/v1",
        ] {
            let failure = Client::new(url).err().unwrap();
            assert_eq!(failure.exit, Exit::Config, "{url}");
        }
        assert_eq!(Client::new("http://ledger:80/").unwrap().base(), "http://ledger:80");
    }

    #[test]
    fn a_freeze_is_not_temporary() {
        let status = |code| StatusCode::from_u16(code).unwrap();
        for (code, reason, temporary) in [
            (503, "in_doubt", true),
            (503, "overloaded", true),
            (503, "frozen", false),
            (429, "rate_limited", true),
            (402, "insufficient_balance", false),
            (500, "internal_error", false),
        ] {
            assert_eq!(is_temporary(status(code), reason), temporary, "{reason}");
        }
    }

    /// Answers one request after the other on one connection, whatever is asked.
    async fn server(answers: &'static [(&'static str, &'static str)]) -> Client {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        tokio::spawn(async move {
            let (mut stream, _) = listener.accept().await.unwrap();
            for (head, body) in answers {
                let mut request = [0; 4_096];
                let length = stream.read(&mut request).await.unwrap();
                let text = String::from_utf8_lossy(&request[..length]).to_lowercase();
                assert!(
                    text.contains("authorization: bearer mf_test") && text.contains("idempotency-key: k1"),
                    "{text}"
                );
                let answer = format!("HTTP/1.1 {head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
                stream.write_all(answer.as_bytes()).await.unwrap();
            }
        });
        Client::new(&url).unwrap()
    }

    #[tokio::test]
    async fn a_temporary_refusal_is_sent_again_on_the_same_connection() {
        let client = server(&[
            ("503 x", r#"{"error":{"code":"in_doubt","message":"?","type":"server_error","param":null,"request_id":"req_1"}}"#),
            ("201 x\r\nledger-position: 7\r\nidempotent-replayed: true", "[1,2]"),
            ("402 x", r#"{"error":{"code":"in_flight","message":"Wait.","type":"server_error","param":null,"request_id":"req_2"}}"#),
        ])
        .await;
        let token = SecretString::from("mf_test");
        let call = Call::post("/v1/usage", &[1]).token(&token).key("k1");
        let patience = Patience::of(Duration::from_secs(5));
        let reply = client.send_patiently(&call, &patience).await.unwrap();
        assert_eq!((reply.status.as_u16(), reply.position, reply.replayed), (201, Some(7), true));
        assert_eq!(reply.json::<Vec<u8>>().unwrap(), [1, 2]);
        let error = client.send_patiently(&call, &patience).await.err().unwrap();
        assert_eq!(error.to_string(), "in_flight: Wait. (POST /v1/usage, status 402 Payment Required, request req_2)");
        assert_eq!(Failure::from(error).exit, Exit::Refused);
    }

    #[tokio::test]
    async fn patience_ends_with_time_or_with_an_interrupt() {
        let mut pauses = Patience::of(Duration::from_millis(400)).begin();
        // 100 and 200 milliseconds; another 400 would be too many.
        assert!(pauses.pause().await && pauses.pause().await && !pauses.pause().await);
        let (sender, interrupts) = watch::channel(0);
        let mut pauses = Patience::of(Duration::from_mins(1)).until(interrupts).begin();
        assert!(pauses.pause().await);
        sender.send(1).unwrap();
        assert!(!pauses.pause().await);
    }

    #[tokio::test]
    async fn nobody_there_is_one_clear_line() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", listener.local_addr().unwrap());
        drop(listener);
        let error = Client::new(&url).unwrap().send(&Call::get("/health")).await.err().unwrap();
        assert!(error.to_string().starts_with(&format!("no answer from {url}: Connection refused")), "{error}");
        assert_eq!(Failure::from(error).exit, Exit::Temporary);
    }
}
