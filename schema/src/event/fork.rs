//! A log that has lost its end.

use serde::{Deserialize, Serialize};

use super::Actor;
use crate::ids::{LogId, Position};

/// A restore has lost the end of the log, which goes on under another id. The first event under that id; what is lost stays lost
/// and named for ever.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogForked {
    /// The id from here on.
    pub log_id: LogId,
    /// The id before.
    pub previous_log_id: LogId,
    /// How many ids the log has had, this one included.
    pub epoch: i32,
    /// The last position that both lines have.
    pub common: Position,
    /// The link of the chain there, in hexadecimal.
    pub common_hash: String,
    /// The first position of the old line that is lost.
    pub lost_from: Position,
    /// The last position of the old line that anybody has seen.
    pub lost_until: Position,
    /// Why it could not be recovered.
    pub reason: String,
    /// The second person; the first one is the event's actor.
    pub approved_by: Actor,
}
