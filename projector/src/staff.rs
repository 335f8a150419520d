//! Tokens of the people who run the ledger.

use modelfaucet_schema::event::{Event, Recorded};

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set};

static TABLES: [Table; 1] = [Table {
    name: "staff_token",
    columns: &[
        key("shard", Kind::I16),
        key("token_id", Kind::Uuid),
        set("name", Kind::Text),
        set("role", Kind::Text).comment("auditor, operator or admin"),
        set("token_hash", Kind::Bytes).comment("SHA-256 of the token"),
        set("token_prefix", Kind::Text),
        set("status", Kind::Text).comment("active or revoked"),
        set("issued_at", Kind::Time),
        set("issued_by", Kind::Text).comment("the actor"),
        optional("expires_at", Kind::Time),
        optional("revoked_at", Kind::Time),
        set("position", Kind::I64),
    ],
    writing: Writing::Upsert,
    indexes: &["token_hash"],
}];

/// The projection `staff`.
pub struct Staff;

impl Projection for Staff {
    fn name(&self) -> &'static str {
        "staff"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        false
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let (at, position) = (Value::Time(event.recorded_at), Value::I64(event.position.0));
        match &event.event {
            Event::StaffTokenIssued(token) => changes.upsert(
                0,
                vec![
                    event.shard.0.into(),
                    token.token_id.0.into(),
                    Value::from(&token.name),
                    token.role.text().into(),
                    Value::Bytes(token.token_hash.as_bytes().as_slice().into()),
                    Value::from(&token.token_prefix),
                    "active".into(),
                    at,
                    Value::display(&event.actor),
                    Value::or_null(token.expires_at),
                    Value::Null,
                    position,
                ],
            ),
            Event::StaffTokenRevoked(token) => changes.patch(
                0,
                [event.shard.0.into(), token.token_id.0.into()],
                [("status", "revoked".into()), ("revoked_at", at), ("position", position)],
            ),
            _ => {}
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
