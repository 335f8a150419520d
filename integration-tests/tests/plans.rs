//! `modelfaucet explain` finds everything by index: its statements, with their own parameters, over tables that are too large to be read
//! from end to end. Plans are PostgreSQL's own record of what it did, not an estimate of ours.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![allow(dead_code, unreachable_pub, missing_docs, reason = "each module of a test is used by several files")]

#[path = "verify/business.rs"]
mod business;

use std::collections::BTreeSet;
use std::process::Command;

use business::ledger_with;
use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::process::binary;
use modelfaucet_schema::log::boot::ServiceRole;
use serde_json::Value;
use tokio_postgres::Client;

/// Rows that are put into each table; the log gets ten times as many.
const ROWS: i64 = 20_000;
/// What `explain` looks at and what grows with the business.
const TABLES: [&str; 14] = [
    "event",
    "batch",
    "entry",
    "usage_record",
    "account",
    "audit_log",
    "session",
    "top_up",
    "checkout",
    "refund",
    "dispute",
    "write_off",
    "stripe_transaction",
    "received",
];
/// Rows that one step may look at in vain.
const IN_VAIN: u64 = 5_000;

/// A value of a type for row `g`, different for each row where that matters.
fn value(kind: &str) -> &'static str {
    match kind {
        "int2" => "0",
        "int4" => "900000 + g",
        "int8" => "1000000 + g",
        "text" => "'filler-' || g",
        "uuid" => "gen_random_uuid()",
        "bytea" => "sha256(g::text::bytea)",
        "timestamptz" => "clock_timestamp() + g * interval '1 ms'",
        "bool" => "false",
        "_int4" => "ARRAY[1]",
        "_int8" => "ARRAY[1::bigint]",
        other => panic!("no value for {other}"),
    }
}

/// Puts rows of nobody into the tables, far behind those that are there: the log has a hole, too.
async fn fill(superuser: &Client) {
    // What guards the log against people like us.
    superuser.batch_execute("SET session_replication_role = replica").await.unwrap();
    let tables = "SELECT n.nspname, c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                  WHERE c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relname = ANY ($1)
                    AND (n.nspname IN ('ledger', 'payment') OR n.nspname LIKE 'p\\_%')";
    let rows = superuser.query(tables, &[&TABLES.as_slice()]).await.unwrap();
    assert_eq!(rows.len(), TABLES.len(), "{rows:?}");
    for row in rows {
        let (schema, table): (String, String) = (row.get(0), row.get(1));
        let columns = "SELECT column_name::text, udt_name::text FROM information_schema.columns
                       WHERE table_schema = $1 AND table_name = $2 AND is_generated = 'NEVER' ORDER BY ordinal_position";
        let columns = superuser.query(columns, &[&schema, &table]).await.unwrap();
        let names: Vec<String> = columns.iter().map(|column| format!("\"{}\"", column.get::<_, &str>(0))).collect();
        let values = columns.iter().map(|column| match (column.get::<_, &str>(0), table.as_str()) {
            ("provider", "received") => "'stripe'",
            ("version", "event") => "1",
            _ => value(column.get(1)),
        });
        let values: Vec<&str> = values.collect();
        let count = if table == "event" { 10 * ROWS } else { ROWS };
        let sql = format!(
            "INSERT INTO {schema}.{table} ({}) SELECT {} FROM generate_series(1, {count}) AS g",
            names.join(", "),
            values.join(", ")
        );
        superuser.batch_execute(&sql).await.unwrap_or_else(|error| panic!("{table}: {error:?}"));
    }
    superuser.batch_execute("ANALYZE").await.unwrap();
}

/// What the server has written down since a moment.
struct Journal {
    superuser: Client,
    file: String,
    read: usize,
}

impl Journal {
    /// From now on each statement of the auditor is written down with what it did.
    async fn open(database: &TestDatabase) -> Self {
        let superuser = database.connect().await;
        let data: String = superuser.query_one("SHOW data_directory", &[]).await.unwrap().get(0);
        for setting in [
            "session_preload_libraries = 'auto_explain'",
            "auto_explain.log_min_duration = 0",
            "auto_explain.log_analyze = on",
            "auto_explain.log_timing = off",
            "auto_explain.log_nested_statements = on",
            "log_min_messages = 'log'",
        ] {
            let sql = format!("ALTER ROLE {} SET {setting}", ServiceRole::Audit.name());
            superuser.batch_execute(&sql).await.unwrap();
        }
        let file = std::path::Path::new(&data).with_file_name("log").display().to_string();
        Self { superuser, file, read: 0 }
    }

    async fn since(&mut self) -> String {
        let text: String = self.superuser.query_one("SELECT pg_read_file($1)", &[&self.file]).await.unwrap().get(0);
        let new = text[self.read..].to_owned();
        self.read = text.len();
        new
    }
}

/// Tables that were read from end to end, of those that grow.
fn read_whole(plans: &str) -> BTreeSet<&str> {
    let scans = plans.match_indices("Seq Scan on ").map(|(at, words)| &plans[at + words.len()..]);
    let tables = scans.map(|rest| rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().unwrap_or_default());
    // A part of the log is called event_s00_00000.
    tables
        .filter(|table| TABLES.contains(table) || table.starts_with("event_") || table.starts_with("batch_"))
        .collect()
}

/// The most rows that one step has looked at in vain.
fn in_vain(plans: &str) -> u64 {
    let marked = plans.match_indices("Rows Removed by Filter: ").map(|(at, words)| &plans[at + words.len()..]);
    marked.map(|rest| rest.lines().next().unwrap_or_default().trim().parse().unwrap()).max().unwrap_or(0)
}

#[tokio::test(flavor = "multi_thread")]
async fn explain_reads_no_table_from_end_to_end() {
    let Some(database) = ledger_with(11, 600, 12).await else { return };
    let superuser = database.connect().await;
    let text = async |sql: &str| -> String { superuser.query_one(sql, &[]).await.unwrap().get(0) };
    let captured = "FROM ledger.event WHERE type = 'HoldCaptured' ORDER BY position LIMIT 1";
    let asked = [
        ("a place", text(&format!("SELECT 's00:' || position {captured}")).await),
        ("a hold", text(&format!("SELECT convert_from(payload, 'UTF8')::jsonb ->> 'hold_id' {captured}")).await),
        ("a wallet", text("SELECT wallet_id::text FROM read.entry WHERE type = 'HoldCaptured' LIMIT 1").await),
        ("a session", text("SELECT session_id::text FROM read.session LIMIT 1").await),
        ("a top-up", text("SELECT top_up_id::text FROM read.top_up WHERE payment IS NOT NULL LIMIT 1").await),
        ("a payment", text("SELECT payment FROM read.top_up WHERE payment IS NOT NULL LIMIT 1").await),
        ("late usage", text("SELECT 's00:' || position FROM ledger.event WHERE type = 'HoldExpired' LIMIT 1").await),
        ("a payment that nobody knows", "pi_nobody".to_owned()),
    ];
    fill(&superuser).await;
    let mut journal = Journal::open(&database).await;

    // What it would look like.
    let auditor = database.connect_as(ServiceRole::Audit).await;
    auditor.query("SELECT count(*) FROM read.top_up WHERE reason = 'x'", &[]).await.unwrap();
    let plans = journal.since().await;
    assert_eq!(read_whole(&plans), BTreeSet::from(["top_up"]), "{plans}");
    assert!(in_vain(&plans) > IN_VAIN, "{plans}");

    for (what, id) in asked {
        let url = database.url(ServiceRole::Audit);
        let output =
            Command::new(binary()).args(["explain", &id, "--json", "--database-url", &url]).env_clear().output();
        let output = output.unwrap();
        let plans = journal.since().await;
        if id == "pi_nobody" {
            assert_eq!(output.status.code(), Some(1), "{output:?}");
        } else {
            let story: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|_| panic!("{what}: {output:?}"));
            assert!(!story["events"].as_array().unwrap().is_empty(), "{what}: {story:#}");
        }
        let count = plans.matches("Query Text: ").count();
        assert!(count > 3, "{what}: only {count} plans were written down: {plans}");
        assert_eq!(read_whole(&plans), BTreeSet::new(), "{what} {id}: {plans}");
        assert!(in_vain(&plans) <= IN_VAIN, "{what} {id} looks at {} rows in vain: {plans}", in_vain(&plans));
        println!("{what}: {count} statements, each by index");
    }
}
