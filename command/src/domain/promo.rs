//! Promotional credit: given, spent before paid credit, and gone when it expires.

use std::time::Duration;

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{Balance, CreditExpired, Event, FreezeScope, PromoGranted};
use modelfaucet_schema::ids::{PromoId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;

use super::Rejection;
use super::adjustment::wallet_for_credit;
use super::decide::Context;

/// When credit that open holds needed at its end is looked at again.
const AGAIN_AFTER: Duration = Duration::from_secs(3_600);

pub(super) fn grant(
    context: Context<'_>,
    promo_id: PromoId,
    wallet_id: WalletId,
    amount: Money,
    why: &str,
    expires_at: Option<Timestamp>,
) -> Result<Vec<Event>, Rejection> {
    let wallet = wallet_for_credit(context, wallet_id, amount)?;
    context.require_not_frozen(&[Some(FreezeScope::TopUps)])?;
    if expires_at.is_some_and(|end| end <= context.at) {
        return Err(Rejection::ExpiresInPast);
    }
    let add = |sum: Money| sum.checked_add(amount).ok_or(Rejection::AmountOutOfRange);
    let balance =
        Balance { posted: add(wallet.balance.posted)?, promo: add(wallet.balance.promo)?, held: wallet.balance.held };
    let entry = EntryBuilder::new()
        .debit(Account::house(AccountCode::DeferredPromoCost), amount)
        .credit(Account::promo(wallet_id), amount)
        .build()
        .map_err(|_| Rejection::AmountOutOfRange)?;
    let promo_id = expires_at.map(|_| promo_id);
    Ok(vec![PromoGranted { promo_id, wallet_id, amount, reason: why.to_owned(), expires_at, entry, balance }.into()])
}

/// Takes what is left of a grant, but not what open holds need: a call that began in time may still be paid with it.
pub(super) fn expire(context: Context<'_>, wallet_id: WalletId, promo_id: PromoId) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let wallet = context.state.wallets.get(&wallet_id).ok_or(Rejection::WalletNotFound)?;
    let slices = context.state.promos.get(&wallet_id).ok_or(Rejection::PromoNotFound)?;
    let slice = slices.iter().find(|slice| slice.promo_id == promo_id).ok_or(Rejection::PromoNotFound)?;
    if slice.due_at > context.at {
        return Err(Rejection::InvalidDeadline);
    }
    let amount = slice.left.min(wallet.spendable());
    let out_of_range = || Rejection::AmountOutOfRange;
    let take = |sum: Money| sum.checked_sub(amount).ok_or_else(out_of_range);
    let balance =
        Balance { posted: take(wallet.balance.posted)?, promo: take(wallet.balance.promo)?, held: wallet.balance.held };
    let entry = EntryBuilder::new()
        .debit(Account::promo(wallet_id), amount)
        .credit(Account::house(AccountCode::DeferredPromoCost), amount)
        .build()
        .map_err(|_| out_of_range())?;
    let again_at = (amount < slice.left).then(|| context.at.plus(AGAIN_AFTER));
    Ok(vec![CreditExpired { promo_id, wallet_id, amount, again_at, entry, balance }.into()])
}
