//! Journal entries: postings that sum to zero. An unbalanced entry cannot be built, not even by reading one from storage.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

use crate::account::Account;
use crate::money::Money;

/// One line of an entry: an account and an amount, debit positive, credit negative, never zero.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Posting {
    /// Where the value sits.
    pub account: Account,
    /// Debit positive, credit negative.
    pub amount: Money,
}

/// Postings that sum to zero; empty for an event that moves no money. Stored as `[["2010:…","0.00030001"],["4010","-0.00030001"]]`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalEntry(Vec<Posting>);

impl JournalEntry {
    /// Checks that the postings sum to zero and none of them is zero.
    ///
    /// # Errors
    /// [`Unbalanced`] otherwise.
    pub fn balanced(postings: Vec<Posting>) -> Result<Self, Unbalanced> {
        if postings.iter().any(|posting| posting.amount.is_zero()) {
            return Err(Unbalanced::ZeroPosting);
        }
        let sum: i128 = postings.iter().map(|posting| i128::from(posting.amount.units())).sum();
        if sum == 0 { Ok(Self(postings)) } else { Err(Unbalanced::Sum(sum)) }
    }

    /// The postings.
    pub fn postings(&self) -> &[Posting] {
        &self.0
    }

    /// Does it move nothing?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The sum of all postings to `account`, debit positive.
    pub fn amount_of(&self, account: &Account) -> i128 {
        self.0
            .iter()
            .filter(|posting| posting.account == *account)
            .map(|posting| i128::from(posting.amount.units()))
            .sum()
    }
}

/// Collects debits and credits, leaving out what is zero; [`EntryBuilder::build`] refuses what does not balance.
#[derive(Debug, Default)]
pub struct EntryBuilder(Vec<Posting>);

impl EntryBuilder {
    /// An empty entry.
    pub fn new() -> Self {
        Self(Vec::with_capacity(6))
    }

    /// Adds a debit of `amount`.
    #[must_use]
    pub fn debit(mut self, account: Account, amount: Money) -> Self {
        if !amount.is_zero() {
            self.0.push(Posting { account, amount });
        }
        self
    }

    /// Adds a credit of `amount`.
    #[must_use]
    pub fn credit(self, account: Account, amount: Money) -> Self {
        let opposite = amount.checked_neg().unwrap_or(Money::ZERO);
        self.debit(account, opposite)
    }

    /// The entry.
    ///
    /// # Errors
    /// [`Unbalanced`] if debits and credits differ.
    pub fn build(self) -> Result<JournalEntry, Unbalanced> {
        JournalEntry::balanced(self.0)
    }
}

/// Postings that are not an entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unbalanced {
    /// Debits minus credits, in units of 1e-8 USD.
    #[error("postings do not sum to zero but to {0} units")]
    Sum(i128),
    /// A posting of nothing.
    #[error("a posting has the amount zero")]
    ZeroPosting,
}

impl Serialize for Posting {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        (&self.account, &self.amount).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for Posting {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let (account, amount) = Deserialize::deserialize(deserializer)?;
        Ok(Self { account, amount })
    }
}

impl Serialize for JournalEntry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for JournalEntry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Self::balanced(Vec::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::account::AccountCode;

    #[test]
    fn an_unbalanced_entry_cannot_be_built_or_read() {
        let one = Money::from_units(1);
        let income = || Account::house(AccountCode::UsagePlatform);
        let cost = || Account::house(AccountCode::Upstream);
        assert_eq!(EntryBuilder::new().debit(cost(), one).build(), Err(Unbalanced::Sum(1)));
        assert!(EntryBuilder::new().debit(cost(), one).credit(income(), one).build().is_ok());
        assert!(serde_json::from_str::<JournalEntry>(r#"[["5010","0.00000001"]]"#).is_err());
        assert!(serde_json::from_str::<JournalEntry>(r#"[["5010","0.00000000"]]"#).is_err());
    }

    #[test]
    fn a_zero_posting_is_left_out() {
        let entry = EntryBuilder::new().debit(Account::house(AccountCode::Upstream), Money::ZERO).build().unwrap();
        assert!(entry.is_empty());
    }
}
