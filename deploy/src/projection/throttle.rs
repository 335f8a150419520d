//! Keeps a rebuild from slowing commands down: begins slowly, looks at the metrics of the process that takes them, once a second, and
//! halves the rate while the 99th percentile of calls that pay for usage is above the limit; else it lets it grow.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::client::{Call, Client, ClientError};
use crate::exit::Failure;

/// How often it looks.
const EVERY: Duration = Duration::from_secs(1);
/// The rate never falls below this: events per second.
const LEAST: u64 = 1_000;
/// What it begins with: events per second.
pub(super) const FIRST: u64 = 4_000;
/// Fewer calls than this in a second say nothing about a percentile.
const ENOUGH: f64 = 20.0;
/// What is measured.
const SERIES: &str = "modelfaucet_http_request_duration_seconds_bucket{";

/// The requests so far that took at most so many seconds: upper bounds, as text, to counts.
type Buckets = BTreeMap<String, f64>;

/// Watches and limits.
pub(super) struct Throttle {
    client: Client,
    limit_seconds: f64,
    rate: Arc<AtomicU64>,
    done: Arc<AtomicU64>,
    most: Option<u64>,
}

impl Throttle {
    /// `rate` is what it sets, `done` counts the events that were folded, `most` is never exceeded.
    ///
    /// # Errors
    /// A [`Failure`] if `url` is none.
    pub(super) fn new(
        url: &str,
        limit: Duration,
        rate: Arc<AtomicU64>,
        done: Arc<AtomicU64>,
        most: Option<u64>,
    ) -> Result<Self, Failure> {
        let client = Client::new(url.strip_suffix("/metrics").unwrap_or(url))?;
        Ok(Self { client, limit_seconds: limit.as_secs_f64(), rate, done, most })
    }

    /// Runs until it is dropped. Metrics that cannot be read leave the rate as it is.
    pub(super) async fn run(self) {
        let mut last: Option<(Buckets, u64, Instant)> = None;
        let mut complained = false;
        loop {
            match read(&self.client).await {
                Ok(buckets) => {
                    let (done, now) = (self.done.load(Ordering::Relaxed), Instant::now());
                    if let Some((before, done_before, since)) = &last {
                        let p99 = percentile(before, &buckets, 0.99);
                        let micros = u64::try_from(now.duration_since(*since).as_micros()).unwrap_or(u64::MAX).max(1);
                        let measured = (done.saturating_sub(*done_before)).saturating_mul(1_000_000) / micros;
                        let rate =
                            next(self.rate.load(Ordering::Relaxed), measured, p99, self.limit_seconds, self.most);
                        self.rate.store(rate, Ordering::Relaxed);
                    }
                    last = Some((buckets, done, now));
                }
                Err(error) if !complained => {
                    complained = true;
                    eprintln!("modelfaucet: the metrics cannot be read, the rate stays as it is: {error}");
                }
                Err(_) => {}
            }
            tokio::time::sleep(EVERY).await;
        }
    }
}

async fn read(client: &Client) -> Result<Buckets, ClientError> {
    let reply = client.send(&Call::get("/metrics")).await?;
    Ok(parse(&String::from_utf8_lossy(&reply.body)))
}

/// The buckets of all calls that pay for usage.
fn parse(text: &str) -> Buckets {
    let mut buckets = Buckets::new();
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    for line in text.lines().filter(|line| line.starts_with(SERIES)) {
        let pays = label(line, "method").as_deref() == Some("POST")
            && label(line, "route").is_some_and(|route| route.starts_with("/v1/usage"));
        let count = line.rsplit_once(' ').and_then(|(_, value)| value.parse::<f64>().ok());
        if let (true, Some(bound), Some(count)) = (pays, label(line, "le"), count) {
            *buckets.entry(bound).or_default() += count;
        }
    }
    buckets
}

/// The bound below which so large a part of the calls between two readings lies, in seconds; `None` if there were too few.
fn percentile(before: &Buckets, after: &Buckets, part: f64) -> Option<f64> {
    let new = |bound: &str| after.get(bound).unwrap_or(&0.0) - before.get(bound).unwrap_or(&0.0);
    let total = new("+Inf");
    if total < ENOUGH {
        return None;
    }
    let mut bounds: Vec<(f64, f64)> = after
        .keys()
        .filter_map(|bound| Some((if bound == "+Inf" { f64::INFINITY } else { bound.parse().ok()? }, new(bound))))
        .collect();
    bounds.sort_by(|left, right| left.0.total_cmp(&right.0));
    bounds.iter().find(|(_, count)| *count >= total * part).map(|(bound, _)| *bound)
}

/// The next limit of the rate.
fn next(limit: u64, measured: u64, p99: Option<f64>, limit_seconds: f64, most: Option<u64>) -> u64 {
    let rate = match p99 {
        Some(p99) if p99 > limit_seconds => (limit.min(measured) / 2).max(LEAST),
        // It need not grow far above what is reached.
        _ if limit > measured.saturating_mul(4).max(FIRST) => limit,
        _ => limit + limit / 4,
    };
    most.map_or(rate, |most| rate.min(most))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics(fast: u32, all: u32) -> Buckets {
        let line = |method: &str, route: &str, le: &str, count: u32| {
            format!(
                "{SERIES}service=\"modelfaucet\",method=\"{method}\",route=\"{route}\",status=\"200\",le=\"{le}\"}} {count}\n"
            )
        };
        let text = line("POST", "/v1/usage/holds", "0.05", fast)
            + &line("POST", "/v1/usage/holds", "0.1", all)
            + &line("POST", "/v1/usage/holds", "+Inf", all)
            + &line("POST", "/v1/chat/completions", "+Inf", 1_000_000)
            + &line("GET", "/v1/usage", "+Inf", 1_000_000);
        parse(&text)
    }

    #[test]
    fn the_percentile_is_that_of_the_calls_since_the_last_look() {
        let before = metrics(1_000, 1_000);
        assert_eq!(percentile(&before, &metrics(1_100, 1_100), 0.99), Some(0.05));
        assert_eq!(percentile(&before, &metrics(1_098, 1_100), 0.99), Some(0.1));
        assert_eq!(percentile(&before, &metrics(1_010, 1_010), 0.99), None, "too few");
    }

    #[test]
    fn the_rate_is_halved_while_calls_are_slow_and_grows_again() {
        assert_eq!(next(10_000, 10_000, Some(0.1), 0.06, None), 5_000);
        assert_eq!(next(1_200, 1_100, Some(0.1), 0.06, None), LEAST);
        assert_eq!(next(4_000, 4_000, Some(0.02), 0.06, None), 5_000);
        assert_eq!(next(90_000, 20_000, None, 0.06, None), 90_000);
        assert_eq!(next(FIRST, FIRST, None, 0.06, None), 5_000);
        assert_eq!(next(6_500, 6_500, Some(0.01), 0.06, Some(7_000)), 7_000);
    }
}
