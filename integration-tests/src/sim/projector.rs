//! The projectors: the product's folder over read tables in memory. Two share their tables and race for the checkpoint, the third
//! has tables of its own. They read twice, read ahead of a gap, fail to commit, and die between commit and knowing of it.

use modelfaucet_projector::fold::{Batch, Folder, Outcome, Span, Unit};
use modelfaucet_projector::memory::{MemoryProjection, MemoryStore};
use modelfaucet_projector::projection;
use modelfaucet_projector::table::Value;
use modelfaucet_schema::log::Head;

use super::{Happening, MILLISECOND, SECOND, World};

/// A projector of one set of tables.
pub(super) struct Projector {
    pub(super) folder: Folder,
    /// Whose tables it writes.
    pub(super) tables: usize,
}

/// How a projector begins: at the checkpoint, with what the tables remember.
fn begin(world_shard: modelfaucet_schema::ids::ShardId, tables: &MemoryStore) -> Folder {
    let first = &tables.projections[0];
    let units = projection::all().into_iter().zip(&tables.projections).map(|(mut projection, stored)| {
        assert_eq!(stored.checkpoint, first.checkpoint, "I6: projections of one projector are committed together");
        for index in projection.remembers() {
            for row in stored.tables[*index].rows() {
                projection.remember(*index, row).expect("a projection knows its own rows");
            }
        }
        Unit::new(projection)
    });
    Folder::new(world_shard, first.log_id, first.checkpoint, units.collect())
}

impl World {
    pub(super) fn projector(&self, tables: usize) -> Projector {
        Projector { folder: begin(self.store.shard, &self.tables[tables]), tables }
    }

    pub(super) fn restart_projector(&mut self, index: usize) {
        let tables = self.projectors[index].tables;
        self.projectors[index] = self.projector(tables);
        self.report.projector_restarts += 1;
    }

    pub(super) fn projector_wakes(&mut self, index: usize) {
        let pause = if self.healed { SECOND } else { self.random.between(MILLISECOND, 150 * MILLISECOND) };
        self.schedule(pause, Happening::ProjectorWakes { projector: index });
        let (at, head) = (self.projectors[index].folder.at, self.store.head());
        // Usually what comes next; sometimes from earlier on, sometimes beyond a gap.
        let fault = if self.healed { 9 } else { self.random.below(10) };
        let from = match fault {
            0 => self.store.neighbour(at, -2),
            1 => self.store.neighbour(at, 1),
            _ => at,
        };
        let span = self.store.span(from, usize::try_from(self.random.between(1, 60)).unwrap_or(1));
        match self.projectors[index].folder.offer(&span) {
            Outcome::Nothing => {
                let end = span.head().position;
                assert!(end <= at.position, "what is new up to {end} is passed over at {}", at.position);
            }
            Outcome::Gap { expected, .. } => {
                assert!(from.position > at.position && expected == at.position.next(), "I8: no reader sees a gap");
            }
            Outcome::Fork { at } => panic!("I7: a fork at {at}"),
            Outcome::Folded { batch, halts } => {
                assert!(halts.is_empty(), "I6: {halts:?}");
                assert!(from.position <= at.position && batch.to.position <= head.position);
                self.commit(index, &batch, &span);
            }
        }
    }

    fn commit(&mut self, index: usize, batch: &Batch, span: &Span) {
        let fate = if self.healed { 9 } else { self.random.below(10) };
        if fate == 0 {
            return self.restart_projector(index);
        }
        let tables = self.projectors[index].tables;
        let committed = self.tables[tables].commit(self.store.log_id, batch);
        self.trace("commit", &[index as u64, batch.to.position.0.cast_unsigned(), u64::from(committed.is_ok())]);
        match &committed {
            Ok(()) => {
                assert_eq!(span.head(), batch.to);
                self.report.commits += 1;
                self.check_tables(tables);
            }
            // Another projector was faster.
            Err(error) => assert!(error.to_string().contains("elsewhere"), "I6: {error}"),
        }
        if committed.is_err() || fate == 1 {
            self.restart_projector(index);
        }
    }

    /// I6: the tables are the fold of the log at their checkpoint.
    fn check_tables(&self, tables: usize) {
        let tables = &self.tables[tables];
        let Head { position, .. } = tables.projections[0].checkpoint;
        let expected = self.reference.purses_at(position);
        let wallets = table(tables, "wallets");
        assert_eq!(wallets.tables[0].len(), expected.len(), "I6: wallets at {position}");
        let folded = table(tables, "reconciliation");
        for row in wallets.tables[0].rows() {
            let Value::Uuid(id) = row[1] else { panic!("{row:?}") };
            let figures =
                row[5..8].iter().map(|value| if let Value::I64(units) = value { i128::from(*units) } else { -1 });
            let purse = expected[&modelfaucet_schema::ids::WalletId(id)];
            assert_eq!(
                figures.collect::<Vec<_>>(),
                [purse.posted, purse.promo, purse.held],
                "I6: wallet {id} at {position}"
            );
            let second = folded.tables[0].get(&row[..2]).expect("the second fold has every wallet");
            assert_eq!(
                (&second[5], &second[6]),
                (&row[5], &row[7]),
                "I6: the second fold of wallet {id} at {position}"
            );
        }
    }

    /// Everything folded in one go gives the same tables.
    pub(super) fn check_rebuild(&self) {
        let mut folder = Folder::beginning(self.store.shard, self.store.log_id, projection::all());
        let mut rebuilt = MemoryStore::new(&projection::all(), self.store.log_id, self.store.genesis());
        let Outcome::Folded { batch, halts } = folder.offer(&self.store.span(self.store.genesis(), usize::MAX)) else {
            panic!()
        };
        assert!(halts.is_empty());
        rebuilt.commit(self.store.log_id, &batch).expect("fresh tables take everything");
        for row in table(&rebuilt, "journal").tables[1].rows() {
            let Some(Value::I64Array(amounts)) = row.get(9) else { panic!("{row:?}") };
            assert_eq!(amounts.iter().map(|units| i128::from(*units)).sum::<i128>(), 0, "I4");
        }
        for tables in &self.tables {
            for (live, fresh) in tables.projections.iter().zip(&rebuilt.projections) {
                assert_eq!(live.checkpoint, self.store.head(), "I16: {} lags", live.id.0);
                assert!(live.letters.is_empty() && live.halted.is_none(), "I16: {} is stuck", live.id.0);
                assert!(live.tables == fresh.tables, "I6: {} differs from its rebuild", live.id.0);
            }
        }
    }
}

fn table<'a>(tables: &'a MemoryStore, name: &str) -> &'a MemoryProjection {
    tables.get(name).expect("a projection of this name")
}
