//! Payouts: what a developer is owed is reserved, somebody else approves, and then it is paid or owed again. More than was earned
//! cannot be requested, since a request takes it from what is owed.

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::{EntryBuilder, JournalEntry};
use modelfaucet_schema::event::{
    Event, FreezeScope, PayoutApproved, PayoutCancelled, PayoutFailed, PayoutPaid, PayoutRequested, PayoutReturned,
};
use modelfaucet_schema::ids::PayoutId;
use modelfaucet_schema::money::Money;

use super::decide::Context;
use super::{Command, Payout, PayoutState, PayoutStep, Rejection};

/// Units of 1e-8 USD in a cent.
const CENT: i64 = 1_000_000;

/// Reserves whole cents; the rest waits.
pub(super) fn request(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::RequestPayout { payout_id, developer_id, amount, threshold, provider, trigger } = command else {
        return Err(Rejection::Forbidden);
    };
    context.require_admin()?;
    if !context.state.developers.contains(developer_id) {
        return Err(Rejection::DeveloperNotFound);
    }
    context.require_not_frozen(&[Some(FreezeScope::Payouts), Some(FreezeScope::Developer(*developer_id))])?;
    if context.state.payouts.contains(payout_id) {
        return Err(Rejection::AlreadyExists);
    }
    if context.state.open_payouts.contains(developer_id) {
        return Err(Rejection::PayoutOpen);
    }
    let available = context.state.payables.get(developer_id).copied().unwrap_or_default().max(Money::ZERO);
    if available < *threshold {
        return Err(Rejection::BelowThreshold { available });
    }
    let amount = amount.unwrap_or_else(|| Money::from_units(available.units() - available.units() % CENT));
    if !amount.is_positive() {
        return Err(Rejection::ZeroAmount);
    }
    if !amount.is_whole_cents() {
        return Err(Rejection::NotWholeCents);
    }
    if amount > available {
        return Err(Rejection::InsufficientPayable { available, required: amount });
    }
    let entry = EntryBuilder::new()
        .debit(Account::developer(*developer_id), amount)
        .credit(Account::house(AccountCode::PayoutsInFlight), amount)
        .build()
        .map_err(|_| Rejection::AmountOutOfRange)?;
    let event = PayoutRequested {
        payout_id: *payout_id,
        developer_id: *developer_id,
        amount,
        provider: provider.clone(),
        trigger: *trigger,
        entry,
    };
    Ok(vec![event.into()])
}

pub(super) fn step(context: Context<'_>, payout_id: PayoutId, step: &PayoutStep) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let payout = context.state.payouts.get(&payout_id).ok_or(Rejection::PayoutNotFound)?;
    let Payout { developer_id, amount, .. } = *payout;
    // What takes money back is always possible.
    if matches!(step, PayoutStep::Approve { .. } | PayoutStep::Pay { .. }) {
        context.require_not_frozen(&[Some(FreezeScope::Payouts), Some(FreezeScope::Developer(developer_id))])?;
    }
    let event = match step {
        PayoutStep::Approve { note } => {
            require(payout, PayoutState::Pending, Rejection::PayoutNotPending { verb: "approved" })?;
            context.require_another(&payout.requested_by)?;
            PayoutApproved { payout_id, developer_id, amount, provider: payout.provider.clone(), note: note.clone() }
                .into()
        }
        PayoutStep::Pay { reference, fee, occurred_at } => {
            require(payout, PayoutState::Processing, Rejection::PayoutNotApproved { verb: "marked paid" })?;
            context.require_past(*occurred_at)?;
            if fee.is_negative() {
                return Err(Rejection::AmountOutOfRange);
            }
            PayoutPaid {
                payout_id,
                developer_id,
                amount,
                provider: payout.provider.clone(),
                reference: reference.clone(),
                fee: *fee,
                occurred_at: *occurred_at,
                entry: paid(amount, *fee)?,
            }
            .into()
        }
        PayoutStep::Fail { reason } => {
            require(payout, PayoutState::Processing, Rejection::PayoutNotApproved { verb: "failed" })?;
            let entry = owed_again(payout, AccountCode::PayoutsInFlight)?;
            PayoutFailed { payout_id, developer_id, amount, reason: reason.clone(), entry }.into()
        }
        PayoutStep::Cancel { reason } => {
            require(payout, PayoutState::Pending, Rejection::PayoutNotPending { verb: "cancelled" })?;
            let entry = owed_again(payout, AccountCode::PayoutsInFlight)?;
            PayoutCancelled { payout_id, developer_id, amount, reason: reason.clone(), entry }.into()
        }
        PayoutStep::Return { reason, reference, occurred_at } => {
            require(payout, PayoutState::Paid, Rejection::PayoutNotPaid)?;
            context.require_past(*occurred_at)?;
            PayoutReturned {
                payout_id,
                developer_id,
                amount,
                reason: reason.clone(),
                reference: reference.clone(),
                occurred_at: *occurred_at,
                entry: owed_again(payout, AccountCode::BankOperating)?,
            }
            .into()
        }
    };
    Ok(vec![event])
}

fn require(payout: &Payout, state: PayoutState, otherwise: Rejection) -> Result<(), Rejection> {
    if payout.state == state { Ok(()) } else { Err(otherwise) }
}

fn paid(amount: Money, fee: Money) -> Result<JournalEntry, Rejection> {
    let out_of_range = || Rejection::AmountOutOfRange;
    EntryBuilder::new()
        .debit(Account::house(AccountCode::PayoutsInFlight), amount)
        .debit(Account::house(AccountCode::PayoutFees), fee)
        .credit(Account::house(AccountCode::BankOperating), amount.checked_add(fee).ok_or_else(out_of_range)?)
        .build()
        .map_err(|_| out_of_range())
}

fn owed_again(payout: &Payout, from: AccountCode) -> Result<JournalEntry, Rejection> {
    EntryBuilder::new()
        .debit(Account::house(from), payout.amount)
        .credit(Account::developer(payout.developer_id), payout.amount)
        .build()
        .map_err(|_| Rejection::AmountOutOfRange)
}
