//! Idempotency keys: the table that answers repeats must name exactly the events that have a key. Both are read by position.

use std::collections::VecDeque;

use modelfaucet_schema::ids::ShardId;
use tokio_postgres::{Error, Row};
use uuid::Uuid;

use super::report::{Check, Findings};

/// A row of `ledger.idempotency`: position and key.
pub(super) type KeyRow = (i64, Option<Uuid>);

pub(super) fn read(row: &Row) -> Result<KeyRow, Error> {
    Ok((row.try_get(0)?, row.try_get(1)?))
}

/// Merges the table with the events.
pub(super) struct Keys {
    shard: ShardId,
    rows: VecDeque<KeyRow>,
}

impl Keys {
    pub(super) fn new(shard: ShardId) -> Self {
        Self { shard, rows: VecDeque::new() }
    }

    /// Takes rows, in the order of positions. Those of an event must come before it.
    pub(super) fn extend(&mut self, rows: impl IntoIterator<Item = KeyRow>) {
        self.rows.extend(rows);
    }

    /// Takes the next event's key.
    pub(super) fn event(&mut self, position: i64, key: Option<Uuid>, findings: &mut Findings) {
        let mut found = false;
        let mut other = false;
        while let Some((at, row)) = self.rows.front().copied().filter(|(at, _)| *at <= position) {
            self.rows.pop_front();
            if at < position {
                self.stray(at, findings);
            } else if row.is_some() && row == key && !found {
                found = true;
            } else {
                other = true;
            }
        }
        findings.checked(Check::Keys, u64::from(found));
        let what = match (key, found, other) {
            (_, true, false) | (None, _, false) => return,
            (Some(_), false, false) => "the event's key is missing in ledger.idempotency",
            (Some(_), false, true) => "ledger.idempotency has another key than the event",
            (Some(_), true, true) => "ledger.idempotency has a second key for this event",
            (None, _, true) => "ledger.idempotency has a key for an event without one",
        };
        findings.add(Check::Keys, self.shard, (position, position), what);
    }

    /// What is left names no event.
    pub(super) fn finish(&mut self, findings: &mut Findings) {
        while let Some((at, _)) = self.rows.pop_front() {
            self.stray(at, findings);
        }
    }

    fn stray(&self, at: i64, findings: &mut Findings) {
        findings.add(Check::Keys, self.shard, (at, at), "ledger.idempotency names this position, which has no event");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(rows: &[(i64, u128)]) -> Vec<String> {
        let mut findings = Findings::new();
        let mut keys = Keys::new(ShardId(0));
        keys.extend(rows.iter().map(|(at, key)| (*at, Some(Uuid::from_u128(*key)))));
        for (position, key) in [(1, None), (2, Some(20)), (3, Some(30)), (5, None)] {
            keys.event(position, key.map(Uuid::from_u128), &mut findings);
        }
        keys.finish(&mut findings);
        findings.places()
    }

    #[test]
    fn table_and_events_name_the_same_keys() {
        type Case = (&'static [(i64, u128)], &'static [&'static str]);
        let cases: &[Case] = &[
            (&[(2, 20), (3, 30)], &[]),
            (&[(2, 20)], &["keys 3"]),
            (&[(2, 20), (3, 31)], &["keys 3"]),
            (&[(2, 30), (3, 20)], &["keys 2", "keys 3"]),
            (&[(1, 10), (2, 20), (3, 30)], &["keys 1"]),
            (&[(2, 20), (2, 21), (3, 30)], &["keys 2"]),
            (&[(2, 20), (4, 30)], &["keys 3", "keys 4"]),
            (&[(2, 20), (3, 30), (9, 90)], &["keys 9"]),
        ];
        for (rows, expected) in cases {
            assert_eq!(found(rows), *expected, "{rows:?}");
        }
    }
}
