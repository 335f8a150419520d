//! Metrics that alerts look at are there from the start, zero included: a counter that appears with its first failure has no rise to
//! be seen.

/// Shows them, once the process has a recorder.
pub(crate) fn begin() {
    metrics::counter!("gateway_over_hold_total").increment(0);
    metrics::counter!("gateway_tripwires_total").increment(0);
    for how in ["absorbed", "marked"] {
        metrics::counter!("gateway_recovered_total", "how" => how).increment(0);
    }
    for outcome in ["answered", "failed"] {
        metrics::counter!("gateway_attempts_total", "outcome" => outcome).increment(0);
    }
    for source in ["provider", "estimated"] {
        for anomaly in ["no", "yes"] {
            metrics::counter!("gateway_usage_total", "source" => source, "anomaly" => anomaly).increment(0);
        }
    }
}
