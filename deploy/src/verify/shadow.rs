//! What follows from the log, folded once more beside the check of the log itself: the writer's state at each snapshot, and the
//! read tables of each live projection at its checkpoint. The stored ones must be the same.
//!
//! Of tables that only grow, 24 bytes per row are kept; of all others the rows themselves, so memory grows with the number of
//! wallets and sessions.

use std::collections::hash_map::RandomState;
use std::hash::BuildHasher as _;

use futures_util::{TryStreamExt as _, pin_mut};
use modelfaucet_command::domain::{FOLD_VERSION, State};
use modelfaucet_projector::binary::read_row;
use modelfaucet_projector::fold::{Batch, Folder, Outcome, Span};
use modelfaucet_projector::memory::MemoryTable;
use modelfaucet_projector::projection::{Projection, all, under};
use modelfaucet_projector::sql::select_all_sql;
use modelfaucet_projector::table::{Kind, Row, Table, Value, Writing};
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use tokio_postgres::{Error, Transaction};

use super::report::{Check, Findings};

/// What a table should hold.
enum Content {
    /// Shard and position of each row, which are its key, and a keyed hash of it.
    Prints(Vec<(i16, i64, u64)>),
    Rows(MemoryTable),
}

impl Content {
    fn of(table: &Table) -> Self {
        let kinds: Vec<Kind> = table.columns[..table.key_len()].iter().map(|column| column.kind).collect();
        if table.writing == Writing::Append && kinds == [Kind::I16, Kind::I64] {
            Self::Prints(Vec::new())
        } else {
            Self::Rows(MemoryTable::default())
        }
    }
}

/// A live projection, folded anew.
struct Shadowed {
    projection: Box<dyn Projection>,
    tables: Vec<Content>,
    /// Shard by shard.
    checkpoints: Vec<(ShardId, Position)>,
    folder: Option<(Folder, Position)>,
    /// What was taken off the list of dead letters.
    resolved: Vec<(ShardId, Position)>,
    /// Why it cannot be compared.
    broken: Option<String>,
}

struct Snapshot {
    position: i64,
    state: Vec<u8>,
}

/// Everything that is folded anew.
pub(super) struct Shadow {
    shard: ShardId,
    projections: Vec<Shadowed>,
    snapshots: Vec<Snapshot>,
    state: State,
    findings: Findings,
    /// Nobody can guess it, so nobody can make a row that has another row's print.
    prints: RandomState,
}

impl Shadow {
    /// What is live and known to this program; nothing of it where there is a reason to leave it out.
    pub(super) async fn prepare(transaction: &Transaction<'_>, left_out: Option<&str>) -> Result<Self, Error> {
        let mut shadow = Self {
            shard: ShardId(0),
            projections: Vec::new(),
            snapshots: Vec::new(),
            state: State::default(),
            findings: Findings::new(),
            prints: RandomState::new(),
        };
        if let Some(why) = left_out {
            shadow.findings.skip(Check::Projections, why);
            return Ok(shadow);
        }
        let known = all();
        for row in transaction.query(include_str!("sql/checkpoints.sql"), &[]).await? {
            let (name, version): (&str, i32) = (row.get(0), row.get(1));
            let checkpoint = (ShardId(row.get(2)), Position(row.get(3)));
            let same = |projection: &dyn Projection| projection.name() == name && projection.version() == version;
            if let Some(shadowed) = shadow.projections.iter_mut().find(|shadowed| same(&*shadowed.projection)) {
                shadowed.checkpoints.push(checkpoint);
                continue;
            }
            let code: i32 = row.get(4);
            let Some(fold) = known.iter().find(|fold| fold.name() == name && fold.code() == code) else {
                shadow.findings.skip(Check::Projections, &format!("this program does not know fold {code} of {name}"));
                continue;
            };
            let tables = fold.tables().iter().map(Content::of).collect();
            let projection = under(fold.fresh(), version);
            let sql = "SELECT shard, position FROM projection.resolved_letter WHERE projection = $1 AND version = $2";
            let resolved = transaction.query(sql, &[&name, &version]).await?;
            shadow.projections.push(Shadowed {
                projection,
                tables,
                checkpoints: vec![checkpoint],
                folder: None,
                resolved: resolved.iter().map(|row| (ShardId(row.get(0)), Position(row.get(1)))).collect(),
                broken: None,
            });
        }
        Ok(shadow)
    }

    /// Begins a shard; shards come in order. `last` is the last position that will come.
    pub(super) async fn begin(
        &mut self,
        transaction: &Transaction<'_>,
        shard: ShardId,
        log_id: LogId,
        last: i64,
    ) -> Result<(), Error> {
        self.shard = shard;
        self.state = State::default();
        let rows = transaction.query(include_str!("sql/snapshots.sql"), &[&shard.0, &FOLD_VERSION, &last]).await?;
        self.snapshots = rows.iter().map(|row| Snapshot { position: row.get(0), state: row.get(1) }).collect();
        for shadowed in &mut self.projections {
            let checkpoint = shadowed.checkpoints.iter().find(|(of, _)| *of == shard).map(|(_, position)| *position);
            shadowed.folder = checkpoint.map(|checkpoint| {
                let mut folder = Folder::beginning(shard, log_id, vec![shadowed.projection.fresh()]);
                let mine = shadowed.resolved.iter().filter(|(of, _)| *of == shard);
                folder.units[0].resolved = mine.map(|(_, position)| *position).collect();
                (folder, checkpoint)
            });
        }
        Ok(())
    }

    /// Is there anything to fold behind this position?
    pub(super) fn wants(&self, position: Position) -> bool {
        self.snapshots.iter().any(|snapshot| snapshot.position > position.0)
            || self.projections.iter().any(|shadowed| shadowed.wants(position))
    }

    /// Takes whole batches, in order.
    pub(super) fn take(&mut self, span: &Span) {
        self.fold_state(span);
        for shadowed in &mut self.projections {
            if shadowed.broken.is_none() && shadowed.wants(span.after.position) {
                shadowed.take(span, &self.prints);
            }
        }
    }

    fn fold_state(&mut self, span: &Span) {
        if self.snapshots.is_empty() {
            return;
        }
        for recorded in &span.events {
            self.state.evolve(recorded);
            if self.snapshots.first().is_some_and(|snapshot| snapshot.position == recorded.position.0) {
                let snapshot = self.snapshots.remove(0);
                self.compare_state(&snapshot);
            }
        }
        self.state.commit();
    }

    fn compare_state(&mut self, snapshot: &Snapshot) {
        self.findings.checked(Check::Snapshots, 1);
        let at = (snapshot.position, snapshot.position);
        match serde_json::from_slice::<State>(&snapshot.state) {
            Ok(state) if state == self.state => {}
            Ok(_) => self.findings.add(Check::Snapshots, self.shard, at, "the snapshot is not what the log folds to"),
            Err(error) => {
                self.findings.add(Check::Snapshots, self.shard, at, format!("the snapshot does not decode: {error}"));
            }
        }
    }

    /// Compares the tables with the stored ones, which are read once.
    pub(super) async fn compare(mut self, transaction: &Transaction<'_>) -> Result<Findings, Error> {
        for shadowed in self.projections {
            let schema = shadowed.projection.schema();
            if let Some(broken) = shadowed.broken {
                self.findings.add(Check::Projections, None, None, format!("{schema} cannot be folded: {broken}"));
                continue;
            }
            for (table, content) in shadowed.projection.tables().iter().zip(shadowed.tables) {
                let mut comparison = Comparison::new(table, content, &self.prints);
                let rows = transaction.query_raw(&select_all_sql(&schema, table), std::iter::empty::<i16>()).await?;
                pin_mut!(rows);
                while let Some(row) = rows.try_next().await? {
                    comparison.row(&read_row(table, &row)?);
                }
                self.findings.checked(Check::Projections, comparison.rows);
                if let Some(differs) = comparison.finish() {
                    self.findings.add(Check::Projections, None, None, format!("{schema}.{} {differs}", table.name));
                }
            }
        }
        Ok(self.findings)
    }

    /// What was found so far, where the tables are not compared.
    pub(super) fn give_up(mut self, why: &str) -> Findings {
        if !self.projections.is_empty() {
            self.findings.skip(Check::Projections, why);
        }
        self.findings.skip(Check::Snapshots, why);
        self.findings
    }
}

impl Shadowed {
    fn wants(&self, position: Position) -> bool {
        self.folder.as_ref().is_some_and(|(_, checkpoint)| *checkpoint > position)
    }

    fn take(&mut self, span: &Span, prints: &RandomState) {
        let Some((folder, checkpoint)) = &mut self.folder else { return };
        let outcome = if span.head().position <= *checkpoint {
            folder.offer(span)
        } else {
            let mut first = span.clone();
            first.cut(*checkpoint);
            folder.offer(&first)
        };
        let result = match outcome {
            Outcome::Folded { batch, halts } => match halts.first() {
                Some(halt) => Err(halt.reason.clone()),
                None => self.keep(batch, prints),
            },
            Outcome::Nothing => Ok(()),
            Outcome::Gap { expected, .. } => Err(format!("position {expected} is missing")),
            Outcome::Fork { at } => Err(format!("the log tells another story at position {at}")),
        };
        self.broken = result.err();
    }

    fn keep(&mut self, mut batch: Batch, prints: &RandomState) -> Result<(), String> {
        for part in &mut batch.parts {
            for (content, changes) in self.tables.iter_mut().zip(part.changes.tables_mut()) {
                match content {
                    Content::Prints(kept) => {
                        for row in std::mem::take(&mut changes.appended) {
                            let (shard, position) =
                                key(&row).ok_or_else(|| format!("{} has another key", changes.table.name))?;
                            kept.push((shard, position, prints.hash_one(&row)));
                        }
                    }
                    Content::Rows(rows) => rows.apply(changes).map_err(|error| error.to_string())?,
                }
            }
        }
        Ok(())
    }
}

fn key(row: &Row) -> Option<(i16, i64)> {
    match row.as_slice() {
        [Value::I16(shard), Value::I64(position), ..] => Some((*shard, *position)),
        _ => None,
    }
}

/// Walks through stored and expected rows side by side; both are in the order of their keys.
struct Comparison<'a> {
    table: &'static Table,
    expected: Expected,
    prints: &'a RandomState,
    rows: u64,
    missing: u64,
    extra: u64,
    different: u64,
    first: Option<String>,
}

enum Expected {
    Prints(std::iter::Peekable<std::vec::IntoIter<(i16, i64, u64)>>),
    Rows(std::iter::Peekable<std::vec::IntoIter<Row>>),
}

impl<'a> Comparison<'a> {
    fn new(table: &'static Table, content: Content, prints: &'a RandomState) -> Self {
        let expected = match content {
            Content::Prints(kept) => Expected::Prints(kept.into_iter().peekable()),
            Content::Rows(rows) => Expected::Rows(rows.rows().cloned().collect::<Vec<_>>().into_iter().peekable()),
        };
        Self { table, expected, prints, rows: 0, missing: 0, extra: 0, different: 0, first: None }
    }

    /// Takes the next stored row.
    fn row(&mut self, row: &Row) {
        self.rows += 1;
        let len = self.table.key_len();
        loop {
            // The key of the next expected row against this row's, and whether the rest is equal.
            let (order, equal, key) = match &mut self.expected {
                Expected::Prints(next) => match next.peek() {
                    None => break,
                    Some((shard, position, print)) => {
                        let theirs = key(row).unwrap_or_default();
                        (
                            (*shard, *position).cmp(&theirs),
                            *print == self.prints.hash_one(row),
                            format!("{shard}, {position}"),
                        )
                    }
                },
                Expected::Rows(next) => match next.peek() {
                    None => break,
                    Some(mine) => (mine[..len].cmp(&row[..len]), mine == row, String::new()),
                },
            };
            match order {
                std::cmp::Ordering::Greater => break,
                std::cmp::Ordering::Less => {
                    let key = self.skip().unwrap_or(key);
                    self.missing += 1;
                    self.note("missing", &key);
                }
                std::cmp::Ordering::Equal => {
                    self.skip();
                    if !equal {
                        self.different += 1;
                        self.note("different", &self.name(row));
                    }
                    return;
                }
            }
        }
        self.extra += 1;
        self.note("not from the log", &self.name(row));
    }

    /// Drops the next expected row; its key, where that is in the row.
    fn skip(&mut self) -> Option<String> {
        match &mut self.expected {
            Expected::Prints(next) => next.next().map(|(shard, position, _)| format!("{shard}, {position}")),
            Expected::Rows(next) => {
                let row = next.next()?;
                Some(self.name(&row))
            }
        }
    }

    fn name(&self, row: &Row) -> String {
        let mut text = String::new();
        for (index, value) in row[..self.table.key_len()].iter().enumerate() {
            if index > 0 {
                text.push_str(", ");
            }
            value.write_text(&mut text);
        }
        text
    }

    fn note(&mut self, kind: &str, key: &str) {
        self.first.get_or_insert_with(|| format!("row ({key}) is {kind}"));
    }

    /// What differs, if anything does.
    fn finish(mut self) -> Option<String> {
        while let Some(key) = self.skip() {
            self.missing += 1;
            self.note("missing", &key);
        }
        let first = self.first?;
        let (missing, extra, different) = (self.missing, self.extra, self.different);
        Some(format!(
            "differs from the log: {missing} rows missing, {extra} too many, {different} different; first: {first}"
        ))
    }
}

#[cfg(test)]
mod tests {
    use modelfaucet_projector::table::{key as key_column, set};

    use super::*;

    static TABLE: Table = Table {
        name: "t",
        columns: &[key_column("shard", Kind::I16), key_column("position", Kind::I64), set("text", Kind::Text)],
        writing: Writing::Append,
        indexes: &[],
    };

    fn row(position: i64, text: &str) -> Row {
        vec![0_i16.into(), position.into(), text.into()]
    }

    #[test]
    fn both_ways_of_keeping_rows_find_the_same() {
        let expected = [row(1, "a"), row(2, "b"), row(4, "d")];
        let cases: &[(&[Row], Option<&str>)] = &[
            (&expected, None),
            (
                &[row(1, "a"), row(2, "B"), row(4, "d")],
                Some("0 rows missing, 0 too many, 1 different; first: row (0, 2) is different"),
            ),
            (
                &[row(1, "a"), row(4, "d")],
                Some("1 rows missing, 0 too many, 0 different; first: row (0, 2) is missing"),
            ),
            (
                &[row(1, "a"), row(2, "b")],
                Some("1 rows missing, 0 too many, 0 different; first: row (0, 4) is missing"),
            ),
            (
                &[row(1, "a"), row(2, "b"), row(3, "c"), row(4, "d")],
                Some("0 rows missing, 1 too many, 0 different; first: row (0, 3) is not from the log"),
            ),
            (
                &[row(1, "a"), row(2, "b"), row(4, "d"), row(5, "e")],
                Some("0 rows missing, 1 too many, 0 different; first: row (0, 5) is not from the log"),
            ),
        ];
        let prints = RandomState::new();
        for (stored, found) in cases {
            let kept = Content::Prints(
                expected.iter().map(|row| (0, row[1].as_i64().unwrap(), prints.hash_one(row))).collect(),
            );
            let mut rows = modelfaucet_projector::changes::Changes::new(std::slice::from_ref(&TABLE));
            for row in &expected {
                rows.append(0, row.clone());
            }
            rows.keep().unwrap();
            let mut table = MemoryTable::default();
            table.apply(&rows.tables()[0]).unwrap();
            for content in [kept, Content::Rows(table)] {
                let mut comparison = Comparison::new(&TABLE, content, &prints);
                for row in *stored {
                    comparison.row(row);
                }
                let differs = comparison.finish();
                assert_eq!(differs.as_deref().map(|text| text.trim_start_matches("differs from the log: ")), *found);
            }
        }
    }
}
