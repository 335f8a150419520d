//! Which base backups there are.

use crate::exit::{Exit, Failure};

use super::repository::{Base, Repository};

pub(super) fn print(repository: &Repository, as_json: bool) -> Result<Exit, Failure> {
    let bases = repository.bases()?;
    for base in &bases {
        if as_json {
            println!("{}", serde_json::to_string(base).unwrap_or_default());
        } else {
            println!("{}", line(base));
        }
    }
    if bases.is_empty() && !as_json {
        println!("no base backup in {}; make one with `modelfaucet backup run`", repository.dir().display());
    }
    Ok(Exit::Ok)
}

/// A base backup in one line.
pub(super) fn line(base: &Base) -> String {
    let seconds = base.ended.since(base.began).as_secs_f64();
    format!(
        "{}  position {:>12}  {:>8} MB  {seconds:>6.1} s  timeline {}  WAL from {} to {}  PostgreSQL {}",
        base.label,
        base.position.0,
        base.bytes / 1_000_000,
        base.timeline,
        base.start,
        base.end,
        base.server,
    )
}
