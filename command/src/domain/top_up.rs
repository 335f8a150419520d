//! Top-ups: requested, then credited exactly once per payment, or failed.

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{
    Balance, Event, FreezeScope, TopUpCheckoutOpened, TopUpCredited, TopUpFailed, TopUpRequested,
};
use modelfaucet_schema::ids::{TopUpId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;

use super::decide::Context;
use super::{Caller, Command, Rejection, Wallet};

pub(super) fn request(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::RequestTopUp { top_up_id, wallet_id, amount, provider, reference } = command else {
        return Err(Rejection::Forbidden);
    };
    require_owner(context, *wallet_id)?;
    let wallet = context.state.wallets.get(wallet_id).ok_or(Rejection::WalletNotFound)?;
    if !amount.is_positive() {
        return Err(Rejection::ZeroAmount);
    }
    if !amount.is_whole_cents() {
        return Err(Rejection::NotWholeCents);
    }
    require_unfrozen(context, wallet)?;
    if context.state.top_ups.contains(top_up_id) {
        return Err(Rejection::AlreadyExists);
    }
    let event = TopUpRequested {
        top_up_id: *top_up_id,
        wallet_id: *wallet_id,
        amount: *amount,
        provider: provider.clone(),
        reference: reference.clone(),
    };
    Ok(vec![event.into()])
}

/// Credits a pending top-up. That a payment is credited once is the idempotency key's work: it is made of the payment's id, so it
/// holds for ever.
pub(super) fn credit(
    context: Context<'_>,
    top_up_id: TopUpId,
    payment: &str,
    amount: Option<Money>,
    occurred_at: Option<Timestamp>,
) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    let top_up = context.state.top_ups.get(&top_up_id).ok_or(Rejection::TopUpNotFound)?;
    let wallet = context.state.wallets.get(&top_up.wallet_id).ok_or(Rejection::WalletNotFound)?;
    context.require_not_frozen(&[Some(FreezeScope::TopUps)])?;
    context.require_past(occurred_at)?;
    if amount.is_some_and(|amount| amount != top_up.amount) {
        return Err(Rejection::AmountMismatch { requested: top_up.amount });
    }
    let posted = wallet.balance.posted.checked_add(top_up.amount).ok_or(Rejection::AmountOutOfRange)?;
    let entry = EntryBuilder::new()
        .debit(Account::house(AccountCode::StripeCharges), top_up.amount)
        .credit(Account::paid(top_up.wallet_id), top_up.amount)
        .build()
        .map_err(|_| Rejection::AmountOutOfRange)?;
    let event = TopUpCredited {
        top_up_id,
        wallet_id: top_up.wallet_id,
        amount: top_up.amount,
        provider: top_up.provider.clone(),
        payment: payment.to_owned(),
        occurred_at,
        entry,
        balance: Balance { posted, ..wallet.balance },
    };
    Ok(vec![event.into()])
}

/// Notes where the user can pay. Nothing moves.
pub(super) fn open_checkout(
    context: Context<'_>,
    top_up_id: TopUpId,
    reference: &str,
    url: &str,
) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    let top_up = context.state.top_ups.get(&top_up_id).ok_or(Rejection::TopUpNotFound)?;
    let (reference, url) = (reference.to_owned(), url.to_owned());
    Ok(vec![TopUpCheckoutOpened { top_up_id, wallet_id: top_up.wallet_id, reference, url }.into()])
}

/// A user tops up the own wallet, an administrator any.
fn require_owner(context: Context<'_>, wallet_id: WalletId) -> Result<(), Rejection> {
    let Caller::Session(own) = context.caller else { return context.require_admin() };
    match context.state.sessions.get(&own) {
        Some(session) if session.expires_at <= context.at => Err(Rejection::ExpiredSession),
        Some(session) if session.wallet_id == wallet_id => Ok(()),
        Some(_) => Err(Rejection::WalletNotFound),
        None => Err(Rejection::InvalidSession),
    }
}

pub(super) fn fail(context: Context<'_>, top_up_id: TopUpId, reason: &str) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    let top_up = context.state.top_ups.get(&top_up_id).ok_or(Rejection::TopUpNotFound)?;
    Ok(vec![TopUpFailed { top_up_id, wallet_id: top_up.wallet_id, reason: reason.to_owned() }.into()])
}

/// New top-ups stop with the top-ups, the app and its developer.
fn require_unfrozen(context: Context<'_>, wallet: &Wallet) -> Result<(), Rejection> {
    let developer = context.state.apps.get(&wallet.app_id).map(|app| FreezeScope::Developer(app.developer_id));
    context.require_not_frozen(&[Some(FreezeScope::TopUps), Some(FreezeScope::App(wallet.app_id)), developer])
}
