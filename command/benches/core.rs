//! What the writer does per command without a database: decide, evolve, encode, hash, undo; and decoding for a cold start.
#![allow(missing_docs, clippy::unwrap_used, reason = "a benchmark that cannot go on fails")]

use std::collections::VecDeque;
use std::hint::black_box;
use std::time::Duration;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use modelfaucet_command::domain::{CallRequest, Caller, Command, HoldAmount, OnShortfall, Payer, State};
use modelfaucet_command::writer::core::{Core, Step, Submission};
use modelfaucet_schema::event::{AppSettings, KeyUse, ModelRates, Route, ServiceTier, SessionOpening, Status};
use modelfaucet_schema::ids::{
    AppId, BatchId, DeveloperId, HoldId, LogId, SessionId, ShardId, UsageId, UserId, WalletId,
};
use modelfaucet_schema::log::Head;
use modelfaucet_schema::money::{BasisPoints, Money};
use modelfaucet_schema::rate::Rate;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{TokenHash, UserHash};
use modelfaucet_schema::usage::{Component, Usage};
use uuid::Uuid;

const WALLETS: usize = 200;

struct Bench {
    core: Core<()>,
    wallets: Vec<WalletId>,
    now: Timestamp,
}

impl Bench {
    fn new() -> Self {
        let log = LogId(Uuid::from_u128(1));
        let shard = ShardId(0);
        let core = Core::new(shard, log, State::default(), Head::genesis(log, shard));
        let mut bench = Self { core, wallets: Vec::new(), now: Timestamp::from_micros(1_800_000_000_000_000) };
        let developer_id = DeveloperId::generate();
        let app_id = AppId::generate();
        let rate = |text: &str| Rate::per_million(text).unwrap();
        let rates = [
            (Component::InputUncached, rate("0.15")),
            (Component::CacheRead, rate("0.075")),
            (Component::OutputText, rate("0.60")),
        ];
        let model = ModelRates::flat("openai".parse().unwrap(), "gpt-4o-mini", rates);
        let settings = AppSettings {
            name: "Demo".into(),
            vertical: None,
            default_revenue_share_bps: BasisPoints::new(4_000).unwrap(),
            status: Status::Active,
            session_opening: SessionOpening::Public,
        };
        bench.run(vec![
            Command::RegisterDeveloper { developer_id, name: "Ada".into(), email: "ada@example.com".into() },
            Command::RegisterApp { app_id, developer_id, public_app_id: "demo".into(), settings },
            Command::ActivateRateCard { source: "bench".into(), models: vec![model] },
        ]);
        for number in 0..WALLETS {
            let wallet_id = WalletId::generate();
            bench.wallets.push(wallet_id);
            bench.run(vec![
                Command::OpenSession {
                    session_id: SessionId::generate(),
                    wallet_id,
                    user_id: UserId::generate(),
                    app_id,
                    user_hash: UserHash::of(&"key".to_owned().into(), app_id, &number.to_string()),
                    feature_key: None,
                    token_hash: TokenHash::of_text(&number.to_string()),
                    ttl: Duration::from_secs(3_600),
                },
                Command::GrantTestCredit { wallet_id, amount: Money::from_dollars(1_000_000).unwrap() },
            ]);
        }
        bench
    }

    fn submit(commands: Vec<Command>) -> VecDeque<Submission<()>> {
        let submission = |command| Submission {
            caller: Caller::Admin,
            command,
            request_id: "req_0123456789abcdefghij".into(),
            key: Some(KeyUse { key: Uuid::now_v7(), fingerprint: Uuid::now_v7() }),
            give_up_at: Timestamp::from_micros(i64::MAX),
            reply: Some(()),
        };
        commands.into_iter().map(submission).collect()
    }

    fn run(&mut self, commands: Vec<Command>) {
        self.plan(Self::submit(commands));
        let (replies, _) = self.core.appended();
        assert!(replies.iter().all(|((), verdict)| verdict.is_ok()), "{replies:?}");
    }

    fn plan(&mut self, mut queue: VecDeque<Submission<()>>) {
        let step = self.core.plan(&mut queue, self.now, BatchId::generate(), &mut Vec::new());
        assert!(matches!(black_box(step), Step::Append(_)) && queue.is_empty());
    }

    fn usages(&self, count: usize) -> Vec<Command> {
        (0..count)
            .map(|number| Command::RecordUsage {
                usage_id: UsageId::generate(),
                call: self.call(number),
                usage: Usage { cache_read: 1_025, ..Usage::text(178, 212) },
                on_shortfall: OnShortfall::Refuse,
                provider_request_id: None,
                occurred_at: None,
            })
            .collect()
    }

    fn holds(&self, count: usize) -> Vec<Command> {
        (0..count)
            .map(|number| Command::PlaceHold {
                hold_id: HoldId::generate(),
                call: self.call(number),
                amount: HoldAmount::Fixed(Money::from_units(1_000)),
                min_amount: None,
                expires_in: Duration::from_secs(900),
            })
            .collect()
    }

    fn call(&self, number: usize) -> CallRequest {
        CallRequest {
            payer: Payer::Wallet(self.wallets[number % WALLETS]),
            feature_key: None,
            route: Route::Platform,
            provider: None,
            model: "gpt-4o-mini".into(),
            service_tier: ServiceTier::Standard,
        }
    }
}

fn plan(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("plan_and_undo");
    let mut bench = Bench::new();
    for size in [1_usize, 64, 1_000] {
        group.throughput(Throughput::Elements(size as u64));
        for (name, commands) in [("usage", bench.usages(size)), ("hold", bench.holds(size))] {
            group.bench_function(format!("{name}/{size}"), |bencher| {
                bencher.iter_batched(
                    || Bench::submit(commands.clone()),
                    |queue| {
                        bench.plan(queue);
                        black_box(bench.core.append_failed());
                    },
                    BatchSize::SmallInput,
                );
            });
        }
    }
    group.finish();
}

fn decode(criterion: &mut Criterion) {
    let mut bench = Bench::new();
    bench.plan(Bench::submit(bench.usages(1)));
    let (_, events) = bench.core.appended();
    let stored = events[0].store();
    let mut group = criterion.benchmark_group("event");
    group.throughput(Throughput::Elements(1));
    group.bench_function("decode_usage", |bencher| bencher.iter(|| black_box(&stored).decode().unwrap()));
    group.bench_function("encode_usage", |bencher| bencher.iter(|| black_box(&events[0]).store()));
    group.finish();
}

criterion_group!(benches, plan, decode);
criterion_main!(benches);
