//! Calls that the gateway sends: their holds, which it alone ends, and the attempts that are made under them.

use modelfaucet_schema::event::{
    AttemptProgressed, AttemptStarted, Balance, Call, CallOutcome, DisconnectPolicy, DisconnectPolicySet, Endpoint,
    Event, Route,
};
use modelfaucet_schema::ids::{CredentialId, GatewayId, HoldId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;

use super::decide::{Context, Payment};
use super::rating::{self, Rounding};
use super::state::{FIRST_POLICY_VERSION, Sent};
use super::{
    BeginCall, CallEnding, Caller, Command, EndCall, Hold, MarkAttempt, Payer, RateCard, Rejection, StartAttempt,
    State, Wallet, budget, credential, hold, usage,
};

/// Grants the price of the bound, or as much of it as the wallet can pay, if that is at least the price of the smaller bound.
pub(super) fn begin(context: Context<'_>, begin: &BeginCall) -> Result<Vec<Event>, Rejection> {
    if !matches!(context.caller, Caller::Gateway(_)) {
        return Err(Rejection::Forbidden);
    }
    let payment = context.payment(begin.call.payer)?;
    let quote = usage::quote(context, &payment, &begin.call)?;
    hold::require_new(context, begin.hold_id, begin.expires_in)?;
    let way = Way { call: &quote.call, credential: begin.dispatch.credential, bound: &begin.dispatch.bound };
    require_key(context, &payment, way, quote.card, None)?;
    let tier = begin.call.service_tier;
    let price = |bound| rating::price(begin.call.route, quote.offer, tier, bound, &quote.rule, Rounding::Hold);
    let (requested, min) = (price(&begin.dispatch.bound)?.retail, price(&begin.min_bound)?.retail);
    let wish = hold::Wish { hold_id: begin.hold_id, requested, min, expires_in: begin.expires_in };
    let mut dispatch = begin.dispatch.clone();
    (dispatch.disconnect, dispatch.policy_version) = policy(context.state, &quote.call, dispatch.endpoint);
    hold::grant_to(context, payment, quote, wish, Some(Box::new(dispatch)))
}

/// Where an attempt goes.
#[derive(Clone, Copy)]
struct Way<'a> {
    call: &'a Call,
    credential: Option<CredentialId>,
    bound: &'a Usage,
}

/// The key of an attempt may be used, and its budget has enough left; `freed` is what the attempt before had set aside of which key's.
fn require_key(
    context: Context<'_>,
    payment: &Payment<'_>,
    way: Way<'_>,
    card: &RateCard,
    freed: Option<(CredentialId, Money)>,
) -> Result<(), Rejection> {
    let Some((id, key)) = credential::of_call(context, payment, way.call.route, way.credential)? else { return Ok(()) };
    let own = freed.filter(|(of, _)| *of == id).map_or(Money::ZERO, |(_, reserved)| reserved);
    let cost = budget::cost(card, way.call, way.call.service_tier, way.bound);
    budget::require_of_credential(context.state, (id, key.budget_limit), cost, own)
}

/// What happens when the client of a call has gone, and the version of the table that says so.
fn policy(state: &State, call: &Call, endpoint: Endpoint) -> (DisconnectPolicy, u32) {
    let key = (call.provider.clone(), endpoint, call.route);
    let policy = state.disconnect_policies.get(&key).copied().unwrap_or_default();
    (policy, state.disconnect_version.get(&()).copied().unwrap_or(FIRST_POLICY_VERSION))
}

/// An open hold of the gateway that asks, and what is known of its call.
fn own_call(context: Context<'_>, hold_id: HoldId, gateway: GatewayId) -> Result<(&Hold, &Wallet, &Sent), Rejection> {
    if !matches!(context.caller, Caller::Gateway(_)) {
        return Err(Rejection::Forbidden);
    }
    let (hold, wallet, _, open) = hold::own_hold(context, hold_id)?;
    let ours = open && hold.gateway == Some(gateway) && context.at < hold.expires_at;
    match &hold.sent {
        Some(sent) if ours => Ok((hold, wallet, sent)),
        _ => Err(Rejection::HoldNotFound),
    }
}

/// Lets the next attempt begin: the hold is priced anew for where it goes, and takes the place of the one before in the same event.
/// Whoever may no longer begin a call may not begin an attempt either.
pub(super) fn start_attempt(context: Context<'_>, start: &StartAttempt) -> Result<Vec<Event>, Rejection> {
    let (hold, wallet, sent) = own_call(context, start.hold_id, start.gateway)?;
    if start.number != sent.number().saturating_add(1) {
        return Err(Rejection::AttemptOutOfOrder);
    }
    let session = hold.call.session_id.ok_or(Rejection::HoldNotFound)?;
    let payment = context.payment(Payer::Session(session))?;
    let call = Call {
        route: start.route,
        provider: start.provider.clone(),
        model: start.model.clone(),
        service_tier: start.service_tier,
        ..hold.call.as_ref().clone()
    };
    let card = context.state.cards.get(&hold.rate_card_id).ok_or(Rejection::NoRateCard)?;
    let way = Way { call: &call, credential: start.credential, bound: &start.bound };
    require_key(context, &payment, way, card, hold.credential)?;
    let offer = card.offer(&call.provider, &call.model);
    let price = |bound| rating::price(call.route, offer, call.service_tier, bound, &hold.price_rule, Rounding::Hold);
    let (requested, min) = (price(&start.bound)?.retail, price(&start.min_bound)?.retail);
    let freed = Wallet { balance: hold::without_hold(wallet.balance, hold.amount)?, ..*wallet };
    let feature = call.feature_key.as_ref().and_then(|key| context.state.features.get(&(call.app_id, key.clone())));
    let own = if feature.map(|feature| feature.feature_id) == hold.feature_id { hold.amount } else { Money::ZERO };
    let amount = hold::grant((&freed, start.route), requested, min, budget::of_feature(context.state, feature, own))?;
    let held = freed.balance.held.checked_add(amount).ok_or(Rejection::AmountOutOfRange)?;
    let (disconnect, policy_version) = policy(context.state, &call, sent.endpoint);
    let event = AttemptStarted {
        hold_id: start.hold_id,
        wallet_id: hold.wallet_id,
        number: start.number,
        ended: start.ended.clone(),
        call,
        bound: start.bound,
        origin: start.origin.clone(),
        credential: start.credential,
        disconnect,
        policy_version,
        requested,
        replaced: hold.amount,
        amount,
        balance: Balance { held, ..freed.balance },
    };
    Ok(vec![event.into()])
}

/// Writes down how far the attempt that runs has come. Marks only rise.
pub(super) fn mark_attempt(context: Context<'_>, mark: &MarkAttempt) -> Result<Vec<Event>, Rejection> {
    let (hold, _, sent) = own_call(context, mark.hold_id, mark.gateway)?;
    let rises = sent.mark.is_none_or(|last| {
        mark.usage.input_tokens() >= last.input_tokens() && mark.usage.output_tokens() >= last.output_tokens()
    });
    if mark.number != sent.number() || !rises {
        return Err(Rejection::AttemptOutOfOrder);
    }
    let event = AttemptProgressed {
        hold_id: mark.hold_id,
        wallet_id: hold.wallet_id,
        number: mark.number,
        bytes: mark.bytes,
        usage: mark.usage,
        counter: mark.counter,
    };
    Ok(vec![event.into()])
}

/// Charges or releases. The caller is checked against the owner of the hold. Attempts that the log has already come before those that
/// the gateway names.
pub(super) fn end(context: Context<'_>, end: &EndCall) -> Result<Vec<Event>, Rejection> {
    if matches!(context.caller, Caller::Session(_) | Caller::Developer(..)) {
        return Err(Rejection::HoldNotFound);
    }
    let outcome = Some(Box::new(whole_outcome(context.state, end)));
    match &end.ending {
        CallEnding::Capture { usage, service_tier, served_model, provider_request_id } => {
            let used = hold::Used {
                usage,
                service_tier: *service_tier,
                model: served_model.as_deref(),
                provider_request_id: provider_request_id.as_deref(),
                occurred_at: None,
            };
            hold::capture(context, end.hold_id, used, outcome)
        }
        CallEnding::Release(reason) => hold::release(context, end.hold_id, *reason, outcome),
    }
}

fn whole_outcome(state: &State, end: &EndCall) -> CallOutcome {
    let hold = state.holds.get(&end.hold_id).or_else(|| state.expired_holds.get(&end.hold_id));
    let recorded = hold.and_then(|hold| hold.sent.as_ref()).map(|sent| sent.attempts.as_slice()).unwrap_or_default();
    // A gateway that does not know whether its next attempt is in the log names the one before again.
    let new = end.outcome.attempts.iter().filter(|attempt| !recorded.contains(attempt));
    CallOutcome { attempts: recorded.iter().chain(new).cloned().collect(), ..end.outcome.clone() }
}

/// Sets what happens when clients leave; calls that run keep what their hold says.
pub(super) fn set_disconnect_policy(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::SetDisconnectPolicy { provider, endpoint, route, policy, reason } = command else {
        return Err(Rejection::Forbidden);
    };
    context.require_admin()?;
    if *route == Route::Local {
        return Err(Rejection::NothingToCut);
    }
    let version = context.state.disconnect_version.get(&()).copied().unwrap_or(FIRST_POLICY_VERSION);
    let event = DisconnectPolicySet {
        provider: provider.clone(),
        endpoint: *endpoint,
        route: *route,
        policy: *policy,
        version: version.saturating_add(1),
        reason: reason.clone(),
    };
    Ok(vec![event.into()])
}
