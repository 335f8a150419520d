//! A mirror: every batch of the log, byte for byte, one JSON object per line, in files below `DIR/sNN/LOG_ID`, named by their first
//! position. What a restored log has lost is appended again from it, to the same hashes.

mod line;

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::{AppendBatch, EventRow, Head, Lineage};
use tokio_postgres::Client;

use crate::exit::{Exit, Failure};
use crate::verify::auditor;

pub(crate) use line::Line;

/// A file that is larger is followed by a new one, in bytes.
const LARGE: u64 = 64 << 20;
/// Events that are fetched at once, a batch more at most.
const EVENTS: i64 = 8_192;

/// The mirror of one log, open for more.
#[derive(Debug)]
pub(crate) struct Mirror {
    root: PathBuf,
    dir: PathBuf,
    shard: ShardId,
    log_id: LogId,
    head: Head,
    file: Option<(File, u64)>,
}

impl Mirror {
    /// Opens the mirror of a log, or begins one: at the log's beginning, or where it has forked. What a crash has left of a last
    /// line goes.
    ///
    /// # Errors
    /// A file that does not hold what it says; the system's.
    pub(crate) fn open(root: &Path, shard: ShardId, log_id: LogId, begin: Head) -> Result<Self, Failure> {
        let dir = dir_of(root, shard, log_id);
        fs::create_dir_all(&dir).map_err(|error| unusable(&dir, &error))?;
        let mut mirror = Self { root: root.to_owned(), dir, shard, log_id, head: begin, file: None };
        let Some((path, first)) = files(&mirror.dir)?.pop() else { return Ok(mirror) };
        let mut end = 0;
        let mut last: Option<AppendBatch> = None;
        Reader::open(&path, shard)?.each(|batch, bytes| {
            if last.as_ref().is_some_and(|last| last.head() != batch.previous())
                || (last.is_none() && batch.previous().position.next() != first)
            {
                return Err(damaged(&path, "does not follow what is before it"));
            }
            end += bytes;
            last = Some(batch);
            Ok(true)
        })?;
        let Some(last) = last else {
            // Begun and never written: the batch before it is in the file before.
            fs::remove_file(&path).map_err(|error| unusable(&path, &error))?;
            return Self::open(root, shard, log_id, begin);
        };
        mirror.head = last.head();
        let file = append_to(&path).and_then(|file| file.set_len(end).map(|()| file));
        mirror.file = Some((file.map_err(|error| unusable(&path, &error))?, end));
        Ok(mirror)
    }

    /// As [`Mirror::open`], for the log that a database has. Of the lines that forks have made of it the one that was mirrored last goes on,
    /// or the one behind it if nothing of it is missing; without any, the line that the log is now.
    ///
    /// # Errors
    /// Exit 6 if it does not continue what was mirrored.
    pub(crate) async fn of(root: &Path, shard: ShardId, client: &Client) -> Result<Self, Failure> {
        let lineage = Lineage::read(client, shard).await?.ok_or_else(|| no_log(shard))?;
        let mut from = lineage.lines().len().saturating_sub(1);
        for (number, line) in lineage.lines().iter().enumerate() {
            if !files(&dir_of(root, shard, line.log_id))?.is_empty() {
                from = number;
            }
        }
        Self::of_line(root, shard, client, &lineage, from).await
    }

    /// The mirror of the first line, from the one with this number on, of which something may be missing.
    async fn of_line(
        root: &Path,
        shard: ShardId,
        client: &Client,
        lineage: &Lineage,
        from: usize,
    ) -> Result<Self, Failure> {
        for line in lineage.lines().iter().skip(from) {
            let sql = "SELECT position, hash FROM ledger.fork WHERE shard = $1 AND log_id = $2";
            let begin = match client.query_opt(sql, &[&shard.0, &line.log_id.0]).await? {
                Some(row) => Head {
                    position: Position(row.get(0)),
                    hash: ChainHash::from_slice(row.get(1)).unwrap_or(ChainHash([0; 32])),
                },
                None => lineage.genesis().unwrap_or(Head::genesis(line.log_id, shard)),
            };
            let mirror = Self::open(root, shard, line.log_id, begin)?;
            if line.until.is_some_and(|until| mirror.head.position >= until) {
                continue;
            }
            if mirror.head != begin {
                let sql = "SELECT hash FROM ledger.batch WHERE shard = $1 AND last_pos = $2";
                let there = client.query_opt(sql, &[&shard.0, &mirror.head.position.0]).await?;
                if there.and_then(|row| ChainHash::from_slice(row.get(0))) != Some(mirror.head.hash) {
                    let message = format!(
                        "the mirror {} holds position {} of log {}, which the log does not have: it has lost its end or was rewritten; stop writing and see docs/BACKUP.md",
                        mirror.dir.display(),
                        mirror.head.position,
                        line.log_id
                    );
                    return Err(Failure::new(Exit::Violated, message));
                }
            }
            return Ok(mirror);
        }
        Err(no_log(shard))
    }

    /// The head up to which it reaches.
    pub(crate) fn head(&self) -> Head {
        self.head
    }

    /// Fetches what the log has more, up to its end as it is now; returns how many events. Each batch is hashed again before it
    /// is written. Behind a fork it goes on in the mirror of the log's next id, where `recover` looks for it; of several, one after the
    /// other.
    ///
    /// # Errors
    /// Exit 6 if the log does not continue what is here; the database's and the system's.
    pub(crate) async fn extend(&mut self, client: &Client) -> Result<u64, Failure> {
        let mut events = 0;
        loop {
            let mut batches = fetch(client, self.shard, self.head).await?;
            if batches.is_empty() {
                return Ok(events);
            }
            // Asked after the batches were read: what a fork has appended is not without the fork.
            let lineage = Lineage::read(client, self.shard).await?.ok_or_else(|| no_log(self.shard))?;
            let number = lineage.lines().iter().position(|line| line.log_id == self.log_id);
            if let Some(until) = number.and_then(|number| lineage.lines().get(number)?.until) {
                batches.retain(|batch| batch.head().position <= until);
            }
            let Some(last) = batches.last().map(AppendBatch::head) else {
                let next = number.map_or(0, |number| number + 1);
                *self = Self::of_line(&self.root, self.shard, client, &lineage, next).await?;
                continue;
            };
            let written = batches.iter().try_for_each(|batch| {
                events += batch.events().len() as u64;
                self.write(batch)
            });
            written.map_err(|error| unusable(&self.dir, &error))?;
            if let Some((file, _)) = &self.file {
                file.sync_data().map_err(|error| unusable(&self.dir, &error))?;
            }
            self.head = last;
        }
    }

    fn write(&mut self, batch: &AppendBatch) -> io::Result<()> {
        if let Some((full, _)) = self.file.take_if(|(_, size)| *size > LARGE) {
            full.sync_all()?;
        }
        let text = Line::of(self.log_id, self.shard, batch).text()?;
        let (file, size) = if let Some(open) = &mut self.file {
            open
        } else {
            let path = self.dir.join(format!("{:020}.jsonl", batch.previous().position.next().0));
            let file = append_to(&path)?;
            File::open(&self.dir)?.sync_all()?;
            self.file.insert((file, 0))
        };
        file.write_all(text.as_bytes())?;
        *size += text.len() as u64;
        Ok(())
    }
}

/// The batches of a mirrored log that follow `after`, in order, handed to `take`, which says whether it wants more. Returns the head
/// that the mirror reaches, if it has anything of this log.
///
/// # Errors
/// Exit 6 if the mirror holds another story or is damaged; the system's.
pub(crate) fn replay(
    root: &Path,
    shard: ShardId,
    log_id: LogId,
    after: Head,
    mut take: impl FnMut(AppendBatch) -> Result<bool, Failure>,
) -> Result<Option<Head>, Failure> {
    let files = files(&dir_of(root, shard, log_id))?;
    // The file that holds the next position, and all behind it.
    let first = files.partition_point(|(_, first)| *first <= after.position.next()).saturating_sub(1);
    let mut reached: Option<Head> = None;
    for (path, _) in files.iter().skip(first) {
        let goes_on = Reader::open(path, shard)?.each(|batch, _| {
            if reached.is_some_and(|reached| reached != batch.previous()) {
                return Err(damaged(path, "does not follow what is before it"));
            }
            reached = Some(batch.head());
            let position = batch.head().position;
            if position == after.position && batch.head().hash != after.hash {
                let anew = format!(
                    "has another hash at position {position} than the log: somebody has written since the restore, or the mirror is damaged. Stop every writer, keep this database, restore again into a new directory, and recover there before anything writes (docs/BACKUP.md)"
                );
                return Err(damaged(path, &anew));
            }
            if position <= after.position {
                return Ok(true);
            }
            // The first one that is missing has to join on.
            let follows = batch.previous();
            if follows.position < after.position {
                let anew = format!(
                    "has other events behind position {} than the log, which ends at {}: somebody has written since the restore. Stop every writer, keep this database, restore again into a new directory, and recover there before anything writes (docs/BACKUP.md)",
                    follows.position, after.position
                );
                return Err(damaged(path, &anew));
            }
            take(batch)
        })?;
        if !goes_on {
            break;
        }
    }
    Ok(reached)
}

/// Batches behind a head, each hashed again and joined to the one before it.
async fn fetch(client: &Client, shard: ShardId, after: Head) -> Result<Vec<AppendBatch>, Failure> {
    let links =
        client.query(include_str!("sql/links.sql"), &[&shard.0, &after.position.0]).await.map_err(auditor::failure)?;
    let enough = links.partition_point(|link| link.get::<_, i64>(1) <= after.position.0 + EVENTS).max(1);
    let Some(last) = links.iter().take(enough).next_back() else { return Ok(Vec::new()) };
    let rows = client
        .query(include_str!("sql/events.sql"), &[&shard.0, &after.position.0, &last.get::<_, i64>(1)])
        .await
        .map_err(auditor::failure)?;
    let mut rows = rows.iter().peekable();
    let mut head = after;
    let mut batches = Vec::new();
    for link in links.iter().take(enough) {
        let last: i64 = link.get(1);
        let mut events = Vec::new();
        while let Some(row) = rows.next_if(|row| row.get::<_, i64>(0) <= last) {
            events.push(EventRow::stored(shard, row).map_err(auditor::failure)?);
        }
        let batch = line::sealed(shard, head, link, events);
        let whole = batch.head()
            == Head {
                position: Position(last),
                hash: ChainHash::from_slice(link.get(4)).unwrap_or(ChainHash([0; 32])),
            };
        if link.get::<_, i64>(0) != head.position.next().0 || !whole {
            let message = format!(
                "positions {}..{last} do not follow position {}; run `modelfaucet verify`",
                link.get::<_, i64>(0),
                head.position
            );
            return Err(Failure::new(Exit::Violated, message));
        }
        head = batch.head();
        batches.push(batch);
    }
    Ok(batches)
}

fn dir_of(root: &Path, shard: ShardId, log_id: LogId) -> PathBuf {
    root.join(shard.to_string()).join(log_id.to_string())
}

/// The files of a log with their first positions, in order.
fn files(dir: &Path) -> Result<Vec<(PathBuf, Position)>, Failure> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(unusable(dir, &error)),
    };
    let mut files: Vec<_> = entries
        .flatten()
        .filter_map(|entry| {
            let first = entry.file_name().to_str()?.strip_suffix(".jsonl")?.parse().ok()?;
            Some((entry.path(), Position(first)))
        })
        .collect();
    files.sort_by_key(|(_, first)| *first);
    Ok(files)
}

/// Reads a file, batch by batch.
struct Reader<'a> {
    path: &'a Path,
    shard: ShardId,
    file: BufReader<File>,
}

impl<'a> Reader<'a> {
    fn open(path: &'a Path, shard: ShardId) -> Result<Self, Failure> {
        let file = File::open(path).map_err(|error| unusable(path, &error))?;
        Ok(Self { path, shard, file: BufReader::with_capacity(1 << 20, file) })
    }

    /// Hands each whole batch over with its length in bytes, until `take` wants no more. False if it does not.
    fn each(mut self, mut take: impl FnMut(AppendBatch, u64) -> Result<bool, Failure>) -> Result<bool, Failure> {
        let mut text = String::new();
        let mut number = 0;
        loop {
            text.clear();
            let bytes = self.file.read_line(&mut text).map_err(|error| unusable(self.path, &error))?;
            // A last line without its end is what a crash has left.
            if bytes == 0 || !text.ends_with('\n') {
                return Ok(true);
            }
            number += 1;
            let batch = Line::parse(&text).and_then(|line| line.batch(self.shard));
            let batch = batch
                .ok_or_else(|| damaged(self.path, &format!("line {number} is not a batch that hashes to its link")))?;
            if !take(batch, bytes as u64)? {
                return Ok(false);
            }
        }
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).mode(0o640).open(path)
}

fn no_log(shard: ShardId) -> Failure {
    Failure::new(Exit::Temporary, format!("{shard} has no log"))
}

fn unusable(path: &Path, error: &io::Error) -> Failure {
    Failure::new(Exit::Temporary, format!("{}: {error}", path.display()))
}

fn damaged(path: &Path, what: &str) -> Failure {
    Failure::new(Exit::Violated, format!("the mirror {} {what}", path.display()))
}

/// The highest head of a log that a mirror holds, if it holds any of it.
///
/// # Errors
/// A damaged last file; the system's.
pub(crate) fn reach(root: &Path, shard: ShardId, log_id: LogId) -> Result<Option<Head>, Failure> {
    let Some((path, _)) = files(&dir_of(root, shard, log_id))?.pop() else { return Ok(None) };
    let mut last = None;
    Reader::open(&path, shard)?.each(|batch, _| {
        last = Some(batch.head());
        Ok(true)
    })?;
    Ok(last)
}

#[cfg(test)]
mod tests {
    use modelfaucet_schema::event::{KeyUse, StoredEvent};
    use modelfaucet_schema::ids::BatchId;
    use modelfaucet_schema::time::Timestamp;
    use uuid::Uuid;

    use super::*;

    const SHARD: ShardId = ShardId(0);

    fn batch(after: Head, events: usize) -> AppendBatch {
        let at = Timestamp::from_micros(1_700_000_000_123_456);
        let event = |index: usize| StoredEvent {
            shard: SHARD,
            position: after.position.plus(index),
            stream: "shard:0".into(),
            stream_seq: 1,
            name: "Frozen".into(),
            version: 1,
            recorded_at: at,
            actor: "admin".into(),
            request_id: "r \"1\"\n\u{1f511}".into(),
            key: index
                .is_multiple_of(2)
                .then(|| KeyUse { key: Uuid::from_u128(index as u128), fingerprint: Uuid::nil() }),
            payload: b"{\"reason\": \"two  blanks, \\u00e9 and \xc3\xa9\"}".to_vec(),
        };
        AppendBatch::seal(SHARD, after, BatchId::generate(), at, (1..=events).map(event).collect())
    }

    fn write(mirror: &mut Mirror, events: usize) -> AppendBatch {
        let batch = batch(mirror.head, events);
        mirror.write(&batch).unwrap();
        mirror.head = batch.head();
        batch
    }

    fn replayed(root: &Path, log: LogId, after: Head) -> Result<Vec<AppendBatch>, String> {
        let mut batches = Vec::new();
        let reached = replay(root, SHARD, log, after, |batch| {
            batches.push(batch);
            Ok(true)
        });
        reached.map(|_| batches).map_err(|failure| failure.message)
    }

    #[test]
    fn batches_come_back_byte_for_byte_and_a_torn_end_goes() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogId::generate();
        let genesis = Head::genesis(log, SHARD);
        let open = || Mirror::open(dir.path(), SHARD, log, genesis).unwrap();
        let mut mirror = open();
        let first = write(&mut mirror, 3);
        let second = write(&mut mirror, 2);
        // A full file is followed by another one.
        mirror.file.as_mut().unwrap().1 = LARGE + 1;
        let third = write(&mut mirror, 1);
        drop(mirror);
        let back = replayed(dir.path(), log, genesis).unwrap();
        assert_eq!(back.iter().map(AppendBatch::head).collect::<Vec<_>>(), [first.head(), second.head(), third.head()]);
        assert_eq!(back[0].events(), first.events());
        assert_eq!(back[0].id(), first.id());
        assert_eq!(replayed(dir.path(), log, first.head()).unwrap().len(), 2);
        let (last, _) = files(&dir_of(dir.path(), SHARD, log)).unwrap().pop().unwrap();
        append_to(&last).unwrap().write_all(b"{\"log_id\":").unwrap();
        assert_eq!(open().head(), third.head());
        assert_eq!(reach(dir.path(), SHARD, log).unwrap(), Some(third.head()));
    }

    #[test]
    fn an_edited_mirror_is_not_believed() {
        let dir = tempfile::tempdir().unwrap();
        let log = LogId::generate();
        let genesis = Head::genesis(log, SHARD);
        let mut mirror = Mirror::open(dir.path(), SHARD, log, genesis).unwrap();
        let first = write(&mut mirror, 3);
        write(&mut mirror, 3);
        let (path, _) = files(&dir_of(dir.path(), SHARD, log)).unwrap().pop().unwrap();
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replacen("two  blanks", "two blanks", 1)).unwrap();
        assert!(replayed(dir.path(), log, genesis).unwrap_err().contains("line 1 is not a batch that hashes"));
        fs::write(&path, text).unwrap();
        let other = Head { hash: ChainHash([9; 32]), ..first.head() };
        assert!(replayed(dir.path(), log, other).unwrap_err().contains("another hash at position 3"));
    }
}
