//! What the read tables say of what happened, and how far they are; and what was frozen then.

use modelfaucet_schema::event::{Event, StoredEvent};
use serde_json::{Value, json};
use tokio_postgres::{Error, Transaction};

use crate::reading::Place;

/// One thing that is said.
#[derive(Debug)]
pub(super) struct Said {
    what: String,
    /// False: it contradicts the log.
    pub(super) right: bool,
}

impl Said {
    fn new(what: impl Into<String>, right: bool) -> Self {
        Self { what: what.into(), right }
    }

    pub(super) fn text(&self) -> &str {
        &self.what
    }

    pub(super) fn json(&self) -> Value {
        json!({"says": self.what, "right": self.right})
    }
}

/// What read tables say.
pub(super) async fn views(transaction: &Transaction<'_>, events: &[StoredEvent]) -> Result<Vec<Said>, Error> {
    let mut said = Vec::new();
    let Some(last) = events.iter().max_by_key(|event| event.position) else { return Ok(said) };
    let rows = transaction.query(include_str!("sql/behind.sql"), &[&last.shard.0, &last.position.0]).await?;
    let mut behind: Vec<String> = Vec::new();
    let mut there = 0;
    for row in &rows {
        let (name, position, halted): (&str, i64, Option<&str>) = (row.get(0), row.get(1), row.get(2));
        if position >= last.position.0 {
            there += 1;
        } else {
            let why = halted.map_or_else(String::new, |why| format!(", halted: {why}"));
            behind.push(format!("{name} is at {}:{position}{why}", last.shard));
        }
    }
    said.push(Said::new(format!("{there} of {} live projections have all of it", rows.len()), true));
    said.extend(behind.into_iter().map(|text| Said::new(text, true)));
    let streams: Vec<&str> = events.iter().map(|event| event.stream.as_str()).collect();
    for row in transaction.query(include_str!("sql/letters.sql"), &[&last.shard.0, &streams]).await? {
        let (projection, position, cause): (&str, i64, &str) = (row.get(0), row.get(1), row.get(2));
        said.push(Said::new(format!("{projection}: dead letter {}:{position} ({cause})", last.shard), false));
    }
    for event in events.iter().rev().take(20).rev() {
        if let Ok(recorded) = event.decode() {
            of_event(transaction, event, &recorded.event, &mut said).await?;
        }
    }
    Ok(said)
}

async fn of_event(
    transaction: &Transaction<'_>,
    stored: &StoredEvent,
    event: &Event,
    said: &mut Vec<Said>,
) -> Result<(), Error> {
    let place = Place::of(stored);
    let Some(entry) = event.entry() else { return Ok(()) };
    let params: [&(dyn tokio_postgres::types::ToSql + Sync); 2] = [&stored.shard.0, &stored.position.0];
    let rows = transaction.query(include_str!("sql/postings.sql"), &params).await?;
    if !rows.is_empty() {
        let same = rows.len() == entry.postings().len()
            && rows.iter().zip(entry.postings()).all(|(row, posting)| {
                row.get::<_, &str>(0) == posting.account.to_string() && row.get::<_, i64>(1) == posting.amount.units()
            });
        let text = if same { "is the event's" } else { "IS NOT the event's" };
        said.push(Said::new(format!("journal {place}: the entry {text}"), same));
    }
    let charge = match event {
        Event::HoldCaptured(event) => &event.rating,
        Event::LateUsageCaptured(event) => &event.rating,
        Event::UsageRecorded(event) => &event.rating,
        _ => return Ok(()),
    };
    let sql = "SELECT charge, upstream FROM read.usage_record WHERE shard = $1 AND position = $2";
    if let Some(row) = transaction.query_opt(sql, &params).await? {
        let same = row.get::<_, i64>(0) == charge.charge.units() && row.get::<_, i64>(1) == charge.upstream.units();
        let text = if same { "charge and cost are the event's" } else { "charge or cost ARE NOT the event's" };
        said.push(Said::new(format!("usage {place}: {text}"), same));
    }
    Ok(())
}

/// The kill switches that were on before the first of these events, and those that were turned between the first and the last.
pub(super) async fn freezes(transaction: &Transaction<'_>, events: &[StoredEvent]) -> Result<Vec<String>, Error> {
    let (Some(first), Some(last)) = (events.first(), events.last()) else { return Ok(Vec::new()) };
    let rows = transaction.query(include_str!("sql/freezes.sql"), &[&first.shard.0, &last.position.0]).await?;
    let mut on: Vec<(Value, String)> = Vec::new();
    let mut between = Vec::new();
    for row in rows {
        let (position, action, actor): (i64, &str, &str) = (row.get(0), row.get(1), row.get(2));
        let detail: Value = serde_json::from_str(row.get(3)).unwrap_or_default();
        let place = format!("{}:{position}", first.shard);
        let (scope, reason) = (detail["scope"].clone(), detail["reason"].as_str().unwrap_or_default());
        let text = format!("{scope} since {place} by {actor}: {reason}");
        if position >= first.position.0 {
            let what = if action == "Frozen" { "frozen" } else { "thawed" };
            between.push(format!("{scope} {what} at {place} by {actor}: {reason}"));
        } else if action == "Frozen" {
            on.push((scope, text));
        } else {
            on.retain(|(known, _)| *known != scope);
        }
    }
    Ok(on.into_iter().map(|(_, text)| text).chain(between).collect())
}
