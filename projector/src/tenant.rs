//! Row security of the read tables: the net under the query side's own filters. `ledger_query` sees a row only if `app.tenant`, which
//! each of its transactions sets, is the row's developer, the row's wallet, or the nil id, which stands for the house. A transaction that
//! sets nothing gets an error.
//!
//! The owner, `ledger_projector`, is not forced under it: COPY FROM refuses tables whose rows are secured against its user.

use std::fmt::Write as _;

use tokio_postgres::GenericClient;

use crate::projection::Projection;
use crate::table::Table;

/// Who a row belongs to, as far as its columns tell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Owner {
    /// The developer that it names.
    Developer,
    /// The developer of the app that it names.
    App,
    /// The developer of the app of the wallet that it names.
    Wallet,
    /// An account's subject.
    Account,
    /// Acts of developers belong to them, all others to the house.
    Actor,
    /// Only the house.
    House,
}

impl Owner {
    fn of(table: &Table) -> Self {
        let column = |name: &str| table.columns.iter().find(|column| column.name == name);
        let has = |name: &str| column(name).is_some();
        match table.name {
            "account" => Self::Account,
            "audit_log" => Self::Actor,
            _ if has("developer_id") => Self::Developer,
            // An app that may be missing says nothing about whose row it is.
            _ if column("app_id").is_some_and(|column| !column.nullable) => Self::App,
            _ if has("wallet_id") => Self::Wallet,
            _ => Self::House,
        }
    }

    /// The views that the policy looks into.
    const fn looks_into(self) -> &'static [&'static str] {
        match self {
            Self::App => &["read.app"],
            Self::Wallet => &["read.wallet"],
            Self::Actor => &["read.developer_token"],
            Self::Developer | Self::Account | Self::House => &[],
        }
    }
}

/// What `app.tenant` says, read once per statement.
const TENANT: &str = "(SELECT current_setting('app.tenant')::uuid)";
/// The house.
const HOUSE: &str = "'00000000-0000-0000-0000-000000000000'::uuid";

/// The condition under which the tenant sees a row. Views inside it are themselves filtered for the tenant.
fn condition(table: &Table) -> String {
    let row = table.name;
    let mut sql = format!("{TENANT} = {HOUSE}");
    let mut or = |condition: String| {
        let _infallible = write!(sql, " OR {condition}");
    };
    match Owner::of(table) {
        Owner::Developer => or(format!("developer_id = {TENANT}")),
        Owner::App => {
            or(format!("EXISTS (SELECT FROM read.app a WHERE a.shard = {row}.shard AND a.app_id = {row}.app_id)"));
            if table.columns.iter().any(|column| column.name == "wallet_id") {
                or(format!("wallet_id = {TENANT}"));
            }
        }
        Owner::Wallet => or(format!(
            "wallet_id = {TENANT} OR EXISTS (SELECT FROM read.wallet w WHERE w.shard = {row}.shard AND w.wallet_id = {row}.wallet_id)"
        )),
        Owner::Account => or(format!("split_part(account, ':', 2) = {TENANT}::text")),
        Owner::Actor => or("actor IN (SELECT 'token:' || t.token_id FROM read.developer_token t)".to_owned()),
        Owner::House => {}
    }
    sql
}

/// Statements that secure a table's rows.
pub fn policy_ddl(schema: &str, table: &Table) -> String {
    let (name, condition) = (table.name, condition(table));
    format!(
        "ALTER TABLE {schema}.{name} ENABLE ROW LEVEL SECURITY;\n\
         CREATE POLICY tenant ON {schema}.{name} FOR SELECT TO ledger_query USING ({condition});\n\
         CREATE POLICY auditor ON {schema}.{name} FOR SELECT TO ledger_audit USING (true);\n"
    )
}

/// Secures the tables of a projection that are not yet. A policy that looks into a view which does not exist yet waits for the next
/// setup; until then `ledger_query` cannot read the table.
///
/// # Errors
/// The database's.
pub(crate) async fn secure(
    client: &impl GenericClient,
    projection: &dyn Projection,
) -> Result<(), tokio_postgres::Error> {
    let schema = projection.schema();
    for table in projection.tables() {
        let name = format!("{schema}.{}", table.name);
        let secured = "SELECT relrowsecurity FROM pg_catalog.pg_class WHERE oid = to_regclass($1)";
        if client.query_opt(secured, &[&name]).await?.is_none_or(|row| row.get(0)) {
            continue;
        }
        let missing = "SELECT count(*) FROM unnest($1::text[]) AS view WHERE to_regclass(view) IS NULL";
        let views = Owner::of(table).looks_into();
        if client.query_one(missing, &[&views]).await?.get::<_, i64>(0) > 0 {
            client.batch_execute(&format!("REVOKE SELECT ON {name} FROM ledger_query")).await?;
            continue;
        }
        client.batch_execute(&policy_ddl(&schema, table)).await?;
        client.batch_execute(&format!("GRANT SELECT ON {name} TO ledger_query")).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::all;

    /// Tables that nobody but the house may see. A new table that is here by mistake shows nobody anything; one that is not, and
    /// should be, is seen by developers.
    const HOUSE_ONLY: &[&str] = &["rate_card", "freeze", "staff_token"];

    #[test]
    fn every_table_belongs_to_somebody() {
        for projection in all() {
            for table in projection.tables() {
                let owner = Owner::of(table);
                assert_eq!(owner == Owner::House, HOUSE_ONLY.contains(&table.name), "{} {owner:?}", table.name);
            }
        }
    }

    #[test]
    fn every_condition_knows_the_house() {
        for projection in all() {
            for table in projection.tables() {
                assert!(condition(table).starts_with(&format!("{TENANT} = {HOUSE}")), "{}", table.name);
            }
        }
    }
}
