//! The log over HTTP, in order and in pages: for gateways without a database, and for whoever may read all of it.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::{Query, State};
use axum::response::{IntoResponse as _, Response};
use axum::{Extension, Json};
use futures_util::FutureExt as _;
use http::HeaderMap;
use modelfaucet_command::writer::Ledger;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{Actor, Event};
use modelfaucet_schema::hash::ChainHash;
use modelfaucet_schema::http::{ApiError, RequestId, bearer};
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::log::{AccessKind, AccessLog};
use modelfaucet_schema::time::{ApiTime, Timestamp};
use modelfaucet_schema::token::{TokenHash, TokenKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use tokio::sync::Mutex;
use tokio_postgres::{Client, Config, Row};
use utoipa::{IntoParams, ToSchema};
use utoipa_axum::router::OpenApiRouter;
use utoipa_axum::routes;
use uuid::Uuid;

use crate::database;

/// Events on one page at most, and if nobody says how many.
const MOST: u64 = 4_096;
const USUAL: u64 = 1_000;
/// Positions that one page looks at: with few kinds of events wanted, most of them are none.
const LOOKED_AT: i64 = 50_000;
/// The longest wait for new events.
const MOST_PATIENCE: u64 = 20_000;
/// How long the database may take.
const READ: Duration = Duration::from_secs(8);

/// What the feed needs.
#[derive(Clone)]
pub(crate) struct LogFeed {
    shared: Arc<Shared>,
}

struct Shared {
    ledger: Ledger,
    database: Config,
    client: Mutex<Option<Arc<Client>>>,
    /// Where those of the house are put on record.
    access: AccessLog,
    /// The holder of `ADMIN_TOKEN`.
    root: TokenHash,
    /// Gateways without a database; they follow all the time, and are not recorded.
    gateways: Option<TokenHash>,
}

/// Where to begin and what is wanted.
#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
#[serde(deny_unknown_fields)]
pub(crate) struct FeedQuery {
    /// The log; there is one so far, 0.
    #[serde(default)]
    shard: u16,
    /// Only events behind this position: the `next` of the page before, 0 for the beginning.
    #[serde(default)]
    #[param(minimum = 0)]
    after: i64,
    /// Events on the page, 1 to 4096; 1000 if not said.
    #[serde(default)]
    #[param(minimum = 1, maximum = 4096)]
    limit: Option<u64>,
    /// At the end of the log, wait so long for something new, at most 20000; 0 if not said.
    #[serde(default)]
    #[param(maximum = 20000)]
    wait_ms: Option<u64>,
    /// Only events of these kinds, such as `HoldPlaced,HoldCaptured`.
    #[serde(default)]
    types: Option<String>,
    /// All kinds but these.
    #[serde(default)]
    except: Option<String>,
}

/// A page of the log.
#[derive(Serialize, ToSchema)]
pub(crate) struct FeedPage {
    /// Which log this is: another one after a restore that has lost events.
    log_id: Uuid,
    /// The events, in order.
    events: Vec<FeedEvent>,
    /// Where the next page begins. It moves also when none of the events behind the last page was wanted.
    next: i64,
    /// The end of the log when the page was made.
    head: FeedHead,
}

/// The end of a log.
#[derive(Serialize, ToSchema)]
pub(crate) struct FeedHead {
    /// Its last position.
    position: i64,
    /// The link there, in hexadecimal digits.
    hash: String,
}

/// An event.
#[derive(Serialize, ToSchema)]
pub(crate) struct FeedEvent {
    /// Its place in the log.
    position: i64,
    /// What it tells about, `kind:uuid`.
    stream: String,
    /// Its place among the events of that.
    stream_seq: i64,
    /// Its kind.
    r#type: String,
    /// The version of its payload.
    version: i16,
    /// The writer's clock.
    #[schema(value_type = String)]
    recorded_at: ApiTime,
    /// Who caused it.
    actor: String,
    /// The request that caused it.
    request_id: String,
    /// The stored JSON, byte for byte.
    #[schema(value_type = Object)]
    payload: Box<RawValue>,
}

impl LogFeed {
    /// The feed of a writer's log, read as `ledger_command`, for the root, staff, and gateways with this token.
    pub(crate) fn new(ledger: Ledger, database: Config, root: TokenHash, gateways: Option<TokenHash>) -> Self {
        let access = AccessLog::new(database.clone());
        Self { shared: Arc::new(Shared { ledger, database, client: Mutex::default(), access, root, gateways }) }
    }

    /// Whoever asks may read; those of the house are put on record first.
    async fn admit(&self, headers: &HeaderMap, request_id: &RequestId) -> Result<(), ApiError> {
        let actor = match bearer(headers).map(|token| (token, TokenHash::of_text(token))) {
            Some((_, hash)) if self.shared.gateways.as_ref().is_some_and(|known| known.matches(&hash)) => return Ok(()),
            Some((_, hash)) if self.shared.root.matches(&hash) => Some(Actor::Admin),
            Some((token, hash)) if token.starts_with(TokenKind::Staff.prefix()) => self.staff(&hash).await,
            _ => None,
        };
        let actor = actor.ok_or_else(|| ApiError::new(401, "invalid_session", "Missing or invalid token."))?;
        self.shared.access.record(&request_id.access(actor, AccessKind::Read)).await.map_err(|error| {
            tracing::error!(%error, "a read was refused");
            ApiError::unavailable("audit_unavailable", "The read cannot be recorded at the moment.")
        })
    }

    /// The holder of a staff token that may be used; all of them may read.
    async fn staff(&self, hash: &TokenHash) -> Option<Actor> {
        let ledger = &self.shared.ledger;
        let mut facts = ledger.directory().staff(hash);
        if facts.is_none() {
            // Another process may have issued it a moment ago.
            let _late = tokio::time::timeout(Duration::from_millis(250), ledger.catch_up()).await;
            facts = ledger.directory().staff(hash);
        }
        let facts = facts.filter(|facts| facts.expires_at.is_none_or(|end| end > Timestamp::now()))?;
        self.shared.access.note_use(facts.token_id);
        Some(Actor::Staff(facts.role, facts.token_id))
    }

    /// Its route, documented.
    pub(crate) fn router(self) -> OpenApiRouter {
        routes().with_state(self)
    }

    async fn client(&self) -> Result<Arc<Client>, tokio_postgres::Error> {
        let mut slot = self.shared.client.lock().await;
        if let Some(client) = slot.as_ref().filter(|client| !client.is_closed()) {
            return Ok(Arc::clone(client));
        }
        let client = Arc::new(database::connect(&self.shared.database).await?);
        *slot = Some(Arc::clone(&client));
        Ok(client)
    }

    /// Waits until there is something behind `after`, or the time is over.
    async fn wait(&self, after: i64, patience: Duration) {
        let mut head = self.shared.ledger.head();
        let news = head.wait_for(|position| position.0 > after).map(|_| ());
        let _nothing_new = tokio::time::timeout(patience, news).await;
    }

    async fn page(&self, wanted: &Wanted) -> Result<FeedPage, tokio_postgres::Error> {
        let client = self.client().await?;
        let head = client.query_one(include_str!("log_feed/sql/head.sql"), &[&wanted.shard.0]).await?;
        let (log_id, position): (Uuid, i64) = (head.get(0), head.get(1));
        let hash = ChainHash::from_slice(head.get(2)).map(|hash| hash.to_string()).unwrap_or_default();
        let until = position.min(wanted.after.saturating_add(LOOKED_AT)).max(wanted.after);
        let limit = i64::try_from(wanted.limit).unwrap_or(i64::MAX);
        let rows = client
            .query(
                include_str!("log_feed/sql/events.sql"),
                &[&wanted.shard.0, &wanted.after, &until, &wanted.types, &wanted.except, &limit],
            )
            .await?;
        let full = i64::try_from(rows.len()) == Ok(limit);
        let events: Vec<_> = rows.iter().filter_map(event).collect();
        let next = events.last().filter(|_| full).map_or(until, |last| last.position);
        Ok(FeedPage { log_id, events, next, head: FeedHead { position, hash } })
    }
}

fn event(row: &Row) -> Option<FeedEvent> {
    let payload = String::from_utf8(row.get(8)).ok()?;
    Some(FeedEvent {
        position: row.get(0),
        stream: row.get(1),
        stream_seq: row.get(2),
        r#type: row.get(3),
        version: row.get(4),
        recorded_at: ApiTime(Timestamp::from_micros(row.get(5))),
        actor: row.get(6),
        request_id: row.get(7),
        // Events are stored as JSON.
        payload: RawValue::from_string(payload).ok()?,
    })
}

/// A query that makes sense.
struct Wanted {
    shard: ShardId,
    after: i64,
    limit: u64,
    patience: Duration,
    types: Option<Vec<String>>,
    except: Vec<String>,
}

impl Wanted {
    fn read(query: &FeedQuery) -> Result<Self, ApiError> {
        let wrong = |param: &'static str, message: String| ApiError::invalid(message).param(param);
        if query.shard != 0 {
            return Err(ApiError::new(404, "shard_not_found", "There is no log of this number.").param("shard"));
        }
        if query.after < Position::START.0 {
            return Err(wrong("after", "`after` must be 0 or a position.".to_owned()));
        }
        let limit = query.limit.unwrap_or(USUAL);
        if !(1..=MOST).contains(&limit) {
            return Err(wrong("limit", format!("`limit` must be 1 to {MOST}.")));
        }
        let patience = query.wait_ms.unwrap_or(0);
        if patience > MOST_PATIENCE {
            return Err(wrong("wait_ms", format!("`wait_ms` must be at most {MOST_PATIENCE}.")));
        }
        let kinds: HashSet<&str> = Event::KINDS.iter().map(|(name, _)| *name).collect();
        let names = |param: &'static str, list: &str| {
            let names: Vec<_> = list.split(',').map(str::trim).map(str::to_owned).collect();
            match names.iter().find(|name| !kinds.contains(name.as_str())) {
                Some(unknown) => Err(wrong(param, format!("{unknown:?} is no kind of event."))),
                None => Ok(names),
            }
        };
        Ok(Self {
            shard: ShardId(0),
            after: query.after,
            limit,
            patience: Duration::from_millis(patience),
            types: query.types.as_deref().map(|list| names("types", list)).transpose()?,
            except: query.except.as_deref().map(|list| names("except", list)).transpose()?.unwrap_or_default(),
        })
    }
}

fn routes() -> OpenApiRouter<LogFeed> {
    OpenApiRouter::new().routes(routes!(read))
}

/// The document of the feed.
pub(crate) fn openapi() -> utoipa::openapi::OpenApi {
    routes().into_openapi()
}

/// Read the log.
///
/// Every event, in order, page by page: begin with `after=0`, go on with `next`. With `wait_ms` a page at the end of the log waits for
/// something new. For those who run the ledger, whose reads are put on record, and for gateways.
#[utoipa::path(get, path = "/v1/log", tag = "log", security(("bearer" = ["auditor"])), params(FeedQuery), responses(
    (status = 200, description = "Events behind `after`", body = FeedPage),
    (status = "4XX", description = "invalid_session, invalid_request, shard_not_found", body = ErrorBody),
    (status = "5XX", description = "ledger_unavailable, audit_unavailable", body = ErrorBody)))]
async fn read(
    State(feed): State<LogFeed>,
    Extension(request_id): Extension<RequestId>,
    headers: HeaderMap,
    query: Query<FeedQuery>,
) -> Result<Response, ApiError> {
    feed.admit(&headers, &request_id).await?;
    let wanted = Wanted::read(&query)?;
    feed.wait(wanted.after, wanted.patience).await;
    match tokio::time::timeout(READ, feed.page(&wanted)).await {
        Ok(Ok(page)) => Ok(Json(page).into_response()),
        Ok(Err(error)) => {
            tracing::warn!(%error, "the log cannot be read");
            Err(ApiError::unavailable("ledger_unavailable", "The log cannot be read; try again."))
        }
        Err(_) => {
            // It may never say anything again.
            *feed.shared.client.lock().await = None;
            Err(ApiError::unavailable("ledger_unavailable", "The log cannot be read in time; try again."))
        }
    }
}

/// Does the request carry one of these tokens?
pub(crate) fn is_one_of(headers: &HeaderMap, tokens: &[TokenHash]) -> bool {
    bearer(headers).is_some_and(|token| {
        let hash = TokenHash::of_text(token);
        tokens.iter().any(|known| known.matches(&hash))
    })
}
