//! The log's events in the order of books: by day, in each day by shard, in each shard by position. The next pages are read and
//! decoded while one is written.

use std::collections::VecDeque;

use modelfaucet_schema::event::Recorded;
use modelfaucet_schema::ids::{LogId, ShardId};
use modelfaucet_schema::log::{Head, LogReader, Page, ReadError};
use modelfaucet_schema::time::Timestamp;
use tokio::sync::mpsc;

use crate::exit::{Exit, Failure};
use crate::verify::auditor;

/// Events per page.
const PAGE: usize = 4_096;
/// Pages that are read ahead per shard.
const AHEAD: usize = 2;
const DAY_MICROS: i64 = 86_400_000_000;

/// Days since 1970, in UTC.
pub(super) fn day_of(time: Timestamp) -> i64 {
    time.micros().div_euclid(DAY_MICROS)
}

/// The date of a day since 1970.
pub(super) fn date_of(day: i64) -> String {
    Timestamp::from_micros(day.saturating_mul(DAY_MICROS)).date()
}

/// A log and where it ends.
pub(super) type LogHead = (ShardId, LogId, Head);

/// All logs.
pub(super) struct Logs {
    reader: LogReader,
    pub(super) heads: Vec<LogHead>,
}

impl Logs {
    pub(super) async fn find(reader: LogReader) -> Result<Self, Failure> {
        let mut heads = Vec::new();
        for shard in 0..=i16::MAX {
            match reader.head(ShardId(shard)).await {
                Ok((log_id, head)) => heads.push((ShardId(shard), log_id, head)),
                // Shards are numbered without a gap.
                Err(ReadError::NoLog(_)) => break,
                Err(error) => return Err(unreadable(error)),
            }
        }
        Ok(Self { reader, heads })
    }

    pub(super) fn events(&self) -> u64 {
        self.heads.iter().map(|(_, _, head)| u64::try_from(head.position.0).unwrap_or(0)).sum()
    }
}

/// A damaged log is a violation; a database that is away comes back.
fn unreadable(error: ReadError) -> Failure {
    match error {
        ReadError::Database(error) => auditor::failure(error),
        error => Failure::new(Exit::Violated, error),
    }
}

/// One shard's events, read ahead.
struct ShardEvents {
    pages: mpsc::Receiver<Result<Page, ReadError>>,
    next: VecDeque<Recorded>,
}

impl ShardEvents {
    fn open(reader: LogReader, shard: ShardId) -> Self {
        let (sender, pages) = mpsc::channel(AHEAD);
        tokio::spawn(async move {
            let mut head = match reader.genesis(shard).await {
                Ok(genesis) => genesis,
                Err(error) => return drop(sender.send(Err(error)).await),
            };
            loop {
                let page = reader.page(shard, head, PAGE).await;
                let ended = page.as_ref().map_or(true, |page| page.events.is_empty());
                head = page.as_ref().map_or(head, |page| page.head);
                if ended && page.is_ok() {
                    return;
                }
                // Nobody listens any more, or there is nothing more to say.
                if sender.send(page).await.is_err() || ended {
                    return;
                }
            }
        });
        Self { pages, next: VecDeque::new() }
    }

    /// The day of the next event, if there is one.
    async fn day(&mut self) -> Result<Option<i64>, Failure> {
        if self.next.is_empty()
            && let Some(page) = self.pages.recv().await
        {
            self.next = page.map_err(unreadable)?.events.into();
        }
        Ok(self.next.front().map(|recorded| day_of(recorded.recorded_at)))
    }
}

/// The events of all shards.
pub(super) struct Entries {
    shards: Vec<ShardEvents>,
    /// The day and the shard that are being read.
    current: Option<(i64, usize)>,
    events: u64,
}

impl Entries {
    pub(super) fn open(logs: &Logs) -> Self {
        let open = |(shard, ..): &LogHead| ShardEvents::open(logs.reader.clone(), *shard);
        Self { shards: logs.heads.iter().map(open).collect(), current: None, events: 0 }
    }

    /// How many events have been handed out.
    pub(super) fn events(&self) -> u64 {
        self.events
    }

    /// The next event with its day.
    pub(super) async fn next(&mut self) -> Result<Option<(i64, Recorded)>, Failure> {
        loop {
            let Some((day, at)) = self.current else {
                let mut earliest = None;
                for at in 0..self.shards.len() {
                    if let Some(day) = self.shards[at].day().await? {
                        earliest = earliest.min(Some((day, at))).or(Some((day, at)));
                    }
                }
                if earliest.is_none() {
                    return Ok(None);
                }
                self.current = earliest;
                continue;
            };
            let shard = &mut self.shards[at];
            if shard.day().await? == Some(day) {
                self.events += 1;
                return Ok(shard.next.pop_front().map(|recorded| (day, recorded)));
            }
            // The earliest of all days is sought again, which may be this one in another shard.
            self.current = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn days_and_dates_are_those_of_utc() {
        for (micros, day, date) in [
            (0, 0, "1970-01-01"),
            (DAY_MICROS - 1, 0, "1970-01-01"),
            (-1, -1, "1969-12-31"),
            (1_790_000_000_000_000, 20_717, "2026-09-21"),
        ] {
            assert_eq!(day_of(Timestamp::from_micros(micros)), day);
            assert_eq!(date_of(day), date);
        }
    }
}
