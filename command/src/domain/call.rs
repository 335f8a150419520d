//! Calls that the gateway sends: their holds, which it alone ends.

use modelfaucet_schema::event::Event;

use super::decide::Context;
use super::rating::{self, Rounding};
use super::{BeginCall, CallEnding, Caller, EndCall, Rejection, budget, credential, hold, usage};

/// Grants the price of the bound, or as much of it as the wallet can pay, if that is at least the price of the smaller bound.
pub(super) fn begin(context: Context<'_>, begin: &BeginCall) -> Result<Vec<Event>, Rejection> {
    if !matches!(context.caller, Caller::Gateway(_)) {
        return Err(Rejection::Forbidden);
    }
    let payment = context.payment(begin.call.payer)?;
    let quote = usage::quote(context, &payment, &begin.call)?;
    hold::require_new(context, begin.hold_id, begin.expires_in)?;
    let key = credential::of_call(context, &payment, begin.call.route, begin.dispatch.credential_id)?;
    if let Some((id, key)) = key {
        let cost = budget::cost(quote.card, &quote.call, begin.call.service_tier, &begin.dispatch.bound);
        budget::require_of_credential(context.state, id, key.budget_limit, cost)?;
    }
    let tier = begin.call.service_tier;
    let price = |bound| rating::price(begin.call.route, quote.offer, tier, bound, &quote.rule, Rounding::Hold);
    let (requested, min) = (price(&begin.dispatch.bound)?.retail, price(&begin.min_bound)?.retail);
    let wish = hold::Wish { hold_id: begin.hold_id, requested, min, expires_in: begin.expires_in };
    hold::grant_to(context, payment, quote, wish, Some(Box::new(begin.dispatch.clone())))
}

/// Charges or releases. The caller is checked against the owner of the hold.
pub(super) fn end(context: Context<'_>, end: &EndCall) -> Result<Vec<Event>, Rejection> {
    if matches!(context.caller, Caller::Session(_) | Caller::Developer(..)) {
        return Err(Rejection::HoldNotFound);
    }
    let outcome = Some(Box::new(end.outcome.clone()));
    match &end.ending {
        CallEnding::Capture { usage, provider_request_id } => {
            hold::capture(context, end.hold_id, usage, None, provider_request_id.as_deref(), None, outcome)
        }
        CallEnding::Release(reason) => hold::release(context, end.hold_id, *reason, outcome),
    }
}
