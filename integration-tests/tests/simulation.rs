//! A fixed number of simulated worlds, each run twice. `MODELFAUCET_SIM_SEEDS` asks for more.
#![allow(missing_docs, reason = "a test")]

use modelfaucet_integration_tests::sim;

/// Client commands per seed.
const COMMANDS: u32 = 250;

#[test]
fn simulated_worlds_keep_the_invariants_and_repeat_themselves() {
    let seeds = std::env::var("MODELFAUCET_SIM_SEEDS").ok().and_then(|seeds| seeds.parse().ok()).unwrap_or(40);
    let mut total = sim::Report::default();
    for seed in 0..seeds {
        let report = sim::run_twice(0x5eed_0000 + seed, COMMANDS);
        total.replayed += report.replayed;
        total.in_doubt += report.in_doubt;
        total.already += report.already;
        total.head_moved += report.head_moved;
        total.keys_used += report.keys_used;
        total.kills += report.kills;
        total.projector_restarts += report.projector_restarts;
    }
    // Every fault proves that it happened.
    for (fault, count) in [
        ("answers were lost", total.in_doubt),
        ("keys were repeated", total.replayed),
        ("appends were sent again", total.already),
        ("writers raced", total.head_moved),
        ("keys were found used by the log", total.keys_used),
        ("writers died", total.kills),
        ("projectors died", total.projector_restarts),
    ] {
        assert!(count > 0, "{fault}: never in {seeds} seeds");
    }
}
