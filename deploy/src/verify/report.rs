//! What was found, and how it is told: a table for people or JSON for programs.

use std::fmt::Write as _;

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::time::Timestamp;
use serde_json::{Value, json};

use crate::exit::Exit;

/// How many findings of one check are kept, and how many are printed in all. The rest is counted.
const KEPT: usize = 100;

macro_rules! checks {
    ($($(#[$doc:meta])* $variant:ident = $name:literal, $exit:ident;)+) => {
        /// One thing that is checked.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub(crate) enum Check {
            $($(#[$doc])* $variant,)+
        }

        impl Check {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$variant),+];

            pub(crate) const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// What a finding of it makes of the whole.
            pub(crate) const fn exit(self) -> Exit {
                match self { $(Self::$variant => Exit::$exit,)+ }
            }
        }
    };
}

checks! {
    /// Each shard's log has an id, and its first batch follows from it.
    Genesis = "genesis", Violated;
    /// Positions run on without a gap and without a repeat.
    Positions = "positions", Violated;
    /// Batches cover the positions, each follows the one before, and its events hash to its link.
    Chain = "chain", Violated;
    /// `ledger.idempotency` names exactly the events that have a key.
    Keys = "keys", Violated;
    /// Every event is one that this program knows, byte for byte.
    Events = "events", Violated;
    /// Numbers run on in each stream.
    Streams = "streams", Violated;
    /// Time never goes back, and is the batch's.
    Times = "times", Violated;
    /// Entries do to a wallet what the event says, and all postings sum to zero.
    Entries = "entries", Violated;
    /// Wallets are what the business amounts add up to at every position, and never below their floors.
    Wallets = "wallets", Violated;
    /// A hold ends at most once, with what it holds.
    Holds = "holds", Violated;
    /// The log still is what projections and snapshots have seen.
    Witnesses = "witnesses", Violated;
    /// Triggers guard every table of the log, and no service may write to it.
    Guards = "guards", Violated;
    /// Snapshots are what the log folds to.
    Snapshots = "snapshots", Differences;
    /// Read tables are what the log folds to.
    Projections = "projections", Differences;
}

impl Check {
    /// Is it about the log itself, so that a finding makes every figure that is folded from it doubtful?
    pub(crate) const fn concerns_log(self) -> bool {
        !matches!(self, Self::Guards | Self::Snapshots | Self::Projections)
    }
}

/// Something that is wrong, and where.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) check: Check,
    pub(crate) shard: Option<ShardId>,
    /// First and last position that it concerns.
    pub(crate) positions: Option<(i64, i64)>,
    pub(crate) what: String,
}

impl Finding {
    fn place(&self) -> String {
        let shard = self.shard.map_or(String::new(), |shard| format!("{shard}:"));
        match self.positions {
            None if shard.is_empty() => String::new(),
            None => format!("{shard} "),
            Some((first, last)) if first == last => format!("{shard}{first} "),
            Some((first, last)) => format!("{shard}{first}..{last} "),
        }
    }
}

#[derive(Clone, Debug, Default)]
struct Tally {
    checked: u64,
    findings: u64,
    /// Why nothing, or not everything, was checked.
    skipped: Option<String>,
}

/// Findings by check.
#[derive(Debug)]
pub(crate) struct Findings {
    tallies: Vec<Tally>,
    kept: Vec<Finding>,
}

impl Findings {
    pub(crate) fn new() -> Self {
        Self { tallies: vec![Tally::default(); Check::ALL.len()], kept: Vec::new() }
    }

    fn tally(&mut self, check: Check) -> &mut Tally {
        // One tally per check, in their order.
        &mut self.tallies[check as usize]
    }

    /// So many more things were looked at.
    pub(crate) fn checked(&mut self, check: Check, count: u64) {
        self.tally(check).checked += count;
    }

    /// A check was left out.
    pub(crate) fn skip(&mut self, check: Check, why: &str) {
        self.tally(check).skipped.get_or_insert_with(|| why.to_owned());
    }

    pub(crate) fn add(
        &mut self,
        check: Check,
        shard: impl Into<Option<ShardId>>,
        positions: impl Into<Option<(i64, i64)>>,
        what: impl Into<String>,
    ) {
        let tally = self.tally(check);
        tally.findings += 1;
        if tally.findings <= KEPT as u64 {
            let (shard, positions, what) = (shard.into(), positions.into(), what.into());
            self.kept.push(Finding { check, shard, positions, what });
        }
    }

    /// Adds to what the newest finding of a check says.
    pub(crate) fn amend(&mut self, check: Check, more: &str) {
        if let Some(finding) = self.kept.iter_mut().rev().find(|finding| finding.check == check) {
            finding.what.push_str(more);
        }
    }

    /// Has the log itself passed so far?
    pub(crate) fn log_is_sound(&self) -> bool {
        Check::ALL.iter().all(|check| !check.concerns_log() || self.tallies[*check as usize].findings == 0)
    }

    /// Takes over what was found elsewhere.
    pub(crate) fn merge(&mut self, other: Self) {
        for (mine, theirs) in self.tallies.iter_mut().zip(other.tallies) {
            mine.checked += theirs.checked;
            mine.findings += theirs.findings;
            mine.skipped = mine.skipped.take().or(theirs.skipped);
        }
        self.kept.extend(other.kept);
    }

    /// Check and positions of each finding.
    #[cfg(test)]
    pub(crate) fn places(&self) -> Vec<String> {
        let place = |finding: &Finding| match finding.positions {
            None => finding.check.name().to_owned(),
            Some((first, last)) if first == last => format!("{} {first}", finding.check.name()),
            Some((first, last)) => format!("{} {first}..{last}", finding.check.name()),
        };
        self.kept.iter().map(place).collect()
    }

    /// What was found, as it is kept.
    pub(crate) fn told(&self) -> Vec<String> {
        self.kept.iter().map(|finding| format!("{}{}", finding.place(), finding.what)).collect()
    }

    fn total(&self) -> u64 {
        self.tallies.iter().map(|tally| tally.findings).sum()
    }

    /// The gravest finding decides.
    pub(crate) fn exit(&self) -> Exit {
        let found = |wanted| {
            let mut failed = Check::ALL.iter().filter(|check| self.tallies[**check as usize].findings > 0);
            failed.any(|check| check.exit() == wanted)
        };
        match (found(Exit::Violated), found(Exit::Differences)) {
            (true, _) => Exit::Violated,
            (false, true) => Exit::Differences,
            (false, false) => Exit::Ok,
        }
    }
}

/// A shard's log as it was read.
#[derive(Clone, Debug)]
pub(crate) struct LogRead {
    pub(crate) shard: ShardId,
    pub(crate) log_id: String,
    /// First and last position, the last zero for an empty log.
    pub(crate) positions: (i64, i64),
    pub(crate) head_hash: String,
}

/// Everything that is told.
pub(crate) struct Report {
    pub(crate) logs: Vec<LogRead>,
    pub(crate) findings: Findings,
    pub(crate) events: u64,
    pub(crate) seconds: f64,
}

impl Report {
    pub(crate) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        for log in &self.logs {
            let (first, last) = log.positions;
            let _ = writeln!(text, "{}  log {}  positions {first}..{last}", log.shard, log.log_id);
            let _ = writeln!(
                text,
                "     head {last} {}  (kept elsewhere, this line shows later that nothing was cut off)",
                log.head_hash
            );
        }
        for (check, tally) in Check::ALL.iter().zip(&self.findings.tallies) {
            let result = match tally {
                Tally { findings: 1.., .. } => "FAILED",
                Tally { skipped: Some(_), .. } => "skipped",
                _ => "ok",
            };
            let note = match (tally.findings, &tally.skipped) {
                (0, Some(why)) => format!("  {why}"),
                (0, None) => String::new(),
                (count, _) => {
                    let first = self.findings.kept.iter().find(|finding| finding.check == *check);
                    let first = first.map_or(String::new(), |finding| format!("{}{}", finding.place(), finding.what));
                    format!("  {count} found, first: {first}")
                }
            };
            let _ = writeln!(text, "{:12} {result:7} {:>12}{note}", check.name(), tally.checked);
        }
        let total = self.findings.total();
        if total > 1 {
            let _ = writeln!(text);
            for finding in self.findings.kept.iter().take(KEPT) {
                let _ = writeln!(text, "{:12} {}{}", finding.check.name(), finding.place(), finding.what);
            }
            let more = total.saturating_sub(KEPT as u64);
            if more > 0 {
                let _ = writeln!(text, "and {more} more");
            }
        }
        let _ = writeln!(text, "{}", self.conclusion(total));
        text
    }

    fn conclusion(&self, total: u64) -> String {
        let (events, seconds) = (self.events, self.seconds);
        let after = format!("{events} events in {seconds:.1} s");
        match self.findings.exit() {
            Exit::Ok => format!("ok: {after}"),
            Exit::Differences => {
                format!("exit 1: the log is sound, {total} differences in what is folded from it; rebuild it ({after})")
            }
            _ => format!(
                "exit 6: {total} findings; the log or its guards were changed, stop writing and keep the evidence ({after})"
            ),
        }
    }

    /// For a collector of text files: what is wrong, and when it was last looked at, by check. What was left out is not there, so
    /// that an alert sees it as not looked at.
    pub(crate) fn metrics(&self, now: Timestamp) -> String {
        let looked: Vec<_> =
            Check::ALL.iter().zip(&self.findings.tallies).filter(|(_, tally)| tally.skipped.is_none()).collect();
        let mut text = String::from(
            "# HELP modelfaucet_invariant_violations What the last verification found wrong.\n# TYPE modelfaucet_invariant_violations gauge\n",
        );
        for (check, tally) in &looked {
            let (name, findings) = (check.name(), tally.findings);
            let _ = writeln!(text, "modelfaucet_invariant_violations{{invariant=\"{name}\"}} {findings}");
        }
        text.push_str(
            "# HELP modelfaucet_invariant_last_check_timestamp_seconds When the last verification ended.\n# TYPE modelfaucet_invariant_last_check_timestamp_seconds gauge\n",
        );
        let at = now.micros() / 1_000_000;
        for (check, _) in &looked {
            let name = check.name();
            let _ = writeln!(text, "modelfaucet_invariant_last_check_timestamp_seconds{{invariant=\"{name}\"}} {at}");
        }
        text
    }

    pub(crate) fn json(&self) -> Value {
        let logs: Vec<Value> = self
            .logs
            .iter()
            .map(|log| {
                let (first, last) = log.positions;
                json!({"shard": log.shard, "log_id": log.log_id, "first": first, "last": last, "head_hash": log.head_hash})
            })
            .collect();
        let checks: Vec<Value> = Check::ALL
            .iter()
            .zip(&self.findings.tallies)
            .map(|(check, tally)| {
                let result = match tally {
                    Tally { findings: 1.., .. } => "failed",
                    Tally { skipped: Some(_), .. } => "skipped",
                    _ => "ok",
                };
                json!({"check": check.name(), "result": result, "checked": tally.checked, "findings": tally.findings, "skipped": tally.skipped})
            })
            .collect();
        let findings: Vec<Value> = self
            .findings
            .kept
            .iter()
            .map(|finding| {
                let (first, last) = finding.positions.unzip();
                json!({"check": finding.check.name(), "shard": finding.shard, "first": first, "last": last, "what": finding.what})
            })
            .collect();
        let exit = self.findings.exit();
        json!({
            "ok": exit == Exit::Ok, "exit": exit as u8, "logs": logs, "checks": checks, "findings": findings,
            "findings_total": self.findings.total(), "events": self.events, "seconds": self.seconds,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_finding_decides() {
        let mut findings = Findings::new();
        assert_eq!(findings.exit(), Exit::Ok);
        findings.add(Check::Projections, None, None, "table wallet differs");
        assert_eq!((findings.exit(), findings.log_is_sound()), (Exit::Differences, true));
        findings.add(Check::Chain, ShardId(7), (3, 9), "was changed");
        assert_eq!((findings.exit(), findings.log_is_sound()), (Exit::Violated, false));
        let report = Report { logs: Vec::new(), findings, events: 9, seconds: 0.0 };
        assert!(report.text().contains("s07:3..9 was changed"), "{}", report.text());
        assert_eq!(report.json()["findings"][1]["last"], 9);
    }

    #[test]
    fn metrics_leave_out_what_was_not_looked_at() {
        let mut findings = Findings::new();
        findings.add(Check::Chain, ShardId(0), (3, 9), "was changed");
        findings.skip(Check::Projections, "left out as asked");
        let report = Report { logs: Vec::new(), findings, events: 9, seconds: 0.0 };
        let text = report.metrics(Timestamp::from_micros(7_500_000));
        for line in [
            "modelfaucet_invariant_violations{invariant=\"chain\"} 1",
            "modelfaucet_invariant_violations{invariant=\"keys\"} 0",
            "modelfaucet_invariant_last_check_timestamp_seconds{invariant=\"chain\"} 7",
        ] {
            assert!(text.lines().any(|has| has == line), "{line}: {text}");
        }
        assert!(!text.contains("projections"), "{text}");
    }

    #[test]
    fn findings_without_end_are_counted_and_not_kept() {
        let mut findings = Findings::new();
        (0..1_000).for_each(|at| findings.add(Check::Keys, ShardId(0), (at, at), "is missing"));
        assert_eq!((findings.kept.len(), findings.total()), (KEPT, 1_000));
    }
}
