//! A wallet at a point of the log. Every event that changes a wallet carries the wallet's figures behind it, so the last one up to a
//! point says what they were; the entries of the books up to there have to add up to the same.

use std::str::FromStr;

use modelfaucet_schema::event::{Balance, StoredEvent};
use modelfaucet_schema::ids::{Position, ShardId, WalletId};
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::Transaction;

use super::{Figures, Row};
use crate::exit::{Exit, Failure};
use crate::progress::{Manner, Progress};
use crate::reading::{self, Place, Wanted, between, last_before};
use crate::verify::auditor::failure;

/// Positions that are read at first; then four times as many, and so on.
const FIRST_PAGE: i64 = 1_024;
const LARGEST_PAGE: i64 = 65_536;

/// A point of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum AsOf {
    /// Behind this event.
    Place(Place),
    /// At this time: behind everything that was recorded then or before.
    Time(Timestamp),
}

impl FromStr for AsOf {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if let Ok(place) = text.parse() {
            return Ok(Self::Place(place));
        }
        text.parse()
            .map(Self::Time)
            .map_err(|_| "must be a place such as s00:812, or a time such as 2026-11-23T10:00:00Z")
    }
}

impl AsOf {
    /// The last position that counts.
    pub(super) async fn position(self, transaction: &Transaction<'_>, shard: ShardId) -> Result<i64, Failure> {
        match self {
            Self::Place(place) if place.shard == shard => Ok(place.position.0),
            Self::Place(place) => {
                let message = format!("the wallet lives in {shard}, {place} is a place of another shard");
                Err(Failure::new(Exit::Differences, message))
            }
            Self::Time(time) => {
                let next = Timestamp::from_micros(time.micros().saturating_add(1));
                last_before(transaction, shard, next).await.map_err(failure)
            }
        }
    }
}

/// The figures of a wallet behind `point`; absent: now.
pub(super) async fn figures(
    transaction: &Transaction<'_>,
    wallet: WalletId,
    row: &Row,
    point: Option<i64>,
    manner: Manner,
) -> Result<Figures, Failure> {
    let found = last_event(transaction, wallet, row, point.unwrap_or(i64::MAX), manner).await?;
    let (event, balance) = found.ok_or_else(|| {
        Failure::new(
            Exit::Differences,
            format!("wallet {wallet} did not exist at {}:{}", row.shard, point.unwrap_or(0)),
        )
    })?;
    let sql = "SELECT coalesce(sum(wallet_amount), 0)::bigint, count(*) FROM read.entry
               WHERE shard = $1 AND wallet_id = $2 AND position <= $3";
    let sums = transaction.query_one(sql, &[&row.shard.0, &wallet.0, &event.position.0]).await.map_err(failure)?;
    let complete = checkpoint(transaction, "journal", row.shard).await? >= event.position.0;
    Ok(Figures { balance, event, entries: complete.then(|| (sums.get(0), sums.get(1))) })
}

/// The last event up to a point that states the wallet's figures.
async fn last_event(
    transaction: &Transaction<'_>,
    wallet: WalletId,
    row: &Row,
    point: i64,
    manner: Manner,
) -> Result<Option<(StoredEvent, Balance)>, Failure> {
    let states = |event: StoredEvent| {
        let recorded = event.decode().ok()?;
        let (of, balance) = recorded.event.balance()?;
        (of == wallet).then_some((event, balance))
    };
    // The read table is right up to its checkpoint; only what lies behind that has to be read.
    if row.position <= point {
        let from = checkpoint(transaction, "wallets", row.shard).await?.max(row.position) + 1;
        let shards = reading::shards(transaction).await.map_err(failure)?;
        let head = shards.iter().find(|known| known.id == row.shard).map_or(0, |shard| shard.head);
        let newer = newest(transaction, row.shard, (from, head.min(point)), wallet, manner, states).await?;
        return match newer {
            Some(found) => Ok(Some(found)),
            None => Ok(event(transaction, row.shard, row.position).await?.and_then(states)),
        };
    }
    // An entry is a lower bound that an index finds.
    let sql = "SELECT max(position) FROM read.entry WHERE shard = $1 AND wallet_id = $2 AND position <= $3";
    let entry: Option<i64> =
        transaction.query_one(sql, &[&row.shard.0, &wallet.0, &point]).await.map_err(failure)?.get(0);
    let opened = "SELECT min(position) FROM read.audit_log WHERE shard = $1 AND stream = $2 AND position <= $3";
    let opened: Option<i64> = transaction
        .query_one(opened, &[&row.shard.0, &format!("wallet:{wallet}"), &point])
        .await
        .map_err(failure)?
        .get(0);
    let Some(from) = entry.max(opened) else { return Ok(None) };
    newest(transaction, row.shard, (from, point), wallet, manner, states).await
}

/// How far a live projection has read a log.
pub(super) async fn checkpoint(transaction: &Transaction<'_>, name: &str, shard: ShardId) -> Result<i64, Failure> {
    let sql = "SELECT coalesce(max(c.position), 0) FROM projection.checkpoint c
               JOIN projection.registry r ON r.name = c.name AND r.version = c.version AND r.state = 'live'
               WHERE c.name = $2 AND c.shard = $1";
    Ok(transaction.query_one(sql, &[&shard.0, &name]).await.map_err(failure)?.get(0))
}

/// The newest event of the wallet's stream in a range that says something, looking backwards.
async fn newest<T>(
    transaction: &Transaction<'_>,
    shard: ShardId,
    (first, last): (i64, i64),
    wallet: WalletId,
    manner: Manner,
    says: impl Fn(StoredEvent) -> Option<T>,
) -> Result<Option<T>, Failure> {
    let wanted = Wanted { stream: Some(format!("wallet:{wallet}")), ..Wanted::default() };
    let mut progress = Progress::start("wallet", u64::try_from(last - first + 1).unwrap_or(0), manner);
    let (mut to, mut page, mut found) = (last, FIRST_PAGE, None);
    while to >= first && found.is_none() {
        let from = first.max(to - page + 1);
        let events = between(transaction, shard, (from, to), &wanted).await.map_err(failure)?;
        found = events.into_iter().rev().find_map(&says);
        progress.set(u64::try_from(last - from + 1).unwrap_or(0));
        (to, page) = (from - 1, (page * 4).min(LARGEST_PAGE));
    }
    drop(progress);
    Ok(found)
}

/// The event at a position.
pub(super) async fn event(
    transaction: &Transaction<'_>,
    shard: ShardId,
    position: i64,
) -> Result<Option<StoredEvent>, Failure> {
    reading::event(transaction, Place { shard, position: Position(position) }).await.map_err(failure)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_point_is_a_place_or_a_time() {
        assert!(matches!("s00:812".parse(), Ok(AsOf::Place(_))));
        assert!(matches!("2026-11-23T10:00:00Z".parse(), Ok(AsOf::Time(_))));
        for text in ["", "yesterday", "2026-11-23", "s00:0"] {
            assert!(text.parse::<AsOf>().is_err(), "{text}");
        }
    }
}
