//! Heads of the log as they were seen, kept outside of the database: one line per head in `HEADS_DIR/sNN.heads`. A restored database
//! cannot know what it has lost; this book does. A writer that has the book refuses a log that ends below it.

mod book;
mod lsn;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::{Lineage, Seen};
use tokio_postgres::Client;

pub(crate) use book::{Book, Witnessed, hash as parse_hash};
pub(crate) use lsn::Lsn;

use crate::config::Config;
use crate::exit::{Exit, Failure};
use crate::{backup, database};

/// What a log is against what was seen of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// It holds everything that was seen.
    Whole,
    /// It ends before what was seen.
    Short {
        /// The first and the last position that are missing.
        lost: (i64, i64),
        seen: Box<Witnessed>,
    },
    /// It tells another story.
    Contradicts(String),
}

/// Compares a log with the highest head that was seen under each of its ids.
///
/// # Errors
/// The database's.
pub(crate) async fn standing(
    client: &Client,
    shard: ShardId,
    seen: &[Witnessed],
) -> Result<Standing, tokio_postgres::Error> {
    let Some(lineage) = Lineage::read(client, shard).await? else {
        return Ok(match seen.last() {
            Some(last) => Standing::Contradicts(format!("there is no log, but {last} was seen")),
            None => Standing::Whole,
        });
    };
    let end: i64 = client.query_one("SELECT position FROM ledger.head WHERE shard = $1", &[&shard.0]).await?.get(0);
    for head in book::highest(seen) {
        match lineage.seen(head.log_id, head.position) {
            Seen::Lost { .. } => {}
            Seen::Foreign => {
                let what = match lineage.lines().iter().find(|line| line.log_id == head.log_id) {
                    Some(line) => format!(
                        "{head} was seen; a fork names only positions up to {} as lost",
                        line.lost_until.unwrap_or_default()
                    ),
                    None => format!("{head} was seen, which is another log than this one"),
                };
                return Ok(Standing::Contradicts(what));
            }
            Seen::Ours if head.position.0 > end => {
                return Ok(Standing::Short { lost: (end + 1, head.position.0), seen: Box::new(head.clone()) });
            }
            Seen::Ours => {
                let sql = "SELECT hash FROM ledger.batch WHERE shard = $1 AND last_pos = $2";
                let row = client.query_opt(sql, &[&shard.0, &head.position.0]).await?;
                if row.and_then(|row| ChainHash::from_slice(row.get(0))) != Some(head.hash) && head.position.0 > 0 {
                    return Ok(Standing::Contradicts(format!("{head} was seen, but the log has another hash there")));
                }
            }
        }
    }
    Ok(Standing::Whole)
}

/// Refuses a log that has lost what was seen of it. To be asked before a writer starts: positions that are written anew would
/// have two contents.
///
/// # Errors
/// Exit 6 with what is lost and what to do; a book that cannot be read; the database's.
pub(crate) async fn guard(config: &Config, database: &tokio_postgres::Config) -> Result<(), Failure> {
    let Some(dir) = config.heads_dir() else { return Ok(()) };
    let shard = ShardId(0);
    let seen = Book::read(&dir, shard)?;
    if seen.is_empty() {
        tracing::warn!(dir = %dir.display(), "no head was witnessed yet; a log that has lost its end would not be noticed");
        return Ok(());
    }
    let client = database::connect(database).await?;
    match standing(&client, shard, &seen).await? {
        Standing::Whole => Ok(()),
        short => Err(refusal(shard, &short, config)),
    }
}

/// Exit 6, in words.
pub(crate) fn refusal(shard: ShardId, standing: &Standing, config: &Config) -> Failure {
    let message = match standing {
        Standing::Short { lost: (first, last), seen } => {
            let mirror =
                config.backup_dir().map_or("DIR".to_owned(), |dir| backup::mirror_dir(&dir).display().to_string());
            format!(
                "the log of {shard} ends at position {}, but {seen} was seen: positions {first}..{last} are lost, and writing on would give them other contents. Run `modelfaucet log recover --from {mirror}`; only if nothing has them, `modelfaucet log fork --lost {first}..{last}` (docs/BACKUP.md)",
                first - 1
            )
        }
        Standing::Contradicts(what) => {
            format!(
                "the log of {shard} is not the one that was seen: {what}. Stop writing, keep the evidence, see docs/BACKUP.md"
            )
        }
        Standing::Whole => format!("the log of {shard} is whole"),
    };
    Failure::new(Exit::Violated, message)
}
