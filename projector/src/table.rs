//! Read tables: what they look like, what a cell holds, and a digest of their content that does not depend on where they are kept.

use std::fmt::Write as _;

use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use sha2::{Digest as _, Sha256};
use uuid::Uuid;

/// Microseconds in a day.
const DAY_MICROS: i64 = 86_400_000_000;

/// What a column holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `smallint`
    I16,
    /// `integer`
    I32,
    /// `bigint`
    I64,
    /// `boolean`
    Bool,
    /// `text`, compared byte by byte
    Text,
    /// `uuid`
    Uuid,
    /// `bytea`
    Bytes,
    /// `timestamptz`
    Time,
    /// `date`, UTC
    Date,
    /// `integer[]`
    I32Array,
    /// `bigint[]`
    I64Array,
}

impl Kind {
    /// The `PostgreSQL` type.
    pub const fn sql(self) -> &'static str {
        match self {
            Self::I16 => "smallint",
            Self::I32 => "integer",
            Self::I64 => "bigint",
            Self::Bool => "boolean",
            Self::Text => "text COLLATE \"C\"",
            Self::Uuid => "uuid",
            Self::Bytes => "bytea",
            Self::Time => "timestamptz",
            Self::Date => "date",
            Self::I32Array => "integer[]",
            Self::I64Array => "bigint[]",
        }
    }
}

/// What happens to a column when a row of the same key is written again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    /// Part of the key.
    Key,
    /// The last value wins.
    Set,
    /// The values are added; only for [`Kind::I64`].
    Add,
}

/// A column.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
    /// What a second write does to it.
    pub rule: Rule,
    /// May it be null?
    pub nullable: bool,
    /// Becomes the column's comment in the database; empty for none.
    pub comment: &'static str,
}

/// Comment of columns that hold money.
pub const UNITS: &str = "units of 1e-8 USD";

/// A column of the key.
pub const fn key(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, rule: Rule::Key, nullable: false, comment: "" }
}

/// A column whose last value wins.
pub const fn set(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, rule: Rule::Set, nullable: false, comment: "" }
}

/// A column whose last value wins and which may be null.
pub const fn optional(name: &'static str, kind: Kind) -> Column {
    Column { name, kind, rule: Rule::Set, nullable: true, comment: "" }
}

/// Money whose last value wins.
pub const fn units(name: &'static str) -> Column {
    Column { name, kind: Kind::I64, rule: Rule::Set, nullable: false, comment: UNITS }
}

/// Money that is added up.
pub const fn sum_units(name: &'static str) -> Column {
    Column { name, kind: Kind::I64, rule: Rule::Add, nullable: false, comment: UNITS }
}

/// A count that is added up.
pub const fn sum(name: &'static str) -> Column {
    Column { name, kind: Kind::I64, rule: Rule::Add, nullable: false, comment: "" }
}

impl Column {
    /// The same column with a comment.
    #[must_use]
    pub const fn comment(mut self, comment: &'static str) -> Self {
        self.comment = comment;
        self
    }
}

/// How a table is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Writing {
    /// Rows are added once and never touched again: nothing has to be merged, and many rows go in by COPY.
    Append,
    /// Rows are changed again and again; pages keep room so that an update stays in its page.
    Upsert,
}

/// A read table. The leading columns with [`Rule::Key`] are its primary key; the first of them is the shard.
#[derive(Debug)]
pub struct Table {
    /// Its name in the projection's schema.
    pub name: &'static str,
    /// At most 64 columns, those of the key first.
    pub columns: &'static [Column],
    /// How it is written.
    pub writing: Writing,
    /// Further indexes, such as `"shard, app_id, position"`; `"UNIQUE shard, account"` for a unique one, and `"updated_at WHERE …"` for one of some
    /// rows only.
    pub indexes: &'static [&'static str],
}

impl Table {
    /// How many columns the key has.
    pub fn key_len(&self) -> usize {
        self.columns.iter().take_while(|column| column.rule == Rule::Key).count()
    }

    /// The place of a column, for code that names its columns.
    pub fn column(&self, name: &str) -> Option<usize> {
        self.columns.iter().position(|column| column.name == name)
    }
}

/// A cell. Cells of one column are all of its kind or null.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Value {
    /// Nothing.
    Null,
    /// A small number.
    I16(i16),
    /// A number.
    I32(i32),
    /// A large number or units of money.
    I64(i64),
    /// Yes or no.
    Bool(bool),
    /// A text.
    Text(Box<str>),
    /// An id.
    Uuid(Uuid),
    /// Bytes.
    Bytes(Box<[u8]>),
    /// A time.
    Time(Timestamp),
    /// Days since 1970-01-01.
    Date(i32),
    /// Numbers.
    I32Array(Box<[i32]>),
    /// Large numbers.
    I64Array(Box<[i64]>),
}

/// A row: one value per column of its table.
pub type Row = Vec<Value>;

impl Value {
    /// The day, in UTC, of a time.
    pub fn day(time: Timestamp) -> Self {
        // Timestamps span ten thousand years, so days fit.
        Self::Date(i32::try_from(time.micros().div_euclid(DAY_MICROS)).unwrap_or_default())
    }

    /// A text that is printed.
    pub fn display(value: &impl std::fmt::Display) -> Self {
        Self::Text(value.to_string().into())
    }

    /// The value or null.
    pub fn or_null<T: Into<Self>>(value: Option<T>) -> Self {
        value.map_or(Self::Null, Into::into)
    }

    /// The large number, if it is one.
    pub fn as_i64(&self) -> Option<i64> {
        match self {
            Self::I64(number) => Some(*number),
            _ => None,
        }
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Does it belong into such a column?
    pub fn fits(&self, column: &Column) -> bool {
        matches!(
            (self, column.kind),
            (Self::I16(_), Kind::I16)
                | (Self::I32(_), Kind::I32)
                | (Self::I64(_), Kind::I64)
                | (Self::Bool(_), Kind::Bool)
                | (Self::Text(_), Kind::Text)
                | (Self::Uuid(_), Kind::Uuid)
                | (Self::Bytes(_), Kind::Bytes)
                | (Self::Time(_), Kind::Time)
                | (Self::Date(_), Kind::Date)
                | (Self::I32Array(_), Kind::I32Array)
                | (Self::I64Array(_), Kind::I64Array)
        ) || (*self == Self::Null && column.nullable)
    }

    /// The fixed text that digests and row diffs are made of: numbers in decimal, times as microseconds, bytes in hexadecimal.
    pub fn write_text(&self, out: &mut String) {
        // Writing into a String cannot fail.
        let _ = match self {
            Self::Null => Ok(()),
            Self::I16(number) => write!(out, "{number}"),
            Self::I32(number) | Self::Date(number) => write!(out, "{number}"),
            Self::I64(number) => write!(out, "{number}"),
            Self::Bool(yes) => write!(out, "{yes}"),
            Self::Text(text) => out.write_str(text),
            Self::Uuid(id) => write!(out, "{id}"),
            Self::Bytes(bytes) => bytes.iter().try_for_each(|byte| write!(out, "{byte:02x}")),
            Self::Time(time) => write!(out, "{}", time.micros()),
            Self::I32Array(numbers) => write_list(out, numbers),
            Self::I64Array(numbers) => write_list(out, numbers),
        };
    }

    /// Reads the fixed text of a cell of a key back; `None` for a text that is none, and for arrays, which are in no key.
    pub fn read_text(kind: Kind, text: &str) -> Option<Self> {
        Some(match kind {
            Kind::I16 => Self::I16(text.parse().ok()?),
            Kind::I32 => Self::I32(text.parse().ok()?),
            Kind::I64 => Self::I64(text.parse().ok()?),
            Kind::Bool => Self::Bool(text.parse().ok()?),
            Kind::Text => Self::Text(text.into()),
            Kind::Uuid => Self::Uuid(text.parse().ok()?),
            Kind::Bytes => {
                let byte = |at: usize| u8::from_str_radix(text.get(at..at + 2)?, 16).ok();
                Self::Bytes((0..text.len()).step_by(2).map(byte).collect::<Option<_>>()?)
            }
            Kind::Time => Self::Time(Timestamp::from_micros(text.parse().ok()?)),
            Kind::Date => Self::Date(text.parse().ok()?),
            Kind::I32Array | Kind::I64Array => return None,
        })
    }
}

/// Writes `{1,2,3}`, as `PostgreSQL` prints arrays.
pub(crate) fn write_list<T: std::fmt::Display>(out: &mut String, numbers: &[T]) -> std::fmt::Result {
    out.push('{');
    for (index, number) in numbers.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        write!(out, "{number}")?;
    }
    out.push('}');
    Ok(())
}

macro_rules! values {
    ($($from:ty => |$value:ident| $to:expr;)+) => {
        $(impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        })+
    };
}

values! {
    i16 => |number| Self::I16(number);
    i32 => |number| Self::I32(number);
    i64 => |number| Self::I64(number);
    bool => |yes| Self::Bool(yes);
    &str => |text| Self::Text(text.into());
    &String => |text| Self::Text(text.as_str().into());
    String => |text| Self::Text(text.into());
    Uuid => |id| Self::Uuid(id);
    Timestamp => |time| Self::Time(time);
    Money => |money| Self::I64(money.units());
}

/// SHA-256 over rows in the order of their keys. Every value is preceded by its length (4 bytes, big endian; all ones for null),
/// so no two contents share their bytes. The same rows give the same digest wherever they are kept.
#[derive(Clone, Default)]
pub struct ContentDigest {
    digest: Sha256,
    rows: u64,
    text: String,
}

impl ContentDigest {
    /// Of no rows.
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds the next row in the order of keys.
    pub fn row(&mut self, row: &[Value]) {
        for value in row {
            self.text.clear();
            value.write_text(&mut self.text);
            let length =
                if *value == Value::Null { u32::MAX } else { u32::try_from(self.text.len()).unwrap_or(u32::MAX - 1) };
            self.digest.update(length.to_be_bytes());
            self.digest.update(self.text.as_bytes());
        }
        self.rows += 1;
    }

    /// How many rows there were, and the digest.
    pub fn finish(self) -> TableDigest {
        TableDigest { rows: self.rows, sha256: self.digest.finalize().into() }
    }
}

/// What a table holds, in 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct TableDigest {
    /// How many rows.
    pub rows: u64,
    /// Over all of them.
    pub sha256: [u8; 32],
}

impl std::fmt::Debug for TableDigest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} rows ", self.rows)?;
        self.sha256.iter().take(8).try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(rows: &[Row]) -> TableDigest {
        let mut digest = ContentDigest::new();
        for row in rows {
            digest.row(row);
        }
        digest.finish()
    }

    #[test]
    fn different_contents_have_different_digests() {
        let contents: [&[Row]; 6] = [
            &[],
            &[vec!["ab".into(), "c".into()]],
            &[vec!["a".into(), "bc".into()]],
            &[vec!["".into(), "abc".into()]],
            &[vec![Value::Null, "abc".into()]],
            &[vec!["ab".into()], vec!["c".into()]],
        ];
        for (at, left) in contents.iter().enumerate() {
            for right in &contents[at + 1..] {
                assert_ne!(digest(left), digest(right));
            }
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let values = [
            (Kind::I16, Value::I16(-3)),
            (Kind::I32, Value::I32(7)),
            (Kind::I64, Value::I64(i64::MIN)),
            (Kind::Bool, Value::Bool(true)),
            (Kind::Text, Value::from("a, \"b\"")),
            (Kind::Uuid, Value::Uuid(Uuid::from_u128(0xabc))),
            (Kind::Bytes, Value::Bytes([0, 255, 16].into())),
            (Kind::Time, Value::Time(Timestamp::from_micros(-1))),
            (Kind::Date, Value::Date(20_000)),
        ];
        for (kind, value) in values {
            let mut text = String::new();
            value.write_text(&mut text);
            assert_eq!(Value::read_text(kind, &text), Some(value));
        }
        assert_eq!(Value::read_text(Kind::Bytes, "0g"), None);
        assert_eq!(Value::read_text(Kind::Bytes, "012"), None);
    }

    #[test]
    fn days_are_those_of_utc() {
        for (micros, day) in [(0, 0), (DAY_MICROS - 1, 0), (DAY_MICROS, 1), (-1, -1)] {
            assert_eq!(Value::day(Timestamp::from_micros(micros)), Value::Date(day));
        }
    }
}
