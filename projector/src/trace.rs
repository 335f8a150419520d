//! Which event explains that two versions of a row differ: the log is folded once more, event by event, and the rows in question are
//! followed in memory.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use modelfaucet_schema::event::Recorded;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::LogReader;
use serde::Serialize;

use crate::changes::Changes;
use crate::compare::{Cells, Difference};
use crate::feed::Feed;
use crate::memory::MemoryTable;
use crate::projection::Projection;
use crate::runtime::ProjectorError;
use crate::table::{Row, Table, Value};

/// An event, as far as it is named to people.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Named {
    /// The shard.
    pub shard: ShardId,
    /// The position.
    pub position: Position,
    /// What kind of event.
    pub event: &'static str,
    /// The stream.
    pub stream: String,
    /// The request that caused it.
    pub request_id: String,
}

impl Named {
    fn of(event: &Recorded) -> Self {
        Self {
            shard: event.shard,
            position: event.position,
            event: event.event.name(),
            stream: event.stream.to_string(),
            request_id: event.request_id.to_string(),
        }
    }
}

/// Why a row differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Why {
    /// From this event on the two folds make different rows of the log.
    Folds(Named),
    /// The log does not fold to the stored row of one of them, `first` or `second`, or of both; the last event that wrote it.
    NotFromTheLog {
        /// Whose row it is.
        of: &'static str,
        /// The last event that wrote the row, if any did.
        last: Option<Named>,
    },
    /// This program cannot fold one of the two.
    Unknown,
}

/// A table's place among those of the projection, and a row's key.
type RowOf = (usize, Box<[Value]>);

/// A row that is followed.
#[derive(Default)]
struct Followed {
    /// The first event since which the folds differ.
    parted: Option<Named>,
    last: Option<Named>,
}

/// One fold, as far as the rows in question go.
struct Fold {
    projection: Box<dyn Projection>,
    tables: Vec<MemoryTable>,
}

impl Fold {
    fn new(projection: &dyn Projection) -> Self {
        let tables = projection.tables().iter().map(|_| MemoryTable::default()).collect();
        Self { projection: projection.fresh(), tables }
    }

    /// Folds one event; the wanted rows that it has written.
    fn apply(&mut self, event: &Recorded, wanted: &[HashSet<Box<[Value]>>]) -> Vec<RowOf> {
        let mut changes = Changes::new(self.projection.tables());
        match self.projection.apply(event, &mut changes) {
            Ok(()) => {
                if changes.keep().is_err() {
                    return Vec::new();
                }
            }
            Err(_) => changes.discard(),
        }
        self.projection.flush(&mut changes);
        let _refused = changes.keep();
        let mut touched = Vec::new();
        for (table, (changes, wanted)) in changes.tables().iter().zip(wanted).enumerate() {
            if wanted.is_empty() || changes.is_empty() {
                continue;
            }
            let key_len = changes.table.key_len();
            let rows = changes.appended.iter().chain(changes.changed.iter().map(|(row, _)| row));
            let keys: Vec<Box<[Value]>> =
                rows.map(|row| &row[..key_len]).filter(|key| wanted.contains(*key)).map(Into::into).collect();
            if !keys.is_empty() {
                self.tables[table].follow(changes, |key| wanted.contains(key));
                touched.extend(keys.into_iter().map(|key| (table, key)));
            }
        }
        touched
    }

    fn row(&self, table: usize, key: &[Value]) -> Option<&Row> {
        self.tables[table].get(key)
    }
}

/// Explains differences between the tables of two versions, both at `at`. `first` and `second` are their folds, where this program
/// knows them. Costs about as much as folding the log twice; calls `progress` with the number of events read.
///
/// # Errors
/// [`ProjectorError`] if the log cannot be read.
pub async fn explain(
    reader: &LogReader,
    (first, second): (Option<&dyn Projection>, Option<&dyn Projection>),
    at: &[(ShardId, Position)],
    differences: &[Difference],
    mut progress: impl FnMut(u64),
) -> Result<Vec<Why>, ProjectorError> {
    let (Some(first), Some(second)) = (first, second) else {
        return Ok(vec![Why::Unknown; differences.len()]);
    };
    let places: Vec<Option<RowOf>> = differences.iter().map(|difference| place(first.tables(), difference)).collect();
    let mut wanted: Vec<HashSet<Box<[Value]>>> = vec![HashSet::new(); first.tables().len()];
    for (table, key) in places.iter().flatten() {
        wanted[*table].insert(key.clone());
    }
    let same_fold = first.code() == second.code();
    let mut followed: HashMap<RowOf, Followed> = HashMap::new();
    let mut rows: Vec<(Option<Row>, Option<Row>)> = vec![(None, None); differences.len()];
    let mut read = 0;
    for (shard, end) in at {
        let mut folds = (Fold::new(first), (!same_fold).then(|| Fold::new(second)));
        let mut feed = Feed::new(reader.clone(), *shard, reader.genesis(*shard).await?, None);
        'shard: loop {
            let (span, _broken) = feed.next().await?;
            if span.events.is_empty() {
                break;
            }
            for event in &span.events {
                if event.position > *end {
                    break 'shard;
                }
                follow(&mut folds, event, &wanted, &mut followed);
            }
            read += span.events.len() as u64;
            progress(read);
        }
        for ((place, difference), kept) in places.iter().zip(differences).zip(&mut rows) {
            if let Some((table, key)) = place
                && shard_of(difference) == Some(*shard)
            {
                let second = folds.1.as_ref().unwrap_or(&folds.0).row(*table, key).cloned();
                *kept = (folds.0.row(*table, key).cloned(), second);
            }
        }
    }
    let mut whys = Vec::with_capacity(differences.len());
    for ((place, difference), rows) in places.iter().zip(differences).zip(&rows) {
        whys.push(match place {
            Some(place) => judge((first.tables(), second.tables()), place.0, difference, rows, followed.get(place)),
            None => Why::Unknown,
        });
    }
    Ok(whys)
}

fn follow(
    (first, second): &mut (Fold, Option<Fold>),
    event: &Arc<Recorded>,
    wanted: &[HashSet<Box<[Value]>>],
    followed: &mut HashMap<RowOf, Followed>,
) {
    let mut touched = first.apply(event, wanted);
    if let Some(second) = second {
        touched.extend(second.apply(event, wanted));
    }
    for place in touched {
        let is_parted = second.as_ref().is_some_and(|second| {
            let (left, right) = (first.row(place.0, &place.1), second.row(place.0, &place.1));
            texts(first.projection.tables(), place.0, left) != texts(second.projection.tables(), place.0, right)
        });
        let row = followed.entry(place).or_default();
        row.last = Some(Named::of(event));
        if !is_parted {
            row.parted = None;
        } else if row.parted.is_none() {
            row.parted = Some(Named::of(event));
        }
    }
}

/// The row that a difference is about: the table's index and the key.
fn place(tables: &'static [Table], difference: &Difference) -> Option<RowOf> {
    let table = tables.iter().position(|table| table.name == difference.table)?;
    let columns = tables[table].columns;
    let key: Option<Vec<Value>> = difference
        .key
        .iter()
        .map(|(name, text)| Value::read_text(columns.iter().find(|column| column.name == name)?.kind, text))
        .collect();
    let key = key.filter(|key| key.len() == tables[table].key_len())?;
    Some((table, key.into()))
}

fn shard_of(difference: &Difference) -> Option<ShardId> {
    let shard = difference.key.iter().find(|(name, _)| name == "shard")?;
    shard.1.parse().ok().map(ShardId)
}

/// A row's cells by the names of their columns.
fn texts(tables: &'static [Table], table: usize, row: Option<&Row>) -> Option<BTreeMap<&'static str, Option<String>>> {
    let cell = |value: &Value| {
        let mut text = String::new();
        value.write_text(&mut text);
        (*value != Value::Null).then_some(text)
    };
    row.map(|row| tables[table].columns.iter().zip(row).map(|(column, value)| (column.name, cell(value))).collect())
}

fn judge(
    (first, second): (&'static [Table], &'static [Table]),
    table: usize,
    difference: &Difference,
    (left, right): &(Option<Row>, Option<Row>),
    followed: Option<&Followed>,
) -> Why {
    if let Some(parted) = followed.and_then(|followed| followed.parted.clone()) {
        return Why::Folds(parted);
    }
    let (left, right) = (texts(first, table, left.as_ref()), texts(second, table, right.as_ref()));
    // Does the stored row say what the fold says, as far as the difference tells?
    let is_folded = |folded: &Option<BTreeMap<&str, Option<String>>>, is_there: bool, of: usize| match &difference.cells
    {
        Cells::Changed(cells) => folded.as_ref().is_some_and(|folded| {
            cells.iter().all(|(column, was, is)| {
                let stored = if of == 0 { was } else { is };
                folded.get(column.as_str()).is_none_or(|value| value == stored)
            })
        }),
        _ => folded.is_some() == is_there,
    };
    let first_is = is_folded(&left, difference.cells != Cells::Added, 0);
    let second_is = is_folded(&right, difference.cells != Cells::Missing, 1);
    let of = match (first_is, second_is) {
        (false, true) => "first",
        (true, false) => "second",
        _ => "both",
    };
    Why::NotFromTheLog { of, last: followed.and_then(|followed| followed.last.clone()) }
}
