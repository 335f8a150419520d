//! Payments that come and go again, and payouts.

use modelfaucet_schema::account::{Account, AccountCode};
use modelfaucet_schema::entry::{EntryBuilder, JournalEntry};
use modelfaucet_schema::event::*;
use modelfaucet_schema::ids::{PayoutId, PromoId, RefundId, WriteOffId};
use modelfaucet_schema::money::Money;

use super::{Generator, name, units};

fn booked(debit: Account, credit: Account, amount: Money) -> JournalEntry {
    EntryBuilder::new().debit(debit, amount).credit(credit, amount).build().unwrap()
}

impl Generator {
    /// A payment, and everything that can become of it.
    pub(super) fn payment(&mut self, wallet: usize) {
        self.top_up(wallet, false);
        let (top_up_id, amount) = *self.wallets[wallet].pending.last().unwrap();
        let wallet_id = self.wallets[wallet].id;
        let (reference, url) = (format!("cs_{top_up_id}"), "https://pay.example".to_owned());
        self.say(Actor::Stripe, TopUpCheckoutOpened { top_up_id, wallet_id, reference, url });
        self.credit(wallet);
        let payment = format!("pi_{top_up_id}");
        self.moved(TransactionCategory::Charge, Some(&payment), amount, units(1_000_000));
        let part = units(amount.units() / 4);
        match self.roll(3) {
            0 => self.refund(wallet, &payment, part),
            1 => self.dispute(wallet, &payment, part),
            _ => self.expiring(wallet, part),
        }
    }

    fn moved(&mut self, category: TransactionCategory, payment: Option<&str>, amount: Money, fee: Money) {
        let other = match category {
            TransactionCategory::Charge => AccountCode::StripeCharges,
            TransactionCategory::Refund => AccountCode::RefundsInFlight,
            TransactionCategory::Dispute => AccountCode::DisputesWithheld,
            _ => AccountCode::ProcessorFees,
        };
        let entry = EntryBuilder::new()
            .debit(Account::house(AccountCode::StripeBalance), amount.checked_sub(fee).unwrap())
            .debit(Account::house(AccountCode::ProcessorFees), fee)
            .credit(Account::house(other), amount)
            .build()
            .unwrap();
        let (transaction, occurred_at) = (format!("txn_{}", self.id()), self.now);
        let (source, payment) = (payment.map(|_| "ch_1".to_owned()), payment.map(str::to_owned));
        let moved =
            StripeTransactionRecorded { transaction, category, source, payment, amount, fee, occurred_at, entry };
        self.say(Actor::Stripe, moved);
    }

    fn refund(&mut self, wallet: usize, payment: &str, amount: Money) {
        let (refund_id, wallet_id, payment) = (RefundId(self.id()), self.wallets[wallet].id, payment.to_owned());
        let in_flight = Account::house(AccountCode::RefundsInFlight);
        let made_there = self.roll(2) == 0;
        let requested = RefundRequested {
            refund_id,
            wallet_id,
            payment: payment.clone(),
            amount,
            receivable: Money::ZERO,
            reference: made_there.then(|| "re_1".to_owned()),
            reason: Some("unhappy".into()),
            occurred_at: None,
            entry: booked(Account::paid(wallet_id), in_flight.clone(), amount),
            balance: self.change(wallet, -amount.units(), 0, 0),
        };
        self.say(Actor::Admin, requested);
        if !made_there {
            self.say(Actor::Stripe, RefundSent { refund_id, wallet_id, reference: "re_1".into() });
        }
        if self.roll(2) == 0 {
            self.moved(TransactionCategory::Refund, Some(&payment), amount.checked_neg().unwrap(), Money::ZERO);
            return;
        }
        let failed = RefundFailed {
            refund_id,
            wallet_id,
            payment,
            amount,
            receivable: Money::ZERO,
            reason: "expired_or_canceled_card".into(),
            occurred_at: Some(self.now),
            entry: booked(in_flight, Account::paid(wallet_id), amount),
            balance: self.change(wallet, amount.units(), 0, 0),
        };
        self.say(Actor::Stripe, failed);
    }

    fn dispute(&mut self, wallet: usize, payment: &str, amount: Money) {
        let (wallet_id, payment, dispute) = (self.wallets[wallet].id, payment.to_owned(), format!("dp_{}", self.id()));
        let opened = DisputeOpened {
            dispute: dispute.clone(),
            wallet_id,
            payment: payment.clone(),
            amount,
            held: amount,
            freezes: false,
            reason: "fraudulent".into(),
            occurred_at: None,
            balance: self.change(wallet, 0, 0, amount.units()),
        };
        self.say(Actor::Stripe, opened);
        if self.roll(3) == 0 {
            let balance = self.change(wallet, 0, 0, -amount.units());
            let won = DisputeWon { dispute, wallet_id, payment, released: amount, occurred_at: None, balance };
            return self.say(Actor::Stripe, won);
        }
        self.moved(TransactionCategory::Dispute, Some(&payment), amount.checked_neg().unwrap(), units(1_000_000));
        // A third of it cannot be paid.
        let receivable = units(amount.units() / 3);
        let paid = amount.checked_sub(receivable).unwrap();
        let entry = EntryBuilder::new()
            .debit(Account::paid(wallet_id), paid)
            .debit(Account::receivable(wallet_id), receivable)
            .credit(Account::house(AccountCode::DisputesWithheld), amount)
            .build()
            .unwrap();
        let balance = self.change(wallet, -paid.units(), 0, -amount.units());
        let occurred_at = Some(self.now);
        let released = amount;
        let lost =
            DisputeLost { dispute, wallet_id, payment, amount, released, receivable, occurred_at, entry, balance };
        self.say(Actor::Stripe, lost);
        let write_off_id = WriteOffId(self.id());
        let proposed = WriteOffProposed { write_off_id, wallet_id, amount: receivable, reason: "gone".into() };
        self.say(Actor::Admin, proposed);
        if self.roll(2) == 0 {
            let entry = booked(Account::house(AccountCode::BadDebt), Account::receivable(wallet_id), receivable);
            let balance = self.change(wallet, 0, 0, 0);
            let done = ReceivableWrittenOff { write_off_id, wallet_id, amount: receivable, entry, balance };
            self.say(Actor::Operator, done);
        }
    }

    /// Promotional credit that is given and expires.
    fn expiring(&mut self, wallet: usize, amount: Money) {
        let (promo_id, wallet_id) = (PromoId(self.id()), self.wallets[wallet].id);
        let (given, cost) = (Account::promo(wallet_id), Account::house(AccountCode::DeferredPromoCost));
        let granted = PromoGranted {
            promo_id: Some(promo_id),
            wallet_id,
            amount,
            reason: "launch".into(),
            expires_at: Some(self.now),
            entry: booked(cost.clone(), given.clone(), amount),
            balance: self.change(wallet, amount.units(), amount.units(), 0),
        };
        self.say(Actor::Admin, granted);
        let expired = CreditExpired {
            promo_id,
            wallet_id,
            amount,
            again_at: None,
            entry: booked(given, cost, amount),
            balance: self.change(wallet, -amount.units(), -amount.units(), 0),
        };
        self.say(Actor::Clock, expired);
    }

    /// A payout and one of its ends.
    pub(super) fn payout(&mut self) {
        let (payout_id, developer_id) = (PayoutId(self.id()), self.developer);
        let amount = units(1_000_000 * i64::try_from(1 + self.roll(1_000)).unwrap());
        let (owed, away) = (Account::developer(developer_id), Account::house(AccountCode::PayoutsInFlight));
        let (provider, reason) = (|| name("mock"), || "look".to_owned());
        let requested = PayoutRequested {
            payout_id,
            developer_id,
            amount,
            provider: provider(),
            trigger: PayoutTrigger::Hand,
            entry: booked(owed.clone(), away.clone(), amount),
        };
        self.say(Actor::Admin, requested);
        let again = booked(away.clone(), owed.clone(), amount);
        let end = self.roll(5);
        if end == 0 {
            let cancelled = PayoutCancelled { payout_id, developer_id, amount, reason: reason(), entry: again };
            return self.say(Actor::Admin, cancelled);
        }
        let approved = PayoutApproved { payout_id, developer_id, amount, provider: provider(), note: None };
        self.say(Actor::Operator, approved);
        match end {
            1 => {
                let failed = PayoutFailed { payout_id, developer_id, amount, reason: reason(), entry: again };
                self.say(Actor::Admin, failed);
            }
            2 => {}
            _ => {
                let bank = Account::house(AccountCode::BankOperating);
                let paid = PayoutPaid {
                    payout_id,
                    developer_id,
                    amount,
                    provider: provider(),
                    reference: "po_mock_1".into(),
                    fee: Money::ZERO,
                    occurred_at: None,
                    entry: booked(away, bank.clone(), amount),
                };
                self.say(Actor::Admin, paid);
                if end == 3 {
                    let returned = PayoutReturned {
                        payout_id,
                        developer_id,
                        amount,
                        reason: reason(),
                        reference: "bank-1".into(),
                        occurred_at: None,
                        entry: booked(bank, owed, amount),
                    };
                    self.say(Actor::Admin, returned);
                }
            }
        }
    }
}
