//! Who asks. A token is looked up by its SHA-256; what it may see follows from the row, and from nothing in the request.

use std::marker::PhantomData;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use modelfaucet_schema::event::Actor;
use modelfaucet_schema::http::{ApiError, bearer};
use modelfaucet_schema::ids::{DeveloperId, ShardId, TokenId, UserId, WalletId};
use modelfaucet_schema::log::from_system_time;
use modelfaucet_schema::staff::StaffRole;
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::token::{Scope, TokenHash, TokenKind};
use subtle::ConstantTimeEq as _;
use tokio_postgres::Row;

use crate::error::QueryError;
use crate::sql;
use crate::state::QueryState;

/// Somebody who runs the ledger: the holder of `ADMIN_TOKEN`, or of a staff token of any role, since all of them may read.
pub(crate) struct Admin {
    /// Who exactly.
    #[expect(dead_code, reason = "reads of exports will name it")]
    pub(crate) actor: Actor,
}

/// A developer whose token has the scope `S`, or somebody who runs the ledger.
pub(crate) struct Developer<S> {
    /// Whose things may be seen; `None` for those who run the ledger, who see all.
    pub(crate) tenant: Option<DeveloperId>,
    scope: PhantomData<S>,
}

/// A user's live session.
pub(crate) struct Session {
    pub(crate) shard: ShardId,
    pub(crate) wallet: WalletId,
    pub(crate) user: UserId,
}

/// A scope as a type.
pub(crate) trait Needs {
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident),+) => {$(
        pub(crate) struct $name;

        impl Needs for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+};
}

needs!(OperationsRead, AppsRead, FeaturesRead, TokensRead, ProviderKeysRead);

fn unauthorized(code: &'static str, message: &'static str) -> ApiError {
    ApiError::new(401, code, message)
}

fn token(parts: &Parts) -> Option<&str> {
    bearer(&parts.headers)
}

fn is_admin(state: &QueryState, token: &str) -> bool {
    state.options().admin_token.matches(&TokenHash::of_text(token))
}

/// Who of the house this is: the holder of `ADMIN_TOKEN`, or of a staff token that may be used.
async fn staff(state: &QueryState, token: &str) -> Result<Option<Actor>, QueryError> {
    if is_admin(state, token) {
        return Ok(Some(Actor::Admin));
    }
    let Some(row) = find(state, TokenKind::Staff, token, sql::STAFF_TOKEN, &["staff"]).await? else { return Ok(None) };
    if !is_usable(&row)? {
        return Ok(None);
    }
    let role: StaffRole =
        row.try_get::<_, &str>("role")?.parse().map_err(|_| QueryError::Foreign("staff_token.role"))?;
    Ok(Some(Actor::Staff(role, TokenId(row.try_get("token_id")?))))
}

/// A token that was neither revoked nor has ended.
fn is_usable(row: &Row) -> Result<bool, QueryError> {
    let expires_at: Option<std::time::SystemTime> = row.try_get("expires_at")?;
    let has_ended = expires_at.is_some_and(|end| from_system_time(end) <= Timestamp::now());
    Ok(!has_ended && row.try_get::<_, &str>("status")? == "active")
}

impl FromRequestParts<QueryState> for Admin {
    type Rejection = QueryError;

    async fn from_request_parts(parts: &mut Parts, state: &QueryState) -> Result<Self, QueryError> {
        let invalid = || unauthorized("invalid_session", "Missing or invalid admin token.");
        let token = token(parts).ok_or_else(invalid)?;
        Ok(Self { actor: staff(state, token).await?.ok_or_else(invalid)? })
    }
}

impl<S: Needs + Send> FromRequestParts<QueryState> for Developer<S> {
    type Rejection = QueryError;

    async fn from_request_parts(parts: &mut Parts, state: &QueryState) -> Result<Self, QueryError> {
        let invalid = || unauthorized("invalid_session", "Missing or invalid developer token.");
        let token = token(parts).ok_or_else(invalid)?;
        if staff(state, token).await?.is_some() {
            return Ok(Self { tenant: None, scope: PhantomData });
        }
        let row = find(state, TokenKind::Developer, token, sql::DEVELOPER_TOKEN, &["catalogue"])
            .await?
            .ok_or_else(invalid)?;
        if !is_usable(&row)? {
            return Err(invalid().into());
        }
        let scopes: Vec<&str> =
            serde_json::from_str(row.try_get("scopes")?).map_err(|_| QueryError::Foreign("developer_token.scopes"))?;
        if !scopes.contains(&S::SCOPE.text()) {
            let message = format!("Developer token is missing required scope: {}.", S::SCOPE);
            return Err(ApiError::new(403, "forbidden", message).into());
        }
        Ok(Self { tenant: Some(DeveloperId(row.try_get("developer_id")?)), scope: PhantomData })
    }
}

impl FromRequestParts<QueryState> for Session {
    type Rejection = QueryError;

    async fn from_request_parts(parts: &mut Parts, state: &QueryState) -> Result<Self, QueryError> {
        let token = token(parts).ok_or_else(|| unauthorized("invalid_session", "Missing bearer session token."))?;
        let invalid = || unauthorized("invalid_session", "The session token is invalid.");
        let projections = ["sessions", "catalogue"];
        let row = find(state, TokenKind::Session, token, sql::SESSION, &projections).await?.ok_or_else(invalid)?;
        let (status, app): (&str, &str) = (row.try_get("status")?, row.try_get("app_status")?);
        if status == "revoked" || app != "active" {
            return Err(invalid().into());
        }
        if status != "open" || from_system_time(row.try_get("expires_at")?) <= Timestamp::now() {
            return Err(unauthorized("expired_session", "The session token is expired.").into());
        }
        Ok(Self {
            shard: ShardId(row.try_get("shard")?),
            wallet: WalletId(row.try_get("wallet_id")?),
            user: UserId(row.try_get("user_id")?),
        })
    }
}

/// The row of a token. A token that is unknown may be younger than the read tables: then they get the chance to catch up with
/// what the log has now, so that a session can be used as soon as its opening was acknowledged.
async fn find(
    state: &QueryState,
    kind: TokenKind,
    token: &str,
    sql: &'static str,
    projections: &[&str],
) -> Result<Option<Row>, QueryError> {
    if !token.starts_with(kind.prefix()) {
        return Ok(None);
    }
    let hash = TokenHash::of_text(token);
    if let Some(row) = look_up(state, &hash, sql).await? {
        return Ok(Some(row));
    }
    state.progress().catch_up(state, projections).await?;
    look_up(state, &hash, sql).await
}

async fn look_up(state: &QueryState, hash: &TokenHash, sql: &'static str) -> Result<Option<Row>, QueryError> {
    let client = state.client().await?;
    let statement = client.prepare_cached(sql).await?;
    let rows = client.query(&statement, &[&hash.as_bytes().as_slice()]).await?;
    let is_same =
        |row: &Row| row.try_get::<_, &[u8]>("token_hash").is_ok_and(|stored| stored.ct_eq(hash.as_bytes()).into());
    Ok(rows.into_iter().find(is_same))
}
