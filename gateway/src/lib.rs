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
pub mod fault;
mod gateway;
pub mod guard;
pub mod http;
pub mod limit;
mod lost;
mod members;
mod memory;
pub mod options;
mod plan;
pub mod port;
pub mod read_model;
mod relay;
mod report;
mod request;
pub mod sandbox_provider;
mod series;
mod served;
mod sse;
pub mod trace;
mod upstream;
mod upstreams;
mod usage;

pub use answers::{KeptAnswers, Sealer};
pub use gateway::{Gateway, recover};
pub use lost::LeftHold;
pub use upstream::{UpstreamError, use_ring};
pub use upstreams::ProviderKeys;
