//! A whole ledger in one thread, without a clock or a thread of its own: two writers with the product's core, one simulated log,
//! clients that send again what they got no answer to, three projectors. A seed decides every delay and every fault, so a seed
//! that fails fails again:
//!
//! ```text
//! cargo run -p modelfaucet-integration-tests --bin sim -- --seed 0x5eed
//! ```
//!
//! The invariants of docs/RELIABILITY.md are checked at every append, every answer and every commit of a projector; at the end all
//! faults heal and everything must come together. A violation is a panic.

mod check;
mod client;
mod process;
mod projector;
mod random;
mod reference;
mod shop;
mod store;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};

use modelfaucet_schema::time::Timestamp;

use client::{Attempt, Client, Heard};
use process::{Call, Reply, Writer};
use projector::Projector;
use random::Random;
use reference::Reference;
use store::Store;

pub use check::Report;

/// Microseconds of simulated time.
type Micros = u64;

const MILLISECOND: Micros = 1_000;
const SECOND: Micros = 1_000_000;
/// What the processes take for the beginning of time.
const BEGINNING: i64 = 1_764_000_000_000_000;

/// Something that is going to happen.
#[derive(Debug)]
enum Happening {
    /// A client does its next thing.
    ClientActs { client: usize },
    /// A client's request reaches a writer.
    Delivered { attempt: u64 },
    /// A client hears what became of a request.
    Heard { attempt: u64, heard: Heard },
    /// A client waits no longer.
    GivesUp { attempt: u64 },
    /// A writer looks what there is to do.
    WriterWakes { writer: usize, wake: u64 },
    /// A writer's statement reaches the log.
    Arrives { call: Box<Call> },
    /// The log's answer reaches the writer.
    Answers { writer: usize, call: u64, reply: Box<Reply> },
    /// A writer that died is started again.
    WriterStarts { writer: usize },
    /// A projector reads on.
    ProjectorWakes { projector: usize },
    /// Something breaks.
    Fault,
}

/// Everything there is.
struct World {
    now: Micros,
    count: u64,
    agenda: BinaryHeap<Reverse<(Micros, u64, Slot)>>,
    random: Random,
    store: Store,
    writers: Vec<Writer>,
    clients: Vec<Client>,
    attempts: BTreeMap<u64, Attempt>,
    projectors: Vec<Projector>,
    tables: Vec<modelfaucet_projector::memory::MemoryStore>,
    reference: Reference,
    /// Commands that clients may still begin.
    left: u32,
    /// No more faults.
    healed: bool,
    notes: check::Notes,
    report: Report,
}

/// A happening does not take part in the order of the agenda.
#[derive(Debug)]
struct Slot(Happening);

impl PartialEq for Slot {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Slot {}

impl PartialOrd for Slot {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Slot {
    fn cmp(&self, _: &Self) -> std::cmp::Ordering {
        std::cmp::Ordering::Equal
    }
}

/// Runs a seed with `commands` client commands.
///
/// # Panics
/// If an invariant does not hold.
pub fn run(seed: u64, commands: u32) -> Report {
    let mut world = World::new(seed, commands);
    while world.left > 0 || !world.clients.iter().all(Client::is_idle) {
        assert!(world.now < 100_000 * SECOND, "the clients do not come to an end");
        world.next();
    }
    world.heal();
    // Longer than any hold lasts, and than the clocks were ever ahead, together.
    let end = world.now + 720 * SECOND;
    world.skip_to(end);
    world.check_end();
    world.report
}

/// Runs a seed twice; the same must happen both times. On a failure it prints the line that repeats it.
///
/// # Panics
/// If an invariant does not hold, or the two runs differ.
pub fn run_twice(seed: u64, commands: u32) -> Report {
    let twice = std::panic::catch_unwind(|| (run(seed, commands), run(seed, commands)));
    let line =
        format!("cargo run -p modelfaucet-integration-tests --bin sim -- --seed {seed:#x} --commands {commands}");
    let (first, second) = twice.unwrap_or_else(|panic| {
        eprintln!("repeat with: {line}");
        std::panic::resume_unwind(panic)
    });
    assert_eq!(first, second, "two runs of one seed differ; repeat with: {line}");
    first
}

impl World {
    fn schedule(&mut self, delay: Micros, happening: Happening) {
        self.count += 1;
        self.agenda.push(Reverse((self.now + delay, self.count, Slot(happening))));
    }

    /// Takes the next happening from the agenda.
    fn next(&mut self) {
        let Some(Reverse((time, _, Slot(happening)))) = self.agenda.pop() else { panic!("nothing is going to happen") };
        self.now = time;
        self.report.happenings += 1;
        match happening {
            Happening::ClientActs { client } => self.client_acts(client),
            Happening::Delivered { attempt } => self.delivered(attempt),
            Happening::Heard { attempt, heard } => self.heard(attempt, heard),
            Happening::GivesUp { attempt } => self.gives_up(attempt),
            Happening::WriterWakes { writer, wake } => self.writer_wakes(writer, wake),
            Happening::Arrives { call } => self.arrives(&call),
            Happening::Answers { writer, call, reply } => self.answers(writer, call, *reply),
            Happening::WriterStarts { writer } => self.start_writer(writer),
            Happening::ProjectorWakes { projector } => self.projector_wakes(projector),
            Happening::Fault => self.fault(),
        }
    }

    /// What somebody's clock shows that is off by `offset` microseconds.
    fn clock(&self, offset: i64) -> Timestamp {
        Timestamp::from_micros(BEGINNING + i64::try_from(self.now).unwrap_or(i64::MAX) + offset)
    }

    /// Adds to the trace: what happened when.
    fn trace(&mut self, what: &str, numbers: &[u64]) {
        let now = self.now;
        self.report.trace(what, std::iter::once(&now).chain(numbers));
    }

    fn fault(&mut self) {
        if self.healed {
            return;
        }
        let pause = self.random.between(20 * MILLISECOND, 2 * SECOND);
        self.schedule(pause, Happening::Fault);
        let writer = self.random.index(self.writers.len());
        match self.random.below(8) {
            0..3 => self.kill_writer(writer),
            3..5 => {
                let offset = self.random.between(0, 1_200 * SECOND);
                self.writers[writer].clock_offset = i64::try_from(offset).unwrap_or(0) - 600_000_000;
                self.report.clock_jumps += 1;
            }
            5 => self.store.take_snapshot(),
            6 => self.store.drop_snapshot(),
            _ => {
                let projector = self.random.index(self.projectors.len());
                self.restart_projector(projector);
            }
        }
    }
}
