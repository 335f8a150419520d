//! Promotional credit that expires.

use modelfaucet_schema::ids::PromoId;

use super::*;

fn promo_id(amount: &str) -> PromoId {
    PromoId(modelfaucet_schema::token::short_hash(&[amount.as_bytes()]))
}

/// Credit that expires so many seconds after the beginning.
fn expiring(amount: &str, seconds: u64) -> Step {
    promo(amount, Some(given_nothing().now.plus(Duration::from_secs(seconds)))).into()
}

pub(super) fn expire(amount: &str) -> Command {
    Command::ExpireCredit { wallet_id: WALLET, promo_id: promo_id(amount) }
}

fn used(dollars: u64) -> Step {
    record_usage(call("dollar"), Usage::text(dollars, 0), OnShortfall::Refuse).into()
}

#[test]
fn what_is_left_of_a_grant_goes_when_it_expires() {
    let world = given([granted("10"), expiring("3", 60), used(1)]);
    let world = world.when(expire("3")).then_refused("invalid_request");
    let world = world.and([after_seconds(60)]);
    // 1.30 of it was spent.
    let gone = world.when(expire("3")).then(["CreditExpired"]).wallet("10", "0", "0");
    let gone = gone.posts([("2020", 170_000_000), ("1400", -170_000_000)]);
    gone.next().when(expire("3")).then_refused("promo_not_found");
}

#[test]
fn what_expires_first_is_spent_first_and_what_never_expires_last() {
    let world = given([granted("10"), promo_granted("5"), expiring("4", 120), expiring("3", 60), used(3)]);
    // 3.90 were spent: all of the 3 and 0.90 of the 4.
    let world = world.and([after_seconds(120)]).when(expire("3")).then_refused("promo_not_found");
    let gone = world.when(expire("4")).posts([("2020", 310_000_000), ("1400", -310_000_000)]);
    gone.wallet("15", "5", "0");
}

#[test]
fn a_call_that_began_in_time_may_still_be_paid_with_it() {
    let world = given([expiring("3", 60), hold_of(HOLD, "2").into(), after_seconds(60)]);
    let part = world.when(expire("3")).then(["CreditExpired"]).wallet("2", "2", "2");
    let world = part.posts([("2020", 100_000_000), ("1400", -100_000_000)]).next();
    let world = world.when(expire("3")).then_refused("invalid_request");
    let world = world.and([release(HOLD).into(), after_seconds(3_600)]);
    world.when(expire("3")).wallet("0", "0", "0").next().when(expire("3")).then_refused("promo_not_found");
}

#[test]
fn credit_cannot_be_given_for_the_past() {
    let past = promo("3", Some(given_nothing().now));
    given([]).when(past).then_refused("invalid_request");
}
