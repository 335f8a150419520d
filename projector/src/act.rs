//! What people do to read tables is on record, in the transaction that does it.

use tokio_postgres::{Error, GenericClient};

/// Who does something, and why.
#[derive(Clone, Debug)]
pub struct Who {
    /// As events name staff, or `os:USER@HOST`. At most 128 characters.
    pub actor: String,
    /// Their words; at most 1,000 characters.
    pub reason: Option<String>,
}

/// Something that was done.
#[derive(Clone, Debug)]
pub struct Act {
    /// Its number.
    pub id: i64,
    /// Who did it.
    pub actor: String,
    /// What was done.
    pub act: String,
    /// More of it, as JSON.
    pub detail: String,
}

/// Writes down what is done to a version. Returns the record's number.
///
/// # Errors
/// The database's.
pub(crate) async fn record(
    client: &impl GenericClient,
    who: &Who,
    act: &str,
    (name, version): (&str, i32),
    detail: &str,
) -> Result<i64, Error> {
    let sql = "INSERT INTO projection.act (actor, act, projection, version, reason, detail)
               VALUES ($1, $2, $3, $4, $5, $6::text::jsonb) RETURNING id";
    let actor: String = who.actor.chars().take(128).collect();
    let reason: Option<String> = who.reason.as_ref().map(|reason| reason.chars().take(1_000).collect());
    Ok(client.query_one(sql, &[&actor, &act, &name, &version, &reason, &detail]).await?.get(0))
}

/// The newest of some acts on a version since it was begun.
///
/// # Errors
/// The database's.
pub(crate) async fn newest(
    client: &impl GenericClient,
    acts: &[&str],
    (name, version): (&str, i32),
) -> Result<Option<Act>, Error> {
    let sql = "SELECT a.id, a.actor, a.act, a.detail::text
               FROM projection.act a
               JOIN projection.registry r ON r.name = a.projection AND r.version = a.version AND a.at >= r.created_at
               WHERE a.projection = $1 AND a.version = $2 AND a.act = ANY ($3)
               ORDER BY a.id DESC LIMIT 1";
    let row = client.query_opt(sql, &[&name, &version, &acts]).await?;
    Ok(row.map(|row| Act { id: row.get(0), actor: row.get(1), act: row.get(2), detail: row.get(3) }))
}

/// The newest comparison of two versions, in either order, since both were begun.
///
/// # Errors
/// The database's.
pub(crate) async fn newest_diff(
    client: &impl GenericClient,
    name: &str,
    (one, other): (i32, i32),
) -> Result<Option<Act>, Error> {
    let sql = "SELECT id, actor, act, detail::text
               FROM projection.act
               WHERE projection = $1 AND act = 'diff'
                 AND (version, (detail->>'with')::integer) IN (($2, $3), ($3, $2))
                 AND at >= (SELECT max(created_at) FROM projection.registry WHERE name = $1 AND version IN ($2, $3))
               ORDER BY id DESC LIMIT 1";
    let row = client.query_opt(sql, &[&name, &one, &other]).await?;
    Ok(row.map(|row| Act { id: row.get(0), actor: row.get(1), act: row.get(2), detail: row.get(3) }))
}
