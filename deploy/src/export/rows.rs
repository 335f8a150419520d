//! One line per posting (CSV) or per entry (JSON). Nothing in a line depends on lines before it.

use std::io::Write;

use csv::{Terminator, Writer, WriterBuilder};
use modelfaucet_schema::entry::JournalEntry;
use modelfaucet_schema::event::Recorded;
use modelfaucet_schema::ids::{Position, ShardId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use serde::Serialize;

use super::sums::account_name;
use super::written;
use crate::exit::{Exit, Failure};

const HEADER: [&str; 11] = [
    "position",
    "recorded_at",
    "occurred_at",
    "type",
    "shard",
    "account_code",
    "account",
    "debit",
    "credit",
    "wallet_id",
    "request_id",
];

/// Where rows go.
pub(super) enum Rows<W: Write> {
    Csv(Box<Writer<W>>),
    Json(W),
}

#[derive(Serialize)]
struct EntryLine<'a> {
    shard: ShardId,
    position: Position,
    #[serde(rename = "type")]
    name: &'a str,
    recorded_at: Timestamp,
    occurred_at: Option<Timestamp>,
    stream: String,
    stream_seq: i64,
    actor: String,
    request_id: &'a str,
    wallet_id: Option<WalletId>,
    postings: Vec<PostingLine>,
}

#[derive(Serialize)]
struct PostingLine {
    code: &'static str,
    account: String,
    debit: Money,
    credit: Money,
}

/// A debit or a credit; one of both is zero.
fn sides(amount: Money) -> (Money, Money) {
    if amount.is_negative() {
        (Money::ZERO, amount.checked_neg().unwrap_or(Money::ZERO))
    } else {
        (amount, Money::ZERO)
    }
}

/// A cell that a spreadsheet would take for a formula gets an apostrophe before it.
fn cell(text: &str) -> String {
    if text.starts_with(['=', '+', '-', '@', '\t', '\r']) { format!("'{text}") } else { text.to_owned() }
}

impl<W: Write> Rows<W> {
    pub(super) fn open(out: W, csv: bool) -> Result<Self, Failure> {
        if !csv {
            return Ok(Self::Json(out));
        }
        let mut writer = WriterBuilder::new().terminator(Terminator::CRLF).from_writer(out);
        writer.write_record(HEADER).map_err(|error| csv_failure(&error))?;
        Ok(Self::Csv(Box::new(writer)))
    }

    pub(super) fn entry(&mut self, recorded: &Recorded, entry: &JournalEntry) -> Result<(), Failure> {
        match self {
            Self::Csv(writer) => csv_entry(writer, recorded, entry),
            Self::Json(out) => {
                let line = EntryLine::of(recorded, entry)?;
                let json = serde_json::to_writer(&mut *out, &line).map_err(std::io::Error::from);
                written(json.and_then(|()| out.write_all(b"\n")))
            }
        }
    }

    pub(super) fn close(self) -> Result<(), Failure> {
        match self {
            Self::Csv(mut writer) => written(writer.flush()),
            Self::Json(mut out) => written(out.flush()),
        }
    }
}

fn csv_failure(error: &csv::Error) -> Failure {
    Failure::new(Exit::Temporary, format!("the export cannot be written: {error}"))
}

fn csv_entry<W: Write>(writer: &mut Writer<W>, recorded: &Recorded, entry: &JournalEntry) -> Result<(), Failure> {
    let position = recorded.position.to_string();
    let recorded_at = recorded.recorded_at.to_string();
    let occurred_at = recorded.event.occurred_at().map_or(String::new(), |time| time.to_string());
    let shard = recorded.shard.0.to_string();
    let wallet = recorded.event.balance().map_or(String::new(), |(wallet, _)| wallet.to_string());
    let request = cell(&recorded.request_id);
    for posting in entry.postings() {
        let (debit, credit) = sides(posting.amount);
        let account = account_name(recorded.shard, &posting.account)?;
        let (debit, credit) = (debit.to_string(), credit.to_string());
        let code = posting.account.code().digits();
        let record: [&str; 11] = [
            &position,
            &recorded_at,
            &occurred_at,
            recorded.event.name(),
            &shard,
            code,
            &account,
            &debit,
            &credit,
            &wallet,
            &request,
        ];
        writer.write_record(record).map_err(|error| csv_failure(&error))?;
    }
    Ok(())
}

impl<'a> EntryLine<'a> {
    fn of(recorded: &'a Recorded, entry: &JournalEntry) -> Result<Self, Failure> {
        let posting = |posting: &modelfaucet_schema::entry::Posting| {
            let (debit, credit) = sides(posting.amount);
            let account = account_name(recorded.shard, &posting.account)?;
            Ok(PostingLine { code: posting.account.code().digits(), account, debit, credit })
        };
        Ok(Self {
            shard: recorded.shard,
            position: recorded.position,
            name: recorded.event.name(),
            recorded_at: recorded.recorded_at,
            occurred_at: recorded.event.occurred_at(),
            stream: recorded.stream.to_string(),
            stream_seq: recorded.stream_seq,
            actor: recorded.actor.to_string(),
            request_id: &recorded.request_id,
            wallet_id: recorded.event.balance().map(|(wallet, _)| wallet),
            postings: entry.postings().iter().map(posting).collect::<Result<_, Failure>>()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_that_would_be_formulas_are_not() {
        for text in ["=1+1", "+1", "-1", "@x", "\tx", "\rx"] {
            assert_eq!(cell(text), format!("'{text}"));
        }
        assert_eq!(cell("req_1=2"), "req_1=2");
    }
}
