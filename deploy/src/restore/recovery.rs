//! The new data directory: files from the repository, settings of our own, and PostgreSQL's recovery up to the target.

use std::fs;
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::time::Duration;

use super::plan::{Plan, recovery_time};
use super::target::Aim;
use crate::backup::Repository;
use crate::backup::repository::WalFile;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::postgres::{self, PostgresError, PrivatePostgres, PrivatePostgresOptions};

/// How long the WAL may take to be replayed.
const RECOVERY_LIMIT: Duration = Duration::from_secs(12 * 3_600);
/// What PostgreSQL says when the WAL is over before the target.
const OVER_BEFORE: &str = "recovery ended before configured recovery target was reached";
/// Settings that belonged to the place where the backup was made; kept beside, for whoever needs them.
const REPLACED: [&str; 3] = ["postgresql.conf", "postgresql.auto.conf", "pg_hba.conf"];

/// Puts base backup and WAL in place.
///
/// # Errors
/// A target that holds something; the system's.
pub(super) fn place(repository: &Repository, plan: &Plan, into: &Path) -> Result<(), Failure> {
    let failed =
        |path: &Path, error: &std::io::Error| Failure::new(Exit::Temporary, format!("{}: {error}", path.display()));
    if fs::read_dir(into).is_ok_and(|mut entries| entries.next().is_some()) {
        let message =
            format!("{} holds something; a restore goes into a new directory, never over another", into.display());
        return Err(Failure::new(Exit::Config, message));
    }
    fs::DirBuilder::new().recursive(true).mode(0o755).create(into).map_err(|error| failed(into, &error))?;
    let cluster = into.join("postgres");
    copy(&repository.base_dir(&plan.base.label), &cluster).map_err(|error| failed(&cluster, &error))?;
    let wal = cluster.join("pg_wal");
    for file in &plan.wal {
        let path = wal.join(file.segment.name(plan.base.segment_size));
        // A base backup ends with a change of segments: what it has of one is all that there is.
        if file.partial && path.exists() {
            continue;
        }
        copy_wal(file, &path).map_err(|error| failed(&file.path, &error))?;
    }
    for name in REPLACED {
        let path = cluster.join(name);
        if path.exists() {
            let beside = path.with_added_extension("of-backup");
            fs::rename(&path, &beside).map_err(|error| failed(&beside, &error))?;
        }
    }
    let files = [
        ("postgresql.conf", "# Settings are given by `modelfaucet up`.\n"),
        ("postgresql.auto.conf", ""),
        // Only over the socket, whose directory is for its owner alone.
        ("pg_hba.conf", "local all all trust\nlocal replication all trust\n"),
        ("pg_ident.conf", ""),
        ("recovery.signal", ""),
    ];
    for (name, text) in files {
        let path = cluster.join(name);
        let mut options = fs::OpenOptions::new();
        let open = options.write(true).create(true).truncate(true).mode(0o600).open(&path);
        open.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes()))
            .map_err(|error| failed(&path, &error))?;
    }
    // Whoever is root gives the files to the user that the server runs as.
    Ok(postgres::give_to_server(&cluster)?)
}

/// Copies a file of WAL, which its follower may finish and rename meanwhile.
fn copy_wal(file: &WalFile, to: &Path) -> std::io::Result<u64> {
    match fs::copy(&file.path, to) {
        Err(error) if file.partial && error.kind() == std::io::ErrorKind::NotFound => {
            fs::copy(file.path.with_extension(""), to)
        }
        copied => copied,
    }
}

/// Copies a directory with everything in it; of links, the links.
fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().mode(0o700).create(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, kind) = (to.join(entry.file_name()), entry.file_type()?);
        if kind.is_dir() {
            copy(&entry.path(), &path)?;
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &path)?;
        } else {
            fs::copy(entry.path(), &path)?;
        }
    }
    Ok(())
}

/// Starts the restored server, which recovers up to the target and then serves on its own timeline.
///
/// # Errors
/// PostgreSQL's reasons.
pub(super) fn recover(config: &Config, plan: &Plan, into: &Path) -> Result<PrivatePostgres, Failure> {
    match start(config, plan.aim, into) {
        // Everything that was copied is before the target: then all of it is wanted.
        Err(PostgresError::DoesNotStart { .. }) if log_says(into, OVER_BEFORE) => Ok(start(config, Aim::Latest, into)?),
        started => Ok(started?),
    }
}

fn start(config: &Config, aim: Aim, into: &Path) -> Result<PrivatePostgres, PostgresError> {
    let mut settings: Vec<(&str, String)> = vec![
        // All of the WAL is in place already.
        ("restore_command", "false".to_owned()),
        ("recovery_target_timeline", "current".to_owned()),
        ("recovery_target_action", "promote".to_owned()),
        // Without readers meanwhile, the settings of the server that was backed up need not be met.
        ("hot_standby", "off".to_owned()),
    ];
    match aim {
        Aim::Latest => {}
        Aim::Lsn(lsn) => settings.push(("recovery_target_lsn", lsn.to_string())),
        Aim::Time(time) => settings.push(("recovery_target_time", recovery_time(time))),
    }
    PrivatePostgres::start(PrivatePostgresOptions {
        data_dir: into.to_path_buf(),
        settings: settings.into_iter().map(|(name, value)| (name.to_owned(), value)).collect(),
        bin_dir: config.pg_bindir(),
        recovery_limit: Some(RECOVERY_LIMIT),
    })
}

fn log_says(into: &Path, what: &str) -> bool {
    fs::read(into.join("postgres.log")).is_ok_and(|log| String::from_utf8_lossy(&log).contains(what))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::backup::segment::Segment;

    #[test]
    fn a_file_of_wal_may_be_finished_while_it_is_copied() {
        let folder = tempfile::tempdir().unwrap();
        let of = |name: &str| folder.path().join(name);
        let file = |partial, path| WalFile { segment: Segment { timeline: 1, number: 5 }, path, partial, bytes: 3 };
        let listed = file(true, of("000000010000000000000005.partial"));
        std::fs::write(of("000000010000000000000005"), "all").unwrap();
        assert_eq!(copy_wal(&listed, &of("copy")).unwrap(), 3);
        assert_eq!(std::fs::read(of("copy")).unwrap(), b"all");
        // Whatever else is missing is missing.
        let gone = file(false, of("000000010000000000000006"));
        assert_eq!(copy_wal(&gone, &of("copy")).unwrap_err().kind(), std::io::ErrorKind::NotFound);
    }
}
