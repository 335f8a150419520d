//! What served a call: providers answer with another model or service tier than was asked for, and bill by what answered. Pure.

use std::sync::Arc;

use modelfaucet_schema::event::{Anomaly, ModelRates, ServiceTier};

use crate::plan::Target;
use crate::read_model::RateCard;
use crate::relay::Said;

/// What prices an answer.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Served {
    /// The price list's entry of the model that answered; absent: the one of the target.
    pub(crate) offer: Option<Arc<ModelRates>>,
    /// The service tier that answered; absent: one without a price, so that nothing of the answer prices it.
    pub(crate) tier: Option<ServiceTier>,
    /// What has no price, and is charged as it was held for.
    pub(crate) anomalies: Vec<Anomaly>,
}

/// Finds the prices of what answered. An answer that names no model or tier was served as it was asked for; `asked` is that tier.
pub(crate) fn served(said: &Said, target: &Target, card: Option<&RateCard>, asked: ServiceTier) -> Served {
    let mut served = Served::default();
    if let Some(model) = said.model.as_deref().filter(|model| !is_version_of(model, &target.model)) {
        served.offer = card.and_then(|card| card.offer(&target.provider, model)).cloned();
        if served.offer.is_none() {
            served.anomalies.push(Anomaly::ServedModelUnpriced);
        }
    }
    let tier = match said.service_tier.as_deref() {
        None => Some(asked),
        Some("default" | "standard") => Some(ServiceTier::Standard),
        Some("flex") => Some(ServiceTier::Flex),
        Some("priority") => Some(ServiceTier::Priority),
        Some(_) => None,
    };
    let offer = served.offer.as_ref().or(target.offer.as_ref());
    served.tier = tier.filter(|tier| offer.is_some_and(|offer| offer.tables(*tier).is_some()));
    if served.tier.is_none() {
        served.offer = None;
        served.anomalies.push(Anomaly::ServedTierUnpriced);
    }
    served
}

/// Is it the model itself, with or without a provider's prefix and the date of its version?
fn is_version_of(served: &str, asked: &str) -> bool {
    let bare = |name: &str| name.rsplit('/').next().unwrap_or_default().to_owned();
    let (served, asked) = (bare(served), bare(asked));
    let is_date = |text: &str| text.len() >= 4 && text.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-');
    match served.strip_prefix(&asked) {
        Some("") => true,
        Some(rest) => rest.strip_prefix(['-', '@']).is_some_and(is_date),
        None => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::usage::Convention;
    use modelfaucet_schema::event::{Route, TierRates};
    use modelfaucet_schema::rate::Rate;
    use modelfaucet_schema::usage::Component;

    fn offer(model: &str, tiers: &[ServiceTier]) -> ModelRates {
        let rates = || [(Component::InputUncached, Rate::per_million("1").unwrap())].into();
        let mut offer = ModelRates::flat("openai".parse().unwrap(), model, rates());
        let tables = |tier: &ServiceTier| (*tier, TierRates { rates: rates(), contexts: vec![] });
        offer.service_tiers = tiers.iter().map(tables).collect();
        offer
    }

    fn serve(
        model: Option<&str>,
        tier: Option<&str>,
        asked: ServiceTier,
    ) -> (Option<String>, Option<ServiceTier>, Vec<Anomaly>) {
        let small = offer("small", &[ServiceTier::Flex, ServiceTier::Priority]);
        let card = RateCard::new([small.clone(), offer("large", &[])]);
        let target = Target {
            route: Route::Platform,
            provider: "openai".parse().unwrap(),
            model: "small".into(),
            offer: Some(Arc::new(small)),
            tiers: vec![ServiceTier::Standard],
            origin: "".into(),
            credential: None,
            convention: Convention::Inclusive,
        };
        let said = Said { model: model.map(str::to_owned), service_tier: tier.map(str::to_owned), ..Said::default() };
        let served = served(&said, &target, Some(&card), asked);
        (served.offer.map(|offer| offer.model.clone()), served.tier, served.anomalies)
    }

    #[test]
    fn what_answered_is_what_is_priced() {
        use Anomaly::{ServedModelUnpriced, ServedTierUnpriced};
        use ServiceTier::{Flex, Priority, Standard};
        let large = || Some("large".to_owned());
        for (model, tier, asked, expected) in [
            (None, None, Standard, (None, Some(Standard), vec![])),
            (None, None, Priority, (None, Some(Priority), vec![])),
            (Some("small"), Some("default"), Priority, (None, Some(Standard), vec![])),
            (Some("small-2024-07-18"), Some("flex"), Standard, (None, Some(Flex), vec![])),
            (Some("openai/small"), Some("priority"), Standard, (None, Some(Priority), vec![])),
            (Some("large"), None, Standard, (large(), Some(Standard), vec![])),
            (Some("large"), Some("priority"), Priority, (None, None, vec![ServedTierUnpriced])),
            (Some("small-turbo"), None, Standard, (None, Some(Standard), vec![ServedModelUnpriced])),
            (Some("small"), Some("scale"), Standard, (None, None, vec![ServedTierUnpriced])),
        ] {
            assert_eq!(serve(model, tier, asked), expected, "{model:?} {tier:?}");
        }
    }
}
