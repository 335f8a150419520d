//! Named points at which tests kill a verb, to see that the same command can be run again. Builds without debug assertions have none of
//! this: there nothing can be armed.

/// The verb is at a point: `POINT=abort` in `MODELFAUCET_TEST_FAULTS` ends the process there at once, as `kill -9` would.
pub(crate) fn at(point: &str) {
    if !cfg!(debug_assertions) {
        return;
    }
    let Ok(armed) = std::env::var("MODELFAUCET_TEST_FAULTS") else { return };
    if armed.split(',').any(|fault| fault.strip_suffix("=abort") == Some(point)) {
        std::process::abort();
    }
}
