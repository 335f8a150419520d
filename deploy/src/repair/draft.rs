//! From what somebody wants to a plan: what each step finds and leaves, from the writer's own state. Pure.

use std::collections::HashMap;

use modelfaucet_command::domain::State;
use modelfaucet_schema::event::{AdjustmentKind, Direction, FreezeScope};
use modelfaucet_schema::ids::{HoldId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;

use super::plan::{Act, Figures, Seen, Step};

/// What somebody wants.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Order {
    Freeze(FreezeScope),
    Release(HoldId),
    ReleaseOverdue,
    Adjust {
        wallet: WalletId,
        /// Negative: out of the wallet.
        by: Money,
    },
    ToBalance {
        wallet: WalletId,
        to: Money,
    },
    Thaw(FreezeScope),
}

/// Why there is no plan for it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum NoPlan {
    #[error("there is no wallet {0}")]
    NoWallet(WalletId),
    #[error("hold {0} is not open; `modelfaucet explain` says how it ended")]
    NoHold(HoldId),
    #[error("it is frozen already")]
    Frozen,
    #[error("it is not frozen")]
    NotFrozen,
    #[error("wallet {wallet}: {amount} cannot be taken, {available} are available as paid credit")]
    NotAvailable { wallet: WalletId, amount: Money, available: Money },
    #[error("wallet {0}: the amount is out of range")]
    OutOfRange(WalletId),
}

/// The steps of a plan, each on what the ones before it leave. What changes nothing is left out.
pub(super) fn steps(state: &State, orders: &[Order], now: Timestamp) -> Result<Vec<Step>, NoPlan> {
    let mut draft = Draft { state, wallets: HashMap::new(), switches: HashMap::new(), steps: Vec::new() };
    for order in orders {
        match order {
            Order::Freeze(scope) => draft.turn(*scope, true)?,
            Order::Thaw(scope) => draft.turn(*scope, false)?,
            Order::Release(hold) => draft.release(*hold)?,
            Order::ReleaseOverdue => {
                let mut overdue: Vec<_> = state.holds.iter().filter(|(_, hold)| hold.expires_at <= now).collect();
                overdue.sort_by_key(|(id, hold)| (hold.expires_at, **id));
                for (id, _) in overdue {
                    draft.release(*id)?;
                }
            }
            Order::Adjust { wallet, by } => draft.adjust(*wallet, *by)?,
            Order::ToBalance { wallet, to } => {
                let posted = draft.figures(*wallet)?.posted_usd;
                let by = to.checked_sub(posted).ok_or(NoPlan::OutOfRange(*wallet))?;
                draft.adjust(*wallet, by)?;
            }
        }
    }
    Ok(draft.steps)
}

struct Draft<'a> {
    state: &'a State,
    /// Wallets behind the steps so far.
    wallets: HashMap<WalletId, Figures>,
    switches: HashMap<FreezeScope, bool>,
    steps: Vec<Step>,
}

impl Draft<'_> {
    fn figures(&self, wallet: WalletId) -> Result<Figures, NoPlan> {
        if let Some(figures) = self.wallets.get(&wallet) {
            return Ok(*figures);
        }
        self.state.wallets.get(&wallet).map(|known| Figures::of(known.balance)).ok_or(NoPlan::NoWallet(wallet))
    }

    fn turn(&mut self, scope: FreezeScope, on: bool) -> Result<(), NoPlan> {
        let is = self.switches.get(&scope).copied().unwrap_or_else(|| self.state.freezes.contains(&scope));
        if is == on {
            return Err(if on { NoPlan::Frozen } else { NoPlan::NotFrozen });
        }
        self.switches.insert(scope, on);
        let act = if on { Act::Freeze { scope } } else { Act::Thaw { scope } };
        self.steps.push(Step { act, before: Seen::frozen(!on), after: Seen::frozen(on) });
        Ok(())
    }

    fn release(&mut self, hold_id: HoldId) -> Result<(), NoPlan> {
        let hold = self.state.holds.get(&hold_id).ok_or(NoPlan::NoHold(hold_id))?;
        let is_same = |step: &Step| matches!(&step.act, Act::ReleaseHold { hold_id: known, .. } if *known == hold_id);
        if self.steps.iter().any(is_same) {
            return Ok(());
        }
        self.on_wallet(Act::ReleaseHold { hold_id, wallet_id: hold.wallet_id, amount_usd: hold.amount }, hold.wallet_id)
    }

    fn adjust(&mut self, wallet_id: WalletId, by: Money) -> Result<(), NoPlan> {
        if by.is_zero() {
            return Ok(());
        }
        let out_of_range = NoPlan::OutOfRange(wallet_id);
        let (direction, amount_usd) = if by.is_negative() {
            (Direction::Debit, by.checked_neg().ok_or(out_of_range)?)
        } else {
            (Direction::Credit, by)
        };
        if direction == Direction::Debit {
            let available = self.debitable(wallet_id)?;
            if amount_usd > available {
                return Err(NoPlan::NotAvailable { wallet: wallet_id, amount: amount_usd, available });
            }
        }
        let kind = AdjustmentKind::Adjustment;
        self.on_wallet(Act::Adjust { wallet_id, kind, direction, amount_usd }, wallet_id)
    }

    /// What a debit may take: never promotional credit, and nothing below the floor.
    fn debitable(&self, wallet_id: WalletId) -> Result<Money, NoPlan> {
        let figures = self.figures(wallet_id)?;
        let wallet = self.state.wallets.get(&wallet_id).ok_or(NoPlan::NoWallet(wallet_id))?;
        let less = |a: Money, b: Money| a.checked_sub(b).unwrap_or(Money::ZERO);
        let paid = less(figures.posted_usd, wallet.balance.promo);
        Ok(less(figures.available_usd, wallet.floor).min(paid).max(Money::ZERO))
    }

    fn on_wallet(&mut self, act: Act, wallet: WalletId) -> Result<(), NoPlan> {
        let before = self.figures(wallet)?;
        let after = before.behind(&act).ok_or(NoPlan::OutOfRange(wallet))?;
        self.wallets.insert(wallet, after);
        self.steps.push(Step { act, before: Seen::wallet(before), after: Seen::wallet(after) });
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use modelfaucet_command::domain::{Hold, Wallet};
    use modelfaucet_schema::event::{Actor, Balance, Call, PriceRule, RateCardId, Route, ServiceTier};
    use modelfaucet_schema::ids::{AppId, Position, UserId};
    use modelfaucet_schema::money::BasisPoints;
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;
    use crate::repair::plan::Plan;

    const WALLET: WalletId = WalletId(Uuid::from_u128(1));
    const NOW: i64 = 1_764_000_000_000_000;

    fn usd(units: i64) -> Money {
        Money::from_units(units)
    }

    fn hold(number: u128) -> HoldId {
        HoldId(Uuid::from_u128(number))
    }

    /// A wallet with 1,000 posted, of which 200 are promotional, and holds of 100 (overdue) and 50.
    fn state() -> State {
        let mut state = State::default();
        let balance = Balance { posted: usd(1_000), promo: usd(200), held: usd(150) };
        let wallet = Wallet { app_id: AppId(Uuid::nil()), user_id: UserId(Uuid::nil()), floor: Money::ZERO, balance };
        state.wallets.set(WALLET, wallet);
        for (number, amount, expires) in [(1, 100, NOW - 1), (2, 50, NOW + 1)] {
            let call = Call {
                app_id: AppId(Uuid::nil()),
                session_id: None,
                feature_key: None,
                route: Route::Platform,
                provider: "openai".parse().unwrap(),
                model: "m".into(),
                service_tier: ServiceTier::Standard,
            };
            let (markup_bps, share_bps) = (BasisPoints::new(0).unwrap(), BasisPoints::new(0).unwrap());
            let open = Hold {
                wallet_id: WALLET,
                call: Arc::new(call),
                amount: usd(amount),
                rate_card_id: RateCardId(Uuid::nil()),
                price_rule: PriceRule { markup_bps, share_bps, fee_usd: Money::ZERO },
                expires_at: Timestamp::from_micros(expires),
                gateway: None,
                feature_id: None,
                credential: None,
                sent: None,
            };
            state.holds.set(hold(number), open);
        }
        state.freezes.set(FreezeScope::Payouts, Actor::Admin);
        state
    }

    fn planned(orders: &[Order]) -> Result<Plan, NoPlan> {
        let now = Timestamp::from_micros(NOW);
        steps(&state(), orders, now).map(|steps| Plan::new("INC-12", now, Position(1), steps))
    }

    #[test]
    fn each_step_stands_on_what_the_ones_before_leave() {
        let orders = [
            Order::Freeze(FreezeScope::Usage),
            Order::Release(hold(2)),
            Order::ReleaseOverdue,
            Order::Release(hold(1)),
            Order::Adjust { wallet: WALLET, by: usd(-300) },
            Order::ToBalance { wallet: WALLET, to: usd(900) },
            Order::ToBalance { wallet: WALLET, to: usd(900) },
            Order::Thaw(FreezeScope::Payouts),
        ];
        let plan = planned(&orders).unwrap();
        assert_eq!(plan.check(), Ok(()));
        let words: Vec<String> = plan.steps.iter().map(|step| step.act.in_words()).collect();
        assert_eq!(words.len(), 6, "{words:?}");
        let last = plan.steps[4].after.wallet.unwrap();
        assert_eq!((last.posted_usd, last.held_usd, last.available_usd), (usd(900), usd(0), usd(900)));
    }

    #[test]
    fn what_cannot_be_is_refused_before_anybody_approves_it() {
        let available = usd(800);
        let none = WalletId(Uuid::from_u128(9));
        for (order, problem) in [
            (Order::Adjust { wallet: none, by: usd(1) }, NoPlan::NoWallet(none)),
            (Order::Release(hold(9)), NoPlan::NoHold(hold(9))),
            (Order::Freeze(FreezeScope::Payouts), NoPlan::Frozen),
            (Order::Thaw(FreezeScope::Usage), NoPlan::NotFrozen),
            (
                Order::Adjust { wallet: WALLET, by: usd(-801) },
                NoPlan::NotAvailable { wallet: WALLET, amount: usd(801), available },
            ),
            (Order::Adjust { wallet: WALLET, by: usd(i64::MAX) }, NoPlan::OutOfRange(WALLET)),
        ] {
            assert_eq!(planned(&[order]).unwrap_err(), problem);
        }
        assert_eq!(planned(&[Order::Adjust { wallet: WALLET, by: usd(-800) }]).unwrap().check(), Ok(()));
    }

    proptest! {
        /// Any wishes in any order: either there is a plan that adds up, or none.
        #[test]
        fn there_is_a_plan_that_adds_up_or_none(picks in proptest::collection::vec((0_u8..6, -900_i64..900), 0..12)) {
            let orders: Vec<Order> = picks.iter().map(|(kind, units)| match kind {
                0 => Order::Freeze(FreezeScope::Usage),
                1 => Order::Release(hold(1)),
                2 => Order::ReleaseOverdue,
                3 => Order::Adjust { wallet: WALLET, by: usd(*units) },
                4 => Order::ToBalance { wallet: WALLET, to: usd(units.abs()) },
                _ => Order::Thaw(FreezeScope::Usage),
            }).collect();
            if let Ok(plan) = planned(&orders) && !plan.steps.is_empty() {
                prop_assert_eq!(plan.check(), Ok(()));
                let figures = plan.steps.iter().filter_map(|step| step.after.wallet);
                prop_assert!(figures.clone().all(|figures| !figures.available_usd.is_negative()));
            }
        }
    }
}
