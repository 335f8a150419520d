//! The write side: commands in, events out.
//!
//! [`domain`] holds all rules and does no I/O; [`writer`] keeps it in step with the log; [`http`] is the API in front of it; [`directory`] is what the edge knows of
//! tokens and apps; [`vault`] is where provider keys go; [`snapshot`] makes cold starts short.

pub mod directory;
pub mod domain;
pub mod http;
pub mod snapshot;
pub mod vault;
pub mod writer;
