//! What must hold of folding, whatever the log and however it is cut.
#![allow(clippy::unwrap_used, reason = "a test")]

mod support;

use modelfaucet_projector::fold::{Folder, Outcome, Unit};
use modelfaucet_projector::memory::{MemoryError, MemoryStore, MemoryTable};
use modelfaucet_projector::projection::all;
use modelfaucet_projector::table::{Row, TableDigest, Value};
use modelfaucet_schema::log::Head;
use proptest::prelude::*;
use std::collections::HashSet;
use support::log::{LOG, MemoryLog, Mix, SHARD, other_hash};

fn store() -> MemoryStore {
    MemoryStore::new(&all(), LOG, Head::genesis(LOG, SHARD))
}

fn folder() -> Folder {
    Folder::beginning(SHARD, LOG, all())
}

/// As a projector does that starts anew: with what the tables remember and nothing else.
fn reload(store: &MemoryStore) -> Folder {
    let units = all().into_iter().zip(&store.projections).map(|(mut projection, saved)| {
        for index in projection.remembers() {
            saved.tables[*index].rows().for_each(|row| projection.remember(*index, row).unwrap());
        }
        Unit {
            quarantined: saved.letters.iter().map(|letter| letter.stream).collect::<HashSet<_>>(),
            ..Unit::new(projection)
        }
    });
    Folder::new(SHARD, LOG, store.projections[0].checkpoint, units.collect())
}

fn digests(store: &MemoryStore) -> Vec<TableDigest> {
    store.projections.iter().flat_map(|projection| projection.tables.iter().map(MemoryTable::digest)).collect()
}

fn commit(store: &mut MemoryStore, outcome: Outcome) {
    match outcome {
        Outcome::Nothing => {}
        Outcome::Folded { batch, halts } => {
            assert_eq!(halts, []);
            store.commit(LOG, &batch).unwrap();
        }
        other => panic!("{other:?}"),
    }
}

fn fold_whole(log: &MemoryLog) -> MemoryStore {
    let mut store = store();
    commit(&mut store, folder().offer(&log.whole()));
    store
}

/// Rows of a table as numbers by column name.
fn sum(store: &MemoryStore, projection: &str, table: usize, column: &str) -> i64 {
    let shape = &all().into_iter().find(|known| known.name() == projection).unwrap().tables()[table];
    let at = shape.column(column).unwrap();
    store.get(projection).unwrap().tables[table].rows().map(|row| row[at].as_i64().unwrap()).sum()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn any_cut_gives_the_same_tables(seed in 1_u64.., sizes in prop::collection::vec(1_usize..60, 1..14), step in 1_usize..5) {
        let log = MemoryLog::generate(seed, Mix::Everything, 6, &sizes);
        let whole = fold_whole(&log);
        let (mut pieces, mut folder) = (store(), folder());
        for from in (0..sizes.len()).step_by(step) {
            commit(&mut pieces, folder.offer(&log.span(from, (from + step).min(sizes.len()))));
        }
        prop_assert_eq!(digests(&pieces), digests(&whole));
    }

    #[test]
    fn folding_on_from_the_tables_is_folding_at_once(seed in 1_u64.., sizes in prop::collection::vec(1_usize..60, 2..14), cut in any::<prop::sample::Index>()) {
        let log = MemoryLog::generate(seed, Mix::Everything, 6, &sizes);
        let cut = cut.index(sizes.len());
        let mut pieces = store();
        commit(&mut pieces, folder().offer(&log.span(0, cut)));
        // fold(fold(a), b): all that is known of a is in the tables.
        let mut second = reload(&pieces);
        commit(&mut pieces, second.offer(&log.span(cut, sizes.len())));
        prop_assert_eq!(digests(&pieces), digests(&fold_whole(&log)));
    }

    #[test]
    fn what_comes_twice_counts_once(seed in 1_u64.., sizes in prop::collection::vec(1_usize..40, 2..10), overlap in 1_usize..4) {
        let log = MemoryLog::generate(seed, Mix::Everything, 4, &sizes);
        let (mut twice, mut folder) = (store(), folder());
        for to in 1..=sizes.len() {
            commit(&mut twice, folder.offer(&log.span(to.saturating_sub(overlap), to)));
            commit(&mut twice, folder.offer(&log.span(to - 1, to)));
        }
        prop_assert!(folder.duplicates > 0);
        prop_assert_eq!(digests(&twice), digests(&fold_whole(&log)));
    }

    #[test]
    fn three_ways_to_a_balance_agree(seed in 1_u64.., events in 50_usize..800) {
        let store = fold_whole(&MemoryLog::generate(seed, Mix::Everything, 5, &[events]));
        let wallets = &store.get("wallets").unwrap().tables[0];
        let folded = &store.get("reconciliation").unwrap().tables[0];
        prop_assert_eq!(wallets.len(), folded.len());
        let accounts: Vec<&Row> = store.get("journal").unwrap().tables[0].rows().collect();
        for (stated, added) in wallets.rows().zip(folded.rows()) {
            prop_assert_eq!((&stated[1], &stated[5], &stated[7]), (&added[1], &added[5], &added[6]));
            let Value::Uuid(id) = stated[1] else { panic!() };
            let posted: i64 = accounts.iter()
                .filter(|row| [format!("2010:{id}"), format!("2020:{id}")].iter().any(|name| row[2].as_text() == Some(name)))
                .map(|row| row[4].as_i64().unwrap() - row[3].as_i64().unwrap())
                .sum();
            prop_assert_eq!(Some(posted), stated[5].as_i64());
        }
        prop_assert_eq!(sum(&store, "journal", 0, "debit"), sum(&store, "journal", 0, "credit"));
        for column in ["upstream", "charge", "developer", "platform", "unrecovered", "input_tokens"] {
            prop_assert_eq!(sum(&store, "usage", 0, column), sum(&store, "usage", 1, column));
        }
    }
}

#[test]
fn a_gap_is_refused() {
    let log = MemoryLog::generate(1, Mix::Everything, 3, &[10, 10, 10]);
    let mut folder = folder();
    assert!(
        matches!(folder.offer(&log.span(1, 2)), Outcome::Gap { expected, found } if expected.0 == 1 && found.0 == 11)
    );
    let mut holed = log.span(0, 2);
    holed.events.remove(12);
    assert!(matches!(folder.offer(&holed), Outcome::Gap { expected, .. } if expected.0 == 13));
    let mut short = log.span(0, 2);
    short.events.truncate(15);
    assert!(matches!(folder.offer(&short), Outcome::Gap { .. }));
    assert_eq!(folder.at.position.0, 0, "nothing of it was folded");
}

#[test]
fn another_story_is_refused() {
    let log = MemoryLog::generate(1, Mix::Everything, 3, &[10, 10, 10]);
    let mut folder = folder();
    assert!(matches!(folder.offer(&log.span(0, 1)), Outcome::Folded { .. }));
    let mut forked = log.span(1, 2);
    forked.after = other_hash(forked.after);
    assert!(matches!(folder.offer(&forked), Outcome::Fork { at } if at.0 == 10));
    let mut again = log.span(0, 1);
    again.links = vec![other_hash(again.links[0])];
    assert!(matches!(folder.offer(&again), Outcome::Fork { at } if at.0 == 10));
    let mut across = log.span(0, 2);
    across.links[0] = other_hash(across.links[0]);
    assert!(matches!(folder.offer(&across), Outcome::Fork { at } if at.0 == 10));
}

#[test]
fn two_folders_on_one_store_do_not_double() {
    let log = MemoryLog::generate(3, Mix::Everything, 3, &[10, 10]);
    let (mut one, mut two, mut store) = (folder(), folder(), store());
    let Outcome::Folded { batch, .. } = one.offer(&log.span(0, 1)) else { panic!() };
    store.commit(LOG, &batch).unwrap();
    let Outcome::Folded { batch, .. } = two.offer(&log.span(0, 2)) else { panic!() };
    assert!(matches!(store.commit(LOG, &batch), Err(MemoryError::Moved(_))));
    let mut two = reload(&store);
    commit(&mut store, two.offer(&log.span(0, 2)));
    assert_eq!(digests(&store), digests(&fold_whole(&log)));
}
