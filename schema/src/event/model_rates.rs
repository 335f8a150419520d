//! What one model costs us: a table of rates per component, another one for long inputs, and others again for the provider's
//! service tiers. A table is whole: what it does not name has no price there, and nothing is taken over from another table.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::account::Name;
use crate::rate::{ExactCost, Rate};
use crate::usage::{Component, Usage};

/// USD per token (or per request, search, …) of each component that has a price.
pub type Rates = BTreeMap<Component, Rate>;

/// How fast a provider serves a call, where that has a price of its own.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema,
)]
#[serde(rename_all = "snake_case")]
pub enum ServiceTier {
    /// What is served unless another tier is asked for.
    #[default]
    Standard,
    /// Cheaper, when there is room.
    Flex,
    /// Between flex and standard.
    Balanced,
    /// Faster.
    Priority,
    /// Faster still.
    Ultrafast,
    /// Hours later, as an item of a batch.
    Batch,
}

impl ServiceTier {
    /// Every tier.
    pub const ALL: [Self; 6] =
        [Self::Standard, Self::Flex, Self::Balanced, Self::Priority, Self::Ultrafast, Self::Batch];

    /// The name on the wire.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Standard => "standard",
            Self::Flex => "flex",
            Self::Balanced => "balanced",
            Self::Priority => "priority",
            Self::Ultrafast => "ultrafast",
            Self::Batch => "batch",
        }
    }

    /// Is it the one that needs no mention?
    pub const fn is_standard(&self) -> bool {
        matches!(self, Self::Standard)
    }
}

/// The kind of request that a model answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Chat, by the chat or the responses API.
    Chat,
    /// The responses API only.
    Responses,
    /// Text completion.
    Completion,
    /// Embeddings.
    Embedding,
}

/// The rates of requests with a long input. They price the whole request, not only what is above.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ContextRates {
    /// They hold for requests with more input tokens than this, cached ones included.
    pub above: u64,
    /// All rates that hold there; none: such requests are refused.
    #[schema(value_type = BTreeMap<String, String>)]
    pub rates: Rates,
}

/// The rates of one service tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct TierRates {
    /// The rates up to the first context tier.
    #[schema(value_type = BTreeMap<String, String>)]
    pub rates: Rates,
    /// The rates of longer inputs, by rising threshold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<ContextRates>,
}

/// What one model costs us, per component.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(deny_unknown_fields)]
pub struct ModelRates {
    /// The provider that bills us.
    pub provider: Name,
    /// The model as requests name it.
    pub model: String,
    /// USD per token (or per request, search …); a component that is missing is not priced and its use is refused.
    #[schema(value_type = BTreeMap<String, String>)]
    pub rates: Rates,
    /// The rates of longer inputs, by rising threshold; no rate falls with it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub contexts: Vec<ContextRates>,
    /// The rates of other service tiers; a tier that is missing is not priced.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    #[schema(value_type = BTreeMap<String, TierRates>)]
    pub service_tiers: BTreeMap<ServiceTier, TierRates>,
    /// The kind of request that the model answers; absent: any.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mode: Option<Mode>,
    /// The most input tokens that the model takes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_input_tokens: Option<u64>,
    /// The most output tokens that the model makes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max_output_tokens: Option<u64>,
}

/// What of a usage has no price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Unpriced {
    /// The model has no rates for the service tier.
    ServiceTier(ServiceTier),
    /// The table that holds has no rate for the component.
    Component(Component),
}

impl Unpriced {
    /// As it stands in a refusal: "The model has no price for …".
    pub const fn name(self) -> &'static str {
        match self {
            Self::Component(component) => component.name(),
            Self::ServiceTier(ServiceTier::Standard) => "service tier standard",
            Self::ServiceTier(ServiceTier::Flex) => "service tier flex",
            Self::ServiceTier(ServiceTier::Balanced) => "service tier balanced",
            Self::ServiceTier(ServiceTier::Priority) => "service tier priority",
            Self::ServiceTier(ServiceTier::Ultrafast) => "service tier ultrafast",
            Self::ServiceTier(ServiceTier::Batch) => "service tier batch",
        }
    }
}

impl ModelRates {
    /// A model with one table: the same rates for every length of input, on the standard tier only.
    pub fn flat(provider: Name, model: impl Into<String>, rates: impl Into<Rates>) -> Self {
        Self {
            provider,
            model: model.into(),
            rates: rates.into(),
            contexts: Vec::new(),
            service_tiers: BTreeMap::new(),
            mode: None,
            max_input_tokens: None,
            max_output_tokens: None,
        }
    }

    /// The table that prices a request of so many input tokens. `None` if the tier has no rates.
    pub fn table(&self, tier: ServiceTier, input_tokens: u64) -> Option<&Rates> {
        let (rates, contexts) = self.tables(tier)?;
        let context = contexts.iter().rev().find(|context| input_tokens > context.above);
        Some(context.map_or(rates, |context| &context.rates))
    }

    /// The rates of a tier: up to the first context tier, and the context tiers.
    pub fn tables(&self, tier: ServiceTier) -> Option<(&Rates, &[ContextRates])> {
        if tier.is_standard() {
            return Some((&self.rates, &self.contexts));
        }
        self.service_tiers.get(&tier).map(|tier| (&tier.rates, tier.contexts.as_slice()))
    }

    /// The exact cost of a usage that a service tier served: one sum, not rounded.
    ///
    /// More of anything never costs less, since no rate of a card falls with the length of the input ([`Self::is_valid`]): the
    /// cost of the most that a call can use bounds its cost.
    ///
    /// # Errors
    /// [`Unpriced`]: the tier, or the first component that was used and has no rate.
    pub fn exact_cost_at(&self, tier: ServiceTier, usage: &Usage) -> Result<ExactCost, Unpriced> {
        let table = self.table(tier, usage.input_tokens()).ok_or(Unpriced::ServiceTier(tier))?;
        usage.counts().try_fold(ExactCost::ZERO, |sum, (component, count)| {
            let rate = table.get(&component).ok_or(Unpriced::Component(component))?;
            Ok(sum.plus(rate.times(count)))
        })
    }

    /// The exact cost of a usage on the standard tier.
    ///
    /// # Errors
    /// [`Unpriced::Component`]: the first component that was used and has no rate.
    pub fn exact_cost(&self, usage: &Usage) -> Result<ExactCost, Unpriced> {
        self.exact_cost_at(ServiceTier::Standard, usage)
    }

    /// May it stand on a rate card? It has a name and rates, thresholds rise, no rate falls with them, and the standard tier is
    /// where it belongs.
    pub fn is_valid(&self) -> bool {
        !self.model.is_empty()
            && !self.service_tiers.contains_key(&ServiceTier::Standard)
            && rises(&self.rates, &self.contexts)
            && self.service_tiers.values().all(TierRates::is_valid)
    }
}

impl TierRates {
    /// May it stand on a rate card? It has rates, thresholds rise, and no rate falls with them.
    pub fn is_valid(&self) -> bool {
        rises(&self.rates, &self.contexts)
    }
}

/// Are there rates, thresholds that rise, and no rate that falls with them?
fn rises(rates: &Rates, contexts: &[ContextRates]) -> bool {
    let mut below = (0, rates);
    !rates.is_empty()
        && contexts.iter().all(|context| {
            let rises = context.above > below.0 && no_rate_falls(below.1, &context.rates);
            below = (context.above, &context.rates);
            rises
        })
}

/// Does every component keep its rate or pay a higher one? One that is missing on either side is refused there, so it cannot
/// cost less.
fn no_rate_falls(below: &Rates, above: &Rates) -> bool {
    above.iter().all(|(component, rate)| below.get(component).is_none_or(|lower| lower <= rate))
}

#[cfg(test)]
mod tests;
