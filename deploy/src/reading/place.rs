//! Places in the log as people write them.

use std::fmt;
use std::str::FromStr;

use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::ids::{Position, ShardId};

/// A shard and a position: `s00:812`. A bare number is a position of shard 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    pub(crate) shard: ShardId,
    pub(crate) position: Position,
}

impl Place {
    pub(crate) fn of(event: &StoredEvent) -> Self {
        Self { shard: event.shard, position: event.position }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.shard, self.position)
    }
}

impl FromStr for Place {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let wrong = "must be a place such as s00:812";
        let (shard, position) = match text.split_once(':') {
            Some((shard, position)) => (shard.strip_prefix('s').unwrap_or(shard), position),
            None => ("0", text),
        };
        let digits = |text: &str| !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        if !digits(shard) || !digits(position) {
            return Err(wrong);
        }
        let (shard, position) = (shard.parse().map_err(|_| wrong)?, position.parse().map_err(|_| wrong)?);
        if position < 1 { Err(wrong) } else { Ok(Self { shard: ShardId(shard), position: Position(position) }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_survive_their_text() {
        for (text, shown) in [("s07:812", "s07:812"), ("7:812", "s07:812"), ("812", "s00:812"), ("s00:1", "s00:1")] {
            assert_eq!(text.parse::<Place>().unwrap().to_string(), shown);
        }
        for text in ["", "s", "s00", "s00:", ":1", "s00:0", "-1", "s00:1:2", "s99999:1", "req_1", "s00:+1"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
