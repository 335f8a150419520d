//! The books: every entry with its postings and the running balance behind each of them, and the totals per account.

use std::collections::HashMap;
use std::hash::BuildHasherDefault;
use std::mem;

use modelfaucet_schema::account::Account;
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::{Balance, Event, Recorded};
use modelfaucet_schema::ids::{AppId, WalletId};

use crate::changes::{Changes, KeyHasher};
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, UNITS, Value, Writing, key, optional, set, units};

const ACCOUNT: usize = 0;
const ENTRY: usize = 1;

static TABLES: [Table; 2] = [
    Table {
        name: "account",
        columns: &[
            key("shard", Kind::I16),
            key("account_id", Kind::I32).comment("in the order of first appearance in the shard"),
            set("account", Kind::Text),
            units("debit"),
            units("credit"),
            set("postings", Kind::I64),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &["UNIQUE shard, account"],
    },
    Table {
        name: "entry",
        columns: &[
            key("shard", Kind::I16),
            key("position", Kind::I64),
            set("type", Kind::Text),
            set("wallet_id", Kind::Uuid),
            optional("app_id", Kind::Uuid),
            set("recorded_at", Kind::Time),
            optional("occurred_at", Kind::Time),
            set("request_id", Kind::Text),
            set("account_ids", Kind::I32Array).comment("one per posting"),
            set("amounts", Kind::I64Array).comment("one per posting, debit positive, units of 1e-8 USD"),
            set("balances", Kind::I64Array)
                .comment("the account behind each posting, debit positive, units of 1e-8 USD"),
            units("wallet_amount").comment("what the wallet gained, paid and promotional, units of 1e-8 USD"),
            set("wallet_posted", Kind::I64).comment(UNITS),
        ],
        writing: Writing::Append,
        indexes: &["shard, wallet_id, position"],
    },
];

/// An account's totals.
#[derive(Default)]
struct Totals {
    text: Box<str>,
    debit: i64,
    credit: i64,
    postings: i64,
    position: i64,
    /// Changed in this batch.
    dirty: bool,
    /// Has a row.
    stored: bool,
}

/// The projection `journal`. Keeps the totals of all accounts in memory, about 150 bytes each.
#[derive(Default)]
pub struct Journal {
    shard: i16,
    ids: HashMap<Account, i32, BuildHasherDefault<KeyHasher>>,
    /// By id.
    accounts: Vec<Totals>,
    /// Ids of accounts that changed in this batch.
    dirty: Vec<i32>,
}

impl Journal {
    fn id(&mut self, account: &Account) -> Result<i32, ApplyError> {
        if let Some(id) = self.ids.get(account) {
            return Ok(*id);
        }
        let id = i32::try_from(self.accounts.len()).map_err(|_| ApplyError::Overflow)?;
        self.ids.insert(account.clone(), id);
        self.accounts.push(Totals { text: account.to_string().into(), ..Totals::default() });
        Ok(id)
    }

    /// Adds a posting to its account; the account's id and its balance after it.
    fn post(&mut self, account: &Account, amount: i64, position: i64) -> Result<(i32, i64), ApplyError> {
        let id = self.id(account)?;
        let totals = self
            .accounts
            .get_mut(usize::try_from(id).unwrap_or(usize::MAX))
            .ok_or(ApplyError::MissingRow("account"))?;
        let (debit, credit) =
            if amount > 0 { (amount, 0) } else { (0, amount.checked_neg().ok_or(ApplyError::Overflow)?) };
        totals.debit = totals.debit.checked_add(debit).ok_or(ApplyError::Overflow)?;
        totals.credit = totals.credit.checked_add(credit).ok_or(ApplyError::Overflow)?;
        totals.postings += 1;
        totals.position = position;
        if !totals.dirty {
            totals.dirty = true;
            self.dirty.push(id);
        }
        // Both totals are within 0..=i64::MAX, so their difference is in range.
        Ok((id, totals.debit - totals.credit))
    }
}

/// The app of an event that moves money, if it names one.
fn app_of(event: &Event) -> Option<AppId> {
    match event {
        Event::HoldCaptured(event) => Some(event.call.app_id),
        Event::LateUsageCaptured(event) => Some(event.call.app_id),
        Event::UsageRecorded(event) => Some(event.call.app_id),
        _ => None,
    }
}

/// Stands for the wallet in entries that concern none, such as payouts.
const NO_WALLET: WalletId = WalletId(uuid::Uuid::nil());

/// What the wallet gains by an entry: its accounts are liabilities, so credits are gains.
fn wallet_amount(entry: &JournalEntry, wallet: WalletId) -> Result<i64, ApplyError> {
    let debit = entry.amount_of(&Account::paid(wallet)) + entry.amount_of(&Account::promo(wallet));
    i64::try_from(-debit).map_err(|_| ApplyError::Overflow)
}

impl Projection for Journal {
    fn name(&self) -> &'static str {
        "journal"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn views(&self) -> &'static str {
        include_str!("sql/journal.sql")
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        self.shard = event.shard.0;
        let Some(entry) = event.event.entry() else { return Ok(()) };
        let (wallet, balance) = event.event.balance().unwrap_or((NO_WALLET, Balance::default()));
        let postings = entry.postings();
        let mut ids = Vec::with_capacity(postings.len());
        let mut amounts = Vec::with_capacity(postings.len());
        let mut balances = Vec::with_capacity(postings.len());
        for posting in postings {
            let (id, after) = self.post(&posting.account, posting.amount.units(), event.position.0)?;
            ids.push(id);
            amounts.push(posting.amount.units());
            balances.push(after);
        }
        changes.append(
            ENTRY,
            vec![
                event.shard.0.into(),
                event.position.0.into(),
                event.event.name().into(),
                wallet.0.into(),
                Value::or_null(app_of(&event.event).map(|app| app.0)),
                event.recorded_at.into(),
                Value::or_null(event.event.occurred_at()),
                Value::Text(event.request_id.clone()),
                Value::I32Array(ids.into()),
                Value::I64Array(amounts.into()),
                Value::I64Array(balances.into()),
                wallet_amount(entry, wallet)?.into(),
                balance.posted.into(),
            ],
        );
        Ok(())
    }

    fn flush(&mut self, changes: &mut Changes) {
        for id in self.dirty.drain(..) {
            let Some(totals) = self.accounts.get_mut(usize::try_from(id).unwrap_or(usize::MAX)) else { continue };
            totals.dirty = false;
            let figures = [
                ("debit", totals.debit.into()),
                ("credit", totals.credit.into()),
                ("postings", totals.postings.into()),
                ("position", totals.position.into()),
            ];
            let key = [Value::I16(self.shard), id.into()];
            if mem::replace(&mut totals.stored, true) {
                changes.patch(ACCOUNT, key, figures);
            } else {
                let figures = figures.into_iter().map(|(_, value)| value);
                changes.upsert(
                    ACCOUNT,
                    key.into_iter().chain([Value::Text(totals.text.clone())]).chain(figures).collect(),
                );
            }
        }
    }

    fn remembers(&self) -> &'static [usize] {
        &[ACCOUNT]
    }

    /// Rows come in the order of their ids.
    fn remember(&mut self, _table: usize, row: &[Value]) -> Result<(), ApplyError> {
        let foreign = || ApplyError::ForeignRow("account");
        let [
            _,
            Value::I32(id),
            Value::Text(text),
            Value::I64(debit),
            Value::I64(credit),
            Value::I64(postings),
            Value::I64(position),
        ] = row
        else {
            return Err(foreign());
        };
        if usize::try_from(*id).ok() != Some(self.accounts.len()) {
            return Err(foreign());
        }
        self.ids.insert(text.parse().map_err(|_| foreign())?, *id);
        let (debit, credit, postings, position) = (*debit, *credit, *postings, *position);
        self.accounts.push(Totals {
            text: text.clone(),
            debit,
            credit,
            postings,
            position,
            dirty: false,
            stored: true,
        });
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self::default())
    }
}
