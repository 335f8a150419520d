//! The directory of the server's Unix socket: ours alone, with a path short enough for the kernel.

use std::fs::{self, DirBuilder, Permissions};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use rustix::process::geteuid;
use sha2::{Digest as _, Sha256};

use super::account::Account;
use super::{PORT, PostgresError, io_error};

/// `sun_path` has 108 bytes with the closing zero, see unix(7).
const LONGEST: usize = 107;

/// The socket that the server makes in `dir`.
pub(super) fn file(dir: &Path, port: u16) -> PathBuf {
    dir.join(format!(".s.PGSQL.{port}"))
}

/// `run` in the data directory, or a stable place in a temporary directory where that path is too
/// long or closed to `account`. Created with mode 0700; one that belongs to others is refused.
pub(super) fn prepare(data_dir: &Path, account: &Account) -> Result<PathBuf, PostgresError> {
    for dir in candidates(data_dir, &std::env::temp_dir()) {
        let parent = dir.parent().unwrap_or(&dir);
        if !parent.is_dir() {
            continue;
        }
        create(&dir, account)?;
        if account.reaches(&dir)? {
            return Ok(dir);
        }
        let _ = fs::remove_dir(&dir);
    }
    Err(PostgresError::NoSocketDir { data_dir: data_dir.to_path_buf() })
}

/// Places whose socket path fits and can be written as a setting, best first.
fn candidates(data_dir: &Path, temp_dir: &Path) -> Vec<PathBuf> {
    let hash = Sha256::digest(data_dir.as_os_str().as_bytes());
    let name = hash[..8].iter().fold("modelfaucet-".to_owned(), |name, byte| format!("{name}{byte:02x}"));
    let mut places = vec![data_dir.join("run"), temp_dir.join(&name)];
    if temp_dir != Path::new("/tmp") {
        places.push(Path::new("/tmp").join(&name));
    }
    places.retain(|dir| dir.is_absolute() && file(dir, PORT).as_os_str().len() <= LONGEST);
    places.retain(|dir| !dir.as_os_str().as_bytes().contains(&b'"'));
    places
}

fn create(dir: &Path, account: &Account) -> Result<(), PostgresError> {
    if !dir.exists() {
        let created = DirBuilder::new().mode(0o700).create(dir);
        created.map_err(io_error("create", dir))?;
    }
    // Not through a link: a stranger could have laid it, in a directory that all may write to.
    let found = dir.symlink_metadata().map_err(io_error("look at", dir))?;
    let ours = [account.uid, geteuid().as_raw()].contains(&found.uid());
    if !found.is_dir() || !ours {
        return Err(PostgresError::ForeignOwner { path: dir.to_path_buf(), owner: found.uid(), expected: account.uid });
    }
    let private = fs::set_permissions(dir, Permissions::from_mode(0o700));
    private.map_err(io_error("make private", dir))?;
    account.take_over(dir).map_err(io_error("change the owner of", dir))
}

#[cfg(test)]
mod tests {
    use super::super::cluster::Cluster;
    use super::*;

    fn check(data_dir: &str, temp_dir: &str, expected: &[&str]) {
        let found = candidates(Path::new(data_dir), Path::new(temp_dir));
        let found: Vec<&str> = found.iter().filter_map(|dir| dir.to_str()).collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn the_data_directory_is_preferred_while_the_path_fits() {
        let in_tmp = "/tmp/modelfaucet-bd47413b5c03dfc6";
        check("/data", "/tmp", &["/data/run", in_tmp]);
        check("/data", "/var/tmp", &["/data/run", "/var/tmp/modelfaucet-bd47413b5c03dfc6", in_tmp]);
        // 107 bytes in all, of which `/run` and `/.s.PGSQL.5432` take 18.
        let fits = format!("/{}", "d".repeat(88));
        assert_eq!(candidates(Path::new(&fits), Path::new("/tmp")).len(), 2);
        let too_long = format!("/{}", "d".repeat(89));
        assert_eq!(candidates(Path::new(&too_long), Path::new("/tmp")).len(), 1);
    }

    #[test]
    fn a_directory_of_others_or_a_link_is_refused() -> std::io::Result<()> {
        let temp = tempfile::tempdir()?;
        let (target, link) = (temp.path().join("target"), temp.path().join("link"));
        fs::create_dir(&target)?;
        std::os::unix::fs::symlink(&target, &link)?;
        let account = Account::for_cluster(&Cluster::new(temp.path())).map_err(std::io::Error::other)?;
        assert!(matches!(create(&link, &account), Err(PostgresError::ForeignOwner { .. })));
        assert!(create(&target, &account).is_ok());
        if geteuid().is_root() {
            std::os::unix::fs::chown(&target, Some(account.uid + 1), None)?;
            assert!(matches!(create(&target, &account), Err(PostgresError::ForeignOwner { .. })));
        }
        Ok(())
    }
}
