//! The ids that a shard's log has had. A restore that loses the end of a log is a fork: from there on the log has another id, and
//! whoever has read beyond that place has read another story.

use tokio_postgres::{Client, Error};

use super::Head;
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
mod tests {
    use super::*;

    #[test]
    fn a_fork_names_what_is_lost_and_nothing_more() {
        let (first, second) = (LogId::generate(), LogId::generate());
        let forked = Line { log_id: first, until: Some(Position(90)), lost_until: Some(Position(95)) };
        let lines = vec![forked, Line { log_id: second, until: None, lost_until: None }];
        let lineage = Lineage { shard: ShardId(0), lines };
        assert_eq!(lineage.seen(first, Position(90)), Seen::Ours);
        assert_eq!(lineage.seen(first, Position(91)), Seen::Lost { common: Position(90) });
        assert_eq!(lineage.seen(first, Position(95)), Seen::Lost { common: Position(90) });
        assert_eq!(lineage.seen(first, Position(96)), Seen::Foreign);
        assert_eq!(lineage.seen(second, Position(1_000)), Seen::Ours);
        assert_eq!(lineage.seen(LogId::generate(), Position(1)), Seen::Foreign);
        assert_eq!(lineage.genesis(), Some(Head::genesis(first, ShardId(0))), "the chain keeps its first link");
    }
}
