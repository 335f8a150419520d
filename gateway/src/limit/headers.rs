//! The headers that tell a client where it stands: OpenAI's, and those of ModelFaucet 1.2.

use std::time::Duration;

use http::HeaderMap;
use http::header::{HeaderName, HeaderValue};
use modelfaucet_schema::time::Timestamp;

use super::{Allowance, Decision, Unit};

/// Adds the headers of a decision to an answer.
pub fn show(headers: &mut HeaderMap, decision: &Decision) {
    if let Some(requests) = decision.tightest(Unit::Requests) {
        let [limit, remaining, reset] =
            ["x-ratelimit-limit-requests", "x-ratelimit-remaining-requests", "x-ratelimit-reset-requests"];
        openai(headers, &requests, limit, remaining, reset);
        set(headers, "x-ratelimit-remaining", &requests.remaining.to_string());
        set(headers, "x-ratelimit-reset", &epoch_seconds(requests.reset).to_string());
    }
    if let Some(tokens) = decision.tightest(Unit::Tokens) {
        let [limit, remaining, reset] =
            ["x-ratelimit-limit-tokens", "x-ratelimit-remaining-tokens", "x-ratelimit-reset-tokens"];
        openai(headers, &tokens, limit, remaining, reset);
    }
    if let Some(refused) = decision.refused {
        // Rounded up, so that whoever waits so long is not refused again.
        let milliseconds = refused.retry_after.as_micros().div_ceil(1_000).max(1);
        set(headers, "retry-after", &milliseconds.div_ceil(1_000).to_string());
        set(headers, "retry-after-ms", &milliseconds.to_string());
    }
}

fn openai(
    headers: &mut HeaderMap,
    allowance: &Allowance,
    limit: &'static str,
    remaining: &'static str,
    reset: &'static str,
) {
    set(headers, limit, &allowance.limit.to_string());
    set(headers, remaining, &allowance.remaining.to_string());
    set(headers, reset, &spelled(allowance.reset));
}

fn set(headers: &mut HeaderMap, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(HeaderName::from_static(name), value);
    }
}

/// As OpenAI spells it: `6m0s`, `20s`, `120ms`.
fn spelled(time: Duration) -> String {
    let milliseconds = time.as_micros().div_ceil(1_000);
    if milliseconds > 0 && milliseconds < 1_000 {
        return format!("{milliseconds}ms");
    }
    let seconds = milliseconds.div_ceil(1_000);
    let (hours, minutes, rest) = (seconds / 3_600, seconds / 60 % 60, seconds % 60);
    match (hours, minutes) {
        (0, 0) => format!("{rest}s"),
        (0, _) => format!("{minutes}m{rest}s"),
        _ => format!("{hours}h{minutes}m{rest}s"),
    }
}

/// The moment `time` from now in seconds since 1970, rounded up.
fn epoch_seconds(time: Duration) -> i64 {
    Timestamp::now().plus(time).micros().div_euclid(1_000_000) + 1
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_spelled_as_openai_does() {
        for (milliseconds, text) in [
            (0, "0s"),
            (120, "120ms"),
            (1_000, "1s"),
            (20_000, "20s"),
            (59_001, "1m0s"),
            (360_000, "6m0s"),
            (3_661_000, "1h1m1s"),
        ] {
            assert_eq!(spelled(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(spelled(Duration::from_micros(1)), "1ms");
    }
}
