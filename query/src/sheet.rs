//! CSV as RFC 4180 has it, with LF at line ends: UTF-8, a cell quoted only if it holds a quote, a comma, CR or LF.
//!
//! A spreadsheet runs a cell that begins with `=`, `+`, `-`, `@`, tab or CR as a formula. Texts that begin so are escaped with a
//! leading `'`. Amounts and counts are not texts: this program prints them itself, digits with at most a leading minus, and a
//! negative amount that turned into a text would silently drop out of the reader's sums.

use std::borrow::Cow;

use modelfaucet_schema::time::Timestamp;

use crate::error::QueryError;

/// Rows on their way into a chunk.
pub(crate) struct Sheet(csv::Writer<Vec<u8>>);

impl Sheet {
    pub(crate) fn new() -> Self {
        let writer = csv::WriterBuilder::new().terminator(csv::Terminator::Any(b'\n')).from_writer(Vec::new());
        Self(writer)
    }

    /// Adds a row.
    pub(crate) fn row(&mut self, cells: &[Cell<'_>]) -> Result<(), QueryError> {
        self.0.write_record(cells.iter().map(|cell| cell.0.as_bytes())).map_err(|_| QueryError::Foreign("a CSV cell"))
    }

    /// The bytes.
    pub(crate) fn finish(self) -> Result<Vec<u8>, QueryError> {
        self.0.into_inner().map_err(|_| QueryError::Foreign("a CSV cell"))
    }
}

/// A cell that is safe to open in a spreadsheet.
pub(crate) struct Cell<'a>(Cow<'a, str>);

impl<'a> Cell<'a> {
    /// A text that somebody else chose.
    pub(crate) fn text(text: &'a str) -> Self {
        if text.starts_with(['=', '+', '-', '@', '\t', '\r']) {
            Self(Cow::Owned(format!("'{text}")))
        } else {
            Self(Cow::Borrowed(text))
        }
    }

    /// A text, or nothing.
    pub(crate) fn optional(text: Option<&'a str>) -> Self {
        Self::text(text.unwrap_or_default())
    }

    /// A name of our own.
    pub(crate) const fn own(name: &'static str) -> Self {
        Self(Cow::Borrowed(name))
    }

    /// An amount, a count or an id: digits, points, minus signs, hexadecimal.
    pub(crate) fn number(number: impl std::fmt::Display) -> Self {
        let text = number.to_string();
        debug_assert!(
            text.bytes().all(|byte| byte.is_ascii_hexdigit() || matches!(byte, b'-' | b'.')),
            "{text} is a text"
        );
        Self(Cow::Owned(text))
    }

    /// A time with milliseconds, as the API shows it.
    pub(crate) fn time(time: Timestamp) -> Self {
        Self(Cow::Owned(time.to_millis_text()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::money::Money;
    use proptest::prelude::*;

    fn line(cells: &[Cell<'_>]) -> String {
        let mut sheet = Sheet::new();
        sheet.row(cells).unwrap();
        String::from_utf8(sheet.finish().unwrap()).unwrap()
    }

    #[test]
    fn formulas_are_escaped_and_amounts_stay_numbers() {
        let cells =
            ["=1+1", "+1", "-1", "@x", "\tx", "\rx", "a=b", "a,b", "say \"x\"", "two\nlines", ""].map(Cell::text);
        assert_eq!(line(&cells), "'=1+1,'+1,'-1,'@x,'\tx,\"'\rx\",a=b,\"a,b\",\"say \"\"x\"\"\",\"two\nlines\",\n");
        assert_eq!(line(&[Cell::number(Money::from_units(-1)), Cell::number(7)]), "-0.00000001,7\n");
    }

    proptest! {
        #[test]
        fn cells_come_back_and_none_is_a_formula(texts in prop::collection::vec(any::<String>(), 2..5)) {
            let cells: Vec<_> = texts.iter().map(|text| Cell::text(text)).collect();
            let text = line(&cells);
            let mut reader = csv::ReaderBuilder::new().has_headers(false).from_reader(text.as_bytes());
            let record = reader.records().next().unwrap().unwrap();
            for (read, given) in record.iter().zip(&texts) {
                prop_assert!(!read.starts_with(['=', '+', '-', '@', '\t', '\r']));
                prop_assert!(read == given || read.strip_prefix('\'') == Some(given));
            }
        }
    }
}
