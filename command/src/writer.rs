//! The writer of a shard: takes everything queued, decides it in memory, appends it in one round trip, answers.
//!
//! There is no batching timer: while an append is in flight commands gather, so light load has batches of one and heavy load
//! batches of thousands. Handlers only queue and wait; dropping a request never takes an append back.

pub mod core;
mod series;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_schema::event::{KeyUse, Recorded};
use modelfaucet_schema::ids::{BatchId, Position, ShardId};
use modelfaucet_schema::log::{
    AppendBatch, AppendError, Head, LogAppender, LogReader, ReadError, Tail, TailBatch, connection,
};
use modelfaucet_schema::time::Timestamp;
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot, watch};
use tokio_postgres::{Client, Config};
use uuid::Uuid;

use self::core::{Core, Outcome, Step, Submission, Verdict};
use crate::directory::{Directory, Follower};
use crate::domain::{Caller, Command, Rejection, State};
use crate::snapshot::{self, SnapshotError};

/// How long a command may wait before it is decided.
pub const QUEUE_PATIENCE: Duration = Duration::from_secs(2);
/// How long the database may be away, or busy, before the shard is not ready; and how long a refusal counts.
const UNREADY_AFTER: Duration = Duration::from_secs(5);
/// How long the database may take to answer: the server itself gives up after 3 s. Then the connection is given up, and what was
/// sent over it is in doubt.
const ANSWER: Duration = Duration::from_secs(4);
/// The same for a page of the log, which has to come over the network.
const PAGE: Duration = Duration::from_secs(15);
/// How long a snapshot may take to come.
const LOADING: Duration = Duration::from_mins(5);
/// How long a connection may take until statements can be sent over it.
const OPEN: Duration = Duration::from_secs(10);
/// How often a writer that waits for an answer refuses what has waited too long.
const REFUSE_EVERY: Duration = Duration::from_millis(100);
/// How often an idle writer looks whether others have appended.
const IDLE_POLL: Duration = Duration::from_millis(50);
/// Rows of the state up to which it is copied for a snapshot: a few milliseconds.
const COPIED_ROWS: usize = 20_000;
/// How many commands may wait.
pub const DEFAULT_QUEUE: usize = 65_536;

/// A command that did not take effect, or may not have.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// A rule said no; certainly no effect.
    #[error(transparent)]
    Rejected(#[from] Rejection),
    /// It was never decided; certainly no effect.
    #[error("Too much is waiting; try again.")]
    Overloaded,
    /// The log cannot be reached and the command was never decided; certainly no effect.
    #[error("The ledger is not available; try again.")]
    Unavailable,
    /// The append was sent and its result is not known: send the same key again to learn it.
    #[error("The result is not known yet; send the same request with the same key again.")]
    InDoubt,
}

/// What became of a submitted command.
pub type Answer = Result<Outcome, CommandError>;

/// One command and what belongs to it.
#[derive(Debug)]
pub struct Request {
    /// Who wants it.
    pub caller: Caller,
    /// What is wanted.
    pub command: Command,
    /// The idempotency key.
    pub key: Option<KeyUse>,
}

enum Message {
    Submit(Vec<Submission<Responder>>),
    CatchUp(oneshot::Sender<()>),
}

/// Whom to answer.
enum Responder {
    One(oneshot::Sender<Answer>),
    Item(Arc<Collector>, usize),
}

impl Responder {
    fn send(self, answer: Answer) {
        match self {
            // A caller that went away is not told.
            Self::One(reply) => drop(reply.send(answer)),
            Self::Item(collector, index) => collector.set(index, answer),
        }
    }
}

/// Gathers the answers of commands that were submitted together.
struct Collector {
    answers: Mutex<Vec<Option<Answer>>>,
    left: AtomicUsize,
    done: Mutex<Option<oneshot::Sender<Vec<Answer>>>>,
}

impl Collector {
    fn set(&self, index: usize, answer: Answer) {
        if let Some(slot) = self.answers.lock().get_mut(index) {
            *slot = Some(answer);
        }
        if self.left.fetch_sub(1, Ordering::AcqRel) == 1
            && let Some(done) = self.done.lock().take()
        {
            let answers = std::mem::take(&mut *self.answers.lock());
            let _gone =
                done.send(answers.into_iter().map(|answer| answer.unwrap_or(Err(CommandError::InDoubt))).collect());
        }
    }
}

/// The way to the writer of a shard. Cheap to clone.
#[derive(Clone)]
pub struct Ledger {
    messages: mpsc::UnboundedSender<Message>,
    waiting: Arc<AtomicUsize>,
    capacity: usize,
    directory: Arc<Directory>,
    head: watch::Receiver<Position>,
    tail: Arc<Tail>,
    ready: watch::Receiver<bool>,
}

impl Ledger {
    /// Submits a command and waits for what becomes of it. Dropping the future does not take the command back.
    ///
    /// # Errors
    /// [`CommandError`].
    pub async fn submit(&self, request_id: &str, request: Request) -> Answer {
        self.reserve(1)?;
        let (reply, answer) = oneshot::channel();
        let submission = submission(request_id, request, Responder::One(reply));
        if self.messages.send(Message::Submit(vec![submission])).is_err() {
            return Err(CommandError::Unavailable);
        }
        answer.await.unwrap_or(Err(CommandError::InDoubt))
    }

    /// Submits commands together, in order; one answer each. A refusal of one does not touch the others.
    ///
    /// # Errors
    /// [`CommandError::Overloaded`] or [`CommandError::Unavailable`] for all of them.
    pub async fn submit_all(&self, request_id: &str, requests: Vec<Request>) -> Result<Vec<Answer>, CommandError> {
        if requests.is_empty() {
            return Ok(Vec::new());
        }
        self.reserve(requests.len())?;
        let (done, answers) = oneshot::channel();
        let collector = Arc::new(Collector {
            answers: Mutex::new(vec![None; requests.len()]),
            left: AtomicUsize::new(requests.len()),
            done: Mutex::new(Some(done)),
        });
        let submissions = requests
            .into_iter()
            .enumerate()
            .map(|(index, request)| submission(request_id, request, Responder::Item(Arc::clone(&collector), index)))
            .collect();
        drop(collector);
        if self.messages.send(Message::Submit(submissions)).is_err() {
            return Err(CommandError::Unavailable);
        }
        answers.await.map_err(|_| CommandError::InDoubt)
    }

    /// Waits until the writer has taken in everything that the log holds now.
    pub async fn catch_up(&self) {
        let (done, wait) = oneshot::channel();
        if self.messages.send(Message::CatchUp(done)).is_ok() {
            let _closed = wait.await;
        }
    }

    /// Tokens and apps.
    pub fn directory(&self) -> &Directory {
        &self.directory
    }

    /// The last position, as it moves.
    pub fn head(&self) -> watch::Receiver<Position> {
        self.head.clone()
    }

    /// What it has appended lately, for readers in this process.
    pub fn tail(&self) -> Arc<Tail> {
        Arc::clone(&self.tail)
    }

    /// Is the writer in step with the log?
    pub fn is_ready(&self) -> bool {
        *self.ready.borrow()
    }

    fn reserve(&self, commands: usize) -> Result<(), CommandError> {
        if self.waiting.fetch_add(commands, Ordering::AcqRel).saturating_add(commands) > self.capacity {
            self.waiting.fetch_sub(commands, Ordering::AcqRel);
            series::undecided(&CommandError::Overloaded);
            return Err(CommandError::Overloaded);
        }
        Ok(())
    }
}

fn submission(request_id: &str, request: Request, reply: Responder) -> Submission<Responder> {
    Submission {
        caller: request.caller,
        command: request.command,
        request_id: request_id.into(),
        key: request.key,
        give_up_at: Timestamp::now().plus(QUEUE_PATIENCE),
        reply: Some(reply),
    }
}

/// Why a writer does not start, or stops.
#[derive(Debug, thiserror::Error)]
pub enum WriterError {
    /// The log cannot be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The state could not be built.
    #[error(transparent)]
    Snapshot(#[from] SnapshotError),
    /// The database's error.
    #[error("the database cannot be reached: {0}")]
    Database(#[from] tokio_postgres::Error),
    /// Another log than the one that the state was folded from.
    #[error(
        "shard {0} has another log than before: it was restored or replaced. Stop, run `modelfaucet verify`, then start again"
    )]
    OtherLog(ShardId),
    /// The log ends before the writer's head.
    #[error(
        "the log ends at position {found}, but position {expected} was acknowledged: it was restored from an older backup or cut"
    )]
    Fork {
        /// The writer's position.
        expected: Position,
        /// The log's.
        found: Position,
    },
}

/// How to run a writer.
#[derive(Clone, Debug)]
pub struct WriterOptions {
    /// The shard.
    pub shard: ShardId,
    /// The database, as the role `ledger_command`.
    pub database: Config,
    /// How many commands may wait.
    pub queue: usize,
    /// Events between two snapshots.
    pub snapshot_every: i64,
    /// Who else in the process follows the log.
    pub followers: Vec<Arc<dyn Follower>>,
}

impl WriterOptions {
    /// The usual limits.
    pub fn new(database: Config) -> Self {
        Self { shard: ShardId(0), database, queue: DEFAULT_QUEUE, snapshot_every: 100_000, followers: Vec::new() }
    }
}

/// Connects with the writer's limits (docs/RELIABILITY.md): a hanging statement must not hold up the shard.
async fn connect(database: &Config) -> Result<Arc<Client>, tokio_postgres::Error> {
    let mut config = database.clone();
    config.connect_timeout(Duration::from_secs(2)).application_name("modelfaucet-command");
    let (client, connection) = connection::connect(&config).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "the writer's connection ended");
        }
    });
    let settings = "SET statement_timeout = '3s'; SET lock_timeout = '1s'; SET idle_in_transaction_session_timeout = '5s'; \
                    SET synchronous_commit = on; SET plan_cache_mode = force_generic_plan";
    connection::within(ANSWER, client.batch_execute(settings)).await?;
    Ok(Arc::new(client))
}

#[derive(Clone)]
struct Connection {
    appender: LogAppender,
    reader: LogReader,
}

impl Connection {
    async fn open(database: &Config) -> Result<Self, tokio_postgres::Error> {
        let client = connect(database).await?;
        let preparing = async {
            let reader = LogReader::prepare_with_keys(Arc::clone(&client)).await?.patient_for(PAGE);
            Ok(Self { appender: LogAppender::prepare(client).await?, reader })
        };
        connection::within(ANSWER, preparing).await
    }
}

/// Folds the log and starts the writer of a shard. The task ends when the last [`Ledger`] is gone, or with an error that only an
/// operator can mend.
///
/// # Errors
/// [`WriterError`].
pub async fn start(
    options: WriterOptions,
) -> Result<(Ledger, tokio::task::JoinHandle<Result<(), WriterError>>), WriterError> {
    let connection = Connection::open(&options.database).await?;
    let began = Instant::now();
    let shard = options.shard;
    let loading = snapshot::load(connection.appender.client(), &connection.reader, shard);
    let Ok(loaded) = tokio::time::timeout(LOADING, loading).await else {
        return Err(connection::silent().await.into());
    };
    let (mut state, snapshot_head) = loaded?;
    let head = snapshot::fold_to_end(&connection.reader, shard, &mut state, snapshot_head).await?;
    let (log_id, _) = connection.reader.head(shard).await?;
    tracing::info!(
        shard = %shard, position = head.position.0, snapshot = snapshot_head.position.0,
        milliseconds = u64::try_from(began.elapsed().as_millis()).unwrap_or(u64::MAX), "the writer's state is folded"
    );
    let directory = Arc::new(Directory::followed_by(options.followers.clone()));
    directory.reset(&state);
    let (messages, inbox) = mpsc::unbounded_channel();
    let waiting = Arc::new(AtomicUsize::new(0));
    let tail = Arc::new(Tail::default());
    let (head_sender, head_receiver) = watch::channel(head.position);
    let (ready_sender, ready) = watch::channel(true);
    let (snapshots, due) = mpsc::channel(1);
    tokio::spawn(keep_snapshots(options.clone(), due));
    connection.appender.ensure_partition(shard, head.position.next()).await?;
    let writer = Writer {
        core: Core::new(shard, log_id, state, head),
        shard,
        database: options.database.clone(),
        connection,
        inbox,
        queue: VecDeque::new(),
        waiting: Arc::clone(&waiting),
        directory: Arc::clone(&directory),
        head: head_sender,
        tail: Arc::clone(&tail),
        ready: ready_sender,
        refused: None,
        silent: None,
        partition_checked: head.position,
        snapshots,
        snapshot_every: options.snapshot_every,
        snapshot_at: snapshot_head.position,
    };
    let task = tokio::spawn(writer.run());
    let ledger = Ledger { messages, waiting, capacity: options.queue, directory, head: head_receiver, tail, ready };
    Ok((ledger, task))
}

/// The log has grown enough for a snapshot.
enum SnapshotDue {
    /// This one.
    Copy(Box<State>, Head),
    /// The state is too large to be copied: fold it beside the writer.
    Fold,
}

/// Takes snapshots on a connection of its own, as long as there is a writer.
async fn keep_snapshots(options: WriterOptions, mut due: mpsc::Receiver<SnapshotDue>) {
    while let Some(due) = due.recv().await {
        let taken = async {
            let client = connect(&options.database).await?;
            match due {
                SnapshotDue::Copy(state, head) => snapshot::save(&client, options.shard, *state, head).await,
                SnapshotDue::Fold => {
                    let reader = LogReader::prepare(Arc::clone(&client)).await?;
                    snapshot::refresh(&client, &reader, options.shard, options.snapshot_every).await.map(drop)
                }
            }
        };
        if let Err(error) = taken.await {
            tracing::warn!(%error, "no snapshot was taken; the next cold start takes longer");
        }
    }
}

struct Writer {
    core: Core<Responder>,
    shard: ShardId,
    database: Config,
    connection: Connection,
    inbox: mpsc::UnboundedReceiver<Message>,
    queue: VecDeque<Submission<Responder>>,
    waiting: Arc<AtomicUsize>,
    directory: Arc<Directory>,
    head: watch::Sender<Position>,
    tail: Arc<Tail>,
    ready: watch::Sender<bool>,
    /// When the database first refused to append, and when it last did, if it has not appended since.
    refused: Option<(Instant, Instant)>,
    /// Since when the database has not answered.
    silent: Option<Instant>,
    partition_checked: Position,
    snapshots: mpsc::Sender<SnapshotDue>,
    snapshot_every: i64,
    snapshot_at: Position,
}

impl Writer {
    async fn run(mut self) -> Result<(), WriterError> {
        series::begin(self.shard);
        self.show_head();
        loop {
            if self.queue.is_empty() && !self.wait().await? {
                return Ok(());
            }
            self.empty_inbox().await?;
            let mut expired = Vec::new();
            let now = Timestamp::now();
            let step = self.core.plan(&mut self.queue, now, BatchId::generate(), &mut expired);
            self.waiting.fetch_sub(expired.len(), Ordering::AcqRel);
            for submission in expired {
                answer(submission.reply, Err(CommandError::Overloaded));
            }
            match step {
                Step::Idle => {}
                Step::LookUp(submissions) => self.look_up(submissions).await?,
                Step::ConfirmHead => self.confirm_head().await?,
                Step::Append(batch) => self.append(&batch).await?,
            }
        }
    }

    /// Waits for work: a message, a deadline, or time to look whether others have appended. False if nobody can send any more.
    async fn wait(&mut self) -> Result<bool, WriterError> {
        let now = Timestamp::now();
        let until_deadline = self.core.next_deadline().map_or(IDLE_POLL, |at| at.since(now));
        match tokio::time::timeout(until_deadline.min(IDLE_POLL), self.inbox.recv()).await {
            Ok(None) => return Ok(false),
            Ok(Some(message)) => self.accept(message).await?,
            Err(_) => self.catch_up().await?,
        }
        if self.refused.is_some_and(|(_, last)| last.elapsed() > UNREADY_AFTER) {
            // Nobody has tried since: the next append tells.
            self.served();
        }
        Ok(true)
    }

    async fn empty_inbox(&mut self) -> Result<(), WriterError> {
        while let Ok(message) = self.inbox.try_recv() {
            self.accept(message).await?;
        }
        Ok(())
    }

    async fn accept(&mut self, message: Message) -> Result<(), WriterError> {
        match message {
            Message::Submit(submissions) => self.queue.extend(submissions),
            Message::CatchUp(done) => {
                self.catch_up().await?;
                let _gone = done.send(());
            }
        }
        Ok(())
    }

    async fn append(&mut self, batch: &AppendBatch) -> Result<(), WriterError> {
        let began = Instant::now();
        let result = self.append_until_known(batch).await?;
        metrics::histogram!("modelfaucet_append_duration_seconds", "shard" => self.shard.to_string())
            .record(began.elapsed());
        match result {
            Ok(()) => {
                #[expect(clippy::cast_precision_loss, reason = "a batch has at most thousands of events")]
                metrics::histogram!("modelfaucet_append_batch_size", "shard" => self.shard.to_string())
                    .record(batch.events().len() as f64);
                self.served();
                self.finish();
                self.keep_partition().await
            }
            Err(AppendError::HeadMoved) => {
                self.served();
                self.take_back();
                self.catch_up().await
            }
            Err(AppendError::KeysUsed) => {
                self.served();
                let submissions = self.core.append_failed();
                self.look_up(submissions).await
            }
            Err(error @ AppendError::InDoubt(_)) => {
                // Should the first sending still arrive, it finds another head, or is taken in as another writer's would be.
                self.refused(&error);
                let given_up = self.core.append_failed();
                self.waiting.fetch_sub(given_up.len(), Ordering::AcqRel);
                for submission in given_up {
                    answer(submission.reply, Err(CommandError::InDoubt));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.catch_up().await
            }
            Err(error) => {
                // A lock or statement timeout, a full disk: certainly not written. Commands wait in the queue until they give up.
                tracing::error!(%error, "an append was refused; it is tried again");
                self.refused(&error);
                self.take_back();
                tokio::time::sleep(Duration::from_millis(50)).await;
                self.catch_up().await
            }
        }
    }

    /// Waits for the database. Meanwhile what waits too long in the queue is refused, and after a while the shard is not ready.
    /// `None`: there is no answer. Then the connection must not be used again, and what was asked may come true all the same.
    async fn answer<T>(&mut self, limit: Duration, asked: impl Future<Output = T>) -> Option<T> {
        let began = Instant::now();
        let mut asked = std::pin::pin!(asked);
        while began.elapsed() < limit {
            if let Ok(answer) = tokio::time::timeout(REFUSE_EVERY, &mut asked).await {
                return Some(answer);
            }
            let since = *self.silent.get_or_insert(began);
            if since.elapsed() > UNREADY_AFTER {
                self.ready.send_replace(false);
            }
            self.refuse_impatient();
        }
        None
    }

    /// The database has said something.
    fn heard(&mut self) {
        if self.silent.take().is_some() && self.refused.is_none() {
            self.ready.send_replace(true);
        }
    }

    /// Reads from the log as [`Writer::answer`] does.
    async fn read<T>(
        &mut self,
        limit: Duration,
        asked: impl AsyncFnOnce(LogReader, ShardId) -> Result<T, ReadError>,
    ) -> Result<T, ReadError> {
        let (reader, shard) = (self.connection.reader.clone(), self.shard);
        let Some(answer) = self.answer(limit, asked(reader, shard)).await else {
            return Err(connection::silent().await.into());
        };
        if !matches!(&answer, Err(ReadError::Database(error)) if error.code().is_none()) {
            self.heard();
        }
        answer
    }

    /// The database does not append: the shard is not ready, at once or, where that may pass by itself, after a while.
    fn refused(&mut self, error: &AppendError) {
        let now = Instant::now();
        let since = self.refused.map_or(now, |(since, _)| since);
        self.refused = Some((since, now));
        if !error.is_busy() || since.elapsed() > UNREADY_AFTER {
            self.ready.send_replace(false);
        }
    }

    /// The database does what it is asked.
    fn served(&mut self) {
        if self.refused.take().is_some() {
            self.ready.send_replace(true);
        }
    }

    /// Sends a batch until it is known whether it is in the log. A broken connection is opened again and the same batch is sent
    /// again: `append()` answers "already", appends it, or shows another head. In doubt it ends only where sending cannot help.
    async fn append_until_known(&mut self, batch: &AppendBatch) -> Result<Result<(), AppendError>, WriterError> {
        let mut in_doubt = false;
        loop {
            let Connection { appender, .. } = self.connection.clone();
            let answer = match self.answer(ANSWER, appender.append(batch)).await {
                Some(answer) => answer,
                None => Err(AppendError::InDoubt(connection::silent().await)),
            };
            if !matches!(answer, Err(AppendError::InDoubt(_))) {
                self.heard();
            }
            match answer {
                Ok(_) => return Ok(Ok(())),
                Err(AppendError::NoPartition) => {
                    if let Err(error) = self.ensure_partition(batch.head().position).await {
                        tracing::error!(%error, "a partition could not be created");
                        self.reconnect().await?;
                    }
                }
                Err(AppendError::InDoubt(error)) => {
                    tracing::warn!(%error, batch = %batch.id(), "an append is in doubt; it is sent again");
                    metrics::counter!("modelfaucet_appends_in_doubt_total").increment(1);
                    in_doubt = true;
                    self.reconnect().await?;
                }
                Err(error) if in_doubt && error.is_from_the_future() => {
                    // Its time stays what it is: it would be refused until the database's clock has come there, whatever the writer's own
                    // is set to meanwhile.
                    tracing::error!(%error, batch = %batch.id(), "an append in doubt is given up; its commands are to be sent again");
                    return Ok(Err(error.into_doubt()));
                }
                Err(error @ AppendError::Refused(_)) if in_doubt => {
                    // This sending wrote nothing, but an earlier one may still hold the lock and commit.
                    self.refused(&error);
                    self.refuse_impatient();
                    tracing::warn!(%error, batch = %batch.id(), "an append in doubt was refused; it is sent again");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
                Err(error) => return Ok(Err(error)),
            }
        }
    }

    async fn ensure_partition(&mut self, position: Position) -> Result<(), tokio_postgres::Error> {
        let (Connection { appender, .. }, shard) = (self.connection.clone(), self.shard);
        match self.answer(ANSWER, appender.ensure_partition(shard, position)).await {
            Some(answer) => answer,
            None => Err(connection::silent().await),
        }
    }

    /// Opens the connection again, however long that takes; meanwhile the shard is not ready.
    async fn reconnect(&mut self) -> Result<(), WriterError> {
        let mut pause = Duration::from_millis(20);
        let since = *self.silent.get_or_insert_with(Instant::now);
        loop {
            let (database, shard) = (self.database.clone(), self.shard);
            let opening = async move {
                let connection = Connection::open(&database).await?;
                let head = connection.reader.head(shard).await;
                Ok::<_, tokio_postgres::Error>((connection, head))
            };
            let opened = match self.answer(OPEN, Box::pin(opening)).await {
                Some(opened) => opened,
                None => Err(connection::silent().await),
            };
            match opened {
                Ok((_, Err(ReadError::Database(error)))) | Err(error) => {
                    if since.elapsed() > UNREADY_AFTER {
                        self.ready.send_replace(false);
                    }
                    self.refuse_impatient();
                    tracing::warn!(%error, "the database cannot be reached");
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(Duration::from_secs(1));
                }
                Ok((connection, head)) => {
                    if head?.0 != self.core.log_id() {
                        return Err(WriterError::OtherLog(self.shard));
                    }
                    self.connection = connection;
                    self.silent = None;
                    self.ready.send_replace(true);
                    return Ok(());
                }
            }
        }
    }

    /// Refuses what waited too long and was never decided, while the log is away.
    fn refuse_impatient(&mut self) {
        while let Ok(message) = self.inbox.try_recv() {
            match message {
                Message::Submit(submissions) => self.queue.extend(submissions),
                Message::CatchUp(done) => drop(done),
            }
        }
        let now = Timestamp::now();
        let (waiting, late) =
            std::mem::take(&mut self.queue).into_iter().partition(|submission| submission.give_up_at > now);
        self.queue = waiting;
        let late: VecDeque<Submission<Responder>> = late;
        self.waiting.fetch_sub(late.len(), Ordering::AcqRel);
        for submission in late {
            answer(submission.reply, Err(CommandError::Unavailable));
        }
    }

    fn finish(&mut self) {
        let after = self.core.head();
        let (replies, events) = self.core.appended();
        self.publish(after, events);
        let mut outcomes: HashMap<&'static str, u64> = HashMap::new();
        self.waiting.fetch_sub(replies.len(), Ordering::AcqRel);
        for (reply, verdict) in replies {
            let outcome = match &verdict {
                Ok(outcome) if outcome.replayed => "replayed",
                Ok(_) => "accepted",
                Err(_) => "refused",
            };
            *outcomes.entry(outcome).or_default() += 1;
            reply.send(verdict.map_err(CommandError::Rejected));
        }
        for (outcome, count) in outcomes {
            metrics::counter!("modelfaucet_commands_total", "outcome" => outcome).increment(count);
        }
        #[expect(clippy::cast_precision_loss, reason = "a gauge for people")]
        metrics::gauge!("modelfaucet_writer_queue_depth", "shard" => self.shard.to_string())
            .set(self.waiting.load(Ordering::Relaxed) as f64);
        self.offer_snapshot();
    }

    fn publish(&self, after: Head, events: Vec<Arc<Recorded>>) {
        if events.is_empty() {
            return;
        }
        self.directory.take_in(events.iter().map(AsRef::as_ref));
        series::count(self.shard, self.core.state(), events.iter().map(|recorded| &recorded.event));
        self.tail.push(TailBatch { after, head: self.core.head(), events: events.into() });
        self.show_head();
    }

    fn show_head(&self) {
        let position = self.core.head().position;
        self.head.send_replace(position);
        #[expect(clippy::cast_precision_loss, reason = "exact up to 2^53 events")]
        metrics::gauge!("modelfaucet_log_head_position", "shard" => self.shard.to_string()).set(position.0 as f64);
        series::show(self.shard, self.core.state(), self.core.next_deadline());
    }

    /// Has a snapshot taken if the log has grown enough. Only between batches, when the state is that of the head.
    fn offer_snapshot(&mut self) {
        let head = self.core.head();
        if head.position.0 - self.snapshot_at.0 < self.snapshot_every {
            return;
        }
        // Busy with the last one: the next batch offers again.
        let Ok(permit) = self.snapshots.try_reserve() else { return };
        let state = self.core.state();
        permit.send(if state.size() <= COPIED_ROWS {
            SnapshotDue::Copy(Box::new(state.clone()), head)
        } else {
            SnapshotDue::Fold
        });
        self.snapshot_at = head.position;
    }

    /// Puts the commands of a failed append back in front of the queue, in their order.
    fn take_back(&mut self) {
        for submission in self.core.append_failed().into_iter().rev() {
            self.queue.push_front(submission);
        }
    }

    /// Refusals without an append behind them: they stand if nobody else has appended since.
    async fn confirm_head(&mut self) -> Result<(), WriterError> {
        loop {
            match self.read(ANSWER, async |reader, shard| reader.head_behind_appends(shard).await).await {
                Ok((log_id, _)) if log_id != self.core.log_id() => return Err(WriterError::OtherLog(self.shard)),
                Ok((_, head)) if head == self.core.head() => {
                    self.finish();
                    return Ok(());
                }
                // The server answered, so the connection is good: somebody holds the shard's lock. Commands wait until they
                // give up.
                Err(ReadError::Database(error)) if error.code().is_some() => {
                    tracing::warn!(%error, "the head could not be confirmed");
                    self.take_back();
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    return Ok(());
                }
                Ok(_) => {
                    self.take_back();
                    return self.catch_up().await;
                }
                Err(error) => {
                    tracing::warn!(%error, "the head could not be read");
                    self.reconnect().await?;
                }
            }
        }
    }

    /// Answers commands whose keys were used before; the others go back to the queue.
    async fn look_up(&mut self, submissions: Vec<Submission<Responder>>) -> Result<(), WriterError> {
        let keys: Vec<Uuid> = submissions.iter().filter_map(|submission| submission.key.map(|used| used.key)).collect();
        let found = loop {
            match self.read(ANSWER, async |reader, shard| reader.keys(shard, &keys).await).await {
                Ok(found) => break found,
                Err(ReadError::Database(error)) => {
                    tracing::warn!(%error, "keys could not be looked up");
                    self.reconnect().await?;
                }
                Err(error) => return Err(error.into()),
            }
        };
        let found: HashMap<Uuid, Arc<Recorded>> =
            found.into_iter().map(|(key, recorded)| (key, Arc::new(recorded))).collect();
        let mut replayed = 0;
        for submission in submissions.into_iter().rev() {
            let hit = submission.key.and_then(|used| Some((used, found.get(&used.key)?)));
            let Some((used, recorded)) = hit else {
                if let Some(used) = submission.key {
                    self.core.forget_key(used.key);
                }
                self.queue.push_front(submission);
                continue;
            };
            let verdict: Verdict = if recorded.key == Some(used) {
                Ok(Outcome { recorded: Arc::clone(recorded), replayed: true })
            } else {
                Err(Rejection::KeyReused)
            };
            replayed += 1;
            self.waiting.fetch_sub(1, Ordering::AcqRel);
            answer(submission.reply, verdict.map_err(CommandError::Rejected));
        }
        metrics::counter!("modelfaucet_commands_total", "outcome" => "replayed").increment(replayed);
        Ok(())
    }

    /// Takes in what others have appended.
    async fn catch_up(&mut self) -> Result<(), WriterError> {
        loop {
            let head = self.core.head();
            match self.read(PAGE, async |reader, shard| reader.page(shard, head, 8_192).await).await {
                Ok(page) if page.events.is_empty() => return self.check_not_behind().await,
                Ok(page) => {
                    if self.core.take_in(&page).is_ok() {
                        self.directory.take_in(page.events.iter());
                        self.show_head();
                    }
                }
                Err(ReadError::Database(error)) => {
                    tracing::warn!(%error, "the log could not be read");
                    self.reconnect().await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// The log never ends before what was acknowledged.
    async fn check_not_behind(&mut self) -> Result<(), WriterError> {
        let ours: Head = self.core.head();
        match self.read(ANSWER, async |reader, shard| reader.head(shard).await).await {
            Ok((log_id, _)) if log_id != self.core.log_id() => Err(WriterError::OtherLog(self.shard)),
            Ok((_, head))
                if head.position < ours.position || (head.position == ours.position && head.hash != ours.hash) =>
            {
                Err(WriterError::Fork { expected: ours.position, found: head.position })
            }
            Ok(_) => Ok(()),
            Err(ReadError::Database(_)) => self.reconnect().await,
            Err(error) => Err(error.into()),
        }
    }

    /// Creates the next partition long before it is needed.
    async fn keep_partition(&mut self) -> Result<(), WriterError> {
        const AHEAD: usize = 1_000_000;
        let position = self.core.head().position;
        if position.0 - self.partition_checked.0 < 100_000 {
            return Ok(());
        }
        self.partition_checked = position;
        if let Err(error) = self.ensure_partition(position.plus(AHEAD)).await {
            tracing::error!(%error, "the next partition could not be created");
        }
        Ok(())
    }
}

fn answer(reply: Option<Responder>, answer: Answer) {
    if let Some(reply) = reply {
        if let Err(error) = &answer {
            series::undecided(error);
        }
        reply.send(answer);
    }
}
