//! `modelfaucet rates price MAP`: what usages would cost by a map, one JSON object per line in and out. Nothing is sent.

use std::collections::HashMap;
use std::io::{BufRead, Write};

use modelfaucet_schema::event::{ModelRates, ServiceTier};
use modelfaucet_schema::usage::{MAX_COUNT, Usage};
use serde::Deserialize;
use serde_json::json;

use super::map::Map;

/// A usage to price.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    model: String,
    #[serde(default)]
    service_tier: ServiceTier,
    usage: Usage,
}

/// Prices every line of `from`. What has no price is answered with an error, never with 0.
///
/// # Errors
/// If reading or writing fails.
pub(super) fn lines(map: &Map, from: impl BufRead, mut to: impl Write) -> std::io::Result<()> {
    let models: HashMap<&str, &ModelRates> = map.models.iter().map(|model| (model.model.as_str(), model)).collect();
    let refused: HashMap<&str, String> =
        map.refused.iter().map(|(model, refusal)| (model.as_str(), refusal.to_string())).collect();
    for line in from.lines() {
        let answer = match serde_json::from_str::<Line>(&line?) {
            Err(error) => json!({"error": "invalid_request", "message": error.to_string()}),
            Ok(line) => match (models.get(line.model.as_str()), refused.get(line.model.as_str())) {
                _ if line.usage.too_large().is_some() => {
                    json!({"error": "invalid_request", "message": format!("A count is above {MAX_COUNT}.")})
                }
                (None, Some(why)) => json!({"error": "model_not_priced", "message": why}),
                (None, None) => json!({"error": "model_not_found", "message": "The map does not have this model."}),
                (Some(model), _) => match model.exact_cost_at(line.service_tier, &line.usage) {
                    Ok(cost) => json!({"exact_cost": cost, "upstream": cost.round()}),
                    Err(unpriced) => json!({"error": "model_not_priced", "message": unpriced.name()}),
                },
            },
        };
        writeln!(to, "{answer}")?;
    }
    to.flush()
}

#[cfg(test)]
mod tests {
    use super::super::Choices;
    use super::*;

    #[test]
    fn each_line_has_its_price_or_its_reason() {
        let map = br#"{"m":{"mode":"chat","litellm_provider":"acme","input_cost_per_token":1.5e-07,"output_cost_per_token":6e-07},
            "zero":{"mode":"chat","litellm_provider":"acme","input_cost_per_token":0,"output_cost_per_token":0.0}}"#;
        let map = Map::read(map, &Choices::default()).unwrap();
        let usages = [
            r#"{"model":"m","usage":{"input_uncached":178,"cache_read":0,"output_text":212}}"#,
            r#"{"model":"m","service_tier":"flex","usage":{"output_text":1}}"#,
            r#"{"model":"m","usage":{"output_audio":1}}"#,
            r#"{"model":"zero","usage":{}}"#,
            r#"{"model":"other","usage":{}}"#,
            r#"{"model":"m","usage":{"output_text":1000000001}}"#,
            "nonsense",
        ];
        let mut answers = Vec::new();
        lines(&map, usages.join("\n").as_bytes(), &mut answers).unwrap();
        let answers: Vec<serde_json::Value> =
            String::from_utf8(answers).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(answers[0], json!({"exact_cost": "0.0001539", "upstream": "0.00015390"}));
        let errors: Vec<_> = answers[1..].iter().map(|answer| answer["error"].as_str().unwrap()).collect();
        let priced = "model_not_priced";
        assert_eq!(errors, [priced, priced, priced, "model_not_found", "invalid_request", "invalid_request"]);
    }
}
