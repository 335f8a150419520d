//! What proves an event: the link of the append that it came with, hashed again.

use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::hash::{BatchHasher, ChainHash};
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use serde_json::{Value, json};
use tokio_postgres::{Error, Transaction};

use crate::reading::{Wanted, batches, between};

/// The link of one append.
pub(super) struct Proof {
    shard: ShardId,
    first: i64,
    last: i64,
    hash: String,
    /// Do its events hash to it, and does it join on to the link before?
    holds: bool,
    /// How many links have been put on top.
    above: i64,
    /// Projections that have seen the log at this position or behind it.
    seen_by: i64,
}

/// One proof per append; those of the last few events if there are many.
pub(super) async fn proofs(transaction: &Transaction<'_>, events: &[StoredEvent]) -> Result<Vec<Proof>, Error> {
    let mut proofs: Vec<Proof> = Vec::new();
    for event in events.iter().rev().take(12).rev() {
        let covered =
            |proof: &Proof| proof.shard == event.shard && (proof.first..=proof.last).contains(&event.position.0);
        if !proofs.iter().any(covered) {
            proofs.extend(proof(transaction, event.shard, event.position.0).await?);
        }
    }
    Ok(proofs)
}

async fn proof(transaction: &Transaction<'_>, shard: ShardId, position: i64) -> Result<Option<Proof>, Error> {
    let Some(batch) = batches(transaction, shard, (position, position)).await?.into_iter().next() else {
        return Ok(None);
    };
    let before = match batches(transaction, shard, (batch.first - 1, batch.first - 1)).await?.into_iter().next() {
        Some(before) if before.last == batch.first - 1 => before.hash,
        // The first link follows from the log's id.
        _ if batch.first == 1 => {
            let row = transaction.query_opt("SELECT log_id FROM ledger.log WHERE shard = $1", &[&shard.0]).await?;
            row.map(|row| ChainHash::genesis(LogId(row.get(0)), shard))
        }
        _ => None,
    };
    let events = between(transaction, shard, (batch.first, batch.last), &Wanted::default()).await?;
    let complete = events.len() == usize::try_from(batch.last - batch.first + 1).unwrap_or(usize::MAX);
    let again = batch.previous.map(|previous| {
        let (first, last) = (Position(batch.first), Position(batch.last));
        let mut hasher = BatchHasher::new(previous, shard, first, last, batch.id, batch.recorded_at);
        for event in &events {
            hasher.event(event);
        }
        hasher.finish()
    });
    let row = transaction
        .query_one(
            "SELECT (SELECT count(*) FROM (SELECT FROM ledger.batch WHERE shard = $1 AND last_pos > $2 ORDER BY last_pos LIMIT 1001) AS above),
                    (SELECT count(*) FROM projection.checkpoint WHERE shard = $1 AND position >= $2)",
            &[&shard.0, &batch.last],
        )
        .await?;
    Ok(Some(Proof {
        shard,
        first: batch.first,
        last: batch.last,
        hash: batch.hash.map_or_else(String::new, |hash| hash.to_string()),
        holds: complete && again.is_some() && again == batch.hash && before == batch.previous,
        above: row.get(0),
        seen_by: row.get(1),
    }))
}

impl Proof {
    pub(super) fn is_right(&self) -> bool {
        self.holds
    }

    pub(super) fn text(&self) -> String {
        let Self { shard, first, last, hash, above, seen_by, .. } = self;
        let range = if first == last { format!("{shard}:{first}") } else { format!("{shard}:{first}..{last}") };
        let state = if self.holds { "holds" } else { "DOES NOT HOLD: run `modelfaucet verify`" };
        let above = if *above > 1_000 { "more than 1000".to_owned() } else { above.to_string() };
        format!("{range} link {hash} {state} · {above} links above it · seen by {seen_by} projections")
    }

    pub(super) fn json(&self) -> Value {
        let Self { shard, first, last, hash, holds, above, seen_by } = self;
        json!({"shard": shard, "first": first, "last": last, "hash": hash, "holds": holds, "links_above": above, "seen_by": seen_by})
    }
}
