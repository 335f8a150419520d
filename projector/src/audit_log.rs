//! Who did what: every act of administration, of developers and of money from outside. Calls are not acts; they stand in `usage`.

use std::collections::BTreeMap;

use modelfaucet_schema::event::{Actor, Event, Recorded};
use serde_json::value::RawValue;

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, set};

static TABLES: [Table; 1] = [Table {
    name: "audit_log",
    columns: &[
        key("shard", Kind::I16),
        key("position", Kind::I64),
        set("recorded_at", Kind::Time),
        set("actor", Kind::Text),
        set("action", Kind::Text).comment("the event's name"),
        set("stream", Kind::Text),
        set("request_id", Kind::Text),
        set("detail", Kind::Text).comment("JSON: the event without secrets' hashes"),
    ],
    writing: Writing::Append,
    indexes: &["shard, stream, position", "shard, actor, position"],
}];

/// Members that are never shown: they would let a reader of the audit log recognise a token or a user.
const MASKED: [&str; 2] = ["token_hash", "user_hash"];

/// The projection `audit_log`.
pub struct AuditLog;

/// Events that every call or the clock makes by the thousand.
fn is_routine(event: &Recorded) -> bool {
    match &event.event {
        Event::HoldPlaced(_)
        | Event::HoldCaptured(_)
        | Event::HoldReleased(_)
        | Event::HoldExpired(_)
        | Event::LateUsageCaptured(_)
        | Event::UsageRecorded(_)
        | Event::AttemptStarted(_)
        | Event::AttemptProgressed(_) => true,
        Event::SessionExpired(_) => matches!(event.actor, Actor::Session(_) | Actor::Clock),
        _ => false,
    }
}

/// The stored form without what is masked, members in alphabetical order.
fn masked(event: &Event) -> Result<String, serde_json::Error> {
    let payload = event.encode();
    let mut members: BTreeMap<String, &RawValue> = serde_json::from_slice(&payload)?;
    members.retain(|name, _| !MASKED.contains(&name.as_str()));
    serde_json::to_string(&members)
}

impl Projection for AuditLog {
    fn name(&self) -> &'static str {
        "audit_log"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        false
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        if is_routine(event) {
            return Ok(());
        }
        let detail = masked(&event.event).map_err(|error| ApplyError::Other(error.to_string()))?;
        changes.append(
            0,
            vec![
                event.shard.0.into(),
                event.position.0.into(),
                event.recorded_at.into(),
                Value::display(&event.actor),
                event.event.name().into(),
                Value::display(&event.stream),
                Value::Text(event.request_id.clone()),
                detail.into(),
            ],
        );
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
