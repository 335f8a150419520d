//! What the tests of a run observe, for its report (docs/RELIABILITY.md, "The report of a run"). Where `MODELFAUCET_REPORT` names a
//! file, each observation is added to it as one JSON line with the test that made it; elsewhere nothing is written.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::time::Duration;

use serde_json::{Map, Value, json};

/// What a test has seen of a fault that it made.
#[derive(Clone, Copy, Debug)]
pub struct Figures<'a> {
    /// How often it was made, each time with proof that it happened.
    pub injected: u64,
    /// How long it took each time until work went on; empty where nothing has to come back.
    pub recoveries: &'a [Duration],
    /// What was demanded and held, in a sentence.
    pub demanded: &'a str,
    /// The invariants (`I13`) that the test itself looked at, beside those of its judges, which say so by [`judged`].
    pub invariants: &'a [&'a str],
}

/// A fault of docs/RELIABILITY.md (`F4`) was made, and what was demanded held. The last words of a test: one that fails before has no
/// line, and the report says that the fault was not shown.
///
/// # Panics
/// If the line cannot be written.
pub fn fault(number: &str, figures: &Figures<'_>) {
    let recoveries: Vec<u128> = figures.recoveries.iter().map(Duration::as_millis).collect();
    note(&json!({
        "e": "fault", "fault": number, "injected": figures.injected, "recovered_ms": recoveries,
        "demanded": figures.demanded, "invariants": figures.invariants
    }));
}

/// Somebody has judged: of each invariant how much was looked at and how much broke it. Said before anything panics over it.
///
/// # Panics
/// If the line cannot be written.
pub fn judged(by: &str, invariants: &[(&str, u64, u64)]) {
    let mut sums = BTreeMap::<&str, (u64, u64)>::new();
    for (name, judged, violations) in invariants {
        let sum = sums.entry(name).or_default();
        *sum = (sum.0 + judged, sum.1 + violations);
    }
    let told: Map<String, Value> = sums
        .into_iter()
        .map(|(name, (judged, violations))| (name.to_owned(), json!({ "judged": judged, "violations": violations })))
        .collect();
    note(&json!({ "e": "judged", "by": by, "invariants": told }));
}

/// So much there was of some things (`events`, `kills`), to be added up.
///
/// # Panics
/// If the line cannot be written.
pub fn count(things: &[(&str, u64)]) {
    let counts: Map<String, Value> = things.iter().map(|(name, count)| ((*name).to_owned(), json!(count))).collect();
    note(&json!({ "e": "count", "counts": counts }));
}

/// A test, or a part of it, was left out.
///
/// # Panics
/// If the line cannot be written.
pub fn skipped(reason: &str) {
    note(&json!({ "e": "skipped", "reason": reason }));
}

/// The server below a test, as it describes itself.
///
/// # Panics
/// If the line cannot be written.
pub fn server(settings: &[(&str, String)]) {
    let told: Map<String, Value> = settings.iter().map(|(name, value)| ((*name).to_owned(), json!(value))).collect();
    note(&json!({ "e": "server", "settings": told }));
}

/// `crash::no_acknowledged_command_is_lost`; without the function where a helper's thread speaks.
fn test() -> String {
    let path = std::env::current_exe().unwrap_or_default();
    let file = path.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    // Cargo adds a hash to the names of tests.
    let binary = file.rsplit_once('-').map_or(file.as_str(), |(binary, _)| binary);
    match std::thread::current().name() {
        Some(thread) if thread != "main" && !thread.starts_with("tokio-") => format!("{binary}::{thread}"),
        _ => binary.to_owned(),
    }
}

fn note(observation: &Value) {
    let Some(path) = std::env::var_os("MODELFAUCET_REPORT").filter(|path| !path.is_empty()) else { return };
    let mut line = observation.clone();
    line["test"] = test().into();
    // One write: lines of tests that run side by side do not mix.
    let text = format!("{line}\n");
    let file = OpenOptions::new().create(true).append(true).open(&path);
    let written = file.and_then(|mut file| file.write_all(text.as_bytes()));
    written.unwrap_or_else(|error| panic!("{} (MODELFAUCET_REPORT): {error}", path.display()));
}
