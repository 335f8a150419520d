//! Who pays developers out. A provider is asked when an approved payout is marked paid, and answers with the outside record that
//! proves it; it may be asked again for the same payout after a crash and must not pay twice.

use std::fmt::Debug;

use futures_util::future::{BoxFuture, FutureExt as _};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::ids::{DeveloperId, PayoutId};
use modelfaucet_schema::money::Money;

/// A payout that somebody has approved.
#[derive(Clone, Debug)]
pub struct PayoutOrder {
    /// The payout: the provider's idempotency key.
    pub payout_id: PayoutId,
    /// The developer.
    pub developer_id: DeveloperId,
    /// Whole cents.
    pub amount: Money,
    /// The record that whoever marks it paid has seen, such as the reference on a bank statement.
    pub seen: Option<String>,
}

/// Why a payout was not made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PayoutError {
    /// The provider cannot know: somebody must name the record that proves it.
    #[error("Name the bank's reference of the payment in provider_payout_id.")]
    NeedsReference,
    /// The provider cannot be asked.
    #[error("The payout provider does not answer; try again.")]
    Unavailable,
}

/// Somebody who pays out.
///
/// Neither of those below moves money in [`PayoutProvider::pay`]. One that does needs more than its own idempotency key: between the
/// question and `PayoutPaid` the payout is only approved, so somebody else may still fail it, and it would be owed again although it was paid.
/// What such a provider needs first stands in docs/PAYMENTS.md, "A provider that moves money".
pub trait PayoutProvider: Debug + Send + Sync {
    /// Its name in events.
    fn name(&self) -> Name;

    /// Pays, once per payout; the id of the outside record that proves it.
    fn pay<'a>(&'a self, order: &'a PayoutOrder) -> BoxFuture<'a, Result<String, PayoutError>>;
}

fn name(text: &str) -> Name {
    text.parse().expect("a constant of the right form")
}

/// Pays nothing and says so by its ids, as ModelFaucet 1.2 does.
#[derive(Clone, Copy, Debug)]
pub struct MockProvider;

impl PayoutProvider for MockProvider {
    fn name(&self) -> Name {
        name("mock")
    }

    fn pay<'a>(&'a self, order: &'a PayoutOrder) -> BoxFuture<'a, Result<String, PayoutError>> {
        let mut id = order.payout_id.0.simple().to_string();
        id.truncate(18);
        std::future::ready(Ok(format!("po_mock_{id}"))).boxed()
    }
}

/// A person carries the approved payouts to a bank as a file (`GET /v1/admin/reports/payout-handover.csv`) and comes back with
/// the references of its statement.
#[derive(Clone, Copy, Debug)]
pub struct BankFile;

impl PayoutProvider for BankFile {
    fn name(&self) -> Name {
        name("bank")
    }

    fn pay<'a>(&'a self, order: &'a PayoutOrder) -> BoxFuture<'a, Result<String, PayoutError>> {
        std::future::ready(order.seen.clone().ok_or(PayoutError::NeedsReference)).boxed()
    }
}
