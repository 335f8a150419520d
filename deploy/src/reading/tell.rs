//! Events for people: one sentence each, and the stored form without what would let a reader recognise a token or a user.

use modelfaucet_schema::event::{Balance, CallOutcome, Event, StoredEvent};
use serde_json::{Value, json};

/// Members of stored forms that are never shown.
const MASKED: [&str; 2] = ["token_hash", "user_hash"];

/// The stored form without what is masked; null if it is not JSON.
pub(crate) fn shown(event: &StoredEvent) -> Value {
    let mut value = serde_json::from_slice(&event.payload).unwrap_or_default();
    mask(&mut value);
    value
}

fn mask(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for name in MASKED {
                members.remove(name);
            }
            members.values_mut().for_each(mask);
        }
        Value::Array(items) => items.iter_mut().for_each(mask),
        _ => {}
    }
}

/// An event as programs read it.
pub(crate) fn event_json(event: &StoredEvent) -> Value {
    let sentence = event.decode().map(|recorded| tell(&recorded.event)).unwrap_or_default();
    json!({
        "shard": event.shard, "position": event.position, "recorded_at": event.recorded_at, "type": event.name,
        "version": event.version, "stream": event.stream, "stream_seq": event.stream_seq, "actor": event.actor,
        "request_id": event.request_id, "key": event.key.map(|used| used.key), "says": sentence, "payload": shown(event),
    })
}

/// What happened, in one line.
pub(crate) fn tell(event: &Event) -> String {
    match event {
        Event::HoldPlaced(e) => {
            let less = if e.requested == e.amount { String::new() } else { format!(" (asked for {})", e.requested) };
            let (provider, model) = (&e.call.provider, &e.call.model);
            format!("{} held{less} for {provider}/{model}, until {}{}", e.amount, e.expires_at, then(e.balance))
        }
        Event::HoldCaptured(e) => {
            let over = if e.over_hold { ", more than was held" } else { "" };
            let outcome = outcome(e.outcome.as_deref());
            format!("{} charged of {} held{over}{outcome}{}", e.rating.charge, e.held, then(e.balance))
        }
        Event::HoldReleased(e) => {
            format!("{} given back, {}{}{}", e.amount, name(e.reason), outcome(e.outcome.as_deref()), then(e.balance))
        }
        Event::HoldExpired(e) => format!("{} given back, its time was over{}", e.amount, then(e.balance)),
        Event::LateUsageCaptured(e) => format!(
            "{} charged after the hold had expired{}{}",
            e.rating.charge,
            outcome(e.outcome.as_deref()),
            then(e.balance)
        ),
        Event::UsageRecorded(e) => {
            let (provider, model) = (&e.call.provider, &e.call.model);
            format!("{} charged without a hold for {provider}/{model}{}", e.rating.charge, then(e.balance))
        }
        Event::AttemptStarted(e) => {
            let why = e.ended.error.map_or("", modelfaucet_schema::event::AttemptError::name);
            let (provider, model) = (&e.call.provider, &e.call.model);
            format!(
                "attempt {} to {provider}/{model}, after {why}; {} held instead{}",
                e.number,
                e.amount,
                then(e.balance)
            )
        }
        Event::AttemptProgressed(e) => format!("attempt {} has {} bytes of its answer", e.number, e.bytes),
        Event::TopUpRequested(e) => format!("{} to be paid through {}", e.amount, e.provider),
        Event::TopUpCredited(e) => format!("{} credited, payment {}{}", e.amount, e.payment, then(e.balance)),
        Event::TopUpFailed(e) => format!("not paid: {}", e.reason),
        Event::TopUpCheckoutOpened(e) => format!("checkout {}", e.reference),
        Event::TestCreditGranted(e) => format!("{} of test credit{}", e.amount, then(e.balance)),
        Event::PromoGranted(e) => format!("{} given: {}{}", e.amount, e.reason, then(e.balance)),
        Event::CreditExpired(e) => format!("{} of given credit expired{}", e.amount, then(e.balance)),
        Event::WalletAdjusted(e) => {
            let why = e.reason.as_deref().unwrap_or("no reason given");
            format!("{} {} ({}): {why}{}", e.amount, name(e.direction), name(e.kind), then(e.balance))
        }
        Event::RefundRequested(e) => format!("{} of {} goes back{}", e.amount, e.payment, then(e.balance)),
        Event::RefundSent(e) => format!("taken on as {}", e.reference),
        Event::RefundFailed(e) => format!("{} is back: {}{}", e.amount, e.reason, then(e.balance)),
        Event::DisputeOpened(e) => format!("{} disputed: {}; {} held{}", e.amount, e.reason, e.held, then(e.balance)),
        Event::DisputeWon(e) => format!("won, {} is free{}", e.released, then(e.balance)),
        Event::DisputeLost(e) => format!("lost, {} gone{}", e.amount, then(e.balance)),
        Event::WriteOffProposed(e) => format!("{} to be given up: {}", e.amount, e.reason),
        Event::ReceivableWrittenOff(e) => format!("{} given up", e.amount),
        Event::StripeTransactionRecorded(e) => {
            format!("{} {} of which {} fees, {}", e.category.name(), e.amount, e.fee, e.transaction)
        }
        Event::PayoutRequested(e) => format!("{} through {}", e.amount, e.provider),
        Event::PayoutApproved(e) => format!("{} approved", e.amount),
        Event::PayoutPaid(e) => format!("{} paid, {}", e.amount, e.reference),
        Event::PayoutFailed(e) => format!("{} not paid: {}", e.amount, e.reason),
        Event::PayoutCancelled(e) => format!("{} not wanted: {}", e.amount, e.reason),
        Event::PayoutReturned(e) => format!("{} came back: {}", e.amount, e.reason),
        Event::Frozen(e) => format!("{}: {}", serde_json::to_string(&e.scope).unwrap_or_default(), e.reason),
        Event::Thawed(e) => format!("{}: {}", serde_json::to_string(&e.scope).unwrap_or_default(), e.reason),
        Event::WalletOpened(e) => format!("wallet of user {}, floor {}", e.user_id, e.floor),
        Event::SessionOpened(e) => format!("for wallet {} until {}{}", e.wallet_id, e.expires_at, then(e.balance)),
        Event::RepairProposed(e) => format!("plan {} of {} steps: {}", e.digest, e.steps, e.reason),
        Event::RepairApproved(e) => format!("plan {}", e.digest),
        Event::IncidentClosed(e) => {
            let instead =
                e.supersedes.map_or_else(String::new, |position| format!(", instead of the closing at {position}"));
            let (first, last, digest, bytes) = (e.first, e.last, &e.digest, e.bytes);
            format!("{} over {first}..{last}, report sha256 {digest} of {bytes} bytes{instead}: {}", e.name, e.reason)
        }
        _ => String::new(),
    }
}

/// The wallet behind an event.
fn then(balance: Balance) -> String {
    format!("; then {} posted, {} held, {} available", balance.posted, balance.held, balance.available())
}

fn outcome(outcome: Option<&CallOutcome>) -> String {
    let Some(outcome) = outcome else { return String::new() };
    let attempts: Vec<String> = outcome
        .attempts
        .iter()
        .map(|attempt| {
            let how = attempt.error.map_or("answered", modelfaucet_schema::event::AttemptError::name);
            let status = attempt.status.map_or_else(String::new, |status| format!(" {status}"));
            let after = attempt.total_ms.map_or_else(String::new, |ms| format!(" after {ms} ms"));
            format!("{}/{} {how}{status}{after}", attempt.provider, attempt.model)
        })
        .collect();
    let mut text = format!(", {}", attempts.join(", "));
    for (is, note) in [(outcome.interrupted, ", broken off"), (outcome.client_gone, ", the client had gone")] {
        if is {
            text.push_str(note);
        }
    }
    if !outcome.anomalies.is_empty() {
        let names: Vec<String> = outcome.anomalies.iter().map(|anomaly| name(*anomaly)).collect();
        text.push_str(", strange: ");
        text.push_str(&names.join(" "));
    }
    text
}

/// The name on the wire.
fn name(value: impl serde::Serialize) -> String {
    serde_json::to_value(value).ok().and_then(|value| value.as_str().map(str::to_owned)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hashes_of_tokens_and_users_are_not_shown() {
        let mut value = serde_json::json!({ "a": [{ "token_hash": "x", "b": 1 }], "user_hash": "y" });
        mask(&mut value);
        assert_eq!(value, serde_json::json!({ "a": [{ "b": 1 }] }));
    }
}
