//! Who did or looked at what, when, from where, why: every act of those who run the ledger and of developers, every read of exports
//! and audit data, and what was only tried.

use std::fmt;
use std::str::FromStr;

use axum::extract::State;
use axum::response::Response;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::Actor;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{ShardId, TokenId};
use modelfaucet_schema::time::{ApiTime, Timestamp};
use serde::Serialize;
use serde_json::value::RawValue;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;
use utoipa::ToSchema;

use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::export::{Export, Format};
use crate::params::{AtParams, FromGiven, Given, Invalid, Page, PageParams, Query, Range, RangeParams};
use crate::progress::AsOf;
use crate::sheet::{Cell, Sheet};
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;
use crate::tenant::Tenant;

const PROJECTIONS: &[&str] = &["audit_log"];

/// An act, a look, or an attempt.
#[derive(Serialize, ToSchema)]
pub(crate) struct AuditItem {
    /// Names it: `act-` and the event's position, or `access-` and the number of the access.
    #[schema(example = "act-812")]
    id: String,
    /// `act` (an event), `read` (of an export or audit data), or `attempt` (an act that was announced; if it was done there is an
    /// `act` of the same request).
    kind: String,
    /// When.
    at: ApiTime,
    /// Who, as events name it.
    #[schema(example = "operator:0199c6f2-0000-7000-8000-000000000001")]
    actor: String,
    /// `root`, `admin`, `operator`, `auditor`, `developer`, `session`, `public`, `clock`, `setup`, or another.
    role: String,
    /// The token that was used.
    #[serde(skip_serializing_if = "Option::is_none")]
    token_id: Option<TokenId>,
    /// From where, as far as the ledger's host can see.
    #[serde(skip_serializing_if = "Option::is_none")]
    address: Option<String>,
    /// What: the event's name, or method and route.
    #[schema(example = "WalletAdjusted")]
    action: String,
    /// To what: the event's stream, or path and query.
    #[schema(example = "wallet:0199c6f2-0000-7000-8000-000000000001")]
    resource: String,
    /// Why: the reason in the event, else the header `x-audit-reason`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The request.
    request_id: String,
    /// The event without hashes of tokens and users; empty for looks and attempts.
    #[schema(value_type = Object)]
    detail: Box<RawValue>,
    #[serde(skip)]
    place: AuditCursor,
}

/// Role and token of an actor's text. An actor that this program does not know keeps its own word as the role.
fn role_of(actor: &str) -> (String, Option<TokenId>) {
    match actor.parse() {
        Ok(Actor::Admin) => ("root".to_owned(), None),
        Ok(Actor::Staff(role, token)) => (role.to_string(), Some(token)),
        Ok(Actor::Token(token)) => ("developer".to_owned(), Some(token)),
        Ok(Actor::Operator) => ("setup".to_owned(), None),
        _ => (actor.split(':').next().unwrap_or_default().to_owned(), None),
    }
}

/// The reason that an event itself gives.
fn own_reason(detail: &RawValue) -> Option<String> {
    #[derive(serde::Deserialize)]
    struct Reason {
        reason: Option<String>,
    }
    serde_json::from_str::<Reason>(detail.get()).ok()?.reason
}

impl AuditItem {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let (source, number): (i16, i64) = (row.try_get("source")?, row.try_get("number")?);
        let (at, actor): (Timestamp, String) = (row.time("at")?, row.try_get("actor")?);
        let (role, token_id) = role_of(&actor);
        let detail = row.json("detail")?;
        Ok(Self {
            id: format!("{}-{number}", if source == 1 { "act" } else { "access" }),
            kind: row.try_get("kind")?,
            at: ApiTime(at),
            actor,
            role,
            token_id,
            address: row.try_get("address")?,
            action: row.try_get("action")?,
            resource: row.try_get("resource")?,
            reason: own_reason(&detail).or(row.try_get("reason")?),
            request_id: row.try_get("request_id")?,
            detail,
            place: AuditCursor { at, source, number },
        })
    }
}

/// A page of the audit log, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Audit {
    /// Acts, looks, attempts.
    items: Vec<AuditItem>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// A place in the audit log: 18 bytes in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct AuditCursor {
    at: Timestamp,
    source: i16,
    number: i64,
}

impl fmt::Display for AuditCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 18];
        bytes[..8].copy_from_slice(&self.at.micros().to_be_bytes());
        bytes[8..10].copy_from_slice(&self.source.to_be_bytes());
        bytes[10..].copy_from_slice(&self.number.to_be_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for AuditCursor {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        let bytes: [u8; 18] =
            URL_SAFE_NO_PAD.decode(text).ok().and_then(|bytes| bytes.try_into().ok()).ok_or(Invalid)?;
        let (time, rest) = bytes.split_first_chunk::<8>().ok_or(Invalid)?;
        let (source, number) = rest.split_first_chunk::<2>().ok_or(Invalid)?;
        let micros = i64::from_be_bytes(*time);
        let at = Timestamp::from_micros(micros);
        if at.micros() != micros {
            return Err(Invalid);
        }
        let number = i64::from_be_bytes(number.try_into().map_err(|_| Invalid)?);
        Ok(Self { at, source: i16::from_be_bytes(*source), number })
    }
}

/// `act`, `read` or `attempt`.
struct Kind(&'static str);

impl FromStr for Kind {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        ["act", "read", "attempt"].into_iter().find(|known| *known == text).map(Self).ok_or(Invalid)
    }
}

/// A text to compare with.
struct Wanted(String);

impl FromStr for Wanted {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        if text.is_empty() || text.chars().any(char::is_control) { Err(Invalid) } else { Ok(Self(text.to_owned())) }
    }
}

/// Which items to show.
pub(crate) struct Filter {
    shard: ShardId,
    kinds: Vec<&'static str>,
    actor: Option<String>,
    action: Option<String>,
    resource: Option<String>,
    request_id: Option<String>,
    range: Range,
}

impl FromGiven for Filter {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        let kind = given.parse::<Kind>("kind", "act, read or attempt")?;
        let mut text = |name| Ok::<_, ApiError>(given.parse::<Wanted>(name, "a text")?.map(|Wanted(text)| text));
        let (actor, action, resource, request_id) =
            (text("actor")?, text("action")?, text("resource")?, text("request_id")?);
        Ok(Self {
            shard: given.shard()?,
            // What was only tried is not shown unless it is asked for: what was done says the same.
            kinds: kind.map_or_else(|| vec!["act", "read"], |Kind(kind)| vec![kind]),
            actor,
            action,
            resource,
            request_id,
            range: given.range()?,
        })
    }
}

/// Filter and page.
pub(crate) struct Listed {
    filter: Filter,
    page: Page<AuditCursor>,
}

impl FromGiven for Listed {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Ok(Self { filter: Filter::from_given(given)?, page: Page::take(given, 50)? })
    }
}

/// What a statement is given.
type Params = Vec<Box<dyn ToSql + Send + Sync>>;

impl Filter {
    /// The statement's parameters.
    fn params(self, cursor: Option<AuditCursor>, limit: Option<i64>) -> Params {
        let [from, to] = self.range.bounds();
        let at = cursor.map(|cursor| modelfaucet_schema::log::to_system_time(cursor.at));
        vec![
            Box::new(self.shard.0),
            Box::new(self.kinds),
            Box::new(self.actor),
            Box::new(self.action),
            Box::new(self.resource),
            Box::new(self.request_id),
            Box::new(from),
            Box::new(to),
            Box::new(at),
            Box::new(cursor.map(|cursor| cursor.source)),
            Box::new(cursor.map(|cursor| cursor.number)),
            Box::new(limit),
        ]
    }
}

async fn page_of(snapshot: &Snapshot<'_>, listed: Listed) -> Result<Audit, QueryError> {
    let page = listed.page;
    let params = listed.filter.params(page.cursor, Some(page.fetch()));
    let params: Vec<&(dyn ToSql + Sync)> = params.iter().map(|param| &**param as _).collect();
    let rows = snapshot.rows(sql::AUDIT, &params).await?;
    let mut items = each(&rows, AuditItem::read)?;
    let next_cursor = page.cut(&mut items, |item| item.place).map(|cursor| cursor.to_string());
    Ok(Audit { items, next_cursor })
}

/// Filters of the audit log, for the API document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct FilterParams {
    /// The log, 0 unless given.
    shard: Option<ShardId>,
    /// `act`, `read` or `attempt`; acts and reads unless given.
    #[param(pattern = "^(act|read|attempt)$")]
    kind: Option<String>,
    /// Only of this actor, such as `operator:0199…`.
    actor: Option<String>,
    /// Only this action, such as `WalletAdjusted`.
    action: Option<String>,
    /// Only on this resource, such as `wallet:0199…`.
    resource: Option<String>,
    /// Only of this request.
    request_id: Option<String>,
}

/// The audit log, newest first: acts of those who run the ledger, of developers and of money from outside, and reads of exports and
/// audit data, this one included. Calls are not acts; see usage.
#[utoipa::path(get, path = "/v1/admin/audit", tag = "operations", params(FilterParams, RangeParams, PageParams, AtParams),
    security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Audit), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn audit(
    State(state): State<QueryState>,
    admin: Admin,
    query: Query<Listed>,
) -> Result<Answer<Audit>, QueryError> {
    admin.record_read(&state).await?;
    let mut client = state.client_at(&query.at, PROJECTIONS).await?;
    let snapshot = Snapshot::begin(&mut client, Tenant::House, PROJECTIONS).await?;
    snapshot.answer(page_of(&snapshot, query.own).await)
}

struct Csv;

impl Format for Csv {
    fn content_type(&self) -> &'static str {
        "text/csv; charset=utf-8"
    }

    fn begin(&mut self, _: &AsOf) -> Result<Vec<u8>, QueryError> {
        Ok(b"id,kind,at,actor,role,token_id,address,action,resource,reason,request_id,detail\n".to_vec())
    }

    fn rows(&mut self, rows: &[Row]) -> Result<Vec<u8>, QueryError> {
        let mut sheet = Sheet::new();
        for row in rows {
            let item = AuditItem::read(row)?;
            sheet.row(&[
                Cell::text(&item.id),
                Cell::text(&item.kind),
                Cell::time(item.at.0),
                Cell::text(&item.actor),
                Cell::text(&item.role),
                item.token_id.map_or(Cell::own(""), Cell::number),
                Cell::optional(item.address.as_deref()),
                Cell::text(&item.action),
                Cell::text(&item.resource),
                Cell::optional(item.reason.as_deref()),
                Cell::text(&item.request_id),
                Cell::text(item.detail.get()),
            ])?;
        }
        sheet.finish()
    }
}

struct Lines;

impl Format for Lines {
    fn content_type(&self) -> &'static str {
        "application/x-ndjson"
    }

    fn begin(&mut self, _: &AsOf) -> Result<Vec<u8>, QueryError> {
        Ok(Vec::new())
    }

    fn rows(&mut self, rows: &[Row]) -> Result<Vec<u8>, QueryError> {
        let mut out = Vec::new();
        for row in rows {
            let item = AuditItem::read(row)?;
            serde_json::to_writer(&mut out, &item).map_err(|_| QueryError::Foreign("an audit item"))?;
            out.push(b'\n');
        }
        Ok(out)
    }
}

async fn export(
    state: &QueryState,
    admin: &Admin,
    query: Query<Filter>,
    format: impl Format,
) -> Result<Response, QueryError> {
    admin.record_read(state).await?;
    let params = query.own.params(None, None);
    Export { projections: PROJECTIONS, level: false, sql: sql::AUDIT, params, format }.answer(state, &query.at).await
}

/// The audit log as CSV, newest first, filtered as `/v1/admin/audit`.
#[utoipa::path(get, path = "/v1/admin/reports/audit.csv", tag = "reports", params(FilterParams, RangeParams, AtParams),
    security(("bearer" = ["auditor"])), responses((status = 200, content_type = "text/csv", body = String),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn csv(
    State(state): State<QueryState>,
    admin: Admin,
    query: Query<Filter>,
) -> Result<Response, QueryError> {
    export(&state, &admin, query, Csv).await
}

/// The audit log as one JSON object per line, newest first, filtered as `/v1/admin/audit`.
#[utoipa::path(get, path = "/v1/admin/reports/audit.jsonl", tag = "reports", params(FilterParams, RangeParams, AtParams),
    security(("bearer" = ["auditor"])), responses((status = 200, content_type = "application/x-ndjson", body = String),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn lines(
    State(state): State<QueryState>,
    admin: Admin,
    query: Query<Filter>,
) -> Result<Response, QueryError> {
    export(&state, &admin, query, Lines).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actors_say_their_role_and_token() {
        let token = TokenId::generate();
        for (actor, role, with_token) in [
            ("admin".to_owned(), "root", false),
            (format!("admin:{token}"), "admin", true),
            (format!("operator:{token}"), "operator", true),
            (format!("token:{token}"), "developer", true),
            (format!("session:{token}"), "session", false),
            ("operator".to_owned(), "setup", false),
            ("stripe".to_owned(), "stripe", false),
        ] {
            assert_eq!(role_of(&actor), (role.to_owned(), with_token.then_some(token)), "{actor}");
        }
    }

    #[test]
    fn an_events_own_reason_is_found_among_whatever_else_it_says() {
        let reason = |json: &str| own_reason(&RawValue::from_string(json.to_owned()).unwrap());
        assert_eq!(reason(r#"{"policy":{"x":"a\u0000b"},"reason":"INC-12"}"#).as_deref(), Some("INC-12"));
        for json in ["{}", r#"{"reason":null}"#, r#"{"reason":7}"#, "[]"] {
            assert_eq!(reason(json), None, "{json}");
        }
    }

    #[test]
    fn cursors_survive_their_text() {
        let cursor = AuditCursor { at: Timestamp::from_micros(1_764_000_000_000_000), source: 1, number: 812 };
        assert_eq!(cursor.to_string().parse::<AuditCursor>().ok(), Some(cursor));
        for text in ["", "AAAA", "////////////////////////"] {
            assert!(text.parse::<AuditCursor>().is_err(), "{text}");
        }
    }
}
