//! Holds: funds set aside before a provider is called, and their one ending.

use std::time::Duration;

use modelfaucet_schema::event::{
    Balance, CallOutcome, Dispatch, Event, HoldCaptured, HoldExpired, HoldPlaced, HoldReleased, LateUsageCaptured,
    Rating, ReleaseReason, Route, ServiceTier,
};
use modelfaucet_schema::ids::HoldId;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::usage::Usage;

use super::decide::{Context, Payment};
use super::rating::{self, Parties, Price, Rounding, Split};
use super::usage::{self, Quote};
use super::{App, Caller, Command, Hold, HoldAmount, Rejection, State, Wallet, budget};

/// The longest time a hold may stay open.
const MAX_HOLD: Duration = Duration::from_secs(24 * 3_600);

pub(super) fn place(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::PlaceHold { hold_id, call, amount, min_amount, expires_in } = command else {
        return Err(Rejection::Forbidden);
    };
    let payment = context.payment(call.payer)?;
    let quote = usage::quote(context, &payment, call)?;
    require_new(context, *hold_id, *expires_in)?;
    let requested = match amount {
        HoldAmount::Fixed(amount) => *amount,
        HoldAmount::Bound(bound) => {
            rating::price(call.route, quote.offer, call.service_tier, bound, &quote.rule, Rounding::Hold)?.retail
        }
    };
    let wish = Wish { hold_id: *hold_id, requested, min: min_amount.unwrap_or(requested), expires_in: *expires_in };
    grant_to(context, payment, quote, wish, None)
}

/// The hold that somebody wants.
#[derive(Clone, Copy)]
pub(super) struct Wish {
    pub(super) hold_id: HoldId,
    pub(super) requested: Money,
    pub(super) min: Money,
    pub(super) expires_in: Duration,
}

/// The hold is new, and its time within bounds.
pub(super) fn require_new(context: Context<'_>, hold_id: HoldId, expires_in: Duration) -> Result<(), Rejection> {
    if expires_in < Duration::from_secs(1) || expires_in > MAX_HOLD {
        return Err(Rejection::InvalidDeadline);
    }
    if context.state.holds.contains(&hold_id) || context.state.expired_holds.contains(&hold_id) {
        return Err(Rejection::AlreadyExists);
    }
    Ok(())
}

/// Places a hold, which is new, of as much as can be granted.
pub(super) fn grant_to(
    context: Context<'_>,
    payment: Payment<'_>,
    quote: Quote<'_>,
    wish: Wish,
    dispatch: Option<Box<Dispatch>>,
) -> Result<Vec<Event>, Rejection> {
    let Wish { hold_id, requested, min, expires_in } = wish;
    let budget = budget::of_feature(context.state, quote.feature, Money::ZERO);
    let granted = grant((payment.wallet, quote.call.route), requested, min, budget)?;
    let held = payment.wallet.balance.held.checked_add(granted).ok_or(Rejection::AmountOutOfRange)?;
    let event = HoldPlaced {
        hold_id,
        wallet_id: payment.wallet_id,
        call: quote.call,
        requested,
        amount: granted,
        rate_card_id: quote.rate_card_id,
        price_rule: quote.rule,
        expires_at: context.at.plus(expires_in),
        dispatch,
        balance: Balance { held, ..payment.wallet.balance },
    };
    Ok(vec![event.into()])
}

/// As much of `requested` as the budget has left, if there is one, and the wallet can pay on the route, if that is at least `min`.
pub(super) fn grant(
    (wallet, route): (&Wallet, Route),
    requested: Money,
    min: Money,
    budget: Option<Money>,
) -> Result<Money, Rejection> {
    // A negative hold would add to what can be spent.
    if requested.is_negative() {
        return Err(Rejection::AmountOutOfRange);
    }
    let required = min.min(requested);
    budget::require(budget, required)?;
    let granted = requested.min(budget.unwrap_or(requested)).min(wallet.spendable_on(route));
    if granted >= required {
        return Ok(granted);
    }
    Err(usage::cannot_pay(wallet, route, required))
}

/// A hold of the caller, open or expired.
pub(super) fn own_hold<'a>(
    context: Context<'a>,
    hold_id: HoldId,
) -> Result<(&'a Hold, &'a Wallet, &'a App, bool), Rejection> {
    let state: &'a State = context.state;
    let (hold, open) = match (state.holds.get(&hold_id), state.expired_holds.get(&hold_id)) {
        (Some(hold), _) => (hold, true),
        (None, Some(hold)) => (hold, false),
        (None, None) => return Err(Rejection::HoldNotFound),
    };
    let wallet = state.wallets.get(&hold.wallet_id).ok_or(Rejection::HoldNotFound)?;
    let app = state.apps.get(&wallet.app_id).ok_or(Rejection::HoldNotFound)?;
    match context.caller {
        // A session that ended after its hold was placed may still end the hold: the provider has been called.
        Caller::Session(own) if hold.call.session_id == Some(own) && hold.gateway.is_none() => {}
        Caller::Gateway(own) if hold.call.session_id == Some(own) && hold.gateway.is_some() => {}
        Caller::Session(_) | Caller::Gateway(_) | Caller::Public => return Err(Rejection::HoldNotFound),
        // Whoever could give a gateway's hold back amid the call could make the call free.
        Caller::Developer(..) if hold.gateway.is_some() => return Err(Rejection::HoldNotFound),
        _ => context.require_developer(app.developer_id, Rejection::HoldNotFound)?,
    }
    Ok((hold, wallet, app, open))
}

/// What a call used, and what served it.
#[derive(Clone, Copy)]
pub(super) struct Used<'a> {
    pub(super) usage: &'a Usage,
    /// The service tier that served it; absent: the one that was held for.
    pub(super) service_tier: Option<ServiceTier>,
    /// The model that served it; absent, or without a price: the one that was held for.
    pub(super) model: Option<&'a str>,
    pub(super) provider_request_id: Option<&'a str>,
    pub(super) occurred_at: Option<Timestamp>,
}

/// Ends a hold with what the call really used. An expired hold is charged as far as the wallet can pay.
pub(super) fn capture(
    context: Context<'_>,
    hold_id: HoldId,
    used: Used<'_>,
    outcome: Option<Box<CallOutcome>>,
) -> Result<Vec<Event>, Rejection> {
    let (hold, wallet, app, open) = own_hold(context, hold_id)?;
    let occurred_at = used.occurred_at;
    context.require_past(occurred_at)?;
    let (served, price) = price_of(context.state, hold, used)?;
    let parties = Parties { wallet: hold.wallet_id, developer: app.developer_id, provider: &hold.call.provider };
    let provider_request_id = used.provider_request_id.map(str::to_owned);
    if open && context.at < hold.expires_at {
        // The hold, unless an administrator has taken the paid credit behind it.
        let cap = hold.amount.min(wallet.spendable_without_holds(hold.call.route));
        let split = rating::split(hold.call.route, &price, &hold.price_rule, cap, cap, wallet.balance.promo);
        let event = HoldCaptured {
            hold_id,
            wallet_id: hold.wallet_id,
            call: hold.call.as_ref().clone(),
            held: hold.amount,
            rating: rating_of(hold, served, used.usage, &price, &split),
            over_hold: price.retail > hold.amount,
            provider_request_id,
            occurred_at,
            outcome,
            entry: rating::entry(hold.call.route, &price, &split, parties)?,
            balance: charged(without_hold(wallet.balance, hold.amount)?, &split)?,
        };
        return Ok(vec![event.into()]);
    }
    let mut events = Vec::with_capacity(2);
    let mut late = *wallet;
    if open {
        let expired = expired(hold_id, hold, wallet)?;
        late.balance = without_hold(wallet.balance, hold.amount)?;
        events.push(expired);
    }
    let cap = hold.amount.min(late.spendable_on(hold.call.route));
    let split = rating::split(hold.call.route, &price, &hold.price_rule, cap, cap, late.balance.promo);
    let event = LateUsageCaptured {
        hold_id,
        wallet_id: hold.wallet_id,
        call: hold.call.as_ref().clone(),
        rating: rating_of(hold, served, used.usage, &price, &split),
        provider_request_id,
        occurred_at,
        outcome,
        entry: rating::entry(hold.call.route, &price, &split, parties)?,
        balance: charged(late.balance, &split)?,
    };
    events.push(event.into());
    Ok(events)
}

pub(super) fn release(
    context: Context<'_>,
    hold_id: HoldId,
    reason: ReleaseReason,
    outcome: Option<Box<CallOutcome>>,
) -> Result<Vec<Event>, Rejection> {
    let (hold, wallet, _, open) = own_hold(context, hold_id)?;
    if !open {
        return Err(Rejection::HoldNotFound);
    }
    let balance = without_hold(wallet.balance, hold.amount)?;
    Ok(vec![HoldReleased { hold_id, wallet_id: hold.wallet_id, amount: hold.amount, reason, outcome, balance }.into()])
}

pub(super) fn expire(context: Context<'_>, hold_id: HoldId) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let hold = context.state.holds.get(&hold_id).ok_or(Rejection::HoldNotFound)?;
    let wallet = context.state.wallets.get(&hold.wallet_id).ok_or(Rejection::HoldNotFound)?;
    if hold.expires_at > context.at {
        return Err(Rejection::InvalidDeadline);
    }
    Ok(vec![expired(hold_id, hold, wallet)?])
}

fn expired(hold_id: HoldId, hold: &Hold, wallet: &Wallet) -> Result<Event, Rejection> {
    let balance = without_hold(wallet.balance, hold.amount)?;
    Ok(HoldExpired { hold_id, wallet_id: hold.wallet_id, amount: hold.amount, balance }.into())
}

/// What prices a call: the tier, and the model where it is another one than was held for.
#[derive(Clone, Copy)]
struct Served<'a> {
    tier: ServiceTier,
    model: Option<&'a str>,
}

fn price_of<'a>(state: &State, hold: &Hold, used: Used<'a>) -> Result<(Served<'a>, Price), Rejection> {
    let card = state.cards.get(&hold.rate_card_id).ok_or(Rejection::NoRateCard)?;
    let held_for = card.offer(&hold.call.provider, &hold.call.model);
    debug_assert!(
        held_for.is_some() || matches!(hold.call.route, Route::Byok | Route::Local),
        "a hold names an offer of its card"
    );
    let other = used.model.filter(|model| *model != hold.call.model);
    let other = other.and_then(|model| Some((model, card.offer(&hold.call.provider, model)?)));
    let tier = used.service_tier.unwrap_or(hold.call.service_tier);
    let (model, offer) = other.map_or((None, held_for), |(model, offer)| (Some(model), Some(offer)));
    let price = rating::price(hold.call.route, offer, tier, used.usage, &hold.price_rule, Rounding::Charge)?;
    Ok((Served { tier, model }, price))
}

fn rating_of(hold: &Hold, served: Served<'_>, usage: &Usage, price: &Price, split: &Split) -> Rating {
    let rating = usage::rating(hold.rate_card_id, hold.price_rule, served.tier, usage, price, split);
    Rating { served_model: served.model.map(str::to_owned), ..rating }
}

/// The balance without a hold of this amount.
pub(super) fn without_hold(balance: Balance, amount: Money) -> Result<Balance, Rejection> {
    Ok(Balance { held: balance.held.checked_sub(amount).ok_or(Rejection::AmountOutOfRange)?, ..balance })
}

/// The balance after a charge.
pub(super) fn charged(balance: Balance, split: &Split) -> Result<Balance, Rejection> {
    let out_of_range = || Rejection::AmountOutOfRange;
    let paid = split.charge.checked_sub(split.receivable).ok_or_else(out_of_range)?;
    Ok(Balance {
        posted: balance.posted.checked_sub(paid).ok_or_else(out_of_range)?,
        promo: balance.promo.checked_sub(split.promo).ok_or_else(out_of_range)?,
        held: balance.held,
    })
}
