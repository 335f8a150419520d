//! What a service checks before it starts: a server that keeps what it has acknowledged, and a role without rights to spare.

use tokio_postgres::Client;

/// A service role and what it must not be able to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ServiceRole {
    /// Appends.
    Command,
    /// Writes read tables.
    Projector,
    /// Reads read tables.
    Query,
    /// Reads everything but secrets.
    Audit,
    /// Keeps the ciphertexts of provider keys, and sees nothing else.
    Secrets,
    /// Copies the whole server by replication, and reads the log to witness it.
    Backup,
}

impl ServiceRole {
    /// Every role.
    pub const ALL: &'static [Self] =
        &[Self::Command, Self::Projector, Self::Query, Self::Audit, Self::Secrets, Self::Backup];

    /// The database role.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Command => "ledger_command",
            Self::Projector => "ledger_projector",
            Self::Query => "ledger_query",
            Self::Audit => "ledger_audit",
            Self::Secrets => "ledger_secrets",
            Self::Backup => "ledger_backup",
        }
    }

    /// `(table, privilege)` pairs whose presence is a reason not to start.
    fn forbidden(self) -> Vec<(&'static str, &'static str)> {
        let log = ["ledger.event", "ledger.batch", "ledger.idempotency", "ledger.log", "ledger.fork"];
        let mut forbidden: Vec<_> = log
            .iter()
            .flat_map(|table| ["INSERT", "UPDATE", "DELETE", "TRUNCATE"].map(|privilege| (*table, privilege)))
            .collect();
        forbidden.extend(
            ["ledger.access", "ledger.token_use"]
                .iter()
                .flat_map(|table| ["INSERT", "UPDATE", "DELETE", "TRUNCATE"].map(|privilege| (*table, privilege))),
        );
        if matches!(self, Self::Query | Self::Secrets) {
            forbidden.extend([
                ("ledger.event", "SELECT"),
                ("ledger.idempotency", "SELECT"),
                ("ledger.snapshot", "SELECT"),
            ]);
        }
        if self != Self::Secrets {
            let secrets = ["secret.credential", "secret.kek_use"];
            forbidden.extend(
                secrets.iter().flat_map(|table| ["SELECT", "INSERT", "UPDATE", "DELETE"].map(|verb| (*table, verb))),
            );
        }
        if self != Self::Projector {
            forbidden.extend([("projection.checkpoint", "INSERT"), ("projection.checkpoint", "UPDATE")]);
        }
        forbidden
    }
}

/// Why a service does not start.
#[derive(Debug, thiserror::Error)]
pub enum BootError {
    /// A setting that may lose what was acknowledged.
    #[error("refusing to start: PostgreSQL runs with {name} = {value}; acknowledged money could be lost. Set it to on")]
    Durability {
        /// The setting.
        name: String,
        /// Its value.
        value: String,
    },
    /// A superuser, or as good as one.
    #[error(
        "refusing to start: the database user {0} is a superuser, may create roles or may bypass row security; connect as {1}"
    )]
    Superuser(String, &'static str),
    /// A member of a role that may do other things.
    #[error("refusing to start: the database user {user} may become {other}; revoke that or connect as {expected}")]
    Member {
        /// The user.
        user: String,
        /// The role that it is a member of.
        other: String,
        /// Who to be instead.
        expected: &'static str,
    },
    /// Too many rights.
    #[error(
        "refusing to start: the database user {user} may {privilege} {table}; revoke that or connect as {expected}"
    )]
    Rights {
        /// The user.
        user: String,
        /// The privilege.
        privilege: &'static str,
        /// The table.
        table: &'static str,
        /// Who to be instead.
        expected: &'static str,
    },
    /// Old or no tables.
    #[error("refusing to start: the database is not migrated to this program's version; run `modelfaucet migrate`")]
    NotMigrated,
    /// The database's error.
    #[error("the database cannot be checked: {0}")]
    Database(#[from] tokio_postgres::Error),
}

/// Checks server and role.
///
/// # Errors
/// [`BootError`]: one line that says what to do.
pub async fn check(client: &Client, role: ServiceRole) -> Result<(), BootError> {
    for name in ["fsync", "synchronous_commit", "full_page_writes"] {
        let value: String = client.query_one("SELECT current_setting($1)", &[&name]).await?.get(0);
        // The stronger forms of synchronous_commit wait for a standby as well.
        if !matches!((name, value.as_str()), (_, "on") | ("synchronous_commit", "remote_apply" | "remote_write")) {
            return Err(BootError::Durability { name: name.to_owned(), value });
        }
    }
    let row = client
        .query_one(
            "SELECT session_user::text, rolsuper OR rolcreaterole OR rolbypassrls FROM pg_roles WHERE rolname = session_user",
            &[],
        )
        .await?;
    let user: String = row.get(0);
    if row.get(1) {
        return Err(BootError::Superuser(user, role.name()));
    }
    // A member that does not inherit has no rights to be seen, but only has to ask for them.
    let memberships = "SELECT rolname::text FROM pg_roles
                       WHERE pg_has_role(session_user, oid, 'MEMBER') AND rolname NOT IN (session_user, $1) ORDER BY 1 LIMIT 1";
    if let Some(row) = client.query_opt(memberships, &[&role.name()]).await? {
        return Err(BootError::Member { user, other: row.get(0), expected: role.name() });
    }
    if !super::migrate::is_current(client).await.unwrap_or(false) {
        return Err(BootError::NotMigrated);
    }
    for (table, privilege) in role.forbidden() {
        // By its id: a name in a schema that the role does not see is an error.
        let has = "SELECT has_table_privilege(c.oid, $2) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname || '.' || c.relname = $1";
        if client.query_opt(has, &[&table, &privilege]).await?.is_some_and(|row| row.get(0)) {
            return Err(BootError::Rights { user, privilege, table, expected: role.name() });
        }
    }
    Ok(())
}
