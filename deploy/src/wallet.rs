//! `modelfaucet wallet`: one wallet now or at any point of the log, and what it came from.

mod as_of;
mod history;

use modelfaucet_schema::event::{Balance, StoredEvent};
use modelfaucet_schema::ids::{ShardId, WalletId};
use modelfaucet_schema::money::Money;
use serde_json::{Value, json};
use tokio_postgres::Transaction;

use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::progress::Manner;
use crate::reading::{self, Place};
use crate::verify::auditor;
use as_of::AsOf;

/// What to do with a wallet.
#[derive(clap::Subcommand)]
pub(crate) enum WalletVerb {
    /// Print the figures of a wallet, now or as of a point of the log
    Show(ShowArgs),
    /// Print what moved a wallet's money, oldest first, with the balance behind each
    History(history::HistoryArgs),
}

/// Which wallet, and when.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct ShowArgs {
    /// The wallet
    #[arg(value_name = "ID")]
    wallet: WalletId,
    /// As of this place (s00:812) or time (ISO 8601 with offset) instead of now; exact, whatever the read tables say today
    #[arg(long, value_name = "POSITION|TIME")]
    as_of: Option<AsOf>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object
    #[arg(long)]
    json: bool,
    /// No progress on standard error
    #[arg(long)]
    quiet: bool,
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong; exit 1 if there is no such wallet.
pub(crate) fn run(verb: &WalletVerb) -> Result<Exit, Failure> {
    match verb {
        WalletVerb::Show(args) => show(args),
        WalletVerb::History(args) => history::run(args),
    }
}

/// A wallet as the read tables have it, which says where to look in the log.
struct Row {
    shard: ShardId,
    app: uuid::Uuid,
    user: uuid::Uuid,
    floor: Money,
    /// The last event that changed it.
    position: i64,
}

async fn row(transaction: &Transaction<'_>, wallet: WalletId) -> Result<Row, Failure> {
    let sql =
        "SELECT shard, app_id, user_id, floor, position FROM read.wallet WHERE shard = ANY ($1) AND wallet_id = $2";
    let shards = reading::shards(transaction).await.map_err(auditor::failure)?;
    let row = transaction.query_opt(sql, &[&reading::numbers(&shards), &wallet.0]).await.map_err(auditor::failure)?;
    let row = row.ok_or_else(|| {
        Failure::new(
            Exit::Differences,
            format!("the read tables have no wallet {wallet}; `modelfaucet explain` looks in the log"),
        )
    })?;
    Ok(Row {
        shard: ShardId(row.get(0)),
        app: row.get(1),
        user: row.get(2),
        floor: Money::from_units(row.get(3)),
        position: row.get(4),
    })
}

/// A wallet at a point.
struct Figures {
    balance: Balance,
    /// The last event that changed it, at this point or before.
    event: StoredEvent,
    /// The sum of all entries up to there, and how many: what the balance must be. Absent: the books are not that far.
    entries: Option<(i64, i64)>,
}

impl Figures {
    fn agree(&self) -> bool {
        self.entries.is_none_or(|(sum, _)| sum == self.balance.posted.units())
    }
}

fn show(args: &ShowArgs) -> Result<Exit, Failure> {
    reading::with(&args.database, async |auditor| {
        let mut client = auditor.connect().await?;
        let transaction = auditor::snapshot(&mut client).await.map_err(auditor::failure)?;
        let row = row(&transaction, args.wallet).await?;
        let point = match args.as_of {
            None => None,
            Some(as_of) => Some(as_of.position(&transaction, row.shard).await?),
        };
        let figures =
            as_of::figures(&transaction, args.wallet, &row, point, Manner { quiet: args.quiet, json: args.json })
                .await?;
        if args.json {
            println!("{}", as_json(args.wallet, &row, &figures, point));
        } else {
            print!("{}", as_text(args.wallet, &row, &figures));
        }
        Ok(if figures.agree() { Exit::Ok } else { Exit::Differences })
    })
}

fn as_text(wallet: WalletId, row: &Row, figures: &Figures) -> String {
    let Figures { balance, event, entries } = figures;
    let entries = match entries {
        None => "the books are not that far yet".to_owned(),
        Some((sum, count)) => {
            let says = if figures.agree() { "the same" } else { "WHICH DIFFERS" };
            format!("{count} sum up to {}, {says}", Money::from_units(*sum))
        }
    };
    format!(
        "wallet    {wallet} · app {} · user {} · {}\n\
         posted    {} · promotional {} · held {} · available {} · floor {}\n\
         as of     {} {} {}\n\
         entries   {entries}\n",
        row.app,
        row.user,
        row.shard,
        balance.posted,
        balance.promo,
        balance.held,
        balance.available(),
        row.floor,
        Place::of(event),
        event.recorded_at,
        event.name,
    )
}

fn as_json(wallet: WalletId, row: &Row, figures: &Figures, point: Option<i64>) -> Value {
    let Figures { balance, event, entries } = figures;
    json!({
        "wallet_id": wallet, "shard": row.shard, "app_id": row.app, "user_id": row.user, "floor_usd": row.floor,
        "posted_usd": balance.posted, "promo_usd": balance.promo, "held_usd": balance.held,
        "available_usd": balance.available(), "as_of": point, "position": event.position, "recorded_at": event.recorded_at,
        "type": event.name, "entries": entries.map(|(_, count)| count),
        "entries_sum_usd": entries.map(|(sum, _)| Money::from_units(sum)), "agrees": figures.agree(),
    })
}
