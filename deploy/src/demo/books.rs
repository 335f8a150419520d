//! Statement and trial balance as tables, added up here once more.

use modelfaucet_schema::money::Money;
use serde_json::Value;

use super::figures::{minus, plus};
use super::story::{money, text};

/// How many lines are shown of each end of a statement.
const ENDS: usize = 3;

/// A wallet's statement, oldest line first.
pub(super) struct Statement(Vec<Line>);

struct Line {
    position: String,
    event: String,
    amount: Money,
    balance: Money,
}

/// Reads an answer, which has the newest line first.
pub(super) fn statement(answer: &Value) -> Statement {
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let line = |item| Line {
        position: text(item, "/position"),
        event: text(item, "/type"),
        amount: money(item, "/amount_usd"),
        balance: money(item, "/balance_usd"),
    };
    Statement(items.iter().rev().map(line).collect())
}

impl Statement {
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The sum of all amounts, or what is wrong if a line's balance is not the sum so far.
    pub(super) fn running(&self) -> String {
        let mut sum = Money::ZERO;
        for line in &self.0 {
            sum = plus(sum, line.amount);
            if sum != line.balance {
                return format!("{} at position {}", line.balance, line.position);
            }
        }
        sum.to_string()
    }

    pub(super) fn print(&self) {
        println!("      {:>8}  {:20} {:>16} {:>16}", "position", "event", "amount", "balance");
        let left_out = self.0.len().saturating_sub(2 * ENDS);
        for (index, line) in self.0.iter().enumerate() {
            if index == ENDS && left_out > 0 {
                println!("      {:>8}  {left_out} more", "…");
            }
            if index < ENDS || index >= ENDS + left_out {
                println!("      {:>8}  {:20} {:>16} {:>16}", line.position, line.event, line.amount, line.balance);
            }
        }
    }
}

/// Debits and credits by code.
pub(super) struct TrialBalance(Vec<Row>);

struct Row {
    code: String,
    name: String,
    debit: Money,
    credit: Money,
}

/// Reads an answer.
pub(super) fn trial_balance(answer: &Value) -> TrialBalance {
    let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
    let row = |item| Row {
        code: text(item, "/code"),
        name: text(item, "/name"),
        debit: money(item, "/debit_usd"),
        credit: money(item, "/credit_usd"),
    };
    TrialBalance(items.iter().map(row).collect())
}

impl TrialBalance {
    fn totals(&self) -> (Money, Money) {
        self.0
            .iter()
            .fold((Money::ZERO, Money::ZERO), |(debit, credit), row| (plus(debit, row.debit), plus(credit, row.credit)))
    }

    /// All debits minus all credits; books without rows are no books.
    pub(super) fn sum(&self) -> String {
        let (debit, credit) = self.totals();
        if debit.is_zero() { "no debits".to_owned() } else { minus(debit, credit).to_string() }
    }

    pub(super) fn print(&self) {
        println!("      {:4}  {:36} {:>18} {:>18}", "code", "account", "debit", "credit");
        for row in &self.0 {
            println!("      {:4}  {:36} {:>18} {:>18}", row.code, row.name, row.debit, row.credit);
        }
        let (debit, credit) = self.totals();
        println!("      {:4}  {:36} {debit:>18} {credit:>18}", "", "all");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_statement_must_run_from_line_to_line() {
        let line = |position: u8, amount: &str, balance: &str| json!({ "position": position, "type": "E", "amount_usd": amount, "balance_usd": balance });
        let answer = json!({ "items": [line(9, "-0.00000003", "0.99999997"), line(4, "1.00000000", "1.00000000")] });
        assert_eq!(statement(&answer).running(), "0.99999997");
        let answer = json!({ "items": [line(9, "-0.00000003", "0.99999998"), line(4, "1.00000000", "1.00000000")] });
        assert_eq!(statement(&answer).running(), "0.99999998 at position 9");
    }

    #[test]
    fn books_add_up_or_do_not() {
        let row = |debit: &str, credit: &str| json!({ "code": "2010", "name": "N", "debit_usd": debit, "credit_usd": credit });
        assert_eq!(trial_balance(&json!({ "items": [row("1.0", "0.4"), row("0", "0.6")] })).sum(), "0.00000000");
        assert_eq!(trial_balance(&json!({ "items": [row("1.0", "0.4")] })).sum(), "0.60000000");
        assert_eq!(trial_balance(&json!({ "items": [] })).sum(), "no debits");
    }
}
