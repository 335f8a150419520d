//! The writer without its I/O: what to append, what to answer, what to take back. Driven by [`super`] against PostgreSQL and by
//! the simulator against a made-up store, with the same code.
//!
//! One append at a time. Commands are decided one after the other on a state that runs ahead of the log; if the append fails, the
//! state is undone and the same commands are decided again. Nothing is answered before its append is known to be in the log,
//! refusals included: a refusal is as fresh as a grant. A command with a key is refused only when the log does not have the key:
//! what looks impossible now (the hold has ended, the top-up is credited) may be the repeat of what made it so.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet, VecDeque};
use std::sync::Arc;

use modelfaucet_schema::event::{Event, KeyUse, Recorded};
use modelfaucet_schema::ids::{BatchId, HoldId, LogId, PromoId, SessionId, ShardId, WalletId};
use modelfaucet_schema::log::{AppendBatch, Head, MAX_BATCH_EVENTS, Page};
use modelfaucet_schema::time::Timestamp;
use uuid::Uuid;

use crate::domain::{Caller, Command, Rejection, State, decide};

/// The most events that one command makes.
const MAX_EVENTS_PER_COMMAND: usize = 3;
/// How many keys of late are remembered, so that a quick repeat costs no failed append.
const RECENT_KEYS: usize = 1 << 18;
/// The most expiries begun at once, so that they do not crowd out commands.
const MAX_EXPIRIES: usize = 512;

/// A command on its way, with whom to answer.
#[derive(Debug)]
pub struct Submission<R> {
    /// Who wants it.
    pub caller: Caller,
    /// What is wanted.
    pub command: Command,
    /// The request's label.
    pub request_id: Box<str>,
    /// The idempotency key, if there is one.
    pub key: Option<KeyUse>,
    /// From this time on it is refused instead of decided.
    pub give_up_at: Timestamp,
    /// Whom to answer; nobody for the writer's own expiries.
    pub reply: Option<R>,
}

/// A command that took effect.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The event that answers it; the last one, if it made several.
    pub recorded: Arc<Recorded>,
    /// Was this the answer to an earlier request with the same key?
    pub replayed: bool,
}

/// What became of a command.
pub type Verdict = Result<Outcome, Rejection>;

/// What the driver must do before anything else is planned.
#[derive(Debug)]
pub enum Step<R> {
    /// Nothing.
    Idle,
    /// Look the keys of these up in the log. Answer those that were used, call [`Core::forget_key`] for those that were not, and
    /// put the commands that are not answered back in front of the queue, in this order.
    LookUp(Vec<Submission<R>>),
    /// Append this batch, then call [`Core::appended`] or [`Core::append_failed`].
    Append(Arc<AppendBatch>),
    /// Only refusals: check that the log's head is still ours, then call [`Core::appended`] or [`Core::append_failed`].
    ConfirmHead,
}

#[derive(Debug)]
enum Pending {
    /// The event at this place of the batch answers it.
    Accepted(usize),
    /// The event at this place answers it; an earlier command of the same batch made it.
    Repeated(usize),
    Refused(Rejection),
    /// Not to be answered before its key was looked up.
    Unknown,
}

#[derive(Debug)]
struct InFlight<R> {
    batch: Option<Arc<AppendBatch>>,
    events: Vec<Arc<Recorded>>,
    items: Vec<(Submission<R>, Pending)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Deadline {
    Hold(HoldId),
    Session(SessionId),
    Promo(WalletId, PromoId),
}

/// The writer of one shard.
#[derive(Debug)]
pub struct Core<R> {
    shard: ShardId,
    log_id: LogId,
    state: State,
    head: Head,
    recent: RecentKeys,
    /// Keys of commands on their way that the log does not have at `head`.
    absent: HashSet<Uuid>,
    /// Was the last step a look-up?
    looked_up: bool,
    deadlines: BinaryHeap<Reverse<(Timestamp, Deadline)>>,
    in_flight: Option<InFlight<R>>,
}

impl<R> Core<R> {
    /// A writer whose state is the fold of the log up to `head`.
    pub fn new(shard: ShardId, log_id: LogId, state: State, head: Head) -> Self {
        let holds = state.holds.iter().map(|(id, hold)| (hold.expires_at, Deadline::Hold(*id)));
        let sessions = state.sessions.iter().map(|(id, session)| (session.expires_at, Deadline::Session(*id)));
        let promos = state.promos.iter().flat_map(|(wallet, slices)| {
            slices.iter().map(|slice| (slice.due_at, Deadline::Promo(*wallet, slice.promo_id)))
        });
        Self {
            shard,
            log_id,
            deadlines: holds.chain(sessions).chain(promos).map(Reverse).collect(),
            state,
            head,
            recent: RecentKeys::default(),
            absent: HashSet::new(),
            looked_up: false,
            in_flight: None,
        }
    }

    /// The log's end as far as this writer knows.
    pub fn head(&self) -> Head {
        self.head
    }

    /// The log.
    pub fn log_id(&self) -> LogId {
        self.log_id
    }

    /// The state; ahead of the head while an append is in flight.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// When the next hold, session or credit expires.
    pub fn next_deadline(&self) -> Option<Timestamp> {
        self.deadlines.peek().map(|Reverse((at, _))| *at)
    }

    /// Decides commands from the front of the queue, and expiries that are due, until a batch is full.
    ///
    /// Commands that waited too long are moved to `expired` and not decided.
    pub fn plan(
        &mut self,
        queue: &mut VecDeque<Submission<R>>,
        now: Timestamp,
        batch_id: BatchId,
        expired: &mut Vec<Submission<R>>,
    ) -> Step<R> {
        debug_assert!(self.in_flight.is_none(), "one append at a time");
        let at = now.max(self.state.last_recorded_at());
        let mut expiries = self.expiries(at);
        let looked_up = std::mem::take(&mut self.looked_up);
        let mut flight =
            InFlight { batch: None, events: Vec::new(), items: Vec::with_capacity(queue.len().min(1_024)) };
        let mut keys = HashMap::new();
        let mut unknown = 0;
        while flight.events.len() + MAX_EVENTS_PER_COMMAND <= MAX_BATCH_EVENTS && flight.items.len() < MAX_BATCH_EVENTS
        {
            let Some(submission) = expiries.pop_front().or_else(|| queue.pop_front()) else { break };
            if submission.give_up_at <= now && submission.reply.is_some() {
                expired.push(submission);
                continue;
            }
            let pending = self.decide(&submission, &mut flight, &mut keys, at);
            if matches!(pending, Pending::Unknown) {
                // After a look-up, first bring home what can be: else a stream of repeats would hold up everybody for ever.
                if looked_up && unknown < flight.items.len() {
                    queue.push_front(submission);
                    break;
                }
                unknown += 1;
            }
            flight.items.push((submission, pending));
        }
        if flight.items.is_empty() {
            return Step::Idle;
        }
        if unknown > 0 {
            // Look all keys up at once; what was decided is taken back and comes again in its order.
            self.in_flight = Some(flight);
            self.looked_up = true;
            return Step::LookUp(self.append_failed());
        }
        let step = if flight.events.is_empty() {
            Step::ConfirmHead
        } else {
            let stored = flight.events.iter().map(|recorded| recorded.store()).collect();
            let batch = Arc::new(AppendBatch::seal(self.shard, self.head, batch_id, at, stored));
            flight.batch = Some(Arc::clone(&batch));
            Step::Append(batch)
        };
        self.in_flight = Some(flight);
        step
    }

    /// Decides one command on what was decided before it.
    fn decide(
        &mut self,
        submission: &Submission<R>,
        flight: &mut InFlight<R>,
        keys: &mut HashMap<Uuid, (Uuid, usize)>,
        at: Timestamp,
    ) -> Pending {
        if let Some(used) = submission.key {
            if self.recent.contains(used.key) {
                return Pending::Unknown;
            }
            if let Some((fingerprint, index)) = keys.get(&used.key) {
                let same = *fingerprint == used.fingerprint;
                return if same { Pending::Repeated(*index) } else { Pending::Refused(Rejection::KeyReused) };
            }
        }
        let head = self.head.position.plus(flight.events.len());
        let events = match decide(&self.state, submission.caller, &submission.command, at, head) {
            Ok(events) => events,
            Err(_) if submission.key.is_some_and(|used| !self.absent.contains(&used.key)) => return Pending::Unknown,
            Err(rejection) => return Pending::Refused(rejection),
        };
        let last = events.len().saturating_sub(1);
        for (index, event) in events.into_iter().enumerate() {
            let key = submission.key.filter(|_| index == last);
            let recorded = self.record(flight, submission, event, key, at);
            self.state.evolve(&recorded);
            self.remember_deadline(&recorded.event);
            flight.events.push(Arc::new(recorded));
        }
        let index = flight.events.len().saturating_sub(1);
        if let Some(used) = submission.key {
            keys.insert(used.key, (used.fingerprint, index));
        }
        Pending::Accepted(index)
    }

    fn record(
        &self,
        flight: &InFlight<R>,
        submission: &Submission<R>,
        event: Event,
        key: Option<KeyUse>,
        at: Timestamp,
    ) -> Recorded {
        let stream = event.stream();
        Recorded {
            shard: self.shard,
            position: self.head.position.plus(flight.events.len() + 1),
            stream,
            stream_seq: self.state.next_seq(&stream),
            recorded_at: at,
            actor: submission.caller.actor(),
            request_id: submission.request_id.clone(),
            key,
            event,
        }
    }

    /// The batch is in the log (or the head is confirmed): makes the state final and says whom to answer what, and what was
    /// recorded.
    pub fn appended(&mut self) -> (Vec<(R, Verdict)>, Vec<Arc<Recorded>>) {
        let Some(flight) = self.in_flight.take() else { return (Vec::new(), Vec::new()) };
        if let Some(batch) = flight.batch {
            self.head = batch.head();
        }
        self.state.commit();
        for recorded in &flight.events {
            if let Some(used) = recorded.key {
                self.recent.insert(used.key);
            }
        }
        for (submission, _) in &flight.items {
            if let Some(used) = submission.key {
                self.absent.remove(&used.key);
            }
        }
        let answer = |index: usize, replayed| {
            let recorded = flight.events.get(index).map(Arc::clone);
            recorded.map(|recorded| Outcome { recorded, replayed }).ok_or(Rejection::Forbidden)
        };
        let replies = flight
            .items
            .into_iter()
            .filter_map(|(submission, pending)| {
                let verdict = match pending {
                    Pending::Accepted(index) => answer(index, false),
                    Pending::Repeated(index) => answer(index, true),
                    Pending::Refused(rejection) => Err(rejection),
                    // No step goes on with one of these.
                    Pending::Unknown => Err(Rejection::Forbidden),
                };
                submission.reply.map(|reply| (reply, verdict))
            })
            .collect();
        (replies, flight.events)
    }

    /// The batch is certainly not in the log: takes the state back to the head and gives the commands back, in their order. The
    /// writer's own expiries are not among them; they come again by themselves.
    pub fn append_failed(&mut self) -> Vec<Submission<R>> {
        let Some(flight) = self.in_flight.take() else { return Vec::new() };
        self.state.undo();
        // Deadlines of undone events stay in the heap; each is checked against the state before it is used.
        let (theirs, own): (Vec<_>, Vec<_>) = flight
            .items
            .into_iter()
            .map(|(submission, _)| submission)
            .partition(|submission| submission.reply.is_some());
        for expiry in own {
            self.keep_deadline(&expiry.command);
        }
        theirs
    }

    /// Takes in what others have appended.
    ///
    /// # Errors
    /// [`NotNext`] if the page does not follow the head, or an append is in flight; nothing is taken in.
    pub fn take_in(&mut self, page: &Page) -> Result<(), NotNext> {
        if page.after != self.head || self.in_flight.is_some() {
            return Err(NotNext);
        }
        for recorded in &page.events {
            self.state.evolve(recorded);
            self.remember_deadline(&recorded.event);
            if let Some(used) = recorded.key {
                self.recent.insert(used.key);
            }
        }
        if !page.events.is_empty() {
            self.absent.clear();
        }
        self.state.commit();
        self.head = page.head;
        Ok(())
    }

    /// A key that is not in the log: its command is decided, and a refusal stands.
    pub fn forget_key(&mut self, key: Uuid) {
        self.recent.remove(key);
        if self.absent.len() >= RECENT_KEYS {
            self.absent.clear();
        }
        self.absent.insert(key);
    }

    fn remember_deadline(&mut self, event: &Event) {
        match event {
            Event::HoldPlaced(event) => self.deadlines.push(Reverse((event.expires_at, Deadline::Hold(event.hold_id)))),
            Event::SessionOpened(event) => {
                self.deadlines.push(Reverse((event.expires_at, Deadline::Session(event.session_id))));
            }
            Event::PromoGranted(event) => {
                if let (Some(promo_id), Some(end)) = (event.promo_id, event.expires_at) {
                    self.deadlines.push(Reverse((end, Deadline::Promo(event.wallet_id, promo_id))));
                }
            }
            Event::CreditExpired(event) => {
                let promo = Deadline::Promo(event.wallet_id, event.promo_id);
                self.deadlines.extend(event.again_at.map(|at| Reverse((at, promo))));
            }
            _ => {}
        }
    }

    /// Watches again what an expiry that was taken back was to end.
    fn keep_deadline(&mut self, expiry: &Command) {
        let deadline = match expiry {
            Command::ExpireHold { hold_id } => {
                self.state.holds.get(hold_id).map(|hold| (hold.expires_at, Deadline::Hold(*hold_id)))
            }
            Command::ExpireSession { session_id } => {
                self.state.sessions.get(session_id).map(|session| (session.expires_at, Deadline::Session(*session_id)))
            }
            Command::ExpireCredit { wallet_id, promo_id } => {
                self.promo_due_at(*wallet_id, *promo_id).map(|due_at| (due_at, Deadline::Promo(*wallet_id, *promo_id)))
            }
            _ => None,
        };
        self.deadlines.extend(deadline.map(Reverse));
    }

    fn promo_due_at(&self, wallet_id: WalletId, promo_id: PromoId) -> Option<Timestamp> {
        let slices = self.state.promos.get(&wallet_id)?;
        slices.iter().find(|slice| slice.promo_id == promo_id).map(|slice| slice.due_at)
    }

    /// Commands for what has expired.
    fn expiries(&mut self, at: Timestamp) -> VecDeque<Submission<R>> {
        let mut due = VecDeque::new();
        while due.len() < MAX_EXPIRIES
            && let Some(Reverse((deadline, what))) = self.deadlines.peek().copied()
            && deadline <= at
        {
            self.deadlines.pop();
            let command = match what {
                Deadline::Hold(hold_id) => {
                    let open = self.state.holds.get(&hold_id).is_some_and(|hold| hold.expires_at == deadline);
                    open.then_some(Command::ExpireHold { hold_id })
                }
                Deadline::Session(session_id) => {
                    let live =
                        self.state.sessions.get(&session_id).is_some_and(|session| session.expires_at == deadline);
                    live.then_some(Command::ExpireSession { session_id })
                }
                Deadline::Promo(wallet_id, promo_id) => {
                    let due = self.promo_due_at(wallet_id, promo_id) == Some(deadline);
                    due.then_some(Command::ExpireCredit { wallet_id, promo_id })
                }
            };
            due.extend(command.map(|command| Submission {
                caller: Caller::Clock,
                command,
                request_id: "expiry".into(),
                key: None,
                give_up_at: at,
                reply: None,
            }));
        }
        due
    }
}

/// A page that does not follow the head.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the page does not follow the writer's head")]
pub struct NotNext;

/// The keys of the last [`RECENT_KEYS`] events. Older keys are found by the log's own unique index.
#[derive(Debug, Default)]
struct RecentKeys {
    set: HashSet<Uuid>,
    order: VecDeque<Uuid>,
}

impl RecentKeys {
    fn contains(&self, key: Uuid) -> bool {
        self.set.contains(&key)
    }

    fn insert(&mut self, key: Uuid) {
        if self.set.insert(key) {
            self.order.push_back(key);
            if self.order.len() > RECENT_KEYS
                && let Some(oldest) = self.order.pop_front()
            {
                self.set.remove(&oldest);
            }
        }
    }

    fn remove(&mut self, key: Uuid) {
        self.set.remove(&key);
    }
}
