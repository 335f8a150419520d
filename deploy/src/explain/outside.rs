//! Things that read tables know by their ids: streams, top-ups, refunds, write-offs, closed incidents, and what Stripe has an id for.

use modelfaucet_schema::ids::ShardId;
use tokio_postgres::{Error, Row, Transaction};
use uuid::Uuid;

use super::story::Found;
use super::{MOST, at};
use crate::reading::{Shard, numbers};

/// What a stream can be the stream of.
const STREAMS: [&str; 10] =
    ["wallet", "session", "payout", "repair", "credential", "developer", "app", "rate_card", "staff", "transaction"];

/// A thing of ours, if read tables know it.
pub(super) async fn thing(transaction: &Transaction<'_>, shards: &[Shard], id: Uuid) -> Result<Option<Found>, Error> {
    let streams: Vec<String> = STREAMS.iter().map(|kind| format!("{kind}:{id}")).collect();
    let limit = i64::try_from(MOST).unwrap_or(i64::MAX);
    let rows =
        transaction.query(include_str!("sql/acts_of_streams.sql"), &[&numbers(shards), &streams, &limit]).await?;
    let kind = rows.first().map(|row| row.get::<_, String>(2)).unwrap_or_default();
    let mut found = Found::of("thing", at(transaction, &places(&rows)).await?);
    if let Some(kind) =
        STREAMS.iter().find(|known| kind.strip_prefix(**known).is_some_and(|rest| rest.starts_with(':')))
    {
        found.kind = kind;
    }
    if found.kind == "wallet" {
        let rows = transaction.query(include_str!("sql/newest_entries.sql"), &[&numbers(shards), &id, &20_i64]).await?;
        found.events.extend(at(transaction, &places(&rows)).await?);
        found.facts.push((
            "shown".to_owned(),
            "acts, and the newest 20 entries; `modelfaucet wallet history` has all".to_owned(),
        ));
    }
    let named = transaction.query(include_str!("sql/named.sql"), &[&numbers(shards), &id]).await?;
    for row in &named {
        let (kind, wallet): (&str, Uuid) = (row.get(0), row.get(2));
        found.facts.push((kind.to_owned(), row.get(3)));
        found.facts.push(("wallet".to_owned(), wallet.to_string()));
        if kind != "session" {
            found.kind = if kind == "top-up" {
                "top-up"
            } else if kind == "refund" {
                "refund"
            } else {
                "write-off"
            };
            let shard = ShardId(row.get(1));
            let acts = acts_of_wallet(transaction, shard, wallet, &[id.to_string()]).await?;
            found.events.extend(at(transaction, &acts).await?);
        }
    }
    Ok((!found.events.is_empty()).then_some(found))
}

fn places(rows: &[Row]) -> Vec<(ShardId, i64)> {
    rows.iter().map(|row| (ShardId(row.get(0)), row.get(1))).collect()
}

/// Acts of a wallet that mention one of these ids.
async fn acts_of_wallet(
    transaction: &Transaction<'_>,
    shard: ShardId,
    wallet: Uuid,
    ids: &[String],
) -> Result<Vec<(ShardId, i64)>, Error> {
    let rows = transaction
        .query(include_str!("sql/acts_that_mention.sql"), &[&shard.0, &format!("wallet:{wallet}"), &ids])
        .await?;
    Ok(places(&rows))
}

/// A closed incident by its name: all of its closings.
pub(super) async fn incident(
    transaction: &Transaction<'_>,
    shards: &[Shard],
    name: &str,
) -> Result<Option<Found>, Error> {
    // As a member of the stored form. Inside a text its quotation marks would be escaped, so only the member itself is found.
    let member = format!("\"name\":{}", serde_json::Value::from(name));
    let rows = transaction.query(include_str!("sql/incidents.sql"), &[&numbers(shards), &member]).await?;
    let found = Found::of("incident", at(transaction, &places(&rows)).await?);
    Ok((!found.events.is_empty()).then_some(found))
}

/// What Stripe has an id for: the payment behind it with everything that became of it.
pub(super) async fn find(transaction: &Transaction<'_>, shards: &[Shard], id: &str) -> Result<Option<Found>, Error> {
    let mut found = Found::of("payment", Vec::new());
    // What Stripe told, as it is stored; an event leads to its payment.
    let mut ids = vec![id.to_owned()];
    for row in transaction.query(include_str!("sql/told.sql"), &[&id]).await? {
        let payment: Option<String> = row.get(2);
        let problem = row.get::<_, Option<String>>(4).map_or_else(String::new, |problem| format!(": {problem}"));
        let what = format!("{} {}, {}{problem}", row.get::<_, &str>(0), row.get::<_, &str>(1), row.get::<_, &str>(3));
        found.facts.push(("stripe told".to_owned(), what));
        ids.extend(payment.filter(|payment| !ids.contains(payment)));
    }
    // Each round may find further ids that belong to it, such as the payment of a refund.
    let mut wallets: Vec<(ShardId, Uuid)> = Vec::new();
    for _ in 0..2 {
        let rows = transaction.query(include_str!("sql/outside.sql"), &[&numbers(shards), &ids]).await?;
        for row in rows {
            let (shard, wallet): (i16, Option<Uuid>) = (row.get(1), row.get(2));
            if let Some(wallet) = wallet
                && !wallets.contains(&(ShardId(shard), wallet))
            {
                wallets.push((ShardId(shard), wallet));
            }
            let fact = (row.get::<_, String>(0), row.get::<_, String>(3));
            if !found.facts.contains(&fact) {
                found.facts.push(fact);
            }
            for further in row.get::<_, Vec<Option<String>>>(4).into_iter().flatten() {
                if !further.is_empty() && !ids.contains(&further) {
                    ids.push(further);
                }
            }
            if let Some(position) = row.get::<_, Option<i64>>(5) {
                found.events.extend(at(transaction, &[(ShardId(shard), position)]).await?);
            }
        }
    }
    for (shard, wallet) in wallets {
        let acts = acts_of_wallet(transaction, shard, wallet, &ids).await?;
        found.events.extend(at(transaction, &acts).await?);
        found.facts.push(("wallet".to_owned(), wallet.to_string()));
    }
    Ok((!found.events.is_empty() || !found.facts.is_empty()).then_some(found))
}
