//! A second opinion on every wallet: added up from the business amounts alone, without a look at the balances that the writer
//! stated or at the postings. `wallets` and `journal` must agree with it at every position.

use modelfaucet_schema::event::{Direction, Event, Rating, Recorded};
use modelfaucet_schema::ids::WalletId;
use modelfaucet_schema::money::Money;

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, set, sum_units};

static TABLES: [Table; 1] = [Table {
    name: "wallet_fold",
    columns: &[
        key("shard", Kind::I16),
        key("wallet_id", Kind::Uuid),
        sum_units("credited"),
        sum_units("charged"),
        sum_units("adjusted"),
        sum_units("posted"),
        sum_units("held"),
        set("position", Kind::I64),
    ],
    writing: Writing::Upsert,
    indexes: &[],
}];

/// The projection `reconciliation`.
pub struct Reconciliation;

/// What an event adds to a wallet, in units of 1e-8 USD.
#[derive(Default)]
struct Delta {
    credited: i64,
    charged: i64,
    adjusted: i64,
    held: i64,
}

impl Delta {
    fn credited(amount: Money) -> Self {
        Self { credited: amount.units(), ..Self::default() }
    }

    /// A charge, and what of a hold ends with it.
    fn charged(rating: &Rating, ended: Money) -> Option<Self> {
        let charged = rating.charge.checked_sub(rating.receivable)?.units();
        Some(Self { charged, held: ended.checked_neg()?.units(), ..Self::default() })
    }

    fn adjusted(direction: Direction, amount: Money) -> Option<Self> {
        let adjusted = match direction {
            Direction::Credit => amount,
            Direction::Debit => amount.checked_neg()?,
        };
        Some(Self { adjusted: adjusted.units(), ..Self::default() })
    }

    /// An amount that leaves for the card, without what became a receivable.
    fn taken(amount: Money, receivable: Money) -> Option<Self> {
        Self::adjusted(Direction::Debit, amount.checked_sub(receivable)?)
    }

    fn held(units: i64) -> Self {
        Self { held: units, ..Self::default() }
    }

    fn posted(&self) -> Option<i64> {
        self.credited.checked_add(self.adjusted)?.checked_sub(self.charged)
    }

    /// What an event does to which wallet; `None` inside if that is out of range.
    fn of(event: &Event) -> Option<(WalletId, Option<Self>)> {
        Some(match event {
            Event::WalletOpened(event) => (event.wallet_id, Some(Self::default())),
            Event::TopUpCredited(event) => (event.wallet_id, Some(Self::credited(event.amount))),
            Event::TestCreditGranted(event) => (event.wallet_id, Some(Self::credited(event.amount))),
            Event::PromoGranted(event) => (event.wallet_id, Some(Self::credited(event.amount))),
            Event::WalletAdjusted(event) => (event.wallet_id, Self::adjusted(event.direction, event.amount)),
            Event::HoldPlaced(event) => (event.wallet_id, Some(Self::held(event.amount.units()))),
            Event::AttemptStarted(event) => {
                let change = event.amount.checked_sub(event.replaced);
                (event.wallet_id, change.map(|change| Self::held(change.units())))
            }
            Event::HoldCaptured(event) => (event.wallet_id, Self::charged(&event.rating, event.held)),
            Event::HoldReleased(event) => {
                (event.wallet_id, event.amount.checked_neg().map(|ended| Self::held(ended.units())))
            }
            Event::HoldExpired(event) => {
                (event.wallet_id, event.amount.checked_neg().map(|ended| Self::held(ended.units())))
            }
            Event::LateUsageCaptured(event) => (event.wallet_id, Self::charged(&event.rating, Money::ZERO)),
            Event::UsageRecorded(event) => (event.wallet_id, Self::charged(&event.rating, Money::ZERO)),
            Event::CreditExpired(event) => (event.wallet_id, Self::adjusted(Direction::Debit, event.amount)),
            Event::RefundRequested(event) => (event.wallet_id, Self::taken(event.amount, event.receivable)),
            Event::RefundFailed(event) => {
                let back = event.amount.checked_sub(event.receivable);
                (event.wallet_id, back.and_then(|back| Self::adjusted(Direction::Credit, back)))
            }
            Event::DisputeOpened(event) => (event.wallet_id, Some(Self::held(event.held.units()))),
            Event::DisputeWon(event) => {
                (event.wallet_id, event.released.checked_neg().map(|ended| Self::held(ended.units())))
            }
            Event::DisputeLost(event) => {
                let taken = Self::taken(event.amount, event.receivable);
                let lost = taken.zip(event.released.checked_neg());
                (event.wallet_id, lost.map(|(taken, ended)| Self { held: ended.units(), ..taken }))
            }
            Event::ReceivableWrittenOff(event) => (event.wallet_id, Some(Self::default())),
            _ => return None,
        })
    }
}

impl Projection for Reconciliation {
    fn name(&self) -> &'static str {
        "reconciliation"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let Some((wallet, delta)) = Delta::of(&event.event) else { return Ok(()) };
        let delta = delta.ok_or(ApplyError::Overflow)?;
        let posted = delta.posted().ok_or(ApplyError::Overflow)?;
        let key = [Value::I16(event.shard.0), wallet.0.into()];
        let sums = [
            ("credited", delta.credited.into()),
            ("charged", delta.charged.into()),
            ("adjusted", delta.adjusted.into()),
            ("posted", posted.into()),
            ("held", delta.held.into()),
            ("position", event.position.0.into()),
        ];
        if matches!(event.event, Event::WalletOpened(_)) {
            changes.upsert(0, key.into_iter().chain(sums.into_iter().map(|(_, value)| value)).collect());
        } else {
            changes.patch(0, key, sums);
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
