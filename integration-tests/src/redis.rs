//! A real `redis-server` of a test, on loopback and in a temporary directory. Only processes that were started here are ended, by pid.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use crate::process::{free_port, skip};

/// A running Redis.
#[derive(Debug)]
pub struct Redis {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Redis {
    /// Starts one that keeps nothing unless it is told to; `None`, with the reason printed, where it is not installed.
    ///
    /// # Panics
    /// If it does not start, or `MODELFAUCET_REQUIRE` names redis and it is missing.
    pub fn start() -> Option<Self> {
        if Command::new("redis-server").arg("--version").stdout(Stdio::null()).status().is_err() {
            skip("redis", "redis-server is not installed");
            return None;
        }
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let child = spawn(port, dir.path());
        let redis = Self { child, port, dir };
        redis.wait();
        Some(redis)
    }

    /// Its port on loopback.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// One command; what it answers, as text.
    ///
    /// # Panics
    /// If `redis-cli` is missing.
    pub fn ask(&self, words: &[&str]) -> String {
        let output = Command::new("redis-cli").args(["-p", &self.port.to_string()]).args(words).output();
        String::from_utf8_lossy(&output.expect("redis-cli").stdout).trim().to_owned()
    }

    /// Its clock, in microseconds.
    ///
    /// # Panics
    /// If it does not tell.
    pub fn time(&self) -> u64 {
        let answer = self.ask(&["TIME"]);
        let mut lines = answer.lines().map(|line| line.parse::<u64>().expect("a number"));
        lines.next().expect("seconds") * 1_000_000 + lines.next().expect("microseconds")
    }

    /// Keeps what it holds now as its copy on disk.
    ///
    /// # Panics
    /// If it cannot.
    pub fn save(&self) {
        assert_eq!(self.ask(&["SAVE"]), "OK");
        std::fs::copy(self.dir.path().join("dump.rdb"), self.dir.path().join("old.rdb")).expect("a copy");
    }

    /// Ends it with its memory, as a crash would.
    ///
    /// # Panics
    /// If it is no child of ours.
    pub fn kill(&mut self) {
        let _gone = self.child.kill();
        self.child.wait().expect("a child of ours");
    }

    /// Starts it again, from the copy that [`Redis::save`] has kept if `old` says so, else with nothing.
    ///
    /// # Panics
    /// If it does not start.
    pub fn start_again(&mut self, old: bool) {
        let (dump, kept) = (self.dir.path().join("dump.rdb"), self.dir.path().join("old.rdb"));
        if old {
            std::fs::copy(kept, dump).expect("a kept copy");
        } else {
            let _none = std::fs::remove_file(dump);
        }
        self.child = spawn(self.port, self.dir.path());
        self.wait();
    }

    fn wait(&self) {
        let began = Instant::now();
        while self.ask(&["PING"]) != "PONG" {
            assert!(began.elapsed() < Duration::from_secs(20), "redis-server does not start");
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

fn spawn(port: u16, dir: &std::path::Path) -> Child {
    let mut command = Command::new("redis-server");
    command.args(["--bind", "127.0.0.1", "--port", &port.to_string(), "--save", "", "--appendonly", "no"]);
    command.args(["--dir", &dir.display().to_string(), "--daemonize", "no"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command.spawn().expect("redis-server starts")
}
