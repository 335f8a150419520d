//! The open holds of gateways, as of the last committed event: for a gateway that starts again, and for those that outlive another.

use std::collections::HashMap;

use modelfaucet_command::directory::Follower;
use modelfaucet_command::domain::State;
use modelfaucet_gateway::LeftHold;
use modelfaucet_schema::event::Event;
use modelfaucet_schema::ids::{GatewayId, HoldId};
use parking_lot::Mutex;

/// The holds.
#[derive(Debug, Default)]
pub(crate) struct OpenHolds(Mutex<HashMap<HoldId, (GatewayId, LeftHold)>>);

impl OpenHolds {
    /// Those of one gateway.
    pub(crate) fn of(&self, gateway: GatewayId) -> Vec<LeftHold> {
        self.0.lock().values().filter(|(owner, _)| *owner == gateway).map(|(_, hold)| hold.clone()).collect()
    }

    /// By gateway.
    pub(crate) fn by_gateway(&self) -> HashMap<GatewayId, Vec<LeftHold>> {
        let mut holds: HashMap<_, Vec<_>> = HashMap::new();
        for (gateway, hold) in self.0.lock().values() {
            holds.entry(*gateway).or_default().push(hold.clone());
        }
        holds
    }

    fn forget(&self, hold: HoldId) {
        self.0.lock().remove(&hold);
    }
}

impl Follower for OpenHolds {
    fn reset(&self, state: &State) {
        let mut holds = self.0.lock();
        holds.clear();
        for (id, hold) in state.holds.iter() {
            let (Some(gateway), Some(session_id), Some(sent)) = (hold.gateway, hold.call.session_id, &hold.sent) else {
                continue;
            };
            let left = LeftHold {
                hold_id: *id,
                session_id,
                call: hold.call.as_ref().clone(),
                rate_card_id: hold.rate_card_id,
                credential: sent.credential,
                input: sent.input,
                mark: sent.mark,
            };
            holds.insert(*id, (gateway, left));
        }
    }

    fn take_in(&self, event: &Event) {
        match event {
            Event::HoldPlaced(placed) => {
                if let (Some(dispatch), Some(hold)) = (&placed.dispatch, LeftHold::of(placed)) {
                    self.0.lock().insert(placed.hold_id, (dispatch.gateway, hold));
                }
            }
            Event::AttemptStarted(event) => {
                if let Some((_, hold)) = self.0.lock().get_mut(&event.hold_id) {
                    hold.start(event);
                }
            }
            Event::AttemptProgressed(event) => {
                if let Some((_, hold)) = self.0.lock().get_mut(&event.hold_id) {
                    hold.mark = Some(event.usage);
                }
            }
            Event::HoldCaptured(event) => self.forget(event.hold_id),
            Event::HoldReleased(event) => self.forget(event.hold_id),
            Event::HoldExpired(event) => self.forget(event.hold_id),
            _ => {}
        }
    }
}
