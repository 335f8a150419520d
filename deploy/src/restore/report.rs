//! What came of a restore.

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position};
use serde_json::{Value, json};

use crate::exit::Exit;
use crate::heads::Witnessed;
use crate::verify;

/// What is lost against the highest head that anybody has seen.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Loss {
    None,
    /// Positions, and the time between the last event that is there and the last that was seen.
    Events {
        first: i64,
        last: i64,
        seconds: f64,
    },
    /// Another story.
    Contradicts(String),
}

/// Everything that is told.
pub(crate) struct Report {
    pub(super) into: PathBuf,
    pub(super) target: String,
    pub(super) base: String,
    pub(super) log_id: LogId,
    pub(super) position: Position,
    pub(super) hash: ChainHash,
    pub(super) highest: Option<Witnessed>,
    pub(super) loss: Loss,
    /// Events that were certainly before the target and are not there: a broken backup.
    pub(super) missed: i64,
    pub(super) findings: Vec<String>,
    pub(super) bytes: u64,
    pub(super) to_serve: Duration,
    pub(super) proving: Duration,
    pub(super) verified: Option<verify::Report>,
    /// Debits less credits of all accounts.
    pub(super) balance: Option<String>,
    pub(super) amcheck: Option<Result<(), String>>,
}

impl Report {
    /// Is what was restored sound, whatever is lost behind it?
    pub(crate) fn soundness(&self) -> Exit {
        let books = self.balance.as_deref().is_none_or(|sum| sum == "0");
        if !books || !self.findings.is_empty() || matches!(self.loss, Loss::Contradicts(_)) {
            return Exit::Violated;
        }
        self.verified.as_ref().map_or(Exit::Ok, |verified| verified.findings.exit())
    }

    /// A log that lacks acknowledged events must not be written on as it is: that is a fork.
    pub(super) fn exit(&self) -> Exit {
        match self.loss {
            Loss::None => self.soundness(),
            Loss::Events { .. } | Loss::Contradicts(_) => Exit::Violated,
        }
    }

    pub(crate) fn position(&self) -> Position {
        self.position
    }

    pub(crate) fn missed(&self) -> i64 {
        self.missed
    }

    pub(crate) fn to_serve(&self) -> Duration {
        self.to_serve
    }

    pub(crate) fn proving(&self) -> Duration {
        self.proving
    }

    /// What is wrong, in one line; empty if nothing is.
    pub(crate) fn problem(&self) -> String {
        let mut problems = self.findings.clone();
        if let Loss::Contradicts(what) = &self.loss {
            problems.push(what.clone());
        }
        if let Some(sum) = self.balance.as_ref().filter(|sum| *sum != "0") {
            problems.push(format!("the trial balance is off by {sum}"));
        }
        if let Some(verified) = self.verified.as_ref().filter(|verified| verified.findings.exit() != Exit::Ok) {
            problems.push(verified.text().lines().last().unwrap_or_default().to_owned());
        }
        problems.join("; ")
    }

    pub(super) fn text(&self) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        let _ = writeln!(
            text,
            "restored         {}  (base backup {}, target: {})",
            self.into.display(),
            self.base,
            self.target
        );
        let _ = writeln!(text, "log              {}  position {}  {}", self.log_id, self.position, self.hash);
        if let Some(highest) = &self.highest {
            let _ = writeln!(text, "highest seen     {highest}");
        }
        match &self.loss {
            Loss::None if self.highest.is_none() => {
                text.push_str("lost (RPO)       unknown: nobody has witnessed this log\n");
            }
            Loss::None => text.push_str("lost (RPO)       0 events\n"),
            Loss::Events { first, last, seconds } => {
                let _ = writeln!(
                    text,
                    "lost (RPO)       {} events, {seconds:.1} s: positions {first}..{last}",
                    last - first + 1
                );
            }
            Loss::Contradicts(what) => {
                let _ = writeln!(text, "FORK             {what}");
            }
        }
        let _ =
            writeln!(text, "to serve (RTO)   {:.1} s for {} MB", self.to_serve.as_secs_f64(), self.bytes / 1_000_000);
        match &self.balance {
            Some(sum) if sum == "0" => text.push_str("trial balance    0\n"),
            Some(sum) => {
                let _ = writeln!(text, "trial balance    FAILED: off by {sum}");
            }
            None => text.push_str("trial balance    left out\n"),
        }
        match &self.verified {
            Some(verified) => {
                let _ = writeln!(text, "verification     {}", verified.text().lines().last().unwrap_or_default());
            }
            None => text.push_str("verification     left out\n"),
        }
        match &self.amcheck {
            Some(Ok(())) => text.push_str("pages, indexes   ok\n"),
            Some(Err(why)) => {
                let _ = writeln!(text, "pages, indexes   left out: {why}");
            }
            None => {}
        }
        for finding in &self.findings {
            let _ = writeln!(text, "FAILED           {finding}");
        }
        let next = self.into.display();
        let _ = match &self.loss {
            Loss::None if self.exit() == Exit::Ok => {
                writeln!(
                    text,
                    "ok: copy the secrets of the old data directory, then `modelfaucet up --data-dir {next}`"
                )
            }
            Loss::None => writeln!(text, "exit {}: not sound, do not serve from it", self.exit() as u8),
            Loss::Events { first, last, .. } => writeln!(
                text,
                "exit 6: acknowledged events are lost; before anything writes: `modelfaucet log recover --data-dir {next} --from MIRROR`, else `modelfaucet log fork --data-dir {next} --lost {first}..{last}`"
            ),
            Loss::Contradicts(_) => writeln!(text, "exit 6: this is not the log that was seen; do not serve from it"),
        };
        text
    }

    pub(super) fn json(&self) -> Value {
        let (lost, first, last, seconds) = match &self.loss {
            Loss::None => (Some(0), None, None, 0.0),
            Loss::Events { first, last, seconds } => (Some(last - first + 1), Some(first), Some(last), *seconds),
            Loss::Contradicts(_) => (None, None, None, 0.0),
        };
        let amcheck = match &self.amcheck {
            None => Value::Null,
            Some(Ok(())) => json!("ok"),
            Some(Err(why)) => json!({ "skipped": why }),
        };
        json!({
            "exit": self.exit() as u8, "into": self.into, "target": self.target, "base": self.base, "log_id": self.log_id,
            "position": self.position, "hash": self.hash.to_string(), "highest_seen": self.highest.as_ref().map(|head| head.position),
            "events_lost": lost, "lost_first": first, "lost_last": last, "seconds_lost": seconds, "events_missed": self.missed,
            "seconds_to_serve": self.to_serve.as_secs_f64(), "seconds_to_prove": self.proving.as_secs_f64(), "bytes": self.bytes,
            "trial_balance": self.balance, "verified": self.verified.as_ref().map(verify::Report::json), "amcheck": amcheck,
            "problem": self.problem(),
        })
    }
}
