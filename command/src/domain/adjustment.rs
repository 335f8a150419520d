//! Credit that is given, and corrections of wallets by administrators.

use modelfaucet_schema::account::{Account, AccountCode, Name};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{
    AdjustmentKind, Balance, Direction, Event, FreezeScope, TestCreditGranted, WalletAdjusted,
};
use modelfaucet_schema::ids::WalletId;
use modelfaucet_schema::money::Money;

use super::decide::Context;
use super::{Command, ExpectedBalance, Rejection, Wallet};

fn reason(text: &'static str) -> Result<Name, Rejection> {
    text.parse().map_err(|_| Rejection::Forbidden)
}

/// The wallet, if the amount is above zero and credit is not frozen.
pub(super) fn wallet_for_credit(
    context: Context<'_>,
    wallet_id: WalletId,
    amount: Money,
) -> Result<&Wallet, Rejection> {
    context.require_admin()?;
    let wallet = context.state.wallets.get(&wallet_id).ok_or(Rejection::WalletNotFound)?;
    if !amount.is_positive() {
        return Err(Rejection::ZeroAmount);
    }
    Ok(wallet)
}

pub(super) fn grant_test_credit(
    context: Context<'_>,
    wallet_id: WalletId,
    amount: Money,
) -> Result<Vec<Event>, Rejection> {
    let wallet = wallet_for_credit(context, wallet_id, amount)?;
    context.require_not_frozen(&[Some(FreezeScope::TopUps)])?;
    let posted = wallet.balance.posted.checked_add(amount).ok_or(Rejection::AmountOutOfRange)?;
    let entry = EntryBuilder::new()
        .debit(Account::adjustments(reason("test-credit")?), amount)
        .credit(Account::paid(wallet_id), amount)
        .build()
        .map_err(|_| Rejection::AmountOutOfRange)?;
    let (user_id, balance) = (Some(wallet.user_id), Balance { posted, ..wallet.balance });
    Ok(vec![TestCreditGranted { wallet_id, user_id, amount, entry, balance }.into()])
}

/// Credits or debits paid credit. A debit takes at most what is available and never promotional credit.
pub(super) fn adjust(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::AdjustWallet { adjustment_id, wallet_id, kind, direction, amount, reason: why, expected } = command
    else {
        return Err(Rejection::Forbidden);
    };
    let wallet = wallet_for_credit(context, *wallet_id, *amount)?;
    let Balance { posted, held, .. } = wallet.balance;
    if expected.is_some_and(|expected| expected != ExpectedBalance { posted, held }) {
        return Err(Rejection::BalanceChanged { posted, held });
    }
    let other_side = match kind {
        AdjustmentKind::Adjustment => Account::adjustments(reason("correction")?),
        AdjustmentKind::Refund => Account::house(AccountCode::RefundsInFlight),
        AdjustmentKind::Chargeback => Account::house(AccountCode::DisputesWithheld),
    };
    let paid = Account::paid(*wallet_id);
    let (posted, entry) = match direction {
        Direction::Credit => (
            wallet.balance.posted.checked_add(*amount),
            EntryBuilder::new().debit(other_side, *amount).credit(paid, *amount),
        ),
        Direction::Debit => {
            context.require_not_frozen(&[Some(FreezeScope::Wallet(*wallet_id))])?;
            let paid_credit = wallet.balance.posted.checked_sub(wallet.balance.promo).unwrap_or(Money::ZERO);
            let available = wallet.spendable().min(paid_credit);
            if available < *amount {
                return Err(Rejection::InsufficientBalance { available, required: *amount });
            }
            (
                wallet.balance.posted.checked_sub(*amount),
                EntryBuilder::new().debit(paid, *amount).credit(other_side, *amount),
            )
        }
    };
    let event = WalletAdjusted {
        adjustment_id: *adjustment_id,
        wallet_id: *wallet_id,
        kind: *kind,
        direction: *direction,
        amount: *amount,
        reason: why.clone(),
        entry: entry.build().map_err(|_| Rejection::AmountOutOfRange)?,
        balance: Balance { posted: posted.ok_or(Rejection::AmountOutOfRange)?, ..wallet.balance },
    };
    Ok(vec![event.into()])
}
