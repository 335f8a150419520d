//! The way to `RabbitMQ`: connections, and the topology that we declare ourselves. What lies there are copies; the log is the truth, so
//! every queue may be short and drop its oldest messages, and the whole broker may be wiped.

pub mod message;

use std::fmt;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use lapin::options::{ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions};
use lapin::tcp::OwnedTLSConfig;
use lapin::types::{AMQPValue, FieldTable};
use lapin::uri::{AMQPScheme, AMQPUri};
use lapin::{Channel, Connection, ConnectionProperties, ExchangeKind};
use secrecy::{ExposeSecret as _, SecretString};

/// Where every batch of the log is published.
pub const EXCHANGE: &str = "modelfaucet.log";
/// Where messages go that a consumer refuses, or has got too often.
pub const DEAD: &str = "modelfaucet.dead";
/// What a queue of ours holds at the most; then its oldest messages are dropped.
pub const QUEUE_MESSAGES: i32 = 10_000;
/// The same in bytes.
pub const QUEUE_BYTES: i64 = 256 << 20;
/// How often a message is delivered before it is dead. Quorum queues of older brokers have no limit of their own.
pub const DELIVERIES: i32 = 10;

/// How long a connection may take, and an answer on it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How often somebody who waits looks whether the connection is still there.
const LOOK: Duration = Duration::from_millis(250);
/// A broker that says nothing for twice as long is gone.
const HEARTBEAT_SECONDS: u16 = 10;

/// Where the broker is, and what is ours there.
#[derive(Clone)]
pub struct BrokerOptions {
    url: SecretString,
    /// PEM of who vouches for a broker behind `amqps://`.
    authorities: Option<Arc<str>>,
    /// The queue of projectors that are fed by the broker. Several projectors on one queue: one gets the messages.
    queue: Arc<str>,
}

impl fmt::Debug for BrokerOptions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BrokerOptions").field("queue", &self.queue).finish_non_exhaustive()
    }
}

/// Why the broker cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum BrokerError {
    /// Not an address, or one that would send secrets in clear.
    #[error("{0}")]
    Address(&'static str),
    /// The broker's error, or the connection's.
    #[error("the broker failed: {0}")]
    Amqp(#[from] lapin::Error),
    /// No answer.
    #[error("the broker does not answer")]
    Silent,
    /// The broker has said that it is full, and does not take messages.
    #[error("the broker refuses messages")]
    Refused,
    /// No queue takes them.
    #[error("no queue of the broker takes the messages: {0}")]
    Unroutable(String),
    /// The confirm of a message does not come.
    #[error("the broker did not confirm a message in time")]
    Unconfirmed,
    /// The connection ended.
    #[error("the connection to the broker ended")]
    Ended,
}

impl BrokerOptions {
    /// An address such as `amqp://user:password@127.0.0.1:5672/vhost`. Off loopback only `amqps://`, with the PEM of who vouches for it.
    ///
    /// # Errors
    /// [`BrokerError::Address`], which does not quote the address.
    pub fn new(url: SecretString, authorities: Option<String>, queue: &str) -> Result<Self, BrokerError> {
        let uri = read(&url)?;
        match uri.scheme {
            AMQPScheme::AMQP if !is_near(&uri.authority.host) => {
                return Err(BrokerError::Address(
                    "names a host off this machine in clear; use amqps:// and name who vouches for it with AMQP_CA_FILE",
                ));
            }
            AMQPScheme::AMQPS if authorities.is_none() => {
                return Err(BrokerError::Address("asks for TLS; name who vouches for the broker with AMQP_CA_FILE"));
            }
            _ => {}
        }
        Ok(Self { url, authorities: authorities.map(Into::into), queue: queue.into() })
    }

    /// The queue of projectors.
    pub fn queue(&self) -> &str {
        &self.queue
    }
}

fn read(url: &SecretString) -> Result<AMQPUri, BrokerError> {
    let no_address = "is not an address such as amqp://user:password@127.0.0.1:5672/%2f";
    url.expose_secret().parse().map_err(|_| BrokerError::Address(no_address))
}

fn is_near(host: &str) -> bool {
    let host = host.trim_start_matches('[').trim_end_matches(']');
    host == "localhost" || host.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// Connects, under a name that the broker shows, and makes sure that the topology is there.
pub(crate) async fn connect(options: &BrokerOptions, name: &str) -> Result<(Connection, Channel), BrokerError> {
    let mut uri = read(&options.url)?;
    uri.query.heartbeat.get_or_insert(HEARTBEAT_SECONDS);
    let tls = OwnedTLSConfig { identity: None, cert_chain: options.authorities.as_deref().map(str::to_owned) };
    let properties = ConnectionProperties::default().with_connection_name(name.into());
    answered(async {
        let runtime = lapin::runtime::default_runtime()?;
        let connection = Connection::connect_uri_with_config(uri, properties, tls, runtime).await?;
        let channel = connection.create_channel().await?;
        declare(&channel, options.queue()).await?;
        Ok((connection, channel))
    })
    .await
}

/// What the broker answers, in time.
pub(crate) async fn answered<T>(asked: impl Future<Output = lapin::Result<T>>) -> Result<T, BrokerError> {
    match tokio::time::timeout(PATIENCE, asked).await {
        Ok(answer) => answer.map_err(BrokerError::Amqp),
        Err(_) => Err(BrokerError::Silent),
    }
}

/// Waits for something of a connection for as long as it is connected. What is asked in the moment in which a connection breaks may
/// never hear of that from the library: it tells those who wait then, and nobody who comes later.
pub(crate) async fn while_connected<T>(
    connection: &Connection,
    awaited: impl Future<Output = T>,
) -> Result<T, BrokerError> {
    let mut awaited = pin!(awaited);
    loop {
        tokio::select! {
            biased;
            output = &mut awaited => return Ok(output),
            () = tokio::time::sleep(LOOK) => {
                if !connection.status().connected() {
                    return Err(BrokerError::Ended);
                }
            }
        }
    }
}

/// The exchange, the projectors' queue, and where dead messages go. Safe to repeat.
async fn declare(channel: &Channel, queue: &str) -> lapin::Result<()> {
    let durable = ExchangeDeclareOptions { durable: true, ..ExchangeDeclareOptions::default() };
    channel.exchange_declare(EXCHANGE.into(), ExchangeKind::Topic, durable, FieldTable::default()).await?;
    // By its headers, so that only messages somebody refused are kept, not those that were dropped for want of room.
    channel.exchange_declare(DEAD.into(), ExchangeKind::Headers, durable, FieldTable::default()).await?;
    let kept = QueueDeclareOptions { durable: true, ..QueueDeclareOptions::default() };
    channel.queue_declare(DEAD.into(), kept, bounded()).await?;
    for reason in ["rejected", "delivery_limit"] {
        let mut wanted = FieldTable::default();
        wanted.insert("x-match".into(), text("any-with-x"));
        wanted.insert("x-first-death-reason".into(), text(reason));
        channel.queue_bind(DEAD.into(), DEAD.into(), "".into(), QueueBindOptions::default(), wanted).await?;
    }
    let mut arguments = bounded();
    arguments.insert("x-delivery-limit".into(), AMQPValue::LongInt(DELIVERIES));
    arguments.insert("x-dead-letter-exchange".into(), text(DEAD));
    arguments.insert("x-single-active-consumer".into(), AMQPValue::Boolean(true));
    channel.queue_declare(queue.into(), kept, arguments).await?;
    channel
        .queue_bind(queue.into(), EXCHANGE.into(), "#".into(), QueueBindOptions::default(), FieldTable::default())
        .await
}

fn bounded() -> FieldTable {
    let mut arguments = FieldTable::default();
    arguments.insert("x-queue-type".into(), text("quorum"));
    arguments.insert("x-max-length".into(), AMQPValue::LongInt(QUEUE_MESSAGES));
    arguments.insert("x-max-length-bytes".into(), AMQPValue::LongLongInt(QUEUE_BYTES));
    arguments.insert("x-overflow".into(), text("drop-head"));
    arguments
}

fn text(text: &str) -> AMQPValue {
    AMQPValue::LongString(text.into())
}

/// Waits between attempts: they double, and no two processes keep step.
pub(crate) struct BackOff(Duration);

impl BackOff {
    const FIRST: Duration = Duration::from_millis(100);
    pub(crate) const LAST: Duration = Duration::from_secs(2);

    pub(crate) fn new() -> Self {
        Self(Self::FIRST)
    }

    /// The next wait: between half of the pause and all of it.
    pub(crate) fn next(&mut self) -> Duration {
        let pause = self.0;
        self.0 = (pause * 2).min(Self::LAST);
        let share = u32::from(uuid::Uuid::new_v4().as_bytes()[0]);
        pause / 2 + pause / 2 * share / 255
    }

    pub(crate) fn reset(&mut self) {
        self.0 = Self::FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn off_this_machine_the_broker_is_reached_with_tls_only() {
        let new = |url: &str, authorities: Option<&str>| {
            BrokerOptions::new(url.into(), authorities.map(str::to_owned), "queue").map(drop)
        };
        assert!(new("amqp://guest:guest@127.0.0.1:5672/%2f", None).is_ok());
        assert!(new("amqp://localhost", None).is_ok());
        assert!(new("amqps://broker.example.com", Some("PEM")).is_ok());
        for (url, authorities) in [
            ("amqp://user:secret@broker.example.com", None),
            ("amqp://user:secret@broker.example.com", Some("PEM")),
            ("amqps://user:secret@broker.example.com", None),
            ("http://127.0.0.1", None),
            ("127.0.0.1:5672", None),
        ] {
            let error = new(url, authorities).unwrap_err().to_string();
            assert!(!error.contains("secret") && !error.contains("example"), "{error}");
        }
    }

    /// The library sends it in clear if it was built without TLS, and does not say so.
    #[tokio::test]
    async fn what_asks_for_tls_says_nothing_in_clear() {
        use tokio::io::AsyncReadExt as _;
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("amqps://user:secret@{}/%2f", listener.local_addr().unwrap());
        let options =
            BrokerOptions::new(url.into(), Some(include_str!("broker/authority.pem").to_owned()), "queue").unwrap();
        let connecting = tokio::spawn(async move { connect(&options, "test").await.map(drop) });
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut first = [0; 3];
        stream.read_exact(&mut first).await.unwrap();
        assert_eq!(first[..2], [22, 3], "a handshake of TLS, not {first:?}");
        drop(stream);
        assert!(connecting.await.unwrap().is_err());
    }

    #[test]
    fn pauses_double_up_to_a_limit_and_differ() {
        let mut back_off = BackOff::new();
        for pause in [100, 200, 400, 800, 1_600, 2_000, 2_000] {
            let pause = Duration::from_millis(pause);
            let next = back_off.next();
            assert!(pause / 2 <= next && next <= pause, "{next:?} of {pause:?}");
        }
        back_off.reset();
        assert!(back_off.next() <= BackOff::FIRST);
    }
}
