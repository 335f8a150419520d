//! Control sums: how much was read, what every account comes to, and that debits equal credits.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use modelfaucet_schema::account::Account;
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::ids::ShardId;

use super::Place;
use super::entries::date_of;
use crate::exit::{Exit, Failure};

/// Units of 1e-8 USD as dollars with eight decimals; wider than [`modelfaucet_schema::money::Money`], since sums are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Usd(pub(super) i128);

impl fmt::Display for Usd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let units = self.0.unsigned_abs();
        let sign = if self.0 < 0 { "-" } else { "" };
        write!(f, "{sign}{}.{:08}", units / 100_000_000, units % 100_000_000)
    }
}

/// What an account comes to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Totals {
    opening: i128,
    closing: i128,
}

/// Sums over the entries of a period, and balances at its ends.
#[derive(Debug, Default)]
pub(super) struct Sums {
    pub(super) entries: u64,
    pub(super) postings: u64,
    pub(super) debit: i128,
    pub(super) credit: i128,
    /// First and last day with an entry.
    pub(super) days: Option<(i64, i64)>,
    accounts: HashMap<(ShardId, Account), Totals>,
}

impl Sums {
    pub(super) fn add(&mut self, place: Place, shard: ShardId, entry: &JournalEntry) {
        if let Place::Within(day) = place {
            self.entries += 1;
            self.days = Some(self.days.map_or((day, day), |(first, last)| (first.min(day), last.max(day))));
        }
        for posting in entry.postings() {
            let units = i128::from(posting.amount.units());
            let totals = self.accounts.entry((shard, posting.account.clone())).or_default();
            totals.closing += units;
            if place == Place::Before {
                totals.opening += units;
                continue;
            }
            self.postings += 1;
            self.debit += units.max(0);
            self.credit += (-units).max(0);
        }
    }

    /// Balances by full name: opening and closing, debit positive.
    pub(super) fn balances(&self) -> Result<BTreeMap<String, (i128, i128)>, Failure> {
        let mut balances = BTreeMap::new();
        for ((shard, account), totals) in &self.accounts {
            let (opening, closing) = balances.entry(account_name(*shard, account)?).or_insert((0, 0));
            *opening += totals.opening;
            *closing += totals.closing;
        }
        Ok(balances)
    }
}

/// The full name of an account, as hledger and beancount both take it.
pub(super) fn account_name(shard: ShardId, account: &Account) -> Result<String, Failure> {
    let name = account.full_name(shard);
    let valid = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_uppercase() || first.is_ascii_digit())
            && part.chars().all(|char| char.is_ascii_alphanumeric() || char == '-')
    };
    if name.split(':').all(valid) {
        Ok(name)
    } else {
        Err(Failure::new(Exit::Violated, format!("{name:?} is no name for an account in books")))
    }
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, postings, debit, credit, .. } = self;
        if let Some((first, last)) = self.days {
            write!(f, "{} to {}: ", date_of(first), date_of(last))?;
        }
        let accounts = self.accounts.len();
        write!(
            f,
            "{entries} entries, {postings} postings, {accounts} accounts, debit {}, credit {} USD",
            Usd(*debit),
            Usd(*credit)
        )
    }
}

#[cfg(test)]
mod tests {
    use modelfaucet_schema::account::{AccountCode, Name};

    use super::*;

    #[test]
    fn dollars_have_eight_decimals_and_no_float() {
        for (units, text) in [
            (0, "0.00000000"),
            (-1, "-0.00000001"),
            (1_234_567_890_100_000_001, "12345678901.00000001"),
            (-100_000_000, "-1.00000000"),
            (i128::from(i64::MAX) * 1_000, "92233720368547.75807000"),
        ] {
            assert_eq!(Usd(units).to_string(), text);
        }
    }

    #[test]
    fn every_account_of_the_chart_has_a_name_that_books_take() {
        let name: Name = "0-ab-1".parse().unwrap();
        let wallet = modelfaucet_schema::ids::WalletId::generate();
        let developer = modelfaucet_schema::ids::DeveloperId::generate();
        for code in AccountCode::ALL {
            let account = [
                code.digits().to_string(),
                format!("{}:{wallet}", code.digits()),
                format!("{}:{name}", code.digits()),
                format!("{}:{developer}", code.digits()),
            ]
            .iter()
            .find_map(|text| text.parse::<Account>().ok())
            .unwrap();
            assert!(account_name(ShardId(7), &account).is_ok(), "{account}");
        }
    }
}
