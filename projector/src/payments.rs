//! Money from outside and back: what our own events say of each payment beside what the payment provider's record says of it,
//! refunds, disputes, write-offs, and the provider's movements one by one.

use modelfaucet_schema::event::{Event, Recorded, StripeTransactionRecorded, TransactionCategory};
use modelfaucet_schema::money::Money;

use crate::changes::Changes;
use crate::projection::{ApplyError, Projection};
use crate::table::{Kind, Table, Value, Writing, key, optional, set, sum_units, units};

const CLEARING: usize = 0;
const CHECKOUT: usize = 1;
const REFUND: usize = 2;
const DISPUTE: usize = 3;
const WRITE_OFF: usize = 4;
const TRANSACTION: usize = 5;

static TABLES: [Table; 6] = [
    Table {
        name: "payment_clearing",
        columns: &[
            key("shard", Kind::I16),
            key("payment", Kind::Text),
            sum_units("credited"),
            sum_units("charged"),
            sum_units("refunded"),
            sum_units("refunded_at_provider"),
            sum_units("lost"),
            sum_units("withheld"),
            sum_units("fees"),
            set("updated_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        // Those on which the sources differ: few, however many payments there are.
        indexes: &[
            "updated_at, payment WHERE credited <> charged OR refunded <> refunded_at_provider OR lost <> withheld",
        ],
    },
    Table {
        name: "checkout",
        columns: &[
            key("shard", Kind::I16),
            key("top_up_id", Kind::Uuid),
            set("wallet_id", Kind::Uuid),
            set("reference", Kind::Text).comment("the payment provider's id of the checkout"),
            set("url", Kind::Text),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &["reference"],
    },
    Table {
        name: "refund",
        columns: &[
            key("shard", Kind::I16),
            key("refund_id", Kind::Uuid),
            set("wallet_id", Kind::Uuid),
            set("payment", Kind::Text),
            units("amount"),
            units("receivable"),
            optional("reference", Kind::Text).comment("the payment provider's id of the refund"),
            set("status", Kind::Text).comment("requested, sent or failed"),
            optional("reason", Kind::Text),
            set("requested_by", Kind::Text),
            set("requested_at", Kind::Time),
            set("updated_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &["requested_at, refund_id", "payment", "reference"],
    },
    Table {
        name: "dispute",
        columns: &[
            key("shard", Kind::I16),
            key("dispute", Kind::Text),
            set("wallet_id", Kind::Uuid),
            set("payment", Kind::Text),
            units("amount"),
            units("held"),
            units("receivable"),
            set("status", Kind::Text).comment("open, won or lost"),
            set("reason", Kind::Text),
            set("opened_at", Kind::Time),
            set("opened_position", Kind::I64),
            set("updated_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &["shard, opened_position", "payment"],
    },
    Table {
        name: "write_off",
        columns: &[
            key("shard", Kind::I16),
            key("write_off_id", Kind::Uuid),
            set("wallet_id", Kind::Uuid),
            units("amount"),
            set("status", Kind::Text).comment("proposed or written_off"),
            set("reason", Kind::Text),
            set("proposed_by", Kind::Text),
            optional("approved_by", Kind::Text),
            set("proposed_at", Kind::Time),
            set("updated_at", Kind::Time),
            set("position", Kind::I64),
        ],
        writing: Writing::Upsert,
        indexes: &[],
    },
    Table {
        name: "stripe_transaction",
        columns: &[
            key("shard", Kind::I16),
            key("position", Kind::I64),
            set("transaction", Kind::Text),
            set("category", Kind::Text),
            optional("source", Kind::Text),
            optional("payment", Kind::Text),
            units("amount"),
            units("fee"),
            set("occurred_at", Kind::Time),
            set("recorded_at", Kind::Time),
        ],
        writing: Writing::Append,
        indexes: &["transaction", "payment", "source"],
    },
];

/// What an event adds to the figures of a payment.
#[derive(Default)]
struct Sums {
    credited: i64,
    charged: i64,
    refunded: i64,
    refunded_at_provider: i64,
    lost: i64,
    withheld: i64,
    fees: i64,
}

impl Sums {
    fn of(transaction: &StripeTransactionRecorded) -> Option<Self> {
        let amount = transaction.amount.units();
        let gone = amount.checked_neg()?;
        let fees = transaction.fee.units();
        Some(match transaction.category {
            TransactionCategory::Charge => Self { charged: amount, fees, ..Self::default() },
            TransactionCategory::Refund | TransactionCategory::RefundFailure => {
                Self { refunded_at_provider: gone, fees, ..Self::default() }
            }
            TransactionCategory::Dispute | TransactionCategory::DisputeReversal => {
                Self { withheld: gone, fees, ..Self::default() }
            }
            _ => Self { fees: fees.checked_add(gone)?, ..Self::default() },
        })
    }

    fn add(&self, payment: &str, event: &Recorded, changes: &mut Changes) {
        changes.upsert(
            CLEARING,
            vec![
                event.shard.0.into(),
                payment.into(),
                self.credited.into(),
                self.charged.into(),
                self.refunded.into(),
                self.refunded_at_provider.into(),
                self.lost.into(),
                self.withheld.into(),
                self.fees.into(),
                event.recorded_at.into(),
                event.position.0.into(),
            ],
        );
    }
}

fn minus(amount: Money) -> Result<i64, ApplyError> {
    Ok(amount.checked_neg().ok_or(ApplyError::Overflow)?.units())
}

/// The projection `payments`.
pub struct Payments;

impl Projection for Payments {
    fn name(&self) -> &'static str {
        "payments"
    }

    fn tables(&self) -> &'static [Table] {
        &TABLES
    }

    fn is_money(&self) -> bool {
        true
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        let (shard, at, position) =
            (Value::I16(event.shard.0), Value::Time(event.recorded_at), Value::I64(event.position.0));
        let now = [("updated_at", at.clone()), ("position", position.clone())];
        match &event.event {
            Event::TopUpCredited(credited) => {
                let sums = Sums { credited: credited.amount.units(), ..Sums::default() };
                sums.add(&credited.payment, event, changes);
            }
            Event::TopUpCheckoutOpened(opened) => changes.upsert(
                CHECKOUT,
                vec![
                    shard,
                    opened.top_up_id.0.into(),
                    opened.wallet_id.0.into(),
                    Value::from(&opened.reference),
                    Value::from(&opened.url),
                    position,
                ],
            ),
            Event::RefundRequested(requested) => {
                let sums = Sums { refunded: requested.amount.units(), ..Sums::default() };
                sums.add(&requested.payment, event, changes);
                let status = if requested.reference.is_some() { "sent" } else { "requested" };
                changes.upsert(
                    REFUND,
                    vec![
                        shard,
                        requested.refund_id.0.into(),
                        requested.wallet_id.0.into(),
                        Value::from(&requested.payment),
                        requested.amount.into(),
                        requested.receivable.into(),
                        Value::or_null(requested.reference.as_deref()),
                        status.into(),
                        Value::or_null(requested.reason.as_deref()),
                        Value::display(&event.actor),
                        at.clone(),
                        at,
                        position,
                    ],
                );
            }
            Event::RefundSent(sent) => {
                let set = [("reference", Value::from(&sent.reference)), ("status", "sent".into())];
                changes.patch(REFUND, [shard, sent.refund_id.0.into()], set.into_iter().chain(now));
            }
            Event::RefundFailed(failed) => {
                Sums { refunded: minus(failed.amount)?, ..Sums::default() }.add(&failed.payment, event, changes);
                let set = [("status", "failed".into()), ("reason", Value::from(&failed.reason))];
                changes.patch(REFUND, [shard, failed.refund_id.0.into()], set.into_iter().chain(now));
            }
            Event::DisputeOpened(opened) => changes.upsert(
                DISPUTE,
                vec![
                    shard,
                    Value::from(&opened.dispute),
                    opened.wallet_id.0.into(),
                    Value::from(&opened.payment),
                    opened.amount.into(),
                    opened.held.into(),
                    Value::I64(0),
                    "open".into(),
                    Value::from(&opened.reason),
                    at.clone(),
                    position.clone(),
                    at,
                    position,
                ],
            ),
            Event::DisputeWon(won) => {
                let set = [("status", "won".into()), ("held", Value::I64(0))];
                changes.patch(DISPUTE, [shard, Value::from(&won.dispute)], set.into_iter().chain(now));
            }
            Event::DisputeLost(lost) => {
                Sums { lost: lost.amount.units(), ..Sums::default() }.add(&lost.payment, event, changes);
                let set = [("status", "lost".into()), ("held", Value::I64(0)), ("receivable", lost.receivable.into())];
                changes.patch(DISPUTE, [shard, Value::from(&lost.dispute)], set.into_iter().chain(now));
            }
            Event::WriteOffProposed(proposed) => changes.upsert(
                WRITE_OFF,
                vec![
                    shard,
                    proposed.write_off_id.0.into(),
                    proposed.wallet_id.0.into(),
                    proposed.amount.into(),
                    "proposed".into(),
                    Value::from(&proposed.reason),
                    Value::display(&event.actor),
                    Value::Null,
                    at.clone(),
                    at,
                    position,
                ],
            ),
            Event::ReceivableWrittenOff(done) => {
                let set = [("status", "written_off".into()), ("approved_by", Value::display(&event.actor))];
                changes.patch(WRITE_OFF, [shard, done.write_off_id.0.into()], set.into_iter().chain(now));
            }
            Event::StripeTransactionRecorded(transaction) => {
                if let Some(payment) = &transaction.payment {
                    Sums::of(transaction).ok_or(ApplyError::Overflow)?.add(payment, event, changes);
                }
                changes.append(
                    TRANSACTION,
                    vec![
                        shard,
                        position,
                        Value::from(&transaction.transaction),
                        transaction.category.name().into(),
                        Value::or_null(transaction.source.as_deref()),
                        Value::or_null(transaction.payment.as_deref()),
                        transaction.amount.into(),
                        transaction.fee.into(),
                        transaction.occurred_at.into(),
                        at,
                    ],
                );
            }
            _ => {}
        }
        Ok(())
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self)
    }
}
