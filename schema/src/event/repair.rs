//! Repairs: plans of compensating commands that two people agree on. The plan itself is a file; the log keeps its digest, so that
//! nobody can say later that another plan was agreed on. No money moves here: each command of the plan is an event of its own.

use serde::{Deserialize, Serialize};

use crate::ids::RepairId;

/// Somebody wants a plan to be carried out. Somebody else has to agree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairProposed {
    /// The repair; follows from the digest.
    pub repair_id: RepairId,
    /// SHA-256 of the plan, in hexadecimal digits.
    pub digest: String,
    /// How many commands it has.
    pub steps: u32,
    /// Why.
    pub reason: String,
}

/// Somebody else agrees.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RepairApproved {
    /// The repair.
    pub repair_id: RepairId,
    /// SHA-256 of the plan that was agreed to, in hexadecimal digits.
    pub digest: String,
}
