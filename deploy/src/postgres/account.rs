//! The operating system user that the server runs as; it refuses to run as root.

use std::ffi::OsStr;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::geteuid;

use super::PostgresError;
use super::cluster::Cluster;

/// A user and group id, and whether we must change to them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Account {
    pub(super) uid: u32,
    gid: u32,
    /// We are root and give our rights up for everything that the server does.
    drops: bool,
}

impl Account {
    /// Ourselves, or when we are root: the owner of the cluster, else `postgres`, else `nobody`.
    pub(super) fn for_cluster(cluster: &Cluster) -> Result<Self, PostgresError> {
        let owner = cluster.path().metadata().ok();
        if geteuid().is_root() {
            let passwd = std::fs::read_to_string("/etc/passwd").unwrap_or_default();
            let known = ["postgres", "nobody"].iter().find_map(|name| ids_of(&passwd, name));
            let owner = owner.map(|cluster| (cluster.uid(), cluster.gid()));
            let (uid, gid) = owner.or(known).ok_or(PostgresError::NoServerUser)?;
            if uid == 0 {
                return Err(PostgresError::ForeignOwner {
                    path: cluster.path().to_path_buf(),
                    owner: 0,
                    expected: known.map_or(uid, |known| known.0),
                });
            }
            return Ok(Self { uid, gid, drops: true });
        }
        let account = Self { uid: geteuid().as_raw(), gid: rustix::process::getegid().as_raw(), drops: false };
        match owner {
            Some(owner) if owner.uid() != account.uid => Err(PostgresError::ForeignOwner {
                path: cluster.path().to_path_buf(),
                owner: owner.uid(),
                expected: account.uid,
            }),
            _ => Ok(account),
        }
    }

    /// `program`, run with this account's rights and interrupted when the calling *thread* ends.
    ///
    /// It inherits no variable but PATH: our environment may hold secrets, or `PG…` settings.
    pub(super) fn command(&self, program: impl AsRef<OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.env_clear().env("LC_ALL", "C");
        command.envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        if self.drops {
            command.arg(format!("--reuid={}", self.uid));
            command.arg(format!("--regid={}", self.gid));
            command.arg("--clear-groups");
        }
        command.args(["--pdeathsig", "INT", "--"]).arg(program);
        command.stdin(Stdio::null());
        command
    }

    /// Whether this account gets through all parents of `path`, a directory, and may write there.
    pub(super) fn reaches(&self, path: &Path) -> Result<bool, PostgresError> {
        let test = |flag| {
            let status = self.command("test").arg(flag).arg(path).status();
            status.map_err(|source| spawn_error(source, path))
        };
        Ok(!self.drops || (test("-x")?.success() && test("-w")?.success()))
    }

    /// Gives `path` to this account.
    pub(super) fn take_over(&self, path: &Path) -> io::Result<()> {
        if !self.drops {
            return Ok(());
        }
        std::os::unix::fs::lchown(path, Some(self.uid), Some(self.gid))
    }
}

/// What a failed start of [`Account::command`] means, for work on `path`.
pub(super) fn spawn_error(source: io::Error, path: &Path) -> PostgresError {
    match source.kind() {
        io::ErrorKind::NotFound => PostgresError::NoSetpriv,
        _ => super::io_error("start a process for", path)(source),
    }
}

/// User and group id of `name`, from the text of `/etc/passwd`.
fn ids_of(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let matches = fields.next() == Some(name);
        let (uid, gid) = (fields.nth(1)?, fields.next()?);
        matches.then_some((uid.parse().ok()?, gid.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_read_from_passwd() {
        let passwd = "root:x:0:0:root:/root:/bin/bash\n+::\npostgres:x:101:104:,,,:/var/lib/postgresql:/bin/bash\n";
        assert_eq!(ids_of(passwd, "postgres"), Some((101, 104)));
        assert_eq!(ids_of(passwd, "nobody"), None);
    }
}
