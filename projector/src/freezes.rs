//! The kill switches that are on.

use modelfaucet_schema::event::{Event, FreezeScope, Recorded};

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, set};

static TABLES: [Table; 1] = [Table {
    name: "freeze",
    columns: &[
        key("shard", Kind::I16),
        key("kind", Kind::Text).comment("app, developer, session, wallet, top_ups, usage or payouts"),
        key("id", Kind::Text).comment("whom it stops; empty where the kind says it all"),
        set("reason", Kind::Text),
        set("since", Kind::Time),
        set("actor", Kind::Text),
        set("position", Kind::I64),
    ],
    writing: Writing::Upsert,
    indexes: &[],
}];

/// The projection `freezes`.
pub struct Freezes;

fn key_of(event: &Recorded, scope: FreezeScope) -> [Value; 3] {
    let (kind, id) = match scope {
        FreezeScope::App(app) => ("app", app.to_string()),
        FreezeScope::Developer(developer) => ("developer", developer.to_string()),
        FreezeScope::Session(session) => ("session", session.to_string()),
        FreezeScope::Wallet(wallet) => ("wallet", wallet.to_string()),
        FreezeScope::TopUps => ("top_ups", String::new()),
        FreezeScope::Usage => ("usage", String::new()),
        FreezeScope::Payouts => ("payouts", String::new()),
        FreezeScope::Refunds => ("refunds", String::new()),
    };
    [event.shard.0.into(), kind.into(), id.into()]
}

impl Projection for Freezes {
    fn name(&self) -> &'static str {
        "freezes"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        false
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        match &event.event {
            Event::Frozen(frozen) => {
                let mut row = Vec::from(key_of(event, frozen.scope));
                row.extend([
                    Value::from(&frozen.reason),
                    event.recorded_at.into(),
                    Value::display(&event.actor),
                    event.position.0.into(),
                ]);
                changes.upsert(0, row);
            }
            Event::Thawed(thawed) => changes.delete(0, key_of(event, thawed.scope)),
            _ => {}
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
