//! Positions and the hash chain. Events and batches come in order, as they are stored; whatever is wrong is named, and the stored
//! hash is the base for what follows, so one damage does not hide the next.
//!
//! What the chain can tell: missing, repeated and uncovered positions exactly; an edit as the batch that it is in. If the next
//! batch still names the right hash, or a batch hashes from the right one, the damage is in the batch's own row.

use std::collections::VecDeque;

use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::hash::{BatchHasher, ChainHash};
use modelfaucet_schema::ids::{BatchId, Position, ShardId};
use modelfaucet_schema::log::{Head, from_system_time};
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::{Error, Row};

use super::report::{Check, Findings};

/// A row of `ledger.batch`.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) id: BatchId,
    pub(super) previous: Option<ChainHash>,
    pub(super) hash: Option<ChainHash>,
    pub(super) committed_at: Timestamp,
}

impl Link {
    pub(super) fn read(row: &Row) -> Result<Self, Error> {
        Ok(Self {
            first: row.try_get(0)?,
            last: row.try_get(1)?,
            id: BatchId(row.try_get(2)?),
            previous: ChainHash::from_slice(row.try_get(3)?),
            hash: ChainHash::from_slice(row.try_get(4)?),
            committed_at: from_system_time(row.try_get(5)?),
        })
    }

    fn positions(&self) -> (i64, i64) {
        (self.first, self.last)
    }

    fn hasher(&self, shard: ShardId, previous: ChainHash) -> BatchHasher {
        BatchHasher::new(previous, shard, Position(self.first), Position(self.last), self.id, self.committed_at)
    }
}

/// What a batch has to follow.
#[derive(Clone, Copy, Debug, Default)]
struct Base {
    first: i64,
    /// The hash that is stored; unknown behind a gap.
    stored: Option<ChainHash>,
    /// The hash that it should be, if that is another one.
    right: Option<ChainHash>,
}

/// The batch whose events are coming.
struct Open {
    link: Link,
    /// Does it name the hash that the batch before it has?
    joined: bool,
    /// From the hash that it names.
    own: Option<BatchHasher>,
    /// From the hash that the batch before it has, where that is another one.
    other: Option<BatchHasher>,
    events: u64,
    /// Positions recorded at another time than the batch: first, last, how many.
    untimely: Option<(i64, i64, u64)>,
}

/// Follows one shard.
pub(super) struct Chain {
    shard: ShardId,
    links: VecDeque<Link>,
    base: Base,
    open: Option<Open>,
    /// Where the next batch begins.
    begins: i64,
    /// The position that comes next.
    expected: i64,
    /// Heads behind the batches that have ended, with their stored hashes.
    pub(super) ended: Vec<Head>,
    pub(super) batches: u64,
}

impl Chain {
    /// A chain that begins at position `from`, behind `base` if that is known.
    pub(super) fn new(shard: ShardId, from: i64, base: Option<ChainHash>) -> Self {
        let base = Base { first: from, stored: base, right: None };
        Self {
            shard,
            links: VecDeque::new(),
            base,
            open: None,
            begins: from,
            expected: from,
            ended: Vec::new(),
            batches: 0,
        }
    }

    /// Takes batches, in the order of their last positions. Those that hold an event must come before it.
    pub(super) fn extend(&mut self, links: impl IntoIterator<Item = Link>) {
        self.links.extend(links);
    }

    /// The position that comes next.
    pub(super) fn expected(&self) -> i64 {
        self.expected
    }

    /// Takes the next event; `None` for a row at this position that cannot be read.
    pub(super) fn event(&mut self, position: i64, event: Option<&StoredEvent>, findings: &mut Findings) {
        if position < self.expected {
            findings.add(Check::Positions, self.shard, (position, position), "comes twice or out of order");
            return;
        }
        self.missing_before(position, findings);
        self.expected = position.saturating_add(1);
        while self.open.is_some() || self.open_next(findings) {
            match &mut self.open {
                Some(open) if position > open.link.last => self.close(findings),
                Some(open) if position >= open.link.first => {
                    if let Some(event) = event {
                        open.feed(event);
                    }
                    return;
                }
                // In no batch, which was said when the next batch was opened.
                _ => return,
            }
        }
    }

    /// Ends what is open and says what is missing at the end.
    pub(super) fn finish(&mut self, findings: &mut Findings) {
        let in_batches = self.links.iter().chain(self.open.iter().map(|open| &open.link)).map(|link| link.last).max();
        let end = self.expected.saturating_sub(1);
        if let Some(last) = in_batches {
            self.missing_before(last.saturating_add(1), findings);
        }
        while self.open.is_some() || self.open_next(findings) {
            self.close(findings);
        }
        if self.begins <= end {
            findings.add(Check::Chain, self.shard, (self.begins, end), "are in no batch");
        }
    }

    fn missing_before(&mut self, position: i64, findings: &mut Findings) {
        if position > self.expected {
            let missing = (self.expected, position - 1);
            findings.add(
                Check::Positions,
                self.shard,
                missing,
                if missing.0 == missing.1 { "is missing" } else { "are missing" },
            );
        }
    }

    fn open_next(&mut self, findings: &mut Findings) -> bool {
        let Some(link) = self.links.pop_front() else { return false };
        self.batches += 1;
        if link.first > self.begins {
            findings.add(Check::Chain, self.shard, (self.begins, link.first - 1), "are in no batch");
            // Its predecessor is not there to be compared with.
            self.base = Base { first: link.first, stored: link.previous, right: None };
        } else if link.first < self.begins || link.last < link.first {
            let what = format!(
                "the batch begins at {} and ends at {}, but the one before ends at {}",
                link.first,
                link.last,
                self.begins - 1
            );
            findings.add(Check::Chain, self.shard, link.positions(), what);
        }
        let named = link.previous;
        let by_right = named.is_some() && self.base.right.is_some() && named == self.base.right;
        if by_right {
            findings.amend(
                Check::Chain,
                "; its stored hash was changed, not its content: the next batch follows from the right hash",
            );
        }
        let joined = by_right || self.base.stored.is_none() || (named.is_some() && named == self.base.stored);
        let own = named.map(|hash| link.hasher(self.shard, hash));
        let other = self.base.stored.filter(|_| !joined).map(|hash| link.hasher(self.shard, hash));
        self.open = Some(Open { link, joined, own, other, events: 0, untimely: None });
        true
    }

    fn close(&mut self, findings: &mut Findings) {
        let Some(open) = self.open.take() else { return };
        let Open { link, joined, own, other, events, untimely } = open;
        let (own, other) = (own.map(BatchHasher::finish), other.map(BatchHasher::finish));
        if let Some((first, last, count)) = untimely {
            let what = format!("{count} of {events} events were recorded at another time than their batch");
            findings.add(Check::Times, self.shard, (first, last), what);
        }
        let size = i128::from(link.last) - i128::from(link.first) + 1;
        let complete = i128::from(events) == size;
        let holds = |hash: Option<ChainHash>| complete && hash.is_some() && hash == link.hash;
        let before = (self.base.first, link.last);
        if !joined && holds(other) {
            findings.add(
                Check::Chain,
                self.shard,
                link.positions(),
                "the batch's row names another hash before it than there is",
            );
        } else if !joined && holds(own) {
            findings.add(
                Check::Chain,
                self.shard,
                before,
                "two batches do not join: what is before the second was written anew",
            );
        } else if !joined {
            findings.add(
                Check::Chain,
                self.shard,
                link.positions(),
                "the batch does not follow the one before it and was changed",
            );
        } else if complete && !holds(own) {
            findings.add(
                Check::Chain,
                self.shard,
                link.positions(),
                "an event of this batch or the batch's row was changed",
            );
        }
        let right = own.filter(|own| complete && Some(*own) != link.hash);
        self.base = Base { first: link.first, stored: link.hash, right };
        self.begins = self.begins.max(link.last.saturating_add(1));
        self.ended.push(Head { position: Position(link.last), hash: link.hash.unwrap_or(ChainHash([0; 32])) });
    }
}

impl Open {
    fn feed(&mut self, event: &StoredEvent) {
        self.events += 1;
        if let Some(own) = &mut self.own {
            own.event(event);
        }
        if let Some(other) = &mut self.other {
            other.event(event);
        }
        if event.recorded_at != self.link.committed_at {
            let at = event.position.0;
            let (first, _, count) = self.untimely.unwrap_or((at, at, 0));
            self.untimely = Some((first, at, count + 1));
        }
    }
}

#[cfg(test)]
mod tests {
    use modelfaucet_schema::ids::LogId;
    use modelfaucet_schema::log::AppendBatch;
    use uuid::Uuid;

    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn event(position: i64) -> StoredEvent {
        StoredEvent {
            shard: SHARD,
            position: Position(position),
            stream: "shard:0".into(),
            stream_seq: position,
            name: "Frozen".into(),
            version: 1,
            recorded_at: Timestamp::from_micros(5),
            actor: "admin".into(),
            request_id: "r".into(),
            key: None,
            payload: position.to_string().into_bytes(),
        }
    }

    /// Five batches of four events.
    fn log() -> (Vec<Link>, Vec<StoredEvent>) {
        let mut head = Head::genesis(LogId(Uuid::nil()), SHARD);
        let (mut links, mut events) = (Vec::new(), Vec::new());
        for number in 0..5_u128 {
            let first = head.position.0 + 1;
            let batch: Vec<_> = (first..first + 4).map(event).collect();
            let sealed = AppendBatch::seal(
                SHARD,
                head,
                BatchId(Uuid::from_u128(number)),
                Timestamp::from_micros(5),
                batch.clone(),
            );
            links.push(Link {
                first,
                last: first + 3,
                id: sealed.id(),
                previous: Some(head.hash),
                hash: Some(sealed.head().hash),
                committed_at: sealed.recorded_at(),
            });
            events.extend(batch);
            head = sealed.head();
        }
        (links, events)
    }

    type Damage = fn(&mut Vec<Link>, &mut Vec<StoredEvent>);

    /// Damages the log and lists what is found: `chain 5..8`.
    fn found(damage: Damage) -> Vec<String> {
        let (mut links, mut events) = log();
        damage(&mut links, &mut events);
        links.sort_by_key(|link| link.last);
        let mut findings = Findings::new();
        let mut chain = Chain::new(SHARD, 1, Some(ChainHash::genesis(LogId(Uuid::nil()), SHARD)));
        chain.extend(links);
        for event in &events {
            chain.event(event.position.0, Some(event), &mut findings);
        }
        chain.finish(&mut findings);
        findings.places()
    }

    const OTHER: Option<ChainHash> = Some(ChainHash([7; 32]));

    #[test]
    fn every_damage_is_located_and_does_not_spread() {
        let cases: &[(&str, Damage, &[&str])] = &[
            ("nothing", |_, _| {}, &[]),
            ("a payload", |_, events| events[5].payload.push(b'!'), &["chain 5..8"]),
            (
                "two payloads of one batch, swapped",
                |_, events| {
                    let payload = std::mem::take(&mut events[4].payload);
                    events[4].payload = std::mem::replace(&mut events[6].payload, payload);
                },
                &["chain 5..8"],
            ),
            (
                "two batches",
                |_, events| {
                    events[0].actor.push('!');
                    events[17].request_id.push('!');
                },
                &["chain 1..4", "chain 17..20"],
            ),
            ("a time", |_, events| events[9].recorded_at = Timestamp::from_micros(6), &["times 10", "chain 9..12"]),
            ("a row, deleted", |_, events| drop(events.remove(10)), &["positions 11"]),
            ("the first row, deleted", |_, events| drop(events.remove(0)), &["positions 1"]),
            ("a whole batch's rows, deleted", |_, events| drop(events.drain(4..8)), &["positions 5..8"]),
            ("the last rows, deleted", |_, events| events.truncate(17), &["positions 18..20"]),
            ("a row, doubled", |_, events| events.insert(3, event(3)), &["positions 3"]),
            ("a row behind the end", |_, events| events.push(event(21)), &["chain 21"]),
            ("a row far behind the end", |_, events| events.push(event(30)), &["positions 21..29", "chain 21..30"]),
            ("a stored hash", |links, _| links[1].hash = OTHER, &["chain 5..8"]),
            ("the last stored hash", |links, _| links[4].hash = OTHER, &["chain 17..20"]),
            ("a previous hash", |links, _| links[2].previous = OTHER, &["chain 9..12"]),
            ("the first previous hash", |links, _| links[0].previous = OTHER, &["chain 1..4"]),
            ("a batch's id", |links, _| links[2].id = BatchId(Uuid::from_u128(77)), &["chain 9..12"]),
            ("a batch's row, deleted", |links, _| links.retain(|link| link.first != 13), &["chain 13..16"]),
            ("the last batch's row, deleted", |links, _| links.truncate(4), &["chain 17..20"]),
            (
                "a batch's time",
                |links, _| links[2].committed_at = Timestamp::from_micros(6),
                &["times 9..12", "chain 9..12"],
            ),
            ("the last batch's end", |links, _| links[4].last = 23, &["positions 21..23"]),
            (
                "a batch, written anew",
                |links, events| {
                    events[5].payload.push(b'!');
                    let mut hasher = links[1].hasher(SHARD, links[0].hash.unwrap());
                    events[4..8].iter().for_each(|event| hasher.event(event));
                    links[1].hash = Some(hasher.finish());
                },
                &["chain 5..12"],
            ),
        ];
        for (name, damage, expected) in cases {
            assert_eq!(found(*damage), *expected, "{name}");
        }
    }

    #[test]
    fn a_moved_end_is_found_where_it_was() {
        let places = found(|links, _| links[1].last = 10);
        assert!(places.contains(&"chain 9..12".to_owned()), "{places:?}");
        let places = found(|links, _| links[1].last = 1_000);
        assert!(places.contains(&"chain 5..8".to_owned()), "{places:?}");
    }
}
