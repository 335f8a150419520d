//! What every role of the ledger agrees on.
//!
//! The pure part (ids, money, accounts, entries, events, hashes) does no I/O. [`log`] is the log itself: migrations, append and
//! read. [`http`] is the edge that command and query share. Nothing here decides.

pub mod account;
pub mod entry;
pub mod error;
pub mod event;
pub mod hash;
pub mod http;
pub mod ids;
pub mod log;
pub mod money;
pub mod rate;
pub mod staff;
mod text;
pub mod time;
pub mod token;
pub mod usage;
