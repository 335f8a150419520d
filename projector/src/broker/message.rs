//! One append batch as one message: what docs/BROKER.md promises to subscribers. The body holds the stored columns of every event, the
//! payload byte for byte, so whoever receives it can compute the link of the chain again.

use std::borrow::Cow;
use std::sync::Arc;

use lapin::BasicProperties;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use modelfaucet_schema::event::{KeyUse, StoredRef};
use modelfaucet_schema::hash::{BatchHasher, ChainHash};
use modelfaucet_schema::ids::{BatchId, LogId, Position, ShardId};
use modelfaucet_schema::log::read::{CheckedPage, Seal};
use modelfaucet_schema::log::{Head, TailBatch};
use modelfaucet_schema::time::Timestamp;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// The version of headers and body.
pub const VERSION: i32 = 1;
/// Larger bodies are left out: then the message only says that there is something to read in the log. Below what any broker takes.
pub const MOST_BYTES: usize = 4 << 20;

/// A batch on its way to the broker.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    /// The log that it is of.
    pub log_id: LogId,
    /// The shard of it.
    pub shard: ShardId,
    /// The head that it follows.
    pub after: Head,
    /// The head behind it.
    pub head: Head,
    /// The kinds of its events, the most frequent first.
    pub types: Vec<String>,
    /// The envelope; `None` where it would be too large.
    pub body: Option<Vec<u8>>,
}

#[derive(Serialize, Deserialize)]
struct Envelope<'a> {
    batch_id: Uuid,
    recorded_at_us: i64,
    #[serde(borrow)]
    events: Vec<Enclosed<'a>>,
}

#[derive(Serialize, Deserialize)]
struct Enclosed<'a> {
    position: i64,
    #[serde(borrow)]
    stream: Cow<'a, str>,
    stream_seq: i64,
    #[serde(borrow)]
    r#type: Cow<'a, str>,
    version: i16,
    recorded_at_us: i64,
    #[serde(borrow)]
    actor: Cow<'a, str>,
    #[serde(borrow)]
    request_id: Cow<'a, str>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<Uuid>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    fingerprint: Option<Uuid>,
    /// The stored bytes, as text.
    #[serde(borrow)]
    payload: Cow<'a, str>,
}

/// Why a message is not what it says.
#[derive(Debug, thiserror::Error)]
pub enum MessageError {
    /// A header is missing or makes no sense.
    #[error("the header {0} is missing or makes no sense")]
    Header(&'static str),
    /// The body does not read.
    #[error("the body does not read: {0}")]
    Body(#[from] serde_json::Error),
    /// The body is not what its link covers.
    #[error("the body does not hash to its link")]
    Hash,
}

impl Message {
    /// One message per batch of a page.
    pub fn of_page(log_id: LogId, shard: ShardId, page: &CheckedPage<'_>) -> Vec<Self> {
        let mut after = page.after;
        let mut events = page.events.as_slice();
        let mut messages = Vec::with_capacity(page.links.len());
        for (head, seal) in page.links.iter().zip(&page.seals) {
            let size = usize::try_from(head.position.0 - after.position.0).unwrap_or(0).min(events.len());
            let (batch, rest) = events.split_at(size);
            messages.push(Self {
                log_id,
                shard,
                after,
                head: *head,
                types: types(batch),
                body: envelope(*seal, batch).filter(|body| body.len() <= MOST_BYTES),
            });
            (after, events) = (*head, rest);
        }
        messages
    }

    /// Names the batch, whoever sends it and how often.
    pub fn id(&self) -> String {
        format!("{}:{}:{}", self.log_id, self.shard.0, self.head.position)
    }

    /// Shard and most frequent kind.
    pub fn routing_key(&self) -> String {
        format!("{}.{}", self.shard.0, self.types.first().map_or("", String::as_str))
    }

    /// Does the log go on under another id with it?
    pub(crate) fn forks(&self) -> bool {
        self.types.iter().any(|name| name == "LogForked")
    }

    /// How many events it has.
    pub fn events(&self) -> i64 {
        self.head.position.0 - self.after.position.0
    }

    /// Its size in memory, about.
    pub fn bytes(&self) -> usize {
        self.body.as_ref().map_or(0, Vec::len) + 1_024
    }

    /// What goes before the body.
    pub fn properties(&self) -> BasicProperties {
        let text = |text: String| AMQPValue::LongString(text.into());
        let types: Vec<AMQPValue> = self.types.iter().cloned().map(text).collect();
        let mut headers = FieldTable::default();
        headers.insert("schema_version".into(), AMQPValue::LongInt(VERSION));
        headers.insert("shard".into(), AMQPValue::LongInt(i32::from(self.shard.0)));
        headers.insert("log_id".into(), text(self.log_id.to_string()));
        headers.insert("first_position".into(), AMQPValue::LongLongInt(self.after.position.0 + 1));
        headers.insert("last_position".into(), AMQPValue::LongLongInt(self.head.position.0));
        headers.insert("prev_hash".into(), text(self.after.hash.to_string()));
        headers.insert("hash".into(), text(self.head.hash.to_string()));
        headers.insert("types".into(), AMQPValue::FieldArray(FieldArray::from(types)));
        headers.insert("body_omitted".into(), AMQPValue::Boolean(self.body.is_none()));
        BasicProperties::default()
            .with_app_id("modelfaucet".into())
            .with_type("log.batch".into())
            .with_content_type("application/json".into())
            .with_delivery_mode(2)
            .with_message_id(self.id().into())
            .with_headers(headers)
    }
}

/// The kinds of events, the most frequent first, equally frequent ones in the order of their names.
fn types(events: &[StoredRef<'_>]) -> Vec<String> {
    let mut counts = std::collections::BTreeMap::<&str, usize>::new();
    for event in events {
        *counts.entry(event.name).or_default() += 1;
    }
    let mut counts: Vec<_> = counts.into_iter().collect();
    counts.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    counts.into_iter().map(|(name, _)| name.to_owned()).collect()
}

/// `None` if an event is no text, which ours always are.
fn envelope(seal: Seal, events: &[StoredRef<'_>]) -> Option<Vec<u8>> {
    let enclosed = |event: &StoredRef<'_>| {
        let payload = std::str::from_utf8(event.payload).ok()?.to_owned();
        Some(Enclosed {
            position: event.position.0,
            stream: event.stream.to_owned().into(),
            stream_seq: event.stream_seq,
            r#type: event.name.to_owned().into(),
            version: event.version,
            recorded_at_us: event.recorded_at.micros(),
            actor: event.actor.to_owned().into(),
            request_id: event.request_id.to_owned().into(),
            key: event.key.map(|used| used.key),
            fingerprint: event.key.map(|used| used.fingerprint),
            payload: payload.into(),
        })
    };
    let events = events.iter().map(enclosed).collect::<Option<Vec<_>>>()?;
    serde_json::to_vec(&Envelope { batch_id: seal.id.0, recorded_at_us: seal.recorded_at.micros(), events }).ok()
}

/// What came out of a message.
#[derive(Debug)]
pub enum Received {
    /// A batch that holds what its link says.
    Batch(TailBatch),
    /// Only the news that there is a batch up to here: it was too large, or has an event that this program does not know.
    News(Position),
}

/// Reads a message of this shard and recomputes its link. The link itself still has to be found in the log.
///
/// # Errors
/// [`MessageError`].
pub fn read(shard: ShardId, properties: &BasicProperties, body: &[u8]) -> Result<Received, MessageError> {
    let headers = Headers(properties.headers().as_ref().ok_or(MessageError::Header("schema_version"))?);
    if headers.number("schema_version")? != i64::from(VERSION) {
        return Err(MessageError::Header("schema_version"));
    }
    if headers.number("shard")? != i64::from(shard.0) {
        return Err(MessageError::Header("shard"));
    }
    let (first, last) = (headers.number("first_position")?, headers.number("last_position")?);
    if first < 1 || last < first {
        return Err(MessageError::Header("last_position"));
    }
    let after = Head { position: Position(first - 1), hash: headers.hash("prev_hash")? };
    let head = Head { position: Position(last), hash: headers.hash("hash")? };
    if body.is_empty() {
        return Ok(Received::News(head.position));
    }
    let envelope: Envelope<'_> = serde_json::from_slice(body)?;
    let recorded_at = Timestamp::from_micros(envelope.recorded_at_us);
    let mut hasher =
        BatchHasher::new(after.hash, shard, Position(first), head.position, BatchId(envelope.batch_id), recorded_at);
    let mut events = Vec::with_capacity(envelope.events.len());
    for (event, place) in envelope.events.iter().zip(first..) {
        if event.position != place {
            return Err(MessageError::Hash);
        }
        let stored = stored(shard, event);
        hasher.event(stored);
        events.push(stored);
    }
    let ends = events.last().map(|event| event.position) == Some(head.position);
    if !ends || hasher.finish() != head.hash {
        return Err(MessageError::Hash);
    }
    let decoded: Option<Arc<[_]>> = events.into_iter().map(|event| event.decode().ok().map(Arc::new)).collect();
    Ok(match decoded {
        Some(events) => Received::Batch(TailBatch { after, head, events }),
        None => Received::News(head.position),
    })
}

fn stored<'a>(shard: ShardId, event: &'a Enclosed<'_>) -> StoredRef<'a> {
    let key = match (event.key, event.fingerprint) {
        (Some(key), Some(fingerprint)) => Some(KeyUse { key, fingerprint }),
        _ => None,
    };
    StoredRef {
        shard,
        position: Position(event.position),
        stream: &event.stream,
        stream_seq: event.stream_seq,
        name: &event.r#type,
        version: event.version,
        recorded_at: Timestamp::from_micros(event.recorded_at_us),
        actor: &event.actor,
        request_id: &event.request_id,
        key,
        payload: event.payload.as_bytes(),
    }
}

struct Headers<'a>(&'a FieldTable);

impl Headers<'_> {
    fn number(&self, name: &'static str) -> Result<i64, MessageError> {
        match self.0.inner().get(name) {
            Some(AMQPValue::LongLongInt(number)) => Ok(*number),
            Some(AMQPValue::LongInt(number)) => Ok(i64::from(*number)),
            Some(AMQPValue::LongUInt(number)) => Ok(i64::from(*number)),
            Some(AMQPValue::ShortInt(number)) => Ok(i64::from(*number)),
            _ => Err(MessageError::Header(name)),
        }
    }

    fn hash(&self, name: &'static str) -> Result<ChainHash, MessageError> {
        let Some(AMQPValue::LongString(text)) = self.0.inner().get(name) else {
            return Err(MessageError::Header(name));
        };
        parse_hash(&text.to_string()).ok_or(MessageError::Header(name))
    }
}

fn parse_hash(text: &str) -> Option<ChainHash> {
    let mut hash = [0; 32];
    if text.len() != 64 || !text.is_ascii() {
        return None;
    }
    for (byte, digits) in hash.iter_mut().zip(text.as_bytes().chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()?;
    }
    Some(ChainHash(hash))
}

#[cfg(test)]
mod tests {
    use super::*;
    use modelfaucet_schema::event::{Actor, Event, Recorded, StoredEvent, TopUpFailed};
    use modelfaucet_schema::ids::{TopUpId, WalletId};
    use modelfaucet_schema::log::AppendBatch;

    const SHARD: ShardId = ShardId(3);

    fn log() -> LogId {
        LogId(Uuid::from_u128(9))
    }

    fn stored(position: i64, reason: &str) -> StoredEvent {
        let (top_up_id, wallet_id) = (TopUpId(Uuid::nil()), WalletId(Uuid::nil()));
        let event = Event::from(TopUpFailed { top_up_id, wallet_id, reason: reason.to_owned() });
        let key = KeyUse { key: Uuid::from_u128(1), fingerprint: Uuid::from_u128(2) };
        Recorded {
            shard: SHARD,
            position: Position(position),
            stream: event.stream(),
            stream_seq: position,
            recorded_at: Timestamp::from_micros(1_700_000_000_000_001),
            actor: Actor::Clock,
            request_id: "request \"1\"".into(),
            key: (position % 2 == 0).then_some(key),
            event,
        }
        .store()
    }

    fn message(events: &[StoredEvent]) -> (AppendBatch, Message) {
        let id = BatchId(Uuid::from_u128(5));
        let at = Timestamp::from_micros(1_700_000_000_000_002);
        let batch = AppendBatch::seal(SHARD, Head::genesis(log(), SHARD), id, at, events.to_vec());
        let page = CheckedPage {
            after: batch.previous(),
            links: vec![batch.head()],
            seals: vec![Seal { id, recorded_at: at }],
            events: events.iter().map(StoredRef::from).collect(),
        };
        let message = Message::of_page(log(), SHARD, &page).remove(0);
        (batch, message)
    }

    #[test]
    fn what_is_sent_is_what_is_received() {
        let events = [stored(1, "umlaut ü, \u{1} and \"quotes\""), stored(2, "")];
        let (batch, message) = message(&events);
        assert_eq!(message.id(), format!("{}:3:2", log()));
        assert_eq!(message.routing_key(), "3.TopUpFailed");
        let body = message.body.clone().unwrap();
        let received = read(SHARD, &message.properties(), &body).unwrap();
        let Received::Batch(tail) = received else { panic!("a batch") };
        assert_eq!((tail.after, tail.head), (batch.previous(), batch.head()));
        let again: Vec<_> = tail.events.iter().map(|event| event.store()).collect();
        assert_eq!(again, events);
    }

    #[test]
    fn whatever_is_changed_on_the_way_is_seen() {
        let (_, message) = message(&[stored(1, "card"), stored(2, "bank")]);
        let body = String::from_utf8(message.body.clone().unwrap()).unwrap();
        for (from, to) in [
            ("card", "bird"),
            ("\"position\":2", "\"position\":3"),
            ("\"stream_seq\":1", "\"stream_seq\":2"),
            ("1700000000000002", "1700000000000003"),
            ("clock", "admin"),
        ] {
            let changed = body.replacen(from, to, 1);
            assert_ne!(changed, body, "{from}");
            let error = read(SHARD, &message.properties(), changed.as_bytes()).unwrap_err();
            assert!(matches!(error, MessageError::Hash), "{from}: {error}");
        }
        let shorter = body.split_once(",{\"position\":2").unwrap().0.to_owned() + "]}";
        assert!(matches!(read(SHARD, &message.properties(), shorter.as_bytes()), Err(MessageError::Hash)));
        assert!(matches!(read(SHARD, &message.properties(), b"{}"), Err(MessageError::Body(_))));
        assert!(matches!(read(ShardId(0), &message.properties(), body.as_bytes()), Err(MessageError::Header("shard"))));
        assert!(read(SHARD, &BasicProperties::default(), body.as_bytes()).is_err());
    }

    #[test]
    fn an_omitted_body_and_an_unknown_event_are_only_news() {
        let (_, message) = message(&[stored(1, "")]);
        let received = read(SHARD, &message.properties(), b"").unwrap();
        assert!(matches!(received, Received::News(Position(1))));
        let mut unknown = stored(1, "");
        unknown.name = "NotInventedYet".to_owned();
        let (_, message) = self::message(&[unknown]);
        let received = read(SHARD, &message.properties(), &message.body.clone().unwrap()).unwrap();
        assert!(matches!(received, Received::News(Position(1))));
    }

    #[test]
    fn a_body_that_is_too_large_is_omitted_and_the_batch_is_announced_all_the_same() {
        let (_, message) = message(&[stored(1, &"x".repeat(MOST_BYTES))]);
        assert_eq!(message.body, None);
        assert!(matches!(read(SHARD, &message.properties(), b"").unwrap(), Received::News(Position(1))));
    }
}
