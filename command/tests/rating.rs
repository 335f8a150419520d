//! Prices and their splits against the same formulas in integers without bounds (docs/ACCOUNTING.md, "Rounding"), on 100,000 random
//! usages: I12. `PROPTEST_CASES` multiplies by hundreds.
#![allow(clippy::unwrap_used, missing_docs, reason = "a test")]

use std::collections::BTreeMap;

use modelfaucet_command::domain::Rejection;
use modelfaucet_command::domain::rating::{Parties, Price, Rounding, Split, entry, price, split};
use modelfaucet_schema::event::{ModelRates, PriceRule, Route, ServiceTier};
use modelfaucet_schema::ids::{DeveloperId, WalletId};
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::usage::{Component, Usage};
use num_bigint::BigInt;
use proptest::prelude::*;
use uuid::Uuid;

/// One random usage, its prices and who pays.
type Raw = (Vec<(u8, u64)>, u32, u32, u8, i64, i64, i64);

/// A rate's own text, read by nobody of the product, as a whole number of 1e-15 USD.
fn exact(rate: Rate) -> BigInt {
    let text = rate.to_string();
    let (whole, part) = text.split_once('.').unwrap_or((&text, ""));
    format!("{whole}{part:0<15}").parse().unwrap()
}

/// Numerator of a fraction to the whole number below it, and what is left.
fn divide(numerator: &BigInt, denominator: u64) -> (BigInt, BigInt) {
    let denominator = BigInt::from(denominator);
    (numerator / &denominator, numerator % &denominator)
}

/// 1e-15 USD to whole units of 1e-8 USD, half to even or up.
fn rounded(femto: &BigInt, rounding: Rounding) -> BigInt {
    let (floor, rest) = divide(femto, 10_000_000);
    let is_odd = &floor % 2 != BigInt::from(0);
    let up = match rounding {
        Rounding::Hold => rest > BigInt::from(0),
        Rounding::Charge => rest > BigInt::from(5_000_000) || (rest == BigInt::from(5_000_000) && is_odd),
    };
    floor + i32::from(up)
}

/// The part of whole units, rounded down.
fn part(units: &BigInt, bps: BasisPoints) -> BigInt {
    divide(&(units * bps.get()), 10_000).0
}

fn big(money: Money) -> BigInt {
    money.units().into()
}

/// Upstream and retail in units.
fn expected_price(rates: &ModelRates, usage: &Usage, rule: &PriceRule, rounding: Rounding) -> (BigInt, BigInt) {
    let femto: BigInt = usage.counts().map(|(component, count)| exact(rates.rates[&component]) * count).sum();
    let upstream = rounded(&femto, rounding);
    let retail = &upstream + part(&upstream, rule.markup_bps);
    (upstream, retail)
}

fn check_price(rates: &ModelRates, usage: &Usage, rule: &PriceRule, rounding: Rounding) -> Option<Price> {
    let (upstream, retail) = expected_price(rates, usage, rule, rounding);
    let result = price(Route::Platform, Some(rates), ServiceTier::Standard, usage, rule, rounding);
    if retail > BigInt::from(i64::MAX) {
        assert_eq!(result, Err(Rejection::AmountOutOfRange), "{usage:?} for {retail}");
        return None;
    }
    let price = result.unwrap();
    assert_eq!((big(price.upstream), big(price.retail)), (upstream, retail), "{usage:?} {rates:?} {rule:?}");
    Some(price)
}

fn check_split(route: Route, price: &Price, rule: &PriceRule, [cap, payable, promo]: [Money; 3]) {
    let Split { charge, developer, unrecovered, promo: used, receivable } =
        split(route, price, rule, cap, payable, promo);
    let zero = BigInt::from(0);
    let (upstream, expected_charge) = (big(price.upstream), big(price.retail).min(big(cap)));
    let paid = expected_charge.clone().min(big(payable));
    let borne = if route == Route::DeveloperKey { &paid } else { &expected_charge };
    let expected = [
        expected_charge.clone(),
        part(&(&paid - &upstream).max(zero.clone()), rule.share_bps),
        (&upstream - borne).max(zero.clone()),
        if route == Route::DeveloperKey { zero.clone() } else { paid.clone().min(big(promo)) },
        &expected_charge - &paid,
    ];
    assert_eq!([charge, developer, unrecovered, used, receivable].map(big), expected, "{route:?} {price:?} {rule:?}");
    let platform = big(charge) - (upstream - big(unrecovered)) - big(developer);
    assert!(platform >= zero, "the platform would pay {platform} to be used");
    let provider = "openai".parse().unwrap();
    let parties = Parties { wallet: WalletId(Uuid::nil()), developer: DeveloperId(Uuid::nil()), provider: &provider };
    let split = Split { charge, developer, unrecovered, promo: used, receivable };
    let sum: BigInt =
        entry(route, price, &split, parties).unwrap().postings().iter().map(|line| big(line.amount)).sum();
    assert_eq!(sum, zero, "I4");
}

fn check((counts, markup, share, route, cap, payable, promo): Raw) {
    let mut usage = Usage::default();
    let mut rates = BTreeMap::new();
    for (at, (place, number)) in counts.into_iter().enumerate() {
        let component = Component::ALL[at];
        // Nothing, a few, many, the most that is allowed; free, of the usual size with many decimals, and up to a dollar each.
        usage.set(component, number % [1, 50, 300_000, 1_000_000_001][usize::from(place % 4)]);
        let femto = number.rotate_left(23) % [1, 3_000_000_000, 1_000_000_000_000_000, 7][usize::from(place / 4 % 4)];
        rates.insert(component, format!("0.{femto:015}").parse().unwrap());
    }
    let rates = ModelRates::flat("openai".parse().unwrap(), "m", rates);
    let bps = |bps| BasisPoints::new(bps).unwrap();
    let rule = PriceRule { markup_bps: bps(markup), share_bps: bps(share), fee_usd: Money::ZERO };
    check_price(&rates, &usage, &rule, Rounding::Hold);
    let Some(price) = check_price(&rates, &usage, &rule, Rounding::Charge) else { return };
    let mut more = usage;
    let component = Component::ALL[usize::from(route) % rates.rates.len()];
    more.set(component, usage.count(component) + 1);
    if let Some(dearer) = check_price(&rates, &more, &rule, Rounding::Charge) {
        assert!(dearer.retail >= price.retail && dearer.upstream >= price.upstream, "more for less: {usage:?}");
    }
    let route = [Route::Platform, Route::DeveloperKey][usize::from(route % 2)];
    // Wallets that hold about as much as it costs, and any.
    let near = |number: i64| Money::from_units((number % price.retail.units().max(1)).abs());
    for limits in [[cap, payable, promo].map(near), [cap, payable, promo].map(|n| Money::from_units(n.abs()))] {
        check_split(route, &price, &rule, limits);
    }
}

fn usages() -> impl Strategy<Value = Vec<Raw>> {
    let counts = prop::collection::vec((any::<u8>(), any::<u64>()), 1..Component::ALL.len());
    let bps = || prop_oneof![Just(0), Just(1), 0..10_001_u32, Just(10_000)];
    let money = || 0..=i64::MAX;
    let one = (counts, prop_oneof![bps(), 0..100_001_u32], bps(), any::<u8>(), money(), money(), money());
    prop::collection::vec(one, 100)
}

proptest! {
    #![proptest_config(ProptestConfig {
        cases: std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(1_000),
        ..ProptestConfig::default()
    })]

    #[test]
    fn prices_and_splits_are_those_of_unbounded_integers(usages in usages()) {
        usages.into_iter().for_each(check);
    }
}
