use proptest::prelude::*;
use sha2::{Digest as _, Sha256};

use super::*;

const SHARD: ShardId = ShardId(0);

#[test]
fn a_fork_names_what_is_lost_and_nothing_more() {
    let (first, second) = (LogId::generate(), LogId::generate());
    let forked = Line { log_id: first, until: Some(Position(90)), lost_until: Some(Position(95)) };
    let lines = vec![forked, Line { log_id: second, until: None, lost_until: None }];
    let lineage = Lineage { shard: SHARD, lines };
    assert_eq!(lineage.seen(first, Position(90)), Seen::Ours);
    assert_eq!(lineage.seen(first, Position(91)), Seen::Lost { common: Position(90) });
    assert_eq!(lineage.seen(first, Position(95)), Seen::Lost { common: Position(90) });
    assert_eq!(lineage.seen(first, Position(96)), Seen::Foreign);
    assert_eq!(lineage.seen(second, Position(1_000)), Seen::Ours);
    assert_eq!(lineage.seen(LogId::generate(), Position(1)), Seen::Foreign);
    assert_eq!(lineage.genesis(), Some(Head::genesis(first, SHARD)), "the chain keeps its first link");
}

/// What happens to a log.
#[derive(Clone, Copy, Debug)]
enum Step {
    /// A batch of so many events.
    Append(i64),
    /// A restore loses so many batches at the end, and a fork names them.
    Fork(usize),
    /// A reader reads to the end, under the id that it knows since so many reads.
    Read(usize),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![(1_i64..5).prop_map(Step::Append), (1_usize..4).prop_map(Step::Fork), (0_usize..3).prop_map(Step::Read)]
}

/// A log as the heads behind its batches, with every id that it has had and where the forks were.
struct Log {
    heads: Vec<Head>,
    ids: Vec<LogId>,
    /// Where each fork left the log, and up to where it named what was lost.
    forks: Vec<(Position, Position)>,
    written: u64,
}

impl Log {
    fn new() -> Self {
        let id = LogId::generate();
        Self { heads: vec![Head::genesis(id, SHARD)], ids: vec![id], forks: Vec::new(), written: 0 }
    }

    fn end(&self) -> Head {
        self.heads[self.heads.len() - 1]
    }

    /// A batch that never was before.
    fn append(&mut self, events: i64) {
        self.written += 1;
        let end = self.end();
        let hash = Sha256::new().chain_update(end.hash.0).chain_update(self.written.to_be_bytes()).finalize();
        self.heads.push(Head { position: Position(end.position.0 + events), hash: ChainHash(hash.into()) });
    }

    fn fork(&mut self, batches: usize) {
        let lost = self.end().position;
        self.heads.truncate(self.heads.len().saturating_sub(batches).max(1));
        if self.end().position < lost {
            self.forks.push((self.end().position, lost));
            self.ids.push(LogId::generate());
            self.append(1);
        }
    }

    /// As the view `ledger.lineage` has it.
    fn lineage(&self) -> Lineage {
        let line = |(epoch, log_id): (usize, &LogId)| Line {
            log_id: *log_id,
            until: self.forks[epoch..].iter().map(|fork| fork.0).min(),
            lost_until: self.forks[epoch..].iter().map(|fork| fork.1).max(),
        };
        Lineage { shard: SHARD, lines: self.ids.iter().enumerate().map(line).collect() }
    }

    fn link(&self, position: Position) -> Option<ChainHash> {
        self.heads.iter().find(|head| head.position == position).map(|head| head.hash)
    }
}

proptest! {
    /// Whatever was appended, lost and forked: a reader goes on if and only if everything that it has read is in the log, also one that has
    /// not heard of the last forks; and one that does not is told of the loss where a fork names it.
    #[test]
    fn a_reader_goes_on_where_all_that_it_has_read_is_in_the_log(steps in prop::collection::vec(step(), 1..40)) {
        let mut log = Log::new();
        let mut readers: Vec<(LogId, Vec<Head>)> = Vec::new();
        for step in steps {
            match step {
                Step::Append(events) => log.append(events),
                Step::Fork(batches) => log.fork(batches),
                Step::Read(behind) => readers.push((log.ids[log.ids.len().saturating_sub(behind + 1)], log.heads.clone())),
            }
        }
        let lineage = log.lineage();
        for (log_id, read) in readers {
            let at = read[read.len() - 1];
            let admitted = lineage.admit(log_id, at, log.end().position, log.link(at.position));
            if log.heads.starts_with(&read) {
                prop_assert_eq!(admitted, Ok(log.ids[log.ids.len() - 1]));
            } else if matches!(lineage.seen(log_id, at.position), Seen::Lost { .. }) {
                let is_named = matches!(admitted, Err(Stranger::Lost { common, read, .. }) if common < read && read == at.position);
                prop_assert!(is_named, "{admitted:?}");
            } else {
                prop_assert!(admitted.is_err());
            }
        }
    }
}

#[test]
fn another_log_is_a_stranger_from_its_first_link_on() {
    let mut log = Log::new();
    log.append(3);
    let lineage = log.lineage();
    let other = LogId::generate();
    let (start, end) = (Head::genesis(log.ids[0], SHARD), log.end());
    let admit = |log_id, at: Head| lineage.admit(log_id, at, end.position, log.link(at.position));
    assert_eq!(admit(log.ids[0], start), Ok(log.ids[0]));
    assert_eq!(admit(log.ids[0], end), Ok(log.ids[0]));
    let foreign = |read| Err(Stranger::OtherLog { log_id: other, read, now: log.ids[0] });
    assert_eq!(admit(other, Head::genesis(other, SHARD)), foreign(Position::START));
    assert_eq!(admit(other, end), foreign(end.position));
    let beyond = Head { position: end.position.next(), hash: end.hash };
    assert_eq!(admit(log.ids[0], beyond), Err(Stranger::Short { read: beyond.position, end: end.position }));
    let within = Head { position: Position(2), hash: end.hash };
    assert_eq!(admit(log.ids[0], within), Err(Stranger::OtherHash(Position(2))), "no batch ends there");
    let early = Head { position: Position::START, hash: end.hash };
    assert_eq!(admit(log.ids[0], early), Err(Stranger::OtherHash(Position::START)));
}
