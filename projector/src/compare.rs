//! What two versions of a projection hold, compared by the server's own account of their tables, so that versions that this program
//! cannot fold are compared as well. A digest per bucket first; rows only where the digests differ.
//!
//! Cells become the same fixed text as in [`crate::table::Value::write_text`]. A bucket is one of 256 parts of the keys of a shard.

use std::collections::BTreeMap;

use modelfaucet_schema::ids::{Position, ShardId};
use serde::Serialize;
use sha2::{Digest as _, Sha256};
use tokio_postgres::{Client, Error, GenericClient, IsolationLevel, Transaction};

/// Differing buckets whose rows are looked at together.
const TOGETHER: usize = 4;

/// A column of a table as the server knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type, as the server writes it.
    pub kind: String,
    is_key: bool,
}

impl Column {
    /// Its value as the fixed text.
    fn text(&self) -> String {
        let name = &self.name;
        match self.kind.as_str() {
            "date" => format!("(\"{name}\" - DATE '1970-01-01')::text"),
            "timestamp with time zone" => format!("(extract(epoch FROM \"{name}\") * 1000000)::bigint::text"),
            "bytea" => format!("encode(\"{name}\", 'hex')"),
            _ => format!("\"{name}\"::text"),
        }
    }
}

/// A table's columns.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shape {
    /// Its name.
    pub table: String,
    /// In order.
    pub columns: Vec<Column>,
}

/// The tables of a version.
///
/// # Errors
/// The database's.
pub async fn shapes(client: &impl GenericClient, schema: &str) -> Result<Vec<Shape>, Error> {
    let mut shapes: Vec<Shape> = Vec::new();
    for row in client.query(include_str!("sql/shapes.sql"), &[&schema]).await? {
        let table: &str = row.get(0);
        if shapes.last().is_none_or(|last| last.table != table) {
            shapes.push(Shape { table: table.to_owned(), columns: Vec::new() });
        }
        if let Some(shape) = shapes.last_mut() {
            shape.columns.push(Column { name: row.get(1), kind: row.get(2), is_key: row.get(3) });
        }
    }
    Ok(shapes)
}

/// What a table holds.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// How many rows.
    pub rows: i64,
    /// SHA-256 over the digests of its buckets, hexadecimal.
    pub sha256: String,
}

/// A row that the two do not have in common.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// The row's key: names and values.
    pub key: Vec<(String, String)>,
    /// What is different.
    pub cells: Cells,
}

/// How a row differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Cells {
    /// Only the first has it.
    Missing,
    /// Only the second has it.
    Added,
    /// Column, value in the first, value in the second; nothing is null.
    Changed(Vec<(String, Option<String>, Option<String>)>),
}

/// Two tables of one name.
#[derive(Clone, Debug, Serialize)]
pub struct Compared {
    /// The name.
    pub table: String,
    /// What the first holds in the columns that both have.
    pub first: Content,
    /// What the second holds in them.
    pub second: Content,
    /// Columns, or the table itself, that only one of them has.
    pub only_one_has: Vec<String>,
    /// Buckets whose digests differ.
    pub buckets: usize,
    /// The first rows that differ.
    pub rows: Vec<Difference>,
    /// Are there more of them?
    pub has_more: bool,
}

impl Compared {
    /// Do both hold the same?
    pub fn is_equal(&self) -> bool {
        self.buckets == 0 && self.only_one_has.is_empty()
    }
}

/// One of two sides: a session at one moment, and the schema to read there.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// A transaction that sees one moment.
    pub client: &'a Transaction<'a>,
    /// The schema.
    pub schema: &'a str,
}

type Bucket = (i16, i32);

/// Compares all tables of two versions; lists at most `limit` rows of each table.
///
/// # Errors
/// The databases'.
pub async fn compare(first: Side<'_>, second: Side<'_>, limit: usize) -> Result<Vec<Compared>, Error> {
    let mut theirs: BTreeMap<String, Shape> =
        shapes(second.client, second.schema).await?.into_iter().map(|shape| (shape.table.clone(), shape)).collect();
    let mut compared = Vec::new();
    for mine in shapes(first.client, first.schema).await? {
        match theirs.remove(&mine.table) {
            Some(other) => compared.push(tables(first, second, &mine, &other, limit).await?),
            None => compared.push(alone(&mine.table, "first")),
        }
    }
    compared.extend(theirs.into_keys().map(|table| alone(&table, "second")));
    Ok(compared)
}

fn alone(table: &str, side: &str) -> Compared {
    let nothing = Content { rows: 0, sha256: String::new() };
    Compared {
        table: table.to_owned(),
        first: nothing.clone(),
        second: nothing,
        only_one_has: vec![format!("the table is in the {side} alone")],
        buckets: 0,
        rows: Vec::new(),
        has_more: false,
    }
}

async fn tables(
    first: Side<'_>,
    second: Side<'_>,
    mine: &Shape,
    other: &Shape,
    limit: usize,
) -> Result<Compared, Error> {
    let common = Shape {
        table: mine.table.clone(),
        columns: mine.columns.iter().filter(|column| other.columns.contains(column)).cloned().collect(),
    };
    let only = |shape: &Shape, side: &str| -> Vec<String> {
        let missing = shape.columns.iter().filter(|column| !common.columns.contains(column));
        missing.map(|column| format!("column {} {} is in the {side} alone", column.name, column.kind)).collect()
    };
    let mut only_one_has = only(mine, "first");
    only_one_has.extend(only(other, "second"));
    let (left, right) = (digests(first, &common).await?, digests(second, &common).await?);
    let buckets: Vec<Bucket> =
        left.keys().chain(right.keys()).filter(|bucket| left.get(*bucket) != right.get(*bucket)).copied().collect();
    let buckets: std::collections::BTreeSet<Bucket> = buckets.into_iter().collect();
    let (mut rows, mut has_more) = (Vec::new(), false);
    let all: Vec<Bucket> = buckets.iter().copied().collect();
    for some in all.chunks(TOGETHER) {
        if rows.len() >= limit {
            has_more = true;
            break;
        }
        rows.extend(differences(first, second, &common, some).await?);
    }
    has_more |= rows.len() > limit;
    rows.truncate(limit);
    Ok(Compared {
        table: common.table,
        first: content(&left),
        second: content(&right),
        only_one_has,
        buckets: buckets.len(),
        rows,
        has_more,
    })
}

/// What the tables of a schema hold, by name.
///
/// # Errors
/// The database's.
pub async fn contents(client: &Transaction<'_>, schema: &str) -> Result<Vec<(String, Content)>, Error> {
    let mut contents = Vec::new();
    for shape in shapes(client, schema).await? {
        let digests = digests(Side { client, schema }, &shape).await?;
        contents.push((shape.table, content(&digests)));
    }
    Ok(contents)
}

fn list(columns: &[Column], only_key: bool) -> String {
    let wanted = columns.iter().filter(|column| column.is_key || !only_key);
    format!("ARRAY[{}]", wanted.map(Column::text).collect::<Vec<_>>().join(", "))
}

/// The part of a row that its key belongs to.
fn bucket(columns: &[Column]) -> String {
    format!("get_byte(sha256(convert_to({}::text, 'UTF8')), 0)", list(columns, true))
}

async fn digests(side: Side<'_>, shape: &Shape) -> Result<BTreeMap<Bucket, (i64, Vec<u8>)>, Error> {
    let (key, row) = (list(&shape.columns, true), list(&shape.columns, false));
    let sql = format!(
        "SELECT shard, bucket, count(*), sha256(string_agg(print, ''::bytea ORDER BY key COLLATE \"C\"))
         FROM (SELECT shard, {} AS bucket, {key}::text AS key, sha256(convert_to({row}::text, 'UTF8')) AS print
               FROM {}.{}) AS rows
         GROUP BY shard, bucket",
        bucket(&shape.columns),
        side.schema,
        shape.table,
    );
    let rows = side.client.query(&sql, &[]).await?;
    Ok(rows.iter().map(|row| ((row.get(0), row.get(1)), (row.get(2), row.get(3)))).collect())
}

fn content(digests: &BTreeMap<Bucket, (i64, Vec<u8>)>) -> Content {
    let mut all = Sha256::new();
    for ((shard, bucket), (rows, digest)) in digests {
        all.update(shard.to_be_bytes());
        all.update(bucket.to_be_bytes());
        all.update(rows.to_be_bytes());
        all.update(digest);
    }
    let sha256 = all.finalize().iter().fold(String::new(), |mut text, byte| {
        use std::fmt::Write as _;
        // Writing into a String cannot fail.
        let _ = write!(text, "{byte:02x}");
        text
    });
    Content { rows: digests.values().map(|(rows, _)| rows).sum(), sha256 }
}

type Rows = BTreeMap<Vec<String>, Vec<Option<String>>>;

async fn rows(side: Side<'_>, shape: &Shape, buckets: &[Bucket]) -> Result<Rows, Error> {
    let (shards, numbers): (Vec<i16>, Vec<i32>) = buckets.iter().copied().unzip();
    let sql = format!(
        "SELECT {}, {} FROM {}.{}
         WHERE (shard, {}) IN (SELECT * FROM unnest($1::smallint[], $2::integer[]))",
        list(&shape.columns, true),
        list(&shape.columns, false),
        side.schema,
        shape.table,
        bucket(&shape.columns),
    );
    let rows = side.client.query(&sql, &[&shards, &numbers]).await?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

async fn differences(
    first: Side<'_>,
    second: Side<'_>,
    shape: &Shape,
    buckets: &[Bucket],
) -> Result<Vec<Difference>, Error> {
    let (left, right) = (rows(first, shape, buckets).await?, rows(second, shape, buckets).await?);
    let names: Vec<&str> =
        shape.columns.iter().filter(|column| column.is_key).map(|column| column.name.as_str()).collect();
    let keys: std::collections::BTreeSet<&Vec<String>> = left.keys().chain(right.keys()).collect();
    let mut found = Vec::new();
    for key in keys {
        let cells = match (left.get(key), right.get(key)) {
            (Some(was), Some(is)) if was == is => continue,
            (Some(_), None) => Cells::Missing,
            (None, _) => Cells::Added,
            (Some(was), Some(is)) => Cells::Changed(
                shape
                    .columns
                    .iter()
                    .zip(was.iter().zip(is))
                    .filter(|(_, (was, is))| was != is)
                    .map(|(column, (was, is))| (column.name.clone(), was.clone(), is.clone()))
                    .collect(),
            ),
        };
        let key = names.iter().map(|name| (*name).to_owned()).zip(key.iter().cloned()).collect();
        found.push(Difference { table: shape.table.clone(), key, cells });
    }
    Ok(found)
}

/// A moment at which two versions stand at the same place, or where they stand instead.
pub enum Moment<'a> {
    /// Both have read exactly this much of the log.
    Level(Transaction<'a>, Vec<(ShardId, Position)>),
    /// One is behind the other.
    Apart(Vec<(ShardId, Position)>, Vec<(ShardId, Position)>),
}

/// Looks at one moment. What projectors commit later does not show in it, so however long the comparison takes, it is exact.
///
/// # Errors
/// The database's.
pub async fn moment<'a>(client: &'a mut Client, name: &str, versions: (i32, i32)) -> Result<Moment<'a>, Error> {
    let transaction =
        client.build_transaction().isolation_level(IsolationLevel::RepeatableRead).read_only(true).start().await?;
    transaction.batch_execute("SET LOCAL work_mem = '64MB'").await?;
    let (first, second) =
        (places(&transaction, name, versions.0).await?, places(&transaction, name, versions.1).await?);
    Ok(if first == second && !first.is_empty() {
        Moment::Level(transaction, first)
    } else {
        Moment::Apart(first, second)
    })
}

/// Where a version stands, shard by shard.
///
/// # Errors
/// The database's.
pub async fn places(client: &impl GenericClient, name: &str, version: i32) -> Result<Vec<(ShardId, Position)>, Error> {
    let sql = "SELECT shard, position FROM projection.checkpoint WHERE name = $1 AND version = $2 ORDER BY shard";
    let rows = client.query(sql, &[&name, &version]).await?;
    Ok(rows.iter().map(|row| (ShardId(row.get(0)), Position(row.get(1)))).collect())
}
