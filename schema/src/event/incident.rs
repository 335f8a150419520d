//! Incidents that are over, and what proves it. The report itself is a file; the log keeps its digest, so that nobody can say later
//! that another report was the proof. No money moves here.

use serde::{Deserialize, Serialize};

use crate::ids::Position;

/// Somebody has proved that an incident is over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct IncidentClosed {
    /// What people call it, for example `INC-17`.
    pub name: String,
    /// The first position of this shard that it is about.
    pub first: Position,
    /// The last one; it is in the log already.
    pub last: Position,
    /// SHA-256 of the report, in hexadecimal digits.
    pub digest: String,
    /// How many bytes the report has.
    pub bytes: u64,
    /// What it was, and what the report proves.
    pub reason: String,
    /// Where it was closed before; that closing does not count any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub supersedes: Option<Position>,
}
