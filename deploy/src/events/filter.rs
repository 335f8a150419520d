//! Which events are wanted.

use std::str::FromStr;

use modelfaucet_schema::event::Event;
use modelfaucet_schema::ids::{ShardId, StreamId};

use crate::reading::{Place, Wanted};

/// All that is said has to be true.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct Filter {
    /// Only these types, such as HoldPlaced,HoldCaptured
    #[arg(long = "type", value_name = "TYPES", value_delimiter = ',', value_parser = known_type)]
    types: Vec<String>,
    /// Only of this stream, such as wallet:0199c6f2-0000-7000-8000-000000000001
    #[arg(long, value_name = "KIND:ID")]
    stream: Option<StreamId>,
    /// Only by this actor, such as admin or operator:ID
    #[arg(long, value_name = "ACTOR")]
    actor: Option<String>,
    /// Only of this request
    #[arg(long, value_name = "ID")]
    request: Option<String>,
    /// Only with this text in the stored form; case counts
    #[arg(long, value_name = "TEXT")]
    text: Option<String>,
}

fn known_type(text: &str) -> Result<String, String> {
    if Event::KINDS.iter().any(|(name, _)| *name == text) {
        return Ok(text.to_owned());
    }
    let near: Vec<&str> = Event::KINDS
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| name.to_lowercase().contains(&text.to_lowercase()))
        .collect();
    let hint = if near.is_empty() { String::new() } else { format!("; there is {}", near.join(", ")) };
    Err(format!("is no type of event{hint}"))
}

impl Filter {
    pub(super) fn wanted(&self) -> Wanted {
        Wanted {
            stream: self.stream.map(|stream| stream.to_string()),
            types: (!self.types.is_empty()).then(|| self.types.clone()),
            actor: self.actor.clone(),
            request_id: self.request.clone(),
            text: self.text.as_ref().map(|text| text.as_bytes().to_vec()),
        }
    }
}

/// Positions of one shard, both ends included.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub(crate) shard: ShardId,
    pub(crate) first: i64,
    pub(crate) last: i64,
}

impl FromStr for Span {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (first, last) = text.split_once("..").map_or((text, None), |(first, last)| (first, Some(last)));
        let Place { shard, position } = first.parse()?;
        let last = match last {
            None => position.0,
            Some(last) => last.parse().map_err(|_| "must end with a position, such as s00:812..820")?,
        };
        if last < position.0 { Err("ends before it begins") } else { Ok(Self { shard, first: position.0, last }) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_span_is_a_place_or_a_range() {
        assert_eq!("s07:3".parse(), Ok(Span { shard: ShardId(7), first: 3, last: 3 }));
        assert_eq!("3..9".parse(), Ok(Span { shard: ShardId(0), first: 3, last: 9 }));
        for text in ["s07:9..3", "s07:3..", "s07:3..x", "s07", "..3"] {
            assert!(text.parse::<Span>().is_err(), "{text}");
        }
    }

    #[test]
    fn an_unknown_type_is_answered_with_what_there_is() {
        assert!(known_type("HoldPlaced").is_ok());
        assert!(known_type("holdpl").is_err_and(|hint| hint.contains("HoldPlaced")));
    }
}
