//! What a service refuses to start on: a server that may lose what it has acknowledged, a role with rights to spare, a database that
//! is not migrated.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::process::Command;

use modelfaucet_integration_tests::database::TestDatabase;
use modelfaucet_integration_tests::process::{binary, free_port, url};
use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::boot::{BootError, ServiceRole, check};
use modelfaucet_schema::log::migrate::migrate;
use tokio_postgres::{Client, NoTls};

/// What a service says that starts now; empty if it would start.
async fn says(database: &TestDatabase, user: &str, role: ServiceRole) -> String {
    let mut config = database.superuser();
    let (client, connection) = config.user(user).connect(NoTls).await.unwrap();
    tokio::spawn(connection);
    check(&client, role).await.err().map_or_else(String::new, |error| error.to_string())
}

async fn change(superuser: &Client, sql: &str) {
    // Each alone: some must not be part of a transaction.
    for statement in sql.split(';').filter(|statement| !statement.trim().is_empty()) {
        superuser.batch_execute(statement).await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_durability_is_refused_by_the_process_too() {
    let Some(database) = TestDatabase::create().await else { return };
    if std::env::var_os("MODELFAUCET_TEST_DATABASE_URL").is_some() {
        eprintln!("skipped: the server may be a durable one");
        return;
    }
    let error = check(&database.connect_as(ServiceRole::Command).await, ServiceRole::Command).await.unwrap_err();
    assert!(matches!(&error, BootError::Durability { name, value } if name == "fsync" && value == "off"), "{error}");
    for (verb, role) in
        [("command", ServiceRole::Command), ("projector", ServiceRole::Projector), ("query", ServiceRole::Query)]
    {
        let secret = "0123456789abcdef0123456789abcdef";
        let output = Command::new(binary())
            .args([verb, "--listen", &format!("127.0.0.1:{}", free_port())])
            .env_clear()
            .envs([("DATABASE_URL", url(&database.role(role)).as_str()), ("ADMIN_TOKEN", secret)])
            .env("USER_ID_HMAC_KEY", secret)
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{verb}: {text}");
        assert!(text.contains(&error.to_string()), "{verb}: {text}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_starts_only_where_it_is_safe() {
    let Some(database) = TestDatabase::durable().await else { return };
    let mut superuser = database.connect().await;
    change(&superuser, "CREATE ROLE stranger LOGIN").await;
    assert!(says(&database, "stranger", ServiceRole::Command).await.contains("not migrated"));
    assert!(says(&database, "postgres", ServiceRole::Command).await.contains("postgres is a superuser"));
    migrate(&mut superuser, &[ShardId(0)]).await.unwrap();
    for role in ServiceRole::ALL {
        change(&superuser, &format!("ALTER ROLE {} LOGIN", role.name())).await;
        assert_eq!(says(&database, role.name(), *role).await, "", "{}", role.name());
    }
    for (role, bad, good, expected) in [
        (
            ServiceRole::Command,
            "ALTER ROLE ledger_command SET synchronous_commit = off",
            "ALTER ROLE ledger_command RESET synchronous_commit",
            "synchronous_commit = off",
        ),
        (
            ServiceRole::Command,
            "ALTER ROLE ledger_command SET synchronous_commit = local",
            "ALTER ROLE ledger_command RESET synchronous_commit",
            "synchronous_commit = local",
        ),
        (
            ServiceRole::Audit,
            "ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf(); SELECT pg_sleep(0.3)",
            "ALTER SYSTEM RESET full_page_writes; SELECT pg_reload_conf(); SELECT pg_sleep(0.3)",
            "full_page_writes = off",
        ),
        (
            ServiceRole::Command,
            "GRANT UPDATE ON ledger.event TO ledger_command",
            "REVOKE UPDATE ON ledger.event FROM ledger_command",
            "ledger_command may UPDATE ledger.event",
        ),
        (
            ServiceRole::Projector,
            "GRANT DELETE ON ledger.batch TO PUBLIC",
            "REVOKE DELETE ON ledger.batch FROM PUBLIC",
            "ledger_projector may DELETE ledger.batch",
        ),
        (
            ServiceRole::Query,
            "GRANT SELECT ON ledger.event TO ledger_query",
            "REVOKE SELECT ON ledger.event FROM ledger_query",
            "ledger_query may SELECT ledger.event",
        ),
        (
            ServiceRole::Audit,
            "GRANT SELECT ON secret.credential TO ledger_audit",
            "REVOKE SELECT ON secret.credential FROM ledger_audit",
            "ledger_audit may SELECT secret.credential",
        ),
        (
            ServiceRole::Command,
            "GRANT DELETE ON secret.credential TO PUBLIC",
            "REVOKE DELETE ON secret.credential FROM PUBLIC",
            "ledger_command may DELETE secret.credential",
        ),
        (
            ServiceRole::Secrets,
            "GRANT SELECT ON ledger.snapshot TO ledger_secrets",
            "REVOKE SELECT ON ledger.snapshot FROM ledger_secrets",
            "ledger_secrets may SELECT ledger.snapshot",
        ),
        (
            ServiceRole::Query,
            "GRANT ledger_projector TO ledger_query",
            "REVOKE ledger_projector FROM ledger_query",
            "ledger_query may become ledger_projector",
        ),
        (
            ServiceRole::Projector,
            "GRANT pg_write_all_data TO ledger_projector",
            "REVOKE pg_write_all_data FROM ledger_projector",
            "ledger_projector may become pg_write_all_data",
        ),
        (
            ServiceRole::Command,
            "ALTER ROLE ledger_command CREATEROLE",
            "ALTER ROLE ledger_command NOCREATEROLE",
            "may create roles",
        ),
        (
            ServiceRole::Audit,
            "ALTER ROLE ledger_audit BYPASSRLS",
            "ALTER ROLE ledger_audit NOBYPASSRLS",
            "may bypass row security",
        ),
        (
            ServiceRole::Command,
            "INSERT INTO migration.applied (number, name, sha256) VALUES (99, 'later', 'x')",
            "DELETE FROM migration.applied WHERE number = 99",
            "not migrated to this program's version",
        ),
    ] {
        change(&superuser, bad).await;
        let said = says(&database, role.name(), role).await;
        assert!(said.contains(expected), "{bad}: {said:?}");
        change(&superuser, good).await;
        assert_eq!(says(&database, role.name(), role).await, "", "{good}");
    }
}
