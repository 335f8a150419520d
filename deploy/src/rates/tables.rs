//! From the prices of an entry to whole tables. The map leaves out what follows from other fields; a rate card does not, so what
//! follows is written down here, rule by rule.
//!
//! 1. Cached input without a price of its own costs what input costs: no discount is known. Cache writes without one have none.
//! 2. Reasoning without a price of its own costs what output costs.
//! 3. Audio, image and video input without a price of its own costs what input costs, if the model takes it; output has its own
//!    price or none.
//! 4. Above a context threshold a price stays unless the map names another one; reasoning that cost what output costs goes with it.
//!    A threshold that does not name both input and output has no prices.
//! 5. A service tier takes nothing from the standard tier but fees per request and search. Above a threshold of the standard tier
//!    that it does not name it has no prices.

use std::collections::{BTreeMap, BTreeSet};

use modelfaucet_schema::event::{ContextRates, Mode, ModelRates, Rates, ServiceTier, TierRates};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::usage::Component;

use super::entry::{Entry, Prices};
use super::refusal::Refusal;

/// Providers whose long context begins at the threshold and not above it.
const INCLUSIVE: [&str; 1] = ["xai"];
/// The longest name of a model.
const MAX_NAME: usize = 256;

/// A service tier that the map names and the card does not price, and why.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Dropped {
    pub(super) tier: ServiceTier,
    pub(super) why: &'static str,
}

/// The tables of an entry, and the service tiers that have none.
///
/// # Errors
/// [`Refusal`]: why it is not priced.
pub(super) fn tables(mut entry: Entry) -> Result<(ModelRates, Vec<Dropped>), Refusal> {
    if entry.model.is_empty() || entry.model.chars().count() > MAX_NAME {
        return Err(Refusal::Name);
    }
    if entry.provider.as_str() == "perplexity" && !entry.searches.is_empty() {
        return Err(Refusal::SearchFee);
    }
    let mut dropped = if entry.tiers.is_empty() { Vec::new() } else { by_range(&mut entry) };
    let standard = entry.prices.get(&(ServiceTier::Standard, 0)).cloned().unwrap_or_default();
    check(&standard, &entry)?;
    let thresholds: BTreeSet<u64> = entry.thresholds(ServiceTier::Standard);
    let (rates, contexts) = entry.tier(ServiceTier::Standard, &standard, &thresholds).ok_or(Refusal::Falling)?;
    let service_tiers = entry.service_tiers(&standard, &thresholds, &mut dropped);
    let model = ModelRates {
        contexts,
        service_tiers,
        mode: Some(entry.mode),
        max_input_tokens: entry.max_input_tokens,
        max_output_tokens: entry.max_output_tokens,
        ..ModelRates::flat(entry.provider, entry.model, rates)
    };
    if model.is_valid() { Ok((model, dropped)) } else { Err(Refusal::Falling) }
}

/// What a model of its kind needs.
fn check(standard: &Prices, entry: &Entry) -> Result<(), Refusal> {
    let input = standard.get(&Component::InputUncached).ok_or(Refusal::NoPrice(Component::InputUncached))?;
    let output = match (standard.get(&Component::OutputText), entry.mode) {
        (Some(output), _) => *output,
        (None, Mode::Embedding) => Rate::FREE,
        (None, _) => return Err(Refusal::NoPrice(Component::OutputText)),
    };
    if *input == Rate::FREE && output == Rate::FREE && !entry.free { Err(Refusal::Zero) } else { Ok(()) }
}

/// Tables by range replace the standard prices; the output price stays where a range does not name it. Service tiers beside them
/// cannot be told apart by range, so they are dropped.
fn by_range(entry: &mut Entry) -> Vec<Dropped> {
    let named = ServiceTier::ALL.into_iter().filter(|tier| !tier.is_standard() && entry.names(*tier));
    let dropped = named.map(|tier| Dropped { tier, why: "the standard tier is priced by ranges" }).collect();
    let flat =
        entry.prices.get(&(ServiceTier::Standard, 0)).and_then(|prices| prices.get(&Component::OutputText)).copied();
    entry.prices.clear();
    for (from, mut prices) in std::mem::take(&mut entry.tiers) {
        if let Some(output) = flat {
            prices.entry(Component::OutputText).or_insert(output);
        }
        entry.prices.insert((ServiceTier::Standard, from), prices);
    }
    dropped
}

impl Entry {
    fn thresholds(&self, tier: ServiceTier) -> BTreeSet<u64> {
        self.prices.keys().filter(|(of, above)| *of == tier && *above > 0).map(|(_, above)| *above).collect()
    }

    fn names(&self, tier: ServiceTier) -> bool {
        self.prices.keys().any(|(of, _)| *of == tier)
    }

    fn service_tiers(
        &self,
        standard: &Prices,
        thresholds: &BTreeSet<u64>,
        dropped: &mut Vec<Dropped>,
    ) -> BTreeMap<ServiceTier, TierRates> {
        let mut tiers = BTreeMap::new();
        for tier in ServiceTier::ALL.into_iter().filter(|tier| !tier.is_standard() && self.names(*tier)) {
            match self.service_tier(tier, standard, thresholds) {
                Ok(rates) => drop(tiers.insert(tier, rates)),
                Err(why) => dropped.push(Dropped { tier, why }),
            }
        }
        tiers
    }

    fn service_tier(
        &self,
        tier: ServiceTier,
        standard: &Prices,
        thresholds: &BTreeSet<u64>,
    ) -> Result<TierRates, &'static str> {
        let falls = "a price falls as inputs get longer";
        let own =
            self.prices.get(&(tier, 0)).filter(|own| self.is_whole(own)).ok_or("no price of input or of output")?;
        let all: BTreeSet<u64> = thresholds.union(&self.thresholds(tier)).copied().collect();
        let mut own = own.clone();
        if let Some(fee) = standard.get(&Component::Requests) {
            own.entry(Component::Requests).or_insert(*fee);
        }
        let (rates, contexts) = self.tier(tier, &own, &all).ok_or(falls)?;
        let rates = TierRates { rates, contexts };
        if rates.is_valid() { Ok(rates) } else { Err(falls) }
    }

    /// Input, and output unless there is none.
    fn is_whole(&self, prices: &Prices) -> bool {
        prices.contains_key(&Component::InputUncached)
            && (self.mode == Mode::Embedding || prices.contains_key(&Component::OutputText))
    }

    fn tier(&self, tier: ServiceTier, base: &Prices, thresholds: &BTreeSet<u64>) -> Option<(Rates, Vec<ContextRates>)> {
        let rates = self.whole(tier, base);
        let inclusive = INCLUSIVE.contains(&self.provider.as_str());
        let mut below = base.clone();
        let mut contexts = Vec::new();
        for above in thresholds {
            let own = self.prices.get(&(tier, *above)).filter(|own| self.is_whole(own));
            let rates = match own {
                Some(own) => {
                    below = carried(&below, own);
                    self.whole(tier, &below)
                }
                None => Rates::new(),
            };
            contexts.push(ContextRates { above: above.checked_sub(u64::from(inclusive))?, rates });
        }
        Some((rates, contexts))
    }

    /// Fills in what follows from the prices of one table.
    fn whole(&self, tier: ServiceTier, own: &Prices) -> Rates {
        let mut rates = own.clone();
        let mut follows = |component: Component, rate: Option<&Rate>| {
            if let Some(rate) = rate {
                rates.entry(component).or_insert(*rate);
            }
        };
        let input = own.get(&Component::InputUncached);
        let cached = own.get(&Component::CacheRead).or(input);
        follows(Component::OutputReasoning, own.get(&Component::OutputText));
        follows(Component::CacheRead, input);
        follows(Component::CacheWrite30m, own.get(&Component::CacheWrite5m));
        for component in [Component::InputAudio, Component::InputImage, Component::InputVideo] {
            let plain = self.is_plain_input(tier, component);
            follows(component, input.filter(|_| plain));
        }
        for (of, from) in
            [(Component::CacheReadAudio, Component::InputAudio), (Component::CacheReadImage, Component::InputImage)]
        {
            let plain = self.is_plain_input(tier, from);
            follows(of, own.get(&from).or(cached.filter(|_| plain)));
        }
        if !self.odd_search {
            rates.extend(self.searches.iter().map(|(component, rate)| (*component, *rate)));
        }
        rates
    }
}

impl Entry {
    /// Does input of a kind that the model takes cost what text costs? Not if it has a price of its own, in whatever unit, even
    /// where that is only on the standard tier.
    fn is_plain_input(&self, tier: ServiceTier, component: Component) -> bool {
        let standard = self.prices.get(&(ServiceTier::Standard, 0));
        self.takes.contains(&component)
            && !self.other_units.contains(&component)
            && (tier.is_standard() || !standard.is_some_and(|prices| prices.contains_key(&component)))
    }
}

/// The prices above a threshold: those below it, but for the ones that the threshold names.
fn carried(below: &Prices, own: &Prices) -> Prices {
    let mut prices = below.clone();
    let as_output = below.get(&Component::OutputReasoning) == below.get(&Component::OutputText);
    if as_output {
        prices.remove(&Component::OutputReasoning);
    }
    prices.extend(own.iter().map(|(component, rate)| (*component, *rate)));
    prices
}
