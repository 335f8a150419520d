//! Points in time as microseconds since 1970, UTC. Only positions give an order; times are for people and deadlines.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::text;

/// Microseconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-23T10:00:00.000Z")]
pub struct Timestamp(i64);

impl Timestamp {
    /// The earliest time a request may name (year 0) and the latest (year 9998), in microseconds.
    const RANGE: std::ops::RangeInclusive<i64> = -62_167_219_200_000_000..=253_370_764_799_999_999;

    /// `micros` microseconds since 1970; clamped to the years 0 to 9998.
    pub fn from_micros(micros: i64) -> Self {
        Self(micros.clamp(*Self::RANGE.start(), *Self::RANGE.end()))
    }

    /// Microseconds since 1970.
    pub const fn micros(self) -> i64 {
        self.0
    }

    /// The system's clock. Only the shell calls this: rules get their time handed in.
    pub fn now() -> Self {
        Self::from_micros(jiff::Timestamp::now().as_microsecond())
    }

    /// The time `duration` later.
    #[must_use]
    pub fn plus(self, duration: Duration) -> Self {
        Self::from_micros(self.0.saturating_add(i64::try_from(duration.as_micros()).unwrap_or(i64::MAX)))
    }

    /// How long after `earlier` this is; zero if it is not after.
    pub fn since(self, earlier: Self) -> Duration {
        Duration::from_micros(u64::try_from(self.0.saturating_sub(earlier.0)).unwrap_or(0))
    }

    /// The API's form: ISO 8601, UTC, milliseconds.
    pub fn to_millis_text(self) -> String {
        self.text(3)
    }

    /// The day in UTC, `2026-11-23`.
    pub fn date(self) -> String {
        self.text(0)[..10].to_owned()
    }

    fn text(self, decimals: u8) -> String {
        let stamp = jiff::Timestamp::from_microsecond(self.0).unwrap_or(jiff::Timestamp::UNIX_EPOCH);
        format!("{stamp:.precision$}", precision = usize::from(decimals))
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text(6))
    }
}

impl FromStr for Timestamp {
    type Err = InvalidTimestamp;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text.len() > 64 {
            return Err(InvalidTimestamp);
        }
        let stamp: jiff::Timestamp = text.parse().map_err(|_| InvalidTimestamp)?;
        let micros = stamp.as_microsecond();
        if Self::RANGE.contains(&micros) { Ok(Self(micros)) } else { Err(InvalidTimestamp) }
    }
}

/// A text that is not a time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("must be an ISO 8601 time with offset, such as 2026-11-23T10:00:00Z")]
pub struct InvalidTimestamp;

impl Serialize for Timestamp {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        if serializer.is_human_readable() { text::write(self, serializer) } else { serializer.serialize_i64(self.0) }
    }
}

impl<'de> Deserialize<'de> for Timestamp {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        if deserializer.is_human_readable() {
            text::parse(deserializer, "time")
        } else {
            i64::deserialize(deserializer).map(Self::from_micros)
        }
    }
}

/// A time as the API shows it: milliseconds and `Z`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, utoipa::ToSchema)]
#[schema(value_type = String, format = DateTime, example = "2026-11-23T10:00:00.000Z")]
pub struct ApiTime(pub Timestamp);

impl Serialize for ApiTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.to_millis_text())
    }
}

impl<'de> Deserialize<'de> for ApiTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::deserialize(deserializer).map(Self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stored_form_has_microseconds_and_the_api_milliseconds() {
        let time: Timestamp = "2026-11-23T10:00:00.1234567+02:00".parse().unwrap();
        assert_eq!(time.to_string(), "2026-11-23T08:00:00.123456Z");
        assert_eq!(time.to_millis_text(), "2026-11-23T08:00:00.123Z");
        assert_eq!(time.date(), "2026-11-23");
        assert_eq!(time.to_string().parse::<Timestamp>(), Ok(time));
        assert_eq!(Timestamp::from_micros(0).to_string(), "1970-01-01T00:00:00.000000Z");
        for text in ["", "now", "2026-11-23", "2026-11-23T10:00:00", "2026-13-01T00:00:00Z"] {
            assert!(text.parse::<Timestamp>().is_err(), "{text}");
        }
    }

    #[test]
    fn extreme_times_are_clamped() {
        assert!(Timestamp::from_micros(i64::MAX).to_string().starts_with("9998-12-31"));
        assert!(Timestamp::from_micros(i64::MIN).to_string().starts_with("0000-01-01"));
    }
}
