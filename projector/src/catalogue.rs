//! Developers, their tokens, apps, features and rate cards, as they are now.

use modelfaucet_schema::event::{
    AppSettings, Event, FeatureDefined, RateCardId, RateCardPublished, Recorded, SessionOpening, Status,
};
use serde::Serialize;
use uuid::Uuid;

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set, units};

const DEVELOPER: usize = 0;
const TOKEN: usize = 1;
const APP: usize = 2;
const FEATURE: usize = 3;
const RATE_CARD: usize = 4;

static TABLES: [Table; 5] = [
    Table {
        name: "developer",
        columns: &[
            key("shard", Kind::I16),
            key("developer_id", Kind::Uuid),
            set("name", Kind::Text),
            set("email", Kind::Text),
            set("registered_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &[],
    },
    Table {
        name: "developer_token",
        columns: &[
            key("shard", Kind::I16),
            key("token_id", Kind::Uuid),
            set("developer_id", Kind::Uuid),
            set("name", Kind::Text),
            set("token_hash", Kind::Bytes).comment("SHA-256 of the token"),
            set("token_prefix", Kind::Text),
            set("scopes", Kind::Text).comment("JSON: a list of texts"),
            set("status", Kind::Text).comment("active or revoked"),
            set("issued_at", Kind::Time),
            optional("expires_at", Kind::Time),
            optional("revoked_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &["token_hash", "shard, developer_id, token_id"],
    },
    Table {
        name: "app",
        columns: &[
            key("shard", Kind::I16),
            key("app_id", Kind::Uuid),
            set("developer_id", Kind::Uuid),
            set("public_app_id", Kind::Text),
            set("name", Kind::Text),
            optional("vertical", Kind::Text),
            set("default_revenue_share_bps", Kind::I32),
            set("status", Kind::Text).comment("active or disabled"),
            set("session_opening", Kind::Text).comment("public or server"),
            set("registered_at", Kind::Time),
            set("updated_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &["public_app_id", "shard, developer_id, app_id"],
    },
    Table {
        name: "feature",
        columns: &[
            key("shard", Kind::I16),
            key("feature_id", Kind::Uuid),
            set("app_id", Kind::Uuid),
            set("feature_key", Kind::Text),
            set("display_name", Kind::Text),
            set("markup_bps", Kind::I32),
            optional("revenue_share_bps", Kind::I32).comment("null: the app's default"),
            units("fee"),
            set("policy", Kind::Text).comment("JSON object"),
            set("updated_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &["shard, app_id, feature_key"],
    },
    Table {
        name: "rate_card",
        columns: &[
            key("shard", Kind::I16),
            key("rate_card_id", Kind::Uuid),
            set("sha256", Kind::Text),
            set("source", Kind::Text),
            set("models", Kind::Text).comment("JSON: a list of models with their rates"),
            set("active", Kind::Bool).comment("prices new holds and usages"),
            set("published_at", Kind::Time),
            set("published_position", Kind::I64),
            optional("activated_at", Kind::Time).comment("the last time"),
            optional("activated_position", Kind::I64).comment("the last time"),
        ],
        writing: Writing::Upsert,
        indexes: &[],
    },
];

/// The projection `catalogue`. Remembers which rate card is active, to take that from it when another one is activated.
#[derive(Default)]
pub struct Catalogue {
    active: Option<Uuid>,
}

fn json(value: &impl Serialize) -> Result<Value, ApplyError> {
    serde_json::to_string(value).map(Value::from).map_err(|error| ApplyError::Other(error.to_string()))
}

/// Basis points are at most 100,000.
fn bps(bps: modelfaucet_schema::money::BasisPoints) -> Value {
    Value::I32(i32::try_from(bps.get()).unwrap_or(i32::MAX))
}

fn status(status: Status) -> Value {
    Value::from(match status {
        Status::Active => "active",
        Status::Disabled => "disabled",
    })
}

/// The columns of an app that can change.
fn settings(settings: &AppSettings, event: &Recorded) -> [(&'static str, Value); 7] {
    let opening = match settings.session_opening {
        SessionOpening::Public => "public",
        SessionOpening::Server => "server",
    };
    [
        ("name", Value::from(&settings.name)),
        ("vertical", Value::or_null(settings.vertical.as_deref())),
        ("default_revenue_share_bps", bps(settings.default_revenue_share_bps)),
        ("status", status(settings.status)),
        ("session_opening", opening.into()),
        ("updated_at", event.recorded_at.into()),
        ("position", event.position.0.into()),
    ]
}

fn feature(feature: &FeatureDefined, event: &Recorded) -> Result<Vec<Value>, ApplyError> {
    let pricing = &feature.pricing;
    Ok(vec![
        event.shard.0.into(),
        feature.feature_id.0.into(),
        feature.app_id.0.into(),
        Value::from(&feature.feature_key),
        Value::from(&feature.display_name),
        bps(pricing.markup_bps),
        pricing.revenue_share_bps.map_or(Value::Null, bps),
        pricing.fee_usd.into(),
        json(&feature.policy)?,
        event.recorded_at.into(),
        event.position.0.into(),
    ])
}

impl Catalogue {
    fn publish(&self, card: &RateCardPublished, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        // A card is its content, so publishing it again changes nothing but may not switch it off.
        let active = self.active == Some(card.rate_card_id.0);
        let whole = [
            ("sha256", Value::from(&card.sha256)),
            ("source", Value::from(&card.source)),
            ("models", json(&card.models)?),
            ("active", active.into()),
            ("published_at", event.recorded_at.into()),
            ("published_position", event.position.0.into()),
        ];
        let key = [Value::I16(event.shard.0), card.rate_card_id.0.into()];
        if active {
            changes.patch(RATE_CARD, key, whole);
        } else {
            let row =
                key.into_iter().chain(whole.into_iter().map(|(_, value)| value)).chain([Value::Null, Value::Null]);
            changes.upsert(RATE_CARD, row.collect());
        }
        Ok(())
    }

    fn activate(&mut self, card: RateCardId, event: &Recorded, changes: &mut Changes) {
        if let Some(before) = self.active.replace(card.0).filter(|before| *before != card.0) {
            changes.patch(RATE_CARD, [event.shard.0.into(), before.into()], [("active", false.into())]);
        }
        changes.patch(
            RATE_CARD,
            [event.shard.0.into(), card.0.into()],
            [
                ("active", true.into()),
                ("activated_at", event.recorded_at.into()),
                ("activated_position", event.position.0.into()),
            ],
        );
    }
}

impl Projection for Catalogue {
    fn name(&self) -> &'static str {
        "catalogue"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        false
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let (shard, at, position) =
            (Value::I16(event.shard.0), Value::Time(event.recorded_at), Value::I64(event.position.0));
        match &event.event {
            Event::DeveloperRegistered(developer) => changes.upsert(
                DEVELOPER,
                vec![
                    shard,
                    developer.developer_id.0.into(),
                    Value::from(&developer.name),
                    Value::from(&developer.email),
                    at,
                    position,
                ],
            ),
            Event::DeveloperTokenIssued(token) => changes.upsert(
                TOKEN,
                vec![
                    shard,
                    token.token_id.0.into(),
                    token.developer_id.0.into(),
                    Value::from(&token.name),
                    Value::Bytes(token.token_hash.as_bytes().as_slice().into()),
                    Value::from(&token.token_prefix),
                    json(&token.scopes)?,
                    "active".into(),
                    at,
                    Value::or_null(token.expires_at),
                    Value::Null,
                    position,
                ],
            ),
            Event::DeveloperTokenRevoked(token) => changes.patch(
                TOKEN,
                [shard, token.token_id.0.into()],
                [("status", "revoked".into()), ("revoked_at", at), ("position", position)],
            ),
            Event::AppRegistered(app) => {
                let columns = settings(&app.settings, event).map(|(_, value)| value);
                let [name, vertical, part, state, opening, updated, place] = columns;
                let mut row =
                    vec![shard, app.app_id.0.into(), app.developer_id.0.into(), Value::from(&app.public_app_id)];
                row.extend([name, vertical, part, state, opening, at, updated, place]);
                changes.upsert(APP, row);
            }
            Event::AppChanged(app) => changes.patch(APP, [shard, app.app_id.0.into()], settings(&app.settings, event)),
            Event::FeatureDefined(defined) => changes.upsert(FEATURE, feature(defined, event)?),
            Event::FeatureChanged(feature_now) => changes.upsert(FEATURE, feature(&feature_now.0, event)?),
            Event::FeatureRemoved(removed) => changes.delete(FEATURE, [shard, removed.feature_id.0.into()]),
            Event::RateCardPublished(card) => self.publish(card, event, changes)?,
            Event::RateCardActivated(activated) => self.activate(activated.rate_card_id, event, changes),
            _ => {}
        }
        Ok(())
    }

    fn remembers(&self) -> &'static [usize] {
        &[RATE_CARD]
    }

    fn remember(&mut self, _table: usize, row: &[Value]) -> Result<(), ApplyError> {
        if let [_, Value::Uuid(id), _, _, _, Value::Bool(true), ..] = row {
            self.active = Some(*id);
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self::default())
    }
}
