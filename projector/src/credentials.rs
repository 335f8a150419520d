//! Provider keys, in use and disabled, as far as they may be shown.

use modelfaucet_schema::event::{CredentialAdded, CredentialOwner, Event, Recorded};

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set};

static TABLES: [Table; 1] = [Table {
    name: "credential",
    columns: &[
        key("shard", Kind::I16),
        key("credential_id", Kind::Uuid),
        set("owner_kind", Kind::Text).comment("user or developer"),
        set("owner_id", Kind::Uuid),
        optional("app_id", Kind::Uuid).comment("the user's app"),
        set("provider", Kind::Text),
        optional("base_url", Kind::Text),
        set("masked", Kind::Text).comment("what is shown of it"),
        set("status", Kind::Text).comment("active or disabled"),
        set("models_allowed", Kind::Text).comment("JSON: a list of texts"),
        optional("budget_limit", Kind::I64).comment(crate::table::UNITS),
        set("priority", Kind::I32),
        set("fallback_to_platform", Kind::Bool),
        set("added_at", Kind::Time),
        optional("disabled_at", Kind::Time),
        set("position", Kind::I64),
    ],
    writing: Writing::Upsert,
    indexes: &["shard, owner_kind, owner_id, added_at, credential_id"],
}];

/// The projection `credentials`.
pub struct Credentials;

fn row(added: &CredentialAdded, event: &Recorded) -> Result<Vec<Value>, ApplyError> {
    let (kind, id, app) = match added.owner {
        CredentialOwner::User { app_id, user_id } => ("user", user_id.0, Some(app_id.0)),
        CredentialOwner::Developer { developer_id } => ("developer", developer_id.0, None),
    };
    let models = serde_json::to_string(&added.models_allowed).map_err(|error| ApplyError::Other(error.to_string()))?;
    Ok(vec![
        event.shard.0.into(),
        added.credential_id.0.into(),
        kind.into(),
        id.into(),
        Value::or_null(app),
        added.provider.name().into(),
        Value::or_null(added.base_url.as_deref()),
        Value::from(&added.masked),
        "active".into(),
        models.into(),
        Value::or_null(added.budget_limit),
        Value::I32(added.priority.into()),
        added.fallback_to_platform.into(),
        event.recorded_at.into(),
        Value::Null,
        event.position.0.into(),
    ])
}

impl Projection for Credentials {
    fn name(&self) -> &'static str {
        "credentials"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        false
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        match &event.event {
            Event::CredentialAdded(added) => changes.upsert(0, row(added, event)?),
            Event::CredentialDisabled(disabled) => changes.patch(
                0,
                [event.shard.0.into(), disabled.credential_id.0.into()],
                [
                    ("status", "disabled".into()),
                    ("disabled_at", event.recorded_at.into()),
                    ("position", event.position.0.into()),
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
