//! Settings of backups and of what keeps a restored log honest.

use std::path::PathBuf;
use std::time::Duration;

use secrecy::SecretString;

use super::{Config, ConfigError};

impl Config {
    /// Who vouches for PostgreSQL, for its own programs.
    pub(crate) fn database_ca_file(&self) -> Option<PathBuf> {
        self.text("DATABASE_CA_FILE").map(PathBuf::from)
    }

    /// The backup repository, if backups are made.
    pub(crate) fn backup_dir(&self) -> Option<PathBuf> {
        self.text("BACKUP_DIR").map(PathBuf::from)
    }

    /// Where seen heads are kept: outside of the database, so that a restored one can be told what it lacks.
    pub(crate) fn heads_dir(&self) -> Option<PathBuf> {
        self.text("HEADS_DIR").map(PathBuf::from).or_else(|| self.backup_dir().map(|dir| dir.join("heads")))
    }

    /// How many base backups are kept at least.
    pub(crate) fn backup_keep(&self) -> Result<usize, ConfigError> {
        self.size("BACKUP_KEEP", 1..=10_000)
    }

    /// How long every base backup is kept.
    pub(crate) fn backup_keep_days(&self) -> Result<Duration, ConfigError> {
        Ok(Duration::from_secs(self.number("BACKUP_KEEP_DAYS", 0..=36_500)? * 86_400))
    }

    /// What head notes are signed with.
    pub(crate) fn log_signing_key(&self) -> Result<Option<SecretString>, ConfigError> {
        self.long_secret("LOG_SIGNING_KEY")
    }
}
