//! From a provider's usage object to disjoint counts. Pure. What cannot be is clamped into range and named; what is missing or
//! zero beside content is estimated and named.

use modelfaucet_schema::event::{Anomaly, ModelRates, Rates, ServiceTier, UsageSource};
use modelfaucet_schema::usage::{Component, Usage};
use serde_json::Value;

use crate::bound::table;
use crate::delivered::Delivered;

/// The largest count that any model can reach in one call. More is a fault of the provider.
const LARGEST: u64 = 10_000_000;

/// How a provider counts cached input. A fact of the provider, never guessed from the members that are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Convention {
    /// As OpenAI and LiteLLM: the input contains the cached tokens, the output contains reasoning.
    Inclusive,
    /// As Anthropic's own API: cached and uncached input stand side by side.
    #[cfg_attr(not(test), expect(dead_code, reason = "for routes to Anthropic's own API"))]
    Exclusive,
}

/// Counts and what was strange about them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reading {
    /// The counts.
    pub(crate) usage: Usage,
    /// In order, each once.
    pub(crate) anomalies: Vec<Anomaly>,
}

impl Reading {
    fn note(&mut self, anomaly: Anomaly) {
        if !self.anomalies.contains(&anomaly) {
            self.anomalies.push(anomaly);
        }
    }

    /// A count by one of its names, as large as counts can be; 0 if none is there.
    fn count(&mut self, object: &Value, names: &[&str]) -> u64 {
        let found = names.iter().find_map(|name| object.get(name).filter(|value| !value.is_null()));
        let Some(value) = found else { return 0 };
        let count = whole(value);
        if count.is_none_or(|count| count > LARGEST) {
            self.note(Anomaly::OutOfRange);
        }
        count.unwrap_or_default().min(LARGEST)
    }

    /// Takes a part out of its whole.
    fn part(&mut self, rest: &mut u64, part: u64) -> u64 {
        if part > *rest {
            self.note(Anomaly::PartAboveWhole);
        }
        let taken = part.min(*rest);
        *rest -= taken;
        taken
    }
}

/// A whole number that is not negative; `12.0` is one.
fn whole(value: &Value) -> Option<u64> {
    let text = value.as_number()?.to_string();
    match text.split_once('.') {
        None => text.parse().ok(),
        Some((whole, decimals)) => decimals.bytes().all(|digit| digit == b'0').then(|| whole.parse().ok())?,
    }
}

/// Reads a provider's usage object. `None` if it names no counts at all.
pub(crate) fn read(text: &str, convention: Convention) -> Option<Reading> {
    let object: Value = serde_json::from_str(text).ok()?;
    let names_counts = ["prompt_tokens", "input_tokens", "completion_tokens", "output_tokens"];
    if !names_counts.iter().any(|name| object.get(name).is_some_and(|value| !value.is_null())) {
        return None;
    }
    let mut reading = Reading::default();
    match convention {
        Convention::Inclusive => inclusive(&object, &mut reading),
        Convention::Exclusive => exclusive(&object, &mut reading),
    }
    Some(reading)
}

fn inclusive(object: &Value, reading: &mut Reading) {
    let none = Value::Null;
    let details = |names: [&str; 2]| names.iter().find_map(|name| object.get(name)).unwrap_or(&none);
    let input = reading.count(object, &["prompt_tokens", "input_tokens"]);
    let output = reading.count(object, &["completion_tokens", "output_tokens"]);
    let of_input = details(["prompt_tokens_details", "input_tokens_details"]);
    let of_output = details(["completion_tokens_details", "output_tokens_details"]);

    let mut rest = input;
    let cached = reading.count(of_input, &["cached_tokens"]).max(reading.count(object, &["cache_read_input_tokens"]));
    let written = reading
        .count(of_input, &["cache_creation_tokens"])
        .max(reading.count(object, &["cache_creation_input_tokens"]));
    let longer = of_input.get("cache_creation_token_details").unwrap_or(&none);
    let written_1h = reading.count(longer, &["ephemeral_1h_input_tokens"]).min(written);
    let (audio, image) = (reading.count(of_input, &["audio_tokens"]), reading.count(of_input, &["image_tokens"]));
    reading.usage.cache_read = reading.part(&mut rest, cached);
    reading.usage.cache_write_1h = reading.part(&mut rest, written_1h);
    reading.usage.cache_write_5m = reading.part(&mut rest, written - written_1h);
    reading.usage.input_audio = reading.part(&mut rest, audio);
    reading.usage.input_image = reading.part(&mut rest, image);
    reading.usage.input_uncached = rest;

    let mut rest = output;
    let reasoning = reading.count(of_output, &["reasoning_tokens"]);
    let (audio, image) = (reading.count(of_output, &["audio_tokens"]), reading.count(of_output, &["image_tokens"]));
    reading.usage.output_reasoning = reading.part(&mut rest, reasoning);
    reading.usage.output_audio = reading.part(&mut rest, audio);
    reading.usage.output_image = reading.part(&mut rest, image);
    reading.usage.output_text = rest;

    if object.get("total_tokens").is_some_and(|total| !total.is_null())
        && reading.count(object, &["total_tokens"]) != input.saturating_add(output).min(LARGEST)
    {
        reading.note(Anomaly::TotalDiffers);
    }
}

fn exclusive(object: &Value, reading: &mut Reading) {
    let none = Value::Null;
    reading.usage.input_uncached = reading.count(object, &["input_tokens"]);
    reading.usage.cache_read = reading.count(object, &["cache_read_input_tokens"]);
    let written = reading.count(object, &["cache_creation_input_tokens"]);
    let by_life = object.get("cache_creation").unwrap_or(&none);
    let longer = reading.count(by_life, &["ephemeral_1h_input_tokens"]).min(written);
    reading.usage.cache_write_1h = longer;
    reading.usage.cache_write_5m = written - longer;
    reading.usage.output_text = reading.count(object, &["output_tokens"]);
}

/// What a call is charged by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Judged {
    /// The counts.
    pub(crate) usage: Usage,
    /// Where they come from.
    pub(crate) source: UsageSource,
    /// What was strange.
    pub(crate) anomalies: Vec<Anomaly>,
}

/// How the answer ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// As the provider meant it to.
    Clean,
    /// It broke off.
    Interrupted,
}

/// Decides what a call is charged by: the provider's counts, unless there are none or they deny what was delivered. `input` is
/// the estimate of the input; `output_cap` bounds what is estimated of the output.
pub(crate) fn judge(reading: Option<Reading>, delivered: Delivered, input: u64, ending: Ending) -> Judged {
    let estimate = Usage::text(input, delivered.tokens());
    match reading {
        None => {
            let anomalies = if ending == Ending::Clean { vec![Anomaly::Missing] } else { Vec::new() };
            Judged { usage: estimate, source: UsageSource::Estimated, anomalies }
        }
        Some(mut reading) if reading.usage.output_tokens() == 0 && delivered.tokens() > 0 => {
            reading.note(Anomaly::ZeroBesideContent);
            if reading.usage.input_tokens() == 0 {
                reading.usage.input_uncached = estimate.input_uncached;
            }
            reading.usage.output_text = estimate.output_text;
            Judged { usage: reading.usage, source: UsageSource::Estimated, anomalies: reading.anomalies }
        }
        Some(reading) => Judged { usage: reading.usage, source: UsageSource::Provider, anomalies: reading.anomalies },
    }
}

const INPUT: [Component; 11] = [
    Component::InputUncached,
    Component::CacheRead,
    Component::CacheReadAudio,
    Component::CacheReadImage,
    Component::CacheWrite5m,
    Component::CacheWrite30m,
    Component::CacheWrite1h,
    Component::CacheWrite12h,
    Component::InputAudio,
    Component::InputImage,
    Component::InputVideo,
];
const OUTPUT: [Component; 5] = [
    Component::OutputText,
    Component::OutputReasoning,
    Component::OutputAudio,
    Component::OutputImage,
    Component::OutputVideo,
];

/// Moves counts that the offer has no price for to the dearest component of their side that has one, so that a capture cannot
/// be refused for a count that the hold did not foresee. What has no price on its whole side stays as it is. Adds the fixed fee
/// of a request, where there is one.
pub(crate) fn with_prices(judged: Judged, offer: &ModelRates, tier: ServiceTier) -> Judged {
    let mut judged = judged;
    let mut moved = false;
    let rates = table(offer, tier, judged.usage.input_tokens());
    for side in [INPUT.as_slice(), &OUTPUT] {
        let Some(dearest) = dearest(rates, side) else { continue };
        for component in side {
            let count = judged.usage.count(*component);
            if count > 0 && !rates.contains_key(component) {
                judged.usage.set(*component, 0);
                judged.usage.set(dearest, judged.usage.count(dearest).saturating_add(count));
                moved = true;
            }
        }
    }
    if moved {
        judged.anomalies.push(Anomaly::Unpriced);
    }
    if rates.contains_key(&Component::Requests) {
        judged.usage.requests = 1;
    }
    judged
}

/// The component with the highest rate of those that have one; of equals the first.
pub(crate) fn dearest(rates: &Rates, components: &[Component]) -> Option<Component> {
    let priced = components.iter().filter_map(|component| Some((*component, *rates.get(component)?)));
    priced.reduce(|best, next| if next.1 > best.1 { next } else { best }).map(|(component, _)| component)
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::rate::Rate;
    use proptest::prelude::*;

    fn inclusive(text: &str) -> Reading {
        read(text, Convention::Inclusive).unwrap()
    }

    #[test]
    fn parts_are_taken_out_of_their_whole_once() {
        let chat = r#"{"prompt_tokens":1203,"completion_tokens":212,"total_tokens":1415,"prompt_tokens_details":{"cached_tokens":1025},"completion_tokens_details":{"reasoning_tokens":12}}"#;
        let expected = Usage { cache_read: 1_025, output_reasoning: 12, ..Usage::text(178, 200) };
        assert_eq!(inclusive(chat), Reading { usage: expected, anomalies: vec![] });
        let responses = r#"{"input_tokens":1203,"output_tokens":212,"total_tokens":1415,"input_tokens_details":{"cached_tokens":1025},"output_tokens_details":{"reasoning_tokens":12}}"#;
        assert_eq!(inclusive(responses), inclusive(chat));
        // LiteLLM names Anthropic's counts twice.
        let litellm = r#"{"prompt_tokens":100,"completion_tokens":5,"total_tokens":105,"cache_read_input_tokens":60,"cache_creation_input_tokens":30,
            "prompt_tokens_details":{"cached_tokens":60,"cache_creation_tokens":30,"cache_creation_token_details":{"ephemeral_5m_input_tokens":10,"ephemeral_1h_input_tokens":20}}}"#;
        let expected = Usage { cache_read: 60, cache_write_5m: 10, cache_write_1h: 20, ..Usage::text(10, 5) };
        assert_eq!(inclusive(litellm), Reading { usage: expected, anomalies: vec![] });
        let embeddings = r#"{"prompt_tokens":8,"total_tokens":8}"#;
        assert_eq!(inclusive(embeddings).usage, Usage::text(8, 0));
    }

    #[test]
    fn anthropic_counts_stand_side_by_side() {
        let text = r#"{"input_tokens":57,"cache_read_input_tokens":400,"cache_creation_input_tokens":30,"cache_creation":{"ephemeral_1h_input_tokens":20},"output_tokens":3}"#;
        let expected = Usage { cache_read: 400, cache_write_5m: 10, cache_write_1h: 20, ..Usage::text(57, 3) };
        assert_eq!(read(text, Convention::Exclusive).unwrap().usage, expected);
    }

    #[test]
    fn what_cannot_be_is_clamped_and_named() {
        for (text, usage, anomaly) in [
            (r#"{"prompt_tokens":-1,"completion_tokens":2}"#, Usage::text(0, 2), Anomaly::OutOfRange),
            (r#"{"prompt_tokens":1.5,"completion_tokens":2}"#, Usage::text(0, 2), Anomaly::OutOfRange),
            (r#"{"prompt_tokens":"9","completion_tokens":2}"#, Usage::text(0, 2), Anomaly::OutOfRange),
            (r#"{"prompt_tokens":1e300,"completion_tokens":2}"#, Usage::text(0, 2), Anomaly::OutOfRange),
            (r#"{"prompt_tokens":99999999999,"completion_tokens":2}"#, Usage::text(LARGEST, 2), Anomaly::OutOfRange),
            (
                r#"{"prompt_tokens":5,"completion_tokens":2,"prompt_tokens_details":{"cached_tokens":9}}"#,
                Usage { cache_read: 5, ..Usage::text(0, 2) },
                Anomaly::PartAboveWhole,
            ),
            (r#"{"prompt_tokens":5,"completion_tokens":2,"total_tokens":8}"#, Usage::text(5, 2), Anomaly::TotalDiffers),
        ] {
            assert_eq!(inclusive(text), Reading { usage, anomalies: vec![anomaly] }, "{text}");
        }
        assert_eq!(inclusive(r#"{"prompt_tokens":5.0,"completion_tokens":null}"#).usage, Usage::text(5, 0));
        for text in ["null", "{}", "[]", "3", r#"{"total_tokens":3}"#, r#"{"prompt_tokens":null}"#] {
            assert_eq!(read(text, Convention::Inclusive), None, "{text}");
        }
    }

    #[test]
    fn zero_is_believed_only_where_nothing_was_delivered() {
        let zero = || read(r#"{"prompt_tokens":0,"completion_tokens":0}"#, Convention::Inclusive);
        let content = Delivered::of_characters(9);
        let believed = judge(zero(), Delivered::default(), 7, Ending::Clean);
        assert_eq!(believed, Judged { usage: Usage::default(), source: UsageSource::Provider, anomalies: vec![] });
        let denied = judge(zero(), content, 7, Ending::Clean);
        let anomalies = vec![Anomaly::ZeroBesideContent];
        assert_eq!(denied, Judged { usage: Usage::text(7, 3), source: UsageSource::Estimated, anomalies });
        let missing = judge(None, content, 7, Ending::Clean);
        let anomalies = vec![Anomaly::Missing];
        assert_eq!(missing, Judged { usage: Usage::text(7, 3), source: UsageSource::Estimated, anomalies });
        assert_eq!(judge(None, content, 7, Ending::Interrupted).anomalies, []);
    }

    #[test]
    fn what_has_no_price_is_priced_as_the_dearest_of_its_side() {
        let rate = |usd| Rate::per_million(usd).unwrap();
        let offer = ModelRates::flat(
            "openai".parse().unwrap(),
            "m",
            [(Component::InputUncached, rate("1")), (Component::OutputText, rate("2"))],
        );
        let usage = Usage { cache_read: 3, output_reasoning: 4, ..Usage::text(10, 20) };
        let judged = with_prices(
            Judged { usage, source: UsageSource::Provider, anomalies: vec![] },
            &offer,
            ServiceTier::Standard,
        );
        assert_eq!((judged.usage, judged.anomalies), (Usage::text(13, 24), vec![Anomaly::Unpriced]));
    }

    proptest! {
        #[test]
        fn the_parts_make_up_the_whole(input in 0..LARGEST, output in 0..LARGEST, cached in 0..LARGEST, written in 0..LARGEST, reasoning in 0..LARGEST) {
            let text = serde_json::json!({
                "prompt_tokens": input, "completion_tokens": output,
                "prompt_tokens_details": { "cached_tokens": cached, "cache_creation_tokens": written },
                "completion_tokens_details": { "reasoning_tokens": reasoning },
            });
            let usage = inclusive(&text.to_string()).usage;
            prop_assert_eq!((usage.input_tokens(), usage.output_tokens()), (input, output));
        }

        #[test]
        fn no_text_breaks_it(text in ".{0,64}", number in any::<i64>()) {
            let _any = read(&text, Convention::Inclusive);
            let text = format!(r#"{{"prompt_tokens":{number},"completion_tokens":{{}},"prompt_tokens_details":[{number}]}}"#);
            prop_assert!(inclusive(&text).usage.too_large().is_none());
        }
    }
}
