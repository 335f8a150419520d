//! Plans of compensating commands, and adjustments that hold only for the figures that were seen.

use modelfaucet_schema::event::{AdjustmentKind, Direction, FreezeScope};
use modelfaucet_schema::ids::{AdjustmentId, RepairId};

use super::super::ExpectedBalance;
use super::*;

const REPAIR: RepairId = RepairId(Uuid::from_u128(0x77));

pub(super) fn propose() -> Command {
    Command::ProposeRepair { repair_id: REPAIR, digest: "5f".repeat(32), steps: 1, reason: "INC-12".into() }
}

pub(super) fn approve() -> Command {
    Command::ApproveRepair { repair_id: REPAIR }
}

pub(super) fn approved() -> Vec<Step> {
    vec![propose().into(), by(Caller::Admin, approve())]
}

/// A debit of 0.50 from a wallet that should have this much posted and nothing held.
pub(super) fn adjust_expecting(posted: &str) -> Command {
    Command::AdjustWallet {
        adjustment_id: AdjustmentId(Uuid::from_u128(1)),
        wallet_id: WALLET,
        kind: AdjustmentKind::Adjustment,
        direction: Direction::Debit,
        amount: usd("0.50"),
        reason: None,
        expected: Some(ExpectedBalance { posted: usd(posted), held: usd("0") }),
    }
}

#[test]
fn a_repair_is_proposed_once_and_approved_once_by_somebody_else() {
    let world = given([propose().into()]);
    let world = world.when(propose()).then_refused("already_exists");
    let world = world.when(approve()).then_refused("same_actor");
    let done = world.when(by(Caller::Admin, approve())).then(["RepairApproved"]);
    done.next().when(by(Caller::Admin, approve())).then_refused("repair_closed");
}

#[test]
fn a_repair_can_be_agreed_on_while_everything_is_frozen() {
    let frozen = given([Command::Freeze { scope: FreezeScope::Everything, reason: "INC-12".into() }.into()]);
    frozen.and(approved());
}

#[test]
fn an_adjustment_that_expects_figures_is_made_on_these_figures_only() {
    given([granted("1")]).when(adjust_expecting("1.00000001")).then_refused("balance_changed");
    let held = given([granted("1"), hold_of(HOLD, "0.1").into()]);
    held.when(adjust_expecting("1")).then_refused("balance_changed");
    given([granted("1")]).when(adjust_expecting("1")).then(["WalletAdjusted"]).wallet("0.5", "0", "0");
}
