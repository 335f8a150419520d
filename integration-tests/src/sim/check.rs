//! The beginning, the end, and what is counted on the way.

use std::collections::{BTreeMap, BinaryHeap, HashMap};

use modelfaucet_command::domain::{Caller, State};
use modelfaucet_command::writer::core::{Core, Step, Submission};
use modelfaucet_projector::memory::MemoryStore;
use modelfaucet_projector::projection;
use modelfaucet_schema::event::{Event, FreezeScope};
use modelfaucet_schema::ids::{BatchId, LogId, Position, TopUpId};
use modelfaucet_schema::time::Timestamp;
use uuid::Uuid;

use super::process::Writer;
use super::random::Random;
use super::reference::Reference;
use super::store::Store;
use super::{BEGINNING, Client, Happening, MILLISECOND, SECOND, World, shop};

/// What a run came to. Two runs of one seed give the same.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// Hash over everything that happened.
    pub hash: u64,
    /// Steps of the scheduler.
    pub happenings: u64,
    /// Simulated seconds until all clients were content.
    pub seconds: u64,
    /// Requests sent, repeats included.
    pub attempts: u64,
    /// Events in the log.
    pub events: u64,
    /// Commands answered with an effect of their own.
    pub accepted: u64,
    /// Commands answered with an earlier effect.
    pub replayed: u64,
    /// Refusals by code.
    pub refusals: BTreeMap<&'static str, u64>,
    /// Requests that waited too long in a queue.
    pub overloaded: u64,
    /// Requests without an answer.
    pub in_doubt: u64,
    /// Statements whose connection broke.
    pub broken: u64,
    /// Appends that found another head.
    pub head_moved: u64,
    /// Appends that found their keys used.
    pub keys_used: u64,
    /// Appends that found themselves in the log.
    pub already: u64,
    /// Writers killed.
    pub kills: u64,
    /// Clocks moved.
    pub clock_jumps: u64,
    /// Commits of projectors.
    pub commits: u64,
    /// Projectors restarted.
    pub projector_restarts: u64,
}

/// What is known about the commands so far.
#[derive(Default)]
pub(super) struct Notes {
    /// The highest position that a client was told.
    pub(super) told: Position,
    /// Top-ups that were requested.
    pub(super) top_ups: Vec<TopUpId>,
    /// Freezes that are on, the newest last.
    pub(super) frozen: Vec<FreezeScope>,
    /// Where the effect of each attempt is.
    pub(super) effects: HashMap<u64, Position>,
}

impl Report {
    /// Mixes a line into the trace (FNV-1a).
    pub(super) fn trace<'a>(&mut self, what: &str, numbers: impl Iterator<Item = &'a u64>) {
        let bytes = what.bytes().chain(numbers.flat_map(|number| number.to_be_bytes()));
        self.hash = bytes.fold(self.hash, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    }

    /// Adds another run's counts.
    pub fn add(&mut self, other: &Self) {
        self.accepted += other.accepted;
        self.replayed += other.replayed;
        self.in_doubt += other.in_doubt;
        self.already += other.already;
        self.head_moved += other.head_moved;
        self.keys_used += other.keys_used;
        self.kills += other.kills;
        self.clock_jumps += other.clock_jumps;
        self.projector_restarts += other.projector_restarts;
        for (code, count) in &other.refusals {
            *self.refusals.entry(code).or_default() += count;
        }
    }

    pub(super) fn answered(&mut self, replayed: bool) {
        *if replayed { &mut self.replayed } else { &mut self.accepted } += 1;
    }

    pub(super) fn refused(&mut self, code: &'static str) {
        *self.refusals.entry(code).or_default() += 1;
    }
}

impl World {
    pub(super) fn new(seed: u64, commands: u32) -> Self {
        let mut random = Random::new(seed);
        let store = Store::new(LogId(random.uuid()));
        let projections = projection::all();
        let tables = (0..2).map(|_| MemoryStore::new(&projections, store.log_id, store.genesis())).collect();
        let mut world = Self {
            now: 0,
            count: 0,
            agenda: BinaryHeap::new(),
            random,
            store,
            writers: (0..2).map(|_| Writer::down()).collect(),
            clients: (0..8).map(|_| Client::default()).collect(),
            attempts: BTreeMap::new(),
            projectors: Vec::new(),
            tables,
            reference: Reference::default(),
            left: commands,
            healed: false,
            notes: Notes::default(),
            report: Report { hash: 0xcbf2_9ce4_8422_2325, ..Report::default() },
        };
        world.append_beginning();
        for writer in 0..2 {
            world.start_writer(writer);
        }
        for client in 0..world.clients.len() {
            let delay = world.random.below(20 * MILLISECOND);
            world.schedule(delay, Happening::ClientActs { client });
        }
        for (projector, tables) in [0, 0, 1].into_iter().enumerate() {
            world.projectors.push(world.projector(tables));
            world.schedule(MILLISECOND, Happening::ProjectorWakes { projector });
        }
        world.schedule(SECOND, Happening::Fault);
        world
    }

    fn append_beginning(&mut self) {
        let mut core: Core<u64> = Core::new(self.store.shard, self.store.log_id, State::default(), self.store.head());
        let submission = |command| Submission {
            caller: Caller::Operator,
            command,
            request_id: "0".into(),
            key: None,
            give_up_at: Timestamp::from_micros(i64::MAX),
            reply: Some(0),
        };
        let mut queue = shop::beginning().into_iter().map(submission).collect();
        let step = core.plan(&mut queue, Timestamp::from_micros(BEGINNING), BatchId(Uuid::nil()), &mut Vec::new());
        let Step::Append(batch) = step else { panic!("the beginning is refused") };
        let events = self.store.append(&batch).expect("an empty log takes the beginning");
        self.appended(events);
    }

    /// Looks at the newest events.
    pub(super) fn appended(&mut self, events: usize) {
        let from = self.store.events.len() - events;
        self.reference.take_in(&self.store.events[from..]);
        let first = self.store.events[from].position;
        for recorded in &self.store.events[from..] {
            self.report.trace(recorded.event.name(), [recorded.position.0.cast_unsigned()].iter());
            let attempt = recorded.request_id.parse().unwrap_or(0);
            let before = self.notes.effects.insert(attempt, recorded.position);
            let again = before.is_some_and(|before| before < first);
            assert!(attempt == 0 || !again, "I1: attempt {attempt} has two effects: {:?}", recorded.event);
            match &recorded.event {
                Event::Frozen(event) => self.notes.frozen.push(event.scope),
                Event::Thawed(event) => self.notes.frozen.retain(|scope| *scope != event.scope),
                _ => {}
            }
        }
        self.report.events += events as u64;
    }

    /// All faults end; soon nobody lags behind where the log was.
    pub(super) fn heal(&mut self) {
        self.healed = true;
        self.report.seconds = self.now / SECOND;
        for writer in &mut self.writers {
            writer.clock_offset = 0;
        }
        let head = self.store.head().position;
        self.skip_to(self.now + 5 * SECOND);
        for writer in &self.writers {
            let core = writer.core.as_ref().expect("I16: a writer is down");
            assert!(core.head().position >= head, "I16: a writer lags");
        }
        for tables in &self.tables {
            assert!(tables.projections[0].checkpoint.position >= head, "I16: a projector lags");
        }
    }

    pub(super) fn skip_to(&mut self, end: u64) {
        while self.now < end {
            self.next();
        }
    }

    /// I16, and everything that can be said of a whole log.
    pub(super) fn check_end(&mut self) {
        self.store.check_chain();
        let mut fold = State::default();
        self.store.events.iter().for_each(|event| fold.evolve(event));
        fold.commit();
        assert!(self.store.load().0 == fold, "snapshot and tail give the fold of the log");
        for writer in &self.writers {
            let core = writer.core.as_ref().expect("I16: a writer is down");
            assert_eq!(core.head(), self.store.head(), "I16: a writer lags");
            assert!(*core.state() == fold, "I9: a writer's state is not the fold of the log");
        }
        assert_eq!(self.reference.open_holds().next(), None, "I10: an overdue hold is open");
        assert!(fold.sessions.is_empty(), "an overdue session is live");
        self.check_rebuild();
        let head = self.store.head();
        let hash = head.hash.0[..8].iter().fold(0, |hash, byte| hash << 8 | u64::from(*byte));
        self.report.trace("end", [head.position.0.cast_unsigned(), hash].iter());
    }
}
