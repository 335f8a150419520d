//! What whole answers, and events of unusual size, take in memory, all calls together. At the limit no new call begins; those that run go
//! on, since they are paid for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

/// Smaller pieces than this are not worth counting.
const SMALL: usize = 64 << 10;

/// The bytes of a process. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Memory(Arc<Counted>);

#[derive(Debug)]
struct Counted {
    bytes: AtomicUsize,
    limit: usize,
}

/// Bytes that something takes, until it is dropped.
#[derive(Debug)]
pub(crate) struct Taken {
    memory: Memory,
    bytes: usize,
}

impl Memory {
    pub(crate) fn new(limit: usize) -> Self {
        Self(Arc::new(Counted { bytes: AtomicUsize::new(0), limit }))
    }

    /// Is the limit reached?
    pub(crate) fn is_full(&self) -> bool {
        self.0.bytes.load(Ordering::Relaxed) >= self.0.limit
    }

    /// Nothing so far.
    pub(crate) fn take(&self) -> Taken {
        Taken { memory: self.clone(), bytes: 0 }
    }
}

impl Taken {
    /// It takes so much now.
    pub(crate) fn set(&mut self, bytes: usize) {
        let bytes = if bytes < SMALL { 0 } else { bytes };
        let counted = &self.memory.0.bytes;
        if bytes > self.bytes {
            counted.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            counted.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        self.set(0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_dropped_makes_room() {
        let memory = Memory::new(300 << 10);
        let (mut one, mut two) = (memory.take(), memory.take());
        one.set(200 << 10);
        two.set(SMALL - 1);
        assert!(!memory.is_full());
        two.set(100 << 10);
        assert!(memory.is_full());
        two.set(0);
        assert!(!memory.is_full());
        two.set(100 << 10);
        drop(one);
        assert!(!memory.is_full());
        drop(two);
        assert_eq!(memory.0.bytes.load(Ordering::Relaxed), 0);
    }
}
