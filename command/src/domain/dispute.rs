//! Disputes: what is disputed is held, the wallet is frozen, and a lost dispute takes what the wallet has; its owner owes the rest.

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{Balance, DisputeLost, DisputeOpened, DisputeWon, Event, FreezeScope, Frozen, Thawed};
use modelfaucet_schema::ids::WalletId;
use modelfaucet_schema::money::Money;

use super::decide::Context;
use super::refund::{takeable, without};
use super::{Dispute, DisputePhase, DisputeReport, DisputeState, Rejection, Wallet};

/// A dispute as the provider tells of it. In whatever order its reports come, it is opened once and ends once.
pub(super) fn report(context: Context<'_>, report: &DisputeReport) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    context.require_past(report.occurred_at)?;
    match (context.state.disputes.get(&report.dispute), report.phase) {
        (None, phase) => open(context, report, phase),
        (Some(dispute), DisputePhase::Won) if dispute.state == DisputeState::Open => {
            let wallet = wallet(context, dispute.wallet_id)?;
            let mut events = vec![won(report, dispute.wallet_id, dispute.held, wallet)?.into()];
            if dispute.froze && !is_disputed(context, dispute.wallet_id, &report.dispute) {
                events.extend(thaw(context, dispute.wallet_id, &report.dispute));
            }
            Ok(events)
        }
        (Some(dispute), DisputePhase::Lost) if dispute.state == DisputeState::Open => {
            let wallet = wallet(context, dispute.wallet_id)?;
            Ok(vec![lost(report, dispute.wallet_id, dispute.amount, dispute.held, wallet)?.into()])
        }
        (Some(dispute), phase) => Err(match (dispute.state, phase) {
            (DisputeState::Lost, DisputePhase::Won) | (DisputeState::Won, DisputePhase::Lost) => {
                Rejection::DisputeClosed
            }
            _ => Rejection::AlreadyExists,
        }),
    }
}

fn wallet(context: Context<'_>, id: WalletId) -> Result<&Wallet, Rejection> {
    context.state.wallets.get(&id).ok_or(Rejection::WalletNotFound)
}

/// Does another dispute of this wallet go on?
fn is_disputed(context: Context<'_>, wallet_id: WalletId, besides: &str) -> bool {
    let other = |(id, dispute): (&String, &Dispute)| {
        id != besides && dispute.wallet_id == wallet_id && dispute.state == DisputeState::Open
    };
    context.state.disputes.iter().any(other)
}

fn open(context: Context<'_>, report: &DisputeReport, phase: DisputePhase) -> Result<Vec<Event>, Rejection> {
    let payment = context.state.payments.get(&report.payment).ok_or(Rejection::PaymentNotFound)?;
    let wallet_id = payment.wallet_id;
    let mut wallet = *wallet(context, wallet_id)?;
    if !report.amount.is_positive() {
        return Err(Rejection::ZeroAmount);
    }
    let scope = FreezeScope::Wallet(wallet_id);
    // One that is won when it is first heard of needs no freeze.
    let freezes = phase != DisputePhase::Won && !context.state.freezes.contains(&scope);
    let held = report.amount.min(wallet.spendable());
    wallet.balance.held = wallet.balance.held.checked_add(held).ok_or(Rejection::AmountOutOfRange)?;
    let opened = DisputeOpened {
        dispute: report.dispute.clone(),
        wallet_id,
        payment: report.payment.clone(),
        amount: report.amount,
        held,
        freezes,
        reason: report.reason.clone(),
        occurred_at: report.occurred_at,
        balance: wallet.balance,
    };
    let mut events = vec![opened.into()];
    if freezes {
        events.push(Frozen { scope, reason: reason(&report.dispute) }.into());
    }
    match phase {
        DisputePhase::Opened => {}
        DisputePhase::Won => events.push(won(report, wallet_id, held, &wallet)?.into()),
        DisputePhase::Lost => events.push(lost(report, wallet_id, report.amount, held, &wallet)?.into()),
    }
    Ok(events)
}

fn reason(dispute: &str) -> String {
    format!("dispute {dispute}")
}

fn thaw(context: Context<'_>, wallet_id: WalletId, dispute: &str) -> Option<Event> {
    let scope = FreezeScope::Wallet(wallet_id);
    context.state.freezes.contains(&scope).then(|| Thawed { scope, reason: reason(dispute) }.into())
}

fn without_hold(balance: Balance, held: Money) -> Result<Balance, Rejection> {
    Ok(Balance { held: balance.held.checked_sub(held).ok_or(Rejection::AmountOutOfRange)?, ..balance })
}

fn won(report: &DisputeReport, wallet_id: WalletId, held: Money, wallet: &Wallet) -> Result<DisputeWon, Rejection> {
    Ok(DisputeWon {
        dispute: report.dispute.clone(),
        wallet_id,
        payment: report.payment.clone(),
        released: held,
        occurred_at: report.occurred_at,
        balance: without_hold(wallet.balance, held)?,
    })
}

fn lost(
    report: &DisputeReport,
    wallet_id: WalletId,
    amount: Money,
    held: Money,
    wallet: &Wallet,
) -> Result<DisputeLost, Rejection> {
    let out_of_range = || Rejection::AmountOutOfRange;
    let free = Wallet { balance: without_hold(wallet.balance, held)?, ..*wallet };
    let paid = amount.min(takeable(&free));
    let receivable = amount.checked_sub(paid).ok_or_else(out_of_range)?;
    let entry = EntryBuilder::new()
        .debit(Account::paid(wallet_id), paid)
        .debit(Account::receivable(wallet_id), receivable)
        .credit(Account::house(AccountCode::DisputesWithheld), amount)
        .build()
        .map_err(|_| out_of_range())?;
    Ok(DisputeLost {
        dispute: report.dispute.clone(),
        wallet_id,
        payment: report.payment.clone(),
        amount,
        released: held,
        receivable,
        occurred_at: report.occurred_at,
        entry,
        balance: without(free.balance, paid)?,
    })
}
