//! A real browser without a window, and the little servers of the pages that it loads. Only processes that were started here are
//! ended, by pid.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use axum::Router;
use axum::extract::State;
use axum::http::header::CONTENT_TYPE;
use axum::response::Html;
use axum::routing::{get, post};
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::mpsc;

use crate::process::skip;

/// What starts Chromium: `MODELFAUCET_TEST_CHROMIUM`, else the first of its names on the path; `None`, with the reason printed, where
/// it is not installed.
///
/// # Panics
/// If `MODELFAUCET_REQUIRE` names chromium and it is missing.
pub fn chromium() -> Option<PathBuf> {
    let named = std::env::var_os("MODELFAUCET_TEST_CHROMIUM").map(PathBuf::from);
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = named.or_else(|| {
        let names = ["chromium", "chromium-browser", "google-chrome"];
        std::env::split_paths(&path)
            .find_map(|dir| names.map(|name| dir.join(name)).into_iter().find(|file| file.exists()))
    });
    if found.is_none() {
        skip("chromium", "Chromium is not installed");
    }
    found
}

/// A server of one page on a port of its own, which makes an origin of its own. It ends with this value.
#[derive(Debug)]
pub struct Site {
    listener: Option<TcpListener>,
    origin: String,
    server: Option<tokio::task::JoinHandle<()>>,
}

impl Site {
    /// Takes a port; nothing is served yet.
    ///
    /// # Panics
    /// If there is no free port.
    pub async fn reserve() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let origin = format!("http://{}", listener.local_addr().expect("a bound address"));
        Self { listener: Some(listener), origin, server: None }
    }

    /// `http://127.0.0.1:port`, as the browser will name it.
    pub fn origin(&self) -> &str {
        &self.origin
    }

    /// Serves the page with its settings and this script, lets the browser load it, and waits for what the script has seen.
    ///
    /// # Panics
    /// If the page tells nothing for two minutes, or is served a second time.
    pub async fn visit(&mut self, chromium: &PathBuf, settings: Value, script: &'static str) -> Value {
        let (tell, mut told) = mpsc::unbounded_channel();
        let javascript = [(CONTENT_TYPE, "text/javascript")];
        let settings = settings.to_string();
        let router = Router::new()
            .route("/", get(|| async { Html(include_str!("../browser/page.html")) }))
            .route("/script.js", get(move || async move { (javascript, script) }))
            .route("/settings", get(move || async move { settings }))
            .route("/seen", post(seen))
            .with_state(tell);
        let listener = self.listener.take().expect("a page is visited once");
        self.server = Some(tokio::spawn(async move {
            let _ended = axum::serve(listener, router).await;
        }));
        let browser = Browser::open(chromium, &self.origin);
        let limit = Duration::from_secs(120);
        match tokio::time::timeout(limit, told.recv()).await {
            Ok(Some(seen)) => seen,
            _ => panic!("the page tells nothing; Chromium says:\n{}", browser.log()),
        }
    }
}

async fn seen(State(tell): State<mpsc::UnboundedSender<Value>>, body: String) {
    let _nobody_waits = tell.send(serde_json::from_str(&body).expect("a page posts JSON"));
}

impl Drop for Site {
    fn drop(&mut self) {
        if let Some(server) = &self.server {
            server.abort();
        }
    }
}

/// A running Chromium with a profile of its own.
struct Browser {
    child: Child,
    profile: tempfile::TempDir,
}

impl Browser {
    fn open(chromium: &PathBuf, url: &str) -> Self {
        let profile = tempfile::Builder::new().prefix("modelfaucet-test-").tempdir().expect("a temporary directory");
        let log = std::fs::File::create(profile.path().join("log")).expect("a log file");
        let mut directory = OsString::from("--user-data-dir=");
        directory.push(profile.path());
        let child = Command::new(chromium)
            // Its sandbox needs rights that containers and root do not have; it loads nothing but our page.
            .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"])
            .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
            // Without a debugger it would end when the page is loaded.
            .arg("--remote-debugging-port=0")
            .arg(directory)
            .arg(url)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("Chromium starts");
        Self { child, profile }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.profile.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Its helpers end with it.
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}
