//! Movements of the payment provider's own balance: the second source. Each has one template; the other side was, or will be,
//! posted by what the provider's events said, and a clearing account is zero when both agree.

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::EntryBuilder;
use modelfaucet_schema::event::{Event, StripeTransactionRecorded, TransactionCategory};

use super::decide::Context;
use super::{Rejection, TransactionReport};

/// That a movement is recorded once is the idempotency key's work: it is made of the movement's id.
pub(super) fn record(context: Context<'_>, report: &TransactionReport) -> Result<Vec<Event>, Rejection> {
    context.require_provider()?;
    context.require_past(Some(report.occurred_at))?;
    let (clearing, fees, comes_in) = template(report.category);
    if report.amount.is_zero() && report.fee.is_zero() {
        return Err(Rejection::ZeroAmount);
    }
    if if comes_in { report.amount.is_negative() } else { report.amount.is_positive() } {
        return Err(Rejection::InvalidTransaction);
    }
    let out_of_range = || Rejection::AmountOutOfRange;
    let net = report.amount.checked_sub(report.fee).ok_or_else(out_of_range)?;
    let entry = EntryBuilder::new()
        .debit(Account::house(AccountCode::StripeBalance), net)
        .debit(Account::house(fees), report.fee)
        .credit(Account::house(clearing), report.amount)
        .build()
        .map_err(|_| out_of_range())?;
    let event = StripeTransactionRecorded {
        transaction: report.transaction.clone(),
        category: report.category,
        source: report.source.clone(),
        payment: report.payment.clone(),
        amount: report.amount,
        fee: report.fee,
        occurred_at: report.occurred_at,
        entry,
    };
    Ok(vec![event.into()])
}

/// The account on the other side, the account of its fee, and whether money comes in.
const fn template(category: TransactionCategory) -> (AccountCode, AccountCode, bool) {
    use TransactionCategory as Is;
    let (clearing, comes_in) = match category {
        Is::Charge => (AccountCode::StripeCharges, true),
        Is::Fee | Is::NetworkCost => (AccountCode::ProcessorFees, false),
        Is::Refund => (AccountCode::RefundsInFlight, false),
        Is::RefundFailure => (AccountCode::RefundsInFlight, true),
        Is::Dispute => (AccountCode::DisputesWithheld, false),
        Is::DisputeReversal => (AccountCode::DisputesWithheld, true),
        Is::Payout => (AccountCode::StripePayouts, false),
        Is::PayoutReversal => (AccountCode::StripePayouts, true),
    };
    let fees = match category {
        Is::Dispute | Is::DisputeReversal => AccountCode::DisputeFees,
        _ => AccountCode::ProcessorFees,
    };
    (clearing, fees, comes_in)
}
