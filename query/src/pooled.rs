//! A connection of the pool for one request.
//!
//! It goes back when everything that was asked over it is answered. Else the next request would wait behind what nobody wants any
//! more, and if the server has forgotten the connection without a word, every later one would wait for ever.

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use deadpool_postgres::Object;
use modelfaucet_schema::log::connection::within;
use tokio::runtime::Handle;
use tokio_postgres::Error;

/// How long the server may take to answer; it gives up itself a second earlier.
pub(crate) const ANSWER: Duration = Duration::from_secs(8);

/// Everything that was asked is answered.
const ANSWERED: u8 = 0;
/// Something is not yet. Whoever gives the connection back then has left early.
const PENDING: u8 = 1;
/// An answer did not come in time.
const LOST: u8 = 2;

/// A connection, for as long as it is needed.
pub(crate) struct Pooled {
    /// Absent only while it is dropped.
    object: Option<Object>,
    pending: Pending,
}

/// Whether the server has yet to answer something.
#[derive(Clone, Debug, Default)]
pub(crate) struct Pending(Arc<AtomicU8>);

impl Pending {
    /// Waits for an answer, so long at most.
    pub(crate) async fn answer<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.0.store(PENDING, Ordering::Relaxed);
        let answer = within(limit, asked).await;
        // An error of the server is an answer.
        let is_answered = answer.as_ref().err().is_none_or(|error| error.code().is_some());
        self.0.store(if is_answered { ANSWERED } else { LOST }, Ordering::Relaxed);
        answer
    }

    fn state(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Pooled {
    pub(crate) fn new(object: Object) -> Self {
        Self { object: Some(object), pending: Pending::default() }
    }

    /// For those who ask over the connection.
    pub(crate) fn pending(&self) -> Pending {
        self.pending.clone()
    }
}

impl Deref for Pooled {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.object.as_ref().expect("a connection is there until it is given back")
    }
}

impl DerefMut for Pooled {
    fn deref_mut(&mut self) -> &mut Object {
        self.object.as_mut().expect("a connection is there until it is given back")
    }
}

impl Drop for Pooled {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        match (self.pending.state(), Handle::try_current()) {
            (ANSWERED, _) => drop(object),
            // It keeps its place in the pool meanwhile, so that nobody has more statements running than the pool has connections.
            (PENDING, Ok(runtime)) => drop(runtime.spawn(give_back(object))),
            // Out of the pool, and closed.
            _ => drop(Object::take(object)),
        }
    }
}

/// Waits for what was left behind; a connection that answers behind it is in order again.
async fn give_back(object: Object) {
    match within(ANSWER, object.simple_query("")).await {
        Ok(_) => drop(object),
        Err(_) => drop(Object::take(object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn what_was_asked_is_pending_until_it_is_answered() {
        let (pending, short) = (Pending::default(), Duration::from_millis(1));
        let nothing = std::future::pending::<Result<(), Error>>;
        assert!(pending.answer(ANSWER, async { Ok(()) }).await.is_ok());
        assert_eq!(pending.state(), ANSWERED);
        assert!(pending.answer(short, nothing()).await.is_err());
        assert_eq!(pending.state(), LOST, "it did not come in time");
        assert!(pending.answer(ANSWER, async { Ok(()) }).await.is_ok());
        assert_eq!(pending.state(), ANSWERED);
        // A client that has left: its request is dropped where it waits.
        assert!(tokio::time::timeout(short, pending.answer(ANSWER, nothing())).await.is_err());
        assert_eq!(pending.state(), PENDING, "nobody waits for it any more");
    }
}
