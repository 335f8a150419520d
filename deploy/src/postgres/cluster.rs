//! The data of the server on disk: created in one step, and cleared of what a killed server left.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use super::account::{self, Account};
use super::installation::Installation;
use super::{PostgresError, SUPERUSER, io_error};

/// How long an earlier server may take to end by itself, and again after we asked it to.
const ORPHAN_LIMITS: [Duration; 2] = [Duration::from_secs(5), Duration::from_mins(1)];
const NEW: &str = "postgres.new-";

/// The directory `postgres` in our data directory.
#[derive(Debug, Clone)]
pub(super) struct Cluster {
    data_dir: PathBuf,
    path: PathBuf,
}

/// What a running server tells in `postmaster.pid`.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct PidFile {
    pub(super) pid: i32,
    pub(super) ready: bool,
}

impl Cluster {
    pub(super) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_path_buf(), path: data_dir.join("postgres") }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// The major version that made the cluster; `None` before there is one.
    pub(super) fn major(&self) -> Result<Option<u32>, PostgresError> {
        let path = self.path.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(text) => {
                let major = text.trim().parse().map_err(std::io::Error::other);
                Ok(Some(major.map_err(io_error("understand", &path))?))
            }
            Err(_) if !self.path.exists() => Ok(None),
            Err(source) => Err(io_error("read", &path)(source)),
        }
    }

    /// Runs `initdb` beside the final place and renames: a kill leaves a whole cluster or none.
    pub(super) fn create_if_missing(
        &self,
        installation: &Installation,
        account: &Account,
    ) -> Result<(), PostgresError> {
        self.remove_unfinished();
        if self.path.exists() {
            return Ok(());
        }
        let new = self.data_dir.join(format!("{NEW}{}", std::process::id()));
        let initdb = |locale| {
            let created = fs::DirBuilder::new().mode(0o700).create(&new);
            created.map_err(io_error("create", &new))?;
            account.take_over(&new).map_err(io_error("change the owner of", &new))?;
            initdb(installation, account, &new, locale)
        };
        let done = initdb("C.UTF-8").or_else(|error| {
            // Some C libraries lack this locale; the order of bytes is the same in both.
            let missing = matches!(&error, PostgresError::Initdb { output } if output.contains("locale"));
            self.remove_unfinished();
            if missing { initdb("C") } else { Err(error) }
        });
        if done.is_err() {
            self.remove_unfinished();
        }
        done?;
        fs::rename(&new, &self.path).map_err(io_error("rename", &new))?;
        // An `initdb` that outlived its killed parent may have written while we removed.
        self.remove_unfinished();
        let synced = fs::File::open(&self.data_dir).and_then(|dir| dir.sync_all());
        synced.map_err(io_error("sync", &self.data_dir))
    }

    /// Also what a killed `initdb` of another process left. Best effort: nothing reads it.
    fn remove_unfinished(&self) {
        for entry in fs::read_dir(&self.data_dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(NEW) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
    }

    /// `None` while no server has it, or has not written all of it.
    pub(super) fn pid_file(&self) -> Option<PidFile> {
        parse_pid_file(&fs::read_to_string(self.path.join("postmaster.pid")).ok()?)
    }

    /// Waits for a server that outlived an earlier process of ours, then stops it.
    ///
    /// Only under the lock of the data directory: whatever still runs on it is ours and orphaned.
    pub(super) fn end_orphan(&self) -> Result<(), PostgresError> {
        let Some(pid) = self.orphan() else {
            return Ok(());
        };
        tracing::warn!(pid, "an earlier PostgreSQL still runs on this data directory; waiting for its end");
        for limit in ORPHAN_LIMITS {
            let begun = Instant::now();
            while begun.elapsed() < limit {
                if self.orphan().is_none() {
                    return Ok(());
                }
                std::thread::sleep(Duration::from_millis(50));
            }
            // What `pg_ctl stop -m fast` sends, but only to a process that we have just recognised.
            if let (Some(pid), true) = (Pid::from_raw(pid), self.orphan() == Some(pid)) {
                let _ = kill_process(pid, Signal::INT);
            }
        }
        let path = self.path.clone();
        Err(PostgresError::Orphan { path, pid })
    }

    fn orphan(&self) -> Option<i32> {
        let pid = self.pid_file()?.pid;
        self.is_home_of(pid).then_some(pid)
    }

    /// Removes a `postmaster.pid` whose server is gone while another process got its number, which
    /// the next server cannot tell apart. It still refuses while processes of the old server use its
    /// shared memory: that check goes by the directory itself.
    pub(super) fn remove_stale_pid_file(&self) {
        if self.pid_file().is_some_and(|file| !self.is_home_of(file.pid)) {
            let _ = fs::remove_file(self.path.join("postmaster.pid"));
        }
    }

    /// A server works in its data directory; a stranger with a recycled process id does not.
    fn is_home_of(&self, pid: i32) -> bool {
        let place = |path: &Path| path.metadata().ok().map(|found| (found.dev(), found.ino()));
        let home = place(Path::new(&format!("/proc/{pid}/cwd")));
        home.is_some() && home == place(&self.path)
    }
}

/// `program`, to work on the cluster at `path`, although parents of `path` may be closed to the
/// account, such as `/root`: then it gets the directory itself, opened, and not its path.
pub(super) fn command_in(path: &Path, program: PathBuf, account: &Account) -> Result<Command, PostgresError> {
    // Not in our working directory either: it may be closed to the account too.
    if account.reaches(path)? {
        let mut command = account.command(program);
        command.current_dir("/").arg("-D").arg(path);
        return Ok(command);
    }
    let mut command = account.command("sh");
    command.args(["-c", r#"exec 9<. && cd / && exec "$0" "$@""#]).arg(program);
    command.current_dir(path).args(["-D", "/proc/self/fd/9"]);
    Ok(command)
}

fn initdb(installation: &Installation, account: &Account, path: &Path, locale: &str) -> Result<(), PostgresError> {
    let mut command = command_in(path, installation.program("initdb"), account)?;
    command.args(["--username", SUPERUSER, "--encoding=UTF8", "--data-checksums"]);
    command.args(["--auth-local=trust", "--auth-host=reject", "--no-instructions"]);
    // A new piece of the WAL is filled with zeros before it is used, and whoever commits waits: 16 MB, the default, take 30 ms or more.
    // In MB.
    command.arg("--wal-segsize=4");
    command.arg(format!("--locale={locale}"));
    let output = command.output().map_err(|source| account::spawn_error(source, path))?;
    if output.status.success() {
        return Ok(());
    }
    let text = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    Err(PostgresError::Initdb { output: lines.join("; ") })
}

/// Line 1 is the process id, line 8 the state, see `utils/pidfile.h` of `PostgreSQL`.
fn parse_pid_file(text: &str) -> Option<PidFile> {
    let mut lines = text.lines();
    let pid: i32 = lines.next()?.trim().parse().ok()?;
    let state = lines.nth(6).unwrap_or_default();
    let ready = state.trim() == "ready";
    // Negative in single-user mode.
    (pid > 0).then_some(PidFile { pid, ready })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: Option<(i32, bool)>) {
        let expected = expected.map(|(pid, ready)| PidFile { pid, ready });
        assert_eq!(parse_pid_file(text), expected, "{text:?}");
    }

    #[test]
    fn pid_files_are_read_while_they_are_written() {
        check("4711\n/d\n1700000000\n5432\n/d/run\n\n  123  1\nready   \n", Some((4711, true)));
        check("4711\n/d\n1700000000\n5432\n/d/run\n\n  123  1\nstarting\n", Some((4711, false)));
        check("4711\n/d\n1700000000\n5432\n", Some((4711, false)));
        check("-4711\n/d\n", None);
        check("", None);
        check("47x", None);
    }

    #[test]
    fn a_stranger_with_a_recycled_process_id_is_no_server() -> std::io::Result<()> {
        let temp = tempfile::tempdir()?;
        let cluster = Cluster::new(temp.path());
        fs::create_dir(&cluster.path)?;
        let pid_file = cluster.path.join("postmaster.pid");
        fs::write(&pid_file, format!("{}\n", std::process::id()))?;
        assert_eq!(cluster.orphan(), None);
        cluster.remove_stale_pid_file();
        assert!(!pid_file.exists());
        Ok(())
    }
}
