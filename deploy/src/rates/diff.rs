//! What a new card changes about the old one, in lines for people.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{ModelRates, Rates, ServiceTier};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::usage::Component;
use rust_decimal::Decimal;

use super::map::Map;

/// How many models of a kind are listed unless all are asked for.
const FEW: usize = 10;

/// The models of two cards, side by side.
pub(super) struct Diff<'a> {
    pub(super) new: Vec<&'a ModelRates>,
    pub(super) gone: Vec<&'a ModelRates>,
    /// With their lines.
    pub(super) changed: Vec<(&'a ModelRates, Vec<String>)>,
    pub(super) same: usize,
}

/// Where a price stands on the card of a model.
type Place = (ServiceTier, u64, Component);

impl<'a> Diff<'a> {
    /// Compares.
    pub(super) fn of(old: &'a [ModelRates], new: &'a [ModelRates]) -> Self {
        let by_name = |models: &'a [ModelRates]| -> BTreeMap<(&'a str, &'a Name), &'a ModelRates> {
            models.iter().map(|model| ((model.model.as_str(), &model.provider), model)).collect()
        };
        let (before, after) = (by_name(old), by_name(new));
        let mut diff = Self { new: Vec::new(), gone: Vec::new(), changed: Vec::new(), same: 0 };
        for (key, model) in &after {
            match before.get(key) {
                None => diff.new.push(model),
                Some(was) if was == model => diff.same += 1,
                Some(was) => diff.changed.push((model, changes(was, model))),
            }
        }
        diff.gone = before.iter().filter(|(key, _)| !after.contains_key(*key)).map(|(_, model)| *model).collect();
        diff
    }

    /// The lines.
    pub(super) fn lines(&self, all: bool) -> String {
        let mut text = String::new();
        let few = |count: usize| if all { count } else { count.min(FEW) };
        for (kind, models) in [("new", &self.new), ("gone", &self.gone)] {
            line(&mut text, kind, &format!("{}", models.len()));
            for model in models.iter().take(few(models.len())) {
                line(&mut text, "", &format!("{}  {}", title(model), base(model)));
            }
            more(&mut text, models.len(), few(models.len()));
        }
        line(&mut text, "changed", &format!("{}", self.changed.len()));
        for (model, lines) in self.changed.iter().take(few(self.changed.len())) {
            line(&mut text, "", &title(model));
            for change in lines.iter().take(few(lines.len())) {
                line(&mut text, "", &format!("  {change}"));
            }
            more(&mut text, lines.len(), few(lines.len()));
        }
        more(&mut text, self.changed.len(), few(self.changed.len()));
        line(&mut text, "same", &format!("{}", self.same));
        text
    }
}

/// What of a map is not on the card, and which prices are not as they stood.
pub(super) fn refusals(map: &Map, all: bool) -> String {
    let mut text = String::new();
    let mut by_reason: BTreeMap<(bool, String), Vec<&str>> = BTreeMap::new();
    for (model, refusal) in &map.refused {
        by_reason.entry((refusal.is_elsewhere(), refusal.to_string())).or_default().push(model);
    }
    let refused = map.refused.iter().filter(|(_, refusal)| !refusal.is_elsewhere()).count();
    line(&mut text, "refused", &format!("{refused}"));
    for ((elsewhere, reason), models) in &by_reason {
        if !elsewhere {
            line(&mut text, "", &format!("{:>5}  {reason}: {}", models.len(), some(models, all)));
        }
    }
    line(&mut text, "not ours", &format!("{}", map.refused.len() - refused));
    for ((elsewhere, reason), models) in &by_reason {
        if *elsewhere {
            line(&mut text, "", &format!("{:>5}  {reason}", models.len()));
        }
    }
    let mut by_reason: BTreeMap<_, Vec<&str>> = BTreeMap::new();
    for (model, dropped) in &map.dropped {
        by_reason.entry(*dropped).or_default().push(model);
    }
    line(&mut text, "tiers", &format!("{} service tiers not priced", map.dropped.len()));
    for (dropped, models) in &by_reason {
        let (tier, why) = (dropped.tier.name(), dropped.why);
        line(&mut text, "", &format!("{:>5}  {tier}: {why}: {}", models.len(), some(models, all)));
    }
    line(&mut text, "cut", &format!("{} prices to 12 digits", map.cuts.len()));
    let few = if all { map.cuts.len() } else { map.cuts.len().min(FEW) };
    for cut in map.cuts.iter().take(few) {
        line(&mut text, "", &format!("{} {}: {} → {}", cut.model, cut.field, cut.from, cut.to));
    }
    more(&mut text, map.cuts.len(), few);
    text
}

fn line(text: &mut String, name: &str, rest: &str) {
    let written = writeln!(text, "{name:10}{rest}");
    debug_assert!(written.is_ok(), "writing to a string does not fail");
}

fn more(text: &mut String, count: usize, shown: usize) {
    if count > shown {
        line(text, "", &format!("… and {} more (--all lists them)", count - shown));
    }
}

fn some(models: &[&str], all: bool) -> String {
    let shown = if all { models.len() } else { models.len().min(3) };
    let end = if models.len() > shown { ", …" } else { "" };
    format!("{}{end}", models.get(..shown).unwrap_or_default().join(", "))
}

fn title(model: &ModelRates) -> String {
    format!("{} {}", model.provider, model.model)
}

/// Input and output price.
fn base(model: &ModelRates) -> String {
    let price = |component| model.rates.get(&component).map_or_else(|| "–".to_owned(), |rate| per_million(*rate));
    format!("{} in, {} out per million", price(Component::InputUncached), price(Component::OutputText))
}

/// The price of a million.
pub(super) fn per_million(rate: Rate) -> String {
    rate.to_decimal().checked_mul(Decimal::from(1_000_000)).unwrap_or_default().normalize().to_string()
}

/// Every price of a model with its place.
fn prices(model: &ModelRates) -> BTreeMap<Place, Rate> {
    let mut prices = BTreeMap::new();
    for tier in ServiceTier::ALL {
        let Some((rates, contexts)) = model.tables(tier) else { continue };
        let mut take = |above: u64, rates: &Rates| {
            prices.extend(rates.iter().map(|(component, rate)| ((tier, above, *component), *rate)));
        };
        take(0, rates);
        for context in contexts {
            take(context.above, &context.rates);
        }
    }
    prices
}

fn changes(was: &ModelRates, is: &ModelRates) -> Vec<String> {
    let (before, after) = (prices(was), prices(is));
    let mut places: Vec<Place> = before.keys().chain(after.keys()).copied().collect();
    places.sort_unstable();
    places.dedup();
    let (mut lines, mut added) = (Vec::new(), Vec::new());
    for place in places {
        match (before.get(&place), after.get(&place)) {
            (Some(old), Some(new)) if old != new => {
                lines.push(format!("{}: {old} → {new} ({})", name(place), percent(*old, *new)));
            }
            (Some(old), None) => lines.push(format!("{}: {old} → no price", name(place))),
            (None, Some(new)) => added.push(format!("{}: no price → {new}", name(place))),
            _ => {}
        }
    }
    // What moved comes before what is only new.
    lines.append(&mut added);
    let facts = [
        ("most input", was.max_input_tokens, is.max_input_tokens),
        ("most output", was.max_output_tokens, is.max_output_tokens),
    ];
    let count = |tokens: Option<u64>| tokens.map_or_else(|| "not said".to_owned(), |tokens| tokens.to_string());
    for (what, old, new) in facts.iter().filter(|(_, old, new)| old != new) {
        lines.push(format!("{what}: {} → {}", count(*old), count(*new)));
    }
    if lines.is_empty() {
        // Where tables begin, or the kind of request: no price moved.
        lines.push("tiers or mode".to_owned());
    }
    lines
}

fn name((tier, above, component): Place) -> String {
    let tier = if tier.is_standard() { String::new() } else { format!(" {}", tier.name()) };
    let above = if above == 0 { String::new() } else { format!(" above {above}") };
    format!("{}{tier}{above}", component.name())
}

fn percent(old: Rate, new: Rate) -> String {
    let (old, new) = (old.to_decimal(), new.to_decimal());
    let change = new.checked_sub(old).and_then(|change| change.checked_mul(Decimal::from(100)));
    match change.and_then(|change| change.checked_div(old)) {
        Some(percent) => format!("{:+} %", percent.round_dp(1).normalize()),
        None => "was free".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(name: &str, input: &str) -> ModelRates {
        ModelRates::flat("acme".parse().unwrap(), name, [(Component::InputUncached, input.parse().unwrap())])
    }

    #[test]
    fn a_diff_says_what_is_new_gone_and_changed_by_how_much() {
        let mut dearer = model("b", "0.000003");
        dearer.max_input_tokens = Some(1_000);
        let old = [model("a", "0.000001"), model("b", "0.0000024"), model("same", "1")];
        let new = [dearer, model("c", "0.5"), model("same", "1")];
        let diff = Diff::of(&old, &new);
        assert_eq!(
            diff.lines(false),
            concat!(
                "new       1\n",
                "          acme c  500000 in, – out per million\n",
                "gone      1\n",
                "          acme a  1 in, – out per million\n",
                "changed   1\n",
                "          acme b\n",
                "            input_uncached: 0.0000024 → 0.000003 (+25 %)\n",
                "            most input: not said → 1000\n",
                "same      1\n"
            )
        );
        let free = model("b", "0");
        assert_eq!(changes(&free, &model("b", "1")), ["input_uncached: 0 → 1 (was free)"]);
        assert_eq!(percent("0.000003".parse().unwrap(), "0.000002".parse().unwrap()), "-33.3 %");
        let many: Vec<_> = (0..12).map(|n| model(&format!("m{n:02}"), "1")).collect();
        let lines = Diff::of(&[], &many);
        assert!(lines.lines(false).contains("… and 2 more") && !lines.lines(true).contains("more ("));
    }
}
