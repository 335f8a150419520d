//! Plans of compensating commands. Carrying one out needs two people; the plan itself stays outside, the log keeps its digest.

use modelfaucet_schema::event::{Event, RepairApproved, RepairProposed};
use modelfaucet_schema::ids::RepairId;

use super::Rejection;
use super::decide::Context;

pub(super) fn propose(
    context: Context<'_>,
    repair_id: RepairId,
    digest: &str,
    steps: u32,
    reason: &str,
) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    if context.state.repairs.contains(&repair_id) {
        return Err(Rejection::AlreadyExists);
    }
    Ok(vec![RepairProposed { repair_id, digest: digest.to_owned(), steps, reason: reason.to_owned() }.into()])
}

pub(super) fn approve(context: Context<'_>, repair_id: RepairId) -> Result<Vec<Event>, Rejection> {
    context.require_admin()?;
    let repair = context.state.repairs.get(&repair_id).ok_or(Rejection::RepairNotFound)?;
    context.require_another(&repair.proposed_by)?;
    if repair.approved {
        return Err(Rejection::RepairClosed);
    }
    Ok(vec![RepairApproved { repair_id, digest: repair.digest.to_string() }.into()])
}
