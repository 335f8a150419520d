//! Books for hledger and beancount: transactions by day, each amount with eight decimals, and at the end an exact assertion of
//! every balance. Usage is summed per day, kind and account unless details are asked for. No text from outside gets into a book.

use std::collections::BTreeMap;
use std::io::Write;

use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::{Event, Recorded};
use modelfaucet_schema::ids::ShardId;

use super::entries::{LogHead, date_of};
use super::sums::{Sums, Usd, account_name};
use super::{Period, line, written};
use crate::exit::Failure;

/// Whose book it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Style {
    Hledger,
    Beancount,
}

/// Usage of one day, shard and kind.
#[derive(Default)]
struct Usage {
    first: i64,
    last: i64,
    entries: u64,
    accounts: BTreeMap<String, i128>,
}

/// A book that is being written.
pub(super) struct Book<W: Write> {
    out: W,
    style: Style,
    detail: bool,
    /// The day that is being written.
    day: Option<i64>,
    usage: BTreeMap<(ShardId, &'static str), Usage>,
}

impl<W: Write> Book<W> {
    /// Writes head, accounts and, behind an earlier period, the balances that it begins with.
    pub(super) fn open(
        out: W,
        style: Style,
        detail: bool,
        heads: &[LogHead],
        sums: &Sums,
        period: Period,
    ) -> Result<Self, Failure> {
        let mut book = Self { out, style, detail, day: None, usage: BTreeMap::new() };
        book.head(heads, sums)?;
        let balances = sums.balances()?;
        let first = period.from.or(sums.days.map(|(first, _)| first)).unwrap_or(0);
        for account in balances.keys() {
            match style {
                Style::Hledger => line(&mut book.out, format_args!("account {account}"))?,
                Style::Beancount => line(&mut book.out, format_args!("{} open {account} USD", date_of(first)))?,
            }
        }
        let opening: Vec<_> = balances.iter().filter(|(_, (opening, _))| *opening != 0).collect();
        if !opening.is_empty() {
            book.title(first, "opening balances", None)?;
            for (account, (opening, _)) in opening {
                book.posting(account, *opening)?;
            }
        }
        Ok(book)
    }

    fn head(&mut self, heads: &[LogHead], sums: &Sums) -> Result<(), Failure> {
        let out = &mut self.out;
        let usage = if self.detail { "every call by itself" } else { "usage summed per day, kind and account" };
        line(out, format_args!("; ModelFaucet Ledger: the journal by UTC day of recording, {usage}"))?;
        for (shard, log_id, head) in heads {
            line(out, format_args!("; log {shard}: {log_id}, positions 1..{}, head {}", head.position, head.hash))?;
        }
        line(out, format_args!("; control sums: {sums}"))?;
        match self.style {
            Style::Hledger => line(out, format_args!("decimal-mark .\ncommodity 1000.00000000 USD\n")),
            Style::Beancount => line(
                out,
                format_args!(
                    "option \"title\" \"ModelFaucet Ledger\"\noption \"operating_currency\" \"USD\"\noption \"tolerance_multiplier\" \"0\"\n"
                ),
            ),
        }
    }

    /// Takes the next entry; days come in order.
    pub(super) fn entry(&mut self, day: i64, recorded: &Recorded, entry: &JournalEntry) -> Result<(), Failure> {
        if self.day != Some(day) {
            self.end_day()?;
            self.day = Some(day);
        }
        let used =
            matches!(recorded.event, Event::HoldCaptured(_) | Event::LateUsageCaptured(_) | Event::UsageRecorded(_));
        let (shard, position, name) = (recorded.shard, recorded.position.0, recorded.event.name());
        if used && !self.detail {
            let usage =
                self.usage.entry((shard, name)).or_insert_with(|| Usage { first: position, ..Usage::default() });
            usage.last = position;
            usage.entries += 1;
            for posting in entry.postings() {
                *usage.accounts.entry(account_name(shard, &posting.account)?).or_default() +=
                    i128::from(posting.amount.units());
            }
            return Ok(());
        }
        self.title(day, name, Some((shard, position, position)))?;
        for posting in entry.postings() {
            self.posting(&account_name(shard, &posting.account)?, i128::from(posting.amount.units()))?;
        }
        Ok(())
    }

    fn end_day(&mut self) -> Result<(), Failure> {
        let Some(day) = self.day else { return Ok(()) };
        for ((shard, name), usage) in std::mem::take(&mut self.usage) {
            let narration = format!("{name}, {} entries", usage.entries);
            self.title(day, &narration, Some((shard, usage.first, usage.last)))?;
            for (account, units) in usage.accounts.iter().filter(|(_, units)| **units != 0) {
                self.posting(account, *units)?;
            }
        }
        Ok(())
    }

    /// Begins a transaction that tells about positions of a shard.
    fn title(&mut self, day: i64, narration: &str, source: Option<(ShardId, i64, i64)>) -> Result<(), Failure> {
        let (out, date) = (&mut self.out, date_of(day));
        let positions = source.map(|(shard, first, last)| {
            (shard, if first == last { first.to_string() } else { format!("{first}..{last}") })
        });
        match (self.style, positions) {
            (Style::Hledger, None) => line(out, format_args!("\n{date} * {narration}")),
            (Style::Hledger, Some((shard, positions))) => {
                line(out, format_args!("\n{date} * {narration}  ; shard: {shard}, positions: {positions}"))
            }
            (Style::Beancount, None) => line(out, format_args!("\n{date} * \"{narration}\"")),
            (Style::Beancount, Some((shard, positions))) => line(
                out,
                format_args!("\n{date} * \"{narration}\"\n  shard: \"{shard}\"\n  positions: \"{positions}\""),
            ),
        }
    }

    fn posting(&mut self, account: &str, units: i128) -> Result<(), Failure> {
        line(&mut self.out, format_args!("    {account}  {} USD", Usd(units)))
    }

    /// Writes what is left and asserts every balance, on the day after the last entry.
    pub(super) fn close(mut self, sums: &Sums) -> Result<(), Failure> {
        self.end_day()?;
        let balances = sums.balances()?;
        let Some(last) = self.day.or(sums.days.map(|(_, last)| last)) else { return written(self.out.flush()) };
        let date = date_of(last + 1);
        match self.style {
            Style::Hledger => line(&mut self.out, format_args!("\n{date} * closing balances, asserted"))?,
            Style::Beancount => line(&mut self.out, format_args!(""))?,
        }
        for (account, (_, closing)) in &balances {
            let closing = Usd(*closing);
            match self.style {
                Style::Hledger => line(&mut self.out, format_args!("    {account}  0.00000000 USD = {closing} USD"))?,
                Style::Beancount => line(&mut self.out, format_args!("{date} balance {account}  {closing} ~ 0 USD"))?,
            }
        }
        written(self.out.flush())
    }
}

#[cfg(test)]
mod tests {
    use modelfaucet_schema::account::{Account, AccountCode};
    use modelfaucet_schema::entry::EntryBuilder;
    use modelfaucet_schema::event::{Actor, Balance, PromoGranted};
    use modelfaucet_schema::hash::ChainHash;
    use modelfaucet_schema::ids::{LogId, Position, WalletId};
    use modelfaucet_schema::log::Head;
    use modelfaucet_schema::money::Money;
    use modelfaucet_schema::time::Timestamp;
    use uuid::Uuid;

    use super::super::Place;
    use super::*;

    /// Half a dollar given away.
    fn granted(position: i64) -> Recorded {
        let (wallet_id, amount) = (WalletId(Uuid::nil()), Money::from_units(50_000_000));
        let deferred = Account::house(AccountCode::DeferredPromoCost);
        let entry =
            EntryBuilder::new().debit(deferred, amount).credit(Account::promo(wallet_id), amount).build().unwrap();
        let balance = Balance::default();
        let reason = "launch".into();
        let event = PromoGranted { promo_id: None, wallet_id, amount, reason, expires_at: None, entry, balance }.into();
        Recorded {
            shard: ShardId(0),
            position: Position(position),
            stream: Event::stream(&event),
            stream_seq: 1,
            recorded_at: Timestamp::default(),
            actor: Actor::Admin,
            request_id: "r".into(),
            key: None,
            event,
        }
    }

    fn book(style: Style) -> String {
        let heads = [(ShardId(0), LogId(Uuid::nil()), Head { position: Position(9), hash: ChainHash([0; 32]) })];
        let (period, mut sums) = (Period { from: Some(10), to: None }, Sums::default());
        let entries = [(Place::Before, granted(3)), (Place::Within(11), granted(5)), (Place::Within(13), granted(7))];
        for (place, recorded) in &entries {
            sums.add(*place, recorded.shard, recorded.event.entry().unwrap());
        }
        let mut text = Vec::new();
        let mut book = Book::open(&mut text, style, false, &heads, &sums, period).unwrap();
        for (place, recorded) in &entries {
            if let Place::Within(day) = place {
                book.entry(*day, recorded, recorded.event.entry().unwrap()).unwrap();
            }
        }
        book.close(&sums).unwrap();
        String::from_utf8(text).unwrap()
    }

    const WALLET: &str = "Liabilities:CustomerCredits:Promo:W-00000000-0000-0000-0000-000000000000";

    #[test]
    fn a_later_period_opens_with_balances_and_closes_with_assertions() {
        let hledger = book(Style::Hledger);
        let body = format!(
            "account {WALLET}

1970-01-11 * opening balances
    Assets:Deferred:PromoCost:S00  0.50000000 USD
    {WALLET}  -0.50000000 USD

1970-01-12 * PromoGranted  ; shard: s00, positions: 5
    Assets:Deferred:PromoCost:S00  0.50000000 USD
    {WALLET}  -0.50000000 USD

1970-01-14 * PromoGranted  ; shard: s00, positions: 7
    Assets:Deferred:PromoCost:S00  0.50000000 USD
    {WALLET}  -0.50000000 USD

1970-01-15 * closing balances, asserted
    Assets:Deferred:PromoCost:S00  0.00000000 USD = 1.50000000 USD
    {WALLET}  0.00000000 USD = -1.50000000 USD
"
        );
        assert!(hledger.ends_with(&body), "{hledger}");
        let sums = "2 entries, 4 postings, 2 accounts, debit 1.00000000, credit 1.00000000 USD";
        assert!(hledger.contains(sums), "{hledger}");
    }

    #[test]
    fn beancount_gets_the_same_in_its_own_words() {
        let beancount = book(Style::Beancount);
        for line in [
            format!("1970-01-11 open {WALLET} USD"),
            "1970-01-11 * \"opening balances\"".to_owned(),
            "1970-01-12 * \"PromoGranted\"".to_owned(),
            "  positions: \"5\"".to_owned(),
            format!("1970-01-15 balance {WALLET}  -1.50000000 ~ 0 USD"),
        ] {
            assert!(beancount.lines().any(|found| found == line), "{line} in {beancount}");
        }
    }
}
