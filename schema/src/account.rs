//! The chart of accounts. An account is a code and, where it is kept per customer, developer, provider or reason, a subject.
//!
//! House accounts exist once per shard; the shard is the event's and is added where accounts are printed.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::ids::{DeveloperId, ShardId, WalletId};
use crate::text;

/// On which side an account grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NormalSide {
    /// Assets and expenses.
    Debit,
    /// Liabilities, equity and income.
    Credit,
}

/// What an account is kept per.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Per {
    House,
    Wallet,
    Developer,
    Name,
}

macro_rules! chart {
    ($($(#[$doc:meta])* $variant:ident = $code:literal, $name:literal, $side:ident, $per:ident;)+) => {
        /// A code of the chart of accounts.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum AccountCode {
            $($(#[$doc])* $variant,)+
        }

        impl AccountCode {
            /// The whole chart, by code.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The four digits.
            pub const fn digits(self) -> &'static str {
                match self { $(Self::$variant => $code,)+ }
            }

            /// The name, levels divided by colons.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }

            /// The side on which it grows.
            pub const fn normal_side(self) -> NormalSide {
                match self { $(Self::$variant => NormalSide::$side,)+ }
            }

            const fn per(self) -> Per {
                match self { $(Self::$variant => Per::$per,)+ }
            }

            fn from_digits(digits: &str) -> Option<Self> {
                match digits { $($code => Some(Self::$variant),)+ _ => None }
            }
        }
    };
}

chart! {
    /// Must equal Stripe's balance, available plus pending.
    StripeBalance = "1010", "Assets:Stripe:Balance", Debit, House;
    /// Must equal the bank statement.
    BankOperating = "1020", "Assets:Bank:Operating", Debit, House;
    /// Webhook against balance transaction: zero two days after the charge.
    StripeCharges = "1110", "Assets:Clearing:StripeCharges", Debit, House;
    /// Money on its way from Stripe to the bank.
    StripePayouts = "1120", "Assets:Clearing:StripePayouts", Debit, House;
    /// Money that Stripe holds back for open disputes.
    DisputesWithheld = "1130", "Assets:Disputes:Withheld", Debit, House;
    /// What a customer owes because the wallet could not pay.
    Receivable = "1200", "Assets:Receivable:Chargebacks", Debit, Wallet;
    /// Cost of credit that was given away and is not used yet.
    DeferredPromoCost = "1400", "Assets:Deferred:PromoCost", Debit, House;
    /// Paid credit of a customer: a contract liability.
    CustomerPaid = "2010", "Liabilities:CustomerCredits:Paid", Credit, Wallet;
    /// Credit given away to a customer.
    CustomerPromo = "2020", "Liabilities:CustomerCredits:Promo", Credit, Wallet;
    /// Refunds that left the wallet and are not confirmed by the payment provider.
    RefundsInFlight = "2030", "Liabilities:RefundsInFlight", Credit, House;
    /// What we metered and the provider has not billed.
    AccruedProvider = "2110", "Liabilities:Accrued:Provider", Credit, Name;
    /// Revenue share owed to a developer; never negative.
    DeveloperPayable = "2210", "Liabilities:Payable:Developer", Credit, Developer;
    /// Payouts on their way.
    PayoutsInFlight = "2220", "Liabilities:PayoutsInFlight", Credit, House;
    /// Balances carried in.
    OpeningEquity = "3010", "Equity:Opening", Credit, House;
    /// Usage at retail price, provider paid by us.
    UsagePlatform = "4010", "Income:Usage:Platform", Credit, House;
    /// Usage at retail price, provider paid by the developer's key.
    UsageDeveloperKey = "4020", "Income:Usage:DeveloperKey", Credit, House;
    /// Fees for calls on the user's own key.
    FeesByok = "4030", "Income:Fees:BYOK", Credit, House;
    /// Fees for calls to the user's own machine.
    FeesLocal = "4040", "Income:Fees:Local", Credit, House;
    /// Paid credit that expired.
    Breakage = "4090", "Income:Breakage", Credit, House;
    /// Usage that was paid with promotional credit.
    ContraPromo = "4095", "Income:ContraPromo", Debit, House;
    /// Provider cost.
    Upstream = "5010", "Expenses:COGS:Upstream", Debit, House;
    /// Provider cost owed to the developer whose key was used.
    UpstreamReimbursed = "5015", "Expenses:COGS:UpstreamReimbursed", Debit, House;
    /// The developer's share of the margin.
    ChannelShare = "5020", "Expenses:COGS:ChannelShare", Debit, House;
    /// Provider cost that no customer bears.
    Unrecovered = "5030", "Expenses:COGS:Unrecovered", Debit, House;
    /// What the payment provider keeps of charges, and its further fees.
    ProcessorFees = "5110", "Expenses:ProcessorFees", Debit, House;
    /// What the payment provider asks for a dispute.
    DisputeFees = "5120", "Expenses:DisputeFees", Debit, House;
    /// What a payout to a developer costs.
    PayoutFees = "5130", "Expenses:PayoutFees", Debit, House;
    /// Receivables written off.
    BadDebt = "5210", "Expenses:BadDebt", Debit, House;
    /// Goodwill and corrections, by reason.
    Adjustments = "5220", "Expenses:Adjustments", Debit, Name;
}

/// Whose account it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Subject {
    /// The house's, one per shard.
    House,
    /// A customer's.
    Wallet(WalletId),
    /// A developer's.
    Developer(DeveloperId),
    /// A provider's or a reason's: lower-case letters, digits and `-`.
    Name(Name),
}

/// A place where value sits. Stored as `2010:<wallet id>`, `2110:openai` or `4010`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Account {
    code: AccountCode,
    subject: Subject,
}

impl Account {
    /// A house account. Codes that are kept per subject get the name `other`.
    pub fn house(code: AccountCode) -> Self {
        debug_assert!(code.per() == Per::House, "{code:?} needs a subject");
        Self { code, subject: Subject::House }
    }

    /// Paid credit of a wallet.
    pub fn paid(wallet: WalletId) -> Self {
        Self { code: AccountCode::CustomerPaid, subject: Subject::Wallet(wallet) }
    }

    /// Promotional credit of a wallet.
    pub fn promo(wallet: WalletId) -> Self {
        Self { code: AccountCode::CustomerPromo, subject: Subject::Wallet(wallet) }
    }

    /// What the owner of a wallet owes.
    pub fn receivable(wallet: WalletId) -> Self {
        Self { code: AccountCode::Receivable, subject: Subject::Wallet(wallet) }
    }

    /// What a developer is owed.
    pub fn developer(developer: DeveloperId) -> Self {
        Self { code: AccountCode::DeveloperPayable, subject: Subject::Developer(developer) }
    }

    /// Accrued cost of a provider.
    pub fn accrued(provider: Name) -> Self {
        Self { code: AccountCode::AccruedProvider, subject: Subject::Name(provider) }
    }

    /// Adjustments for one reason.
    pub fn adjustments(reason: Name) -> Self {
        Self { code: AccountCode::Adjustments, subject: Subject::Name(reason) }
    }

    /// The code.
    pub fn code(&self) -> AccountCode {
        self.code
    }

    /// Whose it is.
    pub fn subject(&self) -> &Subject {
        &self.subject
    }

    /// The full name as the books print it: every part begins with a capital or digit, the shard comes last.
    pub fn full_name(&self, shard: ShardId) -> String {
        let name = self.code.name();
        let shard = format!("S{:02}", shard.0);
        match &self.subject {
            Subject::House => format!("{name}:{shard}"),
            // A wallet lives in one shard, so its accounts need no shard of their own.
            Subject::Wallet(wallet) => format!("{name}:W-{wallet}"),
            Subject::Developer(developer) => format!("{name}:D-{developer}:{shard}"),
            Subject::Name(subject) => format!("{name}:{}:{shard}", subject.capitalized()),
        }
    }
}

impl fmt::Display for Account {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digits = self.code.digits();
        match &self.subject {
            Subject::House => f.write_str(digits),
            Subject::Wallet(wallet) => write!(f, "{digits}:{wallet}"),
            Subject::Developer(developer) => write!(f, "{digits}:{developer}"),
            Subject::Name(name) => write!(f, "{digits}:{name}"),
        }
    }
}

impl FromStr for Account {
    type Err = InvalidAccount;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidAccount(text.to_owned());
        let (digits, subject) = match text.split_once(':') {
            Some((digits, subject)) => (digits, Some(subject)),
            None => (text, None),
        };
        let code = AccountCode::from_digits(digits).ok_or_else(invalid)?;
        let subject = match (code.per(), subject) {
            (Per::House, None) => Subject::House,
            (Per::Wallet, Some(id)) => Subject::Wallet(id.parse().map_err(|_| invalid())?),
            (Per::Developer, Some(id)) => Subject::Developer(id.parse().map_err(|_| invalid())?),
            (Per::Name, Some(name)) => Subject::Name(name.parse().map_err(|_| invalid())?),
            _ => return Err(invalid()),
        };
        Ok(Self { code, subject })
    }
}

impl Serialize for Account {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::write(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Account {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "")
    }
}

/// A text that names no account of the chart.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an account (expected CODE or CODE:subject)")]
pub struct InvalidAccount(String);

/// A short name of a provider or reason: 1 to 64 of `a-z 0-9 -`, beginning with a letter or digit.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, utoipa::ToSchema)]
#[serde(transparent)]
#[schema(value_type = String, example = "openai", pattern = "^[a-z0-9][a-z0-9-]{0,63}$")]
pub struct Name(Box<str>);

impl Name {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn capitalized(&self) -> String {
        let mut chars = self.0.chars();
        chars.next().map(|first| first.to_ascii_uppercase()).into_iter().chain(chars).collect()
    }
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Name {
    type Err = InvalidName;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let valid = (1..=64).contains(&text.len())
            && !text.starts_with('-')
            && text.bytes().all(|byte| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'-'));
        if valid { Ok(Self(text.into())) } else { Err(InvalidName) }
    }
}

impl<'de> Deserialize<'de> for Name {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "")
    }
}

/// A text that is not a [`Name`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("name must be 1 to 64 of a-z, 0-9 and '-', beginning with a letter or digit")]
pub struct InvalidName;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn accounts_survive_their_text_form() {
        let wallet = WalletId(uuid::Uuid::from_u128(1));
        let openai: Name = "openai".parse().unwrap();
        for (account, text, name) in [
            (Account::house(AccountCode::UsagePlatform), "4010".to_owned(), "Income:Usage:Platform:S07".to_owned()),
            (Account::paid(wallet), format!("2010:{wallet}"), format!("Liabilities:CustomerCredits:Paid:W-{wallet}")),
            (Account::accrued(openai), "2110:openai".to_owned(), "Liabilities:Accrued:Provider:Openai:S07".to_owned()),
        ] {
            assert_eq!(account.to_string(), text);
            assert_eq!(account.full_name(ShardId(7)), name);
            assert_eq!(text.parse::<Account>().unwrap(), account);
        }
        for text in ["", "9999", "2010", "4010:x", "2110:OpenAI", "2010:nobody"] {
            assert!(text.parse::<Account>().is_err(), "{text}");
        }
    }

    #[test]
    fn codes_are_unique_and_ordered() {
        assert!(AccountCode::ALL.windows(2).all(|pair| pair[0].digits() < pair[1].digits()));
    }
}
