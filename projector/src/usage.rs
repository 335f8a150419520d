//! What was used and what it came to: one row per charged call, and totals per day.

use modelfaucet_schema::event::{Call, Event, Rating, Recorded, Route};
use modelfaucet_schema::ids::WalletId;
use modelfaucet_schema::money::Money;
use uuid::Uuid;

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set, sum, sum_units, units};

const RECORD: usize = 0;
const DAILY: usize = 1;

static TABLES: [Table; 2] = [
    Table {
        name: "usage_record",
        columns: &[
            key("shard", Kind::I16),
            key("position", Kind::I64),
            set("usage_id", Kind::Uuid).comment("the hold's id for usage that was captured"),
            set("wallet_id", Kind::Uuid),
            set("app_id", Kind::Uuid),
            optional("session_id", Kind::Uuid),
            optional("feature_key", Kind::Text),
            set("route", Kind::Text),
            set("provider", Kind::Text),
            set("model", Kind::Text),
            set("input_tokens", Kind::I64),
            set("output_tokens", Kind::I64),
            set("usage", Kind::Text).comment("JSON: the full usage vector"),
            set("exact_cost", Kind::Text).comment("USD before rounding"),
            units("upstream"),
            units("retail"),
            units("charge"),
            units("developer"),
            units("platform"),
            units("unrecovered"),
            units("promo"),
            units("receivable"),
            set("over_hold", Kind::Bool),
            set("late", Kind::Bool),
            optional("provider_request_id", Kind::Text),
            set("request_id", Kind::Text),
            optional("occurred_at", Kind::Time),
            set("recorded_at", Kind::Time),
        ],
        writing: Writing::Append,
        indexes: &["shard, app_id, position"],
    },
    Table {
        name: "usage_daily",
        columns: &[
            key("shard", Kind::I16),
            key("day", Kind::Date),
            key("app_id", Kind::Uuid),
            key("route", Kind::Text),
            key("provider", Kind::Text),
            key("model", Kind::Text),
            sum("calls"),
            sum("input_tokens"),
            sum("output_tokens"),
            sum_units("upstream"),
            sum_units("charge"),
            sum_units("developer"),
            sum_units("platform"),
            sum_units("unrecovered"),
        ],
        writing: Writing::Upsert,
        indexes: &["shard, app_id, day"],
    },
];

/// The projection `usage`.
pub struct UsageRecords;

/// The parts that the three events of used calls share.
struct Used<'a> {
    id: Uuid,
    wallet: WalletId,
    call: &'a Call,
    rating: &'a Rating,
    over_hold: bool,
    late: bool,
    provider_request_id: Option<&'a str>,
}

impl<'a> Used<'a> {
    fn of(event: &'a Event) -> Option<Self> {
        Some(match event {
            Event::HoldCaptured(event) => Self {
                id: event.hold_id.0,
                wallet: event.wallet_id,
                call: &event.call,
                rating: &event.rating,
                over_hold: event.over_hold,
                late: false,
                provider_request_id: event.provider_request_id.as_deref(),
            },
            Event::LateUsageCaptured(event) => Self {
                id: event.hold_id.0,
                wallet: event.wallet_id,
                call: &event.call,
                rating: &event.rating,
                over_hold: false,
                late: true,
                provider_request_id: event.provider_request_id.as_deref(),
            },
            Event::UsageRecorded(event) => Self {
                id: event.usage_id.0,
                wallet: event.wallet_id,
                call: &event.call,
                rating: &event.rating,
                over_hold: false,
                late: false,
                provider_request_id: event.provider_request_id.as_deref(),
            },
            _ => return None,
        })
    }
}

/// What the platform keeps: the charge without the provider's cost that the customer bears and without the developer's share.
/// On the user's own key or machine the provider's cost is not ours.
fn platform_part(route: Route, rating: &Rating) -> Option<Money> {
    let upstream = match route {
        Route::Platform | Route::DeveloperKey => rating.upstream.checked_sub(rating.unrecovered)?,
        Route::Byok | Route::Local => Money::ZERO,
    };
    rating.charge.checked_sub(upstream)?.checked_sub(rating.developer)
}

/// Counts of one usage are far below the range of `bigint`.
fn count(tokens: u64) -> Value {
    Value::I64(i64::try_from(tokens).unwrap_or(i64::MAX))
}

impl Projection for UsageRecords {
    fn name(&self) -> &'static str {
        "usage"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn views(&self) -> &'static str {
        include_str!("sql/usage.sql")
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let Some(used) = Used::of(&event.event) else { return Ok(()) };
        let (call, rating) = (used.call, used.rating);
        let occurred_at = event.event.occurred_at();
        let platform = platform_part(call.route, rating).ok_or(ApplyError::Overflow)?;
        let (input, output) = (count(rating.usage.input_tokens()), count(rating.usage.output_tokens()));
        let usage = serde_json::to_string(&rating.usage).map_err(|error| ApplyError::Other(error.to_string()))?;
        let (route, provider, model) =
            (Value::from(call.route.name()), Value::from(call.provider.as_str()), Value::from(&call.model));
        changes.upsert(
            DAILY,
            vec![
                event.shard.0.into(),
                Value::day(occurred_at.unwrap_or(event.recorded_at)),
                call.app_id.0.into(),
                route.clone(),
                provider.clone(),
                model.clone(),
                1_i64.into(),
                input.clone(),
                output.clone(),
                rating.upstream.into(),
                rating.charge.into(),
                rating.developer.into(),
                platform.into(),
                rating.unrecovered.into(),
            ],
        );
        changes.append(
            RECORD,
            vec![
                event.shard.0.into(),
                event.position.0.into(),
                used.id.into(),
                used.wallet.0.into(),
                call.app_id.0.into(),
                Value::or_null(call.session_id.map(|session| session.0)),
                Value::or_null(call.feature_key.as_deref()),
                route,
                provider,
                model,
                input,
                output,
                usage.into(),
                Value::display(&rating.exact_cost),
                rating.upstream.into(),
                rating.retail.into(),
                rating.charge.into(),
                rating.developer.into(),
                platform.into(),
                rating.unrecovered.into(),
                rating.promo.into(),
                rating.receivable.into(),
                used.over_hold.into(),
                used.late.into(),
                Value::or_null(used.provider_request_id),
                Value::Text(event.request_id.clone()),
                Value::or_null(occurred_at),
                event.recorded_at.into(),
            ],
        );
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
