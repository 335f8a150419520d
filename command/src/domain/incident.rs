//! Incidents that are over. Each has one closing that counts; another one has to name it.

use modelfaucet_schema::event::{Event, IncidentClosed};
use modelfaucet_schema::ids::Position;
use modelfaucet_schema::staff::Power;

use super::Rejection;
use super::decide::Context;

pub(super) fn close(context: Context<'_>, closing: &IncidentClosed) -> Result<Vec<Event>, Rejection> {
    context.require(Power::Operate)?;
    if closing.first <= Position::START || closing.last < closing.first {
        return Err(Rejection::InvalidRange);
    }
    // What nobody has seen yet proves nothing.
    if closing.last > context.head {
        return Err(Rejection::RangeBeyondLog { head: context.head });
    }
    match (context.state.incidents.get(&closing.name), closing.supersedes) {
        (Some(known), named) if named != Some(*known) => Err(Rejection::IncidentClosed { position: *known }),
        (None, Some(_)) => Err(Rejection::IncidentNotFound),
        _ => Ok(vec![closing.clone().into()]),
    }
}
