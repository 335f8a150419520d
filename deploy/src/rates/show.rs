//! `modelfaucet rates show MODEL`: what the active card says about a model.

use std::fmt::Write as _;

use modelfaucet_schema::event::{ModelRates, Rates, ServiceTier};

use super::diff::per_million;

/// The lines of one offer.
pub(super) fn lines(model: &ModelRates) -> String {
    let mut text = format!("{} · {}", model.model, model.provider);
    let mut push = |part: &str| text.push_str(part);
    if let Some(mode) = model.mode {
        push(&format!(" · {}", format!("{mode:?}").to_lowercase()));
    }
    for (tokens, what) in [(model.max_input_tokens, "in"), (model.max_output_tokens, "out")] {
        if let Some(tokens) = tokens {
            push(&format!(" · at most {tokens} {what}"));
        }
    }
    push("\n");
    for tier in ServiceTier::ALL {
        let Some((rates, contexts)) = model.tables(tier) else { continue };
        table(&mut text, tier.name(), rates);
        for context in contexts {
            table(&mut text, &format!("{}, more than {} input tokens", tier.name(), context.above), &context.rates);
        }
    }
    text
}

fn table(text: &mut String, title: &str, rates: &Rates) {
    let mut put = |line: String| {
        let written = writeln!(text, "{line}");
        debug_assert!(written.is_ok(), "writing to a string does not fail");
    };
    put(title.to_owned());
    if rates.is_empty() {
        put("  no price: such requests are refused".to_owned());
    }
    for (component, rate) in rates {
        put(format!("  {:18} {:22} {:>12} per million", component.name(), rate.to_string(), per_million(*rate)));
    }
}

#[cfg(test)]
mod tests {
    use modelfaucet_schema::event::{ContextRates, Mode};
    use modelfaucet_schema::usage::Component;

    use super::*;

    #[test]
    fn every_table_is_shown() {
        let rates = |usd: &str| -> Rates { [(Component::InputUncached, usd.parse().unwrap())].into() };
        let mut model = ModelRates::flat("acme".parse().unwrap(), "m", rates("0.00000015"));
        model.mode = Some(Mode::Chat);
        model.max_input_tokens = Some(128_000);
        model.contexts = vec![ContextRates { above: 100, rates: Rates::new() }];
        assert_eq!(
            lines(&model),
            concat!(
                "m · acme · chat · at most 128000 in\n",
                "standard\n",
                "  input_uncached     0.00000015                     0.15 per million\n",
                "standard, more than 100 input tokens\n",
                "  no price: such requests are refused\n"
            )
        );
    }
}
