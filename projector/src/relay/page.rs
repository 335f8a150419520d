//! What is published next: a page of the log, one message per batch.

use modelfaucet_schema::ids::{LogId, ShardId};
use modelfaucet_schema::log::{Head, LogReader, ReadError};
use tokio::task::spawn_blocking;

use crate::broker::message::Message;
use crate::feed::join;

/// Events per page.
const PAGE: usize = 8_192;

/// Batches as messages, and the head behind them.
pub(super) type Paged = Result<(Vec<Message>, Head), ReadError>;

/// The next batches as messages, and the head behind them. Every link is recomputed: damage is not passed on.
pub(super) async fn read_page(reader: LogReader, shard: ShardId, log_id: LogId, after: Head) -> Paged {
    let page = reader.raw_page(shard, after, PAGE).await?;
    if page.is_empty() {
        return Ok((Vec::new(), after));
    }
    let work = move || {
        let page = page.check()?;
        Ok((Message::of_page(log_id, shard, &page), page.head()))
    };
    join(&mut spawn_blocking(work)).await
}
