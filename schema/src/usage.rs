//! What a call used: disjoint counts, one per thing that can have a price.

use serde::{Deserialize, Serialize};

/// The largest count of one component in one usage.
pub const MAX_COUNT: u64 = 1_000_000_000;

macro_rules! components {
    ($($(#[$doc:meta])* $variant:ident = $field:ident $name:literal),+ $(,)?) => {
        /// One thing that can be counted and priced.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        pub enum Component {
            $($(#[$doc])* #[serde(rename = $name)] $variant,)+
        }

        impl Component {
            /// Every component, in the order of the usage vector.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// The name on the wire.
            pub const fn name(self) -> &'static str {
                match self { $(Self::$variant => $name,)+ }
            }
        }

        /// A usage vector. The counts are disjoint: a cached token is in `cache_read` and not in `input_uncached`.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize, utoipa::ToSchema)]
        #[serde(deny_unknown_fields)]
        pub struct Usage {
            $($(#[$doc])* #[serde(default, skip_serializing_if = "is_zero")] pub $field: u64,)+
        }

        impl Usage {
            /// The count of one component.
            pub const fn count(&self, component: Component) -> u64 {
                match component { $(Component::$variant => self.$field,)+ }
            }

            /// Sets the count of one component.
            pub const fn set(&mut self, component: Component, count: u64) {
                match component { $(Component::$variant => self.$field = count,)+ }
            }
        }
    };
}

components! {
    /// Input tokens that were neither read from nor written to a cache.
    InputUncached = input_uncached "input_uncached",
    /// Input tokens read from the provider's cache: text, or of a kind that the provider does not tell.
    CacheRead = cache_read "cache_read",
    /// Audio input tokens read from the provider's cache.
    CacheReadAudio = cache_read_audio "cache_read_audio",
    /// Image input tokens read from the provider's cache.
    CacheReadImage = cache_read_image "cache_read_image",
    /// Input tokens written to a cache that lasts 5 minutes.
    CacheWrite5m = cache_write_5m "cache_write_5m",
    /// Input tokens written to a cache that lasts 30 minutes.
    CacheWrite30m = cache_write_30m "cache_write_30m",
    /// Input tokens written to a cache that lasts an hour.
    CacheWrite1h = cache_write_1h "cache_write_1h",
    /// Input tokens written to a cache that lasts 12 hours.
    CacheWrite12h = cache_write_12h "cache_write_12h",
    /// Audio input tokens.
    InputAudio = input_audio "input_audio",
    /// Image input tokens.
    InputImage = input_image "input_image",
    /// Video input tokens.
    InputVideo = input_video "input_video",
    /// Text output tokens.
    OutputText = output_text "output_text",
    /// Reasoning tokens.
    OutputReasoning = output_reasoning "output_reasoning",
    /// Audio output tokens.
    OutputAudio = output_audio "output_audio",
    /// Image output tokens.
    OutputImage = output_image "output_image",
    /// Video output tokens.
    OutputVideo = output_video "output_video",
    /// Searches of the web with little context.
    WebSearchLow = web_search_low "web_search_low",
    /// Searches of the web with a middling context: what providers do unless told.
    WebSearchMedium = web_search_medium "web_search_medium",
    /// Searches of the web with much context.
    WebSearchHigh = web_search_high "web_search_high",
    /// Calls that cost a fixed fee each.
    Requests = requests "requests",
}

impl Component {
    /// Is it a token of the input?
    pub const fn is_input(self) -> bool {
        matches!(
            self,
            Self::InputUncached
                | Self::CacheRead
                | Self::CacheReadAudio
                | Self::CacheReadImage
                | Self::CacheWrite5m
                | Self::CacheWrite30m
                | Self::CacheWrite1h
                | Self::CacheWrite12h
                | Self::InputAudio
                | Self::InputImage
                | Self::InputVideo
        )
    }

    /// Is it a token of the output?
    pub const fn is_output(self) -> bool {
        matches!(
            self,
            Self::OutputText | Self::OutputReasoning | Self::OutputAudio | Self::OutputImage | Self::OutputVideo
        )
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature is serde's")]
fn is_zero(count: &u64) -> bool {
    *count == 0
}

impl Usage {
    /// Input and output tokens of a plain text call.
    pub fn text(input: u64, output: u64) -> Self {
        Self { input_uncached: input, output_text: output, ..Self::default() }
    }

    /// The components that were used, with their counts.
    pub fn counts(&self) -> impl Iterator<Item = (Component, u64)> + '_ {
        Component::ALL.iter().map(|component| (*component, self.count(*component))).filter(|(_, count)| *count > 0)
    }

    /// All input tokens, cached or not: what context tiers go by.
    pub fn input_tokens(&self) -> u64 {
        self.sum(Component::is_input)
    }

    /// All output tokens, reasoning included.
    pub fn output_tokens(&self) -> u64 {
        self.sum(Component::is_output)
    }

    fn sum(&self, of: impl Fn(Component) -> bool) -> u64 {
        self.counts().filter(|(component, _)| of(*component)).fold(0, |sum, (_, count)| sum.saturating_add(count))
    }

    /// The first component whose count is above [`MAX_COUNT`].
    pub fn too_large(&self) -> Option<Component> {
        Component::ALL.iter().copied().find(|component| self.count(*component) > MAX_COUNT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_counts_are_left_out_and_unknown_ones_refused() {
        let usage = Usage { cache_read: 7, ..Usage::text(3, 4) };
        assert_eq!(serde_json::to_string(&usage).unwrap(), r#"{"input_uncached":3,"cache_read":7,"output_text":4}"#);
        assert_eq!((usage.input_tokens(), usage.output_tokens()), (10, 4));
        for text in [r#"{"tokens":1}"#, r#"{"output_text":-1}"#, r#"{"output_text":1.5}"#, r#"{"output_text":"1"}"#] {
            assert!(serde_json::from_str::<Usage>(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_component_is_a_field_of_its_name() {
        for component in Component::ALL {
            let mut usage = Usage::default();
            usage.set(*component, 9);
            assert_eq!(serde_json::to_string(&usage).unwrap(), format!("{{\"{}\":9}}", component.name()));
            assert_eq!(serde_json::to_string(component).unwrap(), format!("\"{}\"", component.name()));
            assert_eq!(usage.counts().collect::<Vec<_>>(), [(*component, 9)]);
            let tokens = (usage.input_tokens(), usage.output_tokens());
            let expected = match component.name() {
                name if name.starts_with("output") => (0, 9),
                name if name.starts_with("input") || name.starts_with("cache") => (9, 0),
                _ => (0, 0),
            };
            assert_eq!(tokens, expected, "{component:?}");
        }
    }
}
