//! The writer's metrics about what it knows, beside those about what it does.

use std::collections::BTreeMap;

use modelfaucet_schema::event::{Event, FreezeScope};
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::time::Timestamp;

use super::CommandError;
use crate::domain::State;

/// Kinds of freezes, in the order of [`kind`].
const KINDS: [&str; 10] = [
    "app",
    "developer",
    "session",
    "wallet",
    "top_ups",
    "usage",
    "payouts",
    "refunds",
    "provider_credential",
    "everything",
];

const fn kind(scope: &FreezeScope) -> usize {
    match scope {
        FreezeScope::App(_) => 0,
        FreezeScope::Developer(_) => 1,
        FreezeScope::Session(_) => 2,
        FreezeScope::Wallet(_) => 3,
        FreezeScope::TopUps => 4,
        FreezeScope::Usage => 5,
        FreezeScope::Payouts => 6,
        FreezeScope::Refunds => 7,
        FreezeScope::ProviderCredential(_) => 8,
        FreezeScope::Everything => 9,
    }
}

/// Shows what the state holds and when the next hold or session expires. Alerts compare that with the clock, so that they also see
/// a writer that stands still.
#[expect(clippy::cast_precision_loss, reason = "gauges for people: counts, and seconds of the clock")]
pub(super) fn show(shard: ShardId, state: &State, next_expiry: Option<Timestamp>) {
    let shard = shard.to_string();
    metrics::gauge!("modelfaucet_holds_open", "shard" => shard.clone()).set(state.holds.len() as f64);
    metrics::gauge!("modelfaucet_topups_pending", "shard" => shard.clone()).set(state.top_ups.len() as f64);
    let at = next_expiry.map_or(f64::INFINITY, |at| at.micros() as f64 / 1e6);
    metrics::gauge!("modelfaucet_next_expiry_timestamp_seconds", "shard" => shard.clone()).set(at);
    // Freezes are few.
    let mut frozen = [0_u32; KINDS.len()];
    for (scope, _) in state.freezes.iter() {
        frozen[kind(scope)] += 1;
    }
    for (name, count) in KINDS.iter().zip(frozen) {
        metrics::gauge!("modelfaucet_freezes", "scope" => *name, "shard" => shard.clone()).set(f64::from(count));
    }
}

/// Counts what was appended, by kind; holds that nobody ended apart, and of those the ones whose call a gateway had sent.
pub(super) fn count<'a>(shard: ShardId, state: &State, events: impl IntoIterator<Item = &'a Event>) {
    let mut kinds = BTreeMap::<&'static str, u64>::new();
    for event in events {
        *kinds.entry(event.name()).or_default() += 1;
        if let Event::HoldExpired(expired) = event {
            let hold = state.expired_holds.get(&expired.hold_id);
            let dispatched = hold.is_some_and(|hold| hold.gateway.is_some());
            expiries(shard, dispatched).increment(1);
        }
    }
    for (kind, count) in kinds {
        metrics::counter!("modelfaucet_events_appended_total", "type" => kind).increment(count);
    }
}

/// Counts a command that got no decision.
pub(super) fn undecided(error: &CommandError) {
    let outcome = match error {
        CommandError::Rejected(_) => return,
        CommandError::Overloaded => "overloaded",
        CommandError::Unavailable => "unavailable",
        CommandError::InDoubt => "in_doubt",
    };
    metrics::counter!("modelfaucet_commands_total", "outcome" => outcome).increment(1);
}

/// Every series that alerts look at is there from the start, zero included: a counter that appears with its first failure has no
/// rise to be seen.
pub(super) fn begin(shard: ShardId) {
    for outcome in ["accepted", "replayed", "refused", "overloaded", "unavailable", "in_doubt"] {
        metrics::counter!("modelfaucet_commands_total", "outcome" => outcome).increment(0);
    }
    metrics::counter!("modelfaucet_appends_in_doubt_total").increment(0);
    metrics::counter!("modelfaucet_events_appended_total", "type" => "TopUpCheckoutOpened").increment(0);
    for dispatched in [false, true] {
        expiries(shard, dispatched).increment(0);
    }
}

fn expiries(shard: ShardId, dispatched: bool) -> metrics::Counter {
    let dispatched = if dispatched { "true" } else { "false" };
    metrics::counter!("modelfaucet_holds_expired_total", "dispatched" => dispatched, "shard" => shard.to_string())
}
