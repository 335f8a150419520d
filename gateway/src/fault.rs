//! Named points at which tests break a call off, to see that its hold ends once all the same. Builds without debug assertions have none of
//! this: there nothing can be armed.

use std::collections::VecDeque;
use std::str::FromStr;

use parking_lot::Mutex;

/// A point in the life of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Point {
    /// The hold is durable.
    HoldPlaced,
    /// A request is about to leave.
    BeforeSend,
    /// The first byte of an answer has come.
    FirstByte,
    /// A piece of a stream went to the client.
    Relayed,
    /// The next attempt is about to be put into the log.
    BeforeAttempt,
    /// It is in the log.
    AfterAttempt,
    /// The hold is about to end.
    BeforeEnd,
    /// It has ended.
    AfterEnd,
}

impl Point {
    /// Every point, in the order of a call whose first attempt fails.
    pub const ALL: [(Self, &'static str); 8] = [
        (Self::HoldPlaced, "hold_placed"),
        (Self::BeforeSend, "before_send"),
        (Self::BeforeAttempt, "before_attempt"),
        (Self::AfterAttempt, "after_attempt"),
        (Self::FirstByte, "first_byte"),
        (Self::Relayed, "relayed"),
        (Self::BeforeEnd, "before_end"),
        (Self::AfterEnd, "after_end"),
    ];
}

/// How a call breaks off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Break {
    /// The task panics.
    Panic,
    /// The process dies at once.
    Abort,
}

/// One break at one point.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault(Point, Break);

/// A text that is no fault.
#[derive(Clone, Copy, Debug, thiserror::Error)]
#[error("a fault is POINT=panic or POINT=abort")]
pub struct InvalidFault;

impl FromStr for Fault {
    type Err = InvalidFault;

    fn from_str(text: &str) -> Result<Self, InvalidFault> {
        let (point, how) = text.split_once('=').ok_or(InvalidFault)?;
        let (point, _) = Point::ALL.into_iter().find(|(_, name)| *name == point).ok_or(InvalidFault)?;
        match how {
            "panic" => Ok(Self(point, Break::Panic)),
            "abort" => Ok(Self(point, Break::Abort)),
            _ => Err(InvalidFault),
        }
    }
}

static ARMED: Mutex<VecDeque<Fault>> = Mutex::new(VecDeque::new());

/// Arms faults: each strikes once, in this order.
pub fn arm(faults: impl IntoIterator<Item = Fault>) {
    ARMED.lock().extend(faults);
}

/// A call is at a point.
///
/// # Panics
/// If a panic is armed for it, which only tests do.
pub(crate) fn at(point: Point) {
    if !cfg!(debug_assertions) {
        return;
    }
    let struck = {
        let mut armed = ARMED.lock();
        if armed.front().is_some_and(|fault| fault.0 == point) { armed.pop_front() } else { None }
    };
    match struck {
        None => {}
        Some(Fault(_, Break::Abort)) => std::process::abort(),
        Some(Fault(point, Break::Panic)) => std::panic::panic_any(format!("a planted panic at {point:?}")),
    }
}
