//! A sandbox provider in a process of its own, which outlives the gateways that are killed.

use std::collections::BTreeMap;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::calls::{Served, provider_book};
use crate::connection::Connection;
use crate::process::{binary, free_port};

/// The provider; ends with its owner.
#[derive(Debug)]
pub struct Provider {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Provider {
    /// Starts it.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn start() -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let port = free_port();
        let child = Command::new(binary())
            .args(["sandbox-provider", "--listen", &format!("127.0.0.1:{port}"), "--log"])
            .arg(dir.path().join("book"))
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("a process");
        let provider = Self { child, port, dir };
        for _ in 0..500 {
            if Connection::open(&format!("127.0.0.1:{port}"), "").await.is_ok() {
                return provider;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        panic!("the provider does not start");
    }

    /// Where it listens.
    pub fn url(&self) -> String {
        format!("http://127.0.0.1:{}", self.port)
    }

    /// What it wrote down, by call.
    pub fn book(&self) -> BTreeMap<String, Vec<Served>> {
        provider_book(&self.dir.path().join("book"))
    }
}

impl Drop for Provider {
    fn drop(&mut self) {
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
