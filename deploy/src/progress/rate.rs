//! How fast it goes, as of the last half minute: a task that has slowed down is not helped by how it began.

use std::collections::VecDeque;
use std::time::Duration;

/// How far back it looks.
const WINDOW: Duration = Duration::from_secs(30);
/// How close two samples may be.
const STEP: Duration = Duration::from_secs(1);

/// Samples of how much was done when, from the beginning on; at most half a minute of them.
#[derive(Debug, Default)]
pub(super) struct Recent {
    samples: VecDeque<(Duration, u64)>,
    last: (Duration, u64),
}

impl Recent {
    /// So much was done after so long.
    pub(super) fn note(&mut self, at: Duration, done: u64) {
        self.last = (at, done);
        if self.samples.is_empty() {
            // It began with nothing.
            self.samples.push_back((Duration::ZERO, 0));
        }
        if self.samples.back().is_none_or(|(before, _)| at.saturating_sub(*before) >= STEP) {
            self.samples.push_back((at, done));
        }
        while self.samples.len() > 2
            && self.samples.get(1).is_some_and(|(second, _)| at.saturating_sub(*second) >= WINDOW)
        {
            self.samples.pop_front();
        }
    }

    /// Steps per second; 0 before there is anything to go by.
    pub(super) fn rate(&self) -> f64 {
        let Some((from, before)) = self.samples.front() else { return 0.0 };
        let (to, now) = self.last;
        let seconds = to.saturating_sub(*from).as_secs_f64();
        #[expect(clippy::cast_precision_loss, reason = "for people")]
        let steps = now.saturating_sub(*before) as f64;
        if seconds > 0.0 { steps / seconds } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_half_minute_counts() {
        let mut recent = Recent::default();
        assert!(recent.rate().abs() < 0.1);
        for second in 1..=60 {
            recent.note(Duration::from_secs(second), second * 1_000);
        }
        assert!((recent.rate() - 1_000.0).abs() < 0.1);
        for second in 61..=120 {
            recent.note(Duration::from_secs(second), 60_000 + (second - 60) * 10);
        }
        assert!((recent.rate() - 10.0).abs() < 0.1, "{}", recent.rate());
        assert!(recent.samples.len() <= 33, "{}", recent.samples.len());
    }
}
