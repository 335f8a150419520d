//! Databases to throw away, on a private cluster in a temporary folder that ends with this process.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::migrate::migrate;
use tokio_postgres::{Client, Config, NoTls};

/// Runs the server until our end of its input closes, however this process ends; then takes the folder away.
const KEEPER: &str = r#"folder=$1; shift; "$@" >/dev/null 2>"$folder/log" & server=$!
cat >/dev/null; kill -QUIT "$server"; wait "$server"; rm -rf "$folder""#;

static SERVER: OnceLock<Option<Config>> = OnceLock::new();
static NEXT: AtomicU32 = AtomicU32::new(0);

fn binaries() -> Option<PathBuf> {
    let versions = std::fs::read_dir("/usr/lib/postgresql").ok()?;
    let mut found: Vec<PathBuf> = versions.flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop()
}

/// The server refuses to run as root.
fn command(program: &Path) -> Command {
    if std::fs::metadata("/proc/self").unwrap().uid() != 0 {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    command
}

fn start() -> Option<Config> {
    let Some(bin) = binaries() else {
        let required = std::env::var("MODELFAUCET_REQUIRE").unwrap_or_default().contains("postgres");
        assert!(!required, "no PostgreSQL binaries, but MODELFAUCET_REQUIRE demands them");
        eprintln!("skipped: no PostgreSQL binaries");
        return None;
    };
    let folder = tempfile::Builder::new().prefix("modelfaucet-query").tempdir().unwrap().keep();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let data = folder.join("data");
    let made = command(&bin.join("initdb"))
        .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success(), "initdb failed");
    let mut server = command(&bin.join("postgres"));
    server
        .args(["-c", "listen_addresses=", "-c", "fsync=off", "-c", "log_min_messages=fatal", "-c"])
        .arg(format!("unix_socket_directories={}", folder.display()))
        .arg("-D")
        .arg(&data);
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "sh"]).arg(&folder).arg(server.get_program()).args(server.get_args());
    // Its input stays open until this process ends.
    std::mem::forget(keeper.stdin(Stdio::piped()).spawn().unwrap());
    let begun = Instant::now();
    while !folder.join(".s.PGSQL.5432").exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the server does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut config = Config::new();
    config.host_path(&folder).user("postgres").dbname("postgres");
    Some(config)
}

async fn open(config: &Config) -> Client {
    for _ in 0..100 {
        if let Ok((client, connection)) = config.connect(NoTls).await {
            tokio::spawn(async move { connection.await.ok() });
            return client;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("cannot connect");
}

/// One database, migrated, with a log for shard 0.
pub(crate) struct TestDatabase(Config);

impl TestDatabase {
    /// `None`, with the reason printed, where there is no server to be had.
    pub(crate) async fn create() -> Option<Self> {
        let server = tokio::task::spawn_blocking(|| SERVER.get_or_init(start).clone()).await.unwrap()?;
        let name = format!("query_{}", NEXT.fetch_add(1, Ordering::SeqCst));
        open(&server).await.batch_execute(&format!("CREATE DATABASE {name}")).await.unwrap();
        let mut config = server;
        config.dbname(&name);
        migrate(&mut open(&config).await, &[ShardId(0)]).await.unwrap();
        Some(Self(config))
    }

    /// How to connect with the rights of a service's role.
    pub(crate) fn role(&self, role: &str) -> Config {
        let mut config = self.0.clone();
        config.options(format!("-c role={role}"));
        config
    }

    /// Connected with the rights of a service's role.
    pub(crate) async fn connect(&self, role: &str) -> Client {
        open(&self.role(role)).await
    }

    /// Connected as the superuser.
    pub(crate) async fn superuser(&self) -> Client {
        open(&self.0).await
    }
}
