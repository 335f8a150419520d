//! Sessions: opened for a user of an app, ended by revocation or by time.

use std::time::Duration;

use modelfaucet_schema::event::{Event, FreezeScope, SessionExpired, SessionOpened, SessionRevoked, WalletOpened};
use modelfaucet_schema::ids::SessionId;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::staff::Power;

use super::decide::Context;
use super::{Caller, Command, Rejection};

/// The longest life of a session: 30 days.
const MAX_TTL: Duration = Duration::from_secs(30 * 24 * 3_600);

pub(super) fn open(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::OpenSession { session_id, wallet_id, user_id, app_id, user_hash, feature_key, token_hash, ttl } =
        command
    else {
        return Err(Rejection::Forbidden);
    };
    let app = context.state.apps.get(app_id).filter(|app| app.is_active()).ok_or(Rejection::InvalidApp)?;
    match context.caller {
        Caller::Public if !app.opens_publicly() => return Err(Rejection::ServerSessionsOnly),
        Caller::Public => {}
        Caller::Session(_) | Caller::Gateway(_) => return Err(Rejection::Forbidden),
        _ => context.require_developer(app.developer_id, Rejection::InvalidApp)?,
    }
    if let Some(key) = feature_key
        && !context.state.features.contains(&(*app_id, key.clone()))
    {
        return Err(Rejection::FeatureNotFound);
    }
    if ttl.is_zero() || *ttl > MAX_TTL {
        return Err(Rejection::InvalidDeadline);
    }
    let known =
        context.state.users.get(&(*app_id, *user_hash)).and_then(|id| Some((*id, context.state.wallets.get(id)?)));
    context.require_not_frozen(&[
        Some(FreezeScope::App(*app_id)),
        Some(FreezeScope::Developer(app.developer_id)),
        known.map(|(id, _)| FreezeScope::Wallet(id)),
    ])?;
    // A wallet opened a second time would lose its balance.
    if context.state.sessions.contains(session_id) || (known.is_none() && context.state.wallets.contains(wallet_id)) {
        return Err(Rejection::AlreadyExists);
    }
    let mut events = Vec::with_capacity(2);
    let (wallet_id, user_id) = known.map_or((*wallet_id, *user_id), |(id, wallet)| (id, wallet.user_id));
    if known.is_none() {
        events.push(
            WalletOpened { wallet_id, app_id: *app_id, user_id, user_hash: *user_hash, floor: Money::ZERO }.into(),
        );
    }
    events.push(
        SessionOpened {
            session_id: *session_id,
            app_id: *app_id,
            user_id,
            wallet_id,
            feature_key: feature_key.clone(),
            token_hash: *token_hash,
            expires_at: context.at.plus(*ttl),
            balance: known.map(|(_, wallet)| wallet.balance).unwrap_or_default(),
        }
        .into(),
    );
    Ok(events)
}

pub(super) fn revoke(context: Context<'_>, session_id: SessionId) -> Result<Vec<Event>, Rejection> {
    let session = context.state.sessions.get(&session_id).ok_or(Rejection::SessionNotFound)?;
    let app = context.state.apps.get(&session.app_id).ok_or(Rejection::SessionNotFound)?;
    match context.caller {
        Caller::Session(own) if own == session_id => {}
        _ => context.require_developer_or(Power::Operate, app.developer_id, Rejection::SessionNotFound)?,
    }
    Ok(vec![SessionRevoked { session_id }.into()])
}

pub(super) fn expire(context: Context<'_>, session_id: SessionId) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let session = context.state.sessions.get(&session_id).ok_or(Rejection::SessionNotFound)?;
    if session.expires_at > context.at {
        return Err(Rejection::InvalidDeadline);
    }
    Ok(vec![SessionExpired { session_id }.into()])
}
