//! What the tests and benchmarks of the whole share: processes, a raw HTTP client.

pub mod connection;
pub mod process;
