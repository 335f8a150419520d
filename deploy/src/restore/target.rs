//! Where a restore is to end.

use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::time::Timestamp;

use crate::exit::{Exit, Failure};
use crate::heads::{Lsn, Witnessed};

/// Where to; without any of them: the end of what was copied.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct TargetArgs {
    /// The first witnessed moment at which this position was in the log, such as s00:1190774
    #[arg(long, value_name = "SHARD:POSITION", value_parser = position, conflicts_with_all = ["to_lsn", "to_time"])]
    to_position: Option<(ShardId, Position)>,
    /// A place in the WAL, such as 0/16B3748
    #[arg(long, value_name = "LSN", conflicts_with = "to_time")]
    to_lsn: Option<Lsn>,
    /// A time, as ISO 8601 with offset; what was committed until then
    #[arg(long, value_name = "TIME")]
    to_time: Option<Timestamp>,
}

/// A target as it is asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Latest,
    Position(ShardId, Position),
    Lsn(Lsn),
    Time(Timestamp),
    /// A head that was seen.
    Head(Box<Witnessed>),
}

/// A target as PostgreSQL knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Aim {
    Latest,
    Lsn(Lsn),
    Time(Timestamp),
}

impl TargetArgs {
    pub(crate) fn target(&self) -> Result<Target, Failure> {
        Ok(match (self.to_position, self.to_lsn, self.to_time) {
            (None, None, None) => Target::Latest,
            (Some((shard, position)), None, None) => Target::Position(shard, position),
            (None, Some(lsn), None) => Target::Lsn(lsn),
            (None, None, Some(time)) => Target::Time(time),
            _ => return Err(Failure::new(Exit::Config, "a restore has one target")),
        })
    }
}

fn position(text: &str) -> Result<(ShardId, Position), String> {
    let wrong = || "is not SHARD:POSITION, such as s00:1190774".to_owned();
    let (shard, position) = text.split_once(':').ok_or_else(wrong)?;
    let shard = shard.strip_prefix('s').and_then(|shard| shard.parse().ok()).filter(|shard| *shard >= 0);
    let position = position.parse().ok().filter(|position| *position > 0);
    shard.zip(position).map(|(shard, position)| (ShardId(shard), Position(position))).ok_or_else(wrong)
}

impl std::fmt::Display for Aim {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Latest => f.write_str("the end of the copied WAL"),
            Self::Lsn(lsn) => write!(f, "WAL place {lsn}"),
            Self::Time(time) => write!(f, "{time}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn positions_name_their_shard() {
        assert_eq!(position("s07:12"), Ok((ShardId(7), Position(12))));
        for wrong in ["", "12", "s00:", "s00:0", "s-1:3", "x:3", "s00:1:2"] {
            assert!(position(wrong).is_err(), "{wrong}");
        }
    }
}
