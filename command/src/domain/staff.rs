//! Tokens of the people who run the ledger.

use modelfaucet_schema::event::{Event, StaffTokenIssued, StaffTokenRevoked};
use modelfaucet_schema::ids::TokenId;
use modelfaucet_schema::staff::Power;

use super::decide::Context;
use super::{Caller, Command, Rejection};

/// Only the root issues: whoever could make a second token could be the second person that some acts take.
pub(super) fn issue(context: Context<'_>, command: &Command) -> Result<Vec<Event>, Rejection> {
    let Command::IssueStaffToken { token_id, name, role, token_hash, token_prefix, expires_at } = command else {
        return Err(Rejection::Forbidden);
    };
    if !matches!(context.caller, Caller::Admin | Caller::Operator) {
        return Err(Rejection::RootOnly);
    }
    if context.state.staff.contains(token_id) || context.state.tokens.contains(token_id) {
        return Err(Rejection::AlreadyExists);
    }
    let issued = StaffTokenIssued {
        token_id: *token_id,
        name: name.clone(),
        role: *role,
        token_hash: *token_hash,
        token_prefix: token_prefix.clone(),
        expires_at: *expires_at,
    };
    Ok(vec![issued.into()])
}

/// Administrators revoke any token, everybody their own.
pub(super) fn revoke(context: Context<'_>, token_id: TokenId) -> Result<Vec<Event>, Rejection> {
    if !matches!(context.caller, Caller::Staff(_, own) if own == token_id) {
        context.require(Power::Administer)?;
    }
    if !context.state.staff.contains(&token_id) {
        return Err(Rejection::TokenNotFound);
    }
    Ok(vec![StaffTokenRevoked { token_id }.into()])
}
