//! How the demo tells what it does: a step, what is sent, what comes back, the figure that matters and whether it is right.

use std::fmt::Display;
use std::time::Instant;

use secrecy::SecretString;
use serde_json::Value;

use modelfaucet_schema::money::Money;

use crate::client::{Call, Client, ClientError, Patience, Reply};
use crate::exit::{Exit, Failure};

/// Longest body that is shown, in characters.
const SHOWN: usize = 96;
/// Width of the labels.
const LABEL: usize = 18;

/// The telling so far.
pub(super) struct Story<'a> {
    client: &'a Client,
    patience: Patience,
    began: Instant,
    step: usize,
    title: &'static str,
    /// The position of the last write; reads wait for it.
    position: i64,
    checks: usize,
    problems: Vec<String>,
}

impl<'a> Story<'a> {
    pub(super) fn new(client: &'a Client, patience: Patience) -> Self {
        Self {
            client,
            patience,
            began: Instant::now(),
            step: 0,
            title: "",
            position: 0,
            checks: 0,
            problems: Vec::new(),
        }
    }

    /// The next step.
    pub(super) fn step(&mut self, title: &'static str) {
        self.step += 1;
        self.title = title;
        println!("\n{:>2}  {title}", self.step);
    }

    /// A figure and what it must be.
    pub(super) fn check(&mut self, label: &str, got: impl Display, expected: impl Display) {
        let (got, expected) = (got.to_string(), expected.to_string());
        self.checks += 1;
        if got == expected {
            println!("    {label:LABEL$}{got:<40}  ok");
        } else {
            println!("    {label:LABEL$}{got:<40}  WRONG, must be {expected}");
            self.problems.push(format!("step {}, {}: {label} is {got}, must be {expected}", self.step, self.title));
        }
    }

    /// Sends a command that must succeed.
    pub(super) async fn write(&mut self, call: &Call<'_>) -> Result<(Reply, Value), ClientError> {
        sent(call, call.body());
        let reply = self.client.send_patiently(call, &self.patience).await?;
        self.came(&reply);
        let body = reply.json()?;
        Ok((reply, body))
    }

    /// Sends many items that are decided one by one.
    pub(super) async fn write_lines(&mut self, call: &Call<'_>, count: i64) -> Result<Reply, ClientError> {
        sent(call, &format!("{count} lines"));
        let reply = self.client.send_patiently(call, &self.patience).await?;
        self.came(&reply);
        Ok(reply)
    }

    /// Sends a command that must be refused. Returns the envelope's `error`; null if it succeeded.
    pub(super) async fn refused(&mut self, call: &Call<'_>) -> Result<Value, ClientError> {
        sent(call, call.body());
        match self.client.send_patiently(call, &self.patience).await {
            Err(ClientError::Refused { status, detail, .. }) => {
                fact("answer", &format!("{} · {}", status.as_u16(), detail.message));
                Ok(serde_json::to_value(&detail).unwrap_or_default())
            }
            Ok(reply) => {
                self.came(&reply);
                Ok(Value::Null)
            }
            Err(error) => Err(error),
        }
    }

    /// Reads what is known at the last write or later.
    pub(super) async fn read(&mut self, path: &str, token: &SecretString) -> Result<Value, ClientError> {
        let sign = if path.contains('?') { '&' } else { '?' };
        let call = Call::get(format!("{path}{sign}min_position={}", self.position)).token(token);
        fact("read", &call.name());
        self.client.send_patiently(&call, &self.patience).await?.json()
    }

    fn came(&mut self, reply: &Reply) {
        self.position = self.position.max(reply.position.unwrap_or_default());
        let position = reply.position.map(|position| format!(" · position {position}")).unwrap_or_default();
        let replayed = if reply.replayed { " · idempotent-replayed: true" } else { "" };
        fact("answer", &format!("{}{position}{replayed}", reply.status.as_u16()));
    }

    /// The verdict.
    pub(super) fn end(self) -> Result<(), Failure> {
        if self.problems.is_empty() {
            println!(
                "\n{} figures checked in {:.1} s: everything adds up.",
                self.checks,
                self.began.elapsed().as_secs_f64()
            );
            return Ok(());
        }
        println!("\nWhat does not add up:");
        for problem in &self.problems {
            println!("  {problem}");
        }
        println!(
            "The expected figures are those of a first start; were the demo app's prices or the rate card changed?"
        );
        Err(Failure::new(Exit::Differences, format!("{} of {} figures are wrong", self.problems.len(), self.checks)))
    }
}

/// Something worth knowing that is not checked.
pub(super) fn fact(label: &str, value: &str) {
    println!("    {label:LABEL$}{value}");
}

fn sent(call: &Call<'_>, what: &str) {
    fact("send", &call.name());
    fact("", &shortened(what));
}

/// The start of a long text.
fn shortened(text: &str) -> String {
    let mut start: String = text.chars().take(SHOWN).collect();
    if start.len() < text.len() {
        start.push('…');
    }
    start
}

/// A member of an answer as text; `absent` if it is not there.
pub(super) fn text(value: &Value, pointer: &str) -> String {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.clone(),
        Some(other) => other.to_string(),
        None => "absent".to_owned(),
    }
}

/// A member of an answer as money; zero if it is none, which no check mistakes for an amount.
pub(super) fn money(value: &Value, pointer: &str) -> Money {
    text(value, pointer).parse().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn members_are_found_or_absent() {
        let value = json!({ "wallet": { "held_usd": "0.00000007" }, "count": 3 });
        assert_eq!(text(&value, "/wallet/held_usd"), "0.00000007");
        assert_eq!(text(&value, "/count"), "3");
        assert_eq!(text(&value, "/wallet/none"), "absent");
        assert_eq!(money(&value, "/wallet/held_usd").units(), 7);
    }

    #[test]
    fn long_texts_are_cut_between_characters() {
        assert_eq!(shortened("short"), "short");
        assert_eq!(shortened(&"ä".repeat(200)).chars().count(), SHOWN + 1);
    }

    #[test]
    fn one_wrong_figure_is_enough() {
        let client = Client::new("http://127.0.0.1:1").unwrap();
        let mut story = Story::new(&client, Patience::of(std::time::Duration::ZERO));
        story.step("Two figures");
        story.check("right", Money::from_units(1), "0.00000001");
        story.check("wrong", "absent", Money::ZERO);
        let failure = story.end().unwrap_err();
        assert_eq!((failure.exit, failure.message.as_str()), (Exit::Differences, "1 of 2 figures are wrong"));
    }
}
