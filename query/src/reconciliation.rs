//! Do three independent opinions agree on every wallet: the writer's stated balance, the postings, the fold of business amounts?

use std::str::FromStr;

use axum::extract::State;
use axum::response::Response;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{UserId, WalletId};
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::{ApiTime, Timestamp};
use serde::Serialize;
use tokio_postgres::Row;
use utoipa::ToSchema;

use crate::auth::Admin;
use crate::error::QueryError;
use crate::export::{Export, Format};
use crate::params::{AtParams, FromGiven, Given, Invalid, Query};
use crate::progress::AsOf;
use crate::sql;
use crate::state::QueryState;

/// What does not agree about a wallet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Cause {
    /// The projected balance is not the sum of the postings.
    Ledger,
    /// The projected balance is not the fold of the business amounts.
    Fold,
    /// The projected promotional part is not the sum of its postings.
    Promo,
    /// The projected holds are not the fold of holds placed and ended.
    Held,
    /// What is available is below the floor.
    Floor,
    /// Only some of the projections know the wallet.
    Missing,
}

/// The opinions on one wallet, in units; `None` where an opinion is missing.
#[derive(Clone, Copy, Debug, Default)]
struct Opinions {
    floor: Option<i64>,
    posted: Option<i64>,
    promo: Option<i64>,
    held: Option<i64>,
    ledger_posted: i64,
    ledger_promo: i64,
    fold_posted: Option<i64>,
    fold_held: Option<i64>,
}

impl Opinions {
    fn read(row: &Row) -> Result<Self, QueryError> {
        Ok(Self {
            floor: row.try_get("floor")?,
            posted: row.try_get("posted")?,
            promo: row.try_get("promo")?,
            held: row.try_get("held")?,
            ledger_posted: row.try_get("ledger_posted")?,
            ledger_promo: row.try_get("ledger_promo")?,
            fold_posted: row.try_get("fold_posted")?,
            fold_held: row.try_get("fold_held")?,
        })
    }

    /// Everything that does not agree.
    fn causes(&self) -> Vec<Cause> {
        let available = self.posted.unwrap_or_default().checked_sub(self.held.unwrap_or_default());
        let checks = [
            (self.posted.is_some() && self.fold_posted.is_some(), Cause::Missing),
            (self.posted.unwrap_or_default() == self.ledger_posted, Cause::Ledger),
            (self.posted.unwrap_or_default() == self.fold_posted.unwrap_or_default(), Cause::Fold),
            (self.promo.unwrap_or_default() == self.ledger_promo, Cause::Promo),
            (self.held.unwrap_or_default() == self.fold_held.unwrap_or_default(), Cause::Held),
            (available.is_some_and(|available| available >= self.floor.unwrap_or_default()), Cause::Floor),
        ];
        checks.into_iter().filter(|(agrees, _)| !agrees).map(|(_, cause)| cause).collect()
    }
}

/// A wallet, balanced or not.
#[derive(Serialize, ToSchema)]
pub(crate) struct ReconciliationItem {
    /// The wallet.
    wallet_id: WalletId,
    /// Always `end_user`.
    owner_scope: &'static str,
    /// The user; null if the wallet is not in the projection of wallets.
    owner_id: Option<UserId>,
    /// The projected balance.
    wallet_balance_usd: Money,
    /// The sum of the postings to the wallet's accounts.
    ledger_balance_usd: Money,
    /// The fold of the business amounts, independent of both.
    fold_balance_usd: Money,
    /// Projected balance minus postings.
    delta_usd: Money,
    /// `balanced` or `mismatch`.
    #[schema(example = "balanced")]
    status: &'static str,
    /// What does not agree; absent if everything does.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    causes: Vec<Cause>,
}

impl ReconciliationItem {
    fn read(row: &Row) -> Result<Self, QueryError> {
        let opinions = Opinions::read(row)?;
        let causes = opinions.causes();
        let wallet = opinions.posted.unwrap_or_default();
        Ok(Self {
            wallet_id: WalletId(row.try_get("wallet_id")?),
            owner_scope: "end_user",
            owner_id: row.try_get::<_, Option<_>>("user_id")?.map(UserId),
            wallet_balance_usd: Money::from_units(wallet),
            ledger_balance_usd: Money::from_units(opinions.ledger_posted),
            fold_balance_usd: Money::from_units(opinions.fold_posted.unwrap_or_default()),
            delta_usd: Money::from_units(wallet.saturating_sub(opinions.ledger_posted)),
            status: if causes.is_empty() { "balanced" } else { "mismatch" },
            causes,
        })
    }
}

/// How many wallets there are.
#[derive(Default, Serialize, ToSchema)]
pub(crate) struct Summary {
    /// All.
    wallet_count: u64,
    /// Those on which all agree.
    balanced_count: u64,
    /// The others.
    mismatch_count: u64,
}

/// The reconciliation of all wallets. Streamed: the summary comes last, when everything has been counted.
#[derive(ToSchema)]
#[expect(dead_code, reason = "written piece by piece; this describes the whole")]
pub(crate) struct Reconciliation {
    /// When it was made.
    generated_at: ApiTime,
    /// The position per shard at which everything was compared.
    #[schema(value_type = std::collections::BTreeMap<String, i64>)]
    position: AsOf,
    /// Wallets in the order of their opening.
    items: Vec<ReconciliationItem>,
    /// Counts over all wallets, shown or not.
    summary: Summary,
}

/// Writes a [`Reconciliation`].
struct Report {
    mismatches_only: bool,
    summary: Summary,
    shown: u64,
}

fn json(value: &impl Serialize, out: &mut Vec<u8>) -> Result<(), QueryError> {
    serde_json::to_writer(out, value).map_err(|_| QueryError::Foreign("a reconciled wallet"))
}

impl Report {
    fn item(&mut self, item: &ReconciliationItem, out: &mut Vec<u8>) -> Result<(), QueryError> {
        let is_balanced = item.causes.is_empty();
        self.summary.wallet_count += 1;
        *(if is_balanced { &mut self.summary.balanced_count } else { &mut self.summary.mismatch_count }) += 1;
        if is_balanced && self.mismatches_only {
            return Ok(());
        }
        if self.shown > 0 {
            out.push(b',');
        }
        self.shown += 1;
        json(item, out)
    }
}

impl Format for Report {
    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn begin(&mut self, as_of: &AsOf) -> Result<Vec<u8>, QueryError> {
        let mut out = b"{\"generated_at\":".to_vec();
        json(&ApiTime(Timestamp::now()), &mut out)?;
        out.extend_from_slice(b",\"position\":");
        json(as_of, &mut out)?;
        out.extend_from_slice(b",\"items\":[");
        Ok(out)
    }

    fn rows(&mut self, rows: &[Row]) -> Result<Vec<u8>, QueryError> {
        let mut out = Vec::new();
        rows.iter().try_for_each(|row| self.item(&ReconciliationItem::read(row)?, &mut out))?;
        Ok(out)
    }

    fn end(&mut self) -> Result<Vec<u8>, QueryError> {
        let mut out = b"],\"summary\":".to_vec();
        json(&self.summary, &mut out)?;
        out.push(b'}');
        Ok(out)
    }
}

struct Flag(bool);

impl FromStr for Flag {
    type Err = Invalid;

    fn from_str(text: &str) -> Result<Self, Invalid> {
        text.parse().map(Self).map_err(|_| Invalid)
    }
}

/// Which wallets to show.
pub(crate) struct Wanted {
    mismatches_only: bool,
}

impl FromGiven for Wanted {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        let flag = given.parse("mismatches_only", "true or false")?;
        Ok(Self { mismatches_only: flag.is_some_and(|Flag(flag)| flag) })
    }
}

/// Compares every wallet's projected balance with the sum of its postings and with an independent fold, at one position.
#[utoipa::path(get, path = "/v1/admin/reconciliation/ledger", tag = "books", params(
    ("mismatches_only" = Option<bool>, Query, description = "Show only wallets on which the opinions differ."), AtParams),
    security(("bearer" = ["auditor"])), responses(
    (status = 200, body = Reconciliation), (status = "4XX", body = ErrorBody), (status = "5XX", body = ErrorBody)))]
pub(crate) async fn ledger(
    State(state): State<QueryState>,
    _: Admin,
    query: Query<Wanted>,
) -> Result<Response, QueryError> {
    let export = Export {
        projections: &["wallets", "journal", "reconciliation"],
        level: true,
        sql: sql::RECONCILIATION,
        params: Vec::new(),
        format: Report { mismatches_only: query.own.mismatches_only, summary: Summary::default(), shown: 0 },
    };
    export.answer(&state, &query.at).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn agreed() -> Opinions {
        Opinions {
            floor: Some(0),
            posted: Some(10),
            promo: Some(4),
            held: Some(3),
            ledger_posted: 10,
            ledger_promo: 4,
            fold_posted: Some(10),
            fold_held: Some(3),
        }
    }

    #[test]
    fn every_disagreement_has_its_cause() {
        let cases: [(Opinions, &[Cause]); 8] = [
            (agreed(), &[]),
            (Opinions { floor: Some(7), ..agreed() }, &[]),
            (Opinions { ledger_posted: 11, ..agreed() }, &[Cause::Ledger]),
            (Opinions { fold_posted: Some(9), ..agreed() }, &[Cause::Fold]),
            (Opinions { ledger_promo: 0, ..agreed() }, &[Cause::Promo]),
            (Opinions { fold_held: Some(0), ..agreed() }, &[Cause::Held]),
            (Opinions { floor: Some(8), ..agreed() }, &[Cause::Floor]),
            (Opinions { ledger_posted: 5, ..Opinions::default() }, &[Cause::Missing, Cause::Ledger]),
        ];
        for (opinions, causes) in cases {
            assert_eq!(opinions.causes(), causes, "{opinions:?}");
        }
    }
}
