//! A gateway without a database: its command side is another process, over HTTP. Connections are kept; every request may be repeated.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::BoxFuture;
use http::header::HeaderValue;
use http::{HeaderMap, Method, StatusCode};
use modelfaucet_gateway::LeftHold;
use modelfaucet_gateway::port::{
    AnswerStore, BeginCall, Begun, EndCall, Ended, Ledger, LocalUsage, MarkAttempt, PortError, Reported, StartAttempt,
    StoreError,
};
use modelfaucet_gateway::read_model::ReadModel;
use modelfaucet_schema::event::{AttemptStarted, Event, KeyUse};
use modelfaucet_schema::http::REQUEST_ID;
use modelfaucet_schema::ids::{CredentialId, GatewayId, HoldId, SessionId};
use modelfaucet_schema::token::short_hash;
use parking_lot::Mutex;
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::watch;
use url::Url;
use uuid::Uuid;

use super::wire::{ALIVE, Alive, CALLS, HOLDS, Reply, SUSPENSIONS, Suspension, USAGE};

/// How long one request may take: as long as the command side's own.
const REQUEST: Duration = Duration::from_secs(10);
const CONNECT: Duration = Duration::from_secs(2);
/// How long the beginning of a call or attempt is asked for again: nobody waits longer for it.
const INSIST: Duration = Duration::from_secs(2);
/// How long a page of the feed waits for news, and may take.
const NEWS: Duration = Duration::from_secs(2);
const PAGE: Duration = Duration::from_secs(30);
/// Without a word of the feed for so long, it is not ready.
const STALE: Duration = Duration::from_secs(8);
/// What the read model does not need, which is most of the log.
const EXCEPT: &str =
    "HoldPlaced,AttemptStarted,AttemptProgressed,HoldCaptured,HoldReleased,HoldExpired,LateUsageCaptured,UsageRecorded";

/// A command side that cannot be spoken to, or says no.
#[derive(Debug, thiserror::Error)]
pub(crate) enum RemoteError {
    /// The HTTP client's.
    #[error("the command side cannot be reached: {0}")]
    Http(#[from] reqwest::Error),
    /// A token that no header can carry.
    #[error("GATEWAY_TOKEN has characters that a header cannot carry")]
    Token,
    /// Another status than 200.
    #[error("the command side answers {0}")]
    Status(StatusCode),
    /// An event that this program does not know.
    #[error("an event of the log cannot be read: {0}")]
    Event(#[from] modelfaucet_schema::event::DecodeError),
    /// The log is another one than before.
    #[error("the command side has another log than before: it was restored or replaced; start the gateway again")]
    OtherLog,
}

/// The way to the command side. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Remote {
    client: reqwest::Client,
    base: Arc<str>,
    heard: Arc<Mutex<Option<Instant>>>,
    /// Up to where the read model has taken in the log.
    followed: watch::Receiver<i64>,
    follow: Arc<watch::Sender<i64>>,
}

impl Remote {
    /// The command side at `url`.
    pub(crate) fn new(url: &Url, token: &SecretString) -> Result<Self, RemoteError> {
        modelfaucet_gateway::use_ring();
        let mut authorization =
            HeaderValue::from_str(&format!("Bearer {}", token.expose_secret())).map_err(|_| RemoteError::Token)?;
        authorization.set_sensitive(true);
        let client = reqwest::Client::builder()
            .default_headers(HeaderMap::from_iter([(http::header::AUTHORIZATION, authorization)]))
            .no_proxy()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .pool_max_idle_per_host(1_024)
            .pool_idle_timeout(Duration::from_secs(4))
            .build()?;
        let (follow, followed) = watch::channel(0);
        let base = url.as_str().trim_end_matches('/').into();
        Ok(Self { client, base, heard: Arc::default(), followed, follow: Arc::new(follow) })
    }

    fn request(&self, method: Method, path: &str, request_id: &str) -> reqwest::RequestBuilder {
        let request = self.client.request(method, format!("{}{path}", self.base)).timeout(REQUEST);
        if request_id.is_empty() { request } else { request.header(REQUEST_ID, request_id) }
    }

    /// Asks the port. What was not sent is certainly without effect; of everything else that goes wrong nobody knows.
    async fn ask<T: DeserializeOwned>(&self, request: reqwest::RequestBuilder) -> Result<T, PortError> {
        let response = request.send().await.map_err(|error| {
            tracing::debug!(%error, "the command side did not answer");
            if error.is_connect() || error.is_builder() { PortError::Unavailable } else { PortError::InDoubt }
        })?;
        match response.status() {
            StatusCode::OK => {}
            StatusCode::UNAUTHORIZED => {
                tracing::error!("the command side does not know our GATEWAY_TOKEN");
                return Err(PortError::Unavailable);
            }
            // It has not begun: its edge refuses.
            StatusCode::NOT_FOUND | StatusCode::TOO_MANY_REQUESTS => return Err(PortError::Unavailable),
            _ => return Err(PortError::InDoubt),
        }
        let bytes = response.bytes().await.map_err(|_| PortError::InDoubt)?;
        let reply: Reply<T> = serde_json::from_slice(&bytes).map_err(|error| {
            tracing::error!(%error, "the command side says what cannot be read; is it of this version?");
            PortError::InDoubt
        })?;
        reply.into_result()
    }

    /// Posts what has a key, so that it may be repeated: an answer that was lost is asked for again.
    async fn insist<T: DeserializeOwned>(&self, path: &str, id: &str, body: &impl Serialize) -> Result<T, PortError> {
        let mut insistence = Insistence::new(INSIST);
        loop {
            match self.post(path, id, body).await {
                Ok(reply) => return Ok(reply),
                Err(error) => tokio::time::sleep(insistence.after(error)?).await,
            }
        }
    }

    async fn post<T: DeserializeOwned>(&self, path: &str, id: &str, body: &impl Serialize) -> Result<T, PortError> {
        self.ask(self.request(Method::POST, path, id).json(body)).await
    }

    /// The holds that an earlier life of a gateway left open.
    pub(crate) async fn left(&self, gateway: GatewayId) -> Result<Vec<LeftHold>, PortError> {
        self.ask(self.request(Method::GET, HOLDS, "").query(&Alive { gateway })).await
    }

    /// Says that a gateway lives.
    pub(crate) async fn alive(&self, gateway: GatewayId) -> Result<(), PortError> {
        self.post(ALIVE, "", &Alive { gateway }).await
    }

    /// Says so for as long as the process lives.
    pub(crate) async fn stay_alive(self, gateway: GatewayId, every: Duration) {
        loop {
            if let Err(error) = self.alive(gateway).await {
                tracing::warn!(%error, "the command side does not hear that this gateway lives");
            }
            tokio::time::sleep(every).await;
        }
    }

    /// Takes in everything that the log holds now.
    pub(crate) async fn read_to_end(&self, model: &ReadModel) -> Result<(), RemoteError> {
        let mut log = None;
        while !self.read_page(model, &mut log, Duration::ZERO).await? {}
        Ok(())
    }

    /// Takes in what comes, for as long as the process lives.
    pub(crate) async fn follow(self, model: Arc<ReadModel>) {
        let mut log = None;
        loop {
            if let Err(error) = self.read_page(&model, &mut log, NEWS).await {
                tracing::warn!(%error, "the log cannot be followed");
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        }
    }

    /// The next page; true at the end of the log.
    async fn read_page(&self, model: &ReadModel, log: &mut Option<Uuid>, wait: Duration) -> Result<bool, RemoteError> {
        let after = *self.followed.borrow();
        let page = self.page(after, wait).await?;
        if *log.get_or_insert(page.log_id) != page.log_id {
            return Err(RemoteError::OtherLog);
        }
        for event in &page.events {
            model.take_in(&Event::decode(&event.r#type, event.version, event.payload.get().as_bytes())?);
        }
        *self.heard.lock() = Some(Instant::now());
        self.follow.send_if_modified(|followed| std::mem::replace(followed, page.next) != page.next);
        Ok(page.next >= page.head.position)
    }

    async fn page(&self, after: i64, wait: Duration) -> Result<Page, RemoteError> {
        let query = [("after", after.to_string()), ("wait_ms", wait.as_millis().to_string())];
        let request = self.request(Method::GET, "/v1/log", "").query(&query).query(&[("except", EXCEPT)]);
        let response = request.timeout(PAGE).send().await?;
        if response.status() != StatusCode::OK {
            return Err(RemoteError::Status(response.status()));
        }
        Ok(response.json().await?)
    }

    /// The end of the log.
    async fn head(&self) -> Result<i64, RemoteError> {
        let request = self.request(Method::GET, "/v1/log?limit=1&types=Thawed&after=0", "");
        let response = request.send().await?;
        if response.status() != StatusCode::OK {
            return Err(RemoteError::Status(response.status()));
        }
        Ok(response.json::<Page>().await?.head.position)
    }
}

/// A page of the feed, as far as it matters here.
#[derive(Deserialize)]
struct Page {
    log_id: Uuid,
    events: Vec<PageEvent>,
    next: i64,
    head: Head,
}

#[derive(Deserialize)]
struct Head {
    position: i64,
}

#[derive(Deserialize)]
struct PageEvent {
    r#type: String,
    version: i16,
    payload: Box<RawValue>,
}

/// Whether a request that may be repeated is sent again. Once it may have been heard, only its success takes the doubt away: that nobody
/// listens any more does not, nor that a repeat is refused, since another process may have refused it while the first one is still at
/// work.
struct Insistence {
    left: Duration,
    pause: Duration,
    doubtful: bool,
}

impl Insistence {
    fn new(patience: Duration) -> Self {
        Self { left: patience, pause: Duration::from_millis(20), doubtful: false }
    }

    /// How long to wait before the next try; the error if there is none.
    fn after(&mut self, error: PortError) -> Result<Duration, PortError> {
        self.doubtful |= error == PortError::InDoubt;
        let again = matches!(error, PortError::InDoubt | PortError::Unavailable);
        let pause = self.pause;
        match self.left.checked_sub(pause).filter(|_| again) {
            Some(left) => {
                self.left = left;
                self.pause = (pause * 2).min(Duration::from_millis(500));
                Ok(pause)
            }
            None if self.doubtful => Err(PortError::InDoubt),
            None => Err(error),
        }
    }
}

/// The key of a beginning whose client gave none: it makes a repeat of the same beginning the same hold.
fn begin_key(hold: HoldId) -> KeyUse {
    KeyUse {
        key: short_hash(&[b"gateway", b"begin", hold.0.as_bytes()]),
        fingerprint: short_hash(&[b"gateway_begin_call", hold.0.as_bytes()]),
    }
}

impl Ledger for Remote {
    fn begin(&self, request_id: &str, mut begin: BeginCall) -> BoxFuture<'_, Result<Begun, PortError>> {
        let request_id = request_id.to_owned();
        begin.key.get_or_insert_with(|| begin_key(begin.hold_id));
        async move { self.insist(CALLS, &request_id, &begin).await }.boxed()
    }

    fn start(&self, request_id: &str, start: StartAttempt) -> BoxFuture<'_, Result<AttemptStarted, PortError>> {
        let request_id = request_id.to_owned();
        // Its key is made of hold and number, over there.
        async move { self.insist(&format!("{CALLS}/{}/attempts", start.hold_id), &request_id, &start).await }.boxed()
    }

    fn mark(&self, request_id: &str, mark: MarkAttempt) -> BoxFuture<'_, Result<(), PortError>> {
        let request_id = request_id.to_owned();
        async move { self.post(&format!("{CALLS}/{}/marks", mark.hold_id), &request_id, &mark).await }.boxed()
    }

    fn end(&self, request_id: &str, end: EndCall) -> BoxFuture<'_, Result<Ended, PortError>> {
        let request_id = request_id.to_owned();
        async move { self.post(&format!("{CALLS}/{}/end", end.hold_id), &request_id, &end).await }.boxed()
    }

    fn report(&self, request_id: &str, usage: LocalUsage) -> BoxFuture<'_, Result<Reported, PortError>> {
        let request_id = request_id.to_owned();
        async move { self.post(USAGE, &request_id, &usage).await }.boxed()
    }

    fn ending(&self, session: SessionId, hold: HoldId) -> BoxFuture<'_, Result<Option<Ended>, PortError>> {
        let path = format!("{CALLS}/{hold}/ending");
        async move { self.ask(self.request(Method::GET, &path, "").query(&[("session", session)])).await }.boxed()
    }

    fn suspend(
        &self,
        request_id: &str,
        session_id: SessionId,
        credential_id: CredentialId,
    ) -> BoxFuture<'_, Result<(), PortError>> {
        let request_id = request_id.to_owned();
        let suspension = Suspension { session_id, credential_id };
        async move { self.post(SUSPENSIONS, &request_id, &suspension).await }.boxed()
    }

    fn catch_up(&self) -> BoxFuture<'_, ()> {
        async move {
            let Ok(head) = self.head().await else { return };
            let mut followed = self.followed.clone();
            let _closed = followed.wait_for(|followed| *followed >= head).await;
        }
        .boxed()
    }

    /// Does the command side answer, and is the read model fresh?
    fn is_ready(&self) -> bool {
        self.heard.lock().is_some_and(|heard| heard.elapsed() < STALE)
    }
}

impl AnswerStore for Remote {
    fn put(&self, call: HoldId, sealed: Vec<u8>) -> BoxFuture<'_, Result<(), StoreError>> {
        let request = self.request(Method::PUT, &format!("{CALLS}/{call}/answer"), "").body(sealed);
        async move {
            let response = request.send().await.map_err(|error| StoreError(error.to_string()))?;
            match response.status() {
                StatusCode::NO_CONTENT => Ok(()),
                status => Err(StoreError(format!("the command side answers {status}"))),
            }
        }
        .boxed()
    }

    fn get(&self, call: HoldId) -> BoxFuture<'_, Result<Option<Vec<u8>>, StoreError>> {
        let request = self.request(Method::GET, &format!("{CALLS}/{call}/answer"), "");
        async move {
            let wrong = |error: reqwest::Error| StoreError(error.to_string());
            let response = request.send().await.map_err(wrong)?;
            match response.status() {
                StatusCode::OK => Ok(Some(response.bytes().await.map_err(wrong)?.to_vec())),
                StatusCode::NOT_FOUND => Ok(None),
                status => Err(StoreError(format!("the command side answers {status}"))),
            }
        }
        .boxed()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A command side that hears a request and never answers it, and answers the next one.
    #[tokio::test]
    async fn an_attempt_whose_answer_is_lost_is_asked_for_again() {
        use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
        let event = include_str!("../../../schema/events/AttemptStarted.v1.json");
        let Event::AttemptStarted(started) = Event::decode("AttemptStarted", 1, event.trim().as_bytes()).unwrap()
        else {
            panic!("its golden example");
        };
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let base = format!("http://{}", listener.local_addr().unwrap()).parse().unwrap();
        let reply = serde_json::to_vec(&Reply::Ok(&started)).unwrap();
        let server = tokio::spawn(async move {
            let mut bodies = Vec::new();
            for answers in [false, true] {
                let (mut connection, _) = listener.accept().await.unwrap();
                let mut heard = Vec::new();
                let body = loop {
                    assert!(connection.read_buf(&mut heard).await.unwrap() > 0, "a whole request");
                    let text = String::from_utf8_lossy(&heard);
                    if let Some((_, body)) = text.split_once("\r\n\r\n").filter(|(_, body)| body.ends_with('}')) {
                        break body.to_owned();
                    }
                };
                bodies.push(body);
                if answers {
                    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n", reply.len());
                    connection.write_all(&[head.as_bytes(), &reply].concat()).await.unwrap();
                }
            }
            bodies
        });
        let remote = Remote::new(&base, &SecretString::from("t")).unwrap();
        let start = StartAttempt {
            hold_id: started.hold_id,
            gateway: GatewayId(Uuid::nil()),
            session_id: SessionId(Uuid::nil()),
            number: started.number,
            ended: started.ended.clone(),
            route: started.call.route,
            provider: started.call.provider.clone(),
            model: started.call.model.clone(),
            service_tier: started.call.service_tier,
            bound: started.bound,
            min_bound: started.bound,
            origin: started.origin.clone(),
            credential: started.credential,
        };
        assert_eq!(remote.start("r", start).await, Ok(started));
        let bodies = server.await.unwrap();
        assert_eq!(bodies[0], bodies[1], "the same attempt");
    }

    /// What insisting comes to if the tries fail so, in order, the last one for ever.
    fn insisted(tries: &[PortError]) -> PortError {
        let mut insistence = Insistence::new(INSIST);
        let mut next = tries.iter().chain(std::iter::repeat(&tries[tries.len() - 1]));
        loop {
            if let Err(error) = insistence.after(next.next().unwrap().clone()) {
                return error;
            }
        }
    }

    #[test]
    fn a_doubt_stays_until_there_is_an_answer() {
        use PortError::{InDoubt, Overloaded, Unavailable};
        for (tries, expected) in [
            (vec![Unavailable], Unavailable),
            (vec![Overloaded], Overloaded),
            (vec![Unavailable, Overloaded], Overloaded),
            (vec![InDoubt], InDoubt),
            (vec![InDoubt, Unavailable], InDoubt),
            (vec![Unavailable, InDoubt, Unavailable], InDoubt),
            (vec![InDoubt, Overloaded], InDoubt),
        ] {
            assert_eq!(insisted(&tries), expected, "{tries:?}");
        }
    }
}
