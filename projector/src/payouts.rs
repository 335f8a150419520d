//! Payouts to developers and where they stand.

use modelfaucet_schema::event::{Event, Recorded};
use modelfaucet_schema::ids::PayoutId;

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set, units};

static TABLES: [Table; 1] = [Table {
    name: "payout",
    columns: &[
        key("shard", Kind::I16),
        key("payout_id", Kind::Uuid),
        set("developer_id", Kind::Uuid),
        units("amount"),
        set("status", Kind::Text).comment("pending, processing, paid, failed, cancelled or returned"),
        set("provider", Kind::Text),
        set("trigger", Kind::Text).comment("threshold or hand"),
        optional("reference", Kind::Text).comment("the provider's or bank's id of the payment"),
        units("fee"),
        optional("reason", Kind::Text),
        set("requested_by", Kind::Text),
        optional("approved_by", Kind::Text),
        set("requested_at", Kind::Time),
        set("updated_at", Kind::Time),
        set("position", Kind::I64),
    ],
    writing: Writing::Upsert,
    indexes: &["requested_at, payout_id", "shard, developer_id, payout_id"],
}];

/// The projection `payouts`.
pub struct Payouts;

impl Projection for Payouts {
    fn name(&self) -> &'static str {
        "payouts"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let (shard, at, position) =
            (Value::I16(event.shard.0), Value::Time(event.recorded_at), Value::I64(event.position.0));
        let mut step = |payout: PayoutId, status: &'static str, set: Vec<(&'static str, Value)>| {
            let now = [("status", status.into()), ("updated_at", at.clone()), ("position", position.clone())];
            changes.patch(0, [shard.clone(), payout.0.into()], set.into_iter().chain(now));
        };
        match &event.event {
            Event::PayoutRequested(requested) => changes.upsert(
                0,
                vec![
                    shard,
                    requested.payout_id.0.into(),
                    requested.developer_id.0.into(),
                    requested.amount.into(),
                    "pending".into(),
                    requested.provider.as_str().into(),
                    requested.trigger.name().into(),
                    Value::Null,
                    Value::I64(0),
                    Value::Null,
                    Value::display(&event.actor),
                    Value::Null,
                    at.clone(),
                    at,
                    position,
                ],
            ),
            Event::PayoutApproved(approved) => {
                step(approved.payout_id, "processing", vec![("approved_by", Value::display(&event.actor))]);
            }
            Event::PayoutPaid(paid) => step(
                paid.payout_id,
                "paid",
                vec![("reference", Value::from(&paid.reference)), ("fee", paid.fee.into())],
            ),
            Event::PayoutFailed(failed) => {
                step(failed.payout_id, "failed", vec![("reason", Value::from(&failed.reason))]);
            }
            Event::PayoutCancelled(cancelled) => {
                step(cancelled.payout_id, "cancelled", vec![("reason", Value::from(&cancelled.reason))]);
            }
            Event::PayoutReturned(returned) => {
                step(returned.payout_id, "returned", vec![("reason", Value::from(&returned.reason))]);
            }
            _ => {}
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
