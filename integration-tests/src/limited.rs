//! Little memory for one process: a control group of our own, where this machine lets us make one.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustix::process::Pid;

use crate::process::skip;

/// A control group. It is taken away when it is dropped, after its processes have ended.
#[derive(Debug)]
pub struct Limited {
    group: PathBuf,
    /// Where the kernel counts the processes that it has killed for it.
    deaths: &'static str,
}

impl Limited {
    /// A group whose processes may take so many bytes more together; `None`, with the reason printed, where it cannot be made.
    ///
    /// # Panics
    /// If `MODELFAUCET_REQUIRE` names root.
    pub fn to(bytes: u64, name: &str) -> Option<Self> {
        let name = format!("modelfaucet-{name}-{}", std::process::id());
        // The first version of control groups, else the second.
        let made = Self::make(
            Path::new("/sys/fs/cgroup/memory").join(&name),
            "memory.limit_in_bytes",
            "memory.oom_control",
            bytes,
        )
        .or_else(|_| Self::make(Path::new("/sys/fs/cgroup").join(&name), "memory.max", "memory.events", bytes));
        match made {
            Ok(group) => Some(group),
            Err(error) => {
                skip("root", &format!("no control group can be made: {error}"));
                None
            }
        }
    }

    fn make(group: PathBuf, limit: &str, deaths: &'static str, bytes: u64) -> io::Result<Self> {
        fs::create_dir(&group)?;
        let made = Self { group, deaths };
        // Only where there is such a file: a plain directory is no control group.
        let path = made.group.join(limit);
        path.metadata()?;
        fs::write(path, bytes.to_string())?;
        Ok(made)
    }

    /// From now on what this process takes is counted here.
    ///
    /// # Errors
    /// The system's.
    pub fn take(&self, pid: Pid) -> io::Result<()> {
        fs::write(self.group.join("cgroup.procs"), pid.as_raw_pid().to_string())
    }

    /// How many processes the kernel has killed because of the limit.
    pub fn killed(&self) -> u64 {
        let text = fs::read_to_string(self.group.join(self.deaths)).unwrap_or_default();
        let count = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        count.and_then(|count| count.trim().parse().ok()).unwrap_or(0)
    }
}

impl Drop for Limited {
    fn drop(&mut self) {
        let _not_empty = fs::remove_dir(&self.group);
    }
}
