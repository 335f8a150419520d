//! Exit codes: stable, documented in docs/OPERATIONS.md, tested.

use std::process::ExitCode;

/// How a command ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok = 0,
    /// A check found differences.
    Differences = 1,
    /// Refused by a rule of the ledger, for example a freeze.
    Refused = 3,
    /// Temporary; try again.
    Temporary = 4,
    /// Not finished; what is done is safe, and the same command goes on.
    Incomplete = 5,
    /// An invariant is violated or the log was tampered with.
    Violated = 6,
    /// Refuses to start: unsafe or wrong configuration.
    Config = 78,
    /// Interrupted; what is done is safe.
    Interrupted = 130,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// An error that ends the process: one line for people and a code for programs.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) exit: Exit,
    pub(crate) message: String,
}

impl Failure {
    pub(crate) fn new(exit: Exit, message: impl std::fmt::Display) -> Self {
        Self { exit, message: message.to_string() }
    }
}

macro_rules! failures {
    ($($error:ty => $exit:ident),+ $(,)?) => {$(
        impl From<$error> for Failure {
            fn from(error: $error) -> Self {
                Self::new(Exit::$exit, error)
            }
        }
    )+};
}

failures! {
    crate::config::ConfigError => Config,
    crate::postgres::PostgresError => Temporary,
    modelfaucet_schema::log::boot::BootError => Config,
    modelfaucet_schema::log::migrate::MigrateError => Config,
    modelfaucet_command::writer::WriterError => Violated,
    std::io::Error => Temporary,
}

/// With the cause, which the driver's own text leaves out: a name that does not resolve, a certificate that nobody vouches for.
impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        use std::error::Error as _;
        let cause = error.source().map(|cause| format!(": {cause}")).unwrap_or_default();
        Self::new(Exit::Temporary, format!("{error}{cause}"))
    }
}
