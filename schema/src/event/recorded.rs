//! An event with its place in the log.

use std::fmt;

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use uuid::Uuid;

use super::{DecodeError, Event};
use crate::ids::{Position, SessionId, ShardId, StreamId, TokenId};
use crate::staff::StaffRole;
use crate::text;
use crate::time::Timestamp;

/// An event, its place, and who caused it.
#[derive(Clone, Debug, PartialEq)]
pub struct Recorded {
    /// The log.
    pub shard: ShardId,
    /// The place in it.
    pub position: Position,
    /// The thing it tells about.
    pub stream: StreamId,
    /// The place among that thing's events: 1, 2, 3 …
    pub stream_seq: i64,
    /// The writer's clock; never goes back in a shard.
    pub recorded_at: Timestamp,
    /// Who caused it.
    pub actor: Actor,
    /// The request that caused it, as the `x-request-id` header showed it. A label, never a key.
    pub request_id: Box<str>,
    /// The idempotency key that this event answers.
    pub key: Option<KeyUse>,
    /// What happened.
    pub event: Event,
}

/// An idempotency key and what it was used for. Both are SHA-256 cut to 128 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KeyUse {
    /// Hash of the actor's scope and the client's key.
    pub key: Uuid,
    /// Hash of the operation and the request's content.
    pub fingerprint: Uuid,
}

/// Who caused an event. Stored as text, for example `token:0193…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Actor {
    /// The holder of `ADMIN_TOKEN`, the root of all powers.
    Admin,
    /// Somebody who runs the ledger, by a token of their own. Stored as `role:token id`, for example `operator:0193…`.
    Staff(StaffRole, TokenId),
    /// A developer's token.
    Token(TokenId),
    /// A user's session.
    Session(SessionId),
    /// Somebody without a credential who opened a session with a public app id.
    Public,
    /// The writer by its clock: expiries.
    Clock,
    /// The operator's command line: first setup, imports.
    Operator,
    /// The payment provider: what its signed events and its own records say.
    Stripe,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Admin => f.write_str("admin"),
            Self::Staff(role, id) => write!(f, "{role}:{id}"),
            Self::Token(id) => write!(f, "token:{id}"),
            Self::Session(id) => write!(f, "session:{id}"),
            Self::Public => f.write_str("public"),
            Self::Clock => f.write_str("clock"),
            Self::Operator => f.write_str("operator"),
            Self::Stripe => f.write_str("stripe"),
        }
    }
}

impl Serialize for Actor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        text::write(self, serializer)
    }
}

impl<'de> Deserialize<'de> for Actor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        text::parse(deserializer, "")
    }
}

impl std::str::FromStr for Actor {
    type Err = InvalidActor;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let invalid = || InvalidActor(text.to_owned());
        match text.split_once(':') {
            Some(("token", id)) => id.parse().map(Self::Token).map_err(|_| invalid()),
            Some(("session", id)) => id.parse().map(Self::Session).map_err(|_| invalid()),
            Some((role, id)) => match (role.parse(), id.parse()) {
                (Ok(role), Ok(id)) => Ok(Self::Staff(role, id)),
                _ => Err(invalid()),
            },
            None if text == "admin" => Ok(Self::Admin),
            None if text == "public" => Ok(Self::Public),
            None if text == "clock" => Ok(Self::Clock),
            None if text == "operator" => Ok(Self::Operator),
            None if text == "stripe" => Ok(Self::Stripe),
            _ => Err(invalid()),
        }
    }
}

/// A text that names no actor.
#[derive(Debug, thiserror::Error)]
#[error("{0:?} is not an actor")]
pub struct InvalidActor(String);

/// An event as the columns of `ledger.event` hold it. Hashing and verifying work on this form, so they need not know the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredEvent {
    /// The log.
    pub shard: ShardId,
    /// The place in it.
    pub position: Position,
    /// `kind:uuid`.
    pub stream: String,
    /// The place in the stream.
    pub stream_seq: i64,
    /// The event's name.
    pub name: String,
    /// The version of its stored form.
    pub version: i16,
    /// The writer's clock.
    pub recorded_at: Timestamp,
    /// Who caused it.
    pub actor: String,
    /// The request that caused it.
    pub request_id: String,
    /// The idempotency key that it answers.
    pub key: Option<KeyUse>,
    /// The exact bytes.
    pub payload: Vec<u8>,
}

/// The same columns where somebody else keeps them, such as a row of the database.
#[derive(Clone, Copy, Debug)]
#[expect(missing_docs, reason = "as in `StoredEvent`")]
pub struct StoredRef<'a> {
    pub shard: ShardId,
    pub position: Position,
    pub stream: &'a str,
    pub stream_seq: i64,
    pub name: &'a str,
    pub version: i16,
    pub recorded_at: Timestamp,
    pub actor: &'a str,
    pub request_id: &'a str,
    pub key: Option<KeyUse>,
    pub payload: &'a [u8],
}

impl<'a> From<&'a StoredEvent> for StoredRef<'a> {
    fn from(event: &'a StoredEvent) -> Self {
        Self {
            shard: event.shard,
            position: event.position,
            stream: &event.stream,
            stream_seq: event.stream_seq,
            name: &event.name,
            version: event.version,
            recorded_at: event.recorded_at,
            actor: &event.actor,
            request_id: &event.request_id,
            key: event.key,
            payload: &event.payload,
        }
    }
}

impl From<StoredRef<'_>> for StoredEvent {
    fn from(event: StoredRef<'_>) -> Self {
        Self {
            shard: event.shard,
            position: event.position,
            stream: event.stream.to_owned(),
            stream_seq: event.stream_seq,
            name: event.name.to_owned(),
            version: event.version,
            recorded_at: event.recorded_at,
            actor: event.actor.to_owned(),
            request_id: event.request_id.to_owned(),
            key: event.key,
            payload: event.payload.to_owned(),
        }
    }
}

impl StoredEvent {
    /// As [`StoredRef::decode`].
    ///
    /// # Errors
    /// [`DecodeError`].
    pub fn decode(&self) -> Result<Recorded, DecodeError> {
        StoredRef::from(self).decode()
    }
}

impl StoredRef<'_> {
    /// A copy.
    pub fn to_stored(self) -> StoredEvent {
        StoredEvent {
            shard: self.shard,
            position: self.position,
            stream: self.stream.to_owned(),
            stream_seq: self.stream_seq,
            name: self.name.to_owned(),
            version: self.version,
            recorded_at: self.recorded_at,
            actor: self.actor.to_owned(),
            request_id: self.request_id.to_owned(),
            key: self.key,
            payload: self.payload.to_owned(),
        }
    }

    /// Reads the columns.
    ///
    /// # Errors
    /// [`DecodeError`] if the event is unknown or its columns do not decode.
    pub fn decode(self) -> Result<Recorded, DecodeError> {
        let event = Event::decode(self.name, self.version, self.payload)?;
        let unknown = || DecodeError::Unknown { name: self.name.to_owned(), version: self.version };
        Ok(Recorded {
            shard: self.shard,
            position: self.position,
            stream: self.stream.parse().map_err(|_| unknown())?,
            stream_seq: self.stream_seq,
            recorded_at: self.recorded_at,
            actor: self.actor.parse().map_err(|_| unknown())?,
            request_id: self.request_id.into(),
            key: self.key,
            event,
        })
    }
}

impl Recorded {
    /// The columns.
    pub fn store(&self) -> StoredEvent {
        StoredEvent {
            shard: self.shard,
            position: self.position,
            stream: self.stream.to_string(),
            stream_seq: self.stream_seq,
            name: self.event.name().to_owned(),
            version: self.event.version(),
            recorded_at: self.recorded_at,
            actor: self.actor.to_string(),
            request_id: self.request_id.as_ref().to_owned(),
            key: self.key,
            payload: self.event.encode(),
        }
    }
}
