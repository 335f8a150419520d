//! Refunds: money goes back to the card that it came from. It leaves the wallet when the refund is requested and comes back if
//! the refund fails. Refunds that were made at the provider are facts: what the wallet cannot pay, its owner owes.

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{Balance, Event, FreezeScope, RefundFailed, RefundRequested, RefundSent, Route};
use modelfaucet_schema::ids::{RefundId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;

use super::decide::Context;
use super::usage::cannot_pay;
use super::{Payment, Refund, RefundReport, Rejection, Wallet};

/// What paid credit can be taken from a wallet: never promotional credit, never what is held.
pub(super) fn takeable(wallet: &Wallet) -> Money {
    let paid = wallet.balance.posted.checked_sub(wallet.balance.promo).unwrap_or(Money::ZERO);
    wallet.spendable().min(paid).max(Money::ZERO)
}

/// The wallet without so much of its paid credit.
pub(super) fn without(balance: Balance, amount: Money) -> Result<Balance, Rejection> {
    Ok(Balance { posted: balance.posted.checked_sub(amount).ok_or(Rejection::AmountOutOfRange)?, ..balance })
}

fn payment_and_wallet<'a>(context: Context<'a>, payment: &str) -> Result<(&'a Payment, &'a Wallet), Rejection> {
    let payment = context.state.payments.get(payment).ok_or(Rejection::PaymentNotFound)?;
    Ok((payment, context.state.wallets.get(&payment.wallet_id).ok_or(Rejection::WalletNotFound)?))
}

fn require_amount(amount: Money, payment: &Payment) -> Result<(), Rejection> {
    if !amount.is_positive() {
        Err(Rejection::ZeroAmount)
    } else if !amount.is_whole_cents() {
        Err(Rejection::NotWholeCents)
    } else if amount > payment.left() {
        Err(Rejection::RefundTooLarge { left: payment.left() })
    } else {
        Ok(())
    }
}

/// Begins a refund of at most what is left of the payment and what the wallet can pay.
pub(super) fn request(
    context: Context<'_>,
    refund_id: RefundId,
    payment_id: &str,
    amount: Money,
    reason: Option<&str>,
) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let (payment, wallet) = payment_and_wallet(context, payment_id)?;
    context.require_not_frozen(&[Some(FreezeScope::Refunds), Some(FreezeScope::Wallet(payment.wallet_id))])?;
    require_amount(amount, payment)?;
    if context.state.refunds.contains(&refund_id) {
        return Err(Rejection::AlreadyExists);
    }
    if amount > takeable(wallet) {
        return Err(match cannot_pay(wallet, Route::Platform, amount) {
            // Promotional credit is not paid out.
            Rejection::InFlightHolds { required, .. } | Rejection::InsufficientBalance { required, .. }
                if wallet.spendable() >= amount =>
            {
                Rejection::InsufficientBalance { available: takeable(wallet), required }
            }
            other => other,
        });
    }
    let event = requested(refund_id, payment_id, payment.wallet_id, amount, Money::ZERO, wallet.balance)?;
    Ok(vec![RefundRequested { reason: reason.map(str::to_owned), ..event }.into()])
}

fn requested(
    refund_id: RefundId,
    payment: &str,
    wallet_id: WalletId,
    amount: Money,
    receivable: Money,
    balance: Balance,
) -> Result<RefundRequested, Rejection> {
    let out_of_range = || Rejection::AmountOutOfRange;
    let paid = amount.checked_sub(receivable).ok_or_else(out_of_range)?;
    let entry = EntryBuilder::new()
        .debit(Account::paid(wallet_id), paid)
        .debit(Account::receivable(wallet_id), receivable)
        .credit(Account::house(AccountCode::RefundsInFlight), amount)
        .build()
        .map_err(|_| out_of_range())?;
    Ok(RefundRequested {
        refund_id,
        wallet_id,
        payment: payment.to_owned(),
        amount,
        receivable,
        reference: None,
        reason: None,
        occurred_at: None,
        entry,
        balance: without(balance, paid)?,
    })
}

fn wallet_of(context: Context<'_>, refund: &Refund) -> Result<WalletId, Rejection> {
    let payment = context.state.payments.get(refund.payment.as_ref()).ok_or(Rejection::PaymentNotFound)?;
    Ok(payment.wallet_id)
}

/// The provider has taken it on.
pub(super) fn confirm(context: Context<'_>, refund_id: RefundId, reference: &str) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    let refund = context.state.refunds.get(&refund_id).ok_or(Rejection::RefundNotFound)?;
    if refund.sent {
        return Err(Rejection::AlreadyExists);
    }
    let wallet_id = wallet_of(context, refund)?;
    Ok(vec![RefundSent { refund_id, wallet_id, reference: reference.to_owned() }.into()])
}

/// It did not reach the card.
pub(super) fn fail(
    context: Context<'_>,
    refund_id: RefundId,
    reason: &str,
    occurred_at: Option<Timestamp>,
) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    let refund = context.state.refunds.get(&refund_id).ok_or(Rejection::RefundNotFound)?;
    if refund.failed {
        return Err(Rejection::RefundClosed);
    }
    let wallet_id = wallet_of(context, refund)?;
    let balance = context.state.wallets.get(&wallet_id).ok_or(Rejection::WalletNotFound)?.balance;
    let owed = context.state.receivables.get(&wallet_id).copied().unwrap_or_default();
    let event = failed(refund_id, wallet_id, refund, owed, balance)?;
    Ok(vec![RefundFailed { reason: reason.to_owned(), occurred_at, ..event }.into()])
}

/// What became a receivable lowers it again, as far as it has not been written off.
fn failed(
    refund_id: RefundId,
    wallet_id: WalletId,
    refund: &Refund,
    owed: Money,
    balance: Balance,
) -> Result<RefundFailed, Rejection> {
    let out_of_range = || Rejection::AmountOutOfRange;
    let receivable = refund.receivable.min(owed).max(Money::ZERO);
    let back = refund.amount.checked_sub(receivable).ok_or_else(out_of_range)?;
    let entry = EntryBuilder::new()
        .debit(Account::house(AccountCode::RefundsInFlight), refund.amount)
        .credit(Account::paid(wallet_id), back)
        .credit(Account::receivable(wallet_id), receivable)
        .build()
        .map_err(|_| out_of_range())?;
    Ok(RefundFailed {
        refund_id,
        wallet_id,
        payment: refund.payment.as_ref().to_owned(),
        amount: refund.amount,
        receivable,
        reason: String::new(),
        occurred_at: None,
        entry,
        balance: Balance { posted: balance.posted.checked_add(back).ok_or_else(out_of_range)?, ..balance },
    })
}

/// A refund as the provider tells of it: one of ours goes on, one that was made there is taken in. In whatever order its reports
/// come, both its legs are in the books in the end.
pub(super) fn report(context: Context<'_>, report: &RefundReport) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    context.require_past(report.occurred_at)?;
    let known = |id: RefundId| context.state.refunds.get(&id).map(|refund| (id, refund));
    let same = |found: &(RefundId, &Refund)| found.1.payment.as_ref() == report.payment;
    if let Some((id, refund)) = report.own.and_then(known).filter(same).or_else(|| known(report.refund_id)) {
        return match &report.failed {
            Some(reason) if !refund.failed => fail(context, id, reason, report.occurred_at),
            None if !refund.sent => confirm(context, id, &report.reference),
            _ => Err(Rejection::AlreadyExists),
        };
    }
    let (payment, wallet) = payment_and_wallet(context, &report.payment)?;
    // Beside a dispute of all of it, too: whoever lets that happen has lost the money.
    let undisputed = Payment { disputed: Money::ZERO, ..*payment };
    // One that failed has taken nothing, so it may stand beside refunds of all of it.
    let untouched = Payment { refunded: Money::ZERO, ..undisputed };
    require_amount(report.amount, if report.failed.is_some() { &untouched } else { &undisputed })?;
    let wallet_id = payment.wallet_id;
    let paid = report.amount.min(takeable(wallet));
    let receivable = report.amount.checked_sub(paid).ok_or(Rejection::AmountOutOfRange)?;
    let event = RefundRequested {
        reference: Some(report.reference.clone()),
        occurred_at: report.occurred_at,
        ..requested(report.refund_id, &report.payment, wallet_id, report.amount, receivable, wallet.balance)?
    };
    let Some(reason) = &report.failed else { return Ok(vec![event.into()]) };
    // Its failure is all that was ever told of it.
    let refund = Refund {
        payment: report.payment.as_str().into(),
        amount: report.amount,
        receivable,
        sent: true,
        failed: false,
    };
    let owed = context.state.receivables.get(&wallet_id).copied().unwrap_or_default();
    let owed = owed.checked_add(receivable).ok_or(Rejection::AmountOutOfRange)?;
    let failed = failed(report.refund_id, wallet_id, &refund, owed, event.balance)?;
    let failed = RefundFailed { reason: reason.clone(), occurred_at: report.occurred_at, ..failed };
    Ok(vec![event.into(), failed.into()])
}
