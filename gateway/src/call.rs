//! One call, from its hold to its end. The task that runs it owns the hold: whatever the client does, the hold ends once, with what
//! the call came to.

mod attempt;
mod custody;
mod ending;
mod key;
mod place;
mod stream;

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::FutureExt as _;
use modelfaucet_schema::event::{Attempt, AttemptError, ReleaseReason};
use tokio::sync::oneshot;
use tracing::Instrument as _;

use crate::client::{Client, Head, listen};
use crate::fault::{self, Point};
use crate::gateway::{Gateway, Place};
use crate::limit::Taken;
use crate::plan::Target;
use crate::read_model::{Policy, Session};
use crate::request::CallRequest;
use crate::trace::CallSpan;

use attempt::Good;
use custody::Custody;
pub(crate) use ending::of_port;
pub(crate) use key::ClientKey;

/// A call that was prepared.
pub(crate) struct Job {
    pub(crate) request: CallRequest,
    pub(crate) body: Bytes,
    pub(crate) session: Session,
    pub(crate) feature_key: Option<String>,
    pub(crate) policy: Arc<Policy>,
    /// Where it may go, in order; at least one.
    pub(crate) targets: Vec<Target>,
    pub(crate) key: Option<ClientKey>,
    pub(crate) request_id: String,
    pub(crate) began: Instant,
    pub(crate) place: Place,
    /// The tokens that it has taken from the rate limits.
    pub(crate) taken: Taken,
}

/// Runs a call in a task of its own and says where its first answer comes out.
pub(crate) fn spawn(gateway: Gateway, job: Job) -> oneshot::Receiver<Head> {
    let options = &gateway.shared.options;
    let (client, head) = listen(options.limits.relay, options.timeouts.client_stall);
    let running = async move {
        let custody = Custody::default();
        if let Some(call) = Call::new(&gateway, &job, &custody, client)
            && AssertUnwindSafe(call.run()).catch_unwind().await.is_err()
        {
            tracing::error!(request_id = job.request_id, "a call broke off inside the gateway");
            custody.rescue(&gateway, &job).await;
        }
        drop(job.place);
    };
    // Spans of the call belong to its request, also when its client has gone.
    tokio::spawn(running.in_current_span());
    head
}

struct Call<'a> {
    gateway: &'a Gateway,
    job: &'a Job,
    custody: &'a Custody,
    client: Client,
    /// Where the attempt that runs goes.
    target: &'a Target,
    /// Attempts that have ended and that the log does not have yet.
    attempts: Vec<Attempt>,
    hold_time: Option<Duration>,
    span: CallSpan,
}

impl<'a> Call<'a> {
    fn new(gateway: &'a Gateway, job: &'a Job, custody: &'a Custody, client: Client) -> Option<Self> {
        let target = job.targets.first()?;
        let span = CallSpan::none();
        Some(Self { gateway, job, custody, client, target, attempts: Vec::new(), hold_time: None, span })
    }

    async fn run(mut self) {
        let Some(mut held) = self.begin().await else { return };
        fault::at(Point::HoldPlaced);
        self.span = CallSpan::begin(self.job.request.endpoint);
        if self.client.is_gone() {
            self.release(&held, ReleaseReason::Cancelled).await;
            return;
        }
        match self.dispatch(&mut held).await {
            Ok(Good::Whole(body, said, delivered, _taken)) => self.finish_whole(&held, body, said, delivered).await,
            Ok(Good::Stream(answer)) => self.relay(&held, answer).await,
            Err(failure) if failure.error == AttemptError::ClientGone => self.cut_before_content(&held).await,
            Err(failure) => {
                self.release(&held, failure.release).await;
                self.client.fail(failure.answer);
            }
        }
    }
}

fn milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
