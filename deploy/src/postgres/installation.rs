//! Which `PostgreSQL` binaries run a cluster: the given ones, the newest of Debian's, or those in PATH.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::PostgresError;
use super::cluster::Cluster;

/// Debian and Ubuntu keep each major version beside the others, outside PATH.
const DEBIAN: &str = "/usr/lib/postgresql";
const OLDEST: u32 = 15;

/// The binaries of one major version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Installation {
    major: u32,
    bin_dir: PathBuf,
}

impl Installation {
    /// The newest usable one, or for an existing cluster the one that made it. A given `bin_dir`
    /// is not mixed with others.
    pub(super) fn find(bin_dir: Option<&Path>, cluster: &Cluster) -> Result<Self, PostgresError> {
        let installed = match bin_dir {
            Some(bin_dir) => at(bin_dir).into_iter().collect(),
            None => all(),
        };
        choose(installed, cluster.major()?, cluster.path())
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.bin_dir.join(name)
    }
}

/// The client programs of PostgreSQL, of the version that a server has.
#[derive(Debug, Clone)]
pub(crate) struct Programs(Installation);

impl Programs {
    /// Those of `major`.
    ///
    /// # Errors
    /// They are not installed.
    pub(crate) fn find(bin_dir: Option<&Path>, major: u32) -> Result<Self, PostgresError> {
        let installed = match bin_dir {
            Some(bin_dir) => at(bin_dir).into_iter().collect(),
            None => all(),
        };
        choose(installed, Some(major), Path::new("the server")).map(Self)
    }

    /// Where a program is; it may be missing.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.0.program(name)
    }
}

/// `wanted` is the major version of an existing cluster. Of equals the first wins.
fn choose(installed: Vec<Installation>, wanted: Option<u32>, cluster: &Path) -> Result<Installation, PostgresError> {
    let found: BTreeSet<u32> = installed.iter().map(|one| one.major).collect();
    let usable = installed.into_iter().rev().filter(|one| one.major >= OLDEST);
    let chosen = usable.filter(|one| wanted.is_none_or(|wanted| one.major == wanted)).max_by_key(|one| one.major);
    match (chosen, wanted) {
        (Some(chosen), _) => Ok(chosen),
        (None, Some(wanted)) if !found.is_empty() => Err(PostgresError::WrongVersion {
            path: cluster.to_path_buf(),
            wanted,
            found: found.iter().map(u32::to_string).collect::<Vec<_>>().join(", "),
        }),
        (None, _) => Err(PostgresError::NotInstalled),
    }
}

fn all() -> Vec<Installation> {
    let debian = std::fs::read_dir(DEBIAN).into_iter().flatten().flatten();
    let debian = debian.filter_map(|version| {
        let major = version.file_name().to_str()?.parse().ok()?;
        complete(version.path().join("bin"), major)
    });
    let path = std::env::var_os("PATH").unwrap_or_default();
    let in_path = std::env::split_paths(&path).find_map(|dir| at(&dir));
    debian.chain(in_path).collect()
}

/// Asks the binary itself for its version.
fn at(bin_dir: &Path) -> Option<Installation> {
    let output = Command::new(bin_dir.join("postgres")).arg("--version").output().ok()?;
    let major = major_of(&String::from_utf8_lossy(&output.stdout))?;
    complete(bin_dir.to_path_buf(), major)
}

fn complete(bin_dir: PathBuf, major: u32) -> Option<Installation> {
    let complete = ["postgres", "initdb"].iter().all(|name| bin_dir.join(name).is_file());
    complete.then_some(Installation { major, bin_dir })
}

/// Reads `postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)`, also `18beta1`.
fn major_of(version: &str) -> Option<u32> {
    let number = version.split_once("(PostgreSQL) ")?.1;
    let end = number.find(|c: char| !c.is_ascii_digit()).unwrap_or(number.len());
    number[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn installed(majors: &[u32]) -> Vec<Installation> {
        let one = |major: &u32| Installation { major: *major, bin_dir: PathBuf::from(format!("/pg/{major}/bin")) };
        majors.iter().map(one).collect()
    }

    fn check(majors: &[u32], wanted: Option<u32>, expected: Result<u32, &str>) {
        let chosen = choose(installed(majors), wanted, Path::new("/data/postgres"));
        let chosen = chosen.map(|one| one.major).map_err(|error| error.to_string());
        match expected {
            Ok(major) => assert_eq!(chosen, Ok(major)),
            Err(part) => assert!(chosen.as_ref().is_err_and(|text| text.contains(part)), "{chosen:?}"),
        }
    }

    #[test]
    fn the_newest_is_taken_unless_the_data_wants_another() {
        check(&[15, 17, 16], None, Ok(17));
        check(&[15, 17, 16], Some(16), Ok(16));
        check(&[9, 14], None, Err("install PostgreSQL 15 or newer"));
        check(&[], None, Err("or set DATABASE_URL"));
        check(&[], Some(15), Err("install PostgreSQL 15 or newer"));
        check(&[15, 17], Some(16), Err("holds data of PostgreSQL 16, but only 15, 17 is here"));
    }

    #[test]
    fn the_first_of_equals_is_taken() {
        let mut two = installed(&[15, 15]);
        two[1].bin_dir = PathBuf::from("/usr/bin");
        let chosen = choose(two, None, Path::new("/data/postgres"));
        assert_eq!(chosen.ok(), installed(&[15]).pop());
    }

    #[test]
    fn versions_are_read_as_binaries_print_them() {
        let debian = "postgres (PostgreSQL) 15.8 (Debian 15.8-0+deb12u1)\n";
        assert_eq!(major_of(debian), Some(15));
        assert_eq!(major_of("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_of("postgres (PostgreSQL) 17\n"), Some(17));
        assert_eq!(major_of("bash: postgres"), None);
    }
}
