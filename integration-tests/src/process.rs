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

/// Are PostgreSQL's programs there? If not, says so and returns false; fails where `MODELFAUCET_REQUIRE` names postgres.
///
/// # Panics
/// If PostgreSQL is required and missing.
pub fn has_postgres() -> bool {
    let found = std::fs::read_dir("/usr/lib/postgresql").is_ok_and(|mut versions| versions.next().is_some())
        || std::env::var_os("PATH")
            .is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join("postgres").exists()));
    let required =
        std::env::var("MODELFAUCET_REQUIRE").is_ok_and(|list| list.split(',').any(|name| name == "postgres"));
    assert!(found || !required, "PostgreSQL is required and not installed");
    if !found {
        eprintln!("skipped: PostgreSQL is not installed");
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

/// A running `modelfaucet up`.
#[derive(Debug)]
pub struct Up {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
    settings: Vec<(&'static str, String)>,
}

impl Up {
    /// Starts one on an empty data directory and waits until it is ready.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn start() -> Self {
        Self::start_with(&[]).await
    }

    /// The same with settings from the environment, also for later starts.
    ///
    /// # Panics
    /// If it does not get ready.
    pub async fn start_with(settings: &[(&'static str, &str)]) -> Self {
        let dir = tempfile::Builder::new().prefix("modelfaucet-test-").tempdir().expect("a temporary directory");
        let port = free_port();
        let settings: Vec<_> = settings.iter().map(|(name, value)| (*name, (*value).to_owned())).collect();
        let child = spawn(&["up"], dir.path(), port, &borrowed(&settings));
        let mut up = Self { child, port, dir, settings };
        up.wait_until_ready(Duration::from_secs(60)).await;
        up
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
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
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
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

    /// What it has written so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }

    /// Starts the same data directory again. Does not wait.
    pub fn start_again(&mut self) {
        self.child = spawn(&["up"], self.dir.path(), self.port, &borrowed(&self.settings));
    }

    /// The private server's postmaster, as its pid file names it.
    pub fn postmaster(&self) -> Option<Pid> {
        let file = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).ok()?;
        Pid::from_raw(file.lines().next()?.trim().parse().ok()?)
    }

    /// Stops PostgreSQL at once, as a crash would. True if there was one to stop.
    pub fn crash_postgres(&self) -> bool {
        self.postmaster().is_some_and(|pid| kill_process(pid, Signal::QUIT).is_ok())
    }

    /// Ctrl-C, and waits for the end.
    ///
    /// # Panics
    /// If it does not end well.
    pub fn stop(&mut self) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a pid");
        kill_process(pid, Signal::INT).expect("a child of ours");
        let status = self.child.wait().expect("a child of ours");
        assert!(status.success(), "modelfaucet ended with {status}; its log:\n{}", self.log());
    }

    /// Runs another verb of the binary on this data directory.
    ///
    /// # Panics
    /// If it cannot be started.
    pub fn run(&self, arguments: &[&str]) -> std::process::Output {
        Command::new(binary())
            .args(arguments)
            .current_dir(self.dir.path())
            .env_clear()
            .output()
            .expect("the binary runs")
    }

    /// How to connect to the private server as `role`.
    pub fn database(&self, role: &str) -> tokio_postgres::Config {
        let file = std::fs::read_to_string(self.data_dir().join("postgres/postmaster.pid")).unwrap_or_default();
        let mut config = tokio_postgres::Config::new();
        config.host_path(file.lines().nth(4).unwrap_or_default()).port(5432).user(role).dbname("modelfaucet");
        config
    }

    /// Starts another role of the binary over the same database. It ends with the returned value.
    pub fn role(&self, verb: &str, role: &str) -> Role {
        self.role_with(&[verb], role, &[])
    }

    /// The same with further arguments and settings.
    pub fn role_with(&self, verb: &[&str], role: &str, settings: &[(&str, &str)]) -> Role {
        let port = free_port();
        let config = self.database(role);
        let socket = config.get_hosts().iter().find_map(|host| match host {
            tokio_postgres::config::Host::Unix(path) => Some(path.display().to_string()),
            tokio_postgres::config::Host::Tcp(_) => None,
        });
        let url = format!("host={} port=5432 user={role} dbname=modelfaucet", socket.unwrap_or_default());
        let (admin, key) = (self.admin(), self.secret("user_id_hmac_key"));
        let secrets = [("DATABASE_URL", url.as_str()), ("ADMIN_TOKEN", &admin), ("USER_ID_HMAC_KEY", &key)];
        Role { child: spawn(verb, self.dir.path(), port, &[&secrets, settings].concat()), port }
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
        self.kill();
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(10)
            && postmaster.is_some_and(|pid| rustix::process::test_kill_process(pid).is_ok())
        {
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// One role in a process of its own.
#[derive(Debug)]
pub struct Role {
    child: Child,
    port: u16,
}

impl Role {
    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
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

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Role {
    fn drop(&mut self) {
        self.kill();
    }
}

fn borrowed<'a>(settings: &'a [(&'static str, String)]) -> Vec<(&'a str, &'a str)> {
    settings.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

fn spawn(verb: &[&str], dir: &Path, port: u16, secrets: &[(&str, &str)]) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log file");
    let mut command = Command::new(binary());
    let (verb, further) = verb.split_first().expect("a verb");
    command
        .arg(verb)
        .args(["--listen", &format!("127.0.0.1:{port}"), "--data-dir", "data"])
        .args(further)
        .current_dir(dir);
    // Nothing of the tester's environment: a DATABASE_URL there must not be written to.
    command.env_clear().envs(secrets.iter().copied());
    if let Some(path) = std::env::var_os("PATH") {
        command.env("PATH", path);
    }
    command.stdin(Stdio::null()).stdout(log.try_clone().expect("a log file")).stderr(log);
    command.spawn().expect("the binary starts")
}
