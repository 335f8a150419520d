//! What happened about the time when an id was made.

use modelfaucet_schema::event::StoredEvent;
use modelfaucet_schema::time::Timestamp;
use tokio_postgres::{Error, GenericClient};

use super::{Shard, Wanted, between, last_before_moved};

/// Milliseconds before and after an id was made within which its first event is looked for: first closely, then as far as clocks of
/// different machines may differ and a queue may be long.
const WINDOWS: [(i64, i64); 4] = [(-50, 250), (-1_000, 2_000), (-5_000, 30_000), (-60_000, 300_000)];
/// Positions that are read at once, and positions that are read at the most.
const PAGE: i64 = 16_384;
const MOST: i64 = 1_000_000;

/// The wanted events of the first stretch of the log about `time` that has any.
///
/// # Errors
/// The database's.
pub(crate) async fn near(
    client: &impl GenericClient,
    shards: &[Shard],
    time: Timestamp,
    wanted: &Wanted,
) -> Result<Vec<StoredEvent>, Error> {
    let mut looked_at = 0;
    for shard in shards {
        // What a narrower window has covered is not read again.
        let mut seen: Option<(i64, i64)> = None;
        for (before, after) in WINDOWS {
            let first = last_before_moved(client, shard.id, time, before).await?.saturating_add(1);
            let last = last_before_moved(client, shard.id, time, after).await?;
            let stretches = match seen {
                None => vec![(first, last)],
                Some((from, to)) => vec![(first, from - 1), (to + 1, last)],
            };
            for (mut from, to) in stretches {
                while from <= to && looked_at < MOST {
                    let end = to.min(from + PAGE - 1);
                    let mut events = between(client, shard.id, (from, end), wanted).await?;
                    looked_at += end - from + 1;
                    if !events.is_empty() {
                        // The rest of what belongs together follows closely.
                        let more = (end + 1, to.min(end + PAGE));
                        events.extend(between(client, shard.id, more, wanted).await?);
                        return Ok(events);
                    }
                    from = end + 1;
                }
            }
            seen = Some((first, last.max(first - 1)));
        }
    }
    Ok(Vec::new())
}
