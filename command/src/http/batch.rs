//! Many calls in one request. Each item is decided by itself: one bad item never fails the others.

use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderMap;
use http::header::CONTENT_TYPE;
use modelfaucet_schema::error::{ErrorBody, ErrorDetail};
use modelfaucet_schema::http::{ApiError, LEDGER_POSITION, RequestId, parse_json, read_body};
use serde::Serialize;
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::auth::Authenticated;
use super::reply::{self, UsageReply, usage_reply};
use super::usage::RecordUsage;
use super::{Api, Key, REQUEST_LIMIT};
use crate::writer::{Answer, CommandError, Request as LedgerRequest};

/// The largest body: 16 MiB.
const MAX_BODY: usize = 16 << 20;
/// The most items.
const MAX_ITEMS: usize = 10_000;
/// Items that are parsed in one go before other requests get a turn.
const TURN: usize = 256;

const NDJSON: &str = "application/x-ndjson";

/// What became of the items, in their order.
#[derive(Serialize, ToSchema)]
pub(super) struct BatchReply {
    /// How many were recorded now.
    accepted: usize,
    /// How many had been recorded by an earlier request with the same `request_id`.
    replayed: usize,
    /// How many were refused or are in doubt.
    refused: usize,
    /// One per item.
    items: Vec<ItemReply>,
}

/// What became of an item.
#[derive(Serialize, ToSchema)]
pub(super) struct ItemReply {
    /// Its place in the request, from 0.
    index: usize,
    /// Its `request_id`, if it could be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<String>,
    /// The status that the same item alone would have got.
    status: u16,
    /// Is this the answer to an earlier request?
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
    /// The charge.
    #[serde(skip_serializing_if = "Option::is_none")]
    usage: Option<UsageReply>,
    /// Why it was refused.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<ErrorDetail>,
}

/// Record many calls.
///
/// A JSON array, or one object per line with the content type `application/x-ndjson` (then the answer comes as lines too); at most
/// 10,000 items. Every item needs a `request_id`, which is its idempotency key: send the whole request again after a failure.
#[utoipa::path(post, path = "/v1/usage/batch", tag = "usage", request_body = Vec<RecordUsage>, security(("bearer" = ["admin"]), ("bearer" = ["developer:usage:write"]), ("bearer" = ["session"])),
    responses(
    (status = 200, description = "A result per item", body = BatchReply),
    (status = "4XX", description = "invalid_session, invalid_request, request_too_large, unsupported_media_type", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable", body = ErrorBody)))]
pub(super) async fn record_batch(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    request: Request,
) -> Result<Response, ApiError> {
    let who = api.require_payer(&headers, request_id).await?;
    let lines = headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(NDJSON.as_bytes()));
    let kind = if lines { NDJSON } else { "application/json" };
    let bytes = read_body(&headers, request.into_body(), MAX_BODY, kind).await?;
    let items = split(&bytes, lines)?;
    let mut replies: Vec<ItemReply> = Vec::with_capacity(items.len());
    let mut requests = Vec::with_capacity(items.len());
    let mut places = Vec::with_capacity(items.len());
    for (index, item) in items.into_iter().enumerate() {
        if index % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        let (id, parsed) = parse(&who, item);
        let mut reply = ItemReply { index, request_id: id, status: 0, replayed: false, usage: None, error: None };
        match parsed {
            Ok(request) => {
                places.push(index);
                requests.push(request);
            }
            Err(error) => reply.refuse(&error, &who),
        }
        replies.push(reply);
    }
    let answers =
        match tokio::time::timeout(REQUEST_LIMIT, api.ledger.submit_all(who.request_id.as_str(), requests)).await {
            Ok(answers) => answers.map_err(|error| reply::error(&error))?,
            Err(_) => places.iter().map(|_| Err(CommandError::InDoubt)).collect(),
        };
    let mut position = None;
    for (count, (place, answer)) in places.into_iter().zip(answers).enumerate() {
        if count % TURN == TURN - 1 {
            tokio::task::yield_now().await;
        }
        if let (Some(reply), Some(recorded)) = (replies.get_mut(place), Some(answer)) {
            position = position.max(recorded.as_ref().ok().map(|outcome| outcome.recorded.position));
            reply.fill(recorded, &who);
        }
    }
    let mut response = if lines { as_lines(&replies) } else { axum::Json(BatchReply::of(replies)).into_response() };
    if let Some(position) = position {
        response.headers_mut().insert(LEDGER_POSITION, position.0.into());
    }
    Ok(response)
}

/// The items as raw JSON. Only the frame is read here, so that one bad item stays one bad item.
fn split(bytes: &Bytes, lines: bool) -> Result<Vec<&[u8]>, ApiError> {
    let items: Vec<&[u8]> = if lines {
        bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii).filter(|line| !line.is_empty()).collect()
    } else {
        let array: Vec<&RawValue> = parse_json(bytes)?;
        array.into_iter().map(|item| item.get().as_bytes()).collect()
    };
    if items.len() > MAX_ITEMS {
        return Err(ApiError::new(413, "request_too_large", format!("A batch has at most {MAX_ITEMS} items.")));
    }
    Ok(items)
}

fn parse(who: &Authenticated, item: &[u8]) -> (Option<String>, Result<LedgerRequest, ApiError>) {
    let body: RecordUsage = match parse_json(item) {
        Ok(body) => body,
        Err(error) => return (None, Err(error)),
    };
    let Some(id) = body.request_id.as_ref().map(|id| id.0.clone()) else {
        let missing =
            ApiError::new(400, "idempotency_key_required", "Every item needs a request_id.").param("request_id");
        return (None, Err(missing));
    };
    let key = Key::new(&id, "record_usage", "", &body).hash(&who.scope);
    let request = body.command(who).map(|command| LedgerRequest { caller: who.caller, command, key: Some(key) });
    (Some(id), request)
}

impl ItemReply {
    fn refuse(&mut self, error: &ApiError, who: &Authenticated) {
        self.status = error.status().as_u16();
        self.error = Some(error.body(who.request_id.as_str()).error);
    }

    fn fill(&mut self, answer: Answer, who: &Authenticated) {
        match answer {
            Ok(outcome) => {
                self.status = 201;
                self.replayed = outcome.replayed;
                self.usage = usage_reply(&outcome.recorded.event, who.caller);
            }
            Err(error) => self.refuse(&reply::error(&error), who),
        }
    }
}

impl BatchReply {
    fn of(items: Vec<ItemReply>) -> Self {
        let replayed = items.iter().filter(|item| item.replayed).count();
        let refused = items.iter().filter(|item| item.error.is_some()).count();
        Self { accepted: items.len().saturating_sub(replayed).saturating_sub(refused), replayed, refused, items }
    }
}

fn as_lines(replies: &[ItemReply]) -> Response {
    let mut lines = Vec::with_capacity(replies.len() * 256);
    for reply in replies {
        if serde_json::to_writer(&mut lines, reply).is_err() {
            return ApiError::internal().into_response();
        }
        lines.push(b'\n');
    }
    ([(CONTENT_TYPE, NDJSON)], Body::from(lines)).into_response()
}
