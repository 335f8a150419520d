//! Databases to throw away: on the server of `MODELFAUCET_TEST_DATABASE_URL`, else on a private cluster in a temporary folder that
//! lives as long as the process. A template is migrated once; each test gets a copy of it, or of another test database.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use modelfaucet_schema::ids::ShardId;
use modelfaucet_schema::log::boot::ServiceRole;
use modelfaucet_schema::log::migrate::migrate;
use tokio_postgres::{Client, Config, NoTls};

/// Runs the server until our end of its input closes, however this process ends; then takes the folder away.
const KEEPER: &str = r#"folder=$1; shift; "$@" >/dev/null 2>"$folder/log" & server=$!
cat >/dev/null; kill -QUIT "$server"; wait "$server"; rm -rf "$folder""#;

/// Most databases may be lost, so that tests are quick.
const LOSABLE: &[&str] = &["fsync=off", "shared_buffers=256MB", "max_wal_size=8GB"];

static SERVER: OnceLock<Option<Config>> = OnceLock::new();
static TEMPLATE: tokio::sync::OnceCell<String> = tokio::sync::OnceCell::const_new();
static NEXT: AtomicU32 = AtomicU32::new(0);

/// One database, migrated, with shard 0 and the tables of all projections. The service roles may log in.
#[derive(Debug)]
pub struct TestDatabase {
    name: String,
    server: Config,
}

impl TestDatabase {
    /// A new one; `None`, with the reason printed, where there is no server to be had.
    ///
    /// # Panics
    /// If `MODELFAUCET_REQUIRE` names postgres and there is none, or the server fails.
    pub async fn create() -> Option<Self> {
        let server = tokio::task::spawn_blocking(server).await.expect("a thread that starts a server")?;
        let template = TEMPLATE.get_or_init(|| make_template(&server)).await;
        Some(Self::copy_of(template, &server).await)
    }

    /// A new one on this server, whatever the environment says.
    ///
    /// # Panics
    /// If the server fails.
    pub async fn create_on(server: Config) -> Self {
        let template = TEMPLATE.get_or_init(|| make_template(&server)).await;
        Self::copy_of(template, &server).await
    }

    /// An empty one on a server of its own that keeps what it acknowledges, as services demand; to be migrated by them. `None`, with
    /// the reason printed, where PostgreSQL is not installed.
    ///
    /// # Panics
    /// If `MODELFAUCET_REQUIRE` names postgres and there is none, or the server fails.
    pub async fn durable() -> Option<Self> {
        if !crate::process::has_postgres() {
            return None;
        }
        let start = || start_cluster(&binaries(), &[]);
        let server = tokio::task::spawn_blocking(start).await.expect("a thread that starts a server");
        Some(Self::copy_of("template0", &server).await)
    }

    /// A copy. Nobody may be connected to this one meanwhile.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn copy(&self) -> Self {
        Self::copy_of(&self.name, &self.server).await
    }

    async fn copy_of(template: &str, server: &Config) -> Self {
        let name = format!("modelfaucet_{}_{}", std::process::id(), NEXT.fetch_add(1, Ordering::SeqCst));
        let admin = open(server).await;
        // A session that is about to end may still hold the template.
        for attempt in 0.. {
            match admin.batch_execute(&format!("CREATE DATABASE {name} TEMPLATE {template} STRATEGY file_copy")).await {
                Ok(()) => break,
                Err(error) if attempt > 100 => panic!("{error}"),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        // Rights on a database are not copied with it.
        let rights = "SELECT coalesce(string_agg(format('GRANT %s ON DATABASE %I TO %I', a.privilege_type, $2::text, a.grantee::regrole::text), '; '), '')
                      FROM pg_database d, aclexplode(d.datacl) a WHERE d.datname = $1 AND a.grantee <> 0 AND a.grantee <> d.datdba";
        let rights: String = admin.query_one(rights, &[&template, &name]).await.expect("rights").get(0);
        admin.batch_execute(&rights).await.expect("rights that can be granted");
        Self { name, server: server.clone() }
    }

    /// How a superuser connects.
    pub fn superuser(&self) -> Config {
        let mut config = self.server.clone();
        config.dbname(&self.name);
        config
    }

    /// How a service connects.
    pub fn role(&self, role: ServiceRole) -> Config {
        let mut config = self.superuser();
        config.user(role.name());
        config
    }

    /// The same as text, for `DATABASE_URL`.
    pub fn url(&self, role: ServiceRole) -> String {
        crate::process::url(&self.role(role))
    }

    /// A superuser's session.
    pub async fn connect(&self) -> Client {
        open(&self.superuser()).await
    }

    /// A service's session.
    pub async fn connect_as(&self, role: ServiceRole) -> Client {
        open(&self.role(role)).await
    }

    /// Takes it away at once; without this it goes with the server.
    ///
    /// # Panics
    /// If the server refuses.
    pub async fn remove(self) {
        let sql = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        open(&self.server).await.batch_execute(&sql).await.expect("a database that can be dropped");
    }
}

async fn open(config: &Config) -> Client {
    let began = Instant::now();
    loop {
        match config.connect(NoTls).await {
            Ok((client, connection)) => {
                tokio::spawn(connection);
                return client;
            }
            Err(error) => assert!(began.elapsed() < Duration::from_secs(30), "cannot connect: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

async fn make_template(server: &Config) -> String {
    let template = format!("modelfaucet_template_{}", std::process::id());
    let admin = open(server).await;
    admin.batch_execute(&format!("DROP DATABASE IF EXISTS {template}")).await.expect("a superuser");
    admin
        .batch_execute(&format!("CREATE DATABASE {template} TEMPLATE template0 ENCODING 'UTF8'"))
        .await
        .expect("a superuser");
    let mut config = server.clone();
    let mut client = open(config.dbname(&template)).await;
    migrate(&mut client, &[ShardId(0)]).await.expect("migrations that apply");
    for role in ServiceRole::ALL {
        client.batch_execute(&format!("ALTER ROLE {} LOGIN", role.name())).await.expect("a superuser");
    }
    client.batch_execute("SET ROLE ledger_projector").await.expect("a superuser");
    modelfaucet_projector::setup(&mut client).await.expect("projections that can be set up");
    template
}

fn server() -> Option<Config> {
    let start = || match std::env::var("MODELFAUCET_TEST_DATABASE_URL") {
        Ok(url) => Some(url.parse().expect("MODELFAUCET_TEST_DATABASE_URL is a connection string")),
        Err(_) if crate::process::has_postgres() => Some(start_cluster(&binaries(), LOSABLE)),
        Err(_) => None,
    };
    SERVER.get_or_init(start).clone()
}

/// The newest installed version, else whatever is in PATH.
fn binaries() -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<PathBuf> = versions.map(|version| version.path().join("bin")).collect();
    found.retain(|bin| bin.join("initdb").exists());
    found.sort();
    found.pop().unwrap_or_default()
}

/// PostgreSQL does not run as root.
fn command(program: &Path) -> Command {
    let root = std::fs::metadata("/proc/self").is_ok_and(|own| own.uid() == 0);
    if !root {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--reuid", "postgres", "--regid", "postgres", "--clear-groups"]).arg(program);
    command
}

fn start_cluster(bin: &Path, settings: &[&str]) -> Config {
    let folder = tempfile::Builder::new().prefix("modelfaucet-test-").tempdir().expect("a temporary directory").keep();
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("a directory of ours");
    let data = folder.join("data");
    let mut initdb = command(&bin.join("initdb"));
    initdb.args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"]).arg(&data);
    assert!(initdb.stdout(Stdio::null()).status().is_ok_and(|status| status.success()), "initdb failed");
    let mut server = command(&bin.join("postgres"));
    for setting in ["listen_addresses=", "max_connections=200", "log_min_messages=fatal"].iter().chain(settings) {
        server.args(["-c", setting]);
    }
    server.arg("-c").arg(format!("unix_socket_directories={}", folder.display())).arg("-D").arg(&data);
    let mut keeper = Command::new("sh");
    keeper.args(["-c", KEEPER, "sh"]).arg(&folder).arg(server.get_program()).args(server.get_args());
    // Its input stays open until the process ends.
    std::mem::forget(keeper.stdin(Stdio::piped()).spawn().expect("a shell"));
    let began = Instant::now();
    while !folder.join(".s.PGSQL.5432").exists() {
        assert!(began.elapsed() < Duration::from_secs(30), "the server does not start");
        std::thread::sleep(Duration::from_millis(20));
    }
    let mut config = Config::new();
    config.host_path(&folder).user("postgres").dbname("postgres");
    config
}
