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
    /// The developer or user whose provider key it is.
    Credential,
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
            "credential" => Self::Credential,
            "audit_log" => Self::Actor,
            _ if has("developer_id") => Self::Developer,
            // An app that may be missing says nothing about whose row it is.
            _ if column("app_id").is_some_and(|column| !column.nullable) => Self::App,
            _ if has("wallet_id") => Self::Wallet,
            _ => Self::House,
        }
    }
}

/// What `app.tenant` says, read once per statement.
const TENANT: &str = "(SELECT current_setting('app.tenant')::uuid)";
/// The house.
const HOUSE: &str = "'00000000-0000-0000-0000-000000000000'::uuid";

/// The condition under which the tenant sees a row. The functions inside it ask views that are themselves filtered for the tenant.
fn condition(table: &Table) -> String {
    let mut sql = format!("{TENANT} = {HOUSE}");
    let mut or = |condition: String| {
        let _infallible = write!(sql, " OR {condition}");
    };
    match Owner::of(table) {
        Owner::Developer => or(format!("developer_id = {TENANT}")),
        Owner::App => {
            // Asked once per statement.
            or("app_id = ANY ((SELECT projection.own_apps())::uuid[])".to_owned());
            if table.columns.iter().any(|column| column.name == "wallet_id") {
                or(format!("wallet_id = {TENANT}"));
            }
        }
        Owner::Wallet => or(format!("wallet_id = {TENANT} OR projection.sees_wallet(shard, wallet_id)")),
        Owner::Account => or(format!("split_part(account, ':', 2) = {TENANT}::text")),
        Owner::Credential => or(format!("owner_id = {TENANT}")),
        Owner::Actor => or("actor = ANY ((SELECT projection.own_actors())::text[])".to_owned()),
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

/// Secures the tables of a projection that are not yet.
///
/// # Errors
/// The database's.
pub(crate) async fn secure(
    client: &impl GenericClient,
    projection: &dyn Projection,
) -> Result<(), tokio_postgres::Error> {
    let schema = projection.schema();
    for table in projection.tables() {
        let open = "SELECT FROM pg_catalog.pg_class c WHERE c.oid = to_regclass($1)
                    AND NOT EXISTS (SELECT FROM pg_catalog.pg_policy p WHERE p.polrelid = c.oid AND p.polname = 'tenant')";
        if client.query_opt(open, &[&format!("{schema}.{}", table.name)]).await?.is_some() {
            client.batch_execute(&policy_ddl(&schema, table)).await?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::projection::all;

    /// Tables that nobody but the house may see. A new table that is here by mistake shows nobody anything; one that is not, and
    /// should be, is seen by developers.
    const HOUSE_ONLY: &[&str] = &["rate_card", "freeze", "staff_token", "payment_clearing", "stripe_transaction"];

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
