//! The closings as the audit log has them.

use std::collections::HashMap;
use std::time::Duration;

use modelfaucet_schema::event::IncidentClosed;
use modelfaucet_schema::ids::ShardId;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::client::Call;
use crate::exit::{Exit, Failure};
use crate::freeze::StaffArgs;

/// The acts of closing, of which there are few, in the stream that they are in.
const ACTS: &str =
    "/v1/admin/audit?kind=act&action=IncidentClosed&resource=shard:00000000-0000-0000-0000-000000000000&limit=200";
/// How often, and how long apart, the audit log is asked for what may just have been recorded.
const LOOKS: u32 = 10;
const BETWEEN_LOOKS: Duration = Duration::from_millis(100);

/// One closing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Closing {
    pub(super) position: i64,
    pub(super) at: String,
    pub(super) actor: String,
    pub(super) event: IncidentClosed,
    /// The closing that counts instead of this one.
    pub(super) superseded_by: Option<i64>,
}

#[derive(Deserialize)]
struct Page {
    items: Vec<Item>,
    next_cursor: Option<String>,
}

#[derive(Deserialize)]
struct Item {
    id: String,
    at: String,
    actor: String,
    detail: IncidentClosed,
}

impl Closing {
    fn read(item: Item) -> Result<Self, Failure> {
        let position = item.id.strip_prefix("act-").and_then(|position| position.parse().ok());
        let position = position.ok_or_else(|| Failure::new(Exit::Config, format!("{:?} is no act", item.id)))?;
        Ok(Self { position, at: item.at, actor: item.actor, event: item.detail, superseded_by: None })
    }

    /// Where it stands in the log.
    pub(super) fn place(&self) -> String {
        format!("{}:{}", ShardId(0), self.position)
    }

    /// For people: when, who, what, over which range, with which report.
    pub(super) fn line(&self) -> String {
        let IncidentClosed { name, first, last, digest, bytes, reason, .. } = &self.event;
        let (at, actor, place, shard) = (&self.at, &self.actor, self.place(), ShardId(0));
        let counts = self.superseded_by.map_or_else(String::new, |by| format!("  superseded by {shard}:{by}"));
        format!(
            "{at}  {actor}  {name}  {shard}:{first}..{last}  sha256 {digest} ({bytes} bytes)  at {place}{counts}  {reason}"
        )
    }

    /// For programs.
    pub(super) fn json(&self) -> Value {
        let IncidentClosed { name, first, last, digest, bytes, reason, supersedes } = &self.event;
        json!({
            "closed_at": self.position, "at": self.at, "actor": self.actor, "name": name, "first": first, "last": last,
            "digest": digest, "bytes": bytes, "reason": reason, "supersedes": supersedes, "superseded_by": self.superseded_by,
        })
    }
}

/// Says of each closing which one counts instead. They come newest first.
pub(super) fn linked(mut closings: Vec<Closing>) -> Vec<Closing> {
    let mut instead: HashMap<i64, i64> = HashMap::new();
    for closing in &mut closings {
        closing.superseded_by = instead.get(&closing.position).copied();
        if let Some(before) = closing.event.supersedes {
            instead.insert(before.0, closing.position);
        }
    }
    closings
}

/// All closings, newest first.
pub(super) async fn all(staff: &StaffArgs) -> Result<Vec<Closing>, Failure> {
    let (client, token) = (staff.ledger.client()?, staff.token()?);
    let (mut closings, mut path) = (Vec::new(), ACTS.to_owned());
    loop {
        let page: Page = client.send(&Call::get(path).token(&token)).await?.json()?;
        for item in page.items {
            closings.push(Closing::read(item)?);
        }
        let Some(cursor) = page.next_cursor else { return Ok(linked(closings)) };
        path = format!("{ACTS}&cursor={cursor}");
    }
}

/// The closings of one incident, newest first. The audit log may be a moment behind, so it is asked until it has one, for a second.
pub(super) async fn of(staff: &StaffArgs, name: &str) -> Result<Vec<Closing>, Failure> {
    for look in 0..LOOKS {
        if look > 0 {
            tokio::time::sleep(BETWEEN_LOOKS).await;
        }
        let closings: Vec<Closing> =
            all(staff).await?.into_iter().filter(|closing| closing.event.name == name).collect();
        if !closings.is_empty() {
            return Ok(closings);
        }
    }
    Ok(Vec::new())
}

#[cfg(test)]
pub(super) fn closing(name: &str, digest: &str, position: i64, supersedes: Option<i64>) -> Closing {
    use modelfaucet_schema::ids::Position;
    Closing {
        position,
        at: "2026-11-24T12:00:00.000Z".to_owned(),
        actor: "admin".to_owned(),
        event: IncidentClosed {
            name: name.to_owned(),
            first: Position(1),
            last: Position(9),
            digest: digest.to_owned(),
            bytes: 3,
            reason: "repaired".to_owned(),
            supersedes: supersedes.map(Position),
        },
        superseded_by: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closing_says_which_one_counts_instead() {
        let closings = linked(vec![
            closing("INC-17", "bb", 20, Some(10)),
            closing("INC-18", "cc", 15, None),
            closing("INC-17", "aa", 10, None),
        ]);
        let by: Vec<_> = closings.iter().map(|closing| closing.superseded_by).collect();
        assert_eq!(by, [None, None, Some(20)]);
        assert_eq!(closings[2].json()["superseded_by"], 20);
        let line = closings[2].line();
        assert!(line.contains("INC-17  s00:1..9  sha256 aa (3 bytes)  at s00:10  superseded by s00:20"), "{line}");
    }
}
