//! The repository: which base backups there are, which WAL behind each, and what may go.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position};
use modelfaucet_schema::time::Timestamp;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::segment::{Segment, USUAL_SIZE};
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::heads::{Lsn, parse_hash};

/// A base backup as it is described beside its directory.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// When it was begun, in UTC; its name.
    pub(crate) label: String,
    pub(crate) began: Timestamp,
    pub(crate) ended: Timestamp,
    /// Of the server's cluster; a restored cluster keeps it.
    pub(crate) system: u64,
    pub(crate) timeline: u32,
    /// Recovery begins here.
    pub(crate) start: String,
    /// And must get at least here.
    pub(crate) end: String,
    /// The log's head when it ended.
    pub(crate) log_id: LogId,
    pub(crate) position: Position,
    pub(crate) hash: String,
    /// Without its WAL.
    pub(crate) bytes: u64,
    pub(crate) segment_size: u64,
    pub(crate) server: String,
}

impl Base {
    pub(crate) fn start(&self) -> Lsn {
        self.start.parse().unwrap_or_default()
    }

    pub(crate) fn end(&self) -> Lsn {
        self.end.parse().unwrap_or_default()
    }

    /// The server's major version.
    pub(crate) fn major(&self) -> u32 {
        let digits = |text: &str| text.chars().take_while(char::is_ascii_digit).collect::<String>();
        digits(&self.server).parse().unwrap_or(0)
    }

    pub(crate) fn hash(&self) -> Option<ChainHash> {
        parse_hash(&self.hash)
    }
}

/// How far the copied WAL is, as its follower says every second.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Archived {
    /// When this was written.
    pub(crate) at: Timestamp,
    /// Everything that was committed until then is in the repository.
    pub(crate) until: Timestamp,
    pub(crate) timeline: u32,
    /// Up to this place.
    pub(crate) lsn: String,
}

/// A file of WAL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct WalFile {
    pub(crate) segment: Segment,
    pub(crate) path: PathBuf,
    /// Still being written.
    pub(crate) partial: bool,
    pub(crate) bytes: u64,
}

/// A directory with backups.
#[derive(Clone, Debug)]
pub(crate) struct Repository {
    dir: PathBuf,
}

impl Repository {
    /// The one that the settings name.
    ///
    /// # Errors
    /// None is named.
    pub(crate) fn of(config: &Config) -> Result<Self, Failure> {
        let missing = || Failure::new(Exit::Config, "BACKUP_DIR: is not set; set it or use --backup-dir");
        let dir = config.backup_dir().ok_or_else(missing)?;
        Ok(Self { dir: std::path::absolute(&dir).unwrap_or(dir) })
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn base_dir(&self, label: &str) -> PathBuf {
        self.dir.join("base").join(label)
    }

    pub(crate) fn wal_dir(&self, timeline: u32) -> PathBuf {
        self.dir.join("wal").join(format!("{timeline:08X}"))
    }

    pub(crate) fn mirror_dir(&self) -> PathBuf {
        super::mirror_dir(&self.dir)
    }

    pub(crate) fn drills(&self) -> PathBuf {
        self.dir.join("drills.jsonl")
    }

    /// Creates what is missing of a directory in it, for its owner alone.
    pub(crate) fn create(&self, dir: &Path) -> Result<(), Failure> {
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        made.map_err(|error| self.failure(dir, &error))
    }

    /// Makes sure that it is of this cluster: another one's WAL would be of no use.
    ///
    /// # Errors
    /// It is of another one, or cannot be used.
    pub(crate) fn claim(&self, system: u64) -> Result<(), Failure> {
        self.create(&self.dir)?;
        let path = self.dir.join("system");
        match fs::read_to_string(&path) {
            Ok(text) if text.trim() == system.to_string() => Ok(()),
            Ok(text) => Err(Failure::new(
                Exit::Config,
                format!(
                    "{} holds backups of another PostgreSQL ({}, this one is {system}); choose another BACKUP_DIR",
                    self.dir.display(),
                    text.trim()
                ),
            )),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                write(&path, format!("{system}\n").as_bytes()).map_err(|error| self.failure(&path, &error))
            }
            Err(error) => Err(self.failure(&path, &error)),
        }
    }

    /// Only one process at a time makes base backups, and one copies WAL.
    ///
    /// # Errors
    /// Another one does it.
    pub(crate) fn lock(&self, what: &str) -> Result<File, Failure> {
        self.create(&self.dir)?;
        let path = self.dir.join(format!("{what}.lock"));
        let open = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
        let file = open.map_err(|error| self.failure(&path, &error))?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(file),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Failure::new(Exit::Temporary, format!("another process works on {}", path.display())))
            }
            Err(error) => Err(self.failure(&path, &error.into())),
        }
    }

    /// Every finished base backup, the oldest first.
    ///
    /// # Errors
    /// A description that cannot be read.
    pub(crate) fn bases(&self) -> Result<Vec<Base>, Failure> {
        let dir = self.dir.join("base");
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failure(&dir, &error)),
        };
        let mut bases = Vec::new();
        for path in entries.flatten().map(|entry| entry.path()) {
            if path.extension().is_some_and(|extension| extension == "json") {
                let text = fs::read_to_string(&path).map_err(|error| self.failure(&path, &error))?;
                let base: Base = serde_json::from_str(&text).map_err(|error| self.failure(&path, &error.into()))?;
                bases.push(base);
            }
        }
        bases.sort_by(|one, other| one.label.cmp(&other.label));
        Ok(bases)
    }

    /// Writes a base backup's description: from now on it counts.
    pub(crate) fn finish(&self, base: &Base) -> Result<(), Failure> {
        let path = self.dir.join("base").join(format!("{}.json", base.label));
        let text = serde_json::to_vec_pretty(base).map_err(|error| self.failure(&path, &error.into()))?;
        write(&path, &text).map_err(|error| self.failure(&path, &error))
    }

    /// The WAL of a timeline, in order.
    pub(crate) fn wal(&self, timeline: u32, size: u64) -> Result<Vec<WalFile>, Failure> {
        let dir = self.wal_dir(timeline);
        let entries = match fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(self.failure(&dir, &error)),
        };
        let mut files = Vec::new();
        for entry in entries.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let partial = name.ends_with(".partial");
            let Some(segment) = Segment::parse(name.trim_end_matches(".partial"), size) else { continue };
            let bytes = entry.metadata().map_or(0, |found| found.len());
            files.push(WalFile { segment, path: entry.path(), partial, bytes });
        }
        files.sort_by_key(|file| (file.segment, file.partial));
        // One that is renamed while the folder is read may be seen under both names.
        files.dedup_by_key(|file| file.segment);
        Ok(files)
    }

    /// How far the copied WAL is; nothing if nobody copies any.
    pub(crate) fn archived(&self) -> Option<Archived> {
        serde_json::from_slice(&fs::read(self.dir.join("archived.json")).ok()?).ok()
    }

    pub(crate) fn set_archived(&self, archived: &Archived) -> io::Result<()> {
        write_unsynced(&self.dir.join("archived.json"), &serde_json::to_vec(archived)?)
    }

    /// Notes whether the log lacks, or contradicts, what was seen of it. Best effort: whoever finds it out stops anyway.
    pub(crate) fn set_contradicted(&self, contradicted: bool) {
        let path = self.dir.join("contradicted");
        let _best_effort = if contradicted { write_unsynced(&path, b"") } else { fs::remove_file(&path) };
    }

    /// Was that noted?
    pub(crate) fn is_contradicted(&self) -> bool {
        self.dir.join("contradicted").exists()
    }

    /// Removes base backups that need not be kept, and WAL that no kept one needs. Returns the labels that went.
    pub(crate) fn prune(&self, keep: usize, keep_for: Duration, now: Timestamp) -> Result<Vec<String>, Failure> {
        let bases = self.bases()?;
        let gone = superfluous(&bases, keep, keep_for, now);
        for base in &gone {
            // The description first: a removal that is broken off leaves rubbish, never half a backup that counts.
            let path = self.dir.join("base").join(format!("{}.json", base.label));
            fs::remove_file(&path).map_err(|error| self.failure(&path, &error))?;
            let dir = self.base_dir(&base.label);
            fs::remove_dir_all(&dir).map_err(|error| self.failure(&dir, &error))?;
        }
        self.remove_unfinished()?;
        let kept: Vec<&Base> = bases.iter().filter(|base| !gone.contains(base)).collect();
        for timeline in kept.iter().map(|base| base.timeline).collect::<std::collections::BTreeSet<_>>() {
            let size = kept.first().map_or(USUAL_SIZE, |base| base.segment_size);
            let oldest = kept.iter().filter(|base| base.timeline == timeline).map(|base| base.start()).min();
            let Some(first) = oldest.map(|start| Segment::of(timeline, start, size)) else { continue };
            for file in self.wal(timeline, size)?.iter().filter(|file| file.segment < first) {
                fs::remove_file(&file.path).map_err(|error| self.failure(&file.path, &error))?;
            }
        }
        self.remove_timelines(&kept)?;
        Ok(gone.into_iter().map(|base| base.label.clone()).collect())
    }

    /// WAL of timelines that no kept base backup is on, the one that is being written aside.
    fn remove_timelines(&self, kept: &[&Base]) -> Result<(), Failure> {
        let current = self.archived().map(|archived| archived.timeline);
        let dir = self.dir.join("wal");
        for path in fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            let name = path.file_name().and_then(|name| u32::from_str_radix(name.to_str()?, 16).ok());
            let wanted = |timeline| Some(timeline) == current || kept.iter().any(|base| base.timeline == timeline);
            if name.is_some_and(|timeline| !wanted(timeline)) {
                fs::remove_dir_all(&path).map_err(|error| self.failure(&path, &error))?;
            }
        }
        Ok(())
    }

    /// What a broken off run has left. Only under the lock of runs.
    fn remove_unfinished(&self) -> Result<(), Failure> {
        let dir = self.dir.join("base");
        for path in fs::read_dir(&dir).into_iter().flatten().flatten().map(|entry| entry.path()) {
            if path.is_dir() && !path.with_added_extension("json").exists() {
                fs::remove_dir_all(&path).map_err(|error| self.failure(&path, &error))?;
            }
        }
        Ok(())
    }

    #[expect(clippy::unused_self, reason = "reads as what it is about")]
    pub(crate) fn failure(&self, path: &Path, error: &io::Error) -> Failure {
        Failure::new(Exit::Temporary, format!("{}: {error}", path.display()))
    }
}

/// Those beyond the newest `keep` and older than `keep_for`.
fn superfluous(bases: &[Base], keep: usize, keep_for: Duration, now: Timestamp) -> Vec<&Base> {
    let old = |base: &&Base| now.since(base.ended) > keep_for;
    bases.iter().rev().skip(keep.max(1)).filter(old).collect()
}

/// Beside and renamed, and on disk before anything is built on it.
fn write(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
    file.write_all(text)?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Beside and renamed; may be lost in a crash. Others may write the same file at the same time.
pub(crate) fn write_unsynced(path: &Path, text: &[u8]) -> io::Result<()> {
    let beside = path.with_added_extension(format!("new-{}", std::process::id()));
    fs::write(&beside, text)?;
    fs::rename(&beside, path)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn base(label: &str, days: i64) -> Base {
        let at = Timestamp::from_micros(days * 86_400_000_000);
        Base {
            label: label.to_owned(),
            began: at,
            ended: at,
            system: 1,
            timeline: 1,
            start: format!("0/{days:X}000028"),
            end: format!("0/{days:X}000100"),
            log_id: LogId::generate(),
            position: Position(days),
            hash: "00".repeat(32),
            bytes: 1,
            segment_size: USUAL_SIZE,
            server: "15".to_owned(),
        }
    }

    fn repository(dir: &Path) -> Repository {
        Repository { dir: dir.to_path_buf() }
    }

    #[test]
    fn enough_and_young_ones_are_kept() {
        let bases: Vec<Base> = (1..=5).map(|day| base(&format!("b{day}"), day)).collect();
        let now = Timestamp::from_micros(6 * 86_400_000_000);
        let gone = |keep, days: u64| {
            let gone = superfluous(&bases, keep, Duration::from_secs(days * 86_400), now);
            gone.iter().map(|base| base.label.as_str()).collect::<Vec<_>>().join(" ")
        };
        assert_eq!(gone(2, 0), "b3 b2 b1");
        assert_eq!(gone(2, 4), "b1", "b2 is exactly 4 days old");
        assert_eq!(gone(0, 0), "b4 b3 b2 b1", "the newest one always stays");
        assert_eq!(gone(9, 0), "");
    }

    #[test]
    fn what_goes_takes_its_wal_along_and_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(dir.path());
        for day in 1..=3 {
            let base = base(&format!("b{day}"), day);
            fs::create_dir_all(repository.base_dir(&base.label)).unwrap();
            repository.finish(&base).unwrap();
        }
        fs::create_dir_all(repository.base_dir("unfinished")).unwrap();
        fs::create_dir_all(repository.wal_dir(1)).unwrap();
        for number in 0..=4 {
            let name = Segment { timeline: 1, number }.name(USUAL_SIZE);
            fs::write(repository.wal_dir(1).join(name), "").unwrap();
        }
        fs::write(repository.wal_dir(1).join("000000010000000000000005.partial"), "").unwrap();
        fs::create_dir_all(repository.wal_dir(2)).unwrap();
        let now = Timestamp::from_micros(9 * 86_400_000_000);
        assert_eq!(repository.prune(2, Duration::ZERO, now).unwrap(), ["b1"]);
        let labels: Vec<String> = repository.bases().unwrap().into_iter().map(|base| base.label).collect();
        assert_eq!(labels, ["b2", "b3"]);
        assert!(!repository.base_dir("unfinished").exists());
        assert!(!repository.wal_dir(2).exists(), "a timeline of no base backup");
        let left = repository.wal(1, USUAL_SIZE).unwrap();
        assert_eq!(
            left.iter().map(|file| (file.segment.number, file.partial)).collect::<Vec<_>>(),
            [(2, false), (3, false), (4, false), (5, true)]
        );
    }

    #[test]
    fn a_repository_is_of_one_cluster_and_one_worker() {
        let dir = tempfile::tempdir().unwrap();
        let repository = repository(&dir.path().join("new"));
        repository.claim(7).unwrap();
        repository.claim(7).unwrap();
        assert_eq!(repository.claim(8).unwrap_err().exit, Exit::Config);
        let held = repository.lock("base").unwrap();
        assert_eq!(repository.lock("base").unwrap_err().exit, Exit::Temporary);
        assert!(repository.lock("wal").is_ok());
        drop(held);
    }
}
