//! `modelfaucet verify` against a log that the real writer and the real projector made: nothing is found in it as it is, and every
//! single change of it is found where it was made. And the guards that stop such changes in the first place.
#![allow(clippy::unwrap_used, clippy::wildcard_imports, reason = "a test that cannot go on fails")]
#![allow(unreachable_pub, missing_docs, reason = "each module of a test is used by this file only")]

#[path = "verify/business.rs"]
mod business;
#[path = "verify/damage.rs"]
mod damage;

use std::fmt::Write as _;
use std::process::Command;
use std::sync::Arc;

use business::{Dice, ledger_with};
use damage::{Damage, Rows, keep, restore, unguarded};
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::process::binary;
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_schema::hash::BatchHasher;
use modelfaucet_schema::ids::{BatchId, ShardId};
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::{Head, LogReader};
use serde_json::Value;
use uuid::Uuid;

/// How many random changes are tried.
const CHANGES: usize = 320;

/// Runs `modelfaucet verify --json` as the auditor.
fn verify(database: &TestDatabase, arguments: &[&str]) -> (i32, Value) {
    let url = database.url(ServiceRole::Audit);
    let output = Command::new(binary())
        .args(["verify", "--json", "--quiet", "--database-url", &url])
        .args(arguments)
        .env_clear()
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    let result = serde_json::from_str(&text).unwrap_or_else(|_| panic!("{output:?}"));
    (output.status.code().unwrap(), result)
}

fn findings(result: &Value) -> &[Value] {
    result["findings"].as_array().unwrap()
}

/// So many changes were found, in the run's report.
fn found(changes: u64, demanded: &str) {
    report::fault("F14", &Figures { injected: changes, recoveries: &[], demanded, invariants: &["I7"] });
}

/// Does a finding about the log lie on these positions?
fn covers(result: &Value, first: i64, last: i64) -> bool {
    let about_log =
        |finding: &&Value| !["guards", "snapshots", "projections"].contains(&finding["check"].as_str().unwrap());
    let on = |finding: &Value| matches!((finding["first"].as_i64(), finding["last"].as_i64()), (Some(from), Some(to)) if from <= last && to >= first);
    findings(result).iter().filter(about_log).any(on)
}

#[tokio::test(flavor = "multi_thread")]
async fn the_honest_log_passes_and_every_single_change_is_found_where_it_was_made() {
    let Some(honest) = ledger_with(1, 2_000, 24).await else { return };
    let (exit, result) = verify(&honest, &[]);
    assert_eq!((exit, findings(&result)), (0, [].as_slice()), "{result:#}");
    for check in result["checks"].as_array().unwrap() {
        assert!(check["result"] == "ok" && check["checked"].as_u64() > Some(0), "{check}");
    }
    for range in [["--from", "700", "--to", "900"], ["--from", "1", "--to", "900"], ["--from", "1999", "--to", "2000"]]
    {
        assert_eq!(verify(&honest, &range).0, 0, "{range:?}");
    }

    let superuser = honest.connect().await;
    keep(&superuser).await;
    let rows = Rows::read(&superuser).await;
    let mut dice = Dice::new(7);
    let mut missed = Vec::new();
    for at in 0..CHANGES {
        let damage = Damage::draw(at, &rows, &mut dice);
        damage.apply(&superuser).await;
        let (exit, result) = verify(&honest, &["--no-projections"]);
        let found = damage.places.iter().all(|(first, last)| covers(&result, *first, *last));
        if exit != 6 || !found {
            missed.push(format!("{}: exit {exit}, {:?} in {}", damage.sql, damage.places, result["findings"]));
        }
        restore(&superuser).await;
    }
    assert_eq!(verify(&honest, &[]).0, 0, "everything was put back");
    assert!(missed.is_empty(), "{} of {CHANGES} missed:\n{}", missed.len(), missed.join("\n"));
    found(
        CHANGES as u64,
        "each edit, deletion, swap, insertion and cut is found where it was made; the honest log passes",
    );
}

/// Somebody who owns the server changes one event and makes the whole chain behind it anew: nothing in the log itself is wrong.
#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_was_written_anew_contradicts_those_who_have_seen_it() {
    let Some(database) = ledger_with(5, 400, 8).await else { return };
    let superuser = Arc::new(database.connect().await);
    let reader = LogReader::prepare(Arc::clone(&superuser)).await.unwrap();
    let (log_id, _) = reader.head(ShardId(0)).await.unwrap();
    let mut head = Head::genesis(log_id, ShardId(0));
    let raw = reader.raw_page(ShardId(0), head, 100_000).await.unwrap();
    let page = raw.check().unwrap();
    let mut stored: Vec<_> = page.events.iter().map(|event| event.to_stored()).collect();
    stored[200].request_id.push('!');
    let ids = superuser.query("SELECT batch_id FROM ledger.batch ORDER BY last_pos", &[]).await.unwrap();
    let mut sql = "UPDATE ledger.event SET request_id = request_id || '!' WHERE position = 201;".to_owned();
    for (link, id) in page.links.iter().zip(ids) {
        let at = |position: i64| usize::try_from(position).unwrap();
        let events = &stored[at(head.position.0)..at(link.position.0)];
        let batch = BatchId(id.get::<_, Uuid>(0));
        let mut hasher =
            BatchHasher::new(head.hash, ShardId(0), head.position.next(), link.position, batch, events[0].recorded_at);
        for event in events {
            hasher.event(event);
        }
        let hash = hasher.finish();
        let (previous, last) = (head.hash, link.position);
        write!(sql, "UPDATE ledger.batch SET prev_hash = '\\x{previous}', hash = '\\x{hash}' WHERE last_pos = {last};")
            .unwrap();
        head = Head { position: last, hash };
    }
    unguarded(&superuser, &sql).await;
    let (exit, result) = verify(&database, &[]);
    let all = findings(&result);
    assert!(exit == 6 && all.len() > 2 && all.iter().all(|finding| finding["check"] == "witnesses"), "{result:#}");
    assert!(covers(&result, 201, 201), "{result:#}");
    found(1, "a chain that was made anew contradicts projections and snapshots");
}

/// The end of the log, cut off cleanly: what is left is sound, but projections and snapshots have seen more.
#[tokio::test(flavor = "multi_thread")]
async fn a_cut_end_contradicts_those_who_have_seen_it() {
    let Some(honest) = ledger_with(6, 200, 8).await else { return };
    let sql = "SELECT first_pos FROM ledger.batch ORDER BY last_pos DESC LIMIT 3";
    let rows = honest.connect().await.query(sql, &[]).await.unwrap();
    for first in rows.iter().map(|row| row.get::<_, i64>(0)) {
        let copy = honest.copy().await;
        let cut = format!(
            "DELETE FROM ledger.event WHERE position >= {first}; DELETE FROM ledger.batch WHERE first_pos >= {first};
             DELETE FROM ledger.idempotency WHERE position >= {first};"
        );
        unguarded(&copy.connect().await, &cut).await;
        let (exit, result) = verify(&copy, &[]);
        assert!(exit == 6 && covers(&result, first, first), "I7: a log cut before {first} passes: {result:#}");
        copy.remove().await;
    }
    found(rows.len() as u64, "a log that was cut at its end contradicts projections and snapshots");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_folded_from_the_log_is_compared_row_by_row() {
    let Some(honest) = ledger_with(2, 300, 8).await else { return };
    for (change, check, names) in [
        (
            "UPDATE p_wallets_v1.wallet SET posted = posted + 1 WHERE wallet_id = (SELECT min(wallet_id::text)::uuid FROM p_wallets_v1.wallet)",
            "projections",
            "p_wallets_v1.wallet",
        ),
        (
            "DELETE FROM p_journal_v1.entry WHERE position = (SELECT min(position) FROM p_journal_v1.entry)",
            "projections",
            "p_journal_v1.entry",
        ),
        (
            "UPDATE p_usage_v1.usage_record SET charge = charge - 1 WHERE position = (SELECT max(position) FROM p_usage_v1.usage_record)",
            "projections",
            "p_usage_v1.usage_record",
        ),
        (
            "UPDATE ledger.snapshot SET state = convert_to(replace(convert_from(state, 'UTF8'), '\"tokens\":0', '\"tokens\":1'), 'UTF8')",
            "snapshots",
            "snapshot",
        ),
    ] {
        let copy = honest.copy().await;
        assert!(copy.connect().await.execute(change, &[]).await.unwrap() > 0, "{change}");
        let (exit, result) = verify(&copy, &[]);
        assert_eq!(exit, 1, "{change}: {result:#}");
        let all = findings(&result);
        assert!(
            all.iter().all(|finding| finding["check"] == check && finding["what"].as_str().unwrap().contains(names)),
            "{all:?}"
        );
        copy.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guard_that_was_taken_away_is_missed() {
    let Some(honest) = ledger_with(3, 100, 8).await else { return };
    for change in [
        "ALTER TABLE ledger.event_s00_00000 DISABLE TRIGGER append_only",
        "ALTER TABLE ledger.batch_s00 ENABLE TRIGGER no_truncate",
        "ALTER TABLE ledger.idempotency ENABLE REPLICA TRIGGER append_only",
        "DROP TRIGGER no_truncate ON ledger.event_s00_00000",
        "CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN OLD; END'",
        "GRANT UPDATE (payload) ON ledger.event_s00_00000 TO ledger_projector",
        "GRANT DELETE ON ledger.batch TO PUBLIC",
        "ALTER TABLE ledger.event ENABLE ROW LEVEL SECURITY; CREATE POLICY p ON ledger.event FOR SELECT TO ledger_audit USING (true)",
        "CREATE RULE r AS ON DELETE TO ledger.log DO INSTEAD NOTHING",
    ] {
        let copy = honest.copy().await;
        copy.connect().await.batch_execute(change).await.unwrap();
        let (exit, result) = verify(&copy, &["--no-projections"]);
        let all = findings(&result);
        assert!(
            exit == 6 && !all.is_empty() && all.iter().all(|finding| finding["check"] == "guards"),
            "{change}: {result:#}"
        );
        copy.remove().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn no_service_may_write_to_the_log_and_not_even_a_superuser_by_accident() {
    let Some(database) = ledger_with(4, 50, 8).await else { return };
    let tables = [
        "event",
        "event_s00",
        "event_s00_00000",
        "batch",
        "batch_s00",
        "idempotency",
        "idempotency_s00",
        "log",
        "app_shard",
    ];
    let key = |table: &str| if table.starts_with("event") || table.starts_with("idem") { "position" } else { "shard" };
    let attacks = |table: &str| {
        [
            format!("UPDATE ledger.{table} SET {0} = {0}", key(table)),
            format!("DELETE FROM ledger.{table}"),
            format!("TRUNCATE ledger.{table} CASCADE"),
        ]
    };
    for role in ServiceRole::ALL {
        let client = database.connect_as(*role).await;
        client.batch_execute("SET default_transaction_read_only = off").await.unwrap();
        for table in tables {
            let insert = format!("INSERT INTO ledger.{table} SELECT * FROM ledger.{table}");
            for attack in attacks(table).into_iter().chain([insert]) {
                let code = client.batch_execute(&attack).await.unwrap_err().code().cloned();
                assert_eq!(
                    code.as_ref().map(tokio_postgres::error::SqlState::code),
                    Some("42501"),
                    "{} {attack}",
                    role.name()
                );
            }
        }
        for attack in [
            "SET session_replication_role = replica",
            "SET ROLE ledger_owner",
            "ALTER TABLE ledger.event DISABLE TRIGGER ALL",
        ] {
            assert!(client.batch_execute(attack).await.is_err(), "{} {attack}", role.name());
        }
    }
    let superuser = database.connect().await;
    superuser
        .batch_execute(
            "INSERT INTO ledger.app_shard VALUES (gen_random_uuid(), 0); SET session_replication_role = replica",
        )
        .await
        .unwrap();
    for table in tables {
        for attack in attacks(table) {
            let code = superuser.batch_execute(&attack).await.unwrap_err().code().cloned();
            assert_eq!(code.as_ref().map(tokio_postgres::error::SqlState::code), Some("ML003"), "{attack}");
        }
    }
    assert_eq!(verify(&database, &[]).0, 0);
}
