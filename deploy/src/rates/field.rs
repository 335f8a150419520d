//! What each field of `LiteLLM`'s price map means to a rate card. A price field is `base[_above_Nk_tokens][_tier]`. Whatever is not
//! listed here is not known, and what is not known is not guessed (docs/decisions/0008-prices-are-read-strictly.md).

use modelfaucet_schema::event::ServiceTier;
use modelfaucet_schema::usage::Component;

/// What a field tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Field {
    /// The price of a component, for inputs above a number of tokens (0: any) on a service tier.
    Price { component: Component, above: u64, tier: ServiceTier },
    /// USD per search of the web, by size of context.
    WebSearch,
    /// Another price table by length of input.
    Tiers,
    /// A price in a unit that usage does not count and that every request has: the model is refused.
    EveryRequest(&'static str),
    /// A price of this component in a unit that usage does not count: the component has no price, unless by token.
    OtherUnit(Component),
    /// A search of the web costs otherwise than per search: no price for it.
    OddSearch,
    /// A price of what no request through here can use, or uses only by asking for it.
    Elsewhere,
    /// Multipliers of regions and speeds, by name.
    Multipliers,
    /// The most input tokens.
    MaxInput,
    /// The most output tokens.
    MaxOutput,
    /// The kind of request.
    Mode,
    /// Who bills.
    Provider,
    /// Takes input of this kind.
    Takes(Component),
    /// Not about prices.
    Fact,
    /// Not known.
    Unknown,
}

/// Prices that can have context and service tiers. The shortest cache lifetime is for 5 and 30 minutes.
const BASES: [(&str, Component); 17] = [
    ("input_cost_per_token", Component::InputUncached),
    ("input_cost_per_token_cache_hit", Component::CacheRead),
    ("cache_read_input_token_cost", Component::CacheRead),
    ("cache_read_input_audio_token_cost", Component::CacheReadAudio),
    ("cache_read_input_image_token_cost", Component::CacheReadImage),
    ("cache_creation_input_token_cost", Component::CacheWrite5m),
    ("cache_creation_input_token_cost_above_1hr", Component::CacheWrite1h),
    ("cache_creation_input_token_cost_above_12hr", Component::CacheWrite12h),
    ("input_cost_per_audio_token", Component::InputAudio),
    ("input_cost_per_image_token", Component::InputImage),
    ("input_cost_per_video_token", Component::InputVideo),
    ("output_cost_per_token", Component::OutputText),
    ("output_cost_per_reasoning_token", Component::OutputReasoning),
    ("output_cost_per_audio_token", Component::OutputAudio),
    ("output_cost_per_image_token", Component::OutputImage),
    ("output_cost_per_video_token", Component::OutputVideo),
    ("input_cost_per_request", Component::Requests),
];

/// How the map names service tiers.
const TIERS: [(&str, ServiceTier); 6] = [
    ("", ServiceTier::Standard),
    ("_flex", ServiceTier::Flex),
    ("_balanced", ServiceTier::Balanced),
    ("_priority", ServiceTier::Priority),
    ("_ultrafast", ServiceTier::Ultrafast),
    ("_batches", ServiceTier::Batch),
];

/// Prices of an endpoint that is not offered here.
const OTHER_ENDPOINTS: [&str; 1] = ["_decisions"];

/// Everything else that is known, by its whole name.
const KNOWN: &[(&str, Field)] = &[
    ("litellm_provider", Field::Provider),
    ("mode", Field::Mode),
    ("max_input_tokens", Field::MaxInput),
    ("max_output_tokens", Field::MaxOutput),
    ("tiered_pricing", Field::Tiers),
    ("search_context_cost_per_query", Field::WebSearch),
    // Searches that are free up to a number shared by models, or are counted per prompt.
    ("search_free_requests", Field::OddSearch),
    ("web_search_billing_unit", Field::OddSearch),
    ("off_peak_pricing", Field::EveryRequest("the price depends on the hour")),
    ("citation_cost_per_token", Field::EveryRequest("citations are not counted")),
    ("cost_per_second", Field::EveryRequest("priced by the second")),
    ("input_cost_per_second", Field::EveryRequest("priced by the second")),
    ("output_cost_per_second", Field::EveryRequest("priced by the second")),
    ("output_cost_per_second_480p", Field::EveryRequest("priced by the second")),
    ("output_cost_per_second_720p", Field::EveryRequest("priced by the second")),
    ("output_cost_per_second_768p", Field::EveryRequest("priced by the second")),
    ("output_cost_per_second_1080p", Field::EveryRequest("priced by the second")),
    ("output_cost_per_second_2k", Field::EveryRequest("priced by the second")),
    ("output_cost_per_second_4k", Field::EveryRequest("priced by the second")),
    ("input_cost_per_character", Field::EveryRequest("priced by the character")),
    ("input_cost_per_character_above_128k_tokens", Field::EveryRequest("priced by the character")),
    ("output_cost_per_character", Field::EveryRequest("priced by the character")),
    ("output_cost_per_character_above_128k_tokens", Field::EveryRequest("priced by the character")),
    ("input_cost_per_pixel", Field::EveryRequest("priced by the pixel")),
    ("output_cost_per_pixel", Field::EveryRequest("priced by the pixel")),
    ("input_cost_per_query", Field::EveryRequest("priced by the query")),
    ("input_cost_per_text_message", Field::EveryRequest("priced by the message")),
    ("ocr_cost_per_page", Field::EveryRequest("priced by the page")),
    ("ocr_cost_per_page_batches", Field::EveryRequest("priced by the page")),
    ("annotation_cost_per_page", Field::EveryRequest("priced by the page")),
    ("annotation_cost_per_page_batches", Field::EveryRequest("priced by the page")),
    ("ocr_cost_per_credit", Field::EveryRequest("priced by credits")),
    ("guardrail_cost_per_unit", Field::EveryRequest("priced by units of its own")),
    ("input_cost_per_image", Field::OtherUnit(Component::InputImage)),
    ("input_cost_per_image_above_128k_tokens", Field::OtherUnit(Component::InputImage)),
    ("input_cost_per_audio_per_second", Field::OtherUnit(Component::InputAudio)),
    ("input_cost_per_audio_per_second_above_128k_tokens", Field::OtherUnit(Component::InputAudio)),
    ("input_cost_per_video_per_second", Field::OtherUnit(Component::InputVideo)),
    ("input_cost_per_video_per_second_above_128k_tokens", Field::OtherUnit(Component::InputVideo)),
    ("input_cost_per_video_per_second_above_8s_interval", Field::OtherUnit(Component::InputVideo)),
    ("input_cost_per_video_per_second_above_15s_interval", Field::OtherUnit(Component::InputVideo)),
    ("output_cost_per_image", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_image_0.5K", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_image_1K", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_image_2K", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_image_4K", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_image_512", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_image_1024", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_image_1536", Field::OtherUnit(Component::OutputImage)),
    ("output_cost_per_video_per_second", Field::OtherUnit(Component::OutputVideo)),
    // Usage has no count of audio that was written to a cache.
    ("cache_creation_input_audio_token_cost", Field::Elsewhere),
    // A second kind of cache, at half the price of the one that is counted.
    ("explicit_cache_read_input_token_cost", Field::Elsewhere),
    // The same price in a provider's own currency.
    ("input_dbu_cost_per_token", Field::Elsewhere),
    ("output_dbu_cost_per_token", Field::Elsewhere),
    // Tools that a request has to ask for.
    ("google_maps_grounding_cost_per_query", Field::Elsewhere),
    ("code_interpreter_cost_per_session", Field::Elsewhere),
    ("file_search_cost_per_1k_calls", Field::Elsewhere),
    ("file_search_cost_per_gb_per_day", Field::Elsewhere),
    ("vector_store_cost_per_gb_per_day", Field::Elsewhere),
    ("computer_use_input_cost_per_1k_tokens", Field::Elsewhere),
    ("computer_use_output_cost_per_1k_tokens", Field::Elsewhere),
    // Hosts and regions that an operator has to choose.
    ("regional_processing_uplift_multiplier_eu", Field::Elsewhere),
    ("regional_processing_uplift_multiplier_us", Field::Elsewhere),
    ("regional_endpoint_uplift_multiplier", Field::Elsewhere),
    ("provider_specific_entry", Field::Multipliers),
    ("supports_audio_input", Field::Takes(Component::InputAudio)),
    ("supports_vision", Field::Takes(Component::InputImage)),
    ("supports_image_input", Field::Takes(Component::InputImage)),
    ("supports_video_input", Field::Takes(Component::InputVideo)),
    ("max_tokens", Field::Fact),
    ("metadata", Field::Fact),
    ("output_vector_size", Field::Fact),
    ("prompt_cache_min_tokens", Field::Fact),
    ("rpm", Field::Fact),
    ("token_count_framing", Field::Fact),
    ("token_count_model", Field::Fact),
    ("tpm", Field::Fact),
];

/// Multipliers of `provider_specific_entry`: where and how fast, as a request has to ask for it.
pub(super) const MULTIPLIERS: [&str; 3] = ["eu", "fast", "us"];

/// The sizes of `search_context_cost_per_query`.
pub(super) const SEARCHES: [(&str, Component); 3] = [
    ("search_context_size_low", Component::WebSearchLow),
    ("search_context_size_medium", Component::WebSearchMedium),
    ("search_context_size_high", Component::WebSearchHigh),
];

impl Field {
    /// The field of this name.
    pub(super) fn of(name: &str) -> Self {
        if let Some((_, field)) = KNOWN.iter().find(|(known, _)| *known == name) {
            return *field;
        }
        if OTHER_ENDPOINTS.iter().filter_map(|end| name.strip_suffix(end)).any(|rest| price(rest).is_some()) {
            return Self::Elsewhere;
        }
        price(name).unwrap_or(Self::Unknown)
    }
}

fn price(name: &str) -> Option<Field> {
    BASES.iter().find_map(|(base, component)| {
        let (above, tier) = ending(name.strip_prefix(base)?)?;
        Some(Field::Price { component: *component, above, tier })
    })
}

/// Reads `[_above_200k_tokens][_priority]`.
fn ending(text: &str) -> Option<(u64, ServiceTier)> {
    let (above, rest) = match text.strip_prefix("_above_") {
        None => (0, text),
        Some(text) => {
            let (count, rest) = text.split_once("_tokens")?;
            let (digits, times) = count.strip_suffix('k').map_or((count, 1), |digits| (digits, 1_000));
            let plain = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
            (digits.parse::<u64>().ok().filter(|above| plain && *above > 0)?.checked_mul(times)?, rest)
        }
    };
    TIERS.iter().find(|(name, _)| *name == rest).map(|(_, tier)| (above, *tier))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn price(component: Component, above: u64, tier: ServiceTier) -> Field {
        Field::Price { component, above, tier }
    }

    #[test]
    fn a_price_field_is_base_context_and_tier() {
        for (name, field) in [
            ("input_cost_per_token", price(Component::InputUncached, 0, ServiceTier::Standard)),
            (
                "input_cost_per_token_above_272k_tokens_flex",
                price(Component::InputUncached, 272_000, ServiceTier::Flex),
            ),
            ("output_cost_per_token_batches", price(Component::OutputText, 0, ServiceTier::Batch)),
            ("input_cost_per_token_cache_hit", price(Component::CacheRead, 0, ServiceTier::Standard)),
            ("cache_creation_input_token_cost", price(Component::CacheWrite5m, 0, ServiceTier::Standard)),
            ("cache_creation_input_token_cost_above_1hr", price(Component::CacheWrite1h, 0, ServiceTier::Standard)),
            (
                "cache_creation_input_token_cost_above_1hr_above_200k_tokens",
                price(Component::CacheWrite1h, 200_000, ServiceTier::Standard),
            ),
            (
                "cache_creation_input_token_cost_above_12hr_above_272k_tokens_ultrafast",
                price(Component::CacheWrite12h, 272_000, ServiceTier::Ultrafast),
            ),
            ("cache_read_input_token_cost_above_512_tokens", price(Component::CacheRead, 512, ServiceTier::Standard)),
            ("input_cost_per_token_decisions", Field::Elsewhere),
            ("output_cost_per_token_above_272k_tokens_decisions", Field::Elsewhere),
        ] {
            assert_eq!(Field::of(name), field, "{name}");
        }
        for name in [
            "input_cost_per_token_hyperfast",
            "input_cost_per_token_above_200k_tokens_hyperfast",
            "input_cost_per_token_above_tokens",
            "input_cost_per_token_above_0k_tokens",
            "input_cost_per_token_above_+5k_tokens",
            "input_cost_per_token_priority_above_200k_tokens",
            "cache_creation_input_token_cost_above_48hr",
            "input_cost_per_hologram",
            "",
        ] {
            assert_eq!(Field::of(name), Field::Unknown, "{name}");
        }
    }

    #[test]
    fn no_name_is_known_twice() {
        let names = KNOWN.iter().map(|(name, _)| *name).chain(BASES.iter().map(|(name, _)| *name));
        let mut seen = std::collections::BTreeSet::new();
        for name in names {
            assert!(seen.insert(name), "{name}");
        }
    }
}
