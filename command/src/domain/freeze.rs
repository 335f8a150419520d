//! Kill switches.

use modelfaucet_schema::event::{Event, FreezeScope, Frozen, Thawed};
use modelfaucet_schema::staff::Power;

use super::Rejection;
use super::decide::Context;

pub(super) fn freeze(context: Context<'_>, scope: FreezeScope, reason: &str) -> Result<Vec<Event>, Rejection> {
    context.require(Power::Operate)?;
    let state = context.state;
    match scope {
        FreezeScope::App(id) if !state.apps.contains(&id) => return Err(Rejection::AppNotFound),
        FreezeScope::Developer(id) if !state.developers.contains(&id) => return Err(Rejection::DeveloperNotFound),
        FreezeScope::Session(id) if !state.sessions.contains(&id) => return Err(Rejection::SessionNotFound),
        FreezeScope::Wallet(id) if !state.wallets.contains(&id) => return Err(Rejection::WalletNotFound),
        _ => {}
    }
    if state.freezes.contains(&scope) {
        return Err(Rejection::AlreadyFrozen);
    }
    Ok(vec![Frozen { scope, reason: reason.to_owned() }.into()])
}

pub(super) fn thaw(context: Context<'_>, scope: FreezeScope, reason: &str) -> Result<Vec<Event>, Rejection> {
    context.require(Power::Operate)?;
    if !context.state.freezes.contains(&scope) {
        return Err(Rejection::NotFrozen);
    }
    Ok(vec![Thawed { scope, reason: reason.to_owned() }.into()])
}
