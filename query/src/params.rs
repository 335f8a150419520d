//! What a client may put into path and query, checked before anything is asked of the database.

use std::fmt;
use std::str::FromStr;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use modelfaucet_schema::http::ApiError;
use modelfaucet_schema::ids::{Position, ShardId};
use modelfaucet_schema::time::Timestamp;
use uuid::Uuid;

use crate::progress::At;

/// Longest value of a parameter that is looked at.
const MAX_VALUE: usize = 256;

/// The parameters of a query that were not taken yet.
pub(crate) struct Given(Vec<(String, String)>);

impl Given {
    /// Takes a parameter's text.
    fn take(&mut self, name: &'static str) -> Result<Option<String>, ApiError> {
        let Some(index) = self.0.iter().position(|(given, _)| given == name) else { return Ok(None) };
        let (_, value) = self.0.swap_remove(index);
        if self.0.iter().any(|(given, _)| given == name) {
            return Err(ApiError::invalid(format!("The parameter {name} is given twice.")).param(name));
        }
        Ok(Some(value))
    }

    /// Takes a parameter; `what` completes "… must be".
    pub(crate) fn parse<T: FromStr>(&mut self, name: &'static str, what: &str) -> Result<Option<T>, ApiError> {
        let invalid = || ApiError::invalid(format!("{name} must be {what}.")).param(name);
        let Some(text) = self.take(name)? else { return Ok(None) };
        if text.len() > MAX_VALUE {
            return Err(invalid());
        }
        text.parse().map(Some).map_err(|_| invalid())
    }

    /// Is there such a parameter?
    pub(crate) fn has(&self, name: &str) -> bool {
        self.0.iter().any(|(given, _)| given == name)
    }

    /// Takes `limit`.
    pub(crate) fn limit(&mut self, default: u8) -> Result<i64, ApiError> {
        let Limit(limit) = self.parse("limit", "a number from 1 to 200")?.unwrap_or(Limit(default));
        Ok(i64::from(limit))
    }

    /// Takes `cursor`.
    pub(crate) fn cursor<C: FromStr>(&mut self) -> Result<Option<C>, ApiError> {
        self.parse("cursor", "the next_cursor of an earlier answer")
    }

    /// Takes `shard`.
    pub(crate) fn shard(&mut self) -> Result<ShardId, ApiError> {
        let Shard(shard) = self.parse("shard", "a number from 0 to 32767")?.unwrap_or_default();
        Ok(shard)
    }

    /// Takes `from` and `to`: from the first inclusive to the second exclusive.
    pub(crate) fn range(&mut self) -> Result<Range, ApiError> {
        let time = "an ISO 8601 time with offset, such as 2026-11-23T10:00:00Z";
        let mut take = |name| Ok::<_, ApiError>(self.parse::<Time>(name, time)?.map(|Time(time)| time));
        Ok(Range { from: take("from")?, to: take("to")? })
    }

    /// Takes `public_app_id`.
    pub(crate) fn app(&mut self) -> Result<Option<PublicAppId>, ApiError> {
        self.parse("public_app_id", "1 to 128 of a-z A-Z 0-9 _ : -")
    }

    /// Refuses what nobody took.
    fn end(self) -> Result<(), ApiError> {
        match self.0.into_iter().next() {
            None => Ok(()),
            Some((name, _)) => {
                let name: String = name.chars().take(64).collect();
                Err(ApiError::invalid(format!("Unknown query parameter: {name:?}.")).param(name))
            }
        }
    }
}

/// Parameters of one route.
pub(crate) trait FromGiven: Sized {
    fn from_given(given: &mut Given) -> Result<Self, ApiError>;
}

impl FromGiven for () {
    fn from_given(_: &mut Given) -> Result<Self, ApiError> {
        Ok(())
    }
}

/// The query of a request: the position that every read may ask for, and the route's own parameters. Anything else is refused.
pub(crate) struct Query<T> {
    pub(crate) at: At,
    pub(crate) own: T,
}

impl<S: Sync, T: FromGiven> FromRequestParts<S> for Query<T> {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, ApiError> {
        let pairs = axum::extract::Query::<Vec<(String, String)>>::try_from_uri(&parts.uri)
            .map_err(|_| ApiError::invalid("The query is malformed."))?;
        let mut given = Given(pairs.0);
        let min_position =
            given.parse("min_position", "a position: a whole number from 0")?.map(|AtLeast(position)| position);
        let stale = given.parse::<Stale>("stale", "\"allow\"")?.is_some();
        let own = T::from_given(&mut given)?;
        given.end()?;
        Ok(Self { at: At { min_position, stale }, own })
    }
}

/// `min_position` and `stale`, for the API document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct AtParams {
    /// Wait briefly until the answer is as of this position of the log; 503 `projection_behind` if that takes too long.
    #[param(minimum = 0)]
    min_position: Option<i64>,
    /// `allow`: do not wait for `min_position`; the header `ledger-position` tells how far the answer is.
    #[param(pattern = "^allow$")]
    stale: Option<String>,
}

/// `limit` and `cursor`, for the API document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct PageParams {
    /// How many items at most.
    #[param(minimum = 1, maximum = 200)]
    limit: Option<u8>,
    /// `next_cursor` of an earlier answer.
    cursor: Option<String>,
}

/// `from` and `to`, for the API document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct RangeParams {
    /// Only what was recorded at this time or later.
    from: Option<Timestamp>,
    /// Only what was recorded before this time.
    to: Option<Timestamp>,
}

/// `public_app_id`, for the API document.
#[derive(utoipa::IntoParams)]
#[into_params(parameter_in = Query)]
#[expect(dead_code, reason = "only its description is used")]
pub(crate) struct AppParam {
    /// Only of this app.
    #[param(pattern = "^[a-zA-Z0-9_:-]{1,128}$")]
    public_app_id: Option<String>,
}

/// A page of a list that is ordered by `C`.
pub(crate) struct Page<C> {
    pub(crate) limit: i64,
    pub(crate) cursor: Option<C>,
}

impl<C: FromStr> Page<C> {
    pub(crate) fn take(given: &mut Given, default: u8) -> Result<Self, ApiError> {
        Ok(Self { limit: given.limit(default)?, cursor: given.cursor()? })
    }

    /// What to ask the database for: one more than is shown, to see whether there is more.
    pub(crate) fn fetch(&self) -> i64 {
        self.limit + 1
    }

    /// Cuts off the one too many; the cursor of the last one shown if there was one.
    pub(crate) fn cut<T>(&self, items: &mut Vec<T>, cursor: impl Fn(&T) -> C) -> Option<C> {
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if items.len() <= limit {
            return None;
        }
        items.truncate(limit);
        items.last().map(cursor)
    }
}

impl Page<PositionCursor> {
    /// Only positions below this one. Always a number: a condition that may be absent keeps the database from using its index.
    pub(crate) fn below(&self) -> i64 {
        self.cursor.map_or(i64::MAX, |cursor| cursor.0.0)
    }
}

impl<C: FromStr> FromGiven for Page<C> {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Self::take(given, 50)
    }
}

/// A half-open span of recording times.
#[derive(Clone, Copy, Default)]
pub(crate) struct Range {
    pub(crate) from: Option<Timestamp>,
    pub(crate) to: Option<Timestamp>,
}

impl FromGiven for Range {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        given.range()
    }
}

impl Range {
    /// Both ends for the database driver.
    pub(crate) fn bounds(&self) -> [Option<std::time::SystemTime>; 2] {
        [self.from, self.to].map(|time| time.map(modelfaucet_schema::log::to_system_time))
    }

    /// Everything?
    pub(crate) fn is_open(&self) -> bool {
        self.from.is_none() && self.to.is_none()
    }
}

/// A page of what was recorded in a range.
pub(crate) struct PageOfRange<C> {
    pub(crate) page: Page<C>,
    pub(crate) range: Range,
}

impl<C: FromStr> PageOfRange<C> {
    pub(crate) fn take(given: &mut Given, default: u8) -> Result<Self, ApiError> {
        Ok(Self { page: Page::take(given, default)?, range: given.range()? })
    }
}

impl<C: FromStr> FromGiven for PageOfRange<C> {
    fn from_given(given: &mut Given) -> Result<Self, ApiError> {
        Self::take(given, 50)
    }
}

/// Text of digits alone; `u64::from_str` would take a plus sign.
fn digits(text: &str) -> Option<u64> {
    if text.bytes().all(|byte| byte.is_ascii_digit()) { text.parse().ok() } else { None }
}

/// What a text of a parameter is not.
pub(crate) struct Invalid;

macro_rules! from_text {
    ($name:ident, $text:ident => $value:expr) => {
        impl FromStr for $name {
            type Err = Invalid;

            fn from_str($text: &str) -> Result<Self, Invalid> {
                $value.ok_or(Invalid)
            }
        }
    };
}

struct Limit(u8);
from_text!(Limit, text => digits(text).and_then(|limit| u8::try_from(limit).ok()).filter(|limit| (1..=200).contains(limit)).map(Self));

#[derive(Default)]
struct Shard(ShardId);
from_text!(Shard, text => digits(text).and_then(|shard| i16::try_from(shard).ok()).map(|shard| Self(ShardId(shard))));

struct AtLeast(Position);
from_text!(AtLeast, text => digits(text).and_then(|at| i64::try_from(at).ok()).map(|at| Self(Position(at))));

/// A public app id: 1 to 128 of `a-z A-Z 0-9 _ : -`.
pub(crate) struct PublicAppId(pub(crate) String);
from_text!(PublicAppId, text => public_app_id(text).ok().map(|id| Self(id.to_owned())));

struct Stale;
from_text!(Stale, text => (text == "allow").then_some(Self));

struct Time(Timestamp);
// A plus sign that was not escaped arrives as a blank.
from_text!(Time, text => text.replace(' ', "+").parse().ok().map(Self));

/// A place in a list that is ordered by position: 8 bytes in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PositionCursor(pub(crate) Position);

impl fmt::Display for PositionCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0.0.to_be_bytes()))
    }
}

fn position_cursor(text: &str) -> Option<PositionCursor> {
    let bytes = URL_SAFE_NO_PAD.decode(text).ok()?;
    let position = i64::from_be_bytes(bytes.try_into().ok()?);
    (position > 0).then_some(PositionCursor(Position(position)))
}
from_text!(PositionCursor, text => position_cursor(text));

/// A place in a list that is ordered by time and id, neither of which ever changes: 24 bytes in base64url.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct TimeCursor {
    pub(crate) time: Timestamp,
    pub(crate) id: Uuid,
}

impl TimeCursor {
    /// Time and id for the database driver.
    pub(crate) fn parts(cursor: Option<Self>) -> (Option<std::time::SystemTime>, Option<Uuid>) {
        cursor.map(|cursor| (modelfaucet_schema::log::to_system_time(cursor.time), cursor.id)).unzip()
    }
}

impl fmt::Display for TimeCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = [0; 24];
        bytes[..8].copy_from_slice(&self.time.micros().to_be_bytes());
        bytes[8..].copy_from_slice(self.id.as_bytes());
        f.write_str(&URL_SAFE_NO_PAD.encode(bytes))
    }
}

fn time_cursor(text: &str) -> Option<TimeCursor> {
    let bytes: [u8; 24] = URL_SAFE_NO_PAD.decode(text).ok()?.try_into().ok()?;
    let (time, id) = bytes.split_first_chunk::<8>()?;
    let micros = i64::from_be_bytes(*time);
    let time = Timestamp::from_micros(micros);
    // A time that had to be clamped is none that we handed out.
    (time.micros() == micros).then_some(TimeCursor { time, id: Uuid::from_slice(id).ok()? })
}
from_text!(TimeCursor, text => time_cursor(text));

/// A place in a list that is ordered by a key of 1 to 128 characters: the key in base64url.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct KeyCursor(pub(crate) String);

impl fmt::Display for KeyCursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(&self.0))
    }
}

fn key_cursor(text: &str) -> Option<KeyCursor> {
    let key = String::from_utf8(URL_SAFE_NO_PAD.decode(text).ok()?).ok()?;
    public_app_id(&key).is_ok().then_some(KeyCursor(key))
}
from_text!(KeyCursor, text => key_cursor(text));

/// An id in a path: 36 characters, lower or upper case.
///
/// # Errors
/// 400 for any other form; `what` completes "Missing or invalid …".
pub(crate) fn path_id(text: &str, what: &str) -> Result<Uuid, ApiError> {
    let id = if text.len() == 36 { Uuid::try_parse(text).ok() } else { None };
    id.ok_or_else(|| ApiError::invalid(format!("Missing or invalid {what}.")))
}

/// A public app id in a path: 1 to 128 of `a-z A-Z 0-9 _ : -`.
///
/// # Errors
/// 400 for any other form.
pub(crate) fn public_app_id(text: &str) -> Result<&str, ApiError> {
    let is_allowed = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':' | b'-');
    let is_valid = (1..=128).contains(&text.len()) && text.bytes().all(is_allowed);
    is_valid
        .then_some(text)
        .ok_or_else(|| ApiError::invalid("Missing or invalid public_app_id.").param("public_app_id"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    async fn query<T: FromGiven>(query: &str) -> Result<Query<T>, ApiError> {
        let request = axum::http::Request::builder().uri(format!("/x?{query}")).body(()).unwrap();
        Query::from_request_parts(&mut request.into_parts().0, &()).await
    }

    #[tokio::test]
    async fn what_a_route_does_not_know_is_refused() {
        for (text, param) in [
            ("limt=1", "limt"),
            ("limit=0", "limit"),
            ("limit=201", "limit"),
            ("limit=%2B5", "limit"),
            ("limit=", "limit"),
            ("limit=1&limit=1", "limit"),
            ("cursor=%00", "cursor"),
            ("cursor=AAAAAAAAAAA", "cursor"),
            ("min_position=-1", "min_position"),
            ("min_position=9223372036854775808", "min_position"),
            ("stale=yes", "stale"),
        ] {
            let error = query::<Page<PositionCursor>>(text).await.err().unwrap();
            assert_eq!((error.status().as_u16(), error.code()), (400, "invalid_request"), "{text}");
            assert_eq!(error.body("r").error.param.as_deref(), Some(param), "{text}");
        }
    }

    #[tokio::test]
    async fn what_a_route_knows_is_taken() {
        let cursor = PositionCursor(Position(7));
        let page = query::<Page<PositionCursor>>(&format!("limit=200&cursor={cursor}&min_position=9&stale=allow"))
            .await
            .unwrap();
        assert_eq!((page.own.limit, page.own.cursor), (200, Some(cursor)));
        assert_eq!(page.at, At { min_position: Some(Position(9)), stale: true });
        let range = query::<Range>("from=2026-11-23T10:00:00+02:00").await.unwrap().own;
        assert_eq!(range.from.unwrap().to_string(), "2026-11-23T08:00:00.000000Z");
    }

    #[test]
    fn ids_have_one_form() {
        let id = Uuid::from_u128(7);
        assert_eq!(path_id(&id.to_string(), "wallet id").unwrap(), id);
        for text in ["", "7", &id.simple().to_string(), &id.braced().to_string(), &id.urn().to_string()] {
            assert!(path_id(text, "wallet id").is_err(), "{text}");
        }
        assert!(public_app_id("crm:demo_1-x").is_ok());
        for text in ["", "a b", "ä", &"x".repeat(129)] {
            assert!(public_app_id(text).is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn cursors_survive_their_text(position in 1_i64.., micros in 0_i64..1 << 50, id in any::<u128>()) {
            let cursor = PositionCursor(Position(position));
            prop_assert_eq!(cursor.to_string().parse::<PositionCursor>().ok(), Some(cursor));
            let cursor = TimeCursor { time: Timestamp::from_micros(micros), id: Uuid::from_u128(id) };
            prop_assert_eq!(cursor.to_string().parse::<TimeCursor>().ok(), Some(cursor));
        }

        #[test]
        fn no_text_breaks_a_cursor(text in ".{0,64}") {
            let _ = text.parse::<PositionCursor>();
            let _ = text.parse::<TimeCursor>();
        }
    }
}
