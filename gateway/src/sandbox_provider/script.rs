//! What the provider is told to do, by words in double square brackets anywhere in a request, for example in a message:
//! `[[tokens=5 status=503 times=1]]`, or in the header `x-sandbox-script`.
//!
//! `tokens=N` the answer's length, within the request's cap · `ignore_cap` · `empty` no content · `cached=N` `reasoning=N` parts of the
//! usage · `prompt=N` input tokens · `usage=none|zero|null|impossible|twice|beside|every` how the usage is shown · `status=N` a failure
//! before the first byte, for the first `times=N` requests of the same script text · `retry_after=N` with it · `billed` it is billed all the
//! same · `delay_ms=N` before the first byte · `gap_ms=N` between chunks · `stall_after=N` tokens, then silence, or `comments` ·
//! `disconnect_after=N` tokens · `crlf` · `tool_call` · `served_model=NAME` · `served_tier=NAME` · `even` every token has four characters ·
//! `cancel=sent|whole|nothing` what is billed when the reader goes before the end: what was sent, the whole answer, nothing · `only=MODEL`
//! the failures of this script concern requests for this model only · `stamp` each piece of a streamed chat says when it left, in
//! microseconds of the clock.

use http::HeaderMap;
use memchr::memmem;

use super::Book;

/// How the usage is shown; it is counted right in any case.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Shown {
    #[default]
    Last,
    None,
    Zero,
    Null,
    Impossible,
    Twice,
    Beside,
    Every,
}

/// What is billed when the reader goes before the end.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Cancel {
    /// What was sent.
    #[default]
    Sent,
    /// The whole answer.
    Whole,
    /// Nothing.
    Nothing,
}

/// A script.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "each is a word of the script")]
pub(super) struct Script {
    text: String,
    pub(super) tokens: Option<u64>,
    pub(super) prompt: Option<u64>,
    pub(super) cached: u64,
    pub(super) reasoning: u64,
    pub(super) ignore_cap: bool,
    pub(super) empty: bool,
    pub(super) shown: Shown,
    status: Option<u16>,
    times: Option<u64>,
    pub(super) retry_after: Option<u64>,
    pub(super) billed: bool,
    pub(super) delay_ms: u64,
    pub(super) gap_ms: u64,
    pub(super) stall_after: Option<u64>,
    pub(super) comments: bool,
    pub(super) disconnect_after: Option<u64>,
    pub(super) crlf: bool,
    pub(super) tool_call: bool,
    pub(super) stamp: bool,
    pub(super) served_model: Option<String>,
    pub(super) served_tier: Option<String>,
    pub(super) even: bool,
    pub(super) cancel: Cancel,
    only: Option<String>,
}

impl Script {
    /// The script of a request: of its header, else of its body. Words that are not understood are skipped.
    pub(super) fn read(body: &[u8], headers: &HeaderMap) -> Self {
        let text = super::header_script(headers).map(str::to_owned).or_else(|| within(body)).unwrap_or_default();
        let mut script = Self { text: text.clone(), ..Self::default() };
        for word in text.split_ascii_whitespace() {
            let (name, value) = word.split_once('=').unwrap_or((word, ""));
            script.set(name, value);
        }
        script
    }

    fn set(&mut self, name: &str, value: &str) {
        let number = value.parse::<u64>().ok();
        match name {
            "tokens" => self.tokens = number,
            "prompt" => self.prompt = number,
            "cached" => self.cached = number.unwrap_or(0),
            "reasoning" => self.reasoning = number.unwrap_or(0),
            "ignore_cap" => self.ignore_cap = true,
            "empty" => self.empty = true,
            "status" => self.status = value.parse().ok(),
            "times" => self.times = number,
            "retry_after" => self.retry_after = number,
            "billed" => self.billed = true,
            "delay_ms" => self.delay_ms = number.unwrap_or(0),
            "gap_ms" => self.gap_ms = number.unwrap_or(0),
            "stall_after" => self.stall_after = number,
            "comments" => self.comments = true,
            "disconnect_after" => self.disconnect_after = number,
            "crlf" => self.crlf = true,
            "tool_call" => self.tool_call = true,
            "stamp" => self.stamp = true,
            "served_model" => self.served_model = Some(value.to_owned()),
            "served_tier" => self.served_tier = Some(value.to_owned()),
            "even" => self.even = true,
            "only" => self.only = Some(value.to_owned()),
            "cancel" => {
                self.cancel = match value {
                    "whole" => Cancel::Whole,
                    "nothing" => Cancel::Nothing,
                    _ => Cancel::Sent,
                }
            }
            "usage" => {
                self.shown = match value {
                    "none" => Shown::None,
                    "zero" => Shown::Zero,
                    "null" => Shown::Null,
                    "impossible" => Shown::Impossible,
                    "twice" => Shown::Twice,
                    "beside" => Shown::Beside,
                    "every" => Shown::Every,
                    _ => Shown::Last,
                }
            }
            _ => {}
        }
    }

    /// Without its failures, if they concern another model.
    pub(super) fn for_model(mut self, model: &str) -> Self {
        if self.only.as_deref().is_some_and(|only| only != model) {
            self.status = None;
            (self.delay_ms, self.stall_after, self.disconnect_after) = (0, None, None);
        }
        self
    }

    /// The status to fail with now: with `times`, only the first requests of this script fail.
    pub(super) fn status_now(&self, book: &Book) -> Option<u16> {
        let status = self.status?;
        match self.times {
            Some(times) if book.count(&self.text) > times => None,
            _ => Some(status),
        }
    }

    /// Does an answer in one piece break off before it begins?
    pub(super) fn breaks_at_once(&self) -> bool {
        self.disconnect_after.is_some()
    }
}

/// The text between the first `[[` and the `]]` behind it.
fn within(body: &[u8]) -> Option<String> {
    // Only what looks like a script: lists of lists are JSON too.
    memmem::find_iter(body, b"[[").find_map(|start| {
        let rest = body.get(start + 2..)?;
        let text = rest.get(..memmem::find(rest, b"]]")?)?;
        let text = std::str::from_utf8(text).ok()?;
        text.starts_with(|first: char| first.is_ascii_lowercase()).then(|| text.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_script_is_read_from_anywhere_in_the_body() {
        let script = Script::read(
            br#"{"a":[[1]],"messages":[{"content":"Hi [[tokens=5 usage=none status=503 odd]]"}]}"#,
            &HeaderMap::new(),
        );
        assert_eq!((script.tokens, script.shown, script.status), (Some(5), Shown::None, Some(503)));
        assert_eq!(Script::read(b"{}", &HeaderMap::new()), Script::default());
    }
}
