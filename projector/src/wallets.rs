//! Wallets and their balances, as the writer stated them after each event.

use modelfaucet_schema::event::{Event, Recorded};

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, set, units};

static TABLES: [Table; 1] = [Table {
    name: "wallet",
    columns: &[
        key("shard", Kind::I16),
        key("wallet_id", Kind::Uuid),
        set("app_id", Kind::Uuid),
        set("user_id", Kind::Uuid),
        units("floor"),
        units("posted"),
        units("promo"),
        units("held"),
        set("opened_at", Kind::Time),
        set("updated_at", Kind::Time),
        set("position", Kind::I64),
    ],
    writing: Writing::Upsert,
    indexes: &["shard, app_id, wallet_id"],
}];

/// The projection `wallets`.
pub struct Wallets;

impl Projection for Wallets {
    fn name(&self) -> &'static str {
        "wallets"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn views(&self) -> &'static str {
        include_str!("sql/wallets.sql")
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let (at, position) = (Value::Time(event.recorded_at), Value::I64(event.position.0));
        if let Event::WalletOpened(opened) = &event.event {
            let zero = Value::I64(0);
            changes.upsert(
                0,
                vec![
                    event.shard.0.into(),
                    opened.wallet_id.0.into(),
                    opened.app_id.0.into(),
                    opened.user_id.0.into(),
                    opened.floor.into(),
                    zero.clone(),
                    zero.clone(),
                    zero,
                    at.clone(),
                    at,
                    position,
                ],
            );
        } else if let Some((wallet, balance)) = event.event.balance() {
            changes.patch(
                0,
                [event.shard.0.into(), wallet.0.into()],
                [
                    ("posted", balance.posted.into()),
                    ("promo", balance.promo.into()),
                    ("held", balance.held.into()),
                    ("updated_at", at),
                    ("position", position),
                ],
            );
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
