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
const PAID: u8 = 0;
/// Something is not, and whoever is not waiting for it any more has left early.
const OWED: u8 = 1;
/// It did not come in time.
const LOST: u8 = 2;

/// A connection, for as long as it is needed.
pub(crate) struct Lease {
    /// Absent only while it is dropped.
    object: Option<Object>,
    debt: Debt,
}

/// What the server owes.
#[derive(Clone, Debug, Default)]
pub(crate) struct Debt(Arc<AtomicU8>);

impl Debt {
    /// Waits for an answer, so long at most.
    pub(crate) async fn paid<T>(
        &self,
        limit: Duration,
        asked: impl Future<Output = Result<T, Error>>,
    ) -> Result<T, Error> {
        self.0.store(OWED, Ordering::Relaxed);
        let answer = within(limit, asked).await;
        // An error of the server is an answer.
        let is_answered = answer.as_ref().err().is_none_or(|error| error.code().is_some());
        self.0.store(if is_answered { PAID } else { LOST }, Ordering::Relaxed);
        answer
    }

    fn state(&self) -> u8 {
        self.0.load(Ordering::Relaxed)
    }
}

impl Lease {
    pub(crate) fn new(object: Object) -> Self {
        Self { object: Some(object), debt: Debt::default() }
    }

    /// For those who ask over the connection.
    pub(crate) fn debt(&self) -> Debt {
        self.debt.clone()
    }
}

impl Deref for Lease {
    type Target = Object;

    fn deref(&self) -> &Object {
        self.object.as_ref().expect("a lease has its connection until it is dropped")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Object {
        self.object.as_mut().expect("a lease has its connection until it is dropped")
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let Some(object) = self.object.take() else { return };
        match (self.debt.state(), Handle::try_current()) {
            (PAID, _) => drop(object),
            // It keeps its place in the pool meanwhile, so that nobody has more statements running than the pool has connections.
            (OWED, Ok(runtime)) => drop(runtime.spawn(settle(object))),
            // Out of the pool, and closed.
            _ => drop(Object::take(object)),
        }
    }
}

/// Waits for what was left behind; what answers behind it is in order again.
async fn settle(object: Object) {
    match within(ANSWER, object.simple_query("")).await {
        Ok(_) => drop(object),
        Err(_) => drop(Object::take(object)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_debt_is_what_was_asked_and_not_answered() {
        let (debt, short) = (Debt::default(), Duration::from_millis(1));
        let nothing = std::future::pending::<Result<(), Error>>;
        assert!(debt.paid(ANSWER, async { Ok(()) }).await.is_ok());
        assert_eq!(debt.state(), PAID);
        assert!(debt.paid(short, nothing()).await.is_err());
        assert_eq!(debt.state(), LOST, "it did not come in time");
        assert!(debt.paid(ANSWER, async { Ok(()) }).await.is_ok());
        assert_eq!(debt.state(), PAID);
        // A client that has left: its request is dropped where it waits.
        assert!(tokio::time::timeout(short, debt.paid(ANSWER, nothing())).await.is_err());
        assert_eq!(debt.state(), OWED, "nobody waits for it any more");
    }
}
