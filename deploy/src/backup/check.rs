//! Can the backups be used? Base backups against their manifests, the WAL behind them without a gap, and how old both are.

use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use modelfaucet_schema::time::Timestamp;
use serde_json::{Value, json};

use super::base;
use super::repository::{Base, Repository, WalFile};
use super::segment::Segment;
use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::postgres::Programs;
use crate::progress::Progress;

/// How old things may be.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) base: Duration,
    pub(super) wal: Duration,
}

/// What was found.
#[derive(Debug, Default)]
pub(super) struct Report {
    bases: Vec<String>,
    base_age: Option<Duration>,
    wal_age: Option<Duration>,
    segments: usize,
    wal_bytes: u64,
    findings: Vec<String>,
}

impl Report {
    pub(super) fn exit(&self) -> Exit {
        if self.findings.is_empty() { Exit::Ok } else { Exit::Differences }
    }

    pub(super) fn json(&self) -> Value {
        json!({
            "ok": self.findings.is_empty(), "exit": self.exit() as u8, "verified": self.bases, "findings": self.findings,
            "base_age_seconds": self.base_age.map(|age| age.as_secs()), "wal_age_seconds": self.wal_age.map(|age| age.as_secs_f64()),
            "wal_segments": self.segments, "wal_bytes": self.wal_bytes,
        })
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let age = |age: Option<Duration>| age.map_or("none".to_owned(), |age| format!("{:.1} s", age.as_secs_f64()));
        let _ = writeln!(
            text,
            "base backups verified   {}",
            if self.bases.is_empty() { "none".to_owned() } else { self.bases.join(" ") }
        );
        let _ = writeln!(text, "newest base backup      {} old", age(self.base_age));
        let _ = writeln!(
            text,
            "copied WAL              {} behind, {} segments, {} MB",
            age(self.wal_age),
            self.segments,
            self.wal_bytes / 1_000_000
        );
        for finding in &self.findings {
            let _ = writeln!(text, "FAILED  {finding}");
        }
        let _ = writeln!(
            text,
            "{}",
            if self.findings.is_empty() { "ok" } else { "exit 1: these backups cannot be relied on (docs/BACKUP.md)" }
        );
        text
    }
}

/// Checks; reads every byte of the base backups that it verifies.
pub(super) fn check(config: &Config, repository: &Repository, all: bool, limits: Limits) -> Result<Report, Failure> {
    let now = Timestamp::now();
    let mut report = Report::default();
    let bases = repository.bases()?;
    let Some(newest) = bases.last() else {
        report.findings.push(format!("there is no base backup in {}", repository.dir().display()));
        return Ok(report);
    };
    let age = now.since(newest.ended);
    report.base_age = Some(age);
    if age > limits.base {
        report.findings.push(format!("the newest base backup is {} h old", age.as_secs() / 3_600));
    }
    match repository.archived() {
        Some(archived) => {
            let age = now.since(archived.until);
            report.wal_age = Some(age);
            if age > limits.wal {
                report.findings.push(format!("the copied WAL is {} s behind; does `backup wal` run?", age.as_secs()));
            }
            if archived.timeline != newest.timeline {
                report.findings.push(format!(
                    "the server is on timeline {}, the newest base backup on {}: make a new one",
                    archived.timeline, newest.timeline
                ));
            }
        }
        None => report.findings.push("no WAL is copied: only the base backups themselves can be restored".to_owned()),
    }
    let wanted: Vec<&Base> = if all { bases.iter().collect() } else { vec![newest] };
    let mut progress = Progress::start("check", wanted.len() as u64, false);
    for (done, base) in wanted.iter().enumerate() {
        match check_base(config, repository, base) {
            Ok(()) => report.bases.push(base.label.clone()),
            Err(failure) if failure.exit == Exit::Temporary => {
                report.findings.push(format!("base backup {}: {}", base.label, failure.message));
            }
            Err(failure) => return Err(failure),
        }
        progress.set(done as u64 + 1);
    }
    progress.finish();
    for timeline in bases.iter().map(|base| base.timeline).collect::<std::collections::BTreeSet<_>>() {
        let mut of: Vec<&Base> = bases.iter().filter(|base| base.timeline == timeline).collect();
        of.sort_by_key(|base| base.start());
        let (Some(oldest), Some(size)) = (of.first(), of.first().map(|base| base.segment_size)) else { continue };
        let files = repository.wal(timeline, size)?;
        report.segments += files.len();
        report.wal_bytes += files.iter().map(|file| file.bytes).sum::<u64>();
        report.findings.extend(gaps(&files, Segment::of(timeline, oldest.start(), size), size));
    }
    Ok(report)
}

/// Compares a base backup with its manifest.
///
/// # Errors
/// What differs.
pub(crate) fn check_base(config: &Config, repository: &Repository, base: &Base) -> Result<(), Failure> {
    let programs = Programs::find(config.pg_bindir().as_deref(), base.major())?;
    let dir = repository.base_dir(&base.label);
    crate::runtime()?.block_on(base::verify(&programs.path("pg_verifybackup"), &dir))
}

/// What is missing of the WAL from a segment on.
fn gaps(files: &[WalFile], first: Segment, size: u64) -> Vec<String> {
    let needed: Vec<&WalFile> = files.iter().filter(|file| file.segment >= first).collect();
    let mut findings = Vec::new();
    let mut expected = first;
    for file in &needed {
        if file.segment.number > expected.number {
            findings.push(format!("WAL is missing from {} to before {}", expected.name(size), file.segment.name(size)));
        }
        if file.bytes != size {
            findings.push(format!("{} has {} bytes instead of {size}", display(&file.path), file.bytes));
        }
        expected = Segment { number: file.segment.number + 1, ..file.segment };
    }
    let unfinished = needed.iter().rev().skip(1).filter(|file| file.partial);
    findings.extend(unfinished.map(|file| format!("{} was never finished", display(&file.path))));
    findings
}

fn display(path: &Path) -> String {
    path.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::super::segment::USUAL_SIZE;
    use super::*;

    fn file(number: u64, partial: bool, bytes: u64) -> WalFile {
        let segment = Segment { timeline: 1, number };
        let suffix = if partial { ".partial" } else { "" };
        WalFile { segment, path: format!("/wal/{}{suffix}", segment.name(USUAL_SIZE)).into(), partial, bytes }
    }

    #[test]
    fn gaps_cut_off_and_unfinished_segments_are_found() {
        let first = Segment { timeline: 1, number: 2 };
        let found = |files: &[WalFile]| gaps(files, first, USUAL_SIZE).join("; ");
        let whole = |number| file(number, false, USUAL_SIZE);
        assert_eq!(found(&[whole(1), whole(2), whole(3), file(4, true, USUAL_SIZE)]), "");
        assert!(
            found(&[whole(3)]).contains("missing from 000000010000000000000002 to before 000000010000000000000003")
        );
        assert!(found(&[whole(2), whole(4)]).contains("missing from 000000010000000000000003"));
        assert!(found(&[whole(2), file(3, false, 8_192)]).contains("000000010000000000000003 has 8192 bytes"));
        assert!(found(&[whole(2), file(3, true, USUAL_SIZE), whole(4)]).contains("03.partial was never finished"));
    }
}
