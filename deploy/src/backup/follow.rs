//! Following a server: the WAL is copied as it is written (`pg_receivewal`, over a slot, so that nothing is missing after a pause), the
//! log's head is witnessed and its batches are mirrored, all at most a second behind.

use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::time::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::Child;
use tokio_postgres::Config as DatabaseConfig;

use super::repository::{Archived, Repository};
use super::server::{Server, database_of};
use super::{LOOK_EVERY, metrics};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::heads::{self, Book, Lsn, Standing, Witnessed};
use crate::log::mirror::Mirror;

/// The slot that keeps WAL on the server until it is copied.
const SLOT: &str = "modelfaucet";
const SHARD: ShardId = ShardId(0);
/// How often a moving head is written down, and the progress of the copy.
const NOTE_EVERY: Duration = Duration::from_secs(1);
const METRICS_EVERY: Duration = Duration::from_secs(5);
/// Pauses between attempts while the server is away.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long `pg_receivewal` may take to end.
const PATIENCE: Duration = Duration::from_secs(10);

/// Follows one server into one repository.
pub(crate) struct Follower {
    config: Config,
    database: Option<DatabaseConfig>,
    repository: Repository,
    metrics: Option<PathBuf>,
}

impl Follower {
    pub(crate) fn new(config: &Config, repository: Repository, metrics: Option<PathBuf>) -> Self {
        Self { config: config.clone(), database: None, repository, metrics }
    }

    /// Connects so instead of as the settings say.
    pub(crate) fn with_database(mut self, database: DatabaseConfig) -> Self {
        self.database = Some(database);
        self
    }

    /// Follows until `stop` is over. A server that is away is waited for.
    ///
    /// # Errors
    /// Exit 6 if the log lacks what was seen of it; a setting that can never work.
    pub(crate) async fn run(&self, stop: impl Future<Output = ()>) -> Result<(), Failure> {
        let _alone = self.repository.lock("wal")?;
        let mut stop = pin!(stop);
        let mut pause = BACK_OFF.0;
        let mut first = true;
        loop {
            let began = Instant::now();
            // Takes the end of everything along, so that the last head is in the book.
            let ended = self.session(stop.as_mut()).await;
            match ended {
                Ok(()) => return Ok(()),
                // A setting that is wrong stops the start. Later nothing but a log that has lost its end stops those who serve.
                Err(failure) if failure.exit == Exit::Violated || (first && failure.exit == Exit::Config) => {
                    return Err(failure);
                }
                Err(failure) => {
                    tracing::warn!(error = failure.message, "the backup of the WAL has stopped; it is tried again");
                }
            }
            first = false;
            if began.elapsed() > BACK_OFF.1 {
                pause = BACK_OFF.0;
            }
            tokio::select! {
                () = stop.as_mut() => return Ok(()),
                () = tokio::time::sleep(pause) => pause = (pause * 2).min(BACK_OFF.1),
            }
        }
    }

    async fn session(&self, mut stop: std::pin::Pin<&mut impl Future<Output = ()>>) -> Result<(), Failure> {
        let database = match &self.database {
            Some(database) => database.clone(),
            None => database_of(&self.config)?,
        };
        let server = Server::connect(&self.config, &database).await?;
        self.repository.claim(server.system)?;
        let heads_dir = self.config.heads_dir().unwrap_or_else(|| self.repository.dir().join("heads"));
        let standing = heads::standing(&server.client, SHARD, &Book::read(&heads_dir, SHARD)?).await?;
        self.repository.set_contradicted(standing != Standing::Whole);
        metrics::write(self.metrics.as_deref(), &self.repository)?;
        if standing != Standing::Whole {
            return Err(heads::refusal(SHARD, &standing, &self.config));
        }
        let mut witness = Witness {
            book: Book::open(&heads_dir, SHARD)?,
            mirror: Mirror::of(&self.repository.mirror_dir(), SHARD, &server.client).await?,
            last: None,
            noted: Instant::now(),
        };
        let mut receiver = self.receive(&server).await?;
        tracing::info!(dir = %self.repository.dir().display(), timeline = server.timeline, "the WAL is copied, the log witnessed and mirrored");
        // What an earlier copy has reached, until this one has shown more.
        let until = self.repository.archived().map_or(Timestamp::from_micros(0), |archived| archived.until);
        let mut progress = Progress { pending: None, until, looked: Instant::now(), written: Instant::now() };
        let result = loop {
            if let Err(failure) = witness.look(&server, false).await {
                break Err(failure);
            }
            if let Err(failure) = self.note_progress(&server, &mut progress).await {
                break Err(failure);
            }
            tokio::select! {
                () = stop.as_mut() => break witness.look(&server, true).await,
                ended = receiver.wait() => {
                    let status = ended.map_or_else(|error| error.to_string(), |status| status.to_string());
                    break Err(Failure::new(Exit::Temporary, format!("pg_receivewal has ended ({status}); see what it says above")));
                }
                () = tokio::time::sleep(LOOK_EVERY) => {}
            }
        };
        end(&mut receiver).await;
        result
    }

    /// Starts `pg_receivewal`, which goes on where the repository ends.
    async fn receive(&self, server: &Server) -> Result<Child, Failure> {
        let dir = self.repository.wal_dir(server.timeline);
        self.repository.create(&dir)?;
        let not_started = |error: std::io::Error| {
            let message = format!(
                "pg_receivewal cannot be started ({error}): install PostgreSQL's client programs and util-linux"
            );
            Failure::new(Exit::Config, message)
        };
        let mut create = server.command("pg_receivewal");
        create.args(["--create-slot", "--if-not-exists", "--slot", SLOT]);
        let created = create.output().await.map_err(not_started)?;
        if !created.status.success() {
            let text = String::from_utf8_lossy(&created.stderr).trim().to_owned();
            return Err(Failure::new(Exit::Temporary, format!("pg_receivewal: {text}")));
        }
        let mut command = server.command("pg_receivewal");
        // Each piece is forced to disk before the server is told: what it is told is what would be left.
        command.arg("--directory").arg(&dir).args(["--slot", SLOT, "--no-loop", "--synchronous"]);
        command.stdout(std::process::Stdio::null()).spawn().map_err(not_started)
    }

    async fn note_progress(&self, server: &Server, progress: &mut Progress) -> Result<(), Failure> {
        if progress.looked.elapsed() < NOTE_EVERY {
            return Ok(());
        }
        progress.looked = Instant::now();
        let copied = server.copied(SLOT).await?;
        let now = Timestamp::now();
        if let (Some((at, lsn)), Some(copied)) = (progress.pending, copied)
            && copied >= lsn
        {
            (progress.until, progress.pending) = (at, None);
        }
        if progress.pending.is_none() {
            progress.pending = Some((now, server.flushed().await?));
        }
        let archived = Archived {
            at: now,
            until: progress.until,
            timeline: server.timeline,
            lsn: copied.unwrap_or_default().to_string(),
        };
        self.repository
            .set_archived(&archived)
            .map_err(|error| self.repository.failure(self.repository.dir(), &error))?;
        #[expect(clippy::cast_precision_loss, reason = "exact to the microsecond for 280 years")]
        ::metrics::gauge!("modelfaucet_wal_archived_timestamp_seconds").set(progress.until.micros() as f64 / 1e6);
        if progress.written.elapsed() >= METRICS_EVERY {
            progress.written = Instant::now();
            metrics::write(self.metrics.as_deref(), &self.repository)?;
        }
        Ok(())
    }
}

/// How far the copy is.
struct Progress {
    /// When the server was asked, and how far it was then; until the copy has got there.
    pending: Option<(Timestamp, Lsn)>,
    until: Timestamp,
    looked: Instant,
    written: Instant,
}

/// Writes heads and batches down.
struct Witness {
    book: Book,
    mirror: Mirror,
    last: Option<Witnessed>,
    noted: Instant,
}

impl Witness {
    async fn look(&mut self, server: &Server, at_last: bool) -> Result<(), Failure> {
        let head = server.head(SHARD).await?;
        let is_new = self.last.as_ref().is_none_or(|last| (last.position, last.log_id) != (head.position, head.log_id));
        if !is_new {
            return Ok(());
        }
        if let Some(last) = self.last.as_ref().filter(|last| last.log_id != head.log_id) {
            let message = format!("the log was {} and is {}: it has forked; start again", last.log_id, head.log_id);
            return Err(Failure::new(Exit::Temporary, message));
        }
        self.mirror.extend(&server.client).await?;
        if self.last.is_none() || at_last || self.noted.elapsed() >= NOTE_EVERY {
            self.book.append(&head)?;
            self.last = Some(head);
            self.noted = Instant::now();
        }
        Ok(())
    }
}

/// Asks `pg_receivewal` to end, and waits; what it has written stays.
async fn end(receiver: &mut Child) {
    let pid = receiver.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw);
    if let Some(pid) = pid {
        let _gone = kill_process(pid, Signal::TERM);
    }
    if tokio::time::timeout(PATIENCE, receiver.wait()).await.is_err() {
        let _gone = receiver.kill().await;
    }
}
