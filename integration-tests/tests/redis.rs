//! Rate limits in a real Redis: shared by instances, expendable, and never a matter of money.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::time::{Duration, Instant};

use modelfaucet_gateway::limit::{Bucket, Key, Rate, RateLimits, RedisOptions, Scope, Unit};
use modelfaucet_integration_tests::calls::{Raw, booked_when_ended, charged, chat, compare, streamed};
use modelfaucet_integration_tests::process::{Up, has_postgres};
use modelfaucet_integration_tests::provider::Provider;
use modelfaucet_integration_tests::proxy::Proxy;
use modelfaucet_integration_tests::redis::Redis;
use modelfaucet_integration_tests::report::{self, Figures};
use modelfaucet_schema::event::Event;
use modelfaucet_schema::money::Money;
use serde_json::{Value, json};
use uuid::Uuid;

/// Longer than the 20 ms of production: a test machine may be busy.
const PATIENCE: Duration = Duration::from_millis(500);

fn limits(url: &str) -> RateLimits {
    let url = url.to_owned().into();
    RateLimits::shared(&RedisOptions { url, service: "test", patience: PATIENCE, authorities: None }).unwrap()
}

fn bucket(limit: u64, window: Duration) -> Bucket {
    let key = Key { scope: Scope::App, id: Uuid::from_u128(7), unit: Unit::Requests };
    Bucket { key, rate: Rate { limit, window }, cost: 1 }
}

async fn wait_until(limits: &RateLimits, here: bool) {
    let began = Instant::now();
    while limits.redis_counts() != Some(here) {
        assert!(began.elapsed() < Duration::from_secs(30), "Redis is not seen to be {here}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

async fn granted(limits: &RateLimits, bucket: Bucket, offered: usize) -> u64 {
    let mut granted = 0;
    for _ in 0..offered {
        granted += u64::from(limits.take(&[bucket]).await.refused.is_none());
    }
    granted
}

/// 50 per second allowed and 200 per second offered by two instances that may do in Redis no more than they need.
#[tokio::test]
async fn two_instances_share_one_limit() {
    let Some(redis) = Redis::start() else { return };
    let user = ["ACL", "SETUSER", "limiter", "on", ">secret", "~rl:*"];
    let may = ["+eval", "+evalsha", "+script|load", "+get", "+set", "+time", "+ping"];
    assert_eq!(redis.ask(&[user.as_slice(), may.as_slice()].concat()), "OK");
    let url = format!("redis://limiter:secret@127.0.0.1:{}", redis.port());
    let instances = [limits(&url), limits(&url)];
    for instance in &instances {
        wait_until(instance, true).await;
    }
    let bucket = bucket(50, Duration::from_secs(1));
    let mut next = tokio::time::interval(Duration::from_millis(5));
    let (mut let_through, mut remaining) = (0, 0);
    // The bucket is emptied first; from then on what flows in is all there is.
    while instances[0].take(&[bucket]).await.refused.is_none() {}
    let began = redis.time();
    for number in 0..800 {
        next.tick().await;
        let decision = instances[number % 2].take(&[bucket]).await;
        let_through += u64::from(decision.refused.is_none());
        remaining = remaining.max(decision.allowances[0].remaining);
    }
    // By the clock of Redis, which is the one that counts: 50 in each of its seconds.
    let flowed_in = (redis.time() - began) * 50 / 1_000_000;
    assert!(let_through.abs_diff(flowed_in) <= 2, "{let_through} let through, {flowed_in} flowed in");
    assert!(remaining <= 50);
    assert!(instances.iter().all(|instance| instance.redis_counts() == Some(true)));
    let left: i64 = redis.ask(&["PTTL", &bucket.key.to_string()]).parse().unwrap();
    assert!((1..=1_001).contains(&left), "keys go by themselves: {left}");
}

#[tokio::test]
async fn a_redis_that_is_slow_or_gone_leaves_each_instance_its_share() {
    let Some(mut redis) = Redis::start() else { return };
    let proxy = Proxy::before(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let instances = [limits(&url), limits(&url)];
    let bucket = bucket(60, Duration::from_secs(3_600));
    for round in 0..3 {
        for instance in &instances {
            wait_until(instance, true).await;
        }
        // Both have said that they live, or the first would take all.
        let began = Instant::now();
        while redis.ask(&["GET", "rl:live:test"]).matches('=').count() < 2 {
            assert!(began.elapsed() < Duration::from_secs(30));
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        if round == 0 {
            // Long enough for the first to learn of the second.
            tokio::time::sleep(Duration::from_secs(6)).await;
        }
        match round {
            0 => proxy.slow_down(Duration::from_secs(5)),
            _ => redis.kill(),
        }
        for instance in &instances {
            let first = instance.take(&[bucket]).await;
            assert!(first.refused.is_none() || round > 0, "{first:?}");
            wait_until(instance, false).await;
            let more = granted(instance, bucket, 100).await;
            assert!(round > 0 || (28..=30).contains(&more), "half of 60, less what was asked before: {more}");
            assert!(more <= 30);
        }
        match round {
            0 => proxy.slow_down(Duration::ZERO),
            _ => redis.start_again(false),
        }
    }
    for instance in &instances {
        wait_until(instance, true).await;
    }
}

/// Redis is flushed, becomes slow, dies and comes back with an old copy of itself, while calls of one wallet that can pay for all of
/// them, and of one that cannot, run through two gateways.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_redis_does_no_wallet_is_overspent_and_none_is_refused_that_can_pay() {
    if !has_postgres() {
        return;
    }
    let Some(mut redis) = Redis::start() else { return };
    let proxy = Proxy::before(redis.port()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port());
    let provider = Provider::start().await;
    let provider_url = provider.url();
    let settings = [
        ("LITELLM_BASE_URL", provider_url.as_str()),
        ("REDIS_URL", url.as_str()),
        ("REDIS_TIMEOUT_MS", "200"),
        ("GATEWAY_RATE_LIMIT_MAX_REQUESTS", "100000"),
        ("GATEWAY_RATE_LIMIT_MAX_TOKENS", "100000000"),
        ("GATEWAY_RATE_LIMIT_USER_REQUESTS", "100000"),
    ];
    let up = Up::start_with_variables(&settings).await;
    let second = up.role_with(&["gateway", "--data-dir", "second"], "ledger_command", &settings);
    second.wait_until_ready().await;
    let (rich, _) = up.wallet_with("rich", "50.00").await;
    let (poor, poor_wallet) = up.wallet_with("poor", "0.0005").await;
    redis.save();
    let began = Instant::now();
    let addresses = [up.address(), second.address()];
    let clients: Vec<_> = (0..8_usize)
        .map(|client| {
            let (address, token) =
                (addresses[client % 2].clone(), if client < 6 { rich.clone() } else { poor.clone() });
            tokio::spawn(async move {
                let mut answers = Vec::new();
                let mut turn = 0;
                while began.elapsed() < Duration::from_secs(14) {
                    turn += 1;
                    let script = format!("tokens={}", 5 + turn % 40);
                    let body = if turn % 2 == 0 { chat(&script) } else { streamed(&script) };
                    answers.push(Raw::send(&address, &token, "", &body).await.rest().await);
                }
                (client, answers)
            })
        })
        .collect();
    let mut ready = Vec::new();
    for fault in 0..8 {
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        match fault % 4 {
            0 => assert_eq!(redis.ask(&["FLUSHALL"]), "OK"),
            1 => proxy.slow_down(Duration::from_secs(5)),
            2 => {
                redis.kill();
                proxy.slow_down(Duration::ZERO);
            }
            _ => redis.start_again(true),
        }
        for address in &addresses {
            let mut probe = modelfaucet_integration_tests::connection::Connection::open(address, "").await.unwrap();
            ready.push(probe.json("GET", "/ready", "", &Value::Null).await.unwrap().status);
        }
    }
    let mut statuses = std::collections::BTreeMap::new();
    for client in clients {
        let (client, answers) = client.await.unwrap();
        for answer in answers {
            let status = answer.split(' ').nth(1).unwrap_or_default().to_owned();
            *statuses.entry((client < 6, status)).or_insert(0) += 1;
        }
    }
    assert!(ready.iter().all(|status| *status == 200), "{ready:?}");
    assert!(proxy.passed() > 10_000, "Redis was asked");
    // Whoever can pay is always served; whoever cannot is served as far as the money goes.
    let of = |rich: bool| statuses.iter().filter(|((who, _), _)| *who == rich).collect::<Vec<_>>();
    assert!(of(true).iter().all(|((_, status), _)| status == "200"), "{statuses:?}");
    assert!(of(false).iter().any(|((_, status), _)| status == "402"), "{statuses:?}");
    let books = booked_when_ended(&up.database("ledger_audit")).await;
    compare(&books, &provider.book());
    let spent = books.into_iter().filter(|(_, call)| call.placed.wallet_id.to_string() == poor_wallet).collect();
    assert!(charged(&spent) <= "0.0005".parse().unwrap());
    let (client, connection) = up.database("ledger_audit").connect(tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    for row in client.query("SELECT type, version, payload FROM ledger.event ORDER BY position", &[]).await.unwrap() {
        let event = Event::decode(row.get(0), row.get(1), row.get(2)).unwrap();
        assert!(event.balance().is_none_or(|(_, balance)| balance.available() >= Money::ZERO), "{event:?}");
    }
    let summary = up.as_admin("GET", "/v1/admin/reconciliation/ledger", "", &json!(null)).await.json();
    assert_eq!(summary["summary"]["mismatch_count"], 0, "{summary}");
    let demanded =
        "flushed, slow, killed, started with an old copy: no wallet is overspent, and whoever can pay is served";
    report::fault("F22", &Figures { injected: 8, recoveries: &[], demanded, invariants: &["I5", "I10"] });
}
