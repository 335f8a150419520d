//! The writers: what `command::writer` does around its core, step by step, over statements that can be slow, fail, or lose their
//! answer. A statement whose connection broke is sent again as it is; while an append is in doubt, nothing but "appended",
//! "already", another head or used keys ends the doubt.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use modelfaucet_command::domain::Rejection;
use modelfaucet_command::writer::core::{Core, Outcome, Step, Submission};
use modelfaucet_schema::event::Recorded;
use modelfaucet_schema::ids::BatchId;
use modelfaucet_schema::log::{AppendBatch, Head, Page};
use uuid::Uuid;

use super::client::Heard;
use super::store::NotAppended;
use super::{Happening, MILLISECOND, Micros, SECOND, World};

/// What a writer asks of the log.
#[derive(Clone, Debug)]
pub(super) enum Statement {
    Append(Arc<AppendBatch>),
    Keys(Vec<Uuid>),
    Head,
    Page(Head),
}

/// A statement on its way.
#[derive(Debug)]
pub(super) struct Call {
    writer: usize,
    id: u64,
    statement: Statement,
    /// How long the answer takes, if it comes at all.
    answer: Option<Micros>,
    /// The server refuses to do it.
    refused: bool,
}

/// The answer.
#[derive(Debug)]
pub(super) enum Reply {
    Appended(Result<usize, NotAppended>),
    Keys(HashMap<Uuid, Arc<Recorded>>),
    Head(Head),
    Page(Page),
    /// The connection broke.
    Broken,
}

/// What a writer waits for.
#[derive(Debug)]
enum Doing {
    /// It is dead.
    Nothing,
    /// Work.
    Ready,
    Appending {
        in_doubt: bool,
    },
    Confirming,
    LookingUp(Vec<Submission<u64>>),
    CatchingUp,
}

/// A command instance.
pub(super) struct Writer {
    pub(super) core: Option<Core<u64>>,
    queue: VecDeque<Submission<u64>>,
    doing: Doing,
    /// The statement whose answer it waits for.
    call: u64,
    statement: Statement,
    wake: u64,
    /// Microseconds that its clock is ahead.
    pub(super) clock_offset: i64,
}

impl Writer {
    pub(super) fn down() -> Self {
        let (queue, statement) = (VecDeque::new(), Statement::Head);
        Self { core: None, queue, doing: Doing::Nothing, call: 0, statement, wake: 0, clock_offset: 0 }
    }

    pub(super) fn is_up(&self) -> bool {
        self.core.is_some()
    }

    fn core(&mut self) -> &mut Core<u64> {
        self.core.as_mut().expect("only a writer that is up does anything")
    }
}

impl World {
    pub(super) fn start_writer(&mut self, index: usize) {
        let (state, head) = self.store.load();
        let (shard, log_id) = (self.store.shard, self.store.log_id);
        let writer = &mut self.writers[index];
        writer.core = Some(Core::new(shard, log_id, state, head));
        writer.doing = Doing::Ready;
        self.wake(index, 0);
    }

    /// It dies; what it has sent to the log still arrives there.
    pub(super) fn kill_writer(&mut self, index: usize) {
        if self.writers[index].is_up() {
            let clock_offset = self.writers[index].clock_offset;
            self.writers[index] = Writer { wake: self.writers[index].wake, clock_offset, ..Writer::down() };
            let pause = self.random.between(10 * MILLISECOND, SECOND);
            self.schedule(pause, Happening::WriterStarts { writer: index });
            self.report.kills += 1;
        }
    }

    /// A request reaches a writer, or nobody.
    pub(super) fn accept(&mut self, index: usize, submission: Submission<u64>) {
        if self.writers[index].is_up() {
            self.writers[index].queue.push_back(submission);
            if matches!(self.writers[index].doing, Doing::Ready) {
                self.wake(index, 0);
            }
        } else if let Some(attempt) = submission.reply {
            self.tell(attempt, Heard::Unavailable);
        }
    }

    fn wake(&mut self, index: usize, delay: Micros) {
        self.writers[index].wake += 1;
        let wake = self.writers[index].wake;
        self.schedule(delay, Happening::WriterWakes { writer: index, wake });
    }

    pub(super) fn writer_wakes(&mut self, index: usize, wake: u64) {
        let writer = &self.writers[index];
        if wake != writer.wake || !matches!(writer.doing, Doing::Ready) {
            return;
        }
        if writer.queue.is_empty() { self.catch_up(index) } else { self.plan(index) }
    }

    fn plan(&mut self, index: usize) {
        let now = self.clock(self.writers[index].clock_offset);
        let batch_id = BatchId(self.random.uuid());
        let mut expired = Vec::new();
        let writer = &mut self.writers[index];
        let core = writer.core.as_mut().expect("only a writer that is up does anything");
        let step = core.plan(&mut writer.queue, now, batch_id, &mut expired);
        let until_deadline =
            core.next_deadline().map_or(u64::MAX, |at| u64::try_from(at.since(now).as_micros()).unwrap_or(u64::MAX));
        for submission in expired {
            self.tell(submission.reply.unwrap_or_default(), Heard::Overloaded);
        }
        match step {
            Step::Idle => {
                let poll = if self.healed { SECOND } else { 50 * MILLISECOND };
                self.writers[index].doing = Doing::Ready;
                self.wake(index, until_deadline.min(poll));
            }
            Step::LookUp(submissions) => self.look_up(index, submissions),
            Step::ConfirmHead => self.send(index, Doing::Confirming, Statement::Head),
            Step::Append(batch) => self.send(index, Doing::Appending { in_doubt: false }, Statement::Append(batch)),
        }
    }

    fn look_up(&mut self, index: usize, submissions: Vec<Submission<u64>>) {
        let keys = submissions.iter().filter_map(|submission| submission.key.map(|used| used.key)).collect();
        self.send(index, Doing::LookingUp(submissions), Statement::Keys(keys));
    }

    fn catch_up(&mut self, index: usize) {
        let head = self.writers[index].core().head();
        self.send(index, Doing::CatchingUp, Statement::Page(head));
    }

    fn send(&mut self, index: usize, doing: Doing, statement: Statement) {
        self.writers[index].doing = doing;
        self.writers[index].statement = statement;
        self.transmit(index, 0);
    }

    /// Sends the statement; many things can happen on the way.
    fn transmit(&mut self, index: usize, pause: Micros) {
        self.count += 1;
        let id = self.count;
        self.writers[index].call = id;
        let statement = self.writers[index].statement.clone();
        let appends = matches!(statement, Statement::Append(_));
        let to = pause + self.random.between(50, 3 * MILLISECOND);
        let back = self.random.between(50, 2 * MILLISECOND);
        let late = self.random.between(MILLISECOND, 3 * SECOND);
        let fate = if self.healed { 1_000 } else { self.random.below(1_000) };
        let mut call = Call { writer: index, id, statement, answer: None, refused: false };
        let arrives = match fate {
            0..15 => None,
            15..40 => Some(to),
            40..50 => Some(to + late),
            _ => {
                call.answer = Some(back);
                // While an earlier sending holds the shard's lock, a lock timeout is likely.
                let in_doubt = matches!(self.writers[index].doing, Doing::Appending { in_doubt: true });
                call.refused = appends && (fate < 65 || (in_doubt && fate < 400));
                Some(to)
            }
        };
        if call.answer.is_none() {
            self.report.broken += 1;
            self.schedule(to + back, Happening::Answers { writer: index, call: id, reply: Box::new(Reply::Broken) });
        }
        if let Some(delay) = arrives {
            self.schedule(delay, Happening::Arrives { call: Box::new(call) });
        }
    }

    /// The log does what it is asked.
    pub(super) fn arrives(&mut self, call: &Call) {
        let reply = match &call.statement {
            Statement::Append(_) if call.refused => Reply::Appended(Err(NotAppended::Refused)),
            Statement::Append(batch) => Reply::Appended(self.append(call.writer, batch)),
            Statement::Keys(keys) => Reply::Keys(self.store.find(keys)),
            Statement::Head => Reply::Head(self.store.head()),
            Statement::Page(after) => Reply::Page(self.store.page(*after, 16)),
        };
        if let Some(delay) = call.answer {
            self.schedule(delay, Happening::Answers { writer: call.writer, call: call.id, reply: Box::new(reply) });
        }
    }

    fn append(&mut self, writer: usize, batch: &AppendBatch) -> Result<usize, NotAppended> {
        let result = self.store.append(batch);
        self.trace(
            "append",
            &[writer as u64, batch.previous().position.0.cast_unsigned(), batch.events().len() as u64],
        );
        match result {
            Ok(0) => self.report.already += 1,
            Ok(events) => self.appended(events),
            Err(NotAppended::HeadMoved) => self.report.head_moved += 1,
            Err(NotAppended::KeysUsed) => self.report.keys_used += 1,
            Err(NotAppended::Refused) => {}
        }
        result
    }

    pub(super) fn answers(&mut self, index: usize, call: u64, reply: Reply) {
        if !self.writers[index].is_up() || self.writers[index].call != call {
            return;
        }
        self.writers[index].call = 0;
        let doing = std::mem::replace(&mut self.writers[index].doing, Doing::Ready);
        match (doing, reply) {
            // Refused while in doubt: this sending wrote nothing, but an earlier one may have.
            (Doing::Appending { .. }, Reply::Broken)
            | (Doing::Appending { in_doubt: true }, Reply::Appended(Err(NotAppended::Refused))) => {
                self.writers[index].doing = Doing::Appending { in_doubt: true };
                self.reconnect(index);
            }
            (doing, Reply::Broken) => {
                self.writers[index].doing = doing;
                self.reconnect(index);
            }
            (Doing::Appending { .. }, Reply::Appended(Ok(_))) => self.finish(index),
            (Doing::Appending { .. }, Reply::Appended(Err(NotAppended::KeysUsed))) => {
                let submissions = self.writers[index].core().append_failed();
                self.look_up(index, submissions);
            }
            (Doing::Appending { .. }, Reply::Appended(Err(NotAppended::Refused | NotAppended::HeadMoved))) => {
                self.take_back(index);
            }
            (Doing::Confirming, Reply::Head(head)) if head == self.writers[index].core().head() => self.finish(index),
            (Doing::Confirming, Reply::Head(_)) => self.take_back(index),
            (Doing::LookingUp(submissions), Reply::Keys(found)) => self.looked_up(index, submissions, &found),
            (Doing::CatchingUp, Reply::Page(page)) => {
                let done = page.events.is_empty();
                self.writers[index].core().take_in(&page).expect("a page that was asked for follows the head");
                if done { self.plan(index) } else { self.catch_up(index) }
            }
            (doing, reply) => unreachable!("{doing:?} is not answered by {reply:?}"),
        }
    }

    /// Opens the connection again and sends the same statement.
    fn reconnect(&mut self, index: usize) {
        let pause = self.random.between(MILLISECOND, 60 * MILLISECOND);
        self.transmit(index, pause);
    }

    fn finish(&mut self, index: usize) {
        let (replies, _) = self.writers[index].core().appended();
        for (attempt, verdict) in replies {
            self.tell(attempt, Heard::Verdict(verdict));
        }
        self.wake(index, 0);
    }

    fn take_back(&mut self, index: usize) {
        let writer = &mut self.writers[index];
        for submission in writer.core().append_failed().into_iter().rev() {
            writer.queue.push_front(submission);
        }
        self.catch_up(index);
    }

    fn looked_up(&mut self, index: usize, submissions: Vec<Submission<u64>>, found: &HashMap<Uuid, Arc<Recorded>>) {
        for submission in submissions.into_iter().rev() {
            let Some(recorded) = submission.key.and_then(|used| found.get(&used.key)) else {
                let writer = &mut self.writers[index];
                if let Some(used) = submission.key {
                    writer.core().forget_key(used.key);
                }
                writer.queue.push_front(submission);
                continue;
            };
            let same = recorded.key == submission.key;
            let outcome = Outcome { recorded: Arc::clone(recorded), replayed: true };
            let verdict = if same { Ok(outcome) } else { Err(Rejection::KeyReused) };
            self.tell(submission.reply.unwrap_or_default(), Heard::Verdict(verdict));
        }
        self.wake(index, 0);
    }
}
