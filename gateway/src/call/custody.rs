//! What outlives a panic of the call: the hold that must end, and how much was generated.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::{Job, ending};
use crate::delivered::Delivered;
use crate::gateway::Gateway;
use crate::lost::LeftHold;
use crate::plan::Target;

/// A hold in the care of its call.
#[derive(Default)]
pub(super) struct Custody {
    hold: Mutex<Option<(LeftHold, Target)>>,
    characters: AtomicU64,
}

impl Custody {
    /// The call owns this hold, and sends to this target.
    pub(super) fn take(&self, hold: Option<LeftHold>, target: &Target) {
        *self.hold.lock() = hold.map(|hold| (hold, target.clone()));
        self.characters.store(0, Ordering::Release);
    }

    /// The next attempt has begun.
    pub(super) fn start(&self, started: &modelfaucet_schema::event::AttemptStarted, next: &Target) {
        if let Some((hold, target)) = &mut *self.hold.lock() {
            hold.start(started);
            target.clone_from(next);
        }
        self.characters.store(0, Ordering::Release);
    }

    /// So much was generated.
    pub(super) fn delivered(&self, delivered: Delivered) {
        self.characters.store(delivered.characters(), Ordering::Release);
    }

    /// The hold has ended.
    pub(super) fn end(&self) {
        *self.hold.lock() = None;
    }

    /// Ends the hold of a call that broke off inside, as that of any lost call: what was delivered is as good as a mark.
    pub(super) async fn rescue(&self, gateway: &Gateway, job: &Job) {
        let Some((mut hold, target)) = self.hold.lock().clone() else { return };
        let delivered = Delivered::of_characters(self.characters.load(Ordering::Acquire));
        if delivered.tokens() > 0 {
            hold.mark = Some(ending::estimate(&target, hold.call.service_tier, job.request.input_estimate, delivered));
        }
        let end = hold.end(gateway.shared.options.limits.lost, &gateway.shared.model);
        if let Err(error) = gateway.end(&job.request_id, end).await {
            tracing::error!(hold = %hold.hold_id, %error, "the hold of a broken call could not be ended; it will expire");
        }
    }
}
