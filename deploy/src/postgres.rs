//! A private `PostgreSQL` for `modelfaucet up`: found, initialised, started, watched and stopped by us.
//!
//! It listens on no TCP port, only on a socket in a directory of mode 0700. One thread spawns the
//! server and waits for it as long as we live: the kernel interrupts the server (a clean, fast
//! shutdown) when that thread ends, also by `kill -9`. Needs Linux, `setpriv` and `PostgreSQL` >= 15.

mod account;
mod cluster;
mod installation;
mod settings;
mod socket;
mod supervisor;
#[cfg(test)]
mod tests;

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::{FlockOperation, flock};

use account::Account;
use cluster::Cluster;
use installation::Installation;
pub(crate) use installation::Programs;
use supervisor::{Launch, Supervisor};

/// Only names the socket file: nothing listens on this port.
pub(crate) const PORT: u16 = 5432;
const SUPERUSER: &str = "postgres";
/// How long a server may take to show that it is starting at all.
const START_LIMIT: Duration = Duration::from_mins(1);
/// How long it may recover after a crash: 4 GB of WAL on a slow disk.
const RECOVERY_LIMIT: Duration = Duration::from_mins(10);
/// Ends of the server during `start` after which we give up. Back-off makes this about 6 s, enough
/// for the last processes of a killed server to let go of its shared memory.
const ENDS_LIMIT: u64 = 6;

/// A running server, its supervisor and the lock on its data directory.
///
/// Dropping it stops the server, like [`PrivatePostgres::stop`].
#[derive(Debug)]
pub(crate) struct PrivatePostgres {
    supervisor: Supervisor,
    socket_dir: PathBuf,
    // Last, so that the lock is let go after the server has ended.
    _lock: Lock,
}

/// Where the server lives and how it is set.
#[derive(Debug, Clone, Default)]
pub(crate) struct PrivatePostgresOptions {
    /// Our data directory, created when missing; the cluster goes to `postgres` inside it.
    pub(crate) data_dir: PathBuf,
    /// Extra `-c name=value` settings. They win over our tuning, never over durability.
    pub(crate) settings: Vec<(String, String)>,
    /// Binaries to use instead of those of the system.
    pub(crate) bin_dir: Option<PathBuf>,
    /// How long it may recover; absent: 10 min, 4 GB of WAL on a slow disk.
    pub(crate) recovery_limit: Option<Duration>,
}

/// Why the private server does not run. Each message is one line that says what to do.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PostgresError {
    /// Neither `bin_dir`, `/usr/lib/postgresql` nor PATH has a usable server.
    #[error(
        "no PostgreSQL found: install PostgreSQL 15 or newer (Debian: apt-get install postgresql) or set DATABASE_URL"
    )]
    NotInstalled,
    /// The cluster was made by a major version that is not here.
    #[error(
        "{} holds data of PostgreSQL {wanted}, but only {found} is here: install PostgreSQL {wanted} (Debian: apt-get install postgresql-{wanted}) or move the data with pg_upgrade",
        path.display()
    )]
    WrongVersion {
        path: PathBuf,
        wanted: u32,
        /// Such as `15, 17`.
        found: String,
    },
    #[error("setpriv not found: install util-linux (Debian: apt-get install util-linux)")]
    NoSetpriv,
    #[error("no operating system user to run PostgreSQL as: add the user postgres or do not run as root")]
    NoServerUser,
    /// Another process of ours runs on the same data directory.
    #[error(
        "{} is in use by process {pid}: stop it first or choose another data directory",
        path.display()
    )]
    InUse { path: PathBuf, pid: String },
    #[error(
        "{} belongs to user id {owner}, not {expected}: change its owner, remove it or choose another data directory",
        path.display()
    )]
    ForeignOwner { path: PathBuf, owner: u32, expected: u32 },
    #[error(
        "no usable directory for the socket of PostgreSQL: choose a data directory with a shorter path than {}",
        data_dir.display()
    )]
    NoSocketDir { data_dir: PathBuf },
    #[error("initdb could not create a cluster: {output}")]
    Initdb { output: String },
    #[error(
        "process {pid} is an earlier PostgreSQL of {} and does not stop: end it with kill -INT {pid}",
        path.display()
    )]
    Orphan { path: PathBuf, pid: i32 },
    /// The server ended again and again; `reason` is the last line of its log that explains it.
    #[error("PostgreSQL does not start ({reason}): see {}", log.display())]
    DoesNotStart { reason: String, log: PathBuf },
    #[error("PostgreSQL is not ready after {seconds} s: see {}", log.display())]
    NotReady { seconds: u64, log: PathBuf },
    #[error("cannot {action} {}: {source}", path.display())]
    Io {
        /// Such as `open`.
        action: &'static str,
        path: PathBuf,
        source: io::Error,
    },
}

/// For `map_err`: names what was tried on which path.
fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> PostgresError {
    let path = path.to_path_buf();
    move |source| PostgresError::Io { action, path, source }
}

impl PrivatePostgres {
    /// Starts the server on the data of an earlier run, or on a new cluster, and returns when it
    /// accepts connections. Blocks: call it off the async threads.
    ///
    /// # Errors
    /// See [`PostgresError`]; nothing is left running.
    pub(crate) fn start(options: PrivatePostgresOptions) -> Result<Self, PostgresError> {
        let PrivatePostgresOptions { data_dir, settings, bin_dir, recovery_limit } = options;
        let data_dir = create_data_dir(&data_dir)?;
        let lock = lock(&data_dir)?;
        let cluster = Cluster::new(&data_dir);
        let account = Account::for_cluster(&cluster)?;
        let installation = Installation::find(bin_dir.as_deref(), &cluster)?;
        cluster.end_orphan()?;
        cluster.create_if_missing(&installation, &account)?;
        let socket_dir = socket::prepare(&data_dir, &account)?;

        let log = data_dir.join("postgres.log");
        let log_start = log.metadata().map_or(0, |log| log.len());
        let launch = Launch {
            arguments: settings::arguments(&settings, &socket_dir, PORT),
            program: installation.program("postgres"),
            socket_file: socket::file(&socket_dir, PORT),
            cluster: cluster.clone(),
            log: log.clone(),
            account,
        };
        let server = Self {
            supervisor: Supervisor::start(launch).map_err(io_error("start a thread for", &data_dir))?,
            socket_dir,
            _lock: lock,
        };
        server.wait_until_ready(&cluster, &log, log_start, recovery_limit.unwrap_or(RECOVERY_LIMIT))?;
        Ok(server)
    }

    /// The directory of the socket, mode 0700.
    pub(crate) fn socket_dir(&self) -> &Path {
        &self.socket_dir
    }

    /// How to connect as `role` to `dbname` through the socket; no password is needed.
    pub(crate) fn config(&self, role: &str, dbname: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host_path(&self.socket_dir).port(PORT).user(role).dbname(dbname);
        config
    }

    /// The role that `initdb` made.
    #[expect(clippy::unused_self, reason = "callers need not know that it is always the same")]
    pub(crate) fn superuser(&self) -> &str {
        SUPERUSER
    }

    /// How often the server died and was started again.
    pub(crate) fn restarts(&self) -> u64 {
        self.supervisor.restarts()
    }

    /// Ends all sessions, writes a checkpoint and returns when the server has ended.
    ///
    /// # Errors
    /// The server did not end, not even by an immediate shutdown.
    pub(crate) fn stop(mut self) -> Result<(), PostgresError> {
        self.supervisor.stop()
    }

    fn wait_until_ready(
        &self,
        cluster: &Cluster,
        log: &Path,
        log_start: u64,
        recovery_limit: Duration,
    ) -> Result<(), PostgresError> {
        let socket_file = socket::file(&self.socket_dir, PORT);
        let begun = Instant::now();
        loop {
            let watched = self.supervisor.watch();
            let pid_file = cluster.pid_file().filter(|file| watched.pid == Some(file.pid));
            if pid_file.as_ref().is_some_and(|file| file.ready) && UnixStream::connect(&socket_file).is_ok() {
                return Ok(());
            }
            if let Some(error) = watched.spawn_error {
                return Err(error);
            }
            if watched.ends >= ENDS_LIMIT {
                return Err(PostgresError::DoesNotStart { reason: reason_in(log, log_start), log: log.to_path_buf() });
            }
            // A server that holds its pid file is past its checks: it recovers.
            let limit = if pid_file.is_some() { recovery_limit } else { START_LIMIT };
            if begun.elapsed() > limit {
                return Err(PostgresError::NotReady { seconds: limit.as_secs(), log: log.to_path_buf() });
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        if let Err(error) = self.supervisor.stop() {
            tracing::error!(%error, "PostgreSQL did not stop");
        }
        // Empty now; the next start makes it again. Best effort.
        let _ = std::fs::remove_dir(&self.socket_dir);
    }
}

/// The directory of the socket of a server that runs on this data directory now, whichever process of ours started it.
pub(crate) fn running_socket(data_dir: &Path) -> Option<PathBuf> {
    let pid_file = std::fs::read_to_string(data_dir.join("postgres/postmaster.pid")).ok()?;
    // Line 5 is the directory, see `utils/pidfile.h` of `PostgreSQL`.
    let socket_dir = PathBuf::from(pid_file.lines().nth(4)?);
    UnixStream::connect(socket::file(&socket_dir, PORT)).is_ok().then_some(socket_dir)
}

/// Gives everything below `path` to the user that the private server runs as; nothing to do unless we are root.
///
/// # Errors
/// No such user, or the system's.
pub(crate) fn give_to_server(path: &Path) -> Result<(), PostgresError> {
    let account = Account::for_cluster(&Cluster::new(path))?;
    let mut waiting = vec![path.to_path_buf()];
    while let Some(next) = waiting.pop() {
        account.take_over(&next).map_err(io_error("change the owner of", &next))?;
        if next.symlink_metadata().is_ok_and(|found| found.is_dir()) {
            let entries = std::fs::read_dir(&next).map_err(io_error("read", &next))?;
            waiting.extend(entries.flatten().map(|entry| entry.path()));
        }
    }
    Ok(())
}

fn create_data_dir(path: &Path) -> Result<PathBuf, PostgresError> {
    let created = DirBuilder::new().recursive(true).mode(0o755).create(path);
    created.map_err(io_error("create", path))?;
    path.canonicalize().map_err(io_error("resolve", path))
}

/// Lets the data directory go when dropped; the kernel does it when we are killed.
#[derive(Debug)]
struct Lock(File);

impl Drop for Lock {
    fn drop(&mut self) {
        // Closing is not enough: a process that another thread is just starting still has the file.
        let _ = flock(&self.0, FlockOperation::Unlock);
    }
}

fn lock(data_dir: &Path) -> Result<Lock, PostgresError> {
    let path = data_dir.join("up.lock");
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o644)
        .open(&path)
        .map_err(io_error("open", &path))?;
    if let Err(error) = flock(&file, FlockOperation::NonBlockingLockExclusive) {
        if error != rustix::io::Errno::WOULDBLOCK {
            return Err(io_error("lock", &path)(error.into()));
        }
        let mut pid = String::new();
        file.read_to_string(&mut pid).map_err(io_error("read", &path))?;
        let pid = pid.trim().to_owned();
        return Err(PostgresError::InUse { path: data_dir.to_path_buf(), pid });
    }
    file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id())).map_err(io_error("write", &path))?;
    Ok(Lock(file))
}

/// The last fatal line, else the last line, that the server logged since `start` (a byte offset).
fn reason_in(log: &Path, start: u64) -> String {
    let mut text = Vec::new();
    if let Ok(mut file) = File::open(log) {
        // A log that was rotated meanwhile is shorter than `start` and read as empty.
        let _ = file.seek(io::SeekFrom::Start(start));
        let _ = file.read_to_end(&mut text);
    }
    let text = String::from_utf8_lossy(&text);
    let last = |word: &str| text.lines().rev().find(|line| line.contains(word));
    let line = last("FATAL:").or_else(|| last("")).unwrap_or("it logged nothing");
    line.trim().to_owned()
}
