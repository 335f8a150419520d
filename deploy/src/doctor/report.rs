//! What was found. Pure.

use std::fmt::Write as _;

use serde_json::{Value, json};

use crate::exit::Exit;

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Level {
    Ok,
    /// Works, and will hurt one day.
    Warn,
    /// Has to be mended.
    Fail,
    /// A service refuses to start like this.
    Refuse,
}

impl Level {
    const fn name(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Warn => "warn",
            Self::Fail | Self::Refuse => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Line {
    topic: &'static str,
    level: Level,
    what: String,
    todo: String,
}

/// Everything that was looked at.
#[derive(Debug, Default)]
pub(super) struct Report(Vec<Line>);

impl Report {
    pub(super) fn add(&mut self, topic: &'static str, level: Level, what: impl Into<String>, todo: impl Into<String>) {
        self.0.push(Line { topic, level, what: what.into(), todo: todo.into() });
    }

    pub(super) fn ok(&mut self, topic: &'static str, what: impl Into<String>) {
        self.add(topic, Level::Ok, what, "");
    }

    /// In order, or as bad as this with what to do.
    pub(super) fn judge(
        &mut self,
        topic: &'static str,
        good: bool,
        level: Level,
        what: impl Into<String>,
        todo: impl Into<String>,
    ) {
        if good { self.ok(topic, what) } else { self.add(topic, level, what, todo) }
    }

    pub(super) fn exit(&self) -> Exit {
        match self.0.iter().map(|line| line.level).max() {
            Some(Level::Refuse) => Exit::Config,
            Some(Level::Fail) => Exit::Differences,
            Some(Level::Ok | Level::Warn) | None => Exit::Ok,
        }
    }

    pub(super) fn text(&self, quiet: bool) -> String {
        let mut text = String::new();
        // Writing into a String cannot fail.
        for Line { topic, level, what, todo } in &self.0 {
            if quiet && *level == Level::Ok {
                continue;
            }
            let todo = if todo.is_empty() { String::new() } else { format!(" → {todo}") };
            let _ = writeln!(text, "{:4} {topic:12} {what}{todo}", level.name());
        }
        let count = |wanted: &str| self.0.iter().filter(|line| line.level.name() == wanted).count();
        let _ = writeln!(text, "{} ok, {} warnings, {} failures", count("ok"), count("warn"), count("FAIL"));
        text
    }

    pub(super) fn json(&self) -> Value {
        let lines: Vec<Value> = self
            .0
            .iter()
            .map(|line| json!({"topic": line.topic, "level": line.level.name().to_lowercase(), "what": line.what, "todo": line.todo}))
            .collect();
        let exit = self.exit();
        json!({"ok": exit == Exit::Ok, "exit": exit as u8, "version": env!("CARGO_PKG_VERSION"), "lines": lines})
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_gravest_line_decides() {
        let mut report = Report::default();
        assert_eq!(report.exit(), Exit::Ok);
        report.add("ballast", Level::Warn, "there is none", "make one");
        assert_eq!(report.exit(), Exit::Ok);
        report.add("clock", Level::Fail, "is 9 s off", "set it");
        assert_eq!(report.exit(), Exit::Differences);
        report.add("durability", Level::Refuse, "fsync is off", "turn it on");
        assert_eq!(report.exit(), Exit::Config);
        assert_eq!(report.json()["exit"], 78);
        assert!(report.text(false).contains("FAIL durability   fsync is off → turn it on"), "{}", report.text(false));
    }

    #[test]
    fn quiet_says_only_what_is_not_in_order() {
        let mut report = Report::default();
        report.ok("clock", "is right");
        report.add("ballast", Level::Warn, "there is none", "make one");
        let text = report.text(true);
        assert!(!text.contains("clock") && text.contains("ballast") && text.contains("1 ok, 1 warnings"), "{text}");
    }
}
