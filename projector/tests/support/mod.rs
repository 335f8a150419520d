//! What the projector's tests and measurements share: a plausible log, and databases to throw away.
#![allow(
    dead_code,
    missing_docs,
    unreachable_pub,
    clippy::unwrap_used,
    clippy::wildcard_imports,
    reason = "each test uses its part"
)]

pub mod database;
pub mod log;
