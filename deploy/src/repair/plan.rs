//! A plan: commands in order, each with the state that it expects and the state that it leaves. Pure.

use std::collections::HashMap;
use std::fmt::Write as _;

use modelfaucet_schema::event::{AdjustmentKind, Balance, Direction, FreezeScope};
use modelfaucet_schema::ids::{HoldId, Position, RepairId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::short_hash;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::freeze::in_words;

/// The form of the file. Another program version may know another one, and must not guess.
const FORMAT: &str = "modelfaucet.repair.v1";
/// The longest reason, so that it fits into a command's with the step's name before it.
const LONGEST_REASON: usize = 800;

/// A plan.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Plan {
    format: String,
    /// Why.
    pub(super) reason: String,
    made_at: Timestamp,
    /// The end of the log that it was made from.
    as_of: Position,
    /// In order.
    pub(super) steps: Vec<Step>,
}

/// One command.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Step {
    /// What to do.
    pub(super) act: Act,
    /// What must be so before it.
    pub(super) before: Seen,
    /// What is so behind it.
    pub(super) after: Seen,
}

/// What to do. Only what the API has a command for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "do", rename_all = "snake_case", deny_unknown_fields)]
pub(super) enum Act {
    /// Credit or debit a wallet.
    Adjust {
        /// The wallet.
        wallet_id: WalletId,
        /// What for; it decides the account on the other side.
        kind: AdjustmentKind,
        /// Into or out of the wallet.
        direction: Direction,
        /// Above zero.
        amount_usd: Money,
    },
    /// Give a hold back without a charge.
    ReleaseHold {
        /// The hold.
        hold_id: HoldId,
        /// Its wallet.
        wallet_id: WalletId,
        /// What it holds.
        amount_usd: Money,
    },
    /// Turn a kill switch on.
    Freeze {
        /// What it stops.
        scope: FreezeScope,
    },
    /// Turn a kill switch off; by somebody else than who turned it on.
    Thaw {
        /// What goes on.
        scope: FreezeScope,
    },
}

/// What is so at one moment, as far as a step concerns it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Seen {
    /// The wallet's figures.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) wallet: Option<Figures>,
    /// Is the scope frozen?
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) frozen: Option<bool>,
}

impl Seen {
    pub(super) fn wallet(figures: Figures) -> Self {
        Self { wallet: Some(figures), frozen: None }
    }

    pub(super) fn frozen(is: bool) -> Self {
        Self { wallet: None, frozen: Some(is) }
    }
}

/// A wallet's figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figures {
    /// Paid and promotional credit, open holds included.
    pub(super) posted_usd: Money,
    /// The sum of the open holds.
    pub(super) held_usd: Money,
    /// The difference.
    pub(super) available_usd: Money,
}

impl Figures {
    pub(super) fn of(balance: Balance) -> Self {
        Self { posted_usd: balance.posted, held_usd: balance.held, available_usd: balance.available() }
    }

    fn new(posted_usd: Money, held_usd: Money) -> Option<Self> {
        Some(Self { posted_usd, held_usd, available_usd: posted_usd.checked_sub(held_usd)? })
    }

    /// The figures behind a step; `None` if it does not concern a wallet or its sum is out of range.
    pub(super) fn behind(self, act: &Act) -> Option<Self> {
        let Self { posted_usd, held_usd, .. } = self;
        match act {
            Act::Adjust { direction: Direction::Credit, amount_usd, .. } => {
                Self::new(posted_usd.checked_add(*amount_usd)?, held_usd)
            }
            Act::Adjust { direction: Direction::Debit, amount_usd, .. } => {
                Self::new(posted_usd.checked_sub(*amount_usd)?, held_usd)
            }
            Act::ReleaseHold { amount_usd, .. } => Self::new(posted_usd, held_usd.checked_sub(*amount_usd)?),
            Act::Freeze { .. } | Act::Thaw { .. } => None,
        }
    }
}

impl Act {
    /// In a few words.
    pub(super) fn in_words(&self) -> String {
        match self {
            Self::Adjust { wallet_id, direction: Direction::Credit, amount_usd, .. } => {
                format!("credit {amount_usd} to wallet {wallet_id}")
            }
            Self::Adjust { wallet_id, direction: Direction::Debit, amount_usd, .. } => {
                format!("debit {amount_usd} from wallet {wallet_id}")
            }
            Self::ReleaseHold { hold_id, wallet_id, amount_usd } => {
                format!("give hold {hold_id} of {amount_usd} back to wallet {wallet_id}")
            }
            Self::Freeze { scope } => format!("freeze {}", in_words(*scope)),
            Self::Thaw { scope } => format!("thaw {}", in_words(*scope)),
        }
    }
}

/// Why a plan is none. Steps are counted from 1.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Problem {
    #[error("has the form {0:?}, this program knows {FORMAT}")]
    Format(String),
    #[error("has no steps: nothing has to be done")]
    Empty,
    #[error("says no reason, or one of more than {LONGEST_REASON} characters")]
    Reason,
    #[error("step {0}: the amount is not above zero")]
    Amount(usize),
    #[error("step {0}: what is expected before it is not what the steps before leave")]
    Before(usize),
    #[error("step {0}: what is expected behind it does not follow from what is before it")]
    After(usize),
}

impl Plan {
    pub(super) fn new(reason: &str, made_at: Timestamp, as_of: Position, steps: Vec<Step>) -> Self {
        Self { format: FORMAT.to_owned(), reason: reason.to_owned(), made_at, as_of, steps }
    }

    /// Does it add up? A file may have been changed by hand.
    pub(super) fn check(&self) -> Result<(), Problem> {
        if self.format != FORMAT {
            return Err(Problem::Format(self.format.clone()));
        }
        if self.steps.is_empty() {
            return Err(Problem::Empty);
        }
        let reason = self.reason.trim();
        if reason.is_empty() || reason.chars().count() > LONGEST_REASON || reason.chars().any(char::is_control) {
            return Err(Problem::Reason);
        }
        let (mut wallets, mut switches) = (HashMap::new(), HashMap::new());
        for (index, step) in self.steps.iter().enumerate() {
            let number = index + 1;
            match &step.act {
                Act::Adjust { wallet_id, amount_usd, .. } | Act::ReleaseHold { wallet_id, amount_usd, .. } => {
                    // A gateway's call may hold nothing.
                    let least = if matches!(step.act, Act::Adjust { .. }) { Money::from_units(1) } else { Money::ZERO };
                    if *amount_usd < least {
                        return Err(Problem::Amount(number));
                    }
                    let before = step.before.wallet.ok_or(Problem::Before(number))?;
                    let known = wallets.get(wallet_id).is_none_or(|known| *known == before);
                    if !known
                        || step.before != Seen::wallet(before)
                        || Figures::new(before.posted_usd, before.held_usd) != Some(before)
                    {
                        return Err(Problem::Before(number));
                    }
                    let after = before.behind(&step.act).ok_or(Problem::After(number))?;
                    if step.after != Seen::wallet(after) {
                        return Err(Problem::After(number));
                    }
                    wallets.insert(*wallet_id, after);
                }
                Act::Freeze { scope } | Act::Thaw { scope } => {
                    let on = matches!(step.act, Act::Freeze { .. });
                    if step.before != Seen::frozen(!on) || switches.get(scope).is_some_and(|is| *is == on) {
                        return Err(Problem::Before(number));
                    }
                    if step.after != Seen::frozen(on) {
                        return Err(Problem::After(number));
                    }
                    switches.insert(*scope, on);
                }
            }
        }
        Ok(())
    }

    /// As it is written to a file.
    pub(super) fn text(&self) -> String {
        let mut text = serde_json::to_string_pretty(self).unwrap_or_default();
        text.push('\n');
        text
    }

    /// SHA-256 of its content, whatever the file's white space and order of members.
    pub(super) fn digest(&self) -> String {
        let bytes = serde_json::to_vec(self).unwrap_or_default();
        Sha256::digest(&bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        })
    }

    /// The ledger's id of it.
    pub(super) fn id(&self) -> RepairId {
        RepairId(short_hash(&[b"repair", self.digest().as_bytes()]))
    }

    /// The idempotency key of a step, counted from 1.
    pub(super) fn key(&self, number: usize) -> String {
        format!("repair:{}:{number}", self.digest())
    }

    /// The reason that a step's event carries: it leads back to the plan.
    pub(super) fn step_reason(&self, number: usize) -> String {
        format!("repair {} step {number}: {}", self.id(), self.reason.trim())
    }

    /// For people.
    pub(super) fn told(&self) -> String {
        let mut text = format!("plan      {}\nreason    {}\n", self.digest(), self.reason);
        for (index, step) in self.steps.iter().enumerate() {
            let _infallible = writeln!(text, "step {:<4} {}", index + 1, step.act.in_words());
            if let (Some(before), Some(after)) = (step.before.wallet, step.after.wallet) {
                let _infallible = writeln!(
                    text,
                    "          posted {} → {} · held {} → {} · available {} → {}",
                    before.posted_usd,
                    after.posted_usd,
                    before.held_usd,
                    after.held_usd,
                    before.available_usd,
                    after.available_usd
                );
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use uuid::Uuid;

    use super::*;

    fn usd(units: i64) -> Money {
        Money::from_units(units)
    }

    fn wallet_of(act: &Act) -> Option<WalletId> {
        match act {
            Act::Adjust { wallet_id, .. } | Act::ReleaseHold { wallet_id, .. } => Some(*wallet_id),
            Act::Freeze { .. } | Act::Thaw { .. } => None,
        }
    }

    fn adjust(wallet: u128, units: i64) -> Act {
        Act::Adjust {
            wallet_id: WalletId(Uuid::from_u128(wallet)),
            kind: AdjustmentKind::Adjustment,
            direction: if units > 0 { Direction::Credit } else { Direction::Debit },
            amount_usd: usd(units.abs()),
        }
    }

    fn plan_of(acts: &[Act]) -> Plan {
        let mut wallets = HashMap::new();
        let mut steps = Vec::new();
        for act in acts {
            let wallet = wallet_of(act).unwrap();
            let before = *wallets.entry(wallet).or_insert(Figures::new(usd(1_000), usd(100)).unwrap());
            let after = before.behind(act).unwrap();
            wallets.insert(wallet, after);
            steps.push(Step { act: act.clone(), before: Seen::wallet(before), after: Seen::wallet(after) });
        }
        Plan::new("INC-12", Timestamp::from_micros(1_764_000_000_000_000), Position(7), steps)
    }

    proptest! {
        /// Whatever is planned adds up, survives its file, and its last figures are the first ones and all amounts.
        #[test]
        fn a_plan_adds_up_and_survives_its_file(moves in proptest::collection::vec((0_u128..3, prop_oneof![-500_i64..0, 1_i64..500]), 1..20)) {
            let acts: Vec<Act> = moves.iter().map(|(wallet, units)| adjust(*wallet, *units)).collect();
            let plan = plan_of(&acts);
            prop_assert_eq!(plan.check(), Ok(()));
            let read: Plan = serde_json::from_str(&plan.text()).unwrap();
            prop_assert_eq!(&read, &plan);
            prop_assert_eq!(read.digest(), plan.digest());
            for wallet in 0..3 {
                let sum: i64 = moves.iter().filter(|(of, _)| *of == wallet).map(|(_, units)| units).sum();
                let id = WalletId(Uuid::from_u128(wallet));
                let last = plan.steps.iter().rev().find(|step| wallet_of(&step.act) == Some(id));
                if let Some(last) = last {
                    prop_assert_eq!(last.after.wallet.unwrap().posted_usd, usd(1_000 + sum));
                    prop_assert_eq!(last.after.wallet.unwrap().held_usd, usd(100));
                }
            }
        }

        /// No figure of a step can be changed by hand without being noticed, and every change is another digest.
        #[test]
        fn a_figure_that_was_changed_by_hand_is_noticed(
            moves in proptest::collection::vec(1_i64..500, 2..8), at in any::<prop::sample::Index>(), which in 0..3, by in 1_i64..1_000,
        ) {
            let acts: Vec<Act> = moves.iter().map(|units| adjust(0, *units)).collect();
            let plan = plan_of(&acts);
            let mut forged = plan.clone();
            let step = &mut forged.steps[at.index(moves.len())];
            match which {
                0 => step.after.wallet.as_mut().unwrap().posted_usd = usd(by),
                1 => step.before.wallet.as_mut().unwrap().held_usd = usd(by),
                _ => if let Act::Adjust { amount_usd, .. } = &mut step.act { *amount_usd = usd(by); },
            }
            if forged != plan {
                prop_assert!(forged.check().is_err());
                prop_assert_ne!(forged.digest(), plan.digest());
                prop_assert_ne!(forged.key(1), plan.key(1));
            }
        }
    }

    #[test]
    fn what_is_no_plan_is_named() {
        let plan = plan_of(&[adjust(0, 5)]);
        let with = |change: fn(&mut Plan)| {
            let mut changed = plan.clone();
            change(&mut changed);
            changed.check()
        };
        assert_eq!(with(|plan| plan.format = "v2".into()), Err(Problem::Format("v2".into())));
        assert_eq!(with(|plan| plan.steps.clear()), Err(Problem::Empty));
        assert_eq!(with(|plan| plan.reason = " ".into()), Err(Problem::Reason));
        assert_eq!(with(|plan| plan.reason = "x".repeat(801)), Err(Problem::Reason));
        assert_eq!(with(|plan| plan.steps[0].act = adjust(0, 0)), Err(Problem::Amount(1)));
        assert_eq!(with(|plan| plan.steps[0].before.frozen = Some(true)), Err(Problem::Before(1)));
        let scope = FreezeScope::Usage;
        let freeze = |on| Step {
            act: if on { Act::Freeze { scope } } else { Act::Thaw { scope } },
            before: Seen::frozen(!on),
            after: Seen::frozen(on),
        };
        let switches = |steps| Plan::new("INC", Timestamp::from_micros(0), Position(1), steps).check();
        assert_eq!(switches(vec![freeze(true), freeze(false)]), Ok(()));
        assert_eq!(switches(vec![freeze(true), freeze(true)]), Err(Problem::Before(2)));
        assert_eq!(switches(vec![Step { after: Seen::frozen(false), ..freeze(true) }]), Err(Problem::After(1)));
    }

    #[test]
    fn an_unknown_member_is_no_plan() {
        let text = plan_of(&[adjust(0, 5)]).text().replacen("\"reason\"", "\"more\": 1, \"reason\"", 1);
        assert!(serde_json::from_str::<Plan>(&text).is_err());
    }

    #[test]
    fn keys_and_reasons_fit_into_the_ledger() {
        let mut plan = plan_of(&[adjust(0, 5)]);
        plan.reason = "x".repeat(LONGEST_REASON);
        assert!((8..=128).contains(&plan.key(10_000).len()));
        assert!(plan.step_reason(10_000).chars().count() <= 1_000);
    }
}
