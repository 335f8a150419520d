//! Notes of heads that were kept elsewhere: against somebody who can rewrite everything on the server, only they help.

use std::path::PathBuf;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::log::{Lineage, Seen};
use tokio_postgres::{Error, Transaction};

use super::report::{Check, Findings};
use crate::exit::{Exit, Failure};
use crate::log::note::{Note, Verifier};

/// Reads notes; with a key only those that it has signed.
pub(super) fn read(files: &[PathBuf], key: Option<&Verifier>) -> Result<Vec<Note>, Failure> {
    let read = |path: &PathBuf| {
        let wrong = |error: &dyn std::fmt::Display| Failure::new(Exit::Config, format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| wrong(&error))?;
        key.map_or_else(|| Note::parse(&text), |key| key.check(&text)).map_err(|error| wrong(&error))
    };
    files.iter().map(read).collect()
}

/// Compares the log with them.
pub(super) async fn check(transaction: &Transaction<'_>, notes: &[Note], findings: &mut Findings) -> Result<(), Error> {
    for note in notes {
        findings.checked(Check::Witnesses, 1);
        let (shard, position) = (note.shard, note.head.position);
        let lineage = Lineage::read(transaction.client(), shard).await?;
        let mut wrong = |first: i64, what: String| findings.add(Check::Witnesses, shard, (first, position.0), what);
        let end: i64 =
            match transaction.query_opt("SELECT position FROM ledger.head WHERE shard = $1", &[&shard.0]).await? {
                Some(row) => row.get(0),
                None => 0,
            };
        match lineage.map(|lineage| lineage.seen(note.log_id, position)) {
            Some(Seen::Lost { common }) => {
                wrong(common.next().0, "was lost behind the note in a fork, which names it".to_owned());
            }
            None | Some(Seen::Foreign) => {
                wrong(0, format!("the note is of log {}, which this one is not", note.log_id));
            }
            Some(Seen::Ours) if position.0 > end => {
                wrong(end + 1, format!("the note has seen positions up to {position}: the end of the log was cut off"));
            }
            Some(Seen::Ours) => {
                let sql = "SELECT hash FROM ledger.batch WHERE shard = $1 AND last_pos = $2";
                let row = transaction.query_opt(sql, &[&shard.0, &position.0]).await?;
                let there = row.and_then(|row| ChainHash::from_slice(row.get(0)));
                if position.0 > 0 && there != Some(note.head.hash) {
                    wrong(
                        1,
                        "the note has seen another hash here: the log was written anew up to this position".to_owned(),
                    );
                }
            }
        }
    }
    Ok(())
}
