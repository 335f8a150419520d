//! The OpenAI-compatible edge. Apps point their SDK here; every call is admitted, forwarded, streamed and charged: a hold is durable
//! before a request leaves, and the charge is durable before the last byte reaches the client.
//!
//! The gateway prepares from memory ([`read_model`]) and asks the command side for every cent ([`port`]). It touches no database.

mod answers;
mod bound;
mod breaker;
mod call;
mod client;
mod delivered;
pub mod error;
mod gateway;
pub mod guard;
pub mod http;
mod limit;
mod members;
pub mod options;
pub mod port;
pub mod read_model;
mod relay;
mod report;
mod request;
pub mod sandbox_provider;
mod series;
mod sse;
pub mod trace;
mod upstream;
mod usage;

pub use gateway::{Gateway, LeftHold};
pub use upstream::UpstreamError;
