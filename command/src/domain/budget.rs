//! Budgets: how much calls with a provider key, or calls of a feature, may come to. Open holds count. Kept in the same decision that
//! places a hold, so that many calls at once cannot pass them together.
//!
//! A feature's budget counts what users are charged. A key's counts what its calls cost at the provider, by the rate card of the hold:
//! the provider bills the key's owner, and we see no invoice.

use modelfaucet_schema::event::{Call, ServiceTier};
use modelfaucet_schema::ids::{CredentialId, FeatureId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use super::{Feature, RateCard, Rejection, State};

/// The member of a feature's policy that limits it.
const POLICY_MEMBER: &str = "budget_limit_usd";

/// What a budget limits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum BudgetOf {
    /// A provider key.
    Credential(CredentialId),
    /// A feature.
    Feature(FeatureId),
}

/// What was used of a budget, whether there is a limit or not: one may be set later.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spend {
    /// By calls that have ended.
    pub spent: Money,
    /// By open holds.
    pub held: Money,
}

impl Spend {
    /// What is left of a limit if so much of what is held were free; never negative.
    fn left(self, limit: Money, freed: Money) -> Money {
        let held = self.held.checked_sub(freed).unwrap_or(Money::ZERO).max(Money::ZERO);
        let used = self.spent.checked_add(held).unwrap_or(Money::MAX);
        limit.checked_sub(used).unwrap_or(Money::ZERO).max(Money::ZERO)
    }

    /// A hold of this much was placed.
    pub(super) fn hold(&mut self, amount: Money) {
        self.held = self.held.checked_add(amount).unwrap_or(Money::MAX);
    }

    /// A hold of this much has ended, and came to that.
    pub(super) fn end(&mut self, held: Money, came_to: Money) {
        self.held = self.held.checked_sub(held).unwrap_or(Money::ZERO).max(Money::ZERO);
        self.spent = self.spent.checked_add(came_to).unwrap_or(Money::MAX);
    }
}

/// The limit that a policy sets.
///
/// # Errors
/// [`Rejection::InvalidBudget`] for a member that is no amount: a limit that nobody understands must not be ignored.
pub(super) fn of_policy(policy: &Map<String, Value>) -> Result<Option<Money>, Rejection> {
    match policy.get(POLICY_MEMBER) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Money::parse_request(text).map(Some).map_err(|_| Rejection::InvalidBudget),
        Some(_) => Err(Rejection::InvalidBudget),
    }
}

/// What is left of a feature's budget if so much of what is held were free; `None` where it has none.
pub(super) fn of_feature(state: &State, feature: Option<&Feature>, freed: Money) -> Option<Money> {
    let feature = feature?;
    let limit = feature.budget_limit?;
    Some(state.spend.get(&BudgetOf::Feature(feature.feature_id)).copied().unwrap_or_default().left(limit, freed))
}

/// `required` fits into what is left.
///
/// # Errors
/// [`Rejection::BudgetExceeded`]
pub(super) fn require(left: Option<Money>, required: Money) -> Result<(), Rejection> {
    match left {
        Some(available) if available < required => Err(Rejection::BudgetExceeded { available, required }),
        _ => Ok(()),
    }
}

/// A call that costs so much fits into the budget of the key that makes it, if so much of what is held were free.
///
/// # Errors
/// [`Rejection::BudgetExceeded`]; [`Rejection::BudgetNotPriced`] where the key has a budget and the model no price.
pub(super) fn require_of_credential(
    state: &State,
    (id, limit): (CredentialId, Option<Money>),
    cost: Option<Money>,
    freed: Money,
) -> Result<(), Rejection> {
    let Some(limit) = limit else { return Ok(()) };
    let cost = cost.ok_or(Rejection::BudgetNotPriced)?;
    let spend = state.spend.get(&BudgetOf::Credential(id)).copied().unwrap_or_default();
    require(Some(spend.left(limit, freed)), cost)
}

/// What a usage costs at the provider by a rate card, rounded up: by the offer of the call's provider, else by the only one that there is.
pub(super) fn cost(card: &RateCard, call: &Call, tier: ServiceTier, usage: &Usage) -> Option<Money> {
    let named = card.offer(&call.provider, &call.model);
    let offer = named.or(match card.offers(&call.model) {
        [only] => Some(only),
        _ => None,
    })?;
    offer.exact_cost_at(tier, usage).ok()?.round_up()
}
