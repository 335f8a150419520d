//! The rules of the ledger: pure, without I/O, clock or randomness. Time, ids and hashes arrive inside the commands.
//!
//! [`decide`] turns a command into events or a [`Rejection`]; [`State::evolve`] takes an event in and cannot fail. Everything the
//! shell does is to keep the two in step with the log.

mod adjustment;
mod budget;
mod call;
mod catalogue;
mod command;
pub mod credential;
mod decide;
mod dispute;
mod evolve;
mod freeze;
mod hold;
mod incident;
mod payout;
mod promo;
pub mod rating;
mod refund;
mod rejection;
mod repair;
mod session;
mod staff;
mod state;
mod table;
mod top_up;
mod transaction;
mod usage;
mod write_off;

#[cfg(test)]
mod tests;

pub use budget::{BudgetOf, Spend};
pub use command::*;
pub use decide::decide;
pub use rejection::Rejection;
pub use state::*;
pub use table::Table;
