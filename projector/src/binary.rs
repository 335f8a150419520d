//! `PostgreSQL`'s binary forms of cells, written and read without a detour: arrays of parameters, COPY streams, rows.

use std::error::Error;

use bytes::{BufMut as _, Bytes, BytesMut};
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use uuid::Uuid;

use crate::table::{Kind, Row, Table, Value, write_list};

/// Microseconds from 1970 to 2000, where `PostgreSQL` counts from.
const EPOCH_MICROS: i64 = 946_684_800_000_000;
/// Days from 1970 to 2000.
const EPOCH_DAYS: i32 = 10_957;

fn element_type(kind: Kind) -> Type {
    match kind {
        Kind::I16 => Type::INT2,
        Kind::I32 => Type::INT4,
        Kind::I64 => Type::INT8,
        Kind::Bool => Type::BOOL,
        // Arrays of arrays would be unnested to the bottom, so arrays travel as text and are cast.
        Kind::Text | Kind::I32Array | Kind::I64Array => Type::TEXT,
        Kind::Uuid => Type::UUID,
        Kind::Bytes => Type::BYTEA,
        Kind::Time => Type::TIMESTAMPTZ,
        Kind::Date => Type::DATE,
    }
}

/// Appends a length and what `write` appends.
fn sized(out: &mut BytesMut, write: impl FnOnce(&mut BytesMut)) {
    let at = out.len();
    out.put_i32(0);
    write(out);
    let length = length(out.len() - at - 4);
    out[at..at + 4].copy_from_slice(&length.to_be_bytes());
}

/// Cells are far below two gigabytes.
fn length(bytes: usize) -> i32 {
    i32::try_from(bytes).unwrap_or(i32::MAX)
}

/// Appends length and binary form of a cell; -1 for null.
fn put_cell(value: &Value, out: &mut BytesMut) {
    match value {
        Value::Null => out.put_i32(-1),
        Value::I16(number) => sized(out, |out| out.put_i16(*number)),
        Value::I32(number) => sized(out, |out| out.put_i32(*number)),
        Value::I64(number) => sized(out, |out| out.put_i64(*number)),
        Value::Bool(yes) => sized(out, |out| out.put_u8((*yes).into())),
        Value::Text(text) => sized(out, |out| out.put_slice(text.as_bytes())),
        Value::Uuid(id) => sized(out, |out| out.put_slice(id.as_bytes())),
        Value::Bytes(bytes) => sized(out, |out| out.put_slice(bytes)),
        Value::Time(time) => sized(out, |out| out.put_i64(time.micros() - EPOCH_MICROS)),
        Value::Date(days) => sized(out, |out| out.put_i32(days - EPOCH_DAYS)),
        Value::I32Array(numbers) => sized(out, |out| {
            put_array_header(numbers.len(), false, &Type::INT4, out);
            for number in numbers {
                out.put_i32(4);
                out.put_i32(*number);
            }
        }),
        Value::I64Array(numbers) => sized(out, |out| {
            put_array_header(numbers.len(), false, &Type::INT8, out);
            for number in numbers {
                out.put_i32(8);
                out.put_i64(*number);
            }
        }),
    }
}

fn put_array_header(elements: usize, nulls: bool, element: &Type, out: &mut BytesMut) {
    if elements == 0 {
        out.put_i32(0);
        out.put_i32(0);
        out.put_u32(element.oid());
        return;
    }
    out.put_i32(1);
    out.put_i32(nulls.into());
    out.put_u32(element.oid());
    out.put_i32(length(elements));
    out.put_i32(1);
}

/// One column of many rows, as the array parameter of a statement.
#[derive(Clone, Debug)]
pub struct ArrayParameter(Bytes);

impl ArrayParameter {
    /// The `index`-th cells of `rows`.
    pub fn column<'a>(kind: Kind, rows: impl ExactSizeIterator<Item = &'a Row>, index: usize) -> Self {
        let mut out = BytesMut::with_capacity(32 + rows.len() * 20);
        // PostgreSQL takes the flag of nulls as a hint only.
        put_array_header(rows.len(), true, &element_type(kind), &mut out);
        let mut text = String::new();
        for row in rows {
            match &row[index] {
                Value::I32Array(numbers) => put_list(numbers, &mut text, &mut out),
                Value::I64Array(numbers) => put_list(numbers, &mut text, &mut out),
                value => put_cell(value, &mut out),
            }
        }
        Self(out.freeze())
    }
}

fn put_list<T: std::fmt::Display>(numbers: &[T], text: &mut String, out: &mut BytesMut) {
    text.clear();
    // Writing into a String cannot fail.
    let _ = write_list(text, numbers);
    sized(out, |out| out.put_slice(text.as_bytes()));
}

impl ToSql for ArrayParameter {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn Error + Sync + Send>> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

/// How large a piece of a COPY stream gets.
const COPY_CHUNK: usize = 1 << 18;

/// Rows as a binary COPY stream, in pieces.
pub fn copy_stream<'a>(rows: impl Iterator<Item = &'a Row>) -> Vec<Bytes> {
    let mut pieces = Vec::new();
    let mut out = BytesMut::with_capacity(COPY_CHUNK + 4_096);
    out.put_slice(b"PGCOPY\n\xff\r\n\0");
    out.put_i32(0);
    out.put_i32(0);
    for row in rows {
        out.put_i16(i16::try_from(row.len()).unwrap_or(i16::MAX));
        for value in row {
            put_cell(value, &mut out);
        }
        if out.len() >= COPY_CHUNK {
            pieces.push(std::mem::replace(&mut out, BytesMut::with_capacity(COPY_CHUNK + 4_096)).freeze());
        }
    }
    out.put_i16(-1);
    pieces.push(out.freeze());
    pieces
}

/// The bytes of a cell as they came.
struct Raw<'a>(&'a [u8]);

impl<'a> FromSql<'a> for Raw<'a> {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Box<dyn Error + Sync + Send>> {
        Ok(Self(raw))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

/// Reads a row that has the columns of `table`, in order.
///
/// # Errors
/// The driver's, if the row has other columns.
pub fn read_row(table: &Table, row: &tokio_postgres::Row) -> Result<Row, tokio_postgres::Error> {
    table
        .columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let raw: Option<Raw<'_>> = row.try_get(index)?;
            Ok(raw.and_then(|raw| read_cell(column.kind, raw.0)).unwrap_or(Value::Null))
        })
        .collect()
}

/// A cell of a column that has the kind's type; other bytes read as nothing.
fn read_cell(kind: Kind, raw: &[u8]) -> Option<Value> {
    Some(match kind {
        Kind::I16 => Value::I16(i16::from_be_bytes(raw.try_into().ok()?)),
        Kind::I32 => Value::I32(i32::from_be_bytes(raw.try_into().ok()?)),
        Kind::I64 => Value::I64(i64::from_be_bytes(raw.try_into().ok()?)),
        Kind::Bool => Value::Bool(raw != [0]),
        Kind::Text => Value::Text(std::str::from_utf8(raw).ok()?.into()),
        Kind::Uuid => Value::Uuid(Uuid::from_slice(raw).ok()?),
        Kind::Bytes => Value::Bytes(raw.into()),
        Kind::Time => {
            Value::Time(Timestamp::from_micros(i64::from_be_bytes(raw.try_into().ok()?).saturating_add(EPOCH_MICROS)))
        }
        Kind::Date => Value::Date(i32::from_be_bytes(raw.try_into().ok()?).saturating_add(EPOCH_DAYS)),
        Kind::I32Array => Value::I32Array(
            elements(raw)?
                .chunks_exact(8)
                .map(|cell| cell[4..].try_into().map(i32::from_be_bytes))
                .collect::<Result<_, _>>()
                .ok()?,
        ),
        Kind::I64Array => Value::I64Array(
            elements(raw)?
                .chunks_exact(12)
                .map(|cell| cell[4..].try_into().map(i64::from_be_bytes))
                .collect::<Result<_, _>>()
                .ok()?,
        ),
    })
}

/// The cells of an array without nulls; each has its length of four bytes before it.
fn elements(raw: &[u8]) -> Option<&[u8]> {
    if raw.get(..4)? == [0; 4] { Some(&[]) } else { raw.get(20..) }
}
