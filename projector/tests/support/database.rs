//! Databases to throw away: on the server of `MODELFAUCET_TEST_DATABASE_URL`, else on a private cluster in a temporary folder.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::migrate::migrate;
use tokio_postgres::{Client, Config, NoTls};

static SERVER: OnceLock<Option<Config>> = OnceLock::new();

/// Runs the server until our end of its input closes, however this process ends; then takes the folder away.
const KEEPER: &str = r#"folder=$1; shift; "$@" >/dev/null 2>"$folder/log" & server=$!
cat >/dev/null; kill -QUIT "$server"; wait "$server"; rm -rf "$folder""#;

fn binaries() -> Option<PathBuf> {
    let mut found: Vec<PathBuf> =
        std::fs::read_dir("/usr/lib/postgresql").ok()?.flatten().map(|entry| entry.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop()
}

fn command(program: &Path, root: bool) -> Command {
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    command
}

fn start_cluster() -> Option<Config> {
    let bin = binaries()?;
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| std::os::unix::fs::MetadataExt::uid(&own) == 0);
    let folder = tempfile::Builder::new().prefix("modelfaucet-test").tempdir().unwrap().keep();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).unwrap();
    let data = folder.join("data");
    let made = command(&bin.join("initdb"), root)
        .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
        .arg(&data)
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(made.success(), "initdb failed");
    // Measurements want a server that keeps its promises.
    let fsync = if std::env::var_os("MODELFAUCET_TEST_DURABLE").is_some() { "fsync=on" } else { "fsync=off" };
    let mut server = command(&bin.join("postgres"), root);
    server
        .args([
            "-c",
            "listen_addresses=",
            "-c",
            fsync,
            "-c",
            "max_connections=200",
            "-c",
            "shared_buffers=512MB",
            "-c",
            "max_wal_size=8GB",
        ])
        .args(["-c", "log_min_messages=fatal", "-c"])
        .arg(format!("unix_socket_directories={}", folder.display()))
        .arg("-D")
        .arg(&data);
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "sh"]).arg(&folder).arg(server.get_program()).args(server.get_args());
    let child = keeper.stdin(Stdio::piped()).spawn().unwrap();
    // Kept open until the process ends.
    std::mem::forget(child);
    let mut config = Config::new();
    config.host_path(&folder).user("postgres").dbname("postgres");
    let socket = folder.join(".s.PGSQL.5432");
    let begun = Instant::now();
    while !socket.exists() {
        assert!(begun.elapsed() < Duration::from_secs(30), "the server does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    Some(config)
}

fn server() -> Option<Config> {
    let found = SERVER.get_or_init(|| {
        if let Ok(url) = std::env::var("MODELFAUCET_TEST_DATABASE_URL") {
            return Some(url.parse().expect("MODELFAUCET_TEST_DATABASE_URL is a connection string"));
        }
        start_cluster()
    });
    found.clone()
}

static NEXT: AtomicU32 = AtomicU32::new(0);

/// One database, migrated, with shard 0.
pub struct TestDatabase {
    name: String,
    server: Config,
}

async fn open(config: &Config) -> Client {
    let mut last = None;
    for _ in 0..100 {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(async move {
                    connection.await.ok();
                });
                return client;
            }
            Err(error) => last = Some(error),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("cannot connect: {last:?}");
}

/// Migrates the template once per process.
static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();

impl TestDatabase {
    /// `None`, with the reason printed, where there is no server to be had.
    pub async fn create() -> Option<Self> {
        let Some(server) = tokio::task::spawn_blocking(server).await.unwrap() else {
            let required = std::env::var("MODELFAUCET_REQUIRE").unwrap_or_default().contains("postgres");
            assert!(!required, "no PostgreSQL binaries, but MODELFAUCET_REQUIRE demands them");
            eprintln!("skipped: no PostgreSQL binaries and no MODELFAUCET_TEST_DATABASE_URL");
            return None;
        };
        let template = TEMPLATE
            .get_or_init(|| async {
                let template = format!("projector_template_{}", std::process::id());
                let admin = open(&server).await;
                admin.batch_execute(&format!("DROP DATABASE IF EXISTS {template}")).await.unwrap();
                admin.batch_execute(&format!("CREATE DATABASE {template}")).await.unwrap();
                let mut config = server.clone();
                let mut client = open(config.dbname(&template)).await;
                migrate(&mut client, &[ShardId(0)]).await.unwrap();
                template
            })
            .await;
        let name = format!("projector_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let admin = open(&server).await;
        // A session that is about to end may still hold the template.
        for attempt in 0.. {
            match admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template}")).await {
                Ok(()) => break,
                Err(error) if attempt > 50 => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
            }
        }
        // Rights on a database are not copied from its template.
        admin.batch_execute(&format!("GRANT CREATE ON DATABASE {name} TO ledger_projector")).await.unwrap();
        Some(Self { name, server })
    }

    /// As the superuser.
    pub fn admin(&self) -> Config {
        let mut config = self.server.clone();
        config.dbname(&self.name);
        config
    }

    /// As a service's role.
    pub fn role(&self, role: &str) -> Config {
        let mut config = self.admin();
        config.options(format!("-c role={role}"));
        config
    }

    pub async fn connect(&self, role: &str) -> Client {
        open(&self.role(role)).await
    }

    pub async fn connect_admin(&self) -> Client {
        open(&self.admin()).await
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        if std::env::var_os("MODELFAUCET_TEST_DATABASE_URL").is_some() {
            let (name, server) = (self.name.clone(), self.server.clone());
            let drop_it = move || {
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
                runtime.block_on(async {
                    let sql = format!("DROP DATABASE IF EXISTS {name} WITH (FORCE)");
                    open(&server).await.batch_execute(&sql).await.ok();
                });
            };
            std::thread::spawn(drop_it).join().ok();
        }
    }
}
