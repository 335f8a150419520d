//! Where spans of calls belong, for those who trace.
//!
//! Spans are made with `tracing` under the one target [`TARGET`]; fields are named as OpenTelemetry's conventions name them. Where
//! the process traces nothing, nobody listens to that target, and a span costs one look at a cached answer. Prompts, answers and
//! keys are never in a span.
//!
//! The request's span is the current one wherever a call runs, so a span of an attempt needs no parent named:
//!
//! ```
//! # use modelfaucet_gateway::trace::TARGET;
//! let span = tracing::info_span!(
//!     target: TARGET, "attempt",
//!     otel.name = "chat gpt-4o-mini", otel.kind = "client",
//!     gen_ai.operation.name = "chat", gen_ai.request.model = "gpt-4o-mini", gen_ai.usage.input_tokens = tracing::field::Empty,
//! );
//! span.record("gen_ai.usage.input_tokens", 178);
//! ```

/// The target of all spans that go to a collector.
pub const TARGET: &str = "modelfaucet::trace";
