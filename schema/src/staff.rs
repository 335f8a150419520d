//! The people who run the ledger: what each of them may do.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What an act of the house takes. Each power includes the ones before it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Power {
    /// See everything but secrets.
    Read,
    /// Stop and restart things: freezes, thaws, revocations, replays. No money.
    Operate,
    /// Everything, except giving these powers to others: only the holder of `ADMIN_TOKEN` does that.
    Administer,
}

/// What a staff token may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, utoipa::ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum StaffRole {
    /// Reads everything but secrets, writes nothing.
    Auditor,
    /// Freezes, thaws, revokes and replays; moves no money.
    Operator,
    /// Does everything but issue staff tokens.
    Admin,
}

impl StaffRole {
    /// Every role, by power.
    pub const ALL: &'static [Self] = &[Self::Auditor, Self::Operator, Self::Admin];

    /// The most that it may do.
    pub const fn power(self) -> Power {
        match self {
            Self::Auditor => Power::Read,
            Self::Operator => Power::Operate,
            Self::Admin => Power::Administer,
        }
    }

    /// May it do what takes `power`?
    pub fn may(self, power: Power) -> bool {
        self.power() >= power
    }

    /// The text on the wire.
    pub const fn text(self) -> &'static str {
        match self {
            Self::Auditor => "auditor",
            Self::Operator => "operator",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for StaffRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A text that names no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not auditor, operator or admin")]
pub struct InvalidRole;

impl FromStr for StaffRole {
    type Err = InvalidRole;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL.iter().find(|role| role.text() == text).copied().ok_or(InvalidRole)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_role_may_what_the_one_below_it_may() {
        for role in StaffRole::ALL {
            assert!(role.may(Power::Read));
            assert_eq!(role.may(Power::Operate), *role != StaffRole::Auditor);
            assert_eq!(role.may(Power::Administer), *role == StaffRole::Admin);
            assert_eq!(role.text().parse(), Ok(*role));
        }
        assert_eq!("root".parse::<StaffRole>(), Err(InvalidRole));
    }
}
