//! Creates what is missing: the shared functions, the schema `read`, and tables, registry rows and views of projections.

use tokio_postgres::{Client, GenericClient, Transaction};

use crate::projection::{Projection, all, under};
use crate::sql;
use crate::tenant;

/// Creates what is missing and brings the views up to date; run as `ledger_projector` (or a member of it that has set its role).
/// A projection of which another version is live already is left alone: that is a rebuild and a switch.
///
/// # Errors
/// The database's; then nothing has changed.
pub async fn setup(client: &mut Client) -> Result<(), tokio_postgres::Error> {
    setup_projections(client, &all()).await
}

/// As [`setup`], for these projections.
///
/// # Errors
/// The database's; then nothing has changed.
pub async fn setup_projections(
    client: &mut Client,
    projections: &[Box<dyn Projection>],
) -> Result<(), tokio_postgres::Error> {
    let transaction = client.transaction().await?;
    shared(&transaction).await?;
    for projection in projections {
        if let Some(live) = ensure(&transaction, projection.as_ref()).await? {
            tenant::secure(&transaction, live.as_ref()).await?;
        }
    }
    transaction.batch_execute(GRANT).await?;
    transaction.commit().await
}

/// Who may read what the views show, to be said again whenever there are new ones.
pub(crate) const GRANT: &str = "GRANT SELECT ON ALL TABLES IN SCHEMA read TO ledger_query, ledger_audit";

/// The functions and the schema that all projections use.
pub(crate) async fn shared(client: &impl GenericClient) -> Result<(), tokio_postgres::Error> {
    // One at a time: two processes may start together.
    client.batch_execute("SET LOCAL client_min_messages = warning; SELECT pg_advisory_xact_lock(7306)").await?;
    client.batch_execute(include_str!("sql/setup.sql")).await
}

/// The live version, unless another fold writes it.
async fn ensure(
    transaction: &Transaction<'_>,
    projection: &dyn Projection,
) -> Result<Option<Box<dyn Projection>>, tokio_postgres::Error> {
    let live = transaction
        .query_opt(
            "SELECT version, code FROM projection.registry WHERE name = $1 AND state = 'live'",
            &[&projection.name()],
        )
        .await?
        .map(|row| (row.get::<_, i32>(0), row.get::<_, i32>(1)));
    let live = match live {
        None => {
            transaction.batch_execute(&sql::projection_ddl(projection)).await?;
            transaction
                .execute(
                    "INSERT INTO projection.registry (name, version, code, state) VALUES ($1, $2, $3, 'live')",
                    &[&projection.name(), &projection.version(), &projection.code()],
                )
                .await?;
            projection.fresh()
        }
        Some((version, code)) if code == projection.code() => under(projection.fresh(), version),
        Some(_) => return Ok(None),
    };
    let views = sql::view_ddl(live.as_ref());
    transaction.batch_execute(&views).await?;
    let keep = "UPDATE projection.registry SET views = $3 WHERE name = $1 AND version = $2 AND views <> $3";
    transaction.execute(keep, &[&live.name(), &live.version(), &views]).await?;
    Ok(Some(live))
}
