//! The read side, answering: wallets, statements, usage, the books, reports and exports, over HTTP.
//!
//! Reads projections only, as the database role `ledger_query`, and changes nothing. Every answer says in `ledger-position` how
//! far along the log it is; a reader may ask for a position (`min_position`) and wait for it. A handler extracts, calls one verb
//! and answers; the noun's file has the SQL's name, the row and its JSON form. `projector` has the same nouns, writing.

#![cfg_attr(test, allow(clippy::unwrap_used, reason = "a test that cannot go on fails"))]

mod amount;
mod answer;
mod audit;
mod audit_log;
mod auth;
mod catalogue;
mod columns;
mod error;
mod export;
mod figures;
mod freezes;
mod journal;
mod operations;
mod params;
mod payments;
mod payouts;
mod pooled;
mod progress;
mod projections;
mod provider_keys;
mod reconciliation;
mod reports;
mod routes;
mod sessions;
mod sheet;
mod snapshot;
mod sql;
mod staff;
mod state;
mod tenant;
mod top_ups;
mod usage;
mod wallets;

pub use error::QueryError;
pub use figures::show_figures;
pub use projections::{Check, Checks, Lag, Readiness, readiness};
pub use routes::{openapi, probe_router, router};
pub use sql::STATEMENTS;
pub use state::{QueryOptions, QueryState};
