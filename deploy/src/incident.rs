//! `modelfaucet incident`: closing an incident with the report that proves it is over, what was closed, and whether a report is the one
//! that it was closed with. The report stays a file; the log keeps its SHA-256 and size.

mod closing;
mod report;

use std::io::Write as _;
use std::path::{Path, PathBuf};

use modelfaucet_schema::ids::{Position, ShardId};
use serde::Deserialize;
use serde_json::json;

use crate::client::Call;
use crate::events::Span;
use crate::exit::{Exit, Failure};
use crate::freeze::StaffArgs;
use crate::operator::Consent;
use crate::reading::Place;
use closing::Closing;
use report::Report;

/// What to do with incidents.
#[derive(clap::Subcommand)]
pub(crate) enum IncidentVerb {
    /// Close an incident with the report that proves it is over. Done with --yes only
    Close(CloseArgs),
    /// List the closings, newest first
    List {
        #[command(flatten)]
        staff: StaffArgs,
    },
    /// Is this the report that the incident was closed with? Exit 6 if it is another one or was changed
    Check(CheckArgs),
}

/// What to close, and with what.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct CloseArgs {
    /// What people call it, such as INC-17
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// The positions that it is about, such as s00:800..812
    #[arg(long, value_name = "FIRST..LAST")]
    range: Span,
    /// The report: any file, such as what `verify --json` has printed. It is not sent, only its SHA-256 and size
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// What it was and what the report proves, for the record
    #[arg(long, value_name = "TEXT")]
    reason: String,
    /// The closing that does not count any more, as `list` shows it, if it was closed before
    #[arg(long, value_name = "PLACE")]
    supersedes: Option<Place>,
    #[command(flatten)]
    consent: Consent,
    #[command(flatten)]
    staff: StaffArgs,
}

/// Which report, of which incident.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct CheckArgs {
    /// What people call it, such as INC-17
    #[arg(value_name = "NAME", value_parser = name)]
    name: String,
    /// The report
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    #[command(flatten)]
    staff: StaffArgs,
}

/// The names that the ledger takes.
fn name(text: &str) -> Result<String, &'static str> {
    let known = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
    if (1..=128).contains(&text.len()) && text.bytes().all(known) {
        Ok(text.to_owned())
    } else {
        Err("must be 1 to 128 of a-z A-Z 0-9 _ : -")
    }
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong; exit 3 if the ledger refuses, 1 if nothing is known of the incident.
pub(crate) fn run(verb: &IncidentVerb) -> Result<Exit, Failure> {
    let runtime = crate::runtime()?;
    match verb {
        IncidentVerb::Close(args) => runtime.block_on(close(args)),
        IncidentVerb::List { staff } => runtime.block_on(list(staff)),
        IncidentVerb::Check(args) => runtime.block_on(check(args)),
    }
}

fn usage(problem: &str) -> ! {
    clap::Error::raw(clap::error::ErrorKind::ValueValidation, format!("{problem}\n")).exit()
}

#[derive(Deserialize)]
struct Closed {
    position: Position,
}

async fn close(args: &CloseArgs) -> Result<Exit, Failure> {
    let (name, reason) = (&args.name, args.reason.trim());
    if reason.is_empty() {
        usage("--reason says nothing");
    }
    let Span { shard, first, last } = args.range;
    if shard != ShardId(0) || args.supersedes.is_some_and(|place| place.shard != shard) {
        usage("there is no shard but s00");
    }
    let report = Report::read(&args.report)?;
    let (client, token) = (args.staff.ledger.client()?, args.staff.token()?);
    let mut body = json!({
        "name": name, "first": first, "last": last, "digest": report.digest, "bytes": report.bytes, "reason": reason,
    });
    if let Some(place) = args.supersedes {
        body["supersedes"] = json!(place.position);
    }
    let mut closed: Option<(Position, bool)> = None;
    if args.consent.is_given() {
        let reply = client.send(&Call::post("/v1/admin/incidents", &body).token(&token)).await?;
        closed = Some((reply.json::<Closed>()?.position, reply.replayed));
    }
    if args.staff.json {
        body["closed_at"] = json!(closed.map(|(position, _)| position));
        body["done"] = json!(closed.is_some());
        println!("{body}");
        return Ok(Exit::Ok);
    }
    if let Some((position, before)) = closed {
        let before = if before { " already" } else { "" };
        println!("closed{before}: {name} over {shard}:{first}..{last}, at {shard}:{position}\nreport    {report}");
    } else {
        println!("would close {name} over {shard}:{first}..{last} at {}", client.base());
        println!("report    {report}\n{}", Consent::NOTHING_DONE);
    }
    Ok(Exit::Ok)
}

async fn list(staff: &StaffArgs) -> Result<Exit, Failure> {
    let mut out = std::io::stdout().lock();
    for closing in closing::all(staff).await? {
        if staff.json {
            writeln!(out, "{}", closing.json())?;
        } else {
            writeln!(out, "{}", closing.line())?;
        }
    }
    Ok(Exit::Ok)
}

/// What a file is to an incident.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    /// The report of the closing that counts.
    Report,
    /// The report of one that does not count any more.
    Superseded,
    /// None of its reports.
    Other,
}

impl Verdict {
    /// Of a digest among the closings of one incident, newest first; with the closing that says so.
    fn of<'a>(digest: &str, closings: &'a [Closing]) -> Option<(Self, &'a Closing)> {
        let newest = closings.first()?;
        let same = closings.iter().find(|closing| closing.event.digest == digest);
        Some(match same {
            Some(closing) if closing.superseded_by.is_none() => (Self::Report, closing),
            Some(closing) => (Self::Superseded, closing),
            None => (Self::Other, newest),
        })
    }

    const fn exit(self) -> Exit {
        match self {
            Self::Report => Exit::Ok,
            Self::Superseded => Exit::Differences,
            Self::Other => Exit::Violated,
        }
    }
}

async fn check(args: &CheckArgs) -> Result<Exit, Failure> {
    let report = Report::read(&args.report)?;
    let closings = closing::of(&args.staff, &args.name).await?;
    let Some((verdict, closing)) = Verdict::of(&report.digest, &closings) else {
        return Err(Failure::new(Exit::Differences, format!("no incident {} was closed", args.name)));
    };
    if args.staff.json {
        let right = verdict == Verdict::Report;
        println!(
            "{}",
            json!({ "file": args.report, "digest": report.digest, "right": right, "closing": closing.json() })
        );
    } else {
        println!("{}", told(verdict, closing, &args.report, &report));
    }
    Ok(verdict.exit())
}

fn told(verdict: Verdict, closing: &Closing, file: &Path, report: &Report) -> String {
    let (file, name, place) = (file.display(), &closing.event.name, closing.place());
    match (verdict, closing.superseded_by) {
        (Verdict::Superseded, Some(by)) => {
            format!("{file} was the report of {name} at {place}; the closing at {}:{by} counts instead", ShardId(0))
        }
        (Verdict::Other, _) => format!(
            "{file} IS NOT the report of {name}: it was changed, or is another file\nfile      {report}\nlog       sha256 {} · {} bytes · {place}",
            closing.event.digest, closing.event.bytes
        ),
        _ => format!("{file} is the report of {name}, closed at {place} by {}, {}", closing.actor, closing.at),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_that_the_ledger_takes() {
        for good in ["INC-17", "x", "payments:2026-11-24_b", &"n".repeat(128)] {
            assert_eq!(name(good).as_deref(), Ok(good));
        }
        for bad in ["", " INC-17", "INC 17", "INC/17", "ÏNC", &"n".repeat(129)] {
            assert!(name(bad).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn a_report_is_the_one_of_the_closing_that_counts() {
        let closings = closing::linked(vec![
            closing::closing("INC-17", "cc", 30, Some(20)),
            closing::closing("INC-17", "bb", 20, Some(10)),
            closing::closing("INC-17", "aa", 10, None),
        ]);
        let verdict = |digest| Verdict::of(digest, &closings).map(|(verdict, closing)| (verdict, closing.position));
        assert_eq!(verdict("cc"), Some((Verdict::Report, 30)));
        assert_eq!(verdict("bb"), Some((Verdict::Superseded, 20)));
        assert_eq!(verdict("aa"), Some((Verdict::Superseded, 10)));
        assert_eq!(verdict("dd"), Some((Verdict::Other, 30)));
        assert_eq!(Verdict::of("aa", &[]), None);
        // Closed once more with the report of the first time: that one counts again.
        let again = closing::linked(vec![closing::closing("INC-17", "aa", 40, Some(30)), closings[0].clone()]);
        assert_eq!(Verdict::of("aa", &again).map(|(verdict, _)| verdict), Some(Verdict::Report));
    }
}
