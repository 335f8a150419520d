//! What alerts look at, as a file for a collector of text files: everything follows from the repository, so whoever writes it last is
//! right.

use std::fmt::Write as _;
use std::path::Path;

use modelfaucet_schema::time::Timestamp;

use super::repository::{Repository, write_unsynced};
use crate::drill;
use crate::exit::{Exit, Failure};

/// Writes the file, if one is wanted.
///
/// # Errors
/// The repository's or the system's.
pub(crate) fn write(path: Option<&Path>, repository: &Repository) -> Result<(), Failure> {
    let Some(path) = path else { return Ok(()) };
    let text = text(repository, Timestamp::now())?;
    write_unsynced(path, text.as_bytes())
        .map_err(|error| Failure::new(Exit::Temporary, format!("{}: {error}", path.display())))
}

fn text(repository: &Repository, now: Timestamp) -> Result<String, Failure> {
    let mut text = String::new();
    // Writing into a String cannot fail.
    if let Some(base) = repository.bases()?.last() {
        text.push_str("# HELP modelfaucet_backup_last_success_timestamp_seconds When the newest base backup ended.\n# TYPE modelfaucet_backup_last_success_timestamp_seconds gauge\n");
        let _ = writeln!(text, "modelfaucet_backup_last_success_timestamp_seconds {}", seconds(base.ended));
    }
    if let Some(archived) = repository.archived() {
        text.push_str("# HELP modelfaucet_wal_archive_age_seconds How far the copied WAL was behind when this was written.\n# TYPE modelfaucet_wal_archive_age_seconds gauge\n");
        let _ = writeln!(text, "modelfaucet_wal_archive_age_seconds {:.1}", now.since(archived.until).as_secs_f64());
        text.push_str("# HELP modelfaucet_wal_archived_timestamp_seconds What was committed until then is in the repository.\n# TYPE modelfaucet_wal_archived_timestamp_seconds gauge\n");
        let _ = writeln!(text, "modelfaucet_wal_archived_timestamp_seconds {}", seconds(archived.until));
    }
    let drills = drill::history(&repository.drills());
    if let Some(last) = drills.last() {
        text.push_str("# HELP modelfaucet_restore_drill_events_lost Events that the last drill did not find though they were in its backup.\n# TYPE modelfaucet_restore_drill_events_lost gauge\n");
        let _ = writeln!(text, "modelfaucet_restore_drill_events_lost {}", last.events_lost);
        text.push_str("# HELP modelfaucet_restore_drill_seconds How long the last drill took until it could serve.\n# TYPE modelfaucet_restore_drill_seconds gauge\n");
        let _ = writeln!(text, "modelfaucet_restore_drill_seconds {:.1}", last.seconds_to_serve);
        text.push_str("# HELP modelfaucet_restore_drill_failed Did the last drill fail?\n# TYPE modelfaucet_restore_drill_failed gauge\n");
        let _ = writeln!(text, "modelfaucet_restore_drill_failed {}", u8::from(!last.passed));
    }
    if let Some(passed) = drills.iter().rev().find(|drill| drill.passed) {
        text.push_str("# HELP modelfaucet_restore_drill_last_success_timestamp_seconds When a drill last passed.\n# TYPE modelfaucet_restore_drill_last_success_timestamp_seconds gauge\n");
        let _ = writeln!(text, "modelfaucet_restore_drill_last_success_timestamp_seconds {}", seconds(passed.at));
    }
    text.push_str("# HELP modelfaucet_log_contradicts_heads Does the log lack, or contradict, a head that was seen?\n# TYPE modelfaucet_log_contradicts_heads gauge\n");
    let _ = writeln!(text, "modelfaucet_log_contradicts_heads {}", u8::from(repository.is_contradicted()));
    Ok(text)
}

fn seconds(at: Timestamp) -> i64 {
    at.micros() / 1_000_000
}
