//! The writer's core against a log in memory: two writers, commands with and without keys, repeats, failed appends, restarts and
//! clocks that jump. Each submission has its own request id, so the log tells what became of it.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use modelfaucet_command::domain::{CallRequest, Caller, Command, HoldAmount, OnShortfall, Payer, Rejection, State};
use modelfaucet_command::writer::core::{Core, Outcome, Step, Submission, Verdict};
use modelfaucet_schema::event::{
    AppSettings, Event, KeyUse, ModelRates, Recorded, ReleaseReason, Route, ServiceTier, SessionOpening, Status,
};
use modelfaucet_schema::ids::{
    AppId, BatchId, DeveloperId, HoldId, LogId, Position, SessionId, ShardId, TopUpId, UsageId, UserId, WalletId,
};
use modelfaucet_schema::log::{AppendBatch, Head, Page};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{TokenHash, short_hash};
use modelfaucet_schema::usage::{Component, Usage};
use proptest::prelude::*;
use uuid::Uuid;

const SHARD: ShardId = ShardId(0);
const LOG: LogId = LogId(Uuid::from_u128(1));
const WALLET: WalletId = WalletId(Uuid::from_u128(2));
const SESSION: SessionId = SessionId(Uuid::from_u128(3));

/// The log, with the checks of `ledger.append()`.
struct Log {
    events: Vec<Recorded>,
    heads: Vec<Head>,
    batches: HashSet<BatchId>,
    keys: HashMap<Uuid, Recorded>,
}

#[derive(Debug, PartialEq)]
enum Refused {
    HeadMoved,
    KeysUsed,
}

impl Log {
    fn new() -> Self {
        Self {
            events: Vec::new(),
            heads: vec![Head::genesis(LOG, SHARD)],
            batches: HashSet::new(),
            keys: HashMap::new(),
        }
    }

    fn head(&self) -> Head {
        *self.heads.last().unwrap()
    }

    fn append(&mut self, batch: &AppendBatch) -> Result<(), Refused> {
        if batch.previous() != self.head() {
            return if self.batches.contains(&batch.id()) { Ok(()) } else { Err(Refused::HeadMoved) };
        }
        let events: Vec<_> = batch.events().iter().map(|event| event.decode().unwrap()).collect();
        if events.iter().any(|event| event.key.is_some_and(|used| self.keys.contains_key(&used.key))) {
            return Err(Refused::KeysUsed);
        }
        for event in events {
            assert_eq!(event.position, Position::START.plus(self.events.len() + 1), "positions have no gap");
            if let Some(used) = event.key {
                assert!(self.keys.insert(used.key, event.clone()).is_none(), "a key is used once");
            }
            self.events.push(event);
        }
        self.batches.insert(batch.id());
        self.heads.push(batch.head());
        Ok(())
    }

    /// The next batches behind a head.
    fn page(&self, after: Head) -> Page {
        let head = if self.heads.contains(&after) { self.head() } else { after };
        let from = usize::try_from(after.position.0).unwrap();
        Page { after, head, events: self.events[from..].to_vec() }
    }

    fn fold(&self) -> State {
        let mut state = State::default();
        self.events.iter().for_each(|event| state.evolve(event));
        state.commit();
        state
    }

    fn events_of(&self, id: u64) -> Vec<&Recorded> {
        let id = id.to_string();
        self.events.iter().filter(|event| *event.request_id == *id).collect()
    }
}

struct Writer {
    core: Core<u64>,
    queue: VecDeque<Submission<u64>>,
    /// How far its clock is off, in seconds.
    clock: i64,
}

struct World {
    log: Log,
    writers: Vec<Writer>,
    now: i64,
    next: u64,
    keys: HashMap<u64, Option<KeyUse>>,
    answers: BTreeMap<u64, Verdict>,
    /// Nobody will be told: the writer died, or the command waited too long.
    gone: HashSet<u64>,
}

impl World {
    fn new() -> Self {
        let log = Log::new();
        let core = Core::new(SHARD, LOG, State::default(), log.head());
        let writer = Writer { core, queue: VecDeque::new(), clock: 0 };
        let mut world = Self {
            log,
            writers: vec![writer],
            now: 1_764_000_000,
            next: 0,
            keys: HashMap::new(),
            answers: BTreeMap::new(),
            gone: HashSet::new(),
        };
        for command in beginning() {
            world.submit(0, command, None);
        }
        world.drain();
        assert!(world.answers.values().all(Result::is_ok));
        world.writers.push(Writer {
            core: Core::new(SHARD, LOG, world.log.fold(), world.log.head()),
            queue: VecDeque::new(),
            clock: 0,
        });
        world
    }

    fn submit(&mut self, writer: usize, command: Command, key: Option<u32>) {
        self.next += 1;
        let fingerprint = short_hash(&[format!("{command:?}").as_bytes()]);
        let key = key.map(|key| KeyUse { key: Uuid::from_u128(u128::from(key) + 1), fingerprint });
        self.keys.insert(self.next, key);
        let give_up_at = self.clock(writer).plus(Duration::from_secs(2));
        let submission = Submission {
            caller: Caller::Operator,
            command,
            request_id: self.next.to_string().into(),
            key,
            give_up_at,
            reply: Some(self.next),
        };
        self.writers[writer].queue.push_back(submission);
    }

    fn clock(&self, writer: usize) -> Timestamp {
        Timestamp::from_micros((self.now + self.writers[writer].clock) * 1_000_000)
    }

    /// One round of a writer, as the shell does it. With `fault` 1 the append fails before the commit, with 2 its answer is lost.
    fn run(&mut self, writer: usize, fault: u32) -> bool {
        let now = self.clock(writer);
        self.next += 1;
        let batch_id = BatchId(Uuid::from_u128(u128::from(self.next)));
        let mut expired = Vec::new();
        let Writer { core, queue, .. } = &mut self.writers[writer];
        let before = core.state().clone();
        let step = core.plan(queue, now, batch_id, &mut expired);
        self.gone.extend(expired.iter().filter_map(|submission| submission.reply));
        match step {
            Step::Idle => return false,
            Step::LookUp(submissions) => {
                assert_eq!(*self.writers[writer].core.state(), before, "a look-up leaves the state as it was");
                self.look_up(writer, submissions);
            }
            Step::ConfirmHead if fault != 1 && self.log.head() == self.writers[writer].core.head() => {
                self.finish(writer);
            }
            Step::ConfirmHead => self.take_back(writer, &before),
            Step::Append(batch) => {
                let mut result = if fault == 1 { Err(Refused::HeadMoved) } else { self.log.append(&batch) };
                if fault == 2 && result.is_ok() {
                    // In doubt: the same batch is sent again, perhaps after others have appended.
                    self.run(1 - writer, 0);
                    result = self.log.append(&batch);
                    assert_eq!(result, Ok(()), "the batch is found where it is");
                }
                match result {
                    Ok(()) => self.finish(writer),
                    Err(Refused::HeadMoved) => self.take_back(writer, &before),
                    Err(Refused::KeysUsed) => {
                        let submissions = self.writers[writer].core.append_failed();
                        assert_eq!(
                            *self.writers[writer].core.state(),
                            before,
                            "a failed append leaves the state as it was"
                        );
                        self.look_up(writer, submissions);
                    }
                }
            }
        }
        true
    }

    fn finish(&mut self, writer: usize) {
        let before = self.writers[writer].core.head().position;
        let (replies, _) = self.writers[writer].core.appended();
        for (id, verdict) in replies {
            self.answer(id, verdict, before);
        }
    }

    fn take_back(&mut self, writer: usize, before: &State) {
        let writer = &mut self.writers[writer];
        for submission in writer.core.append_failed().into_iter().rev() {
            writer.queue.push_front(submission);
        }
        assert_eq!(writer.core.state(), before, "a failed append leaves the state as it was");
        writer.catch_up(&self.log);
    }

    fn look_up(&mut self, writer: usize, submissions: Vec<Submission<u64>>) {
        for submission in submissions.into_iter().rev() {
            let known = submission.key.and_then(|used| self.log.keys.get(&used.key));
            let Some(recorded) = known else {
                let writer = &mut self.writers[writer];
                if let Some(used) = submission.key {
                    writer.core.forget_key(used.key);
                }
                writer.queue.push_front(submission);
                continue;
            };
            let same = recorded.key == submission.key;
            let outcome = Outcome { recorded: Arc::new(recorded.clone()), replayed: true };
            let verdict = if same { Ok(outcome) } else { Err(Rejection::KeyReused) };
            self.answer(submission.reply.unwrap(), verdict, self.log.head().position);
        }
    }

    /// What is told must be so, now and for ever. It was decided on the log up to `before` and what precedes it in its batch.
    fn answer(&mut self, id: u64, verdict: Verdict, before: Position) {
        let key = self.keys[&id];
        let mine = self.log.events_of(id);
        match &verdict {
            Ok(outcome) => {
                let place = usize::try_from(outcome.recorded.position.0).unwrap() - 1;
                assert_eq!(self.log.events[place], *outcome.recorded, "what is answered is in the log");
                assert_eq!(outcome.recorded.key, key, "the answer is that of the key");
                assert_eq!(mine.is_empty(), outcome.replayed, "a command has an effect, or repeats one");
                assert!(outcome.replayed || mine.last() == Some(&outcome.recorded.as_ref()));
            }
            Err(refusal) => {
                assert!(mine.is_empty(), "a refused command has no effect");
                let user = key.and_then(|used| self.log.keys.get(&used.key));
                if *refusal == Rejection::KeyReused {
                    assert!(user.is_some_and(|recorded| recorded.key != key));
                } else {
                    let earlier = user.filter(|recorded| recorded.position <= before);
                    assert_eq!(earlier, None, "{refusal:?}: what took effect is not refused when it is repeated");
                }
            }
        }
        assert!(self.answers.insert(id, verdict).is_none(), "one answer");
    }

    fn restart(&mut self, writer: usize) {
        let lost = std::mem::take(&mut self.writers[writer].queue);
        self.gone.extend(lost.iter().filter_map(|submission| submission.reply));
        self.writers[writer].core = Core::new(SHARD, LOG, self.log.fold(), self.log.head());
    }

    /// Everybody works until nothing is left to do.
    fn drain(&mut self) {
        for _ in 0..200 {
            for writer in &mut self.writers {
                writer.catch_up(&self.log);
            }
            let worked = (0..self.writers.len()).filter(|writer| self.run(*writer, 0)).count();
            if worked == 0 {
                return;
            }
        }
        panic!("the queues do not empty");
    }

    fn check(&self) {
        let fold = self.log.fold();
        for writer in &self.writers {
            assert_eq!(*writer.core.state(), fold, "the state is the fold of the log");
            assert_eq!(writer.core.head(), self.log.head());
        }
        let mut seqs = HashMap::new();
        let mut recorded_at = Timestamp::default();
        for event in &self.log.events {
            let seq = seqs.entry(event.stream).or_insert(0);
            *seq += 1;
            assert_eq!(event.stream_seq, *seq, "a stream has no gap");
            assert!(event.recorded_at >= recorded_at, "the writer's clock does not go back");
            recorded_at = event.recorded_at;
        }
        for id in self.keys.keys() {
            assert!(self.answers.contains_key(id) || self.gone.contains(id), "command {id} was not answered");
        }
        for hold in fold.holds.iter().map(|(_, hold)| hold) {
            let latest = self.writers.iter().enumerate().map(|(index, _)| self.clock(index)).max().unwrap();
            assert!(hold.expires_at > latest, "an overdue hold was left open");
        }
    }

    fn step(&mut self, (kind, a, b): (u8, u32, u32)) {
        let writer = (a % 2) as usize;
        match kind {
            0..50 => self.submit(writer, command(a / 2, b), (!b.is_multiple_of(3)).then_some(a / 64 % 12)),
            50..75 => drop(self.run(writer, 0)),
            75..80 => drop(self.run(writer, 1)),
            80..85 => drop(self.run(writer, 2)),
            85..89 => self.writers[writer].catch_up(&self.log),
            89..92 => self.restart(writer),
            92..97 => self.now += i64::from([1, 3, 61, 601][(b % 4) as usize]),
            _ => self.writers[writer].clock = i64::from(b % 200) - 100,
        }
    }
}

impl Writer {
    fn catch_up(&mut self, log: &Log) {
        let page = log.page(self.core.head());
        self.core.take_in(&page).unwrap();
    }
}

fn usd(cents: i64) -> Money {
    Money::from_units(cents * 1_000_000)
}

fn beginning() -> Vec<Command> {
    let developer_id = DeveloperId(Uuid::from_u128(4));
    let app_id = AppId(Uuid::from_u128(5));
    let share = BasisPoints::new(4_000).unwrap();
    let rate = Rate::per_million("100000").unwrap();
    vec![
        Command::RegisterDeveloper { developer_id, name: "d".into(), email: "e".into() },
        Command::RegisterApp {
            app_id,
            developer_id,
            public_app_id: "app".into(),
            settings: AppSettings {
                name: "app".into(),
                vertical: None,
                default_revenue_share_bps: share,
                status: Status::Active,
                session_opening: SessionOpening::Public,
            },
        },
        Command::ActivateRateCard {
            source: "s".into(),
            models: vec![ModelRates::flat(
                "p".parse().unwrap(),
                "m",
                [(Component::InputUncached, rate), (Component::OutputText, rate)],
            )],
        },
        Command::OpenSession {
            session_id: SESSION,
            wallet_id: WALLET,
            user_id: UserId(Uuid::from_u128(6)),
            app_id,
            user_hash: format!("hmac:{:064}", 1).parse().unwrap(),
            feature_key: None,
            token_hash: TokenHash::of_text("t"),
            ttl: Duration::from_secs(30 * 86_400),
        },
        Command::GrantTestCredit { wallet_id: WALLET, amount: usd(300) },
    ]
}

/// Commands on a few holds and top-ups of one wallet, so that they get in one another's way.
fn command(a: u32, b: u32) -> Command {
    let call = CallRequest {
        payer: Payer::Wallet(WALLET),
        feature_key: None,
        route: Route::Platform,
        provider: None,
        model: "m".into(),
        service_tier: ServiceTier::Standard,
    };
    let hold_id = HoldId(Uuid::from_u128(u128::from(b / 8 % 4)));
    let top_up_id = TopUpId(Uuid::from_u128(u128::from(b / 8 % 3)));
    match a % 8 {
        0 | 1 => Command::PlaceHold {
            hold_id,
            call,
            amount: HoldAmount::Fixed(usd(i64::from(1 + b % 2 * 150))),
            min_amount: None,
            expires_in: Duration::from_secs(60),
        },
        2 | 3 => Command::CaptureHold {
            hold_id,
            usage: Usage::text(1, 0),
            service_tier: None,
            provider_request_id: None,
            occurred_at: None,
        },
        4 => Command::ReleaseHold { hold_id, reason: ReleaseReason::Cancelled },
        5 => Command::RequestTopUp {
            top_up_id,
            wallet_id: WALLET,
            amount: usd(25),
            provider: "p".parse().unwrap(),
            reference: None,
        },
        6 => Command::CreditTopUp { top_up_id, payment: "x".into(), amount: None, occurred_at: None },
        _ => Command::RecordUsage {
            usage_id: UsageId(Uuid::from_u128(u128::from(b / 8 % 4))),
            call,
            usage: Usage::text(5, 5),
            on_shortfall: OnShortfall::Refuse,
            provider_request_id: None,
            occurred_at: None,
        },
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(std::env::var("PROPTEST_CASES").ok().and_then(|n| n.parse().ok()).unwrap_or(2_000)))]

    #[test]
    fn every_command_has_its_effect_once_and_its_answer(steps in proptest::collection::vec((0..100_u8, any::<u32>(), any::<u32>()), 20..120)) {
        let mut world = World::new();
        for step in steps {
            world.step(step);
        }
        world.drain();
        world.check();
    }
}

#[test]
fn a_repeat_after_a_restart_is_answered_and_not_refused() {
    let capture = Command::CaptureHold {
        hold_id: HoldId(Uuid::nil()),
        usage: Usage::text(1, 0),
        service_tier: None,
        provider_request_id: None,
        occurred_at: None,
    };
    let mut world = World::new();
    world.submit(0, command(0, 0), Some(1));
    world.submit(0, capture.clone(), Some(2));
    world.drain();
    world.restart(0);
    world.submit(0, capture.clone(), Some(2));
    world.submit(0, capture, Some(3));
    world.submit(0, command(0, 0), Some(2));
    world.drain();
    let answers: Vec<_> = world.answers.values().rev().take(3).collect();
    let [Err(Rejection::KeyReused), Err(Rejection::HoldNotFound), Ok(outcome)] = answers.as_slice() else {
        panic!("{answers:?}")
    };
    assert!(outcome.replayed && matches!(outcome.recorded.event, Event::HoldCaptured(_)));
}

#[test]
fn an_expiry_survives_a_failed_append_and_a_clock_that_goes_back() {
    let mut world = World::new();
    world.submit(0, command(0, 0), None);
    world.drain();
    world.now += 60;
    assert!(world.run(0, 1), "the hold is due, and its append fails");
    world.now -= 60;
    world.drain();
    assert_eq!(world.log.fold().holds.len(), 1, "it is not due any more");
    world.now += 60;
    world.drain();
    assert!(world.log.fold().holds.is_empty(), "the hold expires when it is due again");
}

#[test]
fn the_recorded_time_does_not_go_back_over_a_restart() {
    let mut world = World::new();
    world.now -= 3_600;
    world.restart(0);
    world.submit(0, command(0, 0), None);
    world.drain();
    world.check();
}

#[test]
fn a_stream_of_repeats_does_not_hold_up_others() {
    let grant = || Command::GrantTestCredit { wallet_id: WALLET, amount: usd(1) };
    let mut world = World::new();
    world.submit(0, grant(), Some(1));
    world.drain();
    world.submit(0, grant(), None);
    let other = world.next;
    for _ in 0..4 {
        world.submit(0, grant(), Some(1));
        world.run(0, 0);
    }
    assert!(world.answers.contains_key(&other), "answered although a repeat came with every round");
}
