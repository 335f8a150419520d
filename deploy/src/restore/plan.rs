//! Which base backup and which WAL a restore takes, and what is to be expected of it.

use std::fmt::Write as _;

use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::time::Timestamp;
use serde_json::{Value, json};

use super::target::{Aim, Target};
use crate::backup::repository::WalFile;
use crate::backup::{self, Base, Repository};
use crate::config::Config;
use crate::drill;
use crate::exit::{Exit, Failure};
use crate::heads::{Book, Lsn, Witnessed};
use crate::log::mirror;

const SHARD: ShardId = ShardId(0);
/// Bytes per second that a restore is expected to take while no drill has shown better.
const USUAL_RATE: f64 = 50e6;

/// A plan.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(super) base: Base,
    pub(super) aim: Aim,
    /// The WAL from the base backup on.
    pub(super) wal: Vec<WalFile>,
    /// What must be in it at least.
    pub(super) expected: Position,
    /// The head that was seen at the target, if one was.
    pub(super) head: Option<Witnessed>,
    /// The highest head that anybody has seen.
    pub(super) highest: Option<Witnessed>,
    /// How far the mirror reaches.
    pub(super) mirrored: Option<Position>,
    seconds: f64,
}

impl Plan {
    /// Makes one.
    ///
    /// # Errors
    /// No base backup before the target, or no witness of a position.
    pub(crate) fn make(config: &Config, repository: &Repository, target: &Target) -> Result<Self, Failure> {
        let seen = match config.heads_dir() {
            Some(dir) => Book::read(&dir, SHARD)?,
            None => Vec::new(),
        };
        let (aim, head) = resolve(target, &seen)?;
        let bases = repository.bases()?;
        let base = choose(&bases, aim, head.as_ref().map(|head| head.timeline)).ok_or_else(|| {
            Failure::new(Exit::Config, format!("no base backup in {} ended before {aim}", repository.dir().display()))
        })?;
        let wal: Vec<WalFile> = repository
            .wal(base.timeline, base.segment_size)?
            .into_iter()
            .filter(|file| file.segment.start(base.segment_size).0 + base.segment_size > base.start().0)
            .collect();
        let highest = seen.iter().rev().find(|head| head.log_id == base.log_id).cloned();
        let mirrored = mirror::reach(&repository.mirror_dir(), SHARD, base.log_id)?.map(|head| head.position);
        let until = |wanted: &Witnessed| match aim {
            Aim::Latest => true,
            Aim::Lsn(lsn) => wanted.lsn <= lsn,
            Aim::Time(time) => wanted.at <= time,
        };
        // Only what was copied can be there.
        let copied = repository.archived().filter(|archived| archived.timeline == base.timeline);
        let copied: Option<Lsn> = copied.and_then(|archived| archived.lsn.parse().ok());
        let witnessed = seen.iter().rev().find(|head| {
            let ours = head.log_id == base.log_id && head.timeline == base.timeline;
            ours && until(head) && copied.is_some_and(|copied| head.lsn <= copied)
        });
        let expected = match (&head, aim) {
            (Some(head), _) => head.position,
            // The newest moments may not have been copied when the disk was lost.
            (None, Aim::Latest) => base.position,
            (None, _) => witnessed.map_or(base.position, |head| head.position.max(base.position)),
        };
        let bytes = base.bytes + wal.iter().map(|file| file.bytes).sum::<u64>();
        let seconds = drill::seconds_per_byte(&repository.drills()).unwrap_or(1.0 / USUAL_RATE) * to_f64(bytes);
        Ok(Self { base: base.clone(), aim, wal, expected, head, highest, mirrored, seconds })
    }

    /// The base backup that it takes.
    pub(crate) fn label(&self) -> &str {
        &self.base.label
    }

    /// Verifies the base backup that it takes.
    ///
    /// # Errors
    /// What differs from its manifest.
    pub(crate) fn check_base(&self, config: &Config, repository: &Repository) -> Result<(), Failure> {
        backup::check_base(config, repository, &self.base)
    }

    /// Bytes that it reads.
    pub(crate) fn bytes(&self) -> u64 {
        self.base.bytes + self.wal.iter().map(|file| file.bytes).sum::<u64>()
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(text, "target           {}", self.aim);
        let _ = writeln!(
            text,
            "base backup      {} of {}, {} MB, position {}",
            self.base.label,
            self.base.ended.to_millis_text(),
            self.base.bytes / 1_000_000,
            self.base.position
        );
        let _ = writeln!(text, "WAL              {} segments behind it", self.wal.len());
        let _ = writeln!(text, "expected         position {} or more", self.expected);
        match &self.highest {
            Some(head) => {
                let _ = writeln!(text, "highest seen     {head}");
                let _ =
                    writeln!(text, "expected loss    at most {} events", (head.position.0 - self.expected.0).max(0));
            }
            None => {
                text.push_str("highest seen     unknown: nobody has witnessed this log, a loss will not be noticed\n");
            }
        }
        if let Some(mirrored) = self.mirrored {
            let _ = writeln!(
                text,
                "mirror           up to position {mirrored}: `modelfaucet log recover` brings back what it has"
            );
        }
        let _ = writeln!(text, "time             about {:.0} s until it can serve", self.seconds.ceil());
        text
    }

    pub(super) fn json(&self) -> Value {
        let head = |head: &Option<Witnessed>| {
            head.as_ref().map(|head| json!({"position": head.position, "hash": head.hash.to_string(), "at": head.at, "log_id": head.log_id}))
        };
        json!({
            "target": self.aim.to_string(), "base": self.base.label, "base_position": self.base.position, "wal_segments": self.wal.len(),
            "bytes": self.bytes(), "expected_position": self.expected, "head_at_target": head(&self.head), "highest_seen": head(&self.highest),
            "mirrored": self.mirrored, "expected_loss": self.highest.as_ref().map(|head| (head.position.0 - self.expected.0).max(0)),
            "seconds": self.seconds,
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate for people")]
fn to_f64(bytes: u64) -> f64 {
    bytes as f64
}

/// What a target is to PostgreSQL, and the head that was seen there.
fn resolve(target: &Target, seen: &[Witnessed]) -> Result<(Aim, Option<Witnessed>), Failure> {
    Ok(match target {
        Target::Latest => (Aim::Latest, None),
        Target::Lsn(lsn) => (Aim::Lsn(*lsn), None),
        Target::Time(time) => (Aim::Time(*time), None),
        Target::Head(head) => (Aim::Lsn(head.lsn), Some((**head).clone())),
        Target::Position(shard, position) => {
            let newest = seen.last().map(|head| head.log_id);
            let head =
                seen.iter().find(|head| *shard == SHARD && Some(head.log_id) == newest && head.position >= *position);
            let head = head.ok_or_else(|| {
                Failure::new(
                    Exit::Config,
                    format!("nobody has witnessed position {position} of {shard}; use --to-lsn or --to-time"),
                )
            })?;
            (Aim::Lsn(head.lsn), Some(head.clone()))
        }
    })
}

/// The newest base backup that ended before the target. Places in the WAL of another timeline are other places.
fn choose(bases: &[Base], aim: Aim, timeline: Option<u32>) -> Option<&Base> {
    let before = |base: &&Base| match aim {
        Aim::Latest => true,
        Aim::Lsn(lsn) => base.end() <= lsn,
        Aim::Time(time) => base.ended <= time,
    };
    bases.iter().rev().filter(|base| timeline.is_none_or(|timeline| base.timeline == timeline)).find(before)
}

/// A time as recovery reads it: so early in its start PostgreSQL does not know yet what `Z` is.
pub(super) fn recovery_time(time: Timestamp) -> String {
    time.to_string().replace('T', " ").replace('Z', "+00")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_has_an_offset_in_digits() {
        let time: Timestamp = "2026-11-24T13:40:03.540523Z".parse().unwrap();
        assert_eq!(recovery_time(time), "2026-11-24 13:40:03.540523+00");
    }
}
