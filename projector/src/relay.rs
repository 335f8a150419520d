//! The relay: a reactor that publishes the log to `RabbitMQ`, one message per append batch, in order, with confirms.
//!
//! It reads by position and keeps its own mark, which no rebuild touches and which never passes a message that is not confirmed. So
//! everything in the log has been in the broker at least once, and whatever fails is sent again: subscribers drop what they have. Nobody
//! waits for it: a broker that is away, full or slow makes the mark stand still and nothing else.
//!
//! Of several relays one publishes a shard (a lock of its session says which); the others stand by.

pub mod mark;
mod series;
mod window;

use std::collections::VecDeque;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation, Connection, Event};
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::connection::{silent, within};
use modelfaucet_schema::log::{Head, LogReader, ReadError};
use modelfaucet_schema::time::Timestamp;
use tokio::sync::watch;
use tokio::task::{JoinSet, spawn_blocking};
use tokio::time::timeout;
use tokio_postgres::Config;
use tracing::{error, info, warn};

use crate::broker::message::Message;
use crate::broker::{self, BackOff, BrokerError, BrokerOptions, EXCHANGE, answered};
use crate::feed::join;
use crate::runtime::{ANSWER, connect};
use mark::{Mark, Marks};
use series::Series;
use window::Window;

pub(crate) use series::describe;

/// How often an idle relay looks at the log although nobody woke it.
const POLL: Duration = Duration::from_millis(20);
/// How often a relay that stands by, or is halted, looks whether it may work.
const STAND_BY: Duration = Duration::from_secs(1);
/// How often it shows how far behind the broker is.
const SHOW: Duration = Duration::from_secs(1);
/// How long a confirm may take while the broker takes messages at all.
const CONFIRM: Duration = Duration::from_secs(5);
/// Events per page.
const PAGE: usize = 8_192;

/// Publishes the logs of some shards.
#[derive(Clone, Debug)]
pub struct Relay {
    database: Config,
    shards: Vec<ShardId>,
    broker: BrokerOptions,
}

/// Why a session ends, beside being told to.
#[derive(Debug, thiserror::Error)]
enum RelayError {
    #[error("the database failed: {0}")]
    Database(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Read(ReadError),
    #[error(transparent)]
    Broker(#[from] BrokerError),
    /// Somebody else has moved the mark.
    #[error("the mark is not where this relay has left it")]
    Moved,
    /// What follows is published under another id.
    #[error("the log was forked and goes on under another id")]
    Forked,
    /// The log is not the one that was published.
    #[error("{0}")]
    Halt(String),
}

impl From<ReadError> for RelayError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::Gap { .. } | ReadError::Chain { .. } | ReadError::NoLog(_) => Self::Halt(error.to_string()),
            ReadError::Database(error) => Self::Database(error),
            ReadError::Decode { .. } => Self::Read(error),
        }
    }
}

impl From<lapin::Error> for RelayError {
    fn from(error: lapin::Error) -> Self {
        Self::Broker(error.into())
    }
}

impl Relay {
    /// A relay that connects to the database as `database` says, which must be as `ledger_projector`.
    pub fn new(database: Config, shards: Vec<ShardId>, broker: BrokerOptions) -> Self {
        describe();
        Self { database, shards, broker }
    }

    /// Publishes until `shutdown` becomes true or its sender is gone. Wake-ups are hints; positions in them do not matter. A database or
    /// broker that is away is waited for.
    pub async fn run(self, wake: watch::Receiver<Position>, shutdown: watch::Receiver<bool>) {
        let mut tasks = JoinSet::new();
        for shard in &self.shards {
            let series = Series::new(*shard);
            tasks.spawn(show(self.database.clone(), *shard, series.clone(), shutdown.clone()));
            let task = Shard { relay: self.clone(), shard: *shard, series };
            tasks.spawn(task.run(wake.clone(), shutdown.clone()));
        }
        while let Some(ended) = tasks.join_next().await {
            // A shard that panicked must not look like one that has nothing to do.
            if let Err(error) = ended
                && error.is_panic()
            {
                std::panic::resume_unwind(error.into_panic());
            }
        }
    }
}

/// Has somebody said stop?
fn stopping(shutdown: &watch::Receiver<bool>) -> bool {
    *shutdown.borrow() || shutdown.has_changed().is_err()
}

/// Waits for the time, or for the word to stop.
async fn pause(shutdown: &watch::Receiver<bool>, time: Duration) {
    let mut shutdown = shutdown.clone();
    tokio::select! {
        _ = shutdown.wait_for(|stop| *stop) => {}
        () = tokio::time::sleep(time) => {}
    }
}

/// Shows how far behind the broker is, whatever the relay is doing and whoever does it.
async fn show(database: Config, shard: ShardId, series: Series, shutdown: watch::Receiver<bool>) {
    while !stopping(&shutdown) {
        let looking = async {
            let client = Arc::new(connect(&database).await?);
            let reader = within(ANSWER, LogReader::prepare(Arc::clone(&client))).await?;
            while !stopping(&shutdown) {
                let status = match timeout(ANSWER, mark::status(&client, &reader, shard)).await {
                    Ok(status) => status?,
                    Err(_) => return Err(silent().await.into()),
                };
                let age = status.oldest.map_or(Duration::ZERO, |oldest| Timestamp::now().since(oldest));
                series.behind(status.pending(), age);
                series.halted(status.mark.is_some_and(|mark| mark.halted.is_some()));
                pause(&shutdown, SHOW).await;
            }
            Ok::<_, ReadError>(())
        };
        // The working part says what is wrong with the database.
        let _away = looking.await;
        pause(&shutdown, SHOW).await;
    }
}

/// The relay of one shard.
struct Shard {
    relay: Relay,
    shard: ShardId,
    series: Series,
}

impl Shard {
    async fn run(self, wake: watch::Receiver<Position>, shutdown: watch::Receiver<bool>) {
        let mut back_off = BackOff::new();
        while !stopping(&shutdown) {
            let begun = Instant::now();
            let ended = self.session(wake.clone(), &shutdown).await;
            self.series.working(false);
            self.series.blocked(false);
            let Err(error) = ended else { continue };
            if begun.elapsed() > BackOff::LAST {
                back_off.reset();
            }
            let wait = back_off.next();
            warn!(shard = %self.shard, %error, ?wait, "relay stopped; trying again");
            pause(&shutdown, wait).await;
        }
    }

    /// One session with the database: stands by until it may work, then publishes until something fails.
    async fn session(
        &self,
        wake: watch::Receiver<Position>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), RelayError> {
        let reader = connect(&self.relay.database).await?;
        let reader = within(ANSWER, LogReader::prepare(Arc::new(reader))).await?.patient_for(ANSWER);
        let marks = Marks::prepare(connect(&self.relay.database).await?).await?;
        while !marks.lock(self.shard).await? {
            if stopping(shutdown) {
                return Ok(());
            }
            pause(shutdown, STAND_BY).await;
        }
        let (log_id, _) = reader.head(self.shard).await?;
        let mut mark = marks.load(self.shard, log_id, reader.genesis(self.shard).await?).await?;
        if mark.halted.is_some() {
            self.series.halted(true);
            pause(shutdown, STAND_BY).await;
            return Ok(());
        }
        let published = match reader.admit(self.shard, mark.log_id, mark.at).await? {
            Err(stranger) => {
                Err(RelayError::Halt(format!("{stranger}; say where to go on: `modelfaucet relay rewind`")))
            }
            Ok(log_id) if marks.adopt(self.shard, mark.log_id, log_id, mark.at).await? => {
                mark.log_id = log_id;
                self.publish(&reader, &marks, mark, wake, shutdown).await
            }
            Ok(_) => Err(RelayError::Moved),
        };
        match &published {
            Err(RelayError::Halt(reason)) => {
                error!(shard = %self.shard, reason, "relay halted");
                marks.halt(self.shard, reason).await?;
            }
            Err(error) => {
                // For `relay status`; the database may be what failed.
                let _unwritten = marks.state(self.shard, &format!("waiting: {error}")).await;
            }
            Ok(()) => {
                let _unwritten = marks.state(self.shard, "stopped").await;
            }
        }
        published
    }

    async fn publish(
        &self,
        reader: &LogReader,
        marks: &Marks,
        mark: Mark,
        wake: watch::Receiver<Position>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), RelayError> {
        let (connection, channel) = broker::connect(&self.relay.broker, "modelfaucet relay").await?;
        answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
        info!(shard = %self.shard, position = %mark.at.position, "publishing behind");
        marks.state(self.shard, "publishing").await?;
        self.series.working(true);
        let mut publisher = Publisher {
            shard: self.shard,
            log_id: mark.log_id,
            series: &self.series,
            marks,
            channel,
            window: Window::default(),
            confirms: FuturesUnordered::new(),
            ready: VecDeque::new(),
            read: mark.at,
            mark: mark.at,
            confirmed: None,
        };
        let ended = publisher.follow(reader, &connection, wake, shutdown).await;
        // What was sent and not confirmed is sent again, by whoever works next.
        self.series.lost.increment(publisher.window.len() as u64);
        let _gone = connection.close(200, "done".into()).now_or_never();
        ended
    }
}

/// Batches as messages, and the head behind them.
type Paged = Result<(Vec<Message>, Head), ReadError>;
/// What came of a message.
type Confirmed = (u64, lapin::Result<Confirmation>);

/// A session with database and broker.
struct Publisher<'a> {
    shard: ShardId,
    log_id: LogId,
    series: &'a Series,
    marks: &'a Marks,
    channel: Channel,
    window: Window,
    confirms: FuturesUnordered<BoxFuture<'static, Confirmed>>,
    /// Read and not sent yet.
    ready: VecDeque<Message>,
    /// The end of what was read.
    read: Head,
    /// The mark as it is kept.
    mark: Head,
    /// How far the mark may be moved.
    confirmed: Option<Head>,
}

/// What the publisher waits for.
#[expect(clippy::large_enum_variant, reason = "one at a time, and never kept")]
enum Happened {
    Page(Paged),
    Confirm(Confirmed),
    Marked(Result<bool, tokio_postgres::Error>),
    Broker(Option<Event>),
    Tick,
    Stop,
}

impl Publisher<'_> {
    async fn follow(
        &mut self,
        reader: &LogReader,
        connection: &Connection,
        mut wake: watch::Receiver<Position>,
        shutdown: &watch::Receiver<bool>,
    ) -> Result<(), RelayError> {
        let mut events = pin!(connection.events_listener());
        let (shard, log_id, marks) = (self.shard, self.log_id, self.marks);
        let mut shutdown = shutdown.clone();
        // Each at most one at a time.
        let mut reading: Option<BoxFuture<'_, Paged>> = None;
        let mut marking: Option<(Head, BoxFuture<'_, Result<bool, tokio_postgres::Error>>)> = None;
        // At the end of the log: no new page before this.
        let mut rest: Option<Instant> = None;
        let mut marked = Instant::now();
        let mut blocked = false;
        loop {
            self.send_what_is_ready(Instant::now());
            if reading.is_none() && self.ready.is_empty() && self.window.has_room() && rest.is_none() {
                reading = Some(read_page(reader.clone(), shard, log_id, self.read).boxed());
            }
            if marking.is_none() {
                // Where nothing moves, the mark is still looked after: somebody may have set it elsewhere.
                let idle = (marked.elapsed() > STAND_BY).then_some(self.mark);
                if let Some(to) = self.confirmed.take().or(idle) {
                    marking = Some((to, marks.advance(shard, log_id, self.mark, to).boxed()));
                }
            }
            let happened = tokio::select! {
                biased;
                _ = shutdown.wait_for(|stop| *stop) => Happened::Stop,
                event = events.next() => Happened::Broker(event),
                Some(confirmed) = self.confirms.next(), if !self.confirms.is_empty() => Happened::Confirm(confirmed),
                moved = poll_marking(&mut marking), if marking.is_some() => Happened::Marked(moved),
                page = poll_reading(&mut reading), if reading.is_some() => Happened::Page(page),
                () = tokio::time::sleep(POLL) => Happened::Tick,
                () = woken(&mut wake), if rest.is_some() => Happened::Tick,
            };
            match happened {
                Happened::Stop => return Ok(()),
                Happened::Page(page) => {
                    reading = None;
                    let (messages, head) = page?;
                    // A session names one id. The next one begins at the mark, which is before the fork.
                    if messages.iter().any(Message::forks) && reader.head(shard).await?.0 != log_id {
                        return Err(RelayError::Forked);
                    }
                    rest = messages.is_empty().then(Instant::now);
                    self.ready.extend(messages);
                    self.read = head;
                }
                Happened::Confirm((number, outcome)) => self.settle(number, outcome)?,
                Happened::Marked(moved) => {
                    marked = Instant::now();
                    let to = marking.take().map(|(to, _)| to);
                    if !moved? {
                        return Err(RelayError::Moved);
                    }
                    self.mark = to.unwrap_or(self.mark);
                }
                Happened::Broker(event) => notice(event, shard, self.series, marks, &mut blocked).await?,
                Happened::Tick => {
                    rest = None;
                    // A broker that takes nothing confirms nothing.
                    let late = self.window.waiting_since().is_some_and(|since| since.elapsed() > CONFIRM);
                    if late && !blocked && !connection.status().blocked() {
                        return Err(BrokerError::Unconfirmed.into());
                    }
                    if !connection.status().connected() {
                        return Err(BrokerError::Ended.into());
                    }
                }
            }
        }
    }

    /// Hands messages to the connection, in order, as far as there is room.
    fn send_what_is_ready(&mut self, now: Instant) {
        while self.window.has_room()
            && let Some(message) = self.ready.pop_front()
        {
            let number = self.window.send(message.head, message.bytes(), now);
            let channel = self.channel.clone();
            let mut sending = async move {
                let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
                let (key, properties) = (message.routing_key(), message.properties());
                let body = message.body.as_deref().unwrap_or_default();
                let sent = channel.basic_publish(EXCHANGE.into(), key.into(), mandatory, body, properties).await;
                let outcome = match sent {
                    Ok(confirm) => confirm.await,
                    Err(error) => Err(error),
                };
                (number, outcome)
            }
            .boxed();
            // The first poll puts it into the connection's queue, so messages leave in the order of the log.
            let mut context = std::task::Context::from_waker(std::task::Waker::noop());
            match sending.poll_unpin(&mut context) {
                Poll::Ready(outcome) => self.confirms.push(std::future::ready(outcome).boxed()),
                Poll::Pending => self.confirms.push(sending),
            }
        }
    }

    /// A returned message reached no queue, confirmed or not.
    fn settle(&mut self, number: u64, outcome: lapin::Result<Confirmation>) -> Result<(), RelayError> {
        match outcome? {
            Confirmation::Ack(None) => {
                self.series.confirmed.increment(1);
                if let Some(head) = self.window.confirm(number) {
                    self.confirmed = Some(head);
                }
                Ok(())
            }
            Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
                self.series.returned.increment(1);
                Err(BrokerError::Unroutable(returned.reply_text.to_string()).into())
            }
            Confirmation::Nack(None) | Confirmation::NotRequested => {
                self.series.refused.increment(1);
                Err(BrokerError::Refused.into())
            }
        }
    }
}

/// What the connection tells by itself.
async fn notice(
    event: Option<Event>,
    shard: ShardId,
    series: &Series,
    marks: &Marks,
    blocked: &mut bool,
) -> Result<(), RelayError> {
    match event {
        Some(Event::ConnectionBlocked(reason)) => {
            warn!(%shard, reason, "the broker takes no messages");
            *blocked = true;
            series.blocked(true);
            marks.state(shard, &format!("blocked: {reason}")).await?;
        }
        Some(Event::ConnectionUnblocked) => {
            info!(%shard, "the broker takes messages again");
            *blocked = false;
            series.blocked(false);
            marks.state(shard, "publishing").await?;
        }
        Some(Event::Error(error)) => return Err(error.into()),
        Some(_) => {}
        None => return Err(BrokerError::Ended.into()),
    }
    Ok(())
}

async fn poll_marking<T>(marking: &mut Option<(Head, BoxFuture<'_, T>)>) -> T {
    match marking {
        Some((_, marking)) => marking.await,
        None => std::future::pending().await,
    }
}

async fn poll_reading<T>(reading: &mut Option<BoxFuture<'_, T>>) -> T {
    match reading {
        Some(reading) => reading.await,
        None => std::future::pending().await,
    }
}

async fn woken(wake: &mut watch::Receiver<Position>) {
    if wake.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

/// The next batches as messages, and the head behind them. Every link is recomputed: damage is not passed on.
async fn read_page(reader: LogReader, shard: ShardId, log_id: LogId, after: Head) -> Paged {
    let page = reader.raw_page(shard, after, PAGE).await?;
    if page.is_empty() {
        return Ok((Vec::new(), after));
    }
    let work = move || {
        let page = page.check()?;
        Ok((Message::of_page(log_id, shard, &page), page.head()))
    };
    join(&mut spawn_blocking(work)).await
}

/// What [`resend`] has done, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// Messages.
    pub messages: u64,
    /// Events in them.
    pub events: i64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// First and last position of the whole batches.
    pub positions: Option<(Position, Position)>,
}

/// Why batches were not published again.
#[derive(Debug, thiserror::Error)]
pub enum ResendError {
    /// The log's.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The broker's.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Publishes every batch that has one of these positions, one by one and each confirmed, without touching the mark. Without a broker only
/// counts. Tells after each page how far it is.
///
/// # Errors
/// [`ResendError`]; what was confirmed before has been published.
pub async fn resend(
    reader: &LogReader,
    shard: ShardId,
    (log_id, before): (LogId, Head),
    last: Position,
    broker: Option<&BrokerOptions>,
    mut tell: impl FnMut(&Resent),
) -> Result<Resent, ResendError> {
    let open = match broker {
        Some(options) => {
            let (connection, channel) = broker::connect(options, "modelfaucet relay resend").await?;
            answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Some((connection, channel))
        }
        None => None,
    };
    let (mut resent, mut at) = (Resent::default(), before);
    while at.position < last {
        let (messages, head) = read_page(reader.clone(), shard, log_id, at).await?;
        if messages.is_empty() {
            break;
        }
        for message in messages.iter().filter(|message| message.after.position < last) {
            if let Some((_, channel)) = &open {
                publish_one(channel, message).await?;
            }
            resent.messages += 1;
            resent.events += message.events();
            resent.bytes += message.body.as_ref().map_or(0, |body| body.len() as u64);
            let first = resent.positions.map_or(message.after.position.next(), |(first, _)| first);
            resent.positions = Some((first, message.head.position));
        }
        tell(&resent);
        at = head;
    }
    if let Some((connection, _)) = open {
        let _gone = answered(connection.close(200, "done".into())).await;
    }
    Ok(resent)
}

async fn publish_one(channel: &Channel, message: &Message) -> Result<(), BrokerError> {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let body = message.body.as_deref().unwrap_or_default();
    let sent = async {
        channel
            .basic_publish(EXCHANGE.into(), message.routing_key().into(), mandatory, body, message.properties())
            .await?
            .await
    };
    match tokio::time::timeout(CONFIRM * 2, sent).await.map_err(|_| BrokerError::Unconfirmed)?? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Err(BrokerError::Unroutable(returned.reply_text.to_string()))
        }
        Confirmation::Nack(None) | Confirmation::NotRequested => Err(BrokerError::Refused),
    }
}
