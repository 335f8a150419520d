//! Receivables that are given up. It needs two people.

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{Event, ReceivableWrittenOff, WriteOffProposed};
use modelfaucet_schema::ids::{WalletId, WriteOffId};
use modelfaucet_schema::money::Money;

use super::Rejection;
use super::decide::Context;

pub(super) fn propose(
    context: Context<'_>,
    write_off_id: WriteOffId,
    wallet_id: WalletId,
    amount: Money,
    reason: &str,
) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    if !context.state.wallets.contains(&wallet_id) {
        return Err(Rejection::WalletNotFound);
    }
    if context.state.write_offs.contains(&write_off_id) {
        return Err(Rejection::AlreadyExists);
    }
    require_owed(context, wallet_id, amount)?;
    Ok(vec![WriteOffProposed { write_off_id, wallet_id, amount, reason: reason.to_owned() }.into()])
}

/// What is owed may have shrunk since it was proposed.
pub(super) fn approve(context: Context<'_>, write_off_id: WriteOffId) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let write_off = context.state.write_offs.get(&write_off_id).ok_or(Rejection::WriteOffNotFound)?;
    context.require_another(&write_off.proposed_by)?;
    let (wallet_id, amount) = (write_off.wallet_id, write_off.amount);
    require_owed(context, wallet_id, amount)?;
    let wallet = context.state.wallets.get(&wallet_id).ok_or(Rejection::WalletNotFound)?;
    let entry = EntryBuilder::new()
        .debit(Account::house(AccountCode::BadDebt), amount)
        .credit(Account::receivable(wallet_id), amount)
        .build()
        .map_err(|_| Rejection::AmountOutOfRange)?;
    Ok(vec![ReceivableWrittenOff { write_off_id, wallet_id, amount, entry, balance: wallet.balance }.into()])
}

fn require_owed(context: Context<'_>, wallet_id: WalletId, amount: Money) -> Result<(), Rejection> {
    let owed = context.state.receivables.get(&wallet_id).copied().unwrap_or_default().max(Money::ZERO);
    if !amount.is_positive() {
        Err(Rejection::ZeroAmount)
    } else if amount > owed {
        Err(Rejection::WriteOffTooLarge { owed })
    } else {
        Ok(())
    }
}
