//! A process of PostgreSQL that works for a rebuild stands back behind those that work for commands, where both run on this machine.

use std::fs;
use std::path::Path;

use modelfaucet_projector::rebuild::Backend;
use rustix::process::{Pid, setpriority_process};

/// The least that a process can ask for.
const LAST: i32 = 19;

/// Lowers the priority of a server's process if it is one of this machine and may be touched; else nothing happens.
pub(super) fn stand_back(backend: &Backend) {
    let folder = Path::new("/proc").join(backend.pid.to_string());
    let Ok(title) = fs::read(folder.join("cmdline")) else { return };
    let (Some(pid), true) = (Pid::from_raw(backend.pid), is_of(&String::from_utf8_lossy(&title), backend)) else {
        return;
    };
    let _unless_forbidden = setpriority_process(Some(pid), LAST);
    // Where the kernel shares processors between sessions first, each process of PostgreSQL is one: see sched(7), autogroup.
    let _unless_absent = fs::write(folder.join("autogroup"), LAST.to_string());
}

/// Is this the title of the process that we talk to? On another machine its number is anybody's.
/// `PostgreSQL` writes `postgres: [cluster:] user database host(port) activity`.
fn is_of(title: &str, backend: &Backend) -> bool {
    title.starts_with("postgres: ") && title.contains(&format!(" {} ", backend.title))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_process_that_we_talk_to_is_touched() {
        let near = Backend { pid: 4711, title: "ledger_projector modelfaucet [local]".to_owned() };
        let far = Backend { pid: 4711, title: "ledger_projector modelfaucet 127.0.0.1(40123)".to_owned() };
        let (ours, theirs) =
            ("postgres: modelfaucet: ledger_projector modelfaucet", "postgres: ledger_projector modelfaucet");
        assert!(
            is_of(&format!("{ours} [local] idle"), &near) && is_of(&format!("{theirs} 127.0.0.1(40123) COPY"), &far)
        );
        assert!(
            !is_of(&format!("{theirs} 127.0.0.1(40124) idle"), &far) && !is_of(&format!("{ours} [local] idle"), &far)
        );
        assert!(!is_of("nginx: ledger_projector modelfaucet [local] idle", &near));
    }
}
