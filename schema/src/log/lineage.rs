//! The ids that a shard's log has had. A restore that loses the end of a log is a fork: from there on the log has another id, and
//! whoever has read beyond that place has read another story.

use tokio_postgres::{Client, Error};

use super::Head;
use crate::hash::ChainHash;
use crate::ids::{LogId, Position, ShardId};

/// One id of a log, and how much of what was written under it is still there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Line {
    /// The id.
    pub log_id: LogId,
    /// The last position under it that is still in the log; none while nothing behind it was lost.
    pub until: Option<Position>,
    /// Up to where the loss is named by a fork.
    pub lost_until: Option<Position>,
}

/// What a position that somebody has seen under some id is to this log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Seen {
    /// In this log, if its hash is the log's there.
    Ours,
    /// Lost in a restore, and a fork says so.
    Lost {
        /// The last position that both lines have.
        common: Position,
    },
    /// Lost, and nobody has said so; or of another log altogether.
    Foreign,
}

/// Why somebody who has read a log cannot go on in it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Stranger {
    /// What was read was lost in a restore, and a fork says so.
    #[error("positions {}..{read} were read from {log_id}, which has lost them: the log goes on as {now} behind {common}", .common.next())]
    Lost {
        /// The id that it was read under.
        log_id: LogId,
        /// The last position that was read.
        read: Position,
        /// The log's id now.
        now: LogId,
        /// The last position that both lines have.
        common: Position,
    },
    /// The log never had that id, or has lost more under it than any fork names.
    #[error("the log is {now}, but positions up to {read} were read from {log_id}")]
    OtherLog {
        /// The id that it was read under.
        log_id: LogId,
        /// The last position that was read.
        read: Position,
        /// The log's id now.
        now: LogId,
    },
    /// The log ends before what was read.
    #[error("position {read} was read, but the log ends at {end}: it has lost events")]
    Short {
        /// The last position that was read.
        read: Position,
        /// The last position of the log.
        end: Position,
    },
    /// The log tells another story, or no batch ends there.
    #[error("the log has another hash at position {0} than when it was read")]
    OtherHash(Position),
}

/// All ids of a log, the first one first.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lineage {
    shard: ShardId,
    lines: Vec<Line>,
}

impl Lineage {
    /// Reads it; `None` if the shard has no log.
    ///
    /// # Errors
    /// The database's.
    pub async fn read(client: &Client, shard: ShardId) -> Result<Option<Self>, Error> {
        let rows = client.query(include_str!("sql/lineage.sql"), &[&shard.0]).await?;
        let line = |row: &tokio_postgres::Row| Line {
            log_id: LogId(row.get(0)),
            until: row.get::<_, Option<i64>>(1).map(Position),
            lost_until: row.get::<_, Option<i64>>(2).map(Position),
        };
        let lines: Vec<Line> = rows.iter().map(line).collect();
        Ok((!lines.is_empty()).then_some(Self { shard, lines }))
    }

    /// The head before the first event: the chain begins with the first id, whatever the log is called now.
    pub fn genesis(&self) -> Option<Head> {
        self.lines.first().map(|line| Head::genesis(line.log_id, self.shard))
    }

    /// Every id, the first one first.
    pub fn lines(&self) -> &[Line] {
        &self.lines
    }

    /// The id that the log has now.
    pub fn log_id(&self) -> Option<LogId> {
        self.lines.last().map(|line| line.log_id)
    }

    /// May somebody go on behind `at` who has read the log up to there under the id `log_id`? `end` is the log's last position, `link`
    /// its hash at that of `at`, if a batch ends there. The log's id now.
    ///
    /// The hash decides, since it covers everything before it: who was reading while the log was forked has the old id beside positions
    /// of the new line. The ids only tell why not.
    ///
    /// # Errors
    /// [`Stranger`] with the reason.
    pub fn admit(&self, log_id: LogId, at: Head, end: Position, link: Option<ChainHash>) -> Result<LogId, Stranger> {
        let (Head { position: read, hash }, now) = (at, self.log_id().unwrap_or(log_id));
        let link = if read == Position::START { self.genesis().map(|genesis| genesis.hash) } else { link };
        let is_ours = self.lines.iter().any(|line| line.log_id == log_id);
        if is_ours && read <= end && link == Some(hash) {
            return Ok(now);
        }
        Err(match self.seen(log_id, read) {
            Seen::Lost { common } => Stranger::Lost { log_id, read, now, common },
            Seen::Foreign => Stranger::OtherLog { log_id, read, now },
            Seen::Ours if read > end => Stranger::Short { read, end },
            Seen::Ours => Stranger::OtherHash(read),
        })
    }

    /// What a position seen under an id is to this log.
    pub fn seen(&self, log_id: LogId, position: Position) -> Seen {
        let Some(line) = self.lines.iter().find(|line| line.log_id == log_id) else { return Seen::Foreign };
        match (line.until, line.lost_until) {
            (Some(common), Some(lost_until)) if position > common => {
                if position <= lost_until {
                    Seen::Lost { common }
                } else {
                    Seen::Foreign
                }
            }
            _ => Seen::Ours,
        }
    }
}

#[cfg(test)]
mod tests;
