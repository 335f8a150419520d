//! The API: forms in, JSON out, idempotency keys, pages.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::{Path, Query, State};
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use parking_lot::Mutex;
use serde_json::{Map, Value, json};

use super::SECRET_KEY;
use super::book::Book;

type Shared = Arc<Mutex<Book>>;
type Form = BTreeMap<String, String>;

pub(super) fn router(book: Shared) -> axum::Router {
    axum::Router::new()
        .route("/v1/checkout/sessions", post(open_session))
        .route("/v1/checkout/sessions/{id}", get(session))
        .route("/v1/refunds", post(refund).get(refunds))
        .route("/v1/events", get(events))
        .route("/v1/balance_transactions", get(transactions))
        .route("/v1/balance", get(balance))
        .with_state(book)
}

fn error(status: u16, kind: &str, code: &str) -> Response {
    let status = StatusCode::from_u16(status).expect("a status");
    (status, Json(json!({ "error": { "type": kind, "code": code, "message": code } }))).into_response()
}

fn unauthorized(headers: &HeaderMap) -> Option<Response> {
    let expected = format!("Bearer {SECRET_KEY}");
    let given = headers.get("authorization").and_then(|value| value.to_str().ok());
    (given != Some(expected.as_str())).then(|| error(401, "invalid_request_error", "api_key_invalid"))
}

fn form(body: &Bytes) -> Form {
    let text = String::from_utf8_lossy(body);
    text.split('&').filter_map(|pair| pair.split_once('=')).map(|(name, value)| (decode(name), decode(value))).collect()
}

fn decode(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while at < bytes.len() {
        let hex = bytes.get(at + 1..at + 3).and_then(|pair| std::str::from_utf8(pair).ok());
        match (bytes[at], hex.and_then(|pair| u8::from_str_radix(pair, 16).ok())) {
            (b'%', Some(byte)) => {
                out.push(byte);
                at += 2;
            }
            (b'+', _) => out.push(b' '),
            (byte, _) => out.push(byte),
        }
        at += 1;
    }
    String::from_utf8(out).expect("UTF-8")
}

fn metadata(form: &Form) -> Value {
    let member = |(name, value): (&String, &String)| {
        let name = name.strip_prefix("metadata[")?.strip_suffix(']')?;
        Some((name.to_owned(), json!(value)))
    };
    Value::Object(form.iter().filter_map(member).collect::<Map<_, _>>())
}

/// Does something once per idempotency key, with the faults that are asked for.
fn once(
    book: &Shared,
    headers: &HeaderMap,
    body: &Bytes,
    act: impl FnOnce(&mut Book, &Form) -> Result<Value, (u16, &'static str)>,
) -> Response {
    if let Some(refused) = unauthorized(headers) {
        return refused;
    }
    let mut book = book.lock();
    book.posts += 1;
    if let Some((times, status)) = book.refuse.take() {
        book.refuse = (times > 1).then_some((times - 1, status));
        return error(status, "api_error", "refused_for_a_test");
    }
    let key = headers.get("idempotency-key").map(|key| key.to_str().expect("a text").to_owned());
    let content = String::from_utf8_lossy(body).into_owned();
    let known = key.as_ref().and_then(|key| book.answers.get(key)).cloned();
    let (status, answer) = match known {
        Some((before, ..)) if before != content => return error(400, "idempotency_error", "idempotency_key_in_use"),
        Some((_, status, answer)) => (status, answer),
        None => {
            let (status, answer) = match act(&mut book, &form(body)) {
                Ok(made) => (200, made),
                Err((status, code)) => {
                    (status, json!({ "error": { "type": "invalid_request_error", "code": code, "message": code } }))
                }
            };
            if let Some(key) = key {
                book.answers.insert(key, (content, status, answer.clone()));
            }
            (status, answer)
        }
    };
    if book.lose > 0 {
        book.lose -= 1;
        return error(500, "api_error", "lost_for_a_test");
    }
    (StatusCode::from_u16(status).expect("a status"), Json(answer)).into_response()
}

async fn open_session(State(book): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    once(&book, &headers, &body, |book, form| {
        let wanted = |name: &str| form.get(name).ok_or((400, "parameter_missing"));
        wanted("success_url")?;
        wanted("cancel_url")?;
        if wanted("mode")? != "payment" || wanted("line_items[0][price_data][currency]")? != "usd" {
            return Err((400, "parameter_invalid"));
        }
        let cents: i64 = wanted("line_items[0][price_data][unit_amount]")?
            .parse()
            .map_err(|_| (400, "parameter_invalid_integer"))?;
        if cents < 50 {
            return Err((400, "amount_too_small"));
        }
        Ok(book.open_session(cents, &metadata(form), form.get("client_reference_id").map(String::as_str)))
    })
}

async fn session(State(book): State<Shared>, headers: HeaderMap, Path(id): Path<String>) -> Response {
    if let Some(refused) = unauthorized(&headers) {
        return refused;
    }
    match book.lock().sessions.get(&id) {
        Some(session) => Json(session.clone()).into_response(),
        None => error(404, "invalid_request_error", "resource_missing"),
    }
}

async fn refund(State(book): State<Shared>, headers: HeaderMap, body: Bytes) -> Response {
    once(&book, &headers, &body, |book, form| {
        let payment = form.get("payment_intent").ok_or((400, "parameter_missing"))?;
        let left = book.refundable(payment).ok_or((404, "resource_missing"))?;
        let cents = match form.get("amount") {
            None => left,
            Some(text) => text.parse().map_err(|_| (400, "parameter_invalid_integer"))?,
        };
        if cents <= 0 || cents > left {
            return Err((400, "charge_already_refunded"));
        }
        Ok(book.refund(payment, cents, &metadata(form)))
    })
}

/// A list of the API; a fault where one is asked for.
fn list(book: &Shared, headers: &HeaderMap, query: &Form, objects: impl FnOnce(&Book) -> Vec<Value>) -> Response {
    if let Some(refused) = unauthorized(headers) {
        return refused;
    }
    let mut book = book.lock();
    match &mut book.lists_left {
        Some(0) => return error(500, "api_error", "refused_for_a_test"),
        Some(left) => *left -= 1,
        None => {}
    }
    page(objects(&book).into_iter(), query)
}

/// A page, newest first.
fn page(objects: impl DoubleEndedIterator<Item = Value>, query: &Form) -> Response {
    let limit: usize = query.get("limit").map_or(10, |limit| limit.parse().expect("a number"));
    let since: i64 = query.get("created[gte]").map_or(0, |since| since.parse().expect("a number"));
    let until: i64 = query.get("created[lt]").map_or(i64::MAX, |until| until.parse().expect("a number"));
    let within = |object: &Value| (since..until).contains(&object["created"].as_i64().expect("a time"));
    let mut found: Vec<Value> = objects.rev().filter(within).collect();
    if let Some(after) = query.get("starting_after") {
        let at = found.iter().position(|object| object["id"] == after.as_str());
        found.drain(..=at.expect("an object of an earlier page"));
    }
    let has_more = found.len() > limit;
    found.truncate(limit);
    Json(json!({ "object": "list", "data": found, "has_more": has_more })).into_response()
}

async fn refunds(State(book): State<Shared>, headers: HeaderMap, Query(query): Query<Form>) -> Response {
    if let Some(refused) = unauthorized(&headers) {
        return refused;
    }
    let of = query.get("payment_intent").cloned().unwrap_or_default();
    page(book.lock().refunds_of(&of).into_iter().rev(), &query)
}

async fn events(State(book): State<Shared>, headers: HeaderMap, Query(query): Query<Form>) -> Response {
    list(&book, &headers, &query, |book| book.events.clone())
}

async fn transactions(State(book): State<Shared>, headers: HeaderMap, Query(query): Query<Form>) -> Response {
    let expanded = query.iter().any(|(name, what)| name.starts_with("expand[") && what == "data.source");
    let shown = |mut moved: Value| {
        if !expanded && moved["source"].is_object() {
            moved["source"] = moved["source"]["id"].take();
        }
        moved
    };
    list(&book, &headers, &query, |book| book.transactions.iter().cloned().map(shown).collect())
}

async fn balance(State(book): State<Shared>, headers: HeaderMap) -> Response {
    if let Some(refused) = unauthorized(&headers) {
        return refused;
    }
    let cents = book.lock().balance();
    Json(json!({ "object": "balance", "available": [{ "amount": cents, "currency": "usd" }], "pending": [] }))
        .into_response()
}
