//! A stream on its way through: what goes on at once, what waits for the charge, what is read out of it. Pure.
//!
//! The tail, from the last frame with a usage on, waits; everything before it goes on byte for byte. Usage may come beside content,
//! alone, or several times: the last whole object counts, nothing is added up.

use std::collections::VecDeque;

use bytes::Bytes;
use memchr::memmem;
use modelfaucet_schema::event::Endpoint;
use serde::Deserialize;
use serde_json::{Map, Value};

use crate::delivered::{Delivered, Shape};
use crate::members::Members;
use crate::sse::Frame;

/// What the provider says of the call in passing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Said {
    /// Its id of the call.
    pub(crate) id: Option<String>,
    /// The model that answers.
    pub(crate) model: Option<String>,
    /// The service tier that answers.
    pub(crate) service_tier: Option<String>,
    /// The last usage object, as JSON.
    pub(crate) usage: Option<String>,
    /// Why it stopped, in the order in which its choices did.
    pub(crate) finish_reasons: Vec<String>,
}

/// So many reasons are kept.
const MAX_CHOICES: usize = 16;

/// A frame that waits.
#[derive(Debug)]
enum Waiting {
    /// As it is.
    Ready(Bytes),
    /// With a usage that the client wants, to which ours is added.
    Usage(Frame, String),
}

/// One stream.
#[derive(Debug)]
pub(crate) struct Relay {
    endpoint: Endpoint,
    /// Did the client ask for the usage? If not, what we caused is taken out again.
    usage_wanted: bool,
    tail: VecDeque<Waiting>,
    said: Said,
    delivered: Delivered,
    /// Did the stream come to its end, as its protocol marks it?
    ended: bool,
    /// Did the provider report an error inside the stream?
    failed: bool,
}

impl Relay {
    /// A stream that begins.
    pub(crate) fn new(endpoint: Endpoint, usage_wanted: bool) -> Self {
        Self {
            endpoint,
            usage_wanted,
            tail: VecDeque::new(),
            said: Said::default(),
            delivered: Delivered::default(),
            ended: false,
            failed: false,
        }
    }

    /// Takes in a frame and adds what may go on now to `out`.
    pub(crate) fn take(&mut self, frame: Frame, out: &mut Vec<Bytes>) {
        let verdict = match frame.data() {
            // Comments keep the place that they came in.
            None => Verdict::Keep,
            Some(data) if data.as_ref() == b"[DONE]" => {
                self.ended = true;
                Verdict::Hold
            }
            Some(data) => self.read(&data),
        };
        self.place(frame, verdict, out);
    }

    fn read(&mut self, data: &[u8]) -> Verdict {
        let responses = self.endpoint == Endpoint::Responses;
        self.delivered.add(data, if responses { Shape::ResponseEvents } else { Shape::Chat });
        // Most frames are content and pass unread.
        let interesting = self.said.id.is_none()
            || memmem::find(data, b"\"usage\"").is_some()
            || memmem::find(data, b"\"error\"").is_some()
            || !responses && finishes(data)
            || responses && memmem::find(data, b"\"response\"").is_some();
        match if interesting { Members::parse(data).ok() } else { None } {
            None => Verdict::Pass,
            Some(members) if responses => self.read_response_event(&members),
            Some(members) => self.read_chunk(members),
        }
    }

    /// A frame that is not the end: what waited was not the end either.
    fn pass(&mut self, frame: Frame, out: &mut Vec<Bytes>) {
        self.flush(out);
        out.push(frame.into_bytes());
    }

    fn flush(&mut self, out: &mut Vec<Bytes>) {
        out.extend(self.tail.drain(..).map(|waiting| match waiting {
            Waiting::Ready(bytes) => bytes,
            Waiting::Usage(frame, json) => frame.with_data(json.as_bytes()),
        }));
    }

    fn place(&mut self, frame: Frame, verdict: Verdict, out: &mut Vec<Bytes>) {
        match verdict {
            Verdict::Pass => self.pass(frame, out),
            Verdict::Keep if self.tail.is_empty() => out.push(frame.into_bytes()),
            Verdict::Keep | Verdict::Hold => self.tail.push_back(Waiting::Ready(frame.into_bytes())),
            Verdict::Changed(json) => {
                self.flush(out);
                out.push(frame.with_data(&json));
            }
            Verdict::Drop => {}
            Verdict::Failed => self.failed = true,
            Verdict::Wait(json) => {
                self.flush(out);
                self.tail.push_back(Waiting::Ready(frame.with_data(&json)));
            }
            Verdict::WaitForOurs(json) => {
                self.flush(out);
                self.tail.push_back(Waiting::Usage(frame, json));
            }
        }
    }

    fn read_chunk(&mut self, mut members: Members<'_>) -> Verdict {
        if members.present("error").is_some_and(|error| !matches!(error, "false" | "0" | "\"\"" | "{}" | "[]")) {
            return Verdict::Failed;
        }
        self.learn(&members);
        let says_nothing = members.present("choices").is_some_and(says_nothing);
        let usage = match members.get("usage") {
            Some("null") if !self.usage_wanted => {
                members.remove("usage");
                return Verdict::Changed(members.to_bytes());
            }
            None | Some("null") => return Verdict::Pass,
            Some(usage) => usage.to_owned(),
        };
        self.said.usage = Some(usage);
        if self.usage_wanted {
            return Verdict::WaitForOurs(String::from_utf8(members.to_bytes()).unwrap_or_default());
        }
        if says_nothing {
            return Verdict::Drop;
        }
        members.remove("usage");
        Verdict::Wait(members.to_bytes())
    }

    fn read_response_event(&mut self, members: &Members<'_>) -> Verdict {
        let kind = members.read::<String>("type").ok().flatten().unwrap_or_default();
        if kind == "error" {
            return Verdict::Failed;
        }
        let Some(response) = members.present("response") else { return Verdict::Pass };
        let Ok(response) = Members::parse(response.as_bytes()) else { return Verdict::Pass };
        self.learn(&response);
        if !matches!(kind.as_str(), "response.completed" | "response.incomplete" | "response.failed") {
            return Verdict::Pass;
        }
        self.ended = true;
        if let Some(usage) = response.present("usage") {
            self.said.usage = Some(usage.to_owned());
        }
        Verdict::WaitForOurs(String::from_utf8(members.to_bytes()).unwrap_or_default())
    }

    fn learn(&mut self, members: &Members<'_>) {
        if self.said.id.is_none() {
            self.said.id = members.read("id").ok().flatten().filter(|id: &String| (1..=256).contains(&id.len()));
        }
        if self.said.model.is_none() {
            self.said.model =
                members.read("model").ok().flatten().filter(|model: &String| (1..=256).contains(&model.len()));
        }
        // The last word counts: at the beginning of a response it is what was asked for.
        let tier = members.read("service_tier").ok().flatten().filter(|tier: &String| (1..=64).contains(&tier.len()));
        if tier.is_some() {
            self.said.service_tier = tier;
        }
        if let Some(choices) = members.present("choices").filter(|choices| finishes(choices.as_bytes())) {
            self.said.finish_reasons.extend(finish_reasons(choices));
            self.said.finish_reasons.truncate(MAX_CHOICES);
        }
    }

    /// What the provider said of the call.
    pub(crate) fn said(&self) -> &Said {
        &self.said
    }

    /// What was generated so far.
    pub(crate) fn delivered(&self) -> Delivered {
        self.delivered
    }

    /// Did the stream come to its marked end?
    pub(crate) fn ended(&self) -> bool {
        self.ended
    }

    /// Did the provider report an error inside the stream?
    pub(crate) fn failed(&self) -> bool {
        self.failed
    }

    /// The frames that waited, with ours: as a member beside a usage that the client wants, else as a comment, which clients
    /// skip.
    pub(crate) fn finish(&mut self, ours: &Value) -> Vec<Bytes> {
        let mut added = false;
        let waiting: Vec<Waiting> = self.tail.drain(..).collect();
        let mut frames: Vec<Bytes> = Vec::with_capacity(waiting.len() + 1);
        for waiting in waiting {
            frames.push(match waiting {
                Waiting::Usage(frame, json) => {
                    added = true;
                    frame.with_data(&with_member(json.as_bytes(), ours))
                }
                Waiting::Ready(bytes) => bytes,
            });
        }
        if !added {
            let comment = Bytes::from(format!(": modelfaucet {ours}\n\n"));
            let at = frames.len() - usize::from(self.ended && !frames.is_empty());
            frames.insert(at, comment);
        }
        frames
    }
}

/// What becomes of a frame.
enum Verdict {
    /// It goes on, and what waited before it.
    Pass,
    /// It goes on where it stands.
    Keep,
    /// It waits as it is.
    Hold,
    /// It goes on with other data, and what waited before it.
    Changed(Vec<u8>),
    /// It goes nowhere.
    Drop,
    /// It reports an error: the stream is over.
    Failed,
    /// It waits with other data.
    Wait(Vec<u8>),
    /// It waits for our member.
    WaitForOurs(String),
}

/// Does a chunk carry nothing but its usage? OpenAI's has no choices, LiteLLM's an empty one.
fn says_nothing(choices: &str) -> bool {
    #[derive(Deserialize)]
    struct Choice {
        delta: Option<Map<String, Value>>,
        finish_reason: Option<Value>,
    }
    let choices: Vec<Choice> =
        serde_json::from_str(choices).unwrap_or_else(|_| vec![Choice { delta: None, finish_reason: None }]);
    choices.iter().all(|choice| choice.delta.as_ref().is_some_and(Map::is_empty) && choice.finish_reason.is_none())
}

/// Does a chunk say why it stopped? Most say `"finish_reason":null`.
fn finishes(data: &[u8]) -> bool {
    const NAME: &[u8] = b"\"finish_reason\"";
    memmem::find_iter(data, NAME).any(|at| {
        let mut behind = data.get(at + NAME.len()..).unwrap_or_default().iter();
        behind.find(|byte| !matches!(byte, b' ' | b':')) == Some(&b'"')
    })
}

/// The words for it, of each choice that stopped. Anything but a word is left out: it is shown where nothing of an answer may be.
fn finish_reasons(choices: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Choice {
        finish_reason: Option<String>,
    }
    let is_word = |reason: &String| {
        (1..=32).contains(&reason.len()) && reason.bytes().all(|byte| byte.is_ascii_lowercase() || byte == b'_')
    };
    let choices: Vec<Choice> = serde_json::from_str(choices).unwrap_or_default();
    choices.into_iter().filter_map(|choice| choice.finish_reason).filter(is_word).collect()
}

/// An answer with our member.
pub(crate) fn with_member(json: &[u8], ours: &Value) -> Vec<u8> {
    match Members::parse(json) {
        Ok(mut members) => {
            members.set("modelfaucet", ours);
            members.to_bytes()
        }
        Err(_) => json.to_vec(),
    }
}

/// What an answer in one piece says of its call.
pub(crate) fn read_answer(endpoint: Endpoint, body: &[u8]) -> Option<(Said, Delivered)> {
    let members = Members::parse(body).ok()?;
    let mut relay = Relay::new(endpoint, true);
    relay.learn(&members);
    relay.said.usage = members.present("usage").map(str::to_owned);
    match endpoint {
        Endpoint::ChatCompletions => relay.delivered.add(members.present("choices")?.as_bytes(), Shape::Chat),
        Endpoint::Responses => relay.delivered.add(members.present("output")?.as_bytes(), Shape::Response),
        Endpoint::Embeddings => drop(members.present("data")?),
    }
    Some((relay.said, relay.delivered))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sse::Splitter;
    use proptest::prelude::*;
    use serde_json::json;

    /// Runs a stream through: what went on at once, what waited, and the relay.
    fn relay(stream: &str, usage_wanted: bool, piece: usize) -> (String, String, Relay) {
        let mut relay = Relay::new(Endpoint::ChatCompletions, usage_wanted);
        let mut splitter = Splitter::default();
        let mut out = Vec::new();
        for piece in stream.as_bytes().chunks(piece) {
            splitter.push(piece);
            while let Some(frame) = splitter.next().unwrap() {
                relay.take(frame, &mut out);
            }
        }
        if let Some(frame) = splitter.finish() {
            relay.take(frame, &mut out);
        }
        let tail = relay.finish(&json!({ "request_id": "r" })).concat();
        (String::from_utf8(out.concat()).unwrap(), String::from_utf8(tail).unwrap(), relay)
    }

    const CONTENT: &str = "data: {\"id\":\"c1\",\"model\":\"m\",\"choices\":[{\"delta\":{\"content\":\"Hi\"},\"finish_reason\":null}]}\n\n";
    const FINISH: &str = "data: {\"id\":\"c1\",\"choices\":[{\"delta\":{},\"finish_reason\":\"stop\"}]}\n\n";
    const USAGE: &str =
        "data: {\"id\":\"c1\",\"choices\":[],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n\n";
    const DONE: &str = "data: [DONE]\n\n";
    const OURS: &str = ": modelfaucet {\"request_id\":\"r\"}\n\n";

    #[test]
    fn why_it_stopped_is_learned_and_nothing_else() {
        let stream = format!("{CONTENT}{FINISH}data: [DONE]\n\n");
        let (out, tail, relay) = relay(&stream, false, 7);
        assert_eq!(relay.said().finish_reasons, ["stop"]);
        assert!(out.contains("\"finish_reason\":\"stop\"") || tail.contains("\"finish_reason\":\"stop\""));
        let body = br#"{"id":"c","choices":[{"finish_reason": "length"},{"finish_reason":null},
            {"finish_reason":"what nobody may read"},{"finish_reason":"tool_calls"}]}"#;
        let (said, _) = read_answer(Endpoint::ChatCompletions, body).unwrap();
        assert_eq!(said.finish_reasons, ["length", "tool_calls"]);
        assert!(!finishes(br#"{"choices":[{"delta":{"content":"\"finish_reason\":\"x\""},"finish_reason":null}]}"#));
    }

    #[test]
    fn the_usage_that_nobody_asked_for_is_taken_out() {
        let stream = [CONTENT, FINISH, USAGE, DONE].concat();
        let (at_once, waited, relay) = relay(&stream, false, 7);
        assert_eq!((at_once, waited), ([CONTENT, FINISH].concat(), [OURS, DONE].concat()));
        assert_eq!(relay.said().usage.as_deref(), Some("{\"prompt_tokens\":9,\"completion_tokens\":1}"));
        assert_eq!((relay.said().id.as_deref(), relay.said().model.as_deref()), (Some("c1"), Some("m")));
        assert_eq!((relay.delivered(), relay.ended()), (Delivered::of_characters(2), true));
    }

    #[test]
    fn the_usage_that_was_asked_for_carries_ours() {
        let stream = [CONTENT, FINISH, USAGE, DONE].concat();
        let (at_once, waited, _) = relay(&stream, true, 1);
        assert_eq!(at_once, [CONTENT, FINISH].concat());
        let expected = USAGE.replace("}}\n", "},\"modelfaucet\":{\"request_id\":\"r\"}}\n") + DONE;
        assert_eq!(waited, expected);
    }

    #[test]
    fn usage_beside_content_and_twice_waits_only_at_the_end() {
        let beside = CONTENT.replace("]}\n", "],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":7}}\n");
        for (stream, usage_wanted) in
            [([&beside, &beside, DONE].concat(), false), ([&beside, USAGE, USAGE, DONE].concat(), false)]
        {
            let (at_once, waited, relay) = relay(&stream, usage_wanted, 5);
            let whole = at_once + &waited;
            assert!(!whole.contains("usage") && whole.ends_with(DONE), "{whole}");
            assert!(whole.starts_with(CONTENT), "{whole}");
            assert!(relay.said().usage.is_some());
        }
        let nulls = CONTENT.replace("]}\n", "],\"usage\":null}\n");
        assert_eq!(relay(&nulls, false, 9).0, CONTENT);
        assert_eq!(relay(&nulls, true, 9).0, nulls);
    }

    #[test]
    fn an_empty_choice_beside_the_usage_is_nothing_to_show() {
        let litellm = USAGE.replace("\"choices\":[]", "\"choices\":[{\"index\":0,\"delta\":{}}]");
        assert_eq!(relay(&[CONTENT, &litellm, DONE].concat(), false, 64).1, [OURS, DONE].concat());
        for choices in ["[]", r#"[{"index":0,"delta":{},"finish_reason":null}]"#] {
            assert!(says_nothing(choices), "{choices}");
        }
        for choices in
            [r#"[{"delta":{"content":""}}]"#, r#"[{"delta":{},"finish_reason":"stop"}]"#, "[{}]", "{}", "[7]"]
        {
            assert!(!says_nothing(choices), "{choices}");
        }
    }

    #[test]
    fn an_error_inside_the_stream_is_seen() {
        let (_, _, relay) = relay(&[CONTENT, "data: {\"error\":{\"message\":\"x\"}}\n\n"].concat(), false, 64);
        assert!(relay.failed() && !relay.ended());
    }

    #[test]
    fn a_response_ends_with_its_terminal_event() {
        let mut relay = Relay::new(Endpoint::Responses, true);
        let mut splitter = Splitter::default();
        let delta =
            "event: response.output_text.delta\ndata: {\"type\":\"response.output_text.delta\",\"delta\":\"Hi\"}\n\n";
        let created = "event: response.created\ndata: {\"type\":\"response.created\",\"response\":{\"id\":\"resp_1\",\"model\":\"m\",\"usage\":null}}\n\n";
        let completed = "event: response.completed\ndata: {\"type\":\"response.completed\",\"response\":{\"id\":\"resp_1\",\"usage\":{\"input_tokens\":3,\"output_tokens\":1}}}\n\n";
        splitter.push([created, delta, completed].concat().as_bytes());
        let mut out = Vec::new();
        while let Some(frame) = splitter.next().unwrap() {
            relay.take(frame, &mut out);
        }
        assert_eq!(out.concat(), [created, delta].concat().as_bytes());
        assert_eq!(relay.said().usage.as_deref(), Some("{\"input_tokens\":3,\"output_tokens\":1}"));
        assert_eq!((relay.said().id.as_deref(), relay.delivered().tokens(), relay.ended()), (Some("resp_1"), 1, true));
        let tail = String::from_utf8(relay.finish(&json!(1)).concat()).unwrap();
        assert!(
            tail.starts_with("event: response.completed\ndata: {") && tail.ends_with(",\"modelfaucet\":1}\n\n"),
            "{tail}"
        );
    }

    #[test]
    fn an_answer_in_one_piece_is_read() {
        let body =
            br#"{"id":"c1","model":"m","choices":[{"message":{"content":"Hello"}}],"usage":{"prompt_tokens":1}}"#;
        let (said, delivered) = read_answer(Endpoint::ChatCompletions, body).unwrap();
        assert_eq!((said.usage.as_deref(), delivered.tokens()), (Some(r#"{"prompt_tokens":1}"#), 2));
        assert_eq!(read_answer(Endpoint::ChatCompletions, b"{}"), None);
        assert_eq!(read_answer(Endpoint::ChatCompletions, b"<html>"), None);
    }

    proptest! {
        /// Same frames out and same usage, however the bytes are cut and wherever the usage sits.
        #[test]
        fn the_pieces_do_not_matter(piece in 1_usize..200, wanted: bool, order in 0_usize..4) {
            let beside = FINISH.replace("]}\n", "],\"usage\":{\"prompt_tokens\":9,\"completion_tokens\":1}}\n");
            let stream = match order {
                0 => [CONTENT, ": ping\n\n", FINISH, USAGE, DONE].concat(),
                1 => [CONTENT, CONTENT, &beside, DONE].concat(),
                2 => [CONTENT, USAGE, FINISH, USAGE].concat(),
                _ => [CONTENT, FINISH, DONE].concat(),
            };
            let (at_once, waited, one) = relay(&stream, wanted, piece);
            let (expected, expected_tail, other) = relay(&stream, wanted, stream.len());
            prop_assert_eq!((at_once, waited), (expected, expected_tail));
            prop_assert_eq!(one.said(), other.said());
        }
    }
}
