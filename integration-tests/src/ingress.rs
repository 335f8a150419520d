//! The ingress of `deploy/ingress` as a process: nginx with the project's own files, on one port of loopback, before roles that a test has
//! started. Only processes that were started here are ended, by pid.

use std::fmt::Write as _;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::connection::Connection;
use crate::process::{Role, free_port, skip};

/// What is said of one address in the files, and what a test says, whose clients all come from one.
const LIMITS: [[&str; 2]; 3] =
    [["rate=200r/s", "rate=100000r/s"], ["burst=400", "burst=100000"], ["connections 64", "connections 4096"]];

/// A running ingress; ends with its owner.
#[derive(Debug)]
pub struct Ingress {
    child: Child,
    port: u16,
    dir: tempfile::TempDir,
}

impl Ingress {
    /// Starts one before these roles; `None`, with the reason printed, where nginx is not installed.
    ///
    /// # Panics
    /// If it does not start, or `MODELFAUCET_REQUIRE` names nginx and it is missing.
    pub async fn start(command: &[Role], query: &[Role], gateway: &[Role]) -> Option<Self> {
        if Command::new("nginx").arg("-v").stderr(Stdio::null()).status().is_err() {
            skip("nginx", "nginx is not installed");
            return None;
        }
        let dir = tempfile::Builder::new().prefix("modelfaucet-ingress-").tempdir().expect("a temporary directory");
        let port = free_port();
        write_files(dir.path(), port, &[("command", command), ("query", query), ("gateway", gateway)]);
        let child = spawn(dir.path());
        let ingress = Self { child, port, dir };
        ingress.wait().await;
        Some(ingress)
    }

    /// `127.0.0.1:port`.
    pub fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// `kill -9` of the whole of it, master and workers, and starts it again.
    ///
    /// # Panics
    /// If it does not start.
    pub async fn die_and_come_back(&mut self) {
        self.end();
        self.child = spawn(self.dir.path());
        self.wait().await;
    }

    async fn wait(&self) {
        let began = Instant::now();
        while Connection::open(&self.address(), "").await.is_err() {
            assert!(began.elapsed() < Duration::from_secs(30), "the ingress does not start:\n{}", self.log());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn log(&self) -> String {
        std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default()
    }

    /// Workers outlive a killed master, so they go first; it is stopped meanwhile, for it would start others.
    fn end(&mut self) {
        let master = self.child.id();
        if let Some(pid) = i32::try_from(master).ok().and_then(Pid::from_raw) {
            let _gone = kill_process(pid, Signal::STOP);
        }
        let children = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap_or_default();
        for worker in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
            let _gone = kill_process(worker, Signal::KILL);
        }
        let _gone = self.child.kill();
        let _status = self.child.wait();
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.end();
    }
}

fn spawn(dir: &Path) -> Child {
    let log = std::fs::OpenOptions::new().create(true).append(true).open(dir.join("log")).expect("a log file");
    let mut command = Command::new("nginx");
    command.arg("-c").arg(dir.join("nginx.conf")).arg("-p").arg(dir).args(["-e", "stderr", "-g", "daemon off;"]);
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().expect("nginx starts")
}

/// The files of `deploy/ingress`, with this site's addresses.
fn write_files(dir: &Path, port: u16, upstreams: &[(&str, &[Role])]) {
    let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/ingress");
    let read = |path: &Path| std::fs::read_to_string(path).expect("a file of the ingress");
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).expect("a file of the ingress");
    for entry in std::fs::read_dir(&from).expect("the folder of the ingress").flatten() {
        let path = entry.path();
        if path.extension().is_some_and(|extension| extension == "conf") {
            let text = LIMITS.iter().fold(read(&path), |text, [theirs, ours]| text.replace(theirs, ours));
            write(&entry.file_name().to_string_lossy(), &text);
        }
    }
    write("openapi.json", &read(&from.join("../../docs/openapi.json")));
    write("admin-networks.conf", &read(&from.join("site/admin-networks.conf")));
    write("upstreams.conf", &addressed(&read(&from.join("site/upstreams.conf")), upstreams));
    write("listen.conf", &format!("listen 127.0.0.1:{port};\n"));
    let user = if rustix::process::geteuid().is_root() { "user root;\n" } else { "" };
    write("process.conf", &format!("{user}pid {}/nginx.pid;\n", dir.display()));
    let temporary = dir.join("temp").display().to_string();
    write("temp.conf", &read(&from.join("site/temp.conf")).replace("/var/lib/modelfaucet-ingress", &temporary));
    std::fs::create_dir_all(dir.join("temp")).expect("a folder");
}

/// The site's upstreams with other servers, each told of as the first one of its upstream is.
fn addressed(site: &str, upstreams: &[(&str, &[Role])]) -> String {
    let (mut text, mut waiting): (String, &[Role]) = (String::new(), &[]);
    for line in site.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        if let ["upstream", name, ..] = words[..] {
            waiting = upstreams.iter().find(|(own, _)| *own == name).expect("roles for each upstream").1;
        }
        match words[..] {
            ["server", address, ..] => {
                for role in std::mem::take(&mut waiting) {
                    let ours = if address.ends_with(';') { role.address() + ";" } else { role.address() };
                    writeln!(text, "{}", line.replace(address, &ours)).expect("text grows");
                }
            }
            _ => writeln!(text, "{line}").expect("text grows"),
        }
    }
    text
}
