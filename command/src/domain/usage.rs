//! Usage: what a call is priced by, and calls that are recorded without a hold.

use modelfaucet_schema::event::{
    Call, Event, ModelRates, PriceRule, Pricing, RateCardId, Rating, Route, ServiceTier, UsageRecorded,
};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::usage::Usage;

use super::decide::{Context, Payment};
use super::rating::{self, Parties, Price, Rounding, Split};
use super::{CallRequest, Command, Feature, OnShortfall, RateCard, Rejection, State, Wallet, budget, hold};

/// How a call will be priced.
pub(super) struct Quote<'a> {
    pub(super) call: Call,
    pub(super) rate_card_id: RateCardId,
    pub(super) offer: Option<&'a ModelRates>,
    pub(super) rule: PriceRule,
    pub(super) card: &'a RateCard,
    pub(super) feature: Option<&'a Feature>,
}

/// Finds feature, rate card and offer. A model that the card does not have is refused, never free; on the user's own key or
/// machine the provider's price is not ours, so no offer is needed.
pub(super) fn quote<'a>(
    context: Context<'a>,
    payment: &Payment<'a>,
    call: &CallRequest,
) -> Result<Quote<'a>, Rejection> {
    let state = context.state;
    let default_key = payment.session.and_then(|(_, session)| session.feature_key.as_deref());
    let feature_key = call.feature_key.as_deref().or(default_key);
    let feature = match feature_key {
        None => None,
        Some(key) => {
            let feature = state.features.get(&(payment.wallet.app_id, key.to_owned()));
            Some(feature.ok_or(Rejection::FeatureNotFound)?)
        }
    };
    let pricing = feature.map_or_else(Pricing::default, |feature| feature.pricing);
    let rate_card_id = *state.active_card.get(&()).ok_or(Rejection::NoRateCard)?;
    let card = state.cards.get(&rate_card_id).ok_or(Rejection::NoRateCard)?;
    let offer = match (&call.provider, card.offers(&call.model)) {
        (Some(provider), _) => card.offer(provider, &call.model),
        (None, []) => None,
        (None, [offer]) => Some(offer),
        (None, _) => return Err(Rejection::ProviderAmbiguous),
    };
    let our_cost = matches!(call.route, Route::Platform | Route::DeveloperKey);
    let provider = match (&call.provider, offer) {
        (_, None) if our_cost => return Err(Rejection::ModelNotFound),
        (Some(provider), _) => provider.clone(),
        (None, Some(offer)) => offer.provider.clone(),
        (None, None) => return Err(Rejection::ProviderAmbiguous),
    };
    Ok(Quote {
        call: Call {
            app_id: payment.wallet.app_id,
            session_id: payment.session.map(|(id, _)| id),
            feature_key: feature_key.map(str::to_owned),
            route: call.route,
            provider,
            model: call.model.clone(),
            service_tier: call.service_tier,
        },
        rate_card_id,
        offer,
        rule: PriceRule {
            markup_bps: pricing.markup_bps,
            share_bps: State::share_of(payment.app, &pricing),
            fee_usd: pricing.fee_usd,
        },
        card,
        feature,
    })
}

/// Charges a call that has happened without a hold.
pub(super) fn record(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::RecordUsage { usage_id, call, usage, on_shortfall, provider_request_id, occurred_at } = command else {
        return Err(Rejection::Forbidden);
    };
    let payment = context.payment(call.payer)?;
    context.require_past(*occurred_at)?;
    let quote = quote(context, &payment, call)?;
    let price = rating::price(call.route, quote.offer, call.service_tier, usage, &quote.rule, Rounding::Charge)?;
    budget::require(budget::of_feature(context.state, quote.feature, Money::ZERO), price.retail)?;
    let payable = payment.wallet.spendable_on(call.route);
    if price.retail > payable && *on_shortfall == OnShortfall::Refuse {
        return Err(cannot_pay(payment.wallet, call.route, price.retail));
    }
    let split = rating::split(call.route, &price, &quote.rule, price.retail, payable, payment.wallet.balance.promo);
    let parties =
        Parties { wallet: payment.wallet_id, developer: payment.app.developer_id, provider: &quote.call.provider };
    let entry = rating::entry(call.route, &price, &split, parties)?;
    let event = UsageRecorded {
        usage_id: *usage_id,
        wallet_id: payment.wallet_id,
        rating: rating(quote.rate_card_id, quote.rule, call.service_tier, usage, &price, &split),
        call: quote.call,
        provider_request_id: provider_request_id.clone(),
        occurred_at: *occurred_at,
        entry,
        balance: hold::charged(payment.wallet.balance, &split)?,
    };
    Ok(vec![event.into()])
}

pub(super) fn rating(
    rate_card_id: RateCardId,
    price_rule: PriceRule,
    service_tier: ServiceTier,
    usage: &Usage,
    price: &Price,
    split: &Split,
) -> Rating {
    Rating {
        rate_card_id,
        price_rule,
        usage: *usage,
        service_tier,
        served_model: None,
        exact_cost: price.exact_cost,
        upstream: price.upstream,
        retail: price.retail,
        charge: split.charge,
        developer: split.developer,
        unrecovered: split.unrecovered,
        promo: split.promo,
        receivable: split.receivable,
    }
}

/// Why a wallet cannot pay: for good, or only until its open holds have ended.
pub(super) fn cannot_pay(wallet: &Wallet, route: Route, required: Money) -> Rejection {
    let available = wallet.spendable_on(route);
    if wallet.spendable_without_holds(route) >= required {
        Rejection::InFlightHolds { available, required }
    } else {
        Rejection::InsufficientBalance { available, required }
    }
}
