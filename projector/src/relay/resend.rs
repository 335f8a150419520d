//! Batches that are published again because somebody asks for it.

use lapin::options::{BasicPublishOptions, ConfirmSelectOptions};
use lapin::{Channel, Confirmation};
use modelfaucet_schema::ids::{LogId, Position, ShardId};
use modelfaucet_schema::log::{Head, LogReader, ReadError};

use super::CONFIRM;
use super::page::read_page;
use crate::broker::message::Message;
use crate::broker::{self, BrokerError, BrokerOptions, EXCHANGE, answered};

/// What [`resend`] has done, or would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Resent {
    /// Messages.
    pub messages: u64,
    /// Events in them.
    pub events: i64,
    /// Bytes of bodies.
    pub bytes: u64,
    /// First and last position of the whole batches.
    pub positions: Option<(Position, Position)>,
}

/// Why batches were not published again.
#[derive(Debug, thiserror::Error)]
pub enum ResendError {
    /// The log's.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The broker's.
    #[error(transparent)]
    Broker(#[from] BrokerError),
}

/// Publishes every batch that has one of these positions, one by one and each confirmed, without touching the mark. Without a broker only
/// counts. Tells after each page how far it is.
///
/// # Errors
/// [`ResendError`]; what was confirmed before has been published.
pub async fn resend(
    reader: &LogReader,
    shard: ShardId,
    (log_id, before): (LogId, Head),
    last: Position,
    broker: Option<&BrokerOptions>,
    mut tell: impl FnMut(&Resent),
) -> Result<Resent, ResendError> {
    let open = match broker {
        Some(options) => {
            let (connection, channel) = broker::connect(options, "modelfaucet relay resend").await?;
            answered(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            Some((connection, channel))
        }
        None => None,
    };
    let (mut resent, mut at) = (Resent::default(), before);
    while at.position < last {
        let (messages, head) = read_page(reader.clone(), shard, log_id, at).await?;
        if messages.is_empty() {
            break;
        }
        for message in messages.iter().filter(|message| message.after.position < last) {
            if let Some((_, channel)) = &open {
                publish_one(channel, message).await?;
            }
            resent.messages += 1;
            resent.events += message.events();
            resent.bytes += message.body.as_ref().map_or(0, |body| body.len() as u64);
            let first = resent.positions.map_or(message.after.position.next(), |(first, _)| first);
            resent.positions = Some((first, message.head.position));
        }
        tell(&resent);
        at = head;
    }
    if let Some((connection, _)) = open {
        let _gone = answered(connection.close(200, "done".into())).await;
    }
    Ok(resent)
}

async fn publish_one(channel: &Channel, message: &Message) -> Result<(), BrokerError> {
    let mandatory = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
    let body = message.body.as_deref().unwrap_or_default();
    let sent = async {
        channel
            .basic_publish(EXCHANGE.into(), message.routing_key().into(), mandatory, body, message.properties())
            .await?
            .await
    };
    match tokio::time::timeout(CONFIRM * 2, sent).await.map_err(|_| BrokerError::Unconfirmed)?? {
        Confirmation::Ack(None) => Ok(()),
        Confirmation::Ack(Some(returned)) | Confirmation::Nack(Some(returned)) => {
            Err(BrokerError::Unroutable(returned.reply_text.to_string()))
        }
        Confirmation::Nack(None) | Confirmation::NotRequested => Err(BrokerError::Refused),
    }
}
