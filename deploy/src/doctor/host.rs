//! This machine: room on the disk, ballast, how much the kernel writes at once, open files.

use std::path::Path;

use rustix::fs::statvfs;
use rustix::process::{Resource, getrlimit};

use super::report::{Level, Report};
use crate::config::Config;

/// Space in bytes below which somebody should act, and below which it is late.
const ROOM: (u64, u64) = (5 << 30, 1 << 30);
/// Share of the disk that should be free, in percent.
const FREE_PERCENT: u64 = 10;
/// A file of at least so many bytes, deleted when the disk is full, lets PostgreSQL start again.
const BALLAST: u64 = 48 << 20;
/// Written pages that the kernel may gather, in bytes, before it begins to bring them to the disk. Commits wait behind them: on a disk
/// that takes 500 MB/s, 64 MiB are 130 ms.
const GATHERED: u64 = 64 << 20;
/// Files that a process has open beside its connections.
const OTHER_FILES: u64 = 200;

/// Looks at this machine.
pub(super) fn examine(config: &Config, report: &mut Report) {
    let data_dir = config.data_dir();
    let own = data_dir.join("postgres");
    if own.is_dir() {
        room(&data_dir, report);
        let wal = own.join("pg_wal");
        if wal.is_symlink() {
            room(&wal, report);
        }
        ballast(&data_dir, report);
        writeback(report);
    } else {
        report.ok("disk", "PostgreSQL is not in this data directory; look at its own disk");
    }
    files(config, report);
}

fn room(path: &Path, report: &mut Report) {
    let found = match statvfs(path) {
        Ok(found) => found,
        Err(error) => {
            report.add("disk", Level::Warn, format!("{}: {error}", path.display()), "");
            return;
        }
    };
    let free = found.f_bavail.saturating_mul(found.f_frsize);
    let percent = found.f_bavail.saturating_mul(100).checked_div(found.f_blocks).unwrap_or(0);
    let what = format!("{} has {} MiB free, {percent} %", path.display(), free >> 20);
    let level = if free < ROOM.1 {
        Level::Fail
    } else if free < ROOM.0 || percent < FREE_PERCENT {
        Level::Warn
    } else {
        Level::Ok
    };
    report.judge("disk", level == Level::Ok, level, what, "make space: PostgreSQL stops when it cannot write");
}

fn ballast(data_dir: &Path, report: &mut Report) {
    let path = data_dir.join("ballast");
    let size = path.metadata().map_or(0, |found| found.len());
    let what = if size >= BALLAST { "is there" } else { "is missing" };
    let todo =
        format!("fallocate -l 64M {}; delete it when the disk is full, and PostgreSQL starts again", path.display());
    report.judge("ballast", size >= BALLAST, Level::Warn, what, todo);
}

/// Says how much the kernel gathers before it writes (Documentation/admin-guide/sysctl/vm.rst: `dirty_background_bytes`, or else
/// `dirty_background_ratio` percent of the memory that can be had).
fn writeback(report: &mut Report) {
    let setting = |name: &str| number(&std::fs::read_to_string(format!("/proc/sys/vm/{name}")).ok()?);
    let available = std::fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let line = text.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
        number(line.trim_end_matches("kB"))
    });
    let (Some(bytes), Some(ratio), Some(available)) =
        (setting("dirty_background_bytes"), setting("dirty_background_ratio"), available)
    else {
        return;
    };
    let gathered = gathered(bytes, ratio, available);
    report.judge(
        "writeback",
        gathered <= GATHERED,
        Level::Warn,
        format!("the kernel may gather {} MiB before it writes", gathered >> 20),
        "sysctl vm.dirty_background_bytes=16777216 on PostgreSQL's machine: else commits wait for tenths of a second",
    );
}

/// What the kernel may gather, in bytes. A setting in bytes wins; else it is a share, in percent, of so many KiB.
fn gathered(bytes: u64, ratio: u64, available: u64) -> u64 {
    if bytes > 0 { bytes } else { available.saturating_mul(1_024).saturating_mul(ratio) / 100 }
}

fn number(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

fn files(config: &Config, report: &mut Report) {
    let Some(limit) = getrlimit(Resource::Nofile).current else {
        report.ok("open files", "no limit");
        return;
    };
    let connections = config.max_connections().map_or(0, |count| u64::try_from(count).unwrap_or(u64::MAX));
    let needed = connections.saturating_add(OTHER_FILES);
    let what = format!("{limit} may be open here, {needed} are needed for {connections} connections");
    report.judge(
        "open files",
        limit >= needed,
        Level::Warn,
        what,
        "raise it (ulimit -n, LimitNOFILE=) or lower MAX_CONNECTIONS",
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_win_over_a_share_of_the_memory() {
        assert_eq!(gathered(16 << 20, 10, 8 << 20), 16 << 20);
        assert_eq!(gathered(0, 10, 10 << 20), 1 << 30);
        assert_eq!(gathered(0, 0, u64::MAX), 0);
        assert_eq!(number(" 24105600 "), Some(24_105_600));
        assert_eq!(number("many"), None);
    }
}
