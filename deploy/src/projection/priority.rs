//! A process of PostgreSQL that works for a rebuild stands back behind those that work for commands, where both run on this machine.

use std::fs;
use std::path::Path;

use modelfaucet_projector::rebuild::Backend;
use rustix::process::{Pid, setpriority_process};

/// The least that a process can ask for.
const LAST: i32 = 19;

/// Lowers the priority of a server's process if it is one of this machine and may be touched; else nothing happens.
pub(super) fn stand_back(backend: Backend) {
    let folder = Path::new("/proc").join(backend.pid.to_string());
    let Ok(title) = fs::read(folder.join("cmdline")) else { return };
    let (Some(pid), true) = (Pid::from_raw(backend.pid), is_ours(&String::from_utf8_lossy(&title), backend)) else {
        return;
    };
    let _unless_forbidden = setpriority_process(Some(pid), LAST);
    // Where the kernel shares processors between sessions first, each process of PostgreSQL is one: see sched(7), autogroup.
    let _unless_absent = fs::write(folder.join("autogroup"), LAST.to_string());
}

/// Is this the title of the process that we talk to? On another machine its number is anybody's.
/// PostgreSQL writes `postgres: user database host(port) activity`.
fn is_ours(title: &str, backend: Backend) -> bool {
    let port = backend.client_port.map(|port| format!("({port})"));
    title.starts_with("postgres: ") && port.is_some_and(|port| title.contains(&port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_we_talk_to_is_touched() {
        let backend = Backend { pid: 4711, client_port: Some(40_123) };
        assert!(is_ours("postgres: ledger_projector modelfaucet 127.0.0.1(40123) idle", backend));
        assert!(!is_ours("postgres: ledger_projector modelfaucet 127.0.0.1(40124) idle", backend));
        assert!(!is_ours("nginx: worker (40123)", backend));
        assert!(!is_ours(
            "postgres: ledger_projector modelfaucet [local] idle",
            Backend { client_port: None, ..backend }
        ));
    }
}
