//! Progress on standard error: a bar on a terminal, a plain line every five seconds elsewhere, nothing with `--quiet`.

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

/// How often a plain line is written.
const PLAIN_EVERY: Duration = Duration::from_secs(5);

/// A task of known length.
pub(crate) struct Progress {
    bar: ProgressBar,
    task: &'static str,
    plain: bool,
    began: Instant,
    last_line: Instant,
    total: u64,
    done: u64,
}

impl Progress {
    /// Begins a task of `total` steps.
    pub(crate) fn start(task: &'static str, total: u64, quiet: bool) -> Self {
        let terminal = std::io::stderr().is_terminal();
        let bar = if terminal && !quiet {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10))
        } else {
            ProgressBar::hidden()
        };
        let template = "{msg:10} {wide_bar} {percent:>3} %  {human_pos} / {human_len}  {per_sec}  {eta} left";
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(task);
        let now = Instant::now();
        Self { bar, task, plain: !terminal && !quiet, began: now, last_line: now, total, done: 0 }
    }

    /// So many steps are done.
    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        self.bar.set_position(done);
        if self.plain && self.last_line.elapsed() >= PLAIN_EVERY {
            self.last_line = Instant::now();
            eprintln!("{}", plain_line(self.task, done, self.total, self.began.elapsed()));
        }
    }

    /// So many of so many steps are done: the end may move.
    pub(crate) fn set_of(&mut self, done: u64, total: u64) {
        if total != self.total {
            self.total = total;
            self.bar.set_length(total);
        }
        self.set(done);
    }

    /// Where it is, in a few words.
    pub(crate) fn note(&mut self, place: &str) {
        self.bar.set_message(format!("{} {place}", self.task));
    }

    /// Ends with a line that says how much was done and how long it took.
    pub(crate) fn finish(self) {
        self.bar.finish_and_clear();
        if self.plain || !self.bar.is_hidden() {
            let seconds = self.began.elapsed().as_secs_f64();
            eprintln!("{:10} {} in {seconds:.1} s", self.task, self.done);
        }
    }
}

fn plain_line(task: &str, done: u64, total: u64, elapsed: Duration) -> String {
    let seconds = elapsed.as_secs_f64().max(0.001);
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let (done_f, total_f) = (done as f64, total.max(1) as f64);
    let rate = done_f / seconds;
    let left = if rate > 0.0 { ((total_f - done_f) / rate).max(0.0) } else { 0.0 };
    format!("{task:10} {:.1} %  {done} / {total}  {rate:.0}/s  {left:.0} s left", 100.0 * done_f / total_f)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_and_how_long() {
        let line = plain_line("verify", 250, 1_000, Duration::from_secs(5));
        assert_eq!(line, "verify     25.0 %  250 / 1000  50/s  15 s left");
    }
}
