//! The one thread that spawns the server, waits for it, and starts it again when it dies.

use std::ffi::OsString;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, ExitStatus, Stdio};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process, waitid};

use super::account::{Account, spawn_error};
use super::cluster::{Cluster, command_in};
use super::{PostgresError, io_error};

const BACK_OFF: Duration = Duration::from_millis(200);
const LONGEST_BACK_OFF: Duration = Duration::from_secs(5);
/// A server that lived this long was well: the next back-off is the shortest again.
const WELL: Duration = Duration::from_secs(10);
/// Requests for a fast shutdown, this far apart, before an immediate one (which costs a recovery).
const FAST_REQUESTS: u32 = 24;
const REQUEST_EVERY: Duration = Duration::from_secs(5);
/// The log of an earlier run that is longer is moved aside, in bytes.
const LONGEST_LOG: u64 = 50 << 20;

/// How to start the server, each time.
#[derive(Debug)]
pub(super) struct Launch {
    pub(super) program: PathBuf,
    pub(super) arguments: Vec<OsString>,
    pub(super) cluster: Cluster,
    pub(super) socket_file: PathBuf,
    pub(super) log: PathBuf,
    pub(super) account: Account,
}

/// A handle on the thread.
#[derive(Debug)]
pub(super) struct Supervisor {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

/// What `start` watches.
#[derive(Debug)]
pub(super) struct Watched {
    pub(super) pid: Option<i32>,
    /// How often the server ended, or could not be spawned.
    pub(super) ends: u64,
    /// Why the last spawn failed, handed out once.
    pub(super) spawn_error: Option<PostgresError>,
}

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Debug, Default)]
struct State {
    /// The running server. Set and cleared under the lock, and reaped under it too: whoever
    /// holds the lock may send a signal without hitting a recycled process id.
    server: Option<Pid>,
    spawns: u64,
    ends: u64,
    spawn_error: Option<PostgresError>,
    stopping: bool,
    ended: bool,
}

impl Supervisor {
    pub(super) fn start(launch: Launch) -> io::Result<Self> {
        let shared = Arc::new(Shared::default());
        let watched = Arc::clone(&shared);
        let thread = std::thread::Builder::new().name("postgres".to_owned());
        let thread = thread.spawn(move || watched.supervise(&launch))?;
        Ok(Self { shared, thread: Some(thread) })
    }

    pub(super) fn watch(&self) -> Watched {
        let mut state = self.shared.lock();
        Watched { pid: state.server.map(Pid::as_raw_pid), ends: state.ends, spawn_error: state.spawn_error.take() }
    }

    pub(super) fn restarts(&self) -> u64 {
        self.shared.lock().spawns.saturating_sub(1)
    }

    /// Returns when the server has ended. Later calls do nothing.
    pub(super) fn stop(&mut self) -> Result<(), PostgresError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        self.shared.end_server();
        let joined = thread.join();
        joined.map_err(|_| io_error("stop", Path::new("PostgreSQL"))(io::Error::other("its thread panicked")))
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Each change is one assignment: a panic elsewhere leaves nothing half done.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn supervise(&self, launch: &Launch) {
        let mut back_off = BACK_OFF;
        loop {
            let begun = Instant::now();
            let ended = match self.spawn(launch) {
                Some(Ok(server)) => Ok(self.wait(server)),
                Some(Err(error)) => Err(error),
                None => break,
            };
            if begun.elapsed() > WELL {
                back_off = BACK_OFF;
            }
            if !self.rest(ended, back_off, &launch.log) {
                break;
            }
            back_off = LONGEST_BACK_OFF.min(back_off * 2);
        }
        self.lock().ended = true;
        self.changed.notify_all();
    }

    /// `None` when nothing is to run any more.
    fn spawn(&self, launch: &Launch) -> Option<Result<Child, PostgresError>> {
        let mut state = self.lock();
        if state.stopping {
            return None;
        }
        let server = launch.spawn();
        state.server = server.as_ref().ok().and_then(pid_of);
        state.spawns += 1;
        Some(server)
    }

    fn wait(&self, mut server: Child) -> Option<ExitStatus> {
        // Leaves the zombie, so that its process id stays taken until we hold the lock.
        if let Some(pid) = pid_of(&server) {
            let options = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
            while matches!(waitid(WaitId::Pid(pid), options), Err(rustix::io::Errno::INTR)) {}
        }
        let mut state = self.lock();
        state.server = None;
        server.wait().ok()
    }

    /// Waits before the next start. False when there is to be none.
    fn rest(&self, ended: Result<Option<ExitStatus>, PostgresError>, back_off: Duration, log: &Path) -> bool {
        let mut state = self.lock();
        state.ends += 1;
        if state.stopping {
            return false;
        }
        let (ends, log) = (state.ends, log.display());
        match ended {
            Ok(status) => {
                tracing::warn!(?status, ends, %log, ?back_off, "PostgreSQL ended; it is started again");
            }
            Err(error) => {
                tracing::warn!(%error, ends, ?back_off, "PostgreSQL was not started; it is tried again");
                state.spawn_error = Some(error);
            }
        }
        let waited = self.changed.wait_timeout_while(state, back_off, |state| !state.stopping);
        !waited.unwrap_or_else(PoisonError::into_inner).0.stopping
    }

    /// Asks for a fast shutdown, again and again (a very young server loses signals), at last for
    /// an immediate one, and returns when the server has ended.
    fn end_server(&self) {
        let mut state = self.lock();
        state.stopping = true;
        self.changed.notify_all();
        let mut requests = 0;
        while !state.ended {
            let fast = requests < FAST_REQUESTS;
            requests += 1;
            if let Some(server) = state.server {
                // SIGINT and SIGQUIT mean fast and immediate shutdown to the server.
                let _ = kill_process(server, if fast { Signal::INT } else { Signal::QUIT });
            }
            let waited = self.changed.wait_timeout_while(state, REQUEST_EVERY, |state| !state.ended);
            state = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Launch {
    fn spawn(&self) -> Result<Child, PostgresError> {
        use std::os::unix::process::CommandExt as _;

        self.cluster.remove_stale_pid_file();
        // Only a killed server leaves these, and their lock may name a recycled process id.
        let _ = std::fs::remove_file(&self.socket_file);
        let _ = std::fs::remove_file(self.socket_file.with_added_extension("lock"));
        let log = open_log(&self.log).map_err(io_error("open", &self.log))?;
        let mut command = command_in(self.cluster.path(), self.program.clone(), &self.account)?;
        command.args(&self.arguments).stdout(Stdio::null()).stderr(log);
        // Out of the terminal's process group: Ctrl-C is for us, and we stop the server last.
        let server = command.process_group(0).spawn();
        server.map_err(|source| spawn_error(source, self.cluster.path()))
    }
}

fn pid_of(server: &Child) -> Option<Pid> {
    Pid::from_raw(server.id().try_into().ok()?)
}

/// Appends, for the owner's eyes only: failed statements are logged with their text.
fn open_log(path: &Path) -> io::Result<File> {
    if path.metadata().is_ok_and(|log| log.len() > LONGEST_LOG) {
        std::fs::rename(path, path.with_added_extension("1"))?;
    }
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}
