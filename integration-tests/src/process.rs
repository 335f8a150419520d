//! A real `modelfaucet up` in a temporary directory, as its own process: started, killed, started again. Only processes that were
//! started here are ever signalled, by pid.

use std::io;
use std::net::TcpListener;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::connection::{Answer, Connection};

/// Where the binary is: beside the test's own, built if it is missing.
///
/// # Panics
/// If it cannot be built.
pub fn binary() -> PathBuf {
    let own = std::env::current_exe().expect("a running test has a path");
    let profile =
        own.ancestors().find(|path| path.ends_with("debug") || path.ends_with("release")).expect("a target folder");
    let binary = profile.join("modelfaucet");
    if !binary.exists() {
        let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        build.args(["build", "--locked", "-p", "modelfaucet-deploy", "--bin", "modelfaucet"]);
        if profile.ends_with("release") {
            build.arg("--release");
        }
        assert!(build.status().is_ok_and(|status| status.success()), "modelfaucet cannot be built");
    }
    binary
}

/// The words of `modelfaucet log fork` for positions that are lost, with the tokens of the two who say so in files of this folder.
///
/// # Panics
/// If the files cannot be written.
pub fn fork_words(folder: &Path, lost: &str, tokens: [&str; 2]) -> Vec<String> {
    let [first, second] = [("first", tokens[0]), ("second", tokens[1])].map(|(name, token)| {
        std::fs::write(folder.join(name), token).expect("a folder of ours");
        folder.join(name).display().to_string()
    });
    let mut words = vec!["log", "fork", "--yes", "--lost", lost, "--reason", "a test"];
    words.extend(["--first-token-file", &first, "--second-token-file", &second]);
    words.into_iter().map(str::to_owned).collect()
}

/// Says why a test is skipped; fails where `MODELFAUCET_REQUIRE` names what is missing.
///
/// # Panics
/// If it is required.
pub fn skip(what: &str, reason: &str) {
    let required = std::env::var("MODELFAUCET_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == what));
    assert!(!required, "{what} is required: {reason}");
    crate::report::skipped(reason);
    eprintln!("skipped: {reason}");
}

/// Are PostgreSQL's programs there? If not, says so and returns false; fails where `MODELFAUCET_REQUIRE` names postgres.
///
/// # Panics
/// If PostgreSQL is required and missing.
pub fn has_postgres() -> bool {
    let found = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| versions.next().is_some())
        || std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("postgres").exists()));
    if !found {
        skip("postgres", "PostgreSQL is not installed");
    }
    found
}

/// A free port on loopback.
///
/// # Panics
/// If there is none.
pub fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("a bound address").port()
}

/// What `up` is started with beside its data directory.
#[derive(Clone, Debug, Default)]
pub struct Setting {
    /// Variables of its environment.
    pub variables: Vec<(&'static str, String)>,
    /// A PostgreSQL that is not its own, as a superuser.
    pub database: Option<tokio_postgres::Config>,
    /// What lies under its data directory, for itself and its children alone.
    pub volume: Option<Volume>,
}

/// A running `modelfaucet up`.
#[derive(Debug)]
pub struct Up {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
    setting: Setting,
}

impl Up {
    /// Starts one on an empty data directory and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn start() -> Self {
        Self::start_with(Setting::default()).await
    }

    /// As [`Up::start`], with variables of its environment, also for later starts.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn start_with_variables(variables: &[(&'static str, &str)]) -> Self {
        let variables = variables.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        Self::start_with(Setting { variables, ..Setting::default() }).await
    }

    /// As [`Up::start`], with more than the defaults.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn start_with(mut setting: Setting) -> Self {
        let dir = tempfile::Builder::new().prefix("modelfaucet-test-").tempdir().expect("a temporary directory");
        let port = free_port();
        if let Some(database) = &setting.database {
            setting.variables.push(("DATABASE_URL", url(database)));
        }
        let child = spawn(&["up"], dir.path(), port, &setting.variables, setting.volume.as_ref());
        let mut up = Self { child, port, dir, setting };
        up.wait_until_ready(Duration::from_secs(60)).await;
        up
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The data directory. Through `/proc` where it is mounted for the process alone.
    pub fn data_dir(&self) -> PathBuf {
        let path = self.dir.path().join("data");
        match (&self.setting.volume, path.strip_prefix("/")) {
            (Some(_), Ok(inner)) => Path::new("/proc").join(self.child.id().to_string()).join("root").join(inner),
            _ => path,
        }
    }

    /// A secret that `up` has made.
    ///
    /// # Panics
    /// If there is none of this name.
    pub fn secret(&self, name: &str) -> String {
        let text = std::fs::read_to_string(self.data_dir().join("secrets").join(name)).expect("a kept secret");
        text.trim().to_owned()
    }

    /// The administrator's token.
    pub fn admin(&self) -> String {
        self.secret("admin_token")
    }

    /// A connection with a token (empty: none).
    ///
    /// # Errors
    /// The socket's.
    pub async fn connect(&self, token: &str) -> io::Result<Connection> {
        Connection::open(&self.address(), token).await
    }

    /// Waits until `/ready` says so.
    ///
    /// # Panics
    /// If the process ends or the time is over.
    pub async fn wait_until_ready(&mut self, limit: Duration) {
        let began = Instant::now();
        loop {
            if let Some(status) = self.ended() {
                panic!("modelfaucet ended with {status}; its log:\n{}", self.log());
            }
            if let Ok(mut connection) = self.connect("").await
                && connection.send("GET", "/ready", "", "", b"").await.is_ok_and(|answer| answer.status == 200)
            {
                return;
            }
            assert!(began.elapsed() < limit, "modelfaucet does not get ready; its log:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// How it ended, if it did so by itself.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Its process.
    ///
    /// # Panics
    /// If it has none.
    pub fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid")
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        crate::report::count(&[("kills", 1)]);
        self.end();
    }

    fn end(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }

    /// Starts the same data directory again. Does not wait.
    pub fn start_again(&mut self) {
        let Setting { variables, volume, .. } = &self.setting;
        self.child = spawn(&["up"], self.dir.path(), self.port, variables, volume.as_ref());
    }

    /// The private server's postmaster, as its pid file names it.
    pub fn postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.trim().parse().ok()?)
    }

    /// Stops PostgreSQL at once, as a crash would. True if there was one to stop.
    pub fn crash_postgres(&self) -> bool {
        crate::report::count(&[("kills", 1)]);
        self.postmaster().is_some_and(|pid| kill_process(pid, Signal::QUIT).is_ok())
    }

    /// Ctrl-C, and waits for the end.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop(&mut self) {
        kill_process(self.pid(), Signal::INT).expect("a child of ours");
        let status = self.child.wait().expect("a child of ours");
        assert!(status.success(), "modelfaucet ended with {status}; its log:\n{}", self.log());
    }

    /// Runs another verb of the binary on this data directory.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        self.run_with(arguments, &[])
    }

    /// The same with variables of its environment.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run_with(&self, arguments: &[&str], variables: &[(&'static str, String)]) -> std::process::Output {
        Command::new(binary())
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .output()
            .expect("the binary runs")
    }

    /// How to connect to its database as `role`.
    pub fn database(&self, role: &str) -> tokio_postgres::Config {
        if let Some(database) = &self.setting.database {
            let mut config = database.clone();
            config.user(role);
            return config;
        }
        let file = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).unwrap_or_default();
        let socket = Path::new(file.lines().nth(4).unwrap_or_default());
        // The server's own view of its directory is not ours where that is mounted for it alone.
        let socket = match socket.strip_prefix(self.dir.path().join("data")) {
            Ok(inner) => self.data_dir().join(inner),
            Err(_) => socket.to_owned(),
        };
        let mut config = tokio_postgres::Config::new();
        config.host_path(socket).port(5432).user(role).dbname("modelfaucet");
        config
    }

    /// Everything that its own PostgreSQL would hand to a backup.
    ///
    /// # Panics
    /// If it does not.
    pub fn dump(&self) -> String {
        let config = self.database("postgres");
        let Some(tokio_postgres::config::Host::Unix(socket)) = config.get_hosts().first() else { panic!("a socket") };
        let version = std::fs::read_to_string(self.data_dir().join("postgres/PG_VERSION")).expect("a version");
        let mut command = Command::new(format!("/usr/lib/postgresql/{}/bin/pg_dump", version.trim()));
        command.arg("-h").arg(socket).args(["-p", "5432", "-U", "postgres", "modelfaucet"]);
        let output = command.output().expect("pg_dump runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("UTF-8")
    }

    /// Starts another role of the binary over the same database. It ends with the returned value.
    pub fn role(&self, verb: &str, role: &str) -> Role {
        self.role_with(&[verb], role, &[])
    }

    /// The same with further arguments and variables.
    pub fn role_with(&self, verb: &[&str], role: &str, variables: &[(&'static str, &str)]) -> Role {
        let mut secrets = vec![
            ("DATABASE_URL", url(&self.database(role))),
            ("ADMIN_TOKEN", self.admin()),
            ("USER_ID_HMAC_KEY", self.secret("user_id_hmac_key")),
        ];
        secrets.extend(variables.iter().map(|(name, value)| (*name, (*value).to_owned())));
        Role::start(verb, self.dir.path(), secrets)
    }

    /// A role that knows nothing but these variables: no database, no secret of this process.
    pub fn bare_role(&self, verb: &[&str], variables: &[(&'static str, String)]) -> Role {
        Role::start(verb, self.dir.path(), variables.to_vec())
    }

    /// What the sandbox provider of this process writes down.
    pub fn provider_book(&self) -> PathBuf {
        self.data_dir().join("sandbox-provider.jsonl")
    }

    /// Opens a session for a user of the sandbox app: its token and wallet.
    ///
    /// # Panics
    /// If that is refused.
    pub async fn open_session(&self, user: &str) -> (String, String) {
        let mut visitor = self.connect("").await.expect("a connection");
        let body =
            json!({ "public_app_id": "app_pub_demo", "external_user_id": user, "feature_key": "customer_reply" });
        let session = visitor.json("POST", "/v1/sessions", "", &body).await.expect("an answer");
        assert_eq!(session.status, 200, "{session:?}");
        let token = session.json()["session_token"].as_str().expect("a token").to_owned();
        let position = session.header("ledger-position").unwrap_or("0").to_owned();
        let mut user = self.connect(&token).await.expect("a connection");
        let path = format!("/v1/user/wallet?min_position={position}");
        let wallet = user.json("GET", &path, "", &Value::Null).await.expect("an answer");
        (token, wallet.json()["id"].as_str().unwrap_or_else(|| panic!("a wallet: {wallet:?}")).to_owned())
    }

    /// A wallet with test credit.
    ///
    /// # Panics
    /// If that is refused.
    pub async fn wallet_with(&self, user: &str, usd: &str) -> (String, String) {
        let (token, wallet) = self.open_session(user).await;
        let mut admin = self.connect(&self.admin()).await.expect("a connection");
        let path = format!("/v1/admin/wallets/{wallet}/credit-test-balance");
        let credited = admin.json("POST", &path, "", &json!({ "amount_usd": usd })).await.expect("an answer");
        assert_eq!(credited.status, 200, "{credited:?}");
        (token, wallet)
    }

    /// One request as the administrator on a connection of its own.
    ///
    /// # Panics
    /// If the connection breaks.
    pub async fn as_admin(&self, method: &str, path: &str, headers: &str, body: &Value) -> Answer {
        let mut admin = self.connect(&self.admin()).await.expect("a connection");
        admin.json(method, path, headers, body).await.expect("an answer")
    }
}

impl Drop for Up {
    fn drop(&mut self) {
        // PostgreSQL goes with its parent; it must be gone before its directory is removed.
        let postmaster = self.postmaster();
        self.end();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10)
            && postmaster.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// How to connect, as text for `DATABASE_URL`.
pub fn url(config: &tokio_postgres::Config) -> String {
    let host = config.get_hosts().first().map(|host| match host {
        tokio_postgres::config::Host::Unix(path) => path.display().to_string(),
        tokio_postgres::config::Host::Tcp(name) => name.clone(),
    });
    let port = config.get_ports().first().copied().unwrap_or(5432);
    let (user, database) = (config.get_user().unwrap_or_default(), config.get_dbname().unwrap_or_default());
    format!("host={} port={port} user={user} dbname={database}", host.unwrap_or_default())
}

/// One role in a process of its own.
#[derive(Debug)]
pub struct Role {
    child: Child,
    port: u16,
    verb: Vec<String>,
    dir: PathBuf,
    secrets: Vec<(&'static str, String)>,
}

impl Role {
    fn start(verb: &[&str], dir: &Path, secrets: Vec<(&'static str, String)>) -> Self {
        let port = free_port();
        let child = spawn(verb, dir, port, &secrets, None);
        Self { child, port, verb: verb.iter().map(|&word| word.to_owned()).collect(), dir: dir.to_owned(), secrets }
    }

    /// Starts it again at the same address, after it was killed. Does not wait.
    pub fn start_again(&mut self) {
        let verb: Vec<&str> = self.verb.iter().map(String::as_str).collect();
        self.child = spawn(&verb, &self.dir, self.port, &self.secrets, None);
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// What it and the roles beside it have written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.join("log")).unwrap_or_default()
    }

    /// Waits until `/ready` says so.
    ///
    /// # Panics
    /// If the time is over.
    pub async fn wait_until_ready(&self) {
        let began = Instant::now();
        loop {
            if let Ok(mut connection) = Connection::open(&self.address(), "").await
                && connection.send("GET", "/ready", "", "", b"").await.is_ok_and(|answer| answer.status == 200)
            {
                return;
            }
            assert!(began.elapsed() < Duration::from_secs(60), "the role does not get ready");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Its process.
    ///
    /// # Panics
    /// If it has none.
    pub fn pid(&self) -> Pid {
        i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid")
    }

    /// How it ended, if it did so by itself.
    ///
    /// # Panics
    /// If the system does not tell.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// `kill -9`, and waits for the end, which it returns.
    ///
    /// # Errors
    /// The system's.
    pub fn kill(&mut self) -> io::Result<std::process::ExitStatus> {
        crate::report::count(&[("kills", 1)]);
        self.end()
    }

    fn end(&mut self) -> io::Result<std::process::ExitStatus> {
        let _gone = self.child.kill();
        self.child.wait()
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        let _ended = self.end();
    }
}

/// What is mounted under the data directory of one process and its children, and gone with the last of them.
#[derive(Clone, Debug)]
pub enum Volume {
    /// So many MiB of memory.
    Memory(u32),
    /// A file that holds an ext4 file system.
    Image(PathBuf),
}

impl Volume {
    /// So many MiB of memory; `None`, with the reason printed, where this process may not mount it.
    ///
    /// # Panics
    /// If `MODELFAUCET_REQUIRE` names root.
    pub fn memory(mebibytes: u32) -> Option<Self> {
        Self::Memory(mebibytes).tried()
    }

    /// A new image of so many MiB that takes no more space than what is in it; `None`, with the reason printed, where it cannot be
    /// made or mounted.
    ///
    /// # Panics
    /// If `MODELFAUCET_REQUIRE` names root.
    pub fn image(path: &Path, mebibytes: u32) -> Option<Self> {
        let file = std::fs::File::create(path).expect("an image");
        file.set_len(u64::from(mebibytes) << 20).expect("an image");
        match Command::new("mkfs.ext4").args(["-q", "-F"]).arg(path).output() {
            Ok(made) if made.status.success() => Self::Image(path.to_owned()).tried(),
            Ok(made) => Self::impossible(&String::from_utf8_lossy(&made.stderr)),
            Err(error) => Self::impossible(&format!("mkfs.ext4: {error}")),
        }
    }

    fn tried(self) -> Option<Self> {
        let script = format!("{} /mnt", self.mount());
        match Command::new("unshare").args(["-m", "sh", "-c", &script]).output() {
            Ok(output) if output.status.success() => Some(self),
            Ok(output) => Self::impossible(&String::from_utf8_lossy(&output.stderr)),
            Err(error) => Self::impossible(&format!("unshare: {error}")),
        }
    }

    fn impossible(problem: &str) -> Option<Self> {
        skip("root", &format!("a file system cannot be mounted: {}", problem.trim()));
        None
    }

    fn mount(&self) -> String {
        match self {
            Self::Memory(mebibytes) => format!("mount -t tmpfs -o mode=755,size={mebibytes}m none"),
            Self::Image(path) => format!("mount -t ext4 -o loop '{}'", path.display()),
        }
    }

    /// What mounts it at `data` in a mount namespace of its own, and becomes the program whose words follow.
    fn command(&self) -> Command {
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", &format!("mkdir -p data && {} data && exec \"$@\"", self.mount()), "sh"]);
        command
    }
}

fn spawn(verb: &[&str], dir: &Path, port: u16, variables: &[(&'static str, String)], volume: Option<&Volume>) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log file");
    let mut command = match volume {
        None => Command::new(binary()),
        Some(volume) => {
            let mut command = volume.command();
            command.arg(binary());
            command
        }
    };
    // Arguments of a test come last, so that they win.
    let (verb, further) = verb.split_first().expect("a verb");
    let listen = format!("127.0.0.1:{port}");
    command.arg(verb).args(["--listen", &listen, "--data-dir", "data"]).args(further).current_dir(dir);
    // Nothing of the tester's environment: a DATABASE_URL there must not be written to.
    command.env_clear().envs(variables.iter().map(|(name, value)| (name, value)));
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log file")).stderr(log);
    command.spawn().expect("the binary starts")
}
