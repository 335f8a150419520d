//! The write side: commands in, events out.
//!
//! [`domain`] holds all rules and does no I/O; [`writer`] keeps it in step with the log; [`http`] is the API in front of it; [`directory`] is what the edge knows of
//! tokens and apps; [`vault`] is where provider keys go; [`snapshot`] makes cold starts short; [`stripe`] and [`payout`] speak to
//! those who move real money.

pub mod directory;
pub mod domain;
pub mod http;
pub mod payout;
pub mod snapshot;
pub mod stripe;
pub mod vault;
pub mod writer;
