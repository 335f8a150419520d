//! The server that is backed up: how PostgreSQL's programs reach it, and what they are told.

use std::path::PathBuf;

use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::Head;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::time::Timestamp;
use tokio::process::Command;
use tokio_postgres::config::{Host, SslMode};
use tokio_postgres::{Client, Config as DatabaseConfig};

use crate::config::Config;
use crate::database;
use crate::exit::{Exit, Failure};
use crate::heads::{Lsn, Witnessed};
use crate::postgres::Programs;

/// What `pg_stat_replication` and `synchronous_standby_names` call the copy of the WAL.
pub(super) const WAL_NAME: &str = "modelfaucet_wal";

/// A server and a connection to it, as `ledger_backup`.
pub(crate) struct Server {
    pub(super) client: Client,
    programs: Programs,
    conninfo: String,
    password: Option<String>,
    pub(super) system: u64,
    pub(super) timeline: u32,
    pub(super) segment_size: u64,
    pub(super) version: String,
}

/// How the settings say that the server is reached: as a named database, else as the running private one.
pub(super) fn database_of(config: &Config) -> Result<DatabaseConfig, Failure> {
    if let Some(named) = config.database()? {
        return Ok(named);
    }
    database::running_private(&config.data_dir(), ServiceRole::Backup).ok_or_else(|| {
        Failure::new(
            Exit::Temporary,
            format!("no server runs on {}: start `modelfaucet up`, or set DATABASE_URL", config.data_dir().display()),
        )
    })
}

impl Server {
    /// Connects.
    ///
    /// # Errors
    /// A role without the right to replicate, programs that are not installed, a server that is away.
    pub(super) async fn connect(config: &Config, database: &DatabaseConfig) -> Result<Self, Failure> {
        let client = database::connect(database).await.map_err(database::unreachable)?;
        let row = client
            .query_one(
                "SELECT s.system_identifier, substr(pg_walfile_name(pg_current_wal_flush_lsn()), 1, 8),
                        current_setting('server_version_num')::integer, current_setting('server_version'), r.rolreplication, session_user::text,
                        pg_size_bytes(current_setting('wal_segment_size')), current_setting('wal_level')
                 FROM pg_control_system() s, pg_roles r WHERE r.rolname = session_user",
                &[],
            )
            .await?;
        let user: String = row.get(5);
        if !row.get::<_, bool>(4) {
            let message =
                format!("the database user {user} may not replicate: as a superuser run ALTER ROLE {user} REPLICATION");
            return Err(Failure::new(Exit::Config, message));
        }
        if row.get::<_, &str>(7) == "minimal" {
            return Err(Failure::new(Exit::Config, "PostgreSQL runs with wal_level = minimal; set it to replica"));
        }
        let major = u32::try_from(row.get::<_, i32>(2) / 10_000).unwrap_or(0);
        let timeline = u32::from_str_radix(row.get(1), 16).unwrap_or(1);
        Ok(Self {
            client,
            programs: Programs::find(config.pg_bindir().as_deref(), major)?,
            conninfo: conninfo(database, config.database_ca_file()),
            password: database.get_password().map(|password| String::from_utf8_lossy(password).into_owned()),
            system: u64::from_ne_bytes(row.get::<_, i64>(0).to_ne_bytes()),
            timeline,
            segment_size: u64::try_from(row.get::<_, i64>(6)).unwrap_or(super::segment::USUAL_SIZE),
            version: row.get(3),
        })
    }

    /// A program of PostgreSQL that speaks to this server. It ends with the thread that starts it, and inherits nothing but PATH.
    pub(super) fn command(&self, program: &str) -> Command {
        let mut command = Command::new("setpriv");
        command.env_clear().env("LC_ALL", "C").envs(std::env::var_os("PATH").map(|path| ("PATH", path)));
        command.env("PGAPPNAME", if program == "pg_receivewal" { WAL_NAME } else { "modelfaucet-backup" });
        command.envs(self.password.as_ref().map(|password| ("PGPASSWORD", password)));
        command.args(["--pdeathsig", "TERM", "--"]).arg(self.program(program));
        command.arg("--dbname").arg(&self.conninfo).arg("--no-password");
        command.stdin(std::process::Stdio::null()).kill_on_drop(true).process_group(0);
        command
    }

    pub(super) fn program(&self, name: &str) -> PathBuf {
        self.programs.path(name)
    }

    /// The log's head, and a place in the WAL behind it.
    ///
    /// # Errors
    /// The database's.
    pub(crate) async fn head(&self, shard: ShardId) -> Result<Witnessed, tokio_postgres::Error> {
        head(&self.client, shard).await
    }

    /// How far the server's WAL is on disk.
    pub(super) async fn flushed(&self) -> Result<Lsn, tokio_postgres::Error> {
        let row = self.client.query_one("SELECT pg_current_wal_flush_lsn()::text", &[]).await?;
        Ok(row.get::<_, &str>(0).parse().unwrap_or_default())
    }

    /// How far the copy of the WAL is on disk, as it has told the server.
    pub(super) async fn copied(&self, slot: &str) -> Result<Option<Lsn>, tokio_postgres::Error> {
        // pg_stat_replication would say more, but only to those who may see everybody's sessions.
        let sql = "SELECT restart_lsn::text FROM pg_replication_slots WHERE slot_name = $1";
        let row = self.client.query_opt(sql, &[&slot]).await?;
        Ok(row.and_then(|row| row.get::<_, Option<&str>>(0)?.parse().ok()))
    }
}

/// The log's head, and a place in the WAL behind it: what is visible is on disk, and the place is asked for afterwards.
///
/// # Errors
/// The database's.
pub(crate) async fn head(client: &Client, shard: ShardId) -> Result<Witnessed, tokio_postgres::Error> {
    let row = client.query_one("SELECT log_id, position, hash FROM ledger.head WHERE shard = $1", &[&shard.0]).await?;
    let head =
        Head { position: Position(row.get(1)), hash: ChainHash::from_slice(row.get(2)).unwrap_or(ChainHash([0; 32])) };
    let log_id = LogId(row.get(0));
    let sql = "SELECT lsn::text, substr(pg_walfile_name(lsn), 1, 8) FROM pg_current_wal_flush_lsn() AS lsn";
    let row = client.query_one(sql, &[]).await?;
    let lsn = row.get::<_, &str>(0).parse().unwrap_or_default();
    let timeline = u32::from_str_radix(row.get(1), 16).unwrap_or(1);
    Ok(Witnessed { at: Timestamp::now(), log_id, position: head.position, hash: head.hash, lsn, timeline })
}

/// The connection as libpq reads it; the password goes another way.
fn conninfo(database: &DatabaseConfig, authorities: Option<PathBuf>) -> String {
    let mut parts = Vec::new();
    let mut add = |name: &str, value: &str| {
        let value = value.replace('\\', "\\\\").replace('\'', "\\'");
        parts.push(format!("{name}='{value}'"));
    };
    let hosts: Vec<String> = database
        .get_hosts()
        .iter()
        .map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        })
        .collect();
    add("host", &hosts.join(","));
    let ports: Vec<String> = database.get_ports().iter().map(ToString::to_string).collect();
    if !ports.is_empty() {
        add("port", &ports.join(","));
    }
    add("user", database.get_user().unwrap_or_default());
    if let (SslMode::Require, Some(authorities)) = (database.get_ssl_mode(), authorities) {
        add("sslmode", "verify-full");
        add("sslrootcert", &authorities.display().to_string());
    }
    parts.join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_connection_is_written_as_libpq_reads_it() {
        let database: DatabaseConfig =
            "host=db.example.com port=5433 user=ledger_backup password=hush sslmode=require".parse().unwrap();
        assert_eq!(
            conninfo(&database, Some("/etc/it's/ca.pem".into())),
            r"host='db.example.com' port='5433' user='ledger_backup' sslmode='verify-full' sslrootcert='/etc/it\'s/ca.pem'"
        );
    }
}
