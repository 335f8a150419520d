//! `modelfaucet dead`: events that a projection could not apply, and what waits behind them.

use std::fmt::Write as _;

use modelfaucet_projector::letters::{self, Letter, Resolved};
use modelfaucet_projector::projection::all;
use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::ids::Position;
use serde_json::{Value, json};

use crate::exit::{Exit, Failure};
use crate::operator::{ActArgs, Operator, OperatorArgs};
use crate::projection::{planned, tell};
use crate::verify::auditor;

/// What to do with dead letters.
#[derive(clap::Subcommand)]
pub(crate) enum DeadVerb {
    /// List them: the first of each stream, and how many wait behind it. Exit 1 if there are any
    List {
        /// Also those that wait
        #[arg(long)]
        all: bool,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Show one with its event; the values of the event are masked
    Show {
        /// Its number
        #[arg(value_name = "ID")]
        id: i64,
        /// Show the values; that you looked is on record, with the reason
        #[arg(long, requires = "reason")]
        show_payload: bool,
        /// Why, for the record
        #[arg(long, value_name = "TEXT")]
        reason: Option<String>,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Try one again, with a program that can apply it. One that fails again stays, exit 1
    Retry {
        /// Its number
        #[arg(value_name = "ID")]
        id: i64,
        /// Also what waits behind it, in order, in the same transaction
        #[arg(long)]
        from_here: bool,
        #[command(flatten)]
        act: ActArgs,
        #[command(flatten)]
        operator: OperatorArgs,
    },
    /// Take one off the list for good, because a later event answers it. Two people say the same
    Resolve {
        /// Its number
        #[arg(value_name = "ID")]
        id: i64,
        /// The position of the event that answers it
        #[arg(long, value_name = "POSITION")]
        with_event: i64,
        #[command(flatten)]
        act: ActArgs,
        #[command(flatten)]
        operator: OperatorArgs,
    },
}

/// Runs a verb.
///
/// # Errors
/// A [`Failure`] that says what is wrong.
pub(crate) fn run(verb: &DeadVerb) -> Result<Exit, Failure> {
    match verb {
        DeadVerb::List { all, operator } => Operator::run(operator, async |database| {
            let client = database.connect().await?;
            let letters = letters::list(&client, *all).await.map_err(auditor::failure)?;
            if operator.json {
                println!("{}", json!({ "letters": letters }));
            } else if letters.is_empty() {
                println!("no dead letters");
            } else {
                print!("{}", letters.iter().map(line).collect::<String>());
            }
            Ok(if letters.is_empty() { Exit::Ok } else { Exit::Differences })
        }),
        DeadVerb::Show { id, show_payload, reason, operator } => Operator::run(operator, async |database| {
            let client = database.connect().await?;
            let letter = letters::find(&client, *id).await?;
            let mut found = letters::events(database.config(), letter.shard, &[letter.position]).await?;
            let Some(event) = found.remove(&letter.position) else {
                return Err(Failure::new(Exit::Violated, format!("the log has no position {}", letter.position)));
            };
            if *show_payload {
                let who = database.who(&client, reason.as_deref()).await?;
                letters::looked(&client, &who, &letter).await.map_err(auditor::failure)?;
            }
            let payload = payload(&event, *show_payload);
            if operator.json {
                println!("{}", json!({ "letter": letter, "event": event_json(&event), "payload": payload }));
            } else {
                print!("{}{}", line(&letter), event_text(&event, &payload));
            }
            Ok(Exit::Ok)
        }),
        DeadVerb::Retry { id, from_here, act, operator } => Operator::run(operator, async |database| {
            let client = database.connect().await?;
            let who = database.who(&client, Some(&act.reason)).await?;
            let letter = letters::find(&client, *id).await?;
            if !act.consent.is_given() {
                let behind =
                    if *from_here { format!(" and {} that wait behind it", letter.waiting) } else { String::new() };
                return Ok(planned(
                    operator,
                    &format!("position {}{behind} is applied to {} again", letter.position, letter.projection),
                ));
            }
            let retried = letters::retry(database.config(), &all(), &who, *id, *from_here).await?;
            let rest =
                if retried.left > 0 { format!(" · {} of the stream wait", retried.left) } else { String::new() };
            let failed = retried
                .failed
                .as_ref()
                .map_or_else(String::new, |(position, cause)| format!(" · position {position} failed again: {cause}"));
            tell(operator, &format!("done  {} applied{rest}{failed}", retried.applied), &json!({ "retried": retried }));
            Ok(if retried.failed.is_some() { Exit::Differences } else { Exit::Ok })
        }),
        DeadVerb::Resolve { id, with_event, act, operator } => Operator::run(operator, async |database| {
            let mut client = database.connect().await?;
            let who = database.who(&client, Some(&act.reason)).await?;
            let letter = letters::find(&client, *id).await?;
            if !act.consent.is_given() {
                let plan = format!(
                    "position {} will never be applied to {} v{}; position {with_event} answers it",
                    letter.position, letter.projection, letter.version
                );
                return Ok(planned(operator, &plan));
            }
            match letters::resolve(&mut client, &who, *id, Position(*with_event)).await? {
                Resolved::Proposed => {
                    let why = format!("proposed by {}; now somebody else has to give the same command", who.actor);
                    Err(Failure::new(Exit::Refused, why))
                }
                Resolved::Done { left } => {
                    let text = format!(
                        "done  letter {id} is off the list · {left} of its stream wait: `modelfaucet dead list`"
                    );
                    tell(operator, &text, &json!({ "letter": id, "resolved": true, "left": left }));
                    Ok(Exit::Ok)
                }
            }
        }),
    }
}

fn line(letter: &Letter) -> String {
    let waiting = match letter.waiting {
        0 => String::new(),
        waiting => format!(" · {waiting} wait behind it"),
    };
    format!(
        "{:<6} {} v{} s{:02}:{} {} · {} · tried {} times, {} to {}{waiting}\n",
        letter.id,
        letter.projection,
        letter.version,
        letter.shard.0,
        letter.position,
        letter.stream,
        letter.cause,
        letter.attempts,
        letter.first_seen,
        letter.last_seen,
    )
}

/// The payload, whole or with every value replaced by what kind of value it is.
fn payload(event: &StoredEvent, whole: bool) -> Value {
    match serde_json::from_slice(&event.payload) {
        Ok(value) if whole => value,
        Ok(value) => masked(value),
        Err(_) => json!(format!("{} bytes that are no JSON", event.payload.len())),
    }
}

fn masked(value: Value) -> Value {
    match value {
        Value::Object(members) => members.into_iter().map(|(name, value)| (name, masked(value))).collect(),
        Value::Array(items) => items.into_iter().map(masked).collect(),
        Value::String(_) => json!("text"),
        Value::Number(_) => json!("number"),
        Value::Bool(_) => json!("yes or no"),
        Value::Null => Value::Null,
    }
}

fn event_json(event: &StoredEvent) -> Value {
    json!({
        "shard": event.shard, "position": event.position, "stream": event.stream, "stream_seq": event.stream_seq,
        "type": event.name, "version": event.version, "recorded_at": event.recorded_at, "actor": event.actor,
        "request_id": event.request_id
    })
}

fn event_text(event: &StoredEvent, payload: &Value) -> String {
    let mut text = format!(
        "       {} v{} · recorded {} · by {} · request {}\n",
        event.name, event.version, event.recorded_at, event.actor, event.request_id
    );
    let pretty = serde_json::to_string_pretty(payload).unwrap_or_default();
    for line in pretty.lines() {
        // Writing into a String cannot fail.
        let _ = writeln!(text, "       {line}");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_value_of_a_masked_payload_is_shown() {
        let payload = json!({ "wallet_id": "w-1", "amount": 125, "lines": [{ "is_paid": true, "note": null }] });
        let shown = masked(payload);
        assert_eq!(
            shown,
            json!({ "wallet_id": "text", "amount": "number", "lines": [{ "is_paid": "yes or no", "note": null }] })
        );
    }
}
