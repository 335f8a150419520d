//! What moved a wallet's money, from the books.

use std::io::Write as _;

use modelfaucet_schema::ids::WalletId;
use modelfaucet_schema::log::from_system_time;
use modelfaucet_schema::money::Money;
use serde_json::{Value, json};
use tokio_postgres::Row;

use super::as_of::AsOf;
use crate::DatabaseArgs;
use crate::exit::{Exit, Failure};
use crate::reading;
use crate::verify::auditor;

/// Rows that are read at once.
const PAGE: i64 = 1_000;

/// Whose history, and how much of it.
#[derive(clap::Args)]
#[command(args_override_self = true)]
pub(crate) struct HistoryArgs {
    /// The wallet
    #[arg(value_name = "ID")]
    wallet: WalletId,
    /// Up to this place (s00:812) or time instead of now
    #[arg(long, value_name = "POSITION|TIME")]
    as_of: Option<AsOf>,
    /// Only the newest so many
    #[arg(long, value_name = "COUNT")]
    limit: Option<u32>,
    #[command(flatten)]
    database: DatabaseArgs,
    /// Print one JSON object per line
    #[arg(long)]
    json: bool,
}

pub(super) fn run(args: &HistoryArgs) -> Result<Exit, Failure> {
    reading::with(&args.database, async |auditor| {
        let mut client = auditor.connect().await?;
        let transaction = auditor::snapshot(&mut client).await.map_err(auditor::failure)?;
        let row = super::row(&transaction, args.wallet).await?;
        let last = match args.as_of {
            None => i64::MAX,
            Some(as_of) => as_of.position(&transaction, row.shard).await?,
        };
        let mut after = 0_i64;
        if let Some(limit) = args.limit {
            let sql = "SELECT min(position) FROM (SELECT position FROM read.entry WHERE shard = $1 AND wallet_id = $2 AND position <= $3
                       ORDER BY position DESC LIMIT $4) AS newest";
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 4] =
                [&row.shard.0, &args.wallet.0, &last, &i64::from(limit)];
            let first: Option<i64> = transaction.query_one(sql, &params).await.map_err(auditor::failure)?.get(0);
            after = first.map_or(i64::MAX, |first| first - 1);
        }
        let mut out = std::io::stdout().lock();
        loop {
            let sql = "SELECT position, type, recorded_at, wallet_amount, wallet_posted, request_id FROM read.entry
                       WHERE shard = $1 AND wallet_id = $2 AND position > $3 AND position <= $4 ORDER BY position LIMIT $5";
            let params: [&(dyn tokio_postgres::types::ToSql + Sync); 5] =
                [&row.shard.0, &args.wallet.0, &after, &last, &PAGE];
            let rows = transaction.query(sql, &params).await.map_err(auditor::failure)?;
            let Some(end) = rows.last() else { return Ok(Exit::Ok) };
            after = end.get(0);
            for entry in &rows {
                let line = if args.json { as_json(row.shard, entry).to_string() } else { as_text(row.shard, entry) };
                if writeln!(out, "{line}").is_err() {
                    return Ok(Exit::Ok);
                }
            }
        }
    })
}

fn as_text(shard: modelfaucet_schema::ids::ShardId, row: &Row) -> String {
    let (position, kind, request): (i64, &str, &str) = (row.get(0), row.get(1), row.get(5));
    let at = from_system_time(row.get(2)).to_millis_text();
    let (amount, posted) = (Money::from_units(row.get(3)), Money::from_units(row.get(4)));
    format!("{shard}:{position} {at} {kind:22} {:>18} {:>18}  {request}", amount.to_string(), posted.to_string())
}

fn as_json(shard: modelfaucet_schema::ids::ShardId, row: &Row) -> Value {
    json!({
        "shard": shard, "position": row.get::<_, i64>(0), "type": row.get::<_, &str>(1),
        "recorded_at": from_system_time(row.get(2)), "amount_usd": Money::from_units(row.get(3)),
        "posted_usd": Money::from_units(row.get(4)), "request_id": row.get::<_, &str>(5),
    })
}
