//! The log as PostgreSQL keeps it: `ledger.append()` with its head check by position and hash, the keys, and a snapshot.

use std::collections::HashMap;
use std::sync::Arc;

use modelfaucet_command::domain::State;
use modelfaucet_projector::fold::Span;
use modelfaucet_schema::event::{Recorded, StoredEvent};
use modelfaucet_schema::hash::BatchHasher;
use modelfaucet_schema::ids::{BatchId, LogId, ShardId};
use modelfaucet_schema::log::{AppendBatch, Head, Page};
use modelfaucet_schema::time::Timestamp;
use uuid::Uuid;

/// Why nothing was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NotAppended {
    HeadMoved,
    KeysUsed,
    /// A lock or statement timeout, a full disk.
    Refused,
}

struct Link {
    head: Head,
    id: BatchId,
    recorded_at: Timestamp,
}

/// The log of the one shard.
pub(super) struct Store {
    pub(super) shard: ShardId,
    pub(super) log_id: LogId,
    stored: Vec<StoredEvent>,
    pub(super) events: Vec<Recorded>,
    links: Vec<Link>,
    keys: HashMap<Uuid, usize>,
    snapshot: Option<(Head, Vec<u8>)>,
}

impl Store {
    pub(super) fn new(log_id: LogId) -> Self {
        let shard = ShardId(0);
        let (stored, events, links) = (Vec::new(), Vec::new(), Vec::new());
        Self { shard, log_id, stored, events, links, keys: HashMap::new(), snapshot: None }
    }

    pub(super) fn genesis(&self) -> Head {
        Head::genesis(self.log_id, self.shard)
    }

    pub(super) fn head(&self) -> Head {
        self.links.last().map_or_else(|| self.genesis(), |link| link.head)
    }

    /// What `ledger.append()` does. How many events are new.
    pub(super) fn append(&mut self, batch: &AppendBatch) -> Result<usize, NotAppended> {
        if batch.previous() != self.head() {
            let already = self.links.iter().rev().any(|link| link.id == batch.id() && link.head == batch.head());
            return if already { Ok(0) } else { Err(NotAppended::HeadMoved) };
        }
        let used = |event: &StoredEvent| event.key.is_some_and(|used| self.keys.contains_key(&used.key));
        if batch.events().iter().any(used) {
            return Err(NotAppended::KeysUsed);
        }
        for event in batch.events() {
            let recorded = event.decode().expect("an event that was appended decodes");
            if let Some(used) = recorded.key {
                assert!(self.keys.insert(used.key, self.events.len()).is_none(), "I2: a key twice in one batch");
            }
            self.stored.push(event.clone());
            self.events.push(recorded);
        }
        self.links.push(Link { head: batch.head(), id: batch.id(), recorded_at: batch.recorded_at() });
        Ok(batch.events().len())
    }

    /// The events that answer these keys.
    pub(super) fn find(&self, keys: &[Uuid]) -> HashMap<Uuid, Arc<Recorded>> {
        keys.iter().filter_map(|key| Some((*key, Arc::new(self.event_of(*key)?.clone())))).collect()
    }

    /// The event that answers a key.
    pub(super) fn event_of(&self, key: Uuid) -> Option<&Recorded> {
        self.events.get(*self.keys.get(&key)?)
    }

    /// How many batches lie up to a head; `None` if no batch ends there.
    fn place(&self, head: Head) -> Option<usize> {
        if head == self.genesis() {
            return Some(0);
        }
        self.links.iter().rposition(|link| link.head == head).map(|index| index + 1)
    }

    fn behind(&self, after: Head, batches: usize) -> (Head, &[Recorded], &[Link]) {
        let place = self.place(after).expect("I7: whoever reads on stands at a link of the log");
        let links = &self.links[place..self.links.len().min(place.saturating_add(batches))];
        let head = links.last().map_or(after, |link| link.head);
        let index = |head: Head| usize::try_from(head.position.0).unwrap_or(usize::MAX);
        (head, &self.events[index(after)..index(head)], links)
    }

    /// The next batches for a writer.
    pub(super) fn page(&self, after: Head, batches: usize) -> Page {
        let (head, events, _) = self.behind(after, batches);
        Page { after, head, events: events.to_vec() }
    }

    /// The next batches for a projector.
    pub(super) fn span(&self, after: Head, batches: usize) -> Span {
        let (_, events, links) = self.behind(after, batches);
        Span {
            after,
            links: links.iter().map(|link| link.head).collect(),
            events: events.iter().cloned().map(Arc::new).collect(),
        }
    }

    /// The head so many batches away.
    pub(super) fn neighbour(&self, head: Head, batches: isize) -> Head {
        let place = self.place(head).unwrap_or(0).saturating_add_signed(batches).min(self.links.len());
        place.checked_sub(1).map_or_else(|| self.genesis(), |index| self.links[index].head)
    }

    /// Folds the newest snapshot on to the end and keeps that.
    pub(super) fn take_snapshot(&mut self) {
        let (state, head) = self.load();
        self.snapshot = Some((head, serde_json::to_vec(&state).expect("a state serializes")));
    }

    pub(super) fn drop_snapshot(&mut self) {
        self.snapshot = None;
    }

    /// What a writer starts from: the snapshot and the tail.
    pub(super) fn load(&self) -> (State, Head) {
        let (mut state, start) = match &self.snapshot {
            Some((head, bytes)) => (serde_json::from_slice(bytes).expect("a snapshot decodes"), *head),
            None => (State::default(), self.genesis()),
        };
        let (head, events, _) = self.behind(start, usize::MAX);
        for event in events {
            state.evolve(event);
        }
        state.commit();
        (state, head)
    }

    /// I7: the chain, computed again.
    pub(super) fn check_chain(&self) {
        let mut head = self.genesis();
        for link in &self.links {
            let mut hasher = BatchHasher::new(
                head.hash,
                self.shard,
                head.position.next(),
                link.head.position,
                link.id,
                link.recorded_at,
            );
            let index = |head: Head| usize::try_from(head.position.0).unwrap_or(usize::MAX);
            self.stored[index(head)..index(link.head)].iter().for_each(|event| hasher.event(event));
            head = Head { position: link.head.position, hash: hasher.finish() };
            assert_eq!(head, link.head, "I7: the chain does not hold");
        }
    }
}
