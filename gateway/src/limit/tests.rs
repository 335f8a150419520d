use proptest::prelude::*;

use super::*;

const WINDOW: i64 = 60_000_000;

fn bucket(id: u128, limit: u64, cost: u64) -> Bucket {
    let key = Key { scope: Scope::Session, id: Uuid::from_u128(id), unit: Unit::Requests };
    Bucket { key, rate: Rate { limit, window: Duration::from_secs(60) }, cost }
}

#[test]
fn a_burst_is_granted_once_and_then_one_at_a_time() {
    let local = Local::default();
    let one = [bucket(1, 60, 1)];
    let granted = (0..100).filter(|_| local.take_at(&one, 0).refused.is_none()).count();
    assert_eq!(granted, 60);
    let refused = local.take_at(&one, 0).refused.unwrap();
    assert_eq!((refused.limit, refused.remaining, refused.retry_after), (60, 0, Duration::from_secs(1)));
    assert_eq!(refused.reset, Duration::from_secs(60));
    assert!(local.take_at(&one, 1_000_000).refused.is_none());
    assert!(local.take_at(&[bucket(2, 60, 1)], 0).refused.is_none(), "sessions do not share");
}

#[test]
fn all_buckets_give_or_none_does() {
    let local = Local::default();
    let (wide, narrow) = (bucket(1, 10, 1), bucket(2, 1, 1));
    assert!(local.take_at(&[wide, narrow], 0).refused.is_none());
    let decision = local.take_at(&[wide, narrow], 0);
    assert_eq!(decision.refused.map(|refused| refused.key), Some(narrow.key));
    assert_eq!(decision.tightest(Unit::Requests), decision.refused);
    assert_eq!(decision.tightest(Unit::Tokens), None);
    assert_eq!(local.take_at(&[wide], 0).allowances[0].remaining, 8, "the refused request took nothing");
}

#[test]
fn a_cost_above_the_limit_takes_the_whole_bucket() {
    let local = Local::default();
    assert!(local.take_at(&[bucket(1, 10, 1_000)], 0).refused.is_none());
    let refused = local.take_at(&[bucket(1, 10, 1_000)], 10_000_000).refused.unwrap();
    assert_eq!(refused.retry_after, Duration::from_secs(50));
}

#[test]
fn what_was_not_used_goes_back_and_what_was_used_above_is_taken() {
    let limits = RateLimits::default();
    let taken = Bucket { key: Key { unit: Unit::Tokens, ..bucket(1, 1, 0).key }, cost: 600, ..bucket(1, 1_000, 0) };
    let remaining =
        |limits: &RateLimits| limits.shared.local.take(&[Bucket { cost: 0, ..taken }]).allowances[0].remaining;
    assert!(limits.shared.local.take(&[taken]).refused.is_none());
    assert!((400..=401).contains(&remaining(&limits)));
    let of_call = Taken::new(limits.clone(), vec![taken]);
    of_call.used(100);
    drop(of_call);
    assert!((900..=901).contains(&remaining(&limits)), "{}", remaining(&limits));
    drop(Taken::new(limits.clone(), vec![Bucket { cost: 0, ..taken }]));
    let above = Taken::new(limits.clone(), vec![Bucket { cost: 0, ..taken }]);
    above.used(300);
    drop(above);
    assert!((600..=601).contains(&remaining(&limits)), "{}", remaining(&limits));
}

#[test]
fn an_address_that_cannot_be_counted_is_refused_and_a_session_is_not() {
    let local = Local::with_room_for(2);
    assert!(local.take_at(&[bucket(1, 60, 1), bucket(2, 60, 1)], 0).refused.is_none());
    let address = |id| Bucket { key: Key { scope: Scope::Address, ..bucket(id, 1, 1).key }, ..bucket(id, 60, 1) };
    assert!(local.take_at(&[address(3)], 0).refused.is_some());
    assert!(local.take_at(&[bucket(4, 60, 1)], 0).refused.is_none());
    // The others are full again, and gone.
    assert!(local.take_at(&[address(3)], 2 * WINDOW).refused.is_none());
}

#[test]
fn an_instance_alone_lets_its_share_through() {
    for (limit, instances, share) in [(60, 2, 30), (60, 1, 60), (60, 0, 60), (1, 7, 1), (10, 3, 3)] {
        assert_eq!(Rate { limit, window: Duration::from_secs(1) }.share(instances).limit, share);
    }
}

proptest! {
    #[test]
    fn no_window_grants_more_than_twice_the_limit(
        limit in 1_u64..50, steps in proptest::collection::vec((0_i64..5_000_000, 1_u64..4), 1..200),
    ) {
        let local = Local::default();
        let (mut now, mut granted) = (0, Vec::new());
        for (step, cost) in steps {
            now += step;
            if local.take_at(&[bucket(1, limit, cost)], now).refused.is_none() {
                granted.push((now, cost.min(limit)));
            }
        }
        for (from, _) in &granted {
            let within = granted.iter().filter(|(at, _)| at >= from && at - from < WINDOW);
            prop_assert!(within.map(|(_, cost)| cost).sum::<u64>() <= 2 * limit);
        }
    }

    #[test]
    fn whoever_waits_as_long_as_told_is_granted(limit in 1_u64..1_000_000, costs in proptest::collection::vec(1_u64..2_000_000, 1..40)) {
        let local = Local::default();
        let mut now = 0;
        for cost in costs {
            if let Some(refused) = local.take_at(&[bucket(1, limit, cost)], now).refused {
                now += i64::try_from(refused.retry_after.as_micros()).unwrap();
                prop_assert!(local.take_at(&[bucket(1, limit, cost)], now).refused.is_none());
            }
        }
    }
}
