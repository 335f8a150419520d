//! Spans of calls, for those who trace.
//!
//! Spans are made with `tracing` under the one target [`TARGET`]; fields are named as OpenTelemetry's conventions for generative AI name
//! them. Where the process traces nothing, nobody listens to that target, and a span costs one look at a cached answer. Prompts, answers
//! and keys are never in a span.

use modelfaucet_schema::event::{Attempt, AttemptError, Endpoint};
use modelfaucet_schema::usage::Usage;
use tracing::Span;
use tracing::field::Empty;

use crate::plan::Target;
use crate::relay::Said;

/// The target of all spans that go to a collector.
pub const TARGET: &str = "modelfaucet::trace";
/// The field that the conventions want as a list. Fields of `tracing` have no lists: it is a JSON list in one text.
pub const FINISH_REASONS: &str = "gen_ai.response.finish_reasons";

/// The span of one call, from its hold to its end. A child of the request's span, which stays the current one, so that log lines carry
/// the request's fields.
pub(crate) struct CallSpan(Span);

impl CallSpan {
    /// No span: nothing has gone to a provider.
    pub(crate) fn none() -> Self {
        Self(Span::none())
    }

    /// A call begins.
    pub(crate) fn begin(endpoint: Endpoint) -> Self {
        Self(tracing::info_span!(
            target: TARGET, "call",
            otel.name = Empty, otel.kind = "client", otel.status_code = Empty, "error.type" = Empty,
            gen_ai.operation.name = operation(endpoint), gen_ai.provider.name = Empty,
            gen_ai.request.model = Empty, gen_ai.response.model = Empty, gen_ai.response.id = Empty,
            gen_ai.response.finish_reasons = Empty,
            gen_ai.usage.input_tokens = Empty, gen_ai.usage.output_tokens = Empty,
        ))
    }

    /// What the provider said in passing.
    pub(crate) fn said(&self, said: &Said) {
        if let Some(model) = &said.model {
            self.0.record("gen_ai.response.model", model);
        }
        if let Some(id) = &said.id {
            self.0.record("gen_ai.response.id", id);
        }
        if !said.finish_reasons.is_empty() {
            self.0.record(FINISH_REASONS, serde_json::json!(said.finish_reasons).to_string());
        }
    }

    /// Where the last attempt went, and whether it failed. Once per call: a field that is recorded twice is there twice.
    pub(crate) fn ends(&self, endpoint: Endpoint, target: &Target, attempt: Option<&Attempt>) {
        self.0.record("otel.name", format!("{} {}", operation(endpoint), target.model));
        self.0.record("gen_ai.provider.name", provider(target.provider.as_str()));
        self.0.record("gen_ai.request.model", &target.model);
        if let Some(error) = attempt.and_then(|attempt| attempt.error) {
            self.0.record("error.type", error.name());
            if error != AttemptError::ClientGone {
                self.0.record("otel.status_code", "ERROR");
            }
        }
    }

    /// What was charged for.
    pub(crate) fn charged(&self, usage: &Usage) {
        let count = |tokens: u64| i64::try_from(tokens).unwrap_or(i64::MAX);
        self.0.record("gen_ai.usage.input_tokens", count(usage.input_tokens()));
        self.0.record("gen_ai.usage.output_tokens", count(usage.output_tokens()));
    }
}

/// What is done, as the conventions call it.
fn operation(endpoint: Endpoint) -> &'static str {
    match endpoint {
        Endpoint::ChatCompletions | Endpoint::Responses => "chat",
        Endpoint::Embeddings => "embeddings",
    }
}

/// A provider, as the conventions call it. Others keep the name that they have on the rate card.
fn provider(name: &str) -> &str {
    match name {
        "azure" => "azure.ai.openai",
        "azure_ai" => "azure.ai.inference",
        "bedrock" | "bedrock_converse" => "aws.bedrock",
        "gemini" => "gcp.gemini",
        "mistral" => "mistral_ai",
        "vertex_ai" => "gcp.vertex_ai",
        "watsonx" => "ibm.watsonx.ai",
        "xai" => "x_ai",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn providers_have_the_names_of_the_conventions() {
        for (ours, theirs) in
            [("openai", "openai"), ("gemini", "gcp.gemini"), ("mistral", "mistral_ai"), ("own", "own")]
        {
            assert_eq!(provider(ours), theirs);
        }
    }
}
