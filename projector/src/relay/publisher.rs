//! The publisher: reads, sends, takes confirms in and moves the mark behind them, each of it while the others wait.

use std::collections::VecDeque;
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use futures_util::future::BoxFuture;
use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt as _, StreamExt as _};
use lapin::options::BasicPublishOptions;
use lapin::{Channel, Confirmation, Connection, Event};
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::{Head, LogReader};
use tokio::sync::watch;
use tracing::{info, warn};

use super::mark::{Mark, Marks};
use super::page::{Paged, read_page};
use super::series::Series;
use super::shard::Shard;
use super::window::Window;
use super::{CONFIRM, RelayError, STAND_BY};
use crate::broker::message::Message;
use crate::broker::{BrokerError, EXCHANGE};

/// How often an idle relay looks at the log although nobody woke it.
const POLL: Duration = Duration::from_millis(20);

/// What came of a message.
type Confirmed = (u64, lapin::Result<Confirmation>);

/// A session with database and broker.
pub(super) struct Publisher<'a> {
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

impl<'a> Publisher<'a> {
    /// Publishes behind a mark, on a channel that confirms.
    pub(super) fn new(of: &'a Shard, marks: &'a Marks, mark: &Mark, channel: Channel) -> Self {
        Self {
            shard: of.shard,
            log_id: mark.log_id,
            series: &of.series,
            marks,
            channel,
            window: Window::default(),
            confirms: FuturesUnordered::new(),
            ready: VecDeque::new(),
            read: mark.at,
            mark: mark.at,
            confirmed: None,
        }
    }

    /// How many messages were sent and not confirmed.
    pub(super) fn unconfirmed(&self) -> usize {
        self.window.len()
    }

    /// Publishes until somebody says stop, or something fails.
    pub(super) async fn follow(
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
                Happened::Confirm((number, outcome)) => self.confirm(number, outcome)?,
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
    fn confirm(&mut self, number: u64, outcome: lapin::Result<Confirmation>) -> Result<(), RelayError> {
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
