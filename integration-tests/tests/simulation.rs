//! A fixed number of simulated worlds, each run twice. `MODELFAUCET_SIM_SEEDS` asks for more.
#![allow(missing_docs, reason = "a test")]

use std::sync::atomic::{AtomicU64, Ordering};

use modelfaucet_integration_tests::{report, sim};

/// How many worlds.
const SEEDS: u64 = 300;
/// Client commands per seed.
const COMMANDS: u32 = 100;

/// Runs seed after seed, side by side with other threads, until none is left.
fn work(next: &AtomicU64, seeds: u64) -> sim::Report {
    let mut total = sim::Report::default();
    loop {
        let seed = next.fetch_add(1, Ordering::Relaxed);
        if seed >= seeds {
            return total;
        }
        total.add(&sim::run_twice(0x5eed_0000 + seed, COMMANDS));
    }
}

#[test]
fn simulated_worlds_keep_the_invariants_and_repeat_themselves() {
    let seeds = std::env::var("MODELFAUCET_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(SEEDS);
    let next = AtomicU64::new(0);
    let mut total = sim::Report::default();
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(|| work(&next, seeds))).collect();
        for worker in workers {
            total.add(&worker.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
    });
    report::count(&[
        ("simulated seeds", seeds),
        ("simulated commands", total.accepted),
        ("simulated deaths of writers", total.kills),
        ("simulated clock jumps", total.clock_jumps),
    ]);
    // Every fault proves that it happened.
    for (fault, count) in [
        ("answers were lost", total.in_doubt),
        ("keys were repeated", total.replayed),
        ("appends were sent again", total.already),
        ("writers raced", total.head_moved),
        ("keys were found used by the log", total.keys_used),
        ("writers died", total.kills),
        ("clocks jumped", total.clock_jumps),
        ("projectors died", total.projector_restarts),
        ("something was frozen", total.refusals.get("frozen").copied().unwrap_or_default()),
    ] {
        assert!(count > 0, "{fault}: never in {seeds} seeds");
    }
}
