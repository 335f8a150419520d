//! Reading columns as the types of the field.

use std::time::SystemTime;

use modelfaucet_schema::log::from_system_time;
use modelfaucet_schema::money::Money;
use modelfaucet_schema::time::{ApiTime, Timestamp};
use serde_json::value::RawValue;
use tokio_postgres::Row;

use crate::amount::Total;
use crate::error::QueryError;

/// Columns of a row by name.
pub(crate) trait Columns {
    /// `bigint` units.
    fn money(&self, name: &str) -> Result<Money, QueryError>;
    /// A `text` sum of units.
    fn total(&self, name: &str) -> Result<Total, QueryError>;
    /// `timestamptz`.
    fn time(&self, name: &str) -> Result<Timestamp, QueryError>;
    /// `timestamptz` that may be null, as the API shows it.
    fn time_or_none(&self, name: &str) -> Result<Option<ApiTime>, QueryError>;
    /// `text` that is JSON.
    fn json(&self, name: &'static str) -> Result<Box<RawValue>, QueryError>;
}

impl Columns for Row {
    fn money(&self, name: &str) -> Result<Money, QueryError> {
        Ok(Money::from_units(self.try_get(name)?))
    }

    fn total(&self, name: &str) -> Result<Total, QueryError> {
        self.try_get::<_, &str>(name)?.parse().map_err(|_| QueryError::Foreign("a sum"))
    }

    fn time(&self, name: &str) -> Result<Timestamp, QueryError> {
        Ok(from_system_time(self.try_get(name)?))
    }

    fn time_or_none(&self, name: &str) -> Result<Option<ApiTime>, QueryError> {
        let time: Option<SystemTime> = self.try_get(name)?;
        Ok(time.map(|time| ApiTime(from_system_time(time))))
    }

    fn json(&self, name: &'static str) -> Result<Box<RawValue>, QueryError> {
        RawValue::from_string(self.try_get(name)?).map_err(|_| QueryError::Foreign(name))
    }
}

/// Reads all rows.
pub(crate) fn each<T>(rows: &[Row], read: impl Fn(&Row) -> Result<T, QueryError>) -> Result<Vec<T>, QueryError> {
    rows.iter().map(read).collect()
}
