//! Runs the simulator: one seed, or many one after the other. Each seed is run twice and must do the same both times.

use std::time::Instant;

use clap::Parser;
use modelfaucet_integration_tests::sim;

/// Simulates writers, clients, projectors and their faults.
#[derive(Parser)]
struct Arguments {
    /// The first seed, decimal or with `0x`.
    #[arg(long, value_parser = seed, default_value = "1")]
    seed: u64,
    /// How many seeds.
    #[arg(long, default_value_t = 1)]
    seeds: u64,
    /// Commands that the clients begin, per seed.
    #[arg(long, alias = "steps", default_value_t = 500)]
    commands: u32,
}

fn seed(text: &str) -> Result<u64, String> {
    let number = match text.strip_prefix("0x") {
        Some(digits) => u64::from_str_radix(digits, 16),
        None => text.parse(),
    };
    number.map_err(|error| error.to_string())
}

fn main() {
    let arguments = Arguments::parse();
    let began = Instant::now();
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.seeds) {
        let report = sim::run_twice(seed, arguments.commands);
        if arguments.seeds == 1 {
            println!("{report:#?}");
        }
    }
    println!(
        "{} seeds of {} commands, each twice, in {:.1?}: no violation",
        arguments.seeds,
        arguments.commands,
        began.elapsed()
    );
}
