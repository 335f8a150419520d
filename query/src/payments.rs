//! Money from outside and back: refunds, disputes, and whether our events and the payment provider's own record agree.

use std::str::FromStr;

use axum::extract::State;
use modelfaucet_schema::account::AccountCode;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{Position, RefundId, ShardId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::ApiTime;
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::amount::Total;
use crate::answer::Answer;
use crate::auth::Admin;
use crate::columns::{Columns as _, each};
use crate::error::QueryError;
use crate::params::{AtParams, FromGiven, Given, Invalid, Page, PageParams, PositionCursor, Query, TimeCursor};
use crate::progress::AsOf;
use crate::snapshot::Snapshot;
use crate::sql;
use crate::state::QueryState;

const PAYMENTS: &[&str] = &["payments"];
const CLEARING: &[&str] = &["payments", "journal"];
/// How many open payments are listed.
const MOST_OPEN: i64 = 200;

/// A refund of a payment.
#[derive(Serialize, ToSchema)]
pub(crate) struct Refund {
    /// The refund.
    id: RefundId,
    /// The wallet.
    wallet_id: WalletId,
    /// The payment provider's id of the payment.
    payment: String,
    /// What goes back.
    amount_usd: Money,
    /// The part that the wallet could not pay.
    receivable_usd: Money,
    /// The payment provider's id of the refund.
    #[serde(skip_serializing_if = "Option::is_none")]
    reference: Option<String>,
    /// `requested`, `sent` or `failed`.
    status: String,
    /// Why it was made, or why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Who requested it.
    requested_by: String,
    /// When it was requested.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
    /// The last event that changed it.
    position: Position,
}

impl Refund {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: RefundId(row.try_get("refund_id")?),
            wallet_id: WalletId(row.try_get("wallet_id")?),
            payment: row.try_get("payment")?,
            amount_usd: row.money("amount")?,
            receivable_usd: row.money("receivable")?,
            reference: row.try_get("reference")?,
            status: row.try_get("status")?,
            reason: row.try_get("reason")?,
            requested_by: row.try_get("requested_by")?,
            created_at: ApiTime(row.time("requested_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
            position: Position(row.try_get("position")?),
        })
    }
}

/// A page of refunds, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Refunds {
    /// The refunds.
    items: Vec<Refund>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

macro_rules! status {
    ($name:ident, $($text:literal),+) => {
        struct $name(&'static str);

        impl FromStr for $name {
            type Err = Invalid;

            fn from_str(text: &str) -> Result<Self, Invalid> {
                [$($text),+].into_iter().find(|known| *known == text).map(Self).ok_or(Invalid)
            }
        }
    };
}

status!(RefundStatus, "requested", "sent", "failed");
status!(DisputeStatus, "open", "won", "lost");

/// Which refunds to show.
pub(crate) struct WantedRefunds {
    page: Page<TimeCursor>,
    status: Option<RefundStatus>,
}

impl FromGiven for WantedRefunds {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Ok(Self { page: Page::take(given, 50)?, status: given.parse("status", "requested, sent or failed")? })
    }
}

async fn refunds_of(snapshot: &Snapshot<'_>, wanted: &WantedRefunds) -> Result<Refunds, QueryError> {
    let status = wanted.status.as_ref().map(|status| status.0);
    let (time, id) = TimeCursor::parts(wanted.page.cursor);
    let rows = snapshot.rows(sql::REFUNDS, &[&status, &time, &id, &wanted.page.fetch()]).await?;
    let mut items = each(&rows, Refund::read)?;
    let cursor = |refund: &Refund| TimeCursor { time: refund.created_at.0, id: refund.id.0 };
    let next_cursor = wanted.page.cut(&mut items, cursor).map(|cursor| cursor.to_string());
    Ok(Refunds { items, next_cursor })
}

/// Refunds, newest first.
#[utoipa::path(get, path = "/v1/admin/refunds", tag = "payments", params(
    ("status" = Option<String>, Query, description = "`requested`, `sent` or `failed`; all unless given."),
    PageParams, AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Refunds), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn refunds(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<WantedRefunds>,
) -> Result<Answer<Refunds>, QueryError> {
    let mut client = state.client_at(&query.at, PAYMENTS).await?;
    let snapshot = Snapshot::begin(&mut client, PAYMENTS).await?;
    snapshot.answer(refunds_of(&snapshot, &query.own).await)
}

/// A dispute of a payment.
#[derive(Serialize, ToSchema)]
pub(crate) struct Dispute {
    /// The payment provider's id of the dispute.
    id: String,
    /// The wallet.
    wallet_id: WalletId,
    /// The payment provider's id of the payment.
    payment: String,
    /// What is disputed.
    amount_usd: Money,
    /// What is held of it.
    held_usd: Money,
    /// What the owner of the wallet owes because of it.
    receivable_usd: Money,
    /// `open`, `won` or `lost`.
    status: String,
    /// The customer's reason.
    reason: String,
    /// When it was opened.
    created_at: ApiTime,
    /// When it last changed.
    updated_at: ApiTime,
    /// The last event that changed it.
    position: Position,
    #[serde(skip)]
    opened: Position,
}

impl Dispute {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            id: row.try_get("dispute")?,
            wallet_id: WalletId(row.try_get("wallet_id")?),
            payment: row.try_get("payment")?,
            amount_usd: row.money("amount")?,
            held_usd: row.money("held")?,
            receivable_usd: row.money("receivable")?,
            status: row.try_get("status")?,
            reason: row.try_get("reason")?,
            created_at: ApiTime(row.time("opened_at")?),
            updated_at: ApiTime(row.time("updated_at")?),
            position: Position(row.try_get("position")?),
            opened: Position(row.try_get("opened_position")?),
        })
    }
}

/// A page of disputes, newest first.
#[derive(Serialize, ToSchema)]
pub(crate) struct Disputes {
    /// The disputes.
    items: Vec<Dispute>,
    /// Where the next page begins; absent at the end.
    #[serde(skip_serializing_if = "Option::is_none")]
    next_cursor: Option<String>,
}

/// Which disputes to show.
pub(crate) struct WantedDisputes {
    page: Page<PositionCursor>,
    shard: ShardId,
    status: Option<DisputeStatus>,
}

impl FromGiven for WantedDisputes {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        let status = given.parse("status", "open, won or lost")?;
        Ok(Self { page: Page::take(given, 50)?, shard: given.shard()?, status })
    }
}

async fn disputes_of(snapshot: &Snapshot<'_>, wanted: &WantedDisputes) -> Result<Disputes, QueryError> {
    let status = wanted.status.as_ref().map(|status| status.0);
    let (shard, below, fetch) = (wanted.shard.0, wanted.page.below(), wanted.page.fetch());
    let rows = snapshot.rows(sql::DISPUTES, &[&shard, &status, &below, &fetch]).await?;
    let mut items = each(&rows, Dispute::read)?;
    let next_cursor =
        wanted.page.cut(&mut items, |dispute| PositionCursor(dispute.opened)).map(|cursor| cursor.to_string());
    Ok(Disputes { items, next_cursor })
}

/// Disputes, newest first.
#[utoipa::path(get, path = "/v1/admin/disputes", tag = "payments", params(
    ("shard" = Option<ShardId>, Query, description = "The log, 0 unless given."),
    ("status" = Option<String>, Query, description = "`open`, `won` or `lost`; all unless given."),
    PageParams, AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Disputes), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn disputes(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<WantedDisputes>,
) -> Result<Answer<Disputes>, QueryError> {
    let mut client = state.client_at(&query.at, PAYMENTS).await?;
    let snapshot = Snapshot::begin(&mut client, PAYMENTS).await?;
    snapshot.answer(disputes_of(&snapshot, &query.own).await)
}

/// A payment of which our events and the payment provider's record say different things.
#[derive(Serialize, ToSchema)]
pub(crate) struct OpenPayment {
    /// The payment provider's id of the payment.
    payment: String,
    /// What our events credited.
    credited_usd: Money,
    /// What the provider's record says was paid.
    charged_usd: Money,
    /// What our events refunded.
    refunded_usd: Money,
    /// What the provider's record says went back.
    refunded_at_provider_usd: Money,
    /// What our events say was lost to disputes.
    lost_usd: Money,
    /// What the provider's record says is withheld for disputes.
    withheld_usd: Money,
    /// What the provider kept.
    fees_usd: Money,
    /// Since when it stands like this.
    updated_at: ApiTime,
}

impl OpenPayment {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            payment: row.try_get("payment")?,
            credited_usd: row.money("credited")?,
            charged_usd: row.money("charged")?,
            refunded_usd: row.money("refunded")?,
            refunded_at_provider_usd: row.money("refunded_at_provider")?,
            lost_usd: row.money("lost")?,
            withheld_usd: row.money("withheld")?,
            fees_usd: row.money("fees")?,
            updated_at: ApiTime(row.time("updated_at")?),
        })
    }
}

/// An account in which the two sources meet.
#[derive(Serialize, ToSchema)]
pub(crate) struct ClearingAccount {
    /// The four digits.
    #[schema(example = "1110")]
    code: String,
    /// The name.
    name: &'static str,
    /// Debits minus credits.
    balance_usd: Total,
}

impl ClearingAccount {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let code: String = row.try_get("code")?;
        let known = AccountCode::ALL.iter().find(|known| known.digits() == code);
        let name = known.ok_or(QueryError::Foreign("account.account"))?.name();
        Ok(Self { code, name, balance_usd: row.total("balance")? })
    }
}

/// Our events beside the payment provider's own record.
#[derive(Serialize, ToSchema)]
pub(crate) struct Clearing {
    /// The position per shard that it is as of.
    #[schema(value_type = std::collections::BTreeMap<String, i64>)]
    position: AsOf,
    /// Do both sources agree on every payment?
    clear: bool,
    /// The accounts: 1010 is the provider's balance, 1110 and 2030 are zero when both sources have told everything.
    accounts: Vec<ClearingAccount>,
    /// Payments on which they do not agree, oldest first, at most 200.
    open: Vec<OpenPayment>,
}

async fn clearing_of(snapshot: &Snapshot<'_>) -> Result<Clearing, QueryError> {
    let open = each(&snapshot.rows(sql::CLEARING, &[&MOST_OPEN]).await?, OpenPayment::read)?;
    let accounts = each(&snapshot.rows(sql::CLEARING_ACCOUNTS, &[]).await?, ClearingAccount::read)?;
    Ok(Clearing { position: snapshot.as_of(), clear: open.is_empty(), accounts, open })
}

/// Do our events and the payment provider's own record agree?
#[utoipa::path(get, path = "/v1/admin/reconciliation/stripe", tag = "books", params(AtParams), security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Clearing), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn clearing(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<()>,
) -> Result<Answer<Clearing>, QueryError> {
    let mut client = state.client_at(&query.at, CLEARING).await?;
    let snapshot = Snapshot::begin(&mut client, CLEARING).await?;
    snapshot.answer(clearing_of(&snapshot).await)
}
