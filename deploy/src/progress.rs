//! Progress on standard error: a bar on a terminal, a plain line every five seconds elsewhere, an object per line with `--json`, nothing
//! with `--quiet`.

mod rate;

use std::io::IsTerminal as _;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde_json::json;

use rate::Recent;

/// How often a line is written.
const LINE_EVERY: Duration = Duration::from_secs(5);
/// Below so many columns there is no room for a bar.
const NARROW: u16 = 60;

/// How a tool was told to talk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Manner {
    pub(crate) quiet: bool,
    pub(crate) json: bool,
}

/// Of tools whose result is no JSON.
impl From<bool> for Manner {
    fn from(quiet: bool) -> Self {
        Self { quiet, json: false }
    }
}

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Bar,
    Plain,
    Object,
    Nothing,
}

impl Form {
    fn of(manner: Manner, terminal: bool) -> Self {
        match manner {
            Manner { quiet: true, .. } => Self::Nothing,
            Manner { json: true, .. } => Self::Object,
            _ if terminal => Self::Bar,
            _ => Self::Plain,
        }
    }
}

/// A task of known length.
pub(crate) struct Progress {
    bar: ProgressBar,
    task: &'static str,
    form: Form,
    began: Instant,
    last_line: Instant,
    recent: Recent,
    total: u64,
    done: u64,
}

impl Progress {
    /// Begins a task of `total` steps.
    pub(crate) fn start(task: &'static str, total: u64, manner: impl Into<Manner>) -> Self {
        let form = Form::of(manner.into(), std::io::stderr().is_terminal());
        let bar = if form == Form::Bar {
            ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr_with_hz(10))
        } else {
            ProgressBar::hidden()
        };
        let narrow = rustix::termios::tcgetwinsize(std::io::stderr()).is_ok_and(|size| size.ws_col < NARROW);
        let template = if narrow {
            "{msg:10} {percent:>3} %  {human_pos} / {human_len}  {eta} left"
        } else {
            "{msg:10} {wide_bar} {percent:>3} %  {human_pos} / {human_len}  {per_sec}  {eta} left"
        };
        if let Ok(style) = ProgressStyle::with_template(template) {
            bar.set_style(style);
        }
        bar.set_message(task);
        let now = Instant::now();
        Self { bar, task, form, began: now, last_line: now, recent: Recent::default(), total, done: 0 }
    }
    /// So many steps are done.
    pub(crate) fn set(&mut self, done: u64) {
        self.done = done;
        self.bar.set_position(done);
        let elapsed = self.began.elapsed();
        self.recent.note(elapsed, done);
        if self.last_line.elapsed() >= LINE_EVERY {
            self.last_line = Instant::now();
            let rate = self.recent.rate();
            match self.form {
                Form::Plain => eprintln!("{}", plain_line(self.task, done, self.total, rate)),
                Form::Object => eprintln!("{}", object(self.task, done, self.total, rate, elapsed)),
                Form::Bar | Form::Nothing => {}
            }
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
        let seconds = self.began.elapsed().as_secs_f64();
        match self.form {
            Form::Bar | Form::Plain => eprintln!("{:10} {} in {seconds:.1} s", self.task, self.done),
            Form::Object => eprintln!("{}", ended(self.task, self.done, self.total, self.began.elapsed())),
            Form::Nothing => {}
        }
    }
}

/// How much of it is done, never more than all of it.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn percent(done: u64, total: u64) -> f64 {
    (100.0 * done as f64 / total.max(1) as f64).min(100.0)
}

/// How long the rest takes at this rate; nothing while there is none.
#[expect(clippy::cast_precision_loss, reason = "for people")]
fn left(done: u64, total: u64, rate: f64) -> Option<f64> {
    (rate > 0.0).then(|| total.saturating_sub(done) as f64 / rate)
}

fn plain_line(task: &str, done: u64, total: u64, rate: f64) -> String {
    let left = left(done, total, rate).map_or_else(String::new, |left| format!("  {left:.0} s left"));
    format!("{task:10} {:.1} %  {done} / {total}  {rate:.0}/s{left}", percent(done, total))
}

fn object(task: &str, done: u64, total: u64, rate: f64, elapsed: Duration) -> serde_json::Value {
    json!({
        "task": task, "done": done, "total": total, "percent": rounded(percent(done, total)), "per_second": rounded(rate),
        "seconds_left": left(done, total, rate).map(f64::round), "seconds": rounded(elapsed.as_secs_f64()), "ended": false,
    })
}

fn ended(task: &str, done: u64, total: u64, elapsed: Duration) -> serde_json::Value {
    json!({ "task": task, "done": done, "total": total, "seconds": rounded(elapsed.as_secs_f64()), "ended": true })
}

/// To a tenth.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_plain_line_says_how_far_and_how_long() {
        assert_eq!(plain_line("verify", 250, 1_000, 50.0), "verify     25.0 %  250 / 1000  50/s  15 s left");
        assert_eq!(plain_line("verify", 0, 0, 0.0), "verify     0.0 %  0 / 0  0/s");
        assert_eq!(plain_line("verify", 30, 20, 1.0), "verify     100.0 %  30 / 20  1/s  0 s left");
    }

    #[test]
    fn an_object_says_the_same() {
        let object = object("verify", 250, 1_000, 50.0, Duration::from_millis(5_049));
        let wanted = json!({ "task": "verify", "done": 250, "total": 1_000, "percent": 25.0, "per_second": 50.0,
                             "seconds_left": 15.0, "seconds": 5.0, "ended": false });
        assert_eq!(object, wanted);
        assert_eq!(super::object("verify", 0, 9, 0.0, Duration::ZERO)["seconds_left"], serde_json::Value::Null);
    }

    #[test]
    fn quiet_comes_first_then_json_then_the_terminal() {
        for (quiet, json, terminal, form) in [
            (true, true, true, Form::Nothing),
            (true, false, false, Form::Nothing),
            (false, true, true, Form::Object),
            (false, true, false, Form::Object),
            (false, false, true, Form::Bar),
            (false, false, false, Form::Plain),
        ] {
            assert!(Form::of(Manner { quiet, json }, terminal) == form, "{quiet} {json} {terminal}");
        }
    }
}
