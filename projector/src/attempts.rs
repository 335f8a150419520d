//! Attempts that gave no answer: what was sent to a provider, is nobody's charge and may be on its invoice. The attempt that answered a
//! call is the call's own row in `usage`. Reports count calls; who compares with an invoice counts both tables.

use modelfaucet_schema::event::{Attempt, CallOutcome, Event, Recorded};
use modelfaucet_schema::ids::{HoldId, WalletId};

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, UNITS, Value, Writing, key, optional, set};

static TABLES: [Table; 1] = [Table {
    name: "failed_attempt",
    columns: &[
        key("shard", Kind::I16),
        key("position", Kind::I64).comment("where its call ended"),
        key("number", Kind::I32).comment("1, 2, 3 among the attempts of its call"),
        set("hold_id", Kind::Uuid),
        set("wallet_id", Kind::Uuid),
        set("route", Kind::Text),
        set("provider", Kind::Text),
        set("model", Kind::Text),
        optional("credential_id", Kind::Uuid),
        optional("status", Kind::I32).comment("HTTP"),
        optional("error", Kind::Text),
        set("billed", Kind::Text).comment("no, unknown or yes"),
        optional("exposure", Kind::I64).comment(UNITS),
        optional("total_ms", Kind::I64),
        set("started_at", Kind::Time),
        set("recorded_at", Kind::Time),
    ],
    writing: Writing::Append,
    indexes: &["shard, provider, position"],
}];

/// The projection `attempts`.
pub struct Attempts;

/// The call that has ended, and its attempts without an answer.
fn failed(event: &Event) -> Option<(HoldId, WalletId, &[Attempt])> {
    fn all(outcome: Option<&CallOutcome>) -> &[Attempt] {
        outcome.map_or(&[], |outcome| outcome.attempts.as_slice())
    }
    /// The last one is what is charged.
    fn but_last(attempts: &[Attempt]) -> &[Attempt] {
        attempts.split_last().map_or(&[], |(_, before)| before)
    }
    Some(match event {
        Event::HoldCaptured(event) => (event.hold_id, event.wallet_id, but_last(all(event.outcome.as_deref()))),
        Event::LateUsageCaptured(event) => (event.hold_id, event.wallet_id, but_last(all(event.outcome.as_deref()))),
        Event::HoldReleased(event) => (event.hold_id, event.wallet_id, all(event.outcome.as_deref())),
        _ => return None,
    })
}

impl Projection for Attempts {
    fn name(&self) -> &'static str {
        "attempts"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let Some((hold, wallet, attempts)) = failed(&event.event) else { return Ok(()) };
        for (number, attempt) in (1_i32..).zip(attempts) {
            changes.append(
                0,
                vec![
                    event.shard.0.into(),
                    event.position.0.into(),
                    number.into(),
                    hold.0.into(),
                    wallet.0.into(),
                    attempt.route.name().into(),
                    attempt.provider.as_str().into(),
                    (&attempt.model).into(),
                    Value::or_null(attempt.credential.map(|credential| credential.0)),
                    Value::or_null(attempt.status.map(i32::from)),
                    Value::or_null(attempt.error.map(modelfaucet_schema::event::AttemptError::name)),
                    attempt.billed.name().into(),
                    Value::or_null(attempt.exposure),
                    Value::or_null(attempt.total_ms.and_then(|total| i64::try_from(total).ok())),
                    attempt.started_at.into(),
                    event.recorded_at.into(),
                ],
            );
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
