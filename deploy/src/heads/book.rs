//! The file of seen heads: lines are appended and forced to disk, old ones are thinned out, the newest one of each log stays.

use std::collections::HashSet;
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::time::Timestamp;

use super::Lsn;
use crate::exit::{Exit, Failure};

/// The file is thinned when it is larger, in bytes: about a day of one line per second.
const LARGE: u64 = 16 << 20;
/// Lines of the last hour all stay, in microseconds.
const FRESH: i64 = 3_600_000_000;
/// Of older ones, one per minute stays.
const MINUTE: i64 = 60_000_000;

/// A head that somebody saw.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Witnessed {
    /// When.
    pub(crate) at: Timestamp,
    /// Of which log.
    pub(crate) log_id: LogId,
    /// The position.
    pub(crate) position: Position,
    /// The link of the chain there.
    pub(crate) hash: ChainHash,
    /// A place in the WAL behind the commit of that position.
    pub(crate) lsn: Lsn,
    /// The timeline of that WAL.
    pub(crate) timeline: u32,
}

impl fmt::Display for Witnessed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "position {} of log {} at {}", self.position, self.log_id, self.at.to_millis_text())
    }
}

impl Witnessed {
    fn line(&self) -> String {
        format!("{} {} {} {} {} {}\n", self.at, self.log_id, self.position, self.hash, self.lsn, self.timeline)
    }
}

impl FromStr for Witnessed {
    type Err = ();

    fn from_str(line: &str) -> Result<Self, ()> {
        let mut parts = line.split(' ');
        let mut next = || parts.next().ok_or(());
        let seen = Self {
            at: next()?.parse().map_err(|_| ())?,
            log_id: next()?.parse().map_err(|_| ())?,
            position: Position(next()?.parse().map_err(|_| ())?),
            hash: hash(next()?).ok_or(())?,
            lsn: next()?.parse().map_err(|_| ())?,
            timeline: next()?.parse().map_err(|_| ())?,
        };
        if parts.next().is_none() { Ok(seen) } else { Err(()) }
    }
}

/// 64 hexadecimal digits.
pub(crate) fn hash(text: &str) -> Option<ChainHash> {
    let digits = text.as_bytes();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let byte = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok();
    let bytes: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    ChainHash::from_slice(&bytes?)
}

/// The highest head of each log.
pub(super) fn highest(seen: &[Witnessed]) -> Vec<&Witnessed> {
    let mut highest: Vec<&Witnessed> = Vec::new();
    for head in seen {
        match highest.iter_mut().find(|known| known.log_id == head.log_id) {
            Some(known) if known.position > head.position => {}
            Some(known) => *known = head,
            None => highest.push(head),
        }
    }
    highest
}

/// The open file of a shard.
#[derive(Debug)]
pub(crate) struct Book {
    path: PathBuf,
    file: File,
}

impl Book {
    /// Opens or creates it; what a crash has left of a last line goes.
    ///
    /// # Errors
    /// The system's, or a line that is none.
    pub(crate) fn open(dir: &Path, shard: ShardId) -> Result<Self, Failure> {
        fs::DirBuilder::new().recursive(true).create(dir).map_err(|error| unusable(dir, &error))?;
        let path = path(dir, shard);
        let seen = Self::read(dir, shard)?;
        if path.exists() {
            replace(&path, &thin(seen, Timestamp::now())).map_err(|error| unusable(&path, &error))?;
        }
        let file = append_to(&path).map_err(|error| unusable(&path, &error))?;
        Ok(Self { path, file })
    }

    /// Every head, in the order in which they were seen. A last line without its end is one that was never promised.
    ///
    /// # Errors
    /// The system's, or a line that is none: exit 6, since a book that may lie protects nobody.
    pub(crate) fn read(dir: &Path, shard: ShardId) -> Result<Vec<Witnessed>, Failure> {
        let path = path(dir, shard);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(unusable(&path, &error)),
        };
        let whole = text.rfind('\n').map_or("", |end| &text[..end]);
        let read = |(number, line): (usize, &str)| {
            line.parse().map_err(|()| {
                let message =
                    format!("{} line {}: is no head of a log; the book was damaged", path.display(), number + 1);
                Failure::new(Exit::Violated, message)
            })
        };
        whole.lines().enumerate().map(read).collect()
    }

    /// Writes a head down for good.
    ///
    /// # Errors
    /// The system's.
    pub(crate) fn append(&mut self, seen: &Witnessed) -> io::Result<()> {
        self.file.write_all(seen.line().as_bytes())?;
        self.file.sync_data()?;
        if self.file.metadata()?.len() > LARGE {
            let text = fs::read_to_string(&self.path)?;
            let lines = text.lines().filter_map(|line| line.parse().ok()).collect();
            replace(&self.path, &thin(lines, seen.at))?;
            self.file = append_to(&self.path)?;
        }
        Ok(())
    }
}

fn path(dir: &Path, shard: ShardId) -> PathBuf {
    dir.join(format!("{shard}.heads"))
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o644).open(path)
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Temporary, format!("{}: {error}", path.display()))
}

/// Beside and renamed: a crash leaves the old text or the new one.
fn replace(path: &Path, seen: &[Witnessed]) -> io::Result<()> {
    let beside = path.with_added_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o644).open(&beside)?;
    file.write_all(seen.iter().map(Witnessed::line).collect::<String>().as_bytes())?;
    file.sync_all()?;
    fs::rename(&beside, path)?;
    path.parent().map_or(Ok(()), |dir| File::open(dir)?.sync_all())
}

/// Keeps the last hour, one head per minute before it, and always the highest of each log.
fn thin(seen: Vec<Witnessed>, now: Timestamp) -> Vec<Witnessed> {
    let highest: Vec<Witnessed> = highest(&seen).into_iter().cloned().collect();
    let mut minutes = HashSet::new();
    seen.into_iter()
        .filter(|head| {
            let fresh = now.micros() - head.at.micros() < FRESH;
            fresh || minutes.insert((head.log_id, head.at.micros() / MINUTE)) || highest.contains(head)
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head(log_id: LogId, position: i64, micros: i64) -> Witnessed {
        let hash = ChainHash([u8::try_from(position % 200).unwrap(); 32]);
        let lsn = Lsn(u64::try_from(position).unwrap());
        Witnessed { at: Timestamp::from_micros(micros), log_id, position: Position(position), hash, lsn, timeline: 1 }
    }

    #[test]
    fn what_was_seen_is_read_again_without_a_torn_end() {
        let dir = tempfile::tempdir().unwrap();
        let (shard, log) = (ShardId(3), LogId::generate());
        assert_eq!(Book::read(dir.path(), shard).unwrap(), []);
        let seen = [head(log, 4, 1_000_000), head(log, 9, 2_000_000)];
        let mut book = Book::open(dir.path(), shard).unwrap();
        for head in &seen {
            book.append(head).unwrap();
        }
        assert_eq!(Book::read(dir.path(), shard).unwrap(), seen);
        let path = path(dir.path(), shard);
        let mut file = append_to(&path).unwrap();
        file.write_all(&head(log, 12, 3_000_000).line().as_bytes()[..40]).unwrap();
        assert_eq!(Book::read(dir.path(), shard).unwrap(), seen, "the torn line was never promised");
        drop(Book::open(dir.path(), shard).unwrap());
        assert_eq!(Book::read(dir.path(), shard).unwrap(), seen, "and it is gone");
        fs::write(&path, "nonsense\n").unwrap();
        let error = Book::read(dir.path(), shard).unwrap_err();
        assert_eq!(error.exit, Exit::Violated, "{}", error.message);
    }

    #[test]
    fn old_heads_are_thinned_and_the_highest_stay() {
        let (old, new) = (LogId::generate(), LogId::generate());
        let second = |second: i64, log| head(log, second + 1, second * 1_000_000);
        let mut seen: Vec<Witnessed> = (0..180).map(|at| second(at, old)).collect();
        seen.extend((7_000..7_010).map(|at| second(at, new)));
        let kept = thin(seen, Timestamp::from_micros(7_200_000_000));
        let of = |log| kept.iter().filter(|head| head.log_id == log).map(|head| head.position.0).collect::<Vec<_>>();
        assert_eq!(of(old), [1, 61, 121, 180], "one per minute, and the highest");
        assert_eq!(of(new).len(), 10, "the last hour is whole");
    }
}
