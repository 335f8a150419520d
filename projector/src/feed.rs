//! Where spans come from: the writer's memory, if it is in this process and knows the place, or what the broker has brought; else the
//! log. Far behind, the next spans are read and decoded while one is folded and written.

use std::sync::Arc;
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::read::RawPage;
use modelfaucet_schema::log::{Head, LogReader, ReadError, Tail};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::fold::{Span, Undecodable};
use crate::series::fed;
use crate::subscription::Subscription;

/// Events per page. Larger pages merge more rows into one, but every page in flight costs memory.
const PAGE: usize = 8_192;
/// A page with so many events is not the last one: more are read ahead from here on.
const BEHIND: usize = 2_048;
/// Pages in flight beside the one that is being folded.
const AHEAD: usize = 2;
/// How often a projector that is fed by the broker looks at the log although no message told of anything.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// From this many events on the work leaves the threads that serve others.
pub(crate) const HEAVY: usize = 256;

/// A span, and the event behind it if nobody can read that.
type Decoded = (Span, Option<Undecodable>);

/// Checking and decoding on a thread of its own.
type Decoding = JoinHandle<Result<Decoded, ReadError>>;

fn decode(page: &RawPage) -> Result<Decoded, ReadError> {
    Ok(Span::decode(&page.check()?))
}

/// Where batches may be found without reading the log.
#[derive(Clone)]
pub(crate) enum Near {
    /// In the writer's memory; it is in this process.
    Writer(Arc<Tail>),
    /// Where the broker's messages are taken in.
    Broker(Arc<Subscription>),
}

/// Spans of one shard, in order.
pub(crate) struct Feed {
    reader: LogReader,
    shard: ShardId,
    at: Head,
    near: Option<Near>,
    /// When the log was read last.
    read_at: Option<Instant>,
    /// What messages had told of then.
    told: Position,
    /// Events per page.
    page: usize,
    ahead: Option<mpsc::Receiver<Result<Decoding, ReadError>>>,
}

impl Feed {
    pub(crate) fn new(reader: LogReader, shard: ShardId, at: Head, near: Option<Near>) -> Self {
        Self { reader, shard, at, near, read_at: None, told: Position::START, page: PAGE, ahead: None }
    }

    /// Reads so many events at a time from here on, at most [`PAGE`]. Small pages are not read ahead: whoever asks for them goes slowly.
    pub(crate) fn set_page(&mut self, events: usize) {
        self.page = events.clamp(1, PAGE);
        if self.page < BEHIND {
            self.ahead = None;
        }
    }

    /// Goes on behind `at`, whatever was read ahead.
    pub(crate) fn seek(&mut self, at: Head) {
        if self.at != at {
            (self.at, self.ahead) = (at, None);
        }
    }

    /// The next span; an empty one at the end of the log.
    pub(crate) async fn next(&mut self) -> Result<Decoded, ReadError> {
        if self.ahead.is_none() {
            if let Some(span) = self.near().await? {
                self.at = span.head();
                return Ok((span, None));
            }
            if !self.must_read() {
                return Ok((Span { after: self.at, links: Vec::new(), events: Vec::new() }, None));
            }
        }
        let decoded = match &mut self.ahead {
            Some(ahead) => {
                if let Some(decoding) = ahead.recv().await {
                    join(&mut decoding?).await?
                } else {
                    self.ahead = None;
                    self.read().await?
                }
            }
            None => self.read().await?,
        };
        self.at = decoded.0.head();
        fed("log", decoded.0.events.len());
        if let Some(Near::Broker(broker)) = self.near.as_ref().filter(|_| decoded.0.events.is_empty())
            && self.told > self.at.position
        {
            // A message had told of more before the log was read, and it is not there.
            broker.disown(self.at.position);
        }
        if decoded.1.is_some() {
            self.ahead = None;
        } else if self.ahead.is_none() && decoded.0.events.len() >= BEHIND {
            self.ahead = Some(self.read_ahead());
        }
        Ok(decoded)
    }

    /// What lies near and follows.
    async fn near(&self) -> Result<Option<Span>, ReadError> {
        let broker = match &self.near {
            None => return Ok(None),
            Some(Near::Writer(tail)) => {
                let span = Span::of_tail(&tail.behind(self.at));
                fed("writer", span.as_ref().map_or(0, |span| span.events.len()));
                return Ok(span);
            }
            Some(Near::Broker(broker)) => broker,
        };
        let Some(span) = Span::of_tail(&broker.behind(self.at)) else { return Ok(None) };
        // Every link was recomputed from the message; if the log has the last one, all of it is what the log has.
        let head = span.head();
        if self.reader.link(self.shard, head.position).await? == Some(head.hash) {
            fed("broker", span.events.len());
            return Ok(Some(span));
        }
        tracing::warn!(shard = %self.shard, position = %head.position, "the broker tells what the log does not have; reading the log");
        broker.disown(self.at.position);
        Ok(None)
    }

    /// Fed by the broker, the log need not be asked all the time: messages tell of what is new.
    fn must_read(&self) -> bool {
        match &self.near {
            Some(Near::Broker(broker)) => {
                broker.wants_log(self.at.position) || self.read_at.is_none_or(|last| last.elapsed() >= LOOK_EVERY)
            }
            Some(Near::Writer(_)) | None => true,
        }
    }

    async fn read(&mut self) -> Result<Decoded, ReadError> {
        self.read_at = Some(Instant::now());
        if let Some(Near::Broker(broker)) = &self.near {
            self.told = broker.told();
        }
        let page = self.reader.raw_page(self.shard, self.at, self.page).await?;
        if page.len() < HEAVY {
            return decode(&page);
        }
        join(&mut spawn_blocking(move || decode(&page))).await
    }

    /// Reads until the end of the log or until nobody listens any more.
    fn read_ahead(&self) -> mpsc::Receiver<Result<Decoding, ReadError>> {
        let (sender, receiver) = mpsc::channel(AHEAD);
        let (reader, shard, mut after) = (self.reader.clone(), self.shard, self.at);
        tokio::spawn(async move {
            loop {
                let page = match reader.raw_page(shard, after, PAGE).await {
                    Ok(page) if page.is_empty() => return,
                    Ok(page) => page,
                    Err(error) => {
                        sender.send(Err(error)).await.ok();
                        return;
                    }
                };
                after = page.head();
                let decoding = spawn_blocking(move || decode(&page));
                if sender.send(Ok(decoding)).await.is_err() {
                    return;
                }
            }
        });
        receiver
    }
}

/// A decoder that panicked takes the reader with it: there is nothing sound to go on with.
pub(crate) async fn join<T>(task: &mut JoinHandle<T>) -> T {
    match task.await {
        Ok(value) => value,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // Only a runtime that is shutting down cancels; whoever waits here is dropped with it.
        Err(_) => std::future::pending().await,
    }
}
