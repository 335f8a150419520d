//! The OpenAI-compatible edge. Apps point their SDK here; every call is admitted, forwarded, streamed and charged: a hold is durable
//! before a request leaves, and the charge is durable before the last byte reaches the client.
//!
//! The gateway prepares from memory ([`read_model`]) and asks the command side for every cent ([`port`]). It touches no database.

pub mod bound;
pub mod delivered;
pub mod error;
pub mod members;
pub mod port;
pub mod read_model;
pub mod request;
pub mod sse;
pub mod usage;
