//! Where spans of calls belong, for those who trace.
//!
//! Spans are made with `tracing` under the one target [`TARGET`]; fields are named as OpenTelemetry's conventions name them. Where
//! the process traces nothing, nobody listens to that target, and a span costs one look at a cached answer. Prompts, answers and
//! keys are never in a span.

/// The target of all spans that go to a collector.
pub const TARGET: &str = "modelfaucet::trace";
