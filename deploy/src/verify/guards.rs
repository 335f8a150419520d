//! Is the log still append-only? Triggers on every table and partition, and no way around them for the services.

use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::migrate::MIGRATIONS;
use tokio_postgres::{Error, GenericClient};

use super::report::{Check, Findings};

/// The head of the function that refuses changes, as the migrations write it.
const REFUSE_CHANGE: &str = "FUNCTION ledger.refuse_change() RETURNS";

/// Checks triggers and rights.
pub(super) async fn check(transaction: &impl GenericClient, findings: &mut Findings) -> Result<(), Error> {
    let body = body_of(REFUSE_CHANGE).unwrap_or_default();
    for row in transaction.query(include_str!("sql/guards.sql"), &[&body]).await? {
        findings.checked(Check::Guards, 1);
        if let Some(problem) = row.get::<_, Option<&str>>(2) {
            findings.add(
                Check::Guards,
                None,
                None,
                format!("{}: {} {problem}", row.get::<_, &str>(0), row.get::<_, &str>(1)),
            );
        }
    }
    let roles: Vec<&str> = ServiceRole::ALL.iter().map(|role| role.name()).collect();
    for row in transaction.query(include_str!("sql/rights.sql"), &[&roles]).await? {
        findings.checked(Check::Guards, 1);
        if row.get::<_, Option<bool>>(2) != Some(false) {
            findings.add(
                Check::Guards,
                None,
                None,
                format!("role {} {}", row.get::<_, &str>(0), row.get::<_, &str>(1)),
            );
        }
    }
    Ok(())
}

/// The body of a function as the newest migration that makes it has it.
fn body_of(head: &str) -> Option<&'static str> {
    let definition = MIGRATIONS.iter().rev().find_map(|migration| migration.sql.rsplit_once(head))?.1;
    definition.split("$$").nth(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_guard_is_found_in_the_migrations() {
        assert!(body_of(REFUSE_CHANGE).is_some_and(|body| body.contains("RAISE EXCEPTION 'the log is append-only")));
    }
}
