//! Top-ups and what became of them.

use modelfaucet_schema::event::{Event, Recorded};

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set, units};

static TABLES: [Table; 1] = [Table {
    name: "top_up",
    columns: &[
        key("shard", Kind::I16),
        key("top_up_id", Kind::Uuid),
        set("wallet_id", Kind::Uuid),
        units("amount"),
        set("provider", Kind::Text),
        optional("reference", Kind::Text).comment("the payment provider's id of the checkout"),
        optional("payment", Kind::Text).comment("the payment provider's id of the payment"),
        set("status", Kind::Text).comment("pending, credited or failed"),
        optional("reason", Kind::Text),
        set("requested_at", Kind::Time),
        set("updated_at", Kind::Time),
        set("position", Kind::I64),
    ],
    writing: Writing::Upsert,
    indexes: &["shard, wallet_id, top_up_id", "payment", "reference"],
}];

/// The projection `top_ups`.
pub struct TopUps;

impl Projection for TopUps {
    fn name(&self) -> &'static str {
        "top_ups"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn views(&self) -> &'static str {
        include_str!("sql/top_ups.sql")
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let (shard, at, position) =
            (Value::I16(event.shard.0), Value::Time(event.recorded_at), Value::I64(event.position.0));
        match &event.event {
            Event::TopUpRequested(requested) => changes.upsert(
                0,
                vec![
                    shard,
                    requested.top_up_id.0.into(),
                    requested.wallet_id.0.into(),
                    requested.amount.into(),
                    requested.provider.as_str().into(),
                    Value::or_null(requested.reference.as_deref()),
                    Value::Null,
                    "pending".into(),
                    Value::Null,
                    at.clone(),
                    at,
                    position,
                ],
            ),
            Event::TopUpCredited(credited) => changes.patch(
                0,
                [shard, credited.top_up_id.0.into()],
                [
                    ("amount", credited.amount.into()),
                    ("payment", Value::from(&credited.payment)),
                    ("status", "credited".into()),
                    ("reason", Value::Null),
                    ("updated_at", at),
                    ("position", position),
                ],
            ),
            Event::TopUpCheckoutOpened(opened) => changes.patch(
                0,
                [shard, opened.top_up_id.0.into()],
                [("reference", Value::from(&opened.reference)), ("updated_at", at), ("position", position)],
            ),
            Event::TopUpFailed(failed) => changes.patch(
                0,
                [shard, failed.top_up_id.0.into()],
                [
                    ("status", "failed".into()),
                    ("reason", Value::from(&failed.reason)),
                    ("updated_at", at),
                    ("position", position),
                ],
            ),
            _ => {}
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
