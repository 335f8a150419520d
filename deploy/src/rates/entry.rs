//! One entry of the map: its fields, sorted by what they mean.

use std::collections::BTreeMap;

use modelfaucet_schema::account::Name;
use modelfaucet_schema::event::{Mode, ServiceTier};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::usage::Component;
use serde_json::value::RawValue;

use super::Choices;
use super::field::{Field, MULTIPLIERS, SEARCHES};
use super::json::{Members, Value};
use super::number::Number;
use super::refusal::Refusal;

/// The price of a component, where the map says it.
pub(super) type Prices = BTreeMap<Component, Rate>;

/// A price that was cut to twelve digits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Cut {
    pub(super) model: String,
    pub(super) field: String,
    pub(super) from: String,
    pub(super) to: String,
}

/// What an entry says.
#[derive(Debug)]
pub(super) struct Entry {
    pub(super) model: String,
    pub(super) provider: Name,
    pub(super) mode: Mode,
    pub(super) max_input_tokens: Option<u64>,
    pub(super) max_output_tokens: Option<u64>,
    /// By tier and by the number of input tokens that they hold above.
    pub(super) prices: BTreeMap<(ServiceTier, u64), Prices>,
    /// Tables by length of input, which replace the standard ones.
    pub(super) tiers: Vec<(u64, Prices)>,
    /// Prices of searches.
    pub(super) searches: Prices,
    /// Kinds of input that it takes.
    pub(super) takes: Vec<Component>,
    /// Kinds that are priced in another unit.
    pub(super) other_units: Vec<Component>,
    pub(super) odd_search: bool,
    pub(super) cuts: Vec<Cut>,
    /// May it be free?
    pub(super) free: bool,
}

impl Entry {
    /// Reads an entry. Every field must be known or hold nothing that could be a price.
    ///
    /// # Errors
    /// [`Refusal`]: why the model is not priced.
    pub(super) fn read(model: &str, raw: &RawValue, choices: &Choices) -> Result<Self, Refusal> {
        let members: Members<'_> =
            serde_json::from_str(raw.get()).map_err(|error| Refusal::NotAnEntry(error.to_string()))?;
        let text = |wanted: Field| -> Result<Option<String>, Refusal> {
            let found = members.0.iter().find(|(name, _)| Field::of(name) == wanted);
            match found.map(|(_, raw)| value(wanted_name(wanted), raw)).transpose()? {
                Some(Value::Text(text)) => Ok(Some(text)),
                _ => Ok(None),
            }
        };
        let mode = mode(text(Field::Mode)?.as_deref())?;
        let provider = text(Field::Provider)?.ok_or_else(|| Refusal::NoProvider(String::new()))?;
        let name = provider.to_lowercase().replace(['_', '.', ' '], "-").parse();
        let mut entry = Self {
            model: model.to_owned(),
            provider: name.map_err(|_| Refusal::NoProvider(provider))?,
            mode,
            max_input_tokens: None,
            max_output_tokens: None,
            prices: BTreeMap::new(),
            tiers: Vec::new(),
            searches: Prices::new(),
            takes: Vec::new(),
            other_units: Vec::new(),
            odd_search: false,
            cuts: Vec::new(),
            free: choices.free.iter().any(|free| free == model),
        };
        for (name, raw) in &members.0 {
            if !choices.ignore.contains(name) {
                entry.take(name, value(name, raw)?)?;
            }
        }
        Ok(entry)
    }

    fn take(&mut self, name: &str, value: Value<'_>) -> Result<(), Refusal> {
        let odd = || Refusal::OddValue(name.to_owned());
        match (Field::of(name), value) {
            (_, Value::Absent) => {}
            (Field::Price { component, above, tier }, Value::Number(number)) => {
                let rate = self.rate(name, &number)?;
                let prices = self.prices.entry((tier, above)).or_default();
                // Two fields name the same price; they may not differ.
                if prices.insert(component, rate).is_some_and(|other| other != rate) {
                    return Err(Refusal::TwoPrices(component));
                }
            }
            (Field::WebSearch, Value::Object(sizes)) => self.take_searches(name, &sizes)?,
            (Field::Tiers, Value::List(tiers)) => self.take_tiers(name, &tiers)?,
            (Field::EveryRequest(why), value) => {
                if !matches!(&value, Value::Number(number) if number.is_zero()) {
                    return Err(Refusal::OtherUnit { field: name.to_owned(), why });
                }
            }
            (Field::OtherUnit(component), value) => {
                if !matches!(&value, Value::Number(number) if number.is_zero()) {
                    self.other_units.push(component);
                }
            }
            (Field::OddSearch, _) => self.odd_search = true,
            (Field::Multipliers, Value::Object(members)) => check_multipliers(name, &members)?,
            (Field::MaxInput, Value::Number(number)) => self.max_input_tokens = number.whole(),
            (Field::MaxOutput, Value::Number(number)) => self.max_output_tokens = number.whole(),
            (Field::Takes(component), Value::Flag(true)) => self.takes.push(component),
            (Field::Elsewhere | Field::Fact | Field::Takes(_) | Field::Mode | Field::Provider, _)
            // What holds no number holds no price.
            | (Field::Unknown | Field::MaxInput | Field::MaxOutput, Value::Flag(_) | Value::Text(_)) => {}
            (Field::Unknown, Value::List(items)) if items.iter().all(|item| item.get().starts_with('"')) => {}
            (Field::Unknown, _) => return Err(Refusal::UnknownField(name.to_owned())),
            _ => return Err(odd()),
        }
        Ok(())
    }

    fn rate(&mut self, field: &str, number: &Number) -> Result<Rate, Refusal> {
        let clean = number.without_dust();
        if clean != *number {
            let (from, to) = (number.to_string(), clean.to_string());
            self.cuts.push(Cut { model: self.model.clone(), field: field.to_owned(), from, to });
        }
        clean.rate().map_err(|error| Refusal::NotARate(field.to_owned(), error))
    }

    fn take_searches(&mut self, name: &str, sizes: &Members<'_>) -> Result<(), Refusal> {
        for (size, raw) in &sizes.0 {
            let component = SEARCHES.iter().find(|(known, _)| known == size).map(|(_, component)| *component);
            match (component, value(name, raw)?) {
                (Some(component), Value::Number(number)) => {
                    let rate = self.rate(name, &number)?;
                    self.searches.insert(component, rate);
                }
                _ => return Err(Refusal::UnknownField(format!("{name}.{size}"))),
            }
        }
        Ok(())
    }

    /// Reads `[{"range": [0, 32000], "input_cost_per_token": …}, …]`: the ranges join one another and begin at 0.
    fn take_tiers(&mut self, name: &str, tiers: &[&RawValue]) -> Result<(), Refusal> {
        let odd = || Refusal::OddValue(name.to_owned());
        let mut ranges = Vec::new();
        for tier in tiers {
            let members: Members<'_> = serde_json::from_str(tier.get()).map_err(|_| odd())?;
            let (mut range, mut prices) = (None, Prices::new());
            for (member, raw) in &members.0 {
                match (member.as_str(), Field::of(member), value(name, raw)?) {
                    ("range", _, Value::List(ends)) => range = Some(ends_of(&ends).ok_or_else(odd)?),
                    (_, Field::Price { component, above: 0, tier: ServiceTier::Standard }, Value::Number(number)) => {
                        prices.insert(component, self.rate(&format!("{name}.{member}"), &number)?);
                    }
                    _ => return Err(Refusal::UnknownField(format!("{name}.{member}"))),
                }
            }
            ranges.push((range.ok_or_else(odd)?, prices));
        }
        ranges.sort_by_key(|((from, _), _)| *from);
        let mut end = 0;
        for ((from, to), prices) in ranges {
            if from != end || to <= from {
                return Err(odd());
            }
            end = to;
            self.tiers.push((from, prices));
        }
        Ok(())
    }
}

fn value<'a>(name: &str, raw: &'a RawValue) -> Result<Value<'a>, Refusal> {
    Value::of(raw).map_err(|_| Refusal::OddValue(name.to_owned()))
}

fn wanted_name(field: Field) -> &'static str {
    if field == Field::Mode { "mode" } else { "litellm_provider" }
}

fn ends_of(ends: &[&RawValue]) -> Option<(u64, u64)> {
    let [from, to] = ends else { return None };
    let whole = |raw: &RawValue| raw.get().parse::<Number>().ok()?.whole();
    Some((whole(from)?, whole(to)?))
}

fn mode(text: Option<&str>) -> Result<Mode, Refusal> {
    match text {
        Some("chat") => Ok(Mode::Chat),
        Some("responses") => Ok(Mode::Responses),
        Some("completion") => Ok(Mode::Completion),
        Some("embedding") => Ok(Mode::Embedding),
        Some(other) => Err(Refusal::Mode(other.to_owned())),
        None => Err(Refusal::NoMode),
    }
}

/// Multipliers are known by name; anything else in their place that holds a number is not.
fn check_multipliers(name: &str, members: &Members<'_>) -> Result<(), Refusal> {
    for (member, raw) in &members.0 {
        let known = MULTIPLIERS.contains(&member.as_str());
        if !known && !matches!(value(name, raw)?, Value::Text(_) | Value::Flag(_) | Value::Absent) {
            return Err(Refusal::UnknownField(format!("{name}.{member}")));
        }
    }
    Ok(())
}
