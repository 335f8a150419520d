//! What a projection is: tables, and a pure fold of events into changes of them.

use modelfaucet_schema::event::Recorded;

use crate::changes::Changes;
use crate::table::{Table, Value};

/// A fold of the log into read tables. Deterministic: time, ids and figures come from the events alone.
pub trait Projection: Send + Sync + 'static {
    /// Its name; tables live in the schema `p_NAME_vVERSION`.
    fn name(&self) -> &'static str;

    /// The version of its tables.
    fn version(&self) -> i32 {
        1
    }

    /// The version of its fold; counts up whenever the same log would give other tables. Tables of one fold may be built again
    /// under another number, see [`under`].
    fn code(&self) -> i32 {
        self.version()
    }

    /// Its tables; [`Changes`] names them by their place here.
    fn tables(&self) -> &'static [Table];

    /// Views beside the plain one that every table gets: statements that create or replace views in the schema `read`, with
    /// `{schema}` for the projection's own schema.
    fn views(&self) -> &'static str {
        ""
    }

    /// Is a total with a hole a lie here? Then an event that cannot be applied halts the projection; otherwise it quarantines
    /// the event's stream.
    fn is_money(&self) -> bool;

    /// Folds one event.
    ///
    /// # Errors
    /// [`ApplyError`] if the event cannot be applied; then the projection's own state is as before.
    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError>;

    /// Called behind the last event of a batch: writes what the projection keeps in memory and has changed.
    fn flush(&mut self, _changes: &mut Changes) {}

    /// Indexes of the tables whose rows it wants back after a restart.
    fn remembers(&self) -> &'static [usize] {
        &[]
    }

    /// Takes back a row of the `table`-th table.
    ///
    /// # Errors
    /// [`ApplyError`] if the row is not one that this projection wrote.
    fn remember(&mut self, _table: usize, _row: &[Value]) -> Result<(), ApplyError> {
        Ok(())
    }

    /// The same projection without any state.
    fn fresh(&self) -> Box<dyn Projection>;

    /// The schema of its tables.
    fn schema(&self) -> String {
        format!("p_{}_v{}", self.name(), self.version())
    }
}

/// A fold whose tables carry another number than its own.
struct Renumbered {
    fold: Box<dyn Projection>,
    version: i32,
}

/// The fold with tables of this version.
pub fn under(fold: Box<dyn Projection>, version: i32) -> Box<dyn Projection> {
    if fold.version() == version { fold } else { Box::new(Renumbered { fold, version }) }
}

impl Projection for Renumbered {
    fn name(&self) -> &'static str {
        self.fold.name()
    }

    fn version(&self) -> i32 {
        self.version
    }

    fn code(&self) -> i32 {
        self.fold.code()
    }

    fn tables(&self) -> &'static [Table] {
        self.fold.tables()
    }

    fn views(&self) -> &'static str {
        self.fold.views()
    }

    fn is_money(&self) -> bool {
        self.fold.is_money()
    }

    fn apply(&mut self, event: &Recorded, changes: &mut Changes) -> Result<(), ApplyError> {
        self.fold.apply(event, changes)
    }

    fn flush(&mut self, changes: &mut Changes) {
        self.fold.flush(changes);
    }

    fn remembers(&self) -> &'static [usize] {
        self.fold.remembers()
    }

    fn remember(&mut self, table: usize, row: &[Value]) -> Result<(), ApplyError> {
        self.fold.remember(table, row)
    }

    fn fresh(&self) -> Box<dyn Projection> {
        Box::new(Self { fold: self.fold.fresh(), version: self.version })
    }
}

/// Why an event cannot be applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApplyError {
    /// A sum is out of range.
    #[error("a sum is out of range")]
    Overflow,
    /// The event changes something that the projection does not have.
    #[error("{0} has no row for this event to change")]
    MissingRow(&'static str),
    /// The projection does what its table does not allow.
    #[error("{0} cannot be changed in this way")]
    Unsupported(&'static str),
    /// A stored row of the projection's own table makes no sense.
    #[error("{0} holds a row that this program did not write")]
    ForeignRow(&'static str),
    /// Anything else.
    #[error("{0}")]
    Other(String),
}

/// Every projection, without state.
pub fn all() -> Vec<Box<dyn Projection>> {
    vec![
        Box::new(crate::wallets::Wallets),
        Box::new(crate::journal::Journal::default()),
        Box::new(crate::usage::UsageRecords),
        Box::new(crate::sessions::Sessions),
        Box::new(crate::catalogue::Catalogue::default()),
        Box::new(crate::top_ups::TopUps),
        Box::new(crate::audit_log::AuditLog),
        Box::new(crate::freezes::Freezes),
        Box::new(crate::credentials::Credentials),
        Box::new(crate::reconciliation::Reconciliation),
        Box::new(crate::attempts::Attempts),
        Box::new(crate::staff::Staff),
        Box::new(crate::payments::Payments),
        Box::new(crate::payouts::Payouts),
    ]
}
