//! What administrators do to wallets, and the kill switches.

use axum::extract::{Path, State};
use axum::response::Response;
use http::{HeaderMap, StatusCode};
use modelfaucet_schema::account::Name;
use modelfaucet_schema::error::ErrorBody;
use modelfaucet_schema::event::{AdjustmentKind, Direction, DisconnectPolicy, Endpoint, Event, FreezeScope, Route};
use modelfaucet_schema::http::{ApiError, JsonBody, RequestId, idempotency_key};
use modelfaucet_schema::ids::{AdjustmentId, Position, PromoId, UserId, WalletId};
use modelfaucet_schema::money::{Money, RequestMoney};
use modelfaucet_schema::staff::Power;
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::reply::{Done, WalletFigures};
use super::values::{Text, path_id};
use super::{Api, Key, key_required};
use crate::domain::{Command, ExpectedBalance};

/// How much.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct TestCredit {
    /// Above zero.
    amount_usd: RequestMoney,
}

/// A wallet as its owner sees it.
#[derive(Serialize, ToSchema)]
pub(super) struct UserWalletReply {
    /// The wallet.
    id: WalletId,
    /// Always `end_user`.
    #[schema(example = "end_user")]
    owner_scope: &'static str,
    /// The user.
    #[serde(skip_serializing_if = "Option::is_none")]
    owner_id: Option<UserId>,
    /// Posted: paid and promotional credit, open holds included.
    balance_usd: Money,
    /// What can still be spent.
    available_usd: Money,
    /// The sum of the open holds.
    held_usd: Money,
}

/// In the words of ModelFaucet 1.2.
fn wallet_not_found(error: ApiError) -> ApiError {
    error.renamed("wallet_not_found", "invalid_request", "Wallet was not found.")
}

/// Put test credit into a wallet.
#[utoipa::path(post, path = "/v1/admin/wallets/{wallet_id}/credit-test-balance", tag = "wallets", request_body = TestCredit,
    params(("wallet_id" = WalletId, Path), ("Idempotency-Key" = Option<String>, Header)), security(("bearer" = ["admin"])),
    responses(
    (status = 200, description = "The wallet", body = UserWalletReply),
    (status = "4XX", description = "wallet_not_found, invalid_request, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn credit_test_balance(
    State(api): State<Api>,
    Path(wallet_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<TestCredit>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&wallet_id, "wallet id")?;
    // ModelFaucet 1.2 takes no key here, so none is demanded.
    let key = idempotency_key(&headers)?.map(|text| Key::new(text, "credit_test_balance", &wallet_id, &body));
    let done = api.submit(&who, Command::GrantTestCredit { wallet_id: id, amount: body.amount_usd.0 }, key).await;
    let done = done.map_err(wallet_not_found)?;
    let Event::TestCreditGranted(event) = &done.recorded().event else { return Err(done.unexpected()) };
    let reply = UserWalletReply {
        id: event.wallet_id,
        owner_scope: "end_user",
        owner_id: event.user_id,
        balance_usd: event.balance.posted,
        available_usd: event.balance.available(),
        held_usd: event.balance.held,
    };
    Ok(done.answer(StatusCode::OK, &reply))
}

/// Promotional credit.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct PromoCredit {
    /// Above zero.
    amount_usd: RequestMoney,
    /// What for.
    reason: Text<1, 1000>,
    /// When what is left of it expires; absent: never.
    #[serde(skip_serializing_if = "Option::is_none")]
    expires_at: Option<Timestamp>,
}

/// Give promotional credit.
///
/// It is spent before paid credit, what expires first first, and never paid out.
#[utoipa::path(post, path = "/v1/admin/wallets/{wallet_id}/promo-credits", tag = "wallets", request_body = PromoCredit,
    params(("wallet_id" = WalletId, Path), ("Idempotency-Key" = String, Header)), security(("bearer" = ["admin"])),
    responses(
    (status = 201, description = "The wallet", body = WalletFigures),
    (status = "4XX", description = "wallet_not_found, invalid_request, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn grant_promo(
    State(api): State<Api>,
    Path(wallet_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<PromoCredit>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&wallet_id, "wallet id")?;
    let key = Key::new(idempotency_key(&headers)?.ok_or_else(key_required)?, "grant_promo", &wallet_id, &body);
    let command = Command::GrantPromo {
        promo_id: PromoId::generate(),
        wallet_id: id,
        amount: body.amount_usd.0,
        reason: body.reason.0.clone(),
        expires_at: body.expires_at,
    };
    let done = api.submit(&who, command, Some(key)).await?;
    wallet_answer(&done, StatusCode::CREATED)
}

fn wallet_answer(done: &Done, status: StatusCode) -> Result<Response, ApiError> {
    let (wallet, balance) = done.recorded().event.balance().ok_or_else(|| done.unexpected())?;
    Ok(done.answer(status, &WalletFigures::new(wallet, balance)))
}

/// A credit or debit with its reason.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct AdjustWallet {
    /// What for; absent: `adjustment`.
    #[serde(default)]
    kind: AdjustmentKind,
    /// Into or out of the wallet.
    direction: Direction,
    /// Above zero.
    amount_usd: RequestMoney,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<Text<1, 1000>>,
    /// The key, where no header is sent.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<Text<8, 128>>,
    /// The figures that the wallet must have; absent: any. Compared in the moment of the adjustment.
    #[serde(skip_serializing_if = "Option::is_none")]
    expected: Option<ExpectedFigures>,
}

/// A wallet's figures as the caller knows them.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct ExpectedFigures {
    /// Posted: paid and promotional credit, open holds included. May be negative.
    balance_usd: Money,
    /// The sum of the open holds.
    held_usd: Money,
}

/// An adjustment.
#[derive(Serialize, ToSchema)]
pub(super) struct AdjustmentReply {
    /// The adjustment.
    id: AdjustmentId,
    /// The wallet.
    wallet_id: WalletId,
    /// What for.
    kind: AdjustmentKind,
    /// Into or out of the wallet.
    direction: Direction,
    /// How much.
    amount_usd: Money,
    /// Always `applied`.
    status: &'static str,
    /// Why.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// The key that it was sent under.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    /// The wallet's posted balance after it.
    wallet_balance_usd: Money,
}

/// Adjust a wallet.
///
/// A debit takes at most what is available and never promotional credit. Send a key: without one a repeat adjusts once more.
#[utoipa::path(post, path = "/v1/admin/wallets/{wallet_id}/adjustments", tag = "wallets", request_body = AdjustWallet,
    params(("wallet_id" = WalletId, Path), ("Idempotency-Key" = Option<String>, Header)), security(("bearer" = ["admin"])),
    responses(
    (status = 201, description = "The adjustment", body = AdjustmentReply),
    (status = "4XX", description = "wallet_not_found, insufficient_balance, in_flight_holds, balance_changed, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "frozen, overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn adjust(
    State(api): State<Api>,
    Path(wallet_id): Path<String>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<AdjustWallet>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let id = path_id(&wallet_id, "wallet id")?;
    let own_key = body.idempotency_key.clone();
    // ModelFaucet 1.2 demands no key here, so without one every repeat is an adjustment of its own.
    let text = idempotency_key(&headers)?.or(own_key.as_ref().map(|key| key.0.as_str()));
    let key = text.map(|text| Key::new(text, "adjust_wallet", &wallet_id, &body));
    let command = Command::AdjustWallet {
        adjustment_id: AdjustmentId::generate(),
        wallet_id: id,
        kind: body.kind,
        direction: body.direction,
        amount: body.amount_usd.0,
        reason: body.reason.as_ref().map(|reason| reason.0.clone()),
        expected: body
            .expected
            .as_ref()
            .map(|expected| ExpectedBalance { posted: expected.balance_usd, held: expected.held_usd }),
    };
    let done = api.submit(&who, command, key).await.map_err(wallet_not_found)?;
    let Event::WalletAdjusted(event) = &done.recorded().event else { return Err(done.unexpected()) };
    let reply = AdjustmentReply {
        id: event.adjustment_id,
        wallet_id: event.wallet_id,
        kind: event.kind,
        direction: event.direction,
        amount_usd: event.amount,
        status: "applied",
        reason: event.reason.clone(),
        idempotency_key: text.map(str::to_owned),
        wallet_balance_usd: event.balance.posted,
    };
    Ok(done.answer(StatusCode::CREATED, &reply))
}

/// A kill switch.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct FreezeRequest {
    /// What it stops, for example `{"kind":"app","id":"…"}`, `{"kind":"usage"}` or `{"kind":"everything"}`.
    scope: FreezeScope,
    /// Why.
    reason: Text<1, 1000>,
}

/// A kill switch that was turned.
#[derive(Serialize, ToSchema)]
pub(super) struct FreezeReply {
    /// What it stops.
    scope: FreezeScope,
    /// On or off.
    frozen: bool,
    /// Nothing of the frozen kind has a higher position until the thaw.
    position: Position,
}

/// Freeze.
///
/// Without a key a repeat is refused while the freeze lasts, and freezes again behind a thaw.
#[utoipa::path(post, path = "/v1/admin/freezes", tag = "freezes", request_body = FreezeRequest, security(("bearer" = ["operator"])),
    params(("Idempotency-Key" = Option<String>, Header)), responses(
    (status = 201, description = "Frozen", body = FreezeReply),
    (status = "4XX", description = "already_frozen, wallet_not_found, idempotency_key_reused, …", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn freeze(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<FreezeRequest>,
) -> Result<Response, ApiError> {
    let who = api.require_staff(&headers, request_id, Power::Operate).await?;
    let body = body.read().await?;
    let key = idempotency_key(&headers)?.map(|text| Key::new(text, "freeze", "", &body));
    let command = Command::Freeze { scope: body.scope, reason: body.reason.0.clone() };
    let done = api.submit(&who, command, key).await?;
    let reply = FreezeReply { scope: body.scope, frozen: true, position: done.recorded().position };
    Ok(done.answer(StatusCode::CREATED, &reply))
}

/// Thaw.
///
/// Only by somebody else than who froze.
#[utoipa::path(post, path = "/v1/admin/freezes/thaw", tag = "freezes", request_body = FreezeRequest, security(("bearer" = ["operator"])),
    params(("Idempotency-Key" = Option<String>, Header)), responses(
    (status = 200, description = "Thawed", body = FreezeReply),
    (status = "4XX", description = "not_frozen, same_actor, idempotency_key_reused", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn thaw(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<FreezeRequest>,
) -> Result<Response, ApiError> {
    let who = api.require_staff(&headers, request_id, Power::Operate).await?;
    let body = body.read().await?;
    let key = idempotency_key(&headers)?.map(|text| Key::new(text, "thaw", "", &body));
    let command = Command::Thaw { scope: body.scope, reason: body.reason.0.clone() };
    let done = api.submit(&who, command, key).await?;
    let reply = FreezeReply { scope: body.scope, frozen: false, position: done.recorded().position };
    Ok(done.answer(StatusCode::OK, &reply))
}

/// What happens upstream when a client leaves amid a call.
#[derive(Deserialize, Serialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(super) struct DisconnectPolicyRequest {
    /// The provider, as the rate card names it.
    #[schema(value_type = String)]
    provider: Name,
    /// What apps call.
    endpoint: Endpoint,
    /// Whose key is used.
    route: Route,
    /// What happens.
    policy: DisconnectPolicy,
    /// Why: what was measured.
    reason: Text<1, 1000>,
}

/// A policy that is set.
#[derive(Serialize, ToSchema)]
pub(super) struct DisconnectPolicyReply {
    /// The provider.
    #[schema(value_type = String)]
    provider: Name,
    /// What apps call.
    endpoint: Endpoint,
    /// Whose key is used.
    route: Route,
    /// What happens.
    policy: DisconnectPolicy,
    /// The version of the table that calls are stamped with from now on.
    version: u32,
}

/// Set a disconnect policy.
///
/// For calls that begin from now on. `drain` reads and charges the whole answer; `bill_to_here` cuts it and charges what was made so
/// far; `cancel` charges nothing as long as no content has reached the client.
#[utoipa::path(post, path = "/v1/admin/disconnect-policies", tag = "gateway", security(("bearer" = ["admin"])), request_body = DisconnectPolicyRequest, responses(
    (status = 200, description = "Set", body = DisconnectPolicyReply),
    (status = "4XX", description = "invalid_request", body = ErrorBody),
    (status = "5XX", description = "overloaded, ledger_unavailable, in_doubt", body = ErrorBody)))]
pub(super) async fn set_disconnect_policy(
    State(api): State<Api>,
    headers: HeaderMap,
    request_id: RequestId,
    body: JsonBody<DisconnectPolicyRequest>,
) -> Result<Response, ApiError> {
    let who = api.require_admin(&headers, request_id).await?;
    let body = body.read().await?;
    let DisconnectPolicyRequest { provider, endpoint, route, policy, reason } = body;
    let command = Command::SetDisconnectPolicy { provider, endpoint, route, policy, reason: reason.0 };
    let done = api.submit(&who, command, None).await?;
    let Event::DisconnectPolicySet(set) = &done.recorded().event else { return Err(done.unexpected()) };
    let reply = DisconnectPolicyReply {
        provider: set.provider.clone(),
        endpoint: set.endpoint,
        route: set.route,
        policy: set.policy,
        version: set.version,
    };
    Ok(done.answer(StatusCode::OK, &reply))
}
