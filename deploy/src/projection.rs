//! `modelfaucet projection`: the versions of read tables, built, compared and switched beside live traffic.

mod diff;
mod priority;
mod rebuild;
mod throttle;

use std::fmt::Write as _;

pub(crate) use diff::{line as difference_line, table_lines};
use modelfaucet_projector::registry::{self, Switched, Version, vector};
use serde_json::json;

use crate::exit::{Exit, Failure};
use crate::operator::{ActArgs, Consent, Operator, OperatorArgs, thousands};
use crate::verify::auditor;

/// What to do with versions of read tables.
#[derive(clap::Subcommand)]
pub(crate) enum ProjectionVerb {
    /// Show every version: which one is live, how far each has read the log, and what it could not apply
    List {
        /// Only this projection
        #[arg(value_name = "NAME")]
        name: Option<String>,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Build a new version beside the live one; the same command goes on with one that was broken off
    Rebuild(rebuild::RebuildArgs),
    /// Compare two versions at one position of the log; exit 1 if they differ. What it finds is on record
    Diff(diff::DiffArgs),
    /// Make a version live that follows the log and was compared; the one that was live follows on
    Switch {
        /// Which version
        #[command(flatten)]
        version: VersionArgs,
        /// The number of the diff whose differences are intended; you must not be the one who made it
        #[arg(long, value_name = "DIFF")]
        approve: Option<i64>,
        #[command(flatten)]
        act: ActArgs,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Make the version live again that was live before the last switch
    Rollback {
        /// The projection
        #[arg(value_name = "NAME")]
        name: String,
        #[command(flatten)]
        act: ActArgs,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Let a version stand still; if it is live, what everybody reads gets old
    Pause {
        #[command(flatten)]
        version: VersionArgs,
        #[command(flatten)]
        act: ActArgs,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Let a version go on that was paused or has halted
    Resume {
        #[command(flatten)]
        version: VersionArgs,
        #[command(flatten)]
        act: ActArgs,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Take a version away that is not live
    Drop {
        #[command(flatten)]
        version: VersionArgs,
        #[command(flatten)]
        act: ActArgs,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

/// Which version of which projection.
#[derive(clap::Args)]
pub(crate) struct VersionArgs {
    /// The projection
    #[arg(value_name = "NAME")]
    name: String,
    /// The version, such as v2
    #[arg(value_name = "VERSION", value_parser = parse_version)]
    version: i32,
}

/// `v3` or `3`.
pub(crate) fn parse_version(text: &str) -> Result<i32, String> {
    let number = text.strip_prefix('v').unwrap_or(text).parse::<i32>().ok().filter(|number| *number > 0);
    number.ok_or_else(|| "is no version such as v2".to_owned())
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &ProjectionVerb) -> Result<Exit, Failure> {
    match verb {
        ProjectionVerb::List { name, operator } => Operator::run(operator, async |database| {
            let client = database.connect().await?;
            let versions = registry::list(&client, name.as_deref()).await.map_err(auditor::failure)?;
            if operator.json {
                println!("{}", json!({ "versions": versions }));
            } else {
                print!("{}", table(&versions));
            }
            Ok(verdict(&versions))
        }),
        ProjectionVerb::Rebuild(args) => rebuild::run(args),
        ProjectionVerb::Diff(args) => diff::run(args),
        ProjectionVerb::Switch { version, approve, act, operator } => Operator::run(operator, async |database| {
            let mut client = database.connect().await?;
            let who = database.who(&client, Some(&act.reason)).await?;
            let next = registry::find(&client, &version.name, version.version).await?;
            let live = registry::live(&client, &version.name).await?;
            if live.version == next.version {
                return Err(Failure::new(Exit::Refused, format!("{} is live already", next.title())));
            }
            registry::may_switch(&client, &who, &live, &next, *approve).await?;
            if !act.consent.is_given() {
                return Ok(planned(operator, &format!("{} becomes live instead of v{}", next.title(), live.version)));
            }
            Ok(tell_switched(operator, &version.name, &registry::switch(&mut client, &who, &next, *approve).await?))
        }),
        ProjectionVerb::Rollback { name, act, operator } => Operator::run(operator, async |database| {
            let mut client = database.connect().await?;
            let who = database.who(&client, Some(&act.reason)).await?;
            let before = registry::before(&client, name).await?;
            if !act.consent.is_given() {
                return Ok(planned(operator, &format!("{} becomes live again", before.title())));
            }
            Ok(tell_switched(operator, name, &registry::rollback(&mut client, &who, name).await?))
        }),
        ProjectionVerb::Pause { version, act, operator } => change(operator, version, act, Change::Pause),
        ProjectionVerb::Resume { version, act, operator } => change(operator, version, act, Change::Resume),
        ProjectionVerb::Drop { version, act, operator } => change(operator, version, act, Change::Drop),
    }
}

#[derive(Clone, Copy)]
enum Change {
    Pause,
    Resume,
    Drop,
}

fn change(operator: &OperatorArgs, version: &VersionArgs, act: &ActArgs, change: Change) -> Result<Exit, Failure> {
    Operator::run(operator, async |database| {
        let mut client = database.connect().await?;
        let who = database.who(&client, Some(&act.reason)).await?;
        let version = registry::find(&client, &version.name, version.version).await?;
        let title = version.title();
        let (plan, done) = match change {
            Change::Pause => (format!("{title} ({}) stands still until it is resumed", version.state), "is paused"),
            Change::Resume => (format!("{title} goes on"), "goes on; a projector notices within seconds"),
            Change::Drop if version.state == "live" => {
                let why = format!("{title} is live: everybody reads it; switch first");
                return Err(Failure::new(Exit::Refused, why));
            }
            Change::Drop => (format!("{title} ({}) goes, with all its rows", version.state), "is gone"),
        };
        if !act.consent.is_given() {
            return Ok(planned(operator, &plan));
        }
        match change {
            Change::Pause => registry::pause(&mut client, &who, &version).await?,
            Change::Resume => registry::resume(&mut client, &who, &version).await?,
            Change::Drop => registry::drop_version(&mut client, &who, &version).await?,
        }
        tell(operator, &format!("{title} {done}"), &json!({ "projection": version.name, "version": version.version }));
        Ok(Exit::Ok)
    })
}

/// Says what would be done.
pub(crate) fn planned(operator: &OperatorArgs, plan: &str) -> Exit {
    tell(operator, &format!("plan  {plan}\n{}", Consent::NOTHING_DONE), &json!({ "plan": plan, "done": false }));
    Exit::Ok
}

pub(crate) fn tell(operator: &OperatorArgs, text: &str, value: &serde_json::Value) {
    if operator.json {
        println!("{value}");
    } else {
        println!("{text}");
    }
}

fn tell_switched(operator: &OperatorArgs, name: &str, switched: &Switched) -> Exit {
    let Switched { from, to, at, milliseconds, retries } = switched;
    let readers = if *retries > 0 { format!(" · let readers pass {retries} times first") } else { String::new() };
    let text = format!(
        "done  {name} v{to} is live since {} · {milliseconds} ms{readers} · v{from} follows on: \
         `modelfaucet projection rollback {name}` goes back, `projection drop {name} v{from}` removes it",
        vector(at)
    );
    tell(operator, &text, &json!({ "projection": name, "switched": switched }));
    Exit::Ok
}

fn table(versions: &[Version]) -> String {
    let mut text = String::new();
    for version in versions {
        // Writing into a String cannot fail.
        let _ =
            write!(text, "{:16} v{:<3} fold {:<3} {:9}", version.name, version.version, version.code, version.state);
        if version.places.is_empty() {
            text.push_str(" has read nothing yet");
        }
        for place in &version.places {
            let lag = (place.head.0 - place.position.0).max(0);
            let _ = write!(text, " s{:02}:{} lag {}", place.shard.0, place.position, thousands(lag));
            if place.dead_letters > 0 {
                let _ = write!(text, "  {} dead letters → modelfaucet dead list", place.dead_letters);
            }
            if let Some(halted) = &place.halted {
                let _ = write!(text, "  HALTED: {halted}");
            }
        }
        text.push('\n');
    }
    text
}

/// 1 if one has halted or put something aside.
fn verdict(versions: &[Version]) -> Exit {
    let mut places = versions.iter().flat_map(|version| &version.places);
    if places.any(|place| place.halted.is_some() || place.dead_letters > 0) { Exit::Differences } else { Exit::Ok }
}

#[cfg(test)]
mod tests {
    use modelfaucet_projector::registry::Place;
    use modelfaucet_schema::ids::{Position, ShardId};

    use super::*;

    #[test]
    fn versions_are_read() {
        for (text, version) in
            [("v3", Some(3)), ("12", Some(12)), ("v0", None), ("-1", None), ("vv1", None), ("", None)]
        {
            assert_eq!(parse_version(text).ok(), version, "{text}");
        }
    }

    #[test]
    fn a_halt_is_seen_in_the_table_and_in_the_exit_code() {
        let place =
            Place { shard: ShardId(0), position: Position(812), head: Position(2_812), halted: None, dead_letters: 0 };
        let version =
            Version { name: "journal".into(), version: 2, code: 1, state: "live".into(), places: vec![place.clone()] };
        assert_eq!(
            table(std::slice::from_ref(&version)),
            "journal          v2   fold 1   live      s00:812 lag 2,000\n"
        );
        assert_eq!(verdict(std::slice::from_ref(&version)), Exit::Ok);
        let halted = Version { places: vec![Place { halted: Some("why".into()), ..place }], ..version };
        assert!(table(std::slice::from_ref(&halted)).contains("HALTED: why"));
        assert_eq!(verdict(&[halted]), Exit::Differences);
    }
}
