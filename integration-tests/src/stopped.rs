//! A PostgreSQL that stands still: stopped where it is, with all its processes, and going on when the test says so.

use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};

use crate::traffic::PATIENCE;

/// A server and all its processes, stopped. They go on when it is dropped.
#[derive(Debug)]
pub struct Stopped(Vec<Pid>);

impl Stopped {
    /// Stops the server of this postmaster; a server of ours.
    ///
    /// # Panics
    /// If it does not stop.
    pub fn server(postmaster: Pid) -> Self {
        // First the parent, so that there are no new children.
        kill_process(postmaster, Signal::STOP).expect("a server of ours");
        let all = Self(processes(postmaster));
        all.send(Signal::STOP);
        for pid in &all.0 {
            // A process in the middle of a write stops when that has ended.
            let began = Instant::now();
            while !stands_still(*pid) {
                assert!(began.elapsed() < PATIENCE, "the server does not stop: {:?}", stat(*pid));
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        all
    }

    /// Does all of it still stand still?
    pub fn is_so(&self) -> bool {
        self.0.iter().all(|pid| stands_still(*pid))
    }

    fn send(&self, signal: Signal) {
        for pid in &self.0 {
            // Some end by themselves.
            let _gone = kill_process(*pid, signal);
        }
    }
}

impl Drop for Stopped {
    fn drop(&mut self) {
        self.send(Signal::CONT);
    }
}

/// The server and all its processes.
fn processes(postmaster: Pid) -> Vec<Pid> {
    let children = format!("/proc/{0}/task/{0}/children", postmaster.as_raw_pid());
    let children = std::fs::read_to_string(children).expect("a server of ours");
    let children = children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?));
    std::iter::once(postmaster).chain(children).collect()
}

/// What the kernel says of a process; `None`: it is gone.
fn stat(pid: Pid) -> Option<String> {
    std::fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_pid())).ok()
}

/// Whether a process writes no more: it is stopped, gone, or has ended and waits for a parent that is stopped itself.
fn stands_still(pid: Pid) -> bool {
    let state = |stat: &str| stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next());
    stat(pid).is_none_or(|stat| matches!(state(&stat), Some('T' | 'Z' | 'X')))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_child_that_ended_below_a_stopped_parent_stands_still() {
        let mut child = std::process::Command::new("true").spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap()).unwrap();
        let began = Instant::now();
        // Nobody has waited for it: the kernel keeps it.
        while !stands_still(pid) {
            assert!(began.elapsed() < PATIENCE, "{:?}", stat(pid));
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(stat(pid).is_some_and(|stat| stat.contains(") Z ")));
        assert!(!stands_still(rustix::process::getpid()), "a process that runs");
        child.wait().unwrap();
        assert!(stands_still(pid), "gone");
    }
}
