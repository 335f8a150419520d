//! Receivables that are given up, by two people.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId, idempotency_key};
use modelfaucet_schema::ids::{WalletId, WriteOffId};
use modelfaucet_schema::money::{Money, RequestMoney};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::values::{Text, path_id};
use super::{Api, Key, key_required};
use crate::domain::Command;

/// A receivable to give up.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ProposeWriteOff {
    /// The wallet whose owner owes it.
    wallet_id: WalletId,
    /// At most what is owed.
    amount_usd: RequestMoney,
    /// Why.
    reason: Text<1, 1000>,
}

/// A write-off.
#[derive(Serialize, ToSchema)]
pub(super) struct WriteOffReply {
    /// The write-off.
    id: WriteOffId,
    /// The wallet.
    wallet_id: WalletId,
    /// How much.
    amount_usd: Money,
    /// `proposed` or `written_off`.
    status: &'static str,
}

fn reply(event: &Event) -> Option<WriteOffReply> {
    match event {
        Event::WriteOffProposed(e) => {
            Some(WriteOffReply { id: e.write_off_id, wallet_id: e.wallet_id, amount_usd: e.amount, status: "proposed" })
        }
        Event::ReceivableWrittenOff(e) => Some(WriteOffReply {
            id: e.write_off_id,
            wallet_id: e.wallet_id,
            amount_usd: e.amount,
            status: "written_off",
        }),
        _ => None,
    }
}

/// Propose to give a receivable up.
#[utoipa::path(post, path = "/v1/admin/write-offs", tag = "payments", security(("bearer" = ["admin"])), request_body = ProposeWriteOff,
    params(("Idempotency-Key" = String, Header)), responses(
    (status = 201, description = "It waits for somebody else's approval", body = WriteOffReply),
    (status = "4XX", description = "wallet_not_found, write_off_too_large, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn propose(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<ProposeWriteOff>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let key = Key::new(idempotency_key(&headers)?.ok_or_else(key_required)?, "propose_write_off", "", &body);
    let command = Command::ProposeWriteOff {
        write_off_id: WriteOffId::generate(),
        wallet_id: body.wallet_id,
        amount: body.amount_usd.0,
        reason: body.reason.0.clone(),
    };
    let done = api.submit(&who, command, Some(key)).await?;
    let reply = reply(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::CREATED, &reply))
}

/// Approve a write-off.
///
/// Not by who proposed it.
#[utoipa::path(post, path = "/v1/admin/write-offs/{write_off_id}/approve", tag = "payments", security(("bearer" = ["admin"])),
    params(("write_off_id" = WriteOffId, Path)), responses(
    (status = 200, description = "It is written off", body = WriteOffReply),
    (status = "4XX", description = "same_actor, write_off_not_found, write_off_too_large", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn approve(
    State(api): State<Api>,
    Path(write_off_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let id: WriteOffId = path_id(&write_off_id, "write-off id")?;
    let own_key = format!("write-off:{id}:approve");
    let key = Key::new(&own_key, "approve_write_off", &own_key, &());
    let done = api.submit(&who, Command::ApproveWriteOff { write_off_id: id }, Some(key)).await?;
    let reply = reply(&done.recorded().event).ok_or_else(|| done.unexpected())?;
    Ok(done.answer(StatusCode::OK, &reply))
}
