//! The statements that bring changes into `PostgreSQL`: one per table and kind of change, whatever the number of rows.

use std::fmt::Write as _;

use bytes::Bytes;

use crate::binary::{ArrayParameter, copy_stream};
use crate::changes::{Change, Changes, Mask, TableChanges};
use crate::projection::Projection;
use crate::table::{Column, Kind, Row, Rule, Table, Writing};

/// From this many new rows on COPY is faster than a statement, which needs one round trip less.
const COPY_ROWS: usize = 64;

/// One thing to send.
#[derive(Debug)]
pub enum Write {
    /// A statement with one array per column.
    Statement {
        /// Its text; prepared once per connection.
        sql: String,
        /// Its parameters.
        parameters: Vec<ArrayParameter>,
        /// Rows that must have been changed, and the table; only for patches, whose last parameters they are.
        expected: Option<(String, i64)>,
    },
    /// New rows.
    Copy {
        /// The COPY statement.
        sql: String,
        /// The stream.
        pieces: Vec<Bytes>,
    },
}

impl Write {
    /// The statement.
    pub fn sql(&self) -> &str {
        match self {
            Self::Statement { sql, .. } | Self::Copy { sql, .. } => sql,
        }
    }
}

/// Everything that `changes` needs, in the schema `schema`.
pub fn writes(schema: &str, changes: &Changes) -> Vec<Write> {
    let mut writes = Vec::new();
    for table in changes.tables().iter().filter(|table| !table.is_empty()) {
        write_table(schema, table, &mut writes);
    }
    writes
}

fn write_table(schema: &str, changes: &TableChanges, writes: &mut Vec<Write>) {
    let table = changes.table;
    if changes.appended.len() >= COPY_ROWS {
        writes.push(Write::Copy { sql: copy_sql(schema, table, ""), pieces: copy_stream(changes.appended.iter()) });
    } else if !changes.appended.is_empty() {
        let rows: Vec<&Row> = changes.appended.iter().collect();
        writes.push(statement(insert_sql(schema, table), table, Mask::MAX, &rows, None));
    }
    let rows_of = |wanted: Change| -> Vec<&Row> {
        changes.changed.iter().filter(|(_, change)| *change == wanted).map(|(row, _)| row).collect()
    };
    let mut kinds: Vec<Change> = Vec::new();
    for (_, change) in &changes.changed {
        if !kinds.contains(change) {
            kinds.push(*change);
        }
    }
    for change in kinds {
        let rows = rows_of(change);
        writes.push(match change {
            Change::Upsert => statement(upsert_sql(schema, table), table, Mask::MAX, &rows, None),
            Change::Delete => statement(delete_sql(schema, table), table, 0, &rows, None),
            Change::Patch(mask) => {
                let expected = (format!("{schema}.{}", table.name), i64::try_from(rows.len()).unwrap_or(i64::MAX));
                statement(patch_sql(schema, table, mask), table, mask, &rows, Some(expected))
            }
        });
    }
}

fn statement(sql: String, table: &Table, mask: Mask, rows: &[&Row], expected: Option<(String, i64)>) -> Write {
    let parameters = named(table, mask)
        .map(|(index, column)| ArrayParameter::column(column.kind, rows.iter().copied(), index))
        .collect();
    Write::Statement { sql, parameters, expected }
}

/// The columns of the key and those of `mask`.
fn named(table: &Table, mask: Mask) -> impl Iterator<Item = (usize, &Column)> {
    table.columns.iter().enumerate().filter(move |(index, column)| column.rule == Rule::Key || mask & (1 << index) != 0)
}

fn list<'a>(
    columns: impl Iterator<Item = (usize, &'a Column)>,
    each: impl Fn(&Column) -> String,
    between: &str,
) -> String {
    columns.map(|(_, column)| each(column)).collect::<Vec<_>>().join(between)
}

/// `unnest($1::smallint[], …) AS n (shard, …)`
fn source(table: &Table, mask: Mask) -> String {
    let mut sql = String::from("unnest(");
    for (at, (_, column)) in named(table, mask).enumerate() {
        let kind = match column.kind {
            Kind::Text | Kind::I32Array | Kind::I64Array => "text",
            kind => kind.sql(),
        };
        // Writing into a String cannot fail.
        let _ = write!(sql, "{}${}::{kind}[]", if at == 0 { "" } else { ", " }, at + 1);
    }
    let _ = write!(sql, ") AS n ({})", list(named(table, mask), quoted, ", "));
    sql
}

fn quoted(column: &Column) -> String {
    format!("\"{}\"", column.name)
}

/// The new value, cast where it travels as text.
fn value(column: &Column) -> String {
    match column.kind {
        Kind::I32Array | Kind::I64Array => format!("n.\"{}\"::{}", column.name, column.kind.sql()),
        _ => format!("n.\"{}\"", column.name),
    }
}

/// Adds rows.
pub fn insert_sql(schema: &str, table: &Table) -> String {
    format!(
        "INSERT INTO {schema}.{} ({}) SELECT {} FROM {}",
        table.name,
        list(named(table, Mask::MAX), quoted, ", "),
        list(named(table, Mask::MAX), value, ", "),
        source(table, Mask::MAX),
    )
}

/// Writes whole rows.
pub fn upsert_sql(schema: &str, table: &Table) -> String {
    let others = || named(table, Mask::MAX).filter(|(_, column)| column.rule != Rule::Key);
    let assign = |column: &Column| match column.rule {
        Rule::Add => format!("\"{0}\" = t.\"{0}\" + excluded.\"{0}\"", column.name),
        _ => format!("\"{0}\" = excluded.\"{0}\"", column.name),
    };
    format!(
        "INSERT INTO {schema}.{} AS t ({}) SELECT {} FROM {} ON CONFLICT ({}) DO UPDATE SET {}",
        table.name,
        list(named(table, Mask::MAX), quoted, ", "),
        list(named(table, Mask::MAX), value, ", "),
        source(table, Mask::MAX),
        list(named(table, 0), quoted, ", "),
        list(others(), assign, ", "),
    )
}

fn same_key(table: &Table) -> String {
    list(named(table, 0), |column| format!("t.\"{0}\" = n.\"{0}\"", column.name), " AND ")
}

/// Overwrites some columns, adds to sums; fails unless every row was there.
pub fn patch_sql(schema: &str, table: &Table, mask: Mask) -> String {
    let changed = named(table, mask).filter(|(_, column)| column.rule != Rule::Key);
    let parameters = named(table, mask).count();
    let assign = |column: &Column| match column.rule {
        Rule::Add => format!("\"{0}\" = t.\"{0}\" + n.\"{0}\"", column.name),
        _ => format!("\"{}\" = {}", column.name, value(column)),
    };
    format!(
        "WITH changed AS (UPDATE {schema}.{} AS t SET {} FROM {} WHERE {} RETURNING 1) \
         SELECT projection.expect_rows(${}::text, count(*), ${}::bigint) FROM changed",
        table.name,
        list(changed, assign, ", "),
        source(table, mask),
        same_key(table),
        parameters + 1,
        parameters + 2,
    )
}

/// Takes rows away.
pub fn delete_sql(schema: &str, table: &Table) -> String {
    format!("DELETE FROM {schema}.{} AS t USING {} WHERE {}", table.name, source(table, 0), same_key(table))
}

/// Takes a binary stream of rows.
pub fn copy_sql(schema: &str, table: &Table, options: &str) -> String {
    let columns = list(named(table, Mask::MAX), quoted, ", ");
    format!("COPY {schema}.{} ({columns}) FROM STDIN (FORMAT binary{options})", table.name)
}

/// All rows of a shard in the order of their keys. `$1` shard int2
pub fn select_sql(schema: &str, table: &Table) -> String {
    format!("{} WHERE shard = $1 {}", select(schema, table), order(table))
}

/// All rows in the order of their keys.
pub fn select_all_sql(schema: &str, table: &Table) -> String {
    format!("{} {}", select(schema, table), order(table))
}

fn select(schema: &str, table: &Table) -> String {
    format!("SELECT {} FROM {schema}.{}", list(named(table, Mask::MAX), quoted, ", "), table.name)
}

fn order(table: &Table) -> String {
    format!("ORDER BY {}", list(named(table, 0), quoted, ", "))
}

/// Statements that create a table with its comments, without its key and further indexes.
pub fn table_ddl(schema: &str, table: &Table) -> String {
    let definition = |column: &Column| {
        format!("    \"{}\" {}{}", column.name, column.kind.sql(), if column.nullable { "" } else { " NOT NULL" })
    };
    let mut sql =
        format!("CREATE TABLE {schema}.{} (\n{}\n)", table.name, list(named(table, Mask::MAX), definition, ",\n"));
    // Rows that are updated over and over keep room in their page; see PostgreSQL's heap-only tuples.
    sql.push_str(if table.writing == Writing::Upsert { " WITH (fillfactor = 70);\n" } else { ";\n" });
    for column in table.columns.iter().filter(|column| !column.comment.is_empty()) {
        // Writing into a String cannot fail.
        let _ = writeln!(
            sql,
            "COMMENT ON COLUMN {schema}.{}.\"{}\" IS '{}';",
            table.name,
            column.name,
            column.comment.replace('\'', "''")
        );
    }
    let _ = writeln!(sql, "GRANT SELECT ON {schema}.{} TO ledger_query, ledger_audit;", table.name);
    sql
}

/// Statements that create a table's key and further indexes; last, where a table is filled first.
pub fn index_ddl(schema: &str, table: &Table) -> String {
    key_ddl(schema, table) + &further_index_ddl(schema, table)
}

/// The statement that creates a table's key.
pub fn key_ddl(schema: &str, table: &Table) -> String {
    format!("ALTER TABLE {schema}.{} ADD PRIMARY KEY ({});\n", table.name, list(named(table, 0), quoted, ", "))
}

/// Statements that create the indexes beside the key.
pub fn further_index_ddl(schema: &str, table: &Table) -> String {
    table.indexes.iter().fold(String::new(), |mut sql, index| {
        let (unique, columns) = index.strip_prefix("UNIQUE ").map_or(("", *index), |columns| ("UNIQUE ", columns));
        let (columns, some) = columns.find(" WHERE ").map_or((columns, ""), |at| columns.split_at(at));
        let _ = writeln!(sql, "CREATE {unique}INDEX ON {schema}.{} ({columns}){some};", table.name);
        sql
    })
}

/// Statements that create a projection's schema and tables.
pub fn projection_ddl(projection: &dyn Projection) -> String {
    let schema = projection.schema();
    let mut sql = schema_ddl(&schema);
    for table in projection.tables() {
        sql.push_str(&table_ddl(&schema, table));
        sql.push_str(&index_ddl(&schema, table));
    }
    sql
}

/// Statements that create a projection's schema.
pub fn schema_ddl(schema: &str) -> String {
    format!("CREATE SCHEMA {schema};\nGRANT USAGE ON SCHEMA {schema} TO ledger_query, ledger_audit;\n")
}

/// Statements that point the views in `read` to this version of a projection.
pub fn view_ddl(projection: &dyn Projection) -> String {
    let schema = projection.schema();
    let mut sql = String::new();
    for table in projection.tables() {
        let columns = list(named(table, Mask::MAX), quoted, ", ");
        let _ = writeln!(
            sql,
            "CREATE OR REPLACE VIEW read.{0} WITH (security_invoker = true) AS SELECT {columns} FROM {schema}.{0};",
            table.name
        );
    }
    sql.push_str(&projection.views().replace("{schema}", &schema));
    sql
}
