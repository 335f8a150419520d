//! Credit: top-ups, grants and adjustments.

use modelfaucet_schema::event::{AdjustmentKind, Direction};
use modelfaucet_schema::ids::AdjustmentId;

use super::*;

fn request(amount: &str) -> Command {
    Command::RequestTopUp {
        top_up_id: TOP_UP,
        wallet_id: WALLET,
        amount: usd(amount),
        provider: "stripe".parse().unwrap(),
        reference: None,
    }
}

fn credit(amount: Option<&str>) -> Command {
    Command::CreditTopUp { top_up_id: TOP_UP, payment: "pi_1".into(), amount: amount.map(usd), occurred_at: None }
}

fn adjust(kind: AdjustmentKind, direction: Direction, amount: &str) -> Command {
    let adjustment_id = AdjustmentId(Uuid::from_u128(0xad));
    Command::AdjustWallet {
        adjustment_id,
        wallet_id: WALLET,
        kind,
        direction,
        amount: usd(amount),
        reason: None,
        expected: None,
    }
}

#[test]
fn a_top_up_is_requested_then_credited_once() {
    given([])
        .when(request("10.00"))
        .then(["TopUpRequested"])
        .wallet("0", "0", "0")
        .next()
        .when(credit(Some("10.00")))
        .then(["TopUpCredited"])
        .posts([("1110", 1_000_000_000), ("2010", -1_000_000_000)])
        .wallet("10", "0", "0")
        .next()
        .when(credit(Some("10.00")))
        .then_refused("top_up_not_found");
}

#[test]
fn a_payment_of_another_amount_is_not_credited() {
    given([request("10.00").into()])
        .when(credit(Some("10.01")))
        .then_refused_as(&Rejection::AmountMismatch { requested: usd("10") })
        .when(credit(None))
        .then(["TopUpCredited"])
        .wallet("10", "0", "0");
}

#[test]
fn a_failed_top_up_is_over() {
    given([request("10.00").into()])
        .when(Command::FailTopUp { top_up_id: TOP_UP, reason: "card declined".into() })
        .then(["TopUpFailed"])
        .wallet("0", "0", "0")
        .next()
        .when(credit(None))
        .then_refused("top_up_not_found");
}

#[test]
fn top_ups_are_whole_cents_above_zero() {
    for (amount, refusal) in
        [("0", Rejection::ZeroAmount), ("-1", Rejection::ZeroAmount), ("0.001", Rejection::NotWholeCents)]
    {
        given([]).when(request(amount)).then_refused_as(&refusal);
    }
}

#[test]
fn grants_say_where_the_credit_comes_from() {
    given([]).when(granted("3")).then(["TestCreditGranted"]).posts([("5220", 300_000_000), ("2010", -300_000_000)]);
    given([])
        .when(promo_granted("3"))
        .then(["PromoGranted"])
        .posts([("1400", 300_000_000), ("2020", -300_000_000)])
        .wallet("3", "3", "0");
}

#[test]
fn an_adjustments_kind_names_the_other_side() {
    use AdjustmentKind::{Adjustment, Chargeback, Refund};
    for (kind, code) in [(Adjustment, "5220"), (Refund, "2030"), (Chargeback, "1130")] {
        given([granted("5")])
            .when(adjust(kind, Direction::Credit, "2"))
            .then(["WalletAdjusted"])
            .posts([(code, 200_000_000), ("2010", -200_000_000)])
            .wallet("7", "0", "0")
            .next()
            .when(adjust(kind, Direction::Debit, "7"))
            .then(["WalletAdjusted"])
            .posts([("2010", 700_000_000), (code, -700_000_000)])
            .wallet("0", "0", "0");
    }
}

#[test]
fn a_debit_takes_neither_what_is_held_nor_promotional_credit() {
    let debit = |amount| adjust(AdjustmentKind::Refund, Direction::Debit, amount);
    given([granted("5"), promo_granted("5")])
        .when(debit("5.00000001"))
        .then_refused_as(&Rejection::InsufficientBalance { available: usd("5"), required: usd("5.00000001") })
        .and([hold_of(HOLD, "8").into()])
        .when(debit("2.00000001"))
        .then_refused("insufficient_balance")
        .when(debit("2"))
        .then(["WalletAdjusted"])
        .wallet("8", "5", "8");
}

#[test]
fn credit_beyond_what_can_be_counted_is_refused() {
    let most = "92233720368.54775807";
    given([granted(most)])
        .when(granted("0.00000001"))
        .then_refused("amount_out_of_range")
        .when(promo_granted("0.00000001"))
        .then_refused("amount_out_of_range")
        .when(adjust(AdjustmentKind::Adjustment, Direction::Credit, "0.00000001"))
        .then_refused("amount_out_of_range")
        .and([request("1").into()])
        .when(credit(None))
        .then_refused("amount_out_of_range");
}

#[test]
fn only_the_operator_gives_credit() {
    for caller in [Caller::Developer(DEVELOPER, TOKEN), Caller::Session(SESSION), Caller::Public] {
        for command in [
            credit(None),
            Command::FailTopUp { top_up_id: TOP_UP, reason: String::new() },
            Command::GrantTestCredit { wallet_id: WALLET, amount: usd("1") },
            promo("1", None),
            adjust(AdjustmentKind::Adjustment, Direction::Credit, "1"),
        ] {
            given([]).when(by(caller, command)).then_refused_as(&Rejection::Forbidden);
        }
    }
}
