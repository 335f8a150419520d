//! Reports as CSV: every row there is, streamed.

use axum::extract::State;
use axum::response::Response;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::ids::ShardId;
use tokio_postgres::Row;
use uuid::Uuid;

use crate::auth::Admin;
use crate::columns::Columns as _;
use crate::error::QueryError;
use crate::export::{Export, Format};
use crate::journal::Posting;
use crate::params::{AtParams, Query, Range, RangeParams};
use crate::progress::AsOf;
use crate::sheet::{Cell, Sheet};
use crate::sql;
use crate::state::QueryState;

/// CSV with a heading.
struct Csv {
    heading: &'static str,
    /// Adds the lines of a row.
    lines: fn(&Row, &mut Sheet) -> Result<(), QueryError>,
}

impl Format for Csv {
    fn content_type(&self) -> &'static str {
        "text/csv; charset=utf-8"
    }

    fn begin(&mut self, _: &AsOf) -> Result<Vec<u8>, QueryError> {
        Ok(format!("{}\n", self.heading).into_bytes())
    }

    fn rows(&mut self, rows: &[Row]) -> Result<Vec<u8>, QueryError> {
        let mut sheet = Sheet::new();
        rows.iter().try_for_each(|row| (self.lines)(row, &mut sheet))?;
        sheet.finish()
    }
}

const USAGE: Csv = Csv {
    heading: "created_at,request_id,public_app_id,feature_key,route_mode,provider,model,input_tokens,output_tokens,\
              upstream_cost_usd,retail_price_usd,channel_revenue_usd,platform_revenue_usd",
    lines: usage_line,
};

fn usage_line(row: &Row, sheet: &mut Sheet) -> Result<(), QueryError> {
    sheet.row(&[
        Cell::time(row.time("recorded_at")?),
        Cell::text(row.try_get("request_id")?),
        Cell::optional(row.try_get("public_app_id")?),
        Cell::optional(row.try_get("feature_key")?),
        Cell::text(row.try_get("route")?),
        Cell::text(row.try_get("provider")?),
        Cell::text(row.try_get("model")?),
        Cell::number(row.try_get::<_, i64>("input_tokens")?),
        Cell::number(row.try_get::<_, i64>("output_tokens")?),
        Cell::number(row.money("upstream")?),
        Cell::number(row.money("charge")?),
        Cell::number(row.money("developer")?),
        Cell::number(row.money("platform")?),
    ])
}

const REVENUE: Csv = Csv {
    heading: "public_app_id,developer_id,developer_email,total_calls,upstream_cost_usd,retail_price_usd,channel_revenue_usd,\
              platform_revenue_usd",
    lines: revenue_line,
};

fn revenue_line(row: &Row, sheet: &mut Sheet) -> Result<(), QueryError> {
    sheet.row(&[
        Cell::text(row.try_get("public_app_id")?),
        Cell::number(row.try_get::<_, Uuid>("developer_id")?),
        Cell::optional(row.try_get("email")?),
        Cell::number(row.try_get::<_, i64>("calls")?),
        Cell::number(row.total("upstream")?),
        Cell::number(row.total("charge")?),
        Cell::number(row.total("developer")?),
        Cell::number(row.total("platform")?),
    ])
}

const JOURNAL: Csv = Csv {
    heading: "shard,position,recorded_at,occurred_at,type,wallet_id,account_code,account,debit_usd,credit_usd,balance_usd,request_id",
    lines: journal_lines,
};

/// One line per posting. An amount stands on one side only; the balance is the account's, debits minus credits.
fn journal_lines(row: &Row, sheet: &mut Sheet) -> Result<(), QueryError> {
    let shard = ShardId(row.try_get("shard")?);
    let occurred_at = row.time_or_none("occurred_at")?;
    for posting in Posting::all(shard, row)? {
        let code = posting.account.get(..4).unwrap_or_default();
        let side = |amount: modelfaucet_schema::money::Money| {
            if amount.is_zero() { Cell::own("") } else { Cell::number(amount) }
        };
        sheet.row(&[
            Cell::number(shard.0),
            Cell::number(row.try_get::<_, i64>("position")?),
            Cell::time(row.time("recorded_at")?),
            occurred_at.map_or(Cell::own(""), |time| Cell::time(time.0)),
            Cell::text(row.try_get("type")?),
            Some(row.try_get::<_, Uuid>("wallet_id")?).filter(|id| !id.is_nil()).map_or(Cell::own(""), Cell::number),
            Cell::text(code),
            Cell::text(&posting.name),
            side(posting.debit_usd),
            side(posting.credit_usd),
            Cell::number(posting.balance_usd),
            Cell::text(row.try_get("request_id")?),
        ])?;
    }
    Ok(())
}

const PAYOUTS: Csv = Csv {
    heading: "created_at,updated_at,payout_id,developer_id,developer_email,amount_usd,status,provider,provider_payout_id",
    lines: payout_line,
};

fn payout_line(row: &Row, sheet: &mut Sheet) -> Result<(), QueryError> {
    sheet.row(&[
        Cell::time(row.time("requested_at")?),
        Cell::time(row.time("updated_at")?),
        Cell::number(row.try_get::<_, Uuid>("payout_id")?),
        Cell::number(row.try_get::<_, Uuid>("developer_id")?),
        Cell::optional(row.try_get("email")?),
        Cell::number(row.money("amount")?),
        Cell::text(row.try_get("status")?),
        Cell::text(row.try_get("provider")?),
        Cell::optional(row.try_get("reference")?),
    ])
}

const HANDOVER: Csv = Csv {
    heading: "payout_id,developer_id,developer_name,developer_email,amount,currency,approved_by,approved_at",
    lines: handover_line,
};

fn handover_line(row: &Row, sheet: &mut Sheet) -> Result<(), QueryError> {
    let amount = row.money("amount")?;
    // Whole cents: banks take two decimals.
    let text = amount.to_string();
    let cents = text.strip_suffix("000000").ok_or(QueryError::Foreign("payout.amount"))?;
    sheet.row(&[
        Cell::number(row.try_get::<_, Uuid>("payout_id")?),
        Cell::number(row.try_get::<_, Uuid>("developer_id")?),
        Cell::optional(row.try_get("name")?),
        Cell::optional(row.try_get("email")?),
        Cell::number(cents),
        Cell::own("USD"),
        Cell::optional(row.try_get("approved_by")?),
        Cell::time(row.time("updated_at")?),
    ])
}

/// Every charged call, newest first, as CSV; texts that a spreadsheet would run as formulas are escaped with a leading `'`.
#[utoipa::path(get, path = "/v1/admin/reports/usage.csv", tag = "reports", params(RangeParams, AtParams),
    security(("bearer" = ["auditor"])), responses((status = 200, content_type = "text/csv", body = String),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn usage(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Range>,
) -> Result<Response, QueryError> {
    let [from, to] = query.own.bounds();
    let export = Export {
        projections: &["usage", "catalogue"],
        level: false,
        sql: sql::USAGE_EXPORT,
        params: vec![Box::new(from), Box::new(to)],
        format: USAGE,
    };
    export.answer(&state, &query.at).await
}

/// Totals of every app as CSV, by public id.
#[utoipa::path(get, path = "/v1/admin/reports/revenue.csv", tag = "reports", params(AtParams),
    security(("bearer" = ["auditor"])), responses((status = 200, content_type = "text/csv", body = String),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn revenue(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<()>,
) -> Result<Response, QueryError> {
    let export = Export {
        projections: &["usage", "catalogue"],
        level: false,
        sql: sql::REVENUE_EXPORT,
        params: Vec::new(),
        format: REVENUE,
    };
    export.answer(&state, &query.at).await
}

/// The journal as CSV, one line per posting, in order, with each account's running balance.
#[utoipa::path(get, path = "/v1/admin/reports/journal.csv", tag = "reports", params(RangeParams, AtParams),
    security(("bearer" = ["auditor"])), responses((status = 200, content_type = "text/csv", body = String),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn journal(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Range>,
) -> Result<Response, QueryError> {
    let [from, to] = query.own.bounds();
    let export = Export {
        projections: &["journal"],
        level: false,
        sql: sql::JOURNAL_EXPORT,
        params: vec![Box::new(from), Box::new(to)],
        format: JOURNAL,
    };
    export.answer(&state, &query.at).await
}

/// Every payout, newest first, as CSV.
#[utoipa::path(get, path = "/v1/admin/reports/payouts.csv", tag = "reports", params(RangeParams, AtParams),
    security(("bearer" = ["auditor"])), responses((status = 200, content_type = "text/csv", body = String),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn payouts(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Range>,
) -> Result<Response, QueryError> {
    let [from, to] = query.own.bounds();
    let export = Export {
        projections: &["payouts", "catalogue"],
        level: false,
        sql: sql::PAYOUTS_EXPORT,
        params: vec![Box::new(from), Box::new(to)],
        format: PAYOUTS,
    };
    export.answer(&state, &query.at).await
}

/// Approved payouts of the provider `bank`, as the CSV that a person carries to the bank.
#[utoipa::path(get, path = "/v1/admin/reports/payout-handover.csv", tag = "reports", params(AtParams),
    security(("bearer" = ["auditor"])), responses((status = 200, content_type = "text/csv", body = String),
    (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn payout_handover(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<()>,
) -> Result<Response, QueryError> {
    let export = Export {
        projections: &["payouts", "catalogue"],
        level: false,
        sql: sql::PAYOUT_HANDOVER,
        params: Vec::new(),
        format: HANDOVER,
    };
    export.answer(&state, &query.at).await
}
