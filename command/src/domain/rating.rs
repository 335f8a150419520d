//! Rating: from a usage to a price, and from a price to postings. Formulas and rounding: docs/ACCOUNTING.md, "Rounding".
//!
//! U = the exact cost rounded once, half to even · R = U + ⌊U × markup⌋ · D = ⌊(R − U) × share⌋ · the platform keeps R − U − D.

use modelfaucet_schema::account::{Account, AccountCode, Name};
use modelfaucet_schema::entry::{EntryBuilder, JournalEntry};
use modelfaucet_schema::event::{ModelRates, PriceRule, Route, ServiceTier};
use modelfaucet_schema::ids::{DeveloperId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::rate::ExactCost;
use modelfaucet_schema::usage::Usage;

use super::Rejection;

/// The price of a usage before it meets a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Price {
    /// The unrounded cost.
    pub exact_cost: ExactCost,
    /// U: the provider's cost.
    pub upstream: Money,
    /// R: the retail price.
    pub retail: Money,
}

/// Which side of a unit the cost is rounded to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rounding {
    /// Half to even: what is charged.
    Charge,
    /// Up: what is held.
    Hold,
}

/// Prices a usage that a service tier serves. On the user's own key or machine the price is the fee and the cost is nobody's here.
///
/// # Errors
/// [`Rejection::ModelNotPriced`] for a service tier or component without a rate, [`Rejection::ModelNotFound`] where a price list is needed and
/// has no offer, [`Rejection::AmountOutOfRange`].
pub fn price(
    route: Route,
    offer: Option<&ModelRates>,
    service_tier: ServiceTier,
    usage: &Usage,
    rule: &PriceRule,
    rounding: Rounding,
) -> Result<Price, Rejection> {
    if matches!(route, Route::Byok | Route::Local) {
        return Ok(Price { exact_cost: ExactCost::ZERO, upstream: Money::ZERO, retail: rule.fee_usd });
    }
    let offer = offer.ok_or(Rejection::ModelNotFound)?;
    let exact_cost = offer
        .exact_cost_at(service_tier, usage)
        .map_err(|unpriced| Rejection::ModelNotPriced { component: unpriced.name() })?;
    let upstream = match rounding {
        Rounding::Charge => exact_cost.round(),
        Rounding::Hold => exact_cost.round_up(),
    };
    let upstream = upstream.ok_or(Rejection::AmountOutOfRange)?;
    let retail = rule.retail(upstream).ok_or(Rejection::AmountOutOfRange)?;
    Ok(Price { exact_cost, upstream, retail })
}

/// Who bears what of a price.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Split {
    /// What the customer is charged.
    pub charge: Money,
    /// D: the developer's share.
    pub developer: Money,
    /// L: cost that the charge does not cover, or, where the developer's key paid, that the wallet did not pay.
    pub unrecovered: Money,
    /// The part of the charge paid with promotional credit.
    pub promo: Money,
    /// The part of the charge that becomes a receivable.
    pub receivable: Money,
}

/// Splits a price of which the customer bears at most `cap`: the wallet pays `payable` of it, promotional credit first, and the
/// rest of the charge becomes a receivable. On the developer's own key `payable` is paid credit alone ([`super::Wallet::spendable_on`]).
///
/// A developer earns on what was paid, never on a receivable or a loss: otherwise reporting calls that nobody pays for would
/// mint money for who reports them.
pub fn split(route: Route, price: &Price, rule: &PriceRule, cap: Money, payable: Money, promo_credit: Money) -> Split {
    let charge = price.retail.min(cap);
    let less = |a: Money, b: Money| a.checked_sub(b).unwrap_or(Money::ZERO).max(Money::ZERO);
    let paid = charge.min(payable);
    let margin = less(paid, price.upstream);
    let borne = if route == Route::DeveloperKey { paid } else { charge };
    Split {
        charge,
        developer: margin.share_bps(rule.share_bps).unwrap_or(Money::ZERO),
        unrecovered: less(price.upstream, borne),
        promo: if route == Route::DeveloperKey { Money::ZERO } else { paid.min(promo_credit) },
        receivable: less(charge, paid),
    }
}

/// Whose accounts a charge touches.
#[derive(Clone, Copy, Debug)]
pub struct Parties<'a> {
    /// The customer's wallet.
    pub wallet: WalletId,
    /// The app's developer.
    pub developer: DeveloperId,
    /// Who bills for the call.
    pub provider: &'a Name,
}

/// The journal entry of a charge (docs/ACCOUNTING.md, "Journal entry of each event").
///
/// # Errors
/// [`Rejection::AmountOutOfRange`] if a sum leaves the range of money.
pub fn entry(route: Route, price: &Price, split: &Split, parties: Parties<'_>) -> Result<JournalEntry, Rejection> {
    let out_of_range = || Rejection::AmountOutOfRange;
    let house = Account::house;
    let paid = [split.promo, split.receivable]
        .iter()
        .try_fold(split.charge, |rest, part| rest.checked_sub(*part))
        .ok_or_else(out_of_range)?;
    let borne = price.upstream.checked_sub(split.unrecovered).ok_or_else(out_of_range)?;
    let owed_to_developer = match route {
        Route::DeveloperKey => borne.checked_add(split.developer).ok_or_else(out_of_range)?,
        Route::Platform | Route::Byok | Route::Local => split.developer,
    };
    // Only where our own key paid is the rest of the cost our loss.
    let (income, cost, accrued, lost) = match route {
        Route::Platform => (AccountCode::UsagePlatform, AccountCode::Upstream, price.upstream, split.unrecovered),
        Route::DeveloperKey => {
            (AccountCode::UsageDeveloperKey, AccountCode::UpstreamReimbursed, Money::ZERO, Money::ZERO)
        }
        Route::Byok => (AccountCode::FeesByok, AccountCode::Upstream, Money::ZERO, Money::ZERO),
        Route::Local => (AccountCode::FeesLocal, AccountCode::Upstream, Money::ZERO, Money::ZERO),
    };
    EntryBuilder::new()
        .debit(Account::promo(parties.wallet), split.promo)
        .debit(Account::paid(parties.wallet), paid)
        .debit(Account::receivable(parties.wallet), split.receivable)
        .credit(house(income), split.charge)
        .debit(house(cost), borne)
        .debit(house(AccountCode::Unrecovered), lost)
        .credit(Account::accrued(parties.provider.clone()), accrued)
        .debit(house(AccountCode::ChannelShare), split.developer)
        .credit(Account::developer(parties.developer), owed_to_developer)
        .debit(house(AccountCode::ContraPromo), split.promo)
        .credit(house(AccountCode::DeferredPromoCost), split.promo)
        .build()
        .map_err(|_| out_of_range())
}
