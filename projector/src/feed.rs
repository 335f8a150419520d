//! Where spans come from: the writer's memory, if it is in this process and knows the place; else the log. Far behind, the next
//! spans are read and decoded while one is folded and written.

use std::sync::Arc;

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::read::RawPage;
use modelfaucet_schema::log::{Head, LogReader, ReadError, Tail};
use tokio::sync::mpsc;
use tokio::task::{JoinHandle, spawn_blocking};

use crate::fold::{Span, Undecodable};

/// Events per page. Larger pages merge more rows into one, but every page in flight costs memory.
const PAGE: usize = 8_192;
/// A page with so many events is not the last one: more are read ahead from here on.
const BEHIND: usize = 2_048;
/// Pages in flight beside the one that is being folded.
const AHEAD: usize = 2;
/// From this many events on the work leaves the threads that serve others.
pub(crate) const HEAVY: usize = 256;

/// A span, and the event behind it if nobody can read that.
type Decoded = (Span, Option<Undecodable>);

/// Checking and decoding on a thread of its own.
type Decoding = JoinHandle<Result<Decoded, ReadError>>;

fn decode(page: &RawPage) -> Result<Decoded, ReadError> {
    Ok(Span::decode(&page.check()?))
}

/// Spans of one shard, in order.
pub(crate) struct Feed {
    reader: LogReader,
    shard: ShardId,
    at: Head,
    tail: Option<Arc<Tail>>,
    ahead: Option<mpsc::Receiver<Result<Decoding, ReadError>>>,
}

impl Feed {
    pub(crate) fn new(reader: LogReader, shard: ShardId, at: Head, tail: Option<Arc<Tail>>) -> Self {
        Self { reader, shard, at, tail, ahead: None }
    }

    /// Goes on behind `at`, whatever was read ahead.
    pub(crate) fn seek(&mut self, at: Head) {
        if self.at != at {
            (self.at, self.ahead) = (at, None);
        }
    }

    /// The next span; an empty one at the end of the log.
    pub(crate) async fn next(&mut self) -> Result<Decoded, ReadError> {
        let tail = self.tail.as_ref().filter(|_| self.ahead.is_none());
        if let Some(span) = tail.and_then(|tail| Span::of_tail(&tail.behind(self.at))) {
            self.at = span.head();
            return Ok((span, None));
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
        if decoded.1.is_some() {
            self.ahead = None;
        } else if self.ahead.is_none() && decoded.0.events.len() >= BEHIND {
            self.ahead = Some(self.read_ahead());
        }
        Ok(decoded)
    }

    async fn read(&self) -> Result<Decoded, ReadError> {
        let page = self.reader.raw_page(self.shard, self.at, PAGE).await?;
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
