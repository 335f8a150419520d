//! A provider to try things with: OpenAI's API, made-up answers, real counts. It needs no key and no network, follows scripts of
//! faults (see [`script`]), and writes down what it saw and would bill: the truth that tests compare the books with.

mod book;
mod script;
mod text;

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use bytes::Bytes;
use futures_util::Stream;
use http::header::CONTENT_TYPE;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::http::{ApiError, read_body};
use serde_json::{Value, json};

pub use book::{Bill, Book};
use script::{Script, Shown};

/// The largest request body: 32 MiB.
const MAX_BODY: usize = 32 << 20;

/// The routes of the provider. What it sees and bills goes into the book.
pub fn router(book: Arc<Book>) -> Router {
    Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/responses", post(responses))
        .route("/v1/embeddings", post(embeddings))
        .route("/v1/models", get(models))
        .route("/health/readiness", get(async || axum::Json(json!({ "status": "healthy" }))))
        .with_state(book)
}

async fn models() -> impl IntoResponse {
    axum::Json(
        json!({ "object": "list", "data": [{ "id": "gpt-4o-mini", "object": "model", "created": 0, "owned_by": "sandbox" }] }),
    )
}

async fn chat(State(book): State<Arc<Book>>, request: Request) -> Response {
    run(book, request, Kind::Chat).await
}

async fn responses(State(book): State<Arc<Book>>, request: Request) -> Response {
    run(book, request, Kind::Responses).await
}

async fn embeddings(State(book): State<Arc<Book>>, request: Request) -> Response {
    run(book, request, Kind::Embeddings).await
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Chat,
    Responses,
    Embeddings,
}

/// One request and everything that is known of it before the first byte goes out.
struct Work {
    kind: Kind,
    script: Script,
    model: String,
    id: String,
    bill: Bill,
    usage_wanted: bool,
}

async fn run(book: Arc<Book>, request: Request, kind: Kind) -> Response {
    let (parts, body) = request.into_parts();
    let read = read_body(&parts.headers, body, MAX_BODY, "application/json").await;
    let parsed = read.and_then(|bytes| {
        let value: Value = serde_json::from_slice(&bytes).map_err(|_| ApiError::invalid("not JSON"))?;
        Ok((bytes, value))
    });
    let (bytes, value) = match parsed {
        Ok(parsed) => parsed,
        Err(error) => return failure(error.status(), "the request could not be read"),
    };
    let model = value["model"].as_str().unwrap_or_default().to_owned();
    let script = Script::read(&bytes, &parts.headers).for_model(&model);
    let number = book.received(&model, &value, &parts.headers, bytes.len());
    let cap = if kind == Kind::Embeddings { Some(0) } else { cap(&value) };
    let bill = book.bill(number, &script, prompt_tokens(&value, kind), cap);
    let work = Work {
        kind,
        id: format!("{}-sandbox-{number}", if kind == Kind::Responses { "resp" } else { "chatcmpl" }),
        model: script.served_model.clone().unwrap_or(model),
        usage_wanted: kind == Kind::Responses || value["stream_options"]["include_usage"] == true,
        script,
        bill,
    };
    pause(work.script.delay_ms).await;
    if let Some(status) = work.script.status_now(&book) {
        let status = StatusCode::from_u16(status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        work.bill.close(0, work.script.billed, "refused");
        let mut response = failure(status, "scripted failure");
        if let Some(seconds) = work.script.retry_after {
            response.headers_mut().insert(http::header::RETRY_AFTER, seconds.into());
        }
        return response;
    }
    if value["stream"] == true && kind != Kind::Embeddings {
        let stream = Watched { inner: Box::pin(frames(work)) };
        return ([(CONTENT_TYPE, "text/event-stream")], Body::from_stream(stream)).into_response();
    }
    if work.script.breaks_at_once() {
        work.bill.close(0, work.script.billed, "disconnected");
        let broken = futures_util::stream::iter([Err::<Bytes, _>(std::io::Error::other("scripted end"))]);
        return ([(CONTENT_TYPE, "application/json")], Body::from_stream(broken)).into_response();
    }
    let body = whole(&work);
    // In the book before the last byte leaves.
    work.bill.close(work.bill.output(), true, "complete");
    ([(CONTENT_TYPE, "application/json")], body.to_string()).into_response()
}

/// Sleeps; not at all for nothing, which the timer would round up.
async fn pause(milliseconds: u64) {
    if milliseconds > 0 {
        tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    }
}

fn failure(status: StatusCode, message: &str) -> Response {
    let body = json!({ "error": { "message": message, "type": "sandbox", "param": null, "code": status.as_u16() } });
    (status, axum::Json(body)).into_response()
}

/// A quarter of the bytes of the input: never more tokens than bytes.
fn prompt_tokens(value: &Value, kind: Kind) -> u64 {
    let input = if kind == Kind::Chat { &value["messages"] } else { &value["input"] };
    u64::try_from(input.to_string().len()).unwrap_or(u64::MAX).div_ceil(4)
}

fn cap(value: &Value) -> Option<u64> {
    ["max_completion_tokens", "max_tokens", "max_output_tokens"].iter().find_map(|name| value[name].as_u64())
}

/// An answer in one piece.
fn whole(work: &Work) -> Value {
    let content = text::words(if work.script.empty { 0 } else { work.bill.output() }, work.script.even);
    let mut body = match work.kind {
        Kind::Chat => json!({
            "id": work.id, "object": "chat.completion", "created": 1, "model": work.model,
            "choices": [{
                "index": 0, "finish_reason": work.bill.finish_reason(), "logprobs": null,
                "message": message(work, &content),
            }],
        }),
        Kind::Responses => json!({
            "id": work.id, "object": "response", "created_at": 1, "status": "completed", "model": work.model,
            "output": [{
                "type": "message", "id": "msg_1", "status": "completed", "role": "assistant",
                "content": [{ "type": "output_text", "text": content, "annotations": [] }],
            }],
            "parallel_tool_calls": true, "tool_choice": "auto", "tools": [],
        }),
        Kind::Embeddings => json!({
            "object": "list", "model": work.model,
            "data": [{ "object": "embedding", "index": 0, "embedding": [0.5, -0.25, 0.125] }],
        }),
    };
    if let (Some(usage), Some(object)) = (shown_usage(work), body.as_object_mut()) {
        object.insert("usage".to_owned(), usage);
    }
    if let (Some(tier), Some(object)) = (&work.script.served_tier, body.as_object_mut()) {
        object.insert("service_tier".to_owned(), Value::from(tier.as_str()));
    }
    body
}

fn message(work: &Work, content: &str) -> Value {
    if work.script.tool_call {
        let call =
            json!({ "id": "call_1", "type": "function", "function": { "name": "look_up", "arguments": "{\"id\":7}" } });
        return json!({ "role": "assistant", "content": null, "tool_calls": [call], "refusal": null });
    }
    json!({ "role": "assistant", "content": content, "refusal": null })
}

/// The usage object as the script wants it shown; what is billed is another matter.
fn shown_usage(work: &Work) -> Option<Value> {
    let usage = |input: u64, cached: u64, output: u64, reasoning: u64| match work.kind {
        Kind::Responses => json!({
            "input_tokens": input, "input_tokens_details": { "cached_tokens": cached }, "output_tokens": output,
            "output_tokens_details": { "reasoning_tokens": reasoning }, "total_tokens": input + output,
        }),
        Kind::Chat => json!({
            "prompt_tokens": input, "completion_tokens": output, "total_tokens": input + output,
            "prompt_tokens_details": { "cached_tokens": cached },
            "completion_tokens_details": { "reasoning_tokens": reasoning },
        }),
        Kind::Embeddings => json!({ "prompt_tokens": input, "total_tokens": input }),
    };
    let bill = &work.bill;
    match work.script.shown {
        Shown::None => None,
        Shown::Zero => Some(usage(0, 0, 0, 0)),
        Shown::Impossible => Some(usage(bill.input(), bill.input() + 50, bill.output(), 0)),
        Shown::Null => Some(Value::Null),
        Shown::Last | Shown::Twice | Shown::Beside | Shown::Every => Some(usage(
            bill.input(),
            work.script.cached.min(bill.input()),
            bill.output(),
            work.script.reasoning.min(bill.output()),
        )),
    }
}

type Item = Result<Bytes, std::io::Error>;

/// The frames of a stream, as the script wants them. The book is written before the last byte leaves, or when the reader goes.
fn frames(work: Work) -> impl Stream<Item = Item> + Send {
    let frames = match work.kind {
        Kind::Chat | Kind::Embeddings => chat_frames(&work),
        Kind::Responses => response_frames(&work),
    };
    let last = frames.len().saturating_sub(1);
    let state = (frames.into_iter().enumerate(), work, 0_u64);
    futures_util::stream::unfold(state, move |(mut frames, work, mut sent)| async move {
        let (index, frame) = frames.next()?;
        if let Some(end) = work.script.disconnect_after
            && sent >= end
        {
            work.bill.close(sent, true, "disconnected");
            // A server that breaks off discards what it has not written yet.
            tokio::time::sleep(Duration::from_millis(50)).await;
            return Some((
                Err(std::io::Error::other("scripted end")),
                (Vec::new().into_iter().enumerate(), work, sent),
            ));
        }
        if let Some(stall) = work.script.stall_after
            && sent >= stall
        {
            if work.script.comments {
                // Silence would be noticed; comments are no progress either.
                tokio::time::sleep(Duration::from_millis(20)).await;
                let rest: Vec<Frame> = std::iter::once(frame).chain(frames.map(|(_, frame)| frame)).collect();
                return Some((Ok(Bytes::from_static(b": waiting\n\n")), (rest.into_iter().enumerate(), work, sent)));
            }
            std::future::pending::<()>().await;
        }
        if index > 0 {
            pause(work.script.gap_ms).await;
        }
        sent += u64::from(frame.content);
        work.bill.sent(sent);
        if index == last {
            work.bill.close(work.bill.output(), true, "complete");
        }
        let bytes = if work.script.stamp && frame.content { stamped(&frame.bytes) } else { frame.bytes };
        Some((Ok(bytes), (frames, work, sent)))
    })
}

/// Stands where the time goes when a piece leaves.
const STAMP: &str = "0000000000000000";

/// The frame with the time in it: microseconds since 1970.
fn stamped(frame: &Bytes) -> Bytes {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_micros();
    let mut bytes = frame.to_vec();
    if let Some(at) = memchr::memmem::find(&bytes, STAMP.as_bytes()) {
        bytes.splice(at..at + STAMP.len(), format!("{now:016}").into_bytes());
    }
    Bytes::from(bytes)
}

struct Frame {
    bytes: Bytes,
    /// Does it carry a token?
    content: bool,
}

fn chat_frames(work: &Work) -> Vec<Frame> {
    let asks_nulls = work.usage_wanted && work.script.shown != Shown::None;
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": work.id, "object": "chat.completion.chunk", "created": 1, "model": work.model, "choices": choices,
        });
        if let (Some(usage), Some(object)) = (usage.or(asks_nulls.then_some(Value::Null)), chunk.as_object_mut()) {
            object.insert("usage".to_owned(), usage);
        }
        if let (Some(tier), Some(object)) = (&work.script.served_tier, chunk.as_object_mut()) {
            object.insert("service_tier".to_owned(), Value::from(tier.as_str()));
        }
        chunk
    };
    let line = |value: &Value, content| {
        let end = if work.script.crlf { "\r\n" } else { "\n" };
        Frame { bytes: Bytes::from(format!("data: {value}{end}{end}")), content }
    };
    let delta = |delta: Value, finish: Value| json!([{ "index": 0, "delta": delta, "finish_reason": finish }]);
    let usage = shown_usage(work);
    let mut frames = vec![line(&chunk(delta(json!({ "role": "assistant", "content": "" }), Value::Null), None), false)];
    if work.script.tool_call {
        let call = json!([{ "index": 0, "id": "call_1", "type": "function", "function": { "name": "look_up", "arguments": "{\"id\":7}" } }]);
        frames.push(line(&chunk(delta(json!({ "tool_calls": call }), Value::Null), None), true));
    } else if !work.script.empty {
        for index in 0..work.bill.output() {
            let each = if work.script.shown == Shown::Every { usage.clone() } else { None };
            let mut piece = json!({ "content": text::word(index, work.script.even) });
            if work.script.stamp {
                piece["stamp"] = Value::from(STAMP);
            }
            frames.push(line(&chunk(delta(piece, Value::Null), each), true));
        }
    }
    let beside = if work.script.shown == Shown::Beside { usage.clone() } else { None };
    frames.push(line(&chunk(delta(json!({}), Value::from(work.bill.finish_reason())), beside), false));
    if work.usage_wanted || work.script.shown != Shown::Last {
        let times = match work.script.shown {
            Shown::None | Shown::Beside | Shown::Null => 0,
            Shown::Twice => 2,
            _ => 1,
        };
        for _ in 0..times {
            frames.push(line(&chunk(json!([]), usage.clone()), false));
        }
    }
    frames.push(Frame { bytes: Bytes::from_static(b"data: [DONE]\n\n"), content: false });
    frames
}

fn response_frames(work: &Work) -> Vec<Frame> {
    let mut number = 0;
    let mut event = |kind: &str, mut value: Value, content| {
        if let Some(object) = value.as_object_mut() {
            object.insert("type".to_owned(), Value::from(kind));
            object.insert("sequence_number".to_owned(), Value::from(number));
        }
        number += 1;
        Frame { bytes: Bytes::from(format!("event: {kind}\ndata: {value}\n\n")), content }
    };
    let mut begun = whole(work);
    begun["status"] = json!("in_progress");
    begun["output"] = json!([]);
    begun["usage"] = Value::Null;
    let part = json!({ "type": "output_text", "text": "", "annotations": [] });
    let item = json!({ "type": "message", "id": "msg_1", "status": "in_progress", "role": "assistant", "content": [] });
    let mut frames = vec![
        event("response.created", json!({ "response": begun }), false),
        event("response.output_item.added", json!({ "output_index": 0, "item": item }), false),
        event(
            "response.content_part.added",
            json!({ "item_id": "msg_1", "output_index": 0, "content_index": 0, "part": part }),
            false,
        ),
    ];
    for index in 0..work.bill.output() {
        let delta = json!({
            "item_id": "msg_1", "output_index": 0, "content_index": 0, "delta": text::word(index, work.script.even), "logprobs": [],
        });
        frames.push(event("response.output_text.delta", delta, true));
    }
    frames.push(event("response.completed", json!({ "response": whole(work) }), false));
    frames
}

/// A stream that is dropped when its reader goes; the bill inside notices.
struct Watched {
    inner: Pin<Box<dyn Stream<Item = Item> + Send>>,
}

impl Stream for Watched {
    type Item = Item;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Item>> {
        self.inner.as_mut().poll_next(context)
    }
}

/// Headers that may carry a script.
fn header_script(headers: &HeaderMap) -> Option<&str> {
    headers.get("x-sandbox-script")?.to_str().ok()
}
