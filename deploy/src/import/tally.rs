//! What an import came to, as a table for people or an object for programs.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;
use serde_json::{Value, json};

/// How many refusals are shown one by one.
const SHOWN: usize = 20;

/// Counts and sums of rows.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    /// Recorded now.
    pub(crate) recorded: u64,
    /// Recorded by an earlier import of the same file.
    pub(crate) replayed: u64,
    /// By code.
    pub(crate) refused: BTreeMap<String, u64>,
    /// The first refusals.
    pub(crate) examples: Vec<Refusal>,
    /// Tokens of the rows that are recorded, now or earlier: not cached, cached, output.
    pub(crate) tokens: [u64; 3],
    pub(crate) charged: Money,
    pub(crate) charged_before: Money,
    /// The part of what was charged now that the wallets could not pay.
    pub(crate) receivable: Money,
}

/// A row that was refused.
#[derive(Clone, Debug, serde::Serialize)]
pub(crate) struct Refusal {
    row: u64,
    code: String,
    message: String,
}

impl Tally {
    /// A row that is recorded.
    pub(crate) fn record(&mut self, usage: &Usage, charged: Money, receivable: Money, replayed: bool) {
        for (sum, count) in self.tokens.iter_mut().zip([usage.input_uncached, usage.cache_read, usage.output_text]) {
            *sum = sum.saturating_add(count);
        }
        if replayed {
            self.replayed += 1;
            self.charged_before = plus(self.charged_before, charged);
        } else {
            self.recorded += 1;
            self.charged = plus(self.charged, charged);
            self.receivable = plus(self.receivable, receivable);
        }
    }

    /// A row that is refused.
    pub(crate) fn refuse(&mut self, row: u64, code: &str, message: &str) {
        *self.refused.entry(code.to_owned()).or_default() += 1;
        if self.examples.len() < SHOWN {
            self.examples.push(Refusal { row, code: code.to_owned(), message: message.to_owned() });
        }
    }

    /// How many rows have an answer.
    pub(crate) fn rows(&self) -> u64 {
        self.recorded + self.replayed + self.refusals()
    }

    /// How many were refused.
    pub(crate) fn refusals(&self) -> u64 {
        self.refused.values().sum()
    }

    /// Adds another tally.
    pub(crate) fn add(&mut self, other: Self) {
        self.recorded += other.recorded;
        self.replayed += other.replayed;
        for (code, count) in other.refused {
            *self.refused.entry(code).or_default() += count;
        }
        let room = SHOWN.saturating_sub(self.examples.len());
        self.examples.extend(other.examples.into_iter().take(room));
        for (sum, count) in self.tokens.iter_mut().zip(other.tokens) {
            *sum = sum.saturating_add(count);
        }
        self.charged = plus(self.charged, other.charged);
        self.charged_before = plus(self.charged_before, other.charged_before);
        self.receivable = plus(self.receivable, other.receivable);
    }

    /// The rows that are refused, one per line, and what may help.
    pub(crate) fn refusal_lines(&self) -> String {
        let mut text = String::new();
        let mut examples: Vec<&Refusal> = self.examples.iter().collect();
        examples.sort_by_key(|refusal| refusal.row);
        for Refusal { row, code, message } in examples {
            let _infallible = writeln!(text, "row {row}: {code}: {message}");
        }
        let shown = u64::try_from(self.examples.len()).unwrap_or(u64::MAX);
        if self.refusals() > shown {
            let _infallible = writeln!(text, "and {} more", self.refusals() - shown);
        }
        if self.refused.contains_key("idempotency_key_reused") {
            text.push_str("idempotency_key_reused: an earlier import recorded these rows with other options; they were not charged again\n");
        }
        if self.refused.keys().any(|code| code == "insufficient_balance" || code == "in_flight_holds") {
            text.push_str("rows that a wallet could not pay are recorded by the same command once it can\n");
        }
        text
    }

    /// The summary.
    pub(crate) fn table(&self, users: usize, time: Duration) -> String {
        let rows = self.rows();
        let codes: Vec<String> = self.refused.iter().map(|(code, count)| format!("{code} {count}")).collect();
        let [input, cached, output] = self.tokens;
        let mut text = String::new();
        let mut line = |label: &str, value: String, note: String| {
            let note = if note.is_empty() { note } else { format!("   {note}") };
            let _infallible = writeln!(text, "{label:11}{value:>18}{note}");
        };
        line("rows", rows.to_string(), String::new());
        line("recorded", self.recorded.to_string(), String::new());
        line(
            "replayed",
            self.replayed.to_string(),
            note(self.replayed > 0, || format!("charged {} USD earlier", self.charged_before)),
        );
        line("refused", self.refusals().to_string(), codes.join(", "));
        line("users", users.to_string(), String::new());
        line(
            "tokens in",
            input.saturating_add(cached).to_string(),
            note(cached > 0, || format!("{cached} of them cached")),
        );
        line("tokens out", output.to_string(), String::new());
        let owed = note(!self.receivable.is_zero(), || format!("{} of it receivable", self.receivable));
        line("charged USD", self.charged.to_string(), owed);
        line("seconds", format!("{:.1}", time.as_secs_f64()), format!("{:.0} rows/s", rate(rows, time)));
        text
    }

    /// The summary as an object.
    pub(crate) fn json(&self, users: usize, time: Duration) -> Value {
        let rows = self.rows();
        let [input, cached, output] = self.tokens;
        json!({
            "rows": rows,
            "recorded": self.recorded,
            "replayed": self.replayed,
            "refused": self.refusals(),
            "refused_by_code": self.refused,
            "refusals": self.examples,
            "users": users,
            "tokens": { "input_uncached": input, "cache_read": cached, "output_text": output },
            "charged_usd": self.charged,
            "receivable_usd": self.receivable,
            "charged_before_usd": self.charged_before,
            "seconds": (time.as_secs_f64() * 1_000.0).round() / 1_000.0,
            "rows_per_second": rate(rows, time).round(),
        })
    }
}

fn note(wanted: bool, text: impl Fn() -> String) -> String {
    if wanted { text() } else { String::new() }
}

#[expect(clippy::cast_precision_loss, reason = "for people")]
fn rate(rows: u64, time: Duration) -> f64 {
    rows as f64 / time.as_secs_f64().max(0.001)
}

/// The sum; saturates at all the money there is.
fn plus(a: Money, b: Money) -> Money {
    Money::from_units(a.units().saturating_add(b.units()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally() -> Tally {
        let usage = Usage { cache_read: 4, ..Usage::text(10, 2) };
        let mut tally = Tally::default();
        tally.record(&usage, Money::from_units(7), Money::ZERO, false);
        tally.record(&usage, Money::from_units(9), Money::ZERO, true);
        tally.refuse(3, "bad_row", "input is missing");
        tally
    }

    #[test]
    fn sums_are_kept_apart_by_what_was_charged_now() {
        let mut sum = tally();
        sum.add(tally());
        assert_eq!((sum.recorded, sum.replayed, sum.refusals(), sum.tokens), (2, 2, 2, [40, 16, 8]));
        assert_eq!((sum.charged.units(), sum.charged_before.units()), (14, 18));
        let table = sum.table(1, Duration::from_secs(2));
        for part in [
            "rows                        6\n",
            "replayed                    2   charged 0.00000018 USD earlier\n",
            "bad_row 2\n",
            "16 of them cached\n",
            "charged USD        0.00000014\n",
            "2.0   3 rows/s\n",
        ] {
            assert!(table.contains(part), "{table}");
        }
        let json = sum.json(1, Duration::from_secs(2));
        assert_eq!(
            (json["refused_by_code"]["bad_row"].as_u64(), json["charged_usd"].as_str()),
            (Some(2), Some("0.00000014"))
        );
    }

    #[test]
    fn many_refusals_are_counted_and_some_are_shown() {
        let mut sum = Tally::default();
        for row in 1..=50 {
            let mut one = Tally::default();
            one.refuse(row, "insufficient_balance", "No.");
            sum.add(one);
        }
        let text = sum.refusal_lines();
        assert!(text.starts_with("row 1: insufficient_balance: No.\n") && text.contains("\nand 30 more\n"), "{text}");
        assert!(text.ends_with("once it can\n") && text.lines().count() == SHOWN + 2, "{text}");
    }
}
