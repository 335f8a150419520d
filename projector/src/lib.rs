//! The read side, writing: folds the log into read tables, exactly once.
//!
//! [`fold`] decides without I/O what a span of the log does to the tables; [`runtime`] reads spans, and commits what comes out
//! together with the checkpoints in one transaction of `PostgreSQL`; [`memory`] is the same store in memory. Each projection has
//! a file of its own. No projection talks to the outside world, so a replay sends nothing. What does, the [`relay`] to the broker, is a
//! reactor with a mark of its own; [`subscription`] takes in what the broker brings.

pub mod act;
pub mod attempts;
pub mod audit_log;
pub mod binary;
pub mod broker;
pub mod catalogue;
pub mod changes;
pub mod compare;
pub mod credentials;
mod feed;
pub mod fold;
pub mod freezes;
pub mod journal;
pub mod letters;
pub mod memory;
pub mod payments;
pub mod payouts;
pub mod projection;
pub mod rebuild;
pub mod reconciliation;
pub mod registry;
pub mod relay;
pub mod runtime;
mod series;
pub mod sessions;
pub mod setup;
pub mod sql;
pub mod staff;
pub mod store;
pub mod subscription;
pub mod table;
pub mod tenant;
pub mod top_ups;
pub mod trace;
pub mod usage;
pub mod wallets;

pub use runtime::{Progress, Projector, ProjectorError};
pub use series::describe as describe_metrics;
pub use setup::setup;
