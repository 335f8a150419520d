//! Refunds, disputes, receivables, and the provider's own record.

use modelfaucet_schema::event::{FreezeScope, TransactionCategory};
use modelfaucet_schema::ids::{RefundId, WriteOffId};

use super::super::{DisputePhase, DisputeReport, RefundReport, TransactionReport};
use super::*;

pub(super) const REFUND: RefundId = RefundId(Uuid::from_u128(0x4e));
const MADE_THERE: RefundId = RefundId(Uuid::from_u128(0x4f));
const WRITE_OFF: WriteOffId = WriteOffId(Uuid::from_u128(0x60));
const ANOTHER: Caller = Caller::Admin;

/// A payment of so much, credited.
pub(super) fn paid(amount: &str) -> [Step; 2] {
    let provider = "stripe".parse().unwrap();
    let request =
        Command::RequestTopUp { top_up_id: TOP_UP, wallet_id: WALLET, amount: usd(amount), provider, reference: None };
    let credit = Command::CreditTopUp { top_up_id: TOP_UP, payment: "pi_1".into(), amount: None, occurred_at: None };
    [request.into(), by(Caller::Stripe, credit)]
}

pub(super) fn refund(amount: &str) -> Command {
    Command::RequestRefund { refund_id: REFUND, payment: "pi_1".into(), amount: usd(amount), reason: None }
}

fn reported(own: Option<RefundId>, amount: &str, failed: Option<&str>) -> Step {
    let report = RefundReport {
        own,
        refund_id: MADE_THERE,
        reference: "re_1".into(),
        payment: "pi_1".into(),
        amount: usd(amount),
        failed: failed.map(str::to_owned),
        occurred_at: None,
    };
    by(Caller::Stripe, Command::ReportRefund(Box::new(report)))
}

pub(super) fn dispute(amount: &str, phase: DisputePhase) -> Step {
    let report = DisputeReport {
        dispute: "dp_1".into(),
        payment: "pi_1".into(),
        amount: usd(amount),
        reason: "fraudulent".into(),
        phase,
        occurred_at: None,
    };
    by(Caller::Stripe, Command::ReportDispute(Box::new(report)))
}

fn moved(category: TransactionCategory, amount: &str, fee: &str) -> Step {
    let report = TransactionReport {
        transaction: "txn_1".into(),
        category,
        source: None,
        payment: Some("pi_1".into()),
        amount: usd(amount),
        fee: usd(fee),
        occurred_at: given_nothing().now,
    };
    by(Caller::Stripe, Command::RecordTransaction(Box::new(report)))
}

fn spent(amount: &str) -> Step {
    let cost = Command::AdjustWallet {
        adjustment_id: modelfaucet_schema::ids::AdjustmentId(Uuid::from_u128(7)),
        wallet_id: WALLET,
        kind: modelfaucet_schema::event::AdjustmentKind::Adjustment,
        direction: modelfaucet_schema::event::Direction::Debit,
        amount: usd(amount),
        reason: None,
        expected: None,
    };
    cost.into()
}

#[test]
fn a_refund_leaves_the_wallet_at_once_and_comes_back_if_it_fails() {
    let requested = given([]).and(paid("10")).when(refund("4")).then(["RefundRequested"]);
    let requested = requested.wallet("6", "0", "0").posts([("2010", 400_000_000), ("2030", -400_000_000)]);
    let sent = requested
        .next()
        .when(by(Caller::Stripe, Command::ConfirmRefund { refund_id: REFUND, reference: "re_1".into() }));
    let failed = sent.then(["RefundSent"]).next().when(reported(Some(REFUND), "4", Some("lost_or_stolen_card")));
    failed
        .then(["RefundFailed"])
        .wallet("10", "0", "0")
        .posts([("2030", 400_000_000), ("2010", -400_000_000)])
        .next()
        .when(reported(Some(REFUND), "4", Some("lost_or_stolen_card")))
        .then_refused("already_exists");
}

#[test]
fn refunds_and_disputes_together_never_pass_the_payment() {
    let world = given([]).and(paid("10")).and([refund("4").into()]);
    let second = |amount: &str| Command::RequestRefund {
        refund_id: MADE_THERE,
        payment: "pi_1".into(),
        amount: usd(amount),
        reason: None,
    };
    let world = world.when(second("6.01")).then_refused("refund_too_large");
    let world = world.when(dispute("3", DisputePhase::Opened)).then(["DisputeOpened", "Frozen"]).next();
    let thaw = Command::Thaw { scope: FreezeScope::Wallet(WALLET), reason: "looked".into() };
    let world = world.and([thaw.into()]).when(second("3.01")).then_refused("refund_too_large");
    world.when(second("3")).then(["RefundRequested"]).wallet("3", "0", "3");
}

#[test]
fn a_refund_takes_paid_credit_that_is_not_held() {
    let spent_most = given([]).and(paid("10")).and([spent("7")]);
    spent_most.when(refund("3.01")).then_refused("insufficient_balance");
    let held = given([]).and(paid("10")).and([hold_of(HOLD, "9").into()]);
    held.when(refund("2")).then_refused("in_flight_holds");
    let promo = given([promo_granted("5")]).and(paid("10")).and([spent("8")]);
    promo.when(refund("2.01")).then_refused("insufficient_balance");
}

#[test]
fn a_refund_that_was_made_at_the_provider_is_a_fact() {
    let world = given([promo_granted("1")]).and(paid("10")).and([spent("7")]);
    let taken = world.when(reported(None, "5", None)).then(["RefundRequested"]).wallet("1", "1", "0");
    let taken = taken.posts([("2010", 300_000_000), ("1200", 200_000_000), ("2030", -500_000_000)]);
    let world = taken.next().when(reported(None, "5", None)).then_refused("already_exists");
    let failed = world.when(reported(None, "5", Some("expired"))).then(["RefundFailed"]).wallet("4", "1", "0");
    failed.posts([("2030", 500_000_000), ("2010", -300_000_000), ("1200", -200_000_000)]);
}

#[test]
fn a_refund_whose_failure_is_told_first_is_in_the_books_with_both_legs() {
    let world = given([]).and(paid("10"));
    let both = world.when(reported(None, "5", Some("expired"))).then(["RefundRequested", "RefundFailed"]);
    both.wallet("10", "0", "0").next().when(reported(None, "5", None)).then_refused("already_exists");
}

#[test]
fn what_went_back_beside_a_dispute_of_all_of_it_is_a_fact_too() {
    let world = given([]).and(paid("10")).and([dispute("10", DisputePhase::Opened)]);
    let world = world.when(refund("1")).then_refused("frozen");
    let taken = world.when(reported(None, "4", None)).then(["RefundRequested"]).wallet("10", "0", "10");
    let world = taken.posts([("1200", 400_000_000), ("2030", -400_000_000)]).next();
    let lost = world.when(dispute("10", DisputePhase::Lost)).then(["DisputeLost"]).wallet("0", "0", "0");
    lost.posts([("2010", 1_000_000_000), ("1130", -1_000_000_000)]);
    // More than was paid never went back by refunds alone.
    given([]).and(paid("10")).when(reported(None, "10.01", None)).then_refused("refund_too_large");
}

#[test]
fn a_dispute_holds_what_is_there_and_freezes_the_wallet() {
    let world = given([]).and(paid("10")).and([spent("7")]);
    let open = world.when(dispute("10", DisputePhase::Opened)).then(["DisputeOpened", "Frozen"]).wallet("3", "0", "3");
    let world = open.next().when(hold_of(HOLD, "0")).then_refused("frozen");
    let world = world.when(dispute("10", DisputePhase::Opened)).then_refused("already_exists");
    let won = world.when(dispute("10", DisputePhase::Won)).then(["DisputeWon", "Thawed"]).wallet("3", "0", "0");
    won.next().when(dispute("10", DisputePhase::Lost)).then_refused("dispute_closed");
}

#[test]
fn a_lost_dispute_takes_what_is_there_and_the_rest_is_owed() {
    let world = given([promo_granted("1")]).and(paid("10")).and([spent("7")]);
    let world = world.and([dispute("10", DisputePhase::Opened)]);
    let lost = world.when(dispute("10", DisputePhase::Lost)).then(["DisputeLost"]).wallet("1", "1", "0");
    lost.posts([("2010", 300_000_000), ("1200", 700_000_000), ("1130", -1_000_000_000)]);
}

#[test]
fn a_dispute_that_is_closed_when_it_is_first_told_of_ends_in_the_same_way() {
    let world = || given([]).and(paid("10")).and([spent("7")]);
    let lost = world().when(dispute("10", DisputePhase::Lost)).then(["DisputeOpened", "Frozen", "DisputeLost"]);
    lost.wallet("0", "0", "0").next().when(dispute("10", DisputePhase::Opened)).then_refused("already_exists");
    let won = world().when(dispute("10", DisputePhase::Won)).then(["DisputeOpened", "DisputeWon"]);
    won.wallet("3", "0", "0");
}

#[test]
fn a_wallet_that_an_operator_froze_stays_frozen_when_the_dispute_is_won() {
    let frozen = Command::Freeze { scope: FreezeScope::Wallet(WALLET), reason: "look".into() };
    let world = given([]).and(paid("10")).and([frozen.into()]);
    let world = world.when(dispute("10", DisputePhase::Opened)).then(["DisputeOpened"]).next();
    let world = world.when(dispute("10", DisputePhase::Won)).then(["DisputeWon"]).next();
    world.when(hold_of(HOLD, "1")).then_refused("frozen");
}

#[test]
fn a_write_off_needs_two_people_and_something_that_is_owed() {
    let propose = |amount: &str| Command::ProposeWriteOff {
        write_off_id: WRITE_OFF,
        wallet_id: WALLET,
        amount: usd(amount),
        reason: "gone".into(),
    };
    let approve = Command::ApproveWriteOff { write_off_id: WRITE_OFF };
    let world = given([]).and(paid("10")).and([spent("7"), dispute("10", DisputePhase::Lost)]);
    let world = world.when(propose("7.01")).then_refused("write_off_too_large");
    let world = world.and([propose("7").into()]).when(approve.clone()).then_refused("same_actor");
    let done = world.when(by(ANOTHER, approve.clone())).then(["ReceivableWrittenOff"]);
    let done = done.posts([("5210", 700_000_000), ("1200", -700_000_000)]).wallet("0", "0", "0");
    done.next().when(by(ANOTHER, approve)).then_refused("write_off_not_found");
}

#[test]
fn each_movement_of_the_provider_has_its_template() {
    use TransactionCategory as Is;
    let posts = |category, amount: &str, fee: &str| given([]).when(moved(category, amount, fee));
    posts(Is::Charge, "10", "0.59").posts([("1010", 941_000_000), ("5110", 59_000_000), ("1110", -1_000_000_000)]);
    posts(Is::Fee, "-0.10", "0").posts([("1010", -10_000_000), ("5110", 10_000_000)]);
    posts(Is::NetworkCost, "-0.10", "0").posts([("1010", -10_000_000), ("5110", 10_000_000)]);
    posts(Is::Refund, "-4", "0").posts([("1010", -400_000_000), ("2030", 400_000_000)]);
    posts(Is::RefundFailure, "4", "0").posts([("1010", 400_000_000), ("2030", -400_000_000)]);
    let dispute = posts(Is::Dispute, "-10", "15");
    dispute.posts([("1010", -2_500_000_000), ("5120", 1_500_000_000), ("1130", 1_000_000_000)]);
    let reversal = posts(Is::DisputeReversal, "10", "-15");
    reversal.posts([("1010", 2_500_000_000), ("5120", -1_500_000_000), ("1130", -1_000_000_000)]);
    posts(Is::Payout, "-9", "0").posts([("1010", -900_000_000), ("1120", 900_000_000)]);
    posts(Is::PayoutReversal, "9", "0").posts([("1010", 900_000_000), ("1120", -900_000_000)]);
    posts(Is::Charge, "-1", "0").then_refused("invalid_transaction");
    posts(Is::Refund, "1", "0").then_refused("invalid_transaction");
}

#[test]
fn only_the_provider_and_administrators_tell_of_payments() {
    let steps =
        [reported(None, "1", None), dispute("1", DisputePhase::Opened), moved(TransactionCategory::Charge, "1", "0")];
    for step in steps {
        let Step::Command(_, command) = step else { unreachable!() };
        for caller in [Caller::Session(SESSION), Caller::Public, Caller::Developer(DEVELOPER, TOKEN)] {
            given([]).and(paid("10")).when(by(caller, command.clone())).then_refused("forbidden");
        }
    }
    for command in [granted("1"), refund("1").into()] {
        let Step::Command(_, command) = command else { unreachable!() };
        given([]).and(paid("10")).when(by(Caller::Stripe, command)).then_refused("forbidden");
    }
}

#[test]
fn a_user_tops_up_the_own_wallet_only() {
    let request = |wallet_id| Command::RequestTopUp {
        top_up_id: TOP_UP,
        wallet_id,
        amount: usd("5"),
        provider: "stripe".parse().unwrap(),
        reference: None,
    };
    given([]).when(by(Caller::Session(SESSION), request(WALLET))).then(["TopUpRequested"]);
    given([]).when(by(Caller::Session(SESSION), request(WalletId(Uuid::nil())))).then_refused("wallet_not_found");
    given([after_seconds(90_000)]).when(by(Caller::Session(SESSION), request(WALLET))).then_refused("expired_session");
}

#[test]
fn frozen_refunds_stop_those_that_begin_here() {
    let freeze = Command::Freeze { scope: FreezeScope::Refunds, reason: "look".into() };
    let world = given([freeze.into()]).and(paid("10"));
    let world = world.when(refund("1")).then_refused("frozen");
    world.when(reported(None, "1", None)).then(["RefundRequested"]);
}
