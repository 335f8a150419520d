//! Read tables in memory, with the same rules as in `PostgreSQL`: for the simulator, for property tests, and for rebuilding.

use std::collections::BTreeMap;

use modelfaucet_schema::ids::LogId;
use modelfaucet_schema::log::Head;

use crate::changes::{Change, Changes, Mask, TableChanges};
use crate::fold::Batch;
use crate::projection::{ApplyError, Projection};
use crate::table::{ContentDigest, Row, Rule, Table, TableDigest, Value};

/// One table's rows by key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct MemoryTable(BTreeMap<Box<[Value]>, Row>);

impl MemoryTable {
    /// Rows in the order of their keys.
    pub fn rows(&self) -> impl Iterator<Item = &Row> {
        self.0.values()
    }

    /// The row of a key.
    pub fn get(&self, key: &[Value]) -> Option<&Row> {
        self.0.get(key)
    }

    /// How many rows.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// No rows?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What it holds.
    pub fn digest(&self) -> TableDigest {
        let mut digest = ContentDigest::new();
        self.rows().for_each(|row| digest.row(row));
        digest.finish()
    }

    /// Applies changes.
    ///
    /// # Errors
    /// [`ApplyError`] where `PostgreSQL` would refuse: a row twice, a patch of a missing row, a sum out of range.
    pub fn apply(&mut self, changes: &TableChanges) -> Result<(), ApplyError> {
        let table = changes.table;
        let key_len = table.key_len();
        for row in &changes.appended {
            if self.0.insert(row[..key_len].into(), row.clone()).is_some() {
                return Err(ApplyError::Unsupported(table.name));
            }
        }
        for (row, change) in &changes.changed {
            self.change(table, row, *change)?;
        }
        Ok(())
    }

    /// As [`MemoryTable::apply`], for the rows of some keys alone. What `PostgreSQL` would refuse changes nothing here.
    pub fn follow(&mut self, changes: &TableChanges, is_wanted: impl Fn(&[Value]) -> bool) {
        let table = changes.table;
        let key_len = table.key_len();
        for row in changes.appended.iter().filter(|row| is_wanted(&row[..key_len])) {
            self.0.insert(row[..key_len].into(), row.clone());
        }
        for (row, change) in changes.changed.iter().filter(|(row, _)| is_wanted(&row[..key_len])) {
            let _refused = self.change(table, row, *change);
        }
    }

    fn change(&mut self, table: &'static Table, row: &Row, change: Change) -> Result<(), ApplyError> {
        let key = &row[..table.key_len()];
        match (change, self.0.get_mut(key)) {
            (Change::Delete, _) => {
                self.0.remove(key);
            }
            (Change::Patch(_), None) => return Err(ApplyError::MissingRow(table.name)),
            (Change::Upsert, None) => {
                self.0.insert(key.into(), row.clone());
            }
            (Change::Patch(mask), Some(known)) => overwrite(table, known, row, mask)?,
            (Change::Upsert, Some(known)) => overwrite(table, known, row, Mask::MAX)?,
        }
        Ok(())
    }
}

/// Brings the columns of `mask` into a row; sums are added.
fn overwrite(table: &Table, known: &mut Row, new: &Row, mask: Mask) -> Result<(), ApplyError> {
    for (index, ((cell, value), column)) in known.iter_mut().zip(new).zip(table.columns).enumerate() {
        if mask & (1 << index) == 0 {
            continue;
        }
        *cell = match (column.rule, &*cell, value) {
            (Rule::Add, Value::I64(left), Value::I64(right)) => {
                Value::I64(left.checked_add(*right).ok_or(ApplyError::Overflow)?)
            }
            _ => value.clone(),
        };
    }
    Ok(())
}

/// The tables and checkpoint of one projection in one shard.
#[derive(Clone, Debug)]
pub struct MemoryProjection {
    /// Name and version.
    pub id: (&'static str, i32),
    /// Which log it reads.
    pub log_id: LogId,
    /// How far.
    pub checkpoint: Head,
    /// Why it does not go on.
    pub halted: Option<String>,
    /// Tables in the order of [`Projection::tables`].
    pub tables: Vec<MemoryTable>,
    /// Quarantined events: stream, position, cause.
    pub letters: Vec<crate::fold::DeadLetter>,
}

/// A store in memory: the same compare-and-set and the same content as `PostgreSQL`.
#[derive(Clone, Debug, Default)]
pub struct MemoryStore {
    /// The projections of one shard.
    pub projections: Vec<MemoryProjection>,
}

/// Why a batch was not committed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum MemoryError {
    /// Somebody else moved a checkpoint, or nobody set it up.
    #[error("the checkpoint of {0} is elsewhere")]
    Moved(&'static str),
    /// A table refuses a change.
    #[error(transparent)]
    Refused(#[from] ApplyError),
}

impl MemoryStore {
    /// Empty tables at the beginning of a log.
    pub fn new(projections: &[Box<dyn Projection>], log_id: LogId, genesis: Head) -> Self {
        let projections = projections
            .iter()
            .map(|projection| MemoryProjection {
                id: (projection.name(), projection.version()),
                log_id,
                checkpoint: genesis,
                halted: None,
                tables: projection.tables().iter().map(|_| MemoryTable::default()).collect(),
                letters: Vec::new(),
            })
            .collect();
        Self { projections }
    }

    /// The tables of a projection.
    pub fn get(&self, name: &str) -> Option<&MemoryProjection> {
        self.projections.iter().find(|projection| projection.id.0 == name)
    }

    /// Takes a batch whole or not at all.
    ///
    /// # Errors
    /// [`MemoryError`]; then nothing has changed.
    pub fn commit(&mut self, log_id: LogId, batch: &Batch) -> Result<(), MemoryError> {
        let mut after = Vec::with_capacity(batch.parts.len());
        for part in &batch.parts {
            let moved = MemoryError::Moved(part.name);
            let known =
                self.projections.iter().position(|known| known.id == (part.name, part.version)).ok_or(moved.clone())?;
            let projection = &self.projections[known];
            if projection.checkpoint != batch.from || projection.log_id != log_id || projection.halted.is_some() {
                return Err(moved);
            }
            let mut next = projection.clone();
            next.apply(&part.changes)?;
            next.letters.extend(part.letters.iter().cloned());
            next.checkpoint = batch.to;
            after.push((known, next));
        }
        for (known, next) in after {
            self.projections[known] = next;
        }
        Ok(())
    }
}

impl MemoryProjection {
    /// Applies changes to the tables.
    ///
    /// # Errors
    /// [`ApplyError`].
    pub fn apply(&mut self, changes: &Changes) -> Result<(), ApplyError> {
        for (table, changes) in self.tables.iter_mut().zip(changes.tables()) {
            table.apply(changes)?;
        }
        Ok(())
    }
}
