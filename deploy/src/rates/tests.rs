//! What the fields of a map become, as small maps. `{…}` stands for the rest of an entry that has a price.

use modelfaucet_schema::event::{Rates, ServiceTier};
use modelfaucet_schema::usage::{Component, Usage};

use super::*;
use modelfaucet_schema::rate::ExactCost;

/// An entry with these members beside provider, mode, and a price of 1 and 2 dollars per million.
fn entry(members: &str) -> String {
    format!(
        r#"{{"m":{{"litellm_provider":"acme","mode":"chat","input_cost_per_token":1e-06,"output_cost_per_token":2e-06{members}}}}}"#
    )
}

fn read_with(map: &str, choices: &Choices) -> Result<ModelRates, String> {
    // Another model, so that the map is not empty.
    let other = r#"{"other":{"litellm_provider":"acme","mode":"embedding","input_cost_per_token":1},"#;
    let map = Map::read(map.replacen('{', other, 1).as_bytes(), choices).unwrap();
    match map.refused.first() {
        Some((_, refusal)) => Err(refusal.to_string()),
        None => Ok(map.models[1].clone()),
    }
}

fn read(map: &str) -> Result<ModelRates, String> {
    read_with(map, &Choices::default())
}

/// Dollars per million, by component.
fn in_millions(rates: &Rates) -> Vec<(&'static str, String)> {
    rates.iter().map(|(component, rate)| (component.name(), diff::per_million(*rate))).collect()
}

fn table(map: &str, tier: ServiceTier, input: u64) -> Vec<(&'static str, String)> {
    let model = read(map).unwrap();
    in_millions(model.table(tier, input).unwrap())
}

fn shows<const N: usize>(pairs: [(&'static str, &str); N]) -> Vec<(&'static str, String)> {
    pairs.into_iter().map(|(name, price)| (name, price.to_owned())).collect()
}

#[test]
fn what_the_map_leaves_out_follows_by_rule() {
    let plain = table(&entry(""), ServiceTier::Standard, 0);
    assert_eq!(
        plain,
        shows([("input_uncached", "1"), ("cache_read", "1"), ("output_text", "2"), ("output_reasoning", "2")])
    );
    let rich = entry(
        r#","cache_read_input_token_cost":1e-07,"cache_creation_input_token_cost":"1.25e-06",
        "cache_creation_input_token_cost_above_1hr":2e-06,"output_cost_per_reasoning_token":3e-06,
        "input_cost_per_audio_token":5e-06,"supports_audio_input":true,"supports_vision":true,"supports_video_input":false,
        "input_cost_per_request":0.005,"search_context_cost_per_query":{"search_context_size_low":0.01,
        "search_context_size_medium":0.02,"search_context_size_high":0.03},"max_input_tokens":1000,"max_output_tokens":100"#,
    );
    assert_eq!(
        table(&rich, ServiceTier::Standard, 0),
        shows([
            ("input_uncached", "1"),
            ("cache_read", "0.1"),
            ("cache_read_audio", "5"),
            ("cache_read_image", "0.1"),
            ("cache_write_5m", "1.25"),
            ("cache_write_30m", "1.25"),
            ("cache_write_1h", "2"),
            ("input_audio", "5"),
            ("input_image", "1"),
            ("output_text", "2"),
            ("output_reasoning", "3"),
            ("web_search_low", "10000"),
            ("web_search_medium", "20000"),
            ("web_search_high", "30000"),
            ("requests", "5000"),
        ])
    );
    let model = read(&rich).unwrap();
    assert_eq!(
        (model.max_input_tokens, model.max_output_tokens, model.mode),
        (Some(1_000), Some(100), Some(Mode::Chat))
    );
}

#[test]
fn context_and_service_tiers_have_whole_tables() {
    let map = entry(
        r#","cache_read_input_token_cost":1e-07,"cache_creation_input_token_cost_above_1hr":2e-06,
        "input_cost_per_token_above_200k_tokens":2e-06,"output_cost_per_token_above_200k_tokens":3e-06,
        "input_cost_per_token_priority":1e-05,"output_cost_per_token_priority":2e-05,"input_cost_per_audio_token":4e-06,
        "supports_audio_input":true,"input_cost_per_request":1,
        "input_cost_per_token_flex":5e-07,"output_cost_per_token_flex":1e-06,"cache_read_input_token_cost_flex":5e-08,
        "input_cost_per_token_above_200k_tokens_flex":1e-06,"output_cost_per_token_above_200k_tokens_flex":1.5e-06,
        "input_cost_per_token_batches":5e-07"#,
    );
    let long = [
        ("input_uncached", "2"),
        ("cache_read", "0.1"),
        ("cache_read_audio", "4"),
        ("cache_write_1h", "2"),
        ("input_audio", "4"),
        ("output_text", "3"),
        ("output_reasoning", "3"),
        ("requests", "1000000"),
    ];
    assert_eq!(table(&map, ServiceTier::Standard, 200_001), shows(long));
    // Nothing but the fee is taken from the standard tier: audio has a price there, so it is not plain input here.
    let priority = [
        ("input_uncached", "10"),
        ("cache_read", "10"),
        ("output_text", "20"),
        ("output_reasoning", "20"),
        ("requests", "1000000"),
    ];
    assert_eq!(table(&map, ServiceTier::Priority, 200_000), shows(priority));
    assert_eq!(table(&map, ServiceTier::Priority, 200_001), shows([]));
    let flex = [
        ("input_uncached", "1"),
        ("cache_read", "0.05"),
        ("output_text", "1.5"),
        ("output_reasoning", "1.5"),
        ("requests", "1000000"),
    ];
    assert_eq!(table(&map, ServiceTier::Flex, 200_001), shows(flex));
    // A tier without an output price is no tier, nor is one whose price of cached input is known for long inputs only.
    assert_eq!(read(&map).unwrap().table(ServiceTier::Batch, 0), None);
    let odd = map.replace(
        r#""cache_read_input_token_cost_flex":5e-08"#,
        r#""cache_read_input_token_cost_above_200k_tokens_flex":5e-08"#,
    );
    assert_eq!(read(&odd).unwrap().table(ServiceTier::Flex, 0), None);
    let dropped: Vec<_> = Map::read(odd.as_bytes(), &Choices::default()).unwrap().dropped;
    let dropped: Vec<_> = dropped.iter().map(|(_, dropped)| (dropped.tier, dropped.why)).collect();
    let (falls, none) = ("a price falls as inputs get longer", "no price of input or of output");
    assert_eq!(dropped, [(ServiceTier::Flex, falls), (ServiceTier::Batch, none)]);
    let xai = map.replace("acme", "xai");
    assert_eq!(table(&xai, ServiceTier::Standard, 200_000), shows(long));
}

#[test]
fn tables_by_range_replace_the_flat_prices() {
    let tier = |from, to, price| {
        format!(r#"{{"range":[{from},{to}],"input_cost_per_token":{price}e-06,"output_cost_per_token":{price}e-05}}"#)
    };
    let map = |tiers: &str| entry(&format!(r#","tiered_pricing":[{tiers}],"input_cost_per_token_flex":1e-07"#));
    let good = map(&format!("{},{}", tier("0", "32000.0", 3), tier("32000.0", "1e6", 4)));
    assert_eq!(table(&good, ServiceTier::Standard, 32_000)[0], ("input_uncached", "3".to_owned()));
    assert_eq!(table(&good, ServiceTier::Standard, 32_001)[2], ("output_text", "40".to_owned()));
    assert_eq!(table(&good, ServiceTier::Standard, 2_000_000)[2], ("output_text", "40".to_owned()));
    assert!(read(&good).unwrap().service_tiers.is_empty());
    let odd = "the field tiered_pricing holds something else than expected";
    let falling = "a price falls as inputs get longer";
    for (tiers, why) in [
        (format!("{},{}", tier("0", "32000", 3), tier("33000", "64000", 4)), odd),
        (tier("1", "32000", 3), odd),
        (tier("0", "0", 3), odd),
        (r#"{"input_cost_per_token":1}"#.to_owned(), odd),
        (r#"{"range":[0,1],"x":1}"#.to_owned(), "the field tiered_pricing.x is not known and could be a price"),
        (format!("{},{}", tier("0", "32000", 3), tier("32000", "64000", 2)), falling),
    ] {
        assert_eq!(read(&map(&tiers)), Err(why.to_owned()), "{tiers}");
    }
}

#[test]
fn what_cannot_be_priced_is_refused_with_its_reason() {
    let zero =
        r#"{"m":{"litellm_provider":"acme","mode":"chat","input_cost_per_token":0,"output_cost_per_token":0.0}}"#;
    let cases = [
        (
            entry(r#","input_cost_per_hologram":1"#),
            "the field input_cost_per_hologram is not known and could be a price",
        ),
        (entry(r#","discounts":{"night":0.5}"#), "the field discounts is not known and could be a price"),
        (entry(r#","steps":[1,2]"#), "the field steps is not known and could be a price"),
        (entry(r#","surcharge":"0.1""#), "the field surcharge is not known and could be a price"),
        (
            entry(r#","provider_specific_entry":{"moon":2}"#),
            "the field provider_specific_entry.moon is not known and could be a price",
        ),
        (
            entry(r#","off_peak_pricing":{"hours_utc":"16:30-00:30"}"#),
            "the price depends on the hour (off_peak_pricing)",
        ),
        (entry(r#","cost_per_second":0.1"#), "priced by the second (cost_per_second)"),
        (
            entry(r#","cache_read_input_token_cost":1e-7,"input_cost_per_token_cache_hit":2e-7"#),
            "two fields name different prices of cache_read",
        ),
        (
            entry(r#","cache_read_input_token_cost":-1e-7"#),
            "the field cache_read_input_token_cost holds something else than expected",
        ),
        (
            entry(r#","cache_read_input_token_cost":"a lot""#),
            "the field cache_read_input_token_cost holds something else than expected",
        ),
        (
            entry(r#","cache_read_input_token_cost":1e-16"#),
            "the price cache_read_input_token_cost must have at most 15 decimals",
        ),
        (
            entry(r#","input_cost_per_token_above_1k_tokens":9e-7,"output_cost_per_token_above_1k_tokens":2e-6"#),
            "a price falls as inputs get longer",
        ),
        (entry(r#","mode":"chat""#), "not an entry: \"mode\" stands twice at line 1 column 114"),
        (
            r#"{"m":{"litellm_provider":"acme","mode":"chat","output_cost_per_token":1}}"#.into(),
            "no price of input_uncached",
        ),
        (
            r#"{"m":{"litellm_provider":"acme","mode":"chat","input_cost_per_token":1}}"#.into(),
            "no price of output_text",
        ),
        (
            r#"{"m":{"litellm_provider":"acme","mode":"chat","input_cost_per_token":null,"output_cost_per_token":1}}"#
                .into(),
            "no price of input_uncached",
        ),
        (
            r#"{"m":{"litellm_provider":"acme","mode":"ocr","input_cost_per_token":1}}"#.into(),
            "mode ocr has no endpoint here",
        ),
        (r#"{"m":{"litellm_provider":"acme","input_cost_per_token":1}}"#.into(), "no mode"),
        (r#"{"m":{"litellm_provider":"!","mode":"chat"}}"#.into(), "no provider that can be a name: \"!\""),
        (r#"{"m":{"mode":"chat"}}"#.into(), "no provider that can be a name: \"\""),
        (
            r#"{"":{"litellm_provider":"acme","mode":"embedding","input_cost_per_token":1}}"#.into(),
            "the name is empty or has more than 256 characters",
        ),
        (zero.into(), "input and output cost 0; name it with --free if it is free"),
        (
            entry(r#","search_context_cost_per_query":{"search_context_size_low":0.005}"#)
                .replace("acme", "perplexity"),
            "every request searches the web for a fee (search_context_cost_per_query)",
        ),
    ];
    for (map, why) in cases {
        assert_eq!(read(&map).map(|model| model.model), Err(why.to_owned()), "{map}");
    }
    // What an operator says wins.
    let free = Choices { free: vec!["m".into()], ..Choices::default() };
    assert_eq!(read_with(zero, &free).unwrap().exact_cost(&Usage::text(9, 9)), Ok(ExactCost::ZERO));
    let ignore = Choices { ignore: vec!["off_peak_pricing".into()], ..Choices::default() };
    assert!(read_with(&entry(r#","off_peak_pricing":{}"#), &ignore).is_ok());
}

#[test]
fn a_price_in_another_unit_leaves_its_kind_without_a_price() {
    let takes = r#","supports_vision":true,"supports_audio_input":true,"supports_video_input":true"#;
    let plain = read(&entry(takes)).unwrap();
    let odd = read(&entry(&format!(
        r#"{takes},"input_cost_per_image":0.01,"output_cost_per_image":0.02,"search_free_requests":{{"count":1}},
        "search_context_cost_per_query":{{"search_context_size_low":0.01}},"input_cost_per_video_per_second":0,
        "google_maps_grounding_cost_per_query":0.03,"comment":"Flat","modalities":["text"],"fast":true"#
    )))
    .unwrap();
    for (component, by_text, priced) in [
        (Component::InputImage, true, false),
        (Component::InputAudio, true, true),
        (Component::InputVideo, true, true),
        (Component::OutputImage, false, false),
        (Component::WebSearchLow, false, false),
    ] {
        assert_eq!(plain.rates.contains_key(&component), by_text, "{component:?}");
        assert_eq!(odd.rates.contains_key(&component), priced, "{component:?}");
    }
}

#[test]
fn cut_prices_are_listed() {
    let map =
        Map::read(entry(r#","cache_read_input_token_cost":5.0000000000000004E-8"#).as_bytes(), &Choices::default())
            .unwrap();
    let cuts: Vec<_> = map.cuts.iter().map(|cut| (cut.field.as_str(), cut.from.as_str(), cut.to.as_str())).collect();
    assert_eq!(cuts, [("cache_read_input_token_cost", "0.000000050000000000000004", "0.00000005")]);
    for (bytes, why) in [
        (&b"[]"[..], "is not a JSON object of models: "),
        (b"{}", "prices no model"),
        (br#"{"a":{},"a":{}}"#, "is not a JSON object of models: \"a\" stands twice"),
    ] {
        let problem = Map::read(bytes, &Choices::default()).unwrap_err().to_string();
        assert!(problem.starts_with(why), "{problem}");
    }
}

/// Names of fields, known and not, and what they may hold.
const NAMES: &str = "[a-z_]{0,12}|(input|output)_cost_per_(token|image)(_above_[0-9]k_tokens)?(_flex|_x)?";
const VALUES: &str =
    concat!("[1-9][0-9]{0,2}e-[0-9]{1,2}|-?[1-9][0-9]{0,3}|0|true|null|", r#""[a-z0-9.]{0,4}"|\[1\]|\{"a":1\}"#);

proptest::proptest! {
    /// Whatever a file holds, it becomes a valid card or a refusal; a field that is not known never makes a price.
    #[test]
    fn any_map_is_priced_or_refused(fields in proptest::collection::vec((NAMES, VALUES), 0..6)) {
        let members: Vec<_> = fields.iter().map(|(name, value)| format!(r#","{name}":{value}"#)).collect();
        let other = r#"{"other":{"litellm_provider":"acme","mode":"embedding","input_cost_per_token":1},"#;
        let map = entry(&members.concat()).replacen('{', other, 1);
        let map = Map::read(map.as_bytes(), &Choices::default()).unwrap();
        proptest::prop_assert_eq!(map.models.len() + map.refused.len(), 2);
        proptest::prop_assert!(map.models.iter().all(ModelRates::is_valid));
        let is_number = |value: &str| value.starts_with(|c: char| c.is_ascii_digit());
        let odd = fields.iter().any(|(name, value)| name.ends_with("_x") && is_number(value));
        proptest::prop_assert!(!odd || map.refused.len() == 1);
    }
}

#[test]
fn what_an_operator_says_stays_on_the_card() {
    let map = Map::read(entry("").as_bytes(), &Choices::default()).unwrap();
    let choices = Choices { ignore: vec!["off_peak_pricing".into()], free: vec!["a".into(), "b".into()] };
    let text = choices.source(&map, 3);
    assert!(text.ends_with("; 2 models kept; ignored: off_peak_pricing; free: a, b"), "{text}");
    let long = Choices { free: vec!["€".repeat(300)], ..Choices::default() }.source(&map, 1);
    assert_eq!((long.chars().count(), long.ends_with('…')), (MAX_SOURCE, true));
}

/// Both conventions of cached tokens give the same vector, so the same cost: docs/ACCOUNTING.md, worked example.
#[test]
fn cached_tokens_are_priced_once() {
    let map = r#"{"m":{"litellm_provider":"openai","mode":"chat","input_cost_per_token":1.5e-07,
        "cache_read_input_token_cost":7.5e-08,"output_cost_per_token":6e-07}}"#;
    let model = read(map).unwrap();
    // Inclusive: 1,203 prompt tokens, 1,025 of them cached. Exclusive: 178 beside 1,025.
    for (prompt, cached, inclusive) in [(1_203, 1_025, true), (178, 1_025, false)] {
        let uncached = if inclusive { prompt - cached } else { prompt };
        let usage = Usage { cache_read: cached, ..Usage::text(uncached, 212) };
        let cost = model.exact_cost(&usage).unwrap();
        assert_eq!((cost.to_string(), cost.round().unwrap().units()), ("0.000230775".to_owned(), 23_078));
    }
}
