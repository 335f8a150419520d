//! `modelfaucet projection diff`: two versions at one moment at which both have read exactly the same of the log.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use modelfaucet_projector::compare::{Cells, Compared, Content, Difference, Moment, Side, compare, moment};
use modelfaucet_projector::projection::{all, under};
use modelfaucet_projector::registry::{self, Version, vector};
use modelfaucet_projector::trace::{Named, Why, explain};
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::LogReader;
use serde_json::json;
use tokio_postgres::Client;

use super::parse_version;
use crate::exit::{Exit, Failure};
use crate::operator::{Operator, OperatorArgs};
use crate::progress::Progress;
use crate::verify::auditor;

/// How long it looks for a moment at which both stand at the same place, unless told otherwise.
const PATIENCE_SECONDS: u64 = 60;
/// How often it looks.
const LOOK: Duration = Duration::from_millis(20);
/// What the record of a diff keeps of it.
const KEPT: usize = 20;

/// What to compare.
#[derive(clap::Args)]
pub(crate) struct DiffArgs {
    /// The projection
    #[arg(value_name = "NAME")]
    name: String,
    /// The first version, such as v1
    #[arg(value_name = "FIRST", value_parser = parse_version)]
    first: i32,
    /// The second version, such as v2
    #[arg(value_name = "SECOND", value_parser = parse_version)]
    second: i32,
    /// Compare when both have read exactly this far, such as s00:812; nothing that they have passed already
    #[arg(long, value_name = "VECTOR", value_parser = parse_vector)]
    at: Option<Vector>,
    /// How long to wait for that moment, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = PATIENCE_SECONDS)]
    wait: u64,
    /// How many rows of each table to name
    #[arg(long, value_name = "N", default_value_t = 20)]
    rows: usize,
    /// Do not look in the log for the events that explain differences
    #[arg(long)]
    no_events: bool,
    #[command(flatten)]
    operator: OperatorArgs,
}

/// Positions by shard.
pub(crate) type Vector = Vec<(ShardId, Position)>;

/// `s00:812,s07:1190774`, as plans and diffs print it; blanks divide as well.
pub(crate) fn parse_vector(text: &str) -> Result<Vector, String> {
    let mut vector = Vector::new();
    for part in text.split([',', ' ']).filter(|part| !part.is_empty()) {
        let (shard, position) =
            part.strip_prefix('s').and_then(|part| part.split_once(':')).ok_or("is no vector such as s00:812")?;
        let shard = shard.parse().map_err(|_| "is no vector such as s00:812")?;
        let position = position.parse().map_err(|_| "is no vector such as s00:812")?;
        vector.push((ShardId(shard), Position(position)));
    }
    vector.sort_unstable_by_key(|(shard, _)| shard.0);
    if vector.is_empty() { Err("is no vector such as s00:812".to_owned()) } else { Ok(vector) }
}

/// A difference and its explanation.
struct Explained {
    difference: Difference,
    why: Option<Why>,
}

/// Compares, explains, prints and writes down. Exit 1 if the two differ.
pub(super) fn run(args: &DiffArgs) -> Result<Exit, Failure> {
    if args.first == args.second {
        clap::Error::raw(clap::error::ErrorKind::ValueValidation, "a version is always equal to itself\n").exit();
    }
    Operator::run(&args.operator, async |database| {
        let (mut client, recorder) = (database.connect().await?, database.connect().await?);
        let who = database.who(&recorder, None).await?;
        let first = registry::find(&recorder, &args.name, args.first).await?;
        let second = registry::find(&recorder, &args.name, args.second).await?;
        for version in [&first, &second] {
            if version.state == "building" {
                return Err(Failure::new(Exit::Refused, format!("{} is still being built", version.title())));
            }
        }
        let (tables, at) = at_one_moment(args, &mut client, &first, &second).await?;
        let is_equal = tables.iter().all(Compared::is_equal);
        let explained = explained(args, database, (&first, &second), &at, &tables).await?;
        let record = registry::Compared {
            with: first.version,
            at: at.clone(),
            is_equal,
            differences: explained.iter().take(KEPT).map(|one| line(&one.difference)).collect(),
        };
        let id =
            registry::compared(&recorder, &who, &args.name, second.version, &record).await.map_err(auditor::failure)?;
        if args.operator.json {
            println!("{}", in_json(args, id, &at, is_equal, &tables, &explained));
        } else {
            print!("{}", text(args, id, &at, is_equal, &tables, &explained));
        }
        Ok(if is_equal { Exit::Ok } else { Exit::Differences })
    })
}

/// Waits for a moment at which both stand at the same place, and compares in it.
async fn at_one_moment(
    args: &DiffArgs,
    client: &mut Client,
    first: &Version,
    second: &Version,
) -> Result<(Vec<Compared>, Vector), Failure> {
    let began = Instant::now();
    loop {
        let why = match moment(client, &args.name, (first.version, second.version)).await.map_err(auditor::failure)? {
            Moment::Level(transaction, at) if args.at.as_ref().is_none_or(|wanted| *wanted == at) => {
                let (left, right) = (first.schema(), second.schema());
                let first = Side { client: &transaction, schema: &left };
                let second = Side { client: &transaction, schema: &right };
                let tables = compare(first, second, args.rows).await.map_err(auditor::failure)?;
                return Ok((tables, at));
            }
            Moment::Level(_, at) => {
                passed(args, &at)?;
                format!("both stand at {}", vector(&at))
            }
            Moment::Apart(left, right) => {
                passed(args, &left)?;
                passed(args, &right)?;
                format!("{} stands at {}, {} at {}", first.title(), vector(&left), second.title(), vector(&right))
            }
        };
        if began.elapsed() > Duration::from_secs(args.wait) {
            return Err(Failure::new(Exit::Temporary, format!("{why}; does a projector follow with both of them?")));
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// What was passed does not come back.
fn passed(args: &DiffArgs, at: &[(ShardId, Position)]) -> Result<(), Failure> {
    let Some(wanted) = &args.at else { return Ok(()) };
    let is_behind = |(shard, position): &(ShardId, Position)| {
        at.iter().any(|(other, reached)| other == shard && reached > position)
    };
    if wanted.iter().any(is_behind) || wanted.len() != at.len() {
        let why = format!(
            "{} has passed: it was read up to {}; leave out --at, or look at the past with `modelfaucet replay`",
            vector(wanted),
            vector(at)
        );
        return Err(Failure::new(Exit::Refused, why));
    }
    Ok(())
}

async fn explained(
    args: &DiffArgs,
    database: &Operator,
    (first, second): (&Version, &Version),
    at: &[(ShardId, Position)],
    tables: &[Compared],
) -> Result<Vec<Explained>, Failure> {
    let differences: Vec<Difference> = tables.iter().flat_map(|table| table.rows.iter().cloned()).collect();
    if args.no_events || differences.is_empty() {
        return Ok(differences.into_iter().map(|difference| Explained { difference, why: None }).collect());
    }
    let known = all();
    let fold = |version: &Version| {
        let fold = known.iter().find(|fold| fold.name() == version.name && fold.code() == version.code);
        fold.map(|fold| under(fold.fresh(), version.version))
    };
    let (left, right) = (fold(first), fold(second));
    let reader = LogReader::prepare(std::sync::Arc::new(database.connect().await?)).await.map_err(auditor::failure)?;
    let events = at.iter().map(|(_, position)| u64::try_from(position.0).unwrap_or_default()).sum();
    let mut progress = Progress::start("explain", events, args.operator.manner());
    let whys =
        explain(&reader, (left.as_deref(), right.as_deref()), at, &differences, |read| progress.set(read)).await?;
    progress.finish();
    Ok(differences.into_iter().zip(whys).map(|(difference, why)| Explained { difference, why: Some(why) }).collect())
}

fn content(content: &Content) -> String {
    format!("{} rows {:.16}", content.rows, content.sha256)
}

fn cell(value: Option<&String>) -> &str {
    value.map_or("null", String::as_str)
}

/// One line about a row.
pub(crate) fn line(difference: &Difference) -> String {
    let key: Vec<String> = difference.key.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let key = format!("{} ({})", difference.table, key.join(", "));
    match &difference.cells {
        Cells::Missing => format!("{key} is missing in the second"),
        Cells::Added => format!("{key} is in the second alone"),
        Cells::Changed(cells) => {
            let cells: Vec<String> = cells
                .iter()
                .map(|(column, was, is)| format!("{column} {} → {}", cell(was.as_ref()), cell(is.as_ref())))
                .collect();
            format!("{key} {}", cells.join(", "))
        }
    }
}

fn event(named: &Named) -> String {
    format!("s{:02}:{} {} {} · request {}", named.shard.0, named.position, named.event, named.stream, named.request_id)
}

fn reason(why: &Why, first: i32, second: i32) -> String {
    match why {
        Why::Folds(named) => format!("first event that makes them differ: {}", event(named)),
        Why::NotFromTheLog { of, last } => {
            let whose = match *of {
                "first" => format!("v{first}"),
                "second" => format!("v{second}"),
                _ => "neither".to_owned(),
            };
            let whose = if whose == "neither" {
                "what is stored in both is not what the log folds to".to_owned()
            } else {
                format!("what is stored in {whose} is not what the log folds to")
            };
            let last = last.as_ref().map_or_else(
                || "no event writes this row".to_owned(),
                |last| format!("the last event that writes this row: {}", event(last)),
            );
            format!("{whose}; {last}")
        }
        Why::Unknown => "this program cannot fold both versions, so no event can be named".to_owned(),
    }
}

/// The tables, one line each.
pub(crate) fn table_lines(tables: &[Compared]) -> String {
    let mut text = String::new();
    for table in tables {
        let same = if table.is_equal() { "equal    " } else { "DIFFERENT" };
        let held = if table.first == table.second {
            content(&table.first)
        } else {
            format!("{} / {}", content(&table.first), content(&table.second))
        };
        // Writing into a String cannot fail.
        let _ = writeln!(text, "  {:22} {same} {held}", table.table);
        for only in &table.only_one_has {
            let _ = writeln!(text, "    {only}");
        }
    }
    text
}

fn text(
    args: &DiffArgs,
    id: i64,
    at: &[(ShardId, Position)],
    is_equal: bool,
    tables: &[Compared],
    explained: &[Explained],
) -> String {
    let (name, first, second) = (&args.name, args.first, args.second);
    let mut text = format!("diff  {name} v{first} v{second} at {}\n{}", vector(at), table_lines(tables));
    for Explained { difference, why } in explained {
        let _ = writeln!(text, "    {}", line(difference));
        if let Some(why) = why {
            let _ = writeln!(text, "      {}", reason(why, first, second));
        }
    }
    for table in tables.iter().filter(|table| table.has_more) {
        let _ =
            writeln!(text, "    more rows of {} differ: in {} of 256 parts of its keys", table.table, table.buckets);
    }
    let _ = if is_equal {
        writeln!(
            text,
            "done  equal · diff {id} is on record · next: modelfaucet projection switch {name} v{second} --reason TEXT"
        )
    } else {
        writeln!(
            text,
            "done  different · diff {id} is on record · if this is intended, somebody else may switch: \
             modelfaucet projection switch {name} v{second} --approve {id} --reason TEXT"
        )
    };
    text
}

fn in_json(
    args: &DiffArgs,
    id: i64,
    at: &[(ShardId, Position)],
    is_equal: bool,
    tables: &[Compared],
    explained: &[Explained],
) -> serde_json::Value {
    let rows: Vec<_> = explained
        .iter()
        .map(|one| json!({ "difference": one.difference, "line": line(&one.difference), "why": one.why }))
        .collect();
    json!({
        "projection": args.name, "first": args.first, "second": args.second, "at": vector(at), "equal": is_equal,
        "diff": id, "tables": tables, "rows": rows
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vectors_are_read_as_they_are_printed() {
        let at = vec![(ShardId(0), Position(812)), (ShardId(7), Position(1_190_774))];
        assert_eq!(parse_vector(&vector(&at)), Ok(at.clone()));
        assert_eq!(parse_vector("s07:1190774,s00:812"), Ok(at));
        for wrong in ["", "812", "s0", "s0:", "s:1", "sx:1", "s0:x"] {
            assert!(parse_vector(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_difference_is_one_line() {
        let difference = |cells| Difference {
            table: "wallet".into(),
            key: vec![("shard".into(), "0".into()), ("wallet_id".into(), "w".into())],
            cells,
        };
        assert_eq!(line(&difference(Cells::Missing)), "wallet (shard=0, wallet_id=w) is missing in the second");
        let cells = vec![("posted".to_owned(), Some("1".to_owned()), None)];
        assert_eq!(line(&difference(Cells::Changed(cells))), "wallet (shard=0, wallet_id=w) posted 1 → null");
    }
}
