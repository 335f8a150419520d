//! The OpenAI-compatible edge. Apps point their SDK here; every call is admitted, forwarded, streamed and charged.

pub mod guard;
