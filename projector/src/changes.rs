//! What a batch does to the read tables, merged by key: however many events a batch has, each row is written once.

use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};

use crate::projection::ApplyError;
use crate::table::{Row, Rule, Table, Value, Writing};

/// A set of columns, one bit per column.
pub type Mask = u64;

/// What happens to one row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// Written whole: a row of this key is overwritten, sums are added to.
    Upsert,
    /// Some columns of a row that must exist are overwritten, sums are added to.
    Patch(Mask),
    /// The row goes, if it is there.
    Delete,
}

/// The changes of one table.
#[derive(Debug)]
pub struct TableChanges {
    /// The table.
    pub table: &'static Table,
    /// New rows of a [`Writing::Append`] table.
    pub appended: Vec<Row>,
    /// Changed rows, one per key, in the order of first appearance. Columns that a change does not name are null.
    pub changed: Vec<(Row, Change)>,
    at: HashMap<Box<[Value]>, usize, BuildHasherDefault<KeyHasher>>,
}

impl TableChanges {
    fn new(table: &'static Table) -> Self {
        Self { table, appended: Vec::new(), changed: Vec::new(), at: HashMap::default() }
    }

    /// Nothing?
    pub fn is_empty(&self) -> bool {
        self.appended.is_empty() && self.changed.is_empty()
    }

    fn merge(&mut self, row: Row, change: Change) -> Result<(), ApplyError> {
        let key_len = self.table.key_len();
        let Some(&at) = self.at.get(&row[..key_len]) else {
            self.at.insert(row[..key_len].into(), self.changed.len());
            self.changed.push((row, change));
            return Ok(());
        };
        let (known, before) = &mut self.changed[at];
        *before = match (*before, change) {
            (_, Change::Delete) => Change::Delete,
            (Change::Delete, Change::Upsert) => {
                *known = row;
                Change::Upsert
            }
            (Change::Delete, Change::Patch(_)) => return Err(ApplyError::MissingRow(self.table.name)),
            (Change::Patch(_), Change::Upsert) if self.table.columns.iter().any(|column| column.rule == Rule::Add) => {
                return Err(ApplyError::Unsupported(self.table.name));
            }
            (_, Change::Upsert) => {
                overwrite(self.table, known, row, Mask::MAX, Mask::MAX)?;
                Change::Upsert
            }
            (before, Change::Patch(mask)) => {
                if let Change::Patch(earlier) = before {
                    overwrite(self.table, known, row, mask, earlier)?;
                    Change::Patch(earlier | mask)
                } else {
                    overwrite(self.table, known, row, mask, Mask::MAX)?;
                    Change::Upsert
                }
            }
        };
        Ok(())
    }
}

/// Brings the columns of `mask` from `new` into `known`; sums are added where `known` has them already.
fn overwrite(table: &Table, known: &mut Row, new: Row, mask: Mask, has: Mask) -> Result<(), ApplyError> {
    for (index, (value, column)) in new.into_iter().zip(table.columns).enumerate() {
        if mask & (1 << index) == 0 || column.rule == Rule::Key {
            continue;
        }
        known[index] = match (column.rule, &known[index], &value) {
            (Rule::Add, Value::I64(left), Value::I64(right)) if has & (1 << index) != 0 => {
                Value::I64(left.checked_add(*right).ok_or(ApplyError::Overflow)?)
            }
            _ => value,
        };
    }
    Ok(())
}

/// Collects what a projection does in one batch. Each event is staged first, so an event that fails leaves nothing.
#[derive(Debug)]
pub struct Changes {
    tables: Vec<TableChanges>,
    staged: Vec<(usize, Row, Option<Change>)>,
}

impl Changes {
    /// No changes of these tables.
    pub fn new(tables: &'static [Table]) -> Self {
        Self { tables: tables.iter().map(TableChanges::new).collect(), staged: Vec::new() }
    }

    /// Adds a row that nothing will touch again to the projection's `table`-th table.
    pub fn append(&mut self, table: usize, row: Row) {
        self.stage(table, row, None);
    }

    /// Writes a whole row.
    pub fn upsert(&mut self, table: usize, row: Row) {
        self.stage(table, row, Some(Change::Upsert));
    }

    /// Overwrites some columns, given by name, of a row that must exist; adds to those that are sums. Much cheaper in
    /// `PostgreSQL` than writing the whole row again.
    pub fn patch(
        &mut self,
        table: usize,
        key: impl IntoIterator<Item = Value>,
        columns: impl IntoIterator<Item = (&'static str, Value)>,
    ) {
        let shape = self.tables[table].table;
        let mut row = vec![Value::Null; shape.columns.len()];
        let mut mask = 0;
        for (cell, value) in row.iter_mut().zip(key) {
            *cell = value;
        }
        for (name, value) in columns {
            if let Some(at) = shape.column(name) {
                row[at] = value;
                mask |= 1 << at;
            }
        }
        self.stage(table, row, Some(Change::Patch(mask)));
    }

    /// Takes a row away, if it is there.
    pub fn delete(&mut self, table: usize, key: impl IntoIterator<Item = Value>) {
        let mut row: Row = key.into_iter().collect();
        row.resize(self.tables[table].table.columns.len(), Value::Null);
        self.stage(table, row, Some(Change::Delete));
    }

    fn stage(&mut self, table: usize, row: Row, change: Option<Change>) {
        debug_assert!(
            fits(self.tables[table].table, &row, change),
            "{row:?} does not fit {}",
            self.tables[table].table.name
        );
        self.staged.push((table, row, change));
    }

    /// Keeps what was staged.
    ///
    /// # Errors
    /// [`ApplyError`] if a sum leaves the range or a deleted row is patched.
    pub fn keep(&mut self) -> Result<(), ApplyError> {
        for (table, row, change) in self.staged.drain(..) {
            let changes = &mut self.tables[table];
            match change {
                None => changes.appended.push(row),
                Some(change) => changes.merge(row, change)?,
            }
        }
        Ok(())
    }

    /// Takes what comes behind: the two become one batch.
    ///
    /// # Errors
    /// As [`Changes::keep`].
    pub fn absorb(&mut self, later: Self) -> Result<(), ApplyError> {
        for (mine, theirs) in self.tables.iter_mut().zip(later.tables) {
            mine.appended.extend(theirs.appended);
            for (row, change) in theirs.changed {
                mine.merge(row, change)?;
            }
        }
        Ok(())
    }

    /// Forgets what was staged.
    pub fn discard(&mut self) {
        self.staged.clear();
    }

    /// What was kept, by table.
    pub fn tables(&self) -> &[TableChanges] {
        &self.tables
    }

    /// What was kept, by table, for whoever takes it over.
    pub fn tables_mut(&mut self) -> &mut [TableChanges] {
        &mut self.tables
    }
}

fn fits(table: &Table, row: &[Value], change: Option<Change>) -> bool {
    let mask = match change {
        None => {
            return table.writing == Writing::Append
                && row.iter().zip(table.columns).all(|(value, column)| value.fits(column));
        }
        Some(Change::Upsert) => Mask::MAX,
        Some(Change::Patch(mask)) => mask | ((1 << table.key_len()) - 1),
        Some(Change::Delete) => (1 << table.key_len()) - 1,
    };
    let named = |index: usize| mask & (1 << index) != 0;
    row.len() == table.columns.len()
        && row.iter().zip(table.columns).enumerate().all(|(index, (value, column))| !named(index) || value.fits(column))
}

/// A fast hash for keys that come from our own log; ids in it are random or time-ordered, nobody chooses them to collide.
#[derive(Default)]
pub(crate) struct KeyHasher(u64);

impl KeyHasher {
    fn add(&mut self, word: u64) {
        self.0 = (self.0.rotate_left(5) ^ word).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

impl Hasher for KeyHasher {
    fn write(&mut self, bytes: &[u8]) {
        for chunk in bytes.chunks(8) {
            let mut word = [0; 8];
            word[..chunk.len()].copy_from_slice(chunk);
            self.add(u64::from_le_bytes(word));
        }
    }

    fn write_u8(&mut self, number: u8) {
        self.add(number.into());
    }

    fn write_u64(&mut self, number: u64) {
        self.add(number);
    }

    fn write_i64(&mut self, number: i64) {
        self.add(number.cast_unsigned());
    }

    fn write_usize(&mut self, number: usize) {
        self.add(number as u64);
    }

    fn finish(&self) -> u64 {
        // The table uses the top bits for its tags and the low ones for places; mix them.
        self.0 ^ (self.0 >> 29)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::table::{Kind, key, set, sum};

    static TABLES: [Table; 1] = [Table {
        name: "t",
        columns: &[key("k", Kind::I64), set("last", Kind::I64), sum("total")],
        writing: Writing::Upsert,
        indexes: &[],
    }];

    fn row(key: i64, last: i64, total: i64) -> Row {
        vec![key.into(), last.into(), total.into()]
    }

    #[test]
    fn rows_of_one_key_become_one() {
        let mut changes = Changes::new(&TABLES);
        changes.upsert(0, row(1, 10, 100));
        changes.upsert(0, row(2, 20, 200));
        changes.upsert(0, row(1, 11, 1));
        changes.patch(0, [1_i64.into()], [("last", 12_i64.into()), ("total", 5_i64.into())]);
        changes.patch(0, [3_i64.into()], [("last", 30_i64.into())]);
        changes.patch(0, [3_i64.into()], [("total", 7_i64.into())]);
        changes.patch(0, [3_i64.into()], [("total", 8_i64.into())]);
        changes.keep().unwrap();
        assert_eq!(
            changes.tables()[0].changed,
            [
                (row(1, 12, 106), Change::Upsert),
                (row(2, 20, 200), Change::Upsert),
                (row(3, 30, 15), Change::Patch(0b110))
            ]
        );
    }

    #[test]
    fn what_is_discarded_leaves_nothing() {
        let mut changes = Changes::new(&TABLES);
        changes.upsert(0, row(1, 10, 100));
        changes.discard();
        changes.keep().unwrap();
        assert!(changes.tables()[0].is_empty());
    }

    #[test]
    fn sums_do_not_wrap() {
        let mut changes = Changes::new(&TABLES);
        changes.upsert(0, row(1, 0, i64::MAX));
        changes.upsert(0, row(1, 0, 1));
        assert!(matches!(changes.keep(), Err(ApplyError::Overflow)));
    }

    #[test]
    fn a_deleted_row_can_be_written_but_not_patched() {
        let mut changes = Changes::new(&TABLES);
        changes.delete(0, [1_i64.into()]);
        changes.upsert(0, row(1, 1, 1));
        changes.keep().unwrap();
        assert_eq!(changes.tables()[0].changed, [(row(1, 1, 1), Change::Upsert)]);
        changes.delete(0, [1_i64.into()]);
        changes.patch(0, [1_i64.into()], [("last", 2_i64.into())]);
        assert!(matches!(changes.keep(), Err(ApplyError::MissingRow("t"))));
    }
}
