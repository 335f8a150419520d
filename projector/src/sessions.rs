//! Sessions: whose they are, and whether they are still open.

use modelfaucet_schema::event::{Event, Recorded};
use modelfaucet_schema::ids::SessionId;

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set};

static TABLES: [Table; 1] = [Table {
    name: "session",
    columns: &[
        key("shard", Kind::I16),
        key("session_id", Kind::Uuid),
        set("app_id", Kind::Uuid),
        set("user_id", Kind::Uuid),
        set("wallet_id", Kind::Uuid),
        optional("feature_key", Kind::Text),
        set("token_hash", Kind::Bytes).comment("SHA-256 of the session token"),
        set("status", Kind::Text).comment("open, revoked or expired"),
        set("opened_at", Kind::Time),
        set("expires_at", Kind::Time),
        optional("ended_at", Kind::Time),
    ],
    writing: Writing::Upsert,
    indexes: &["token_hash", "shard, app_id, session_id", "shard, wallet_id, session_id"],
}];

/// The projection `sessions`.
pub struct Sessions;

fn end(session: SessionId, status: &'static str, event: &Recorded, changes: &mut Changes) {
    let key = [event.shard.0.into(), session.0.into()];
    changes.patch(0, key, [("status", status.into()), ("ended_at", event.recorded_at.into())]);
}

impl Projection for Sessions {
    fn name(&self) -> &'static str {
        "sessions"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        false
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        match &event.event {
            Event::SessionOpened(opened) => changes.upsert(
                0,
                vec![
                    event.shard.0.into(),
                    opened.session_id.0.into(),
                    opened.app_id.0.into(),
                    opened.user_id.0.into(),
                    opened.wallet_id.0.into(),
                    Value::or_null(opened.feature_key.as_deref()),
                    Value::Bytes(opened.token_hash.as_bytes().as_slice().into()),
                    "open".into(),
                    event.recorded_at.into(),
                    opened.expires_at.into(),
                    Value::Null,
                ],
            ),
            Event::SessionRevoked(revoked) => end(revoked.session_id, "revoked", event, changes),
            Event::SessionExpired(expired) => end(expired.session_id, "expired", event, changes),
            _ => {}
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
